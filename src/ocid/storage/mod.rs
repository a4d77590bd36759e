//! Layers, images and container filesystems on disk.
