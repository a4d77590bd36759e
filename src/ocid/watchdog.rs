//! Pings for systemd's watchdog (`WatchdogSec=`), for as long as the daemon gets anything done.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::daemon::{Daemon, blocking};

/// Pings every half of the time that systemd waits (as sd_watchdog_enabled(3) has it), each time after
/// a proof of life. Nothing to do where no watchdog is set.
pub fn start(daemon: &Arc<Daemon>) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let daemon = Arc::clone(daemon);
    tokio::spawn(async move {
        let mut ticks = interval(limit / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if lives(&daemon, limit / 2).await {
                if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]) {
                    tracing::warn!(%error, "the watchdog was not told that the daemon lives");
                }
            } else {
                tracing::error!(
                    operations = daemon.tasks.len(),
                    "the daemon is stuck; the watchdog is not told otherwise"
                );
            }
        }
    });
}

/// That this runs at all shows that the threads that answer calls turn; a thread for blocking work must
/// be found too, and the tables must be readable on it.
async fn lives(daemon: &Arc<Daemon>, limit: Duration) -> bool {
    let watched = Arc::clone(daemon);
    let proof = blocking(move || {
        watched.sandboxes.all();
        watched.containers.all();
        Ok(())
    });
    matches!(timeout(limit, proof).await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ocid::config::Config;

    #[test]
    fn a_daemon_without_a_free_thread_is_not_alive() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.crio.root = folder.path().join("root");
        config.crio.runroot = folder.path().join("run");
        config.crio.runtime.seccomp_profile = "".into();
        std::fs::create_dir(&config.crio.root).unwrap();
        runtime.block_on(async {
            let daemon = Daemon::open(config, None).unwrap();
            assert!(lives(&daemon, Duration::from_secs(30)).await);
            let (free, held) = std::sync::mpsc::channel::<()>();
            let stuck = tokio::task::spawn_blocking(move || held.recv());
            assert!(!lives(&daemon, Duration::from_millis(50)).await);
            drop(free);
            assert!(stuck.await.unwrap().is_err());
            assert!(lives(&daemon, Duration::from_secs(30)).await);
        });
    }
}
