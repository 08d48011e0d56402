//! One of many processes that take the trials of one run as they go.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use sha2::{Digest, Sha256};

use super::progress::RunProgress;
use super::queue::TrialQueue;
use crate::claim::{
    ClaimAnswer, ClaimFolder, LeaseKeeper, MeetingPlace, WorkerState, count_leases,
};
use crate::host::hex;
use crate::journal::{Event, Journal, JournalFollower, JournalWriter, Outcome, RemoteRun};
use crate::plan::Trial;
use crate::stop;

/// The place of this process among those that claim trials.
pub(crate) struct Team {
    dir: PathBuf,
    /// The run in an object store of which the directory is a copy.
    remote: Option<Arc<RemoteRun>>,
    place: MeetingPlace,
    /// The name of this process.
    name: String,
    claims: ClaimFolder,
    follower: JournalFollower,
    /// The processes that have committed each trial.
    committed_by: HashMap<String, HashSet<String>>,
    /// The trials that others hold, as far as is known.
    held: Vec<usize>,
    /// The time between two looks at what others do.
    pause: Duration,
    look_again: Instant,
    /// When the processes may be counted again, for the time left.
    count_again: Instant,
}

/// The time between two counts of the processes.
const COUNTING_PAUSE: Duration = Duration::from_secs(20);

/// The least time between two looks at what others have committed, as a multiple of what one takes.
const LOOKING_PAUSE: u32 = 20;
/// The least time between two looks for each list of an object store that one takes.
const PAUSE_PER_LIST: Duration = Duration::from_millis(500);
/// How long a process that waits sleeps before it looks whether it was asked to stop.
const NAP: Duration = Duration::from_millis(200);

/// What a process does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextTrial {
    /// It executes this trial, which it has claimed.
    Execute(usize),
    /// None is left for it.
    NoneLeft,
    /// It was asked to stop.
    Stop,
}

impl Team {
    /// Joins those who work in a run directory, and reads what they have committed.
    ///
    /// Nothing is written: a directory without a plan is taken for a run's only as long as it is
    /// empty.
    ///
    /// # Errors
    /// Fails if a journal cannot be read.
    pub(super) fn join(
        dir: &Path,
        remote: Option<&Arc<RemoteRun>>,
        name: &str,
        lease: Duration,
    ) -> Result<Team> {
        let place = match remote {
            Some(remote) => MeetingPlace::objects(remote.folder()),
            None => MeetingPlace::folder(dir),
        };
        let mut team = Team {
            dir: dir.to_owned(),
            remote: remote.cloned(),
            claims: ClaimFolder::new(&place, name),
            name: name.to_owned(),
            follower: JournalFollower::new(dir),
            committed_by: HashMap::new(),
            held: Vec::new(),
            pause: place.pause_between_looks(lease),
            place,
            look_again: Instant::now(),
            count_again: Instant::now(),
        };
        team.read_journals()?;
        Ok(team)
    }

    /// Makes what is needed to claim trials. The plan must have been written.
    ///
    /// # Errors
    /// Fails if the folder of the claims cannot be made.
    pub(super) fn begin_claims(&self) -> Result<()> {
        self.claims.make()
    }

    /// The trials that were committed since the last call.
    fn read_journals(&mut self) -> Result<Vec<String>> {
        let began = Instant::now();
        let lists = match &self.remote {
            Some(remote) => remote.read_new_commits()?,
            None => 0,
        };
        let mut settled = Vec::new();
        for (writer, event) in self.follower.read_new()? {
            let (Event::Finished { trial, .. } | Event::Failed { trial, .. }) = event else {
                continue;
            };
            if let JournalWriter::Worker(name) = writer {
                self.committed_by
                    .entry(trial.clone())
                    .or_default()
                    .insert(name);
            }
            settled.push(trial);
        }
        // Looking costs more the more processes there are, and is done less often.
        let pause = (LOOKING_PAUSE * began.elapsed()).max(PAUSE_PER_LIST * lists as u32);
        self.look_again = Instant::now() + self.pause.max(pause);
        Ok(settled)
    }

    /// Notes what others have committed since the last look.
    ///
    /// # Errors
    /// Fails if a journal cannot be read.
    pub(super) fn look(&mut self, queue: &mut TrialQueue, progress: &RunProgress) -> Result<()> {
        for trial in self.read_journals()? {
            if let Some(place) = queue.settle(&trial) {
                progress.close_trial(place);
            }
        }
        self.held.retain(|i| !queue.is_settled(*i));
        if Instant::now() >= self.count_again {
            progress.set_workers(count_leases(&self.place)?);
            self.count_again = Instant::now() + COUNTING_PAUSE;
        }
        Ok(())
    }

    /// The next trial that this process has claimed. `take` takes one of the queue that it can
    /// execute. The process waits while others hold all that is left.
    ///
    /// # Errors
    /// Fails if a file of the run directory cannot be read or written.
    pub(super) fn next(
        &mut self,
        todo: &[&Trial],
        queue: &mut TrialQueue,
        progress: &RunProgress,
        take: &mut dyn FnMut(&mut TrialQueue) -> Option<usize>,
    ) -> Result<NextTrial> {
        loop {
            if stop::leaving() {
                return Ok(NextTrial::Stop);
            }
            if Instant::now() >= self.look_again {
                self.look(queue, progress)?;
            }
            while let Some(i) = take(queue) {
                match self.claims.claim(&todo[i].id)? {
                    ClaimAnswer::Won => return Ok(NextTrial::Execute(i)),
                    ClaimAnswer::Held => self.held.push(i),
                }
            }
            self.look(queue, progress)?;
            // Trials that are settled or put aside are not held by others.
            if self.held.is_empty() && !queue.has_ready() {
                return Ok(NextTrial::NoneLeft);
            }
            if let Some(i) = self.take_over_one(todo, queue, progress)? {
                return Ok(NextTrial::Execute(i));
            }
            if !queue.has_ready() {
                self.wait();
            }
        }
    }

    /// Waits until it is time for the next look, or until the process is asked to stop.
    fn wait(&self) {
        let until = self.look_again.max(Instant::now() + self.pause);
        while Instant::now() < until && !stop::leaving() {
            std::thread::sleep(until.saturating_duration_since(Instant::now()).min(NAP));
        }
    }

    /// Takes over one trial whose holder has gone, or has committed it before its files were
    /// damaged.
    fn take_over_one(
        &mut self,
        todo: &[&Trial],
        queue: &mut TrialQueue,
        progress: &RunProgress,
    ) -> Result<Option<usize>> {
        for i in self.held.clone() {
            let id = &todo[i].id;
            let holder = self.claims.holder(id)?;
            let was_committed = |holder: &String| {
                let by = self.committed_by.get(id);
                by.is_some_and(|by| by.contains(holder))
            };
            // A store's answer to the claim may have been lost on the way: then it is this one's.
            if matches!(&holder, Some((holder, _)) if *holder == self.name) {
                self.held.retain(|held| *held != i);
                return Ok(Some(i));
            }
            let is_free = match &holder {
                None => true,
                Some((_, WorkerState::Ended | WorkerState::Dead)) => true,
                Some((holder, WorkerState::Alive)) => was_committed(holder),
            };
            if !is_free {
                continue;
            }
            // The holder may have committed it and ended since the last look.
            self.look(queue, progress)?;
            if queue.is_settled(i) {
                continue;
            }
            if self.claims.take_over(id)? == ClaimAnswer::Won {
                self.held.retain(|held| *held != i);
                if let Some((holder, WorkerState::Dead)) = &holder {
                    tracing::info!(trial = id, holder, "taken over");
                }
                return Ok(Some(i));
            }
        }
        Ok(None)
    }

    /// Where this process meets the others.
    pub(super) fn place(&self) -> &MeetingPlace {
        &self.place
    }

    /// The team when every trial is settled. The lease holds until it is dropped.
    pub(super) fn with_lease(self: Box<Self>, lease: LeaseKeeper) -> TeamAtEnd {
        TeamAtEnd {
            team: self,
            _lease: lease,
        }
    }
}

/// The place of this process among those that claim trials, when no trial is left.
pub(crate) struct TeamAtEnd {
    team: Box<Team>,
    _lease: LeaseKeeper,
}

impl TeamAtEnd {
    /// Does work that one process alone shall do, such as publishing. Returns `None` if another
    /// process does it, after that process has done it.
    ///
    /// # Errors
    /// Fails if the work fails, or if a file cannot be read or written.
    pub(crate) fn once<T>(self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let Team {
            dir,
            name: own,
            mut claims,
            pause,
            ..
        } = *self.team;
        // Trials may fail again or be done again later: then there is something else to publish.
        let name = format!("{what}-{}", state_of_journal(&Journal::read(&dir)?));
        let mut answer = claims.claim(&name)?;
        while answer == ClaimAnswer::Held {
            if claims.is_done(&name)? || stop::leaving() {
                return Ok(None);
            }
            match claims.holder(&name)? {
                // The store's answer to the claim was lost on the way.
                Some((holder, _)) if holder == own => answer = ClaimAnswer::Won,
                Some((_, WorkerState::Alive)) => std::thread::sleep(pause),
                // It may have ended because the work is done.
                _ if claims.is_done(&name)? => return Ok(None),
                _ => answer = claims.take_over(&name)?,
            }
        }
        let result = work()?;
        claims.set_done(&name)?;
        Ok(Some(result))
    }
}

/// A few digits that follow from what is committed.
fn state_of_journal(journal: &Journal) -> String {
    let mut digest = Sha256::new();
    let repeats = journal.repeats.iter();
    let repeats = repeats.flat_map(|(id, outcomes)| outcomes.iter().map(move |o| (id, o)));
    for (id, outcome) in journal.outcomes.iter().chain(repeats) {
        let what = match outcome {
            Outcome::Finished { sha256, .. } => sha256,
            Outcome::Failed { error, .. } => error,
        };
        digest.update(format!("{id} {what}\n"));
    }
    hex(&digest.finalize()[..6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_joins_leaves_nothing_before_the_plan_is_written() {
        // Otherwise another that begins at the same time would take the directory for a foreign one.
        let dir = tempfile::tempdir().expect("a folder");
        let entries = || std::fs::read_dir(dir.path()).expect("a folder").count();
        let team = Team::join(dir.path(), None, "w", Duration::from_secs(60)).expect("joined");
        assert_eq!(entries(), 0);
        team.begin_claims().expect("a folder");
        assert_eq!(entries(), 1);
    }
}
