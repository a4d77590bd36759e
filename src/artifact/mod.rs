//! Upstream files: fetched with a limit, verified while they stream, unpacked inside their folder.
