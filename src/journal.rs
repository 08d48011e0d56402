//! The journal of a run: one line per event, appended and synced to disk. A trial is finished as
//! soon as its line is written.
//!
//! A row file without a line in the journal is ignored, and its trial runs again. An incomplete
//! last line is dropped. Which trials are outstanding follows from the plan and the journal alone.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::host::hex;
use crate::plan::{self, Plan, PlanFile, Shard, Trial};

mod follow;
mod remote;

pub(crate) use follow::JournalFollower;
pub(crate) use remote::RemoteRun;

/// One line of a journal file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The run wrote `plan.json`, whose SHA-256 this is.
    Planned { plan_sha256: String },
    /// A trial finished, and its files are written.
    Finished {
        /// The trial's id.
        trial: String,
        /// The number of rows in the trial's row file.
        rows: usize,
        /// The SHA-256 of the row file.
        sha256: String,
        /// The SHA-256 of the array file, if the trial has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        array_sha256: Option<String>,
        /// The SHA-256 of the step file, if the trial has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps_sha256: Option<String>,
        /// The runtime, execution provider and processor of the trial. They may differ between the
        /// trials of a resumed run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        under: Option<String>,
        /// The duration of the trial in seconds.
        seconds: f64,
    },
    /// A trial failed.
    Failed {
        /// The trial's id.
        trial: String,
        /// The error message.
        error: String,
        /// The seconds until the trial failed.
        seconds: f64,
    },
}

/// The latest outcome of a trial. The fields are those of [`Event`].
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Finished {
        rows: usize,
        sha256: String,
        array_sha256: Option<String>,
        steps_sha256: Option<String>,
        /// The event's `under`.
        runtime_fingerprint: Option<String>,
        seconds: f64,
    },
    Failed {
        error: String,
        seconds: f64,
    },
}

/// Everything that a run directory has committed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Journal {
    /// The outcome of each trial, by the trial's id.
    pub outcomes: BTreeMap<String, Outcome>,
    /// Further outcomes of trials that several processes finished. The results are the same, and
    /// the one in `outcomes` counts.
    pub repeats: BTreeMap<String, Vec<Outcome>>,
    /// The SHA-256 of `plan.json`, if the journal contains it.
    pub plan_sha256: Option<String>,
    /// The total duration of all events in seconds.
    pub seconds: f64,
}

/// A directory with its journal. It contains a whole run, or the trials of a shard.
#[derive(Debug, Clone, PartialEq)]
pub struct RunDirectory {
    pub dir: PathBuf,
    pub journal: Journal,
}

impl RunDirectory {
    /// The first of the directories in which the trial is finished.
    pub fn holding_trial<'a>(
        directories: &'a [RunDirectory],
        id: &str,
    ) -> Option<&'a RunDirectory> {
        directories
            .iter()
            .find(|p| matches!(p.journal.outcomes.get(id), Some(Outcome::Finished { .. })))
    }
}

/// The trials of the plan that are neither finished nor failed, in the plan's order. With `retry`,
/// failed trials are included.
pub fn outstanding_trials<'a>(plan: &'a Plan, journal: &Journal, retry: bool) -> Vec<&'a Trial> {
    plan.trials
        .iter()
        .filter(|t| match journal.outcomes.get(&t.id) {
            None => true,
            Some(Outcome::Failed { .. }) => retry,
            Some(Outcome::Finished { .. }) => false,
        })
        .collect()
}

impl Journal {
    /// Reads every journal file of a run directory.
    ///
    /// # Errors
    /// Fails if the directory or a file cannot be read, or if a line is not an event. The message
    /// names the file and the line. An incomplete last line is not an error.
    pub fn read(dir: &Path) -> Result<Journal> {
        let mut journal = Journal::default();
        for file in journal_files(dir)? {
            journal.merge(Journal::read_file(&file)?);
        }
        Ok(journal)
    }

    /// Reads one journal file.
    ///
    /// # Errors
    /// Fails if it cannot be read, or if a line is not an event.
    pub fn read_file(file: &Path) -> Result<Journal> {
        let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
        let mut journal = Journal::default();
        journal
            .apply_lines(&String::from_utf8_lossy(&bytes))
            .with_context(|| file.display().to_string())?;
        Ok(journal)
    }

    /// Adds another process's journal of the same plan. A trial that is finished in either journal
    /// is finished, and if it is in both, the first counts.
    pub fn merge(&mut self, other: Journal) {
        let is_finished = |outcome: &Outcome| matches!(outcome, Outcome::Finished { .. });
        for (id, outcome) in other.outcomes {
            match self.outcomes.get(&id) {
                Some(known) if is_finished(known) && is_finished(&outcome) => {
                    self.repeats.entry(id).or_default().push(outcome);
                }
                Some(known) if is_finished(known) || !is_finished(&outcome) => {}
                _ => drop(self.outcomes.insert(id, outcome)),
            }
        }
        for (id, outcomes) in other.repeats {
            self.repeats.entry(id).or_default().extend(outcomes);
        }
        self.plan_sha256 = self.plan_sha256.take().or(other.plan_sha256);
        self.seconds += other.seconds;
    }

    /// Adds the events of one file.
    fn apply_lines(&mut self, text: &str) -> Result<()> {
        for event in events_of(text, 0)? {
            self.apply_event(event);
        }
        Ok(())
    }

    /// Adds one event. It replaces an earlier outcome of the same trial.
    fn apply_event(&mut self, event: Event) {
        match event {
            Event::Planned { plan_sha256 } => self.plan_sha256 = Some(plan_sha256),
            Event::Finished {
                trial,
                rows,
                sha256,
                array_sha256,
                steps_sha256,
                under,
                seconds,
            } => {
                self.seconds += seconds;
                let outcome = Outcome::Finished {
                    rows,
                    sha256,
                    array_sha256,
                    steps_sha256,
                    runtime_fingerprint: under,
                    seconds,
                };
                self.outcomes.insert(trial, outcome);
            }
            Event::Failed {
                trial,
                error,
                seconds,
            } => {
                self.seconds += seconds;
                self.outcomes
                    .insert(trial, Outcome::Failed { error, seconds });
            }
        }
    }
}

/// The events of a text whose first line is the one behind `lines_before`. An incomplete last line
/// is left out: a process that is killed while it writes leaves one.
///
/// # Errors
/// Fails if a line is not an event. The message has its number.
fn events_of(text: &str, lines_before: usize) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    let mut lines = text.split_inclusive('\n').enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let whole = line.ends_with('\n');
        match serde_json::from_str::<Event>(line.trim_end()) {
            Ok(event) if whole => events.push(event),
            _ if lines.peek().is_none() && !whole => {}
            Ok(_) => {}
            Err(error) => bail!(
                "line {}: {error}; expected one event per line; \
                 if the line is deleted, its trial runs again",
                lines_before + number + 1
            ),
        }
    }
    Ok(events)
}

/// The journal files of a run directory, sorted by name.
///
/// # Errors
/// Fails if the directory cannot be read.
pub fn journal_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .with_context(|| format!("{}: the run directory cannot be read", dir.display()))?
        .flatten()
        .map(|e| e.path())
        .filter(|p| {
            p.file_name()
                .is_some_and(|n| is_journal(&n.to_string_lossy()))
        })
        .collect();
    files.sort();
    Ok(files)
}

/// Whether a file of this name is a journal file.
fn is_journal(name: &str) -> bool {
    name == "journal.jsonl" || (name.starts_with("journal-") && name.ends_with(".jsonl"))
}

impl Journal {
    /// The number of failed trials.
    pub fn failed_trials(&self) -> usize {
        let failed = |outcome: &&Outcome| matches!(outcome, Outcome::Failed { .. });
        self.outcomes.values().filter(failed).count()
    }

    /// The number of finished trials for each combination of runtime, execution provider and
    /// processor.
    ///
    /// There are several combinations if a run was resumed on another machine or divided into
    /// shards.
    pub fn runtime_fingerprints(&self) -> BTreeMap<&str, usize> {
        let mut found = BTreeMap::new();
        for outcome in self.outcomes.values() {
            if let Outcome::Finished {
                runtime_fingerprint: Some(under),
                ..
            } = outcome
            {
                *found.entry(under.as_str()).or_default() += 1;
            }
        }
        found
    }
}

/// Reads `plan.json` and checks it against its hash in the journal.
///
/// # Errors
/// Fails if there is no plan, if it has another format, or if it was changed after the run began.
pub fn read_plan(dir: &Path) -> Result<PlanFile> {
    let path = dir.join("plan.json");
    let bytes = std::fs::read(&path).with_context(|| {
        format!(
            "{}: there is no plan; expected the directory of a run",
            path.display()
        )
    })?;
    let plan: PlanFile =
        serde_json::from_slice(&bytes).map_err(|e| anyhow!("{}: {e}", path.display()))?;
    if plan.plan.format != plan::PLAN_FORMAT {
        bail!(
            "{}: it has format {}; expected format {}",
            path.display(),
            plan.plan.format,
            plan::PLAN_FORMAT
        );
    }
    let expected = Journal::read(dir)?.plan_sha256;
    if expected.is_some_and(|e| e != hex(&Sha256::digest(&bytes))) {
        bail!("{}: it is not what the run wrote", path.display());
    }
    Ok(plan)
}

/// A warning if `config.yaml` is missing or differs from the config that the run was planned from.
pub fn config_change_warning(dir: &Path, file: &PlanFile) -> Option<&'static str> {
    let expected = file.config_sha256.as_ref()?;
    match std::fs::read(dir.join("config.yaml")) {
        Err(_) => Some("config.yaml is missing; plan.json still describes the run"),
        Ok(bytes) if hex(&Sha256::digest(&bytes)) != *expected => {
            Some("config.yaml was changed after the run began; the numbers belong to plan.json")
        }
        Ok(_) => None,
    }
}

/// The path of a trial's rows.
pub fn row_file(dir: &Path, id: &str) -> PathBuf {
    dir.join("rows").join(format!("{id}.csv"))
}

/// The path of the log of a trial's steps.
pub fn step_file(dir: &Path, id: &str) -> PathBuf {
    dir.join("rows").join(format!("{id}.steps.csv"))
}

/// The path of a trial's array.
pub fn array_file(dir: &Path, id: &str) -> PathBuf {
    dir.join("arrays").join(format!("{id}.npy"))
}

/// Who writes a journal file. Each process that shares a run directory has a file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalWriter {
    /// The only process of the run.
    Alone,
    /// The process of a shard.
    Shard(Shard),
    /// A process that takes trials as it goes, by its name.
    Worker(String),
}

impl JournalWriter {
    /// The path of its journal file.
    pub fn journal_file(&self, dir: &Path) -> PathBuf {
        dir.join(match self {
            JournalWriter::Alone => "journal.jsonl".to_owned(),
            JournalWriter::Shard(s) => format!("journal-{}-of-{}.jsonl", s.index, s.count),
            JournalWriter::Worker(name) => format!("journal-{name}.jsonl"),
        })
    }

    /// The writer of a journal file; `None` if the name is not one of a journal file.
    pub fn of_file(file: &Path) -> Option<JournalWriter> {
        let name = file.file_name()?.to_string_lossy().into_owned();
        let middle = match name.strip_prefix("journal")?.strip_suffix(".jsonl")? {
            "" => return Some(JournalWriter::Alone),
            rest => rest.strip_prefix('-')?.to_owned(),
        };
        let shard = middle.replace("-of-", "/").parse();
        Some(shard.map_or(JournalWriter::Worker(middle), JournalWriter::Shard))
    }
}

impl std::fmt::Display for JournalWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            JournalWriter::Alone => write!(f, "the run"),
            JournalWriter::Shard(shard) => write!(f, "shard {shard}"),
            JournalWriter::Worker(name) => write!(f, "{name}"),
        }
    }
}

/// Appends one event to a journal file and syncs it to disk.
///
/// # Errors
/// Fails if the file cannot be written.
pub fn append_event(path: &Path, event: &Event) -> Result<()> {
    let mut line = serde_json::to_string(event)?;
    line.push('\n');
    let context = || path.display().to_string();
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(path)
        .with_context(context)?;
    drop_torn_line(&mut file).with_context(context)?;
    file.write_all(line.as_bytes()).with_context(context)?;
    file.sync_data().with_context(context)?;
    Ok(())
}

/// Removes an incomplete last line, which a killed process may have left, so that the next event
/// gets a line of its own.
///
/// A journal that ends with a complete line is not read, so the cost of appending does not depend
/// on its length.
fn drop_torn_line(file: &mut File) -> std::io::Result<()> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut last = [b'\n'];
    if length > 0 {
        file.seek(SeekFrom::Start(length - 1))?;
        file.read_exact(&mut last)?;
    }
    if last == [b'\n'] {
        return Ok(());
    }
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    if whole < bytes.len() {
        file.set_len(whole as u64)?;
    }
    Ok(())
}

/// The files that a run directory consists of: plan, config, journals, rows and arrays, and the
/// tables, plots and page that were derived from them.
pub fn run_files(dir: &Path) -> Vec<PathBuf> {
    let below = |folder: PathBuf| {
        std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
    };
    let mut files: Vec<PathBuf> = ["rows", "arrays", "tables", "plots"]
        .iter()
        .flat_map(|f| below(dir.join(f)))
        .collect();
    let own =
        |name: &str| ["plan.json", "config.yaml", "index.html"].contains(&name) || is_journal(name);
    files.extend(
        below(dir.to_owned()).filter(|p| p.file_name().is_some_and(|n| own(&n.to_string_lossy()))),
    );
    files
}

/// The finished trials with a file that is missing or differs from its hash in the journal. Each
/// entry is a trial's id with the reason.
pub fn corrupted_trials(dir: &Path, plan: &Plan, journal: &Journal) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for trial in &plan.trials {
        // If several processes finished a trial, the files are those of one of them.
        let finished = journal.outcomes.get(&trial.id).into_iter();
        let repeats = journal.repeats.get(&trial.id).into_iter().flatten();
        let mut reasons = None;
        for outcome in finished.chain(repeats) {
            let faults = corrupted_files(dir, &trial.id, outcome);
            let fewer = reasons
                .as_ref()
                .is_none_or(|known: &Vec<String>| faults.len() < known.len());
            if fewer {
                reasons = Some(faults);
            }
            if reasons.as_ref().is_some_and(Vec::is_empty) {
                break;
            }
        }
        let reasons = reasons.unwrap_or_default();
        found.extend(reasons.into_iter().map(|why| (trial.id.clone(), why)));
    }
    found
}

/// What is wrong with the files of one outcome of a trial, in sentences.
fn corrupted_files(dir: &Path, id: &str, outcome: &Outcome) -> Vec<String> {
    let Outcome::Finished {
        sha256,
        array_sha256,
        steps_sha256,
        ..
    } = outcome
    else {
        return Vec::new();
    };
    let rows = (row_file(dir, id), Some(sha256));
    let array = (array_file(dir, id), array_sha256.as_ref());
    let steps = (step_file(dir, id), steps_sha256.as_ref());
    let mut found = Vec::new();
    for (path, expected) in [rows, array, steps] {
        let Some(expected) = expected else { continue };
        let name = path
            .strip_prefix(dir)
            .unwrap_or(&path)
            .display()
            .to_string();
        match std::fs::read(&path) {
            Err(_) => found.push(format!("{name} is missing")),
            Ok(bytes) if hex(&Sha256::digest(&bytes)) != *expected => {
                found.push(format!("{name} is not what the run wrote"));
            }
            Ok(_) => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SampleWork;
    use crate::sample::Sampler;

    fn plan(ids: &[&str]) -> Plan {
        let work = |i: usize| SampleWork {
            model: 0,
            sampler: Sampler::defaults().remove(0),
            noise: None,
            density: None,
            first: i,
            count: 1,
        };
        let trials = ids
            .iter()
            .enumerate()
            .map(|(i, id)| Trial {
                id: id.to_string(),
                work: work(i).into(),
            })
            .collect();
        Plan {
            format: 1,
            name: "a".into(),
            seed: 0,
            models: vec![],
            data: vec![],
            trials,
            notes: vec![],
        }
    }

    fn finished(trial: &str) -> Event {
        let (array_sha256, steps_sha256, under) = (None, None, None);
        let (trial, sha256) = (trial.to_owned(), "0".to_owned());
        Event::Finished {
            trial,
            rows: 1,
            sha256,
            array_sha256,
            steps_sha256,
            under,
            seconds: 0.5,
        }
    }

    #[test]
    fn outstanding_trials_are_planned_minus_recorded() {
        let plan = plan(&["a", "b", "c"]);
        let mut journal = Journal::default();
        journal.apply_event(finished("b"));
        journal.apply_event(Event::Failed {
            trial: "c".into(),
            error: "x".into(),
            seconds: 0.1,
        });
        let ids = |retry| {
            outstanding_trials(&plan, &journal, retry)
                .iter()
                .map(|t| t.id.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(false), ["a"]);
        assert_eq!(ids(true), ["a", "c"]);
    }

    #[test]
    fn torn_last_line_is_dropped_before_appending() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        append_event(
            &JournalWriter::Alone.journal_file(folder.path()),
            &finished("a"),
        )
        .expect("written");
        let path = folder.path().join("journal.jsonl");
        let mut text = std::fs::read_to_string(&path).expect("read");
        text.push_str("{\"event\":\"finished\",\"tri");
        std::fs::write(&path, &text).expect("written");
        assert_eq!(
            Journal::read(folder.path()).expect("read").outcomes.len(),
            1
        );
        append_event(
            &JournalWriter::Alone.journal_file(folder.path()),
            &finished("b"),
        )
        .expect("written");
        assert_eq!(
            Journal::read(folder.path()).expect("read").outcomes.len(),
            2
        );
    }

    #[test]
    fn merge_keeps_finished_over_failed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let failed = Event::Failed {
            trial: "a".into(),
            error: "x".into(),
            seconds: 0.1,
        };
        for index in [1, 2] {
            let file = JournalWriter::Shard(Shard { index, count: 2 }).journal_file(folder.path());
            append_event(
                &file,
                &Event::Planned {
                    plan_sha256: "p".into(),
                },
            )
            .expect("written");
            append_event(
                &file,
                &if index == 1 {
                    finished("a")
                } else {
                    finished("b")
                },
            )
            .expect("written");
        }
        append_event(&JournalWriter::Alone.journal_file(folder.path()), &failed).expect("written");
        let journal = Journal::read(folder.path()).expect("read");
        assert!(
            journal
                .outcomes
                .values()
                .all(|o| matches!(o, Outcome::Finished { .. })),
            "{journal:?}"
        );
        assert_eq!(
            (journal.outcomes.len(), journal.plan_sha256.as_deref()),
            (2, Some("p"))
        );
    }

    #[test]
    fn trial_that_two_processes_finished_counts_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["b", "a"] {
            let file = JournalWriter::Worker(name.to_owned()).journal_file(folder.path());
            append_event(&file, &finished("t")).expect("written");
        }
        let journal = Journal::read(folder.path()).expect("read");
        assert_eq!((journal.outcomes.len(), journal.repeats["t"].len()), (1, 1));
        // The files are right if they are those of either process.
        let plan = plan(&["t"]);
        std::fs::create_dir(folder.path().join("rows")).expect("made");
        std::fs::write(row_file(folder.path(), "t"), "x").expect("written");
        assert_eq!(corrupted_trials(folder.path(), &plan, &journal).len(), 1);
        let mut one_right = journal.clone();
        let Some(Outcome::Finished { sha256, .. }) =
            one_right.repeats.get_mut("t").and_then(|r| r.first_mut())
        else {
            unreachable!("it is there")
        };
        *sha256 = hex(&Sha256::digest("x"));
        assert_eq!(corrupted_trials(folder.path(), &plan, &one_right), []);
    }

    #[test]
    fn journal_files_name_their_writers() {
        let dir = Path::new("");
        for (writer, name) in [
            (JournalWriter::Alone, "journal.jsonl"),
            (
                JournalWriter::Shard(Shard { index: 2, count: 3 }),
                "journal-2-of-3.jsonl",
            ),
            (
                JournalWriter::Worker("n1-12-0a".to_owned()),
                "journal-n1-12-0a.jsonl",
            ),
        ] {
            let file = writer.journal_file(dir);
            assert_eq!(file, Path::new(name));
            assert_eq!(JournalWriter::of_file(&file), Some(writer));
        }
        assert_eq!(JournalWriter::of_file(Path::new("plan.json")), None);
    }

    #[test]
    fn corrupt_middle_line_is_reported_by_number() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        append_event(
            &JournalWriter::Alone.journal_file(folder.path()),
            &finished("a"),
        )
        .expect("written");
        append_event(
            &JournalWriter::Alone.journal_file(folder.path()),
            &finished("b"),
        )
        .expect("written");
        let path = folder.path().join("journal.jsonl");
        let text = std::fs::read_to_string(&path)
            .expect("read")
            .replacen("finished", "finish", 1);
        std::fs::write(&path, text).expect("written");
        let error = format!("{:#}", Journal::read(folder.path()).expect_err("damaged"));
        assert!(error.contains("line 1"), "{error}");
    }
}
