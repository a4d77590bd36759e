//! The rendered templates beside their golden copies: a change of one is a visible diff. The units
//! also pass systemd's own check.
//!
//! After a wanted change: `UPDATE_GOLDEN=1 cargo test --test golden`, then read the diff.

use std::fs;
use std::path::{Path, PathBuf};

use crio_setup::host::command::Command;
use crio_setup::template::{
    self, AppArmorProfile, BridgeNetwork, Crictl, DockerUnit, Loopback, OcidConf, OcidUnit, render,
};

/// Template, golden file and what it is rendered with.
fn rendered() -> Vec<(&'static str, &'static str, String)> {
    let ocid = OcidUnit::new("/usr/local/bin/ocid");
    let upstream = DockerUnit::new(
        "/usr/local/lib/docker/dockerd",
        Some("/usr/local/lib/docker".into()),
    );
    let distro = DockerUnit::new("/usr/sbin/dockerd", None);
    let network = BridgeNetwork::tutorial("1.0.0");
    let mut own_leases = BridgeNetwork::tutorial("0.4.0");
    own_leases.data_dir = Some("/run/ocid/leases".into());
    let loopback = Loopback {
        cni_version: "1.0.0".to_owned(),
    };
    let conf = OcidConf::new("/usr/local/bin/runc");
    let mut other = OcidConf::new("/usr/sbin/runc");
    other.cgroup_manager = "systemd".to_owned();
    other.log_to_journald = false;
    other.insecure_registries = vec!["registry.test:5000".to_owned(), "10.0.0.1".to_owned()];
    other.plugin_dirs = vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()];
    let crictl = Crictl {
        endpoint: "unix:///run/ocid/ocid.sock".to_owned(),
    };
    let profile = AppArmorProfile::new("ocid-default");
    let text = |name: &str, vars: Result<String, template::TemplateError>| {
        vars.unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    macro_rules! case {
        ($template:literal, $golden:literal, $vars:expr) => {
            (
                $template,
                $golden,
                text($template, render($template, $vars)),
            )
        };
    }
    vec![
        case!("systemd/ocid.service", "ocid.service", &ocid),
        case!("systemd/docker.service", "docker.service", &upstream),
        case!("systemd/docker.service", "docker-distro.service", &distro),
        case!("cni/10-mynet.conflist", "10-mynet.conflist", &network),
        case!(
            "cni/10-mynet.conflist",
            "10-mynet-leases.conflist",
            &own_leases
        ),
        case!(
            "cni/99-loopback.conflist",
            "99-loopback.conflist",
            &loopback
        ),
        case!("ocid/ocid.conf", "ocid.conf", &conf),
        case!("ocid/ocid.conf", "ocid-cluster.conf", &other),
        case!("ocid/crictl.yaml", "crictl.yaml", &crictl),
        case!("apparmor/ocid-default", "ocid-default", &profile),
    ]
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

#[test]
fn every_template_equals_its_golden_copy() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut different = Vec::new();
    for (_, file, text) in rendered() {
        let path = golden().join(file);
        if update {
            fs::write(&path, &text).unwrap();
        }
        if fs::read_to_string(&path).unwrap_or_default() != text {
            different.push(format!("{file} is now:\n{text}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn nothing_is_left_out() {
    let cases = rendered();
    for name in template::names() {
        assert!(
            cases.iter().any(|(template, ..)| *template == name),
            "{name}"
        );
    }
    for entry in fs::read_dir(golden()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            cases.iter().any(|(_, file, _)| *file == name),
            "{name} is nobody's"
        );
    }
}

#[test]
fn the_formats_parse() {
    for (_, file, text) in rendered() {
        match Path::new(file).extension().and_then(|e| e.to_str()) {
            Some("conflist") => {
                let net: serde_json::Value = serde_json::from_str(&text).expect(file);
                assert!(
                    net["name"].as_str().is_some_and(|n| !n.is_empty()),
                    "{file}"
                );
                assert!(
                    net["plugins"].as_array().is_some_and(|p| !p.is_empty()),
                    "{file}"
                );
            }
            Some("conf") => {
                let conf: toml::Table = text.parse().expect(file);
                let runtime = conf["crio"]["runtime"].as_table().unwrap();
                let name = runtime["default_runtime"].as_str().unwrap();
                assert!(runtime["runtimes"][name]["runtime_path"].is_str(), "{file}");
            }
            _ => {}
        }
        assert!(text.ends_with('\n') && !text.contains("{{"), "{file}");
    }
}

#[test]
fn the_daemon_honours_every_key_of_its_file() {
    for file in ["ocid.conf", "ocid-cluster.conf"] {
        let loaded = crio_setup::ocid::config::load(&golden().join(file), true).expect(file);
        assert!(loaded.ignored.is_empty(), "{file}: {:?}", loaded.ignored);
        assert_eq!(loaded.config.crio.runtime.default_runtime, "runc");
    }
}

/// What `systemd-analyze verify` says of a unit; empty when it is content.
fn verify(file: &str, unit: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(file);
    fs::write(&path, unit).unwrap();
    let out = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&path)
        .output()
        .expect("`systemd-analyze` is part of the machine's systemd package");
    let said = String::from_utf8_lossy(&out.stderr).into_owned() + &out.text();
    if out.status.success() {
        said
    } else {
        format!("{}: {said}", out.status)
    }
}

#[test]
fn systemd_accepts_the_units() {
    // It looks for the programs, so they are ones that this machine has.
    let exe = env!("CARGO_BIN_EXE_crio-setup");
    let docker = DockerUnit::new(exe, Some("/opt/with a space/100%".into()));
    let mut ocid = OcidUnit::new(exe);
    ocid.args = vec!["--debug".to_owned()];
    let units = [
        (
            "ocid.service",
            render("systemd/ocid.service", &ocid).unwrap(),
        ),
        (
            "docker.service",
            render("systemd/docker.service", &docker).unwrap(),
        ),
    ];
    for (file, text) in units {
        assert_eq!(verify(file, &text), "", "{file}:\n{text}");
        // The check is one that can fail.
        let broken = text.replace("KillMode=process", "KillMode=nonsense\nNoSuchKey=1");
        assert_ne!(verify(file, &broken), "", "{file}");
    }
}

#[test]
fn the_units_promise_what_they_must() {
    for file in ["ocid.service", "docker.service", "docker-distro.service"] {
        let text = fs::read_to_string(golden().join(file)).unwrap();
        let lines: Vec<_> = text.lines().filter(|l| !l.starts_with('#')).collect();
        for line in [
            "Type=notify",
            "KillMode=process",
            "Delegate=yes",
            "TasksMax=infinity",
        ] {
            assert!(lines.contains(&line), "{file}: {line}");
        }
        assert!(!lines.iter().any(|l| l.contains("LimitNOFILE")), "{file}");
        assert!(!text.contains("docker.socket"), "{file}");
    }
}
