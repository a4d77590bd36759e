//! Namespaces that outlive their maker, pinned by bind mounts.
