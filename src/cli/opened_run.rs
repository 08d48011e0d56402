//! Run directories as verbs take them: folders, and addresses of runs in object stores, of which a verb
//! gets a copy.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::journal::RemoteRun;

/// The run directories that a verb was given.
pub(super) struct OpenedRuns {
    /// The folders, with copies in the place of addresses.
    pub dirs: Vec<PathBuf>,
    remote: Vec<RemoteRun>,
}

impl OpenedRuns {
    /// Copies the runs whose addresses were given.
    ///
    /// # Errors
    /// Fails if an address is malformed, if the store refuses, or if there is no run.
    pub(super) fn open(given: &[PathBuf]) -> Result<OpenedRuns> {
        let (mut dirs, mut remote) = (Vec::new(), Vec::new());
        for path in given {
            match RemoteRun::open(path)? {
                None => dirs.push(path.clone()),
                Some(run) => {
                    run.fetch_all()
                        .map_err(|error| run.with_addresses_in(error))?;
                    dirs.push(run.dir().to_owned());
                    remote.push(run);
                }
            }
        }
        Ok(OpenedRuns { dirs, remote })
    }

    /// The path or the address of a file of these runs, as the user knows it.
    pub(super) fn shown(&self, path: &Path) -> PathBuf {
        let text = path.to_string_lossy().into_owned();
        let addresses = |text: String, run: &RemoteRun| run.with_addresses(&text);
        PathBuf::from(self.remote.iter().fold(text, addresses))
    }

    /// Does something with the copies; its error names addresses.
    ///
    /// # Errors
    /// Fails if the work fails.
    pub(super) fn with<T>(&self, work: impl FnOnce(&[PathBuf]) -> Result<T>) -> Result<T> {
        work(&self.dirs).map_err(|error| {
            let addresses = |error, run: &RemoteRun| run.with_addresses_in(error);
            self.remote.iter().fold(error, addresses)
        })
    }

    /// Puts what was written to the copies of runs into their stores.
    ///
    /// # Errors
    /// Fails if a store refuses.
    pub(super) fn put_reports(&self) -> Result<()> {
        self.remote.iter().try_for_each(RemoteRun::put_report)
    }
}
