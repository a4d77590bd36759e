//! `ocic` against a daemon that serves its streams by TLS.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::streaming_forward::serve;
use crate::streams::{LIMIT, STREAMED, dial};
use crate::support::Machine;
use crate::support::node::{ocic, ocic_fails};
use crate::world::World;

const CA: &str = "/srv/ca.pem";

fn fixture(name: &str) -> Result<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");
    Ok(std::fs::read_to_string(format!("{folder}/{name}"))?)
}

fn drop_in(more: &str) -> String {
    format!(
        "[crio.api]\nstream_enable_tls = true\nstream_tls_cert = \"/etc/ocid/stream.pem\"\nstream_tls_key = \"/etc/ocid/stream.key\"\n{more}"
    )
}

/// A node with the server's certificate from the fixtures, and a container that sleeps.
async fn world(more: &str) -> Result<(World, String)> {
    let (cert, key) = (fixture("server.pem")?, fixture("server.key")?);
    // A client's certificate that vouches for itself.
    let (mine, _) = client()?;
    let world = World::with(&[
        ("/etc/ocid/ocid.conf.d/10-tls.conf", &drop_in(more)),
        ("/etc/ocid/stream.pem", &cert),
        ("/etc/ocid/stream.key", &key),
        ("/etc/ocid/clients.pem", &mine),
        (CA, &fixture("ca.pem")?),
    ])
    .await?;
    let sandbox = world.pod_config("tls");
    let pod = world.run_pod(&sandbox).await?;
    let talk = "while read line; do echo said $line; done; echo over";
    let mut config = world.container_config("talker", &["sh", "-c", talk]);
    (config.stdin, config.stdin_once) = (true, true);
    world.up(&pod, &sandbox, config).await?;
    Ok((world, pod))
}

fn client() -> Result<(String, String)> {
    static MADE: std::sync::OnceLock<(String, String)> = std::sync::OnceLock::new();
    if let Some(made) = MADE.get() {
        return Ok(made.clone());
    }
    let folder = tempfile::tempdir()?;
    let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
    let output = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args([
            "-nodes",
            "-days",
            "9",
            "-subj",
            "/CN=me",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .arg("-out")
        .arg(&cert)
        .arg("-keyout")
        .arg(&key)
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let made = (
        std::fs::read_to_string(&cert)?,
        std::fs::read_to_string(&key)?,
    );
    Ok(MADE.get_or_init(|| made).clone())
}

fn exec(machine: &Machine, trust: &[&str], code: i32, words: &[&str]) -> Result<()> {
    let args = [
        &["exec"],
        trust,
        &["talker", "sh", "-c", "echo out; exit 7"],
    ]
    .concat();
    if words.is_empty() {
        let output = ocic(machine, &args)?;
        ensure!(
            output.status.code() == Some(code) && output.stdout == b"out\n",
            "{output:?}"
        );
        return Ok(());
    }
    ocic_fails(machine, &args, code, words).map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_go_through_tls_that_is_trusted() -> Result<()> {
    let (world, pod) = world("").await?;
    let machine = &world.machine;
    let program = machine.product("ocic")?;
    exec(machine, &["--tls-ca", CA], 7, &[])?;
    exec(
        machine,
        &["--tls-ca", CA, "--tls-server-name", "127.0.0.1"],
        7,
        &[],
    )?;
    // Nobody of this machine's vouches for it; nor is it somebody else.
    exec(machine, &[], 1, &["speak TLS", "--tls-ca"])?;
    let other = ["--tls-ca", CA, "--tls-server-name", "ocid.example"];
    exec(machine, &other, 1, &["speak TLS", "--tls-server-name"])?;
    exec(
        machine,
        &["--tls-ca", "/srv/none.pem"],
        1,
        &["/srv/none.pem"],
    )?;
    exec(
        machine,
        &["--tls-ca", "/etc/ocid/stream.key"],
        1,
        &["holds no certificate"],
    )?;
    exec(machine, &["--tls-cert", CA], 2, &["--tls-key"])?;
    // Large both ways, and to the end of each.
    let line = format!(
        "head -c 5000000 /dev/zero | {program} exec -i --tls-ca {CA} talker sh -c 'cat | wc -c'"
    );
    ensure!(machine.run(&["sh", "-c", &line])? == "5000000");
    let line = format!("{program} exec --tls-ca {CA} talker head -c 5000000 /dev/zero | wc -c");
    ensure!(machine.run(&["sh", "-c", &line])? == "5000000");

    let net = machine.path(format!("/run/ocid/ns/{pod}/net"));
    let bind = || std::net::TcpListener::bind("127.0.0.1:7000");
    let listener = crio_setup::host::namespace::run_in(&net, bind)??;
    serve(listener, b"")?;
    let argv = [&program, "port-forward", "--tls-ca", CA, "tls", ":7000"];
    let forward = machine.spawn(&argv, &[])?;
    let said = forward.line_with("to 7000", LIMIT)?;
    let local: SocketAddr = said.split(' ').nth(2).context("no address")?.parse()?;
    let mut io = dial(machine.pid(), local)?;
    io.write_all(b"through\n").await?;
    io.shutdown().await?;
    let mut got = String::new();
    tokio::time::timeout(LIMIT, io.read_to_string(&mut got)).await??;
    ensure!(got == "through\n", "{got}");
    let mut forward = forward;
    forward.signal(nix::sys::signal::Signal::SIGINT)?;
    ensure!(forward.wait()?.success());

    // The container's input ends with ours, and it with that.
    let line = format!("echo hello | {program} attach -i --tls-ca {CA} talker");
    ensure!(machine.run(&["sh", "-c", &line])? == "said hello\nover");
    world.assert_clean(&STREAMED).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_want_to_know_who_we_are() -> Result<()> {
    let (world, _) = world("stream_tls_ca = \"/etc/ocid/clients.pem\"\n").await?;
    let machine = &world.machine;
    let (cert, key) = client()?;
    machine.write("/srv/me.pem", cert, 0o644)?;
    machine.write("/srv/me.key", key, 0o600)?;
    let with = |cert, key| ["--tls-ca", CA, "--tls-cert", cert, "--tls-key", key];
    exec(machine, &with("/srv/me.pem", "/srv/me.key"), 7, &[])?;
    exec(machine, &["--tls-ca", CA], 1, &["hint: ", "--tls-cert"])?;
    exec(
        machine,
        &with("/srv/me.pem", "/etc/ocid/stream.key"),
        1,
        &["/srv/me.pem"],
    )?;
    exec(
        machine,
        &with("/srv/me.pem", "/srv/none"),
        1,
        &["/srv/none"],
    )?;
    exec(
        machine,
        &with("/srv/me.key", "/srv/me.key"),
        1,
        &["holds no certificate"],
    )?;
    for file in ["/srv/me.pem", "/srv/me.key"] {
        std::fs::remove_file(machine.path(file))?;
    }
    world.assert_clean(&STREAMED).await
}
