//! One account of one cgroup: reading it, and the forms that several have.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use super::{Files, Psi, files};
use crate::host::cgroup::Cgroups;
use crate::host::context::during;

/// The kernel writes "no limit" as the largest number of whole pages.
const UNLIMITED: u64 = 1 << 62;

impl Cgroups {
    pub(super) fn account<'a, P: Fn() -> Option<PathBuf>>(
        &'a self,
        path: &'a str,
        name: files::Name,
        place: P,
    ) -> Account<'a, P> {
        Account {
            files: &self.files,
            path,
            name,
            place,
        }
    }

    pub(in crate::host::cgroup) fn parsed<T>(
        &self,
        controller: &'static str,
        path: &str,
        file: impl Into<Cow<'static, str>>,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let file = file.into();
        let place = || Some(self.folder(controller, path)?.join(&*file));
        let account = self.account(path, (controller, file.clone()), place);
        account.read(parse)
    }

    pub(super) fn number(
        &self,
        controller: &'static str,
        path: &str,
        file: impl Into<Cow<'static, str>>,
    ) -> io::Result<Option<u64>> {
        self.parsed(controller, path, file, number)
    }

    /// The outer `None`: no such file; the inner: no limit.
    pub(super) fn limit(
        &self,
        controller: &'static str,
        path: &str,
        file: &'static str,
    ) -> io::Result<Option<Option<u64>>> {
        self.parsed(controller, path, file, limit)
    }

    /// Closes the accounts of cgroups that `exists` does not know by their path: of those that went without a
    /// word to us ([`Cgroups::remove`], [`Cgroups::release`]).
    pub fn retain_accounts(&self, exists: impl Fn(&str) -> bool) {
        self.files.retain(exists);
    }
}

/// One file of one cgroup.
pub(super) struct Account<'a, P> {
    files: &'a Files,
    path: &'a str,
    name: files::Name,
    place: P,
}

impl<P: Fn() -> Option<PathBuf>> Account<'_, P> {
    /// The file's meaning; `None` where there is no such file, an error where it makes no sense.
    pub(super) fn read<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> io::Result<Option<T>> {
        let read = self.files.read(self.path, &self.name, &self.place, parse);
        let named = |error| during(format_args!("read `{}`", self.shown()))(error);
        match read.map_err(named)? {
            Some(None) => Err(senseless(&self.shown())),
            other => Ok(other.flatten()),
        }
    }

    fn shown(&self) -> String {
        let place = (self.place)().unwrap_or_default();
        place.display().to_string()
    }
}

fn senseless(file: &str) -> io::Error {
    let message = format!("`{file}` is not what the kernel documents");
    io::Error::new(ErrorKind::InvalidData, message)
}

pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// `Some(None)` is no limit.
pub(super) fn limit(text: &str) -> Option<Option<u64>> {
    match text.trim() {
        "max" | "-1" => Some(None),
        text => text
            .parse()
            .ok()
            .map(|n| Some(n).filter(|n| *n < UNLIMITED)),
    }
}

/// The number after one key, of lines of both.
pub(in crate::host::cgroup) fn value(text: &str, key: &str) -> Option<u64> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(k, _)| *k == key)?.1.trim().parse().ok()
}

/// Lines of a key and a number.
pub(super) fn pairs(text: &str) -> BTreeMap<&str, u64> {
    let pair = |line| {
        let (key, value): (&str, &str) = str::split_once(line, ' ')?;
        Some((key, value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`; kernels before 5.13 have no `full`
/// for processors.
pub(super) fn psi(text: &str) -> Option<Psi> {
    let mut found = Psi::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let stall = match words.next()? {
            "some" => &mut found.some,
            "full" => &mut found.full,
            _ => continue,
        };
        for word in words {
            let (key, value) = word.split_once('=')?;
            match key {
                "avg10" => stall.avg10 = value.parse().ok()?,
                "avg60" => stall.avg60 = value.parse().ok()?,
                "avg300" => stall.avg300 = value.parse().ok()?,
                "total" => stall.total = value.parse().ok()?,
                _ => {}
            }
        }
    }
    Some(found)
}
