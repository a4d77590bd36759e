//! Loops over the real daemon on a throwaway machine: pods that come and go, clients who call at random, one that
//! keeps a node as kubelet does, and much that goes through streams.
//! A short run is part of the test command; `tests/soak/run` does the long ones.
//!
//! - `OCID_SOAK_PODS`: how many pods are started and removed (20).
//! - `OCID_SOAK_MIB`: how much goes through each kind of stream (64).
//! - `OCID_SOAK_SECONDS`: how long the clients call (60), or the node is kept (20).
//! - `OCID_SOAK_CLIENTS`: how many they are (20).
//! - `OCID_SOAK_NODE_PODS`: how many pods the node has (10).
//! - `OCID_SOAK_SEED`: where their numbers begin; printed, else of the clock.

#[allow(dead_code)]
#[path = "../cri/streams.rs"]
mod streams;
#[path = "../node/support/mod.rs"]
mod support;
#[path = "../cri/world.rs"]
mod world;

mod calls;
mod clients;
mod figures;
mod kubelet;
mod model;
mod pods;
mod throughput;

/// A whole number from the environment.
fn setting(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("`{name}` is `{text}`, not a number")),
        Err(_) => otherwise,
    }
}
