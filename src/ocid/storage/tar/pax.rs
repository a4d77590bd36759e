//! Pax extended header records: `LENGTH KEY=VALUE\n` (pax(1), "pax Extended Header").

use super::header::Mtime;
use super::sparse::{Map, Segment};

/// The records we act on; the rest (comments, names of users, access times) is ignored.
#[derive(Debug, Clone, Default)]
pub struct Pax {
    pub path: Option<Vec<u8>>,
    pub linkpath: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Mtime>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse_name: Option<Vec<u8>>,
    pub sparse_size: Option<u64>,
    sparse_major: Option<u64>,
    sparse_points: Vec<u64>,
}

/// Where other programs put extended attributes: star's name for them, used by every image builder.
const XATTR: &[u8] = b"SCHILY.xattr.";

impl Pax {
    /// Takes over the records of one extension header.
    pub fn merge(&mut self, mut records: &[u8]) -> Result<(), &'static str> {
        while !records.is_empty() {
            let (record, rest) = split(records).ok_or("a pax record is malformed")?;
            let (key, value) = record;
            self.set(key, value)?;
            records = rest;
        }
        Ok(())
    }

    /// Version 1.0: the map stands at the head of the file's data.
    pub fn sparse_in_data(&self) -> bool {
        self.sparse_major == Some(1)
    }

    /// Versions 0.0 and 0.1: the map stands in the records.
    pub fn sparse_map(&self) -> Result<Option<Map>, &'static str> {
        let Some(real_size) = self.sparse_size else {
            return Ok(None);
        };
        let pairs = self.sparse_points.chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err("a sparse file's map has an odd number of values");
        }
        let segments = pairs
            .filter_map(|pair| match pair {
                [offset, length] => Some(Segment {
                    offset: *offset,
                    length: *length,
                }),
                _ => None,
            })
            .collect();
        Ok(Some(Map {
            segments,
            real_size,
        }))
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if let Some(name) = key.strip_prefix(XATTR) {
            put(&mut self.xattrs, name, value);
            return Ok(());
        }
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.linkpath = text(value)?,
            b"size" => self.size = decimal(value)?,
            b"uid" => self.uid = decimal(value)?,
            b"gid" => self.gid = decimal(value)?,
            b"mtime" => self.mtime = time(value)?,
            b"GNU.sparse.name" => self.sparse_name = text(value)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = decimal(value)?,
            b"GNU.sparse.major" => self.sparse_major = decimal(value)?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.sparse_points.extend(decimal(value)?);
            }
            b"GNU.sparse.map" => {
                self.sparse_points.clear();
                for point in value.split(|b| *b == b',') {
                    self.sparse_points.extend(decimal(point)?);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn put(xattrs: &mut Vec<(Vec<u8>, Vec<u8>)>, name: &[u8], value: &[u8]) {
    match xattrs.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => *old = value.to_vec(),
        None => xattrs.push((name.to_vec(), value.to_vec())),
    }
}

/// A key and its value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// The first record, and the bytes after it.
fn split(records: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let space = records.iter().take(20).position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(records.get(..space)?)
        .ok()?
        .parse()
        .ok()?;
    let body = records.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=')?;
    let record = (body.get(..equals)?, body.get(equals + 1..)?);
    Some((record, records.get(length..)?))
}

/// An empty value takes back what was said before.
fn text(value: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    if value.contains(&0) {
        return Err("a name holds a NUL byte");
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn decimal(value: &[u8]) -> Result<Option<u64>, &'static str> {
    if value.is_empty() {
        return Ok(None);
    }
    let number = std::str::from_utf8(value).ok().and_then(|t| t.parse().ok());
    number.map(Some).ok_or("a pax value is not a number")
}

/// Seconds with a sign and an optional fraction.
fn time(value: &[u8]) -> Result<Option<Mtime>, &'static str> {
    const PROBLEM: &str = "a pax time is malformed";
    if value.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(value).map_err(|_| PROBLEM)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut seconds: i64 = whole.parse().map_err(|_| PROBLEM)?;
    let mut nanoseconds: u32 = 0;
    // Digits past the ninth are finer than any file system keeps.
    for at in 0..9 {
        let digit = match fraction.as_bytes().get(at) {
            Some(b @ b'0'..=b'9') => u32::from(b - b'0'),
            Some(_) => return Err(PROBLEM),
            None => 0,
        };
        nanoseconds = nanoseconds * 10 + digit;
    }
    if whole.starts_with('-') && nanoseconds > 0 {
        seconds = seconds.checked_sub(1).ok_or(PROBLEM)?;
        nanoseconds = 1_000_000_000 - nanoseconds;
    }
    Ok(Some(Mtime {
        seconds,
        nanoseconds,
    }))
}
