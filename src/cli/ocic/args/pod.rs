//! The words about pods.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::named::{ManyPods, OnePod, SomePods};
use super::values::label;

#[derive(Debug, Subcommand)]
pub enum PodVerb {
    /// Makes a pod and prints its id
    Create {
        /// The pod's config: CRI JSON (PodSandboxConfig), `-` for stdin
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        handler: Handler,
    },
    /// Lists pods, the newest first
    #[command(visible_alias = "ls")]
    List(PodList),
    /// Shows a pod
    Status {
        #[command(flatten)]
        pod: OnePod,
        /// Also what the daemon knows beyond the CRI
        #[arg(long, short)]
        verbose: bool,
    },
    /// Stops pods with their containers; prints each id
    Stop(ManyPods),
    /// Removes pods with their containers, ready or not; prints each id
    #[command(visible_alias = "rm")]
    Remove(ManyPods),
}

#[derive(Debug, Args)]
pub struct Handler {
    /// The runtime handler, when not the daemon's default
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub runtime: String,
}

/// `ocic runp`
#[derive(Debug, Args)]
pub struct Runp {
    /// The pod's config: CRI JSON (PodSandboxConfig), `-` for stdin
    #[arg(value_name = "FILE")]
    pub config: PathBuf,
    #[command(flatten)]
    pub handler: Handler,
}

#[derive(Debug, Args)]
pub struct PodList {
    /// Only this pod
    #[arg(long, value_name = "POD")]
    pub id: Option<String>,
    /// Only those whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// Only those of this Kubernetes namespace
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Only those in this state
    #[arg(long, short, value_enum, ignore_case = true)]
    pub state: Option<PodState>,
    #[command(flatten)]
    pub common: ListArgs,
}

/// `ocic rmp`
#[derive(Debug, Args)]
pub struct Rmp {
    #[command(flatten)]
    pub pods: SomePods,
    /// Also those that are ready
    #[arg(long, short)]
    pub force: bool,
}

/// What every list has.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Only the newest
    #[arg(long, short, conflicts_with = "last")]
    pub latest: bool,
    /// Only so many of the newest
    #[arg(long, short = 'n', value_name = "COUNT")]
    pub last: Option<usize>,
    /// Only ids, whole
    #[arg(long, short)]
    pub quiet: bool,
}

impl ListArgs {
    /// How many of the list's beginning are wanted.
    pub fn count(&self) -> usize {
        match (self.latest, self.last) {
            (true, _) => 1,
            (false, last) => last.unwrap_or(usize::MAX),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PodState {
    Ready,
    Notready,
}
