//! The words about streams.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values::{Mapping, duration, mapping};

/// Which streams.
#[derive(Debug, Args)]
pub struct StreamArgs {
    /// Pass our input on
    #[arg(long, short, visible_alias = "stdin")]
    pub interactive: bool,
    /// On a terminal, as large as ours
    #[arg(long, short)]
    pub tty: bool,
}

/// For a daemon that serves streams by TLS. What is given here is only looked at then.
#[derive(Debug, Args)]
pub struct TlsArgs {
    /// Trust only the authorities in this PEM file [default: those of this machine]
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The name in the server's certificate [default: the host in its URL]
    #[arg(long, value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// Our certificate, for a server that asks for one (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of our certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    pub streams: StreamArgs,
    /// Without streams: wait for its end, then show what it wrote
    #[arg(long, short, conflicts_with_all = ["interactive", "tty"])]
    pub sync: bool,
    /// Kill the command after this long, e.g. 10 (seconds), 1m
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "sync")]
    pub timeout: Option<Duration>,
    #[command(flatten)]
    pub tls: TlsArgs,
    /// The container: by id, the start of it that no other has, or name
    #[arg(value_name = "CONTAINER")]
    pub id: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct AttachArgs {
    #[command(flatten)]
    pub streams: StreamArgs,
    #[command(flatten)]
    pub tls: TlsArgs,
    /// The container: by id, the start of it that no other has, or name
    #[arg(value_name = "CONTAINER")]
    pub id: String,
}

#[derive(Debug, Args)]
pub struct ForwardArgs {
    #[command(flatten)]
    pub tls: TlsArgs,
    /// The pod: by id, the start of it that no other has, or name
    #[arg(value_name = "POD")]
    pub pod: String,
    /// `8080:80`: our port and the pod's; `80`: the same for both; `:80`: any free one of ours
    #[arg(value_name = "PORTS", required = true, value_parser = mapping)]
    pub ports: Vec<Mapping>,
}
