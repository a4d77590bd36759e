//! The words about containers.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::named::{ManyContainers, OneContainer, SomeContainers};
use super::pod::{Handler, ListArgs};
use super::values::{Since, amount, duration, label, publish, since};

#[derive(Debug, Subcommand)]
pub enum CtrVerb {
    /// Makes a container in a pod and prints its id
    ///
    /// Pulls the image when the store does not have it.
    Create {
        /// The pod: by id, the start of it that no other has, or name
        #[arg(long, value_name = "POD")]
        pod: String,
        /// The container's config: CRI JSON (ContainerConfig), `-` for stdin
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        with: CreateArgs,
        /// The pod's config, for a daemon that wants it repeated in full
        #[arg(long, value_name = "FILE")]
        sandbox_config: Option<PathBuf>,
    },
    /// Starts containers; prints each id
    Start(ManyContainers),
    /// Lists containers in whatever state, the newest first
    #[command(visible_alias = "ls")]
    List(CtrList),
    /// Shows a container
    Status {
        #[command(flatten)]
        container: OneContainer,
        /// Also what the daemon knows beyond the CRI
        #[arg(long, short)]
        verbose: bool,
    },
    /// Stops containers, each first with its stop signal, then by killing it; prints each id
    Stop(StopArgs),
    /// Removes containers, running or not; prints each id
    #[command(visible_alias = "rm")]
    Remove(ManyContainers),
    /// Runs a command in a container and ends with its exit code
    #[command(visible_alias = "exec")]
    Execsync {
        /// The container: by id, the start of it that no other has, or name
        #[arg(long, value_name = "CONTAINER")]
        id: String,
        /// Kill the command after this long, e.g. 10 (seconds), 1m
        #[arg(long, short, value_name = "DURATION", value_parser = duration)]
        timeout: Option<Duration>,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Prints what a container wrote, each stream to its own
    Logs(LogArgs),
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// This image instead of the config's
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Do not pull a missing image
    #[arg(long)]
    pub no_pull: bool,
}

/// `ocic create`
#[derive(Debug, Args)]
pub struct Create {
    /// The pod: by id, the start of it that no other has, or name
    #[arg(value_name = "POD")]
    pub pod: String,
    /// The container's config: CRI JSON (ContainerConfig), `-` for stdin
    #[arg(value_name = "CONFIG")]
    pub config: PathBuf,
    /// The pod's config, for a daemon that wants it repeated in full
    #[arg(value_name = "POD-CONFIG")]
    pub sandbox_config: Option<PathBuf>,
    #[command(flatten)]
    pub with: CreateArgs,
}

#[derive(Debug, Args)]
pub struct CtrList {
    /// Only this container
    #[arg(long, value_name = "CONTAINER")]
    pub id: Option<String>,
    /// Only the containers of this pod
    #[arg(long, short, value_name = "POD")]
    pub pod: Option<String>,
    /// Only those whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// Only those that run this image
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Only those in this state
    #[arg(long, short, value_enum, ignore_case = true)]
    pub state: Option<CtrState>,
    #[command(flatten)]
    pub common: ListArgs,
}

/// `ocic ps`
#[derive(Debug, Args)]
pub struct Ps {
    /// Also those that do not run
    #[arg(long, short)]
    pub all: bool,
    #[command(flatten)]
    pub list: CtrList,
}

#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    pub containers: SomeContainers,
    /// How long a container has between the two, e.g. 10 (seconds), 1m
    #[arg(long, short, value_name = "DURATION", default_value = "10", value_parser = duration)]
    pub timeout: Duration,
}

/// `ocic rm`
#[derive(Debug, Args)]
pub struct Rm {
    #[command(flatten)]
    pub containers: SomeContainers,
    /// Also those that run
    #[arg(long, short)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct LogArgs {
    #[command(flatten)]
    pub container: OneContainer,
    /// Go on with what comes, until the container has ended
    #[arg(long, short)]
    pub follow: bool,
    /// Only so many lines from the end
    #[arg(long, value_name = "LINES")]
    pub tail: Option<usize>,
    /// Only lines of this time or later: 2026-01-02T03:04:05Z, or 10m for those of the last ten minutes
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Since>,
    /// Each line after its time
    #[arg(long, short)]
    pub timestamps: bool,
}

/// `ocic run`
#[derive(Debug, Args)]
pub struct Run {
    /// The image, or the file of a container's config (CRI JSON)
    #[arg(value_name = "IMAGE|FILE")]
    pub what: String,
    /// The command and its arguments; after a config's file, the file of the pod's config
    #[arg(
        value_name = "COMMAND|FILE",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub words: Vec<String>,
    /// What pod and container are called [default: after the image]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// A variable of its environment; may be repeated
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = label)]
    pub env: Vec<(String, String)>,
    /// A port of this machine for one of the container's; may be repeated
    #[arg(long, value_name = "PORT:PORT", value_parser = publish)]
    pub publish: Vec<(u16, u16)>,
    /// The folder that it starts in
    #[arg(long, value_name = "FOLDER")]
    pub workdir: Option<String>,
    /// On the machine's own network
    #[arg(long, conflicts_with = "publish")]
    pub host_network: bool,
    /// Do not pull a missing image
    #[arg(long)]
    pub no_pull: bool,
    #[command(flatten)]
    pub handler: Handler,
}

/// `ocic update`
#[derive(Debug, Args)]
pub struct Update {
    #[command(flatten)]
    pub containers: ManyContainers,
    #[command(flatten)]
    pub limits: Limits,
}

/// What is not named stays as it is.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Limits {
    /// Microseconds in which the quota may be used up
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<i64>,
    /// Microseconds of processor time in each period
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// Its part of the processors where they are short; 1024 is the usual
    #[arg(long, visible_alias = "cpu-share", value_name = "SHARES")]
    pub cpu_shares: Option<i64>,
    /// Bytes of memory, e.g. 64Mi
    #[arg(long, value_name = "BYTES", value_parser = amount, allow_hyphen_values = true)]
    pub memory: Option<i64>,
    /// Bytes of memory and swap together
    #[arg(long, value_name = "BYTES", value_parser = amount, allow_hyphen_values = true)]
    pub memory_swap: Option<i64>,
    /// The processors it may use, e.g. 0-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// The memory nodes it may use
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CtrState {
    Created,
    Running,
    Exited,
    Unknown,
}
