//! Clients of streams: our own SPDY end, a WebSocket, and an API server of a few lines that real `kubectl` talks to.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use crio_setup::cri::v1;
use crio_setup::host::namespace;
use crio_setup::ocic::client::{Client, ClientError};
use crio_setup::ocic::stream::{self, Ended, Remote};
use crio_setup::spdy::{Connection, StreamReader};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::World;

/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What may differ afterwards: kubectl's cache, and the link-local address that the bridge gets some seconds after
/// its first pod.
pub const STREAMED: [&str; 2] = ["/tmp", "fe80::"];

/// Which streams, in the order stdin, stdout, stderr, tty.
pub type Wanted = [bool; 4];

pub async fn exec_url(
    world: &World,
    id: &str,
    command: &[&str],
    [stdin, stdout, stderr, tty]: Wanted,
) -> Result<String, ClientError> {
    let request = v1::ExecRequest {
        container_id: id.to_owned(),
        cmd: command.iter().map(|&word| word.to_owned()).collect(),
        tty,
        stdin,
        stdout,
        stderr,
    };
    let answer = world.client.runtime().exec(request).await;
    let refused = |status| ClientError::Refused {
        rpc: "Exec",
        status,
    };
    Ok(answer.map_err(refused)?.into_inner().url)
}

/// The address in a URL.
pub fn address(url: &str) -> Result<SocketAddr> {
    let rest = url.split("://").nth(1).context("no scheme")?;
    let authority = rest.split('/').next().context("no authority")?;
    authority.parse().with_context(|| url.to_owned())
}

/// A connection from inside the machine with this init.
pub fn dial(machine: i32, to: SocketAddr) -> Result<TcpStream> {
    let net = format!("/proc/{machine}/ns/net");
    let connect = || std::net::TcpStream::connect_timeout(&to, LIMIT);
    let stream = namespace::run_in(Path::new(&net), connect)??;
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream)?)
}

pub async fn spdy(world: &World, url: &str, protocol: &'static str) -> Result<Connection> {
    let io = dial(world.machine.pid(), address(url)?)?;
    Ok(stream::upgrade(io, url, protocol).await?)
}

pub async fn remote(world: &World, url: &str, wanted: Wanted) -> Result<Remote> {
    let connection = spdy(world, url, stream::REMOTE).await?;
    Ok(Remote::open(connection, wanted).await?)
}

pub async fn exec(world: &World, id: &str, command: &[&str], wanted: Wanted) -> Result<Remote> {
    let url = exec_url(world, id, command, wanted).await?;
    remote(world, &url, wanted).await
}

/// Everything until the end, with a limit.
pub async fn all(reader: Option<StreamReader>) -> Result<Vec<u8>> {
    let mut reader = reader.context("no such stream")?;
    let mut all = Vec::new();
    let read = async {
        while let Some(bytes) = reader.read().await? {
            all.extend_from_slice(&bytes);
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LIMIT, read)
        .await
        .context("no end")??;
    Ok(all)
}

/// Reads until `text` has come; all that came.
pub async fn until(reader: &mut StreamReader, text: &str) -> Result<String> {
    let mut all = String::new();
    let read = async {
        while !all.contains(text) {
            let bytes = reader.read().await?.context("the end")?;
            all.push_str(&String::from_utf8_lossy(&bytes));
        }
        anyhow::Ok(())
    };
    let read = tokio::time::timeout(LIMIT, read).await;
    read.with_context(|| format!("no `{text}` in {all:?}"))??;
    Ok(all)
}

pub async fn ended(remote: &mut Remote) -> Result<Ended> {
    let ended = tokio::time::timeout(LIMIT, remote.ended()).await;
    Ok(ended.context("no end was told")??)
}

pub async fn write(remote: &mut Remote, data: impl Into<Bytes>) -> Result<()> {
    let stdin = remote.stdin.as_mut().context("no input")?;
    let written = tokio::time::timeout(LIMIT, stdin.write(data.into())).await;
    Ok(written.context("nobody takes it")??)
}

pub async fn close(remote: &mut Remote) -> Result<()> {
    let mut stdin = remote.stdin.take().context("no input")?;
    Ok(stdin.finish().await?)
}

/// A pod and a container as kubectl sees them, and the daemon behind them.
pub struct ApiServer {
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What it serves: the pod `pod` with the container `main`.
pub struct Behind {
    pub pod: String,
    pub container: String,
    pub tty: bool,
}

impl ApiServer {
    pub fn start(world: &World, behind: Behind) -> Result<Self> {
        let listener = world.machine.listen("127.0.0.1:0".parse()?)?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let node = Arc::new((world.machine.pid(), world.client.clone(), behind));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let node = Arc::clone(&node);
                tokio::spawn(async move {
                    if let Err(error) = serve(&node, stream).await {
                        eprintln!("the API server: {error:#}");
                    }
                });
            }
        });
        Ok(Self { address, task })
    }

    /// Runs kubectl inside the machine; its standard output and error. `input` is a line of shell before the pipe.
    pub fn kubectl(
        &self,
        world: &World,
        env: &str,
        before: &str,
        words: &str,
    ) -> (i32, String, String) {
        let line = format!(
            "{before} {env} HOME=/tmp/kube timeout 120 kubectl --server=http://{} {words}",
            self.address
        );
        match world.machine.output(&["sh", "-c", &line]) {
            Ok(output) => (
                output.status.code().unwrap_or(-1),
                String::from_utf8_lossy(&output.stdout).into_owned(),
                String::from_utf8_lossy(&output.stderr).into_owned(),
            ),
            Err(error) => (-1, String::new(), format!("{error:#}")),
        }
    }
}

/// The machine's init, the daemon's client, and what stands behind the API.
type Node = (i32, Client, Behind);

async fn serve((machine, cri, behind): &Node, mut client: TcpStream) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if client.read(&mut byte).await? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
        ensure!(head.len() < 65_536, "a long head");
    }
    let head = String::from_utf8(head)?;
    let (line, headers) = head.split_once("\r\n").context("no request line")?;
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pod = "/api/v1/namespaces/default/pods/pod";
    let answer = match path {
        "/version" => json!({ "major": "1", "minor": "32", "gitVersion": "v1.32.4" }),
        "/api" => json!({ "kind": "APIVersions", "versions": ["v1"] }),
        "/apis" => json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] }),
        "/api/v1" => json!({
            "kind": "APIResourceList", "groupVersion": "v1",
            "resources": [{
                "name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod",
                "verbs": ["get", "list"], "shortNames": ["po"]
            }]
        }),
        _ if path == pod => json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": { "name": "pod", "namespace": "default", "uid": "uid" },
            "spec": { "containers": [{
                "name": "main", "image": "busybox", "stdin": true, "tty": behind.tty
            }] },
            "status": { "phase": "Running" }
        }),
        _ => {
            let verb = path
                .strip_prefix(pod)
                .and_then(|rest| rest.strip_prefix('/'));
            let url = url(cri, behind, verb.unwrap_or(path), query).await?;
            let mut server = dial(*machine, address(&url)?)?;
            let token = url.splitn(4, '/').nth(3).context("no path")?;
            let head = format!("{method} /{token} HTTP/1.1\r\n{headers}");
            server.write_all(head.as_bytes()).await?;
            // However it ends, it is the client's to judge.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            return Ok(());
        }
    };
    let body = answer.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.write_all((head + &body).as_bytes()).await?;
    client.shutdown().await?;
    Ok(())
}

/// The daemon's URL for what kubectl asks for.
async fn url(cri: &Client, behind: &Behind, verb: &str, query: &str) -> Result<String> {
    let pairs: Vec<(&str, String)> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key, decode(value)))
        .collect();
    let is = |name: &str| {
        pairs
            .iter()
            .any(|(key, value)| *key == name && value == "true")
    };
    let mut runtime = cri.runtime();
    Ok(match verb {
        "exec" => {
            let words = pairs.iter().filter(|(key, _)| *key == "command");
            let request = v1::ExecRequest {
                container_id: behind.container.clone(),
                cmd: words.map(|(_, value)| value.clone()).collect(),
                tty: is("tty"),
                stdin: is("stdin"),
                stdout: is("stdout"),
                stderr: is("stderr"),
            };
            runtime.exec(request).await?.into_inner().url
        }
        "attach" => {
            let request = v1::AttachRequest {
                container_id: behind.container.clone(),
                tty: is("tty"),
                stdin: is("stdin"),
                stdout: is("stdout"),
                stderr: is("stderr"),
            };
            runtime.attach(request).await?.into_inner().url
        }
        "portforward" => {
            let request = v1::PortForwardRequest {
                pod_sandbox_id: behind.pod.clone(),
                port: Vec::new(),
            };
            runtime.port_forward(request).await?.into_inner().url
        }
        other => bail!("kubectl asks for `{other}`"),
    })
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap_or(0), rest.next().unwrap_or(0)];
                let digits = String::from_utf8_lossy(&digits).into_owned();
                u8::from_str_radix(&digits, 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
