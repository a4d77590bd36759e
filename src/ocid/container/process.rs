//! What a container executes: command line, environment, working folder.

use oci_spec::image::Config;

use super::config::ContainerConfig;
use super::error::SpecError;

/// Where programs are looked for when neither image nor config says.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command line: `command` replaces the entrypoint and, with it, the image's command; `args`
/// replaces the image's command.
pub fn args(config: &ContainerConfig, image: Option<&Config>) -> Result<Vec<String>, SpecError> {
    let of_image = |part: fn(&Config) -> &Option<Vec<String>>| {
        image.and_then(|i| part(i).clone()).unwrap_or_default()
    };
    let mut line = config.command.clone();
    if line.is_empty() {
        line = of_image(Config::entrypoint);
        if config.args.is_empty() {
            line.extend(of_image(Config::cmd));
        }
    }
    line.extend(config.args.iter().cloned());
    match line.first() {
        Some(program) if !program.is_empty() => Ok(line),
        _ => Err(SpecError::NoCommand),
    }
}

/// The environment. Later ones win, in the place of the first: our own basics, the daemon's
/// defaults (`NAME=value`), the image, the config.
pub fn env(
    config: &ContainerConfig,
    image: Option<&Config>,
    defaults: &[String],
    hostname: &str,
) -> Vec<String> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| match env.iter_mut().find(|(n, _)| n == name) {
        Some(known) => known.1 = value.to_owned(),
        None => env.push((name.to_owned(), value.to_owned())),
    };
    set("PATH", PATH);
    set("TERM", "xterm");
    set("HOSTNAME", hostname);
    let of_image = image.and_then(|i| i.env().as_deref()).unwrap_or_default();
    for line in defaults.iter().chain(of_image) {
        // Docker takes a name without `=` for one that is not set.
        if let Some((name, value)) = line.split_once('=')
            && !name.is_empty()
            && !line.contains('\0')
        {
            set(name, value);
        }
    }
    for (name, value) in &config.envs {
        set(name, value);
    }
    env.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// The folder that the environment calls home.
pub fn home(env: &[String]) -> Option<&str> {
    let mut homes = env.iter().filter_map(|line| line.strip_prefix("HOME="));
    homes.next_back().filter(|home| !home.is_empty())
}

/// The working folder: the config's, else the image's, else `/`; always absolute.
pub fn cwd(config: &ContainerConfig, image: Option<&Config>) -> String {
    let of_image = image.and_then(|i| i.working_dir().as_deref()).unwrap_or("");
    let wanted = match config.working_dir.as_str() {
        "" => of_image,
        own => own,
    };
    if wanted.starts_with('/') {
        wanted.to_owned()
    } else {
        format!("/{wanted}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::image::ConfigBuilder;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn image(entrypoint: &str, cmd: &str) -> Config {
        ConfigBuilder::default()
            .entrypoint(words(entrypoint))
            .cmd(words(cmd))
            .build()
            .unwrap()
    }

    fn config(command: &str, args: &str) -> ContainerConfig {
        ContainerConfig {
            command: words(command),
            args: words(args),
            ..Default::default()
        }
    }

    #[test]
    fn command_and_args_against_entrypoint_and_cmd() {
        // From the table in the Kubernetes documentation ("Define a Command and Arguments").
        for (command, arguments, line) in [
            ("", "", "ep1 foo bar"),
            ("c1", "", "c1"),
            ("", "zoo boo", "ep1 zoo boo"),
            ("c1 c2", "zoo boo", "c1 c2 zoo boo"),
        ] {
            let image = image("ep1", "foo bar");
            let got = args(&config(command, arguments), Some(&image)).unwrap();
            assert_eq!(got, words(line), "{command:?} {arguments:?}");
        }
        assert_eq!(
            args(&config("", ""), Some(&image("", "sh"))).unwrap(),
            ["sh"]
        );
        let none = args(&config("", ""), Some(&image("", ""))).unwrap_err();
        assert!(matches!(none, SpecError::NoCommand));
        assert!(args(&config("", ""), None).is_err());
        let mut empty = config("", "");
        empty.command = vec![String::new()];
        assert!(args(&empty, None).is_err());
    }

    #[test]
    fn later_variables_win_in_place() {
        let image = ConfigBuilder::default()
            .env(vec![
                "PATH=/image".to_owned(),
                "A=image".to_owned(),
                "UNSET".to_owned(),
                "B=x=y".to_owned(),
            ])
            .build()
            .unwrap();
        let config = ContainerConfig {
            envs: vec![("A".into(), "config".into()), ("C".into(), String::new())],
            ..Default::default()
        };
        let got = env(&config, Some(&image), &["D=daemon".into()], "pod");
        assert_eq!(
            got,
            [
                "PATH=/image",
                "TERM=xterm",
                "HOSTNAME=pod",
                "D=daemon",
                "A=config",
                "B=x=y",
                "C="
            ]
        );
    }

    #[test]
    fn working_folders() {
        let image = ConfigBuilder::default()
            .working_dir("data")
            .build()
            .unwrap();
        let mut config = ContainerConfig::default();
        assert_eq!(cwd(&config, None), "/");
        assert_eq!(cwd(&config, Some(&image)), "/data");
        config.working_dir = "/own".into();
        assert_eq!(cwd(&config, Some(&image)), "/own");
    }
}
