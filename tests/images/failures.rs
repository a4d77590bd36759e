//! Pulls that must fail: what the registry says wrongly, and what the machine cannot take. Each
//! leaves nothing behind.

use crio_setup::ocid::image::digest::Digest;
use crio_setup::ocid::image::{ImageError, ImageStore};
use crio_setup::ocid::storage::StorageError;
use crio_setup::ocid::storage::unpack::{LayerError, Limits};

use crate::liar::{Liar, Reply};
use crate::pack::{Compression, Form, Layer, Packed, archive, noise};
use crate::{Home, Mounted, names, told};

fn packed(seed: u64) -> Packed {
    let small = archive(&[("small", b"s")]);
    let big = archive(&[("big", &noise(seed, 3 << 20))]);
    let layers = [
        Layer::new(&small, Compression::Gzip),
        Layer::new(&big, Compression::Gzip),
    ];
    Packed::new(Form::Oci, "honest", &layers)
}

fn blob(digest: &Digest) -> String {
    format!("/v2/x/blobs/{digest}")
}

/// Serves an image with one thing changed, and pulls it in vain.
async fn failing(change: impl FnOnce(&Liar, &Packed)) -> ImageError {
    let liar = Liar::start().await;
    let packed = packed(1);
    liar.serve("1", &packed);
    change(&liar, &packed);
    let home = Home::default();
    let store = home.open();
    let e = store.pull(&liar.image("1"), None).await.unwrap_err();
    home.assert_empty();
    assert!(store.list().is_empty());
    // And the honest image goes in afterwards.
    liar.serve("1", &packed);
    store.pull(&liar.image("1"), None).await.unwrap();
    e
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_under_a_right_digest() {
    let e = failing(|liar, image| {
        let other = Layer::new(&archive(&[("evil", b"e")]), Compression::Gzip);
        let mut body = other.blob.clone();
        body.resize(image.layers[1].blob.len(), 0);
        liar.change(&blob(&image.layers[1].digest), |r| r.body = body);
    })
    .await;
    let wrong = matches!(
        &e,
        ImageError::Layer {
            source: StorageError::Layer(LayerError::WrongDigest { what: "digest", .. }),
            ..
        }
    );
    assert!(wrong, "{}", told(&e));
    let e = failing(|liar, image| {
        let mut body = image.config.clone();
        let last = body.len() - 2;
        body[last] ^= 1;
        liar.change(&format!("/v2/x/blobs/{}", image.id()), |r| r.body = body);
    })
    .await;
    assert!(
        matches!(
            e,
            ImageError::WrongDigest {
                what: "the configuration",
                ..
            }
        ),
        "{}",
        told(&e)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_diff_id() {
    let liar = Liar::start().await;
    let right = packed(2);
    let wrong = Layer::new(&archive(&[("other", b"o")]), Compression::Gzip);
    let config = String::from_utf8(right.config.clone()).unwrap();
    let config = config
        .replace(right.layers[1].diff_id.as_str(), wrong.diff_id.as_str())
        .into_bytes();
    let manifest = Packed::manifest(Form::Oci, &config, &right.layers);
    let packed = Packed {
        config,
        manifest,
        ..right
    };
    liar.serve("1", &packed);
    let home = Home::default();
    let store = home.open();
    let e = store.pull(&liar.image("1"), None).await.unwrap_err();
    let told = told(&e);
    assert!(
        told.contains("diff id") && told.contains(wrong.diff_id.as_str()),
        "{told}"
    );
    home.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_not_what_was_asked_for() {
    let liar = Liar::start().await;
    let (packed, other) = (packed(3), Packed::new(Form::Oci, "other", &[]));
    liar.serve("1", &packed);
    liar.change(&format!("/v2/x/manifests/{}", packed.digest()), |r| {
        r.body = other.manifest.clone()
    });
    let home = Home::default();
    let store = home.open();
    let by_digest = format!("{}/x@{}", liar.host, packed.digest());
    let e = store.pull(&by_digest, None).await.unwrap_err();
    assert!(
        matches!(
            e,
            ImageError::WrongDigest {
                what: "the manifest",
                ..
            }
        ),
        "{}",
        told(&e)
    );
    for body in ["{", "{}", "[1]", &"x".repeat(5 << 20)] {
        liar.change("/v2/x/manifests/1", |r| r.body = body.as_bytes().to_vec());
        let e = store.pull(&liar.image("1"), None).await.unwrap_err();
        assert!(
            matches!(
                e,
                ImageError::Manifest { .. } | ImageError::Unavailable { .. }
            ),
            "{}",
            told(&e)
        );
    }
    home.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_and_overlong_bodies() {
    let e = failing(|liar, image| {
        liar.change(&blob(&image.layers[1].digest), |r| {
            r.cut_after = Some(1 << 20)
        });
    })
    .await;
    assert!(matches!(e, ImageError::Unavailable { .. }), "{}", told(&e));
    assert!(
        told(&e).contains(&format!("of {} bytes", packed(1).layers[1].blob.len())),
        "{}",
        told(&e)
    );
    let e = failing(|liar, image| {
        liar.change(&blob(&image.layers[1].digest), |r| r.body.truncate(1 << 20));
    })
    .await;
    assert!(matches!(e, ImageError::Unavailable { .. }), "{}", told(&e));
    let e = failing(|liar, image| {
        liar.change(&blob(&image.layers[1].digest), |r| r.body.extend([0; 1000]));
    })
    .await;
    let wrong = matches!(
        &e,
        ImageError::Layer {
            source: StorageError::Layer(LayerError::WrongSize { .. }),
            ..
        }
    );
    assert!(wrong, "{}", told(&e));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_is_taken_up_where_it_stopped() {
    let liar = Liar::start().await;
    let packed = packed(4);
    liar.serve("1", &packed);
    let path = blob(&packed.layers[1].digest);
    liar.change(&path, |r| {
        r.cut_after = Some(1 << 20);
        r.ranges = true;
    });
    let home = Home::default();
    let store = home.open();
    assert_eq!(
        store.pull(&liar.image("1"), None).await.unwrap().id,
        packed.id()
    );
    let asked = liar.seen(packed.layers[1].digest.as_str());
    assert!(
        asked.len() > 1 && asked[1].2.starts_with("bytes="),
        "{asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_apart() {
    let status = |status: u16, message: &str| {
        let body = format!(r#"{{"errors":[{{"code":"X","message":"{message}"}}]}}"#).into_bytes();
        move |liar: &Liar, _: &Packed| {
            liar.put(
                "/v2/x/manifests/1",
                Reply {
                    status,
                    body,
                    ..Reply::default()
                },
            )
        }
    };
    let e = failing(status(404, "no such thing")).await;
    assert!(
        matches!(&e, ImageError::NotFound { message, .. } if message == "no such thing"),
        "{}",
        told(&e)
    );
    let e = failing(status(401, "who are you")).await;
    assert!(
        matches!(e, ImageError::Unauthenticated { .. }),
        "{}",
        told(&e)
    );
    let e = failing(status(403, "not you")).await;
    assert!(matches!(e, ImageError::Denied { .. }), "{}", told(&e));
    for busy in [429, 500, 503] {
        let e = failing(status(busy, "busy")).await;
        assert!(
            matches!(&e, ImageError::Unavailable { message, .. } if message.contains("busy")),
            "{}",
            told(&e)
        );
    }
    // A layer that is not there although the manifest is.
    let e = failing(|liar, image| {
        liar.change(&blob(&image.layers[1].digest), |r| r.status = 404);
    })
    .await;
    assert!(matches!(e, ImageError::NotFound { .. }), "{}", told(&e));
    let home = Home::default();
    let store = home.open();
    // Nobody listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let e = store.pull(&format!("{gone}/x:1"), None).await.unwrap_err();
    assert!(matches!(e, ImageError::Unavailable { .. }), "{}", told(&e));
    assert!(told(&e).contains("refused"), "{}", told(&e));
    let e = store.pull("Not A Name", None).await.unwrap_err();
    assert!(matches!(e, ImageError::Reference(_)), "{}", told(&e));
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_layers_fail_the_pull() {
    let liar = Liar::start().await;
    let mut home = Home::default();
    home.options.limits = Limits {
        bytes: 8 << 20,
        entries: 1000,
    };
    let store = home.open();
    let bomb = Layer::new(
        &archive(&[("zeros", &vec![0; 32 << 20])]),
        Compression::Gzip,
    );
    let mut escape = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.as_ustar_mut().unwrap().name[..9].copy_from_slice(b"../escape");
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    escape.append(&header, &b""[..]).unwrap();
    let escape = Layer::new(&escape.into_inner().unwrap(), Compression::Zstd);
    for (tag, layer, word) in [("bomb", bomb, "limit"), ("escape", escape, "leads out")] {
        let innocent = Layer::new(&archive(&[("f", b"f")]), Compression::Gzip);
        liar.serve(tag, &Packed::new(Form::Oci, tag, &[innocent, layer]));
        let e = store.pull(&liar.image(tag), None).await.unwrap_err();
        assert!(told(&e).contains(word), "{}", told(&e));
        home.assert_empty();
        assert!(!home.root().join("tmp/escape").exists() && !home.root().join("escape").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_leaves_nothing_half_there() {
    let liar = Liar::start().await;
    let big = archive(&[("a", &noise(1, 6 << 20)), ("b", &noise(2, 6 << 20))]);
    let small = archive(&[("s", b"s")]);
    let layers = [
        Layer::new(&small, Compression::Gzip),
        Layer::new(&big, Compression::Plain),
    ];
    liar.serve("1", &Packed::new(Form::Oci, "big", &layers));
    liar.serve("2", &Packed::new(Form::Oci, "small", &layers[..1]));
    let home = Home::default();
    let root = home.root();
    std::fs::create_dir(&root).unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), &root, Some("tmpfs"), flags, Some("size=8m")).unwrap();
    let _mounted = Mounted(root.clone());
    let store = ImageStore::open(&root, home.options.clone()).unwrap();
    let e = store.pull(&liar.image("1"), None).await.unwrap_err();
    assert!(told(&e).contains("No space left"), "{}", told(&e));
    assert!(e.hint().is_some_and(|h| h.contains("df")), "{:?}", e.hint());
    home.assert_empty();
    store.pull(&liar.image("2"), None).await.unwrap();
    assert_eq!(names(&root.join("layers")).len(), 1);
}

/// A store on a filesystem of its own.
fn small(home: &Home, options: &str) -> (ImageStore, Mounted) {
    let root = home.root();
    std::fs::create_dir(&root).unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), &root, Some("tmpfs"), flags, Some(options)).unwrap();
    let mounted = Mounted(root.clone());
    (
        ImageStore::open(&root, home.options.clone()).unwrap(),
        mounted,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_for_the_last_file_leaves_nothing_half_there() {
    let liar = Liar::start().await;
    let layer = Layer::new(&archive(&[("f", &noise(1, 1 << 20))]), Compression::Plain);
    // The layer fits and the image's record does not: it holds the configuration.
    let label = "l".repeat(128 << 10);
    let large = Packed::new(Form::Oci, &label, std::slice::from_ref(&layer));
    liar.serve("large", &large);
    liar.serve("1", &Packed::new(Form::Oci, "small", &[layer]));
    let home = Home::default();
    let (store, _mounted) = small(&home, "size=1112k");
    let e = store.pull(&liar.image("large"), None).await.unwrap_err();
    assert!(told(&e).contains("No space left"), "{}", told(&e));
    assert!(told(&e).contains("images/"), "the record: {}", told(&e));
    assert!(e.hint().is_some_and(|h| h.contains("df")), "{:?}", e.hint());
    home.assert_empty();
    store.pull(&liar.image("1"), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_inodes_leaves_nothing_half_there() {
    let liar = Liar::start().await;
    let names: Vec<String> = (0..500).map(|n| format!("d/{n}")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b"x"[..])).collect();
    let many = Layer::new(&archive(&files), Compression::Gzip);
    let few = Layer::new(&archive(&files[..10]), Compression::Gzip);
    liar.serve("1", &Packed::new(Form::Oci, "many", &[few.clone(), many]));
    liar.serve("2", &Packed::new(Form::Oci, "few", &[few]));
    let home = Home::default();
    let (store, _mounted) = small(&home, "size=64m,nr_inodes=200");
    let e = store.pull(&liar.image("1"), None).await.unwrap_err();
    assert!(told(&e).contains("No space left"), "{}", told(&e));
    home.assert_empty();
    store.pull(&liar.image("2"), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_are_for_others_are_refused_by_name() {
    let liar = Liar::start().await;
    let home = Home::default();
    let store = home.open();
    let right = packed(7);
    let config = String::from_utf8(right.config.clone()).unwrap();
    let windows = config.replace("\"linux\"", "\"windows\"").into_bytes();
    let manifest = Packed::manifest(Form::Oci, &windows, &right.layers);
    let windows = Packed {
        config: windows,
        manifest,
        ..packed(7)
    };
    liar.serve("windows", &windows);
    liar.serve("1", &right);
    liar.serve("schema1", &right);
    liar.change("/v2/x/manifests/schema1", |r| {
        r.body = br#"{"schemaVersion":1,"name":"x","tag":"1","fsLayers":[]}"#.to_vec();
        let kind = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        r.headers = vec![("content-type", kind.to_owned())];
    });
    let chart = String::from_utf8(right.manifest.clone()).unwrap();
    let chart = chart.replace(
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.cncf.helm.chart.content.v1",
    );
    liar.serve("chart", &right);
    liar.change("/v2/x/manifests/chart", |r| r.body = chart.into_bytes());
    for (tag, word) in [
        ("windows", "`windows`"),
        ("schema1", "schema 1"),
        ("chart", "no container image"),
    ] {
        let e = store.pull(&liar.image(tag), None).await.unwrap_err();
        assert!(matches!(e, ImageError::Manifest { .. }), "{}", told(&e));
        assert!(told(&e).contains(word), "{tag}: {}", told(&e));
    }
    // An index whose manifest is not what it says.
    let (bytes, kind) = crate::pack::index(Form::Oci, &[("amd64", &right), ("arm64", &right)]);
    liar.put(
        "/v2/x/manifests/index",
        Reply {
            status: 200,
            headers: vec![("content-type", kind.to_owned())],
            body: bytes,
            ..Reply::default()
        },
    );
    let path = format!("/v2/x/manifests/{}", right.digest());
    liar.change(&path, |r| r.body = packed(8).manifest.clone());
    let e = store.pull(&liar.image("index"), None).await.unwrap_err();
    assert!(matches!(e, ImageError::WrongDigest { .. }), "{}", told(&e));
    home.assert_empty();
    liar.serve("1", &right);
    assert_eq!(
        store.pull(&liar.image("index"), None).await.unwrap().id,
        right.id()
    );
}
