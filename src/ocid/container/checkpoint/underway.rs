//! Checkpoints that are being made, and the calls that they must not hold up: a frozen container hears no signal.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::error::CheckpointError;

/// By container. Whoever stops one cuts its checkpoint off and lets no other begin.
#[derive(Debug, Default, Clone)]
pub struct Checkpoints(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    underway: HashMap<u64, (String, CancellationToken)>,
    /// How many stop it.
    stopping: HashMap<String, usize>,
}

/// One that is being made; ends with the value.
#[derive(Debug)]
pub struct Underway {
    all: Checkpoints,
    number: u64,
    pub until: Until,
}

/// A stop under way; ends with the value.
#[derive(Debug)]
pub struct Stopping {
    all: Checkpoints,
    id: String,
}

/// How long a checkpoint may go on: to its deadline, or until it is cut off.
#[derive(Debug, Clone)]
pub struct Until {
    limit: Duration,
    deadline: Instant,
    cut_off: CancellationToken,
}

impl Checkpoints {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whole whatever a panicking thread was at.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one that may take `limit`; refused while the container is being stopped.
    pub fn begin(&self, id: &str, limit: Duration) -> Result<Underway, CheckpointError> {
        let mut state = self.state();
        if state.stopping.contains_key(id) {
            return Err(CheckpointError::Stopping);
        }
        let number = state.next;
        state.next += 1;
        let cut_off = CancellationToken::new();
        state
            .underway
            .insert(number, (id.to_owned(), cut_off.clone()));
        Ok(Underway {
            all: self.clone(),
            number,
            until: Until::new(limit, cut_off),
        })
    }

    /// Cuts off what is being made of a container, and keeps others from beginning while the value lives.
    pub fn stop(&self, id: &str) -> Stopping {
        let mut state = self.state();
        *state.stopping.entry(id.to_owned()).or_default() += 1;
        for (_, cut_off) in state.underway.values().filter(|(of, _)| of == id) {
            cut_off.cancel();
        }
        Stopping {
            all: self.clone(),
            id: id.to_owned(),
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.all.state().underway.remove(&self.number);
    }
}

impl Drop for Stopping {
    fn drop(&mut self) {
        let mut state = self.all.state();
        if let Some(count) = state.stopping.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                state.stopping.remove(&self.id);
            }
        }
    }
}

impl Until {
    fn new(limit: Duration, cut_off: CancellationToken) -> Self {
        Self {
            limit,
            deadline: Instant::now() + limit,
            cut_off,
        }
    }

    /// What is left of the time.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Does `work`, or drops it when the time is over.
    pub async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, CheckpointError> {
        tokio::select! {
            biased;
            () = self.cut_off.cancelled() => Err(CheckpointError::Stopping),
            done = tokio::time::timeout_at(self.deadline.into(), work) => {
                done.map_err(|_| CheckpointError::Late(self.limit))
            }
        }
    }

    /// Why work must not go on, if so.
    pub fn over(&self) -> Option<CheckpointError> {
        if self.cut_off.is_cancelled() {
            Some(CheckpointError::Stopping)
        } else if self.left().is_zero() {
            Some(CheckpointError::Late(self.limit))
        } else {
            None
        }
    }

    /// For code that blocks, between one piece of its work and the next.
    pub fn check(&self) -> io::Result<()> {
        match self.over() {
            None => Ok(()),
            Some(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_stop_cuts_off_what_is_underway_and_nothing_else() {
        let all = Checkpoints::default();
        let (one, two) = (all.begin("a", LONG).unwrap(), all.begin("b", LONG).unwrap());
        assert!(one.until.within(async { 1 }).await.is_ok());
        let (first, second) = (all.stop("a"), all.stop("a"));
        let cut_off = one.until.within(std::future::pending::<()>()).await;
        assert!(matches!(cut_off, Err(CheckpointError::Stopping)));
        assert!(one.until.check().is_err() && two.until.check().is_ok());
        for stopping in [first, second] {
            assert!(matches!(
                all.begin("a", LONG),
                Err(CheckpointError::Stopping)
            ));
            drop(stopping);
        }
        drop((one, two));
        assert!(all.begin("a", LONG).is_ok());
        let state = all.state();
        assert!(state.underway.is_empty() && state.stopping.is_empty());
    }

    #[tokio::test]
    async fn the_time_is_over_for_those_who_wait_and_those_who_work() {
        let all = Checkpoints::default();
        let short = Duration::from_millis(20);
        let underway = all.begin("a", short).unwrap();
        let late = underway.until.within(std::future::pending::<()>()).await;
        assert!(matches!(late, Err(CheckpointError::Late(limit)) if limit == short));
        assert!(underway.until.check().is_err() && underway.until.left().is_zero());
    }
}
