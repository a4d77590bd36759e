//! The client of the tutorial: CRI over a unix socket, and the verbs a person types.
//!
//! [`client`] is a library that the installer's checks and the tests use too, [`endpoint`] tells it where to connect;
//! [`config`] reads the JSON that people write, [`logs`] a container's log, [`follow`] one that grows; [`json`] writes
//! the answers; [`stream`] opens streams, [`tls`] what they go through where it is encrypted; [`credentials`] are a
//! registry's. The command line itself is in `cli::ocic`.

pub mod client;
pub mod config;
pub mod credentials;
pub mod endpoint;
pub mod follow;
pub mod json;
pub mod logs;
pub mod stream;
pub mod tls;

#[cfg(test)]
pub(crate) mod fake;
