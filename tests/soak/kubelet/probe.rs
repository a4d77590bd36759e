//! Looking at a container from within: probes, commands with streams, its log.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crio_setup::cri::v1;
use crio_setup::ocic::stream::{Ended, REMOTE, Remote, upgrade};
use tonic::Code;

use super::node::Node;
use crate::calls::{CALL, Outcome};
use crate::streams::{address, all, dial, ended};

/// How long what must happen may take.
const SOON: Duration = Duration::from_secs(60);
const SCRIPT: &str = "if [ -e /tmp/sick ]; then echo sick; exit 1; fi; echo well";

pub enum Verdict {
    Well,
    Sick,
    /// The container has ended over it, or the daemon.
    Unknown,
}

pub async fn probe(node: &Node, id: &str) -> Result<Verdict> {
    let words = ["sh", "-c", SCRIPT].map(str::to_owned).into();
    let call = node.client.exec_sync(id, words, Some(CALL));
    match node.call("ExecSync", call).await? {
        Outcome::Done(answer) => match (answer.exit_code, answer.stdout.as_slice()) {
            (0, b"well\n") => return Ok(Verdict::Well),
            (1, b"sick\n") => return Ok(Verdict::Sick),
            // Killed with its container.
            (137, _) => {}
            _ => bail!("a probe of {id}: {answer:?}"),
        },
        Outcome::Lost => return Ok(Verdict::Unknown),
        // Not running, and with its container gone.
        Outcome::Refused(Code::FailedPrecondition | Code::NotFound, _) => {}
        Outcome::Refused(code, message) => bail!("ExecSync in {id}: {code:?} {message}"),
    }
    ends(node, id).await?;
    Ok(Verdict::Unknown)
}

/// Waits for the end of a container that somebody has said to have ended.
pub async fn ends(node: &Node, id: &str) -> Result<()> {
    let deadline = Instant::now() + SOON;
    let since = node.deaths.count();
    while node.may_run(id).await? && node.deaths.count() == since {
        ensure!(Instant::now() < deadline, "{id} runs, and was said not to");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Waits until there is something in a log; false if the container ended before that.
pub async fn grows(node: &Node, id: &str, log: &Path) -> Result<bool> {
    let deadline = Instant::now() + SOON;
    loop {
        let runs = node.may_run(id).await?;
        if std::fs::metadata(log)?.len() > 0 {
            return Ok(true);
        }
        if !runs {
            return Ok(false);
        }
        ensure!(
            Instant::now() < deadline,
            "nothing more is logged to `{}`",
            log.display()
        );
        node.alive().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs a command with streams.
pub async fn stream(node: &Node, id: &str) -> Result<()> {
    let since = node.deaths.count();
    let request = v1::ExecRequest {
        container_id: id.to_owned(),
        cmd: ["sh", "-c", "echo out; exit 3"].map(str::to_owned).into(),
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    let url = match node.call("Exec", node.client.exec(request)).await? {
        Outcome::Done(url) => url,
        Outcome::Lost => return Ok(()),
        Outcome::Refused(Code::FailedPrecondition | Code::NotFound, _) => {
            return ends(node, id).await;
        }
        Outcome::Refused(code, message) => bail!("Exec in {id}: {code:?} {message}"),
    };
    let run = async {
        let io = dial(node.init, address(&url)?)?;
        let connection = upgrade(io, &url, REMOTE).await?;
        let mut remote = Remote::open(connection, [false, true, true, false]).await?;
        let out = all(remote.stdout.take()).await?;
        anyhow::Ok((out, ended(&mut remote).await?))
    };
    let run = tokio::time::timeout(CALL, run)
        .await
        .context("exec does not end")?;
    match run {
        Ok((out, Ended::Exit(3))) => {
            ensure!(out == b"out\n", "{out:?}");
            Ok(())
        }
        Ok(_) | Err(_) if node.deaths.count() != since => Ok(()),
        // With its container, whose end is told a little later.
        Ok((_, Ended::Exit(137) | Ended::Failed(_))) => ends(node, id).await,
        Ok(other) => bail!("exec in {id}: {other:?}"),
        Err(error) => {
            let told = || format!("exec in {id}: {error:#}");
            node.deaths.explain(since, told).await
        }
    }
}
