//! The run directory before the first trial: is it this run's, who else works in it, and what is
//! finished already.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::{RunOptions, RunPart};
use crate::config::ConfigFile;
use crate::execute::ComputeOptions;
use crate::host::{hex, processor_name, today};
use crate::journal::{self, Event, Journal, JournalWriter, append_event, read_plan};
use crate::model::onnx::Runtime;
use crate::output::{is_temporary, write_atomic, write_new};
use crate::plan::{self, ArtifactPaths, PlanFile, PreparedPlan};

/// What a run directory has when a process begins or continues.
pub(super) struct Beginning {
    /// What is committed, without the trials that are to be done again.
    pub journal: Journal,
    /// The finished trials whose files are damaged.
    pub damaged: BTreeSet<String>,
}

/// Refuses a directory that contains another plan. The message lists the keys that differ.
///
/// # Errors
/// Fails if the directory contains another plan or files that are not a run's.
pub(super) fn check_run_directory(dir: &Path, prepared: &PreparedPlan) -> Result<()> {
    let path = dir.join("plan.json");
    if !path.exists() {
        // A run that was killed before it wrote its plan leaves its config, its locks and temporary
        // files.
        let foreign = |name: &str| {
            name != "config.yaml" && !name.starts_with(LOCK_PREFIX) && !is_temporary(name)
        };
        let mut entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let occupied = entries.any(|e| foreign(&e.file_name().to_string_lossy()));
        // Another process may have begun the run in the meantime.
        if occupied && path.exists() {
            return check_run_directory(dir, prepared);
        }
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
/// Several shards, and processes that claim trials, may work in one directory at the same time, but
/// each shard only once.
///
/// # Errors
/// Fails if another process holds the lock, or if the lock file cannot be created.
pub(super) fn lock_run_directory(dir: &Path, part: &RunPart) -> Result<Vec<File>> {
    let busy = || {
        format!(
            "{}: another `flowgauge run` is working in this directory; wait for it, \
             or give another --out",
            dir.display()
        )
    };
    let whole = lock_file(dir, LOCK_PREFIX)?;
    let shard = match part {
        RunPart::Whole => {
            require_lock(whole.try_lock(), busy)?;
            return Ok(vec![whole]);
        }
        RunPart::Claims { .. } => {
            require_lock(whole.try_lock_shared(), busy)?;
            return Ok(vec![whole]);
        }
        RunPart::Shard(shard) => shard,
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
/// one. Of several processes that begin at the same time, one writes the plan and the others
/// compare theirs with it.
///
/// # Errors
/// Fails if a file cannot be read or written, or if another process has begun another plan.
pub(super) fn begin_or_resume(
    written: &ConfigFile,
    prepared: &PreparedPlan,
    runtime: &Runtime,
    options: &RunOptions,
    writer: &JournalWriter,
) -> Result<Beginning> {
    let dir = &options.out;
    if !dir.join("plan.json").exists() {
        let file = PlanFile {
            plan: prepared.plan.clone(),
            environment: describe_environment(runtime, options.machine),
            changes: written.overrides.clone(),
            grids: prepared.sampler_grids(),
            config_sha256: Some(hex(&Sha256::digest(written.text.as_bytes()))),
            // The copy of a run in an object store lies elsewhere each time.
            places: match options.remote {
                Some(_) => ArtifactPaths::absolute(prepared, &written.path),
                None => ArtifactPaths::relative_to(prepared, &written.path, dir),
            },
            steps: prepared.steps.clone(),
        };
        let plan = serde_json::to_vec_pretty(&file)?;
        if write_new(&dir.join("plan.json"), &plan)? {
            write_atomic(&dir.join("config.yaml"), written.text.as_bytes())?;
        }
    }
    if let Some(remote) = &options.remote {
        remote.agree_on_plan()?;
    }
    check_run_directory(dir, prepared)?;
    write_lost_config(dir, written)?;
    if let Some(remote) = &options.remote {
        remote.keep_config()?;
    }
    let mut journal = Journal::read(dir)?;
    if journal.plan_sha256.is_none() {
        let plan = std::fs::read(dir.join("plan.json"))?;
        append_event(
            &writer.journal_file(dir),
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
    let mut damaged = BTreeSet::new();
    if options.remote.is_some() {
        // The files of trials are in the store, each with its line of the journal.
        return Ok(Beginning { journal, damaged });
    }
    for (id, reason) in journal::corrupted_trials(dir, &prepared.plan, &journal) {
        errln!("flowgauge: {reason}; its trial is done again");
        journal.outcomes.remove(&id);
        damaged.insert(id);
    }
    Ok(Beginning { journal, damaged })
}

/// Writes the config if a process was killed between the plan and the config.
///
/// # Errors
/// Fails if it cannot be written.
fn write_lost_config(dir: &Path, written: &ConfigFile) -> Result<()> {
    let path = dir.join("config.yaml");
    let planned = read_plan(dir)?.config_sha256;
    let own = hex(&Sha256::digest(written.text.as_bytes()));
    if planned == Some(own) && !path.exists() {
        write_atomic(&path, written.text.as_bytes())?;
    }
    Ok(())
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
