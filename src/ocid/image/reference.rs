//! Image references: `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`, by the grammar of the distribution
//! project (github.com/distribution/reference, `reference.go`).

use std::fmt;

use super::digest::Digest;

/// The registry that an unqualified name means.
pub const DOCKER_HUB: &str = "docker.io";
/// Longest `REGISTRY/REPOSITORY`, in bytes.
const LONGEST_NAME: usize = 255;
/// Longest tag, in bytes.
const LONGEST_TAG: usize = 128;

/// A reference as a person wrote it: its registry may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Named {
    /// `HOST[:PORT]`, absent in a short name.
    pub registry: Option<String>,
    pub path: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

/// A full reference: registry and repository, and a tag or a digest (which wins when both are there).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// `HOST[:PORT]`.
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{reference}` is not an image reference: {problem}")]
pub struct InvalidReference {
    pub reference: String,
    pub problem: &'static str,
}

impl Named {
    /// Parses what a CRI client gave as the image.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let wrong = |problem| InvalidReference {
            reference: text.chars().take(300).collect(),
            problem,
        };
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = Digest::parse(digest)
                    .map_err(|_| wrong("after `@` a sha256 or sha512 digest must follow"))?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        // The last colon starts a tag only behind the last slash; before it, it starts a port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((before, tag)) if !tag.contains('/') && !tag.contains(']') => {
                if !is_tag(tag) {
                    return Err(wrong(
                        "a tag is up to 128 letters, digits, `_`, `.` and `-`, and starts with none of the last two",
                    ));
                }
                (before, Some(tag.to_owned()))
            }
            _ => (name, None),
        };
        if name.len() > LONGEST_NAME {
            return Err(wrong("its name is longer than 255 bytes"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (Some(first), rest),
            _ => (None, name),
        };
        if registry.is_some_and(|r| !is_host(r)) {
            return Err(wrong(
                "its registry is not a host name or address with an optional port",
            ));
        }
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(wrong("a repository has only lower-case letters"));
        }
        if !path.split('/').all(is_component) {
            return Err(wrong(
                "a repository is made of lower-case letters and digits, single `.` and `_`, `-`, and `/`",
            ));
        }
        if registry.is_none() && is_id(path) {
            return Err(wrong("64 hexadecimal digits are an image id"));
        }
        Ok(Self {
            registry: registry.map(canonical_registry),
            path: path.to_owned(),
            tag,
            digest,
        })
    }

    /// The full reference in this registry; an absent tag means `latest` unless a digest is there.
    pub fn at(&self, registry: &str) -> Reference {
        let repository = if registry == DOCKER_HUB && !self.path.contains('/') {
            format!("library/{}", self.path)
        } else {
            self.path.clone()
        };
        let tag = match (&self.tag, &self.digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.clone(),
        };
        Reference {
            registry: registry.to_owned(),
            repository,
            tag,
            digest: self.digest.clone(),
        }
    }

    /// The full reference, with docker.io for a short name.
    pub fn qualified(&self) -> Reference {
        self.at(self.registry.as_deref().unwrap_or(DOCKER_HUB))
    }
}

impl Reference {
    /// Parses a reference; a short name means docker.io.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        Named::parse(text).map(|n| n.qualified())
    }

    /// `REGISTRY/REPOSITORY`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `NAME:TAG` if it is by tag alone.
    pub fn tagged(&self) -> Option<String> {
        match (&self.tag, &self.digest) {
            (Some(tag), None) => Some(format!("{}:{tag}", self.name())),
            _ => None,
        }
    }

    /// What stands in the manifest's URL: the digest, else the tag.
    pub fn object(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// 64 lower-case hex digits.
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The first component is a registry if no repository could be named so.
fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':', '['])
        || first.chars().any(|c| c.is_ascii_uppercase())
}

fn canonical_registry(registry: &str) -> String {
    match registry {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
        other => other.to_owned(),
    }
}

fn is_host(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, port)) => (address, port.strip_prefix(':').or(Some(""))),
            None => return false,
        },
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    if port.is_some_and(|p| p.parse::<u16>().is_err() || p.starts_with('+')) {
        return false;
    }
    if registry.starts_with('[') {
        return host.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label)
}

/// Runs of lower-case letters and digits, held together by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separator = String::new();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(|b| alphanumeric(*b))
        || !bytes.last().is_some_and(|b| alphanumeric(*b))
    {
        return false;
    }
    for c in component.chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            let dashes = !separator.is_empty() && separator.bytes().all(|b| b == b'-');
            if !matches!(separator.as_str(), "" | "." | "_" | "__") && !dashes {
                return false;
            }
            separator.clear();
        } else if matches!(c, '.' | '_' | '-') {
            separator.push(c);
        } else {
            return false;
        }
    }
    true
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_mean_docker_hub() {
        let full = |text: &str| Reference::parse(text).unwrap().to_string();
        assert_eq!(full("redis"), "docker.io/library/redis:latest");
        assert_eq!(full("redis:alpine"), "docker.io/library/redis:alpine");
        assert_eq!(full("me/redis"), "docker.io/me/redis:latest");
        assert_eq!(
            full("index.docker.io/library/a"),
            "docker.io/library/a:latest"
        );
        assert_eq!(full("localhost/a"), "localhost/a:latest");
        assert_eq!(full("127.0.0.1:5000/a/b:1"), "127.0.0.1:5000/a/b:1");
        assert_eq!(full("[::1]:5000/a"), "[::1]:5000/a:latest");
        assert_eq!(
            full("quay.io/x__y/z-0.a--b:V1.0_"),
            "quay.io/x__y/z-0.a--b:V1.0_"
        );
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let digest = Digest::sha256(b"x");
        let both = Reference::parse(&format!("a.b/c:1@{digest}")).unwrap();
        assert_eq!(both.object(), digest.as_str());
        assert_eq!(both.tagged(), None);
        let alone = Reference::parse(&format!("a.b/c@{digest}")).unwrap();
        assert_eq!(alone.tag, None);
        let tagged = Reference::parse("a.b/c").unwrap();
        assert_eq!(tagged.tagged().as_deref(), Some("a.b/c:latest"));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = format!("a.b/{}", "x".repeat(255));
        let tag = format!("a:{}", "x".repeat(129));
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a:-x",
            "a:b:c",
            "A",
            "a/B",
            "a.b/C",
            "a@",
            "a@sha256:12",
            "..",
            "a/../b",
            "a/./b",
            "a b",
            "a\n",
            "a\0",
            "-a",
            "a-",
            "a._b",
            "a___b",
            "a.b:x/c",
            "[::1/a",
            "[zz]:1/a",
            "a.b:99999/c",
            "http://a/b",
            "https://a.b/c",
            &long,
            &tag,
            &"a".repeat(64),
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
    }
}
