//! What the streaming server refuses, and the older ways to speak to it.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crio_setup::ocic::stream::Ended;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::streaming_exec::{gone, sleeper};
use crate::streams::{self, LIMIT, STREAMED, dial};
use crate::world::World;

const OUT: [bool; 4] = [false, true, true, false];
const IN_OUT: [bool; 4] = [true, true, true, false];

/// Sends bytes and reads to the end.
async fn ask(world: &World, url: &str, bytes: &[u8]) -> Result<String> {
    let mut io = dial(world.machine.pid(), streams::address(url)?)?;
    let mut said = Vec::new();
    let talk = async {
        io.write_all(bytes).await?;
        // A refusal may be followed by a reset: not everything that was sent has been read.
        let _ = io.read_to_end(&mut said).await;
        anyhow::Ok(())
    };
    tokio::time::timeout(LIMIT, talk)
        .await
        .context("no end")??;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_for_a_stream_is_refused() -> Result<()> {
    let world = World::start().await?;
    let (_, id) = sleeper(&world).await?;
    let url = streams::exec_url(&world, &id, &["true"], OUT).await?;
    let token = url.rsplit('/').next().context("no token")?;
    let path = format!("/exec/{token}");
    const SPDY: &str = "Host: h\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
    const SOCKET: &str = "Host: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let v13 = "Sec-WebSocket-Version: 13\r\n";
    let line = |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\n");
    let post = line("POST", &path);
    let get = line("GET", &path);
    let second = format!("POST {path} HTTP/1.1\r\n{SPDY}\r\n");
    let length = second.len();
    let cases = [
        ("405", line("PUT", &path) + SPDY),
        ("404", line("CONNECT", "h:80") + SPDY),
        ("404", line("POST", "/") + SPDY),
        ("404", line("POST", &format!("/attach/{token}")) + SPDY),
        (
            "404",
            line("POST", &format!("/exec/../exec/{token}")) + SPDY,
        ),
        (
            "404",
            line("POST", &format!("/exec/{}", "0".repeat(32))) + SPDY,
        ),
        ("404", line("POST", &format!("/exec/{token}0")) + SPDY),
        ("400", format!("{post}Host: h\r\n")),
        ("400", format!("{post}Host: h\r\nUpgrade: SPDY/3.1\r\n")),
        (
            "400",
            format!("{post}Host: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"),
        ),
        (
            "403",
            format!("{post}{SPDY}X-Stream-Protocol-Version: v9.channel.k8s.io\r\n"),
        ),
        ("505", format!("POST {path} HTTP/1.0\r\n{SPDY}")),
        ("400", format!("{get}{SOCKET}{v13}")),
        ("400", format!("{get}{SOCKET}{key}")),
        (
            "400",
            format!("{get}{SOCKET}{v13}Sec-WebSocket-Key: short\r\n"),
        ),
        (
            "400",
            format!("{get}{SOCKET}Sec-WebSocket-Version: 8\r\n{key}"),
        ),
        ("400", format!("{post}{SOCKET}{v13}{key}")),
        (
            "403",
            format!("{get}{SOCKET}{v13}{key}Sec-WebSocket-Protocol: chat\r\n"),
        ),
        // What one reader takes for a body, another takes for the next request.
        ("400", format!("{post}{SPDY}Content-Length: {length}\r\n")),
        ("400", format!("{post}{SPDY}Transfer-Encoding: chunked\r\n")),
        (
            "400",
            format!("{post}{SPDY}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
        ),
        (
            "400",
            format!("{post}{SPDY}Transfer-Encoding : chunked\r\n"),
        ),
        (
            "400",
            format!("{post}{SPDY}Content-Length: 0\r\nContent-Length: {length}\r\n"),
        ),
        ("400", format!("{post}{SPDY}Host: other\r\n")),
        (
            "400",
            format!("{post}Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"),
        ),
        ("400", format!("{post}{SPDY}X: a\r\n folded: b\r\n")),
        ("400", "\0\0\0\0 nonsense\r\n".to_owned()),
        ("431", format!("{post}{SPDY}X: {}\r\n", "x".repeat(400_000))),
    ];
    for (status, head) in cases {
        // Each is followed by a good request, which must not be answered.
        let whole = format!("{head}\r\n{second}");
        let said = ask(&world, &url, whole.as_bytes())
            .await
            .context(head.clone())?;
        let (head, shown) = (&head[..head.len().min(300)], &said[..said.len().min(300)]);
        let line = said.lines().next().unwrap_or_default();
        ensure!(line.split(' ').nth(1) == Some(status), "{head}: {shown}");
        let answers = said.lines().filter(|line| line.starts_with("HTTP/1."));
        ensure!(answers.count() == 1, "{head}: {shown}");
    }
    // None of them has used the token up.
    let mut e = streams::remote(&world, &url, OUT).await?;
    ensure!(streams::ended(&mut e).await? == Ended::Exit(0));
    let again = ask(&world, &url, second.as_bytes()).await?;
    ensure!(again.starts_with("HTTP/1.1 404 "), "{again}");
    world.assert_clean(&STREAMED).await
}

/// Runs a command over a WebSocket; what came on each channel, by number.
async fn over_socket(
    world: &World,
    id: &str,
    protocol: &str,
    base64: bool,
) -> Result<BTreeMap<u8, Vec<u8>>> {
    let script = "read line; echo got $line; echo err >&2; exit 7";
    let url = streams::exec_url(world, id, &["sh", "-c", script], IN_OUT).await?;
    let io = dial(world.machine.pid(), streams::address(&url)?)?;
    let mut request = url.replacen("http", "ws", 1).into_client_request()?;
    if !protocol.is_empty() {
        let headers = request.headers_mut();
        headers.insert("Sec-WebSocket-Protocol", protocol.parse()?);
    }
    let (mut socket, answer) = tokio_tungstenite::client_async(request, io).await?;
    let chosen = answer.headers().get("sec-websocket-protocol");
    let chosen = chosen.map(|value| value.to_str()).transpose()?;
    ensure!(chosen.unwrap_or_default() == protocol, "{chosen:?}");
    let typed = match base64 {
        true => Message::text(format!("0{}", STANDARD.encode("hello\n"))),
        false => Message::binary(b"\0hello\n".to_vec()),
    };
    socket.send(typed).await?;
    let mut channels: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    let read = async {
        loop {
            let message = socket.next().await.context("it breaks off")??;
            let (channel, data) = match &message {
                Message::Close(frame) => {
                    let code = frame.as_ref().map(|frame| frame.code);
                    ensure!(code == Some(CloseCode::Normal), "{frame:?}");
                    return Ok(());
                }
                Message::Text(text) if base64 => {
                    let (channel, data) = text.as_str().split_at(1);
                    (channel.parse()?, STANDARD.decode(data)?)
                }
                Message::Binary(data) if !base64 => {
                    let (channel, data) = data.split_first().context("an empty message")?;
                    (*channel, data.to_vec())
                }
                other => anyhow::bail!("{other:?}"),
            };
            channels.entry(channel).or_default().extend(data);
        }
    };
    tokio::time::timeout(LIMIT, read)
        .await
        .context("no end")??;
    Ok(channels)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_protocol_of_a_websocket() -> Result<()> {
    let world = World::start().await?;
    let (_, id) = sleeper(&world).await?;
    let cases = [
        ("v5.channel.k8s.io", false, true),
        ("v4.channel.k8s.io", false, true),
        ("v4.base64.channel.k8s.io", true, true),
        ("base64.channel.k8s.io", true, false),
        ("channel.k8s.io", false, false),
        ("", false, false),
    ];
    for (protocol, base64, json) in cases {
        let said = over_socket(&world, &id, protocol, base64)
            .await
            .context(protocol)?;
        let text = |channel| {
            String::from_utf8_lossy(said.get(&channel).map_or(&[][..], |d| d)).into_owned()
        };
        ensure!(
            text(1) == "got hello\n" && text(2) == "err\n",
            "{protocol}: {said:?}"
        );
        let end = text(3);
        match json {
            true => {
                let status: serde_json::Value = serde_json::from_str(&end).context(end)?;
                ensure!(status["reason"] == "NonZeroExitCode", "{status}");
                let cause = &status["details"]["causes"][0];
                ensure!(
                    cause["reason"] == "ExitCode" && cause["message"] == "7",
                    "{status}"
                );
            }
            false => ensure!(end.contains("exit code: 7"), "{end}"),
        }
    }
    // One that goes while nobody reads what it sent.
    let url = streams::exec_url(&world, &id, &["sh", "-c", "echo on; sleep 431"], IN_OUT).await?;
    let io = dial(world.machine.pid(), streams::address(&url)?)?;
    let request = url.replacen("http", "ws", 1).into_client_request()?;
    let (mut socket, _) = tokio_tungstenite::client_async(request, io).await?;
    while !socket
        .next()
        .await
        .context("the end")??
        .into_data()
        .ends_with(b"on\n")
    {}
    // More than a pipe and a queue hold, less than what stays with a client's kernel when nothing is taken: its end
    // would come behind that.
    for _ in 0..20 {
        let piece = Message::binary(vec![0; 8 << 10]);
        tokio::time::timeout(LIMIT, socket.send(piece)).await??;
    }
    drop(socket);
    gone(&world, &id, "431").await?;
    world.assert_clean(&STREAMED).await
}

/// Makes an authority, and a certificate that it vouches for, at `NAME.*` in a folder.
fn authority(folder: &std::path::Path, name: &str) -> Result<()> {
    let script = format!(
        "set -e; cd {}
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={name} \
            -keyout {name}-ca.key -out {name}-ca.pem
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=client-{name} \
            -keyout {name}.key -out {name}.csr
        printf 'basicConstraints=CA:FALSE\\nextendedKeyUsage=clientAuth\\n' > {name}.ext
        openssl x509 -req -in {name}.csr -CA {name}-ca.pem -CAkey {name}-ca.key -CAcreateserial -days 30 \
            -extfile {name}.ext -out {name}.pem",
        folder.display()
    );
    let made = std::process::Command::new("sh")
        .args(["-c", &script])
        .output()?;
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    ensure!(made.status.success(), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_a_certificate_where_an_authority_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    authority(folder.path(), "ours")?;
    authority(folder.path(), "others")?;
    let made = |name: &str| fs::read_to_string(folder.path().join(name));
    let fixtures = format!("{}/tests/fixtures/tls", env!("CARGO_MANIFEST_DIR"));
    let fixture = |name: &str| fs::read_to_string(format!("{fixtures}/{name}"));
    let drop_in = r#"
[crio.api]
stream_enable_tls = true
stream_tls_cert = "/etc/ocid/stream.pem"
stream_tls_key = "/etc/ocid/stream.key"
stream_tls_ca = "/etc/ocid/clients.pem"
stream_port = "10445"
"#;
    let world = World::with(&[
        ("/etc/ocid/ocid.conf.d/10-tls.conf", drop_in),
        ("/etc/ocid/stream.pem", &fixture("server.pem")?),
        ("/etc/ocid/stream.key", &fixture("server.key")?),
        ("/etc/ocid/clients.pem", &made("ours-ca.pem")?),
        ("/srv/ours.pem", &made("ours.pem")?),
        ("/srv/ours.key", &made("ours.key")?),
        ("/srv/others.pem", &made("others.pem")?),
        ("/srv/others.key", &made("others.key")?),
    ])
    .await?;
    let (_, id) = sleeper(&world).await?;
    let url = streams::exec_url(&world, &id, &["true"], OUT).await?;
    ensure!(url.starts_with("https://127.0.0.1:10445/exec/"), "{url}");
    let path = url.splitn(4, '/').nth(3).context("no path")?;
    let request = format!(
        "GET /{path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: Upgrade\\r\\nUpgrade: SPDY/3.1\\r\\nX-Stream-Protocol-Version: v4.channel.k8s.io\\r\\n\\r\\n"
    );
    let cases = [
        ("", false),
        ("-cert /srv/others.pem -key /srv/others.key", false),
        // The URL is still good.
        ("-cert /srv/ours.pem -key /srv/ours.key", true),
    ];
    for (shown, welcome) in cases {
        let line = format!(
            "(printf '{request}'; sleep 3) | timeout 60 openssl s_client {shown} -quiet -connect 127.0.0.1:10445 2>/dev/null | head -c 300 | strings"
        );
        let said = world.machine.run(&["sh", "-c", &line])?;
        let answered = said.contains("101 Switching Protocols");
        ensure!(answered == welcome, "`{shown}`: {said}");
    }
    world.assert_clean(&STREAMED).await
}
