//! `ocid`, the CRI daemon: Kubernetes CRI v1 over a unix socket, through runc and CNI plugins.

pub mod config;
pub mod container;
pub mod daemon;
pub mod dump;
pub mod duration;
pub mod error;
pub mod events;
pub mod failpoint;
pub mod field;
pub mod image;
pub mod metrics;
pub mod monitor;
pub mod network;
pub mod pause;
pub mod rpc;
pub mod runtime;
pub mod sandbox;
pub mod server;
pub mod state;
pub mod stats;
pub mod storage;
pub mod streaming;
pub mod watchdog;
