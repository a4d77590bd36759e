//! The reader against archives made by GNU tar and by hand.

use std::io::{BufReader, Cursor};
use std::path::Path;

use super::*;
use crate::host::command::Command;

fn entries(bytes: &[u8]) -> Result<Vec<(Header, Vec<u8>)>, TarError> {
    // A small and odd buffer, so that blocks and data are met in pieces.
    let mut reader = Reader::new(BufReader::with_capacity(77, Cursor::new(bytes)));
    let mut found = Vec::new();
    while let Some(header) = reader.next_entry()? {
        let mut data = Vec::new();
        loop {
            let piece = reader.data()?;
            if piece.is_empty() {
                break;
            }
            data.extend_from_slice(piece);
            let count = piece.len();
            reader.consume(count);
        }
        found.push((header, data));
    }
    Ok(found)
}

fn gnu_tar(dir: &Path, args: &[&str]) -> Vec<u8> {
    let tar = Command::new("tar")
        .arg("-C")
        .arg(dir)
        .args(["-cf", "-", "--sort=name"]);
    tar.args(args).run().unwrap().stdout
}

/// A header block of ustar with the given fields and a right checksum.
pub fn block(name: &str, flag: u8, size: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"00000000001");
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    bytes.resize(data.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        body.push_str(&format!("{length} {key}={value}\n"));
    }
    [
        block("pax", b'x', body.len() as u64),
        padded(body.as_bytes()),
    ]
    .concat()
}

#[test]
fn every_format_of_gnu_tar_reads_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let long = "n".repeat(120);
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("d").join(&long), vec![b'x'; 1000]).unwrap();
    std::os::unix::fs::symlink("t".repeat(150), dir.path().join("s")).unwrap();
    std::fs::hard_link(dir.path().join("d").join(&long), dir.path().join("z")).unwrap();
    for format in ["gnu", "pax", "posix"] {
        let bytes = gnu_tar(dir.path(), &["--format", format, "d", "s", "z"]);
        let found = entries(&bytes).unwrap();
        let kinds: Vec<Kind> = found.iter().map(|(h, _)| h.kind).collect();
        assert_eq!(
            kinds,
            [
                Kind::Directory,
                Kind::Regular,
                Kind::Symlink,
                Kind::HardLink
            ]
        );
        assert_eq!(found[1].0.path, format!("d/{long}").as_bytes(), "{format}");
        assert_eq!(found[1].1, vec![b'x'; 1000]);
        assert_eq!(found[2].0.link, "t".repeat(150).as_bytes());
        assert_eq!(found[3].0.link, found[1].0.path);
        if format != "gnu" {
            assert_ne!(found[1].0.mtime.nanoseconds, 0, "sub-second times are kept");
        }
    }
}

#[test]
fn every_sparse_form_of_gnu_tar_is_placed_right() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(4 << 20).unwrap();
    // More pieces than the old form's header holds, and a hole at the end.
    for piece in 0..30_u64 {
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", piece * 100_000).unwrap();
    }
    for form in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let bytes = gnu_tar(dir.path(), &[form, &["--sparse", "f"][..]].concat());
        let found = entries(&bytes).unwrap();
        assert_eq!(found.len(), 1, "{form:?}");
        let (header, data) = &found[0];
        assert_eq!(
            (header.path.as_slice(), header.size),
            (&b"f"[..], 4 << 20),
            "{form:?}"
        );
        let mut file = vec![0; 4 << 20];
        let mut rest = data.as_slice();
        for segment in header.segments.as_ref().unwrap() {
            let (piece, after) = rest.split_at(segment.length as usize);
            let at = segment.offset as usize;
            file[at..at + piece.len()].copy_from_slice(piece);
            rest = after;
        }
        assert_eq!(file, std::fs::read(&path).unwrap(), "{form:?}");
    }
}

#[test]
fn pax_records_overrule_the_header() {
    let archive = [
        pax(&[
            ("path", "über/α"),
            ("uid", "3000000"),
            ("mtime", "-1.25"),
            ("SCHILY.xattr.user.k", "v=1\n2"),
        ]),
        block("short", b'0', 3),
        padded(b"abc"),
    ]
    .concat();
    let found = entries(&archive).unwrap();
    let header = &found[0].0;
    assert_eq!(header.path, "über/α".as_bytes());
    assert_eq!(header.uid, 3_000_000);
    assert_eq!(
        (header.mtime.seconds, header.mtime.nanoseconds),
        (-2, 750_000_000)
    );
    assert_eq!(header.xattrs, [(b"user.k".to_vec(), b"v=1\n2".to_vec())]);
    assert_eq!(found[0].1, b"abc");
}

#[test]
fn large_and_negative_numbers_are_base_256() {
    assert_eq!(header::number(b"\x80\0\0\0\0\0\0\0\x02\0\0\0"), Ok(1 << 25));
    assert_eq!(header::number(&[0xff; 12]), Ok(-1));
    assert_eq!(header::number(b"  644 \0"), Ok(0o644));
    assert_eq!(header::number(b""), Ok(0));
    assert!(header::number(&[0x7f, b'9']).is_err());
    assert!(header::number(&[&[0x80][..], &[0xff; 11]].concat()).is_err());
}

#[test]
fn damage_is_an_error_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), vec![7; 3000]).unwrap();
    let good = gnu_tar(dir.path(), &["--format=pax", "--sparse", "f"]);
    assert_eq!(entries(&good).unwrap().len(), 1);
    // Cut anywhere inside the entry.
    for cut in [1, 511, 513, 1024, 1030, 2000, 4000] {
        assert!(
            matches!(entries(&good[..cut]), Err(TarError::Truncated)),
            "{cut}"
        );
    }
    // A flipped bit anywhere in the headers either is an error or changes only ignored bytes.
    for at in 0..2048 {
        let mut bad = good.clone();
        bad[at] ^= 0x81;
        let _ = entries(&bad);
    }
    let mut bad = good.clone();
    bad[0] ^= 1;
    assert!(matches!(entries(&bad), Err(TarError::Malformed { .. })));
    assert!(entries(b"this is no tar").is_err());
    assert!(entries(&[b'x'; 1024]).is_err());
    assert_eq!(entries(&[]).unwrap().len(), 0);
}

#[test]
fn extension_headers_have_a_cap() {
    for flag in *b"xLK" {
        let mut archive = block("big", flag, 1 << 32);
        archive.extend(vec![b'a'; 4096]);
        assert!(
            matches!(entries(&archive), Err(TarError::Malformed { .. })),
            "{flag}"
        );
        // Many that are small each fill memory as well.
        let one = [block("many", flag, 65_000), padded(&attribute(65_000))].concat();
        let archive = [one.repeat(17), block("f", b'0', 0)].concat();
        assert!(
            matches!(entries(&archive), Err(TarError::Malformed { .. })),
            "{flag}"
        );
        let one = [block("many", flag, 65_000), padded(&attribute(65_000))].concat();
        let archive = [one.repeat(16), block("f", b'0', 0)].concat();
        assert_eq!(entries(&archive).unwrap().len(), 1, "{flag}");
    }
    let pieces = format!("{}\n", 1 << 20);
    let archive = [
        pax(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.realsize", "5"),
        ]),
        block("f", b'0', 512),
        padded(pieces.as_bytes()),
    ];
    assert!(entries(&archive.concat()).is_err());
}

/// One pax record of this length.
fn attribute(length: usize) -> Vec<u8> {
    let mut record = format!("{length} SCHILY.xattr.user.a=").into_bytes();
    record.resize(length - 1, b'v');
    record.push(b'\n');
    record
}

#[test]
fn records_for_all_that_follows_are_left_alone() {
    let mut records = pax(&[("path", "elsewhere"), ("uid", "7")]);
    records[156] = b'g';
    seal(&mut records[..BLOCK]);
    let archive = [records, block("f", b'0', 3), padded(b"abc")].concat();
    let found = entries(&archive).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0.path.as_slice(), found[0].0.uid), (&b"f"[..], 0));
}

#[test]
fn the_end_is_two_zero_blocks_or_the_end_of_the_bytes() {
    let entry = |name: &str| [block(name, b'0', 3), padded(b"abc")].concat();
    let zero = vec![0; BLOCK];
    let count = |parts: &[&[u8]]| entries(&parts.concat()).map(|found| found.len());
    assert_eq!(count(&[&entry("a")]).unwrap(), 1);
    assert_eq!(count(&[&entry("a"), &zero]).unwrap(), 1);
    assert_eq!(count(&[&entry("a"), &zero, &zero[..100]]).unwrap(), 1);
    assert_eq!(count(&[&entry("a"), &zero, &zero, b"garbage"]).unwrap(), 1);
    // Whoever skips the zero block sees another archive.
    let e = count(&[&entry("a"), &zero, &entry("b")]).unwrap_err();
    assert!(matches!(e, TarError::Malformed { offset: 1536, .. }), "{e}");
}

#[test]
fn sparse_maps_are_checked() {
    for (map, size) in [
        ("0,5,3,5", "100"),
        ("0,5,200,5", "100"),
        ("0,5", "100"),
        ("0,5,5", "100"),
        ("18446744073709551615,10", "100"),
    ] {
        let archive = [
            pax(&[("GNU.sparse.map", map), ("GNU.sparse.size", size)]),
            block("f", b'0', 10),
            padded(&[1; 10]),
        ];
        assert!(entries(&archive.concat()).is_err(), "{map}");
    }
}
