//! Processor use as a rate, from two samples of what was used in all.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Samples closer to each other than this say more of the scheduler than of the container.
const SHORTEST: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    /// Nanoseconds.
    total: u64,
}

/// Two samples, so that there is an earlier one even for callers who ask in quick succession.
#[derive(Debug, Clone, Copy)]
struct Kept {
    earlier: Option<Sample>,
    later: Sample,
}

/// By the id of a pod or container.
#[derive(Debug, Default)]
pub struct Samples(Mutex<HashMap<String, Kept>>);

impl Samples {
    /// Notes a sample; billionths of a processor since an earlier one, at least [`SHORTEST`] ago. `None` before
    /// there is one, and when the count began anew.
    pub fn rate(&self, id: &str, at: Instant, total: u64) -> Option<u64> {
        let now = Sample { at, total };
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = samples.get_mut(id).filter(|kept| kept.later.total <= total);
        let Some(kept) = kept else {
            let first = Kept {
                earlier: None,
                later: now,
            };
            samples.insert(id.to_owned(), first);
            return None;
        };
        if at.saturating_duration_since(kept.later.at) >= SHORTEST {
            kept.earlier = Some(kept.later);
            kept.later = now;
        }
        kept.earlier.and_then(|earlier| per_second(earlier, now))
    }

    /// Forgets what is no more.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.retain(|id, _| exists(id));
    }
}

fn per_second(from: Sample, to: Sample) -> Option<u64> {
    let elapsed = to.at.checked_duration_since(from.at)?.as_nanos();
    let used = u128::from(to.total.checked_sub(from.total)?);
    let rate = (used * 1_000_000_000).checked_div(elapsed)?;
    u64::try_from(rate).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_since_an_earlier_sample() {
        let (samples, start) = (Samples::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(samples.rate("a", at(0), 5_000_000_000), None);
        assert_eq!(samples.rate("a", at(10), 5_001_000_000), None, "too soon");
        // Half a processor for two seconds.
        assert_eq!(
            samples.rate("a", at(2000), 6_000_000_000),
            Some(500_000_000)
        );
        // Asked again at once: since the same earlier one, not over a few milliseconds.
        assert_eq!(
            samples.rate("a", at(2010), 6_010_000_000),
            Some(502_487_562)
        );
        // Two processors for ten seconds.
        assert_eq!(
            samples.rate("a", at(12_000), 26_000_000_000),
            Some(2_000_000_000)
        );
        assert_eq!(samples.rate("b", at(12_000), 1), None, "another's own");
    }

    #[test]
    fn a_count_that_began_anew_has_no_rate() {
        let (samples, start) = (Samples::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(samples.rate("a", at(0), 1_000), None);
        assert_eq!(samples.rate("a", at(2), 10), None);
        assert_eq!(samples.rate("a", at(4), 2_010), Some(1_000));
        samples.retain(|id| id != "a");
        assert_eq!(samples.rate("a", at(6), 3_000), None);
    }
}
