//! Layers, from archive bytes to a folder: what must come out, and (in `hostile`) what must not.

mod archive;
mod fuzz;
mod hostile;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::*;
use archive::{Archive, Entry, entry};

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
