//! Credentials of every kind, each at the one place it is for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crio_setup::host::command::Command;
use crio_setup::ocid::image::{ImageError, RegistryAuth};

use crate::liar::{Liar, Reply};
use crate::pack::{Compression, Form, Layer, Packed, archive};
use crate::{Home, told};

/// `u:p`
const BASIC: &str = "Basic dTpw";

fn packed(label: &str) -> Packed {
    let layer = Layer::new(&archive(&[(label, b"x")]), Compression::Gzip);
    Packed::new(Form::Oci, label, &[layer])
}

/// An image behind a challenge.
async fn guarded(authorization: &str, challenge: &str) -> (Liar, Packed) {
    let liar = Liar::start().await;
    let packed = packed("guarded");
    liar.serve("1", &packed);
    liar.demand(authorization, &challenge.replace("HOST", &liar.host));
    (liar, packed)
}

fn ok(body: &str) -> Reply {
    Reply {
        status: 200,
        body: body.as_bytes().to_vec(),
        ..Reply::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_that_a_request_may_bring() {
    let empty = RegistryAuth::default;
    let user = || RegistryAuth {
        username: "u".into(),
        password: "p".into(),
        ..empty()
    };
    let basic = "Basic realm=\"x\"";
    let bearer = "Bearer realm=\"http://HOST/token\",service=\"s\"";
    let cases = [
        ("user and password", BASIC, basic, user()),
        (
            "auth",
            BASIC,
            basic,
            RegistryAuth {
                auth: "dTpw".into(),
                ..empty()
            },
        ),
        ("user at a token server", "Bearer t", bearer, user()),
        (
            "identity token",
            "Bearer t",
            bearer,
            RegistryAuth {
                identity_token: "id&1".into(),
                ..empty()
            },
        ),
        (
            "registry token",
            "Bearer r",
            bearer,
            RegistryAuth {
                registry_token: "r".into(),
                ..empty()
            },
        ),
    ];
    for (name, authorization, challenge, auth) in cases {
        let (liar, packed) = guarded(authorization, challenge).await;
        liar.put("/token", ok(r#"{"token":"t"}"#));
        let home = Home::default();
        let store = home.open();
        let image = store.pull(&liar.image("1"), Some(auth.clone())).await;
        let image = image.unwrap_or_else(|e| panic!("{name}: {}", told(&e)));
        assert_eq!(image.id, packed.id(), "{name}");
        let asked = liar.seen("/token");
        match name {
            "user at a token server" => assert_eq!(asked[0].1, BASIC),
            "identity token" => {
                let forms = liar.table.lock().unwrap().bodies.clone();
                for part in [
                    "grant_type=refresh_token",
                    "refresh_token=id%261",
                    "service=s",
                    "scope=repository%3Ax%3Apull",
                ] {
                    assert!(forms[0].contains(part), "{forms:?}");
                }
            }
            _ => assert!(asked.is_empty(), "{name}: {asked:?}"),
        }
        // Meant for another registry it is not sent at all.
        let elsewhere = RegistryAuth {
            server_address: "https://other.invalid".into(),
            ..auth
        };
        liar.table.lock().unwrap().seen.clear();
        liar.put(
            "/token",
            Reply {
                status: 401,
                ..Reply::default()
            },
        );
        let e = store
            .pull(&liar.image("1"), Some(elsewhere))
            .await
            .unwrap_err();
        assert!(
            matches!(e, ImageError::Unauthenticated { .. }),
            "{name}: {}",
            told(&e)
        );
        assert!(liar.seen("").iter().all(|s| s.1.is_empty()), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_token_that_does_not_count_is_not_replaced_by_nobody_s() {
    let (liar, _) = guarded("Bearer good", "Bearer realm=\"http://HOST/token\"").await;
    liar.put("/token", ok(r#"{"token":"good"}"#));
    let home = Home::default();
    let auth = RegistryAuth {
        registry_token: "bad".into(),
        ..RegistryAuth::default()
    };
    let e = home
        .open()
        .pull(&liar.image("1"), Some(auth))
        .await
        .unwrap_err();
    assert!(
        matches!(e, ImageError::Unauthenticated { .. }),
        "{}",
        told(&e)
    );
    assert!(liar.seen("/token").is_empty());
    home.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_runs_out_in_the_middle_is_renewed() {
    let (liar, packed) = guarded("Bearer one", "Bearer realm=\"http://HOST/token\"").await;
    let mut token = ok(r#"{"token":"two"}"#);
    token.before = vec![ok(r#"{"token":"one"}"#)];
    liar.put("/token", token);
    let blob = format!("/v2/x/blobs/{}", packed.layers[0].digest);
    liar.change(&blob, |r| {
        if let Some((authorization, _)) = &mut r.demands {
            *authorization = "Bearer two".to_owned();
        }
    });
    let home = Home::default();
    let image = home.open().pull(&liar.image("1"), None).await.unwrap();
    assert_eq!(image.id, packed.id());
    assert_eq!(liar.seen("/token").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_s_credentials_are_for_its_pods_alone() {
    let (liar, packed) = guarded(BASIC, "Basic realm=\"x\"").await;
    let mut home = Home::default();
    let folder = home.etc("auth.d");
    fs::create_dir(&folder).unwrap();
    home.options.namespaced_auth = Some(folder.clone());
    let store = home.open();
    let file = format!(r#"{{"auths":{{"{}":{{"auth":"dTpw"}}}}}}"#, liar.host);
    // As for one pull: named after the image without its tag.
    let name = format!("{}/x", liar.host);
    let hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(name.as_bytes()));
    let once = folder.join(format!("ns-{hash}.json"));
    let always = folder.join("ns.json");
    let pull = async |namespace: Option<&str>| {
        let namespace = namespace.map(str::to_owned);
        store.pull_for(&liar.image("1"), None, namespace).await
    };
    for path in [&once, &always] {
        fs::write(path, &file).unwrap();
        for other in [None, Some("other")] {
            let e = pull(other).await.unwrap_err();
            assert!(
                matches!(e, ImageError::Unauthenticated { .. }),
                "{}",
                told(&e)
            );
        }
        let image = pull(Some("ns")).await.unwrap();
        assert_eq!(image.id, packed.id());
        store.remove(&image.id).unwrap();
        assert_eq!(path.exists(), path == &always);
    }
    // They go before what is stored for everybody, and behind what the request brings.
    let others = file.replace("dTpw", "YToxCg==");
    fs::write(home.etc("auth.json"), others).unwrap();
    let image = pull(Some("ns")).await.unwrap();
    store.remove(&image.id).unwrap();
    fs::write(&always, "{").unwrap();
    let e = pull(Some("ns")).await.unwrap_err();
    assert!(told(&e).contains("ns.json"), "{}", told(&e));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_s_entry_for_the_repository_is_the_one_sent() {
    let home = Home::default();
    let liar = Liar::start().await;
    liar.serve("1", &packed("f"));
    let store = home.open();
    // `a:1` and `b:2`.
    for (key, sent) in [("", "Basic YToxCg=="), ("/x", "Basic YjoyCg==")] {
        liar.demand(sent, "Basic realm=\"x\"");
        let file = format!(
            r#"{{"auths":{{"{0}":{{"auth":"YToxCg=="}},"{0}{key}":{{"auth":"{1}"}},"{0}/xy":{{"auth":"bm86bm8="}}}}}}"#,
            liar.host,
            &sent["Basic ".len()..]
        );
        fs::write(home.etc("auth.json"), file).unwrap();
        let image = store.pull(&liar.image("1"), None).await.unwrap();
        store.remove(&image.id).unwrap();
    }
    // Not used for a pull that brings its own.
    let auth = RegistryAuth {
        username: "u".into(),
        password: "p".into(),
        ..RegistryAuth::default()
    };
    liar.demand(BASIC, "Basic realm=\"x\"");
    store.pull(&liar.image("1"), Some(auth)).await.unwrap();
    fs::write(home.etc("auth.json"), "{\"auths\":").unwrap();
    let e = store.pull(&liar.image("1"), None).await.unwrap_err();
    assert!(matches!(e, ImageError::Config { .. }), "{}", told(&e));
    assert!(told(&e).contains("auth.json"), "{}", told(&e));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_host_takes_no_credentials_along() {
    let (liar, packed) = guarded(BASIC, "Basic realm=\"x\"").await;
    let storage = Liar::start().await;
    let digest = packed.layers[0].digest.clone();
    let mut blob = ok("");
    blob.body = packed.layers[0].blob.clone();
    storage.put("/elsewhere", blob);
    liar.change(&format!("/v2/x/blobs/{digest}"), |r| {
        r.status = 307;
        r.body.clear();
        r.headers = vec![("location", format!("http://{}/elsewhere", storage.host))];
    });
    let auth = RegistryAuth {
        username: "u".into(),
        password: "p".into(),
        ..RegistryAuth::default()
    };
    let home = Home::default();
    let image = home.open().pull(&liar.image("1"), Some(auth)).await;
    assert_eq!(
        image.unwrap_or_else(|e| panic!("{}", told(&e))).id,
        packed.id()
    );
    let seen = storage.seen("/elsewhere");
    assert!(seen.len() == 1 && seen[0].1.is_empty(), "{seen:?}");
    let own = liar.seen(digest.as_str());
    assert!(own.iter().any(|s| s.1 == BASIC), "{own:?}");
}

const IMAGE: &str = "CREDENTIALS_TEST_IMAGE";
const FILES: &str = "CREDENTIALS_TEST_FILES";

/// Has credential helpers in its `PATH`; prints how the pull ended.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs as the child of `credential_helpers_are_asked`"]
async fn child() {
    let home = Home::default();
    let files = std::env::var(FILES).unwrap();
    for name in ["auth.json", "registries.conf"] {
        fs::copy(Path::new(&files).join(name), home.etc(name)).unwrap();
    }
    let pulled = home.open().pull(&std::env::var(IMAGE).unwrap(), None).await;
    match pulled {
        Ok(image) => println!("pulled {}", image.id),
        Err(e) => println!("failed {}", told(&e)),
    }
    if pulled_nothing(&home) {
        home.assert_empty();
    }
}

fn pulled_nothing(home: &Home) -> bool {
    home.names("images").is_empty()
}

fn helper(folder: &Path, name: &str, script: &str) {
    let path = folder.join(format!("docker-credential-{name}"));
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn credential_helpers_are_asked() {
    let (liar, packed) = guarded(BASIC, "Basic realm=\"x\"").await;
    let folder = tempfile::tempdir().unwrap();
    let good = format!(
        r#"read -r server; [ "$1 $server" = "get {}" ] && echo '{{"ServerURL":"s","Username":"u","Secret":"p"}}'"#,
        liar.host
    );
    helper(folder.path(), "good", &good);
    let none = "echo 'credentials not found in native keychain'; exit 1";
    helper(folder.path(), "none", none);
    helper(
        folder.path(),
        "broken",
        "echo 'the vault is sealed'; exit 1",
    );
    helper(folder.path(), "odd", "echo nonsense");
    let of_file = |name: &str| format!(r#"{{"credHelpers":{{"{}":"{name}"}}}}"#, liar.host);
    let stored = format!(
        r#"{{"credHelpers":{{"{0}":"none"}},"auths":{{"{0}":{{"auth":"dTpw"}}}}}}"#,
        liar.host
    );
    let here = format!("pulled {}", packed.id());
    let cases: [(&str, String, &str, &[&str]); 8] = [
        ("of the file", of_file("good"), "", &[&here]),
        ("beside an entry", stored, "", &[&here]),
        (
            "of registries.conf",
            "{}".to_owned(),
            "credential-helpers = ['containers-auth.json', 'none', 'good']",
            &[&here],
        ),
        (
            "none",
            of_file("none"),
            "",
            &["failed", "asks for other credentials"],
        ),
        (
            "broken",
            of_file("broken"),
            "",
            &["docker-credential-broken", "the vault is sealed"],
        ),
        (
            "odd",
            of_file("odd"),
            "",
            &["docker-credential-odd", "JSON"],
        ),
        (
            "not there",
            of_file("missing"),
            "",
            &["docker-credential-missing"],
        ),
        ("no name", of_file("../../x"), "", &["names no program"]),
    ];
    for (name, auth, registries, words) in cases {
        fs::write(folder.path().join("auth.json"), auth).unwrap();
        fs::write(folder.path().join("registries.conf"), registries).unwrap();
        let path = format!(
            "{}:{}",
            folder.path().display(),
            std::env::var("PATH").unwrap()
        );
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "credentials::child", "--ignored", "--nocapture"])
            .env("PATH", path)
            .env(FILES, folder.path())
            .env(IMAGE, liar.image("1"))
            .run_async()
            .await
            .unwrap();
        for word in words {
            assert!(output.text().contains(word), "{name}: {}", output.text());
        }
    }
}
