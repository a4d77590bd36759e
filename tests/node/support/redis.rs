//! A redis image in the shape of the official one, made of the distribution's `redis-server` package.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use crio_setup::host::command::Command;
use serde_json::json;

use super::image::{Compression, Image, Layer, assemble};

/// As the official image's script: what is not an option is run as it is. The official redis is
/// patched to start without protected mode; the distribution's is told to.
const ENTRYPOINT: &str = r#"#!/bin/sh
set -e
if [ "${1#-}" != "$1" ] || [ "$#" = 0 ]; then
    set -- redis-server "$@"
fi
if [ "$1" = redis-server ]; then
    set -- "$@" --protected-mode no
fi
exec "$@"
"#;

/// What the shell of the pod's user and the tests' ExecSync call; all from the distribution.
const PROGRAMS: [(&str, &str); 9] = [
    ("/usr/bin/redis-server", "/usr/bin/redis-server"),
    ("/usr/bin/redis-cli", "/usr/bin/redis-cli"),
    ("/bin/sh", "/usr/bin/dash"),
    ("/bin/cat", "/usr/bin/cat"),
    ("/bin/id", "/usr/bin/id"),
    ("/bin/true", "/usr/bin/true"),
    ("/bin/sleep", "/usr/bin/sleep"),
    ("/bin/ls", "/usr/bin/ls"),
    ("/bin/mkfifo", "/usr/bin/mkfifo"),
];

pub fn image() -> Result<Image> {
    let mut base = Layer::default();
    let mut redis = Layer::default();
    let mut libraries = BTreeSet::new();
    for (inside, outside) in PROGRAMS {
        let bytes = fs::read(outside).with_context(|| {
            format!("read `{outside}`; `apt-get install redis-server` brings what is missing")
        })?;
        let layer = if inside.contains("redis") {
            &mut redis
        } else {
            &mut base
        };
        layer.file(inside, 0o755, &bytes)?;
        libraries.extend(shared_libraries(Path::new(outside))?);
    }
    for library in &libraries {
        let path = library.to_str().context("not UTF-8")?;
        base.file(path, 0o755, &fs::read(library)?)?;
    }
    base.folder("/tmp", 0o1777)?;
    base.file(
        "/etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nredis:x:999:1000::/data:/bin/sh\n",
    )?;
    base.file("/etc/group", 0o644, b"root:x:0:\nredis:x:1000:\n")?;
    redis.folder("/data", 0o777)?;
    redis.file(
        "/usr/local/bin/docker-entrypoint.sh",
        0o755,
        ENTRYPOINT.as_bytes(),
    )?;
    // The official image has redis there; configs in the wild call it by that path.
    redis.symlink("/usr/local/bin/redis-server", "/usr/bin/redis-server")?;
    redis.symlink("/usr/local/bin/redis-cli", "/usr/bin/redis-cli")?;
    assemble(
        vec![
            base.finish(Compression::Gzip)?,
            redis.finish(Compression::Zstd)?,
        ],
        json!({
            "Entrypoint": ["docker-entrypoint.sh"],
            "Cmd": ["redis-server"],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/data",
            "ExposedPorts": { "6379/tcp": {} },
            "Volumes": { "/data": {} },
        }),
    )
}

/// The libraries and the loader that a program needs, as `ldd` names them.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).run()?;
    let text = String::from_utf8(output.stdout)?;
    let found: Vec<PathBuf> = text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect();
    ensure!(!found.is_empty(), "ldd names no library of {program:?}");
    Ok(found)
}
