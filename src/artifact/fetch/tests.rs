//! Against a server on loopback that misbehaves in each way we know of.

mod server;

use super::*;
use crate::artifact::small_disk::in_small_tmpfs;
use std::io::Read;
use std::net::TcpListener;
use std::sync::Mutex;
use std::thread;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use server::{Server, hang, ok, redirect};

/// A folder to fetch into, and quick limits.
struct Place {
    dir: tempfile::TempDir,
    limits: Limits,
    proxies: Proxies,
    cap: u64,
}

const BODY: &[u8] = b"a release file";

impl Place {
    fn new() -> Self {
        let quick = Duration::from_millis(300);
        Self {
            dir: tempfile::tempdir().unwrap(),
            limits: Limits {
                connect: Duration::from_secs(5),
                idle: quick,
                total: Duration::from_secs(30),
            },
            proxies: Proxies::default(),
            cap: 1 << 20,
        }
    }

    fn wanting<'a>(&'a self, url: &'a str, body: &[u8]) -> Fetch<'a> {
        Fetch {
            url,
            sha256: Sha256Sum::of(body),
            size_cap: self.cap,
            limits: self.limits,
            dir: self.dir.path(),
            proxies: &self.proxies,
            cancel: CancellationToken::new(),
        }
    }

    fn fetch(&self, url: &str) -> Result<VerifiedFile, FetchError> {
        fetch(&self.wanting(url, BODY), &|_, _| {})
    }

    /// The fetch fails, says the URL and how to go on, and leaves no file.
    fn fails(&self, url: &str) -> FetchError {
        let error = self.fetch(url).expect_err("the fetch must fail");
        assert!(error.to_string().contains(url), "{error}");
        assert!(error.hint().is_some());
        assert!(self.is_empty(), "{error}");
        error
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(self.dir.path()).unwrap().next().is_none()
    }
}

#[test]
fn a_right_file_is_persisted_with_its_mode() {
    let server = Server::new(|_, s| ok(s, BODY));
    let place = Place::new();
    let seen = Mutex::new(Vec::new());
    let url = server.url();
    let file = fetch(&place.wanting(&url, BODY), &|got, all| {
        seen.lock().unwrap().push((got, all));
    })
    .unwrap();
    let len = BODY.len() as u64;
    assert_eq!((file.size, file.sha256), (len, Sha256Sum::of(BODY)));
    let seen = seen.into_inner().unwrap();
    assert_eq!(
        (seen.first(), seen.last()),
        (Some(&(0, Some(len))), Some(&(len, Some(len))))
    );
    assert_eq!(server.requests(), ["GET /file HTTP/1.1"]);

    let to = place.dir.path().join("runc");
    fs::write(&to, "old").unwrap();
    file.persist(&to, 0o755).unwrap();
    assert_eq!(fs::read(&to).unwrap(), BODY);
    assert_eq!(
        fs::metadata(&to).unwrap().permissions().mode() & 0o7777,
        0o755
    );
    assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_is_not_persisted_is_gone() {
    let server = Server::new(|_, s| ok(s, BODY));
    let place = Place::new();
    let file = place.fetch(&server.url()).unwrap();
    let mut content = Vec::new();
    file.open().unwrap().read_to_end(&mut content).unwrap();
    assert_eq!(content, BODY);
    drop(file);
    assert!(place.is_empty());
}

#[test]
fn of_the_wrong_hash() {
    let server = Server::new(|_, s| ok(s, b"another file"));
    let error = Place::new().fails(&server.url());
    let text = error.to_string();
    let (got, expected) = (Sha256Sum::of(b"another file"), Sha256Sum::of(BODY));
    assert!(text.contains("12 bytes"), "{text}");
    assert!(
        text.contains(&got.to_string()) && text.contains(&expected.to_string()),
        "{text}"
    );
}

#[test]
fn cut_short() {
    let announced = Server::new(|_, s| {
        s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\na rel")
            .unwrap();
    });
    let error = Place::new().fails(&announced.url());
    assert!(
        error.to_string().contains("cut short after 5 of 14 bytes"),
        "{error}"
    );

    let chunked = Server::new(|_, s| {
        s.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na rel\r\n")
            .unwrap();
    });
    let error = Place::new().fails(&chunked.url());
    assert!(
        error.to_string().contains("cut short after 5 bytes"),
        "{error}"
    );

    // Nothing tells how long it should be but the sum.
    let silent = Server::new(|_, s| s.write_all(b"HTTP/1.0 200 OK\r\n\r\na rel").unwrap());
    let error = Place::new().fails(&silent.url());
    assert!(
        matches!(error, FetchError::Mismatch { bytes: 5, .. }),
        "{error:?}"
    );
}

#[test]
fn not_found() {
    for (code, reason) in [
        (404, "Not Found"),
        (503, "Service Unavailable"),
        (206, "Partial Content"),
    ] {
        let server = Server::new(move |_, s| {
            let head = format!("HTTP/1.1 {code} {reason}\r\nContent-Length: 14\r\n\r\n");
            s.write_all(head.as_bytes()).unwrap();
            s.write_all(BODY).unwrap();
        });
        let error = Place::new().fails(&server.url());
        assert!(matches!(error, FetchError::Status { .. }), "{error:?}");
        assert!(
            error.to_string().ends_with(&format!("{code} {reason}")),
            "{error}"
        );
    }
}

#[test]
fn hanging() {
    let mute = Server::new(|_, s| hang(s));
    let mut place = Place::new();
    place.limits.connect = Duration::from_millis(100);
    let error = place.fails(&mute.url());
    assert!(
        error.to_string().contains("no answer within 400ms"),
        "{error}"
    );

    let stuck = Server::new(|_, s| {
        s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\na rel")
            .unwrap();
        hang(s);
    });
    let error = Place::new().fails(&stuck.url());
    assert!(
        error
            .to_string()
            .contains("nothing more came within 300ms (5 bytes"),
        "{error}"
    );
}

#[test]
fn dripping_for_ever() {
    let server = Server::new(|_, s| {
        s.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        // Ends when the client has gone. The pause is what makes it drip.
        while s.write_all(b"x").is_ok() {
            thread::park_timeout(Duration::from_millis(20));
        }
    });
    let mut place = Place::new();
    place.limits.total = Duration::from_millis(500);
    let error = place.fails(&server.url());
    assert!(
        error.to_string().contains("not complete within 500ms"),
        "{error}"
    );
}

#[test]
fn refused() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", closed.local_addr().unwrap());
    drop(closed);
    let error = Place::new().fails(&url);
    assert!(matches!(error, FetchError::Unreachable { .. }), "{error:?}");
    assert!(
        http::chain(&error).contains("refused"),
        "{}",
        http::chain(&error)
    );
}

#[test]
fn no_url() {
    for url in ["ftp://127.0.0.1/file", "not a url", "http://"] {
        let error = Place::new().fails(url);
        assert!(
            matches!(
                error,
                FetchError::Client { .. } | FetchError::Unreachable { .. }
            ),
            "{error:?}"
        );
    }
}

#[test]
fn too_large() {
    let announced = Server::new(|_, s| ok(s, &[0; 4096]));
    let endless = Server::new(|_, s| {
        s.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        while s.write_all(&[0; 4096]).is_ok() {}
    });
    let mut place = Place::new();
    place.cap = 4095;
    for server in [announced, endless] {
        let error = place.fails(&server.url());
        assert!(
            matches!(error, FetchError::TooLarge { cap: 4095, .. }),
            "{error:?}"
        );
    }
    place.cap = BODY.len() as u64;
    assert!(place.fetch(&Server::new(|_, s| ok(s, BODY)).url()).is_ok());
}

#[test]
fn redirects() {
    let target = Server::new(|_, s| ok(s, BODY));
    let to = target.url();
    let server = Server::new(move |_, s| redirect(s, &to));
    assert!(Place::new().fetch(&server.url()).is_ok());

    let turning = Server::new(|_, s| redirect(s, "/file"));
    let error = Place::new().fails(&turning.url());
    assert!(
        error.to_string().contains("gave up after 10 redirects"),
        "{error}"
    );
}

fn test_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let pem = include_bytes!("../../../tests/fixtures/tls/ca.pem");
    roots
        .add(CertificateDer::from_pem_slice(pem).unwrap())
        .unwrap();
    roots
}

#[test]
fn over_tls() {
    let place = Place::new();
    let server = Server::tls(|_, s| ok(s, BODY));
    let url = server.url();
    let file = fetch_trusting(&place.wanting(&url, BODY), test_roots(), &|_, _| {}).unwrap();
    drop(file);
    // The system does not know who signed its certificate.
    let error = place.fails(&url);
    assert!(
        http::chain(&error).contains("UnknownIssuer"),
        "{}",
        http::chain(&error)
    );
}

#[test]
fn a_redirect_out_of_tls_is_refused() {
    let plain = Server::new(|_, s| ok(s, BODY));
    let to = plain.url();
    let secure = Server::tls(move |_, s| redirect(s, &to));
    let place = Place::new();
    let url = secure.url();
    let error = fetch_trusting(&place.wanting(&url, BODY), test_roots(), &|_, _| {}).unwrap_err();
    assert!(matches!(error, FetchError::Redirect { .. }), "{error:?}");
    assert!(error.to_string().contains("leaves TLS"), "{error}");
    assert!(plain.requests().is_empty(), "the plain server was asked");
    assert!(place.is_empty());
}

#[test]
fn through_a_proxy() {
    // A proxy is asked for the whole URL; nobody resolves the name of the target here.
    let proxy = Server::new(|request, s| {
        assert_eq!(request, "GET http://upstream.invalid/file HTTP/1.1");
        ok(s, BODY);
    });
    let mut place = Place::new();
    let address = format!("http://{}", proxy.address);
    let env = |k: &str, v: &str| Proxies::from_env([(k.into(), v.into())]);
    place.proxies = env("HTTP_PROXY", &address);
    assert!(place.fetch("http://upstream.invalid/file").is_ok());

    // TLS goes through it by CONNECT, and what the proxy answers to that is told.
    let refusing = Server::new(|request, s| {
        assert_eq!(request, "CONNECT upstream.invalid:443 HTTP/1.1");
        s.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").unwrap();
    });
    place.proxies = env("https_proxy", &format!("http://{}", refusing.address));
    let error = place.fails("https://upstream.invalid/file");
    assert!(matches!(error, FetchError::Unreachable { .. }), "{error:?}");
    assert_eq!(refusing.requests().len(), 1);

    // The machine itself is reached directly.
    let direct = Server::new(|_, s| ok(s, BODY));
    place.proxies = env("http_proxy", "http://127.0.0.1:1");
    assert!(place.fetch(&direct.url()).is_ok());

    place.proxies = env("http_proxy", "http://bad host:x");
    let error = place.fails("http://upstream.invalid/file");
    assert!(matches!(error, FetchError::Client { .. }), "{error:?}");
}

#[test]
fn cancelled_from_another_thread() {
    let (asked, was_asked) = std::sync::mpsc::channel();
    let server = Server::new(move |_, s| {
        asked.send(()).unwrap();
        hang(s);
    });
    let mut place = Place::new();
    place.limits.idle = Duration::from_secs(30);
    let url = server.url();
    let what = place.wanting(&url, BODY);
    let cancel = what.cancel.clone();
    let error = thread::scope(|scope| {
        scope.spawn(move || {
            was_asked.recv().unwrap();
            cancel.cancel();
        });
        fetch(&what, &|_, _| {}).unwrap_err()
    });
    assert!(matches!(error, FetchError::Cancelled { .. }), "{error:?}");
    assert!(place.is_empty());
}

#[test]
fn no_room_and_no_folder() {
    let server = Server::new(|_, s| ok(s, &[7; 256 << 10]));
    let mut place = Place::new();
    let url = server.url();
    let small = place.dir.path().join("small");
    fs::create_dir(&small).unwrap();
    let error = in_small_tmpfs(&small, || {
        let what = Fetch {
            dir: &small,
            ..place.wanting(&url, &[7; 256 << 10])
        };
        let error = fetch(&what, &|_, _| {}).unwrap_err();
        assert!(fs::read_dir(&small).unwrap().next().is_none());
        error
    });
    let FetchError::Write { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    assert!(error.hint().unwrap().contains("df -h"), "{error:?}");

    place.dir = tempfile::tempdir().unwrap();
    let absent = place.dir.path().join("absent");
    let what = Fetch {
        dir: &absent,
        ..place.wanting(&url, BODY)
    };
    let error = fetch(&what, &|_, _| {}).unwrap_err();
    assert!(matches!(error, FetchError::Write { .. }), "{error:?}");
}
