//! Builds archives for the tests.

/// Builds archives entry by entry, also such as no program would write.
pub struct Archive(Vec<u8>);

pub struct Entry<'a> {
    pub name: &'a str,
    pub flag: u8,
    pub link: &'a str,
    pub data: &'a [u8],
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: u64,
    pub device: (u32, u32),
}

pub fn entry(name: &str, flag: u8) -> Entry<'_> {
    Entry {
        name,
        flag,
        link: "",
        data: b"",
        mode: if flag == b'5' { 0o755 } else { 0o644 },
        owner: (0, 0),
        mtime: 1_000_000_000,
        device: (0, 0),
    }
}

impl Archive {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    pub fn add(mut self, entry: Entry<'_>) -> Self {
        let mut block = vec![0; 512];
        let mut put =
            |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, entry.name);
        put(100, &format!("{:07o}", entry.mode));
        put(108, &format!("{:07o}", entry.owner.0));
        put(116, &format!("{:07o}", entry.owner.1));
        put(124, &format!("{:011o}", entry.data.len()));
        put(136, &format!("{:011o}", entry.mtime));
        put(148, "        ");
        put(157, entry.link);
        put(257, "ustar\x0000");
        put(329, &format!("{:07o}", entry.device.0));
        put(337, &format!("{:07o}", entry.device.1));
        block[156] = entry.flag;
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend(block);
        self.0.extend(entry.data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.add(Entry {
            data,
            ..entry(name, b'0')
        })
    }

    pub fn folder(self, name: &str) -> Self {
        self.add(entry(name, b'5'))
    }

    pub fn link(self, name: &str, flag: u8, link: &str) -> Self {
        self.add(Entry {
            link,
            ..entry(name, flag)
        })
    }

    /// A pax header for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            body.extend(format!("{length} {key}=").as_bytes());
            body.extend(*value);
            body.push(b'\n');
        }
        self.add(Entry {
            data: &body,
            ..entry("pax", b'x')
        })
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}
