//! Objects that are named on the command line, by `--id ID` or just `ID`.

use clap::Args;

/// The three ways to name things of one kind: one, several, or several or all. The value's name tells the
/// reader of the help, and the shell's completions, what is meant.
macro_rules! named {
    ($one:ident, $many:ident, $all:ident, $name:literal, $which:literal, $every:literal) => {
        named!($one, $many, $name, $which);

        #[derive(Debug, Args)]
        #[group(required = true, multiple = true)]
        pub struct $all {
            /// The same as without `--id`
            #[arg(long = "id", value_name = $name)]
            named: Vec<String>,
            #[doc = $which]
            #[arg(value_name = $name)]
            plain: Vec<String>,
            #[doc = $every]
            #[arg(long, short, conflicts_with_all = ["named", "plain"])]
            pub all: bool,
        }

        impl $all {
            pub fn get(&self) -> Vec<String> {
                self.named.iter().chain(&self.plain).cloned().collect()
            }
        }
    };
    ($one:ident, $many:ident, $name:literal, $which:literal) => {
        #[derive(Debug, Args)]
        #[group(required = true, multiple = false)]
        pub struct $one {
            /// The same as without `--id`
            #[arg(long = "id", value_name = $name)]
            named: Option<String>,
            #[doc = $which]
            #[arg(value_name = $name)]
            plain: Option<String>,
        }

        impl $one {
            pub fn get(&self) -> &str {
                let given = self.named.as_ref().or(self.plain.as_ref());
                given.map_or("", String::as_str)
            }
        }

        #[derive(Debug, Args)]
        #[group(required = true, multiple = true)]
        pub struct $many {
            /// The same as without `--id`
            #[arg(long = "id", value_name = $name)]
            named: Vec<String>,
            #[doc = $which]
            #[arg(value_name = $name)]
            plain: Vec<String>,
        }

        impl $many {
            pub fn get(&self) -> Vec<String> {
                self.named.iter().chain(&self.plain).cloned().collect()
            }
        }
    };
}

named!(
    OnePod,
    ManyPods,
    SomePods,
    "POD",
    "By id, the start of it that no other has, or name",
    "All pods"
);
named!(
    OneContainer,
    ManyContainers,
    SomeContainers,
    "CONTAINER",
    "By id, the start of it that no other has, or name",
    "All containers"
);
named!(OneImage, ManyImages, "IMAGE", "By name, digest or id");
