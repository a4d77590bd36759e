//! What the command lines print: data (tables, JSON, ids) on stdout, everything said about it on
//! stderr, readable without colour.
//!
//! Printing never panics: a reader that has gone (`ocic pod list | head -1`) is an error that
//! [`is_gone`] recognises, and stderr that cannot be written to is nobody's to tell.

mod table;

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

pub use table::Table;

/// The form of the data on stdout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: columns, or lines
    #[default]
    Table,
    /// For programs: one JSON document
    Json,
}

/// Whether a stream takes colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    colour: bool,
}

/// The few colours we use, by meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Error,
    Warning,
    Hint,
    Good,
    Strong,
}

impl Style {
    pub const PLAIN: Self = Self { colour: false };

    /// Colour only on a terminal that can show it, and not against `NO_COLOR` (<https://no-color.org>:
    /// set and not empty).
    pub fn detect(terminal: bool, no_color: Option<&str>, term: Option<&str>) -> Self {
        let refused = no_color.is_some_and(|v| !v.is_empty()) || term == Some("dumb");
        Self {
            colour: terminal && !refused,
        }
    }

    pub fn stdout() -> Self {
        Self::of(io::stdout().is_terminal())
    }

    pub fn stderr() -> Self {
        Self::of(io::stderr().is_terminal())
    }

    fn of(terminal: bool) -> Self {
        let (no_color, term) = (std::env::var("NO_COLOR").ok(), std::env::var("TERM").ok());
        Self::detect(terminal, no_color.as_deref(), term.as_deref())
    }

    /// `text` in the colour that means `tone`, or as it is.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Error => "1;31",
            Tone::Warning => "1;33",
            Tone::Hint => "1;36",
            Tone::Good => "32",
            Tone::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Shows control characters instead of sending them to the terminal: names, labels and messages come
/// from whoever made the pod.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// A command's two streams. Data goes to stdout in the chosen [`Format`], the rest to stderr.
pub struct Output {
    pub format: Format,
    /// How wide the terminal on stdout is.
    columns: Option<usize>,
    style: Style,
    stdout: Mutex<Box<dyn Write + Send>>,
    stderr: Mutex<Box<dyn Write + Send>>,
}

impl Output {
    /// The process's own stdout and stderr.
    pub fn new(format: Format) -> Self {
        Self::to(format, Style::stderr(), io::stdout(), io::stderr())
    }

    /// Any two streams; `style` is the second one's.
    pub fn to(
        format: Format,
        style: Style,
        stdout: impl Write + Send + 'static,
        stderr: impl Write + Send + 'static,
    ) -> Self {
        Self {
            format,
            columns: None,
            style,
            stdout: Mutex::new(Box::new(stdout)),
            stderr: Mutex::new(Box::new(stderr)),
        }
    }

    /// Tables fit the terminal on stdout, where that is one.
    pub fn fitting_terminal(mut self) -> Self {
        let size = crate::host::tty::size(io::stdout()).ok();
        let columns = size.map(|(columns, _)| usize::from(columns));
        self.columns = columns.filter(|columns| *columns > 0);
        self
    }

    /// The style of stderr.
    pub fn style(&self) -> Style {
        self.style
    }

    /// `value` as JSON or as the table, as the user asked for.
    pub fn show<T: Serialize>(&self, value: &T, table: impl FnOnce() -> Table) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(value),
            Format::Table => self.text(&table().fitting(self.columns).to_string()),
        }
    }

    /// One indented JSON document.
    pub fn json<T: Serialize>(&self, value: &T) -> io::Result<()> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
        bytes.push(b'\n');
        self.bytes(&bytes)
    }

    /// One line of data, e.g. an id that a script captures.
    pub fn line(&self, text: &str) -> io::Result<()> {
        self.text(&format!("{text}\n"))
    }

    /// Data as it is.
    pub fn text(&self, text: &str) -> io::Result<()> {
        self.bytes(text.as_bytes())
    }

    /// Data that need not be text, e.g. what a container wrote.
    pub fn bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let mut to = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        to.write_all(bytes)?;
        to.flush()
    }

    /// What a container wrote to its own stderr.
    pub fn error_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let mut to = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        to.write_all(bytes)?;
        to.flush()
    }

    /// What is being done, on stderr.
    pub fn note(&self, text: &str) {
        self.say(&format!("{}\n", visible(text)));
    }

    pub fn warning(&self, text: &str) {
        self.say(&labelled(self.style, Tone::Warning, "warning", text));
    }

    pub fn hint(&self, text: &str) {
        self.say(&labelled(self.style, Tone::Hint, "hint", text));
    }

    /// An error with its causes, and the command that helps.
    pub fn error(&self, error: &dyn Error, hint: Option<&str>) {
        self.say(&describe(self.style, error, hint));
    }

    fn say(&self, text: &str) {
        // There is no third stream to complain on.
        let _ = self.error_bytes(text.as_bytes());
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("format", &self.format)
            .field("style", &self.style)
            .finish_non_exhaustive()
    }
}

/// `label: text`, with the label in its colour.
pub fn labelled(style: Style, tone: Tone, label: &str, text: &str) -> String {
    let label = style.paint(tone, label);
    format!(
        "{label}{} {}\n",
        style.paint(Tone::Strong, ":"),
        visible_lines(text)
    )
}

/// The lines that report an error: the act that failed, each cause below it, and a hint.
///
/// A cause that its parent already quotes at its end is not repeated.
pub fn describe(style: Style, error: &dyn Error, hint: Option<&str>) -> String {
    let mut last = error.to_string();
    let mut text = labelled(style, Tone::Error, "error", &last);
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !last.ends_with(&said) {
            // Writing to a String does not fail.
            let _ = writeln!(text, "  caused by: {}", visible_lines(&said));
            last = said;
        }
        next = cause.source();
    }
    if let Some(hint) = hint {
        text.push_str(&labelled(style, Tone::Hint, "hint", hint));
    }
    text
}

/// Keeps line breaks (the tail of a command's stderr has some), indented under their first line.
fn visible_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(visible).collect();
    lines.join("\n    ")
}

/// Is this the error of writing to a reader that has gone? Then there is nothing to say.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// `7s`, `12m`, `3h`, `5d`: how long ago, in the largest unit.
pub fn age(since: Duration) -> String {
    let seconds = since.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `512 B`, `1.5 kB`, `116.2 MB`: powers of 1000, as registries and disks count.
pub fn size(bytes: u64) -> String {
    let mut unit = "B";
    // Exact below 2^53, and a rounded digit above.
    let mut value = bytes as f64;
    for larger in ["kB", "MB", "GB", "TB", "PB"] {
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = larger;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// Streams that a test reads back.
#[cfg(test)]
pub(crate) mod captured {
    use super::{Format, Output, Style};
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    pub(crate) struct Stream(Arc<Mutex<Vec<u8>>>);

    impl Stream {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Stream {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output without colour, its stdout and its stderr.
    pub(crate) fn output(format: Format) -> (Output, Stream, Stream) {
        let (stdout, stderr) = (Stream::default(), Stream::default());
        let output = Output::to(format, Style::PLAIN, stdout.clone(), stderr.clone());
        (output, stdout, stderr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indoc::indoc;

    #[derive(Debug, thiserror::Error)]
    #[error("start the pod")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("plugin `bridge` failed: {0}")]
    struct Inner(#[source] io::Error);

    #[test]
    fn an_error_is_followed_by_its_causes_and_the_hint() {
        let error = Outer(Inner(io::Error::other("no iptables")));
        let text = describe(Style::PLAIN, &error, Some("apt install `iptables`"));
        assert_eq!(
            text,
            indoc! {"
                error: start the pod
                  caused by: plugin `bridge` failed: no iptables
                hint: apt install `iptables`
            "}
        );
    }

    #[test]
    fn data_goes_to_stdout_and_talk_to_stderr() {
        let (output, stdout, stderr) = captured::output(Format::Json);
        output.show(&["a"], Table::details).unwrap();
        output.line("id").unwrap();
        output.note("pulling");
        output.warning("unknown key");
        output.hint("try `x`");
        assert_eq!(stdout.text(), "[\n  \"a\"\n]\nid\n");
        assert_eq!(
            stderr.text(),
            "pulling\nwarning: unknown key\nhint: try `x`\n"
        );
    }

    #[test]
    fn a_message_cannot_drive_the_terminal() {
        let error = io::Error::other("\x1b[2Jgone\nsecond line");
        let text = describe(Style::PLAIN, &error, None);
        assert_eq!(text, "error: \\u{1b}[2Jgone\n    second line\n");
    }

    #[test]
    fn colour_needs_a_terminal_that_wants_it() {
        let on = |terminal, no_color, term| Style::detect(terminal, no_color, term).colour;
        assert!(on(true, None, Some("xterm")));
        assert!(on(true, Some(""), None));
        assert!(!on(true, Some("1"), Some("xterm")));
        assert!(!on(true, None, Some("dumb")));
        assert!(!on(false, None, Some("xterm")));
        let style = Style { colour: true };
        assert_eq!(style.paint(Tone::Good, "ok"), "\x1b[32mok\x1b[0m");
        assert_eq!(Style::PLAIN.paint(Tone::Good, "ok"), "ok");
    }

    #[test]
    fn sizes_and_ages_in_the_largest_unit() {
        let sizes = [0, 999, 1000, 999_949, 999_950, 116_200_000, u64::MAX];
        let shown: Vec<_> = sizes.into_iter().map(size).collect();
        let expected = [
            "0 B",
            "999 B",
            "1.0 kB",
            "999.9 kB",
            "1.0 MB",
            "116.2 MB",
            "18446.7 PB",
        ];
        assert_eq!(shown, expected);
        let ages = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 864_000];
        let shown: Vec<_> = ages.map(|s| age(Duration::from_secs(s))).into();
        assert_eq!(shown, ["0s", "59s", "1m", "59m", "1h", "23h", "1d", "10d"]);
    }
}
