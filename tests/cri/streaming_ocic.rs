//! `ocic exec`, `attach` and `port-forward`, as people type them.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::streaming_forward::serve;
use crate::streams::{LIMIT, STREAMED, dial};
use crate::support::node::{ocic, ocic_fails};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn people_exec_attach_and_forward() -> Result<()> {
    let world = World::start().await?;
    let machine = &world.machine;
    let sandbox = world.pod_config("people");
    let pod = world.run_pod(&sandbox).await?;
    let talk = "while read line; do echo said $line; done; echo over";
    let mut config = world.container_config("talker", &["sh", "-c", talk]);
    (config.stdin, config.stdin_once) = (true, true);
    let id = world.up(&pod, &sandbox, config).await?;
    let program = machine.product("ocic")?;
    let short = &id[..12];

    let output = ocic(
        machine,
        &["exec", short, "sh", "-c", "echo out; echo err >&2; exit 7"],
    )?;
    ensure!(output.status.code() == Some(7), "{output:?}");
    ensure!(
        output.stdout == b"out\n" && output.stderr == b"err\n",
        "{output:?}"
    );
    let line =
        format!("head -c 5000000 /dev/zero | {program} exec -i {short} -- sh -c 'cat | wc -c'");
    ensure!(machine.run(&["sh", "-c", &line])? == "5000000");
    let line = format!(
        "script -qec \"{program} exec -it {short} sh -c 'tty; stty size; exit 3'\" /dev/null </dev/null"
    );
    let output = machine.output(&["sh", "-c", &line])?;
    ensure!(output.status.code() == Some(3), "{output:?}");
    ocic_fails(machine, &["exec", short, "/no/such"], 1, &["/no/such"])?;
    ocic_fails(
        machine,
        &["exec", "ffff", "true"],
        1,
        &["no container", "hint"],
    )?;

    // The end of our input is that of the container's, which asked for one; its end is ours.
    let line = format!("echo hello | {program} attach -i {short}");
    ensure!(machine.run(&["sh", "-c", &line])? == "said hello\nover");

    let net = machine.path(format!("/run/ocid/ns/{pod}/net"));
    let bind = || std::net::TcpListener::bind("127.0.0.1:7000");
    let listener = crio_setup::host::namespace::run_in(&net, bind)??;
    serve(listener, b"bye\n")?;
    let forward = machine.spawn(&[&program, "port-forward", &pod, ":7000", ":9"], &[])?;
    let said = forward.line_with("to 7000", LIMIT)?;
    let local = said.split(' ').nth(2).context("no address")?;
    let local: SocketAddr = local.parse()?;
    for _ in 0..3 {
        let mut io = dial(machine.pid(), local)?;
        io.write_all(b"through\n").await?;
        io.shutdown().await?;
        let mut got = String::new();
        tokio::time::timeout(LIMIT, io.read_to_string(&mut got)).await??;
        ensure!(got == "through\nbye\n", "{got}");
    }
    forward.signal(nix::sys::signal::Signal::SIGINT)?;
    let mut forward = forward;
    ensure!(forward.wait()?.success());
    world.assert_clean(&STREAMED).await
}

/// The server's certificate and its own authority, from the fixtures.
#[tokio::test(flavor = "multi_thread")]
async fn streams_are_under_tls_where_it_is_configured() -> Result<()> {
    let fixture = |name: &str| {
        std::fs::read_to_string(format!(
            "{}/tests/fixtures/tls/{name}",
            env!("CARGO_MANIFEST_DIR")
        ))
    };
    let (cert, key) = (fixture("server.pem")?, fixture("server.key")?);
    let drop_in = r#"
[crio.api]
stream_enable_tls = true
stream_tls_cert = "/etc/ocid/stream.pem"
stream_tls_key = "/etc/ocid/stream.key"
stream_port = "10444"
"#;
    let world = World::with(&[
        ("/etc/ocid/ocid.conf.d/10-tls.conf", drop_in),
        ("/etc/ocid/stream.pem", &cert),
        ("/etc/ocid/stream.key", &key),
    ])
    .await?;
    let sandbox = world.pod_config("tls");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("sleeper", &["sleep", "600"]);
    let id = world.up(&pod, &sandbox, config).await?;
    let wanted = [false, true, true, false];
    let url = crate::streams::exec_url(&world, &id, &["true"], wanted).await?;
    ensure!(url.starts_with("https://127.0.0.1:10444/exec/"), "{url}");
    let path = url.splitn(4, '/').nth(3).context("no path")?;
    let request = format!(
        "GET /{path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: Upgrade\\r\\nUpgrade: SPDY/3.1\\r\\nX-Stream-Protocol-Version: v4.channel.k8s.io\\r\\n\\r\\n"
    );
    let line = format!(
        "(printf '{request}'; sleep 2) | timeout 60 openssl s_client -quiet -connect 127.0.0.1:10444 2>/dev/null | head -c 300 | strings"
    );
    let said = world.machine.run(&["sh", "-c", &line])?;
    ensure!(said.contains("101 Switching Protocols"), "{said}");
    world.assert_clean(&STREAMED).await
}
