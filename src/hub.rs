//! Names of files on the Hugging Face Hub, `hf://org/repo/file@revision`, wherever a path is taken.
//!
//! A name becomes the path of a file in the Hub's own cache, which other programs share. What is in
//! the cache is taken without the network. `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN` and
//! `HF_HUB_OFFLINE` mean what they mean to the Hub's own library.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use crate::stop;

/// What a name of a file on the Hub begins with.
const SCHEME: &str = "hf://";

/// The pause between two looks at a file that another process fetches.
const LOCK_PAUSE: Duration = Duration::from_millis(500);

/// The kinds of repositories, by the first part of their names, which may be absent for models.
const REPOSITORY_KINDS: [(&str, RepoType); 3] = [
    ("models", RepoType::Model),
    ("datasets", RepoType::Dataset),
    ("spaces", RepoType::Space),
];

/// A file in a repository of the Hub.
#[derive(Debug, Clone)]
struct HubFile {
    repository: Repo,
    /// `org/repo`, with the kind before it unless it is a model.
    id: String,
    /// The path in the repository.
    file: String,
}

/// Whether a path is the name of a file on the Hub.
pub(crate) fn is_hub_name(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.starts_with(SCHEME))
}

/// Returns the local path of a file: of one on the Hub, which is fetched into the Hub's cache if it
/// is not there, or `path` itself. The member of `hf://org/repo/x.npz:name` stays at the end.
///
/// A path inside a snapshot of the Hub's cache is fetched too if it is missing there: a card names
/// files of its own repository, and a run names the files that it used.
///
/// # Errors
/// Fails if the name is malformed, or if the file cannot be fetched. The message names the file and
/// says what would be right.
pub(crate) fn local_path(path: &Path) -> Result<PathBuf> {
    let Some(name) = path.to_str().and_then(|text| text.strip_prefix(SCHEME)) else {
        fetch_into_snapshot(path).with_context(|| path.display().to_string())?;
        return Ok(path.to_owned());
    };
    let (name, member) = match name.rsplit_once(':') {
        Some((name, member)) => (name, Some(member)),
        None => (name, None),
    };
    let found = HubFile::parse(name)
        .map_err(anyhow::Error::msg)
        .and_then(|file| file.fetch())
        .with_context(|| path.display().to_string())?;
    Ok(match member {
        Some(member) => {
            let mut text = found.into_os_string();
            text.push(":");
            text.push(member);
            PathBuf::from(text)
        }
        None => found,
    })
}

/// Returns the path of a file that is named beside others in `folder`, which a name on the Hub is not.
pub(crate) fn beside(folder: &Path, name: &Path) -> PathBuf {
    match is_hub_name(name) {
        true => name.to_owned(),
        false => folder.join(name),
    }
}

/// Fetches a file that belongs to a snapshot in the Hub's cache and is not there yet. Other paths are
/// left alone.
fn fetch_into_snapshot(path: &Path) -> Result<()> {
    let without_member = path.to_str().and_then(|text| text.rsplit_once(':'));
    if path.exists() || without_member.is_some_and(|(file, _)| Path::new(file).exists()) {
        return Ok(());
    }
    match cache_folder().and_then(|cache| HubFile::in_snapshot(path, &cache)) {
        Some(file) => file.fetch().map(drop),
        None => Ok(()),
    }
}

impl HubFile {
    /// Parses `org/repo/path@revision` or `org/repo@revision/path`. The default revision is `main`.
    fn parse(name: &str) -> Result<HubFile, String> {
        let malformed = || {
            "expected hf://org/repo/file or hf://org/repo/file@revision, with datasets/ before org \
             for a data set"
                .to_owned()
        };
        let mut parts = name.split('/').peekable();
        let kind = REPOSITORY_KINDS
            .iter()
            .find(|kind| parts.peek() == Some(&kind.0));
        if kind.is_some() {
            parts.next();
        }
        let organisation = parts.next().unwrap_or_default();
        let (repository, early) = split_revision(parts.next().unwrap_or_default());
        let rest: Vec<&str> = parts.collect();
        let rest = rest.join("/");
        let (file, revision) = match early {
            Some(revision) => (&rest[..], revision),
            None => {
                let (file, late) = split_revision(&rest);
                (file, late.unwrap_or("main"))
            }
        };
        let plain = |text: &str| {
            let parts = || text.split('/');
            parts().all(|part| !["", ".", ".."].contains(&part))
                && !text.contains(|c: char| c.is_control() || "\\:?#%@".contains(c))
        };
        if ![organisation, repository, file, revision]
            .into_iter()
            .all(plain)
        {
            return Err(malformed());
        }
        let kind = kind.map_or(RepoType::Model, |kind| kind.1);
        let repository = format!("{organisation}/{repository}");
        Ok(HubFile::new(kind, repository, revision, file.to_owned()))
    }

    fn new(kind: RepoType, id: String, revision: &str, file: String) -> HubFile {
        HubFile {
            repository: Repo::with_revision(id.clone(), kind, revision.to_owned()),
            id,
            file,
        }
    }

    /// Returns the file that a path in the `cache` stands for, if it lies in a snapshot there.
    fn in_snapshot(path: &Path, cache: &Path) -> Option<HubFile> {
        let inside = path.strip_prefix(cache).ok()?;
        let parts: Option<Vec<&str>> = inside
            .components()
            .map(|part| match part {
                Component::Normal(part) => part.to_str(),
                _ => None,
            })
            .collect();
        let parts = parts?;
        let [folder, "snapshots", commit, file @ ..] = &parts[..] else {
            return None;
        };
        let (kind, id) = REPOSITORY_KINDS.iter().find_map(|kind| {
            let id = folder.strip_prefix(kind.0)?.strip_prefix("--")?;
            Some((kind.1, id.replacen("--", "/", 1)))
        })?;
        (!file.is_empty()).then(|| HubFile::new(kind, id, commit, file.join("/")))
    }

    /// Returns the path of the file in the cache. It is fetched if it is not there.
    fn fetch(&self) -> Result<PathBuf> {
        let folder = cache_folder().context("there is no home folder; set HF_HOME")?;
        let cache = Cache::new(folder.clone());
        let known = cache.repo(self.repository.clone());
        // A commit is a folder of its own; a branch or a tag is a file with its commit.
        let pinned = known
            .pointer_path(self.repository.revision())
            .join(&self.file);
        if pinned.is_file() {
            return Ok(pinned);
        }
        if let Some(path) = known.get(&self.file) {
            return Ok(path);
        }
        if is_set("HF_HUB_OFFLINE") {
            bail!(
                "it is not in {}, and HF_HUB_OFFLINE is set; fetch it once without",
                folder.display()
            );
        }
        let endpoint = variable("HF_ENDPOINT").unwrap_or("https://huggingface.co".to_owned());
        let endpoint = endpoint.trim_end_matches('/');
        errln!(
            "flowgauge: fetching {} of {} at {} once, into {}",
            self.file,
            self.id,
            self.repository.revision(),
            folder.display()
        );
        let interface = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint.to_owned())
            .with_token(token(&cache))
            .with_progress(false)
            .with_user_agent("flowgauge", env!("CARGO_PKG_VERSION"))
            .build()?;
        let repository = interface.repo(self.repository.clone());
        loop {
            match repository.download(&self.file) {
                // Another process, such as another shard of a run, fetches the same file.
                Err(ApiError::LockAcquisition(_)) if !stop::requested() => {
                    std::thread::sleep(LOCK_PAUSE);
                    if let Some(path) = known.get(&self.file) {
                        return Ok(path);
                    }
                }
                fetched => return fetched.map_err(|error| self.explain(&error, endpoint)),
            }
        }
    }

    /// The error of a file that could not be fetched, with what would help.
    fn explain(&self, error: &ApiError, endpoint: &str) -> anyhow::Error {
        let text = error.to_string();
        let (id, revision) = (&self.id, self.repository.revision());
        if ["401", "403"].iter().any(|status| text.contains(status)) {
            return anyhow::anyhow!(
                "{endpoint} refused access to {id} ({text}): it does not exist, or it is private or \
                 gated; set HF_TOKEN to a token that may read it"
            );
        }
        if text.contains("404") {
            return anyhow::anyhow!(
                "{endpoint} has no file {} in {id} at revision {revision}",
                self.file
            );
        }
        anyhow::anyhow!("it could not be fetched from {endpoint}: {text}")
    }
}

/// Splits `text@revision`.
fn split_revision(text: &str) -> (&str, Option<&str>) {
    match text.split_once('@') {
        Some((text, revision)) => (text, Some(revision)),
        None => (text, None),
    }
}

/// A variable of the environment that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a variable of the environment switches something on.
fn is_set(name: &str) -> bool {
    let on = ["1", "true", "yes", "on"];
    variable(name).is_some_and(|value| on.contains(&value.to_lowercase().as_str()))
}

/// The folder of the Hub's cache. `None` if the user has no home folder.
fn cache_folder() -> Option<PathBuf> {
    let home = variable("HF_HOME").map(PathBuf::from);
    let cache = || match variable("XDG_CACHE_HOME") {
        Some(folder) => Some(PathBuf::from(folder)),
        None => std::env::home_dir().map(|home| home.join(".cache")),
    };
    let default = || Some(cache()?.join("huggingface"));
    let folder = match variable("HF_HUB_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => home.or_else(default)?.join("hub"),
    };
    std::path::absolute(folder).ok()
}

/// The token of the user: of `HF_TOKEN`, or that which the Hub's login stored.
fn token(cache: &Cache) -> Option<String> {
    let stored = || {
        let file = match variable("HF_TOKEN_PATH") {
            Some(file) => PathBuf::from(file),
            None => match variable("HF_HOME") {
                Some(home) => Path::new(&home).join("token"),
                None => return cache.token(),
            },
        };
        let text = std::fs::read_to_string(file).ok()?;
        Some(text.trim().to_owned()).filter(|token| !token.is_empty())
    };
    variable("HF_TOKEN").or_else(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed() {
        for (name, folder, revision, file) in [
            ("o/r/x.onnx", "models--o--r", "main", "x.onnx"),
            ("o/r/a/b.npy@v1", "models--o--r", "v1", "a/b.npy"),
            ("o/r/b.npy@refs/pr/1", "models--o--r", "refs/pr/1", "b.npy"),
            ("o/r@v1/a/b.npy", "models--o--r", "v1", "a/b.npy"),
            (
                "datasets/o/r/x.parquet",
                "datasets--o--r",
                "main",
                "x.parquet",
            ),
            ("models/o/r/x.npy", "models--o--r", "main", "x.npy"),
        ] {
            let found = HubFile::parse(name).expect(name);
            assert_eq!(found.repository.folder_name(), folder, "{name}");
            assert_eq!(found.repository.revision(), revision, "{name}");
            assert_eq!(found.file, file, "{name}");
        }
        for name in [
            "",
            "o",
            "o/r",
            "o/r/",
            "/r/x",
            "o//x",
            "o/r/../x",
            "o/r/x@",
            "o/r/x@..",
            "o/r/x@a@b",
            "o/r@v1",
            "o/r/a\\b",
            "o/r/x?y",
            "datasets/o/r",
            "o/r/\n",
        ] {
            assert!(HubFile::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn files_beside_a_snapshot_are_of_the_same_commit() {
        let cache = Path::new("/c/hub");
        let at = Path::new("/c/hub/models--o--r--s/snapshots/abc/onnx/x.onnx_data");
        let found = HubFile::in_snapshot(at, cache).expect("in a snapshot");
        assert_eq!(found.id, "o/r--s");
        assert_eq!(found.repository.revision(), "abc");
        assert_eq!(found.file, "onnx/x.onnx_data");
        for other in [
            "/c/hub/models--o--r/refs/main",
            "/c/hub/other/snapshots/abc/x",
            "/d/models--o--r/snapshots/abc/x",
            "/c/hub/models--o--r/snapshots/abc",
            "/c/hub/models--o--r/snapshots/abc/../../x",
        ] {
            assert!(
                HubFile::in_snapshot(Path::new(other), cache).is_none(),
                "{other}"
            );
        }
    }
}
