//! The words of the command line. Their doc comments are the help.

pub mod ctr;
pub mod image;
pub mod named;
pub mod pod;
pub mod stats;
pub mod stream;
pub mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::cli::output::Format;

use ctr::{Create, CtrVerb, LogArgs, Ps, Rm, Run, StopArgs, Update};
use image::{ImageList, ImageVerb, Pull, Rmi};
use named::{ManyContainers, ManyImages, ManyPods, SomePods};
use pod::{PodList, PodVerb, Rmp, Runp};
use stats::{Checkpoint, Stats, Statsp};
use stream::{AttachArgs, ExecArgs, ForwardArgs};
use values::{duration, socket};

/// Runs pods and containers on this machine through its CRI daemon
///
/// Talks Kubernetes CRI v1 to `ocid` (or another CRI daemon) over its unix socket, in verbs of its own
/// (`pod`, `ctr`, `image`) and in those of crictl. Data goes to stdout, everything else to stderr. Ends with 0
/// when done, 1 when the daemon refused or could not be reached, 2 when the command line or a config
/// is wrong; `exec`, `attach` and `ctr execsync` with the code of what ran.
#[derive(Debug, Parser)]
#[command(name = "ocic", version)]
pub struct Ocic {
    /// The daemon's socket [default: what `/etc/crictl.yaml` says, else /run/ocid/ocid.sock]
    #[arg(long, global = true, help_heading = "Everywhere", env = "OCIC_SOCKET", value_name = "PATH",
          visible_aliases = ["connect", "runtime-endpoint"], short = 'r', value_parser = socket)]
    pub socket: Option<PathBuf>,

    /// How long to wait for each answer, e.g. 500ms, 10s, 2m
    ///
    /// A pull has no limit; stopping and executing get their own `--timeout` on top.
    #[arg(long, global = true, help_heading = "Everywhere", value_name = "DURATION",
          default_value = "2m", value_parser = duration)]
    pub limit: Duration,

    /// How to print data [default: json for inspect, inspectp and inspecti, else table]
    #[arg(
        long,
        short,
        global = true,
        help_heading = "Everywhere",
        value_name = "FORMAT",
        value_enum
    )]
    pub output: Option<Format>,

    /// The same as `--limit`, before the verb
    #[arg(long, short, value_name = "DURATION", value_parser = duration, conflicts_with = "limit")]
    pub timeout: Option<Duration>,

    /// Where images are, when not at the daemon's socket
    #[arg(long, short, value_name = "PATH", env = "IMAGE_SERVICE_ENDPOINT", value_parser = socket)]
    pub image_endpoint: Option<PathBuf>,

    /// crictl's file, which names the sockets [default: /etc/crictl.yaml]
    #[arg(long, short, value_name = "FILE", env = "CRI_CONFIG_FILE")]
    pub config: Option<PathBuf>,

    #[command(subcommand)]
    pub verb: Verb,
}

impl Ocic {
    /// The form that data takes.
    pub fn format(&self) -> Format {
        self.output.unwrap_or(match self.verb {
            Verb::Inspect(_) | Verb::Inspectp(_) | Verb::Inspecti(_) => Format::Json,
            _ => Format::Table,
        })
    }

    pub fn limit(&self) -> Duration {
        self.timeout.unwrap_or(self.limit)
    }
}

// One is made per process.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Pods: sandboxes that containers share
    #[command(subcommand)]
    Pod(PodVerb),
    /// Containers
    #[command(subcommand, visible_alias = "container")]
    Ctr(CtrVerb),
    /// Images in the local store
    #[command(subcommand)]
    Image(ImageVerb),

    /// Lists containers that run, the newest first
    Ps(Ps),
    /// Lists pods, the newest first
    Pods(PodList),
    /// Lists images
    Images(ImageList),
    /// Makes a pod with one container of an image, starts it and prints the container's id
    ///
    /// Either `ocic run IMAGE [COMMAND...]`, or `ocic run CONTAINER.json POD.json` as with crictl: what ends in
    /// `.json` is a file. A missing image is pulled. When it does not start, no pod is left.
    Run(Run),
    /// Runs a command in a container with our own streams, and ends with its exit code
    ///
    /// When this client goes away, the command is killed.
    Exec(ExecArgs),
    /// Shows what a container writes from now on, and with `-i` writes to its input
    ///
    /// Going away leaves the container as it is.
    Attach(AttachArgs),
    /// Prints what a container wrote, each stream to its own
    Logs(LogArgs),
    /// Forwards connections to ports of this machine's loopback into a pod
    #[command(name = "port-forward", visible_alias = "portforward")]
    PortForward(ForwardArgs),
    /// Shows all that is known of containers
    Inspect(ManyContainers),
    /// Shows all that is known of pods
    Inspectp(ManyPods),
    /// Shows all that is known of images
    Inspecti(ManyImages),
    /// Shows what containers use
    Stats(Stats),
    /// Shows what pods use
    Statsp(Statsp),
    /// Tells what happens to containers, as it happens, until Ctrl-C
    Events,

    /// Makes a pod and prints its id
    Runp(Runp),
    /// Makes a container in a pod and prints its id; a missing image is pulled
    Create(Create),
    /// Starts containers; prints each id
    Start(ManyContainers),
    /// Stops containers, each first with its stop signal, then by killing it; prints each id
    Stop(StopArgs),
    /// Changes the limits of containers; prints each id
    Update(Update),
    /// Removes containers; prints each id
    Rm(Rm),
    /// Stops pods with their containers; prints each id
    Stopp(SomePods),
    /// Removes pods with their containers; prints each id
    Rmp(Rmp),
    /// Pulls an image and prints the reference it is kept under
    Pull(Pull),
    /// Removes images with all their names
    Rmi(Rmi),
    /// Writes a running container's state into an archive
    Checkpoint(Checkpoint),

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
    /// Shows how the daemon manages cgroups
    RuntimeConfig,
    /// Tells the daemon the node's pod subnets
    UpdateRuntimeConfig {
        /// One, or one of each family with a comma between them
        #[arg(long, value_name = "CIDR")]
        pod_cidr: String,
    },
    /// Shows how much room images and containers take
    Imagefsinfo,
    /// Shows the metrics of pods, as kubelet asks for them
    Metricsp,
    /// Shows which metrics there are
    Metricdescs,
    /// Prints completions for a shell, to be sourced or put in its folder of completions
    ///
    /// They know the verbs and options, and ask the daemon for the ids and names of what there is.
    #[command(visible_alias = "completion")]
    Completions { shell: Shell },
    /// What a shell offers for the last of these words; for the scripts of `completions`
    #[command(hide = true, name = "__complete")]
    Complete {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Prints the manual page
    Man,
}

/// Those that completions are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
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
    }

    #[test]
    fn crictl_s_lines_are_understood() {
        for line in [
            "ocic -r unix:///run/ocid/ocid.sock -t 10s ps -a",
            "ocic --runtime-endpoint unix:///run/ocid/ocid.sock ps -q",
            "ocic -i unix:///run/x.sock images --digests redis",
            "ocic ps --state Running --pod 0123 --name redis --image redis --label a=b -o json",
            "ocic ps -a -n 3",
            "ocic pods --state Ready --namespace default --latest -q",
            "ocic inspect 0123 4567 -o table",
            "ocic logs -f --tail 10 --since 5m -t 0123",
            "ocic exec --sync --timeout 5 0123 ls -l",
            "ocic runp pod.json --runtime crun",
            "ocic create 0123 container.json pod.json",
            "ocic run container.json pod.json",
            "ocic run -e A=b --publish 8080:80 nginx:1 nginx -g off",
            "ocic stop -t 5 0123",
            "ocic stop --all",
            "ocic rm -fa",
            "ocic stopp 0123",
            "ocic rmp -f 0123",
            "ocic rmi --prune",
            "ocic pull --creds a:b -a c=d redis",
            "ocic stats -p 0123 -w --interval 2",
            "ocic statsp --label a=b",
            "ocic update --cpu-share 512 --memory 64Mi 0123",
            "ocic update --cpu-quota -1 0123",
            "ocic checkpoint --export=/tmp/c.tar 0123",
        ] {
            Ocic::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "ocic",
            "ocic pod create",
            "ocic pod stop",
            "ocic pod status --id a b",
            "ocic ctr execsync --id a",
            "ocic pod list --label x",
            "ocic exec 0123",
            "ocic exec --sync -i 0123 ls",
            "ocic exec --timeout 5 0123 ls",
            "ocic exec --tls-cert a 0123 ls",
            "ocic port-forward 0123",
            "ocic port-forward 0123 80:0",
            "ocic --socket tcp://127.0.0.1:1 info",
            "ocic ps --latest --last 3",
            "ocic ps --state ready",
            "ocic pods list",
            "ocic rm",
            "ocic rm --all 0123",
            "ocic rmi",
            "ocic rmi --prune --all",
            "ocic rmi --prune redis",
            "ocic logs",
            "ocic logs --since yesterday 0123",
            "ocic logs --tail -1 0123",
            "ocic pull --creds a:b --auth c redis",
            "ocic stats a --id b",
            "ocic stats --interval 0",
            "ocic update 0123",
            "ocic update --memory much 0123",
            "ocic run --publish 80 redis",
            "ocic run --host-network --publish 80:80 redis",
            "ocic checkpoint 0123",
            "ocic completion tcsh",
            "ocic --limit 5 --timeout 5 info",
        ] {
            let error = Ocic::try_parse_from(line.split(' ')).err();
            assert_eq!(error.map(|e| e.exit_code()), Some(2), "{line}");
        }
    }

    #[test]
    fn a_refused_pull_does_not_show_what_nobody_may_see() {
        let line = "ocic pull --creds me:hush --auth hush redis";
        let error = Ocic::try_parse_from(line.split(' ')).unwrap_err();
        assert!(!error.to_string().contains("hush"), "{error}");
    }
}
