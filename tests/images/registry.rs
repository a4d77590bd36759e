//! A real registry: Debian's docker-registry on a free port of loopback.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crio_setup::ocid::image::digest::Digest;
use reqwest::header::{CONTENT_TYPE, LOCATION};

use crate::pack::{Packed, media_type};

/// `u` with the password `secret`, as bcrypt.
const HTPASSWD: &str = "u:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

pub struct Registry {
    process: Child,
    /// `127.0.0.1:PORT`.
    pub host: String,
    dir: tempfile::TempDir,
}

#[derive(Default)]
pub struct Settings<'a> {
    /// Certificate and key.
    pub tls: Option<(&'a Path, &'a Path)>,
    /// Clients need a certificate that this one has signed.
    pub client_authority: Option<&'a Path>,
    pub password: bool,
    /// Serve what another one stores.
    pub storage: Option<PathBuf>,
}

impl Registry {
    pub fn start(settings: Settings<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage = settings
            .storage
            .unwrap_or_else(|| dir.path().join("storage"));
        let mut config = format!(
            "version: 0.1\nlog: {{level: info, formatter: json}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: 127.0.0.1:0\n",
            storage.display()
        );
        if let Some((certificate, key)) = settings.tls {
            let authority = settings.client_authority;
            let clients = authority.map_or(String::new(), |ca| {
                format!(", clientcas: [{}]", ca.display())
            });
            config += &format!(
                "  tls: {{certificate: {}, key: {}{clients}}}\n",
                certificate.display(),
                key.display()
            );
        }
        if settings.password {
            let path = dir.path().join("htpasswd");
            fs::write(&path, HTPASSWD).unwrap();
            config += &format!(
                "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                path.display()
            );
        }
        let path = dir.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        // It logs the port that the kernel gave it once it listens.
        let host = loop {
            let line = lines.next().expect("the registry starts").unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ',']).next().unwrap().to_owned();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, host, dir }
    }

    pub fn storage(&self) -> PathBuf {
        self.dir.path().join("storage")
    }

    /// Pushes an image under a tag, over plain HTTP.
    pub async fn push(&self, repository: &str, tag: &str, image: &Packed) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let base = format!("http://{}/v2/{repository}", self.host);
        let blobs = image.layers.iter().map(|l| &l.blob).chain([&image.config]);
        for blob in blobs {
            let begun = client
                .post(format!("{base}/blobs/uploads/"))
                .send()
                .await
                .unwrap();
            assert_eq!(begun.status(), 202);
            let location = begun.headers()[LOCATION].to_str().unwrap().to_owned();
            let separator = if location.contains('?') { '&' } else { '?' };
            let url = format!("{location}{separator}digest={}", Digest::sha256(blob));
            let done = client.put(url).body(blob.clone()).send().await.unwrap();
            assert_eq!(done.status(), 201);
        }
        self.push_manifest(repository, tag, &image.manifest, media_type(image.form))
            .await;
    }

    pub async fn push_manifest(&self, repository: &str, tag: &str, bytes: &[u8], kind: &str) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.host);
        let put = client
            .put(url)
            .header(CONTENT_TYPE, kind)
            .body(bytes.to_vec());
        let done = put.send().await.unwrap();
        assert_eq!(done.status(), 201, "{}", done.text().await.unwrap());
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
