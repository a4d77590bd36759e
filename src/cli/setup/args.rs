//! The command line of `crio-setup`, as data: the doc comments are the help.

use std::path::PathBuf;

use clap::builder::{BoolishValueParser, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cli::output::Format;
use crate::setup::settings::DEFAULT_FILE;
use crate::setup::{Component, Layer, Profile, Source};

/// Makes a container node of this machine, and keeps it one
///
/// runc, CNI plugins, a pod network, the CRI daemon ocid with its client ocic, and docker: installed,
/// configured, started, and proved by a pod. What was there before comes back with `uninstall`.
#[derive(Debug, Parser)]
#[command(
    name = "crio-setup",
    version,
    propagate_version = true,
    disable_help_subcommand = true
)]
pub struct CrioSetup {
    #[command(subcommand)]
    pub verb: Verb,

    /// The form of what is printed to stdout
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        env = "CRIO_SETUP_OUTPUT"
    )]
    #[arg(value_enum, default_value_t)]
    pub output: Format,

    /// Say on stderr which commands are run
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make this machine a node; do nothing where nothing is to be done
    ///
    /// Exit code 0: done. 1: failed, and undone. 2: refused before anything was touched. 3: failed,
    /// and not everything could be undone.
    Install {
        #[command(flatten)]
        wanted: Wanted,
        /// Only say what would be done, as `plan` does
        #[arg(long)]
        dry_run: bool,
    },
    /// Say what `install` would do, and change nothing
    Plan {
        #[command(flatten)]
        wanted: Wanted,
        /// Exit with code 4 when something is to be done
        #[arg(long)]
        detailed_exitcode: bool,
    },
    /// Say what is installed, whether it is as it was left, and how it is
    ///
    /// Exit code 0: healthy. 1: not healthy, or not installed. 2: its receipt cannot be read.
    Status {
        /// Read every file instead of trusting size, inode and times
        #[arg(long)]
        deep: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Run a pod, from an image made of this program, on a network of its own, and remove it
    Selftest,
    /// Put back what was there before `install`
    Uninstall {
        /// Stop and remove pods that run
        #[arg(long)]
        force: bool,
        /// Also remove files that were changed since they were installed
        #[arg(long)]
        purge: bool,
        /// Seconds to wait for dpkg's lock
        #[arg(long, value_name = "SECONDS", env = "CRIO_SETUP_LOCK_TIMEOUT")]
        lock_timeout: Option<u64>,
        #[command(flatten)]
        place: Place,
    },
    /// Print the completions for a shell
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// What the node is to be.
#[derive(Debug, Args)]
pub struct Wanted {
    /// Which components the node has
    #[arg(long, value_enum, env = "CRIO_SETUP_PROFILE")]
    profile: Option<ProfileArg>,

    /// Components beyond the profile's
    #[arg(long, value_name = "COMPONENT", value_delimiter = ',', value_parser = component())]
    #[arg(env = "CRIO_SETUP_WITH")]
    with: Option<Vec<Component>>,

    /// Components of the profile to leave out
    #[arg(long, value_name = "COMPONENT", value_delimiter = ',', value_parser = component())]
    #[arg(env = "CRIO_SETUP_WITHOUT")]
    without: Option<Vec<Component>>,

    /// Where programs come from
    #[arg(long, value_enum, env = "CRIO_SETUP_SOURCE")]
    source: Option<SourceArg>,

    /// Where programs go [default: /usr/local]
    #[arg(long, value_name = "DIR", env = "CRIO_SETUP_PREFIX")]
    prefix: Option<PathBuf>,

    /// The pods' network [default: 10.88.0.0/16]
    #[arg(long, value_name = "CIDR", env = "CRIO_SETUP_SUBNET")]
    subnet: Option<String>,

    /// Seconds to wait for dpkg's lock [default: 120]
    #[arg(long, value_name = "SECONDS", env = "CRIO_SETUP_LOCK_TIMEOUT")]
    lock_timeout: Option<u64>,

    /// Findings that are not to stop the run, by their ids
    #[arg(
        long,
        value_name = "FINDING",
        value_delimiter = ',',
        env = "CRIO_SETUP_IGNORE"
    )]
    ignore: Option<Vec<String>>,

    /// Replace files that are not ours; `uninstall` puts them back
    #[arg(long, env = "CRIO_SETUP_REPLACE_FOREIGN", value_parser = BoolishValueParser::new())]
    replace_foreign: bool,

    /// Do not run a pod after a change
    #[arg(long, env = "CRIO_SETUP_NO_SELFTEST", value_parser = BoolishValueParser::new())]
    no_selftest: bool,

    /// Settings in TOML, under the long names of these options [default: /etc/crio-setup.toml]
    #[arg(long, value_name = "FILE", env = "CRIO_SETUP_CONFIG")]
    pub config: Option<PathBuf>,

    /// Upstream releases in place of the built-in ones; their sums are checked all the same
    #[arg(long, value_name = "FILE", env = "CRIO_SETUP_CATALOG", hide = true)]
    catalog: Option<PathBuf>,

    #[command(flatten)]
    pub place: Place,
}

/// Which system is meant.
#[derive(Debug, Args)]
pub struct Place {
    /// The tree of an image to prepare, in which nothing is started, instead of this system
    #[arg(long, value_name = "DIR", env = "CRIO_SETUP_ROOT")]
    pub root: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProfileArg {
    /// All components
    Tutorial,
    /// No docker and no network configuration: a cluster brings its own
    Kubernetes,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SourceArg {
    /// What is installed and fit, else upstream's release, else the distribution's package
    Auto,
    /// Upstream's release, pinned by its sum
    Upstream,
    /// The distribution's signed package
    Distro,
}

fn component() -> impl TypedValueParser<Value = Component> {
    PossibleValuesParser::new(Component::ALL.map(Component::name))
        .try_map(|name| name.parse::<Component>())
}

impl Wanted {
    /// The layer of the flags and the environment, and the settings file below it.
    pub fn layers(self) -> (Layer, PathBuf, bool) {
        let flag = |set: bool| set.then_some(true);
        let named = self.config.is_some();
        let file = self.config.unwrap_or_else(|| DEFAULT_FILE.into());
        let layer = Layer {
            profile: self.profile.map(|profile| match profile {
                ProfileArg::Tutorial => Profile::Tutorial,
                ProfileArg::Kubernetes => Profile::Kubernetes,
            }),
            with: self.with,
            without: self.without,
            source: self.source.map(|source| match source {
                SourceArg::Auto => Source::Auto,
                SourceArg::Upstream => Source::Upstream,
                SourceArg::Distro => Source::Distro,
            }),
            prefix: self.prefix,
            subnet: self.subnet,
            lock_timeout: self.lock_timeout,
            ignore: self.ignore,
            replace_foreign: flag(self.replace_foreign),
            selftest: self.no_selftest.then_some(false),
            root: self.place.root,
            catalog: self.catalog,
        };
        (layer, file, named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        CrioSetup::command().debug_assert();
    }

    #[test]
    fn lists_and_unknown_components() {
        let parse = |args: &[&str]| CrioSetup::try_parse_from(args);
        let cli = parse(&["crio-setup", "plan", "--without", "docker,runc"]).unwrap();
        let Verb::Plan { wanted, .. } = cli.verb else {
            panic!("not a plan");
        };
        let (layer, _, named) = wanted.layers();
        assert_eq!(
            layer.without,
            Some(vec![Component::Docker, Component::Runc])
        );
        assert!(!named);
        let e = parse(&["crio-setup", "install", "--with", "podman"]).unwrap_err();
        assert_eq!(e.exit_code(), 2);
        assert!(e.to_string().contains("cni-plugins"));
    }
}
