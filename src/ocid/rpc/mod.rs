//! The edge: one file per RPC, protobuf in, domain inside, protobuf out.

pub mod convert;
pub mod image;
pub mod runtime;
pub mod status;
pub mod stream;
pub mod verbose;

use std::sync::Arc;

use super::daemon::Daemon;

/// Both services of the CRI on one daemon.
#[derive(Clone)]
pub struct Service(pub Arc<Daemon>);

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
                    let answer = $serve(&self.0, request.into_inner()).await;
                    let metrics = &self.0.metrics;
                    metrics.observe(stringify!($rpc), begin.elapsed(), answer.is_err());
                    $crate::ocid::rpc::status::answer(stringify!($rpc), answer)
                }
            )*
            $(
                type $many_type = $crate::ocid::rpc::stream::Answers<v1::$many_response>;

                async fn $many(
                    &self,
                    request: tonic::Request<v1::$many_request>,
                ) -> Result<tonic::Response<Self::$many_type>, tonic::Status> {
                    let answer = $serve_many(&self.0, request.into_inner()).await;
                    $crate::ocid::rpc::status::answer(stringify!($many), answer)
                }
            )*
        }
    };
}
use serve;
