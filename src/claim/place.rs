//! Where the processes of a run meet: in a folder that all of them see, or in a folder of an object
//! store.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::output::{create_exclusive, overwrite_in_place, write_new};
use crate::store::ObjectFolder;

/// The folder in which claims and leases are.
#[derive(Debug, Clone)]
pub(crate) enum MeetingPlace {
    /// A run directory.
    Folder(PathBuf),
    /// A run in an object store. Its folders are listed rather than its objects read one by one.
    Objects {
        folder: ObjectFolder,
        listed: Arc<Mutex<BTreeMap<String, Listing>>>,
    },
}

/// What a folder of an object store held, and when.
#[derive(Debug)]
pub(crate) struct Listing {
    at: Instant,
    /// The tag of each object, by its name.
    tags: BTreeMap<String, String>,
}

/// How long a list of an object store counts as new.
const LISTING_IS_NEW: Duration = Duration::from_millis(400);

impl MeetingPlace {
    /// The place of those who work in a run directory.
    pub(crate) fn folder(dir: &Path) -> MeetingPlace {
        MeetingPlace::Folder(dir.to_owned())
    }

    /// The place of those who work in an object store.
    pub(crate) fn objects(folder: &ObjectFolder) -> MeetingPlace {
        MeetingPlace::Objects {
            folder: folder.clone(),
            listed: Arc::default(),
        }
    }

    /// Makes a folder, where folders have to be made.
    ///
    /// # Errors
    /// Fails if it cannot be made.
    pub(super) fn make_folder(&self, name: &str) -> Result<()> {
        let MeetingPlace::Folder(dir) = self else {
            return Ok(());
        };
        let folder = dir.join(name);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("{}: it cannot be made", folder.display()))
    }

    /// Creates a file with a short text if there is none of that name, and returns whether it did so.
    ///
    /// # Errors
    /// Fails if it cannot be created.
    pub(super) fn create(&self, name: &str, text: &str) -> Result<bool> {
        match self {
            MeetingPlace::Folder(dir) => create_exclusive(&dir.join(name), text),
            MeetingPlace::Objects { folder, .. } => folder.create(name, text.as_bytes()),
        }
    }

    /// Writes a file that nobody else writes, to stay.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub(super) fn keep(&self, name: &str, text: &str) -> Result<()> {
        match self {
            MeetingPlace::Folder(dir) => write_new(&dir.join(name), text.as_bytes()).map(drop),
            MeetingPlace::Objects { folder, .. } => folder.put(name, text.into()),
        }
    }

    /// Writes a file that nobody else writes, again and again.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub(super) fn overwrite(&self, name: &str, text: &str) -> Result<()> {
        match self {
            MeetingPlace::Folder(dir) => overwrite_in_place(&dir.join(name), text),
            MeetingPlace::Objects { folder, .. } => folder.put(name, text.into()),
        }
    }

    /// The text of a file; `None` if it is not there.
    ///
    /// # Errors
    /// Fails if it is there and cannot be read.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self {
            MeetingPlace::Folder(dir) => {
                let path = dir.join(name);
                match std::fs::read(&path) {
                    Ok(text) => Ok(Some(text)),
                    Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
                    Err(e) => Err(e).with_context(|| path.display().to_string()),
                }
            }
            MeetingPlace::Objects { folder, .. } => folder.get(name),
        }
    }

    /// Whether a file is there, as far as looking for it costs little. In an object store it counts as
    /// absent, and whoever tries to create it learns that it is there.
    pub(super) fn is_seen(&self, name: &str) -> bool {
        match self {
            MeetingPlace::Folder(dir) => dir.join(name).exists(),
            MeetingPlace::Objects { .. } => false,
        }
    }

    /// Deletes a file. If that fails, its lease runs out.
    pub(super) fn remove(&self, name: &str) {
        match self {
            MeetingPlace::Folder(dir) => drop(std::fs::remove_file(dir.join(name))),
            MeetingPlace::Objects { folder, .. } => {
                if let Err(error) = folder.delete(name) {
                    tracing::warn!("{error:#}");
                }
            }
        }
    }

    /// What changes whenever a file is written: its text, or the tag that the store gives it. `None` if
    /// it is not there.
    ///
    /// # Errors
    /// Fails if it is there and cannot be read, or if the folder cannot be listed.
    pub(super) fn version(&self, folder: &str, file: &str) -> Result<Option<Vec<u8>>> {
        match self {
            MeetingPlace::Folder(_) => self.read(&format!("{folder}/{file}")),
            MeetingPlace::Objects { .. } => {
                let mut tags = self.tags(folder, LISTING_IS_NEW)?;
                if !tags.contains_key(file) {
                    // It may have come since.
                    tags = self.tags(folder, Duration::ZERO)?;
                }
                Ok(tags.remove(file).map(String::into_bytes))
            }
        }
    }

    /// The names of the files in a folder, sorted; none if there is no such folder.
    ///
    /// # Errors
    /// Fails if the folder is there and cannot be listed.
    pub(super) fn names(&self, folder: &str) -> Result<Vec<String>> {
        match self {
            MeetingPlace::Folder(dir) => {
                let path = dir.join(folder);
                let entries = match std::fs::read_dir(&path) {
                    Ok(entries) => entries,
                    Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                    Err(e) => return Err(e).with_context(|| path.display().to_string()),
                };
                let name = |e: std::fs::DirEntry| e.file_name().to_string_lossy().into_owned();
                let mut names: Vec<String> = entries.flatten().map(name).collect();
                names.sort();
                Ok(names)
            }
            MeetingPlace::Objects { .. } => {
                Ok(self.tags(folder, LISTING_IS_NEW)?.into_keys().collect())
            }
        }
    }

    /// The tags of the objects in a folder of a store, by their names there, from a list that is no
    /// older than that.
    fn tags(&self, below: &str, age: Duration) -> Result<BTreeMap<String, String>> {
        let MeetingPlace::Objects { folder, listed } = self else {
            return Ok(BTreeMap::new());
        };
        let mut listed = listed.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(listing) = listed.get(below)
            && listing.at.elapsed() < age
        {
            return Ok(listing.tags.clone());
        }
        let at = Instant::now();
        let objects = folder.list(below, None)?.into_iter();
        let tags: BTreeMap<String, String> = objects
            .filter_map(|object| {
                let name = object.key.strip_prefix(below)?.strip_prefix('/')?;
                Some((name.to_owned(), object.tag))
            })
            .collect();
        let listing = Listing {
            at,
            tags: tags.clone(),
        };
        listed.insert(below.to_owned(), listing);
        Ok(tags)
    }

    /// How long a process waits between two looks at what others do, if their leases last so long. It
    /// grows with the lease, so that a long lease means few looks; requests to a store cost money.
    pub(crate) fn pause_between_looks(&self, lease: Duration) -> Duration {
        match self {
            MeetingPlace::Folder(_) => {
                (lease / 40).clamp(Duration::from_millis(50), Duration::from_secs(2))
            }
            MeetingPlace::Objects { .. } => {
                (lease / 20).clamp(Duration::from_millis(200), Duration::from_secs(5))
            }
        }
    }
}
