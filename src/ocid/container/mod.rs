//! Containers: what the CRI asks for, turned into an OCI runtime specification.
