//! A throwaway machine per test, made by `machine.sh`: the host's root behind an overlay in memory,
//! in namespaces and cgroups of its own. A test installs, breaks and kills in it at will; two tests
//! (or two runs) never meet, and the machine goes, whole, when its [`Machine`] is dropped or dies.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crio_setup::host::command::{Command, Output};
use nix::sched::{CloneFlags, setns};

use super::running::Running;
use super::{binary, repository};

const PREFIX: &str = "crio-setup-test-";
/// What a login shell of root would have; nothing of the test runner's environment gets in.
const ENVIRONMENT: [(&str, &str); 3] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("HOME", "/root"),
    ("LANG", "C.UTF-8"),
];
/// Joins the cgroups named in its first argument, then becomes the rest.
const ENTER: &str =
    r#"for g in $1; do echo $$ >"$g/cgroup.procs" || exit 125; done; shift; exec "$@""#;

/// The packages that `install` may bring.
pub const BROUGHT: [&str; 7] = [
    "runc",
    "containernetworking-plugins",
    "iptables",
    "docker.io",
    "containerd",
    "crun",
    "tini",
];
/// What would make a machine less bare although its package is gone.
const PROGRAMS: [(&str, &str); 3] = [
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("docker.io", "dockerd"),
];

static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct Machine {
    outer: Child,
    stdin: Option<ChildStdin>,
    pid: i32,
    cgroups: Vec<PathBuf>,
}

impl Machine {
    /// A machine as the host is, with nothing of the product installed and a shell as its init.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// The same, with folders of the host that are seen inside, each as `OUTSIDE:INSIDE`.
    pub fn start_with(binds: &[String]) -> Result<Self> {
        Self::make("shell", binds, None)
    }

    /// The same with systemd as its init, booted.
    pub fn boot() -> Result<Self> {
        Self::boot_from(None)
    }

    /// The same from the tree of an image, a folder of the host, with what is enabled there.
    pub fn boot_image(tree: &Path) -> Result<Self> {
        Self::boot_from(Some(tree))
    }

    fn boot_from(tree: Option<&Path>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let notify = UnixDatagram::bind(folder.path().join("notify"))?;
        notify.set_read_timeout(Some(Duration::from_secs(60)))?;
        let machine = Self::make(
            "systemd",
            &[format!("{}:/run/host", folder.path().display())],
            tree,
        )?;
        let mut message = [0; 4096];
        loop {
            let length = notify
                .recv(&mut message)
                .context("systemd did not come up")?;
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            if message.lines().any(|line| line == "READY=1") {
                break;
            }
        }
        // Units may fail on a machine like this one; none does unless something is wrong with it.
        machine.run(&["systemctl", "is-system-running", "--wait"])?;
        Ok(machine)
    }

    fn make(init: &str, binds: &[String], tree: Option<&Path>) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "whole-node tests run as root"
        );
        sweep();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}", std::process::id());
        let script = repository().join("tests/node/support/machine.sh");
        let mut outer = std::process::Command::new("bash");
        if let Some(tree) = tree {
            outer.env("MACHINE_ROOT", tree);
        }
        let mut outer = outer
            .arg(&script)
            .args(["outside", &name, init])
            .args(foreign_folders()?)
            .args(binds)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start bash")?;
        let stdin = outer.stdin.take();
        let stdout = outer.stdout.take().context("no pipe")?;
        let mut machine = Self {
            outer,
            stdin,
            pid: 0,
            cgroups: Vec::new(),
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        machine.cgroups = folders_named(&name);
        ensure!(
            line.trim() == "ready",
            "the machine did not come up: see what `machine.sh` printed"
        );
        let unshare = only_child(machine.outer.id())?;
        machine.pid = only_child(unshare.try_into()?)?;
        // On version 2 no process may stand where controllers are handed on, not even one that is seen from outside only.
        let inits = machine.cgroups.iter().map(|group| group.join("init"));
        for init in inits.filter(|init| init.is_dir()) {
            for pid in [machine.outer.id().to_string(), unshare.to_string()] {
                fs::write(init.join("cgroup.procs"), pid)?;
            }
        }
        // Another runc than the distribution's, where the caller names one; an image has its own.
        let other = std::env::var_os("CRIO_SETUP_TEST_RUNC").filter(|_| tree.is_none());
        if let Some(runc) = other {
            machine.write("/usr/sbin/runc", fs::read(runc)?, 0o755)?;
        }
        Ok(machine)
    }

    /// A machine with none of the packages that `install` may bring.
    pub fn bare() -> Result<Self> {
        Self::start()?.without(&BROUGHT)
    }

    /// Takes packages off the machine; their programs must be gone with them.
    pub fn without(self, packages: &[&str]) -> Result<Self> {
        let machine = self;
        let present: Vec<&str> = packages
            .iter()
            .copied()
            .filter(|package| machine.has_package(package))
            .collect();
        if !present.is_empty() {
            let mut argv = vec!["apt-get", "-qq", "-y", "purge"];
            argv.extend(&present);
            machine.run(&argv)?;
        }
        for (package, program) in PROGRAMS {
            if !packages.contains(&package) {
                continue;
            }
            let found = machine.output(&["sh", "-c", &format!("command -v {program}")])?;
            ensure!(
                !found.status.success(),
                "`{program}` is still on the machine: {}",
                String::from_utf8_lossy(&found.stdout)
            );
        }
        Ok(machine)
    }

    pub fn has_package(&self, package: &str) -> bool {
        self.run(&["dpkg-query", "-W", "-f", "${db:Status-Status}", package])
            .is_ok_and(|status| status == "installed")
    }

    /// A command inside, as root from `/`, with a login shell's environment and a limit of 5 minutes.
    pub fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("sh")
            .args(self.entry())
            .args(argv)
            .env_clear()
            .limit(Duration::from_secs(300));
        for (key, value) in ENVIRONMENT {
            command = command.env(key, value);
        }
        command
    }

    /// Runs a command inside, whatever its exit status; on a thread of its own, so that an async test
    /// may call it too.
    pub fn output(&self, argv: &[&str]) -> Result<Output> {
        let command = self.command(argv);
        let output = std::thread::scope(|scope| scope.spawn(|| command.output()).join());
        Ok(output.map_err(|_| anyhow::anyhow!("`{}` panicked", argv.join(" ")))??)
    }

    /// Runs a command inside that must succeed; its standard output, trimmed.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let output = self.output(argv)?;
        ensure!(
            output.status.success(),
            "`{}`: {}\n{}{}",
            argv.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Starts a command inside that stays; its output is collected line by line.
    pub fn spawn(&self, argv: &[&str], env: &[(&str, &str)]) -> Result<Running> {
        let mut command = std::process::Command::new("sh");
        command
            .args(self.entry())
            .args(argv)
            .env_clear()
            .envs(ENVIRONMENT)
            .envs(env.iter().copied());
        Running::spawn(command).with_context(|| format!("start `{}`", argv.join(" ")))
    }

    fn entry(&self) -> Vec<String> {
        let groups: Vec<String> = self
            .cgroups
            .iter()
            .map(|g| {
                let init = g.join("init");
                let g = if init.is_dir() { &init } else { g };
                g.display().to_string()
            })
            .collect();
        let pid = self.pid.to_string();
        ["-c", ENTER, "enter", &groups.join(" "), "nsenter", "-t"]
            .into_iter()
            .chain([pid.as_str(), "-m", "-n", "-p", "-u", "-i", "-C", "-r", "-w"])
            .map(str::to_owned)
            .collect()
    }

    /// The host's path of a file inside. An absolute symlink on the way would be the host's.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let relative = inside.strip_prefix("/").unwrap_or(inside);
        Path::new("/proc")
            .join(self.pid.to_string())
            .join("root")
            .join(relative)
    }

    /// The pid of the machine's init as the host sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The cgroup folder of this machine in each hierarchy.
    pub fn cgroups(&self) -> &[PathBuf] {
        &self.cgroups
    }

    /// Writes a file inside, making its folder.
    pub fn write(&self, inside: &str, bytes: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let path = self.path(inside);
        let folder = path.parent().context("no folder")?;
        fs::create_dir_all(folder).with_context(|| format!("create `{}`", folder.display()))?;
        let mut file =
            fs::File::create(&path).with_context(|| format!("create `{}`", path.display()))?;
        file.write_all(bytes.as_ref())?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    pub fn read(&self, inside: &str) -> Result<String> {
        fs::read_to_string(self.path(inside)).with_context(|| format!("read `{inside}` inside"))
    }

    pub fn exists(&self, inside: &str) -> bool {
        fs::symlink_metadata(self.path(inside)).is_ok()
    }

    /// The release binary under the three names, as a link farm outside the folders that `install`
    /// writes to; returns the path of the one called `name`.
    pub fn product(&self, name: &str) -> Result<String> {
        let folder = "/srv/under-test";
        let target = format!("{folder}/{name}");
        if !self.exists(&target) {
            fs::create_dir_all(self.path(folder))?;
            std::os::unix::fs::symlink(binary(), self.path(&target))?;
        }
        Ok(target)
    }

    /// Runs `action` on a thread inside the machine's network.
    pub fn inside<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let net = fs::File::open(format!("/proc/{}/ns/net", self.pid))?;
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(net, CloneFlags::CLONE_NEWNET).context("enter the network")?;
                    action()
                })
                .join()
                .map_err(|_| anyhow::anyhow!("the thread in the machine's network panicked"))?
        })
    }

    /// A TCP connection from inside, with a limit of 10 s on each operation.
    pub fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        let limit = Duration::from_secs(10);
        let stream = self.inside(|| {
            TcpStream::connect_timeout(&to, limit).with_context(|| format!("connect to {to}"))
        })?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(stream)
    }

    /// A listening socket inside that this process serves.
    pub fn listen(&self, on: SocketAddr) -> Result<TcpListener> {
        self.inside(|| TcpListener::bind(on).with_context(|| format!("listen on {on}")))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if let Err(error) = self.outer.wait() {
            eprintln!("wait for the machine's end: {error}");
        }
        for cgroup in &self.cgroups {
            let deadline = Instant::now() + Duration::from_secs(5);
            while let Err(error) = remove_cgroup(cgroup) {
                // The last process of it may still be ending; no event tells of that on version 1.
                let busy = error.raw_os_error() == Some(nix::libc::EBUSY);
                if !busy || Instant::now() > deadline {
                    eprintln!("remove `{}`: {error}", cgroup.display());
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Folders that a machine must see although they are not on the root's file system, or are where it has
/// file systems of its own.
fn foreign_folders() -> Result<BTreeSet<PathBuf>> {
    let root = fs::metadata("/")?.dev();
    let binary = binary();
    let folder = binary.parent().context("the binary has no folder")?;
    let mut foreign = BTreeSet::new();
    for path in [repository().as_path(), folder] {
        let hidden = ["/tmp", "/run", "/var/lib"]
            .iter()
            .any(|own| path.starts_with(own));
        if hidden || fs::metadata(path)?.dev() != root {
            foreign.insert(path.to_owned());
        }
    }
    Ok(foreign)
}

fn only_child(pid: u32) -> Result<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    match children.split_whitespace().next() {
        Some(child) => Ok(child.parse()?),
        None => bail!("process {pid} has no child"),
    }
}

fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found = BTreeSet::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(dir), Some("cgroup" | "cgroup2")) = (fields.next(), fields.next()) {
            found.insert(PathBuf::from(dir));
        }
    }
    found.into_iter().collect()
}

fn folders_named(name: &str) -> Vec<PathBuf> {
    cgroup_mounts()
        .into_iter()
        .map(|mount| mount.join(name))
        .filter(|folder| folder.is_dir())
        .collect()
}

/// Removes a tree of empty cgroups, deepest first.
fn remove_cgroup(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

/// Removes the cgroups of machines whose test process was killed; those are empty.
fn sweep() {
    for mount in cgroup_mounts() {
        for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // Another run may be at it too, or its last process still ending; the next sweeps.
                remove_cgroup(&entry.path()).unwrap_or_default();
            }
        }
    }
}
