//! What the daemon knows, in memory and on disk.
