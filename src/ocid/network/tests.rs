//! With plugins that are shell scripts: what each is told, in which order, and what becomes of
//! failures. Real plugins are in `tests/network.rs`.

use super::*;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

struct Fixture {
    dir: tempfile::TempDir,
    network: Network,
    pod: PodNetwork,
}

const RESULT: &str = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.2/16"}]}"#;

impl Fixture {
    /// A network of the plugins `first` and `second`, which note their calls in the file `calls`.
    fn new(version: &str, first: &str, second: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (conf, bin) = (dir.path().join("net.d"), dir.path().join("bin"));
        fs::create_dir(&conf).unwrap();
        fs::create_dir(&bin).unwrap();
        let list = format!(
            r#"{{"name":"n","cniVersion":"{version}","plugins":[{{"type":"first"}},{{"type":"second"}}]}}"#
        );
        fs::write(conf.join("10-n.conflist"), list).unwrap();
        let pod = PodNetwork {
            sandbox_id: "abc".to_owned(),
            netns: dir.path().join("ns"),
            name: "p".to_owned(),
            ..PodNetwork::default()
        };
        let network = Network::new(conf, vec![bin]);
        let fixture = Self { dir, network, pod };
        fixture.plugin("first", first);
        fixture.plugin("second", second);
        fixture
    }

    fn plugin(&self, name: &str, script: &str) {
        let path = self.dir.path().join("bin").join(name);
        let calls = self.dir.path().join("calls");
        let text = format!(
            "#!/bin/sh\ninput=$(cat)\necho \"$CNI_COMMAND {name} [$CNI_NETNS] $input\" >> {}\n{script}\n",
            calls.display()
        );
        // Not written by this process: a child of another test's thread, between fork and exec, would
        // still have the script open for writing, and it could not be run (ETXTBSY).
        let mut writer = Command::new("sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = writer.stdin.take().unwrap();
        pipe.write_all(text.as_bytes()).unwrap();
        drop(pipe);
        assert!(writer.wait().unwrap().success());
    }

    /// `ADD first`, `DEL second`, ... with the input where asked for; empties the file.
    fn calls(&self) -> Vec<String> {
        let path = self.dir.path().join("calls");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }

    fn verbs(&self) -> Vec<String> {
        let short = |call: String| call.split(' ').take(2).collect::<Vec<_>>().join(" ");
        self.calls().into_iter().map(short).collect()
    }
}

fn says(result: &str) -> String {
    format!("[ $CNI_COMMAND = ADD ] && echo '{result}'; exit 0")
}

#[tokio::test]
async fn the_chain_runs_forth_and_back() {
    let second = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.3/16"}]}"#;
    let mut f = Fixture::new("1.0.0", &says(RESULT), &says(second));
    assert!(f.network.status().await.ready);
    assert!(f.calls().is_empty(), "1.0.0 has no STATUS");

    let attachment = f.network.add(&f.pod).await.unwrap();
    assert_eq!(attachment.ips, ["10.1.0.3".parse::<IpAddr>().unwrap()]);
    assert_eq!(attachment.network, "n");
    let calls = f.calls();
    let ns = f.pod.netns.display();
    assert!(
        calls[0].starts_with(&format!("ADD first [{ns}] ")),
        "{calls:?}"
    );
    assert!(!calls[0].contains("prevResult"), "{calls:?}");
    assert!(calls[1].starts_with("ADD second "), "{calls:?}");
    assert!(
        calls[1].contains("prevResult") && calls[1].contains("10.1.0.2/16"),
        "{calls:?}"
    );

    // The cached configuration counts, whatever has become of the file; so does the cached result.
    let stored = serde_json::to_string(&attachment).unwrap();
    let stored: Attachment = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored, attachment);
    fs::remove_file(f.dir.path().join("net.d/10-n.conflist")).unwrap();
    f.network.del(&f.pod, Some(&stored)).await.unwrap();
    let calls = f.calls();
    assert!(
        calls[0].starts_with("DEL second [] "),
        "the namespace is gone: {calls:?}"
    );
    assert!(calls[1].starts_with("DEL first [] "), "{calls:?}");
    assert!(calls.iter().all(|c| c.contains("10.1.0.3/16")), "{calls:?}");

    f.network.del(&f.pod, None).await.unwrap();
    assert!(f.calls().is_empty());
    f.pod.conf = Some(f.dir.path().join("own.d"));
    assert!(f.network.add(&f.pod).await.unwrap_err().is_not_ready());
}

#[tokio::test]
async fn del_before_0_4_0_has_no_result() {
    let f = Fixture::new("0.3.1", &says(RESULT), &says(RESULT));
    let attachment = f.network.add(&f.pod).await.unwrap();
    f.calls();
    f.network.del(&f.pod, Some(&attachment)).await.unwrap();
    assert!(f.calls().iter().all(|c| !c.contains("prevResult")));
}

#[tokio::test]
async fn a_failed_add_is_undone_from_the_failed_one_on() {
    let refuse = r#"[ $CNI_COMMAND = DEL ] && exit 0
        echo '{"code":11,"msg":"try later","details":"busy"}'; exit 1"#;
    let f = Fixture::new("1.0.0", &says(RESULT), refuse);
    let e = f.network.add(&f.pod).await.unwrap_err();
    assert_eq!(
        e.to_string(),
        "plugin `second` of network `n` refused ADD: try later; busy (code 11)"
    );
    assert_eq!(
        f.verbs(),
        ["ADD first", "ADD second", "DEL second", "DEL first"]
    );

    f.plugin("first", "echo out of luck >&2; exit 3");
    let e = f.network.add(&f.pod).await.unwrap_err();
    assert_eq!(f.verbs(), ["ADD first", "DEL first", "DEL first"]);
    let text = e.to_string();
    assert!(
        text.contains("plugin `first` of network `n` on ADD"),
        "{text}"
    );
    assert!(
        text.contains("; and then plugin `first` of network `n` on DEL"),
        "{text}"
    );
    assert!(text.contains("out of luck"), "{text}");
}

#[tokio::test]
async fn an_add_without_a_result_is_undone() {
    for nothing in ["exit 0", "echo []", "echo '{\"ips\":[]}'"] {
        let f = Fixture::new("1.0.0", &says(RESULT), nothing);
        let e = f.network.add(&f.pod).await.unwrap_err();
        assert!(
            matches!(&e, NetworkError::NoResult { plugin, .. } if plugin == "second"),
            "{e}"
        );
        assert_eq!(f.verbs()[2..], ["DEL second", "DEL first"], "{nothing}");
    }
}

#[tokio::test]
async fn a_del_goes_on_after_a_failure_and_reports_all() {
    let f = Fixture::new("1.0.0", "exit 1", "exit 2");
    let attachment = Attachment {
        network: "n".to_owned(),
        config: f.network.network(&f.network.conf_dir).unwrap().to_json(),
        result: Value::Null,
        ips: Vec::new(),
    };
    let e = f.network.del(&f.pod, Some(&attachment)).await.unwrap_err();
    assert_eq!(f.verbs(), ["DEL second", "DEL first"]);
    let text = e.to_string();
    assert!(
        text.contains("`second`") && text.contains("`first`"),
        "{text}"
    );
}

#[tokio::test]
async fn a_del_of_a_half_made_attachment_is_asked_twice() {
    let once = "[ -e \"$0.asked\" ] || { touch \"$0.asked\"; exit 1; }";
    let f = Fixture::new("1.0.0", once, "exit 0");
    f.network.del(&f.pod, None).await.unwrap();
    assert_eq!(
        f.verbs(),
        ["DEL second", "DEL first", "DEL second", "DEL first"]
    );
}

#[tokio::test]
async fn plugins_of_1_1_0_say_themselves_whether_they_are_ready() {
    let busy =
        r#"[ $CNI_COMMAND = STATUS ] && { echo '{"code":50,"msg":"no controller yet"}'; exit 1; }"#;
    let f = Fixture::new("1.1.0", "exit 0", busy);
    let state = f.network.status().await;
    assert!(!state.ready);
    assert_eq!(state.reason, "NetworkPluginNotReady");
    assert!(
        state.message.contains("no controller yet"),
        "{}",
        state.message
    );
    assert_eq!(f.verbs(), ["STATUS first", "STATUS second"]);
    f.plugin("second", "exit 0");
    assert!(f.network.status().await.ready);
}

#[tokio::test]
async fn a_missing_plugin_of_a_cached_network_is_named() {
    let f = Fixture::new("1.0.0", &says(RESULT), &says(RESULT));
    let attachment = f.network.add(&f.pod).await.unwrap();
    fs::remove_file(f.dir.path().join("bin/second")).unwrap();
    let e = f.network.del(&f.pod, Some(&attachment)).await.unwrap_err();
    assert!(
        matches!(&e, NetworkError::NoPlugin { plugin, .. } if plugin == "second"),
        "{e}"
    );
    let state = f.network.status().await;
    assert!(
        state.message.contains("needs the plugin `second`"),
        "{}",
        state.message
    );
}

#[tokio::test]
async fn a_named_default_wins_over_the_first() {
    let f = Fixture::new("1.0.0", &says(RESULT), &says(RESULT));
    let other = r#"{"name":"other","cniVersion":"1.0.0","plugins":[{"type":"first"}]}"#;
    fs::write(f.dir.path().join("net.d/20-other.conflist"), other).unwrap();
    let dirs = vec![f.dir.path().join("bin")];
    let network = Network::new(f.dir.path().join("net.d"), dirs);
    let network = network.with_default_network(Some("other".to_owned()));
    assert_eq!(network.add(&f.pod).await.unwrap().network, "other");
    assert_eq!(f.verbs(), ["ADD first"]);
}
