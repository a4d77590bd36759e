//! Mounts: make, find, undo.
