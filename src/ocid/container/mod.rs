//! Containers: what the CRI asks for, turned into an OCI runtime specification, and the way from
//! CreateContainer to removal.

pub mod capabilities;
pub mod config;
pub mod create;
pub mod error;
pub mod exec;
pub mod exit;
pub mod facts;
pub mod remove;
pub mod resources;
pub mod security;
pub mod signal;
pub mod start;
pub mod stop;

use super::state::live::Live;
use super::state::record::ContainerRecord;

/// A container that lives.
pub type Container = Live<ContainerRecord>;
