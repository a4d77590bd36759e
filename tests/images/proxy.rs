//! A pull through a proxy, in a network where nothing else leads to the registry.

use std::net::TcpListener;

use crio_setup::host::command::Command;

use crate::liar::Liar;
use crate::pack::{Compression, Form, Layer, Packed, archive};
use crate::{Home, told};

/// Both in a network of their own.
const PROXY: &str = "127.0.0.1:3128";
const NEAR: &str = "10.99.0.1:5000";
const FAR: &str = "registry.invalid:5000";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs as the child of `the_proxy_of_the_environment_is_used`, in a network of its own"]
async fn child() {
    let layer = Layer::new(&archive(&[("f", b"f")]), Compression::Gzip);
    let packed = Packed::new(Form::Oci, "proxied", &[layer]);
    let proxy = Liar::serving(TcpListener::bind(PROXY).unwrap());
    let near = Liar::serving(TcpListener::bind(NEAR).unwrap());
    proxy.serve("1", &packed);
    near.serve("1", &packed);
    let mut home = Home::default();
    home.options.insecure_registries = vec![FAR.to_owned(), NEAR.to_owned()];
    let store = home.open();
    // Nobody but the proxy knows where that is.
    let image = store.pull(&format!("{FAR}/x:1"), None).await;
    let image = image.unwrap_or_else(|e| panic!("{}", told(&e)));
    assert_eq!(image.id, packed.id());
    let asked = proxy.seen("");
    assert!(
        asked
            .iter()
            .any(|s| s.0 == format!("http://{FAR}/v2/x/manifests/1")),
        "{asked:?}"
    );
    // Over HTTPS it is asked for a tunnel first.
    assert!(
        asked[0].0.contains(FAR) && !asked[0].0.starts_with("http:"),
        "{asked:?}"
    );
    store.remove(&image.id).unwrap();
    let before = proxy.seen("").len();
    store.pull(&format!("{NEAR}/x:1"), None).await.unwrap();
    assert_eq!(proxy.seen("").len(), before, "NO_PROXY names it");
    assert!(!near.seen("/v2/x/manifests/1").is_empty());
    println!("went through");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_of_the_environment_is_used() {
    let script = "ip link set lo up && ip address add 10.99.0.1/32 dev lo && exec \"$0\" --exact proxy::child --ignored --nocapture";
    let output = Command::new("unshare")
        .args(["-n", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .env("HTTP_PROXY", format!("http://{PROXY}"))
        .env("HTTPS_PROXY", format!("http://{PROXY}"))
        .env("NO_PROXY", "10.99.0.0/16,localhost")
        .run_async()
        .await
        .unwrap_or_else(|e| panic!("{}", told(&e)));
    assert!(output.text().contains("went through"), "{}", output.text());
}
