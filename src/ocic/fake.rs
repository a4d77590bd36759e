//! A CRI server for tests: answers that the test sets, requests that it reads back, over a real
//! unix socket and real gRPC.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};

/// What an RPC does.
#[derive(Clone)]
enum Script {
    Answer(Bytes),
    Refuse(Status),
    Hang,
}

#[derive(Default)]
struct Shared {
    scripts: HashMap<&'static str, Script>,
    requests: Vec<(String, Bytes)>,
}

/// A server that runs until it is dropped.
pub(crate) struct FakeCri {
    shared: Arc<Mutex<Shared>>,
    socket: PathBuf,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    _dir: TempDir,
}

impl FakeCri {
    /// Every RPC is Unimplemented until the test says otherwise.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("cri.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let server = tonic::transport::Server::builder()
            .add_service(Runtime(Face(Arc::clone(&shared))))
            .add_service(Images(Face(Arc::clone(&shared))))
            .serve_with_incoming(UnixListenerStream::new(listener));
        Self {
            shared,
            socket,
            server: tokio::spawn(server),
            _dir: dir,
        }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn answer(&self, rpc: &'static str, message: impl Message) -> &Self {
        self.script(rpc, Script::Answer(message.encode_to_vec().into()))
    }

    pub(crate) fn refuse(&self, rpc: &'static str, status: Status) -> &Self {
        self.script(rpc, Script::Refuse(status))
    }

    pub(crate) fn hang(&self, rpc: &'static str) -> &Self {
        self.script(rpc, Script::Hang)
    }

    fn script(&self, rpc: &'static str, script: Script) -> &Self {
        self.shared.lock().unwrap().scripts.insert(rpc, script);
        self
    }

    /// The names of the RPCs called so far, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        let shared = self.shared.lock().unwrap();
        shared.requests.iter().map(|(rpc, _)| rpc.clone()).collect()
    }

    /// The latest request of an RPC.
    pub(crate) fn request<M: Message + Default>(&self, rpc: &str) -> M {
        let shared = self.shared.lock().unwrap();
        let (_, bytes) = shared
            .requests
            .iter()
            .rfind(|(called, _)| called == rpc)
            .unwrap_or_else(|| panic!("{rpc} was not called"));
        M::decode(bytes.clone()).unwrap()
    }
}

impl Drop for FakeCri {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Clone)]
struct Face(Arc<Mutex<Shared>>);

impl Face {
    fn handle(&self, request: http::Request<Body>) -> Reply {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let rpc = path.rsplit('/').next().unwrap_or_default().to_owned();
            let answer = tower::service_fn(move |request: Request<Bytes>| {
                let script = {
                    let mut shared = shared.lock().unwrap();
                    shared.requests.push((rpc.clone(), request.into_inner()));
                    shared.scripts.get(rpc.as_str()).cloned()
                };
                let rpc = rpc.clone();
                async move {
                    match script {
                        Some(Script::Answer(bytes)) => Ok(Response::new(bytes)),
                        Some(Script::Refuse(status)) => Err(status),
                        Some(Script::Hang) => std::future::pending().await,
                        None => Err(Status::unimplemented(rpc)),
                    }
                }
            });
            let mut grpc = tonic::server::Grpc::new(Raw);
            Ok(grpc.unary(answer, request).await)
        })
    }
}

type Reply =
    Pin<Box<dyn Future<Output = Result<http::Response<Body>, std::convert::Infallible>> + Send>>;

/// The same face under the names of both services.
macro_rules! named {
    ($face:ident, $name:literal) => {
        #[derive(Clone)]
        struct $face(Face);

        impl NamedService for $face {
            const NAME: &'static str = $name;
        }

        impl tower::Service<http::Request<Body>> for $face {
            type Response = http::Response<Body>;
            type Error = std::convert::Infallible;
            type Future = Reply;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<Body>) -> Reply {
                self.0.handle(request)
            }
        }
    };
}

named!(Runtime, "runtime.v1.RuntimeService");
named!(Images, "runtime.v1.ImageService");

/// Messages as bytes, so that one face serves every RPC.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
