//! Header blocks: name and value pairs, through one zlib stream per direction of a connection that begins with
//! the dictionary of SPDY/3.

use flate2::{Decompress, FlushDecompress, Status};

/// Section 2.6.10.1 of the specification.
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
/// How a zlib stream with that dictionary begins (RFC 1950): method, flags, the dictionary's Adler-32.
const PREFACE: [u8; 6] = [0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2];
/// An empty stored block: how an end that is no end of the stream is marked (zlib's sync flush). Go's reader hands out
/// what came before only when it sees one.
const FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];
/// The most that a block may inflate to, bytes.
const INFLATED_MAX: usize = 16 << 10;
/// The most pairs in a block.
const PAIRS_MAX: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadersError {
    #[error("a header block that is not a piece of the connection's zlib stream")]
    Compression,
    #[error("a header block that inflates to more than {INFLATED_MAX} bytes")]
    TooLong,
    #[error("a header block with more than {PAIRS_MAX} headers")]
    TooMany,
    #[error("a header block that is cut short or has something behind its end")]
    Cut,
}

/// Names, in lower case, and values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The value of the first header with this name, in whatever case it was sent.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut pairs = self.0.iter();
        let found = pairs.find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// From names and values.
    pub fn from<const N: usize>(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec())
    }

    /// Bytes that are not UTF-8 are replaced: no header here holds any.
    pub fn parse(mut block: &[u8]) -> Result<Self, HeadersError> {
        let count = word(&mut block).ok_or(HeadersError::Cut)?;
        if count as usize > PAIRS_MAX {
            return Err(HeadersError::TooMany);
        }
        let mut pairs = Vec::new();
        for _ in 0..count {
            let name = text(&mut block).ok_or(HeadersError::Cut)?;
            let value = text(&mut block).ok_or(HeadersError::Cut)?;
            pairs.push((name, value));
        }
        if block.is_empty() {
            Ok(Self(pairs))
        } else {
            Err(HeadersError::Cut)
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = (self.0.len() as u32).to_be_bytes().to_vec();
        for (name, value) in &self.0 {
            for part in [name.to_ascii_lowercase().as_str(), value] {
                out.extend_from_slice(&(part.len() as u32).to_be_bytes());
                out.extend_from_slice(part.as_bytes());
            }
        }
        out
    }
}

fn word(rest: &mut &[u8]) -> Option<u32> {
    let (word, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(u32::from_be_bytes(*word))
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = word(rest)? as usize;
    let (text, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Reads the blocks of one direction, in their order. After an error it cannot go on.
pub struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Inflater {
    pub fn block(&mut self, compressed: &[u8]) -> Result<Headers, HeadersError> {
        let mut out = Vec::with_capacity(1024);
        let mut rest = compressed;
        loop {
            let (read, had) = (self.0.total_in(), out.len());
            let status = self.0.decompress_vec(rest, &mut out, FlushDecompress::Sync);
            let read = usize::try_from(self.0.total_in() - read).unwrap_or(usize::MAX);
            rest = rest.get(read..).unwrap_or_default();
            match status {
                Ok(Status::Ok | Status::BufError) => {}
                Err(e) if e.needs_dictionary().is_some() => {
                    let set = self.0.set_dictionary(DICTIONARY);
                    set.map_err(|_| HeadersError::Compression)?;
                    continue;
                }
                // Its end is the connection's.
                Ok(Status::StreamEnd) | Err(_) => return Err(HeadersError::Compression),
            }
            if out.len() > INFLATED_MAX {
                return Err(HeadersError::TooLong);
            }
            if out.len() < out.capacity() {
                // There was room left: this is all that the block holds.
                return if rest.is_empty() {
                    Headers::parse(&out)
                } else {
                    Err(HeadersError::Compression)
                };
            }
            if read == 0 && out.len() == had && rest.is_empty() {
                return Headers::parse(&out);
            }
            out.reserve(out.len().max(1024));
        }
    }
}

/// Writes the blocks of one direction, in their order. They are stored, not squeezed (RFC 1951, section 3.2.4):
/// ours have a few dozen bytes, and the state of a compressor would be most of the memory of a connection.
#[derive(Debug, Default)]
pub struct Deflater {
    begun: bool,
}

impl Deflater {
    pub fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let plain = headers.encode();
        let mut out = Vec::with_capacity(plain.len() + 16);
        if !std::mem::replace(&mut self.begun, true) {
            out.extend_from_slice(&PREFACE);
        }
        for piece in plain.chunks(usize::from(u16::MAX)) {
            let length = piece.len() as u16;
            out.push(0);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&(!length).to_le_bytes());
            out.extend_from_slice(piece);
        }
        out.extend_from_slice(&FLUSH);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};
    use sha2::{Digest, Sha256};

    #[test]
    fn the_dictionary_is_that_of_the_specification() {
        assert_eq!(DICTIONARY.len(), 1423);
        assert!(DICTIONARY.starts_with(b"\0\0\0\x07options\0\0\0\x04head"));
        assert_eq!(
            hex::encode(Sha256::digest(DICTIONARY)),
            "51d27341373f923f3cd88e1eb7162aeaa3723d7585ff2399201dc06498407f02"
        );
    }

    /// As other implementations write blocks: one stream, flushed after each.
    struct Squeezer(Compress);

    impl Squeezer {
        fn new() -> Self {
            let mut compress = Compress::new(Compression::best(), true);
            compress.set_dictionary(DICTIONARY).unwrap();
            Self(compress)
        }

        fn block(&mut self, headers: &Headers) -> Vec<u8> {
            let plain = headers.encode();
            let mut out = Vec::with_capacity(plain.len() + 1024);
            let flush = FlushCompress::Sync;
            self.0.compress_vec(&plain, &mut out, flush).unwrap();
            out
        }
    }

    fn nth(n: u32) -> Headers {
        Headers::from([("StreamType", "data"), ("port", &n.to_string())])
    }

    #[test]
    fn blocks_share_one_stream() {
        let (mut squeezer, mut inflater) = (Squeezer::new(), Inflater::default());
        let mut lengths = Vec::new();
        for n in 0..200 {
            let block = squeezer.block(&nth(n));
            lengths.push(block.len());
            let got = inflater.block(&block).unwrap();
            assert_eq!(got.get("streamtype"), Some("data"));
            assert_eq!(got.get("Port"), Some(n.to_string().as_str()));
        }
        assert!(lengths.last() < lengths.first(), "{lengths:?}");
        let empty = squeezer.block(&Headers::default());
        assert_eq!(inflater.block(&empty).unwrap(), Headers::default());
    }

    #[test]
    fn our_own_blocks_are_read_back() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        for headers in [Headers::default(), nth(1), Headers::default(), nth(2)] {
            let block = deflater.block(&headers);
            assert!(block.ends_with(&FLUSH));
            let got = inflater.block(&block).unwrap();
            assert_eq!(got.0.len(), headers.0.len());
        }
        let long = "x".repeat(INFLATED_MAX - 100);
        let headers = Headers::from([("a", long.as_str())]);
        assert_eq!(inflater.block(&deflater.block(&headers)).unwrap(), headers);
        assert_eq!(inflater.block(&deflater.block(&nth(3))).unwrap().0.len(), 2);
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = Headers::from([("a", &"x".repeat(64 << 20))]);
        let block = Squeezer::new().block(&bomb);
        assert!(block.len() < 1 << 20);
        assert_eq!(
            Inflater::default().block(&block),
            Err(HeadersError::TooLong)
        );
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let of = |plain: &[u8]| Headers::parse(plain);
        assert_eq!(of(b""), Err(HeadersError::Cut));
        assert_eq!(
            of(b"\0\0\0\x01\0\0\0\x01a\0\0\0\x02b"),
            Err(HeadersError::Cut)
        );
        assert_eq!(of(b"\0\0\0\0x"), Err(HeadersError::Cut));
        assert_eq!(of(b"\xff\xff\xff\xff"), Err(HeadersError::TooMany));
        assert_eq!(of(b"\0\0\0\x01\xff\xff\xff\xffa"), Err(HeadersError::Cut));
        let garbage = Inflater::default().block(b"not zlib at all");
        assert_eq!(garbage, Err(HeadersError::Compression));
    }
}
