//! A log followed while it is written: across its rotation, and to the end of its container.
//!
//! A rotation renames the file and makes a new one of its name. What writes the log goes over to the new one at
//! once, so the old one is complete when the new one is there.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::logs::{Lines, LogError, Options, Stream};
use crate::host::inotify::FolderWatch;

/// A log of which everything is shown that is there, and what comes.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    watch: FolderWatch,
    file: Option<BufReader<File>>,
    lines: Lines,
}

impl Follower {
    /// Starts to watch. The file's folder must be there, the file need not. Needs an async runtime.
    pub fn new(path: &Path, options: Options) -> io::Result<Self> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        Ok(Self {
            watch: FolderWatch::of_files(folder.unwrap_or(Path::new(".")))?,
            path: path.to_owned(),
            file: None,
            lines: Lines::new(options),
        })
    }

    /// Shows everything that there is now, all of the file that has been renamed and what is in the new one.
    pub fn show(
        &mut self,
        mut write: impl FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<(), LogError> {
        loop {
            // What is there after the name has a new file is the end of the old one.
            let next = self.successor().map_err(LogError::Read)?;
            if let Some(file) = &mut self.file {
                self.lines.read(file, &mut write)?;
            }
            let Some(next) = next else { break };
            self.lines.last(&mut write)?;
            self.file = Some(BufReader::new(next));
        }
        self.lines.release(&mut write)
    }

    /// Waits until there may be more. An error when the folder has been removed: nothing comes any more.
    pub async fn changed(&mut self) -> io::Result<()> {
        self.watch.stirred().await
    }

    /// The file that has the name now, unless it is the one that is being read.
    fn successor(&self) -> io::Result<Option<File>> {
        let named = match File::open(&self.path) {
            Ok(named) => named,
            // Between the two steps of a rotation, and before the first line.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let Some(current) = &self.file else {
            return Ok(Some(named));
        };
        let (old, new) = (current.get_ref().metadata()?, named.metadata()?);
        let same = (old.dev(), old.ino()) == (new.dev(), new.ino());
        Ok((!same).then_some(named))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn line(text: &str) -> String {
        format!("2026-01-02T03:04:05Z stdout F {text}\n")
    }

    fn seen(follower: &mut Follower) -> String {
        let mut seen = String::new();
        let shown = follower.show(|_, bytes| {
            seen.push_str(std::str::from_utf8(bytes).unwrap());
            Ok(())
        });
        shown.unwrap();
        seen
    }

    #[tokio::test]
    async fn nothing_is_lost_or_doubled_when_files_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut follower = Follower::new(&path, Options::default()).unwrap();
        assert_eq!(seen(&mut follower), "", "no file yet");

        let mut old = File::create(&path).unwrap();
        old.write_all(line("a").as_bytes()).unwrap();
        follower.changed().await.unwrap();
        assert_eq!(seen(&mut follower), "a\n");
        let half = line("bc");
        let (first, second) = half.split_at(half.len() - 2);
        old.write_all(first.as_bytes()).unwrap();
        follower.changed().await.unwrap();
        assert_eq!(seen(&mut follower), "");
        old.write_all(second.as_bytes()).unwrap();
        follower.changed().await.unwrap();
        assert_eq!(seen(&mut follower), "bc\n");

        // Renamed, written to, and only then made anew.
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        assert_eq!(seen(&mut follower), "");
        old.write_all(line("d").as_bytes()).unwrap();
        std::fs::write(&path, line("e")).unwrap();
        follower.changed().await.unwrap();
        assert_eq!(seen(&mut follower), "d\ne\n");
        assert_eq!(seen(&mut follower), "");
    }

    #[tokio::test]
    async fn a_folder_that_goes_ends_the_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut follower = Follower::new(&path, Options::default()).unwrap();
        dir.close().unwrap();
        let gone = follower.changed().await.unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        assert!(Follower::new(&path, Options::default()).is_err());
    }

    #[tokio::test]
    async fn only_the_first_look_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, line("a") + &line("b") + &line("c")).unwrap();
        let options = Options {
            tail: Some(1),
            ..Options::default()
        };
        let mut follower = Follower::new(&path, options).unwrap();
        assert_eq!(seen(&mut follower), "c\n");
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::write(&path, line("d") + &line("e")).unwrap();
        assert_eq!(seen(&mut follower), "d\ne\n");
    }
}
