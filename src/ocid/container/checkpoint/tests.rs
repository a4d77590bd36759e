use super::*;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use nix::sys::stat::{Mode, SFlag, mknod};

fn until(limit: Duration) -> underway::Underway {
    Checkpoints::default().begin("a", limit).unwrap()
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn a_location_is_an_absolute_path_of_a_file() {
    for bad in [
        "",
        "x.tar",
        "./x.tar",
        "/a/../x.tar",
        "/",
        "/a/",
        "/a/.",
        "/a\0b",
    ] {
        let error = check(bad, 0).unwrap_err();
        assert_eq!(error.field, "location", "{bad}: {error}");
    }
    assert_eq!(check("/a//x.tar", 0).unwrap().0, Path::new("/a/x.tar"));
}

#[test]
fn a_limit_is_in_seconds_and_has_a_default() {
    let limit = |limit| check("/x", limit).map(|checked| checked.1);
    assert_eq!(limit(0).unwrap(), USUAL_LIMIT);
    assert_eq!(limit(7).unwrap(), Duration::from_secs(7));
    assert_eq!(limit(i64::MAX).unwrap(), LONGEST);
    assert_eq!(limit(-1).unwrap_err().field, "timeout");
}

/// An upper folder as overlayfs leaves it, and layers below.
struct Tree {
    dir: tempfile::TempDir,
    lower: Vec<PathBuf>,
}

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lower = ["top", "bottom"].map(|name| dir.path().join(name)).to_vec();
        for folder in lower
            .iter()
            .chain(&[dir.path().join("upper"), dir.path().join("root")])
        {
            fs::create_dir(folder).unwrap();
        }
        Self { dir, lower }
    }

    fn upper(&self, path: &str) -> PathBuf {
        self.dir.path().join("upper").join(path)
    }

    fn changes(&self, mounts: &[&str]) -> (Vec<u8>, Vec<String>) {
        let (upper, root) = (self.upper(""), self.dir.path().join("root"));
        let parts = changes::Parts {
            upper: &upper,
            lower: &self.lower,
            root: &root,
            mounts: &mounts.iter().map(PathBuf::from).collect::<BTreeSet<_>>(),
        };
        let mut tar = Vec::new();
        let deleted = changes::write(&parts, &mut tar, &until(LONG).until).unwrap();
        (tar, deleted)
    }
}

fn entries(tar: &[u8]) -> Vec<(String, tar::EntryType, u64)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        (path, entry.header().entry_type(), entry.size())
    });
    entries.collect()
}

fn names(tar: &[u8]) -> Vec<String> {
    entries(tar).into_iter().map(|entry| entry.0).collect()
}

#[test]
fn changes_are_archived_with_kind_owner_and_names() {
    let tree = Tree::new();
    fs::create_dir_all(tree.upper("etc/deep")).unwrap();
    fs::write(tree.upper("etc/deep/file"), "content").unwrap();
    fs::hard_link(tree.upper("etc/deep/file"), tree.upper("etc/second")).unwrap();
    symlink("/no/such", tree.upper("link")).unwrap();
    nix::unistd::mkfifo(&tree.upper("fifo"), Mode::from_bits_truncate(0o644)).unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    fs::create_dir(tree.upper(&"d".repeat(120))).unwrap();
    fs::write(tree.upper(&long), "long").unwrap();
    xattr::set(tree.upper("etc/deep/file"), "user.mark", b"kept").unwrap();
    std::os::unix::net::UnixListener::bind(tree.upper("socket")).unwrap();
    let (tar, deleted) = tree.changes(&[]);
    assert_eq!(deleted, [""; 0]);
    use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink};
    let found = entries(&tar);
    for (path, kind, size) in [
        ("etc/deep/file", Regular, 7),
        ("etc/second", Link, 0),
        ("link", Symlink, 0),
        ("fifo", Fifo, 0),
        (long.as_str(), Regular, 4),
    ] {
        assert!(
            found.contains(&(path.to_owned(), kind, size)),
            "{path}: {found:?}"
        );
    }
    assert!(
        found
            .iter()
            .any(|(path, kind, _)| path.trim_end_matches('/') == "etc" && *kind == Directory)
    );
    assert!(
        !found.iter().any(|(path, ..)| path == "socket"),
        "{found:?}"
    );
    let text = String::from_utf8_lossy(&tar);
    assert!(text.contains("SCHILY.xattr.user.mark=kept"));
}

#[test]
fn deletions_are_told_and_mount_points_left_out() {
    let tree = Tree::new();
    fs::create_dir_all(tree.upper("etc")).unwrap();
    let whiteout = |path: &str| mknod(&tree.upper(path), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
    whiteout("etc/gone");
    whiteout("whole");
    fs::create_dir_all(tree.upper("proc")).unwrap();
    fs::write(tree.upper("etc/hosts"), "").unwrap();
    fs::write(tree.upper("etc/kept"), "").unwrap();
    let (tar, deleted) = tree.changes(&["proc", "etc/hosts", "elsewhere"]);
    assert_eq!(deleted, ["/etc/gone", "/whole"]);
    let names = names(&tar);
    assert!(names.contains(&"etc/kept".to_owned()), "{names:?}");
    assert!(
        !names
            .iter()
            .any(|n| n.starts_with("proc") || n == "etc/hosts" || n == "whole")
    );
}

#[test]
fn a_folder_made_anew_hides_what_the_layers_have() {
    let tree = Tree::new();
    for layer in &tree.lower {
        fs::create_dir_all(layer.join("opt")).unwrap();
    }
    fs::write(tree.lower[0].join("opt/of-top"), "").unwrap();
    fs::write(tree.lower[1].join("opt/of-bottom"), "").unwrap();
    fs::write(tree.lower[1].join("opt/new"), "").unwrap();
    fs::create_dir_all(tree.upper("opt")).unwrap();
    fs::write(tree.upper("opt/new"), "mine").unwrap();
    xattr::set(tree.upper("opt"), "trusted.overlay.opaque", b"y").unwrap();
    let (tar, deleted) = tree.changes(&[]);
    assert_eq!(deleted, ["/opt/of-bottom", "/opt/of-top"]);
    assert!(names(&tar).contains(&"opt/new".to_owned()));
    assert!(!String::from_utf8_lossy(&tar).contains("overlay.opaque"));
}

#[test]
fn what_was_renamed_is_read_through_the_root() {
    let tree = Tree::new();
    fs::create_dir_all(tree.upper("new")).unwrap();
    xattr::set(tree.upper("new"), "trusted.overlay.redirect", b"/old").unwrap();
    fs::write(tree.upper("meta"), "").unwrap();
    xattr::set(tree.upper("meta"), "trusted.overlay.metacopy", b"").unwrap();
    let root = tree.dir.path().join("root");
    fs::create_dir_all(root.join("new")).unwrap();
    fs::write(root.join("new/of-a-layer"), "there").unwrap();
    fs::write(root.join("meta"), "all of it").unwrap();
    let (tar, _) = tree.changes(&[]);
    let found = entries(&tar);
    let regular = tar::EntryType::Regular;
    assert!(
        found.contains(&("new/of-a-layer".to_owned(), regular, 5)),
        "{found:?}"
    );
    assert!(
        found.contains(&("meta".to_owned(), regular, 9)),
        "{found:?}"
    );
}

#[test]
fn holes_do_not_fill_the_disk() {
    let tree = Tree::new();
    let file = File::create(tree.upper("sparse")).unwrap();
    file.set_len(1 << 40).unwrap();
    if fs::metadata(tree.upper("sparse")).unwrap().blocks() == 0 {
        let (tar, _) = tree.changes(&[]);
        assert!(tar.len() < 1 << 16, "{}", tar.len());
        assert_eq!(entries(&tar)[0].2, 1 << 40);
    }
}

#[test]
fn a_walk_ends_with_its_time() {
    let tree = Tree::new();
    fs::write(tree.upper("file"), "").unwrap();
    let (upper, root) = (tree.upper(""), tree.dir.path().join("root"));
    let parts = changes::Parts {
        upper: &upper,
        lower: &tree.lower,
        root: &root,
        mounts: &BTreeSet::new(),
    };
    let error = changes::write(&parts, Vec::new(), &until(Duration::ZERO).until).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[test]
fn a_log_that_is_none_is_not_copied() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("secret"), "secret").unwrap();
    symlink(path("secret"), path("link")).unwrap();
    nix::unistd::mkfifo(&path("fifo"), Mode::from_bits_truncate(0o644)).unwrap();
    let long = until(LONG);
    for none in ["link", "fifo", "gone"] {
        copy_log(&path(none), &path("copy"), &long.until).unwrap();
        assert!(!path("copy").exists(), "{none}");
    }
    copy_log(&path("secret"), &path("copy"), &long.until).unwrap();
    assert_eq!(fs::read_to_string(path("copy")).unwrap(), "secret");
}
