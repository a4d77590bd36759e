//! Requests that cannot be honoured: the code, and the field that is to blame.

mod configs;

use anyhow::{Result, ensure};
use crio_setup::cri::v1;
use tonic::{Code, Status};

use self::configs::{CONTAINERS, PODS, Wrong, context, device};
use crate::world::World;

/// An id of the right form that nobody has.
const NOBODY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What was asked, what came, and what should have come.
struct Case {
    what: String,
    answer: Result<String, Status>,
    code: Code,
    words: Vec<String>,
}

/// Every refusal of a test; all that are wrong are told at once.
#[derive(Default)]
struct Cases(Vec<Case>);

impl Cases {
    fn note<T: std::fmt::Debug>(
        &mut self,
        what: impl Into<String>,
        answer: Result<tonic::Response<T>, Status>,
        code: Code,
        words: &[&str],
    ) {
        self.0.push(Case {
            what: what.into(),
            answer: answer.map(|a| format!("{:?}", a.into_inner())),
            code,
            words: words.iter().map(|w| (*w).to_owned()).collect(),
        });
    }

    fn check(&self) -> Result<()> {
        let mut wrong = Vec::new();
        for case in &self.0 {
            match &case.answer {
                Ok(answer) => wrong.push(format!("{}: not refused: {answer}", case.what)),
                Err(status) => {
                    let message = status.message();
                    let named = case.words.iter().all(|word| message.contains(word));
                    if status.code() != case.code || !named {
                        let (what, code) = (&case.what, status.code());
                        wrong.push(format!("{what}: {code:?}: {message}"));
                    }
                }
            }
        }
        ensure!(
            wrong.is_empty(),
            "{} of {}:\n{}",
            wrong.len(),
            self.0.len(),
            wrong.join("\n")
        );
        Ok(())
    }
}

#[tokio::test]
async fn every_refusal_has_its_code_and_names_the_field() -> Result<()> {
    use Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
    let world = World::start().await?;
    let mut cases = Cases::default();
    let (mut runtime, mut images) = (world.client.runtime(), world.client.images());

    // RunPodSandbox.
    let sandbox = world.pod_config("refused");
    let run = |config: Option<v1::PodSandboxConfig>, handler: &str| v1::RunPodSandboxRequest {
        config,
        runtime_handler: handler.to_owned(),
    };
    let answer = runtime.run_pod_sandbox(run(None, "")).await;
    cases.note(
        "no config",
        answer,
        InvalidArgument,
        &["`config` is required"],
    );
    let answer = runtime
        .run_pod_sandbox(run(Some(sandbox.clone()), "none-such"))
        .await;
    cases.note(
        "another handler",
        answer,
        InvalidArgument,
        &["runtime_handler", "none-such"],
    );
    for (field, spoil, words) in PODS {
        let mut config = sandbox.clone();
        spoil(&mut config);
        let answer = runtime.run_pod_sandbox(run(Some(config), "")).await;
        cases.note(
            format!("pod: {field}"),
            answer,
            InvalidArgument,
            &[field, words],
        );
    }
    cases.check()?;
    ensure!(
        world.client.list_pod_sandboxes(None).await?.is_empty(),
        "a refused pod is there"
    );

    // CreateContainer.
    let pod = world.run_pod(&sandbox).await?;
    let good = world.container_config("good", &["sleep", "600"]);
    let create = |pod: &str, config: Option<v1::ContainerConfig>| v1::CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config,
        sandbox_config: Some(sandbox.clone()),
    };
    let answer = runtime
        .create_container(create("", Some(good.clone())))
        .await;
    cases.note(
        "no pod",
        answer,
        InvalidArgument,
        &["`pod_sandbox_id` is required"],
    );
    let answer = runtime
        .create_container(create(NOBODY, Some(good.clone())))
        .await;
    cases.note("unknown pod", answer, NotFound, &[NOBODY]);
    let answer = runtime.create_container(create(&pod, None)).await;
    cases.note(
        "no config",
        answer,
        InvalidArgument,
        &["`config` is required"],
    );
    for (field, spoil, words) in CONTAINERS {
        let mut config = good.clone();
        spoil(&mut config);
        let answer = runtime.create_container(create(&pod, Some(config))).await;
        cases.note(
            format!("container: {field}"),
            answer,
            InvalidArgument,
            &[field, words],
        );
    }
    // Well said, and not to be had.
    let absent: &[(Wrong<v1::ContainerConfig>, Code)] = &[
        (
            (
                "127.0.0.1:5000/none/such:1",
                |c| c.image.get_or_insert_default().image = "127.0.0.1:5000/none/such:1".to_owned(),
                "image",
            ),
            NotFound,
        ),
        (
            (
                "config.devices[0].host_path",
                |c| device(c).host_path = "/dev/none-such".to_owned(),
                "/dev/none-such",
            ),
            NotFound,
        ),
        (
            (
                "target container",
                |c| {
                    let options = context(c).namespace_options.get_or_insert_default();
                    options.pid = v1::NamespaceMode::Target.into();
                    options.target_id = NOBODY.to_owned();
                },
                NOBODY,
            ),
            NotFound,
        ),
    ];
    for ((field, spoil, words), code) in absent {
        let mut config = good.clone();
        spoil(&mut config);
        let answer = runtime.create_container(create(&pod, Some(config))).await;
        cases.note(format!("absent: {field}"), answer, *code, &[field, words]);
    }
    cases.check()?;
    let left = world.client.list_containers(None).await?;
    ensure!(left.is_empty(), "a refused container is there: {left:?}");
    let id = world.create(&pod, &sandbox, good.clone()).await?;

    // What names a container or a pod.
    for (name, code, words) in [
        ("", InvalidArgument, "`container_id` is required"),
        (NOBODY, NotFound, NOBODY),
    ] {
        let container_id = name.to_owned();
        let request = v1::StartContainerRequest {
            container_id: container_id.clone(),
        };
        cases.note(
            format!("start {name}"),
            runtime.start_container(request).await,
            code,
            &[words],
        );
        let request = v1::ContainerStatusRequest {
            container_id: container_id.clone(),
            verbose: true,
        };
        cases.note(
            format!("status {name}"),
            runtime.container_status(request).await,
            code,
            &[words],
        );
        let request = v1::ReopenContainerLogRequest {
            container_id: container_id.clone(),
        };
        cases.note(
            format!("reopen {name}"),
            runtime.reopen_container_log(request).await,
            code,
            &[words],
        );
        let request = v1::UpdateContainerResourcesRequest {
            container_id: container_id.clone(),
            ..Default::default()
        };
        cases.note(
            format!("update {name}"),
            runtime.update_container_resources(request).await,
            code,
            &[words],
        );
        let request = v1::ExecSyncRequest {
            container_id,
            cmd: vec!["true".to_owned()],
            timeout: 0,
        };
        cases.note(
            format!("exec {name}"),
            runtime.exec_sync(request).await,
            code,
            &[words],
        );
    }
    let empty = "`container_id` is required";
    let answer = runtime
        .stop_container(v1::StopContainerRequest::default())
        .await;
    cases.note("stop", answer, InvalidArgument, &[empty]);
    let answer = runtime
        .remove_container(v1::RemoveContainerRequest::default())
        .await;
    cases.note("remove", answer, InvalidArgument, &[empty]);
    let empty = "`pod_sandbox_id` is required";
    let answer = runtime
        .stop_pod_sandbox(v1::StopPodSandboxRequest::default())
        .await;
    cases.note("stop pod", answer, InvalidArgument, &[empty]);
    let answer = runtime
        .remove_pod_sandbox(v1::RemovePodSandboxRequest::default())
        .await;
    cases.note("remove pod", answer, InvalidArgument, &[empty]);
    let answer = runtime
        .pod_sandbox_status(v1::PodSandboxStatusRequest::default())
        .await;
    cases.note("pod status", answer, InvalidArgument, &[empty]);
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: NOBODY.to_owned(),
        verbose: true,
    };
    cases.note(
        "unknown pod status",
        runtime.pod_sandbox_status(request).await,
        NotFound,
        &[NOBODY],
    );

    // Filters.
    let state = Some(v1::ContainerStateValue { state: 9 });
    let filter = Some(v1::ContainerFilter {
        state,
        ..Default::default()
    });
    let answer = runtime
        .list_containers(v1::ListContainersRequest { filter })
        .await;
    cases.note(
        "list",
        answer,
        InvalidArgument,
        &["`filter.state.state`", "9"],
    );
    let state = Some(v1::PodSandboxStateValue { state: -3 });
    let filter = Some(v1::PodSandboxFilter {
        state,
        ..Default::default()
    });
    let answer = runtime
        .list_pod_sandbox(v1::ListPodSandboxRequest { filter })
        .await;
    cases.note(
        "list pods",
        answer,
        InvalidArgument,
        &["`filter.state.state`", "-3"],
    );

    // Commands, and states that do not fit.
    let exec = |words: &[&str], timeout: i64| v1::ExecSyncRequest {
        container_id: id.clone(),
        cmd: words.iter().map(|w| (*w).to_owned()).collect(),
        timeout,
    };
    for (request, words) in [
        (exec(&[], 0), "`cmd` is required"),
        (exec(&[""], 0), "`cmd[0]` is required"),
        (exec(&["echo", "a\0b"], 0), "`cmd[1]` holds a NUL"),
        (exec(&["true"], -1), "`timeout` is -1"),
    ] {
        cases.note(
            words,
            runtime.exec_sync(request).await,
            InvalidArgument,
            &[words],
        );
    }
    let created = "is created, not running";
    let answer = runtime.exec_sync(exec(&["true"], 0)).await;
    cases.note(
        "exec in what is created",
        answer,
        FailedPrecondition,
        &[created],
    );
    let reopen = v1::ReopenContainerLogRequest {
        container_id: id.clone(),
    };
    let answer = runtime.reopen_container_log(reopen.clone()).await;
    cases.note(
        "a log of what is created",
        answer,
        FailedPrecondition,
        &[created],
    );
    let answer = runtime
        .create_container(create(&pod, Some(good.clone())))
        .await;
    // A repeat of the call that made it is answered as that was.
    let same = answer?.into_inner().container_id;
    ensure!(same == id, "a second one of the name");
    let mut other = good.clone();
    other.working_dir = "/elsewhere".to_owned();
    let answer = runtime.create_container(create(&pod, Some(other))).await;
    cases.note("the name is taken", answer, AlreadyExists, &["good", &id]);
    world.client.start_container(&id).await?;
    let start = v1::StartContainerRequest {
        container_id: id.clone(),
    };
    let answer = runtime.start_container(start.clone()).await;
    cases.note(
        "start what runs",
        answer,
        FailedPrecondition,
        &["is running, not created"],
    );
    world
        .client
        .stop_container(&id, std::time::Duration::ZERO)
        .await?;
    let answer = runtime.start_container(start).await;
    cases.note(
        "start what ended",
        answer,
        FailedPrecondition,
        &["is exited, not created"],
    );
    let answer = runtime.reopen_container_log(reopen).await;
    cases.note(
        "a log of what ended",
        answer,
        FailedPrecondition,
        &["is exited, not running"],
    );
    world.client.stop_pod_sandbox(&pod).await?;
    let late = world.container_config("late", &["true"]);
    let answer = runtime.create_container(create(&pod, Some(late))).await;
    cases.note(
        "a pod that was stopped",
        answer,
        FailedPrecondition,
        &[&pod, "not ready"],
    );

    // Images.
    let spec = |name: &str| {
        Some(v1::ImageSpec {
            image: name.to_owned(),
            ..Default::default()
        })
    };
    for (image, words) in [
        (None, "`image` is required"),
        (spec(""), "`image.image` is required"),
        (spec("Not a name"), "`image.image`"),
        (spec("a//b"), "`image.image`"),
        (spec("a.b/c@sha256:12"), "`image.image`"),
    ] {
        let request = v1::ImageStatusRequest {
            image: image.clone(),
            verbose: true,
        };
        cases.note(
            "image status",
            images.image_status(request).await,
            InvalidArgument,
            &[words],
        );
        let request = v1::RemoveImageRequest {
            image: image.clone(),
        };
        cases.note(
            "remove image",
            images.remove_image(request).await,
            InvalidArgument,
            &[words],
        );
        let request = v1::PullImageRequest {
            image,
            ..Default::default()
        };
        cases.note(
            "pull image",
            images.pull_image(request).await,
            InvalidArgument,
            &[words],
        );
    }
    for (name, code) in [
        ("127.0.0.1:5000/none/such:1", NotFound),
        ("127.0.0.1:5000/library/busybox:none-such", NotFound),
        ("127.0.0.1:1/nobody/listens:1", Code::Unavailable),
        (NOBODY, InvalidArgument),
    ] {
        let request = v1::PullImageRequest {
            image: spec(name),
            ..Default::default()
        };
        let repository = name.split_once('/').map_or(name, |(_, rest)| rest);
        let words = repository.split(':').next().unwrap_or_default();
        cases.note(
            format!("pull {name}"),
            images.pull_image(request).await,
            code,
            &[words],
        );
    }
    ensure!(cases.0.len() > 100, "{}", cases.0.len());
    cases.check()?;
    world.assert_clean(&[]).await
}
