//! What a shell offers while a command line is typed. The shells' scripts know nothing: they hand over the words, and
//! print what comes, one candidate a line with what it is about after a tab; or `:files` for the shell's own.
//!
//! What a value may be is told by the name that the help gives it. The daemon is asked for what there is, for a
//! short time and without a word when it does not answer.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, Command, CommandFactory};

use crate::ocic::client::Client;
use crate::ocic::endpoint::Endpoints;

use super::args::values::socket;
use super::args::{Ocic, Shell};
use super::resolve::{Kind, Known, known};
use super::{Failure, Session, show};

/// Who pressed a key does not wait longer.
const LIMIT: Duration = Duration::from_secs(1);

pub fn script(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => include_str!("complete/ocic.bash"),
        Shell::Zsh => include_str!("complete/ocic.zsh"),
        Shell::Fish => include_str!("complete/ocic.fish"),
    }
}

/// Prints what `words` may go on with; the last one is what is being typed, and may be empty.
pub async fn run(session: &Session<'_>, words: &[String]) -> Result<(), Failure> {
    let mut command = Ocic::command();
    command.build();
    let asked = ask(&command, words);
    let offers = match asked.offer {
        Offer::Files => return session.line(":files"),
        Offer::Words(words) => words,
        Offer::Objects(kind) => {
            let found = tokio::time::timeout(LIMIT, objects(session, &asked.places, kind)).await;
            // Nobody has asked anything yet whom an error would help.
            found.unwrap_or_default()
        }
    };
    let typed = words.last().map_or("", String::as_str);
    let typed = &typed[asked.skip.min(typed.len())..];
    let prefix = words
        .last()
        .map_or("", |word| &word[..asked.skip.min(word.len())]);
    for (word, about) in offers {
        if word.starts_with(typed) {
            session.line(&format!("{prefix}{word}\t{about}"))?;
        }
    }
    Ok(())
}

/// Where the command line says that the daemon is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    socket: Option<PathBuf>,
    images: Option<PathBuf>,
    config: Option<PathBuf>,
}

#[derive(Debug, PartialEq, Eq)]
enum Offer {
    Words(Vec<(String, String)>),
    Objects(Kind),
    Files,
}

#[derive(Debug, PartialEq, Eq)]
struct Asked {
    offer: Offer,
    places: Places,
    /// So much of the last word, `--name=`, is no part of the value.
    skip: usize,
}

fn ask(root: &Command, words: &[String]) -> Asked {
    let (typed, before) = words
        .split_last()
        .map_or(("", [].as_slice()), |(last, rest)| (last.as_str(), rest));
    let mut places = Places::default();
    let (mut command, mut positional, mut options) = (root, 0, true);
    let mut waiting: Option<&Arg> = None;
    for word in before {
        if let Some(option) = waiting.take() {
            places.note(option, word);
        } else if options && word == "--" {
            options = false;
        } else if let Some(long) = word.strip_prefix("--").filter(|_| options) {
            let (name, value) = split(long);
            match (long_option(command, name), value) {
                (Some(option), Some(value)) => places.note(option, value),
                (Some(option), None) if takes(option) => waiting = Some(option),
                _ => {}
            }
        } else if options && word.len() > 1 && word.starts_with('-') {
            waiting = shorts(command, &word[1..], &mut places);
        } else if let Some(sub) = command
            .find_subcommand(word)
            .filter(|_| options && positional == 0)
        {
            command = sub;
        } else {
            // The words of a command that runs elsewhere are none of ours.
            options &= !value_of(command, positional).is_some_and(Arg::is_trailing_var_arg_set);
            positional += 1;
        }
    }
    let mut skip = 0;
    let offer = if let Some(option) = waiting {
        values(option)
    } else if let Some(long) = typed.strip_prefix("--").filter(|_| options) {
        match split(long) {
            (name, Some(_)) => {
                skip = "--=".len() + name.len();
                long_option(command, name).map_or(Offer::Words(Vec::new()), values)
            }
            (_, None) => names(command),
        }
    } else if options && typed.starts_with('-') {
        names(command)
    } else {
        let subs = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        let subs: Vec<_> = subs
            .filter(|_| options && positional == 0)
            .map(|sub| (sub.get_name().to_owned(), line(sub.get_about())))
            .collect();
        match value_of(command, positional) {
            Some(argument) if subs.is_empty() => values(argument),
            _ => Offer::Words(subs),
        }
    };
    Asked {
        offer,
        places,
        skip,
    }
}

impl Places {
    fn note(&mut self, option: &Arg, value: &str) {
        match option.get_id().as_str() {
            "socket" => self.socket = socket(value).ok(),
            "image_endpoint" => self.images = socket(value).ok(),
            // `pod create --config` is another.
            "config" if option.get_short() == Some('c') => self.config = Some(value.into()),
            _ => {}
        }
    }
}

fn split(long: &str) -> (&str, Option<&str>) {
    long.split_once('=')
        .map_or((long, None), |(name, value)| (name, Some(value)))
}

fn takes(option: &Arg) -> bool {
    option.get_action().takes_values()
}

fn long_option<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    command.get_arguments().find(|arg| {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        arg.get_long() == Some(name) || aliases.contains(&name)
    })
}

/// The option of a word of short ones that waits for its value in the next word.
fn shorts<'c>(command: &'c Command, letters: &str, places: &mut Places) -> Option<&'c Arg> {
    for (at, letter) in letters.char_indices() {
        let mut options = command.get_arguments();
        let option = options.find(|arg| arg.get_short() == Some(letter))?;
        if takes(option) {
            let value = &letters[at + letter.len_utf8()..];
            if value.is_empty() {
                return Some(option);
            }
            places.note(option, value.trim_start_matches('='));
            return None;
        }
    }
    None
}

/// The argument that the nth word without a name is; the last may take several.
fn value_of(command: &Command, nth: usize) -> Option<&Arg> {
    let arguments: Vec<&Arg> = command.get_positionals().collect();
    let several = |arg: &&&Arg| arg.get_num_args().is_some_and(|n| n.max_values() > 1);
    let last = arguments.last().filter(several);
    arguments.get(nth).or(last).copied()
}

/// The options of a command.
fn names(command: &Command) -> Offer {
    let options = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let named = options.filter_map(|arg| {
        let name = arg.get_long()?;
        Some((format!("--{name}"), line(arg.get_help())))
    });
    Offer::Words(named.collect())
}

/// What an argument may be.
fn values(argument: &Arg) -> Offer {
    let possible = argument.get_possible_values();
    let possible: Vec<_> = possible
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| (value.get_name().to_owned(), line(value.get_help())))
        .collect();
    if !possible.is_empty() {
        return Offer::Words(possible);
    }
    let name = argument.get_value_names().and_then(|names| names.first());
    match name.map_or("", |name| name.as_str()) {
        "POD" => Offer::Objects(Kind::Pod),
        "CONTAINER" => Offer::Objects(Kind::Container),
        "IMAGE" | "IMAGE|FILE" => Offer::Objects(Kind::Image),
        "FILE" | "PATH" | "CONFIG" | "POD-CONFIG" | "COMMAND|FILE" | "COMMAND" => Offer::Files,
        _ => Offer::Words(Vec::new()),
    }
}

fn line(help: Option<&clap::builder::StyledStr>) -> String {
    let text = help.map(ToString::to_string).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

/// The ids of what there is, shortened as in tables where that still means one, and its names.
async fn objects(session: &Session<'_>, places: &Places, kind: Kind) -> Vec<(String, String)> {
    let cli = session.cli;
    let found = Endpoints::find(
        places.socket.as_deref().or(cli.socket.as_deref()),
        places.images.as_deref().or(cli.image_endpoint.as_deref()),
        session.endpoint,
        places.config.as_deref().or(cli.config.as_deref()),
    );
    let Ok(at) = found else { return Vec::new() };
    let Ok(client) = Client::connect_both(&at.runtime, &at.images, LIMIT).await else {
        return Vec::new();
    };
    offers(kind, &known(&client, kind).await.unwrap_or_default())
}

fn offers(kind: Kind, known: &[Known]) -> Vec<(String, String)> {
    let mut offers = Vec::new();
    for one in known {
        let short = show::short(&one.id);
        let same = known.iter().filter(|other| other.id.starts_with(&short));
        let id = if kind == Kind::Image || same.count() > 1 {
            one.id.clone()
        } else {
            short
        };
        // An image has better names than its id.
        if kind != Kind::Image || one.names.is_empty() {
            offers.push((id, one.about.clone()));
        }
        for name in &one.names {
            let same = known.iter().filter(|other| other.names.contains(name));
            // A name with white space would be several words.
            if same.count() == 1 && !name.contains(char::is_whitespace) {
                offers.push((name.clone(), one.about.clone()));
            }
        }
    }
    let clean = |c: char| !c.is_control();
    for (word, about) in &mut offers {
        about.retain(clean);
        word.retain(clean);
    }
    offers.sort();
    offers.dedup();
    offers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Asked {
        let mut command = Ocic::command();
        command.build();
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        ask(&command, &words)
    }

    fn words(line: &str) -> Vec<String> {
        match asked(line).offer {
            Offer::Words(words) => words.into_iter().map(|(word, _)| word).collect(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn verbs_and_options_are_offered() {
        let verbs = words("");
        assert!(verbs.contains(&"ps".to_owned()) && verbs.contains(&"pod".to_owned()));
        assert!(!verbs.contains(&"__complete".to_owned()), "{verbs:?}");
        assert!(words("pod ").contains(&"create".to_owned()));
        assert!(words("--limit 5s pod ").contains(&"create".to_owned()));
        let options = words("ps -");
        for option in ["--all", "--state", "--output", "--socket"] {
            assert!(options.contains(&option.to_owned()), "{options:?}");
        }
        assert_eq!(words("ps --output "), ["table", "json"]);
        assert_eq!(words("ps -ao "), ["table", "json"]);
        assert_eq!(words("completion "), ["bash", "zsh", "fish"]);
        assert_eq!(words("ps --output=j"), ["table", "json"]);
        assert_eq!(asked("ps --output=j").skip, "--output=".len());
        assert_eq!(words("ps --limit "), Vec::<String>::new());
    }

    #[test]
    fn values_are_what_the_help_calls_them() {
        let (pod, ctr, image) = (
            Offer::Objects(Kind::Pod),
            Offer::Objects(Kind::Container),
            Offer::Objects(Kind::Image),
        );
        for (line, offer) in [
            ("stopp ", &pod),
            ("stopp abc d", &pod),
            ("pod stop --id ", &pod),
            ("ps --pod ", &pod),
            ("port-forward ", &pod),
            ("create ", &pod),
            ("exec -it ", &ctr),
            ("logs -f --tail 3 ", &ctr),
            ("ctr rm abc ", &ctr),
            ("inspect --id=", &ctr),
            ("rmi ", &image),
            ("run --name x ", &image),
            ("ctr create --pod x --image ", &image),
            ("pod create --config ", &Offer::Files),
            ("create abc ", &Offer::Files),
            ("exec abc ls ", &Offer::Files),
            ("exec abc ls -", &Offer::Files),
            ("exec abc -- ", &Offer::Files),
        ] {
            assert_eq!(asked(line).offer, *offer, "{line}");
        }
    }

    #[test]
    fn the_line_says_where_the_daemon_is() {
        let places =
            asked("-r unix:///a.sock --image-endpoint=/b.sock pod create --config c").places;
        assert_eq!(places.socket, Some("/a.sock".into()));
        assert_eq!(places.images, Some("/b.sock".into()));
        assert_eq!(places.config, None);
        let places = asked("-c/x.yaml ps --connect /y.sock ").places;
        assert_eq!(places.config, Some("/x.yaml".into()));
        assert_eq!(places.socket, Some("/y.sock".into()));
    }

    #[test]
    fn a_name_that_is_not_one_thing_s_is_not_offered() {
        let one = |id: &str, names: &[&str]| Known {
            id: id.repeat(32),
            names: names.iter().map(|&n| n.to_owned()).collect(),
            about: "x".to_owned(),
        };
        let known = [one("ab", &["redis"]), one("cd", &["redis", "web"])];
        let words = |kind| -> Vec<String> {
            let offers = offers(kind, &known).into_iter();
            offers.map(|(word, _)| word).collect()
        };
        let expected = ["ababababababa", "cdcdcdcdcdcdc", "web"];
        assert_eq!(words(Kind::Container), expected);
        assert_eq!(words(Kind::Image), ["web"]);
    }
}
