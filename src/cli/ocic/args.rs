//! The words of the command line. Their doc comments are the help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::cli::output::Format;
use crate::ocic::client::DEFAULT_SOCKET;

/// Runs pods and containers on this machine through its CRI daemon
///
/// Talks Kubernetes CRI v1 to `ocid` (or another CRI daemon) over its unix socket. Data goes to
/// stdout, everything else to stderr. Ends with 0 when done, 1 when the daemon refused or could
/// not be reached, 2 when the command line or a config is wrong; `ctr execsync` with the code of
/// the command it ran.
#[derive(Debug, Parser)]
#[command(name = "ocic", version)]
pub struct Ocic {
    /// The daemon's socket
    #[arg(long, global = true, help_heading = "Everywhere", env = "OCIC_SOCKET", value_name = "PATH", visible_alias = "connect",
          default_value = DEFAULT_SOCKET, value_parser = socket)]
    pub socket: PathBuf,

    /// How long to wait for each answer, e.g. 500ms, 10s, 2m
    ///
    /// A pull has no limit; stopping and executing get their own `--timeout` on top.
    #[arg(long, global = true, help_heading = "Everywhere", value_name = "DURATION",
          default_value = "2m", value_parser = duration)]
    pub limit: Duration,

    /// How to print data
    #[arg(
        long,
        short,
        global = true,
        help_heading = "Everywhere",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub output: Format,

    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Pods: sandboxes that containers share
    #[command(subcommand, visible_alias = "pods")]
    Pod(PodVerb),
    /// Containers
    #[command(subcommand, visible_alias = "container")]
    Ctr(CtrVerb),
    /// Images in the local store
    #[command(subcommand, visible_alias = "images")]
    Image(ImageVerb),
    /// Runs a command in a container with our own streams, and ends with its exit code
    ///
    /// When this client goes away, the command is killed.
    Exec(ExecArgs),
    /// Shows what a container writes from now on, and with `-i` writes to its input
    ///
    /// Going away leaves the container as it is.
    Attach(AttachArgs),
    /// Forwards connections to ports of this machine's loopback into a pod
    #[command(name = "port-forward", visible_alias = "portforward")]
    PortForward(ForwardArgs),
    /// The daemon's name, version and API version
    #[command(visible_alias = "version")]
    Runtimeversion,
    /// Whether the daemon's runtime and network are ready
    #[command(visible_alias = "status")]
    Info {
        /// Also what the daemon says about itself
        #[arg(long, short)]
        verbose: bool,
    },
    /// Prints completions for a shell, to be sourced or put in its folder of completions
    Completions { shell: Shell },
    /// Prints the manual page
    Man,
}

#[derive(Debug, Subcommand)]
pub enum PodVerb {
    /// Makes a pod and prints its id
    Create {
        /// The pod's config: CRI JSON (PodSandboxConfig), `-` for stdin
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The runtime handler, when not the daemon's default
        #[arg(
            long,
            value_name = "NAME",
            default_value = "",
            hide_default_value = true
        )]
        runtime: String,
    },
    /// Lists pods, the newest first
    #[command(visible_alias = "ls")]
    List {
        /// Only this pod
        #[arg(long, value_name = "ID")]
        id: Option<String>,
        /// Only those in this state
        #[arg(long, value_enum)]
        state: Option<PodState>,
        #[command(flatten)]
        common: ListArgs,
    },
    /// Shows a pod
    Status {
        #[command(flatten)]
        pod: One,
        /// Also what the daemon knows beyond the CRI
        #[arg(long, short)]
        verbose: bool,
    },
    /// Stops pods with their containers; prints each id
    Stop(Many),
    /// Removes pods with their containers; prints each id
    #[command(visible_alias = "rm")]
    Remove(Many),
}

#[derive(Debug, Subcommand)]
pub enum CtrVerb {
    /// Makes a container in a pod and prints its id
    ///
    /// Pulls the image when the store does not have it.
    Create {
        /// The pod's id, or the start of it that no other has
        #[arg(long, value_name = "ID")]
        pod: String,
        /// The container's config: CRI JSON (ContainerConfig), `-` for stdin
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// This image instead of the config's
        #[arg(long, value_name = "REFERENCE")]
        image: Option<String>,
        /// The pod's config, for a daemon that wants it repeated in full
        #[arg(long, value_name = "FILE")]
        sandbox_config: Option<PathBuf>,
        /// Do not pull a missing image
        #[arg(long)]
        no_pull: bool,
    },
    /// Starts containers; prints each id
    Start(Many),
    /// Lists containers, the newest first
    #[command(visible_alias = "ls")]
    List {
        /// Only this container
        #[arg(long, value_name = "ID")]
        id: Option<String>,
        /// Only the containers of this pod
        #[arg(long, value_name = "ID")]
        pod: Option<String>,
        /// Only those in this state
        #[arg(long, value_enum)]
        state: Option<CtrState>,
        #[command(flatten)]
        common: ListArgs,
    },
    /// Shows a container
    Status {
        #[command(flatten)]
        container: One,
        /// Also what the daemon knows beyond the CRI
        #[arg(long, short)]
        verbose: bool,
    },
    /// Stops containers, each first with its stop signal, then by killing it; prints each id
    Stop {
        #[command(flatten)]
        containers: Many,
        /// How long a container has between the two, e.g. 10 (seconds), 1m
        #[arg(long, short, value_name = "DURATION", default_value = "10", value_parser = duration)]
        timeout: Duration,
    },
    /// Removes containers, running or not; prints each id
    #[command(visible_alias = "rm")]
    Remove(Many),
    /// Runs a command in a container and ends with its exit code
    #[command(visible_alias = "exec")]
    Execsync {
        /// The container's id, or the start of it that no other has
        #[arg(long, value_name = "ID")]
        id: String,
        /// Kill the command after this long, e.g. 10 (seconds), 1m
        #[arg(long, short, value_name = "DURATION", value_parser = duration)]
        timeout: Option<Duration>,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Prints what a container wrote, each stream to its own
    Logs {
        #[command(flatten)]
        container: One,
        /// Only so many lines from the end
        #[arg(long, value_name = "LINES")]
        tail: Option<usize>,
        /// Each line after its time
        #[arg(long)]
        timestamps: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// Pulls an image and prints the reference it is kept under
    Pull {
        /// E.g. docker.io/library/redis:7-alpine
        reference: String,
    },
    /// Lists images
    #[command(visible_alias = "ls")]
    List {
        /// Only this image
        reference: Option<String>,
        /// Only ids
        #[arg(long, short)]
        quiet: bool,
    },
    /// Shows an image
    #[command(mut_arg("plain", |arg| arg.help("The image's reference or id")))]
    Status {
        #[command(flatten)]
        image: One,
        /// Also what the daemon knows beyond the CRI
        #[arg(long, short)]
        verbose: bool,
    },
    /// Removes images with all their names
    #[command(visible_alias = "rm",
              mut_arg("plain", |arg| arg.help("References or ids of images")))]
    Remove(Many),
}

/// Which streams.
#[derive(Debug, Args)]
pub struct StreamArgs {
    /// Pass our input on
    #[arg(long, short)]
    pub interactive: bool,
    /// On a terminal, as large as ours
    #[arg(long, short)]
    pub tty: bool,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    pub streams: StreamArgs,
    /// The container's id, or the start of it that no other has
    #[arg(value_name = "ID")]
    pub id: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct AttachArgs {
    #[command(flatten)]
    pub streams: StreamArgs,
    /// The container's id, or the start of it that no other has
    #[arg(value_name = "ID")]
    pub id: String,
}

#[derive(Debug, Args)]
pub struct ForwardArgs {
    /// The pod's id, or the start of it that no other has
    #[arg(value_name = "ID")]
    pub pod: String,
    /// `8080:80`: our port and the pod's; `80`: the same for both; `:80`: any free one of ours
    #[arg(value_name = "PORTS", required = true, value_parser = mapping)]
    pub ports: Vec<Mapping>,
}

/// A port of ours (0: any) for one of a pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    pub local: u16,
    pub remote: u16,
}

/// One object, named by `--id ID` or just `ID`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct One {
    /// The same as ID
    #[arg(long = "id", value_name = "ID")]
    named: Option<String>,
    /// The id, or the start of it that no other has
    #[arg(value_name = "ID")]
    plain: Option<String>,
}

impl One {
    pub fn get(&self) -> &str {
        let given = self.named.as_ref().or(self.plain.as_ref());
        given.map_or("", String::as_str)
    }
}

/// Objects, named by `--id ID` or just `ID`.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Many {
    /// The same as ID
    #[arg(long = "id", value_name = "ID")]
    named: Vec<String>,
    /// Ids, or the start of each that no other has
    #[arg(value_name = "ID")]
    plain: Vec<String>,
}

impl Many {
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.named.iter().chain(&self.plain).map(String::as_str)
    }
}

/// What every list has.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Only ids, whole
    #[arg(long, short)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PodState {
    Ready,
    Notready,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CtrState {
    Created,
    Running,
    Exited,
    Unknown,
}

/// Takes the form of other CRI clients too: `unix:///run/ocid/ocid.sock`.
fn socket(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if path.is_empty() || path.contains("://") {
        return Err("not a path of a unix socket".to_owned());
    }
    Ok(PathBuf::from(path))
}

/// `10` and `10s` are seconds, `500ms`, `2m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let number: u64 = digits
        .parse()
        .map_err(|_| "not a duration such as 500ms, 10s or 2m".to_owned())?;
    let seconds = |each: u64| {
        let total = number.checked_mul(each).filter(|s| *s <= LONGEST);
        total.ok_or_else(|| "longer than a year".to_owned())
    };
    match unit {
        "ms" if number <= LONGEST => Ok(Duration::from_millis(number)),
        "" | "s" => seconds(1).map(Duration::from_secs),
        "m" => seconds(60).map(Duration::from_secs),
        "h" => seconds(3600).map(Duration::from_secs),
        _ => Err("the units are ms, s, m and h".to_owned()),
    }
}

/// A year of seconds: longer is a slip, and would overflow timers.
const LONGEST: u64 = 366 * 86_400;

fn mapping(text: &str) -> Result<Mapping, String> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let local = if local.is_empty() {
        Some(0)
    } else {
        port(local)
    };
    match (local, port(remote)) {
        (Some(local), Some(remote)) => Ok(Mapping { local, remote }),
        _ => Err("not of the form 8080:80, 80 or :80".to_owned()),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("not of the form KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Ocic::command().debug_assert();
    }

    #[test]
    fn the_tutorial_s_lines_are_understood() {
        for line in [
            "ocic pod create --config test/testdata/sandbox_config.json",
            "ocic ctr create --pod 0123 --config test/testdata/container_redis.json",
            "ocic ctr start --id 0123",
            "ocic runtimeversion",
            "ocic --connect /var/run/ocid.sock pod list",
            "ocic pod stop --id a --id b",
            "ocic pod rm a b",
            "ocic ctr execsync --id a ls -l /",
            "ocic ctr execsync --id a -- sh -c true",
            "ocic ctr stop --id a --timeout 5",
            "ocic exec -it 0123 sh -l",
            "ocic exec 0123 -- ls -l",
            "ocic attach -i 0123",
            "ocic port-forward 0123 8080:80 :443 6379",
        ] {
            Ocic::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        for line in [
            "ocic",
            "ocic pod create",
            "ocic pod stop",
            "ocic pod status --id a b",
            "ocic ctr execsync --id a",
            "ocic pod list --label x",
            "ocic exec 0123",
            "ocic port-forward 0123",
            "ocic port-forward 0123 80:0",
            "ocic --socket tcp://127.0.0.1:1 info",
        ] {
            let error = Ocic::try_parse_from(line.split(' ')).err();
            assert_eq!(error.map(|e| e.exit_code()), Some(2), "{line}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in [
            "",
            "s",
            "-1",
            "1.5s",
            "1d",
            "99999999999h",
            "18446744073709551616",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_socket_may_be_written_as_a_url() {
        let path = Ok(PathBuf::from("/run/x.sock"));
        assert_eq!(socket("unix:///run/x.sock"), path);
        assert_eq!(socket("/run/x.sock"), path);
        assert!(socket("").is_err());
    }
}
