//! PortForward: into pods, over IPv4 and IPv6, by every protocol.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use crio_setup::cri::v1;
use crio_setup::host::namespace;
use crio_setup::ocic::stream::FORWARD;
use crio_setup::spdy::{Connection, Headers, StreamReader, StreamWriter};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::streams::{self, ApiServer, Behind, LIMIT, STREAMED, all, dial};
use crate::world::World;

/// Serves a listener: everything that comes goes back, and once the other side has ended its half, `last`.
pub fn serve(listener: std::net::TcpListener, last: &'static [u8]) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = io.split();
                tokio::io::copy(&mut reader, &mut writer).await?;
                writer.write_all(last).await?;
                writer.shutdown().await
            });
        }
    });
    Ok(())
}

/// Servers on both addresses of a pod's loopback.
fn servers(world: &World, pod: &str) -> Result<()> {
    let net = world.machine.path(format!("/run/ocid/ns/{pod}/net"));
    let bind = || {
        let four = std::net::TcpListener::bind("127.0.0.1:7000")?;
        std::io::Result::Ok([four, std::net::TcpListener::bind("[::1]:7001")?])
    };
    let [four, six] = namespace::run_in(&net, bind)??;
    serve(four, b"bye\n")?;
    serve(six, b"six\n")
}

async fn url(world: &World, pod: &str, ports: &[i32]) -> Result<String> {
    let request = v1::PortForwardRequest {
        pod_sandbox_id: pod.to_owned(),
        port: ports.to_vec(),
    };
    let answer = world.client.runtime().port_forward(request).await?;
    Ok(answer.into_inner().url)
}

struct Forwarded {
    reader: StreamReader,
    writer: StreamWriter,
    error: StreamReader,
}

async fn open(connection: &Connection, request: u32, port: &str) -> Result<Forwarded> {
    let request = request.to_string();
    let headers = |kind| {
        Headers::from([
            ("streamtype", kind),
            ("port", port),
            ("requestid", &request),
        ])
    };
    let (error, mut unused) = connection.open(headers("error")).await?.split();
    unused.finish().await?;
    let (reader, writer) = connection.open(headers("data")).await?.split();
    Ok(Forwarded {
        reader,
        writer,
        error,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_a_pod_are_reached() -> Result<()> {
    let world = World::start().await?;
    let sandbox = world.pod_config("forward");
    let pod = world.run_pod(&sandbox).await?;
    servers(&world, &pod)?;
    let mut host = world.pod_config("host");
    let options = v1::NamespaceOption {
        network: v1::NamespaceMode::Node.into(),
        pid: v1::NamespaceMode::Container.into(),
        ..Default::default()
    };
    host.linux = Some(v1::LinuxPodSandboxConfig {
        security_context: Some(v1::LinuxSandboxSecurityContext {
            namespace_options: Some(options),
            ..Default::default()
        }),
        ..Default::default()
    });
    let host_pod = world.run_pod(&host).await?;
    serve(world.machine.listen("127.0.0.1:7200".parse()?)?, b"bye\n")?;

    let connection = streams::spdy(&world, &url(&world, &pod, &[]).await?, FORWARD).await?;
    // Many at once, more than one port, each half ended on its own.
    let one = async |n: u32| {
        let mut f = open(&connection, n, "7000").await?;
        let sent = Bytes::from(vec![n as u8; 300_000]);
        f.writer.write(sent.clone()).await?;
        f.writer.finish().await?;
        let got = all(Some(f.reader)).await?;
        ensure!(
            got.len() == sent.len() + 4 && got.ends_with(b"bye\n"),
            "{}",
            got.len()
        );
        ensure!(got.starts_with(&sent));
        ensure!(all(Some(f.error)).await?.is_empty());
        let mut six = open(&connection, 1000 + n, "7001").await?;
        six.writer.finish().await?;
        ensure!(all(Some(six.reader)).await? == b"six\n");
        anyhow::Ok(())
    };
    for ended in futures_util::future::join_all((0..30).map(one)).await {
        ended?;
    }
    // What cannot be reached says why, and hurts nobody else.
    for (port, word) in [("9", "refused"), ("0", "not a port"), ("x", "not a port")] {
        let f = open(&connection, 5000, port).await?;
        let why = String::from_utf8(all(Some(f.error)).await?)?;
        ensure!(
            why.contains(word) && why.contains("error forwarding port"),
            "{why}"
        );
    }
    let host_connection =
        streams::spdy(&world, &url(&world, &host_pod, &[]).await?, FORWARD).await?;
    let mut f = open(&host_connection, 1, "7200").await?;
    f.writer.write(Bytes::from_static(b"host\n")).await?;
    f.writer.finish().await?;
    ensure!(all(Some(f.reader)).await? == b"host\nbye\n");

    sockets(&world, &pod).await?;

    // Kubernetes' own client: SPDY, and SPDY in a WebSocket.
    let behind = Behind {
        pod: pod.clone(),
        container: String::new(),
        tty: false,
    };
    let api = ApiServer::start(&world, behind)?;
    for websockets in ["false", "true"] {
        kubectl(&world, &api, websockets)
            .await
            .context(websockets)?;
    }
    drop(api);

    let request = v1::PortForwardRequest {
        pod_sandbox_id: pod.clone(),
        port: vec![70_000],
    };
    let answer = world.client.runtime().port_forward(request).await;
    let status = answer.err().context("port 70000 was taken")?;
    ensure!(status.code() == tonic::Code::InvalidArgument, "{status}");
    world.client.stop_pod_sandbox(&pod).await?;
    let f = open(&connection, 6000, "7000").await?;
    let why = String::from_utf8(all(Some(f.error)).await?)?;
    ensure!(why.contains("stopped"), "{why}");
    world.assert_clean(&STREAMED).await
}

/// The channels of a WebSocket: two per port.
async fn sockets(world: &World, pod: &str) -> Result<()> {
    let url = url(world, pod, &[7000, 9]).await?;
    let io = dial(world.machine.pid(), streams::address(&url)?)?;
    let mut request = url.replacen("http", "ws", 1).into_client_request()?;
    let protocol = "v4.channel.k8s.io".parse()?;
    request
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", protocol);
    let (mut socket, answer) = tokio_tungstenite::client_async(request, io).await?;
    ensure!(answer.headers()["sec-websocket-protocol"] == "v4.channel.k8s.io");
    socket.send(Message::binary(b"\0hello\n".to_vec())).await?;
    let mut channels: [Vec<u8>; 4] = Default::default();
    let read = async {
        while !(channels[0].ends_with(b"hello\n") && channels[3].len() > 2) {
            let message = socket.next().await.context("the end")??;
            let data = message.into_data();
            let (channel, data) = data.split_first().context("an empty message")?;
            channels[usize::from(*channel)].extend_from_slice(data);
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LIMIT, read).await??;
    // Each begins with its port, low byte first.
    ensure!(channels[0] == b"\x58\x1bhello\n", "{channels:?}");
    ensure!(
        channels[1] == b"\x58\x1b" && channels[2] == b"\x09\0",
        "{channels:?}"
    );
    let why = String::from_utf8_lossy(&channels[3][2..]).into_owned();
    ensure!(why.contains("refused"), "{why}");
    Ok(())
}

async fn kubectl(world: &World, api: &ApiServer, websockets: &str) -> Result<()> {
    let port = if websockets == "true" { 17_001 } else { 17_000 };
    let server = format!("--server=http://{}", api.address);
    let mapping = format!("{port}:7000");
    let words = ["kubectl", &server, "port-forward", "pod", &mapping];
    let env = [
        ("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets),
        ("HOME", "/tmp/kube"),
    ];
    let running = world.machine.spawn(&words, &env)?;
    running.line_with("Forwarding from 127.0.0.1", LIMIT)?;
    let one = async |n: u8| {
        let to: SocketAddr = format!("127.0.0.1:{port}").parse()?;
        let mut io = dial(world.machine.pid(), to)?;
        let sent = vec![n; 1_000_000];
        let (mut reader, mut writer) = io.split();
        let send = async {
            writer.write_all(&sent).await?;
            writer.shutdown().await
        };
        let mut got = Vec::new();
        let (read, written) = tokio::join!(reader.read_to_end(&mut got), send);
        read?;
        written?;
        ensure!(
            got.starts_with(&sent) && got.ends_with(b"bye\n"),
            "{}",
            got.len()
        );
        anyhow::Ok(())
    };
    let all = futures_util::future::join_all((0..10).map(one));
    for ended in tokio::time::timeout(LIMIT, all).await? {
        ended?;
    }
    running.signal(nix::sys::signal::Signal::SIGTERM)?;
    Ok(())
}
