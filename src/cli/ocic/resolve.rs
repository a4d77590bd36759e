//! What a person calls an object, for its id: the id, the start of it as the tables show it, or the name.

use std::fmt;

use crate::ocic::client::Client;

use super::{Failure, show};

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

/// Something that there is.
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub id: String,
    pub names: Vec<String>,
    /// For people who have to choose.
    pub about: String,
}

/// The whole id of what `given` means. A whole one is not looked up: the daemon says what it knows of it. Images
/// are the daemon's to find, by name or by id.
pub async fn resolve(client: &Client, kind: Kind, given: &str) -> Result<String, Failure> {
    let whole = given.len() == WHOLE && given.bytes().all(|b| b.is_ascii_hexdigit());
    if given.is_empty() {
        let given = given.to_owned();
        return Err(Failure::Unknown { kind, given });
    }
    if whole || kind == Kind::Image {
        return Ok(given.to_owned());
    }
    pick(kind, given, known(client, kind).await?)
}

/// The same where nothing may be meant, which is the empty id of the CRI's filters.
pub async fn resolve_any(
    client: &Client,
    kind: Kind,
    given: Option<&str>,
) -> Result<String, Failure> {
    match given {
        Some(given) => resolve(client, kind, given).await,
        None => Ok(String::new()),
    }
}

/// What there is of a kind.
pub async fn known(client: &Client, kind: Kind) -> Result<Vec<Known>, Failure> {
    let known = match kind {
        Kind::Pod => {
            let pods = client.list_pod_sandboxes(None).await?.into_iter();
            let known = pods.map(|pod| {
                let metadata = pod.metadata.unwrap_or_default();
                let (name, namespace) = (metadata.name, metadata.namespace);
                let long = format!("{namespace}/{name}");
                Known {
                    about: format!("{long}, {}", show::pod_state(pod.state)),
                    names: vec![name, long],
                    id: pod.id,
                }
            });
            known.collect()
        }
        Kind::Container => {
            let containers = client.list_containers(None).await?.into_iter();
            let known = containers.map(|container| {
                let metadata = container.metadata.unwrap_or_default();
                let state = show::container_state(container.state);
                let pod = show::short(&container.pod_sandbox_id);
                let (name, attempt) = (metadata.name, metadata.attempt);
                Known {
                    about: format!("{name}, attempt {attempt}, {state}, in pod {pod}"),
                    names: vec![name],
                    id: container.id,
                }
            });
            known.collect()
        }
        Kind::Image => {
            let images = client.list_images(None).await?.into_iter();
            let known = images.map(|image| Known {
                about: String::new(),
                names: match image.repo_tags.is_empty() {
                    true => image.repo_digests,
                    false => image.repo_tags,
                },
                id: image.id,
            });
            known.collect()
        }
    };
    Ok(known)
}

/// A whole id is meant before a name, a name before the start of an id.
fn pick(kind: Kind, given: &str, known: Vec<Known>) -> Result<String, Failure> {
    if known.iter().any(|one| one.id == given) {
        return Ok(given.to_owned());
    }
    let (named, others): (Vec<_>, Vec<_>) = known
        .into_iter()
        .partition(|one| one.names.iter().any(|name| name == given));
    let meant: Vec<Known> = if named.is_empty() {
        let started = others.into_iter().filter(|one| one.id.starts_with(given));
        started.collect()
    } else {
        named
    };
    let given = given.to_owned();
    match meant.as_slice() {
        [] => Err(Failure::Unknown { kind, given }),
        [one] => Ok(one.id.clone()),
        several => {
            let line = |one: &Known| format!("{} ({})", show::short(&one.id), one.about);
            let candidates = several.iter().map(line).collect();
            Err(Failure::Ambiguous {
                kind,
                given,
                candidates,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(pairs: &[(&str, &str)]) -> Vec<Known> {
        let one = |&(id, name): &(&str, &str)| Known {
            id: id.to_owned(),
            names: vec![name.to_owned()],
            about: name.to_owned(),
        };
        pairs.iter().map(one).collect()
    }

    #[test]
    fn the_start_of_one_id_is_enough() {
        let known = || known(&[("abc1", "x"), ("abd2", "x"), ("ab", "z")]);
        let picked = |given| pick(Kind::Pod, given, known());
        assert_eq!(picked("abc").unwrap(), "abc1");
        assert_eq!(picked("ab").unwrap(), "ab", "an exact id wins");
        match picked("a") {
            Err(Failure::Ambiguous { candidates, .. }) => {
                assert_eq!(candidates, ["abc1 (x)", "abd2 (x)", "ab (z)"]);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(picked("y"), Err(Failure::Unknown { .. })));
    }

    #[test]
    fn a_name_is_meant_before_the_start_of_an_id() {
        let known = || known(&[("abc1", "redis"), ("abd2", "abc"), ("1", "redis")]);
        let picked = |given| pick(Kind::Container, given, known());
        assert_eq!(picked("abc").unwrap(), "abd2");
        match picked("redis") {
            Err(error @ Failure::Ambiguous { .. }) => {
                let text = error.to_string();
                assert!(
                    text.contains("`redis`") && text.contains("\nabc1 (redis)\n"),
                    "{text}"
                );
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(picked("redi"), Err(Failure::Unknown { .. })));
    }
}
