//! The run as a journal: one line per event, appended and synced; the line is the commit.
//!
//! A row file without a line is ignored and made again. A torn last line is dropped. Which
//! trials are outstanding is a pure function of plan and journal.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::library::hex;
use crate::plan::{self, Plan, PlanFile, Shard, Trial};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The plan was written; its bytes' hash.
    Planned { plan_sha256: String },
    Finished {
        trial: String,
        rows: usize,
        sha256: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        array_sha256: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps_sha256: Option<String>,
        /// Runtime, provider and processor: a resumed run may have had several.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        under: Option<String>,
        seconds: f64,
    },
    Failed {
        trial: String,
        error: String,
        seconds: f64,
    },
}

/// How a trial ended last.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Finished {
        rows: usize,
        sha256: String,
        array_sha256: Option<String>,
        steps_sha256: Option<String>,
        runtime_fingerprint: Option<String>,
        seconds: f64,
    },
    Failed {
        error: String,
        seconds: f64,
    },
}

/// All that a run directory has committed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Journal {
    pub outcomes: BTreeMap<String, Outcome>,
    pub plan_sha256: Option<String>,
    pub seconds: f64,
}

/// A directory with what it has committed: a whole run, or the share of a shard.
#[derive(Debug, Clone, PartialEq)]
pub struct RunDirectory {
    pub dir: PathBuf,
    pub journal: Journal,
}

impl RunDirectory {
    /// The first part that holds a trial's files.
    pub fn holding_trial<'a>(parts: &'a [RunDirectory], id: &str) -> Option<&'a RunDirectory> {
        parts
            .iter()
            .find(|p| matches!(p.journal.outcomes.get(id), Some(Outcome::Finished { .. })))
    }
}

/// Trials of the plan that are neither finished nor failed, in the plan's order; failed ones too with `retry`.
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
    /// Where a line other than the last is damaged, by file and line.
    pub fn read(dir: &Path) -> Result<Journal> {
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
        let mut journal = Journal::default();
        for file in files {
            let text = std::fs::read(&file).with_context(|| file.display().to_string())?;
            let text = String::from_utf8_lossy(&text);
            let mut one = Journal::default();
            one.apply_lines(&text)
                .with_context(|| file.display().to_string())?;
            journal.merge(one);
        }
        Ok(journal)
    }

    /// Takes in another process's journal of the same plan; a trial that is finished in either is finished.
    pub fn merge(&mut self, other: Journal) {
        for (id, outcome) in other.outcomes {
            if matches!(outcome, Outcome::Finished { .. }) || !self.outcomes.contains_key(&id) {
                self.outcomes.insert(id, outcome);
            }
        }
        self.plan_sha256 = self.plan_sha256.take().or(other.plan_sha256);
        self.seconds += other.seconds;
    }

    /// Takes in the lines of one file.
    fn apply_lines(&mut self, text: &str) -> Result<()> {
        let mut lines = text.split_inclusive('\n').enumerate().peekable();
        while let Some((number, line)) = lines.next() {
            let whole = line.ends_with('\n');
            match serde_json::from_str::<Event>(line.trim_end()) {
                Ok(event) if whole => self.apply_event(event),
                _ if lines.peek().is_none() && !whole => {}
                Ok(_) => {}
                Err(error) => bail!(
                    "line {}: {error}; expected one event per line; without the line its trial is done again",
                    number + 1
                ),
            }
        }
        Ok(())
    }

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

fn is_journal(name: &str) -> bool {
    name == "journal.jsonl" || (name.starts_with("journal-") && name.ends_with(".jsonl"))
}

impl Journal {
    /// Under what runtime, provider and processor how many trials were finished; more than one where a run was
    /// resumed elsewhere, or shared.
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

/// Reads `plan.json` and holds it against its hash in the journal.
///
/// # Errors
/// Where there is no plan, or it is not what the run wrote.
pub fn read_plan(dir: &Path) -> Result<PlanFile> {
    let path = dir.join("plan.json");
    let bytes = std::fs::read(&path).with_context(|| {
        format!(
            "{}: no plan; expected the directory of a run",
            path.display()
        )
    })?;
    let plan: PlanFile =
        serde_json::from_slice(&bytes).map_err(|e| anyhow!("{}: {e}", path.display()))?;
    if plan.plan.format != plan::PLAN_FORMAT {
        bail!(
            "{}: format {}, this program reads {}",
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

/// What is to be said of a `config.yaml` that is not the one the run was planned from.
pub fn config_change_warning(dir: &Path, file: &PlanFile) -> Option<&'static str> {
    let expected = file.config_sha256.as_ref()?;
    match std::fs::read(dir.join("config.yaml")) {
        Err(_) => Some("config.yaml is missing; plan.json still says what was run"),
        Ok(bytes) if hex(&Sha256::digest(&bytes)) != *expected => {
            Some("config.yaml was changed after the run began; the numbers are those of plan.json")
        }
        Ok(_) => None,
    }
}

/// Where a trial's rows lie.
pub fn row_file(dir: &Path, id: &str) -> PathBuf {
    dir.join("rows").join(format!("{id}.csv"))
}

/// Where the log of a trial's steps lies.
pub fn step_file(dir: &Path, id: &str) -> PathBuf {
    dir.join("rows").join(format!("{id}.steps.csv"))
}

/// Where a trial's array lies.
pub fn array_file(dir: &Path, id: &str) -> PathBuf {
    dir.join("arrays").join(format!("{id}.npy"))
}

/// Where a process writes its events: shards of one run meet in its directory, each with a file of its own.
pub fn journal_file(dir: &Path, shard: Option<Shard>) -> PathBuf {
    dir.join(shard.map_or("journal.jsonl".to_owned(), |s| {
        format!("journal-{}-of-{}.jsonl", s.index, s.count)
    }))
}

/// Appends one event to a journal file and makes it durable.
///
/// # Errors
/// Where the disk refuses.
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

/// Cuts off what an earlier kill left of a line, so that it cannot swallow the next. A journal that ends in a whole line
/// is not read: appending stays as quick as it was, however long it becomes.
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

/// The files of a run directory that it was made of and that its reports were derived to.
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

/// Trials whose files are no longer what their journal line says, with the reason.
pub fn corrupted_trials(dir: &Path, plan: &Plan, journal: &Journal) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for trial in &plan.trials {
        let Some(Outcome::Finished {
            sha256,
            array_sha256,
            steps_sha256,
            ..
        }) = journal.outcomes.get(&trial.id)
        else {
            continue;
        };
        let rows = (row_file(dir, &trial.id), Some(sha256));
        let array = (array_file(dir, &trial.id), array_sha256.as_ref());
        let steps = (step_file(dir, &trial.id), steps_sha256.as_ref());
        for (path, expected) in [rows, array, steps] {
            let Some(expected) = expected else { continue };
            let name = path
                .strip_prefix(dir)
                .unwrap_or(&path)
                .display()
                .to_string();
            match std::fs::read(&path) {
                Err(_) => found.push((trial.id.clone(), format!("{name} is missing"))),
                Ok(bytes) if hex(&Sha256::digest(&bytes)) != *expected => {
                    found.push((
                        trial.id.clone(),
                        format!("{name} is not what the run wrote"),
                    ));
                }
                Ok(_) => {}
            }
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
        append_event(&journal_file(folder.path(), None), &finished("a")).expect("written");
        let path = folder.path().join("journal.jsonl");
        let mut text = std::fs::read_to_string(&path).expect("read");
        text.push_str("{\"event\":\"finished\",\"tri");
        std::fs::write(&path, &text).expect("written");
        assert_eq!(
            Journal::read(folder.path()).expect("read").outcomes.len(),
            1
        );
        append_event(&journal_file(folder.path(), None), &finished("b")).expect("written");
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
            let file = journal_file(folder.path(), Some(Shard { index, count: 2 }));
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
        append_event(&journal_file(folder.path(), None), &failed).expect("written");
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
    fn corrupt_middle_line_is_reported_by_number() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        append_event(&journal_file(folder.path(), None), &finished("a")).expect("written");
        append_event(&journal_file(folder.path(), None), &finished("b")).expect("written");
        let path = folder.path().join("journal.jsonl");
        let text = std::fs::read_to_string(&path)
            .expect("read")
            .replacen("finished", "finish", 1);
        std::fs::write(&path, text).expect("written");
        let error = format!("{:#}", Journal::read(folder.path()).expect_err("damaged"));
        assert!(error.contains("line 1"), "{error}");
    }
}
