//! A run in an object store, and the copy of it on this machine.
//!
//! Each process works in a folder of its own, the copy, as in any run directory. What processes share
//! goes through the store:
//!
//! - `plan.json` is created by exactly one of them; `config.yaml` lies beside it.
//! - A finished trial is one object, `commits/<process>/<number>.<trial>.<outcome>.<milliseconds>`, with
//!   its line of the journal and its rows. It appears whole or not at all: it is the commit. Its
//!   array, if it has one, was put before. The name alone says what others need to know.
//! - A process numbers its commits, so that whoever lists them behind the last one it knows reads each
//!   once.
//!
//! If two processes commit one trial, the one that the store took first counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Event, JournalWriter, append_event, array_file, read_plan, row_file, step_file};
use crate::host::hex;
use crate::output::{append_unsynced, write_atomic, write_unsynced};
use crate::store::{ListedObject, ObjectFolder, is_address, no_conditional_puts};

/// A run in an object store with its copy on this machine.
#[derive(Debug)]
pub(crate) struct RemoteRun {
    folder: ObjectFolder,
    /// The copy. It is deleted with this value.
    copy: tempfile::TempDir,
    seen: Mutex<SeenCommits>,
    /// The SHA-256 of the plan, which never changes once a trial is committed.
    plan_sha256: OnceLock<String>,
}

/// What was read of the commits of all processes.
#[derive(Debug, Default)]
struct SeenCommits {
    /// The last commit of each process that was read.
    last: BTreeMap<String, String>,
    /// The processes that had ended before their commits were last read.
    ended: BTreeSet<String>,
    /// The object of the first commit of each finished trial.
    finished: BTreeMap<String, CommitName>,
    /// The number of commits of this process.
    own: usize,
}

/// The name of a commit, which says what became of which trial.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CommitName {
    worker: String,
    number: usize,
    trial: String,
    is_finished: bool,
    milliseconds: u64,
}

/// The content of a commit.
#[derive(Debug, Serialize, Deserialize)]
struct Commit {
    /// The SHA-256 of the plan that the trial belongs to.
    plan_sha256: String,
    event: Event,
    /// The rows, and the log of the steps, as they are in files of a run directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rows: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    steps: Option<String>,
}

const COMMITS: &str = "commits";
const PLAN: &str = "plan.json";
const CONFIG: &str = "config.yaml";
/// What a run that has no plan yet may have.
const BEFORE_PLAN: [&str; 3] = [CONFIG, "claims", "workers"];
/// How often an object is read whose content is not what its commit says.
const READINGS: usize = 3;

impl CommitName {
    /// The name of the object.
    fn key(&self) -> String {
        let outcome = match self.is_finished {
            true => "finished",
            false => "failed",
        };
        format!(
            "{COMMITS}/{}/{:08}.{}.{outcome}.{}",
            self.worker, self.number, self.trial, self.milliseconds
        )
    }

    /// The name of the object with the trial's array.
    fn array_key(&self) -> String {
        format!("arrays/{}/{:08}.npy", self.worker, self.number)
    }

    /// Parses the name of an object; `None` if it is not one of a commit.
    fn parse(key: &str) -> Option<CommitName> {
        let plain = |text: &str| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            (!text.is_empty() && text.chars().all(is_plain)).then(|| text.to_owned())
        };
        let (worker, rest) = key.strip_prefix("commits/")?.split_once('/')?;
        let parts: Vec<&str> = rest.split('.').collect();
        let [number, trial, outcome, milliseconds] = parts[..] else {
            return None;
        };
        Some(CommitName {
            worker: plain(worker)?,
            number: number.parse().ok()?,
            trial: plain(trial)?,
            is_finished: match outcome {
                "finished" => true,
                "failed" => false,
                _ => return None,
            },
            milliseconds: milliseconds.parse().ok()?,
        })
    }

    /// The line of the journal as far as the name tells it, for a trial that is finished.
    fn event(&self) -> Event {
        Event::Finished {
            trial: self.trial.clone(),
            rows: 0,
            sha256: String::new(),
            array_sha256: None,
            steps_sha256: None,
            under: None,
            seconds: self.milliseconds as f64 / 1e3,
        }
    }
}

impl RemoteRun {
    /// The run at an address; `None` if the path is none.
    ///
    /// # Errors
    /// Fails if the address is malformed, or if there are no credentials.
    pub(crate) fn open(path: &Path) -> Result<Option<RemoteRun>> {
        match is_address(path) {
            Some(address) => RemoteRun::of_folder(ObjectFolder::open(address)?).map(Some),
            None => Ok(None),
        }
    }

    /// The run in a folder of a store.
    ///
    /// # Errors
    /// Fails if no folder can be made for the copy.
    pub(crate) fn of_folder(folder: ObjectFolder) -> Result<RemoteRun> {
        let copy = tempfile::Builder::new()
            .prefix("flowgauge-run-")
            .tempdir()
            .context("no folder can be made for the copy of the run; expected room in TMPDIR")?;
        Ok(RemoteRun {
            folder,
            copy,
            seen: Mutex::default(),
            plan_sha256: OnceLock::new(),
        })
    }

    /// The copy: a run directory.
    pub(crate) fn dir(&self) -> &Path {
        self.copy.path()
    }

    /// The folder of the store.
    pub(crate) fn folder(&self) -> &ObjectFolder {
        &self.folder
    }

    /// A text in which paths of the copy are those of the store.
    pub(crate) fn with_addresses(&self, text: &str) -> String {
        text.replace(&*self.dir().to_string_lossy(), self.folder.address())
    }

    /// An error whose message names paths of the store instead of those of the copy.
    pub(crate) fn with_addresses_in(&self, error: anyhow::Error) -> anyhow::Error {
        let text = format!("{error:#}");
        match text.contains(&*self.dir().to_string_lossy()) {
            true => anyhow!(self.with_addresses(&text)),
            false => error,
        }
    }

    fn seen(&self) -> MutexGuard<'_, SeenCommits> {
        self.seen.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Copies the plan and the config, if the run has begun, and tells whether it has.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub(crate) fn fetch_plan(&self) -> Result<bool> {
        let Some(plan) = self.folder.get(PLAN)? else {
            return Ok(false);
        };
        write_atomic(&self.dir().join(PLAN), &plan)?;
        if let Some(config) = self.folder.get(CONFIG)? {
            write_atomic(&self.dir().join(CONFIG), &config)?;
        }
        Ok(true)
    }

    /// Copies the plan and the config of a run that has begun.
    ///
    /// # Errors
    /// Fails if the store cannot be read, or if there is no plan.
    pub(crate) fn require_plan(&self) -> Result<()> {
        match self.fetch_plan()? {
            true => Ok(()),
            false => bail!(
                "{}: there is no plan; expected the address of a run",
                self.folder.address_of(PLAN)
            ),
        }
    }

    /// Copies the plan if the run has begun. If it has not, the folder must be free for it.
    ///
    /// # Errors
    /// Fails if the store cannot be read, or if it holds something else there.
    pub(crate) fn look_before_run(&self) -> Result<()> {
        let is_begun = self.fetch_plan()?;
        let names = self.folder.names("")?;
        // Its trials are not those of the store: all would be done again.
        if names.iter().any(|name| super::is_journal(name)) {
            bail!(
                "{}: it holds a run of a directory; expected its path without an address, or another --out",
                self.folder.address()
            );
        }
        if is_begun {
            return Ok(());
        }
        let is_foreign = |name: &String| !BEFORE_PLAN.contains(&name.as_str());
        // Another process may have begun the run in the meantime.
        if names.iter().any(is_foreign) && !self.fetch_plan()? {
            bail!(
                "{}: it exists but holds no plan of a run; give another --out",
                self.folder.address()
            );
        }
        Ok(())
    }

    /// Begins the run with the plan and the config of the copy, unless another process has begun it.
    /// Then the copy gets its plan and config.
    ///
    /// # Errors
    /// Fails if the store cannot be written, or if it does not tell which process was the first.
    pub(crate) fn agree_on_plan(&self) -> Result<()> {
        let path = self.dir().join(PLAN);
        let own = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let agreed = match self.folder.create(PLAN, &own)? {
            true => own,
            false => {
                self.require_plan()?;
                std::fs::read(&path).with_context(|| path.display().to_string())?
            }
        };
        // What is there already must be refused. If it is not, nothing has changed.
        if self.folder.create(PLAN, &agreed)? {
            return Err(no_conditional_puts()).context(self.folder.address().to_owned());
        }
        Ok(())
    }

    /// Puts the config of the copy into the store if there is none.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    pub(crate) fn keep_config(&self) -> Result<()> {
        let path = self.dir().join(CONFIG);
        if path.exists() && self.folder.get(CONFIG)?.is_none() {
            let config = std::fs::read(&path).with_context(|| path.display().to_string())?;
            self.folder.create(CONFIG, &config)?;
        }
        Ok(())
    }

    /// Notes in the journals of the copy what was committed since the last call. Files of trials are
    /// not copied, and of a finished trial the journals say no more than that it is finished. Returns
    /// how many lists it took.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub(crate) fn read_new_commits(&self) -> Result<usize> {
        let mut seen = self.seen();
        let mut new: Vec<ListedObject> = Vec::new();
        let mut lists = 1;
        if seen.last.is_empty() {
            new = self.folder.list(COMMITS, None)?;
        } else {
            // A process that has ended commits nothing more.
            let at_work: BTreeSet<String> = (self.folder.list("workers", None)?.iter())
                .filter_map(|lease| {
                    let name = lease.key.strip_prefix("workers/")?.strip_suffix(".json")?;
                    Some(name.to_owned())
                })
                .collect();
            let others: Vec<String> = (self.folder.names(COMMITS)?.into_iter())
                .filter(|worker| !seen.ended.contains(worker))
                .collect();
            lists = 2 + others.len();
            let found = Mutex::new(&mut new);
            self.folder.for_each(&others, |worker| {
                let below = format!("{COMMITS}/{worker}");
                let last = seen.last.get(worker).map(String::as_str);
                let listed = self.folder.list(&below, last)?;
                let mut found = found.lock().unwrap_or_else(|e| e.into_inner());
                found.extend(listed);
                Ok(())
            })?;
            // Whoever has committed before had a lease, which a new process may have got since.
            let SeenCommits { last, ended, .. } = &mut *seen;
            let is_known = |name: &String| last.contains_key(name);
            ended.extend((others.into_iter()).filter(|n| is_known(n) && !at_work.contains(n)));
        }
        new.sort_by(|a, b| (a.modified, &a.key).cmp(&(b.modified, &b.key)));
        let mut lines: BTreeMap<String, String> = BTreeMap::new();
        for object in new {
            let Some(name) = CommitName::parse(&object.key) else {
                continue;
            };
            let last = seen.last.entry(name.worker.clone()).or_default();
            if *last >= object.key {
                continue;
            }
            let event = match name.is_finished {
                true => name.event(),
                false => self.read_commit(&name)?.event,
            };
            *last = object.key;
            let text = lines.entry(name.worker.clone()).or_default();
            text.push_str(&serde_json::to_string(&event)?);
            text.push('\n');
            if name.is_finished {
                seen.finished.entry(name.trial.clone()).or_insert(name);
            }
        }
        drop(seen);
        for (worker, text) in &lines {
            self.append_lines(worker, text)?;
        }
        Ok(lists)
    }

    /// Appends lines to the journal of a process in the copy.
    fn append_lines(&self, worker: &str, lines: &str) -> Result<()> {
        let path = JournalWriter::Worker(worker.to_owned()).journal_file(self.dir());
        append_unsynced(&path, lines.as_bytes())
    }

    /// Commits the outcome of a trial of this process, whose files are in the copy, and notes it in
    /// the copy.
    ///
    /// # Errors
    /// Fails if the store cannot be written. Then nothing is committed.
    pub(crate) fn commit(&self, worker: &str, event: &Event) -> Result<()> {
        let dir = self.dir();
        let (Event::Finished { trial, seconds, .. } | Event::Failed { trial, seconds, .. }) = event
        else {
            return Ok(());
        };
        let name = CommitName {
            worker: worker.to_owned(),
            number: self.seen().own,
            trial: trial.clone(),
            is_finished: matches!(event, Event::Finished { .. }),
            milliseconds: (1e3 * seconds).round() as u64,
        };
        let text = |path: &Path| {
            let read = std::fs::read_to_string(path);
            read.with_context(|| path.display().to_string())
        };
        let mut commit = Commit {
            plan_sha256: self.plan_sha256()?,
            event: event.clone(),
            rows: None,
            steps: None,
        };
        if let Event::Finished {
            array_sha256,
            steps_sha256,
            ..
        } = event
        {
            commit.rows = Some(text(&row_file(dir, trial))?);
            if steps_sha256.is_some() {
                commit.steps = Some(text(&step_file(dir, trial))?);
            }
            if array_sha256.is_some() {
                let path = array_file(dir, trial);
                let array = std::fs::read(&path).with_context(|| path.display().to_string())?;
                self.folder.put(&name.array_key(), array)?;
            }
        }
        // Nobody else has this name, so that sending it twice does no harm.
        self.folder.put(&name.key(), serde_json::to_vec(&commit)?)?;
        let mut seen = self.seen();
        seen.own += 1;
        seen.last.insert(worker.to_owned(), name.key());
        // Its own commits need not be listed.
        seen.ended.insert(worker.to_owned());
        drop(seen);
        let noted = match name.is_finished {
            true => &name.event(),
            false => event,
        };
        self.append_lines(worker, &format!("{}\n", serde_json::to_string(noted)?))?;
        // The rows are read again from the store by whoever needs them.
        for path in [row_file(dir, trial), step_file(dir, trial)] {
            let _ = std::fs::remove_file(path);
        }
        if name.is_finished {
            let mut seen = self.seen();
            seen.finished.entry(trial.clone()).or_insert(name);
        }
        Ok(())
    }

    fn plan_sha256(&self) -> Result<String> {
        if let Some(known) = self.plan_sha256.get() {
            return Ok(known.clone());
        }
        let path = self.dir().join(PLAN);
        let plan = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let sha256 = hex(&Sha256::digest(&plan));
        Ok(self.plan_sha256.get_or_init(|| sha256).clone())
    }

    /// Copies the array of a finished trial, unless the copy has it.
    ///
    /// # Errors
    /// Fails if the store cannot be read, or if the array is not the one that was committed.
    pub(crate) fn fetch_array(&self, trial: &str) -> Result<()> {
        if array_file(self.dir(), trial).exists() {
            return Ok(());
        }
        let name = self.seen().finished.get(trial).cloned();
        let Some(name) = name else { return Ok(()) };
        let commit = self.read_commit(&name)?;
        self.copy_array(&name, &commit)
    }

    /// Copies everything that is committed, with the files of all trials: the copy becomes the
    /// directory of the run.
    ///
    /// # Errors
    /// Fails if the store cannot be read, or if an object is not what was committed.
    pub(crate) fn fetch_all(&self) -> Result<()> {
        self.require_plan()?;
        let mut commits: Vec<(CommitName, i64)> = (self.folder.list(COMMITS, None)?.into_iter())
            .filter_map(|object| Some((CommitName::parse(&object.key)?, object.modified)))
            .collect();
        commits.sort_by(|(a, x), (b, y)| (x, a.key()).cmp(&(y, b.key())));
        let mut counted = BTreeSet::new();
        let commits: Vec<(CommitName, bool)> = commits
            .into_iter()
            .map(|(name, _)| {
                let counts = name.is_finished && counted.insert(name.trial.clone());
                (name, counts)
            })
            .collect();
        type Lines = BTreeMap<String, BTreeMap<usize, String>>;
        let (lines, plans) = (Mutex::new(Lines::new()), Mutex::new(BTreeSet::new()));
        self.folder.for_each(&commits, |(name, counts)| {
            let commit = self.read_commit(name)?;
            if *counts {
                self.copy_files(name, &commit)?;
            }
            let line = format!("{}\n", serde_json::to_string(&commit.event)?);
            let mut lines = lines.lock().unwrap_or_else(|e| e.into_inner());
            let of_worker = lines.entry(name.worker.clone()).or_default();
            of_worker.insert(name.number, line);
            drop(lines);
            let mut plans = plans.lock().unwrap_or_else(|e| e.into_inner());
            plans.insert(commit.plan_sha256);
            Ok(())
        })?;
        let plans = plans.into_inner().unwrap_or_else(|e| e.into_inner());
        for plan_sha256 in plans {
            let planned = Event::Planned { plan_sha256 };
            append_event(&JournalWriter::Alone.journal_file(self.dir()), &planned)?;
        }
        for (worker, lines) in lines.into_inner().unwrap_or_else(|e| e.into_inner()) {
            let text: String = lines.into_values().collect();
            self.append_lines(&worker, &text)?;
        }
        read_plan(self.dir()).map(drop)
    }

    /// Reads a commit and checks it.
    ///
    /// # Errors
    /// Fails if it cannot be read, or if it is not what its name says.
    fn read_commit(&self, name: &CommitName) -> Result<Commit> {
        let sha256 = |text: &Option<String>| Some(hex(&Sha256::digest(text.as_ref()?.as_bytes())));
        let check = |bytes: Vec<u8>| -> Result<Commit> {
            let commit: Commit = serde_json::from_slice(&bytes)?;
            let (trial, is_finished) = match &commit.event {
                Event::Finished {
                    trial,
                    sha256: rows,
                    steps_sha256,
                    ..
                } => {
                    ensure!(
                        sha256(&commit.rows).as_ref() == Some(rows),
                        "its rows are torn"
                    );
                    ensure!(sha256(&commit.steps) == *steps_sha256, "its steps are torn");
                    (trial, true)
                }
                Event::Failed { trial, .. } => (trial, false),
                Event::Planned { .. } => bail!("it is no outcome of a trial"),
            };
            ensure!(
                *trial == name.trial && is_finished == name.is_finished,
                "its content is that of another trial"
            );
            Ok(commit)
        };
        self.read_checked(&name.key(), name, check)
    }

    /// Reads an object, and once more if it is not whole.
    ///
    /// # Errors
    /// Fails if it cannot be read, or is not whole after all.
    fn read_checked<T>(
        &self,
        key: &str,
        commit: &CommitName,
        check: impl Fn(Vec<u8>) -> Result<T>,
    ) -> Result<T> {
        let mut checked = Err(anyhow!("it is not there"));
        for _ in 0..READINGS {
            if let Some(bytes) = self.folder.get(key)? {
                checked = check(bytes);
            }
            if checked.is_ok() {
                break;
            }
        }
        checked.with_context(|| {
            format!(
                "{}: it is not what was committed; if {} is deleted, `flowgauge run` with the same \
                 config does its trial again",
                self.folder.address_of(key),
                self.folder.address_of(&commit.key())
            )
        })
    }

    /// Writes the files of a commit to the copy.
    fn copy_files(&self, name: &CommitName, commit: &Commit) -> Result<()> {
        let dir = self.dir();
        let files: [(PathBuf, &Option<String>); 2] = [
            (row_file(dir, &name.trial), &commit.rows),
            (step_file(dir, &name.trial), &commit.steps),
        ];
        for (path, text) in files {
            if let Some(text) = text {
                write_unsynced(&path, text.as_bytes())?;
            }
        }
        self.copy_array(name, commit)
    }

    /// Writes the array of a commit to the copy, if it has one.
    fn copy_array(&self, name: &CommitName, commit: &Commit) -> Result<()> {
        let Event::Finished {
            array_sha256: Some(sha256),
            ..
        } = &commit.event
        else {
            return Ok(());
        };
        let array = self.read_checked(&name.array_key(), name, |bytes| {
            ensure!(hex(&Sha256::digest(&bytes)) == *sha256, "it is torn");
            Ok(bytes)
        })?;
        write_unsynced(&array_file(self.dir(), &name.trial), &array)
    }

    /// Puts the tables, the plots and the page of the copy into the store, the page last.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    pub(crate) fn put_report(&self) -> Result<()> {
        let mut files: Vec<String> = Vec::new();
        for folder in ["tables", "plots"] {
            let entries = std::fs::read_dir(self.dir().join(folder));
            for entry in entries.into_iter().flatten().flatten() {
                files.push(format!("{folder}/{}", entry.file_name().to_string_lossy()));
            }
        }
        let put = |name: &String| {
            let path = self.dir().join(name);
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            self.folder.put(name, bytes)
        };
        self.folder.for_each(&files, put)?;
        put(&"index.html".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::journal::{Journal, Outcome};

    /// The copies of one run by several processes.
    fn copies(n: usize) -> Vec<RemoteRun> {
        let folder = ObjectFolder::in_store(Arc::new(InMemory::new()), "runs/a");
        folder.put(PLAN, b"{}".to_vec()).expect("put");
        (0..n)
            .map(|_| {
                let run = RemoteRun::of_folder(folder.clone()).expect("a copy");
                run.require_plan().expect("a plan");
                run
            })
            .collect()
    }

    /// Writes the files of a trial to a copy, as its execution does, and returns its event.
    fn finished(run: &RemoteRun, trial: &str, rows: &str, array: Option<&[u8]>) -> Event {
        let sha256 = |bytes: &[u8]| hex(&Sha256::digest(bytes));
        write_unsynced(&row_file(run.dir(), trial), rows.as_bytes()).expect("written");
        if let Some(array) = array {
            write_unsynced(&array_file(run.dir(), trial), array).expect("written");
        }
        Event::Finished {
            trial: trial.to_owned(),
            rows: 1,
            sha256: sha256(rows.as_bytes()),
            array_sha256: array.map(sha256),
            steps_sha256: None,
            under: None,
            seconds: 1.25,
        }
    }

    fn failed(trial: &str) -> Event {
        Event::Failed {
            trial: trial.to_owned(),
            error: "why".to_owned(),
            seconds: 0.5,
        }
    }

    #[test]
    fn commits_reach_others_once_by_their_names() {
        let runs = copies(2);
        let (a, b) = (&runs[0], &runs[1]);
        b.read_new_commits().expect("read");
        let array = [1u8, 2, 3];
        a.commit("a", &finished(a, "t1", "x\n1\n", Some(&array)))
            .expect("committed");
        a.commit("a", &failed("t2")).expect("committed");
        for _ in 0..2 {
            b.read_new_commits().expect("read");
        }
        a.commit("a", &finished(a, "t3", "x\n3\n", None))
            .expect("committed");
        // Its lease is not there, so that it counts as ended once it was read.
        b.read_new_commits().expect("read");
        let text = std::fs::read_to_string(b.dir().join("journal-a.jsonl")).expect("a journal");
        assert_eq!(text.lines().count(), 2, "{text}");
        let journal = Journal::read(b.dir()).expect("a journal");
        assert!(matches!(
            journal.outcomes["t1"],
            Outcome::Finished { seconds: 1.25, .. }
        ));
        assert!(matches!(&journal.outcomes["t2"], Outcome::Failed { error, .. } if error == "why"));
        b.fetch_array("t1").expect("copied");
        let copied = std::fs::read(array_file(b.dir(), "t1")).expect("an array");
        assert_eq!(copied, array);
        assert_eq!(Journal::read(a.dir()).expect("a journal").outcomes.len(), 3);
    }

    #[test]
    fn processes_with_leases_are_listed_behind_their_last_commit() {
        let runs = copies(2);
        let (a, b) = (&runs[0], &runs[1]);
        a.folder.put("workers/a.json", vec![]).expect("put");
        for i in 0..12 {
            a.commit("a", &failed(&format!("t{i}"))).expect("committed");
            b.read_new_commits().expect("read");
        }
        let text = std::fs::read_to_string(b.dir().join("journal-a.jsonl")).expect("a journal");
        assert_eq!(text.lines().count(), 12, "{text}");
    }

    #[test]
    fn of_two_commits_the_first_counts_and_both_are_kept() {
        let runs = copies(3);
        let rows = ["x,seconds\n1,0.5\n", "x,seconds\n1,0.7\n"];
        // The names are in the other order.
        for (run, (worker, rows)) in runs.iter().zip([("b", rows[0]), ("a", rows[1])]) {
            run.commit(worker, &finished(run, "t", rows, None))
                .expect("committed");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let whole = &runs[2];
        // The plan of this test is none, which is all that is wrong.
        let error = whole.fetch_all().expect_err("no plan").to_string();
        assert!(error.contains("plan.json"), "{error}");
        let kept = std::fs::read_to_string(row_file(whole.dir(), "t")).expect("rows");
        assert_eq!(kept, rows[0]);
        let journal = Journal::read(whole.dir()).expect("a journal");
        assert_eq!(journal.repeats["t"].len(), 1);
        assert_eq!(
            journal.plan_sha256,
            Some(whole.plan_sha256().expect("read"))
        );
    }

    #[test]
    fn damaged_objects_are_named_with_what_helps() {
        for (damage, key, fault) in [
            (&b"{\"plan"[..], "commits/a/00000000.t.finished.1250", "EOF"),
            (&b"[1]"[..], "arrays/a/00000000.npy", "it is torn"),
        ] {
            let runs = copies(2);
            let (a, b) = (&runs[0], &runs[1]);
            a.commit("a", &finished(a, "t", "x\n1\n", Some(&[7])))
                .expect("committed");
            a.folder.put(key, damage.to_vec()).expect("put");
            b.read_new_commits().expect("the name says all");
            for error in [b.fetch_array("t"), b.fetch_all()] {
                let error = format!("{:#}", error.expect_err(key));
                let words = [key, fault, "memory:///runs/a/", "is deleted"];
                assert!(words.iter().all(|word| error.contains(word)), "{error}");
            }
        }
        // Another trial's content under a name.
        let runs = copies(1);
        let run = &runs[0];
        run.commit("a", &failed("t")).expect("committed");
        let content = run.folder.get("commits/a/00000000.t.failed.500");
        let content = content.expect("read").expect("there");
        run.folder
            .put("commits/b/00000000.u.failed.500", content)
            .expect("put");
        let error = format!("{:#}", run.fetch_all().expect_err("another trial"));
        assert!(error.contains("another trial"), "{error}");
    }

    #[test]
    fn names_that_are_no_commits_are_passed_over() {
        let name = CommitName {
            worker: "host-1-abc".to_owned(),
            number: 12,
            trial: "ab12".to_owned(),
            is_finished: true,
            milliseconds: 7,
        };
        assert_eq!(CommitName::parse(&name.key()), Some(name));
        for key in [
            "commits/a",
            "commits/a/x",
            "commits/a/1.t.finished",
            "commits/a/1.t.maybe.3",
            "commits/a/-1.t.failed.3",
            "commits/../1.t.failed.3",
            "commits/a/1.t/../x.failed.3",
            "commits/a\\b/1.t.failed.3",
            "commits/a/1..failed.3",
            "elsewhere/a/1.t.failed.3",
        ] {
            assert_eq!(CommitName::parse(key), None, "{key}");
        }
    }

    #[test]
    fn first_plan_counts_and_others_get_it() {
        let folder = ObjectFolder::in_store(Arc::new(InMemory::new()), "runs/a");
        let runs = [(); 2].map(|()| RemoteRun::of_folder(folder.clone()).expect("a copy"));
        for (run, plan) in runs.iter().zip(["first", "second"]) {
            run.look_before_run().expect("free, or begun");
            write_unsynced(&run.dir().join(PLAN), plan.as_bytes()).expect("written");
            run.agree_on_plan().expect("agreed");
            let agreed = std::fs::read_to_string(run.dir().join(PLAN)).expect("a plan");
            assert_eq!(agreed, "first");
        }
        assert_eq!(folder.get(PLAN).expect("read"), Some(b"first".to_vec()));
        write_unsynced(&runs[1].dir().join(CONFIG), b"c").expect("written");
        runs[1].keep_config().expect("kept");
        assert_eq!(folder.get(CONFIG).expect("read"), Some(b"c".to_vec()));
    }

    #[test]
    fn folder_with_something_else_is_refused() {
        let folder = ObjectFolder::in_store(Arc::new(InMemory::new()), "runs/a");
        let run = RemoteRun::of_folder(folder.clone()).expect("a copy");
        for harmless in ["config.yaml", "claims/x.0", "workers/w.json"] {
            folder.put(harmless, vec![]).expect("put");
        }
        run.look_before_run().expect("what a killed run leaves");
        folder.put("photos/cat.png", vec![]).expect("put");
        let error = run
            .look_before_run()
            .expect_err("a foreign file")
            .to_string();
        assert!(error.contains("give another --out"), "{error}");
        let error = run.require_plan().expect_err("no plan").to_string();
        assert!(error.contains("memory:///runs/a/plan.json"), "{error}");
    }

    #[test]
    fn reading_is_linear_in_the_number_of_commits() {
        let runs = copies(2);
        let (a, b) = (&runs[0], &runs[1]);
        a.folder.put("workers/a.json", vec![]).expect("put");
        let name = |i: usize| CommitName {
            worker: "a".to_owned(),
            number: i,
            trial: format!("t{i}"),
            is_finished: true,
            milliseconds: 5,
        };
        let (mut read, mut lists) = (std::time::Duration::ZERO, 0);
        for i in 0..20_000 {
            a.folder.put(&name(i).key(), vec![]).expect("put");
            if i % 500 == 499 {
                let began = std::time::Instant::now();
                lists += b.read_new_commits().expect("read");
                read += began.elapsed();
            }
        }
        let text = std::fs::read_to_string(b.dir().join("journal-a.jsonl")).expect("a journal");
        assert_eq!(text.lines().count(), 20_000);
        // Each look lists leases, processes, and what is new of one of them.
        assert_eq!(lists, 1 + 39 * 3);
        println!("20,000 commits read in {read:?}");
    }
}
