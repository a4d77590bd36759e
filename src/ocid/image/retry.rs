//! When a registry that is in trouble is asked again.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// How often, and how patiently, a request is repeated.
#[derive(Debug, Clone, Copy)]
pub struct Retries {
    /// Requests after the first.
    pub most: u32,
    /// Before the first of them; each later pause is twice as long.
    pub pause: Duration,
    /// The longest pause, also where the registry asks for one. It is not waited longer than this:
    /// whoever asked for the pull is told instead.
    pub longest: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            most: 4,
            pause: Duration::from_millis(500),
            longest: Duration::from_secs(60),
        }
    }
}

impl Retries {
    /// For a source that is not the last one: the next is not kept waiting for long.
    pub fn for_a_mirror(self) -> Self {
        let longest = self.longest.min(self.pause * 4);
        Self {
            most: self.most.min(1),
            longest,
            ..self
        }
    }

    /// How long to wait before the request that follows `done` failed ones; `asked` is what the
    /// registry wants. Nothing if that is the end of it.
    pub fn pause(&self, done: u32, asked: Option<Duration>) -> Option<Duration> {
        let again = done.checked_sub(1).filter(|again| *again < self.most)?;
        if let Some(asked) = asked {
            return (asked <= self.longest).then_some(asked);
        }
        let doubled = self.pause.saturating_mul(1 << again.min(16));
        Some(doubled.min(self.longest))
    }
}

/// May the same request succeed a little later?
pub fn may_pass(status: StatusCode) -> bool {
    // 501 and 505 say that it will not.
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// Did the connection break that had been made? One that could not be made is another matter: nobody
/// listens there, or its certificate is wrong.
pub fn broke_off(e: &reqwest::Error) -> bool {
    e.is_request() && !e.is_connect() && !e.is_timeout() && !e.is_redirect()
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date.
pub fn asked(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = OffsetDateTime::parse(value, &Rfc2822).ok()?;
    // What is past may be tried at once.
    Some(Duration::try_from(date - now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_end() {
        let retries = Retries {
            most: 4,
            pause: Duration::from_secs(1),
            longest: Duration::from_secs(3),
        };
        let seconds: Vec<Option<u64>> = (1..=6)
            .map(|done| retries.pause(done, None).map(|p| p.as_secs()))
            .collect();
        assert_eq!(seconds, [Some(1), Some(2), Some(3), Some(3), None, None]);
        let asked = |s| retries.pause(1, Some(Duration::from_secs(s)));
        assert_eq!(asked(0), Some(Duration::ZERO));
        assert_eq!(asked(3), Some(Duration::from_secs(3)));
        assert_eq!(asked(4), None, "not longer than is waited at most");
        assert_eq!(retries.for_a_mirror().pause(2, None), None);
        assert_eq!(Retries { most: 0, ..retries }.pause(1, None), None);
    }

    #[test]
    fn both_forms_of_retry_after() {
        let now = OffsetDateTime::from_unix_timestamp(1_445_412_400).unwrap();
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            asked(&headers, now).map(|d| d.as_secs())
        };
        assert_eq!(of("120"), Some(120));
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(80));
        assert_eq!(of("Wed, 21 Oct 2015 07:00:00 GMT"), Some(0));
        assert_eq!(of("soon"), None);
        assert_eq!(of("-1"), None);
        assert_eq!(asked(&HeaderMap::new(), now), None);
    }
}
