//! The strict handlebars registry: every template embedded, every variable required, nothing
//! escaped by the engine.
//!
//! Handlebars' own escaping is for HTML and would corrupt `=`, `"` and `&` in a unit, so it is off;
//! instead each format quotes its values by a helper ([`quote`]): `json`, `toml`, `unit_path`,
//! `unit_arg`, `unit_value`. The variables of each template are a struct in [`vars`].

mod quote;
pub mod vars;

use handlebars::Handlebars;
use serde::Serialize;

pub use vars::{AppArmorProfile, BridgeNetwork, Crictl, DockerUnit, Loopback, OcidConf, OcidUnit};

/// A template's name (its path below `templates/`, without `.hbs`) and text.
const TEMPLATES: [(&str, &str); 7] = [
    (
        "apparmor/ocid-default",
        include_str!("../../templates/apparmor/ocid-default.hbs"),
    ),
    (
        "systemd/ocid.service",
        include_str!("../../templates/systemd/ocid.service.hbs"),
    ),
    (
        "systemd/docker.service",
        include_str!("../../templates/systemd/docker.service.hbs"),
    ),
    (
        "cni/10-mynet.conflist",
        include_str!("../../templates/cni/10-mynet.conflist.hbs"),
    ),
    (
        "cni/99-loopback.conflist",
        include_str!("../../templates/cni/99-loopback.conflist.hbs"),
    ),
    (
        "ocid/ocid.conf",
        include_str!("../../templates/ocid/ocid.conf.hbs"),
    ),
    (
        "ocid/crictl.yaml",
        include_str!("../../templates/ocid/crictl.yaml.hbs"),
    ),
];

/// Why a template could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("find the template `{0}`: no such template")]
    Unknown(String),
    /// A variable is missing, or its value cannot stand in that format (a line break in a path).
    #[error("render `{name}`: {}", reason(.source))]
    Render {
        name: &'static str,
        source: Box<handlebars::RenderError>,
    },
}

impl TemplateError {
    /// What helps: a value that the format cannot hold is the only fault a user can cause.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown(_) => None,
            Self::Render { .. } => {
                Some("give paths and names without line breaks and control characters".to_owned())
            }
        }
    }
}

/// The names that [`render`] knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    TEMPLATES.iter().map(|(name, _)| *name)
}

/// Renders the template `name` with `vars`, one of the structs of [`vars`]. The result ends with a
/// line break. A missing variable is an error, never an empty string.
pub fn render(name: &str, vars: &impl Serialize) -> Result<String, TemplateError> {
    let (name, text) = TEMPLATES
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| TemplateError::Unknown(name.to_owned()))?;
    registry()
        .render_template(text, vars)
        .map_err(|source| TemplateError::Render {
            name,
            source: Box::new(source),
        })
}

fn registry() -> Handlebars<'static> {
    let mut registry = Handlebars::new();
    registry.set_strict_mode(true);
    registry.register_escape_fn(handlebars::no_escape);
    quote::register(&mut registry);
    registry
}

/// The innermost description: the outer ones repeat the name of the helper and the position.
fn reason(error: &handlebars::RenderError) -> String {
    use std::error::Error;
    match error.source() {
        Some(inner) => inner.to_string(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_missing_variable_is_an_error() {
        for name in names() {
            let error = render(name, &json!({})).unwrap_err();
            assert!(matches!(error, TemplateError::Render { .. }), "{name}");
        }
        assert!(matches!(
            render("no/such", &json!({})),
            Err(TemplateError::Unknown(_))
        ));
    }

    #[test]
    fn every_template_on_disk_is_embedded() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
        let mut found = 0;
        for folder in std::fs::read_dir(root).unwrap() {
            for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                if path.extension().is_some_and(|e| e == "hbs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    assert!(
                        TEMPLATES.iter().any(|(_, t)| *t == text),
                        "{}",
                        path.display()
                    );
                    found += 1;
                }
            }
        }
        assert_eq!(found, TEMPLATES.len());
    }

    #[test]
    fn values_that_need_quoting_survive_the_format() {
        let mut conf = OcidConf::new("/usr/local/bin/runc");
        conf.root = "/srv/with \"quotes\" & = \\ \n more".into();
        conf.insecure_registries = vec!["a\"b".to_owned()];
        let text = render("ocid/ocid.conf", &conf).unwrap();
        let parsed: toml::Table = text.parse().unwrap();
        assert_eq!(
            parsed["crio"]["root"].as_str(),
            Some("/srv/with \"quotes\" & = \\ \n more")
        );
        assert_eq!(
            parsed["crio"]["image"]["insecure_registries"][0].as_str(),
            Some("a\"b")
        );

        let mut net = BridgeNetwork::tutorial("1.0.0");
        net.name = "a\"b\n&<".to_owned();
        let text = render("cni/10-mynet.conflist", &net).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["name"], "a\"b\n&<");
    }

    #[test]
    fn a_unit_holds_no_line_break_from_a_value() {
        let unit = OcidUnit::new("/opt/a b%c/ocid");
        let text = render("systemd/ocid.service", &unit).unwrap();
        assert!(
            text.contains("\nExecStart=\"/opt/a b%%c/ocid\"\n"),
            "{text}"
        );
        let unit = OcidUnit::new("/opt/ocid\nExecStartPre=/bin/evil");
        let error = render("systemd/ocid.service", &unit).unwrap_err();
        assert!(error.to_string().contains("control character"), "{error}");
        assert!(error.hint().is_some());
    }
}
