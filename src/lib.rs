//! One static binary that turns a bare Linux machine into a container node and keeps it one.
//!
//! Three names, chosen by `argv[0]`: `crio-setup` installs ([`setup`]), `ocid` serves Kubernetes CRI
//! v1 ([`ocid`]), `ocic` is its client ([`ocic`]). Dependencies point one way:
//! `cli -> {setup, ocid, ocic} -> {artifact, template, cri, spdy} -> host`.

pub mod artifact;
pub mod cli;
pub mod cri;
pub mod host;
pub mod ocic;
pub mod ocid;
pub mod setup;
pub mod spdy;
pub mod template;
