//! Leases: how a process says that it is alive, and how others see that it is not.
//!
//! A process writes its lease again and again with a counter that grows. Whoever wants to know
//! whether it lives watches the file: if its text does not change for the time of the lease on the
//! watcher's own clock, the process is dead. Clocks of two machines are never compared. A process
//! that ends in good order deletes its lease.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::MeetingPlace;
use crate::host::{host_name, machine_id, now_utc};

/// What a process says of itself in its lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Lease {
    /// The name of the process in this run directory.
    pub worker: String,
    /// Which part of the plan it does: `1/4` for a shard, `claims` for a process that takes trials
    /// as it goes, else empty.
    #[serde(default)]
    pub part: String,
    /// The name of its host.
    pub host: String,
    /// Its process number there.
    pub pid: u32,
    /// The running system that the process number belongs to; empty if it is not known.
    #[serde(default)]
    pub machine: String,
    /// When it began, by the clock of its host.
    pub began: String,
    /// How often the lease was renewed.
    pub renewals: u64,
    /// When it was last renewed, by the clock of its host.
    #[serde(default)]
    pub renewed: String,
    /// The time without renewal after which the process counts as dead, in seconds.
    pub lease_seconds: f64,
    /// Seconds since it began.
    pub alive_seconds: f64,
    /// The id of the trial in hand; empty if there is none.
    #[serde(default)]
    pub trial: String,
    /// What the trial in hand is.
    #[serde(default)]
    pub work: String,
    /// When the trial in hand began, by the clock of its host.
    #[serde(default)]
    pub since: String,
    /// Seconds since the trial in hand began.
    #[serde(default)]
    pub trial_seconds: f64,
    /// The number of trials that it has committed.
    pub done: usize,
    /// The estimated seconds until it has nothing left to do, if they are known.
    #[serde(default)]
    pub seconds_left: Option<f64>,
}

/// The folder of the leases in a run directory.
const FOLDER: &str = "workers";
/// How many renewals a lease outlasts at least.
const RENEWALS_PER_LEASE: u32 = 4;
/// The longest time between two renewals, so that others see what a process is doing.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The least length of the text of a lease. Texts of one length can be written over one another.
const TEXT_LENGTH: usize = 2048;

/// Keeps the lease of this process in a thread, until it is dropped.
pub(crate) struct LeaseKeeper {
    shared: Arc<SharedLease>,
    /// The thread that renews the lease. It ends when the sender is dropped.
    renewer: Option<(Sender<()>, JoinHandle<()>)>,
}

/// What the keeper and its thread share.
struct SharedLease {
    place: MeetingPlace,
    /// The name of the process, after which its lease is named.
    name: String,
    state: Mutex<LeaseState>,
}

/// The lease with the times from which its seconds follow.
struct LeaseState {
    lease: Lease,
    began: Instant,
    trial_began: Instant,
}

impl SharedLease {
    fn state(&self) -> MutexGuard<'_, LeaseState> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Writes the lease, changed.
    fn renew(&self) -> Result<()> {
        let mut state = self.state();
        state.lease.renewals += 1;
        state.lease.renewed = now_utc();
        state.lease.alive_seconds = rounded(state.began.elapsed());
        state.lease.trial_seconds = match state.lease.trial.is_empty() {
            true => 0.0,
            false => rounded(state.trial_began.elapsed()),
        };
        let text = serde_json::to_string(&state.lease)?;
        let file = format!("{FOLDER}/{}", lease_file(&self.name));
        self.place
            .overwrite(&file, &format!("{text:<TEXT_LENGTH$}\n"))
    }
}

impl LeaseKeeper {
    /// Writes the lease of the process `name`, and renews it until the keeper is dropped.
    ///
    /// # Errors
    /// Fails if the lease cannot be written.
    pub(crate) fn begin(
        place: &MeetingPlace,
        name: &str,
        part: &str,
        lasts: Duration,
    ) -> Result<LeaseKeeper> {
        place.make_folder(FOLDER)?;
        let lease = Lease {
            worker: name.to_owned(),
            part: part.to_owned(),
            host: host_name(),
            pid: std::process::id(),
            machine: machine_id(),
            began: now_utc(),
            renewals: 0,
            renewed: String::new(),
            lease_seconds: lasts.as_secs_f64(),
            alive_seconds: 0.0,
            trial: String::new(),
            work: String::new(),
            since: String::new(),
            trial_seconds: 0.0,
            done: 0,
            seconds_left: None,
        };
        let shared = Arc::new(SharedLease {
            place: place.clone(),
            name: name.to_owned(),
            state: Mutex::new(LeaseState {
                lease,
                began: Instant::now(),
                trial_began: Instant::now(),
            }),
        });
        shared.renew()?;
        let (stop, stopped) = channel();
        let renewed = shared.clone();
        let thread = std::thread::spawn(move || {
            let pause = (lasts / RENEWALS_PER_LEASE).min(LONGEST_PAUSE);
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                // A disk that refuses now may not refuse later. If it goes on, others do the trial.
                if let Err(error) = renewed.renew() {
                    tracing::warn!("{error:#}");
                }
            }
        });
        Ok(LeaseKeeper {
            shared,
            renewer: Some((stop, thread)),
        })
    }

    /// Says which trial is in hand. The lease on disk says so from its next renewal on.
    pub(crate) fn set_trial(&self, id: &str, work: &str) {
        let mut state = self.shared.state();
        state.lease.trial = id.to_owned();
        // A lease has one length as a rule.
        state.lease.work = work.chars().take(400).collect();
        state.lease.since = now_utc();
        state.trial_began = Instant::now();
    }

    /// Says how long the outstanding trials will take.
    pub(crate) fn tell_time_left(&self, seconds_left: Option<f64>) {
        self.shared.state().lease.seconds_left = seconds_left;
    }

    /// Says that the trial in hand is committed.
    pub(crate) fn trial_done(&self) {
        let mut state = self.shared.state();
        state.lease.trial = String::new();
        state.lease.work = String::new();
        state.lease.since = String::new();
        state.lease.done += 1;
    }

    /// Leaves the lease as a killed process would.
    #[cfg(test)]
    pub(crate) fn stop_renewing_for_tests(mut self) {
        let mut state = self.shared.state();
        state.lease.machine = String::new();
        drop(state);
        let _ = self.shared.renew();
        drop(self.renewer.take());
        std::mem::forget(self);
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.renewer.take() {
            drop(stop);
            // If the thread has panicked, there is nothing to wait for.
            let _ = thread.join();
        }
        let file = format!("{FOLDER}/{}", lease_file(&self.shared.name));
        self.shared.place.remove(&file);
    }
}

/// Whether a process is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkerState {
    /// It renews its lease, or has not been watched long enough.
    Alive,
    /// It has ended in good order.
    Ended,
    /// It was killed, its machine was lost, or its disk cannot be reached.
    Dead,
}

/// Watches the leases of other processes.
#[derive(Debug)]
pub(crate) struct LeaseWatcher {
    place: MeetingPlace,
    /// The version of each lease, and when it was first seen to be this one.
    seen: BTreeMap<String, (Vec<u8>, Instant)>,
    /// What each lease says that never changes: its process, and how long it lasts.
    known: BTreeMap<String, Lease>,
}

/// The time after which a lease without a readable time counts as run out.
const DEFAULT_LEASE: Duration = Duration::from_secs(60);

impl LeaseWatcher {
    /// Watches the leases at a meeting place.
    pub(crate) fn new(place: &MeetingPlace) -> LeaseWatcher {
        LeaseWatcher {
            place: place.clone(),
            seen: BTreeMap::new(),
            known: BTreeMap::new(),
        }
    }

    /// What the lease of a process says now.
    ///
    /// # Errors
    /// Fails if a lease that is there cannot be read.
    pub(crate) fn state(&mut self, worker: &str) -> Result<WorkerState> {
        let file = lease_file(worker);
        let Some(version) = self.place.version(FOLDER, &file)? else {
            return Ok(WorkerState::Ended);
        };
        if !self.known.contains_key(worker) {
            let text = self.place.read(&format!("{FOLDER}/{file}"))?;
            let lease = text.and_then(|text| serde_json::from_slice(&text).ok());
            self.known
                .extend(lease.map(|lease| (worker.to_owned(), lease)));
        }
        let lease = self.known.get(worker);
        if lease.is_some_and(Lease::has_died_here) {
            return Ok(WorkerState::Dead);
        }
        let lasts = lease
            .and_then(|lease| Duration::try_from_secs_f64(lease.lease_seconds).ok())
            .unwrap_or(DEFAULT_LEASE);
        Ok(self.state_of_version(worker, version, lasts))
    }

    /// What is known of the process behind a claim that names none.
    pub(crate) fn state_of_nameless(&mut self, claim: &str) -> WorkerState {
        self.state_of_version(claim, Vec::new(), DEFAULT_LEASE)
    }

    fn state_of_version(&mut self, worker: &str, version: Vec<u8>, lasts: Duration) -> WorkerState {
        let known = self.seen.get(worker).filter(|(known, _)| *known == version);
        match known {
            Some((_, since)) if since.elapsed() > lasts => WorkerState::Dead,
            Some(_) => WorkerState::Alive,
            None => {
                let now = Instant::now();
                self.seen.insert(worker.to_owned(), (version, now));
                WorkerState::Alive
            }
        }
    }

    /// Lets everything that was seen have been seen earlier.
    #[cfg(test)]
    pub(crate) fn forget_for_tests(&mut self, time: Duration) {
        for (_, since) in self.seen.values_mut() {
            *since = since
                .checked_sub(time)
                .expect("a clock that has run so long");
        }
    }
}

impl Lease {
    /// Whether the process was one of this running system and is no more. Then nobody needs to wait
    /// until its lease has run out.
    pub(crate) fn has_died_here(&self) -> bool {
        !self.machine.is_empty()
            && self.machine == machine_id()
            && !Path::new("/proc").join(self.pid.to_string()).exists()
    }
}

/// The leases at a meeting place: those of processes at work, and of processes that died.
///
/// # Errors
/// Fails if the folder is there and cannot be read.
pub(crate) fn read_leases(place: &MeetingPlace) -> Result<Vec<Lease>> {
    let mut leases = Vec::new();
    for file in place.names(FOLDER)? {
        if !file.ends_with(".json") {
            continue;
        }
        // A process may end in between, and a lease may be read while it is written.
        let text = place.read(&format!("{FOLDER}/{file}")).ok().flatten();
        leases.extend(text.and_then(|text| serde_json::from_slice::<Lease>(&text).ok()));
    }
    leases.sort_by(|a, b| a.worker.cmp(&b.worker));
    Ok(leases)
}

/// The number of leases at a meeting place.
///
/// # Errors
/// Fails if the folder is there and cannot be listed.
pub(crate) fn count_leases(place: &MeetingPlace) -> Result<usize> {
    let names = place.names(FOLDER)?;
    Ok(names.iter().filter(|name| name.ends_with(".json")).count())
}

/// A name that no other process has: the host, the process number, and digits at random.
pub(crate) fn worker_name() -> String {
    let host: String = host_name()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(40)
        .collect();
    // The keys of the standard library's hash maps come from the system's random numbers.
    let digits = RandomState::new().build_hasher().finish() as u32;
    format!("{host}-{}-{digits:08x}", std::process::id())
}

/// The file of a lease in its folder.
fn lease_file(worker: &str) -> String {
    format!("{worker}.json")
}

/// Seconds with one decimal.
fn rounded(time: Duration) -> f64 {
    (10.0 * time.as_secs_f64()).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_says_what_is_in_hand_and_goes_with_its_process() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = MeetingPlace::folder(folder.path());
        let keeper =
            LeaseKeeper::begin(&place, "w", "1/2", Duration::from_secs(60)).expect("begun");
        keeper.set_trial("abc", "samples");
        keeper.shared.renew().expect("written");
        let leases = read_leases(&place).expect("read");
        let [lease] = &leases[..] else {
            unreachable!("{leases:?}")
        };
        let said = (
            &lease.worker[..],
            &lease.part[..],
            &lease.trial[..],
            lease.done,
        );
        assert_eq!(said, ("w", "1/2", "abc", 0));
        assert!(!lease.has_died_here(), "this process lives");
        let gone = Lease {
            // Larger than any process number.
            pid: u32::MAX,
            ..lease.clone()
        };
        assert_eq!(gone.has_died_here(), cfg!(target_os = "linux"));
        keeper.trial_done();
        keeper.tell_time_left(Some(3.0));
        keeper.shared.renew().expect("written");
        let leases = read_leases(&place).expect("read");
        assert_eq!((leases[0].done, &leases[0].trial[..]), (1, ""));
        drop(keeper);
        assert_eq!(read_leases(&place).expect("read"), []);
    }

    #[test]
    fn names_of_processes_differ() {
        let (a, b) = (worker_name(), worker_name());
        assert_ne!(a, b);
        assert!(
            a.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'),
            "{a}"
        );
    }
}
