//! What pods, containers and images do through the CRI, as kubelet and crictl use it: the real daemon on
//! a throwaway machine, with the distribution's runc and plugins and a registry on loopback, called
//! through the generated client. Needs root and the packages that `tests/run` brings.

#[path = "../node/support/mod.rs"]
mod support;
mod wire;
mod world;

// The registry that does as the test says, and what it serves.
#[allow(dead_code)]
#[path = "../images/liar.rs"]
mod liar;
#[allow(dead_code)]
#[path = "../images/pack.rs"]
mod pack;

mod answers;
mod answers_images;
mod answers_refused;
mod answers_states;
mod checkpoint;
mod checkpoint_criu;
mod checkpoint_failpoints;
mod config;
mod config_reload;
mod containers_devices;
mod containers_mounts;
mod containers_process;
mod containers_resources;
mod containers_security;
mod containers_stop;
mod containers_volumes;
mod events;
mod exec;
mod failpoints;
mod failpoints_others;
mod images;
mod life;
mod life_trouble;
mod logs;
mod ocic_complete;
mod ocic_lists;
mod ocic_logs;
mod ocic_tls;
mod ocic_verbs;
mod operation;
mod pods;
mod pods_cgroups;
mod pods_namespaces;
mod pods_network;
mod pods_ports;
mod pods_users;
mod second_stack;
mod smoke;
mod stats;
mod stats_lists;
mod stats_load;
mod stats_metrics;
mod streaming_attach;
mod streaming_exec;
mod streaming_forward;
mod streaming_load;
mod streaming_ocic;
mod streaming_refused;
mod streams;
