//! The files that a pod's containers share: resolv.conf, hosts, hostname, /dev/shm.

use std::fmt::Write;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use super::config::{Dns, NamespaceMode, SandboxConfig};
use crate::host::fs::{read_capped, write_replace};

/// Size of /dev/shm, as containerd and CRI-O have it.
pub const SHM_SIZE: u64 = 64 << 20;
const CAP: u64 = 1 << 20;

/// Where a pod's files stand.
#[derive(Debug, Clone)]
pub struct Files {
    pub resolv_conf: PathBuf,
    pub hosts: PathBuf,
    pub hostname: PathBuf,
    pub shm: PathBuf,
}

impl Files {
    /// Below the pod's folder in the run root.
    pub fn of(folder: &Path) -> Self {
        Self {
            resolv_conf: folder.join("resolv.conf"),
            hosts: folder.join("hosts"),
            hostname: folder.join("hostname"),
            shm: folder.join("shm"),
        }
    }

    /// Writes the three files. `ips` are the pod's, none on the host's network; `owner` is root's of its
    /// user namespace.
    pub fn write(
        &self,
        config: &SandboxConfig,
        hostname: &str,
        ips: &[IpAddr],
        owner: Option<(u32, u32)>,
    ) -> io::Result<()> {
        let resolv_conf = match resolv_conf(&config.dns) {
            Some(text) => text.into_bytes(),
            None => host_file("/etc/resolv.conf")?,
        };
        let hosts = if config.namespaces.network == NamespaceMode::Node {
            host_file("/etc/hosts")?
        } else {
            hosts(hostname, ips).into_bytes()
        };
        write_replace(&self.resolv_conf, &resolv_conf, 0o644)?;
        write_replace(&self.hosts, &hosts, 0o644)?;
        write_replace(&self.hostname, format!("{hostname}\n").as_bytes(), 0o644)?;
        if let Some((uid, gid)) = owner {
            for file in [&self.resolv_conf, &self.hosts, &self.hostname] {
                chown(file, Some(uid), Some(gid))?;
            }
        }
        Ok(())
    }
}

/// A missing file of the host's counts as empty.
fn host_file(path: &str) -> io::Result<Vec<u8>> {
    match read_capped(Path::new(path), CAP) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// resolv.conf(5); None when the pod asks for nothing and takes the host's.
fn resolv_conf(dns: &Dns) -> Option<String> {
    if dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty() {
        return None;
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        let _ = writeln!(text, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    Some(text)
}

/// hosts(5) for a pod with a network of its own.
fn hosts(hostname: &str, ips: &[IpAddr]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for ip in ips {
        let _ = writeln!(text, "{ip}\t{hostname}");
    }
    text
}

/// The machine's own name.
pub fn machine_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_what_was_asked_for() {
        let dns = Dns {
            servers: vec!["10.0.0.10".into(), "10.0.0.11".into()],
            searches: vec!["a.svc".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        };
        let text = resolv_conf(&dns).unwrap();
        assert_eq!(
            text,
            "search a.svc svc\nnameserver 10.0.0.10\nnameserver 10.0.0.11\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&Dns::default()), None);
    }

    #[test]
    fn hosts_names_the_pod() {
        let text = hosts("web", &["10.88.0.2".parse().unwrap()]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("\n10.88.0.2\tweb\n"));
    }
}
