//! The OCI runtime (runc): create, start, kill, delete, exec.
