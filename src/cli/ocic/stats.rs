//! `ocic stats`, `ocic statsp`, and what else there is to measure.

use std::collections::HashMap;
use std::io::{self, IsTerminal};

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::output::Format;
use crate::cri::v1::{
    ContainerStats, ContainerStatsFilter, CpuUsage, PodSandboxStats, PodSandboxStatsFilter,
};
use crate::ocic::client::Client;

use super::args::stats::{Checkpoint, Pace, Stats, Statsp};
use super::resolve::{Kind, resolve, resolve_any};
use super::{Failure, Session, show};

/// Where the cursor goes home and the screen is cleared.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub async fn stats(session: &Session<'_>, args: &Stats) -> Result<(), Failure> {
    let client = session.client().await?;
    let id = args.container.as_deref().or(args.id.as_deref());
    let filter = ContainerStatsFilter {
        id: resolve_any(&client, Kind::Container, id).await?,
        pod_sandbox_id: resolve_any(&client, Kind::Pod, args.pod.as_deref()).await?,
        label_selector: args.labels.iter().cloned().collect(),
    };
    let look = async || Ok(client.list_container_stats(filter.clone()).await?);
    let print = |all: &[ContainerStats], rates: &Rates| {
        let rate = |one: &ContainerStats| rates.of(one);
        session.answer("stats", all, || show::stats(all, rate))
    };
    watch(session, &args.pace, look, print).await
}

pub async fn statsp(session: &Session<'_>, args: &Statsp) -> Result<(), Failure> {
    let client = session.client().await?;
    let id = args.pod.as_deref().or(args.id.as_deref());
    let filter = PodSandboxStatsFilter {
        id: resolve_any(&client, Kind::Pod, id).await?,
        label_selector: args.labels.iter().cloned().collect(),
    };
    let look = async || Ok(client.list_pod_sandbox_stats(filter.clone()).await?);
    let print = |all: &[PodSandboxStats], rates: &Rates| {
        let rate = |one: &PodSandboxStats| rates.of(one);
        session.answer("stats", all, || show::pod_stats(all, rate))
    };
    watch(session, &args.pace, look, print).await
}

/// Looks once, or again and again until Ctrl-C. A use of processors is between two looks: where the daemon
/// has not had two of its own yet, the first table waits for the second.
async fn watch<T: Measured>(
    session: &Session<'_>,
    pace: &Pace,
    look: impl AsyncFn() -> Result<Vec<T>, Failure>,
    print: impl Fn(&[T], &Rates) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Start)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Start)?;
    let table = session.output.format == Format::Table;
    let clear = pace.watch && table && io::stdout().is_terminal();
    let mut rates = Rates::default();
    let work = async {
        let mut all = look().await?;
        rates.add(&all);
        if table && !all.iter().all(|one| rates.of(one).is_some()) {
            tokio::time::sleep(pace.interval).await;
            all = look().await?;
            rates.add(&all);
        }
        loop {
            if clear {
                session.output.text(CLEAR).map_err(Failure::Output)?;
            }
            print(&all, &rates)?;
            if !pace.watch {
                return Ok(());
            }
            tokio::time::sleep(pace.interval).await;
            all = look().await?;
            rates.add(&all);
        }
    };
    tokio::select! {
        ended = work => ended,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

/// Something that uses processors.
trait Measured {
    fn id(&self) -> &str;
    fn cpu(&self) -> Option<&CpuUsage>;
}

impl Measured for ContainerStats {
    fn id(&self) -> &str {
        self.attributes.as_ref().map_or("", |a| &a.id)
    }

    fn cpu(&self) -> Option<&CpuUsage> {
        self.cpu.as_ref()
    }
}

impl Measured for PodSandboxStats {
    fn id(&self) -> &str {
        self.attributes.as_ref().map_or("", |a| &a.id)
    }

    fn cpu(&self) -> Option<&CpuUsage> {
        self.linux.as_ref()?.cpu.as_ref()
    }
}

/// How much of one processor each uses, in the daemon's own words or between our last two looks.
#[derive(Debug, Default)]
struct Rates {
    /// Time and use, both in nanoseconds, of the last look and the one before.
    seen: HashMap<String, [Option<(i64, u64)>; 2]>,
}

impl Rates {
    fn add<T: Measured>(&mut self, all: &[T]) {
        let mut seen = HashMap::new();
        for one in all {
            let Some(cpu) = one.cpu() else { continue };
            let used = cpu.usage_core_nano_seconds.as_ref();
            let now = used.map(|used| (cpu.timestamp, used.value));
            let [last, before] = self.seen.remove(one.id()).unwrap_or_default();
            // The daemon may have told the same measurement again.
            let pair = if now.map(|n| n.0) == last.map(|l| l.0) {
                [last, before]
            } else {
                [now, last]
            };
            seen.insert(one.id().to_owned(), pair);
        }
        self.seen = seen;
    }

    /// In nanoseconds a second.
    fn of<T: Measured>(&self, one: &T) -> Option<u64> {
        if let Some(told) = one.cpu().and_then(|cpu| cpu.usage_nano_cores.as_ref()) {
            return Some(told.value);
        }
        let [Some(last), Some(before)] = *self.seen.get(one.id())? else {
            return None;
        };
        let time = u128::try_from(last.0.checked_sub(before.0)?).ok()?;
        let used = u128::from(last.1.checked_sub(before.1)?);
        u64::try_from((used * 1_000_000_000).checked_div(time)?).ok()
    }
}

pub async fn metrics(session: &Session<'_>) -> Result<(), Failure> {
    let answer = session.client().await?.list_pod_sandbox_metrics().await?;
    session.show(&answer, || show::metrics(&answer))
}

pub async fn descriptors(session: &Session<'_>) -> Result<(), Failure> {
    let answer = session.client().await?.list_metric_descriptors().await?;
    session.show(&answer, || show::descriptors(&answer))
}

pub async fn checkpoint(session: &Session<'_>, args: &Checkpoint) -> Result<(), Failure> {
    let Some(location) = args.export.to_str().filter(|path| path.starts_with('/')) else {
        return Err(Failure::Usage(
            "`--export` takes a whole path: it is the daemon that writes there",
        ));
    };
    let client: Client = session.client().await?;
    let id = resolve(&client, Kind::Container, args.container.get()).await?;
    client
        .checkpoint_container(&id, location, args.timeout)
        .await?;
    session.ids([id.as_str()].into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::{ContainerAttributes, UInt64Value};

    fn stats(at: i64, used: u64, rate: Option<u64>) -> ContainerStats {
        ContainerStats {
            attributes: Some(ContainerAttributes {
                id: "a".to_owned(),
                ..Default::default()
            }),
            cpu: Some(CpuUsage {
                timestamp: at,
                usage_core_nano_seconds: Some(UInt64Value { value: used }),
                usage_nano_cores: rate.map(|value| UInt64Value { value }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_rate_is_told_or_lies_between_two_looks() {
        let mut rates = Rates::default();
        let first = stats(1_000_000_000, 100, None);
        rates.add(std::slice::from_ref(&first));
        assert_eq!(rates.of(&first), None);
        assert_eq!(rates.of(&stats(0, 0, Some(7))), Some(7));
        rates.add(std::slice::from_ref(&first));
        assert_eq!(
            rates.of(&first),
            None,
            "the same measurement is no second one"
        );
        let second = stats(3_000_000_000, 1_000_000_100, None);
        rates.add(std::slice::from_ref(&second));
        assert_eq!(rates.of(&second), Some(500_000_000));
        let reset = stats(4_000_000_000, 0, None);
        rates.add(std::slice::from_ref(&reset));
        assert_eq!(rates.of(&reset), None, "it was started anew");
        rates.add::<ContainerStats>(&[]);
        assert_eq!(rates.of(&reset), None);
    }
}
