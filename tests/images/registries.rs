//! registries.conf and policy.json: where images come from, and which may come at all.

use std::fs;

use crio_setup::ocid::image::{ImageError, RegistryAuth, ShortNames};

use crate::liar::Liar;
use crate::pack::{Compression, Form, Layer, Packed, archive};
use crate::{Home, told};

fn packed(label: &str) -> Packed {
    let layer = Layer::new(&archive(&[(label, b"x")]), Compression::Gzip);
    Packed::new(Form::Oci, label, &[layer])
}

/// Two registries with the same image, the second as a mirror of the first with `more` settings.
async fn mirrored(home: &Home, more: &str) -> (Liar, Liar, Packed) {
    let (own, mirror) = (Liar::start().await, Liar::start().await);
    let packed = packed("mirrored");
    own.serve("1", &packed);
    mirror.serve("1", &packed);
    let text = format!(
        "[[registry]]\nlocation = '{}'\n{more}\n[[registry.mirror]]\nlocation = '{}'\n",
        own.host, mirror.host
    );
    let text = match more.contains("pull-from-mirror") {
        true => text.replace(more, "") + more,
        false => text,
    };
    fs::write(home.etc("registries.conf"), text).unwrap();
    (own, mirror, packed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_asked_for_what_it_is_there_for() {
    for (setting, by_tag, by_digest) in [
        ("", true, true),
        ("mirror-by-digest-only = true", false, true),
        ("pull-from-mirror = 'all'", true, true),
        ("pull-from-mirror = 'digest-only'", false, true),
        ("pull-from-mirror = 'tag-only'", true, false),
    ] {
        let home = Home::default();
        let (own, mirror, packed) = mirrored(&home, setting).await;
        let store = home.open();
        for (name, expected) in [
            (own.image("1"), by_tag),
            (format!("{}/x@{}", own.host, packed.digest()), by_digest),
        ] {
            let before = (own.seen("").len(), mirror.seen("").len());
            let image = store.pull(&name, None).await.unwrap();
            assert!(image.repo_digests.iter().all(|d| d.starts_with(&own.host)));
            let asked = (own.seen("").len(), mirror.seen("").len());
            let by_mirror = (asked.0 == before.0, asked.1 > before.1);
            assert_eq!(by_mirror, (expected, expected), "{setting}: {name}");
            store.remove(&image.id).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_lies_or_breaks_costs_nothing() {
    let home = Home::default();
    let (own, mirror, packed) = mirrored(&home, "").await;
    let store = home.open();
    let blob = format!("/v2/x/blobs/{}", packed.layers[0].digest);
    let by_digest = format!("{}/x@{}", own.host, packed.digest());
    let manifest = format!("/v2/x/manifests/{}", packed.digest());
    type Change<'a> = &'a dyn Fn(&Liar);
    let changes: [(&str, Change<'_>); 5] = [
        ("another layer", &|m| {
            m.change(&blob, |r| r.body = vec![7; packed.layers[0].blob.len()]);
        }),
        ("no such layer", &|m| m.change(&blob, |r| r.status = 404)),
        ("another manifest", &|m| {
            m.change(&manifest, |r| r.body = b"{}".to_vec());
        }),
        ("not without a password", &|m| {
            m.change(&manifest, |r| r.status = 401);
        }),
        ("in trouble", &|m| m.change(&manifest, |r| r.status = 503)),
    ];
    for (name, change) in changes {
        change(&mirror);
        let before = mirror.seen("").len();
        let image = store.pull(&by_digest, None).await;
        let image = image.unwrap_or_else(|e| panic!("{name}: {}", told(&e)));
        assert_eq!(image.id, packed.id());
        assert!(mirror.seen("").len() > before, "{name}: it was asked");
        store.remove(&image.id).unwrap();
        home.assert_empty();
        mirror.serve("1", &packed);
    }
    // Where nobody has it, everybody's reason is told.
    mirror.change(&manifest, |r| r.status = 503);
    own.change(&manifest, |r| r.status = 404);
    let e = store.pull(&by_digest, None).await.unwrap_err();
    let told = told(&e);
    assert!(
        told.contains("was not found") && told.contains("503") && told.contains(&mirror.host),
        "{told}"
    );
    assert!(e.hint().is_some_and(|h| h.contains("name and tag")));
    home.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_moved_and_credentials_stay_with_their_registry() {
    let home = Home::default();
    let (one, two) = (Liar::start().await, Liar::start().await);
    let packed = packed("moved");
    for liar in [&one, &two] {
        liar.serve("1", &packed);
        liar.demand("Basic dTpw", "Basic realm=\"x\"");
    }
    fs::write(
        home.etc("registries.conf"),
        format!(
            "[[registry]]\nprefix = '{0}/old'\nlocation = '{0}/x'\n
            [[registry]]\nprefix = '{0}/away'\nlocation = '{1}/x'\n
            [[registry]]\nprefix = '*.corp.invalid'\nlocation = '{1}'\n",
            one.host, two.host
        ),
    )
    .unwrap();
    let store = home.open();
    let auth = Some(RegistryAuth {
        username: "u".into(),
        password: "p".into(),
        ..RegistryAuth::default()
    });
    // In the same registry: the request's credentials are for it.
    let name = format!("{}/old:1", one.host);
    let image = store.pull(&name, auth.clone()).await.unwrap();
    assert_eq!(image.repo_tags, [name]);
    assert!(one.seen("/v2/x/manifests/1").len() > 1 && two.seen("").is_empty());
    // In another one they are not.
    let name = format!("{}/away:1", one.host);
    let e = store.pull(&name, auth.clone()).await.unwrap_err();
    assert!(
        matches!(e, ImageError::Unauthenticated { .. }),
        "{}",
        told(&e)
    );
    assert!(two.seen("").iter().all(|s| s.1.is_empty()));
    // That one's own are, from the file.
    let file = format!(r#"{{"auths":{{"{}/x":{{"auth":"dTpw"}}}}}}"#, two.host);
    fs::write(home.etc("auth.json"), file).unwrap();
    store.pull(&name, auth).await.unwrap();
    let wild = "a.corp.invalid/x:1";
    let image = store.pull(wild, None).await.unwrap();
    assert!(image.repo_tags.contains(&wild.to_owned()), "{image:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn short_names_mean_what_the_machine_says() {
    let mut home = Home::default();
    let (one, two) = (Liar::start().await, Liar::start().await);
    one.serve("1", &packed("one"));
    two.serve("1", &packed("two"));
    two.serve("2", &packed("only here"));
    fs::create_dir(home.etc("registries.conf.d")).unwrap();
    let drop_in = |name: &str, text: String| {
        fs::write(home.etc("registries.conf.d").join(name), text).unwrap();
    };
    fs::write(
        home.etc("registries.conf"),
        "unqualified-search-registries = ['nowhere.invalid']",
    )
    .unwrap();
    drop_in("00-old.conf", format!("[aliases]\nx = '{}/x'", two.host));
    drop_in("10-new.conf", format!("[aliases]\nx = '{}/x'", one.host));
    drop_in("20-not-read", "this is [ no toml".to_owned());
    let store = home.open();
    let tags = async |name: &str| store.pull(name, None).await.map(|i| i.repo_tags.clone());
    assert_eq!(tags("x:1").await.unwrap(), [one.image("1")]);
    // What was recorded on this machine wins over the files.
    fs::write(
        home.etc("short-name-aliases.conf"),
        format!("[aliases]\nx = '{}/x'", two.host),
    )
    .unwrap();
    assert_eq!(tags("x:1").await.unwrap(), [two.image("1")]);
    // An empty alias is none: then the search list counts, which a drop-in replaces.
    fs::write(home.etc("short-name-aliases.conf"), "[aliases]\nx = ''").unwrap();
    let search = format!(
        "unqualified-search-registries = ['{}', '{}']",
        one.host, two.host
    );
    drop_in("30-search.conf", search);
    let e = tags("x:1").await.unwrap_err();
    assert!(matches!(e, ImageError::Reference(_)), "{}", told(&e));
    assert!(told(&e).contains("alias"), "{}", told(&e));
    // Looking for what is here is not ambiguous.
    assert!(store.get("x:1").is_some());
    drop_in("40-mode.conf", "short-name-mode = 'permissive'".to_owned());
    assert_eq!(tags("x:2").await.unwrap(), [two.image("2")]);
    assert_eq!(tags("x:1").await.unwrap(), [one.image("1")]);
    drop(store);
    // ocid's own configuration goes before it.
    home.options.short_names = Some(ShortNames::Enforcing);
    let e = home.open().pull("x:1", None).await.unwrap_err();
    assert!(matches!(e, ImageError::Reference(_)), "{}", told(&e));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_in_a_file_is_said_with_its_name() {
    let home = Home::default();
    let liar = Liar::start().await;
    liar.serve("1", &packed("x"));
    let store = home.open();
    fs::create_dir(home.etc("registries.conf.d")).unwrap();
    let path = home.etc("registries.conf.d").join("99-bad.conf");
    fs::write(&path, "[[registry]]\nlocation = 'https://a.b'").unwrap();
    let e = store.pull(&liar.image("1"), None).await.unwrap_err();
    assert!(matches!(e, ImageError::Config { .. }), "{}", told(&e));
    assert!(
        told(&e).contains("99-bad.conf") && told(&e).contains("scheme"),
        "{}",
        told(&e)
    );
    assert!(liar.seen("").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_that_cannot_be_checked_are_refused_by_name() {
    let mut home = Home::default();
    let liar = Liar::start().await;
    let packed = packed("signed");
    liar.serve("1", &packed);
    home.options.policy_required = true;
    let store = home.open();
    let e = store.pull(&liar.image("1"), None).await.unwrap_err();
    assert!(matches!(e, ImageError::Config { .. }), "{}", told(&e));
    for kind in ["signedBy", "sigstoreSigned"] {
        let policy = format!(
            r#"{{"default":[{{"type":"insecureAcceptAnything"}}],"transports":{{"docker":{{
                "{}/x":[{{"type":"{kind}","keyType":"GPGKeys","keyPath":"/k"}}]}}}}}}"#,
            liar.host
        );
        fs::write(home.etc("policy.json"), policy).unwrap();
        let e = store.pull(&liar.image("1"), None).await.unwrap_err();
        assert!(matches!(e, ImageError::Forbidden { .. }), "{}", told(&e));
        for word in [kind, "policy.json", "cannot check"] {
            assert!(told(&e).contains(word), "{}", told(&e));
        }
    }
    assert!(liar.seen("").is_empty(), "nothing was even asked for");
    home.assert_empty();
    let accept = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
    fs::write(home.etc("policy.json"), accept).unwrap();
    let image = store.pull(&liar.image("1"), None).await.unwrap();
    assert_eq!(image.id, packed.id());
}
