//! Results that come in parts: kept when a signal stops the work, and told in one line at the end.

use std::time::Duration;

use anyhow::Result;

use super::Exit;
use crate::output::Writer;
use crate::stop::{self, StopPolicy};

/// From here on a signal stops the work at its next call of a network, or after some patience; a second one at once.
pub(super) fn stop_on_signal(patience: Option<Duration>) {
    stop::install_signal_handlers(StopPolicy {
        exit_status: None,
        grace_period: patience,
        message: format!("flowgauge: {STOPPED_MESSAGE}"),
    });
}

/// What is said of work that a signal stopped.
pub(super) const STOPPED_MESSAGE: &str = "stopped; what was written so far, if anything, is in the result's name with .partial \
                                  behind it, and the same command starts again";

/// How work ends that did not come to its end: what was written stays where `out` has it.
pub(super) fn interrupted_exit(
    error: anyhow::Error,
    out: Writer,
    [done, of]: [usize; 2],
    what: &str,
) -> Result<Exit> {
    drop(out);
    if !stop::requested() {
        return Err(error);
    }
    errln!(
        "flowgauge: stopped with {done} of {of} {what} done; the same command starts again from the first"
    );
    Ok(Exit::Stopped)
}
