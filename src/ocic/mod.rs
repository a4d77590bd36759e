//! The client of the tutorial: CRI over a unix socket, and the verbs a person types.
//!
//! [`client`] is a library that the installer's checks and the tests use too; [`config`] reads the
//! JSON that people write, [`logs`] a container's log; [`json`] writes the answers; [`stream`] opens streams. The
//! command line itself is in `cli::ocic`.

pub mod client;
pub mod config;
pub mod json;
pub mod logs;
pub mod stream;

#[cfg(test)]
pub(crate) mod fake;
