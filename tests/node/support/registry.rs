//! The distribution's `docker-registry`, serving inside a machine on its loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Machine;
use super::http::{Reply, request};
use super::image::{Blob, Image};
use super::running::Running;

pub struct Registry {
    address: SocketAddr,
    // Ends with the registry's owner.
    _process: Running,
}

impl Registry {
    pub fn start(machine: &Machine, port: u16) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let config = format!(
            "version: 0.1\nlog: {{ level: info }}\nstorage: {{ filesystem: {{ rootdirectory: /srv/registry-{port} }} }}\nhttp: {{ addr: '{address}' }}\n"
        );
        let path = format!("/srv/registry-{port}.yml");
        machine.write(&path, config, 0o644)?;
        let process = machine.spawn(&["docker-registry", "serve", &path], &[])?;
        process
            .line_with("listening on", Duration::from_secs(20))
            .context("`apt-get install docker-registry` brings the registry")?;
        Ok(Self {
            address,
            _process: process,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Pushes an image and returns the reference it can be pulled by.
    pub fn push(&self, machine: &Machine, name: &str, tag: &str, image: &Image) -> Result<String> {
        for blob in &image.blobs {
            self.blob(machine, name, blob)?;
        }
        self.manifest(machine, name, &image.manifest.digest(), &image.manifest)?;
        self.manifest(machine, name, tag, &image.index)?;
        Ok(format!("{}/{name}:{tag}", self.address))
    }

    fn blob(&self, machine: &Machine, name: &str, blob: &Blob) -> Result<()> {
        let start = format!("/v2/{name}/blobs/uploads/");
        let reply = request(machine, self.address, "POST", &start, "text/plain", b"")?;
        expect(&reply, 202, &start)?;
        let location = reply.header("Location").context("no upload location")?;
        let path = location
            .split_once("/v2/")
            .map(|(_, rest)| format!("/v2/{rest}"))
            .context("an upload location outside /v2/")?;
        let put = format!("{path}&digest={}", blob.digest());
        let octets = "application/octet-stream";
        let reply = request(machine, self.address, "PUT", &put, octets, &blob.bytes)?;
        expect(&reply, 201, &put)
    }

    fn manifest(&self, machine: &Machine, name: &str, tag: &str, blob: &Blob) -> Result<()> {
        let put = format!("/v2/{name}/manifests/{tag}");
        let (kind, bytes) = (blob.media_type, &blob.bytes);
        let reply = request(machine, self.address, "PUT", &put, kind, bytes)?;
        expect(&reply, 201, &put)
    }
}

fn expect(reply: &Reply, status: u16, what: &str) -> Result<()> {
    ensure!(
        reply.status == status,
        "{what}: status {} instead of {status}: {}",
        reply.status,
        String::from_utf8_lossy(&reply.body)
    );
    Ok(())
}
