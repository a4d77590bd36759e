//! The generated types of the Kubernetes CRI, package `runtime.v1`, from `proto/runtime.proto`.
//!
//! They stop at the RPC edge: the daemon turns a request into its own types before it acts on it,
//! and the client prints them. Their serde form is the JSON that users of CRI write.

pub mod metrics;

#[allow(missing_docs, clippy::all)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));
    // Written by hand: see there.
    pub use super::metrics::ListPodSandboxMetricsResponse;
}

/// Bytes that people write as plain text in JSON (values of environment variables, output of a
/// command); what is no UTF-8 is shown with replacement characters.
pub mod text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&String::from_utf8_lossy(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        String::deserialize(from).map(String::into_bytes)
    }
}
