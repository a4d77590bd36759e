//! Containers: what the CRI asks for, turned into an OCI runtime specification.

pub mod capabilities;
pub mod config;
pub mod error;
pub mod facts;
pub mod resources;
pub mod security;
pub mod signal;
