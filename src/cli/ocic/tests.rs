//! Whole command lines against a CRI server of the tests.

mod verbs;

use std::fs;
use std::path::Path;

use super::*;
use crate::cli::output::captured::{self, Stream};
use crate::cri::v1::*;
use crate::ocic::fake::FakeCri;

const POD: &str = "aaaa0000aaaa0000aaaa0000aaaa0000aaaa0000aaaa0000aaaa0000aaaa0000";
const CTR: &str = "cccc1111cccc1111cccc1111cccc1111cccc1111cccc1111cccc1111cccc1111";

/// How a command line ended, with what it printed.
struct Ended {
    code: ExitCode,
    stdout: Stream,
    stderr: Stream,
}

impl Ended {
    fn is(&self, code: u8) -> bool {
        self.code == ExitCode::from(code)
    }
}

async fn ocic(socket: &Path, args: &[&str]) -> Ended {
    let socket = socket.display().to_string();
    let argv = ["ocic", "--socket", &socket, "--limit", "20s"];
    let cli = Ocic::try_parse_from(argv.iter().chain(args)).unwrap();
    let (output, stdout, stderr) = captured::output(cli.format());
    let ended = perform(&cli, None, &output).await;
    Ended {
        code: finish(&output, ended),
        stdout,
        stderr,
    }
}

fn example(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    format!("{folder}/{name}")
}

fn pod_status() -> PodSandboxStatusResponse {
    PodSandboxStatusResponse {
        status: Some(PodSandboxStatus {
            id: POD.into(),
            metadata: Some(PodSandboxMetadata {
                name: "podsandbox1".into(),
                ..Default::default()
            }),
            network: Some(PodSandboxNetworkStatus {
                ip: "10.88.0.2".into(),
                additional_ips: Vec::new(),
            }),
            linux: Some(LinuxPodSandboxStatus {
                namespaces: Some(Namespace {
                    options: Some(NamespaceOption {
                        pid: NamespaceMode::Container as i32,
                        ..Default::default()
                    }),
                }),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn listed(ids: &[&str]) -> ListPodSandboxResponse {
    let items = ids.iter().map(|&id| PodSandbox {
        id: id.into(),
        ..Default::default()
    });
    ListPodSandboxResponse {
        items: items.collect(),
    }
}

#[tokio::test]
async fn the_tutorial_s_pod_is_made_from_the_example() {
    let fake = FakeCri::start();
    fake.answer(
        "RunPodSandbox",
        RunPodSandboxResponse {
            pod_sandbox_id: POD.into(),
        },
    );
    let config = example("sandbox_config.json");
    let ended = ocic(fake.socket(), &["pod", "create", "--config", &config]).await;
    assert!(ended.is(0), "{}", ended.stderr.text());
    assert_eq!(ended.stdout.text(), format!("{POD}\n"));
    assert_eq!(ended.stderr.text(), "", "the example has no unknown key");
    let sent = fake.request::<RunPodSandboxRequest>("RunPodSandbox").config;
    let sent = sent.unwrap();
    assert!(sent.log_directory.starts_with("/var/log/pods/"));
    assert_eq!(sent.linux.unwrap().cgroup_parent, "");
}

#[tokio::test]
async fn a_missing_image_is_pulled_and_that_is_said() {
    let fake = FakeCri::start();
    fake.answer("ImageStatus", ImageStatusResponse::default());
    fake.answer(
        "PullImage",
        PullImageResponse {
            image_ref: "sha256:1".into(),
        },
    );
    fake.answer("PodSandboxStatus", pod_status());
    fake.answer("ListPodSandbox", listed(&["bbbb", POD]));
    fake.answer(
        "CreateContainer",
        CreateContainerResponse {
            container_id: CTR.into(),
        },
    );
    let config = example("container_redis.json");
    let args = ["ctr", "create", "--pod", "aaaa", "--config", &config];
    let ended = ocic(fake.socket(), &args).await;
    assert!(ended.is(0), "{}", ended.stderr.text());
    assert_eq!(ended.stdout.text(), format!("{CTR}\n"));
    let said = "image `docker.io/library/redis:7-alpine` is not in the store: pulling it\n";
    assert_eq!(ended.stderr.text(), said);
    let sent: CreateContainerRequest = fake.request("CreateContainer");
    assert_eq!(sent.pod_sandbox_id, POD);
    assert_eq!(sent.config.unwrap().log_path, "redis/0.log");
    let sandbox = sent.sandbox_config.unwrap();
    assert_eq!(sandbox.metadata.unwrap().name, "podsandbox1");
    let security = sandbox.linux.unwrap().security_context.unwrap();
    assert_eq!(security.namespace_options.unwrap().pid, 1);

    let args = [&args[..], &["--image", "localhost:5000/redis"]].concat();
    fake.answer(
        "ImageStatus",
        ImageStatusResponse {
            image: Some(Image::default()),
            ..Default::default()
        },
    );
    let before = fake.calls().iter().filter(|c| *c == "PullImage").count();
    let ended = ocic(fake.socket(), &args).await;
    assert!(ended.is(0) && ended.stderr.text().is_empty());
    let after = fake.calls().iter().filter(|c| *c == "PullImage").count();
    assert_eq!(before, after, "an image that is there is not pulled");
    let sent: CreateContainerRequest = fake.request("CreateContainer");
    let image = sent.config.unwrap().image.unwrap();
    assert_eq!(image.image, "localhost:5000/redis");
}

#[tokio::test]
async fn bad_configs_end_with_2_and_ask_nothing_of_the_daemon() {
    let fake = FakeCri::start();
    let dir = tempfile::tempdir().unwrap();
    for (json, said) in [
        ("name: x", "is not JSON: line 1"),
        (r#"{"hostname": "h"}"#, "`metadata` is missing"),
        (
            r#"{"hostname": 7}"#,
            "`hostname`: invalid type: integer `7`",
        ),
    ] {
        let path = dir.path().join("config.json");
        fs::write(&path, json).unwrap();
        let path = path.to_str().unwrap();
        let ended = ocic(fake.socket(), &["pod", "create", "--config", path]).await;
        assert!(ended.is(2), "{json}");
        let text = ended.stderr.text();
        assert!(text.starts_with("error: ") && text.contains(said), "{text}");
        assert!(text.contains("\nhint: "), "{text}");
        assert_eq!(ended.stdout.text(), "");
    }
    let none = dir.path().join("none").display().to_string();
    let ended = ocic(fake.socket(), &["pod", "create", "--config", &none]).await;
    assert!(ended.is(2) && ended.stderr.text().contains("none"));
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn unknown_keys_are_warned_about_by_name() {
    let fake = FakeCri::start();
    fake.answer(
        "RunPodSandbox",
        RunPodSandboxResponse {
            pod_sandbox_id: POD.into(),
        },
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.json");
    let json = r#"{"metadata": {"name": "n", "uid": "u", "namespace": "s", "x": 1}}"#;
    fs::write(&path, json).unwrap();
    let path = path.to_str().unwrap();
    let ended = ocic(fake.socket(), &["pod", "create", "--config", path]).await;
    assert!(ended.is(0));
    let expected =
        format!("warning: `{path}`: `metadata.x` is not a field of the CRI and does nothing\n");
    assert_eq!(ended.stderr.text(), expected);
}

#[tokio::test]
async fn what_the_daemon_refuses_ends_with_1_and_its_words() {
    let fake = FakeCri::start();
    let status = tonic::Status::not_found("no container `x`");
    fake.refuse("StartContainer", status);
    let ended = ocic(fake.socket(), &["ctr", "start", "--id", CTR]).await;
    assert!(ended.is(1));
    assert_eq!(
        ended.stderr.text(),
        "error: StartContainer: no container `x` (code NotFound)\n"
    );
    let nowhere = fake.socket().with_file_name("nowhere");
    let ended = ocic(&nowhere, &["runtimeversion"]).await;
    assert!(ended.is(1));
    let text = ended.stderr.text();
    assert!(
        text.contains("caused by") && text.contains("hint: "),
        "{text}"
    );
}

#[tokio::test]
async fn several_ids_are_all_tried() {
    let fake = FakeCri::start();
    fake.answer("ListPodSandbox", listed(&["aa1", "bb1"]));
    fake.answer("StopPodSandbox", StopPodSandboxResponse {});
    let ended = ocic(fake.socket(), &["pod", "stop", "x", "aa", "y", "bb"]).await;
    assert!(ended.is(1));
    assert_eq!(ended.stdout.text(), "aa1\nbb1\n");
    let text = ended.stderr.text();
    assert!(text.contains("error: no pod `x`") && text.contains("error: no pod `y`"));

    let args = ["--output", "json", "pod", "stop", "aa", "bb"];
    let ended = ocic(fake.socket(), &args).await;
    assert!(ended.is(0));
    let ids: Vec<String> = serde_json::from_str(&ended.stdout.text()).unwrap();
    assert_eq!(ids, ["aa1", "bb1"]);
}

#[tokio::test]
async fn execsync_passes_streams_and_exit_code_through() {
    let fake = FakeCri::start();
    fake.answer(
        "ExecSync",
        ExecSyncResponse {
            stdout: b"out".to_vec(),
            stderr: b"err".to_vec(),
            exit_code: 42,
        },
    );
    let args = [
        "ctr",
        "execsync",
        "--id",
        CTR,
        "--timeout",
        "3",
        "sh",
        "-c",
        "x",
    ];
    let ended = ocic(fake.socket(), &args).await;
    assert!(ended.is(42));
    assert_eq!(
        (ended.stdout.text(), ended.stderr.text()),
        ("out".into(), "err".into())
    );
    let sent: ExecSyncRequest = fake.request("ExecSync");
    assert_eq!(
        (sent.cmd, sent.timeout),
        (vec!["sh".into(), "-c".into(), "x".into()], 3)
    );
}

#[tokio::test]
async fn logs_are_read_from_where_the_status_says() {
    let fake = FakeCri::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let log = "2026-01-02T03:04:05.1Z stdout F Ready\n2026-01-02T03:04:05.2Z stderr F Hm\n";
    fs::write(&path, log).unwrap();
    let status = |log_path: &Path| ContainerStatusResponse {
        status: Some(ContainerStatus {
            log_path: log_path.display().to_string(),
            ..Default::default()
        }),
        ..Default::default()
    };
    fake.answer("ContainerStatus", status(&path));
    let ended = ocic(fake.socket(), &["ctr", "logs", CTR]).await;
    assert!(ended.is(0));
    assert_eq!(
        (ended.stdout.text(), ended.stderr.text()),
        ("Ready\n".into(), "Hm\n".into())
    );
    let ended = ocic(fake.socket(), &["ctr", "logs", "--tail", "1", "--id", CTR]).await;
    assert_eq!(ended.stdout.text(), "");

    fake.answer("ContainerStatus", status(Path::new("")));
    let ended = ocic(fake.socket(), &["ctr", "logs", CTR]).await;
    assert!(ended.is(1) && ended.stderr.text().contains("keeps no log"));
    fake.answer("ContainerStatus", status(&dir.path().join("gone")));
    let ended = ocic(fake.socket(), &["ctr", "logs", CTR]).await;
    assert!(ended.is(1) && ended.stderr.text().contains("gone"));
}

#[tokio::test]
async fn lists_in_both_forms() {
    let fake = FakeCri::start();
    fake.answer("ListPodSandbox", listed(&[POD]));
    let ended = ocic(
        fake.socket(),
        &["pod", "list", "--state", "ready", "--label", "a=b"],
    )
    .await;
    let text = ended.stdout.text();
    assert!(
        text.starts_with("POD ") && text.contains("aaaa0000aaaa0  "),
        "{text}"
    );
    let sent: ListPodSandboxRequest = fake.request("ListPodSandbox");
    let filter = sent.filter.unwrap();
    assert_eq!(
        filter.state.unwrap().state,
        PodSandboxState::SandboxReady as i32
    );
    assert_eq!(filter.label_selector["a"], "b");

    let ended = ocic(fake.socket(), &["pod", "list", "-o", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&ended.stdout.text()).unwrap();
    assert_eq!(json["items"][0]["state"], "SANDBOX_READY");
    let ended = ocic(fake.socket(), &["pod", "list", "-q"]).await;
    assert_eq!(ended.stdout.text(), format!("{POD}\n"));
}

#[tokio::test]
async fn an_image_that_is_not_there_is_said_to_be_so() {
    let fake = FakeCri::start();
    fake.answer("ImageStatus", ImageStatusResponse::default());
    for verb in ["status", "remove"] {
        let ended = ocic(fake.socket(), &["image", verb, "redis"]).await;
        assert!(ended.is(1));
        assert!(ended.stderr.text().starts_with("error: no image `redis`\n"));
    }
    assert!(!fake.calls().contains(&"RemoveImage".to_owned()));
}

#[tokio::test]
async fn a_pull_that_fails_names_the_image_and_why() {
    let fake = FakeCri::start();
    fake.answer("ImageStatus", ImageStatusResponse::default());
    fake.answer("PodSandboxStatus", pod_status());
    fake.refuse("PullImage", tonic::Status::unauthenticated("wants a login"));
    let expected = "error: pull `r/i:1`\n  \
                    caused by: PullImage: wants a login (code Unauthenticated)\n";
    let ended = ocic(fake.socket(), &["image", "pull", "r/i:1"]).await;
    assert!(ended.is(1));
    assert_eq!(ended.stderr.text(), expected);
    let config = example("container_redis.json");
    let create = ["ctr", "create", "--pod", POD, "--config", &config];
    let args = [&create[..], &["--image", "r/i:1"]].concat();
    let ended = ocic(fake.socket(), &args).await;
    assert!(ended.is(1) && ended.stderr.text().ends_with(expected));
    assert!(!fake.calls().contains(&"CreateContainer".to_owned()));
}

#[tokio::test]
async fn completions_and_the_manual_need_no_daemon() {
    let nowhere = Path::new("/nonexistent/ocid.sock");
    let ended = ocic(nowhere, &["completions", "bash"]).await;
    assert!(ended.is(0) && ended.stdout.text().contains("complete -F _ocic ocic"));
    let ended = ocic(nowhere, &["man"]).await;
    assert!(ended.is(0) && ended.stdout.text().contains(".TH ocic 1"));
}
