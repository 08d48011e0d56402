//! Reads the journals of a run directory again and again, each line once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Event, JournalWriter, events_of, journal_files};

/// Follows the journals of all processes that write in a run directory.
#[derive(Debug)]
pub(crate) struct JournalFollower {
    dir: PathBuf,
    /// How far each file was read.
    read: BTreeMap<PathBuf, ReadPart>,
}

/// The part of a file that was read: whole lines.
#[derive(Debug, Clone, Copy, Default)]
struct ReadPart {
    bytes: u64,
    lines: usize,
}

impl JournalFollower {
    /// Begins with the first line of every file.
    pub(crate) fn new(dir: &Path) -> JournalFollower {
        JournalFollower {
            dir: dir.to_owned(),
            read: BTreeMap::new(),
        }
    }

    /// The events that were appended since the last call, each with the process that wrote it.
    ///
    /// # Errors
    /// Fails if a file cannot be read, or if a line is not an event. The message names both.
    pub(crate) fn read_new(&mut self) -> Result<Vec<(JournalWriter, Event)>> {
        let mut found = Vec::new();
        for path in journal_files(&self.dir)? {
            let Some(writer) = JournalWriter::of_file(&path) else {
                continue;
            };
            let part = self.read.entry(path.clone()).or_default();
            let events = read_lines_behind(&path, part).with_context(|| path.display().to_string());
            found.extend(events?.into_iter().map(|event| (writer.clone(), event)));
        }
        Ok(found)
    }
}

/// The events of the whole lines behind the part that was read, which then covers them.
///
/// # Errors
/// Fails if the file cannot be read, or if a line is not an event.
fn read_lines_behind(path: &Path, part: &mut ReadPart) -> Result<Vec<Event>> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() == part.bytes {
        return Ok(Vec::new());
    }
    file.seek(SeekFrom::Start(part.bytes))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    // A line that is being written is read when it is whole.
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let text = String::from_utf8_lossy(&bytes[..whole]);
    let events = events_of(&text, part.lines)?;
    part.bytes += whole as u64;
    part.lines += events.len();
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::append_event;

    fn failed(trial: &str) -> Event {
        Event::Failed {
            trial: trial.to_owned(),
            error: "x".to_owned(),
            seconds: 0.1,
        }
    }

    #[test]
    fn every_line_is_read_once_and_whole() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut follower = JournalFollower::new(folder.path());
        assert_eq!(follower.read_new().expect("read"), []);
        let writers = ["b", "a"].map(|name| JournalWriter::Worker(name.to_owned()));
        let mut seen = Vec::new();
        for trial in ["0", "1", "2"] {
            for writer in &writers {
                append_event(&writer.journal_file(folder.path()), &failed(trial)).expect("written");
            }
            seen.extend(follower.read_new().expect("read"));
        }
        assert_eq!(seen.len(), 6);
        assert_eq!(seen[0], (writers[1].clone(), failed("0")));
        // Half a line is not read, and no error.
        let path = writers[0].journal_file(folder.path());
        let before = std::fs::read_to_string(&path).expect("read");
        let line = serde_json::to_string(&failed("3")).expect("a line");
        std::fs::write(&path, format!("{before}{}", &line[..20])).expect("written");
        assert_eq!(follower.read_new().expect("read"), []);
        std::fs::write(&path, format!("{before}{line}\n")).expect("written");
        let rest = follower.read_new().expect("read");
        assert_eq!(rest, [(writers[0].clone(), failed("3"))]);
        std::fs::write(&path, format!("{before}{line}\ngarbage\n")).expect("written");
        let error = format!("{:#}", follower.read_new().expect_err("no event"));
        assert!(error.contains("journal-b.jsonl: line 5"), "{error}");
    }
}
