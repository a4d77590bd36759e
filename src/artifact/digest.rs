//! SHA-256 sums: parsed once, compared as bytes, computed while bytes pass by.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A SHA-256 sum; written and read as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Sum([u8; 32]);

/// Text that is no SHA-256 sum.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a sha256 sum of 64 hex digits")]
pub struct NotASum(String);

impl Sha256Sum {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The sum of a file's content.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut hasher = Hashing::new(io::sink());
        io::copy(&mut file, &mut hasher)?;
        Ok(hasher.finish().1)
    }
}

impl FromStr for Sha256Sum {
    type Err = NotASum;

    fn from_str(text: &str) -> Result<Self, NotASum> {
        let mut sum = [0; 32];
        hex::decode_to_slice(text, &mut sum).map_err(|_| NotASum(text.to_owned()))?;
        Ok(Self(sum))
    }
}

impl TryFrom<String> for Sha256Sum {
    type Error = NotASum;

    fn try_from(text: String) -> Result<Self, NotASum> {
        text.parse()
    }
}

impl From<Sha256Sum> for String {
    fn from(sum: Sha256Sum) -> Self {
        sum.to_string()
    }
}

impl fmt::Display for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A reader or writer that hashes and counts what passes.
pub struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    count: u64,
}

impl<T> Hashing<T> {
    pub fn new(inner: T) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            count: 0,
        }
    }

    /// Bytes that have passed.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn finish(self) -> (T, Sha256Sum) {
        (self.inner, Sha256Sum(self.hasher.finalize().into()))
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.count += bytes.len() as u64;
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.passed(bytes.get(..n).unwrap_or(bytes));
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.passed(buffer.get(..n).unwrap_or_default());
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn text_and_back() {
        let sum = Sha256Sum::of(b"");
        assert_eq!(sum.to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Sha256Sum>().unwrap(), sum);
        assert_eq!(serde_json::to_string(&sum).unwrap(), format!("\"{EMPTY}\""));
        for bad in [
            "",
            "abc",
            &EMPTY[1..],
            &format!("{EMPTY}0"),
            &EMPTY.replace('e', "g"),
        ] {
            assert!(bad.parse::<Sha256Sum>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hashed_in_passing() {
        let mut writer = Hashing::new(Vec::new());
        writer.write_all(b"he").unwrap();
        writer.write_all(b"llo").unwrap();
        assert_eq!(writer.count(), 5);
        assert_eq!(
            writer.finish(),
            (b"hello".to_vec(), Sha256Sum::of(b"hello"))
        );
        let mut reader = Hashing::new(&b"hello"[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!(reader.finish().1, Sha256Sum::of(b"hello"));
    }
}
