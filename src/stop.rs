//! Whether a signal has asked the program to stop. The answer is one flag, which long work checks
//! between its calls of networks.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// The number of the first signal; zero if no signal has come.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// How the process ends if the work does not check the flag in time: after a grace period, or at a
/// second signal.
#[derive(Debug, Clone)]
pub(crate) struct StopPolicy {
    /// The exit status. Default: 128 plus the number of the signal.
    pub exit_status: Option<u8>,
    /// How long the work may take to end after the first signal. Default: without limit.
    pub grace_period: Option<Duration>,
    /// The message that is printed on standard error before the process ends in this way.
    pub message: String,
}

/// Makes SIGINT (Ctrl-C) and SIGTERM set the flag instead of ending the process at once.
#[cfg(unix)]
pub(crate) fn install_signal_handlers(policy: StopPolicy) {
    use signal_hook::consts::{SIGINT, SIGTERM};
    // If no handlers can be installed, those of the system remain: they end the process at once.
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) else {
        return;
    };
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if SIGNAL.swap(signal, Ordering::Relaxed) != 0 {
                exit_process(&policy, signal);
            }
            if let Some(grace_period) = policy.grace_period {
                let policy = policy.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(grace_period);
                    exit_process(&policy, signal);
                });
            }
        }
    });
}

/// Does nothing: on systems other than Unix, signals end the process at once.
#[cfg(not(unix))]
pub fn install_signal_handlers(_policy: StopPolicy) {}

/// Ends the process without running destructors, because threads may be inside a call of a network.
#[cfg(unix)]
fn exit_process(policy: &StopPolicy, signal: i32) -> ! {
    errln!("\n{}", policy.message);
    signal_hook::low_level::exit(policy.exit_status.map_or(128 + signal, i32::from))
}

/// Whether a signal has asked the program to stop.
pub(crate) fn requested() -> bool {
    SIGNAL.load(Ordering::Relaxed) != 0
}

/// The exit status of work that a signal stopped and that cannot be resumed: 128 plus the number of
/// the signal, as shells report it.
pub(crate) fn signal_exit_status() -> u8 {
    u8::try_from(128 + SIGNAL.load(Ordering::Relaxed)).unwrap_or(130)
}
