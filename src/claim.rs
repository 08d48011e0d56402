//! Claims: how processes without a server agree on who does which trial of a run.
//!
//! A claim is a file that exactly one process can create, `claims/<name>.<generation>`; its text
//! names the process. Nobody deletes it. A process that is alive says so in its lease, a file of its
//! own (`workers/<name>.json`). If the holder of a claim has gone, the next generation of the claim
//! is free, and again exactly one process can create it.
//!
//! Only creating a file that does not exist must be atomic, as it is on local disks, on NFS and in
//! object stores. Claims save work and decide nothing: if two processes do one trial, the journal
//! keeps one result.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;

mod lease;
mod place;

pub(crate) use lease::{
    Lease, LeaseKeeper, LeaseWatcher, WorkerState, count_leases, read_leases, worker_name,
};
pub(crate) use place::MeetingPlace;

/// The claims of one run, as one process sees them.
#[derive(Debug)]
pub(crate) struct ClaimFolder {
    place: MeetingPlace,
    /// The name of this process.
    own: String,
    leases: LeaseWatcher,
    /// The latest generation of each claim that this process knows to be taken.
    taken: BTreeMap<String, u32>,
    /// The name in each claim that was read, with the claim's generation. A claim never changes.
    holders: BTreeMap<String, (u32, String)>,
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

/// The folder of the claims.
const FOLDER: &str = "claims";
/// After how many claims in a row that others hold the folder is listed.
const MISSES_BEFORE_LISTING: usize = 8;
/// The least time between two listings of the folder, as a multiple of what one takes.
const LISTING_PAUSE: u32 = 50;

impl ClaimFolder {
    /// The claims at a meeting place for the process `own`. Nothing is written yet.
    pub(crate) fn new(place: &MeetingPlace, own: &str) -> ClaimFolder {
        ClaimFolder {
            place: place.clone(),
            own: own.to_owned(),
            leases: LeaseWatcher::new(place),
            taken: BTreeMap::new(),
            holders: BTreeMap::new(),
            list_again: Instant::now(),
            misses: 0,
        }
    }

    /// Makes the folder of the claims, without which none can be claimed.
    ///
    /// # Errors
    /// Fails if the folder cannot be made.
    pub(crate) fn make(&self) -> Result<()> {
        self.place.make_folder(FOLDER)
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
        while self.place.is_seen(&file_name(name, generation + 1)) {
            generation += 1;
        }
        let holder = match self.holders.get(name) {
            Some((known, holder)) if *known == generation => holder.clone(),
            _ => {
                let Some(text) = self.place.read(&file_name(name, generation))? else {
                    return Ok(None);
                };
                String::from_utf8_lossy(&text).into_owned()
            }
        };
        self.taken.insert(name.to_owned(), generation);
        if holder.is_empty() {
            // Its process died in between, or is about to write it: it is watched under the name
            // of the claim.
            let file = format!("{name}.{generation}");
            return Ok(Some((file.clone(), self.leases.state_of_nameless(&file))));
        }
        let known = (generation, holder.clone());
        self.holders.insert(name.to_owned(), known);
        let state = self.leases.state(&holder)?;
        Ok(Some((holder, state)))
    }

    /// Whether work that only one process does, under a claim, is done.
    ///
    /// # Errors
    /// Fails if the file that says so cannot be read.
    pub(crate) fn is_done(&self, name: &str) -> Result<bool> {
        Ok(self.place.read(&done_name(name))?.is_some())
    }

    /// Says that work under a claim is done.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub(crate) fn set_done(&self, name: &str) -> Result<()> {
        self.place.keep(&done_name(name), &self.own)
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
        let won = self.place.create(&file_name(name, generation), &self.own)?;
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
        for file in self.place.names(FOLDER)? {
            let Some((name, generation)) = file.rsplit_once('.') else {
                continue;
            };
            if let Ok(generation) = generation.parse::<u32>() {
                let known = self.taken.entry(name.to_owned()).or_default();
                *known = generation.max(*known);
            }
        }
        self.misses = 0;
        self.list_again = Instant::now() + began.elapsed() * LISTING_PAUSE;
        Ok(())
    }
}

/// The file of one generation of a claim.
fn file_name(name: &str, generation: u32) -> String {
    format!("{FOLDER}/{name}.{generation}")
}

/// The file that says that work under a claim is done.
fn done_name(name: &str) -> String {
    format!("{FOLDER}/{name}.done")
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::store::ObjectFolder;

    /// The claims of a process whose lease lasts that long, with the keeper of its lease.
    fn process(dir: &Path, name: &str, lease: Duration) -> (ClaimFolder, LeaseKeeper) {
        process_at(&MeetingPlace::folder(dir), name, lease)
    }

    /// The claims of a process at any place.
    fn process_at(place: &MeetingPlace, name: &str, lease: Duration) -> (ClaimFolder, LeaseKeeper) {
        let keeper = LeaseKeeper::begin(place, name, "", lease).expect("a lease");
        let claims = ClaimFolder::new(place, name);
        claims.make().expect("a folder");
        (claims, keeper)
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

    #[test]
    fn claims_in_a_store_are_won_once_and_taken_over() {
        use object_store::memory::InMemory;
        let folder = ObjectFolder::in_store(Arc::new(InMemory::new()), "run");
        // Each process lists the store itself.
        let place = || MeetingPlace::objects(&folder);
        let lease = Duration::from_millis(1500);
        let (mut dead, keeper) = process_at(&place(), "dead", lease);
        assert_eq!(dead.claim("t").expect("an answer"), ClaimAnswer::Won);
        keeper.stop_renewing_for_tests();
        let (mut a, keeper_a) = process_at(&place(), "a", lease);
        let (mut b, _keeper_b) = process_at(&place(), "b", lease);
        assert_eq!(a.claim("u").expect("an answer"), ClaimAnswer::Won);
        assert_eq!(b.claim("t").expect("an answer"), ClaimAnswer::Held);
        assert_eq!(b.claim("u").expect("an answer"), ClaimAnswer::Held);
        let began = Instant::now();
        while b.holder("t").expect("read").expect("held").1 == WorkerState::Alive {
            assert!(began.elapsed() < 10 * lease, "the lease never runs out");
            std::thread::sleep(lease / 10);
        }
        assert!(began.elapsed() > lease / 2, "it ran out at once");
        let alive = Some(("a".to_owned(), WorkerState::Alive));
        assert_eq!(b.holder("u").expect("read"), alive);
        assert_eq!(a.holder("t").expect("read").expect("held").0, "dead");
        assert_eq!(b.take_over("t").expect("an answer"), ClaimAnswer::Won);
        assert_eq!(a.take_over("t").expect("an answer"), ClaimAnswer::Held);
        let held = Some(("b".to_owned(), WorkerState::Alive));
        assert_eq!(a.holder("t").expect("read"), held);
        drop(keeper_a);
        std::thread::sleep(lease / 2);
        let gone = Some(("a".to_owned(), WorkerState::Ended));
        assert_eq!(b.holder("u").expect("read"), gone);
        assert!(!a.is_done("report").expect("read"));
        b.set_done("report").expect("written");
        assert!(a.is_done("report").expect("read"));
    }
}
