//! How far a run is: what is done, who is at work, and what nobody does any more. It is read from the
//! journals and the leases; nothing is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::claim::{Lease, LeaseWatcher, MeetingPlace, WorkerState, read_leases};
use crate::journal::{
    Journal, JournalWriter, Outcome, RemoteRun, journal_files, outstanding_trials, read_plan,
};
use crate::plan::{Plan, PlanFile, Shard};

mod lost;

use lost::lost_shards;
pub(crate) use lost::{LostShard, lost_shards_in};

/// The state of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RunStatus {
    /// The name of the run.
    pub name: String,
    /// The number of trials of the plan.
    pub trials: usize,
    /// The number of finished trials.
    pub finished: usize,
    /// The trials that failed.
    pub failed: Vec<FailedTrial>,
    /// The number of trials that have neither finished nor failed.
    pub outstanding: usize,
    /// The number of trials that several processes finished.
    pub done_twice: usize,
    /// The processes that have not ended in good order.
    pub processes: Vec<ProcessStatus>,
    /// What each process has committed, the most first.
    pub throughput: Vec<WorkerThroughput>,
    /// The estimated seconds until nothing is left; `None` if they are not known.
    pub seconds_left: Option<f64>,
    /// The shards with outstanding trials and without a process.
    pub lost_shards: Vec<LostShard>,
}

/// A trial that failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct FailedTrial {
    pub trial: String,
    /// What it is, in words.
    pub work: String,
    /// The message of its failure.
    pub error: String,
}

/// A process with a lease.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ProcessStatus {
    /// What the process says of itself.
    #[serde(flatten)]
    pub lease: Lease,
    /// Whether it has died, as far as is known.
    pub dead: bool,
}

/// What one process has committed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct WorkerThroughput {
    /// The process: `shard 1/4`, the name of a process that claims trials, or `the run`.
    pub worker: String,
    pub finished: usize,
    pub failed: usize,
    /// The seconds that its trials took together.
    pub seconds: f64,
    /// The finished trials in an hour of such seconds; `None` if there are none.
    pub per_hour: Option<f64>,
}

/// Looks at one run directory, once or again and again. A process of another machine is known to be
/// dead only after its lease was watched for its whole time.
pub(crate) struct StatusReader {
    dir: PathBuf,
    /// The run in an object store of which the directory is a copy.
    remote: Option<RemoteRun>,
    place: MeetingPlace,
    watcher: LeaseWatcher,
}

impl StatusReader {
    /// Looks at the run in a directory, or at an address of an object store.
    ///
    /// # Errors
    /// Fails if the address is malformed, or if there is no run.
    pub(crate) fn new(dir: &Path) -> Result<StatusReader> {
        let remote = RemoteRun::open(dir)?;
        if let Some(remote) = &remote {
            remote.require_plan()?;
        }
        let place = match &remote {
            Some(remote) => MeetingPlace::objects(remote.folder()),
            None => MeetingPlace::folder(dir),
        };
        Ok(StatusReader {
            dir: (remote.as_ref()).map_or_else(|| dir.to_owned(), |r| r.dir().to_owned()),
            remote,
            watcher: LeaseWatcher::new(&place),
            place,
        })
    }

    /// The state of the run now.
    ///
    /// # Errors
    /// Fails if the directory is not a run's directory, or if a file cannot be read.
    pub(crate) fn read(&mut self) -> Result<RunStatus> {
        if let Some(remote) = &self.remote {
            remote.read_new_commits()?;
        }
        let file = read_plan(&self.dir)?;
        let (mut journal, mut throughput) = (Journal::default(), Vec::new());
        for path in journal_files(&self.dir)? {
            let one = Journal::read_file(&path)?;
            throughput
                .extend(JournalWriter::of_file(&path).and_then(|writer| worker_row(&writer, &one)));
            journal.merge(one);
        }
        throughput.sort_by(|a, b| b.finished.cmp(&a.finished).then(a.worker.cmp(&b.worker)));
        let processes = self.processes(&journal)?;
        let outstanding = outstanding_trials(&file.plan, &journal, false).len();
        let dirs = std::slice::from_ref(&self.dir);
        let lost_shards = lost_shards(dirs, &file, &journal, &processes)?;
        Ok(RunStatus {
            name: file.plan.name.clone(),
            trials: file.plan.trials.len(),
            finished: finished_trials(&file.plan, &journal),
            failed: failed_trials(&file, &journal),
            outstanding,
            done_twice: journal.repeats.len(),
            seconds_left: seconds_left(&journal, &processes, outstanding),
            processes,
            throughput,
            lost_shards,
        })
    }

    /// The processes with leases. A trial in hand that is committed is shown no more.
    fn processes(&mut self, journal: &Journal) -> Result<Vec<ProcessStatus>> {
        let mut processes = Vec::new();
        for mut lease in read_leases(&self.place)? {
            let dead = match self.watcher.state(&lease.worker)? {
                WorkerState::Alive => false,
                WorkerState::Dead => true,
                WorkerState::Ended => continue,
            };
            if journal.outcomes.contains_key(&lease.trial) {
                lease.trial.clear();
            }
            processes.push(ProcessStatus { lease, dead });
        }
        Ok(processes)
    }
}

/// The number of finished trials of the plan.
fn finished_trials(plan: &Plan, journal: &Journal) -> usize {
    let finished = |id: &str| matches!(journal.outcomes.get(id), Some(Outcome::Finished { .. }));
    plan.trials.iter().filter(|t| finished(&t.id)).count()
}

/// The failed trials of the plan.
fn failed_trials(file: &PlanFile, journal: &Journal) -> Vec<FailedTrial> {
    let mut failed = Vec::new();
    for trial in &file.plan.trials {
        if let Some(Outcome::Failed { error, .. }) = journal.outcomes.get(&trial.id) {
            failed.push(FailedTrial {
                trial: trial.id.clone(),
                work: trial.work.describe(&file.plan),
                error: error.clone(),
            });
        }
    }
    failed
}

/// What one journal says of its process; `None` if it has committed no trial.
fn worker_row(writer: &JournalWriter, journal: &Journal) -> Option<WorkerThroughput> {
    let failed = journal.failed_trials();
    let finished = journal.outcomes.len() - failed;
    let per_hour = 3600.0 * finished as f64 / journal.seconds;
    (finished + failed > 0).then(|| WorkerThroughput {
        worker: writer.to_string(),
        finished,
        failed,
        seconds: journal.seconds,
        per_hour: Some(per_hour).filter(|rate| finished > 0 && rate.is_finite()),
    })
}

/// The seconds until nothing is left: what the processes at work estimate, or the mean of the
/// finished trials for each outstanding one.
fn seconds_left(journal: &Journal, processes: &[ProcessStatus], outstanding: usize) -> Option<f64> {
    let alive = || processes.iter().filter(|process| !process.dead);
    if outstanding == 0 || alive().count() == 0 {
        return None;
    }
    let told = alive().filter_map(|process| process.lease.seconds_left);
    // Those who share trials estimate the same, and of shards the last one counts.
    told.reduce(f64::max).or_else(|| {
        let mean = journal.seconds / journal.outcomes.len() as f64;
        let left = mean * outstanding as f64 / alive().count() as f64;
        Some(left).filter(|left| left.is_finite())
    })
}

/// The shards of which the journals or the leases in directories speak, by their number.
fn known_shards(dirs: &[PathBuf], processes: &[ProcessStatus]) -> Result<BTreeSet<usize>> {
    let mut counts: BTreeSet<usize> = processes
        .iter()
        .filter_map(|process| process.lease.part.parse::<Shard>().ok())
        .map(|shard| shard.count)
        .collect();
    for dir in dirs {
        for path in journal_files(dir)? {
            if let Some(JournalWriter::Shard(shard)) = JournalWriter::of_file(&path) {
                counts.insert(shard.count);
            }
        }
    }
    Ok(counts)
}

/// How many processes do each part, for a line of the terminal.
pub(crate) fn processes_by_host(processes: &[ProcessStatus]) -> BTreeMap<&str, usize> {
    let mut hosts = BTreeMap::new();
    for process in processes.iter().filter(|process| !process.dead) {
        *hosts.entry(process.lease.host.as_str()).or_default() += 1;
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Event, append_event};

    #[test]
    fn time_left_is_what_processes_tell_or_the_mean_of_trials() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = JournalWriter::Alone.journal_file(folder.path());
        for (trial, seconds) in [("a", 2.0), ("b", 4.0)] {
            let event = Event::Failed {
                trial: trial.to_owned(),
                error: "x".to_owned(),
                seconds,
            };
            append_event(&file, &event).expect("written");
        }
        let journal = Journal::read(folder.path()).expect("read");
        let process = |seconds_left: Option<f64>, dead: bool| {
            let text = "{\"worker\":\"w\",\"host\":\"h\",\"pid\":1,\"began\":\"\",\"renewals\":1,\
                        \"lease_seconds\":60,\"alive_seconds\":1,\"done\":0}";
            let lease: Lease = serde_json::from_str(text).expect("a lease");
            let lease = Lease {
                seconds_left,
                ..lease
            };
            ProcessStatus { lease, dead }
        };
        let left = |processes: &[ProcessStatus], n| seconds_left(&journal, processes, n);
        assert_eq!(left(&[], 4), None, "nobody is at work");
        assert_eq!(left(&[process(None, true)], 4), None);
        assert_eq!(left(&[process(None, false)], 4), Some(12.0));
        assert_eq!(
            left(&[process(None, false), process(None, false)], 4),
            Some(6.0)
        );
        let told = [process(Some(7.0), false), process(Some(9.0), false)];
        assert_eq!(left(&told, 4), Some(9.0));
        assert_eq!(left(&told, 0), None);
    }
}
