//! A bundle with a tiny root file system, a runtime state folder and an exits folder, all in one temporary
//! folder; whatever a test leaves behind is killed and removed when it is dropped.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crio_setup::host::growth::FileWatch;
use crio_setup::host::process::{ProcessId, kill_family};
use crio_setup::ocid::runtime::{
    CreateRequest, Created, ExecOutput, ExecRequest, ExitRecord, ExitWatch, Runtime, RuntimeError,
};
use serde_json::{Value, json};

/// Programs of the machine that containers get, with the libraries they need.
const PROGRAMS: [&str; 5] = ["sh", "sleep", "cat", "stty", "setsid"];

/// How long anything may take on a machine that has much else to do.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The distribution's, or the one that the caller names.
pub fn runc() -> PathBuf {
    std::env::var_os("CRIO_SETUP_TEST_RUNC").map_or_else(|| "/usr/bin/runc".into(), PathBuf::from)
}

pub struct World {
    dir: tempfile::TempDir,
    pub id: String,
    pub runtime: Runtime,
    runtime_path: PathBuf,
    pub config: Value,
    pub request: CreateRequest,
}

impl World {
    /// A container that will run `sh -c SCRIPT`.
    pub fn new(script: &str) -> Self {
        Self::with_runtime(script, &runc())
    }

    pub fn with_runtime(script: &str, runtime_path: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new()
            .prefix("ocid-monitor-")
            .tempdir()
            .unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("ocidtest-{}-{number}", std::process::id());
        let bundle = dir.path().join("bundle");
        let exits_dir = dir.path().join("exits");
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        fs::create_dir(&exits_dir).unwrap();
        root_fs(&bundle.join("rootfs"));
        let runtime = Runtime::new(
            runtime_path.to_owned(),
            dir.path().join("runc"),
            false,
            PathBuf::from(env!("CARGO_BIN_EXE_crio-setup")),
        );
        Self {
            config: config(&id, script),
            request: CreateRequest {
                id: id.clone(),
                bundle,
                log_path: Some(dir.path().join("0.log")),
                tty: false,
                stdin: false,
                stdin_once: false,
                log_size_max: None,
                journal: None,
                exits_dir,
                owner: None,
            },
            dir,
            id,
            runtime,
            runtime_path: runtime_path.to_owned(),
        }
    }

    /// A runtime that is a shell script; `"$@"` are its arguments.
    pub fn scripted(script: &str, runtime: &str) -> Self {
        let mut world = Self::new(script);
        let path = world.dir.path().join("runtime");
        fs::write(&path, format!("#!/bin/sh\n{runtime}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        world.runtime = Runtime::new(
            path,
            world.state_dir(),
            false,
            PathBuf::from(env!("CARGO_BIN_EXE_crio-setup")),
        );
        world
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn bundle(&self) -> &Path {
        &self.request.bundle
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("runc")
    }

    pub fn write_config(&self) {
        let text = serde_json::to_vec(&self.config).unwrap();
        fs::write(self.bundle().join("config.json"), text).unwrap();
    }

    pub async fn create(&self) -> Result<Created, RuntimeError> {
        self.write_config();
        self.runtime.create(&self.request).await
    }

    /// Creates and starts it.
    pub async fn up(&self) -> Created {
        let created = self.create().await.unwrap();
        self.runtime.start(&self.id).await.unwrap();
        created
    }

    /// The exit record, once it is there.
    pub async fn exit(&self) -> ExitRecord {
        let mut watch = ExitWatch::new(self.request.exits_dir.clone()).unwrap();
        let next = tokio::time::timeout(LIMIT, watch.next());
        next.await.expect("no exit record").unwrap()
    }

    /// Runs it from start to end.
    pub async fn run(&self) -> ExitRecord {
        self.up().await;
        self.exit().await
    }

    pub async fn exec(
        &self,
        args: &[&str],
        limit: Option<Duration>,
    ) -> Result<ExecOutput, RuntimeError> {
        let args: Vec<String> = args.iter().map(|&a| a.to_owned()).collect();
        let process = serde_json::from_value(self.config["process"].clone()).unwrap();
        let request = ExecRequest {
            id: &self.id,
            bundle: self.bundle(),
            args: &args,
            process: &process,
            cgroup: None,
            owner: None,
        };
        self.runtime.exec_sync(&request, limit).await
    }

    /// Waits until the log holds `text`: what the container runs has begun, and signals reach it and
    /// not the runtime's own first process.
    pub async fn logged(&self, text: &str) {
        let watch = FileWatch::new(self.request.log_path.as_ref().unwrap()).unwrap();
        let seen = async {
            while !self.log().contains(text) {
                watch.changed().await.unwrap();
            }
        };
        let seen = tokio::time::timeout(LIMIT, seen);
        seen.await.expect("nothing like it in the log");
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.request.log_path.as_ref().unwrap()).unwrap()
    }

    /// The log's lines without their times.
    pub fn log_lines(&self) -> Vec<String> {
        let lines = self.log();
        let lines = lines.lines();
        lines
            .map(|l| l.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    /// Nothing is left of it anywhere but in its folder.
    pub fn assert_gone(&self) {
        assert!(!self.bundle().join("monitor.json").exists());
        assert!(!self.bundle().join("monitor.sock").exists());
        assert!(!self.state_dir().join(&self.id).exists());
        let cgroup = Path::new("/sys/fs/cgroup/memory").join(&self.id);
        assert!(!cgroup.exists(), "{}", cgroup.display());
        let left = self.processes();
        assert!(left.is_empty(), "{left:?}");
    }

    /// Processes that name the container or its folder in their command line, or work in its folder.
    pub fn processes(&self) -> Vec<String> {
        let ours = self.dir.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap() {
            let path = entry.unwrap().path();
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let cwd = fs::read_link(path.join("cwd")).unwrap_or_default();
            let here = cwd.to_string_lossy().starts_with(&ours);
            if !line.is_empty() && (here || line.contains(&ours) || line.contains(&self.id)) {
                found.push(format!("{} {line}", path.display()));
            }
        }
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Ok(text) = fs::read(self.bundle().join("monitor.json"))
            && let Ok(record) = serde_json::from_slice::<Value>(&text)
            && let Ok(monitor) = serde_json::from_value::<ProcessId>(record["monitor"].clone())
            && let Ok(fd) = monitor.open()
        {
            let _ = fd.kill(nix::sys::signal::Signal::SIGKILL);
            let _ = kill_family(monitor.pid, Some(monitor.pid));
        }
        if self.state_dir().join(&self.id).exists() {
            let _ = Command::new(runc())
                .arg("--root")
                .arg(self.state_dir())
                .args(["delete", "--force", &self.id])
                .output();
        }
        let _ = &self.runtime_path;
    }
}

fn config(id: &str, script: &str) -> Value {
    let capabilities = json!(["CAP_KILL", "CAP_CHOWN"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs"},
        "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"},
            ],
        },
    })
}

/// Copies a few programs with what the dynamic linker lists for them.
fn root_fs(root: &Path) {
    for folder in ["bin", "proc", "dev"] {
        fs::create_dir(root.join(folder)).unwrap();
    }
    for program in PROGRAMS {
        let path = ["/bin", "/usr/bin"]
            .map(|d| Path::new(d).join(program))
            .into_iter()
            .find(|p| p.exists())
            .unwrap_or_else(|| panic!("this machine has no `{program}`"));
        fs::copy(&path, root.join("bin").join(program)).unwrap();
        let listed = Command::new("ldd").arg(&path).output().unwrap();
        for word in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
            if !word.starts_with('/') {
                continue;
            }
            let to = root.join(word.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(word, to).unwrap();
        }
    }
}
