use super::*;
use indoc::indoc;
use oci_spec::runtime::{
    LinuxBuilder, LinuxDeviceType, ProcessBuilder, Spec, SpecBuilder, UserBuilder,
};

const GPU: &str = indoc! {r#"
    {
      "cdiVersion": "0.6.0",
      "kind": "vendor.com/gpu",
      "containerEdits": {"env": ["COMMON=1"], "hooks": [{"hookName": "createContainer", "path": "/bin/hook"}]},
      "devices": [
        {"name": "0", "containerEdits": {
          "env": ["GPU=0", "PATH=/gpu"],
          "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null", "permissions": "rw"}],
          "mounts": [{"hostPath": "/lib/gpu", "containerPath": "/lib/gpu", "options": ["ro", "bind"]}],
          "additionalGids": [44, 0]
        }},
        {"name": "1", "containerEdits": {"deviceNodes": [
          {"path": "/dev/gpu1", "type": "c", "major": 99, "minor": 7, "fileMode": 432, "uid": 5, "gid": 6}
        ]}}
      ]
    }
"#};

/// The same device as [`GPU`]'s 1, as nvidia's tools write files.
const NET: &str = indoc! {r#"
    ---
    cdiVersion: 0.5.0
    kind: vendor.com/net
    devices:
    - name: "0"
      containerEdits:
        env:
        - NET=yes
        deviceNodes:
        - path: /dev/net0
          type: c
          major: 99
          minor: 8
    containerEdits:
      mounts:
      - containerPath: /net
        hostPath: /net
        options: [ro, nosuid, rbind]
"#};

struct Folders(tempfile::TempDir);

impl Folders {
    fn new(files: &[(&str, &str)]) -> Self {
        let folders = Self(tempfile::tempdir().unwrap());
        for dir in folders.dirs() {
            fs::create_dir(dir).unwrap();
        }
        for (path, text) in files {
            fs::write(folders.0.path().join(path), text).unwrap();
        }
        folders
    }

    fn dirs(&self) -> Vec<PathBuf> {
        ["etc", "run"].map(|name| self.0.path().join(name)).to_vec()
    }

    fn resolve(&self, names: &[&str]) -> Result<Edits, SpecError> {
        let config = ContainerConfig {
            cdi_devices: names.iter().map(|&n| n.to_owned()).collect(),
            ..Default::default()
        };
        resolve(&config, &self.dirs())
    }

    fn refused(&self, names: &[&str]) -> String {
        self.resolve(names).unwrap_err().to_string()
    }

    fn spec(&self, names: &[&str], uid: u32) -> Spec {
        let user = UserBuilder::default().uid(uid).gid(0u32).build().unwrap();
        let process = ProcessBuilder::default()
            .user(user)
            .env(vec!["PATH=/bin".to_owned(), "A=1".to_owned()])
            .build()
            .unwrap();
        let mut linux = LinuxBuilder::default().build().unwrap();
        linux.set_devices(None).set_resources(None);
        let mut spec = SpecBuilder::default()
            .process(process)
            .linux(linux)
            .build()
            .unwrap();
        spec.set_mounts(None);
        apply(&self.resolve(names).unwrap(), &mut spec, false).unwrap();
        spec
    }
}

#[test]
fn what_a_device_brings() {
    let folders = Folders::new(&[("etc/gpu.json", GPU), ("run/net.yaml", NET)]);
    let all = [
        "vendor.com/gpu=0",
        "vendor.com/gpu=1",
        "vendor.com/net=0",
        "vendor.com/gpu=0",
    ];
    let spec = folders.spec(&all, 1000);
    let process = spec.process().as_ref().unwrap();
    let env = process.env().as_ref().unwrap();
    assert_eq!(env, &["A=1", "COMMON=1", "GPU=0", "PATH=/gpu", "NET=yes"]);
    assert_eq!(process.user().additional_gids(), &Some(vec![44]));

    let linux = spec.linux().as_ref().unwrap();
    let nodes: Vec<_> = linux.devices().as_ref().unwrap().iter().collect();
    let numbers: Vec<_> = nodes
        .iter()
        .map(|n| {
            (
                n.path().to_str().unwrap(),
                n.typ(),
                n.major(),
                n.minor(),
                n.uid(),
            )
        })
        .collect();
    let c = LinuxDeviceType::C;
    assert_eq!(
        numbers,
        [
            ("/dev/gpu0", c, 1, 3, Some(1000)),
            ("/dev/gpu1", c, 99, 7, Some(5)),
            ("/dev/net0", c, 99, 8, Some(1000)),
        ]
    );
    assert_eq!((nodes[1].file_mode(), nodes[1].gid()), (Some(432), Some(6)));
    let rules = linux
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .as_ref()
        .unwrap();
    let rules: Vec<_> = rules
        .iter()
        .map(|r| (r.allow(), r.access().as_deref().unwrap(), r.minor()))
        .collect();
    assert_eq!(
        rules,
        [
            (true, "rw", Some(3)),
            (true, "rwm", Some(7)),
            (true, "rwm", Some(8))
        ]
    );

    let mounts: Vec<_> = spec.mounts().as_ref().unwrap().iter().collect();
    assert_eq!(mounts[0].destination(), Path::new("/net"));
    assert_eq!(mounts[1].source(), &Some("/lib/gpu".into()));
    assert_eq!(mounts[1].options().as_ref().unwrap(), &["ro", "bind"]);
    let hooks = spec.hooks().as_ref().unwrap();
    assert_eq!(
        hooks.create_container().as_ref().unwrap().len(),
        1,
        "a file's own edits once"
    );

    let root = folders.spec(&["vendor.com/gpu=0"], 0);
    let node = &root.linux().as_ref().unwrap().devices().as_ref().unwrap()[0];
    assert_eq!(node.uid(), None);
    let none = folders.spec(&[], 0);
    assert!(none.mounts().is_none() && none.hooks().is_none());
}

#[test]
fn annotations_name_devices_too() {
    let folders = Folders::new(&[("etc/gpu.json", GPU)]);
    let mut config = ContainerConfig::default();
    let value = "vendor.com/gpu=0, vendor.com/gpu=1".to_owned();
    config
        .annotations
        .insert("cdi.k8s.io/plugin_x".to_owned(), value);
    config.cdi_devices = vec!["vendor.com/gpu=1".to_owned()];
    let Edits(edits) = resolve(&config, &folders.dirs()).unwrap();
    assert_eq!(edits.len(), 3, "what all have in common, and two devices");
    config
        .annotations
        .insert("cdi.k8s.io/y".to_owned(), "vendor.com/none=1".to_owned());
    let e = resolve(&config, &folders.dirs()).unwrap_err().to_string();
    assert!(
        e.starts_with("`config.annotations[cdi.k8s.io/y]` names the device `vendor.com/none=1`"),
        "{e}"
    );
}

#[test]
fn a_later_folder_wins_and_one_folder_must_not_disagree() {
    let other = GPU.replace("GPU=0", "GPU=other");
    let both = [("etc/gpu.json", GPU), ("run/gpu.json", other.as_str())];
    let Edits(edits) = Folders::new(&both).resolve(&["vendor.com/gpu=0"]).unwrap();
    assert_eq!(edits[1].env[0], "GPU=other");
    let conflict = [("etc/a.json", GPU), ("etc/b.json", other.as_str())];
    let e = Folders::new(&conflict).refused(&["vendor.com/gpu=0"]);
    assert!(
        e.contains("both") && e.contains("a.json") && e.contains("b.json"),
        "{e}"
    );
    let settled = [
        ("etc/a.json", GPU),
        ("etc/b.json", GPU),
        ("run/c.json", other.as_str()),
    ];
    let Edits(edits) = Folders::new(&settled)
        .resolve(&["vendor.com/gpu=0"])
        .unwrap();
    assert_eq!(edits[1].env[0], "GPU=other");
}

#[test]
fn what_cannot_be_had_is_named() {
    let folders = Folders::new(&[
        ("etc/gpu.json", GPU),
        ("etc/broken.json", "{"),
        ("etc/README", "{"),
    ]);
    let e = folders.refused(&["vendor.com/gpu=0", "vendor.com/gpu=9"]);
    assert!(
        e.starts_with(
            "`config.CDI_devices[1]` names the device `vendor.com/gpu=9`, which is not described"
        ),
        "{e}"
    );
    assert!(e.contains("broken.json") && !e.contains("README"), "{e}");
    for bad in [
        "gpu",
        "vendor.com/gpu",
        "vendor.com/gpu=",
        "vendor.com=0",
        "/gpu=0",
        "1v/gpu=0",
        "v/g=a/b",
    ] {
        let e = folders.refused(&[bad]);
        assert!(
            e.contains("is not of the form") || e.contains("has the "),
            "{bad}: {e}"
        );
    }
    let none = resolve(
        &ContainerConfig {
            cdi_devices: vec!["v.com/c=x".to_owned()],
            ..Default::default()
        },
        &["/no/such/folder".into()],
    );
    assert!(none.is_err_and(|e| e.to_string().contains("/no/such/folder")));
}

#[test]
fn files_that_are_not_of_the_form() {
    let change = |from: &str, to: &str| {
        assert!(GPU.contains(from), "{from}");
        Document::from_json(GPU.replacen(from, to, 1).as_bytes()).unwrap_err()
    };
    for (from, to, part) in [
        ("0.6.0", "2.0.0", "cdiVersion `2.0.0`"),
        ("0.6.0", "", "cdiVersion"),
        ("vendor.com/gpu", "gpu", "kind `gpu`"),
        ("\"name\": \"1\"", "\"name\": \"0\"", "`0` twice"),
        ("\"name\": \"1\"", "\"name\": \"-\"", "device name `-`"),
        ("COMMON=1", "COMMON", "`COMMON` is not"),
        (
            "\"path\": \"/dev/gpu0\"",
            "\"path\": \"gpu0\"",
            "`gpu0`, not an absolute path",
        ),
        ("\"rw\"", "\"x\"", "permissions `x`"),
        ("\"type\": \"c\"", "\"type\": \"z\"", "type `z`"),
        ("createContainer", "createWorld", "createWorld"),
        ("\"env\"", "\"envs\"", "envs"),
        (
            "\"env\": [\"COMMON=1\"]",
            "\"netDevices\": [{}]",
            "netDevices",
        ),
        ("\"env\": [\"COMMON=1\"]", "\"intelRdt\": {}", "intelRdt"),
    ] {
        let e = change(from, to);
        assert!(e.contains(part), "{to}: {e}");
    }
    for yaml in ["", "a: b\n---\nc: d\n", "kind: [", "? [a]\n: b\n", "\u{0}"] {
        assert!(Document::from_yaml(yaml.as_bytes()).is_err(), "{yaml:?}");
    }
    assert!(Document::from_yaml(&[0xff]).is_err());
}
