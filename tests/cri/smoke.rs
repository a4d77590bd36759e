//! The way of every pod, from its start to nothing left.

use anyhow::{Result, ensure};
use crio_setup::cri::v1::PodSandboxState;

use crate::world::World;

#[tokio::test]
async fn a_pod_comes_and_goes() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("smoke");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("sleeper", &["sleep", "600"]);
    let id = world.up(&pod, &sandbox, config).await?;
    ensure!(world.shell(&id, "echo $((40+2))").await? == "42");
    let config = world.container_config("brief", &["sh", "-c", "echo hello; exit 3"]);
    let (said, status) = world.run(&pod, &sandbox, config).await?;
    ensure!(
        (said.as_str(), status.exit_code) == ("hello", 3),
        "{said} {status:?}"
    );
    ensure!(status.reason == "Error", "{status:?}");
    world.client.stop_pod_sandbox(&pod).await?;
    let status = world.pod_status(&pod).await?;
    ensure!(
        status.state() == PodSandboxState::SandboxNotready,
        "{status:?}"
    );
    world.assert_clean(&[]).await
}
