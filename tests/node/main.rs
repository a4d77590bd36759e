//! The product as a whole, on throwaway machines: the road from a bare machine to the tutorial's redis
//! pod and back. Needs root, and the distribution's `docker-registry`, `redis-server`, `runc`,
//! `containernetworking-plugins` and `iptables`; `tests/run` brings them.

mod ansible;
mod cut_off;
mod first_boot;
mod guides;
mod image;
mod install;
mod machines;
mod preflight;
mod requests;
mod restarts;
mod support;
mod survival;
mod tutorial;
mod upstream;
mod vagrant;
