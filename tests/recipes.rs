//! What the documents, the examples, the role and the workflow say beside the code, held against it: settings by
//! their names, the socket, programs and files that they call, shell that can be parsed.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use regex::Regex;
use serde_json::Value;

use crio_setup::setup::facts::OCID_SOCKET;
use crio_setup::setup::{Component, Layer, Profile};

#[path = "node/support/document.rs"]
mod document;

use document::{blocks, text, yaml};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(repository().join(path)).with_context(|| path.to_owned())
}

/// Can the shell parse it?
fn parses(shell: &str, script: &str) -> Result<()> {
    let mut child = Command::new(shell)
        .arg("-n")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("no pipe")?
        .write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{shell} cannot parse it: {}\n{script}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect()
}

/// The long options of a verb, as its help shows them.
fn options(verb: &str) -> Result<BTreeSet<String>> {
    let output = Command::new(env!("CARGO_BIN_EXE_crio-setup"))
        .args([verb, "--help"])
        .output()?;
    let help = String::from_utf8(output.stdout)?;
    let option = Regex::new(r"(?m)^\s+(?:-\w, )?--([a-z-]+)")?;
    Ok(option
        .captures_iter(&help)
        .map(|c| c[1].to_owned())
        .collect())
}

#[test]
fn every_shell_script_can_be_parsed() -> Result<()> {
    let mut seen = 0;
    let mut folders = vec![repository()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            let name = entry.file_name();
            if kind.is_dir() {
                if name != "target" && name != ".git" {
                    folders.push(path);
                }
                continue;
            }
            let Ok(script) = fs::read_to_string(&path) else {
                continue;
            };
            let first = script.lines().next().unwrap_or_default();
            let shell = match first.strip_prefix("#!") {
                Some(it) if it.ends_with("bash") => "bash",
                Some(it) if it.ends_with("/sh") => "sh",
                _ => continue,
            };
            parses(shell, &script).with_context(|| path.display().to_string())?;
            seen += 1;
        }
    }
    ensure!(seen >= 6, "only {seen} scripts");
    Ok(())
}

/// Labels of GitHub's runners that are used here.
const RUNNERS: [&str; 2] = ["ubuntu-24.04", "ubuntu-24.04-arm"];

#[test]
fn the_workflow_calls_what_there_is() -> Result<()> {
    let documents = yaml(&read(".github/workflows/ci.yml")?)?;
    let workflow = documents.first().context("no document")?;
    let jobs = workflow["jobs"].as_object().context("no jobs")?;
    let expression = Regex::new(r"\$\{\{\s*(.*?)\s*\}\}")?;
    for (name, job) in jobs {
        let check = || -> Result<()> {
            ensure!(job["timeout-minutes"].is_u64(), "no limit of time");
            let needs = match &job["needs"] {
                Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
                Value::String(one) => vec![one.as_str()],
                _ => Vec::new(),
            };
            for needed in needs {
                ensure!(jobs.contains_key(needed), "needs `{needed}`");
            }
            // What a matrix offers, as a list of its own or by rows.
            let matrix = &job["strategy"]["matrix"];
            let mut offered: BTreeSet<&str> = keys(matrix);
            offered.extend(
                matrix["include"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .flat_map(keys),
            );
            let whole = job.to_string();
            for found in expression.captures_iter(&whole) {
                if let Some(key) = found[1].strip_prefix("matrix.") {
                    ensure!(offered.contains(key), "`{key}` is not in the matrix");
                }
            }
            let runner = text(job, "/runs-on")?;
            let runners: Vec<&str> = match runner {
                "${{ matrix.runner }}" => matrix["include"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|row| row["runner"].as_str())
                    .collect(),
                one => vec![one],
            };
            ensure!(
                !runners.is_empty() && runners.iter().all(|it| RUNNERS.contains(it)),
                "runs on {runners:?}"
            );
            for step in job["steps"].as_array().context("no steps")? {
                step_is_sound(step, &expression).with_context(|| step.to_string())?;
            }
            Ok(())
        };
        check().with_context(|| format!("job `{name}`"))?;
    }

    // A release: both architectures, tests before it, a sum and a provenance for each.
    let release = &jobs["release"];
    let arches: BTreeSet<&str> = release["strategy"]["matrix"]["include"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| row["arch"].as_str())
        .collect();
    ensure!(arches == BTreeSet::from(["amd64", "arm64"]), "{arches:?}");
    ensure!(
        release["needs"]
            .as_array()
            .is_some_and(|it| it.contains(&"test".into()))
    );
    ensure!(text(release, "/permissions/id-token")? == "write");
    ensure!(text(release, "/permissions/attestations")? == "write");
    let steps = release["steps"].to_string();
    ensure!(
        steps.contains("actions/attest-build-provenance@"),
        "no provenance"
    );
    ensure!(
        jobs["publish"]["steps"].to_string().contains("sha256sum"),
        "no sums"
    );
    // Nobody but these may write anything.
    ensure!(workflow["permissions"] == serde_json::json!({ "contents": "read" }));
    Ok(())
}

fn step_is_sound(step: &Value, expression: &Regex) -> Result<()> {
    let (uses, run) = (step["uses"].as_str(), step["run"].as_str());
    ensure!(uses.is_some() != run.is_some(), "either `uses` or `run`");
    if let Some(uses) = uses {
        let versioned = Regex::new(r"^[\w-]+/[\w/-]+@v\d+$")?;
        ensure!(versioned.is_match(uses), "which version of `{uses}`?");
        if uses.starts_with("actions/checkout@") {
            ensure!(
                step["with"]["persist-credentials"] == false,
                "credentials stay"
            );
        }
    }
    let Some(run) = run else { return Ok(()) };
    // What somebody else can choose is no part of a script.
    for found in expression.captures_iter(run) {
        ensure!(
            found[1].starts_with("matrix."),
            "`{}` in a script",
            &found[1]
        );
    }
    let script = expression.replace_all(run, "value");
    parses("bash", &script)?;
    for word in script.split_whitespace() {
        let word = word.trim_matches(|c| "'\"();".contains(c));
        let ours = [
            "tests/",
            "playbook-tests/",
            "vagrant/",
            "examples/",
            "docs/",
        ];
        if ours.iter().any(|folder| word.starts_with(folder)) || word == "Vagrantfile" {
            exists(word)?;
        }
    }
    Ok(())
}

/// Is there such a file, or one for each of `{a,b}`?
fn exists(word: &str) -> Result<()> {
    let braces = Regex::new(r"^(.*)\{(.*)\}(.*)$")?;
    let paths: Vec<String> = match braces.captures(word) {
        Some(parts) => parts[2]
            .split(',')
            .map(|middle| format!("{}{middle}{}", &parts[1], &parts[3]))
            .collect(),
        None => vec![word.to_owned()],
    };
    for path in paths {
        ensure!(repository().join(&path).exists(), "there is no `{path}`");
    }
    Ok(())
}

#[test]
fn the_role_has_a_variable_for_every_setting() -> Result<()> {
    let role = "playbook-tests/roles/crio_setup";
    let vars = read(&format!("{role}/vars/main.yml"))?;
    let passed = Regex::new(r"'([a-z_]+)': (crio_setup_[a-z_]+)")?;
    let defaults = yaml(&read(&format!("{role}/defaults/main.yml"))?)?;
    let defaults = keys(defaults.first().context("no defaults")?);
    let mut known = BTreeSet::new();
    for found in passed.captures_iter(&vars) {
        ensure!(
            defaults.contains(&found[2]),
            "`{}` has no default",
            &found[2]
        );
        known.insert(found[1].replace('_', "-"));
    }
    // The module's own business, or another variable's name for it.
    let not_settings = ["help", "version", "verbose", "output", "dry-run", "root"];
    let mut wanted = options("install")?;
    wanted.retain(|option| !not_settings.contains(&option.as_str()));
    ensure!(wanted.remove("no-selftest") && wanted.insert("selftest".to_owned()));
    ensure!(wanted.len() > 8, "{wanted:?}");
    ensure!(
        wanted == known,
        "install has {wanted:?}, the role {known:?}"
    );
    for flag in ["force", "purge"] {
        ensure!(options("uninstall")?.contains(flag));
        ensure!(defaults.contains(format!("crio_setup_{flag}").as_str()));
    }
    Ok(())
}

/// Fields of kubeadm's v1beta4 and kubelet's v1beta1 configuration, as far as they are used here.
const FIELDS: [(&str, &str, &[&str]); 4] = [
    (
        "kubeadm.k8s.io/v1beta4",
        "InitConfiguration",
        &["nodeRegistration", "localAPIEndpoint", "bootstrapTokens"],
    ),
    (
        "kubeadm.k8s.io/v1beta4",
        "ClusterConfiguration",
        &["networking", "controlPlaneEndpoint", "kubernetesVersion"],
    ),
    (
        "kubeadm.k8s.io/v1beta4",
        "JoinConfiguration",
        &["nodeRegistration", "discovery", "controlPlane"],
    ),
    (
        "kubelet.config.k8s.io/v1beta1",
        "KubeletConfiguration",
        &[
            "cgroupDriver",
            "containerRuntimeEndpoint",
            "failSwapOn",
            "memorySwap",
        ],
    ),
];

fn kubernetes_is_sound(document: &Value) -> Result<()> {
    let endpoint = format!("unix://{OCID_SOCKET}");
    let (version, kind) = (text(document, "/apiVersion")?, text(document, "/kind")?);
    let (_, _, fields) = FIELDS
        .iter()
        .find(|(v, k, _)| *v == version && *k == kind)
        .with_context(|| format!("`{kind}` of `{version}`"))?;
    for key in keys(document) {
        ensure!(
            ["apiVersion", "kind"].contains(&key) || fields.contains(&key),
            "{kind} has no `{key}`"
        );
    }
    if kind == "InitConfiguration" || kind == "JoinConfiguration" {
        ensure!(text(document, "/nodeRegistration/criSocket")? == endpoint);
    }
    if kind == "KubeletConfiguration" {
        ensure!(text(document, "/cgroupDriver")? == "systemd");
        ensure!(text(document, "/containerRuntimeEndpoint")? == endpoint);
    }
    if kind == "ClusterConfiguration" {
        let pods: ipnet::Ipv4Net = text(document, "/networking/podSubnet")?.parse()?;
        let ours = Layer::default().settle()?.subnet;
        ensure!(
            !pods.contains(&ours.network()) && !ours.contains(&pods.network()),
            "{pods} and {ours} overlap"
        );
    }
    Ok(())
}

#[test]
fn kubernetes_is_told_our_socket_and_driver() -> Result<()> {
    let mut kinds = BTreeSet::new();
    for file in ["init.yaml", "join.yaml"] {
        for document in yaml(&read(&format!("examples/kubernetes/{file}"))?)? {
            kubernetes_is_sound(&document).with_context(|| file.to_owned())?;
            kinds.insert(text(&document, "/kind")?.to_owned());
        }
    }
    ensure!(kinds.len() == FIELDS.len(), "only {kinds:?}");
    let guide = read("docs/kubernetes.md")?;
    for block in blocks(&guide, "yaml") {
        for document in yaml(&block)? {
            let names = [
                ("/nodeRegistration/criSocket", "criSocket"),
                ("/cgroupDriver", "cgroupDriver"),
            ];
            ensure!(
                names.iter().any(|(at, _)| document.pointer(at).is_some()),
                "{document}"
            );
        }
    }
    for (at, _) in guide.match_indices("unix://") {
        let socket = guide[at + 7..]
            .split(|c: char| c.is_whitespace() || c == '`')
            .next();
        ensure!(socket == Some(OCID_SOCKET), "{socket:?}");
    }
    for block in blocks(&guide, "sh") {
        parses("bash", &block)?;
    }
    // What the guide says of the profile and of the unit.
    let components = Profile::Kubernetes.components();
    ensure!(
        !components.contains(&Component::Docker) && !components.contains(&Component::CniConfig)
    );
    let unit = read("templates/systemd/ocid.service.hbs")?;
    ensure!(
        unit.contains("\nBefore=kubelet.service\n") && guide.contains("`Before=kubelet.service`")
    );
    let crictl = read("templates/ocid/crictl.yaml.hbs")?;
    ensure!(crictl.contains("runtime-endpoint:") && guide.contains("/etc/crictl.yaml"));
    Ok(())
}

#[test]
fn documents_name_options_and_files_that_there_are() -> Result<()> {
    let install = options("install")?;
    let mut known = install.clone();
    for verb in ["plan", "status", "uninstall"] {
        known.extend(options(verb)?);
    }
    let call = Regex::new(
        r"crio-setup (install|plan|status|uninstall)((?: --?[\w-]+(?:[ =][\w./,-]+)?)*)",
    )?;
    let option = Regex::new(r"--([a-z-]+)")?;
    let link =
        Regex::new(r"\]\(([\w./-]+)\)|`((?:docs|examples|playbook-tests|vagrant)/[\w./-]+)`")?;
    for document in ["README.md", "docs/ci.md", "docs/kubernetes.md"] {
        let content = read(document)?;
        let calls = call.captures_iter(&content);
        for found in calls {
            for name in option.captures_iter(&found[2]) {
                ensure!(known.contains(&name[1]), "{document}: {}", &found[0]);
            }
        }
        for found in link.captures_iter(&content) {
            let path = found.get(1).or(found.get(2)).context("no path")?.as_str();
            let folder = Path::new(document).parent().context("no folder")?;
            let there =
                repository().join(folder).join(path).exists() || repository().join(path).exists();
            ensure!(there, "{document}: there is no `{path}`");
        }
    }
    // The names under which a release is published are those that the recipe downloads.
    let (recipe, workflow) = (read("docs/ci.md")?, read(".github/workflows/ci.yml")?);
    ensure!(recipe.contains("/crio-setup-linux-amd64") && recipe.contains("SHA256SUMS"));
    ensure!(
        workflow.contains("crio-setup-linux-${{ matrix.arch }}")
            && workflow.contains(">SHA256SUMS")
    );
    Ok(())
}
