//! The command line: clap types, terminal output, exit codes; nothing else.

pub mod output;
