//! The maps of sparse files: GNU tar's old form and its pax forms 0.0, 0.1 and 1.0
//! (GNU tar manual, "Storing Sparse Files").

use super::header::{BLOCK, Raw, number};

/// A map with more pieces than this is refused: it costs memory, and no real file has it.
const MOST_SEGMENTS: usize = 1 << 16;
const TOO_MANY: &str = "a sparse file has more than 65536 pieces";

/// A piece of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts in the unpacked file.
    pub offset: u64,
    /// Bytes of it.
    pub length: u64,
}

/// All pieces, and the size of the unpacked file.
#[derive(Debug, Default)]
pub struct Map {
    pub segments: Vec<Segment>,
    pub real_size: u64,
}

/// The old form's first four pieces, and whether a further block of them follows.
pub fn old(raw: &Raw) -> Result<(Map, bool), &'static str> {
    let (entries, more, real_size) = raw.sparse_fields();
    let mut map = Map {
        segments: Vec::new(),
        real_size: positive(real_size)?,
    };
    map.take(entries)?;
    Ok((map, more))
}

impl Map {
    /// A further block of the old form: 21 pieces, then "more blocks follow".
    pub fn extend(&mut self, block: &[u8; BLOCK]) -> Result<bool, &'static str> {
        self.take(block.get(..504).unwrap_or(&[]))?;
        Ok(block.get(504).is_some_and(|b| *b != 0))
    }

    fn take(&mut self, entries: &[u8]) -> Result<(), &'static str> {
        for entry in entries.chunks_exact(24) {
            let (offset, length) = entry.split_at(12);
            if offset.first() == Some(&0) && length.first() == Some(&0) {
                break;
            }
            self.segments.push(Segment {
                offset: positive(offset)?,
                length: positive(length)?,
            });
        }
        if self.segments.len() > MOST_SEGMENTS {
            return Err(TOO_MANY);
        }
        Ok(())
    }

    /// The pieces are in order, inside the file, and as long together as the data.
    pub fn check(&self, data: u64) -> Result<(), &'static str> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for segment in &self.segments {
            if segment.offset < end {
                return Err("the pieces of a sparse file overlap");
            }
            end = segment
                .offset
                .checked_add(segment.length)
                .ok_or("a piece of a sparse file is out of range")?;
            sum = sum.saturating_add(segment.length);
        }
        if end > self.real_size {
            return Err("a piece of a sparse file lies behind its end");
        }
        if sum != data {
            return Err("the pieces of a sparse file are not as long as its data");
        }
        if self.segments.len() > MOST_SEGMENTS {
            return Err(TOO_MANY);
        }
        Ok(())
    }
}

fn positive(field: &[u8]) -> Result<u64, &'static str> {
    u64::try_from(number(field)?).map_err(|_| "a negative number in a sparse map")
}

/// Version 1.0: decimal lines (count, then offset and length of each piece), padded to whole blocks.
#[derive(Debug, Default)]
pub struct InData {
    digits: u64,
    any: bool,
    /// How many values are to come, known after the first.
    expected: Option<usize>,
    values: Vec<u64>,
}

impl InData {
    /// Takes one block; true when the map is complete (the rest of the block is padding).
    pub fn feed(&mut self, block: &[u8; BLOCK]) -> Result<bool, &'static str> {
        const PROBLEM: &str = "a sparse file's map is malformed";
        for byte in block {
            match byte {
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    self.digits = self
                        .digits
                        .checked_mul(10)
                        .and_then(|d| d.checked_add(digit))
                        .ok_or(PROBLEM)?;
                    self.any = true;
                }
                b'\n' if self.any => {
                    let value = std::mem::take(&mut self.digits);
                    self.any = false;
                    match self.expected {
                        None => {
                            let count = usize::try_from(value).map_err(|_| TOO_MANY)?;
                            if count > MOST_SEGMENTS {
                                return Err(TOO_MANY);
                            }
                            self.expected = Some(count * 2);
                        }
                        Some(_) => self.values.push(value),
                    }
                    if self.expected == Some(self.values.len()) {
                        return Ok(true);
                    }
                }
                _ => return Err(PROBLEM),
            }
        }
        Ok(false)
    }

    pub fn finish(self, real_size: u64) -> Map {
        let segments = self.values.chunks_exact(2).filter_map(|pair| match pair {
            [offset, length] => Some(Segment {
                offset: *offset,
                length: *length,
            }),
            _ => None,
        });
        Map {
            segments: segments.collect(),
            real_size,
        }
    }
}
