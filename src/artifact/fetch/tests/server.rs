//! The server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Answers each connection on a thread of its own with what `answer` writes for the first line of
/// the request; the connection closes when it returns.
pub struct Server {
    pub address: SocketAddr,
    scheme: &'static str,
    requests: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

type Answer = Arc<dyn Fn(&str, &mut dyn Stream) + Send + Sync>;

impl Server {
    pub fn new(answer: impl Fn(&str, &mut dyn Stream) + Send + Sync + 'static) -> Self {
        Self::start(Arc::new(answer), None)
    }

    pub fn tls(answer: impl Fn(&str, &mut dyn Stream) + Send + Sync + 'static) -> Self {
        let chain = CertificateDer::pem_slice_iter(include_bytes!(
            "../../../../tests/fixtures/tls/server.pem"
        ))
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!(
            "../../../../tests/fixtures/tls/server.key"
        ))
        .unwrap();
        let provider = rustls::crypto::ring::default_provider();
        let config = rustls::ServerConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Self::start(Arc::new(answer), Some(Arc::new(config)))
    }

    fn start(answer: Answer, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            scheme: if tls.is_some() { "https" } else { "http" },
            requests: Arc::default(),
            stop: Arc::default(),
        };
        let (requests, stop) = (server.requests.clone(), server.stop.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, tls, requests) = (answer.clone(), tls.clone(), requests.clone());
                thread::spawn(move || serve(stream.unwrap(), tls, &answer, &requests));
            }
        });
        server
    }

    pub fn url(&self) -> String {
        format!("{}://{}/file", self.scheme, self.address)
    }

    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    mut tcp: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    answer: &Answer,
    requests: &Mutex<Vec<String>>,
) {
    let mut connection = tls.map(|config| rustls::ServerConnection::new(config).unwrap());
    let mut stream: Box<dyn Stream> = match &mut connection {
        Some(connection) => Box::new(rustls::Stream::new(connection, &mut tcp)),
        None => Box::new(&mut tcp),
    };
    let mut head = BufReader::new(&mut stream).lines().map_while(Result::ok);
    // No request: a client that gave up, or does not trust us.
    let Some(first) = head.next() else { return };
    head.take_while(|l| !l.is_empty()).for_each(drop);
    requests.lock().unwrap().push(first.clone());
    answer(&first, &mut stream);
}

pub fn ok(stream: &mut dyn Stream, body: &[u8]) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    // The client may refuse by the head alone.
    let _ = stream.write_all(body);
}

pub fn redirect(stream: &mut dyn Stream, to: &str) {
    let head = format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
}

/// Stands still until the client has gone.
pub fn hang(stream: &mut dyn Stream) {
    let _ = stream.read(&mut [0]);
}
