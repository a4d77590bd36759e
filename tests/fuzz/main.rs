//! Hostile peers of the streaming server: inputs made from a seed, whole sessions of which pieces lie, are cut,
//! doubled, moved and flipped, against the real code in this process.
//!
//! A short run, always with the same inputs, is part of the test command; `tests/fuzz/run` makes it long. An input is
//! a function of the run's seed and its number, so what is needed to see a fault again is saved whole.
//!
//! - `OCID_FUZZ_SECONDS`: for how long (else a fixed number of inputs).
//! - `OCID_FUZZ_SEED`: where the numbers begin (1).
//! - `OCID_FUZZ_REPLAY`: one saved input instead.

mod driver;
mod random;
mod sessions;
mod spdy;
mod upgrade;
mod websocket;
mod wire;

/// Frames, header blocks and whole connections of SPDY, at both ends.
#[test]
fn spdy() {
    driver::survives::<spdy::Spdy>();
}

/// WebSocket frames, and exec's, port-forward's and the tunnel's messages in them.
#[test]
fn websocket() {
    driver::survives::<websocket::WebSocket>();
}

/// The HTTP request, its upgrade, and what follows it on the same connection.
#[test]
fn upgrade() {
    driver::survives::<upgrade::Upgrade>();
}
