//! The words about what is being used, and what happens.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::named::OneContainer;
use super::values::{duration, label, pause};

/// How often.
#[derive(Debug, Args)]
pub struct Pace {
    /// Again and again, until Ctrl-C
    #[arg(long, short)]
    pub watch: bool,
    /// The time between two looks, e.g. 2 (seconds), 500ms
    #[arg(long, value_name = "DURATION", default_value = "1", value_parser = pause)]
    pub interval: Duration,
}

/// `ocic stats`
#[derive(Debug, Args)]
pub struct Stats {
    /// Only this container
    #[arg(value_name = "CONTAINER", conflicts_with = "id")]
    pub container: Option<String>,
    /// The same as CONTAINER
    #[arg(long, value_name = "CONTAINER")]
    pub id: Option<String>,
    /// Only the containers of this pod
    #[arg(long, short, value_name = "POD")]
    pub pod: Option<String>,
    /// Only those with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    #[command(flatten)]
    pub pace: Pace,
}

/// `ocic statsp`
#[derive(Debug, Args)]
pub struct Statsp {
    /// Only this pod
    #[arg(value_name = "POD", conflicts_with = "id")]
    pub pod: Option<String>,
    /// The same as POD
    #[arg(long, value_name = "POD")]
    pub id: Option<String>,
    /// Only those with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    #[command(flatten)]
    pub pace: Pace,
}

/// `ocic checkpoint`
#[derive(Debug, Args)]
pub struct Checkpoint {
    #[command(flatten)]
    pub container: OneContainer,
    /// The archive that the daemon shall write
    #[arg(long, short, value_name = "PATH")]
    pub export: PathBuf,
    /// How long it may take, e.g. 10 (seconds), 1m; 0 is the daemon's own limit
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration)]
    pub timeout: Duration,
}
