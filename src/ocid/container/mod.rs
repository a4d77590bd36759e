//! Containers: what the CRI asks for, turned into an OCI runtime specification, and the way from
//! CreateContainer to removal.

mod accounts;
pub mod allowed;
pub mod apparmor;
pub mod capabilities;
mod cdi;
pub mod checkpoint;
pub mod config;
mod confinement;
pub mod create;
mod defaults;
mod devices;
pub mod error;
pub mod exec;
pub mod exit;
pub mod facts;
mod given;
mod mapped;
mod mounts;
mod namespaces;
mod process;
mod propagation;
pub mod remove;
pub mod resources;
pub mod seccomp;
pub mod security;
pub mod selinux;
pub mod signal;
pub mod spec;
pub mod start;
pub mod stop;
pub mod update;
pub mod user;
pub mod volumes;

use super::state::live::Live;
use super::state::record::ContainerRecord;

/// A container that lives.
pub type Container = Live<ContainerRecord>;
