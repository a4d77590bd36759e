//! The installer: settings, facts, preflight, plan, steps with a journal, receipt, verify.

pub mod selftest;
pub mod verify;
