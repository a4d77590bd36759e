//! A tree to install into, releases to install, a listing to compare, and the program under test.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Served files by path; one without content is announced and never comes.
type Files = Arc<Mutex<BTreeMap<String, Option<Vec<u8>>>>>;

/// A tree of an image, with things of the user's in it, and an upstream on loopback.
pub struct Tree {
    dir: tempfile::TempDir,
    files: Files,
    address: std::net::SocketAddr,
}

const ARCH: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};
pub const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];
const DOCKER: [&str; 4] = ["containerd", "docker", "dockerd", "runc"];

impl Tree {
    pub fn new() -> Result<Self> {
        // In memory where that is possible: hundreds of runs, each of which syncs to disk a lot.
        let dir = tempfile::Builder::new()
            .prefix("crio-setup-test-")
            .tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let files = Files::default();
        let served = files.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let served = served.clone();
                // A client that goes away is its own business.
                std::thread::spawn(move || serve(stream, &served).unwrap_or_default());
            }
        });
        // A smaller copy of the program makes hundreds of installs quicker; any copy will do.
        let program = dir.path().join("crio-setup");
        let built = env!("CARGO_BIN_EXE_crio-setup");
        let stripped = Command::new("strip")
            .args(["-o".as_ref(), program.as_os_str(), built.as_ref()])
            .status();
        if !stripped.is_ok_and(|status| status.success()) {
            fs::copy(built, &program)?;
        }
        let tree = Self {
            dir,
            files,
            address,
        };
        tree.release("1.5.2")?;
        tree.fill()?;
        Ok(tree)
    }

    /// The user's things: some in our way, some beside it.
    fn fill(&self) -> Result<()> {
        let root = self.root();
        for folder in [
            "etc/ocid",
            "etc/cni/net.d",
            "opt/cni/bin",
            "usr/local/bin",
            "var/lib",
        ] {
            fs::create_dir_all(root.join(folder))?;
        }
        let crictl = root.join("etc/crictl.yaml");
        fs::write(&crictl, "theirs\n")?;
        fs::set_permissions(&crictl, fs::Permissions::from_mode(0o640))?;
        let plugin = root.join("opt/cni/bin/theirs");
        fs::write(&plugin, "their plugin")?;
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_500_000_000, 123_456_789);
        for file in [crictl, plugin] {
            fs::File::options()
                .write(true)
                .open(file)?
                .set_modified(time)?;
        }
        symlink("nowhere", root.join("usr/local/bin/ocic"))?;
        Ok(())
    }

    /// The same tree as after [`Tree::new`], whatever happened to it.
    pub fn reset(&self) -> Result<()> {
        fs::remove_dir_all(self.root())?;
        self.fill()
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    pub fn read(&self, path: &str) -> Result<String> {
        let path = self.path(path);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    pub fn catalog(&self) -> PathBuf {
        self.dir.path().join("catalog.json")
    }

    /// Publishes a release of everything, and a catalog of it.
    pub fn release(&self, version: &str) -> Result<()> {
        let program = |name: &str| format!("#!/bin/sh\necho {name} version {version}\n");
        let plugin = format!(
            "#!/bin/sh\n# {version}\necho '{{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.4.0\",\"1.0.0\",\"1.1.0\"]}}'\n"
        );
        let plugins = tgz(PLUGINS
            .iter()
            .map(|name| (format!("./{name}"), plugin.clone()))
            .chain([("./LICENSE".to_owned(), "text".to_owned())]))?;
        let docker = tgz(DOCKER
            .iter()
            .map(|name| (format!("docker/{name}"), program(name))))?;
        let runc = program("runc").into_bytes();
        let entry = |component: &str, kind: &str, bytes: &[u8], strip: u8, members: &[&str]| {
            json!({
                "component": component,
                "version": version,
                "arch": ARCH,
                "kind": kind,
                "url": format!("http://{}/{component}", self.address),
                "sha256": hash(bytes),
                "strip": strip,
                "members": members,
            })
        };
        let catalog = json!({ "artifacts": [
            entry("runc", "binary", &runc, 0, &[]),
            entry("cni-plugins", "tgz", &plugins, 0, &PLUGINS),
            entry("docker", "tgz", &docker, 1, &DOCKER),
        ]});
        fs::write(self.catalog(), catalog.to_string())?;
        for (name, bytes) in [("runc", runc), ("cni-plugins", plugins), ("docker", docker)] {
            self.serve(name, Some(bytes))?;
        }
        Ok(())
    }

    /// Serves other content, or none at all, in place of a component's file.
    pub fn serve(&self, component: &str, bytes: Option<Vec<u8>>) -> Result<()> {
        let mut files = self.files.lock().ok().context("a server thread panicked")?;
        files.insert(format!("/{component}"), bytes);
        Ok(())
    }

    /// `crio-setup` with arguments, for this tree.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.dir.path().join("crio-setup"));
        command.args(arguments).arg("--root").arg(self.root());
        // Nothing of this test run's own surroundings.
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    pub fn install_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&["install"]);
        command.arg("--catalog").arg(self.catalog()).args(arguments);
        command
    }

    /// `install` from upstream over the user's files, which must succeed; its report.
    pub fn install(&self, arguments: &[&str]) -> Result<Value> {
        let all = [&["--source", "upstream", "--replace-foreign"], arguments].concat();
        let mut command = self.install_command(&all);
        json_of(&mut command)
    }

    pub fn uninstall(&self, arguments: &[&str]) -> Result<Value> {
        json_of(&mut self.command(&[&["uninstall"], arguments].concat()))
    }

    /// Every path with type, mode, owner, content and, for what is no folder, its mtime; with
    /// `times` also the ctimes, and the folders' times.
    pub fn list(&self, times: bool) -> Result<BTreeMap<PathBuf, String>> {
        let mut listing = BTreeMap::new();
        walk(&self.root(), Path::new("/"), times, &mut listing)?;
        Ok(listing)
    }
}

fn json_of(command: &mut Command) -> Result<Value> {
    let output = command.arg("--output").arg("json").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{said}",
        output.status
    );
    serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
}

/// Checks how a command ended and that its stderr speaks of `words`; the stderr.
pub fn ended(output: &Output, code: i32, words: &[&str]) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(code),
        "{} instead of {code}:\n{said}",
        output.status
    );
    for word in words {
        ensure!(said.contains(word), "nothing about `{word}`:\n{said}");
    }
    ensure!(!said.contains("panicked"), "{said}");
    Ok(said)
}

/// The lines in which two listings differ.
pub fn difference(
    before: &BTreeMap<PathBuf, String>,
    after: &BTreeMap<PathBuf, String>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for path in before.keys().chain(after.keys()) {
        let (old, new) = (before.get(path), after.get(path));
        let line = format!("{}: {old:?} => {new:?}", path.display());
        if old != new && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

fn walk(
    real: &Path,
    path: &Path,
    times: bool,
    listing: &mut BTreeMap<PathBuf, String>,
) -> Result<()> {
    let meta = fs::symlink_metadata(real)?;
    let mut entry = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
    if times || !meta.is_dir() && !meta.is_symlink() {
        entry += &format!(" {}.{}", meta.mtime(), meta.mtime_nsec());
    }
    if times {
        entry += &format!(" {}.{}", meta.ctime(), meta.ctime_nsec());
    }
    if meta.is_symlink() {
        entry += &format!(" -> {}", fs::read_link(real)?.display());
    } else if meta.is_file() {
        entry += &format!(" {}", hash(&fs::read(real)?));
    }
    listing.insert(path.to_owned(), entry);
    if meta.is_dir() {
        for child in fs::read_dir(real)? {
            let name = child?.file_name();
            walk(&real.join(&name), &path.join(&name), times, listing)?;
        }
    }
    Ok(())
}

pub fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn tgz(files: impl Iterator<Item = (String, String)>) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content.as_bytes())?;
    }
    Ok(tar.into_inner()?.finish()?)
}

/// One request, one answer.
fn serve(mut stream: TcpStream, files: &Files) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().context("no request")??;
    while lines
        .next()
        .is_some_and(|line| line.is_ok_and(|l| !l.is_empty()))
    {}
    let mut words = request.split(' ');
    let (method, path) = (words.next(), words.next().unwrap_or_default());
    let found = files.lock().ok().and_then(|files| files.get(path).cloned());
    match found {
        None => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        Some(content) => {
            let size = content.as_ref().map_or(1000, Vec::len);
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            match content {
                _ if method == Some("HEAD") => {}
                Some(content) => stream.write_all(&content)?,
                // The client is waited for: it is the one to give up.
                None => drop(lines.next()),
            }
        }
    }
    Ok(())
}

/// Says that a part of a test could not run here and why; the test command counts these lines.
pub fn skip(what: &str, why: &str) -> Result<()> {
    let line = format!("skipped: {what}: {why}\n");
    eprint!("{line}");
    if let Some(file) = std::env::var_os("CRIO_SETUP_TEST_SKIPS") {
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(file)?
            .write_all(line.as_bytes())?;
    }
    Ok(())
}
