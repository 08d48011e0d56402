//! Claims: how processes without a server agree on who does which trial of a run.
//!
//! A claim is a file that exactly one process can create, `claims/<name>.<generation>`; its text
//! names the process. Nobody deletes it. A process that is alive says so in its lease, a file of its
//! own (`workers/<name>.json`). If the holder of a claim has gone, the next generation of the claim
//! is free, and again exactly one process can create it.
//!
//! Only creating a file that does not exist must be atomic, as it is on local disks and NFS. Claims
//! save work and decide nothing: if two processes do one trial, the journal keeps one result.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::output::create_exclusive;

mod lease;

pub(crate) use lease::{Lease, LeaseKeeper, LeaseWatcher, WorkerState, read_leases, worker_name};

/// The claims of one run directory, as one process sees them.
#[derive(Debug)]
pub(crate) struct ClaimFolder {
    folder: PathBuf,
    /// The name of this process.
    own: String,
    leases: LeaseWatcher,
    /// The latest generation of each claim that this process knows to be taken.
    taken: BTreeMap<String, u32>,
    /// When the folder may be listed again.
    list_again: Instant,
    /// The claims that this process failed to get since the folder was listed.
    misses: usize,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClaimAnswer {
    /// This process holds it now.
    Won,
    /// Another process holds it.
    Held,
}

/// After how many claims in a row that others hold the folder is listed.
const MISSES_BEFORE_LISTING: usize = 8;
/// The least time between two listings of the folder, as a multiple of what one takes.
const LISTING_PAUSE: u32 = 50;

impl ClaimFolder {
    /// The claims in a run directory for the process `own`.
    ///
    /// # Errors
    /// Fails if the folder cannot be made.
    pub(crate) fn open(dir: &Path, own: &str) -> Result<ClaimFolder> {
        let folder = dir.join("claims");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("{}: it cannot be made", folder.display()))?;
        Ok(ClaimFolder {
            folder,
            own: own.to_owned(),
            leases: LeaseWatcher::new(dir),
            taken: BTreeMap::new(),
            list_again: Instant::now(),
            misses: 0,
        })
    }

    /// Claims what nobody has claimed before.
    ///
    /// # Errors
    /// Fails if the file cannot be created.
    pub(crate) fn claim(&mut self, name: &str) -> Result<ClaimAnswer> {
        if self.misses >= MISSES_BEFORE_LISTING && Instant::now() >= self.list_again {
            self.list()?;
        }
        if self.taken.contains_key(name) {
            return Ok(ClaimAnswer::Held);
        }
        let answer = self.create(name, 0)?;
        self.misses = match answer {
            ClaimAnswer::Won => 0,
            ClaimAnswer::Held => self.misses + 1,
        };
        Ok(answer)
    }

    /// The process that holds a claim, and what is known of it; `None` if nobody has claimed it, or
    /// if the process that did so has not written its name yet.
    ///
    /// # Errors
    /// Fails if a file cannot be read.
    pub(crate) fn holder(&mut self, name: &str) -> Result<Option<(String, WorkerState)>> {
        let mut generation = self.taken.get(name).copied().unwrap_or(0);
        while self.file(name, generation + 1).exists() {
            generation += 1;
        }
        let path = self.file(name, generation);
        let holder = match std::fs::read_to_string(&path) {
            Ok(holder) => holder,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| path.display().to_string()),
        };
        self.taken.insert(name.to_owned(), generation);
        if holder.is_empty() {
            // Its process died in between, or is about to write it: it is watched under the name
            // of the claim.
            let file = format!("{name}.{generation}");
            return Ok(Some((file.clone(), self.leases.state_of_nameless(&file))));
        }
        let state = self.leases.state(&holder)?;
        Ok(Some((holder, state)))
    }

    /// Takes over a claim whose holder, which [`ClaimFolder::holder`] told, has gone.
    ///
    /// # Errors
    /// Fails if the file cannot be created.
    pub(crate) fn take_over(&mut self, name: &str) -> Result<ClaimAnswer> {
        let next = self.taken.get(name).map_or(0, |generation| generation + 1);
        self.create(name, next)
    }

    /// Creates one generation of a claim.
    fn create(&mut self, name: &str, generation: u32) -> Result<ClaimAnswer> {
        let won = create_exclusive(&self.file(name, generation), &self.own)?;
        self.taken.insert(name.to_owned(), generation);
        Ok(if won {
            ClaimAnswer::Won
        } else {
            ClaimAnswer::Held
        })
    }

    /// Notes all claims that exist. For a process among many this is cheaper than failing to get
    /// each of them.
    fn list(&mut self) -> Result<()> {
        let began = Instant::now();
        for (name, generation) in existing_claims(&self.folder)? {
            let known = self.taken.entry(name).or_default();
            *known = generation.max(*known);
        }
        self.misses = 0;
        self.list_again = Instant::now() + began.elapsed() * LISTING_PAUSE;
        Ok(())
    }

    fn file(&self, name: &str, generation: u32) -> PathBuf {
        self.folder.join(format!("{name}.{generation}"))
    }
}

/// The claims in a folder, each with a generation. A claim appears once for each of its generations.
fn existing_claims(folder: &Path) -> Result<BTreeSet<(String, u32)>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let parse = |file: String| {
        let (name, generation) = file.rsplit_once('.')?;
        Some((name.to_owned(), generation.parse().ok()?))
    };
    Ok(entries
        .flatten()
        .filter_map(|e| parse(e.file_name().to_string_lossy().into_owned()))
        .collect())
}

/// How long a process waits between two looks at what others hold. It grows with the lease, so that
/// a long lease means few looks.
pub(crate) fn pause_between_looks(lease: Duration) -> Duration {
    (lease / 40).clamp(Duration::from_millis(50), Duration::from_secs(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The claims of a process whose lease lasts that long, with the keeper of its lease.
    fn process(dir: &Path, name: &str, lease: Duration) -> (ClaimFolder, LeaseKeeper) {
        let keeper = LeaseKeeper::begin(dir, name, "", lease).expect("a lease");
        (ClaimFolder::open(dir, name).expect("claims"), keeper)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn one_of_many_wins_each_claim() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path();
        let names: Vec<String> = (0..40).map(|i| format!("trial{i}")).collect();
        let wins: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|i| {
                    let names = &names;
                    scope.spawn(move || {
                        let (mut claims, _keeper) = process(dir, &format!("p{i}"), LONG);
                        let won = |name: &&String| {
                            claims.claim(name).expect("an answer") == ClaimAnswer::Won
                        };
                        names.iter().filter(won).count()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("ended"))
                .collect()
        });
        assert_eq!(wins.iter().sum::<usize>(), names.len(), "{wins:?}");
    }

    #[test]
    fn claim_of_a_process_that_has_ended_is_free_and_one_takes_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (mut a, keeper_a) = process(folder.path(), "a", LONG);
        let (mut b, _keeper_b) = process(folder.path(), "b", LONG);
        let (mut c, _keeper_c) = process(folder.path(), "c", LONG);
        assert_eq!(b.holder("t").expect("read"), None);
        assert_eq!(a.claim("t").expect("an answer"), ClaimAnswer::Won);
        assert_eq!(b.claim("t").expect("an answer"), ClaimAnswer::Held);
        let held = Some(("a".to_owned(), WorkerState::Alive));
        assert_eq!(b.holder("t").expect("read"), held);
        drop(keeper_a);
        let gone = Some(("a".to_owned(), WorkerState::Ended));
        assert_eq!(b.holder("t").expect("read"), gone);
        assert_eq!(c.holder("t").expect("read"), gone);
        assert_eq!(b.take_over("t").expect("an answer"), ClaimAnswer::Won);
        assert_eq!(c.take_over("t").expect("an answer"), ClaimAnswer::Held);
        let held = Some(("b".to_owned(), WorkerState::Alive));
        assert_eq!(c.holder("t").expect("read"), held);
    }

    #[test]
    fn lease_that_is_not_renewed_runs_out_for_whoever_watches() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = folder.path();
        let lease = Duration::from_millis(400);
        let (mut dead, keeper) = process(dir, "dead", lease);
        assert_eq!(dead.claim("t").expect("an answer"), ClaimAnswer::Won);
        keeper.stop_renewing_for_tests();
        let (mut alive, _keeper) = process(dir, "alive", lease);
        assert_eq!(alive.claim("u").expect("an answer"), ClaimAnswer::Won);
        let (mut watcher, _keeper) = process(dir, "watcher", lease);
        let mut state = |name: &str| watcher.holder(name).expect("read").expect("held").1;
        assert_eq!(state("t"), WorkerState::Alive, "nothing is known yet");
        for _ in 0..8 {
            std::thread::sleep(lease / 4);
            assert_eq!(state("u"), WorkerState::Alive);
        }
        assert_eq!(state("t"), WorkerState::Dead);
    }

    #[test]
    fn claim_without_a_name_runs_out_too() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (mut a, _keeper) = process(folder.path(), "a", LONG);
        std::fs::write(folder.path().join("claims/t.0"), "").expect("written");
        let state = a.holder("t").expect("read").expect("held").1;
        assert_eq!(state, WorkerState::Alive);
        a.leases.forget_for_tests(Duration::from_secs(61));
        let state = a.holder("t").expect("read").expect("held").1;
        assert_eq!(state, WorkerState::Dead);
    }

    #[test]
    fn many_lost_claims_are_learnt_by_one_listing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (mut a, _a) = process(folder.path(), "a", LONG);
        let (mut b, _b) = process(folder.path(), "b", LONG);
        let names: Vec<String> = (0..100).map(|i| format!("trial{i}")).collect();
        for name in &names {
            assert_eq!(a.claim(name).expect("an answer"), ClaimAnswer::Won);
        }
        for name in names.iter().take(MISSES_BEFORE_LISTING + 1) {
            assert_eq!(b.claim(name).expect("an answer"), ClaimAnswer::Held);
        }
        assert_eq!(b.taken.len(), names.len());
    }
}
