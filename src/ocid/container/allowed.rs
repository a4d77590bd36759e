//! Annotations of a pod by which its containers get what the CRI has no field for, where the pod's runtime
//! handler allows them (`allowed_annotations`). They are CRI-O's.

use std::collections::BTreeMap;
use std::path::Path;

use super::config::Device;
use super::defaults::Defaults;
use crate::ocid::field::FieldError;
use crate::ocid::sandbox::config::SandboxConfig;

const DEVICES: &str = "io.kubernetes.cri-o.Devices";
const SHM_SIZE: &str = "io.kubernetes.cri-o.ShmSize";
const UNIFIED: &str = "io.kubernetes.cri-o.UnifiedCgroup";
const WRITABLE_CGROUP: &str = "io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw";
const UMASK: &str = "io.kubernetes.cri-o.umask";

/// A pod's annotations as its handler lets them count.
#[derive(Clone, Copy)]
pub struct Allowed<'a> {
    defaults: &'a Defaults,
    pod: &'a SandboxConfig,
}

impl<'a> Allowed<'a> {
    pub fn new(defaults: &'a Defaults, pod: &'a SandboxConfig) -> Self {
        Self { defaults, pod }
    }

    /// The annotation's value, where it is allowed and there: the pod's, else the handler's default.
    fn get(&self, name: &str) -> Option<&'a str> {
        let mut allowed = self.defaults.allowed_annotations.iter();
        if !allowed.any(|beginning| !beginning.is_empty() && name.starts_with(beginning.as_str())) {
            return None;
        }
        let value = self.pod.annotations.get(name);
        let value = value.or_else(|| self.defaults.annotations.get(name));
        value.map(String::as_str)
    }

    /// Devices, each of which `allowed_devices` must name: `HOST[:CONTAINER[:PERMISSIONS]],…`.
    pub fn devices(&self) -> Result<Vec<Device>, FieldError> {
        let field = field(DEVICES);
        let texts = self.get(DEVICES).unwrap_or_default().split(',');
        let mut devices = Vec::new();
        for text in texts.map(str::trim).filter(|text| !text.is_empty()) {
            let device = Device::parse_line(&field, text)?;
            let allowed = self.defaults.allowed_devices.iter();
            if !allowed.map(Path::new).any(|path| path == device.host_path) {
                let path = device.host_path.display();
                let problem = format!("holds `{path}`, which `allowed_devices` does not");
                return Err(FieldError::new(field, problem));
            }
            devices.push(device);
        }
        Ok(devices)
    }

    /// The size of the pod's /dev/shm in bytes.
    pub fn shm_size(&self) -> Result<Option<u64>, FieldError> {
        let Some(text) = self.get(SHM_SIZE) else {
            return Ok(None);
        };
        match quantity(text).filter(|size| *size > 0) {
            Some(size) => Ok(Some(size)),
            None => {
                let problem = format!("is `{text}`, not a size such as `128Mi`");
                Err(FieldError::new(field(SHM_SIZE), problem))
            }
        }
    }

    /// Files of the cgroup (version 2) of one container: `FILE=VALUE;…`.
    pub fn unified(&self, container: &str) -> Result<BTreeMap<String, String>, FieldError> {
        let name = format!("{UNIFIED}.{container}");
        let mut files = BTreeMap::new();
        let pairs = self.get(&name).unwrap_or_default().split(';');
        for pair in pairs.map(str::trim).filter(|pair| !pair.is_empty()) {
            let (file, value) = pair.split_once('=').unwrap_or_default();
            let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if file.is_empty() || !file.chars().all(valid) || value.contains('\0') {
                let problem = format!("holds `{pair}`, not `FILE=VALUE`");
                return Err(FieldError::new(field(&name), problem));
            }
            files.insert(file.to_owned(), value.to_owned());
        }
        Ok(files)
    }

    /// May containers change the cgroups below their own?
    pub fn writable_cgroup(&self) -> bool {
        self.get(WRITABLE_CGROUP) == Some("true")
    }

    /// Of a container's first process.
    pub fn umask(&self) -> Result<Option<u32>, FieldError> {
        let Some(text) = self.get(UMASK) else {
            return Ok(None);
        };
        match u32::from_str_radix(text, 8) {
            Ok(mask) if mask <= 0o777 => Ok(Some(mask)),
            _ => {
                let problem = format!("is `{text}`, not an octal mask such as `0077`");
                Err(FieldError::new(field(UMASK), problem))
            }
        }
    }
}

fn field(annotation: &str) -> String {
    format!("config.annotations[{annotation}]")
}

/// A quantity as Kubernetes writes whole numbers: `128Mi`, `1G`, `65536`.
fn quantity(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let (base, power): (u64, u32) = match unit {
        "" => (1, 0),
        "k" => (1000, 1),
        "M" => (1000, 2),
        "G" => (1000, 3),
        "T" => (1000, 4),
        "Ki" => (1024, 1),
        "Mi" => (1024, 2),
        "Gi" => (1024, 3),
        "Ti" => (1024, 4),
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(base.pow(power))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, value: &str) -> SandboxConfig {
        SandboxConfig {
            annotations: [(name.to_owned(), value.to_owned())].into(),
            ..SandboxConfig::default()
        }
    }

    fn defaults(allowed: &[&str]) -> Defaults {
        Defaults {
            allowed_annotations: allowed.iter().map(|&name| name.to_owned()).collect(),
            allowed_devices: vec!["/dev/fuse".to_owned()],
            ..Defaults::default()
        }
    }

    #[test]
    fn only_what_the_handler_allows() {
        let pod = pod(UMASK, "027");
        let umask = |defaults: &Defaults| Allowed::new(defaults, &pod).umask().unwrap();
        assert_eq!(umask(&defaults(&[])), None);
        assert_eq!(umask(&defaults(&[""])), None);
        assert_eq!(umask(&defaults(&[DEVICES])), None);
        assert_eq!(umask(&defaults(&[UMASK])), Some(0o27));
        let mut given = defaults(&[WRITABLE_CGROUP]);
        given
            .annotations
            .insert(WRITABLE_CGROUP.to_owned(), "true".to_owned());
        assert!(Allowed::new(&given, &pod).writable_cgroup());
    }

    #[test]
    fn devices_must_be_allowed_too() {
        let defaults = defaults(&[DEVICES]);
        let devices = |value: &str| Allowed::new(&defaults, &pod(DEVICES, value)).devices();
        let fuse = devices("/dev/fuse:/dev/f:r").unwrap();
        assert_eq!(fuse.len(), 1);
        assert_eq!(fuse[0].container_path, Path::new("/dev/f"));
        assert_eq!(devices("").unwrap(), []);
        for bad in [
            "/dev/sda",
            "fuse",
            "/dev/fuse,/dev/../sda",
            "/dev/fuse:/x:q",
        ] {
            let error = devices(bad).unwrap_err();
            assert!(error.field.starts_with(&field(DEVICES)), "{error}");
        }
    }

    #[test]
    fn values_are_read_or_refused() {
        let defaults = defaults(&[SHM_SIZE, UNIFIED, UMASK]);
        let shm = |value: &str| Allowed::new(&defaults, &pod(SHM_SIZE, value)).shm_size();
        assert_eq!(shm("128Mi").unwrap(), Some(128 << 20));
        assert_eq!(shm("1k").unwrap(), Some(1000));
        for bad in ["", "0", "5m", "-1", "1.5Gi", "99999999999999999999"] {
            assert!(shm(bad).is_err(), "{bad}");
        }
        let name = format!("{UNIFIED}.web");
        let unified = |value: &str| Allowed::new(&defaults, &pod(&name, value)).unified("web");
        let files = unified("memory.high=1000;io.max=8:0 rbps=1").unwrap();
        assert_eq!(files["memory.high"], "1000");
        assert_eq!(files["io.max"], "8:0 rbps=1");
        assert!(unified("../x=1").is_err() && unified("memory.high").is_err());
        let of_other = pod(&name, "memory.high=1");
        let of_other = Allowed::new(&defaults, &of_other).unified("db").unwrap();
        assert!(of_other.is_empty());
        for bad in ["", "9", "1777", "u+x"] {
            let pod = pod(UMASK, bad);
            assert!(Allowed::new(&defaults, &pod).umask().is_err(), "{bad}");
        }
    }
}
