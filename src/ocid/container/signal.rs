//! Signals by the names that images and the CRI use.

use serde::{Deserialize, Serialize};

use crate::cri::v1;

/// A signal's number on Linux, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(i32);

/// The real-time signals as programs see them: glibc keeps the kernel's 32 and 33 for itself.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

const NAMES: [(&str, i32); 37] = [
    ("ABRT", libc::SIGABRT),
    ("ALRM", libc::SIGALRM),
    ("BUS", libc::SIGBUS),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("FPE", libc::SIGFPE),
    ("HUP", libc::SIGHUP),
    ("ILL", libc::SIGILL),
    ("INT", libc::SIGINT),
    ("IO", libc::SIGIO),
    ("IOT", libc::SIGIOT),
    ("KILL", libc::SIGKILL),
    ("PIPE", libc::SIGPIPE),
    ("POLL", libc::SIGPOLL),
    ("PROF", libc::SIGPROF),
    ("PWR", libc::SIGPWR),
    ("QUIT", libc::SIGQUIT),
    ("SEGV", libc::SIGSEGV),
    ("STKFLT", libc::SIGSTKFLT),
    ("STOP", libc::SIGSTOP),
    ("SYS", libc::SIGSYS),
    ("TERM", libc::SIGTERM),
    ("TRAP", libc::SIGTRAP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("VTALRM", libc::SIGVTALRM),
    ("WINCH", libc::SIGWINCH),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("RTMIN", RTMIN),
    ("RTMAX", RTMAX),
    ("UNUSED", libc::SIGSYS),
];

impl Signal {
    pub const TERM: Self = Self(libc::SIGTERM);
    pub const KILL: Self = Self(libc::SIGKILL);

    pub fn number(self) -> i32 {
        self.0
    }

    /// Reads what an image's `StopSignal` may hold: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`,
    /// `SIGRTMAX-2`, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse::<i32>() {
            return (1..=RTMAX).contains(&number).then_some(Self(number));
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(up) = name.strip_prefix("RTMIN+") {
            return Self::real_time(RTMIN.checked_add(up.parse().ok()?)?);
        }
        if let Some(down) = name.strip_prefix("RTMAX-") {
            return Self::real_time(RTMAX.checked_sub(down.parse().ok()?)?);
        }
        let found = NAMES.iter().find(|(known, _)| *known == name)?;
        Some(Self(found.1))
    }

    fn real_time(number: i32) -> Option<Self> {
        (RTMIN..=RTMAX).contains(&number).then_some(Self(number))
    }

    /// From the CRI's enum; None for its `RUNTIME_DEFAULT`, the number back where it defines none.
    pub fn from_cri(number: i32) -> Result<Option<Self>, i32> {
        let signal = v1::Signal::try_from(number).map_err(|e| e.0)?;
        if signal == v1::Signal::RuntimeDefault {
            return Ok(None);
        }
        let name = signal
            .as_str_name()
            .replace("RTMINPLUS", "RTMIN+")
            .replace("RTMAXMINUS", "RTMAX-");
        Self::parse(&name).map(Some).ok_or(number)
    }

    /// The CRI's value for it; several names of one number give the first by number.
    pub fn to_cri(self) -> v1::Signal {
        (1..=65)
            .filter_map(|n| v1::Signal::try_from(n).ok())
            .find(|s| Self::from_cri(*s as i32) == Ok(Some(self)))
            .unwrap_or(v1::Signal::RuntimeDefault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("rtmax-14", 50),
            ("SIGRTMIN", 34),
            ("64", 64),
        ] {
            assert_eq!(Signal::parse(text), Some(Signal(number)), "{text}");
        }
        for bad in ["", "SIG", "0", "65", "-1", "RTMIN+31", "RTMAX--1", "TERMS"] {
            assert_eq!(Signal::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_signal_of_the_cri_is_known() {
        assert_eq!(Signal::from_cri(0), Ok(None));
        for n in 1..=65 {
            let signal = Signal::from_cri(n).unwrap().unwrap();
            let again = Signal::from_cri(signal.to_cri() as i32);
            assert_eq!(again, Ok(Some(signal)), "{n}");
        }
        assert_eq!(Signal::from_cri(66), Err(66));
        let number = |s: v1::Signal| Signal::from_cri(s as i32).unwrap().unwrap().number();
        assert_eq!(number(v1::Signal::Sigquit), 3);
        assert_eq!(number(v1::Signal::Sigrtminplus15), 49);
        assert_eq!(number(v1::Signal::Sigrtmaxminus1), 63);
    }
}
