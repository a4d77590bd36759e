//! Calls whose answers are left as the bytes that they are.

use std::marker::PhantomData;
use std::path::PathBuf;

use anyhow::{Context, Result};
use bytes::{Buf, Bytes};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

/// A connection to the daemon.
pub struct Wire(Channel);

impl Wire {
    pub async fn to(socket: PathBuf) -> Result<Self> {
        let connect = move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        };
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(tower::service_fn(connect));
        Ok(Self(channel.await.context("connect to the daemon")?))
    }

    /// One call, of the runtime or, by its name, of the images.
    pub async fn call(&self, name: &str, request: impl Message + 'static) -> Result<Bytes> {
        let service = if name.starts_with("Image") {
            "Image"
        } else {
            "Runtime"
        };
        let path = format!("/runtime.v1.{service}Service/{name}");
        let mut grpc = Grpc::new(self.0.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await?;
        let request = tonic::Request::new(request);
        let path = PathAndQuery::try_from(path)?;
        let answer = grpc.unary(request, path, Raw(PhantomData)).await?;
        Ok(answer.into_inner())
    }
}

/// Requests by prost, answers not at all.
struct Raw<Q>(PhantomData<Q>);

impl<Q: Message + 'static> Codec for Raw<Q> {
    type Encode = Q;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<Q: Message> Encoder for Raw<Q> {
    type Item = Q;
    type Error = Status;

    fn encode(&mut self, request: Q, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let encoded = request.encode(buffer);
        encoded.map_err(|e| Status::internal(e.to_string()))
    }
}

impl<Q> Decoder for Raw<Q> {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
