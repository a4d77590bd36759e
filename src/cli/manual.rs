//! The manual page of a command line, in one file: `clap_mangen`'s own page of a command with
//! subcommands only points at pages of theirs.

use std::io;

use clap::Command;
use clap_mangen::Man;

/// The page, in roff: the command's own sections, then one for each thing it can be told to do, with
/// the options that are not the same everywhere.
pub fn page(mut command: Command) -> io::Result<Vec<u8>> {
    command.build();
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    page.extend_from_slice(b".SH COMMANDS\n");
    let name = command.get_name().to_owned();
    leaves(&name, &command, &mut page);
    // clap_mangen takes it for granted.
    if command.get_version().is_some() {
        man.render_version_section(&mut page)?;
    }
    Ok(page)
}

fn leaves(path: &str, command: &Command, page: &mut Vec<u8>) {
    for sub in command.get_subcommands() {
        if sub.get_name() == "help" || sub.is_hide_set() {
            continue;
        }
        let path = format!("{path} {}", sub.get_name());
        if sub.has_subcommands() {
            leaves(&path, sub, page);
            continue;
        }
        let shown = sub.clone().mut_args(|arg| {
            let everywhere = arg.is_global_set() || arg.get_id() == "help";
            if everywhere { arg.hide(true) } else { arg }
        });
        let help = shown.clone().render_long_help().to_string();
        let text = [".SS ", &escaped(&path), "\n.nf\n"].concat();
        page.extend_from_slice(text.as_bytes());
        for line in help.trim_end().lines() {
            page.extend_from_slice(escaped(line.trim_end()).as_bytes());
            page.push(b'\n');
        }
        page.extend_from_slice(b".fi\n");
    }
}

/// Text that roff takes as text: no escapes, no requests, and hyphens that can be copied.
fn escaped(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    #[test]
    fn every_command_has_its_section_without_the_common_options() {
        let common = Arg::new("socket").long("socket").global(true);
        let stop = Command::new("stop")
            .about(".starts like a request")
            .arg(Arg::new("grace").long("grace").help("a\\b"));
        let hidden = Command::new("secret").hide(true);
        let pod = Command::new("pod").subcommand(stop).subcommand(hidden);
        let page = page(Command::new("x").arg(common).subcommand(pod)).unwrap();
        let page = String::from_utf8(page).unwrap();
        let (head, commands) = page.split_once(".SH COMMANDS\n").unwrap();
        assert!(
            head.contains(".TH x 1") && head.contains("socket"),
            "{head}"
        );
        assert!(commands.contains(".SS x pod stop\n"), "{commands}");
        assert!(commands.contains("\\-\\-grace"), "{commands}");
        assert!(commands.contains("a\\eb"), "{commands}");
        assert!(commands.contains("\n\\&.starts"), "{commands}");
        assert!(!commands.contains("\\-\\-socket"), "{commands}");
        assert!(!commands.contains("secret"), "{commands}");
    }
}
