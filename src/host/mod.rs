//! The operating system, as the installer and the daemon need it: files that survive a crash,
//! child processes with a limit, namespaces, mounts, cgroups, users, systemd.
//!
//! The only part with `unsafe`, allowed file by file. Nothing here knows of plans or pods.

pub mod apt;
pub mod bridge;
pub mod cgroup;
pub mod clock;
pub mod command;
pub(crate) mod context;
pub mod disk_usage;
pub mod fd;
pub mod fs;
pub mod growth;
pub mod hangup;
pub mod idmap;
pub mod inotify;
pub mod interfaces;
pub mod label;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod open_files;
pub mod pages;
pub mod pass;
pub mod process;
pub mod pty;
pub mod rooted;
pub mod service;
pub mod spawn;
pub mod systemd;
pub mod tcp_repair;
pub mod terminal;
pub(crate) mod text;
pub mod tty;
pub mod usage;
pub mod users;
pub mod whole;
