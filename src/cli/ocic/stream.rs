//! `ocic exec`, `ocic attach` and `ocic port-forward`.

use std::io::{self, IsTerminal, Read};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use crate::host::tty;
use crate::ocic::stream::{self, Ended, FORWARD, REMOTE, Remote, StreamError};
use crate::ocic::tls::Trust;
use crate::spdy::{Connection, StreamReader, StreamWriter};

use super::args::stream::{AttachArgs, ExecArgs, ForwardArgs, StreamArgs, TlsArgs};
use super::args::values::Mapping;
use super::resolve::{Kind, resolve};
use super::{Failure, Session, ctr};

/// Bytes of input that are read at once.
const PIECE: usize = 32 << 10;
/// How long the server may take to see that we are done.
const FAREWELL: Duration = Duration::from_secs(2);

impl TlsArgs {
    fn trust(&self) -> Trust {
        Trust {
            ca: self.tls_ca.clone(),
            server_name: self.tls_server_name.clone(),
            identity: self.tls_cert.clone().zip(self.tls_key.clone()),
        }
    }
}

pub async fn exec(session: &Session<'_>, args: &ExecArgs) -> Result<ExitCode, Failure> {
    if args.sync {
        return ctr::execsync(session, &args.id, &args.command, args.timeout).await;
    }
    let client = session.client().await?;
    let id = resolve(&client, Kind::Container, &args.id).await?;
    let request = ExecRequest {
        container_id: id,
        cmd: args.command.clone(),
        tty: args.streams.tty,
        stdin: args.streams.interactive,
        stdout: true,
        stderr: !args.streams.tty,
    };
    let url = client.exec(request).await?;
    let connection = stream::connect(&url, REMOTE, &args.tls.trust()).await?;
    attend(session, connection, &args.streams).await
}

pub async fn attach(session: &Session<'_>, args: &AttachArgs) -> Result<ExitCode, Failure> {
    let client = session.client().await?;
    let id = resolve(&client, Kind::Container, &args.id).await?;
    let request = AttachRequest {
        container_id: id,
        tty: args.streams.tty,
        stdin: args.streams.interactive,
        stdout: true,
        stderr: !args.streams.tty,
    };
    let url = client.attach(request).await?;
    let connection = stream::connect(&url, REMOTE, &args.tls.trust()).await?;
    attend(session, connection, &args.streams).await
}

/// Our own streams are the command's until its end.
async fn attend(
    session: &Session<'_>,
    connection: Connection,
    &StreamArgs { interactive, tty }: &StreamArgs,
) -> Result<ExitCode, Failure> {
    let streams = [interactive, true, !tty, tty];
    let mut remote = Remote::open(connection.clone(), streams).await?;
    let raw = match tty && interactive && io::stdin().is_terminal() {
        true => Some(tty::Raw::enter(io::stdin()).map_err(Failure::Terminal)?),
        false => None,
    };
    let (stdout, stderr) = (remote.stdout.take(), remote.stderr.take());
    let (stdin, resize) = (remote.stdin.take(), remote.resize.take());
    let output = |bytes: &[u8]| session.output.bytes(bytes);
    let errors = |bytes: &[u8]| session.output.error_bytes(bytes);
    let work = async {
        tokio::try_join!(copy(stdout, output), copy(stderr, errors))?;
        Ok(remote.ended().await?)
    };
    tokio::pin!(work);
    let input = feed(stdin);
    let sizes = follow(resize);
    tokio::pin!(input, sizes);
    let (mut fed, mut sized) = (false, false);
    let ended: Result<Ended, Failure> = loop {
        tokio::select! {
            ended = &mut work => break ended,
            // What is typed after the end of the input, or into nothing, is nobody's.
            _kept = &mut input, if !fed => fed = true,
            () = &mut sizes, if !sized => sized = true,
        }
    };
    drop(raw);
    match ended? {
        Ended::Exit(code) => {
            connection.finish(FAREWELL).await;
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
        Ended::Failed(why) => Err(StreamError::Failed(why).into()),
    }
}

async fn copy(
    reader: Option<StreamReader>,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Failure> {
    let Some(mut reader) = reader else {
        return Ok(());
    };
    // A reset is an end too; the error channel tells what happened.
    while let Ok(Some(bytes)) = reader.read().await {
        write(&bytes).map_err(Failure::Output)?;
    }
    Ok(())
}

/// Our input, and its end. The stream is given back, for dropping it would reset it.
async fn feed(stdin: Option<StreamWriter>) -> Option<StreamWriter> {
    let mut stdin = stdin?;
    let (sender, mut typed) = mpsc::channel::<Bytes>(4);
    // A thread, and not one of the async runtime's: nobody waits for it when the command ends first.
    std::thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        loop {
            let count = match io::stdin().read(&mut piece) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Ok(count @ 1..) => count,
                Ok(_) | Err(_) => return,
            };
            let bytes = Bytes::copy_from_slice(piece.get(..count).unwrap_or_default());
            if sender.blocking_send(bytes).is_err() {
                return;
            }
        }
    });
    while let Some(bytes) = typed.recv().await {
        if stdin.write(bytes).await.is_err() {
            return Some(stdin);
        }
    }
    // The command may have ended meanwhile.
    let _ = stdin.finish().await;
    Some(stdin)
}

/// The size of our terminal, now and whenever it changes.
async fn follow(resize: Option<StreamWriter>) {
    let (Some(mut resize), Ok(mut changes)) = (resize, signal(SignalKind::window_change())) else {
        return;
    };
    loop {
        if let Ok((columns, rows)) = tty::size(io::stdout()) {
            let document = serde_json::json!({ "Width": columns, "Height": rows }).to_string();
            if resize.write(Bytes::from(document + "\n")).await.is_err() {
                return;
            }
        }
        changes.recv().await;
    }
}

pub async fn forward(session: &Session<'_>, args: &ForwardArgs) -> Result<ExitCode, Failure> {
    let client = session.client().await?;
    let pod_sandbox_id = resolve(&client, Kind::Pod, &args.pod).await?;
    let port = args.ports.iter().map(|m| i32::from(m.remote)).collect();
    let request = PortForwardRequest {
        pod_sandbox_id,
        port,
    };
    let url = client.port_forward(request).await?;
    let connection = stream::connect(&url, FORWARD, &args.tls.trust()).await?;
    let mut listeners = Vec::new();
    for mapping in &args.ports {
        for listener in listen(*mapping).await? {
            let local = listener.local_addr().map_err(Failure::Listen)?;
            let line = format!("forwarding from {local} to {}", mapping.remote);
            session.output.line(&line).map_err(Failure::Output)?;
            listeners.push((listener, mapping.remote));
        }
    }
    let next = Arc::new(AtomicU32::new(0));
    let mut accepting = JoinSet::new();
    for (listener, port) in listeners {
        let (connection, next) = (connection.clone(), Arc::clone(&next));
        accepting.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (io, _) = listener.accept().await?;
                while open.try_join_next().is_some() {}
                let (connection, request) =
                    (connection.clone(), next.fetch_add(1, Ordering::Relaxed));
                open.spawn(async move {
                    if let Err(error) = stream::forward(&connection, request, port, io).await {
                        let text = crate::cli::output::describe(
                            crate::cli::output::Style::stderr(),
                            &error,
                            None,
                        );
                        eprintln!("{text}");
                    }
                });
            }
        });
    }
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Start)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Start)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = connection.closed() => return Err(StreamError::Broken.into()),
        Some(ended) = accepting.join_next() => {
            let ended: io::Result<()> = ended.unwrap_or(Ok(()));
            ended.map_err(Failure::Listen)?;
        }
    }
    connection.abort();
    Ok(ExitCode::SUCCESS)
}

/// On the loopback, by IPv4 and, where there is that, by IPv6 at the same port.
async fn listen(mapping: Mapping) -> Result<Vec<TcpListener>, Failure> {
    let four = TcpListener::bind((Ipv4Addr::LOCALHOST, mapping.local)).await;
    let four = four.map_err(Failure::Listen)?;
    let port = four.local_addr().map_err(Failure::Listen)?.port();
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await;
    Ok(std::iter::once(four).chain(six).collect())
}
