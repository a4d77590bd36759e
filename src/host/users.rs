//! The passwd and group files, parsed by us: glibc's name services do not survive a static binary.
