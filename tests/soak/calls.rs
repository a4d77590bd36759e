//! How calls go while the daemon comes and goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crio_setup::ocic::client::ClientError;
use tonic::Code;

use crate::world::World;

/// How long a call may take on a machine that has much to do.
pub const CALL: Duration = Duration::from_secs(120);
/// How long a death may take to be counted after somebody felt it: a daemon that is told to end may drain for 60 s, and
/// the next has to start.
const COUNTED: Duration = Duration::from_secs(180);

/// How a call went.
pub enum Outcome<T> {
    Done(T),
    Refused(Code, String),
    /// The daemon died, or the client did not wait: nobody knows.
    Lost,
}

/// Counts each death of the daemon and each new life.
#[derive(Debug, Clone, Default)]
pub struct Deaths(Arc<AtomicU64>);

impl Deaths {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub fn note(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until there is another count than `since`, as there is if it explains what went wrong.
    pub async fn explain(&self, since: u64, what: impl FnOnce() -> String) -> Result<()> {
        let deadline = Instant::now() + COUNTED;
        while self.count() == since {
            if Instant::now() > deadline {
                anyhow::bail!("{}", what());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// What an answer means to a call that began at count `since`. An error of the connection, and one that says
    /// nothing of the call, has only the daemon's death for an excuse.
    pub async fn judge<T>(
        &self,
        what: &str,
        since: u64,
        answer: Result<T, ClientError>,
    ) -> Result<Outcome<T>> {
        match answer {
            Ok(answer) => Ok(Outcome::Done(answer)),
            Err(ClientError::Refused { status, .. })
                if !matches!(
                    status.code(),
                    Code::Unknown | Code::Internal | Code::Unavailable | Code::Cancelled
                ) =>
            {
                Ok(Outcome::Refused(status.code(), status.message().to_owned()))
            }
            Err(error) => {
                self.explain(since, || format!("{what}: {error}")).await?;
                Ok(Outcome::Lost)
            }
        }
    }
}

pub fn no_panic(world: &World) -> Result<()> {
    let output = world.daemon().output();
    ensure!(!output.contains("panicked"), "{output}");
    Ok(())
}
