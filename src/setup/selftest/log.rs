//! The peer's log: awaited by a watch, read by the client's own parser.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use crate::host::growth::FileWatch;
use crate::ocic::logs::{self, LogError, Options, Stream};

/// One whole line.
pub type Line = (Stream, String);

/// Every line that is complete by now.
pub fn lines(path: &Path) -> Result<Vec<Line>, LogError> {
    let file = File::open(path).map_err(LogError::Read)?;
    let mut lines: Vec<Line> = Vec::new();
    logs::copy(BufReader::new(file), Options::default(), |stream, piece| {
        let text = String::from_utf8_lossy(piece);
        lines.push((stream, text.trim_end_matches('\n').to_owned()));
        Ok(())
    })?;
    Ok(lines)
}

/// Waits until a line of the log is `wanted`. False when the time is over first.
pub async fn wait_for(path: &Path, wanted: &str, limit: Duration) -> Result<bool, LogError> {
    let watch = FileWatch::new(path).map_err(LogError::Read)?;
    let seen = async {
        loop {
            if lines(path)?.iter().any(|(_, text)| text == wanted) {
                return Ok(());
            }
            watch.changed().await.map_err(LogError::Read)?;
        }
    };
    match tokio::time::timeout(limit, seen).await {
        Ok(done) => done.map(|()| true),
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn line(text: &str) -> String {
        format!("2026-01-02T03:04:05.000000006Z stdout F {text}\n")
    }

    #[tokio::test]
    async fn a_line_is_awaited() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, line("first")).unwrap();
        let writing = path.clone();
        let writer = async move {
            tokio::task::yield_now().await;
            let mut file = File::options().append(true).open(writing).unwrap();
            let text = line("second");
            let (start, end) = text.split_at(20);
            file.write_all(start.as_bytes()).unwrap();
            tokio::task::yield_now().await;
            file.write_all(end.as_bytes()).unwrap();
        };
        let limit = Duration::from_secs(20);
        let (found, ()) = tokio::join!(wait_for(&path, "second", limit), writer);
        assert!(found.unwrap());
        assert_eq!(lines(&path).unwrap().len(), 2);
        assert!(
            !wait_for(&path, "third", Duration::from_millis(20))
                .await
                .unwrap()
        );
        let absent = wait_for(&dir.path().join("absent"), "x", limit).await;
        assert!(matches!(absent, Err(LogError::Read(_))));
    }
}
