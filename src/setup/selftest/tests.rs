//! The ways to fail, against a scripted daemon. That it passes is shown with the real one, in `tests/`.

use super::*;
use crate::cri::v1::{
    Image, ImageStatusResponse, ListImagesResponse, ListPodSandboxRequest, ListPodSandboxResponse,
    PodSandbox, PodSandboxNetworkStatus, PodSandboxStatus, PodSandboxStatusResponse,
    PullImageRequest, PullImageResponse, RemoveImageRequest, RemovePodSandboxRequest,
    RemovePodSandboxResponse, RunPodSandboxRequest, RunPodSandboxResponse, RuntimeCondition,
    RuntimeStatus, StatusResponse, StopPodSandboxResponse, VersionResponse,
};
use crate::ocic::fake::FakeCri;
use std::fs;
use tonic::Status;

struct Place {
    fake: FakeCri,
    dir: tempfile::TempDir,
}

impl Place {
    /// A daemon that is ready and has neither pods nor images.
    fn new() -> Self {
        let fake = FakeCri::start();
        fake.answer("Version", VersionResponse::default());
        let conditions = ["RuntimeReady", "NetworkReady"].map(|name| RuntimeCondition {
            r#type: name.to_owned(),
            status: name == "RuntimeReady",
            ..Default::default()
        });
        let status = Some(RuntimeStatus {
            conditions: conditions.to_vec(),
        });
        fake.answer(
            "Status",
            StatusResponse {
                status,
                ..Default::default()
            },
        );
        fake.answer("ListPodSandbox", ListPodSandboxResponse::default());
        fake.answer("ListImages", ListImagesResponse::default());
        fake.answer("ImageStatus", ImageStatusResponse::default());
        fake.answer("RemoveImage", crate::cri::v1::RemoveImageResponse {});
        fake.answer("StopPodSandbox", StopPodSandboxResponse {});
        fake.answer("RemovePodSandbox", RemovePodSandboxResponse {});
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("program"), "a program").unwrap();
        Self { fake, dir }
    }

    fn test(&self) -> SelfTest {
        SelfTest {
            exe: self.dir.path().join("program"),
            limit: Duration::from_secs(20),
            ..SelfTest::new(self.fake.socket(), self.dir.path())
        }
    }

    /// Runs to a failure, after which the folder must be gone.
    async fn fails(&self, test: SelfTest) -> SelfTestError {
        let run = tokio::task::spawn_blocking(move || run(&test));
        let error = run.await.unwrap().unwrap_err();
        assert!(!self.dir.path().join("selftest").exists(), "{error:?}");
        error
    }
}

/// An error with its causes.
fn text(error: &SelfTestError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[tokio::test]
async fn no_daemon() {
    let place = Place::new();
    let mut test = place.test();
    test.socket = place.dir.path().join("none.sock");
    let error = place.fails(test).await;
    assert_eq!(error.stage, Stage::Connect);
    assert!(text(&error).contains("none.sock"), "{}", text(&error));
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn a_refused_pull_is_told_and_undone() {
    let place = Place::new();
    place
        .fake
        .refuse("PullImage", Status::unavailable("no route to the registry"));
    let error = place.fails(place.test()).await;
    assert_eq!(error.stage, Stage::Pull);
    assert!(
        text(&error).starts_with("self-test, pull: PullImage: no route"),
        "{}",
        text(&error)
    );
    assert!(error.leftovers.is_empty(), "{:?}", error.leftovers);
    let pulled: PullImageRequest = place.fake.request("PullImage");
    let removed: RemoveImageRequest = place.fake.request("RemoveImage");
    let name = pulled.image.unwrap().image;
    assert!(
        name.starts_with("127.0.0.1:") && name.contains("/ocid-selftest/peer:"),
        "{name}"
    );
    assert_eq!(removed.image.unwrap().image, name);
}

#[tokio::test]
async fn a_pod_outside_the_network_is_refused_and_removed() {
    let place = Place::new();
    let id = "sha256:1".to_owned();
    place.fake.answer(
        "PullImage",
        PullImageResponse {
            image_ref: id.clone(),
        },
    );
    let image = Some(Image {
        id,
        ..Default::default()
    });
    place.fake.answer(
        "ImageStatus",
        ImageStatusResponse {
            image,
            ..Default::default()
        },
    );
    let pod_sandbox_id = "pod".to_owned();
    place
        .fake
        .answer("RunPodSandbox", RunPodSandboxResponse { pod_sandbox_id });
    let network = Some(PodSandboxNetworkStatus {
        ip: "10.88.0.2".to_owned(),
        ..Default::default()
    });
    let status = Some(PodSandboxStatus {
        network,
        ..Default::default()
    });
    place.fake.answer(
        "PodSandboxStatus",
        PodSandboxStatusResponse {
            status,
            ..Default::default()
        },
    );
    let error = place.fails(place.test()).await;
    assert_eq!(error.stage, Stage::Pod);
    let text = text(&error);
    assert!(
        text.contains("the pod's address: expected one of 198.1"),
        "{text}"
    );
    assert!(text.contains("got `10.88.0.2`"), "{text}");
    // The daemon still lists the image after its removal: that is told beside the first error.
    assert!(text.contains("is still listed"), "{text}");
    let asked: RunPodSandboxRequest = place.fake.request("RunPodSandbox");
    let config = asked.config.unwrap();
    assert_eq!(config.annotations["io.ocid.selftest"], "true");
    let listed: ListPodSandboxRequest = place.fake.request("ListPodSandbox");
    assert_eq!(
        listed.filter.unwrap().label_selector["io.ocid.selftest"],
        "true"
    );
    assert_eq!(config.labels["io.ocid.selftest"], "true");
}

#[tokio::test]
async fn what_a_killed_run_left_goes_first() {
    let place = Place::new();
    let items = vec![PodSandbox {
        id: "old".to_owned(),
        ..Default::default()
    }];
    place
        .fake
        .answer("ListPodSandbox", ListPodSandboxResponse { items });
    let folder = place.dir.path().join("selftest");
    fs::create_dir_all(folder.join("leases")).unwrap();
    let test = place.test();
    let run = tokio::task::spawn_blocking(move || run(&test));
    let error = run.await.unwrap().unwrap_err();
    let removed: RemovePodSandboxRequest = place.fake.request("RemovePodSandbox");
    assert_eq!(removed.pod_sandbox_id, "old");
    // This daemon never forgets it.
    assert!(
        text(&error).contains("pods of the self-test: expected 0, got 1"),
        "{}",
        text(&error)
    );
    // What names the bridge of that run stays, for the next try.
    assert!(folder.join("leases").exists());
    fs::remove_dir(folder.join("leases")).unwrap();
    assert_eq!(place.fails(place.test()).await.stage, Stage::Connect);
}

#[tokio::test]
async fn one_at_a_time() {
    let place = Place::new();
    let folder = place.dir.path().join("selftest");
    fs::create_dir(&folder).unwrap();
    let file = fs::File::open(&folder).unwrap();
    let held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive);
    let held = held.map_err(|(_, e)| e).unwrap();
    let test = place.test();
    let run = tokio::task::spawn_blocking(move || run(&test));
    let error = run.await.unwrap().unwrap_err();
    assert!(matches!(error.source, Cause::Busy { .. }), "{error:?}");
    assert!(folder.exists());
    drop(held);
}

#[tokio::test]
async fn cancelled() {
    let place = Place::new();
    let test = place.test();
    test.cancel.cancel();
    let error = place.fails(test).await;
    assert!(matches!(error.source, Cause::Cancelled), "{error:?}");
}

#[test]
fn a_report_in_json() {
    let report = Report {
        steps: vec![StepReport {
            stage: Stage::CleanUp,
            duration: Duration::from_micros(1500),
        }],
        pod_ip: "198.18.0.2".to_owned(),
    };
    assert_eq!(
        serde_json::to_string(&report).unwrap(),
        r#"{"steps":[{"stage":"clean-up","duration_ms":1.5}],"pod_ip":"198.18.0.2"}"#
    );
}
