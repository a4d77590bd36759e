use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::os::unix::fs::symlink;
use tar::{Builder, Header};

/// A tar of members as a hostile hand writes them: names are put in unchecked.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn member(
        mut self,
        name: &str,
        kind: EntryType,
        link: &str,
        content: &[u8],
        mode: u32,
    ) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.member(name, EntryType::Regular, "", content, 0o755)
    }

    fn link(self, name: &str, kind: EntryType, target: &str) -> Self {
        self.member(name, kind, target, b"", 0o777)
    }

    fn gz(self) -> Vec<u8> {
        gzip(&self.0.into_inner().unwrap())
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

/// A folder to unpack into, beside one that must stay as it is.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("dest")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/kept"), "kept").unwrap();
        Self { dir }
    }

    fn dest(&self) -> PathBuf {
        self.dir.path().join("dest")
    }

    fn unpack(&self, gz: &[u8]) -> Result<Vec<Unpacked>, ArchiveError> {
        self.unpack_as(gz, 0, None, Caps::default())
    }

    fn unpack_as(
        &self,
        gz: &[u8],
        strip: usize,
        wanted: Option<&[&str]>,
        caps: Caps,
    ) -> Result<Vec<Unpacked>, ArchiveError> {
        let dest = self.dest();
        let archive = Path::new("sample.tgz");
        unpack_from(
            gz,
            &Unpack {
                archive,
                dest: &dest,
                strip,
                wanted,
                caps,
            },
        )
    }

    /// Every path below the temporary folder.
    fn tree(&self) -> Vec<String> {
        fn walk(root: &Path, at: &Path, into: &mut Vec<String>) {
            for entry in fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                into.push(path.strip_prefix(root).unwrap().display().to_string());
                if path.is_dir() && !path.is_symlink() {
                    walk(root, &path, into);
                }
            }
        }
        let mut paths = Vec::new();
        walk(self.dir.path(), self.dir.path(), &mut paths);
        paths.sort();
        paths
    }

    /// The archive is refused with this in the message, and nothing has changed.
    fn refuses(&self, gz: &[u8], with: &str) {
        let before = self.tree();
        let error = self.unpack(gz).expect_err(with);
        let text = match &error {
            ArchiveError::Read { source, .. } | ArchiveError::Write { source, .. } => {
                format!("{error}: {source}")
            }
            other => other.to_string(),
        };
        assert!(text.contains(with), "{text:?} does not say {with:?}");
        assert!(text.contains("sample.tgz"), "{text}");
        assert!(error.hint().is_some());
        assert_eq!(self.tree(), before, "{with}");
        assert_eq!(
            fs::read_to_string(self.dir.path().join("outside/kept")).unwrap(),
            "kept"
        );
    }
}

#[test]
fn a_release_archive() {
    let place = Place::new();
    let gz = Tar::new()
        .member("./", EntryType::Directory, "", b"", 0o755)
        .file("./bridge", b"bridge program")
        .member("./LICENSE", EntryType::Regular, "", b"text", 0o6666)
        .member("./deep/er/x", EntryType::Regular, "", b"", 0o644)
        .link("./deep/up", EntryType::Symlink, "../bridge")
        .link("./hard", EntryType::Link, "./bridge")
        .gz();
    let files = place.unpack(&gz).unwrap();
    let sum = Sha256Sum::of(b"bridge program");
    let entry = |path: &str, mode, size, sha256| Unpacked {
        path: path.into(),
        mode,
        size,
        sha256,
    };
    assert_eq!(
        files,
        [
            entry("bridge", 0o755, 14, sum),
            entry("LICENSE", 0o644, 4, Sha256Sum::of(b"text")),
            entry("deep/er/x", 0o644, 0, Sha256Sum::of(b"")),
            entry("hard", 0o755, 14, sum),
        ]
    );
    let mode = |name: &str| {
        fs::metadata(place.dest().join(name))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(mode("bridge") & 0o7777, 0o755);
    assert_eq!(mode("LICENSE") & 0o7777, 0o644);
    assert_eq!(
        fs::read(place.dest().join("deep/up")).unwrap(),
        b"bridge program"
    );
}

#[test]
fn stripped_and_chosen() {
    let place = Place::new();
    let gz = Tar::new()
        .member("docker/", EntryType::Directory, "", b"", 0o755)
        .file("docker/dockerd", b"d")
        .file("docker/runc", b"r")
        .gz();
    let wanted = ["dockerd"];
    let files = place
        .unpack_as(&gz, 1, Some(&wanted), Caps::default())
        .unwrap();
    assert_eq!(files.len(), 1);
    assert_eq!(
        place.tree(),
        ["dest", "dest/dockerd", "outside", "outside/kept"]
    );

    let place = Place::new();
    let wanted = ["dockerd", "docker-proxy"];
    let error = place
        .unpack_as(&gz, 1, Some(&wanted), Caps::default())
        .unwrap_err();
    assert!(
        error.to_string().ends_with("it holds no `docker-proxy`"),
        "{error}"
    );
    assert_eq!(place.tree(), ["dest", "outside", "outside/kept"]);

    let unwanted = Tar::new()
        .file("docker/dockerd", b"d")
        .file("docker/../../x", b"")
        .gz();
    let error = place
        .unpack_as(&unwanted, 1, Some(&["dockerd"]), Caps::default())
        .unwrap_err();
    assert!(error.to_string().contains("`..`"), "{error}");
    let flat = Tar::new().file("dockerd", b"d").gz();
    let error = place
        .unpack_as(&flat, 1, None, Caps::default())
        .unwrap_err();
    assert!(error.to_string().contains("no name below"), "{error}");
}

#[test]
fn paths_that_leave() {
    let place = Place::new();
    let absolute = place.dir.path().join("outside/new").display().to_string();
    let first = || Tar::new().file("first", b"1");
    place.refuses(
        &first().file("../outside/kept", b"x").gz(),
        "`..` in its path",
    );
    place.refuses(
        &first().file("a/../../outside/kept", b"x").gz(),
        "`..` in its path",
    );
    place.refuses(&first().file(&absolute, b"x").gz(), "absolute path");
    place.refuses(
        &first()
            .member("..", EntryType::Directory, "", b"", 0o755)
            .gz(),
        "`..` in its path",
    );
}

#[test]
fn links_that_leave() {
    let place = Place::new();
    let outside = place.dir.path().join("outside").display().to_string();
    for target in [outside.as_str(), "../outside", "a/../../outside", ".."] {
        let gz = Tar::new()
            .link("l", EntryType::Symlink, target)
            .file("l/kept", b"x")
            .gz();
        place.refuses(&gz, "a link that leaves the archive");
    }
    // A link inside, and a member that would be written through it.
    let through = Tar::new()
        .file("d/f", b"")
        .link("l", EntryType::Symlink, "d")
        .file("l/g", b"x")
        .gz();
    place.refuses(&through, "dest/l");
    // A link to a link whose `..` would be resolved where the first leads.
    let chained = Tar::new()
        .file("a/b/f", b"")
        .link("s", EntryType::Symlink, "a/b")
        .link("t", EntryType::Symlink, "s/../../../outside")
        .gz();
    place.refuses(&chained, "a link that leaves the archive");
    for target in ["../outside/kept", "/etc/passwd", "nothing", "dir"] {
        let gz = Tar::new()
            .member("dir", EntryType::Directory, "", b"", 0o755)
            .link("l", EntryType::Link, target)
            .gz();
        place.refuses(&gz, "no file of the archive");
    }
    let over_link = Tar::new()
        .link("l", EntryType::Symlink, "x")
        .link("h", EntryType::Link, "l")
        .gz();
    place.refuses(&over_link, "no file of the archive");
}

#[test]
fn a_link_that_stood_there_before_is_not_followed() {
    let place = Place::new();
    symlink(place.dir.path().join("outside"), place.dest().join("l")).unwrap();
    place.refuses(&Tar::new().file("l/kept", b"x").gz(), "dest/l");
    place.refuses(&Tar::new().file("l", b"x").gz(), "exists");
}

#[test]
fn kinds_that_are_not_files() {
    let place = Place::new();
    for kind in [
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::GNUSparse,
    ] {
        let gz = Tar::new().file("a/b", b"1").link("dev", kind, "").gz();
        place.refuses(&gz, "kind that is not unpacked");
    }
}

#[test]
fn the_same_name_twice() {
    let place = Place::new();
    place.refuses(&Tar::new().file("a", b"1").file("./a", b"2").gz(), "exists");
    place.refuses(&Tar::new().file("a", b"1").file("a/b", b"2").gz(), "dest/a");
}

#[test]
fn bombs() {
    let place = Place::new();
    let caps = |bytes, members| Caps { bytes, members };
    let zeros = Tar::new().file("zeros", &vec![0; 8 << 20]).gz();
    assert!(zeros.len() < 256 << 10, "{}", zeros.len());
    let error = place
        .unpack_as(&zeros, 0, None, caps(1 << 20, 10))
        .unwrap_err();
    assert!(
        matches!(error, ArchiveError::TooLarge { cap: 1_048_576, .. }),
        "{error:?}"
    );
    // An unwanted member counts too, and so does what comes after the end of the tar.
    let wanted: &[&str] = &["x"];
    let error = place
        .unpack_as(&zeros, 0, Some(wanted), caps(1 << 20, 10))
        .unwrap_err();
    assert!(matches!(error, ArchiveError::TooLarge { .. }), "{error:?}");
    let mut tail = Tar::new().file("a", b"1").0.into_inner().unwrap();
    tail.resize(8 << 20, 0);
    let error = place
        .unpack_as(&gzip(&tail), 0, None, caps(1 << 20, 10))
        .unwrap_err();
    assert!(matches!(error, ArchiveError::TooLarge { .. }), "{error:?}");

    let many = (0..11)
        .fold(Tar::new(), |t, n| t.file(&n.to_string(), b""))
        .gz();
    let error = place
        .unpack_as(&many, 0, None, caps(1 << 20, 10))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "unpack `sample.tgz`: more than 10 members"
    );
    assert_eq!(place.tree(), ["dest", "outside", "outside/kept"]);

    for kind in [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
    ] {
        let name = Tar::new()
            .member("n", kind, "", &vec![b'a'; 1 << 20], 0o644)
            .file("a", b"")
            .gz();
        place.refuses(&name, "65536 bytes in a member's name");
    }
}

#[test]
fn long_names_and_attributes() {
    let place = Place::new();
    let long = format!("{}/file", "d".repeat(120));
    let pax = |key: &str, value: &str| {
        // The length of a record counts its own digits, two of them here, and the blanks around.
        let body = format!(" {key}={value}\n");
        let len = [2, 3]
            .map(|d| d + body.len())
            .into_iter()
            .find(|l| l.to_string().len() + body.len() == *l);
        format!("{}{body}", len.unwrap())
    };
    let gz = Tar::new()
        .member(
            "././@LongLink",
            EntryType::GNULongName,
            "",
            format!("{long}\0").as_bytes(),
            0,
        )
        .file("cut", b"1")
        .member(
            "pax",
            EntryType::XHeader,
            "",
            pax("path", "by/pax").as_bytes(),
            0,
        )
        .file("other", b"2")
        .member(
            "pax",
            EntryType::XGlobalHeader,
            "",
            pax("comment", "a commit of the upstream").as_bytes(),
            0,
        )
        .file("plain", b"3")
        .gz();
    let files = place.unpack(&gz).unwrap();
    let paths: Vec<_> = files.iter().map(|f| f.path.display().to_string()).collect();
    assert_eq!(paths, [long.as_str(), "by/pax", "plain"]);

    let place = Place::new();
    let hidden = |record: String| {
        Tar::new()
            .member("pax", EntryType::XHeader, "", record.as_bytes(), 0)
            .file("fine", b"")
            .gz()
    };
    place.refuses(&hidden(pax("path", "../outside/kept")), "`..` in its path");
    place.refuses(&hidden(pax("size", "99999")), "attribute `size`");
    place.refuses(
        &hidden(pax("GNU.sparse.major", "1")),
        "attribute `GNU.sparse.major`",
    );
}

#[test]
fn broken_archives() {
    let place = Place::new();
    let noise: Vec<u8> = (0..200_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let good = Tar::new().file("first", b"1").file("noise", &noise).gz();
    for cut in [good.len() - 1, good.len() - 8, good.len() / 2, 20, 3] {
        place.refuses(&good[..cut], "read `sample.tgz`");
    }
    let mut flipped = good.clone();
    let last = flipped.len() - 6;
    flipped[last] ^= 1;
    place.refuses(&flipped, "read `sample.tgz`");
    place.refuses(b"", "not a gzip file");
    place.refuses(b"<html>an error page</html>", "not a gzip file");
    place.refuses(&gzip(&[b'x'; 2048]), "read `sample.tgz`");
    assert!(place.unpack(&good).is_ok());
}

#[test]
fn an_archive_that_is_not_there() {
    let place = Place::new();
    let what = Unpack {
        archive: &place.dir.path().join("absent.tgz"),
        dest: &place.dest(),
        strip: 0,
        wanted: None,
        caps: Caps::default(),
    };
    let error = unpack(&what).unwrap_err();
    assert!(matches!(error, ArchiveError::Read { .. }), "{error:?}");
}

#[test]
fn a_full_disk() {
    let place = Place::new();
    let gz = Tar::new()
        .file("d/first", b"1")
        .file("d/big", &vec![7; 256 << 10])
        .gz();
    let error = crate::artifact::small_disk::in_small_tmpfs(&place.dest(), || {
        let error = place.unpack(&gz).unwrap_err();
        assert_eq!(place.tree(), ["dest", "outside", "outside/kept"]);
        error
    });
    let ArchiveError::Write { source, path, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    assert!(path.ends_with("d/big"), "{error:?}");
    assert!(error.hint().unwrap().contains("df -h"), "{error:?}");
}
