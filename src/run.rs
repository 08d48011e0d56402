//! The only trial loop that commits: it executes each outstanding trial and records its outcome in
//! the journal.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::config::ConfigFile;
use crate::execute::{ComputeOptions, Executor};
use crate::host::{hex, processor_name, today};
use crate::journal::{
    self, Event, Journal, Outcome, append_event, array_file, journal_file, outstanding_trials,
    read_plan, row_file, step_file,
};
use crate::model::onnx::Runtime;
use crate::output::{check_output_folder, write_atomic};
use crate::plan::{self, ArtifactPaths, PlanFile, PreparedPlan, SecondsPerRow, Shard, Trial};
use crate::progress::{
    Meter, ProgressDisplay, ProgressStatus, RunningWorkload, TimeLeftEstimator, Workload,
};
use crate::stop;

/// The options of a run besides its config.
pub(crate) struct RunOptions {
    /// The run directory.
    pub out: PathBuf,
    /// The execution provider, batch size and threads.
    pub machine: ComputeOptions,
    /// The shard whose trials this process executes. Without a shard it executes all trials.
    pub shard: Option<Shard>,
    /// Whether trials that failed earlier run again.
    pub retry: bool,
    /// Whether notes and progress on standard error are suppressed.
    pub quiet: bool,
    /// Whether the cards are checked by the data first.
    pub check: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunEnd {
    /// Every trial of this process's share was executed.
    Completed,
    /// A signal stopped the run: `done` of its `total` trials are done.
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
    let _lock = lock_run_directory(&options.out, options.shard)?;
    let journal = with_run_lock(&options.out, || {
        // Another run may have begun there in the meantime.
        check_run_directory(&options.out, prepared)?;
        begin_or_resume(written, prepared, runtime, options)
    })?;
    let mine: Vec<&Trial> = shard_trials(prepared, options.shard);
    let outstanding: Vec<&Trial> = outstanding_trials(&prepared.plan, &journal, options.retry);
    let todo: Vec<&Trial> = mine
        .iter()
        .copied()
        .filter(|t| outstanding.iter().any(|o| o.id == t.id))
        .collect();
    print_resume_notes(prepared, &journal, [mine.len(), todo.len()], options);
    let stopped = |left: usize| RunEnd::Stopped {
        done: mine.len() - left,
        total: mine.len(),
    };
    if todo.is_empty() {
        return Ok(RunEnd::Completed);
    }
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
    let shown_progress = progress.clone();
    let display = ProgressDisplay::new(options.quiet, move || shown_progress.snapshot());
    for (i, trial) in todo.iter().enumerate() {
        if !execute_and_commit(&executor, trial, options, &display)? {
            return Ok(stopped(todo.len() - i));
        }
        progress.finish_trial();
        display.piece_finished();
    }
    Ok(RunEnd::Completed)
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

/// The trials of a shard, or all trials without a shard.
fn shard_trials(prepared: &PreparedPlan, shard: Option<Shard>) -> Vec<&Trial> {
    let ids = shard.map(|shard| shard.trial_ids(&prepared.plan));
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
    if let Some(shard) = options.shard {
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
    let failed = journal
        .outcomes
        .values()
        .filter(|o| matches!(o, Outcome::Failed { .. }))
        .count();
    if failed > 0 {
        errln!("flowgauge: {failed} trials failed earlier; --retry runs them again");
    }
}

/// Executes one trial and commits its outcome: first the files, then the line of the journal.
/// Returns false if a signal stopped the run.
///
/// # Errors
/// Fails if a file cannot be written. A failed trial is not an error.
fn execute_and_commit(
    executor: &Executor,
    trial: &Trial,
    options: &RunOptions,
    display: &ProgressDisplay,
) -> Result<bool> {
    let dir = &options.out;
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
    let event = match executor.execute(trial, &load) {
        Ok(output) => {
            let sha256 = write_atomic(&row_file(dir, &trial.id), &output.csv)?;
            let array = output
                .array
                .map(|bytes| write_atomic(&array_file(dir, &trial.id), &bytes))
                .transpose()?;
            let steps = output
                .steps
                .map(|bytes| write_atomic(&step_file(dir, &trial.id), &bytes))
                .transpose()?;
            let seconds = began.elapsed().as_secs_f64();
            tracing::info!(trial = trial.id, rows = output.rows, seconds, "finished");
            Event::Finished {
                trial: trial.id.clone(),
                rows: output.rows,
                sha256,
                array_sha256: array,
                steps_sha256: steps,
                under: Some(runtime_fingerprint(executor.runtime, executor.machine)),
                seconds,
            }
        }
        // A trial that a signal interrupted has not failed.
        Err(_) if stop::requested() => return Ok(false),
        Err(error) => {
            display.suspend(|| errln!("flowgauge: trial {} failed: {error:#}", trial.id));
            Event::Failed {
                trial: trial.id.clone(),
                error: format!("{error:#}"),
                seconds: began.elapsed().as_secs_f64(),
            }
        }
    };
    append_event(&journal_file(dir, options.shard), &event)?;
    Ok(!stop::requested())
}

/// Refuses a directory that contains another plan. The message lists the keys that differ.
///
/// # Errors
/// Fails if the directory contains another plan or files that are not a run's.
fn check_run_directory(dir: &Path, prepared: &PreparedPlan) -> Result<()> {
    let path = dir.join("plan.json");
    if !path.exists() {
        // A run that was killed before it wrote its plan leaves its config, its locks and temporary
        // files.
        let foreign = |name: &str| {
            name != "config.yaml"
                && !name.starts_with(LOCK_PREFIX)
                && !(name.starts_with('.') && name.ends_with(".tmp"))
        };
        let mut entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let occupied = entries.any(|e| foreign(&e.file_name().to_string_lossy()));
        if occupied || (dir.exists() && !dir.is_dir()) {
            bail!(
                "{}: it exists but holds no plan of a run; give another --out",
                dir.display()
            );
        }
        return Ok(());
    }
    let existing = read_plan(dir)?;
    let differences = plan::plan_differences(&prepared.plan, &existing.plan);
    if !differences.is_empty() {
        let shown: Vec<&str> = differences.iter().take(6).map(String::as_str).collect();
        let more = if differences.len() > 6 {
            format!(" and {} more", differences.len() - 6)
        } else {
            String::new()
        };
        bail!(
            "{}: it already holds another plan ({}{more}); give another --out, or remove it",
            dir.display(),
            shown.join("; ")
        );
    }
    Ok(())
}

/// The prefix of the lock files that a run holds while it works in its directory.
const LOCK_PREFIX: &str = ".lock";

/// Locks a run directory, so that no second run mixes its rows and journal with those of this run.
/// The locks are released when the process ends, even if it is killed.
///
/// Several shards may work in one directory at the same time, but each of them only once.
///
/// # Errors
/// Fails if another process holds the lock, or if the lock file cannot be created.
fn lock_run_directory(dir: &Path, shard: Option<Shard>) -> Result<Vec<File>> {
    let busy = || {
        format!(
            "{}: another `flowgauge run` is working in this directory; wait for it, \
             or give another --out",
            dir.display()
        )
    };
    let whole = lock_file(dir, LOCK_PREFIX)?;
    let Some(shard) = shard else {
        require_lock(whole.try_lock(), busy)?;
        return Ok(vec![whole]);
    };
    require_lock(whole.try_lock_shared(), busy)?;
    let share = lock_file(
        dir,
        &format!("{LOCK_PREFIX}-{}-of-{}", shard.index, shard.count),
    )?;
    require_lock(share.try_lock(), busy)?;
    Ok(vec![whole, share])
}

/// Does short work that only one process at a time may do in a run directory: starting a run, and
/// publishing.
///
/// # Errors
/// Fails if the work fails, or if the lock file cannot be created.
pub(crate) fn with_run_lock<T>(dir: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let file = lock_file(dir, &format!("{LOCK_PREFIX}-short"))?;
    // A file system without locks must not prevent a run.
    let _held = file.lock();
    work()
}

fn lock_file(dir: &Path, name: &str) -> Result<File> {
    let path = dir.join(name);
    File::create(&path).with_context(|| format!("{}: it cannot be written", path.display()))
}

fn require_lock(result: Result<(), TryLockError>, busy: impl Fn() -> String) -> Result<()> {
    match result {
        Err(TryLockError::WouldBlock) => bail!(busy()),
        // A file system without locks must not prevent a run.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Writes the plan and the config to a new directory, or looks for damaged files in an existing
/// one. Returns the journal from which the run continues.
///
/// # Errors
/// Fails if a file cannot be read or written.
fn begin_or_resume(
    written: &ConfigFile,
    prepared: &PreparedPlan,
    runtime: &Runtime,
    options: &RunOptions,
) -> Result<Journal> {
    let dir = &options.out;
    if !dir.join("plan.json").exists() {
        write_atomic(&dir.join("config.yaml"), written.text.as_bytes())?;
        let file = PlanFile {
            plan: prepared.plan.clone(),
            environment: describe_environment(runtime, options.machine),
            changes: written.overrides.clone(),
            grids: prepared.sampler_grids(),
            config_sha256: Some(hex(&Sha256::digest(written.text.as_bytes()))),
            places: ArtifactPaths::relative_to(prepared, dir),
            steps: prepared.steps.clone(),
        };
        write_atomic(&dir.join("plan.json"), &serde_json::to_vec_pretty(&file)?)?;
    }
    let mut journal = Journal::read(dir)?;
    if journal.plan_sha256.is_none() {
        let plan = std::fs::read(dir.join("plan.json"))?;
        append_event(
            &journal_file(dir, options.shard),
            &Event::Planned {
                plan_sha256: hex(&Sha256::digest(&plan)),
            },
        )?;
    }
    let here = runtime_fingerprint(runtime, options.machine);
    if !options.quiet
        && let Some((there, _)) = journal
            .runtime_fingerprints()
            .into_iter()
            .find(|(there, _)| *there != here)
    {
        errln!(
            "flowgauge: earlier trials were finished under {there}; the remaining trials run under \
             {here}; the report lists both"
        );
    }
    for (id, reason) in journal::corrupted_trials(dir, &prepared.plan, &journal) {
        errln!("flowgauge: {reason}; its trial is done again");
        journal.outcomes.remove(&id);
    }
    Ok(journal)
}

/// The runtime, execution provider and processor, as the journal records them for a finished trial.
/// The last digits of its numbers may depend on them.
pub(crate) fn runtime_fingerprint(runtime: &Runtime, machine: ComputeOptions) -> String {
    format!(
        "ONNX Runtime {}, {}, {}",
        runtime.library.version,
        machine.provider.name(),
        processor_name()
    )
}

/// Names and values that describe the program, the runtime and the machine.
fn describe_environment(runtime: &Runtime, machine: ComputeOptions) -> Vec<(String, String)> {
    let placed = runtime.placements().into_iter().map(|p| {
        (
            format!("nodes of {}", p.short_name()),
            p.describe(machine.provider),
        )
    });
    let known = [
        ("flowgauge", env!("CARGO_PKG_VERSION").to_owned()),
        ("ONNX Runtime", runtime.library.version.clone()),
        ("execution provider", machine.provider.name().to_owned()),
        ("threads", machine.threads.to_string()),
        (
            "batch",
            machine
                .batch_size
                .map_or("auto".to_owned(), |n| n.to_string()),
        ),
        (
            "system",
            format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        ),
        ("processor", processor_name()),
        ("started", today()),
    ]
    .map(|(k, v)| (k.to_owned(), v));
    known.into_iter().chain(placed).collect()
}

/// The progress of a run: the measured time, the outstanding trials, and the running one.
struct RunProgress {
    meter: Arc<Meter>,
    /// The workload and the description of each trial that this process executes.
    todo: Vec<(Workload, String)>,
    /// The number of trials that earlier calls have finished, and of all trials of this process.
    done_before: usize,
    total: usize,
    state: Mutex<RunProgressState>,
}

/// The part of the progress that changes during the run.
struct RunProgressState {
    clock: TimeLeftEstimator,
    /// The index of the running trial.
    current_trial: usize,
    /// The seconds of all finished trials, including those of earlier sessions.
    seconds_done: f64,
}

impl RunProgress {
    fn new(
        prepared: &PreparedPlan,
        journal: &Journal,
        [mine, todo]: [&[&Trial]; 2],
        seconds_per_row: &[SecondsPerRow],
        meter: Arc<Meter>,
    ) -> RunProgress {
        let mut state = RunProgressState {
            clock: TimeLeftEstimator::default(),
            current_trial: 0,
            seconds_done: 0.0,
        };
        for trial in mine {
            if let Some(Outcome::Finished { seconds, .. }) = journal.outcomes.get(&trial.id) {
                state.clock.record_earlier_session(
                    &prepared.trial_load(&trial.work, seconds_per_row),
                    *seconds,
                );
                state.seconds_done += seconds;
            }
        }
        let loads = todo.iter().map(|t| {
            (
                prepared.trial_load(&t.work, seconds_per_row),
                t.work.describe(&prepared.plan),
            )
        });
        RunProgress {
            meter,
            done_before: mine.len() - todo.len(),
            total: mine.len(),
            todo: loads.collect(),
            state: Mutex::new(state),
        }
    }

    /// Records that the running trial is done.
    fn finish_trial(&self) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let seconds = self.meter.elapsed();
        if let Some((load, _)) = self.todo.get(state.current_trial) {
            state.clock.record(load, seconds);
        }
        state.seconds_done += seconds;
        state.current_trial += 1;
        self.meter.restart();
    }

    /// The progress that the display shows.
    fn snapshot(&self) -> ProgressStatus {
        let state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let Some((load, what)) = self.todo.get(state.current_trial) else {
            return ProgressStatus {
                seconds_done: state.seconds_done,
                seconds_left: Some(0.0),
                seconds_left_at_most: Some(0.0),
                trials: Some([self.done_before + state.current_trial, self.total]),
                label: String::new(),
            };
        };
        let elapsed = self.meter.elapsed();
        let running = RunningWorkload::new(load, self.meter.last_reading(), elapsed);
        let rest = self.todo[state.current_trial + 1..]
            .iter()
            .map(|(load, _)| load);
        let left = state.clock.time_left(Some(running), rest);
        ProgressStatus {
            seconds_done: state.seconds_done + elapsed,
            seconds_left: left.map(|left| left.expected),
            seconds_left_at_most: left.map(|left| left.at_most),
            trials: Some([self.done_before + state.current_trial, self.total]),
            label: what.clone(),
        }
    }
}
