//! Layers, kind and hostile, from archive bytes to a folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::*;

/// Builds archives entry by entry, also such as no program would write.
struct Archive(Vec<u8>);

struct Entry<'a> {
    name: &'a str,
    flag: u8,
    link: &'a str,
    data: &'a [u8],
    mode: u32,
    owner: (u32, u32),
    mtime: u64,
    device: (u32, u32),
}

fn entry(name: &str, flag: u8) -> Entry<'_> {
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
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(mut self, entry: Entry<'_>) -> Self {
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

    fn file(self, name: &str, data: &[u8]) -> Self {
        self.add(Entry {
            data,
            ..entry(name, b'0')
        })
    }

    fn folder(self, name: &str) -> Self {
        self.add(entry(name, b'5'))
    }

    fn link(self, name: &str, flag: u8, link: &str) -> Self {
        self.add(Entry {
            link,
            ..entry(name, flag)
        })
    }

    /// A pax header for the next entry.
    fn pax(self, records: &[(&str, &[u8])]) -> Self {
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

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

struct Unpacking {
    dir: tempfile::TempDir,
    result: Result<Unpacked, LayerError>,
}

impl Unpacking {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("layer").join(name)
    }

    fn ok(self) -> Self {
        if let Err(e) = &self.result {
            panic!("{}", crate::ocid::image::chain(e));
        }
        self
    }

    fn problem(&self) -> String {
        crate::ocid::image::chain(self.result.as_ref().unwrap_err())
    }
}

fn expected(blob: &[u8], archive: &[u8]) -> Expected {
    Expected {
        blob: Digest::sha256(blob),
        size: blob.len() as u64,
        diff_id: Digest::sha256(archive),
    }
}

/// Feeds `blob` in uneven pieces.
fn unpack_as(blob: &[u8], expected: &Expected, limits: Limits) -> Unpacking {
    let dir = tempfile::tempdir().unwrap();
    let layer = dir.path().join("layer");
    fs::create_dir(&layer).unwrap();
    let root: OwnedFd = fs::File::open(&layer).unwrap().into();
    let (sender, feed) = feed();
    let blob = blob.to_vec();
    let feeder = thread::spawn(move || {
        let mut rest = blob.as_slice();
        for size in (1..).map(|n: usize| n * 977) {
            let (piece, after) = rest.split_at(size.min(rest.len()));
            let piece = prost::bytes::Bytes::copy_from_slice(piece);
            if piece.is_empty() || sender.blocking_send(Fed::Piece(piece)).is_err() {
                break;
            }
            rest = after;
        }
        let _ = sender.blocking_send(Fed::End);
    });
    let result = unpack(root, feed, expected, limits);
    feeder.join().unwrap();
    Unpacking { dir, result }
}

fn unpack_plain(archive: &[u8]) -> Unpacking {
    unpack_as(archive, &expected(archive, archive), Limits::default())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn opaque(path: &Path) -> bool {
    xattr::get(path, tree::OPAQUE)
        .unwrap()
        .is_some_and(|v| v == b"y")
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

#[test]
fn every_kind_of_entry_with_all_its_attributes() {
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let archive = Archive::new()
        .add(Entry {
            mode: 0o711,
            owner: (5, 6),
            mtime: 77,
            ..entry("./", b'5')
        })
        .add(Entry {
            mode: 0o2775,
            owner: (1000, 50),
            mtime: 42,
            ..entry("d/", b'5')
        })
        .add(Entry {
            mode: 0o4755,
            owner: (7, 8),
            data: b"setuid",
            ..entry("d/f", b'0')
        })
        .add(Entry {
            mode: 0o666,
            data: &[b'x'; 70_000],
            ..entry("d/big", b'0')
        })
        .link("d/hard", b'1', "d/f")
        .link("s", b'2', "/etc/passwd")
        .add(Entry {
            device: (1, 3),
            mode: 0o620,
            owner: (0, 5),
            ..entry("null", b'3')
        })
        .add(Entry {
            device: (7, 300),
            mode: 0o600,
            ..entry("disk", b'4')
        })
        .add(entry("pipe", b'6'))
        .pax(&[
            ("mtime", b"1500000000.123456789"),
            ("SCHILY.xattr.security.capability", capability),
        ])
        .file("capable", b"")
        .pax(&[("path", b"implied/deep/\xff\xfe")])
        .file("x", b"latin")
        .end();
    let done = unpack_plain(&archive).ok();
    let root = fs::metadata(done.path("")).unwrap();
    assert_eq!(
        (root.mode() & 0o7777, root.uid(), root.gid(), root.mtime()),
        (0o711, 5, 6, 77)
    );
    let folder = fs::metadata(done.path("d")).unwrap();
    assert_eq!(
        (folder.mode() & 0o7777, folder.uid(), folder.gid()),
        (0o2775, 1000, 50)
    );
    assert_eq!(folder.mtime(), 42, "not the time of what was put into it");
    let file = fs::metadata(done.path("d/f")).unwrap();
    assert_eq!(
        (file.mode() & 0o7777, file.uid(), file.gid()),
        (0o4755, 7, 8)
    );
    assert_eq!((file.mtime(), file.nlink()), (1_000_000_000, 2));
    assert_eq!(file.ino(), fs::metadata(done.path("d/hard")).unwrap().ino());
    let big = fs::metadata(done.path("d/big")).unwrap();
    assert_eq!(
        (big.mode() & 0o7777, big.gid(), big.len()),
        (0o666, 0, 70_000),
        "nothing inherited"
    );
    assert_eq!(
        fs::read_link(done.path("s")).unwrap(),
        Path::new("/etc/passwd")
    );
    let null = fs::symlink_metadata(done.path("null")).unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!(
        (null.rdev(), null.mode() & 0o7777, null.gid()),
        (libc::makedev(1, 3), 0o620, 5)
    );
    let disk = fs::symlink_metadata(done.path("disk")).unwrap();
    assert!(disk.file_type().is_block_device());
    assert_eq!(disk.rdev(), libc::makedev(7, 300));
    assert!(
        fs::symlink_metadata(done.path("pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    let capable = fs::metadata(done.path("capable")).unwrap();
    assert_eq!(
        (capable.mtime(), capable.mtime_nsec()),
        (1_500_000_000, 123_456_789)
    );
    let kept = xattr::get(done.path("capable"), "security.capability").unwrap();
    assert_eq!(kept.as_deref(), Some(&capability[..]));
    assert_eq!(mode(&done.path("implied/deep")), 0o755);
    let names: Vec<_> = fs::read_dir(done.path("implied/deep")).unwrap().collect();
    assert_eq!(
        names[0].as_ref().unwrap().file_name().as_encoded_bytes(),
        b"\xff\xfe"
    );
}

#[test]
fn the_compression_is_told_by_its_first_bytes() {
    let archive = Archive::new().file("f", &[b'z'; 300_000]).end();
    let (head, tail) = archive.split_at(100_000);
    let blobs = [
        ("plain", archive.clone()),
        ("gzip", gzip(&archive)),
        ("gzip in two members", [gzip(head), gzip(tail)].concat()),
        ("zstd", zstd::encode_all(archive.as_slice(), 3).unwrap()),
        (
            "zstd with a skippable frame",
            [
                b"\x50\x2a\x4d\x18\x02\0\0\0ab".to_vec(),
                zstd::encode_all(archive.as_slice(), 3).unwrap(),
            ]
            .concat(),
        ),
    ];
    for (name, blob) in blobs {
        let done = unpack_as(&blob, &expected(&blob, &archive), Limits::default());
        let result = done
            .result
            .as_ref()
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(result.archive, archive.len() as u64, "{name}");
        assert_eq!(fs::read(done.path("f")).unwrap(), [b'z'; 300_000], "{name}");
    }
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_of_the_same_layer() {
    let archive = Archive::new()
        .file(".wh.gone", b"")
        .folder("opq/")
        .file("opq/kept", b"1")
        .file("opq/.wh..wh..opq", b"")
        .file("same/file", b"2")
        .file("same/.wh.file", b"")
        .file("again/.wh.dir", b"")
        .file("again/dir/new", b"3")
        .file("late/dir/new", b"4")
        .file("late/.wh.dir", b"")
        .file("again/.wh.name", b"")
        .file("again/name", b"5")
        .file(".wh..wh.plnk/1.2", b"aufs")
        .file(".wh..wh.aufs", b"aufs")
        .end();
    let done = unpack_plain(&archive).ok();
    assert!(is_whiteout(&done.path("gone")));
    assert!(opaque(&done.path("opq")) && done.path("opq/kept").exists());
    assert_eq!(fs::read(done.path("same/file")).unwrap(), b"2");
    assert!(opaque(&done.path("again/dir")) && done.path("again/dir/new").exists());
    assert!(opaque(&done.path("late/dir")) && done.path("late/dir/new").exists());
    assert_eq!(fs::read(done.path("again/name")).unwrap(), b"5");
    let mut top: Vec<_> = fs::read_dir(done.path(""))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    top.sort();
    assert_eq!(top, ["again", "gone", "late", "opq", "same"]);
}

#[test]
fn a_later_entry_replaces_an_earlier_one_of_any_kind() {
    let archive = Archive::new()
        .file("a/deep/x", b"")
        .file("a", b"file over a folder")
        .file("b", b"")
        .folder("b/")
        .file("b/y", b"folder over a file")
        .link("c", b'2', "b")
        .folder("c/")
        .file("c/z", b"folder over a link")
        .file("d", b"one")
        .file("d", b"two")
        .file("e", b"")
        .link("e", b'2', "d")
        .file("f", b"")
        .link("f", b'1', "d")
        .end();
    let done = unpack_plain(&archive).ok();
    assert_eq!(fs::read(done.path("a")).unwrap(), b"file over a folder");
    assert_eq!(fs::read(done.path("b/y")).unwrap(), b"folder over a file");
    assert!(!done.path("b/z").exists());
    assert_eq!(fs::read(done.path("c/z")).unwrap(), b"folder over a link");
    assert_eq!(fs::read(done.path("d")).unwrap(), b"two");
    assert_eq!(fs::read_link(done.path("e")).unwrap(), Path::new("d"));
    assert_eq!(fs::read(done.path("f")).unwrap(), b"two");
}

#[test]
fn links_in_the_layer_resolve_inside_it() {
    let outside = tempfile::tempdir().unwrap();
    let outside_path = outside.path().to_str().unwrap();
    let absolute = format!("{outside_path}/");
    let archive = Archive::new()
        .folder("real/")
        .link("in", b'2', "/real")
        .file("in/f", b"by an absolute link")
        .link("up", b'2', "../../../../../../real")
        .file("up/g", b"by too many ..")
        .link("out", b'2', &absolute)
        .link("hard", b'1', "out")
        .file("/abs", b"no leading slash")
        .file("./a/./b/../c", b"cleaned")
        .end();
    let done = unpack_plain(&archive).ok();
    assert_eq!(
        fs::read(done.path("real/f")).unwrap(),
        b"by an absolute link"
    );
    assert_eq!(fs::read(done.path("real/g")).unwrap(), b"by too many ..");
    assert_eq!(fs::read(done.path("abs")).unwrap(), b"no leading slash");
    assert_eq!(fs::read(done.path("a/c")).unwrap(), b"cleaned");
    assert!(
        fs::symlink_metadata(done.path("hard"))
            .unwrap()
            .is_symlink(),
        "the link, not its target"
    );
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn hostile_layers_are_refused_and_touch_nothing_outside() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let out = outside.path().to_str().unwrap().to_owned();
    let victim_path = victim.to_str().unwrap().to_owned();
    let deep = format!("{}f", "d/".repeat(600));
    let long = "a/".repeat(2100);
    let through = format!("{out}/x");
    let cases: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
        ("dotdot", Archive::new().file("../x", b"bad").end()),
        (
            "dotdot later",
            Archive::new().file("a/../../x", b"bad").end(),
        ),
        (
            "link then through it",
            Archive::new()
                .link("l", b'2', &out)
                .file("l/x", b"bad")
                .end(),
        ),
        (
            "chain",
            Archive::new()
                .link("a", b'2', "b")
                .link("b", b'2', "a")
                .file("a/x", b"bad")
                .end(),
        ),
        (
            "hard link out",
            Archive::new()
                .link("h", b'1', &format!("../../../..{victim_path}"))
                .end(),
        ),
        (
            "hard link absolute",
            Archive::new()
                .link("h", b'1', &victim_path)
                .file("h", b"bad")
                .end(),
        ),
        (
            "hard link through a link",
            Archive::new()
                .link("l", b'2', &out)
                .link("h", b'1', "l/victim")
                .end(),
        ),
        (
            "hard link to a folder",
            Archive::new().folder("d/").link("h", b'1', "d").end(),
        ),
        (
            "hard link to the root",
            Archive::new().link("h", b'1', "/").end(),
        ),
        ("whiteout of ..", Archive::new().file("d/.wh...", b"").end()),
        (
            "whiteout of nothing",
            Archive::new().file(".wh.", b"").end(),
        ),
        (
            "below a whiteout",
            Archive::new().file(".wh.x/y", b"").end(),
        ),
        (
            "the root as a file",
            Archive::new().file("./", b"").link(".", b'2', &out).end(),
        ),
        (
            "the root as a link",
            Archive::new().link("..//a/..", b'2', &out).end(),
        ),
        (
            "too deep",
            Archive::new()
                .pax(&[("path", deep.as_bytes())])
                .file("x", b"")
                .end(),
        ),
        (
            "too long",
            Archive::new()
                .pax(&[("path", long.as_bytes())])
                .file("x", b"")
                .end(),
        ),
        (
            "a file as folder",
            Archive::new().file("f", b"").file("f/x", b"bad").end(),
        ),
        ("unknown type", Archive::new().add(entry("x", b'M')).end()),
        ("empty link", Archive::new().link("l", b'2', "").end()),
        (
            "no archive",
            b"this is not an archive at all, is it".repeat(40),
        ),
        (
            "through an absolute path",
            Archive::new()
                .link("l", b'2', "/")
                .link("m", b'2', &through)
                .file("m/y", b"")
                .end(),
        ),
    ]);
    for (name, archive) in cases {
        let done = unpack_plain(&archive);
        match name {
            // These two stay inside: the paths are the layer's own.
            "link then through it" | "through an absolute path" => {}
            _ => assert!(done.result.is_err(), "{name}"),
        }
        assert_eq!(fs::read(&victim).unwrap(), b"untouched", "{name}");
        assert_eq!(fs::metadata(&victim).unwrap().nlink(), 1, "{name}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "{name}");
        assert_eq!(fs::read_dir(done.dir.path()).unwrap().count(), 1, "{name}");
    }
}

#[test]
fn links_cannot_build_a_tree_too_deep_to_remove() {
    let step = "d/".repeat(200);
    let mut archive = Archive::new();
    let mut at = String::new();
    for round in 0..4 {
        let inner = format!("{at}{step}");
        archive = archive.pax(&[("path", inner.as_bytes())]).folder("x");
        let link = format!("l{round}");
        archive = archive
            .pax(&[("linkpath", inner.as_bytes())])
            .link(&link, b'2', "x");
        at = format!("{link}/");
    }
    assert!(unpack_plain(&archive.end()).result.is_err());
}

#[test]
fn the_attributes_that_steer_the_kernel_are_left_out() {
    let archive = Archive::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"x"),
        ])
        .folder("d/")
        .end();
    let done = unpack_plain(&archive).ok();
    assert_eq!(xattr::list(done.path("d")).unwrap().count(), 0);
}

#[test]
fn bombs_by_size_and_count_are_stopped() {
    let limits = Limits {
        bytes: 1 << 20,
        entries: 100,
    };
    let bomb = Archive::new().file("f", &vec![0; 64 << 20]).end();
    let blob = gzip(&bomb);
    let done = unpack_as(&blob, &expected(&blob, &bomb), limits);
    assert!(matches!(
        done.result,
        Err(LayerError::Limit { unit: "bytes", .. })
    ));
    let mut many = Archive::new();
    for n in 0..101 {
        many = many.file(&format!("f{n}"), b"");
    }
    let many = many.end();
    let done = unpack_as(&many, &expected(&many, &many), limits);
    assert!(matches!(
        done.result,
        Err(LayerError::Limit {
            unit: "entries",
            ..
        })
    ));
    // A hole costs no disk, and is counted all the same.
    let sparse = Archive::new()
        .pax(&[
            ("GNU.sparse.map", b"0,1"),
            ("GNU.sparse.size", b"9000000000000"),
        ])
        .file("hole", b"x")
        .end();
    let done = unpack_as(&sparse, &expected(&sparse, &sparse), limits);
    assert!(matches!(
        done.result,
        Err(LayerError::Limit { unit: "bytes", .. })
    ));
}

#[test]
fn sparse_files_stay_sparse() {
    let archive = Archive::new()
        .pax(&[
            ("GNU.sparse.map", b"1048576,4"),
            ("GNU.sparse.size", b"8388608"),
        ])
        .file("hole", b"data")
        .end();
    let done = unpack_plain(&archive).ok();
    let found = fs::metadata(done.path("hole")).unwrap();
    assert_eq!(found.len(), 8 << 20);
    assert!(found.blocks() < 100, "{}", found.blocks());
    assert_eq!(
        &fs::read(done.path("hole")).unwrap()[1 << 20..][..5],
        b"data\0"
    );
}

#[test]
fn every_digest_and_size_is_compared() {
    let archive = Archive::new().file("f", b"data").end();
    let blob = gzip(&archive);
    let good = expected(&blob, &archive);
    let other = Digest::sha256(b"other");
    let with = |change: &dyn Fn(&mut Expected)| {
        let mut expected = good.clone();
        change(&mut expected);
        unpack_as(&blob, &expected, Limits::default())
    };
    with(&|_| {}).ok();
    let bad = with(&|e| e.blob = other.clone());
    assert!(
        matches!(
            bad.result,
            Err(LayerError::WrongDigest { what: "digest", .. })
        ),
        "{}",
        bad.problem()
    );
    let bad = with(&|e| e.diff_id = other.clone());
    assert!(
        matches!(
            bad.result,
            Err(LayerError::WrongDigest {
                what: "diff id",
                ..
            })
        ),
        "{}",
        bad.problem()
    );
    let bad = with(&|e| e.size += 1);
    assert!(
        matches!(bad.result, Err(LayerError::WrongSize { .. })),
        "{}",
        bad.problem()
    );
    let bad = with(&|e| e.size -= 1);
    assert!(
        matches!(bad.result, Err(LayerError::WrongSize { .. })),
        "{}",
        bad.problem()
    );
}

#[test]
fn damaged_streams_say_so() {
    let archive = Archive::new().file("f", &[b'x'; 500_000]).end();
    for blob in [
        gzip(&archive),
        zstd::encode_all(archive.as_slice(), 1).unwrap(),
    ] {
        // What the manifest promised, but with a flipped bit: the digest tells.
        let mut flipped = blob.clone();
        flipped[blob.len() / 2] ^= 4;
        let done = unpack_as(&flipped, &expected(&blob, &archive), Limits::default());
        assert!(
            matches!(
                done.result,
                Err(LayerError::WrongDigest { what: "digest", .. })
            ),
            "{}",
            done.problem()
        );
        // Damaged before the manifest was written: the inflater tells, or the plain digest.
        let done = unpack_as(&flipped, &expected(&flipped, &archive), Limits::default());
        let told = matches!(
            done.result,
            Err(LayerError::Inflate(_)
                | LayerError::WrongDigest {
                    what: "diff id",
                    ..
                }
                | LayerError::Archive(_))
        );
        assert!(told, "{}", done.problem());
        let cut = &blob[..blob.len() / 2];
        let done = unpack_as(cut, &expected(cut, &archive), Limits::default());
        assert!(
            matches!(done.result, Err(LayerError::Inflate(_))),
            "{}",
            done.problem()
        );
    }
    let cut = &archive[..100_000];
    let done = unpack_as(cut, &expected(cut, cut), Limits::default());
    assert!(
        matches!(done.result, Err(LayerError::Archive(_))),
        "{}",
        done.problem()
    );
}

#[test]
fn a_download_that_gives_up_ends_the_threads() {
    let dir = tempfile::tempdir().unwrap();
    let root: OwnedFd = fs::File::open(dir.path()).unwrap().into();
    let archive = Archive::new().file("f", &[b'x'; 500_000]).end();
    let (sender, feed) = feed();
    let piece = prost::bytes::Bytes::copy_from_slice(&archive[..100_000]);
    sender.blocking_send(Fed::Piece(piece)).ok().unwrap();
    drop(sender);
    let result = unpack(root, feed, &expected(&archive, &archive), Limits::default());
    assert!(matches!(result, Err(LayerError::Abandoned)), "{result:?}");
}
