//! Layers that are refused.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;

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
    // Compressed, and nothing in it: no bytes come out that could be counted.
    let nothing = gzip(b"").repeat(60_000);
    assert!(nothing.len() > 1 << 20);
    let done = unpack_as(&nothing, &expected(&nothing, b""), limits);
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
    // Something behind the compressed stream is not of this layer, whatever its digest says.
    for blob in [
        gzip(&archive),
        zstd::encode_all(archive.as_slice(), 1).unwrap(),
    ] {
        let more = [blob.as_slice(), b"garbage"].concat();
        let done = unpack_as(&more, &expected(&more, &archive), Limits::default());
        assert!(
            matches!(done.result, Err(LayerError::Inflate(_))),
            "{:?}",
            done.result
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
