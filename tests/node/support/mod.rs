//! What whole-node tests stand on: throwaway machines, a registry, images made of the distribution's
//! files, an upstream and a package mirror on loopback, and pictures of a machine to compare.

// The benches include this folder too and use less of it.
#![allow(dead_code)]

pub mod document;
pub mod http;
pub mod image;
pub mod listing;
pub mod machine;
pub mod mirror;
pub mod node;
pub mod redis;
pub mod registry;
pub mod release;
pub mod running;
pub mod snapshot;
pub mod upstream;
pub mod wait;

use std::io::Write;
use std::path::{Path, PathBuf};

pub use machine::Machine;

/// The top of the source tree.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The binary under test: `CRIO_SETUP_TEST_BINARY` (the test command names the release build there),
/// else the one that cargo built beside the tests.
pub fn binary() -> PathBuf {
    std::env::var_os("CRIO_SETUP_TEST_BINARY")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_crio-setup")))
}

/// Says that a part of a test could not run here and why; the test command counts these lines.
pub fn skip(what: &str, why: &str) {
    let line = format!("skipped: {what}: {why}\n");
    eprint!("{line}");
    let Some(file) = std::env::var_os("CRIO_SETUP_TEST_SKIPS") else {
        return;
    };
    let appended = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(Path::new(&file))
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = appended {
        panic!("count a skipped test in `{}`: {error}", file.display());
    }
}
