//! The command line: clap types, terminal output, exit codes; nothing else.

pub mod manual;
pub mod ocic;
pub mod ocid;
pub mod output;
pub mod setup;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

/// Who this process is, by the name it was called by or by its first argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// `crio-setup`: the installer.
    Setup,
    /// `ocid`: the daemon.
    Ocid,
    /// `ocic`: the client.
    Ocic,
    /// `ocid monitor`: holds one container. Never typed by a person.
    Monitor,
    /// `ocid pause`: holds a pod's PID namespace. Never typed by a person.
    Pause,
    /// `crio-setup selftest-peer`: what runs in the self-test's pod. Never typed by a person.
    SelftestPeer,
}

/// The face, and how many of the words it is named by.
fn face(argv: &[OsString]) -> (Face, usize) {
    let word = |i: usize| argv.get(i).and_then(|word| word.to_str());
    let name = argv
        .first()
        .and_then(|path| Path::new(path).file_name())
        .and_then(OsStr::to_str);
    let (first, named) = match (name, word(1)) {
        (Some("ocid"), _) => (Face::Ocid, 1),
        (Some("ocic"), _) => (Face::Ocic, 1),
        (_, Some("ocid")) => (Face::Ocid, 2),
        (_, Some("ocic")) => (Face::Ocic, 2),
        (_, Some("selftest-peer")) => (Face::SelftestPeer, 2),
        _ => (Face::Setup, 1),
    };
    match (first, word(named)) {
        (Face::Ocid, Some("monitor")) => (Face::Monitor, named + 1),
        (Face::Ocid, Some("pause")) => (Face::Pause, named + 1),
        (Face::Ocid, Some("selftest-peer")) => (Face::SelftestPeer, named + 1),
        _ => (first, named),
    }
}

/// Runs the face that this process was called as.
pub fn main(argv: impl Iterator<Item = OsString>) -> ExitCode {
    let argv: Vec<OsString> = argv.collect();
    let (face, named) = face(&argv);
    let rest = || argv.iter().skip(named).cloned();
    // clap takes the first word as the program's name.
    let named = |name: &str| std::iter::once(OsString::from(name)).chain(rest());
    match face {
        Face::Monitor => crate::ocid::monitor::main(),
        Face::Pause => crate::ocid::pause::main(rest()),
        Face::SelftestPeer => crate::setup::selftest::peer::main(rest()),
        Face::Setup => setup::run(named("crio-setup")),
        Face::Ocid => ocid::run(named("ocid")),
        Face::Ocic => ocic::run(named("ocic")),
    }
}

/// Prints what clap says of a call: help and version are answers (0), the rest is wrong usage (2).
pub fn usage(error: &clap::Error) -> ExitCode {
    if let Err(failed) = error.print() {
        // Nobody reads it: there is nowhere left to say so.
        tracing::debug!(error = %failed, "the usage was not printed");
    }
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_words_choose_the_face() {
        for (argv, expected) in [
            ("crio-setup install", (Face::Setup, 1)),
            ("crio-setup", (Face::Setup, 1)),
            ("/usr/local/bin/ocid --debug", (Face::Ocid, 1)),
            ("crio-setup ocid --debug", (Face::Ocid, 2)),
            ("./target/debug/crio-setup ocic pod", (Face::Ocic, 2)),
            ("ocic ocid", (Face::Ocic, 1)),
            ("ocid monitor", (Face::Monitor, 2)),
            ("crio-setup ocid monitor", (Face::Monitor, 3)),
            ("/proc/self/exe ocid pause", (Face::Pause, 3)),
            ("ocid selftest-peer", (Face::SelftestPeer, 2)),
            ("renamed plan", (Face::Setup, 1)),
            ("", (Face::Setup, 1)),
        ] {
            let argv: Vec<OsString> = argv.split_whitespace().map(OsString::from).collect();
            assert_eq!(face(&argv), expected, "{argv:?}");
        }
    }
}
