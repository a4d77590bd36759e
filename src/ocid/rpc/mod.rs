//! The edge: one file per RPC, protobuf in, domain inside, protobuf out.

pub mod convert;
pub mod deadline;
pub mod image;
pub mod runtime;
pub mod span;
pub mod status;
pub mod stream;
pub mod verbose;

use std::sync::Arc;

use super::daemon::Daemon;

/// Both services of the CRI on one daemon.
#[derive(Clone)]
pub struct Service(pub Arc<Daemon>);

/// The span of a call, there whatever the level of the log: lines about trouble need it most.
macro_rules! call_span {
    ($rpc:ident, $daemon:expr, $request:ident) => {{
        use tracing::field::Empty;
        let span = tracing::error_span!(
            stringify!($rpc),
            name = Empty,
            pod = Empty,
            container = Empty,
            image = Empty
        );
        $crate::ocid::rpc::span::describe(&span, &$daemon, &$request);
        span
    }};
}
use call_span;

/// Implements a service: each RPC by the function of its file.
macro_rules! serve {
    (
        impl $service:ident {
            $($rpc:ident($request:ident) -> $response:ident = $serve:path;)*
            @stream
            $($many:ident($many_request:ident) -> $many_type:ident<$many_response:ident>
                = $serve_many:path;)*
        }
    ) => {
        #[tonic::async_trait]
        impl $service for $crate::ocid::rpc::Service {
            $(
                async fn $rpc(
                    &self,
                    request: tonic::Request<v1::$request>,
                ) -> Result<tonic::Response<v1::$response>, tonic::Status> {
                    let begin = std::time::Instant::now();
                    // An end of the daemon waits for it.
                    let _call = self.0.tasks.token();
                    let request = request.into_inner();
                    let span = $crate::ocid::rpc::call_span!($rpc, self.0, request);
                    let answered = async {
                        let answer = $serve(&self.0, request).await;
                        let metrics = &self.0.metrics;
                        metrics.observe(stringify!($rpc), begin.elapsed(), answer.is_err());
                        $crate::ocid::rpc::status::answer(stringify!($rpc), answer)
                    };
                    tracing::Instrument::instrument(answered, span).await
                }
            )*
            $(
                type $many_type = $crate::ocid::rpc::stream::Answers<v1::$many_response>;

                async fn $many(
                    &self,
                    request: tonic::Request<v1::$many_request>,
                ) -> Result<tonic::Response<Self::$many_type>, tonic::Status> {
                    let request = request.into_inner();
                    let span = $crate::ocid::rpc::call_span!($many, self.0, request);
                    let answered = async {
                        let answer = $serve_many(&self.0, request).await;
                        $crate::ocid::rpc::status::answer(stringify!($many), answer)
                    };
                    tracing::Instrument::instrument(answered, span).await
                }
            )*
        }
    };
}
use serve;
