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
pub mod handlers;
pub mod image;
mod listen;
pub mod metrics;
pub mod monitor;
pub mod network;
pub mod pause;
mod reload;
pub mod rpc;
pub mod runtime;
pub mod sandbox;
pub mod server;
pub mod settings;
pub mod state;
pub mod stats;
pub mod storage;
pub mod streaming;
pub mod watchdog;
