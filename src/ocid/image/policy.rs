//! policy.json (containers-policy.json(5)): which images may be pulled at all. We check no
//! signatures, so an image that must have one is refused rather than taken.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::error::ImageError;
use super::reference::Reference;
use crate::host::fs::read_capped;

#[derive(Deserialize)]
struct Policy {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

#[derive(Deserialize)]
struct Requirement {
    #[serde(rename = "type")]
    kind: String,
}

/// Refuses the image if the policy does. An absent file accepts everything, unless it is `required`.
pub fn check(path: &Path, required: bool, reference: &Reference) -> Result<(), ImageError> {
    let wrong = |problem: String| ImageError::Config {
        path: path.to_owned(),
        problem,
    };
    let bytes = match read_capped(path, 1 << 20) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !required => return Ok(()),
        other => other.map_err(|e| wrong(e.to_string()))?,
    };
    let policy: Policy = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    match policy.refusal(reference) {
        Some(reason) => Err(ImageError::Forbidden {
            reference: reference.to_string(),
            reason: format!("`{}` {reason}", path.display()),
        }),
        None => Ok(()),
    }
}

impl Policy {
    fn refusal(&self, reference: &Reference) -> Option<String> {
        let requirements = self.requirements(reference);
        if requirements.is_empty() {
            return Some("has no requirement for it, which rejects it".to_owned());
        }
        requirements.iter().find_map(|r| match r.kind.as_str() {
            "insecureAcceptAnything" => None,
            "reject" => Some("rejects it".to_owned()),
            kind => Some(format!("asks for `{kind}`, which ocid cannot check")),
        })
    }

    /// Those of the most specific scope: the very image, its repository, each namespace above it,
    /// the host, a domain, the transport's default, the default.
    fn requirements(&self, reference: &Reference) -> &[Requirement] {
        let Some(scopes) = self.transports.get("docker") else {
            return &self.default;
        };
        let name = reference.name();
        let mut names = vec![reference.to_string(), name.clone()];
        let mut rest = name.as_str();
        while let Some((shorter, _)) = rest.rsplit_once('/') {
            names.push(shorter.to_owned());
            rest = shorter;
        }
        let mut domain = super::registries::host(&reference.registry);
        while let Some((_, parent)) = domain.split_once('.') {
            names.push(format!("*.{parent}"));
            domain = parent;
        }
        names.push(String::new());
        let found = names.iter().find_map(|n| scopes.get(n));
        found.map_or(&self.default, Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(policy: &str, reference: &str) -> Option<String> {
        let policy: Policy = serde_json::from_str(policy).unwrap();
        policy.refusal(&Reference::parse(reference).unwrap())
    }

    #[test]
    fn the_most_specific_scope_decides() {
        let policy = r#"{"default":[{"type":"reject"}],"transports":{"docker":{
            "docker.io/library":[{"type":"insecureAcceptAnything"}],
            "docker.io/library/bad":[{"type":"reject"}],
            "*.example.com":[{"type":"insecureAcceptAnything"}],
            "signed.io":[{"type":"signedBy"}]}}}"#;
        assert_eq!(refusal(policy, "redis"), None);
        assert_eq!(refusal(policy, "a.example.com/x"), None);
        assert!(refusal(policy, "bad").is_some());
        assert!(refusal(policy, "quay.io/x").is_some());
        assert!(refusal(policy, "signed.io/x").unwrap().contains("signedBy"));
        assert_eq!(
            refusal(r#"{"default":[{"type":"insecureAcceptAnything"}]}"#, "x"),
            None
        );
        assert!(refusal(r#"{"default":[]}"#, "x").is_some());
    }

    #[test]
    fn an_absent_file_accepts_unless_it_was_configured_and_a_broken_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        let reference = Reference::parse("x").unwrap();
        check(&path, false, &reference).unwrap();
        assert!(matches!(
            check(&path, true, &reference),
            Err(ImageError::Config { .. })
        ));
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(
            check(&path, false, &reference),
            Err(ImageError::Config { .. })
        ));
    }
}
