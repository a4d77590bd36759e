//! Plugins that outlived the daemon that ran them: killed in the middle of an ADD, it leaves the plugin
//! to finish, and a DEL in the meantime would find nothing yet to delete.

use std::fs;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use crate::host::process::PidFd;

/// Waits until no process works for this pod any more, which its environment tells (a plugin's own
/// children, iptables say, inherit it). One that does not end within `limit` is left alone, with a
/// warning: so long a plugin hangs, and DEL may well free it.
pub(super) async fn wait(sandbox_id: &str, limit: Duration) {
    let id = sandbox_id.to_owned();
    let waited = tokio::task::spawn_blocking(move || wait_blocking(&id, limit)).await;
    match waited.map_err(io::Error::other).and_then(|ended| ended) {
        Ok(true) => {}
        Ok(false) => tracing::warn!(
            sandbox = sandbox_id,
            "a plugin of an earlier run still works"
        ),
        Err(e) => {
            tracing::warn!(sandbox = sandbox_id, error = %e, "look for plugins of earlier runs")
        }
    }
}

fn wait_blocking(sandbox_id: &str, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    let mark = format!("CNI_CONTAINERID={sandbox_id}").into_bytes();
    loop {
        let strays = find(&mark)?;
        if strays.is_empty() {
            return Ok(true);
        }
        for process in strays {
            if !process.wait(deadline.saturating_duration_since(Instant::now()))? {
                return Ok(false);
            }
        }
    }
}

/// The running processes with this variable in their environment.
fn find(mark: &[u8]) -> io::Result<Vec<PidFd>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        // Opened first, so that it is the process whose environment is read, or none.
        let process = match PidFd::open(pid) {
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            other => other?,
        };
        // A process that ends meanwhile, or that the kernel does not show us, is no plugin of ours.
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let is_stray = environment
            .split(|b| *b == 0)
            .any(|variable| variable == mark);
        if is_stray && !process.has_exited()? {
            found.push(process);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::{Command, Stdio};

    #[test]
    fn a_stray_is_waited_for() {
        let id = format!("stray-test-{}", std::process::id());
        assert!(wait_blocking(&id, Duration::ZERO).unwrap());
        let mut child = Command::new("sh")
            .args(["-c", "echo up; read line"])
            .env("CNI_CONTAINERID", &id)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Until it has said so, the child may still be a copy of this process.
        let mut up = [0; 3];
        child.stdout.take().unwrap().read_exact(&mut up).unwrap();
        assert!(!wait_blocking(&id, Duration::from_millis(1)).unwrap());
        let input = child.stdin.take();
        let waiting = std::thread::spawn(move || wait_blocking(&id, Duration::from_secs(10)));
        drop(input);
        assert!(waiting.join().unwrap().unwrap());
        child.wait().unwrap();
    }
}
