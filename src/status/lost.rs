//! Shards whose process has gone: which they are, and the command that does the rest of each.

use std::path::{Component, Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::{ProcessStatus, known_shards};
use crate::claim::{Lease, MeetingPlace, read_leases};
use crate::config::ConfigFile;
use crate::journal::{Journal, JournalWriter, outstanding_trials, read_plan};
use crate::plan::{PlanFile, Shard};

/// A shard with outstanding trials and without a process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LostShard {
    /// The shard, such as `2/4`.
    pub shard: String,
    /// The number of its outstanding trials.
    pub outstanding: usize,
    /// The command that does them.
    pub command: String,
}

/// The shards of a run with outstanding trials and without a process, if shards have worked in the
/// directories at all. `journal` is the one of all directories.
///
/// # Errors
/// Fails if a directory cannot be read.
pub(crate) fn lost_shards(
    dirs: &[PathBuf],
    file: &PlanFile,
    journal: &Journal,
    processes: &[ProcessStatus],
) -> Result<Vec<LostShard>> {
    let outstanding = outstanding_trials(&file.plan, journal, false);
    let mut lost = Vec::new();
    if outstanding.is_empty() {
        return Ok(lost);
    }
    for count in known_shards(dirs, processes)? {
        for index in 1..=count {
            let shard = Shard { index, count };
            let is_at_work = processes
                .iter()
                .any(|process| !process.dead && process.lease.part == shard.to_string());
            let mine = shard.trial_ids(&file.plan);
            let left = outstanding
                .iter()
                .filter(|trial| mine.contains(trial.id.as_str()))
                .count();
            if left > 0 && !is_at_work {
                let dir = home_of(shard, dirs);
                lost.push(LostShard {
                    shard: shard.to_string(),
                    outstanding: left,
                    command: run_command(dir, file, &format!("--shard {shard}")),
                });
            }
        }
    }
    Ok(lost)
}

/// The lost shards of all runs in the directories. The directories of one run are taken together.
///
/// # Errors
/// Fails if a directory is not a run's directory, or if a file cannot be read.
pub(crate) fn lost_shards_in(dirs: &[PathBuf]) -> Result<Vec<LostShard>> {
    let mut runs: Vec<(PlanFile, Vec<PathBuf>, Journal)> = Vec::new();
    for dir in dirs {
        let (file, journal) = (read_plan(dir)?, Journal::read(dir)?);
        match runs
            .iter_mut()
            .find(|(known, _, _)| known.plan == file.plan)
        {
            Some((_, parts, all)) => {
                parts.push(dir.clone());
                all.merge(journal);
            }
            None => runs.push((file, vec![dir.clone()], journal)),
        }
    }
    let mut lost = Vec::new();
    for (file, parts, journal) in &runs {
        let mut processes = Vec::new();
        for dir in parts {
            let alive = |lease: Lease| ProcessStatus {
                dead: lease.has_died_here(),
                lease,
            };
            processes.extend(
                read_leases(&MeetingPlace::folder(dir))?
                    .into_iter()
                    .map(alive),
            );
        }
        lost.extend(lost_shards(parts, file, journal, &processes)?);
    }
    Ok(lost)
}

/// The directory in which a shard worked, or the first.
fn home_of(shard: Shard, dirs: &[PathBuf]) -> &Path {
    let worked = |dir: &&PathBuf| JournalWriter::Shard(shard).journal_file(dir).exists();
    let first = || dirs.first().map_or(Path::new("."), PathBuf::as_path);
    dirs.iter()
        .find(worked)
        .map_or_else(first, PathBuf::as_path)
}

/// The command that goes on with a run.
pub(crate) fn run_command(dir: &Path, file: &PlanFile, part: &str) -> String {
    let config = match file.places.config.as_os_str().is_empty() {
        true => dir.join("config.yaml"),
        false => without_dots(&dir.join(&file.places.config)),
    };
    let mut words = vec![
        "flowgauge run".to_owned(),
        quoted(&config.to_string_lossy()),
    ];
    words.extend(["--out".to_owned(), quoted(&dir.to_string_lossy())]);
    for change in &file.changes {
        words.extend(["--set".to_owned(), quoted(change)]);
    }
    let written = ConfigFile::read(&config, &file.changes);
    if written.is_ok_and(|written| written.config.seed != file.plan.seed) {
        words.push(format!("--seed {}", file.plan.seed));
    }
    words.push(part.to_owned());
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// A path without `name/..`, as far as that is the same path.
fn without_dots(path: &Path) -> PathBuf {
    let mut short = PathBuf::new();
    for component in path.components() {
        let is_name = matches!(short.components().next_back(), Some(Component::Normal(_)));
        // A link leads elsewhere than its name.
        match component {
            Component::ParentDir if is_name && !short.is_symlink() => {
                short.pop();
            }
            _ => short.push(component),
        }
    }
    short
}

/// A word of a shell command.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    match word.chars().all(plain) && !word.is_empty() {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_command_survive_a_shell() {
        for (word, written) in [
            ("a/b.yaml", "a/b.yaml"),
            ("a b", "'a b'"),
            ("it's", "'it'\\''s'"),
            ("{euler: {steps: 2}}", "'{euler: {steps: 2}}'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), written);
        }
    }

    #[test]
    fn paths_are_shortened_where_they_stay_the_same() {
        for (path, short) in [
            ("out/../configs/a.yaml", "configs/a.yaml"),
            ("../out/../a.yaml", "../a.yaml"),
            ("out/../../a.yaml", "../a.yaml"),
            ("/x/../a.yaml", "/a.yaml"),
        ] {
            assert_eq!(without_dots(Path::new(path)), Path::new(short));
        }
    }
}
