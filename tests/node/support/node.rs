//! A machine with the daemon running on it, set up by hand (not by the installer): for tests of what
//! pods and containers do.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crio_setup::host::command::Output;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::Machine;
use super::running::Running;

const CONFIG: &str = r#"[crio]
root = "/var/lib/ocid"
runroot = "/run/ocid"

[crio.api]
listen = "/run/ocid/ocid.sock"

[crio.runtime]
cgroup_manager = "cgroupfs"

[crio.network]
network_dir = "/etc/cni/net.d"
plugin_dirs = ["/usr/lib/cni"]
"#;

const NETWORK: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "mynet",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "ipMasq": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{ "subnet": "10.88.0.0/16" }]],
        "routes": [{ "dst": "0.0.0.0/0" }]
      }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
"#;

/// The daemon of a node, told to be ready by itself.
pub struct Daemon {
    running: Running,
}

impl Daemon {
    /// Starts `ocid --debug` as the tutorial does and waits for its `READY=1`.
    pub fn start(machine: &Machine) -> Result<Self> {
        Self::start_with(machine, &[])
    }

    /// The same with more in its environment.
    pub fn start_with(machine: &Machine, env: &[(&str, &str)]) -> Result<Self> {
        // The name may not be there yet: sd_notify(3) wants a socket that only this start listens on.
        let name = "/run/test-notify.sock";
        let path = machine.path(name);
        if machine.exists(name) {
            std::fs::remove_file(&path)?;
        }
        let notify = UnixDatagram::bind(&path).with_context(|| path.display().to_string())?;
        notify.set_read_timeout(Some(Duration::from_secs(20)))?;
        let ocid = machine.product("ocid")?;
        let mut env = env.to_vec();
        env.push(("NOTIFY_SOCKET", name));
        let running = machine.spawn(&[&ocid, "--debug"], &env)?;
        loop {
            let mut message = [0; 4096];
            let length = notify.recv(&mut message).with_context(|| {
                format!(
                    "ocid did not become ready; it printed:\n{}",
                    running.output()
                )
            })?;
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            if message.lines().any(|line| line == "READY=1") {
                std::fs::remove_file(&path)?;
                return Ok(Self { running });
            }
        }
    }

    /// Sends a signal and waits for the end.
    pub fn end(mut self, signal: Signal) -> Result<()> {
        self.running.signal(signal)?;
        self.running.wait()?;
        Ok(())
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self) -> Result<()> {
        self.running.wait()?;
        Ok(())
    }

    /// Sends a signal and goes on.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running.signal(signal)
    }

    /// Waits for a line of its output that holds `text`.
    pub fn line_with(&self, text: &str) -> Result<String> {
        self.running.line_with(text, Duration::from_secs(60))
    }

    pub fn pid(&self) -> Result<i32> {
        self.running.pid()
    }

    pub fn output(&self) -> String {
        self.running.output()
    }
}

/// Writes the daemon's configuration and a network like the tutorial's.
pub fn configure(machine: &Machine) -> Result<()> {
    machine.write("/etc/ocid/ocid.conf", CONFIG, 0o644)?;
    machine.write("/etc/cni/net.d/10-mynet.conflist", NETWORK, 0o644)
}

/// Runs `ocic` with arguments; whatever its exit status.
pub fn ocic(machine: &Machine, arguments: &[&str]) -> Result<Output> {
    let program = machine.product("ocic")?;
    let mut argv = vec![program.as_str()];
    argv.extend(arguments);
    machine.output(&argv)
}

/// Runs `ocic`, which must succeed; its standard output, trimmed.
pub fn ocic_ok(machine: &Machine, arguments: &[&str]) -> Result<String> {
    let program = machine.product("ocic")?;
    let mut argv = vec![program.as_str()];
    argv.extend(arguments);
    machine.run(&argv)
}

/// Runs `ocic ... --output json` and parses what it prints.
pub fn ocic_json(machine: &Machine, arguments: &[&str]) -> Result<Value> {
    let mut arguments = arguments.to_vec();
    arguments.extend(["--output", "json"]);
    let text = ocic_ok(machine, &arguments)?;
    serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
}

/// Runs `ocic`, which must fail with exit code `code` and an error that holds every one of `words`.
pub fn ocic_fails(
    machine: &Machine,
    arguments: &[&str],
    code: i32,
    words: &[&str],
) -> Result<String> {
    let output = ocic(machine, arguments)?;
    fails(
        &format!("ocic {}", arguments.join(" ")),
        &output,
        code,
        words,
    )
}

/// Checks that a command failed as it should; its error text.
pub fn fails(what: &str, output: &Output, code: i32, words: &[&str]) -> Result<String> {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let all = format!("{}{error}", String::from_utf8_lossy(&output.stdout));
    ensure!(
        output.status.code() == Some(code),
        "`{what}`: {} instead of exit code {code}:\n{all}",
        output.status
    );
    for word in words {
        ensure!(
            error.to_lowercase().contains(&word.to_lowercase()),
            "`{what}`: the error does not speak of `{word}`:\n{error}"
        );
    }
    ensure!(
        !error.contains("panicked"),
        "`{what}`: a panic is no error message:\n{error}"
    );
    Ok(error)
}
