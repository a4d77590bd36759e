//! The start of an id, as the tables show it, for the whole one.

use std::fmt;

use crate::ocic::client::Client;

use super::Failure;

/// What an id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pod,
    Container,
    Image,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod",
            Self::Container => "container",
            Self::Image => "image",
        })
    }
}

/// Ids have this many hexadecimal digits.
const WHOLE: usize = 64;

/// The whole id that `given` is, or is the start of. A whole one is not looked up: the daemon says
/// what it knows of it. Images are the daemon's to find, by name or by id.
pub async fn resolve(client: &Client, kind: Kind, given: &str) -> Result<String, Failure> {
    let whole = given.len() == WHOLE && given.bytes().all(|b| b.is_ascii_hexdigit());
    let known: Vec<String> = match kind {
        _ if whole => return Ok(given.to_owned()),
        Kind::Image => return Ok(given.to_owned()),
        Kind::Pod => {
            let pods = client.list_pod_sandboxes(None).await?;
            pods.into_iter().map(|pod| pod.id).collect()
        }
        Kind::Container => {
            let all = client.list_containers(None).await?;
            all.into_iter().map(|container| container.id).collect()
        }
    };
    pick(kind, given, known)
}

fn pick(kind: Kind, given: &str, known: Vec<String>) -> Result<String, Failure> {
    let given = given.to_owned();
    if given.is_empty() {
        return Err(Failure::Unknown { kind, given });
    }
    if known.contains(&given) {
        return Ok(given);
    }
    let mut found = known.into_iter().filter(|id| id.starts_with(&given));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => Err(Failure::Ambiguous { kind, given }),
        (None, _) => Err(Failure::Unknown { kind, given }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_one_id_is_enough() {
        let known = || ["abc1", "abd2", "ab"].map(str::to_owned).into();
        let picked = |given| pick(Kind::Pod, given, known());
        assert_eq!(picked("abc").unwrap(), "abc1");
        assert_eq!(picked("ab").unwrap(), "ab", "an exact id wins");
        assert!(matches!(picked("a"), Err(Failure::Ambiguous { .. })));
        assert!(matches!(picked("x"), Err(Failure::Unknown { .. })));
        assert!(matches!(picked(""), Err(Failure::Unknown { .. })));
    }
}
