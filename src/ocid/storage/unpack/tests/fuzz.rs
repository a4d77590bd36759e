//! Good archives with random damage, the same in every run: whatever a stranger sends, the reader ends
//! with an entry or an error, and nothing is written outside the layer's folder. `LAYER_SEED=N` makes other
//! damage, `LAYER_SECONDS=N` more of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use super::*;
use crate::host::fs::remove_tree;
use crate::ocid::storage::tar::Reader;

const SEED: u64 = 0x5eed_0f1a_7e45;
/// Damaged archives per test; a slow machine stops at the time, having seen at least `FEWEST`.
const READ: u32 = 20_000;
const UNPACKED: u32 = 1_500;
const FEWEST: u32 = 100;
const SECONDS: u64 = 4;
const BLOCK: usize = 512;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Numbers of damaged archives: up to `most`, or as many as the time asked for allows.
fn rounds(most: u32) -> impl Iterator<Item = u32> {
    let asked = setting("LAYER_SECONDS");
    let (start, time) = (
        Instant::now(),
        Duration::from_secs(asked.unwrap_or(SECONDS)),
    );
    let most = if asked.is_some() { u32::MAX } else { most };
    (0..most).take_while(move |round| *round < FEWEST || start.elapsed() < time)
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn new() -> Self {
        // A zero would stay one.
        Self(setting("LAYER_SEED").unwrap_or(SEED).max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Names that once led somewhere they should not have.
fn names(outside: &str) -> Vec<String> {
    let own = [
        "../x",
        "/",
        ".",
        "..",
        "a/../../x",
        "./../.wh.x",
        ".wh.",
        ".wh..",
        ".wh...",
        ".wh..wh..opq",
        ".wh.d",
        "d/.wh..wh..opq",
        "d",
        "d/f",
        "f",
        "f/x",
        "l",
        "l/victim",
        "l/new",
        "up/x",
        "up",
        "h",
        "sparse",
        "null",
        "d/",
        "l/",
    ];
    own.iter()
        .map(|n| (*n).to_owned())
        .chain([
            outside.to_owned(),
            format!("{outside}/victim"),
            format!("../../../../..{outside}/victim"),
        ])
        .collect()
}

fn good(outside: &str) -> Vec<Vec<u8>> {
    let kinds = Archive::new()
        .folder("d/")
        .file("d/f", &[b'x'; 1500])
        .add(Entry {
            mode: 0o4755,
            owner: (7, 8),
            data: b"setuid",
            ..entry("f", b'0')
        })
        .link("h", b'1', "d/f")
        .link("l", b'2', outside)
        .link("up", b'2', "../../../..")
        .add(Entry {
            device: (1, 3),
            ..entry("null", b'3')
        })
        .add(entry("pipe", b'6'))
        .file("l/new", b"through a link")
        .end();
    let records = Archive::new()
        .pax(&[
            ("path", b"long/name/of/a/file"),
            ("mtime", b"1500000000.123456789"),
            ("uid", b"1000"),
            ("SCHILY.xattr.user.k", b"value"),
        ])
        .file("short", b"data")
        .pax(&[("linkpath", b"long/name/of/a/file")])
        .link("h", b'1', "x")
        .pax(&[("GNU.sparse.map", b"512,4"), ("GNU.sparse.size", b"8192")])
        .file("sparse", b"data")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse-1.0"),
            ("GNU.sparse.realsize", b"4096"),
        ])
        .file(
            "x",
            &[b"1\n0\n4\n".to_vec(), vec![0; 506], b"data".to_vec()].concat(),
        )
        .add(Entry {
            data: &[b"n".repeat(200), vec![0]].concat(),
            ..entry("././@LongLink", b'L')
        })
        .file("short", b"gnu")
        .end();
    let whiteouts = Archive::new()
        .file(".wh.gone", b"")
        .folder("d/")
        .file("d/.wh..wh..opq", b"")
        .file("d/kept", b"1")
        .file("again/.wh.dir", b"")
        .file("again/dir/new", b"3")
        .file("again", b"in place of a folder")
        .link("d", b'2', "again")
        .folder("d/")
        .end();
    vec![kinds, records, whiteouts]
}

/// Gives every block that looks like a header a right checksum, so that damage gets past it.
fn seal(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            block[148..156].copy_from_slice(b"        ");
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
}

fn damage(random: &mut Random, good: &[Vec<u8>], names: &[String]) -> Vec<u8> {
    let mut bytes = random.of(good).clone();
    for _ in 0..=random.below(6) {
        let blocks = (bytes.len() / BLOCK).max(1);
        let block = random.below(blocks) * BLOCK;
        match random.below(10) {
            0 => {
                let at = random.below(bytes.len());
                bytes[at] ^= random.next() as u8;
            }
            // A field of a header: number, type, name, link, device.
            1 | 2 => {
                let (from, length) = *random.of(&[
                    (0, 100),
                    (100, 8),
                    (108, 8),
                    (116, 8),
                    (124, 12),
                    (136, 12),
                    (156, 1),
                    (157, 100),
                    (257, 8),
                    (329, 8),
                    (337, 8),
                    (345, 155),
                ]);
                let at = block + from + random.below(length);
                let value = *random.of(b"01234567xgLKSV/.\0\xff\x80 ");
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            3..=5 => {
                let field = *random.of(&[0, 157]);
                let name = random.of(names).as_bytes();
                let name = &name[..name.len().min(99)];
                if let Some(place) = bytes.get_mut(block + field..block + field + 100) {
                    place.fill(0);
                    place[..name.len()].copy_from_slice(name);
                }
            }
            6 => {
                let other = random.of(good);
                let from = random.below(other.len() / BLOCK) * BLOCK;
                bytes.truncate(block);
                bytes.extend_from_slice(&other[from..]);
            }
            7 => {
                let length = random.below(4) * BLOCK;
                let end = (block + length).min(bytes.len());
                let copy = bytes[block.min(end)..end].to_vec();
                let at = random.below(blocks) * BLOCK;
                bytes.splice(at..at, copy);
            }
            8 => {
                let end = (block + BLOCK).min(bytes.len());
                bytes.drain(block.min(end)..end);
            }
            _ => bytes.truncate(random.below(bytes.len())),
        }
        if bytes.is_empty() {
            bytes = random.of(good).clone();
        }
    }
    if random.below(8) > 0 {
        seal(&mut bytes);
    }
    bytes
}

#[test]
fn the_reader_ends_with_an_entry_or_an_error() {
    let (good, names) = (good("/nowhere"), names("/nowhere"));
    let mut random = Random::new();
    let (mut whole, mut refused) = (0, 0);
    for round in rounds(READ) {
        let bytes = damage(&mut random, &good, &names);
        let input = io::BufReader::with_capacity(1 + random.below(700), bytes.as_slice());
        let mut reader = Reader::new(input);
        // No archive has more entries than blocks.
        let ended = (0..=bytes.len() / BLOCK + 1).find_map(|_| match reader.next_entry() {
            Ok(Some(_)) => None,
            Ok(None) => Some(true),
            Err(_) => Some(false),
        });
        match ended {
            Some(true) => whole += 1,
            Some(false) => refused += 1,
            None => panic!("round {round}: more entries than blocks"),
        }
    }
    assert!(whole > 10 && refused > 10, "{whole} {refused}");
}

#[test]
fn nothing_is_written_outside_the_layer() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let picture = |path: &Path| {
        let m = fs::symlink_metadata(path).unwrap();
        let xattrs = xattr::list(path).unwrap().count();
        (
            m.mode(),
            m.uid(),
            m.gid(),
            m.nlink(),
            m.mtime(),
            m.mtime_nsec(),
            m.size(),
            xattrs,
        )
    };
    let before = (picture(outside.path()), picture(&victim));
    let out = outside.path().to_str().unwrap();
    let (good, names) = (good(out), names(out));
    let limits = Limits {
        bytes: 4 << 20,
        entries: 500,
    };
    let mut random = Random::new();
    let (mut whole, mut refused) = (0, 0);
    for round in rounds(UNPACKED) {
        let archive = damage(&mut random, &good, &names);
        let blob = match random.below(4) {
            0 => gzip(&archive),
            _ => archive.clone(),
        };
        let done = unpack_as(&blob, &expected(&blob, &archive), limits);
        match &done.result {
            Ok(_) => whole += 1,
            // The whole blob was fed: only a thread that panicked could end so.
            Err(LayerError::Abandoned) => panic!("round {round}: a thread died"),
            Err(_) => refused += 1,
        }
        assert_eq!(
            fs::read_dir(done.dir.path()).unwrap().count(),
            1,
            "round {round}"
        );
        assert_eq!(
            fs::read_dir(outside.path()).unwrap().count(),
            1,
            "round {round}"
        );
        assert_eq!(
            (picture(outside.path()), picture(&victim)),
            before,
            "round {round}"
        );
        // What is there can be removed as the daemon does it.
        remove_tree(done.dir.path(), Path::new("layer")).unwrap();
        assert_eq!(
            fs::read_dir(done.dir.path()).unwrap().count(),
            0,
            "round {round}"
        );
    }
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    assert!(whole > 10 && refused > 10, "{whole} {refused}");
}
