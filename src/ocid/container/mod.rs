//! Containers: what the CRI asks for, turned into an OCI runtime specification.

pub mod capabilities;
pub mod config;
mod confinement;
mod defaults;
mod devices;
pub mod error;
pub mod facts;
mod mounts;
mod namespaces;
mod process;
mod propagation;
pub mod resources;
pub mod seccomp;
pub mod security;
pub mod signal;
pub mod spec;
pub mod user;
