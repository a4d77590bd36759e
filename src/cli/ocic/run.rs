//! `ocic run`: a pod with one container, in one go.

use std::path::Path;

use crate::cri::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, PortMapping,
};
use crate::ocic::client::{Client, ClientError};

use super::args::ctr::Run;
use super::{Failure, Session, ctr, image};

pub async fn run(session: &Session<'_>, args: &Run) -> Result<(), Failure> {
    let (container, sandbox) = if args.what.ends_with(".json") {
        configs(session, args)?
    } else {
        let uid = uid().map_err(Failure::Start)?;
        (container(args)?, sandbox(args, &uid))
    };
    let client = session.client().await?;
    if !args.no_pull {
        let image = container.image.as_ref().map_or("", |spec| &spec.image);
        image::pull_missing(session, &client, image).await?;
    }
    let pod = client
        .run_pod_sandbox(sandbox.clone(), &args.handler.runtime)
        .await?;
    match start(&client, &pod, container, sandbox).await {
        Ok(id) => session.made("container_id", &id),
        Err(error) => {
            let undone = async {
                client.stop_pod_sandbox(&pod).await?;
                client.remove_pod_sandbox(&pod).await
            };
            if let Err(left) = undone.await {
                let note = format!("pod `{pod}` is left: {left}");
                session.output.warning(&note);
            }
            Err(error.into())
        }
    }
}

async fn start(
    client: &Client,
    pod: &str,
    container: ContainerConfig,
    sandbox: PodSandboxConfig,
) -> Result<String, ClientError> {
    let id = client.create_container(pod, container, sandbox).await?;
    client.start_container(&id).await?;
    Ok(id)
}

/// From two files, as with crictl.
fn configs(
    session: &Session<'_>,
    args: &Run,
) -> Result<(ContainerConfig, PodSandboxConfig), Failure> {
    let said_twice = args.name.is_some()
        || args.workdir.is_some()
        || args.host_network
        || !args.env.is_empty()
        || !args.publish.is_empty();
    match args.words.as_slice() {
        _ if said_twice => Err(Failure::Usage(
            "with configs from files, only `--runtime` and `--no-pull` say more",
        )),
        [pod] => Ok((
            ctr::read(session, Path::new(&args.what), None)?,
            session.sandbox(Path::new(pod))?,
        )),
        _ => Err(Failure::Usage(
            "the file of a container's config is followed by that of the pod's, and by nothing else",
        )),
    }
}

fn container(args: &Run) -> Result<ContainerConfig, Failure> {
    if args.what.is_empty() {
        return Err(Failure::Usage("the image has no name"));
    }
    let name = name(args);
    let env = |(key, value): &(String, String)| KeyValue {
        key: key.clone(),
        value: value.clone().into_bytes(),
    };
    Ok(ContainerConfig {
        log_path: format!("{name}/0.log"),
        metadata: Some(ContainerMetadata { name, attempt: 0 }),
        image: Some(ImageSpec {
            image: args.what.clone(),
            user_specified_image: args.what.clone(),
            ..Default::default()
        }),
        // The image's entry point stays, as when kubelet is given only `args`.
        args: args.words.clone(),
        working_dir: args.workdir.clone().unwrap_or_default(),
        envs: args.env.iter().map(env).collect(),
        linux: Some(LinuxContainerConfig::default()),
        ..Default::default()
    })
}

fn sandbox(args: &Run, uid: &str) -> PodSandboxConfig {
    let name = name(args);
    let network = match args.host_network {
        true => NamespaceMode::Node,
        false => NamespaceMode::Pod,
    };
    let port = |&(host, container): &(u16, u16)| PortMapping {
        host_port: i32::from(host),
        container_port: i32::from(container),
        ..Default::default()
    };
    PodSandboxConfig {
        log_directory: format!("/var/log/pods/default_{name}_{uid}"),
        hostname: match args.host_network {
            true => String::new(),
            false => name.clone(),
        },
        metadata: Some(PodSandboxMetadata {
            name,
            uid: uid.to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        port_mappings: args.publish.iter().map(port).collect(),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption {
                    network: network.into(),
                    pid: NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What the user said, or the image's last part without tag and digest: `redis` for
/// `docker.io/library/redis:7@sha256:...`.
fn name(args: &Run) -> String {
    if let Some(name) = &args.name {
        return name.clone();
    }
    let image = args.what.split('@').next().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    let bare = last.split(':').next().unwrap_or_default();
    // It becomes a host's name too.
    let fit = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = bare.chars().map(fit).collect();
    let name = name.to_ascii_lowercase();
    match name.trim_matches('-') {
        "" => "container".to_owned(),
        name => name.to_owned(),
    }
}

/// So that the next pod of the same name is another one.
fn uid() -> std::io::Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|e| std::io::Error::other(e.to_string()))?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ocic::args::{Ocic, Verb};
    use clap::Parser;

    fn parsed(line: &str) -> Run {
        match Ocic::try_parse_from(line.split(' ')).unwrap().verb {
            Verb::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pod_is_called_after_its_image() {
        for (image, called) in [
            ("redis", "redis"),
            ("docker.io/library/redis:7-alpine", "redis"),
            ("127.0.0.1:5000/My_App:1@sha256:00", "my-app"),
            ("a/_._:1", "container"),
        ] {
            let run = parsed(&format!("ocic run {image}"));
            assert_eq!(name(&run), called, "{image}");
        }
        assert_eq!(name(&parsed("ocic run --name x redis")), "x");
    }

    #[test]
    fn words_after_the_image_are_the_container_s() {
        let run = parsed("ocic run -e A=b=c --publish 80:8080 redis redis-server --port 1 -e");
        let config = container(&run).unwrap();
        assert_eq!(config.args, ["redis-server", "--port", "1", "-e"]);
        assert_eq!(config.envs[0].value, b"b=c");
        let sandbox = sandbox(&run, "u");
        assert_eq!(sandbox.log_directory, "/var/log/pods/default_redis_u");
        assert_eq!(sandbox.port_mappings[0].host_port, 80);
        assert_eq!(sandbox.port_mappings[0].container_port, 8080);
    }
}
