//! What single words mean: durations, ports, labels, amounts, and what nobody may see.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A port of ours (0: any) for one of a pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    pub local: u16,
    pub remote: u16,
}

/// A word that no message shows: clap quotes what it cannot take, so every word is taken here and judged
/// where the words of the complaint are ours.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A moment, or so long before now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    Moment(OffsetDateTime),
    Before(Duration),
}

/// Takes the form of other CRI clients too: `unix:///run/ocid/ocid.sock`.
pub fn socket(text: &str) -> Result<PathBuf, String> {
    crate::ocic::endpoint::path(text).ok_or_else(|| "not a path of a unix socket".to_owned())
}

/// `10` and `10s` are seconds, `500ms`, `2m`, `1h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let number: u64 = digits
        .parse()
        .map_err(|_| "not a duration such as 500ms, 10s or 2m".to_owned())?;
    let seconds = |each: u64| {
        let total = number.checked_mul(each).filter(|s| *s <= LONGEST);
        total.ok_or_else(|| "longer than a year".to_owned())
    };
    match unit {
        "ms" if number <= LONGEST => Ok(Duration::from_millis(number)),
        "" | "s" => seconds(1).map(Duration::from_secs),
        "m" => seconds(60).map(Duration::from_secs),
        "h" => seconds(3600).map(Duration::from_secs),
        _ => Err("the units are ms, s, m and h".to_owned()),
    }
}

/// A year of seconds: longer is a slip, and would overflow timers.
const LONGEST: u64 = 366 * 86_400;

/// A duration with some length.
pub fn pause(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("nothing happens in no time".to_owned()),
        some => Ok(some),
    }
}

pub fn since(text: &str) -> Result<Since, String> {
    if let Ok(moment) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(Since::Moment(moment));
    }
    let wrong = || "neither a time such as 2026-01-02T03:04:05Z nor a duration such as 10m";
    duration(text)
        .map(Since::Before)
        .map_err(|_| wrong().to_owned())
}

pub fn mapping(text: &str) -> Result<Mapping, String> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let local = if local.is_empty() {
        Some(0)
    } else {
        port(local)
    };
    match (local, port(remote)) {
        (Some(local), Some(remote)) => Ok(Mapping { local, remote }),
        _ => Err("not of the form 8080:80, 80 or :80".to_owned()),
    }
}

/// A port of the machine for one of the container's: `8080:80`.
pub fn publish(text: &str) -> Result<(u16, u16), String> {
    let ports = text.split_once(':');
    let ports = ports.and_then(|(host, container)| Some((port(host)?, port(container)?)));
    ports.ok_or_else(|| "not of the form 8080:80".to_owned())
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

pub fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("not of the form KEY=VALUE".to_owned()),
    }
}

/// Bytes: `1048576`, `512k`, `64Mi`, `1G`; the units of Kubernetes, `k` being 1000 and `Ki` 1024.
pub fn amount(text: &str) -> Result<i64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let each: i64 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err("the units are k, M, G, Ki, Mi and Gi".to_owned()),
    };
    let number: Option<i64> = digits.parse().ok();
    let bytes = number.and_then(|n| n.checked_mul(each));
    bytes.ok_or_else(|| "not a number of bytes such as 1048576 or 64Mi".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in [
            "",
            "s",
            "-1",
            "1.5s",
            "1d",
            "99999999999h",
            "18446744073709551616",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(pause("0").is_err() && pause("1ms").is_ok());
    }

    #[test]
    fn a_beginning_is_a_moment_or_a_while_ago() {
        assert_eq!(since("5m"), Ok(Since::Before(Duration::from_secs(300))));
        let moment = OffsetDateTime::from_unix_timestamp(1_767_323_045).unwrap();
        assert_eq!(since("2026-01-02T03:04:05Z"), Ok(Since::Moment(moment)));
        assert_eq!(
            since("2026-01-02T04:04:05+01:00"),
            Ok(Since::Moment(moment))
        );
        for bad in ["", "yesterday", "2026-01-02", "2026-13-02T03:04:05Z"] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_count_as_kubernetes_does() {
        assert_eq!(amount("64Mi"), Ok(64 << 20));
        assert_eq!(amount("2k"), Ok(2000));
        assert_eq!(amount("-1"), Ok(-1));
        for bad in ["", "Mi", "1.5G", "1T", "9223372036854775807k", "1 M"] {
            assert!(amount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_are_numbers_above_zero() {
        assert_eq!(publish("8080:80"), Ok((8080, 80)));
        for bad in ["", "80", ":80", "80:", "0:1", "1:65536", "a:b"] {
            assert!(publish(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret: Secret = "user:word".parse().unwrap();
        assert!(!format!("{secret:?}").contains("word"));
    }

    #[test]
    fn a_socket_may_be_written_as_a_url() {
        let path = Ok(PathBuf::from("/run/x.sock"));
        assert_eq!(socket("unix:///run/x.sock"), path);
        assert_eq!(socket("/run/x.sock"), path);
        assert!(socket("").is_err() && socket("tcp://127.0.0.1:1").is_err());
    }
}
