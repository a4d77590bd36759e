//! A registry in trouble: asked again in moderation, taken up again where it broke off, given up in the end.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crio_setup::ocid::image::{ImageError, Retries};

use crate::liar::{Gate, Liar, Reply};
use crate::pack::{Compression, Form, Layer, Packed, archive, noise};
use crate::{Home, told};

const MANIFEST: &str = "/v2/x/manifests/1";

fn packed(label: &str, bytes: usize) -> Packed {
    let layer = Layer::new(&archive(&[("f", &noise(1, bytes))]), Compression::Plain);
    Packed::new(Form::Oci, label, &[layer])
}

fn blob(packed: &Packed) -> String {
    format!("/v2/x/blobs/{}", packed.layers[0].digest)
}

fn status(status: u16, headers: &[(&'static str, &str)]) -> Reply {
    Reply {
        status,
        headers: headers.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
        ..Reply::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_that_passes_does_not_fail_a_pull() {
    let liar = Liar::start().await;
    let packed = packed("busy", 1000);
    liar.serve("1", &packed);
    liar.change(MANIFEST, |r| {
        r.before = vec![status(429, &[("retry-after", "1")]), status(503, &[])];
    });
    liar.change(&format!("/v2/x/blobs/{}", packed.id()), |r| {
        r.before = vec![status(500, &[]), status(502, &[]), status(504, &[])];
    });
    liar.change(&blob(&packed), |r| r.before = vec![status(429, &[])]);
    let home = Home::default();
    let start = Instant::now();
    let image = home.open().pull(&liar.image("1"), None).await.unwrap();
    assert_eq!(image.id, packed.id());
    // What the registry asked for, not the few milliseconds that are usual here.
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(liar.seen(MANIFEST).len(), 3);
    assert_eq!(liar.seen(&packed.id()).len(), 4);
    assert_eq!(liar.seen(&blob(&packed)).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_that_stays_is_told_after_a_few_tries() {
    let liar = Liar::start().await;
    let packed = packed("trouble", 1000);
    liar.serve("1", &packed);
    let home = Home::default();
    let store = home.open();
    // Each with the number of requests that are made of it: three more, where it may pass.
    for (status_code, requests) in [(503, 4), (429, 4), (404, 1), (403, 1), (501, 1)] {
        let before = liar.seen(MANIFEST).len();
        liar.change(MANIFEST, |r| r.status = status_code);
        let e = store.pull(&liar.image("1"), None).await.unwrap_err();
        assert_eq!(liar.seen(MANIFEST).len() - before, requests, "{}", told(&e));
    }
    // A registry that wants to be left alone for an hour is left alone, and whoever waits is told.
    let before = liar.seen(MANIFEST).len();
    liar.change(MANIFEST, |r| {
        *r = status(429, &[("retry-after", "3600")]);
    });
    let e = store.pull(&liar.image("1"), None).await.unwrap_err();
    assert!(matches!(e, ImageError::Unavailable { .. }), "{}", told(&e));
    assert!(told(&e).contains("try again in 3600 s"), "{}", told(&e));
    assert_eq!(liar.seen(MANIFEST).len() - before, 1);
    home.assert_empty();
}

/// Resets the first connections, and passes the later ones on.
fn brittle(to: String, resets: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (mut inner, to) = (stream.unwrap(), to.clone());
            if number < resets {
                // Closed with unread bytes, a socket resets its connection.
                inner.read_exact(&mut [0]).unwrap_or_default();
                continue;
            }
            std::thread::spawn(move || {
                let mut outer = TcpStream::connect(to).unwrap();
                let (mut up, mut down) = (inner.try_clone().unwrap(), outer.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut up, &mut outer));
                std::io::copy(&mut down, &mut inner)
            });
        }
    });
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_reset_are_made_again() {
    let liar = Liar::start().await;
    let packed = packed("reset", 1000);
    liar.serve("1", &packed);
    let mut home = Home::default();
    // Over https first; that is the one reset.
    home.options.retries = Retries {
        most: 8,
        ..home.options.retries
    };
    let host = brittle(liar.host.clone(), 4);
    let image = home
        .open()
        .pull(&format!("{host}/x:1"), None)
        .await
        .unwrap_or_else(|e| panic!("{}", told(&e)));
    assert_eq!(image.id, packed.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_taken_up_as_often_as_it_makes_headway() {
    let liar = Liar::start().await;
    let packed = packed("cut", 5 << 20);
    liar.serve("1", &packed);
    liar.change(&blob(&packed), |r| {
        r.cut_after = Some(600 << 10);
        r.ranges = true;
    });
    let home = Home::default();
    let store = home.open();
    store
        .pull(&liar.image("1"), None)
        .await
        .unwrap_or_else(|e| panic!("{}", told(&e)));
    assert!(liar.seen(&blob(&packed)).len() > 8);
    store.remove(&liar.image("1")).unwrap();
    // A registry that goes on at another place than it was asked to.
    liar.change(&blob(&packed), |r| {
        r.headers = vec![("content-range", "bytes 0-99/100".to_owned())];
    });
    let e = store.pull(&liar.image("1"), None).await.unwrap_err();
    assert!(matches!(e, ImageError::Unavailable { .. }), "{}", told(&e));
    home.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_does_not_get_on_is_given_up() {
    let liar = Liar::start().await;
    let packed = packed("stalled", 4 << 20);
    liar.serve("1", &packed);
    for path in [MANIFEST.to_owned(), blob(&packed)] {
        let gate = Arc::new(Gate::default());
        liar.change(&path, |r| r.gate = Some(gate.clone()));
        let mut home = Home::default();
        home.options.progress_timeout = Some(Duration::from_millis(400));
        let store = home.open();
        let e = store.pull(&liar.image("1"), None).await.unwrap_err();
        assert!(matches!(e, ImageError::Unavailable { .. }), "{}", told(&e));
        assert!(told(&e).contains("pull_progress_timeout"), "{}", told(&e));
        home.assert_empty();
        gate.open.notify_one();
        liar.change(&path, |r| r.gate = None);
        drop(store);
        // Without one it is as patient as the network.
        home.options.progress_timeout = None;
        let image = home.open().pull(&liar.image("1"), None).await.unwrap();
        assert_eq!(image.id, packed.id());
    }
}
