//! The container monitor: one small process per container.
