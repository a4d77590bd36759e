//! The words about images.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::named::{ManyImages, OneImage};
use super::values::{Secret, label};

#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// Pulls an image and prints the reference it is kept under
    Pull(Pull),
    /// Lists images
    #[command(visible_alias = "ls")]
    List(ImageList),
    /// Shows an image
    Status {
        #[command(flatten)]
        image: OneImage,
        /// Also what the daemon knows beyond the CRI
        #[arg(long, short)]
        verbose: bool,
    },
    /// Removes images with all their names
    #[command(visible_alias = "rm")]
    Remove(ManyImages),
}

/// `ocic pull`
#[derive(Debug, Args)]
pub struct Pull {
    /// E.g. docker.io/library/redis:7-alpine
    #[arg(value_name = "REFERENCE")]
    pub reference: String,
    /// For the registry: `USER:PASSWORD`, or `USER`, and the password is read from stdin
    #[arg(
        long,
        value_name = "USER[:PASSWORD]",
        env = "CRICTL_CREDS",
        hide_env_values = true,
        conflicts_with = "auth"
    )]
    pub creds: Option<Secret>,
    /// For the registry: the base64 of `USER:PASSWORD`, as `auth.json` has it
    #[arg(
        long,
        value_name = "BASE64",
        env = "CRICTL_AUTH",
        hide_env_values = true
    )]
    pub auth: Option<Secret>,
    /// Tell this to the daemon with the image's name; may be repeated
    #[arg(long = "annotation", short, value_name = "KEY=VALUE", value_parser = label)]
    pub annotations: Vec<(String, String)>,
    /// The config of the pod that it is for (CRI JSON)
    #[arg(long, value_name = "FILE")]
    pub pod_config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ImageList {
    /// Only this image
    #[arg(value_name = "IMAGE")]
    pub reference: Option<String>,
    /// Only ids
    #[arg(long, short)]
    pub quiet: bool,
    /// With their digests
    #[arg(long)]
    pub digests: bool,
}

/// `ocic rmi`
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Rmi {
    /// By name, digest or id
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// All images
    #[arg(long, short, conflicts_with = "images")]
    pub all: bool,
    /// Those that no container uses and that are not pinned
    #[arg(long, conflicts_with_all = ["images", "all"])]
    pub prune: bool,
}
