//! Frames and their bytes. Header blocks stay compressed here: inflating them needs the connection's state.

/// The version in every control frame.
pub const VERSION: u16 = 3;
/// Bytes of a frame's head.
pub const HEAD: usize = 8;
/// The longest payload of a control frame that is read.
pub const CONTROL_MAX: usize = 64 << 10;
/// The window of a new stream, and of the connection, until somebody says otherwise.
pub const WINDOW: u32 = 64 << 10;
/// The id of the setting that changes the former.
pub const INITIAL_WINDOW_SIZE: u32 = 7;

/// Codes of RST_STREAM.
pub mod reset {
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INVALID_STREAM: u32 = 2;
    pub const REFUSED_STREAM: u32 = 3;
    pub const CANCEL: u32 = 5;
    pub const FLOW_CONTROL_ERROR: u32 = 7;
}

/// Codes of GOAWAY.
pub mod goaway {
    pub const OK: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
}

const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
/// Stream ids, deltas and the like have 31 bits; the highest is reserved.
const MASK: u32 = 0x7fff_ffff;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a control frame of version {0}")]
    Version(u16),
    #[error("a control frame of {0} bytes")]
    TooLong(usize),
    #[error("a frame of type {0} that is too short or too long")]
    Length(u16),
    #[error("data for stream 0")]
    StreamZero,
}

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    Data {
        stream: u32,
        fin: bool,
        length: usize,
    },
    Control {
        kind: u16,
        flags: u8,
        length: usize,
    },
}

impl Head {
    pub fn parse(bytes: [u8; HEAD]) -> Result<Self, FrameError> {
        let [a, b, c, d, flags, x, y, z] = bytes;
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        if a & 0x80 == 0 {
            let stream = u32::from_be_bytes([a, b, c, d]);
            let fin = flags & FIN != 0;
            return match stream {
                0 => Err(FrameError::StreamZero),
                _ => Ok(Self::Data {
                    stream,
                    fin,
                    length,
                }),
            };
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > CONTROL_MAX {
            return Err(FrameError::TooLong(length));
        }
        let kind = u16::from_be_bytes([c, d]);
        Ok(Self::Control {
            kind,
            flags,
            length,
        })
    }
}

/// Everything but data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    SynStream {
        stream: u32,
        associated: u32,
        priority: u8,
        fin: bool,
        unidirectional: bool,
        block: Vec<u8>,
    },
    SynReply {
        stream: u32,
        fin: bool,
        block: Vec<u8>,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    /// Ids with their values; flags of persistence mean nothing here.
    Settings(Vec<(u32, u32)>),
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        stream: u32,
        fin: bool,
        block: Vec<u8>,
    },
    /// Stream 0 is the connection.
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// A type that is to be ignored, as the specification asks.
    Unknown(u16),
}

impl Control {
    pub fn parse(kind: u16, flags: u8, payload: &[u8]) -> Result<Self, FrameError> {
        let mut rest = Rest(payload);
        let parsed = rest.control(kind, flags);
        match parsed {
            // What follows a header block is part of it; the others have one length.
            Some(parsed) if rest.0.is_empty() => Ok(parsed),
            _ => Err(FrameError::Length(kind)),
        }
    }

    /// Appends the frame's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let fin_flag = |fin: bool| if fin { FIN } else { 0 };
        match self {
            Self::SynStream {
                stream,
                associated,
                priority,
                fin,
                unidirectional,
                block,
            } => {
                let flags = fin_flag(*fin) | if *unidirectional { UNIDIRECTIONAL } else { 0 };
                head(out, 1, flags, 10 + block.len());
                words(out, &[*stream, *associated]);
                out.extend_from_slice(&[priority << 5, 0]);
                out.extend_from_slice(block);
            }
            Self::SynReply { stream, fin, block } => {
                head(out, 2, fin_flag(*fin), 4 + block.len());
                words(out, &[*stream]);
                out.extend_from_slice(block);
            }
            Self::Reset { stream, status } => {
                head(out, 3, 0, 8);
                words(out, &[*stream, *status]);
            }
            Self::Settings(settings) => {
                head(out, 4, 0, 4 + 8 * settings.len());
                words(out, &[settings.len() as u32]);
                for (id, value) in settings {
                    words(out, &[id & 0x00ff_ffff, *value]);
                }
            }
            Self::Ping(id) => {
                head(out, 6, 0, 4);
                words(out, &[*id]);
            }
            Self::GoAway { last, status } => {
                head(out, 7, 0, 8);
                words(out, &[*last, *status]);
            }
            Self::Headers { stream, fin, block } => {
                head(out, 8, fin_flag(*fin), 4 + block.len());
                words(out, &[*stream]);
                out.extend_from_slice(block);
            }
            Self::WindowUpdate { stream, delta } => {
                head(out, 9, 0, 8);
                words(out, &[*stream, *delta]);
            }
            Self::Unknown(kind) => head(out, *kind, 0, 0),
        }
    }
}

/// Appends a data frame; `data` is shorter than 16 MiB.
pub fn encode_data(stream: u32, fin: bool, data: &[u8], out: &mut Vec<u8>) {
    words(out, &[stream & MASK]);
    let length = (data.len() as u32).to_be_bytes();
    out.push(if fin { FIN } else { 0 });
    out.extend_from_slice(length.get(1..).unwrap_or_default());
    out.extend_from_slice(data);
}

fn head(out: &mut Vec<u8>, kind: u16, flags: u8, length: usize) {
    out.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    let length = (length as u32).to_be_bytes();
    out.push(flags);
    out.extend_from_slice(length.get(1..).unwrap_or_default());
}

fn words(out: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

/// What has not been read of a payload.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn control(&mut self, kind: u16, flags: u8) -> Option<Control> {
        let fin = flags & FIN != 0;
        Some(match kind {
            1 => {
                let (stream, associated) = (self.word()? & MASK, self.word()? & MASK);
                let (priority, _slot) = (self.byte()? >> 5, self.byte()?);
                Control::SynStream {
                    stream,
                    associated,
                    priority,
                    fin,
                    unidirectional: flags & UNIDIRECTIONAL != 0,
                    block: self.all(),
                }
            }
            2 => Control::SynReply {
                stream: self.word()? & MASK,
                fin,
                block: self.all(),
            },
            3 => Control::Reset {
                stream: self.word()? & MASK,
                status: self.word()?,
            },
            4 => {
                let count = self.word()? as usize;
                if self.0.len() != count.checked_mul(8)? {
                    return None;
                }
                let mut settings = Vec::with_capacity(count);
                for _ in 0..count {
                    settings.push((self.word()? & 0x00ff_ffff, self.word()?));
                }
                Control::Settings(settings)
            }
            6 => Control::Ping(self.word()?),
            7 => Control::GoAway {
                last: self.word()? & MASK,
                status: self.word()?,
            },
            8 => Control::Headers {
                stream: self.word()? & MASK,
                fin,
                block: self.all(),
            },
            9 => Control::WindowUpdate {
                stream: self.word()? & MASK,
                delta: self.word()? & MASK,
            },
            other => {
                self.0 = &[];
                Control::Unknown(other)
            }
        })
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn word(&mut self) -> Option<u32> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*word))
    }

    fn all(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Control, FrameError> {
        let (head, payload) = bytes.split_first_chunk().unwrap();
        match Head::parse(*head)? {
            Head::Control {
                kind,
                flags,
                length,
            } => {
                assert_eq!(length, payload.len());
                Control::parse(kind, flags, payload)
            }
            data => panic!("{data:?}"),
        }
    }

    #[test]
    fn control_frames_survive_the_wire() {
        let block = b"block".to_vec();
        let all = [
            Control::SynStream {
                stream: 1,
                associated: 0,
                priority: 5,
                fin: true,
                unidirectional: false,
                block: block.clone(),
            },
            Control::SynReply {
                stream: MASK,
                fin: false,
                block: block.clone(),
            },
            Control::Reset {
                stream: 3,
                status: reset::CANCEL,
            },
            Control::Settings(vec![(INITIAL_WINDOW_SIZE, 1 << 20), (4, 100)]),
            Control::Settings(Vec::new()),
            Control::Ping(u32::MAX),
            Control::GoAway { last: 7, status: 0 },
            Control::Headers {
                stream: 3,
                fin: true,
                block: Vec::new(),
            },
            Control::WindowUpdate {
                stream: 0,
                delta: MASK,
            },
            Control::Unknown(11),
        ];
        for frame in all {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            assert_eq!(parse(&bytes).unwrap(), frame);
        }
    }

    /// The bytes as the specification draws them.
    #[test]
    fn the_layout_is_that_of_the_specification() {
        let mut out = Vec::new();
        Control::Reset {
            stream: 9,
            status: 5,
        }
        .encode(&mut out);
        assert_eq!(out, [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 5]);
        out.clear();
        encode_data(2, true, b"ab", &mut out);
        assert_eq!(out, [0, 0, 0, 2, 1, 0, 0, 2, b'a', b'b']);
        let head = Head::parse([0, 0, 0, 2, 1, 0, 0, 2]).unwrap();
        assert_eq!(
            head,
            Head::Data {
                stream: 2,
                fin: true,
                length: 2
            }
        );
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert_eq!(
            Head::parse([0x80, 2, 0, 1, 0, 0, 0, 0]),
            Err(FrameError::Version(2))
        );
        assert_eq!(
            Head::parse([0x80, 3, 0, 1, 0, 1, 0, 1]),
            Err(FrameError::TooLong(0x1_0001))
        );
        assert_eq!(Head::parse([0; 8]), Err(FrameError::StreamZero));
        for (kind, payload) in [
            (1, vec![0; 9]),
            (2, vec![0; 3]),
            (3, vec![0; 9]),
            (4, vec![0, 0, 0, 2, 0, 0, 0, 0]),
            (4, vec![0xff; 4]),
            (6, Vec::new()),
            (9, vec![0; 7]),
        ] {
            let refused = Control::parse(kind, 0, &payload);
            assert_eq!(refused, Err(FrameError::Length(kind)), "{payload:?}");
        }
    }
}
