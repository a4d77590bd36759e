//! What stands behind a connection in place of containers and pods: a command that sends back what it is sent, and
//! servers that do.

use std::time::Duration;

use bytes::Bytes;
use crio_setup::ocid::streaming::Wanted;
use crio_setup::ocid::streaming::channels::Channels;
use crio_setup::ocid::streaming::exec::Sizes;
use crio_setup::ocid::streaming::forward::Ports;
use crio_setup::ocid::streaming::status::Outcome;
use tokio::io::{AsyncWriteExt, DuplexStream};

use crate::random::Random;

/// Streams that go together.
pub fn wanted(random: &mut Random) -> Wanted {
    let tty = random.once_in(2);
    let [stdin, stdout, stderr] = [(); 3].map(|()| random.below(3) > 0);
    Wanted {
        tty,
        stdin,
        stdout: stdout || !stdin,
        stderr: stderr && !tty,
    }
}

/// A command: its input goes to its outputs, its sizes are read.
pub async fn echo(mut channels: Channels, mut random: Random) {
    let gone = channels.gone.clone();
    let outcome = tokio::select! {
        outcome = run(&mut channels, &mut random) => outcome,
        () = gone.cancelled() => return,
    };
    channels.end(outcome).await;
}

async fn run(channels: &mut Channels, random: &mut Random) -> Outcome {
    let mut reads = match random.below(3) {
        0 => random.below(4),
        _ => usize::MAX,
    };
    let outcome = match random.below(3) {
        0 => Outcome::Success,
        1 => Outcome::Exit(7),
        _ => Outcome::Failed("no \"such\"\0 thing".to_owned()),
    };
    let resize = async {
        if let Some(input) = &mut channels.resize {
            let mut sizes = Sizes::new(input);
            while sizes.next().await.is_some() {}
        }
        std::future::pending::<()>().await;
    };
    let work = async {
        if reads == 0 && random.once_in(2) {
            // It neither reads nor ends.
            std::future::pending::<()>().await;
        }
        while reads > 0
            && let Some(stdin) = &mut channels.stdin
            && let Some(bytes) = stdin.read().await
        {
            reads -= 1;
            let output = match random.once_in(2) {
                true => channels.stdout.as_mut().or(channels.stderr.as_mut()),
                false => channels.stderr.as_mut().or(channels.stdout.as_mut()),
            };
            if let Some(output) = output
                && output.write(bytes).await.is_err()
            {
                break;
            }
        }
        if random.once_in(4)
            && let Some(output) = &mut channels.stdout
        {
            let _ = output.write(Bytes::from(vec![b'o'; 100_000])).await;
        }
    };
    tokio::select! {
        () = resize => {}
        () = work => {}
    }
    outcome
}

/// Every even port is there.
pub struct Echoes;

impl Ports for Echoes {
    type Io = DuplexStream;

    async fn connect(&self, port: &str) -> Result<DuplexStream, String> {
        let number: u16 = port
            .parse()
            .map_err(|_| format!("`{port}` is not a port"))?;
        if number % 2 == 1 {
            return Err("refused".to_owned());
        }
        let (ours, theirs) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(theirs);
            // However it ends, it is over.
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        });
        Ok(ours)
    }
}

/// Nothing moves for so long on no connection here.
pub const IDLE: Duration = Duration::from_secs(3600);
