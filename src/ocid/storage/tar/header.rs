//! One 512-byte header block and what the extensions before it change.

use super::pax::Pax;
use super::sparse::Segment;

/// Size of a header, and what data is padded to.
pub const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Regular,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// A time of last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mtime {
    /// Seconds after 1970, negative before.
    pub seconds: i64,
    /// 0 to 999,999,999, added to the seconds.
    pub nanoseconds: u32,
}

/// An entry, all extensions applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// As the archive has it: not yet checked for `..` or a leading slash.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Target of a symlink or hard link.
    pub link: Vec<u8>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// The file's size once unpacked, in bytes.
    pub size: u64,
    pub mtime: Mtime,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Names and values of extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data belongs in a sparse file, in the order in which it comes.
    pub segments: Option<Vec<Segment>>,
}

/// A header block as it stands in the archive.
pub struct Raw(pub [u8; BLOCK]);

impl Raw {
    fn field(&self, from: usize, length: usize) -> &[u8] {
        self.0.get(from..from + length).unwrap_or(&[])
    }

    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|b| *b == 0)
    }

    pub fn flag(&self) -> u8 {
        self.field(156, 1).first().copied().unwrap_or(0)
    }

    /// Compares the checksum, summed with the field itself as spaces; old writers summed signed bytes.
    pub fn check(&self) -> Result<(), &'static str> {
        let stored = number(self.field(148, 8))?;
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            };
            unsigned += i64::from(byte);
            signed += i64::from(byte as i8);
        }
        if stored == unsigned || stored == signed {
            Ok(())
        } else {
            Err("the checksum of a header is wrong: this is no tar archive, or a damaged one")
        }
    }

    /// The size field; only regular files and extension headers have data.
    pub fn size(&self) -> Result<u64, &'static str> {
        u64::try_from(number(self.field(124, 12))?).map_err(|_| "a negative size")
    }

    fn name(&self) -> Vec<u8> {
        let name = until_nul(self.field(0, 100));
        // Only POSIX ustar has a prefix there; GNU keeps times and its sparse map in those bytes.
        let prefix = if self.field(257, 6) == b"ustar\0" {
            until_nul(self.field(345, 155))
        } else {
            &[]
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    /// The old GNU sparse map: the raw bytes of its four entries, "more blocks follow", real size.
    pub fn sparse_fields(&self) -> (&[u8], bool, &[u8]) {
        let extended = self.field(482, 1).first().is_some_and(|b| *b != 0);
        (self.field(386, 96), extended, self.field(483, 12))
    }
}

/// Puts a header and its extensions together; `size` and `segments` are the caller's.
pub fn build(
    raw: &Raw,
    pax: &Pax,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
) -> Result<Header, &'static str> {
    let path = pax
        .sparse_name
        .clone()
        .or_else(|| pax.path.clone())
        .or(long_name)
        .unwrap_or_else(|| raw.name());
    let link = pax
        .linkpath
        .clone()
        .or(long_link)
        .unwrap_or_else(|| until_nul(raw.field(157, 100)).to_vec());
    let kind = match raw.flag() {
        // Before POSIX a folder was a file whose name ends in a slash.
        b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
        b'0' | 0 | b'7' | b'S' => Kind::Regular,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        _ => return Err("an entry of a type that no layer has"),
    };
    let device = match kind {
        Kind::CharDevice | Kind::BlockDevice => (
            narrow(number(raw.field(329, 8))?, "a device number out of range")?,
            narrow(number(raw.field(337, 8))?, "a device number out of range")?,
        ),
        _ => (0, 0),
    };
    let owner = |over: Option<u64>, from: usize| match over {
        Some(id) => u32::try_from(id).map_err(|_| "a user or group id out of range"),
        None => narrow(
            number(raw.field(from, 8))?,
            "a user or group id out of range",
        ),
    };
    let mtime = match pax.mtime {
        Some(mtime) => mtime,
        None => Mtime {
            seconds: number(raw.field(136, 12))?,
            nanoseconds: 0,
        },
    };
    Ok(Header {
        path,
        kind,
        link,
        mode: (number(raw.field(100, 8))? & 0o7777) as u32,
        uid: owner(pax.uid, 108)?,
        gid: owner(pax.gid, 116)?,
        size: 0,
        mtime,
        device,
        xattrs: pax.xattrs.clone(),
        segments: None,
    })
}

fn narrow(value: i64, problem: &'static str) -> Result<u32, &'static str> {
    u32::try_from(value).map_err(|_| problem)
}

pub fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or(&[])
}

/// A numeric field: octal digits with blanks around them, or (top bit set) big-endian base 256 in
/// two's complement. An empty field is 0.
pub fn number(field: &[u8]) -> Result<i64, &'static str> {
    let Some((first, rest)) = field.split_first() else {
        return Ok(0);
    };
    if first & 0x80 != 0 {
        // 0x80 starts a positive number and 0xff a negative one; six bits of the rest of the first
        // byte belong to the number as well.
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative {
            i128::from(*first as i8)
        } else {
            i128::from(first & 0x3f)
        };
        for byte in rest {
            value = (value << 8) | i128::from(*byte);
        }
        return i64::try_from(value).map_err(|_| "a number out of range");
    }
    let mut value: i64 = 0;
    let digits = field
        .iter()
        .skip_while(|b| **b == b' ')
        .take_while(|b| !matches!(**b, b' ' | 0));
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return Err("a header field is not an octal number");
        }
        value = (value << 3) | i64::from(digit - b'0');
    }
    Ok(value)
}
