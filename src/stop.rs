//! Whether a signal has asked the program to stop: one flag, which long work looks at between its calls of networks.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// The signal that came first; zero where none has.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// How the program leaves where work does not notice the flag: at a second signal, or after some patience.
#[derive(Debug, Clone)]
pub struct StopPolicy {
    /// The exit status; 128 and the signal's number unless given.
    pub exit_status: Option<u8>,
    /// How long the first signal is waited for; as long as it takes unless given.
    pub grace_period: Option<Duration>,
    /// Said on standard error before leaving so.
    pub message: String,
}

/// From here on SIGINT (Ctrl-C) and SIGTERM raise the flag instead of ending the program at once.
#[cfg(unix)]
pub fn install_signal_handlers(leaving: StopPolicy) {
    use signal_hook::consts::{SIGINT, SIGTERM};
    // Without handlers the system's own remain, which end the program at once.
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) else {
        return;
    };
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if SIGNAL.swap(signal, Ordering::Relaxed) != 0 {
                exit_process(&leaving, signal);
            }
            if let Some(patience) = leaving.grace_period {
                let leaving = leaving.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(patience);
                    exit_process(&leaving, signal);
                });
            }
        }
    });
}

/// Elsewhere signals end the program at once.
#[cfg(not(unix))]
pub fn listen(_leaving: StopPolicy) {}

/// Ends the program without any further work: threads may be inside a network's call.
#[cfg(unix)]
fn exit_process(leaving: &StopPolicy, signal: i32) -> ! {
    errln!("\n{}", leaving.message);
    signal_hook::low_level::exit(leaving.exit_status.map_or(128 + signal, i32::from))
}

/// Whether the program has been asked to stop.
pub fn requested() -> bool {
    SIGNAL.load(Ordering::Relaxed) != 0
}

/// The exit status of work that stopped and cannot be gone on with: 128 and the signal's number, as shells have it.
pub fn signal_exit_status() -> u8 {
    u8::try_from(128 + SIGNAL.load(Ordering::Relaxed)).unwrap_or(130)
}
