//! What a container finds mounted without having asked for it: the configuration's default mounts and time
//! zone, and the folders that its image declares as volumes.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use oci_spec::runtime::Mount;

use super::error::SpecError;
use super::mapped;
use super::mounts::new_mount;
use super::selinux;
use super::spec::SpecInputs;
use crate::ocid::config::ImageVolumes;

const LOCALTIME: &str = "/etc/localtime";

/// Mounts, without those whose place the config asks for itself. `owner` is to whom volumes belong on this
/// machine.
pub(super) fn mounts(
    inputs: &SpecInputs<'_>,
    owner: (u32, u32),
    warnings: &mut Vec<String>,
) -> Result<Vec<Mount>, SpecError> {
    let defaults = inputs.defaults;
    let mut mounts = Vec::new();
    if let Some(file) = &defaults.localtime {
        let options = ["bind", "rprivate", "ro", "nosuid", "nodev", "noexec"];
        mounts.push(new_mount(Path::new(LOCALTIME), "bind", file, &options));
    }
    for mount in &defaults.mounts {
        if !mount.source.exists() {
            let source = mount.source.display();
            let text = format!("the default mount `{source}` is missing, so containers go without");
            // One sentence for the machine, not one for each container.
            warnings.extend(inputs.host.once("default mounts", &text));
            continue;
        }
        let mut options = vec!["rbind", "rprivate", "ro"];
        if inputs.sandbox.user.is_some() {
            options.extend(mapped::locked(&mount.source));
        }
        mounts.push(new_mount(&mount.target, "bind", &mount.source, &options));
    }
    if defaults.image_volumes == ImageVolumes::Bind {
        volumes(inputs, owner, &mut mounts)?;
    }
    let asked = &inputs.config.mounts;
    mounts.retain(|given| {
        let target = given.destination();
        !asked.iter().any(|asked| asked.container_path == *target)
    });
    Ok(mounts)
}

/// Empty folders in the container's own, which go with it.
fn volumes(
    inputs: &SpecInputs<'_>,
    (uid, gid): (u32, u32),
    mounts: &mut Vec<Mount>,
) -> Result<(), SpecError> {
    let image = inputs.image.config().as_ref();
    let volumes = image.and_then(|i| i.volumes().as_deref());
    for (i, volume) in volumes.unwrap_or_default().iter().enumerate() {
        let folder = inputs.folder.join("volumes").join(i.to_string());
        let failed = |e| SpecError::io("make the volume", &folder, e);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&folder)
            .map_err(failed)?;
        std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).map_err(failed)?;
        let folder = fs::canonicalize(&folder).map_err(failed)?;
        if let Some(labels) = inputs.labels {
            selinux::relabel("image.config.volumes", &folder, labels)?;
        }
        let target = Path::new("/").join(volume);
        mounts.push(new_mount(
            &target,
            "bind",
            &folder,
            &["rbind", "rprivate", "rw"],
        ));
    }
    Ok(())
}
