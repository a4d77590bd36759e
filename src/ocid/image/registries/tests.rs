//! What each setting of registries.conf does.

use super::*;

fn parsed(text: &str) -> Registries {
    let mut registries = Registries::default();
    registries.merge_text(text).unwrap();
    registries
}

fn sources(registries: &Registries, reference: &str) -> Vec<String> {
    let reference = Reference::parse(reference).unwrap();
    let sources = registries.sources(&reference).unwrap();
    sources
        .iter()
        .map(|s| format!("{} {:?}", s.reference, s.transport))
        .collect()
}

#[test]
fn names_without_registry() {
    let named = Named::parse("redis:7").unwrap();
    let of = |r: &Registries| -> Vec<String> {
        r.candidates(&named)
            .iter()
            .map(Reference::to_string)
            .collect()
    };
    assert_eq!(of(&Registries::default()), ["docker.io/library/redis:7"]);
    let search = parsed("unqualified-search-registries = ['quay.io', 'docker.io']");
    assert_eq!(
        of(&search),
        ["quay.io/redis:7", "docker.io/library/redis:7"]
    );
    let alias =
        parsed("unqualified-search-registries = ['quay.io']\n[aliases]\nredis = 'a.b/c/redis'");
    assert_eq!(of(&alias), ["a.b/c/redis:7"]);
}

#[test]
fn mirrors_come_first_and_the_longest_prefix_counts() {
    let registries = parsed(
        "
        [[registry]]
        prefix = 'docker.io'
        location = 'docker.io'
        [[registry.mirror]]
        location = '127.0.0.1:5000/hub'
        [[registry.mirror]]
        location = 'm.example'
        insecure = true
        pull-from-mirror = 'digest-only'
        [[registry]]
        prefix = 'docker.io/secret'
        blocked = true
        [[registry]]
        prefix = '*.corp'
        insecure = true
        [[registry]]
        location = 'old.example/a'
        prefix = 'new.example/b'
        ",
    );
    assert_eq!(
        sources(&registries, "redis"),
        [
            "127.0.0.1:5000/hub/library/redis:latest Loopback",
            "docker.io/library/redis:latest Verified"
        ]
    );
    assert_eq!(
        sources(&registries, "x.corp:5/a"),
        ["x.corp:5/a:latest Insecure"]
    );
    assert_eq!(
        sources(&registries, "corp.io/a"),
        ["corp.io/a:latest Verified"]
    );
    assert_eq!(
        sources(&registries, "new.example/b/c"),
        ["old.example/a/c:latest Verified"]
    );
    assert_eq!(
        sources(&registries, "new.example/bc"),
        ["new.example/bc:latest Verified"]
    );
    let blocked = Reference::parse("secret/x").unwrap();
    assert!(matches!(
        registries.sources(&blocked),
        Err(ImageError::Forbidden { .. })
    ));
}

#[test]
fn insecure_by_name_or_range() {
    let registries = Registries {
        insecure: vec!["a.b:5000".into(), "10.0.0.0/8".into()],
        ..Default::default()
    };
    assert_eq!(
        sources(&registries, "a.b:5000/x"),
        ["a.b:5000/x:latest Insecure"]
    );
    assert_eq!(sources(&registries, "a.b/x"), ["a.b/x:latest Verified"]);
    assert_eq!(
        sources(&registries, "10.1.2.3:80/x"),
        ["10.1.2.3:80/x:latest Insecure"]
    );
    assert_eq!(
        sources(&registries, "[::1]:80/x"),
        ["[::1]:80/x:latest Loopback"]
    );
}

#[test]
fn prefixes_of_every_form() {
    let fits = |prefix: &str, full: &str| matched(prefix, full).map(|at| full[at..].to_owned());
    let rest = |text: &str| Some(text.to_owned());
    assert_eq!(fits("a.b", "a.b/c/d:1"), rest("/c/d:1"));
    assert_eq!(fits("a.b/c", "a.b/c/d:1"), rest("/d:1"));
    assert_eq!(fits("a.b/c/d", "a.b/c/d:1"), rest(":1"));
    assert_eq!(fits("a.b/c/d:1", "a.b/c/d:1"), rest(""));
    assert_eq!(fits("a.b/c/d", "a.b/c/d@sha256:0"), rest("@sha256:0"));
    for (prefix, full) in [
        ("a.b", "a.bc/d:1"),
        ("a.b", "a.b:5000/d:1"),
        ("a.b/c", "a.b/cd:1"),
        ("a.b/c:1", "a.b/c:12"),
        ("a.b/c:1", "a.b/c:2"),
        ("*.a.b", "a.b/c:1"),
        ("*.a.b", "x.a.bc/c:1"),
        ("*.a.b", "c.d/x.a.b/c:1"),
        ("*.a.b", "xa.b/c:1"),
        ("*.a.b/c", "x.a.b/d:1"),
    ] {
        assert_eq!(fits(prefix, full), None, "{prefix} {full}");
    }
    assert_eq!(fits("*.a.b", "x.a.b/c:1"), rest("/c:1"));
    assert_eq!(fits("*.a.b", "x.y.a.b/c:1"), rest("/c:1"));
    assert_eq!(fits("*.a.b", "x.a.b.a.b/c:1"), rest("/c:1"));
    assert_eq!(fits("*.a.b", "x.a.b:5000/c:1"), rest("/c:1"));
    assert_eq!(fits("*.a.b:5000", "x.a.b:5000/c:1"), rest("/c:1"));
    assert_eq!(fits("*.a.b/c", "x.a.b/c/d:1"), rest("/d:1"));
}

#[test]
fn the_longest_match_decides_whatever_its_form_and_place() {
    let registries = parsed(
        "
        [[registry]]
        prefix = '*.example.com/team'
        location = 'team.invalid/t'
        [[registry]]
        prefix = '*.com'
        location = 'com.invalid'
        [[registry]]
        prefix = 'a.example.com/team/app:1'
        location = 'pinned.invalid/app'
        [[registry]]
        prefix = 'a.example.com'
        location = 'a.invalid'
        ",
    );
    for (name, there) in [
        ("b.example.com/x", "com.invalid/x:latest Verified"),
        ("b.example.com/team/x", "team.invalid/t/x:latest Verified"),
        ("a.example.com/x", "a.invalid/x:latest Verified"),
        ("a.example.com/team/app:2", "team.invalid/t/app:2 Verified"),
        (
            "a.example.com/team/app:1",
            "pinned.invalid/app:latest Verified",
        ),
        ("a.org/x", "a.org/x:latest Verified"),
    ] {
        assert_eq!(sources(&registries, name), [there], "{name}");
    }
}

#[test]
fn later_files_replace_tables_and_settings_of_earlier_ones() {
    let mut registries = parsed(
        "unqualified-search-registries = ['a.b']\nshort-name-mode = 'permissive'\n[[registry]]\nlocation = 'a.b'\nblocked = true",
    );
    registries
        .merge_text("[[registry]]\nprefix = 'a.b'\ninsecure = true")
        .unwrap();
    assert_eq!(sources(&registries, "a.b/x"), ["a.b/x:latest Insecure"]);
    assert_eq!(registries.search, ["a.b"], "what is not said stays");
    assert_eq!(registries.mode, Some(ShortNames::Permissive));
    registries
        .merge_text("unqualified-search-registries = []")
        .unwrap();
    assert!(registries.search.is_empty());
}

#[test]
fn what_is_wrong_is_said() {
    for bad in [
        "x = ",
        "[[registry]]\ninsecure = true",
        "[registries.search]\nregistries = ['a']",
        "unqualified-search-registries = 3",
        "unqualified-search-registries = ['a.b/c']",
        "unqualified-search-registries = ['plain']",
        "short-name-mode = 'maybe'",
        "credential-helpers = ['../x']",
        "[aliases]\n'a.b/c' = 'a.b/c'",
        "[aliases]\nc = 'no-registry'",
        "[aliases]\nc = 'a.b/c:1'",
        "[[registry]]\nlocation = 'https://a.b'",
        "[[registry]]\nlocation = 'a b'",
        "[[registry]]\nprefix = '*.'\nlocation = 'a.b'",
        "[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\ninsecure = true",
        "[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\nlocation = 'c.d'\npull-from-mirror = 'never'",
        "[[registry]]\nlocation = 'a.b'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'c.d'\npull-from-mirror = 'all'",
    ] {
        assert!(Registries::default().merge_text(bad).is_err(), "{bad}");
    }
}
