//! Pod sandboxes: namespaces, network, files, and the way from RunPodSandbox to removal.

pub mod config;
pub mod sysctl;
