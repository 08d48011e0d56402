//! The only trial loop: for each outstanding trial, execute and commit.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::config::ConfigFile;
use crate::execute::{ComputeOptions, Executor};
use crate::journal::{
    self, Event, Journal, Outcome, append_event, array_file, journal_file, outstanding_trials,
    read_plan, row_file, step_file,
};
use crate::model::library::{hex, processor_name};
use crate::model::onnx::Runtime;
use crate::output::{check_output_folder, write_atomic};
use crate::plan::{self, ArtifactPaths, PlanFile, PreparedPlan, SecondsPerRow, Shard, Trial};
use crate::progress::{
    Meter, ProgressDisplay, ProgressStatus, RunningWorkload, TimeLeftEstimator, Workload,
};
use crate::stop;

/// What a run was asked for besides its config.
pub struct RunOptions {
    pub out: PathBuf,
    pub machine: ComputeOptions,
    /// The share of the trials that is this process's; all of them unless given.
    pub shard: Option<Shard>,
    pub retry: bool,
    pub quiet: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// Every trial of its share was carried out.
    Completed,
    /// A signal stopped it: so many of its trials are done, of all.
    Stopped { done: usize, total: usize },
}

/// Carries out a plan in its directory, or the rest of it.
///
/// # Errors
/// Where an input is at fault; a failed trial is an event of the journal, not an error.
pub fn execute_run(
    written: &ConfigFile,
    prepared: &PreparedPlan,
    runtime: &Runtime,
    options: &RunOptions,
) -> Result<RunEnd> {
    let stage = Executor::new(prepared, runtime, options.machine);
    check_run_directory(&options.out, prepared)?;
    check_output_folder(&options.out)?;
    stage.dry_run()?;
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
    let paces = match stage.measure_seconds_per_row() {
        Err(_) if stop::requested() => return Ok(stopped(todo.len())),
        paces => paces?,
    };
    let board = Arc::new(RunProgress::new(
        prepared,
        &journal,
        [&mine, &todo],
        &paces,
        stage.meter.clone(),
    ));
    let shown = board.clone();
    let show = ProgressDisplay::new(options.quiet, move || shown.snapshot());
    for (i, trial) in todo.iter().enumerate() {
        if !execute_and_commit(&stage, trial, options, &show)? {
            return Ok(stopped(todo.len() - i));
        }
        board.finish_trial();
    }
    Ok(RunEnd::Completed)
}

/// A plan as the run in a directory was begun with: an earlier version measured nothing that no config asked for.
pub fn match_existing_run(prepared: PreparedPlan, dir: &Path) -> PreparedPlan {
    match read_plan(dir) {
        Ok(there) if !there.plan.trials.iter().any(|t| t.work.is_automatic()) => {
            prepared.without_automatic_budgets()
        }
        _ => prepared,
    }
}

/// The trials of a shard, or all of them.
fn shard_trials(prepared: &PreparedPlan, shard: Option<Shard>) -> Vec<&Trial> {
    let ids = shard.map(|shard| shard.trial_ids(&prepared.plan));
    let mine = |t: &&Trial| ids.as_ref().is_none_or(|ids| ids.contains(t.id.as_str()));
    prepared.plan.trials.iter().filter(mine).collect()
}

/// Says what part of the plan is to be done, where that is not all of it.
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

/// Executes one trial and makes its outcome durable: files first, then the line. Whether it came to an end, which it did
/// not where a signal stopped it.
fn execute_and_commit(
    stage: &Executor,
    trial: &Trial,
    options: &RunOptions,
    show: &ProgressDisplay,
) -> Result<bool> {
    let dir = &options.out;
    let began = Instant::now();
    let load = |id: &str| -> Result<Vec<u8>> {
        let path = array_file(dir, id);
        std::fs::read(&path)
            .with_context(|| format!("{}: the samples it needs are not there", path.display()))
    };
    let event = match stage.execute(trial, &load) {
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
                under: Some(runtime_fingerprint(stage.runtime, stage.machine)),
                seconds,
            }
        }
        // What a signal broke off has not failed.
        Err(_) if stop::requested() => return Ok(false),
        Err(error) => {
            show.suspend(|| errln!("flowgauge: trial {} failed: {error:#}", trial.id));
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

/// Refuses a directory that holds another plan, with the keys that differ.
fn check_run_directory(dir: &Path, prepared: &PreparedPlan) -> Result<()> {
    let path = dir.join("plan.json");
    if !path.exists() {
        // What a kill leaves of a beginning is ours: the config, the lock, a file on its way into place.
        let foreign = |name: &str| {
            name != "config.yaml"
                && !name.starts_with(LOCK_PREFIX)
                && !(name.starts_with('.') && name.ends_with(".tmp"))
        };
        let mut entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let occupied = entries.any(|e| foreign(&e.file_name().to_string_lossy()));
        if occupied || (dir.exists() && !dir.is_dir()) {
            bail!(
                "{}: it exists and holds no plan of ours; give another --out",
                dir.display()
            );
        }
        return Ok(());
    }
    let there = read_plan(dir)?;
    let found = plan::plan_differences(&prepared.plan, &there.plan);
    if !found.is_empty() {
        let shown: Vec<&str> = found.iter().take(6).map(String::as_str).collect();
        let more = if found.len() > 6 {
            format!(" and {} more", found.len() - 6)
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

/// Held while a run works in its directory; what names of locks begin with.
const LOCK_PREFIX: &str = ".lock";

/// Keeps a second run out of the directory, whose rows and journal would contradict each other; a kill
/// releases it. Shards work there side by side, each share once.
fn lock_run_directory(dir: &Path, shard: Option<Shard>) -> Result<Vec<File>> {
    let busy = || {
        format!(
            "{}: another `flowgauge run` is at work there; wait for it, or give another --out",
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

/// Does what only one process at a time may do in a run directory: beginning and publishing, both short.
///
/// # Errors
/// Those of the work, and where the directory takes no files.
pub fn with_run_lock<T>(dir: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let file = lock_file(dir, &format!("{LOCK_PREFIX}-short"))?;
    // A file system without locks is no reason not to run.
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
        // A file system without locks is no reason not to run.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Writes plan and config where the directory is new; finds damage where it is not. The journal to go on from.
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
            "flowgauge: trials here were finished under {there}; what is left runs under {here}, and the report says so"
        );
    }
    for (id, reason) in journal::corrupted_trials(dir, &prepared.plan, &journal) {
        errln!("flowgauge: {reason}: its trial is done again");
        journal.outcomes.remove(&id);
    }
    Ok(journal)
}

/// What a trial's digits may depend on besides its plan, as its journal line says it.
pub fn runtime_fingerprint(runtime: &Runtime, machine: ComputeOptions) -> String {
    format!(
        "ONNX Runtime {}, {}, {}",
        runtime.library.version,
        machine.provider.name(),
        processor_name()
    )
}

/// What the numbers were made with.
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
    ]
    .map(|(k, v)| (k.to_owned(), v));
    known.into_iter().chain(placed).collect()
}

/// Where a run stands: what has been measured, what is left, and the trial at work.
struct RunProgress {
    meter: Arc<Meter>,
    todo: Vec<(Workload, String)>,
    state: Mutex<RunProgressState>,
}

struct RunProgressState {
    clock: TimeLeftEstimator,
    /// Index of the trial at work.
    current_trial: usize,
    /// Seconds of the trials that are done, in earlier sessions too.
    seconds_done: f64,
}

impl RunProgress {
    fn new(
        prepared: &PreparedPlan,
        journal: &Journal,
        [mine, todo]: [&[&Trial]; 2],
        paces: &[SecondsPerRow],
        meter: Arc<Meter>,
    ) -> RunProgress {
        let mut state = RunProgressState {
            clock: TimeLeftEstimator::default(),
            current_trial: 0,
            seconds_done: 0.0,
        };
        for trial in mine {
            if let Some(Outcome::Finished { seconds, .. }) = journal.outcomes.get(&trial.id) {
                state
                    .clock
                    .record_earlier_session(&prepared.trial_load(&trial.work, paces), *seconds);
                state.seconds_done += seconds;
            }
        }
        let todo = todo.iter().map(|t| {
            (
                prepared.trial_load(&t.work, paces),
                t.work.describe(&prepared.plan),
            )
        });
        RunProgress {
            meter,
            todo: todo.collect(),
            state: Mutex::new(state),
        }
    }

    /// The trial at work is done.
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

    fn snapshot(&self) -> ProgressStatus {
        let state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let Some((load, what)) = self.todo.get(state.current_trial) else {
            return ProgressStatus::default();
        };
        let elapsed = self.meter.elapsed();
        let running = RunningWorkload::new(load, self.meter.last_reading(), elapsed);
        let rest = self.todo[state.current_trial + 1..]
            .iter()
            .map(|(load, _)| load);
        ProgressStatus {
            seconds_done: state.seconds_done + elapsed,
            seconds_left: state.clock.seconds_left(Some(running), rest),
            label: what.clone(),
        }
    }
}
