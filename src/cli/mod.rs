//! The command line: clap types, terminal output, exit codes; nothing else.

pub mod manual;
pub mod ocic;
pub mod output;
pub mod setup;
