//! A streaming reader of the tar dialects that layers come in: ustar, pax, GNU (pax(1), tar(5)).
//!
//! Ours rather than a crate's for three reasons: every extension header has a cap before it is read
//! into memory (a layer is a stranger's), sub-second times, extended attributes and all four sparse
//! forms are understood, and file data is lent out of the input's own buffer instead of copied.

mod header;
mod pax;
mod sparse;

use std::io::{self, BufRead};

pub use header::{Header, Kind, Mtime};
pub use sparse::Segment;

use header::{BLOCK, Raw};
use pax::Pax;

/// Most bytes that the extension headers of one entry (pax records, GNU long names) may have together:
/// an archive may put any number of them before an entry, and all of them are held in memory.
const LARGEST_EXTENSION: u64 = 1 << 20;

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("read the archive")]
    Read(#[source] io::Error),
    #[error("the archive ends in the middle of an entry")]
    Truncated,
    #[error("at byte {offset} of the archive: {problem}")]
    Malformed { offset: u64, problem: &'static str },
}

/// Reads one entry after the other from `input`.
pub struct Reader<R> {
    input: R,
    offset: u64,
    /// Bytes of the present entry's data not yet consumed.
    data: u64,
    /// Bytes between the end of that data and the next header.
    padding: u64,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    pub fn new(input: R) -> Self {
        Self {
            input,
            offset: 0,
            data: 0,
            padding: 0,
            ended: false,
        }
    }

    /// The next entry, or `None` at the archive's end; what is left of the present one is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Header>, TarError> {
        let mut local = Pax::default();
        let (mut long_name, mut long_link) = (None, None);
        // An extension header promises an entry.
        let mut promised = false;
        let mut room = LARGEST_EXTENSION;
        loop {
            self.skip_rest()?;
            if self.ended {
                return if promised {
                    Err(TarError::Truncated)
                } else {
                    Ok(None)
                };
            }
            let at = self.offset;
            let Some(raw) = self.block()?.map(Raw) else {
                self.ended = true;
                continue;
            };
            if raw.is_zero() {
                self.expect_end()?;
                continue;
            }
            let malformed = |problem| TarError::Malformed {
                offset: at,
                problem,
            };
            raw.check().map_err(malformed)?;
            let size = raw.size().map_err(malformed)?;
            promised |= matches!(raw.flag(), b'x' | b'L' | b'K');
            match raw.flag() {
                b'x' => local
                    .merge(&self.extension(size, &mut room)?)
                    .map_err(malformed)?,
                b'L' => long_name = Some(self.long(size, &mut room)?),
                b'K' => long_link = Some(self.long(size, &mut room)?),
                // A volume label names no file. Records for all that follows are left alone by every
                // engine (git puts a commit's id there), so that an image is the same everywhere.
                b'V' | b'g' => self.begin_data(size),
                _ => {
                    let mut header =
                        header::build(&raw, &local, long_name, long_link).map_err(malformed)?;
                    let size = match header.kind {
                        Kind::Regular => local.size.unwrap_or(size),
                        _ => 0,
                    };
                    self.begin_data(size);
                    header.size = size;
                    self.sparse(&raw, &local, &mut header)?;
                    return Ok(Some(header));
                }
            }
        }
    }

    /// Some of the present entry's data, empty at its end; to be followed by [`Reader::consume`].
    pub fn data(&mut self) -> Result<&[u8], TarError> {
        if self.data == 0 {
            return Ok(&[]);
        }
        let room = usize::try_from(self.data).unwrap_or(usize::MAX);
        let bytes = self.input.fill_buf().map_err(TarError::Read)?;
        if bytes.is_empty() {
            return Err(TarError::Truncated);
        }
        Ok(bytes.get(..room).unwrap_or(bytes))
    }

    /// Marks `count` of the bytes that [`Reader::data`] lent as read.
    pub fn consume(&mut self, count: usize) {
        let count = usize::try_from(self.data).map_or(count, |left| count.min(left));
        self.input.consume(count);
        self.data -= count as u64;
        self.offset += count as u64;
    }

    /// Gives the input back, for what follows the archive's end.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn begin_data(&mut self, size: u64) {
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        loop {
            let count = self.data()?.len();
            if count == 0 {
                break;
            }
            self.consume(count);
        }
        self.data = std::mem::take(&mut self.padding);
        loop {
            let count = match self.data() {
                // The last entry's padding may be missing with everything behind it.
                Err(TarError::Truncated) => {
                    self.ended = true;
                    self.data = 0;
                    return Ok(());
                }
                other => other?.len(),
            };
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }

    /// One block, or `None` where the input ends before it begins.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let bytes = self.input.fill_buf().map_err(TarError::Read)?;
            if bytes.is_empty() {
                return if filled == 0 {
                    Ok(None)
                } else {
                    Err(TarError::Truncated)
                };
            }
            let count = bytes.len().min(BLOCK - filled);
            block[filled..filled + count].copy_from_slice(&bytes[..count]);
            self.input.consume(count);
            filled += count;
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    /// After a zero block: another one, or nothing (writers exist that leave the second one out). What
    /// comes behind the two is not looked at.
    fn expect_end(&mut self) -> Result<(), TarError> {
        let offset = self.offset;
        self.ended = true;
        match self.block() {
            Ok(Some(second)) if !Raw(second).is_zero() => Err(TarError::Malformed {
                offset,
                problem: "a lone zero block in the middle",
            }),
            // Fewer bytes than a block are padding as well.
            Ok(_) | Err(TarError::Truncated) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// A GNU long name.
    fn long(&mut self, size: u64, room: &mut u64) -> Result<Vec<u8>, TarError> {
        let name = self.extension(size, room)?;
        Ok(header::until_nul(&name).to_vec())
    }

    /// The whole data of an extension header, which takes from the `room` that its entry has.
    fn extension(&mut self, size: u64, room: &mut u64) -> Result<Vec<u8>, TarError> {
        *room = room.checked_sub(size).ok_or(TarError::Malformed {
            offset: self.offset,
            problem: "the extension headers of an entry are larger than 1 MiB",
        })?;
        self.begin_data(size);
        let mut bytes = Vec::new();
        loop {
            let data = self.data()?;
            if data.is_empty() {
                return Ok(bytes);
            }
            bytes.extend_from_slice(data);
            let count = data.len();
            self.consume(count);
        }
    }

    /// Fills in where a sparse file's data belongs, reading the map that may stand before the data.
    fn sparse(&mut self, raw: &Raw, pax: &Pax, header: &mut Header) -> Result<(), TarError> {
        let offset = self.offset;
        let malformed = |problem| TarError::Malformed { offset, problem };
        if header.kind != Kind::Regular {
            return Ok(());
        }
        let map = if raw.flag() == b'S' {
            let (mut map, mut more) = sparse::old(raw).map_err(malformed)?;
            // The extra blocks stand between header and data and are not counted in the size.
            while more {
                let block = self.block()?.ok_or(TarError::Truncated)?;
                more = map.extend(&block).map_err(malformed)?;
            }
            map
        } else if pax.sparse_in_data() {
            let mut map = sparse::InData::default();
            loop {
                if self.data < BLOCK as u64 {
                    return Err(malformed("a sparse file's map is longer than its data"));
                }
                let block = self.block()?.ok_or(TarError::Truncated)?;
                self.data -= BLOCK as u64;
                if map.feed(&block).map_err(malformed)? {
                    break;
                }
            }
            map.finish(pax.sparse_size.unwrap_or(0))
        } else if let Some(map) = pax.sparse_map().map_err(malformed)? {
            map
        } else {
            return Ok(());
        };
        header.size = map.real_size;
        map.check(self.data).map_err(malformed)?;
        header.segments = Some(map.segments);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
