//! Upstream files: fetched with a limit, verified while they stream, unpacked inside their folder.
//!
//! [`fetch`](fetch::fetch) leaves nothing at a final path that is not what its pin says;
//! [`archive`] leaves nothing outside its folder, whatever the archive holds. Blocking, for the
//! installer; [`http`] is the client they share.

pub mod archive;
pub mod digest;
pub mod fetch;
pub mod http;
mod resolve;
#[cfg(test)]
mod small_disk;

pub use digest::Sha256Sum;
pub use fetch::{Fetch, FetchError, Limits, VerifiedFile, fetch};
pub use http::{Proxies, Reach, reachable};
