//! Images: references, registries, pulls.
