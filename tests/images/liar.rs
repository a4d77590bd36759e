//! A small registry on loopback that does as the test says: lies, breaks off, waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use tokio::sync::Notify;

use crate::pack::{Packed, media_type};

/// An answer to one path.
#[derive(Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// After so many bytes of a response the connection is closed.
    pub cut_after: Option<usize>,
    /// Before the second half it waits until this is notified, having told the other.
    pub gate: Option<Arc<Gate>>,
    /// Without this `Authorization` it answers 401 with the challenge.
    pub demands: Option<(String, String)>,
    /// Answers ranges, as real registries do.
    pub ranges: bool,
    /// Answers to the first requests, one each.
    pub before: Vec<Reply>,
}

#[derive(Default)]
pub struct Gate {
    pub reached: Notify,
    pub open: Notify,
}

#[derive(Default)]
pub struct Table {
    pub replies: HashMap<String, Reply>,
    /// Path, authorization and range of each request.
    pub seen: Vec<(String, String, String)>,
    /// Bodies of requests that had one.
    pub bodies: Vec<String>,
}

pub struct Liar {
    pub host: String,
    pub table: Arc<Mutex<Table>>,
}

impl Liar {
    pub async fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self::serving(listener)
    }

    /// On a socket that may be in another network.
    pub fn serving(listener: std::net::TcpListener) -> Self {
        let table = Arc::<Mutex<Table>>::default();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let app = axum::Router::new()
            .fallback(answer)
            .with_state(table.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { host, table }
    }

    pub fn put(&self, path: &str, reply: Reply) {
        self.table
            .lock()
            .unwrap()
            .replies
            .insert(path.to_owned(), reply);
    }

    pub fn change(&self, path: &str, change: impl FnOnce(&mut Reply)) {
        change(self.table.lock().unwrap().replies.get_mut(path).unwrap());
    }

    /// Every path served so far answers only to this authorization, and else with the challenge.
    pub fn demand(&self, authorization: &str, challenge: &str) {
        let demand = (authorization.to_owned(), challenge.to_owned());
        for reply in self.table.lock().unwrap().replies.values_mut() {
            reply.demands = Some(demand.clone());
        }
    }

    /// An honest image at `x:TAG`, to be lied about afterwards.
    pub fn serve(&self, tag: &str, image: &Packed) {
        let manifest = Reply {
            status: 200,
            headers: vec![("content-type", media_type(image.form).to_owned())],
            body: image.manifest.clone(),
            ..Reply::default()
        };
        self.put(&format!("/v2/x/manifests/{tag}"), manifest.clone());
        self.put(&format!("/v2/x/manifests/{}", image.digest()), manifest);
        let blob = |body: &[u8]| Reply {
            status: 200,
            body: body.to_vec(),
            ..Reply::default()
        };
        self.put(&format!("/v2/x/blobs/{}", image.id()), blob(&image.config));
        for layer in &image.layers {
            self.put(&format!("/v2/x/blobs/{}", layer.digest), blob(&layer.blob));
        }
    }

    pub fn seen(&self, part: &str) -> Vec<(String, String, String)> {
        let table = self.table.lock().unwrap();
        table
            .seen
            .iter()
            .filter(|s| s.0.contains(part))
            .cloned()
            .collect()
    }

    pub fn image(&self, tag: &str) -> String {
        format!("{}/x:{tag}", self.host)
    }
}

async fn answer(State(table): State<Arc<Mutex<Table>>>, request: Request) -> Response {
    let text = |headers: &HeaderMap, name: header::HeaderName| -> String {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("")
            .to_owned()
    };
    let uri = request.uri().to_string();
    let authorization = text(request.headers(), header::AUTHORIZATION);
    let range = text(request.headers(), header::RANGE);
    let path = request.uri().path().to_owned();
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await;
    let reply = {
        let mut table = table.lock().unwrap();
        table.seen.push((uri, authorization.clone(), range.clone()));
        if let Some(body) = body.ok().filter(|b| !b.is_empty()) {
            table
                .bodies
                .push(String::from_utf8_lossy(&body).into_owned());
        }
        match table.replies.get_mut(&path) {
            Some(reply) if !reply.before.is_empty() => Some(reply.before.remove(0)),
            other => other.cloned(),
        }
    };
    let Some(reply) = reply else {
        return response(
            404,
            &[],
            Body::from(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
        );
    };
    if let Some((wanted, challenge)) = &reply.demands
        && authorization != *wanted
    {
        return response(
            401,
            &[("www-authenticate", challenge.clone())],
            Body::empty(),
        );
    }
    let start = range
        .strip_prefix("bytes=")
        .and_then(|r| r.trim_end_matches('-').parse().ok());
    let (status, from) = match start {
        Some(from) if reply.ranges => (206, from),
        _ => (reply.status, 0_usize),
    };
    let body = reply.body[from.min(reply.body.len())..].to_vec();
    let mut headers = reply.headers.clone();
    headers.push(("content-length", body.len().to_string()));
    let stream =
        futures_util::stream::unfold((body, 0_usize, reply), |(body, sent, reply)| async move {
            let half = body.len() / 2;
            if let Some(cut) = reply.cut_after
                && sent >= cut
            {
                let broken = std::io::Error::other("cut");
                return Some((
                    Err(broken),
                    (
                        body,
                        usize::MAX / 2,
                        Reply {
                            cut_after: None,
                            ..reply
                        },
                    ),
                ));
            }
            if let Some(gate) = reply.gate.as_ref().filter(|_| sent >= half) {
                gate.reached.notify_one();
                gate.open.notified().await;
                gate.open.notify_one();
            }
            let rest = body.get(sent..).filter(|r| !r.is_empty())?;
            let limit = match (reply.cut_after, sent < half) {
                (Some(cut), _) => cut - sent,
                (None, true) => half - sent,
                (None, false) => rest.len(),
            };
            let piece = Bytes::copy_from_slice(&rest[..rest.len().min(limit).min(64 << 10)]);
            let sent = sent + piece.len();
            Some((Ok(piece), (body, sent, reply)))
        });
    response(status, &headers, Body::from_stream(stream))
}

fn response(status: u16, headers: &[(&'static str, String)], body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response
}
