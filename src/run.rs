//! The only trial loop that commits: it executes each outstanding trial and records its outcome in
//! the journal.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::begin::{Beginning, begin_or_resume, check_run_directory, lock_run_directory};
use self::commit::{ExistingFiles, write_trial};
use self::progress::RunProgress;
use self::queue::{TrialOrder, TrialQueue};
use self::team::{NextTrial, Team, TeamAtEnd};
use crate::claim::{LeaseKeeper, MeetingPlace, worker_name};
use crate::config::ConfigFile;
use crate::execute::{ComputeOptions, Executor};
use crate::journal::{
    Event, Journal, JournalWriter, RemoteRun, append_event, array_file, outstanding_trials,
    read_plan,
};
use crate::model::onnx::Runtime;
use crate::output::check_output_folder;
use crate::plan::{PreparedPlan, Shard, Trial};
use crate::progress::{ProgressDisplay, format_duration};
use crate::stop;

mod begin;
mod commit;
mod progress;
mod queue;
mod team;

pub(crate) use begin::{runtime_fingerprint, with_run_lock};

/// The options of a run besides its config.
pub(crate) struct RunOptions {
    /// The run directory, or the copy of a run in an object store.
    pub out: PathBuf,
    /// The run in an object store. Its trials are taken by claims.
    pub remote: Option<Arc<RemoteRun>>,
    /// The execution provider, batch size and threads.
    pub machine: ComputeOptions,
    /// Which trials this process executes.
    pub part: RunPart,
    /// When this process must have ended, if it must.
    pub time_limit: Option<TimeLimit>,
    /// Whether trials that failed earlier run again.
    pub retry: bool,
    /// Whether notes and progress on standard error are suppressed.
    pub quiet: bool,
    /// Whether the cards are checked by the data first.
    pub check: bool,
}

/// Which trials of the plan a process executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunPart {
    /// All of them.
    Whole,
    /// Those of a shard.
    Shard(Shard),
    /// Those that it claims before other processes do. A process that has not renewed its lease for
    /// this time counts as dead.
    Claims { lease: Duration },
}

impl RunPart {
    /// The part as leases and `flowgauge status` name it.
    fn name(&self) -> String {
        match self {
            RunPart::Whole => String::new(),
            RunPart::Shard(shard) => shard.to_string(),
            RunPart::Claims { .. } => "claims".to_owned(),
        }
    }

    /// The time of the lease. Without claims nobody takes anything over, and the lease is for
    /// `flowgauge status` alone.
    fn lease(&self) -> Duration {
        match self {
            RunPart::Claims { lease } => *lease,
            _ => Duration::from_secs(60),
        }
    }
}

/// The time that a process may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeLimit {
    /// When it began.
    pub began: Instant,
    /// How long it may take.
    pub lasts: Duration,
}

impl TimeLimit {
    /// The time that is left.
    fn left(&self) -> Duration {
        self.lasts.saturating_sub(self.began.elapsed())
    }
}

/// How a run ended.
pub(crate) enum RunEnd {
    /// Every trial of this process's share was executed, or by others if it claimed trials. Those
    /// who did so together are a team, which publishes once.
    Completed(Option<TeamAtEnd>),
    /// A signal or the time limit stopped the run: `done` of its `total` trials are done.
    Stopped { done: usize, total: usize },
}

/// Executes a plan in its run directory, or continues a run there.
///
/// # Errors
/// Fails if an input is invalid, or if the directory contains another plan, is in use or cannot be
/// written. A failed trial is not an error: the journal records it.
pub(crate) fn execute_run(
    written: &ConfigFile,
    prepared: &PreparedPlan,
    runtime: &Runtime,
    options: &RunOptions,
) -> Result<RunEnd> {
    let executor = Executor::new(prepared, runtime, options.machine);
    check_run_directory(&options.out, prepared)?;
    check_output_folder(&options.out)?;
    executor.dry_run()?;
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("{}: it cannot be made", options.out.display()))?;
    let _lock = lock_run_directory(&options.out, &options.part)?;
    let name = worker_name();
    let writer = match options.part {
        RunPart::Whole => JournalWriter::Alone,
        RunPart::Shard(shard) => JournalWriter::Shard(shard),
        RunPart::Claims { .. } => JournalWriter::Worker(name.clone()),
    };
    let begin = || begin_or_resume(written, prepared, runtime, options, &writer);
    // Processes that claim trials need no locks: they may be on file systems without any.
    // A process joins before it reads what is outstanding: a trial that another commits in between
    // is then news to it, and is not taken for one whose committed files were damaged.
    let team = match options.part {
        RunPart::Claims { lease } => {
            let remote = options.remote.as_ref();
            Some(Box::new(Team::join(&options.out, remote, &name, lease)?))
        }
        _ => None,
    };
    let Beginning { journal, damaged } = match options.part {
        RunPart::Claims { .. } => begin()?,
        _ => with_run_lock(&options.out, begin)?,
    };
    let mine: Vec<&Trial> = part_trials(prepared, &options.part);
    let outstanding: HashSet<&str> = outstanding_trials(&prepared.plan, &journal, options.retry)
        .iter()
        .map(|trial| trial.id.as_str())
        .collect();
    let todo: Vec<&Trial> = mine
        .iter()
        .copied()
        .filter(|trial| outstanding.contains(trial.id.as_str()))
        .collect();
    print_resume_notes(prepared, &journal, [mine.len(), todo.len()], options);
    let stopped = |left: usize| RunEnd::Stopped {
        done: mine.len() - left,
        total: mine.len(),
    };
    if todo.is_empty() {
        return Ok(RunEnd::Completed(None));
    }
    let place = match &team {
        Some(team) => {
            team.begin_claims()?;
            team.place().clone()
        }
        None => MeetingPlace::folder(&options.out),
    };
    let part = &options.part;
    let lease = LeaseKeeper::begin(&place, &name, &part.name(), part.lease())?;
    if options.check {
        executor.warn_about_wrong_cards(&todo);
    }
    let seconds_per_row = match executor.measure_seconds_per_row() {
        Err(_) if stop::requested() => return Ok(stopped(todo.len())),
        seconds_per_row => seconds_per_row?,
    };
    let progress = Arc::new(RunProgress::new(
        prepared,
        &journal,
        [&mine, &todo],
        &seconds_per_row,
        executor.meter.clone(),
    ));
    let units = progress.units();
    let order = match (&team, &options.remote) {
        (Some(_), Some(_)) => TrialOrder::LongestFirstFor(&units, &name),
        (Some(_), None) => TrialOrder::LongestFirst(&units),
        (None, _) => TrialOrder::Plan,
    };
    let shown_progress = progress.clone();
    let mut trials = TrialLoop {
        executor: &executor,
        options,
        todo: &todo,
        damaged: &damaged,
        writer: &writer,
        queue: TrialQueue::new(&todo, &order),
        team,
        lease,
        progress: progress.clone(),
        display: ProgressDisplay::new(options.quiet, move || shown_progress.snapshot()),
        executed: 0,
        too_long: Vec::new(),
        told: Instant::now(),
    };
    let completed = trials.run();
    stop::set_in_hand(None);
    let TrialLoop {
        queue, team, lease, ..
    } = trials;
    match completed? {
        true => Ok(RunEnd::Completed(team.map(|team| team.with_lease(lease)))),
        false => Ok(stopped(queue.left())),
    }
}

/// The plan, adapted to the run that the directory may already contain.
///
/// Earlier versions planned no automatic error budgets. If the existing run has none, they are
/// removed from the plan, so that it still matches the run.
pub(crate) fn match_existing_run(prepared: PreparedPlan, dir: &Path) -> PreparedPlan {
    match read_plan(dir) {
        Ok(existing) if !existing.plan.trials.iter().any(|t| t.work.is_automatic()) => {
            prepared.without_automatic_budgets()
        }
        _ => prepared,
    }
}

/// The trials of a shard, or all trials.
fn part_trials<'a>(prepared: &'a PreparedPlan, part: &RunPart) -> Vec<&'a Trial> {
    let ids = match part {
        RunPart::Shard(shard) => Some(shard.trial_ids(&prepared.plan)),
        _ => None,
    };
    let mine = |t: &&Trial| ids.as_ref().is_none_or(|ids| ids.contains(t.id.as_str()));
    prepared.plan.trials.iter().filter(mine).collect()
}

/// Prints which part of the plan this process executes, if that is not the whole plan.
fn print_resume_notes(
    prepared: &PreparedPlan,
    journal: &Journal,
    [mine, todo]: [usize; 2],
    options: &RunOptions,
) {
    if options.quiet {
        return;
    }
    if let RunPart::Shard(shard) = options.part {
        errln!(
            "flowgauge: shard {shard}: {mine} of {} trials",
            prepared.plan.trials.len()
        );
    }
    if todo < mine && todo > 0 {
        errln!(
            "flowgauge: {} of {mine} trials are done already; resuming",
            mine - todo
        );
    }
    let failed = journal.failed_trials();
    if failed > 0 {
        errln!("flowgauge: {failed} trials failed earlier; --retry runs them again");
    }
}

/// The loop over the outstanding trials of one process.
struct TrialLoop<'a> {
    executor: &'a Executor<'a>,
    options: &'a RunOptions,
    /// The trials that were outstanding when the process began.
    todo: &'a [&'a Trial],
    /// The trials whose files are to be replaced.
    damaged: &'a BTreeSet<String>,
    writer: &'a JournalWriter,
    queue: TrialQueue,
    /// The other processes, if they share the trials.
    team: Option<Box<Team>>,
    lease: LeaseKeeper,
    progress: Arc<RunProgress>,
    display: ProgressDisplay,
    /// How many trials this process has executed.
    executed: usize,
    /// The trials that are not expected to end within the time limit.
    too_long: Vec<usize>,
    /// When the lease was told the time left.
    told: Instant,
}

/// The time between two estimates of the time left for the lease.
const TIME_LEFT_INTERVAL: Duration = Duration::from_secs(2);

impl TrialLoop<'_> {
    /// Executes trials until none is left for this process. Returns false if a signal or the time
    /// limit stopped it.
    fn run(&mut self) -> Result<bool> {
        while !stop::leaving() {
            match self.next()? {
                NextTrial::Execute(i) if self.execute_and_commit(i)? => {}
                NextTrial::Execute(_) | NextTrial::Stop => return Ok(false),
                NextTrial::NoneLeft => break,
            }
        }
        self.check_time_limit()?;
        Ok(self.queue.left() == 0)
    }

    /// The next trial that is expected to end in time. Trials that are not are put aside, since
    /// shorter ones may follow.
    fn next(&mut self) -> Result<NextTrial> {
        let (progress, limit) = (&self.progress, self.options.time_limit);
        let too_long = &mut self.too_long;
        let mut take = |queue: &mut TrialQueue| {
            while let Some(i) = queue.next() {
                if fits_in_time(progress, limit, i) {
                    return Some(i);
                }
                too_long.push(i);
            }
            None
        };
        match &mut self.team {
            Some(team) => team.next(self.todo, &mut self.queue, progress, &mut take),
            None => Ok(match take(&mut self.queue) {
                Some(i) => NextTrial::Execute(i),
                None => NextTrial::NoneLeft,
            }),
        }
    }

    /// Refuses a time limit in which no trial can be executed, since the same command would be
    /// repeated for ever.
    ///
    /// # Errors
    /// Fails if no trial was executed and none fits, although little of the time has passed.
    fn check_time_limit(&self) -> Result<()> {
        let Some(limit) = self.options.time_limit else {
            return Ok(());
        };
        let expected = |i: &usize| self.progress.expected_seconds(*i);
        let shortest = self.too_long.iter().filter_map(expected).reduce(f64::min);
        let Some(shortest) = shortest else {
            return Ok(());
        };
        if self.executed == 0 && limit.left() > limit.lasts / 2 {
            bail!(
                "--time-limit {}: no outstanding trial is expected to end within it, as the shortest \
                 of {} takes about {}; expected a longer time, or smaller trials (`chunk` of the \
                 config)",
                format_duration(limit.lasts.as_secs_f64()),
                self.too_long.len(),
                format_duration(shortest)
            );
        }
        Ok(())
    }

    /// Executes one trial and commits its outcome: first the files, then the line of the journal.
    /// Returns false if a signal broke the trial off.
    ///
    /// # Errors
    /// Fails if a file cannot be written. A failed trial is not an error.
    fn execute_and_commit(&mut self, i: usize) -> Result<bool> {
        let (trial, dir) = (self.todo[i], &self.options.out);
        if let Some(remote) = &self.options.remote {
            // A store that does not answer is no fault of the trial.
            let needed = trial.work.required_trials();
            needed.iter().try_for_each(|id| remote.fetch_array(id))?;
        }
        self.lease.set_trial(&trial.id, self.progress.describe(i));
        self.progress.begin_trial(i);
        let progress = self.progress.clone();
        stop::set_in_hand(Some(Box::new(move || progress.seconds_left_in_hand())));
        let began = Instant::now();
        let load = |id: &str| -> Result<Vec<u8>> {
            let path = array_file(dir, id);
            std::fs::read(&path).with_context(|| {
                format!(
                    "{}: the samples that this trial needs cannot be read",
                    path.display()
                )
            })
        };
        let event = match self.executor.execute(trial, &load) {
            Ok(output) => {
                if let (Some(team), None) = (&mut self.team, &self.options.remote) {
                    team.look(&mut self.queue, &self.progress)?;
                }
                let existing = self.existing_files(i);
                let event = write_trial(self.executor, dir, trial, output, existing, began)?;
                let seconds = began.elapsed().as_secs_f64();
                tracing::info!(trial = trial.id, seconds, "finished");
                event
            }
            // A trial that a signal interrupted has not failed.
            Err(_) if stop::requested() => return Ok(false),
            Err(error) => {
                let error = match &self.options.remote {
                    Some(remote) => remote.with_addresses_in(error),
                    None => error,
                };
                self.display
                    .suspend(|| errln!("flowgauge: trial {} failed: {error:#}", trial.id));
                Event::Failed {
                    trial: trial.id.clone(),
                    error: format!("{error:#}"),
                    seconds: began.elapsed().as_secs_f64(),
                }
            }
        };
        match (&self.options.remote, self.writer) {
            (Some(remote), JournalWriter::Worker(name)) => remote.commit(name, &event)?,
            _ => append_event(&self.writer.journal_file(dir), &event)?,
        }
        stop::set_in_hand(None);
        self.queue.settle(&trial.id);
        self.progress.finish_trial();
        self.display.piece_finished();
        if self.told.elapsed() >= TIME_LEFT_INTERVAL {
            self.lease
                .tell_time_left(self.progress.snapshot().seconds_left);
            self.told = Instant::now();
        }
        self.lease.trial_done();
        self.executed += 1;
        Ok(true)
    }

    /// What becomes of the trial's files that are there already.
    fn existing_files(&self, i: usize) -> ExistingFiles {
        match &self.team {
            None => ExistingFiles::Replace,
            // Others do not see the files of a copy.
            Some(_) if self.options.remote.is_some() => ExistingFiles::Replace,
            Some(_) if self.queue.is_settled(i) => ExistingFiles::Keep,
            Some(_) if self.damaged.contains(&self.todo[i].id) => ExistingFiles::Replace,
            Some(_) => ExistingFiles::KeepIfSame,
        }
    }
}

/// Whether a trial is expected to end within the time limit. A trial of a kind that was never
/// measured is tried.
fn fits_in_time(progress: &RunProgress, limit: Option<TimeLimit>, i: usize) -> bool {
    match (limit, progress.expected_seconds(i)) {
        (Some(limit), Some(expected)) => expected <= limit.left().as_secs_f64(),
        _ => true,
    }
}
