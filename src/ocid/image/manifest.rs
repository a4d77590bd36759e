//! Manifests and indexes: OCI image spec v1 and docker's schema 2.

use serde::Deserialize;

use super::digest::Digest;
use crate::ocid::storage::MOST_LAYERS;

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

/// Most bytes of a manifest or index: what the distribution spec says a registry must take.
pub const LARGEST: usize = 4 << 20;
/// Most bytes of an image configuration.
pub const LARGEST_CONFIG: u64 = 8 << 20;

/// What a registry gave for a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Index(Vec<Choice>),
    Manifest(Manifest),
}

/// One platform's manifest in an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub digest: Digest,
    pub size: u64,
    pub platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(default)]
    pub variant: Option<String>,
}

/// One image's configuration and layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub config: Blob,
    /// Lowest first.
    pub layers: Vec<Blob>,
}

/// A blob that a manifest refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: i64,
    #[serde(default)]
    platform: Option<Platform>,
}

impl Descriptor {
    fn blob(&self) -> Result<Blob, String> {
        let size = u64::try_from(self.size).map_err(|_| "a negative size".to_owned())?;
        let digest = Digest::parse(&self.digest).map_err(|e| e.to_string())?;
        Ok(Blob { digest, size })
    }
}

/// Parses a document; `content_type` is the response's. The error says what is wrong with it.
pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, String> {
    let wire: Wire =
        serde_json::from_slice(bytes).map_err(|e| format!("it is not JSON of a manifest: {e}"))?;
    let header = content_type.map(|t| t.split(';').next().unwrap_or(t).trim());
    let kind = wire.media_type.as_deref().or(header).unwrap_or("");
    if wire.schema_version == Some(1) || kind.starts_with(DOCKER_SCHEMA_1) {
        return Err("it is of docker's schema 1, which is no longer supported; push it again with a newer client".to_owned());
    }
    if wire.schema_version != Some(2) {
        return Err("its schema version is not 2".to_owned());
    }
    // One that could be read both ways might be seen otherwise by whoever checked it before us.
    match (wire.manifests, wire.config, wire.layers) {
        (Some(manifests), None, None) if !matches!(kind, OCI_MANIFEST | DOCKER_MANIFEST) => {
            index(manifests)
        }
        (None, Some(config), Some(layers)) if !matches!(kind, OCI_INDEX | DOCKER_LIST) => {
            manifest(&config, &layers)
        }
        _ => Err("it is neither a manifest nor an index".to_owned()),
    }
}

fn index(manifests: Vec<Descriptor>) -> Result<Document, String> {
    let choice = |d: Descriptor| -> Result<Choice, String> {
        let blob = d.blob()?;
        Ok(Choice {
            digest: blob.digest,
            size: blob.size,
            platform: d.platform,
        })
    };
    let choices: Result<Vec<Choice>, String> = manifests.into_iter().map(choice).collect();
    Ok(Document::Index(choices?))
}

fn manifest(config: &Descriptor, layers: &[Descriptor]) -> Result<Document, String> {
    if layers.len() > MOST_LAYERS {
        return Err(format!(
            "it has {} layers, more than {MOST_LAYERS}",
            layers.len()
        ));
    }
    let config = config.blob()?;
    if config.size > LARGEST_CONFIG {
        return Err(format!(
            "its configuration has {} bytes, more than {LARGEST_CONFIG}",
            config.size
        ));
    }
    let layer = |d: &Descriptor| {
        let kind = d.media_type.as_str();
        if kind.contains("foreign") || kind.contains("nondistributable") {
            return Err(format!(
                "its layer {} is not distributed by registries",
                d.digest
            ));
        }
        if kind.ends_with("+encrypted") {
            return Err(format!("its layer {} is encrypted", d.digest));
        }
        if !kind.is_empty() && !kind.contains("tar") {
            return Err(format!(
                "it is no container image: a layer is of type `{kind}`"
            ));
        }
        d.blob()
    };
    let layers: Result<Vec<Blob>, String> = layers.iter().map(layer).collect();
    Ok(Document::Manifest(Manifest {
        config,
        layers: layers?,
    }))
}

impl Platform {
    /// This machine, in the names that Go has for it (GOOS, GOARCH, variant).
    pub fn of_this_machine() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well an image for `self` runs on `machine`: not at all, or the smaller the better.
    fn distance(&self, machine: &Self) -> Option<u32> {
        if self.os != machine.os || self.architecture != machine.architecture {
            return None;
        }
        let level = |p: &Self| -> Option<u32> {
            let digits = p.variant.as_deref()?.strip_prefix('v')?;
            digits.split('.').next()?.parse().ok()
        };
        match (level(self), level(machine)) {
            (Some(own), Some(machine)) => machine.checked_sub(own),
            // amd64's v2 and later need instructions that the machine may lack.
            (Some(own), None) if own > 1 => None,
            _ => Some(0),
        }
    }
}

/// The manifest for `machine`; the error lists what there is instead.
pub fn choose<'a>(choices: &'a [Choice], machine: &Platform) -> Result<&'a Choice, String> {
    let fitting = choices.iter().filter_map(|c| {
        let distance = c.platform.as_ref()?.distance(machine)?;
        Some((distance, c))
    });
    let best = fitting.min_by_key(|(distance, _)| *distance);
    if let Some((_, choice)) = best {
        return Ok(choice);
    }
    // A single entry without a platform is an image for whatever machine.
    if let [only] = choices
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let names = choices.iter().filter_map(|c| c.platform.as_ref());
    let names = names.filter(|p| p.os != "unknown");
    let names: Vec<String> = names
        .take(20)
        .map(|p| format!("{}/{}", p.os, p.architecture))
        .collect();
    Err(format!(
        "there is none for {}/{}, only for: {}",
        machine.os,
        machine.architecture,
        if names.is_empty() {
            "nothing".to_owned()
        } else {
            names.join(", ")
        }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(of: &str) -> Digest {
        Digest::sha256(of.as_bytes())
    }

    fn choice(of: &str, architecture: &str, variant: Option<&str>) -> Choice {
        Choice {
            digest: digest(of),
            size: 1,
            platform: Some(Platform {
                architecture: architecture.to_owned(),
                os: "linux".to_owned(),
                variant: variant.map(str::to_owned),
            }),
        }
    }

    #[test]
    fn both_families_parse() {
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{0}","size":3}},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","digest":"{0}","size":7}}]}}"#,
            digest("x")
        );
        for kind in [
            Some(OCI_MANIFEST),
            Some(DOCKER_MANIFEST),
            Some("application/json; charset=utf-8"),
            None,
        ] {
            let Document::Manifest(m) = parse(text.as_bytes(), kind).unwrap() else {
                panic!("a manifest");
            };
            assert_eq!((m.config.size, m.layers[0].size), (3, 7));
        }
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{DOCKER_LIST}","manifests":[{{"mediaType":"x","digest":"{}","size":3,"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#,
            digest("x")
        );
        assert!(matches!(parse(text.as_bytes(), None), Ok(Document::Index(c)) if c.len() == 1));
    }

    #[test]
    fn what_is_ambiguous_or_unsupported_is_refused() {
        let d = digest("x");
        let blob = format!(r#"{{"digest":"{d}","size":3}}"#);
        let layer = |kind: &str| {
            format!(
                r#"{{"schemaVersion":2,"config":{blob},"layers":[{{"mediaType":"{kind}","digest":"{d}","size":3}}]}}"#
            )
        };
        let cases = [
            "{}".to_owned(),
            "[]".to_owned(),
            "no json".to_owned(),
            r#"{"schemaVersion":1,"name":"a"}"#.to_owned(),
            format!(r#"{{"schemaVersion":2,"config":{blob}}}"#),
            format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[],"manifests":[]}}"#),
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","config":{blob},"layers":[]}}"#
            ),
            r#"{"schemaVersion":2,"config":{"digest":"md5:0","size":3},"layers":[]}"#.to_owned(),
            format!(r#"{{"schemaVersion":2,"config":{{"digest":"{d}","size":-3}},"layers":[]}}"#),
            format!(
                r#"{{"schemaVersion":2,"config":{{"digest":"{d}","size":99999999}},"layers":[]}}"#
            ),
            format!(
                r#"{{"schemaVersion":2,"config":{blob},"layers":[{}]}}"#,
                vec![blob.clone(); 128].join(",")
            ),
            layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
            layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
            layer("application/vnd.cncf.helm.chart.content.v1"),
        ];
        for case in cases {
            assert!(parse(case.as_bytes(), None).is_err(), "{case:.200}");
        }
    }

    #[test]
    fn the_nearest_platform_is_chosen() {
        let machine = |architecture: &str, variant: Option<&str>| Platform {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            variant: variant.map(str::to_owned),
        };
        let choices = [
            choice("v3", "amd64", Some("v3")),
            choice("plain", "amd64", None),
            choice("arm5", "arm", Some("v5")),
            choice("arm7", "arm", Some("v7")),
            choice("arm64", "arm64", None),
        ];
        let chosen = |machine: Platform| choose(&choices, &machine).unwrap().digest.clone();
        assert_eq!(chosen(machine("amd64", None)), digest("plain"));
        assert_eq!(chosen(machine("arm", Some("v7"))), digest("arm7"));
        assert_eq!(chosen(machine("arm", Some("v6"))), digest("arm5"));
        assert_eq!(chosen(machine("arm64", Some("v8"))), digest("arm64"));
        let e = choose(&choices, &machine("s390x", None)).unwrap_err();
        assert!(
            e.contains("linux/s390x") && e.contains("linux/arm64"),
            "{e}"
        );
    }
}
