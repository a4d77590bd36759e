//! The verbs of crictl.

use super::*;

fn listed_containers(names: &[(&str, &str, ContainerState)]) -> ListContainersResponse {
    let one = |&(id, name, state): &(&str, &str, ContainerState)| Container {
        id: id.into(),
        metadata: Some(ContainerMetadata {
            name: name.into(),
            attempt: 0,
        }),
        state: state as i32,
        image_ref: "r@sha256:1".into(),
        ..Default::default()
    };
    ListContainersResponse {
        containers: names.iter().map(one).collect(),
    }
}

#[tokio::test]
async fn ps_shows_what_runs_unless_told_otherwise() {
    let fake = FakeCri::start();
    let all = [
        ("c1", "web", ContainerState::ContainerRunning),
        ("c2", "web-old", ContainerState::ContainerExited),
    ];
    fake.answer("ListContainers", listed_containers(&all));
    let state = || {
        let sent: ListContainersRequest = fake.request("ListContainers");
        sent.filter.unwrap().state.map(|state| state.state)
    };
    for (args, expected) in [
        (&["ps"][..], Some(ContainerState::ContainerRunning)),
        (&["ps", "-a"], None),
        (&["ps", "--latest"], None),
        (
            &["ps", "--state", "Exited"],
            Some(ContainerState::ContainerExited),
        ),
        (&["ctr", "list"], None),
    ] {
        assert!(ocic(fake.socket(), args).await.is(0), "{args:?}");
        assert_eq!(state(), expected.map(|state| state as i32), "{args:?}");
    }
    let ended = ocic(fake.socket(), &["ps", "-q", "--name", "old"]).await;
    assert_eq!(ended.stdout.text(), "c2\n");
    let ended = ocic(fake.socket(), &["ps", "-aqn", "1"]).await;
    assert_eq!(ended.stdout.text(), "c1\n");
    fake.answer("ImageStatus", ImageStatusResponse::default());
    let ended = ocic(fake.socket(), &["ps", "-q", "--image", "r@sha256:1"]).await;
    assert_eq!(ended.stdout.text(), "c1\nc2\n");
    let ended = ocic(fake.socket(), &["ps", "-q", "--image", "other"]).await;
    assert_eq!(ended.stdout.text(), "");
}

#[tokio::test]
async fn what_is_alive_is_removed_only_by_force() {
    let fake = FakeCri::start();
    let all = [("c1", "web", ContainerState::ContainerRunning)];
    fake.answer("ListContainers", listed_containers(&all));
    fake.answer("RemoveContainer", RemoveContainerResponse {});
    fake.answer("ListPodSandbox", listed(&["p1"]));
    fake.answer("RemovePodSandbox", RemovePodSandboxResponse {});
    for (args, said) in [
        (["rm", "web"], "container `c1` runs"),
        (["rm", "-a"], "container `c1` runs"),
        (["rmp", "p1"], "pod `p1` is ready"),
        (["rmp", "-a"], "pod `p1` is ready"),
    ] {
        let ended = ocic(fake.socket(), &args).await;
        let text = ended.stderr.text();
        assert!(ended.is(1) && text.contains(said), "{args:?}: {text}");
        assert!(text.contains("hint: "), "{text}");
    }
    assert!(!fake.calls().iter().any(|call| call.starts_with("Remove")));
    for (args, id) in [(["rm", "-f", "web"], "c1\n"), (["rmp", "-f", "p1"], "p1\n")] {
        let ended = ocic(fake.socket(), &args).await;
        assert!(ended.is(0), "{}", ended.stderr.text());
        assert_eq!(ended.stdout.text(), id);
    }
}

#[tokio::test]
async fn several_are_inspected_as_a_list() {
    let fake = FakeCri::start();
    let all = [
        ("c1", "web", ContainerState::ContainerRunning),
        ("c2", "db", ContainerState::ContainerRunning),
    ];
    fake.answer("ListContainers", listed_containers(&all));
    let status = ContainerStatusResponse {
        info: [("info".to_owned(), r#"{"a": 1}"#.to_owned())].into(),
        ..Default::default()
    };
    fake.answer("ContainerStatus", status);
    let json = |ended: &Ended| -> serde_json::Value {
        serde_json::from_str(&ended.stdout.text()).unwrap()
    };
    let ended = ocic(fake.socket(), &["inspect", "web"]).await;
    assert_eq!(json(&ended)["info"]["a"], 1);
    let sent: ContainerStatusRequest = fake.request("ContainerStatus");
    assert!(sent.verbose && sent.container_id == "c1");
    let ended = ocic(fake.socket(), &["inspect", "web", "db", "none"]).await;
    assert!(ended.is(1));
    assert_eq!(json(&ended).as_array().map(Vec::len), Some(2));
    assert!(ended.stderr.text().contains("no container `none`"));
    let ended = ocic(fake.socket(), &["inspect", ""]).await;
    assert!(ended.is(1) && ended.stdout.text().is_empty());
}

#[tokio::test]
async fn a_password_reaches_the_daemon_and_nobody_else() {
    let fake = FakeCri::start();
    let pulled = PullImageResponse {
        image_ref: "sha256:1".into(),
    };
    fake.answer("PullImage", pulled);
    let args = ["pull", "--creds", "me:hush", "-a", "k=v", "r/i:1"];
    let ended = ocic(fake.socket(), &args).await;
    assert!(ended.is(0), "{}", ended.stderr.text());
    let sent: PullImageRequest = fake.request("PullImage");
    let auth = sent.auth.unwrap();
    assert_eq!(
        (auth.username.as_str(), auth.password.as_str()),
        ("me", "hush")
    );
    assert_eq!(sent.image.unwrap().annotations["k"], "v");
    let ended = ocic(fake.socket(), &["pull", "--auth", "bWU6aHVzaA==", "r/i:1"]).await;
    assert!(ended.is(0));
    let sent: PullImageRequest = fake.request("PullImage");
    assert_eq!(sent.auth.unwrap().password, "hush");
    for args in [
        ["pull", "--creds", ":hush", "r/i:1"],
        ["pull", "--auth", "hush", "r/i:1"],
    ] {
        let ended = ocic(fake.socket(), &args).await;
        let text = ended.stderr.text();
        assert!(ended.is(2) && !text.contains("hush"), "{args:?}: {text}");
    }
}

#[tokio::test]
async fn a_pod_whose_container_does_not_start_is_not_left() {
    let fake = FakeCri::start();
    let image = ImageStatusResponse {
        image: Some(Image::default()),
        ..Default::default()
    };
    fake.answer("ImageStatus", image);
    let made = RunPodSandboxResponse {
        pod_sandbox_id: POD.into(),
    };
    fake.answer("RunPodSandbox", made);
    fake.refuse("CreateContainer", tonic::Status::internal("no room"));
    fake.answer("StopPodSandbox", StopPodSandboxResponse {});
    fake.answer("RemovePodSandbox", RemovePodSandboxResponse {});
    let ended = ocic(fake.socket(), &["run", "redis", "redis-server"]).await;
    assert!(ended.is(1) && ended.stderr.text().contains("no room"));
    let sent: RemovePodSandboxRequest = fake.request("RemovePodSandbox");
    assert_eq!(sent.pod_sandbox_id, POD);

    let before = fake.calls().len();
    for args in [
        &["run", "a.json"][..],
        &["run", "a.json", "b.json", "c"],
        &["run", "--name", "x", "a.json", "b.json"],
        &["run", "/nonexistent/a.json", "b.json"],
        &["run", ""],
        &["checkpoint", "--export", "here.tar", "web"],
    ] {
        let ended = ocic(fake.socket(), args).await;
        assert!(ended.is(2), "{args:?}: {}", ended.stderr.text());
    }
    assert_eq!(fake.calls().len(), before, "nothing was asked");
}

#[tokio::test]
async fn only_images_that_nobody_uses_are_pruned() {
    let fake = FakeCri::start();
    let image = |id: &str, digest: &str, pinned| Image {
        id: id.into(),
        repo_digests: vec![digest.into()],
        pinned,
        ..Default::default()
    };
    let images = vec![
        image("i1", "r@sha256:1", false),
        image("i2", "r@sha256:2", false),
        image("i3", "r@sha256:3", true),
    ];
    fake.answer("ListImages", ListImagesResponse { images });
    let used = [("c1", "web", ContainerState::ContainerExited)];
    fake.answer("ListContainers", listed_containers(&used));
    let found = ImageStatusResponse {
        image: Some(Image::default()),
        ..Default::default()
    };
    fake.answer("ImageStatus", found);
    fake.answer("RemoveImage", RemoveImageResponse {});
    let ended = ocic(fake.socket(), &["rmi", "--prune"]).await;
    assert_eq!(ended.stdout.text(), "i2\n", "{}", ended.stderr.text());
    let ended = ocic(fake.socket(), &["rmi", "-a"]).await;
    assert_eq!(ended.stdout.text(), "i1\ni2\ni3\n");
}

#[tokio::test]
async fn a_broken_file_of_crictl_s_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crictl.yaml");
    fs::write(&path, "runtime-endpoint: tcp://127.0.0.1:1\n").unwrap();
    let path = path.to_str().unwrap();
    let cli = Ocic::try_parse_from(["ocic", "--config", path, "ps"]).unwrap();
    let (output, _, stderr) = captured::output(cli.format());
    let ended = perform(&cli, None, &output).await;
    assert_eq!(finish(&output, ended), ExitCode::from(2));
    assert!(stderr.text().contains("crictl.yaml"), "{}", stderr.text());

    let fake = FakeCri::start();
    fake.answer("ListContainers", ListContainersResponse::default());
    let file = format!("runtime-endpoint: unix://{}\n", fake.socket().display());
    fs::write(path, file).unwrap();
    let ended = perform(&cli, None, &output).await;
    assert_eq!(finish(&output, ended), ExitCode::SUCCESS);
}
