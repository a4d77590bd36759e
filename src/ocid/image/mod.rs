//! Images: references, registries, pulls, and the store of what was pulled.
//!
//! A name is looked up in registries.conf ([`registries`]), allowed by policy.json ([`policy`]),
//! fetched with credentials ([`auth`]) over HTTPS ([`transport`], [`registry`]), and becomes layers
//! and a record ([`pull`], [`record`]) that [`ImageStore`] finds again.

pub mod auth;
mod challenge;
pub mod digest;
mod error;
mod fetch;
mod manifest;
mod namespaced;
mod options;
mod policy;
mod progress;
mod pull;
mod record;
pub mod reference;
mod registries;
mod registry;
mod retry;
mod store;
mod transport;

pub use auth::RegistryAuth;
pub use error::{ImageError, chain};
pub use options::ImageOptions;
pub use record::{Image, ImageUser};
pub use registries::ShortNames;
pub use retry::Retries;
pub use store::ImageStore;
