//! The keys of CRI-O that have no effect here, each with the reason, and those whose value asks for no more
//! than what is so anyway.

use toml::Value;

/// A key in a file that has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    pub file: String,
    /// Dotted; a value may follow where not the whole key is without effect.
    pub key: String,
    pub why: &'static str,
}

impl std::fmt::Display for Ignored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file, key, why } = self;
        write!(f, "`{file}: {key}` has no effect here: {why}")
    }
}

/// One of CRI-O's keys that ocid does not use.
#[derive(Debug, Clone, Copy)]
pub struct Unused {
    /// Dotted; `*` is one part of any name.
    pub key: &'static str,
    /// Values, as TOML, that ask for what is so anyway.
    pub fine: &'static [&'static str],
    pub why: &'static str,
}

const MONITOR: &str = "containers are looked after by `ocid monitor`, a part of this program";
const START: &str = "every start puts right by itself what a crash or a reboot left";
const PAUSE: &str = "pods need no image of their own: this program holds their namespaces";
const TRACING: &str = "traces are not exported";
const NRI: &str = "plugins of NRI are not called";
const CLASSES: &str = "classes for cache, memory bandwidth and block devices are not applied";
const IRQ: &str = "irqbalance is left to itself";
const IDS: &str = "a pod's user namespace is the one that kubelet asks for";
const WORKLOADS: &str =
    "workloads are not told apart; a runtime handler can allow annotations (`allowed_annotations`)";
const CIPHERS: &str = "the cipher suites are rustls' own, all of them strong";
const FOLDERS: &str = "what belongs to a running pod stands below `crio.runroot`";

const fn unused(key: &'static str, why: &'static str) -> Unused {
    Unused {
        key,
        fine: &[],
        why,
    }
}

const fn unless(key: &'static str, fine: &'static [&'static str], why: &'static str) -> Unused {
    Unused { key, fine, why }
}

/// Every key that crio.conf(5) has or had and ocid has not.
pub const UNUSED: &[Unused] = &[
    unless(
        "crio.storage_driver",
        &["\"overlay\"", "\"\""],
        "layers are always stood on overlayfs",
    ),
    unless(
        "crio.storage_option",
        &["[]"],
        "layers are always stood on overlayfs, without options",
    ),
    unless(
        "crio.imagestore",
        &["\"\""],
        "images stand below `crio.root`",
    ),
    unused(
        "crio.log_dir",
        "a container logs where its pod says; without a word about it nothing is logged",
    ),
    unused("crio.version_file", START),
    unused("crio.version_file_persist", START),
    unused("crio.clean_shutdown_file", START),
    unless("crio.internal_wipe", &["true"], START),
    unless("crio.internal_repair", &["true"], START),
    unused("crio.file_locking", "the state folder is locked as a whole"),
    unused(
        "crio.file_locking_path",
        "the state folder is locked as a whole",
    ),
    unused(
        "crio.api.host_ip",
        "kubelet knows the address of the machine",
    ),
    unless("crio.api.stream_cipher_suites", &["[]"], CIPHERS),
    unused(
        "crio.runtime.decryption_keys_path",
        "encrypted images cannot be pulled",
    ),
    unless("crio.runtime.conmon", &["\"\""], MONITOR),
    unless("crio.runtime.conmon_cgroup", &["\"\""], MONITOR),
    unless("crio.runtime.conmon_env", &["[]"], MONITOR),
    unless("crio.runtime.blockio_config_file", &["\"\""], CLASSES),
    unless("crio.runtime.blockio_reload", &["false"], CLASSES),
    unless("crio.runtime.rdt_config_file", &["\"\""], CLASSES),
    unused("crio.runtime.irqbalance_config_file", IRQ),
    unless(
        "crio.runtime.irqbalance_config_restore_file",
        &["\"disable\"", "\"\""],
        IRQ,
    ),
    unless(
        "crio.runtime.hooks_dir",
        &["[]"],
        "hooks of the OCI runtime are run only where a CDI file names them",
    ),
    unless(
        "crio.runtime.default_mounts",
        &["[]"],
        "`default_mounts_file` has taken its place",
    ),
    unused("crio.runtime.container_exits_dir", FOLDERS),
    unused("crio.runtime.container_attach_socket_dir", FOLDERS),
    unused("crio.runtime.namespaces_dir", FOLDERS),
    unused(
        "crio.runtime.pinns_path",
        "namespaces are pinned by this program itself",
    ),
    unused(
        "crio.runtime.manage_ns_lifecycle",
        "namespaces are pinned by this program itself",
    ),
    unless(
        "crio.runtime.bind_mount_prefix",
        &["\"\""],
        "mount sources are taken as kubelet names them",
    ),
    unless("crio.runtime.uid_mappings", &["\"\""], IDS),
    unless("crio.runtime.gid_mappings", &["\"\""], IDS),
    unless("crio.runtime.minimum_mappable_uid", &["-1"], IDS),
    unless("crio.runtime.minimum_mappable_gid", &["-1"], IDS),
    unless(
        "crio.runtime.drop_infra_ctr",
        &["true"],
        "a pod has a process of its own only where its containers share a PID namespace",
    ),
    unless(
        "crio.runtime.shared_cpuset",
        &["\"\""],
        "processors are shared only as kubelet's limits have it",
    ),
    unless(
        "crio.runtime.enable_pod_events",
        &["true"],
        "events are told to whoever asks for them",
    ),
    unless(
        "crio.runtime.separate_pull_cgroup",
        &["\"\""],
        "images are pulled in the daemon's own cgroup",
    ),
    unused(
        "crio.runtime.runtimes.*.runtime_config_path",
        "it is meant for shims of virtual machines, which are not driven",
    ),
    unless(
        "crio.runtime.runtimes.*.runtime_pull_image",
        &["false"],
        "images are pulled by the daemon",
    ),
    unless("crio.runtime.runtimes.*.monitor_path", &["\"\""], MONITOR),
    unless("crio.runtime.runtimes.*.monitor_cgroup", &["\"\""], MONITOR),
    unless("crio.runtime.runtimes.*.monitor_env", &["[]"], MONITOR),
    unless(
        "crio.runtime.runtimes.*.monitor_exec_cgroup",
        &["\"\""],
        "commands always run in the container's cgroup",
    ),
    unless(
        "crio.runtime.runtimes.*.no_sync_log",
        &["true"],
        "logs are written as they come, and synced by nobody",
    ),
    unless(
        "crio.runtime.runtimes.*.stream_websockets",
        &["true"],
        "SPDY and WebSocket are both served, as the client asks",
    ),
    unless(
        "crio.runtime.runtimes.*.exec_cpu_affinity",
        &["\"\""],
        "commands run on the container's processors, as the runtime has it",
    ),
    unused("crio.runtime.workloads.*.activation_annotation", WORKLOADS),
    unused("crio.runtime.workloads.*.annotation_prefix", WORKLOADS),
    unused("crio.runtime.workloads.*.allowed_annotations", WORKLOADS),
    unused("crio.runtime.workloads.*.resources.cpushares", WORKLOADS),
    unused("crio.runtime.workloads.*.resources.cpuset", WORKLOADS),
    unused("crio.runtime.workloads.*.resources.cpuquota", WORKLOADS),
    unused("crio.runtime.workloads.*.resources.cpuperiod", WORKLOADS),
    unused("crio.runtime.workloads.*.resources.cpulimit", WORKLOADS),
    unless(
        "crio.image.default_transport",
        &["\"docker://\""],
        "images come from registries",
    ),
    unused("crio.image.pause_image", PAUSE),
    unused("crio.image.pause_image_auth_file", PAUSE),
    unused("crio.image.pause_command", PAUSE),
    unless(
        "crio.image.registries",
        &["[]"],
        "CRI-O does not heed it either; `unqualified-search-registries` of registries.conf has taken its place",
    ),
    unless(
        "crio.image.big_files_temporary_dir",
        &["\"\""],
        "layers are unpacked while they arrive, without files in between",
    ),
    unless(
        "crio.image.auto_reload_registries",
        &["true"],
        "registries.conf is read for each pull",
    ),
    unless(
        "crio.image.oci_artifact_mount_support",
        &["false"],
        "only images can be mounted, no other artifacts",
    ),
    unless("crio.metrics.metrics_cipher_suites", &["[]"], CIPHERS),
    unless("crio.tracing.enable_tracing", &["false"], TRACING),
    unused("crio.tracing.tracing_endpoint", TRACING),
    unless(
        "crio.tracing.tracing_sampling_rate_per_million",
        &["0"],
        TRACING,
    ),
    unless("crio.nri.enable_nri", &["false"], NRI),
    unused("crio.nri.nri_listen", NRI),
    unused("crio.nri.nri_plugin_dir", NRI),
    unused("crio.nri.nri_plugin_config_dir", NRI),
    unused("crio.nri.nri_disable_connections", NRI),
    unused("crio.nri.nri_plugin_registration_timeout", NRI),
    unused("crio.nri.nri_plugin_request_timeout", NRI),
    unused("crio.nri.default_validator.*", NRI),
];

/// Why `key` (its parts) with this value has no effect; None: it asks for nothing that is not so anyway.
pub fn why(key: &[String], value: &Value) -> Option<&'static str> {
    match UNUSED.iter().find(|unused| fits(unused.key, key)) {
        Some(unused) => {
            let text = value.to_string();
            (!unused.fine.contains(&text.as_str())).then_some(unused.why)
        }
        None => Some("neither ocid nor crio.conf(5) has such a key"),
    }
}

fn fits(pattern: &str, key: &[String]) -> bool {
    let mut parts = pattern.split('.');
    key.iter()
        .all(|k| parts.next().is_some_and(|p| p == "*" || p == k))
        && parts.next().is_none()
}

/// Is there a table of CRI-O's of this name, of which ocid uses nothing?
pub fn is_table(key: &[String]) -> bool {
    UNUSED.iter().any(|unused| {
        let mut parts = unused.key.split('.');
        key.iter()
            .all(|k| parts.next().is_some_and(|p| p == "*" || p == k))
            && parts.next().is_some()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use toml::{Table, Value};

    use super::*;
    use crate::ocid::config::{Config, Handler, parse, report};

    const KEYS: &str = include_str!("../../../tests/fixtures/config/crio-keys.txt");
    const UNKNOWN: &str = "neither ocid nor crio.conf(5) has such a key";

    struct Line {
        honoured: bool,
        key: String,
        text: String,
    }

    fn lines() -> Vec<Line> {
        let lines = KEYS
            .lines()
            .filter(|l| !l.is_empty() && !l.starts_with('#'));
        let line = |line: &str| {
            let mut parts = line.splitn(3, ' ');
            let mut next = || parts.next().unwrap().to_owned();
            let (class, key, value) = (next(), next(), next());
            assert!(matches!(class.as_str(), "honoured" | "warned"), "{line}");
            Line {
                honoured: class == "honoured",
                text: format!("{key} = {value}\n"),
                key,
            }
        };
        lines.map(line).collect()
    }

    #[test]
    fn every_key_of_crio_conf_is_honoured_or_named_with_a_reason() {
        for Line {
            honoured,
            key,
            text,
        } in lines()
        {
            let (_, ignored) = parse(&text).unwrap_or_else(|e| panic!("{key}: {e}"));
            if honoured {
                assert_eq!(ignored, [], "{key}");
                continue;
            }
            let [(name, why)] = &ignored[..] else {
                panic!("{key}: {ignored:?}");
            };
            assert_eq!(*name, key);
            assert_ne!(*why, UNKNOWN, "{key}");
        }
    }

    /// A part of any name for what a table calls its own.
    fn general(key: &str) -> String {
        let parts: Vec<&str> = key.split('.').collect();
        let any = |(i, part): (usize, &&str)| match parts.get(i.wrapping_sub(1)) {
            Some(&"runtimes" | &"workloads" | &"default_validator") => "*".to_owned(),
            _ => (*part).to_owned(),
        };
        let parts: Vec<String> = parts.iter().enumerate().map(any).collect();
        parts.join(".")
    }

    #[test]
    fn the_list_of_keys_holds_all_that_are_known_here() {
        let listed: BTreeSet<String> = lines().iter().map(|line| general(&line.key)).collect();
        for unused in UNUSED {
            assert!(listed.contains(unused.key), "{}", unused.key);
        }
        let mut config = Config::default();
        let some = Some("x".to_owned());
        config.crio.network.cni_default_network = some;
        config.crio.runtime.runtimes = [("runc".to_owned(), Handler::default())].into();
        let mut known = BTreeSet::new();
        report::leaves("", &Table::try_from(&config).unwrap(), &mut |key, _| {
            known.insert(general(key));
        });
        assert!(known.len() > 60);
        for key in known {
            assert!(listed.contains(&key), "{key} is none of CRI-O's");
        }
    }

    #[test]
    fn what_is_so_anyway_is_not_named_and_what_nobody_knows_is() {
        let ignored = |text: &str| parse(text).unwrap().1;
        assert_eq!(ignored("crio.storage_driver = \"overlay\"\n"), []);
        assert_eq!(ignored("crio.runtime.drop_infra_ctr = true\n"), []);
        assert_eq!(ignored("[crio.tracing]\n[crio.runtime.workloads]\n"), []);
        for (text, name) in [
            ("[weather]\nrain = 1\n", "weather.rain"),
            ("[weather]\n", "weather"),
            ("[crio.weather]\n", "crio.weather"),
            ("[crio.weather.a.b]\nc.d = 1\n", "crio.weather.a.b.c.d"),
            ("[crio.runtime]\nrainy = [1]\n", "crio.runtime.rainy"),
            (
                "[crio.runtime.runtimes.\"a.b\"]\nx = 1\n",
                "crio.runtime.runtimes.\"a.b\".x",
            ),
        ] {
            assert_eq!(ignored(text), [(name.to_owned(), UNKNOWN)], "{text}");
        }
        let partly = ignored(
            "[crio.runtime.runtimes.r]\nruntime_type = \"vm\"\nallowed_annotations = [\"a.b\", \"io.kubernetes.cri-o.umask\"]\n",
        );
        let names: Vec<&str> = partly.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "crio.runtime.runtimes.r.runtime_type = \"vm\"",
                "crio.runtime.runtimes.r.allowed_annotations: a.b"
            ]
        );
        assert!(UNUSED.iter().all(|u| !u.why.is_empty()));
        let none: Vec<Value> = Vec::new();
        assert!(
            why(
                &["crio".into(), "storage_option".into()],
                &Value::Array(none)
            )
            .is_none()
        );
    }
}
