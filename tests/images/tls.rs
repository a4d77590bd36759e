//! HTTPS: authorities and certificates of certs.d.

use std::fs;
use std::path::Path;

use crio_setup::host::command::Command;
use crio_setup::ocid::image::ImageError;

use crate::pack::{Compression, Form, Layer, Packed, archive};
use crate::registry::{Registry, Settings};
use crate::{Home, crypto, told};

async fn openssl(dir: &Path, args: &str) {
    let command = Command::new("openssl")
        .current_dir(dir)
        .args(args.split_whitespace());
    command.run_async().await.unwrap();
}

/// An authority (`ca`), and a server's and a client's key and certificate that it has signed.
async fn keys() -> tempfile::TempDir {
    let keys = tempfile::tempdir().unwrap();
    let dir = keys.path();
    fs::write(
        dir.join("ext"),
        "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n",
    )
    .unwrap();
    openssl(dir, "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -subj /CN=test-ca -days 2").await;
    openssl(dir, "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout srv.key -out srv.csr -subj /CN=127.0.0.1").await;
    openssl(dir, "x509 -req -in srv.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out srv.crt -days 2 -extfile ext").await;
    openssl(dir, "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout own.key -out own.csr -subj /CN=node").await;
    openssl(dir, "x509 -req -in own.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out own.crt -days 2 -extfile ext").await;
    keys
}

fn packed() -> Packed {
    let layer = Layer::new(&archive(&[("f", b"tls")]), Compression::Gzip);
    Packed::new(Form::Oci, "tls", &[layer])
}

#[tokio::test(flavor = "multi_thread")]
async fn https_with_a_ca_of_certs_d() {
    crypto();
    let keys = keys().await;
    let dir = keys.path();
    let plain = Registry::start(Settings::default());
    let packed = packed();
    plain.push("a", "1", &packed).await;
    let (certificate, key) = (dir.join("srv.crt"), dir.join("srv.key"));
    let secure = Registry::start(Settings {
        tls: Some((&certificate, &key)),
        storage: Some(plain.storage()),
        ..Settings::default()
    });
    let mut home = Home::default();
    let store = home.open();
    let reference = format!("{}/a:1", secure.host);
    let e = store.pull(&reference, None).await.unwrap_err();
    assert!(matches!(e, ImageError::Unavailable { .. }), "{}", told(&e));
    assert!(told(&e).contains("UnknownIssuer"), "{}", told(&e));
    assert!(e.hint().is_some_and(|h| h.contains("certs.d")));
    let trusted = home.etc("certs.d").join(&secure.host);
    fs::create_dir_all(&trusted).unwrap();
    fs::copy(dir.join("ca.crt"), trusted.join("ca.crt")).unwrap();
    assert_eq!(store.pull(&reference, None).await.unwrap().id, packed.id());
    store.remove(&reference).unwrap();
    // Configured as insecure it needs no CA.
    drop(store);
    fs::remove_dir_all(&trusted).unwrap();
    home.options.insecure_registries = vec![secure.host.clone()];
    let store = home.open();
    assert_eq!(store.pull(&reference, None).await.unwrap().id, packed.id());
    // A broken CA file is an error that names it.
    fs::create_dir_all(&trusted).unwrap();
    fs::write(trusted.join("bad.cert"), "x").unwrap();
    let e = store
        .pull(&format!("{}/a@{}", secure.host, packed.digest()), None)
        .await
        .unwrap_err();
    assert!(told(&e).contains("bad."), "{}", told(&e));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_our_own_from_certs_d() {
    crypto();
    let keys = keys().await;
    let dir = keys.path();
    let plain = Registry::start(Settings::default());
    let packed = packed();
    plain.push("a", "1", &packed).await;
    let (certificate, key) = (dir.join("srv.crt"), dir.join("srv.key"));
    let authority = dir.join("ca.crt");
    let secure = Registry::start(Settings {
        tls: Some((&certificate, &key)),
        client_authority: Some(&authority),
        storage: Some(plain.storage()),
        ..Settings::default()
    });
    let home = Home::default();
    let store = home.open();
    let reference = format!("{}/a:1", secure.host);
    let certs = home.etc("certs.d").join(&secure.host);
    fs::create_dir_all(&certs).unwrap();
    fs::copy(&authority, certs.join("ca.crt")).unwrap();
    let e = store.pull(&reference, None).await.unwrap_err();
    assert!(matches!(e, ImageError::Unavailable { .. }), "{}", told(&e));
    fs::copy(dir.join("own.crt"), certs.join("client.cert")).unwrap();
    let e = store.pull(&reference, None).await.unwrap_err();
    assert!(matches!(e, ImageError::Config { .. }), "{}", told(&e));
    assert!(told(&e).contains("client.key"), "{}", told(&e));
    fs::copy(dir.join("own.key"), certs.join("client.key")).unwrap();
    let image = store.pull(&reference, None).await;
    assert_eq!(
        image.unwrap_or_else(|e| panic!("{}", told(&e))).id,
        packed.id()
    );
}
