//! Logs are rotated, as kubelet does it.

use anyhow::{Context, Result, bail, ensure};

use super::desired::Current;
use super::node::Node;
use super::probe;
use crate::calls::Outcome;

/// Rotated logs that stay.
const ROTATED: usize = 2;

/// The log aside, a new one, and the oldest away.
pub async fn rotate(node: &Node, current: &mut Current) -> Result<()> {
    if current.rotated && !probe::grows(node, &current.id, &current.log).await? {
        return Ok(());
    }
    let folder = current.log.parent().context("no folder")?;
    let name = current
        .log
        .file_name()
        .context("no name")?
        .to_string_lossy()
        .into_owned();
    let aside = folder.join(format!("{name}.{:020}", crio_setup::host::clock::now_ns()));
    std::fs::rename(&current.log, &aside)?;
    let call = node.client.reopen_container_log(&current.id);
    match node.call("ReopenContainerLog", call).await? {
        Outcome::Done(()) => {
            ensure!(current.log.exists(), "no new log of {}", current.id);
            current.rotated = true;
        }
        // As kubelet does.
        Outcome::Lost if !current.log.exists() => std::fs::rename(&aside, &current.log)?,
        Outcome::Lost => {}
        Outcome::Refused(tonic::Code::FailedPrecondition, _) => {
            probe::ends(node, &current.id).await?
        }
        Outcome::Refused(code, message) => bail!("ReopenContainerLog: {code:?} {message}"),
    }
    let mut rotated = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_own = |name: &str, log: &str| {
            name.strip_prefix(log)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        if path
            .file_name()
            .is_some_and(|own| is_own(&own.to_string_lossy(), &name))
        {
            rotated.push(path);
        }
    }
    rotated.sort();
    let old = rotated.len().saturating_sub(ROTATED);
    rotated
        .into_iter()
        .take(old)
        .try_for_each(std::fs::remove_file)?;
    Ok(())
}
