//! Pulls that succeed: every format, from a real registry.

use std::fs;
use std::sync::Arc;

use crio_setup::ocid::image::digest::Digest;
use crio_setup::ocid::image::{ImageError, ImageUser, RegistryAuth};

use crate::liar::{Gate, Liar, Reply};
use crate::pack::{Compression, Form, Layer, Packed, archive, index, noise};
use crate::registry::{Registry, Settings};
use crate::{Home, crypto, told};

fn two_layers(seed: u64, compression: Compression) -> Vec<Layer> {
    let base = archive(&[
        ("etc/", b""),
        ("etc/f", b"base"),
        ("big", &noise(seed, 1 << 20)),
    ]);
    let top = archive(&[("etc/g", b"top"), ("etc/.wh.f", b"")]);
    vec![
        Layer::new(&base, compression),
        Layer::new(&top, compression),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_from_a_real_registry() {
    crypto();
    let registry = Registry::start(Settings::default());
    let home = Home::default();
    let store = home.open();
    let cases = [
        ("oci-gzip", Form::Oci, Compression::Gzip),
        ("oci-zstd", Form::Oci, Compression::Zstd),
        ("oci-plain", Form::Oci, Compression::Plain),
        ("docker", Form::Docker, Compression::Gzip),
    ];
    for (seed, (name, form, compression)) in cases.into_iter().enumerate() {
        let packed = Packed::new(form, name, &two_layers(seed as u64, compression));
        registry.push(&format!("a/{name}"), "1", &packed).await;
        let reference = format!("{}/a/{name}:1", registry.host);
        let image = store
            .pull(&reference, None)
            .await
            .unwrap_or_else(|e| panic!("{name}: {}", told(&e)));
        assert_eq!(image.id, packed.id());
        assert_eq!(image.repo_tags, std::slice::from_ref(&reference));
        assert_eq!(
            image.repo_digests,
            [format!("{}/a/{name}@{}", registry.host, packed.digest())]
        );
        assert_eq!(image.user(), ImageUser::Uid(1000));
        let archives: usize = (1 << 20) + 512 * 2 + 1024 * 4;
        assert!(image.size > archives as u64, "{}", image.size);
        for found in [
            reference.as_str(),
            &image.id,
            &image.id["sha256:".len()..],
            &image.id["sha256:".len()..][..12],
            &image.repo_digests[0],
        ] {
            assert_eq!(
                store.get(found).map(|i| i.id.clone()),
                Some(packed.id()),
                "{found}"
            );
        }
    }
    assert_eq!(store.list().len(), 4);
    // The top layer is the same in all of them, whatever its compression.
    assert_eq!(home.names("layers").len(), 5);
    let usage = store.usage();
    assert!(usage.bytes > 4 << 20 && usage.inodes > 8, "{usage:?}");
    for image in store.list() {
        store.remove(&image.id).unwrap();
        store.remove(&image.id).unwrap();
    }
    home.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_for_this_machine_is_taken_from_an_index() {
    crypto();
    let registry = Registry::start(Settings::default());
    let home = Home::default();
    let store = home.open();
    for (form, repository) in [(Form::Oci, "oci"), (Form::Docker, "docker")] {
        let ours = Packed::new(form, repository, &two_layers(1, Compression::Gzip));
        let other = Packed::new(form, "other", &two_layers(2, Compression::Gzip));
        let attestation = Packed::new(form, "attestation", &two_layers(3, Compression::Gzip));
        for image in [&ours, &other, &attestation] {
            registry.push(repository, &image.id()[7..20], image).await;
        }
        let here = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        let entries = [("s390x", &other), ("unknown", &attestation), (here, &ours)];
        let (bytes, kind) = index(form, &entries);
        registry
            .push_manifest(repository, "multi", &bytes, kind)
            .await;
        let name = format!("{}/{repository}", registry.host);
        let image = store.pull(&format!("{name}:multi"), None).await.unwrap();
        assert_eq!(image.id, ours.id());
        let digests = [
            format!("{name}@{}", Digest::sha256(&bytes)),
            format!("{name}@{}", ours.digest()),
        ];
        assert_eq!(image.repo_digests, digests);
        for digest in &digests {
            assert_eq!(store.pull(digest, None).await.unwrap().id, ours.id());
        }
        let (bytes, kind) = index(form, &entries[..2]);
        registry
            .push_manifest(repository, "none", &bytes, kind)
            .await;
        let e = store.pull(&format!("{name}:none"), None).await.unwrap_err();
        assert!(told(&e).contains("linux/s390x"), "{}", told(&e));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_from_the_request_or_from_auth_json() {
    crypto();
    let open = Registry::start(Settings::default());
    let packed = Packed::new(Form::Oci, "secret", &two_layers(6, Compression::Gzip));
    open.push("a", "1", &packed).await;
    let guarded = Registry::start(Settings {
        password: true,
        storage: Some(open.storage()),
        ..Settings::default()
    });
    let home = Home::default();
    let store = home.open();
    let reference = format!("{}/a:1", guarded.host);
    let e = store.pull(&reference, None).await.unwrap_err();
    assert!(
        matches!(e, ImageError::Unauthenticated { .. }),
        "{}",
        told(&e)
    );
    let with = |password: &str| RegistryAuth {
        username: "u".into(),
        password: password.into(),
        ..RegistryAuth::default()
    };
    let e = store
        .pull(&reference, Some(with("wrong")))
        .await
        .unwrap_err();
    assert!(
        matches!(e, ImageError::Unauthenticated { .. }),
        "{}",
        told(&e)
    );
    assert_eq!(
        store
            .pull(&reference, Some(with("secret")))
            .await
            .unwrap()
            .id,
        packed.id()
    );
    store.remove(&reference).unwrap();
    // `u:secret`
    let file = format!(
        r#"{{"auths":{{"{}":{{"auth":"dTpzZWNyZXQ="}}}}}}"#,
        guarded.host
    );
    fs::write(home.etc("auth.json"), file).unwrap();
    assert_eq!(store.pull(&reference, None).await.unwrap().id, packed.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_the_registry_s_token_server() {
    let liar = Liar::start().await;
    let packed = Packed::new(Form::Docker, "token", &two_layers(7, Compression::Gzip));
    liar.serve("1", &packed);
    let challenge = format!(
        r#"Bearer realm="http://{}/token",service="svc",scope="repository:x:pull""#,
        liar.host
    );
    liar.demand("Bearer abc", &challenge);
    let token = Reply {
        status: 200,
        body: br#"{"access_token":"abc"}"#.to_vec(),
        ..Reply::default()
    };
    liar.put("/token", token);
    let home = Home::default();
    let store = home.open();
    let auth = RegistryAuth {
        auth: "dTpzZWNyZXQ=".into(),
        ..RegistryAuth::default()
    };
    assert_eq!(
        store.pull(&liar.image("1"), Some(auth)).await.unwrap().id,
        packed.id()
    );
    let asked = liar.seen("/token");
    assert_eq!(asked.len(), 1, "one token serves the whole pull");
    assert!(
        asked[0].0.contains("service=svc") && asked[0].0.contains("scope=repository%3Ax%3Apull"),
        "{}",
        asked[0].0
    );
    assert_eq!(asked[0].1, "Basic dTpzZWNyZXQ=");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_shared_and_go_with_their_last_image() {
    crypto();
    let registry = Registry::start(Settings::default());
    let home = Home::default();
    let store = home.open();
    let base = Layer::new(&archive(&[("base", &noise(8, 100_000))]), Compression::Gzip);
    let one = Layer::new(&archive(&[("one", b"1")]), Compression::Gzip);
    let two = Layer::new(&archive(&[("two", b"2")]), Compression::Zstd);
    registry
        .push("a", "1", &Packed::new(Form::Oci, "1", &[base.clone(), one]))
        .await;
    registry
        .push("b", "2", &Packed::new(Form::Oci, "2", &[base, two]))
        .await;
    let first = format!("{}/a:1", registry.host);
    let second = format!("{}/b:2", registry.host);
    store.pull(&first, None).await.unwrap();
    store.pull(&second, None).await.unwrap();
    assert_eq!(home.names("layers").len(), 3);
    store.remove(&first).unwrap();
    assert!(store.get(&first).is_none() && store.get(&second).is_some());
    assert_eq!(home.names("layers").len(), 2);
    // All of it is found again by the next daemon.
    drop(store);
    let store = home.open();
    let image = store.get(&second).unwrap();
    assert_eq!(image.layers.len(), 2);
    store.remove(&second).unwrap();
    home.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_and_several_names_of_one_image() {
    crypto();
    let registry = Registry::start(Settings::default());
    let home = Home::default();
    let store = home.open();
    let name = |tag: &str| format!("{}/a:{tag}", registry.host);
    let old = Packed::new(Form::Oci, "old", &two_layers(9, Compression::Gzip));
    let new = Packed::new(Form::Oci, "new", &two_layers(9, Compression::Gzip));
    registry.push("a", "latest", &old).await;
    registry.push("a", "v1", &old).await;
    store.pull(&name("latest"), None).await.unwrap();
    let both = store.pull(&name("v1"), None).await.unwrap();
    assert_eq!(both.repo_tags, [name("latest"), name("v1")]);
    registry.push("a", "latest", &new).await;
    store.pull(&name("latest"), None).await.unwrap();
    assert_eq!(store.get(&name("latest")).unwrap().id, new.id());
    assert_eq!(store.get(&old.id()).unwrap().repo_tags, [name("v1")]);
    drop(store);
    let store = home.open();
    assert_eq!(store.get(&old.id()).unwrap().repo_tags, [name("v1")]);
    store.remove(&name("v1")).unwrap();
    assert!(store.get(&old.id()).is_none());
    // A digest that came with a tag is no name of its own, one that was asked for is.
    let by_digest = format!("{}/a@{}", registry.host, new.digest());
    store.remove(&by_digest).unwrap();
    assert!(store.get(&by_digest).is_some());
    store.pull(&by_digest, None).await.unwrap();
    store.remove(&name("latest")).unwrap();
    assert_eq!(store.get(&by_digest).unwrap().repo_tags, [""; 0]);
    store.remove(&by_digest).unwrap();
    home.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pulls_are_joined_and_outlive_their_callers() {
    let liar = Liar::start().await;
    let layers = two_layers(10, Compression::Gzip);
    let packed = Packed::new(Form::Oci, "joined", &layers);
    let other = Packed::new(Form::Oci, "shares the layers", &layers);
    liar.serve("1", &packed);
    liar.serve("2", &other);
    let gate = Arc::new(Gate::default());
    let blob = format!("/v2/x/blobs/{}", layers[0].digest);
    liar.change(&blob, |r| r.gate = Some(gate.clone()));
    let home = Home::default();
    let store = home.open();
    let (first, second) = (liar.image("1"), liar.image("2"));
    let caller = tokio::spawn({
        let (store, first) = (store.clone(), first.clone());
        async move { store.pull(&first, None).await }
    });
    gate.reached.notified().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    let again: Vec<_> = [&first, &first, &second]
        .into_iter()
        .map(|reference| {
            let (store, reference) = (store.clone(), reference.clone());
            tokio::spawn(async move { store.pull(&reference, None).await })
        })
        .collect();
    gate.open.notify_one();
    let mut ids = Vec::new();
    for pull in again {
        ids.push(pull.await.unwrap().unwrap().id.clone());
    }
    assert_eq!(ids, [packed.id(), packed.id(), other.id()]);
    for layer in &layers {
        assert_eq!(liar.seen(layer.digest.as_str()).len(), 1, "fetched once");
    }
    assert_eq!(
        liar.seen("/manifests/1").len(),
        1,
        "one pull for all who asked"
    );
    assert_eq!(home.names("tmp"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_short_names_blocks_and_policy() {
    let liar = Liar::start().await;
    let packed = Packed::new(Form::Oci, "mirrored", &two_layers(11, Compression::Gzip));
    liar.serve("1", &packed);
    let home = Home::default();
    let store = home.open();
    fs::write(
        home.etc("registries.conf"),
        format!(
            "[aliases]\nshort = 'registry.invalid/x'\n
            [[registry]]\nlocation = 'registry.invalid'\n[[registry.mirror]]\nlocation = '127.0.0.1:1'\n
            [[registry.mirror]]\nlocation = '{}'\n[[registry]]\nlocation = 'blocked.invalid'\nblocked = true\n",
            liar.host
        ),
    )
    .unwrap();
    let auth = RegistryAuth {
        username: "u".into(),
        password: "p".into(),
        ..RegistryAuth::default()
    };
    let image = store.pull("short:1", Some(auth)).await.unwrap();
    assert_eq!(image.repo_tags, ["registry.invalid/x:1"]);
    assert!(store.get("short:1").is_some() && store.get("registry.invalid/x:1").is_some());
    let sent = liar.seen("");
    assert!(
        !sent.is_empty() && sent.iter().all(|s| s.1.is_empty()),
        "no credentials for a mirror"
    );
    let e = store.pull("blocked.invalid/a", None).await.unwrap_err();
    assert!(matches!(e, ImageError::Forbidden { .. }), "{}", told(&e));
    fs::write(
        home.etc("policy.json"),
        r#"{"default":[{"type":"reject"}]}"#,
    )
    .unwrap();
    let e = store.pull("short:1", None).await.unwrap_err();
    assert!(matches!(e, ImageError::Forbidden { .. }), "{}", told(&e));
}
