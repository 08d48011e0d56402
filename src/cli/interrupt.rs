//! What a verb does when a signal stops it: the finished part of the result is kept, and one line
//! says so.

use std::time::Duration;

use anyhow::Result;

use super::Exit;
use crate::output::Writer;
use crate::stop::{self, StopPolicy};

/// Installs signal handlers. The first signal stops the work at the next call of a network, or ends
/// the process after `grace_period`. A second signal ends the process at once.
pub(super) fn stop_on_signal(grace_period: Option<Duration>) {
    stop::install_signal_handlers(StopPolicy {
        exit_status: None,
        grace_period,
        farewell: None,
        message: format!("flowgauge: {STOPPED_MESSAGE}"),
    });
}

/// The message for work that a signal stopped.
pub(super) const STOPPED_MESSAGE: &str = "stopped; the finished part, if any, is in the result's \
                                          file with .partial added to its name, and the same \
                                          command starts again";

/// Ends work that failed or was stopped after `done` of `total` rows or samples. What `out` has
/// written so far stays in the partial file.
///
/// # Errors
/// Returns `error` if no signal has stopped the work.
pub(super) fn interrupted_exit(
    error: anyhow::Error,
    out: Writer,
    [done, total]: [usize; 2],
    what: &str,
) -> Result<Exit> {
    drop(out);
    if !stop::requested() {
        return Err(error);
    }
    errln!(
        "flowgauge: stopped with {done} of {total} {what} done; \
         the same command starts again from the first"
    );
    Ok(Exit::Stopped)
}
