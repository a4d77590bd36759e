//! Much through exec and through port-forward: how fast, beside `runc exec` and a plain TCP connection, and what the
//! daemon needs of memory and processor time for it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use crio_setup::host::namespace;

use crate::setting;
use crate::world::{LIMIT, World};

/// KiB by which the daemon may grow while it moves any amount.
const GROWTH: u64 = 8 << 10;
/// Bytes per read and write of ours.
const PIECE: usize = 256 << 10;
const PORT: u16 = 7000;

/// A number of `/proc/PID/status`, KiB.
fn status(pid: i32, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("no {name}"))?;
    Ok(line
        .trim_matches([':', ' ', '\t'])
        .trim_end_matches(" kB")
        .parse()?)
}

/// Processor time of the process itself, hundredths of seconds.
fn ticks(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(')').context("no name")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || anyhow::Ok(fields.next().context("no times")?.parse::<u64>()?);
    Ok(next()? + next()?)
}

struct Meter {
    daemon: i32,
    mib: u64,
    failed: Vec<String>,
}

impl Meter {
    /// Does `work`, which moves everything once, and prints what it took.
    fn measure(&mut self, what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        // The high-water mark begins anew.
        fs::write(format!("/proc/{}/clear_refs", self.daemon), "5")?;
        let (before, ticked) = (status(self.daemon, "VmRSS")?, ticks(self.daemon)?);
        let begun = Instant::now();
        work().with_context(|| what.to_owned())?;
        let seconds = begun.elapsed().as_secs_f64();
        let (peak, ticked) = (status(self.daemon, "VmHWM")?, ticks(self.daemon)? - ticked);
        println!(
            "{what:32} {:7.0} MiB/s   daemon: {:.2} s of processor time, {before} KiB, {peak} at most",
            self.mib as f64 / seconds,
            ticked as f64 / 100.0
        );
        if peak > before + GROWTH {
            self.failed
                .push(format!("{what}: {before} KiB grew to {peak}"));
        }
        Ok(())
    }
}

/// Serves connections in the pod: what begins with `r` is read to its end and answered with a byte, anything else is
/// sent everything.
fn serve(listener: TcpListener, bytes: u64) {
    thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut io) = connection else { return };
            thread::spawn(move || -> std::io::Result<()> {
                let mut first = [0];
                io.read_exact(&mut first)?;
                if first == *b"r" {
                    drain(&mut io)?;
                    return io.write_all(b"k");
                }
                fill(&mut io, bytes)
            });
        }
    });
}

fn fill(io: &mut TcpStream, mut bytes: u64) -> std::io::Result<()> {
    let piece = vec![b'x'; PIECE];
    while bytes > 0 {
        let count = bytes.min(PIECE as u64);
        io.write_all(&piece[..count as usize])?;
        bytes -= count;
    }
    Ok(())
}

fn drain(io: &mut TcpStream) -> std::io::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut all = 0;
    loop {
        match io.read(&mut piece)? {
            0 => return Ok(all),
            count => all += count as u64,
        }
    }
}

fn download(mut io: TcpStream, bytes: u64) -> Result<()> {
    io.write_all(b"w")?;
    let got = drain(&mut io)?;
    ensure!(got == bytes, "{got} of {bytes}");
    Ok(())
}

fn upload(mut io: TcpStream, bytes: u64) -> Result<()> {
    io.write_all(b"r")?;
    fill(&mut io, bytes)?;
    io.shutdown(Shutdown::Write)?;
    let mut all = Vec::new();
    io.read_to_end(&mut all)?;
    ensure!(all == b"k", "{all:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn much_goes_through_and_memory_stays() -> Result<()> {
    let mib = setting("OCID_SOAK_MIB", 64);
    let bytes = mib << 20;
    let world = World::start().await?;
    let sandbox = world.pod_config("streams");
    let pod = world.run_pod(&sandbox).await?;
    let config = world.container_config("sleeper", &["sleep", "600000"]);
    let id = world.up(&pod, &sandbox, config).await?;
    // Once it answers, it is its own program.
    world.shell(&id, "true").await?;
    let machine = &world.machine;
    let ocic = machine.product("ocic")?;
    let mut meter = Meter {
        daemon: world.daemon().pid()?,
        mib,
        failed: Vec::new(),
    };

    let runtimes = machine.run(&["ls", "/run/ocid/oci"])?;
    let runc = format!("runc --root /run/ocid/oci/{runtimes} exec");
    let shell = |line: &str| -> Result<()> {
        let said = machine.run(&["bash", "-o", "pipefail", "-c", line])?;
        let counted = said.trim() == bytes.to_string();
        ensure!(counted, "`{line}` counted {said}");
        Ok(())
    };
    let (zeros, count) = (format!("head -c {bytes} /dev/zero"), "wc -c");
    // What is allocated once, at first use, is no growth.
    for _ in 0..2 {
        let some = "head -c 20000000 /dev/zero";
        let line = format!("{some} | {ocic} exec -i {id} cat | wc -c");
        ensure!(machine.run(&["sh", "-c", &line])?.trim() == "20000000");
    }
    let both = "cat";
    for (name, exec, input) in [
        ("runc exec", runc, ""),
        ("exec", format!("{ocic} exec"), " -i"),
    ] {
        meter.measure(&format!("{name}, output"), || {
            shell(&format!("{exec} {id} {zeros} | {count}"))
        })?;
        meter.measure(&format!("{name}, input"), || {
            shell(&format!("{zeros} | {exec}{input} {id} {count}"))
        })?;
        meter.measure(&format!("{name}, both ways"), || {
            shell(&format!("{zeros} | {exec}{input} {id} {both} | {count}"))
        })?;
    }

    let net = machine.path(format!("/run/ocid/ns/{pod}/net"));
    let to: SocketAddr = ([127, 0, 0, 1], PORT).into();
    serve(namespace::run_in(&net, || TcpListener::bind(to))??, bytes);
    let plain = || {
        anyhow::Ok(namespace::run_in(Path::new(&net), || {
            TcpStream::connect(to)
        })??)
    };
    meter.measure("plain TCP, from the pod", || download(plain()?, bytes))?;
    meter.measure("plain TCP, into the pod", || upload(plain()?, bytes))?;
    let mut forward = machine.spawn(&[&ocic, "port-forward", &pod, &format!(":{PORT}")], &[])?;
    let said = forward.line_with(&format!("to {PORT}"), LIMIT)?;
    let local: SocketAddr = said.split(' ').nth(2).context("no address")?.parse()?;
    let forwarded = || machine.connect(local);
    download(forwarded()?, bytes.min(20 << 20)).ok();
    meter.measure("port-forward, from the pod", || {
        download(forwarded()?, bytes)
    })?;
    meter.measure("port-forward, into the pod", || upload(forwarded()?, bytes))?;
    forward.signal(nix::sys::signal::Signal::SIGINT)?;
    ensure!(forward.wait()?.success());

    ensure!(meter.failed.is_empty(), "{}", meter.failed.join("; "));
    world.assert_clean(&["fe80"]).await
}
