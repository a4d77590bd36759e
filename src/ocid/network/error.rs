//! What goes wrong with pod networks, and what helps.

use std::path::PathBuf;

use super::listed;
use crate::host::command::CommandError;

/// Why a pod could not be attached or detached. The text is whole: causes stand in it, so that two
/// errors can stand in one line.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The machine has no usable network: it is not the pod's fault.
    #[error("{0}")]
    NotReady(String),
    /// A field of the pod that cannot be handed to plugins.
    #[error("pod {field} `{value}` {problem}")]
    Pod {
        field: &'static str,
        value: String,
        problem: &'static str,
    },
    #[error("plugin `{plugin}` of network `{network}` is in none of {}", listed(.dirs))]
    NoPlugin {
        plugin: String,
        network: String,
        dirs: Vec<PathBuf>,
    },
    /// The plugin's own words (CNI specification, "Error").
    #[error("plugin `{plugin}` of network `{network}` refused {verb}: {message} (code {code})")]
    Refused {
        plugin: String,
        network: String,
        verb: &'static str,
        code: u64,
        message: String,
    },
    #[error("plugin `{plugin}` of network `{network}` on {verb}: {}", in_full(.cause))]
    Run {
        plugin: String,
        network: String,
        verb: &'static str,
        cause: Box<CommandError>,
    },
    #[error("plugin `{plugin}` of network `{network}` answered {verb} with no result: {problem}")]
    NoResult {
        plugin: String,
        network: String,
        verb: &'static str,
        problem: String,
    },
    #[error("the cached configuration of network `{network}` {problem}")]
    Cached { network: String, problem: String },
    #[error("find the pod's network namespace: {0}")]
    Namespace(std::io::Error),
    /// The clean-up after the first error, or a later plugin of a DEL, failed as well.
    #[error("{first}; and then {then}")]
    Several {
        first: Box<NetworkError>,
        then: Box<NetworkError>,
    },
}

impl NetworkError {
    /// The command or change that helps, where it is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotReady(_) => Some(
                "a network configuration belongs into the CNI folder: `crio-setup install --with cni-config`"
                    .to_owned(),
            ),
            Self::NoPlugin { .. } => {
                Some("the plugins come with `crio-setup install --with cni-plugins`".to_owned())
            }
            Self::Refused { message, .. } => plugin_hint(message),
            Self::Several { first, .. } => first.hint(),
            _ => None,
        }
    }

    /// Is the machine's network at fault, not yet ready, rather than this pod or a plugin?
    pub fn is_not_ready(&self) -> bool {
        matches!(self, Self::NotReady(_) | Self::NoPlugin { .. })
    }

    pub(super) fn then(self, then: Self) -> Self {
        Self::Several {
            first: Box::new(self),
            then: Box::new(then),
        }
    }
}

/// The error with its causes, as one line.
fn in_full(error: &CommandError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(e) = source {
        text.push_str(&format!(": {e}"));
        source = e.source();
    }
    text
}

/// What the words of the reference plugins come from, most often.
fn plugin_hint(message: &str) -> Option<String> {
    let hint = if message.contains("iptables") && message.contains("not found") {
        "the bridge plugin's ipMasq needs iptables: `apt-get install iptables`"
    } else if message.contains("no IP addresses available") {
        "the subnet is used up: remove pods, or what is left of old ones in /var/lib/cni/networks"
    } else if message.contains("incompatible CNI versions") || message.contains("unsupported CNI") {
        "lower `cniVersion` in the CNI file to one that the plugin answers to `CNI_COMMAND=VERSION`"
    } else if message.contains("already has an IP address different from") {
        "the bridge has another network's address: `ip link delete` it once no pod uses it"
    } else {
        return None;
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_words_of_plugins_get_a_hint() {
        let refused = |message: &str| NetworkError::Refused {
            plugin: "bridge".into(),
            network: "n".into(),
            verb: "ADD",
            code: 999,
            message: message.into(),
        };
        let missing =
            r#"failed to locate iptables: exec: "iptables": executable file not found in $PATH"#;
        assert!(
            refused(missing)
                .hint()
                .unwrap()
                .contains("apt-get install iptables")
        );
        assert_eq!(refused("anything else").hint(), None);
        let nested = refused(missing).then(refused("x"));
        assert!(nested.hint().is_some());
    }
}
