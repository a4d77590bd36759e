//! What the daemon knows: every pod and container, in memory, each with its record on disk.
//!
//! A record is written before the change it announces can leave anything behind, and again, durably,
//! before the answer goes out; so after `kill -9` at any moment the folders tell what to adopt and
//! what to undo (`restore`).

pub mod joined;
pub mod live;
pub mod record;
pub mod restore;
pub mod table;
