//! The client of the tutorial: CRI over a unix socket, and the verbs a person types.
