//! Whether something has asked the program to stop. The answer is two flags.
//!
//! Long work checks [`requested`] between its calls of networks: it breaks off. A loop over pieces
//! of work checks [`leaving`] between two pieces: it begins none, and the one in hand may end.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Whether work is to be broken off.
static BREAK_OFF: AtomicBool = AtomicBool::new(false);
/// Whether no further piece of work is to begin.
static LEAVING: AtomicBool = AtomicBool::new(false);
/// The number of the first signal; zero if no signal has come.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// Tells in how many seconds the piece of work in hand will be done. `None` if none is in hand.
static IN_HAND: Mutex<Option<TimeLeft>> = Mutex::new(None);

/// Estimates the seconds until a piece of work is done; `None` if they are not known.
type TimeLeft = Box<dyn Fn() -> Option<f64> + Send>;

/// How the process ends if the work does not check the flag in time: after a grace period, or at a
/// second signal.
#[derive(Debug, Clone)]
pub(crate) struct StopPolicy {
    /// The exit status. Default: 128 plus the number of the signal.
    pub exit_status: Option<u8>,
    /// How long the work may take to end after it was asked to break off. Default: without limit.
    pub grace_period: Option<Duration>,
    /// How long the piece of work in hand may take to end after a signal of a scheduler: SIGTERM,
    /// SIGUSR1 or SIGUSR2. Default: SIGTERM breaks it off, and the others keep their meaning.
    pub farewell: Option<Duration>,
    /// The message that is printed on standard error before the process ends in this way.
    pub message: String,
}

/// Makes signals set the flags instead of ending the process at once: SIGINT (Ctrl-C) and SIGTERM,
/// and with a farewell SIGUSR1 and SIGUSR2 too.
#[cfg(unix)]
pub(crate) fn install_signal_handlers(policy: StopPolicy) {
    use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
    let watched = match policy.farewell {
        Some(_) => &[SIGINT, SIGTERM, SIGUSR1, SIGUSR2][..],
        None => &[SIGINT, SIGTERM][..],
    };
    // If no handlers can be installed, those of the system remain: they end the process at once.
    let Ok(mut signals) = signal_hook::iterator::Signals::new(watched) else {
        return;
    };
    std::thread::spawn(move || {
        for signal in signals.forever() {
            let _ = SIGNAL.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
            if requested() {
                exit_process(&policy);
            }
            match policy.farewell.filter(|_| signal != SIGINT && !leaving()) {
                Some(farewell) => begin_farewell(&policy, farewell),
                None => break_off(&policy),
            }
        }
    });
}

/// Does nothing: on systems other than Unix, signals end the process at once.
#[cfg(not(unix))]
pub(crate) fn install_signal_handlers(_policy: StopPolicy) {}

/// Begins no further piece of work. The one in hand is broken off if it is not done within
/// `farewell`, and at once if it is not expected to be.
#[cfg(unix)]
fn begin_farewell(policy: &StopPolicy, farewell: Duration) {
    LEAVING.store(true, Ordering::Relaxed);
    let fits = match &*in_hand() {
        None => false,
        Some(seconds_left) => seconds_left().is_none_or(|s| s <= farewell.as_secs_f64()),
    };
    if !fits {
        break_off(policy);
        return;
    }
    break_off_after(farewell, policy.clone());
}

/// Breaks the work off after some time.
pub(crate) fn break_off_after(time: Duration, policy: StopPolicy) {
    std::thread::spawn(move || {
        std::thread::sleep(time);
        break_off(&policy);
    });
}

/// Asks the work to break off, and ends the process after the grace period.
fn break_off(policy: &StopPolicy) {
    LEAVING.store(true, Ordering::Relaxed);
    BREAK_OFF.store(true, Ordering::Relaxed);
    if let Some(grace_period) = policy.grace_period {
        let policy = policy.clone();
        std::thread::spawn(move || {
            std::thread::sleep(grace_period);
            exit_process(&policy);
        });
    }
}

/// Ends the process without running destructors, because threads may be inside a call of a network.
fn exit_process(policy: &StopPolicy) -> ! {
    errln!("\n{}", policy.message);
    let status = policy.exit_status.unwrap_or_else(signal_exit_status);
    #[cfg(unix)]
    signal_hook::low_level::exit(i32::from(status));
    #[cfg(not(unix))]
    std::process::exit(i32::from(status));
}

/// The function that tells the time left of the piece in hand.
fn in_hand() -> MutexGuard<'static, Option<TimeLeft>> {
    IN_HAND.lock().unwrap_or_else(|e| e.into_inner())
}

/// Says that a piece of work is in hand, and in how many seconds it will be done, or that there is
/// none.
pub(crate) fn set_in_hand(seconds_left: Option<TimeLeft>) {
    *in_hand() = seconds_left;
}

/// Whether the work is to be broken off.
pub(crate) fn requested() -> bool {
    BREAK_OFF.load(Ordering::Relaxed)
}

/// Whether no further piece of work is to begin.
pub(crate) fn leaving() -> bool {
    LEAVING.load(Ordering::Relaxed)
}

/// The exit status of work that a signal stopped and that cannot be resumed: 128 plus the number of
/// the signal, as shells report it.
pub(crate) fn signal_exit_status() -> u8 {
    u8::try_from(128 + SIGNAL.load(Ordering::Relaxed)).unwrap_or(130)
}
