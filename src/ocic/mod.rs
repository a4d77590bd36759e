//! The client of the tutorial: CRI over a unix socket, and the verbs a person types.
//!
//! [`client`] is a library that the installer's checks and the tests use too; the command line
//! itself is in [`crate::cli::ocic`].

pub mod client;
