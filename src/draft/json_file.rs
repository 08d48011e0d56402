//! A JSON file with an object: the configs of diffusers.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};

/// The largest JSON file that is read, in bytes. Configs have a few kilobytes.
const LARGEST_CONFIG: u64 = 16 << 20;

/// The object of a JSON file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct JsonFile {
    /// The name of the file for messages and comments, such as `unet/config.json`.
    pub(super) name: String,
    /// The entries.
    entries: Map<String, Value>,
}

impl JsonFile {
    /// Reads the file `name` in `folder`. `None` if there is no such file.
    ///
    /// # Errors
    /// Fails if the file cannot be read or holds no JSON object.
    pub(super) fn read(folder: &Path, name: &str) -> Result<Option<JsonFile>> {
        let at = folder.join(name);
        let Ok(metadata) = std::fs::metadata(&at) else {
            return match std::fs::symlink_metadata(&at) {
                Ok(_) => bail!("{}: it is a link to a missing file", at.display()),
                Err(_) => Ok(None),
            };
        };
        if !metadata.is_file() || metadata.len() > LARGEST_CONFIG {
            bail!(
                "{}: it is no file of at most {} MiB, expected a config in JSON",
                at.display(),
                LARGEST_CONFIG >> 20
            );
        }
        let text = std::fs::read_to_string(&at)
            .with_context(|| format!("{}: it cannot be read", at.display()))?;
        JsonFile::parse(name, &text)
            .map(Some)
            .map_err(|e| anyhow!("{}: {e}", folder.display()))
    }

    /// Parses the text of the file `name`.
    ///
    /// # Errors
    /// Fails if the text holds no JSON object.
    pub(super) fn parse(name: &str, text: &str) -> Result<JsonFile> {
        match serde_json::from_str(text) {
            Ok(Value::Object(entries)) => Ok(JsonFile {
                name: name.to_owned(),
                entries,
            }),
            Ok(_) => bail!("{name}: it holds no object, expected {{\"key\": value, …}}"),
            Err(e) => bail!("{name}: it is not JSON: {e}"),
        }
    }

    /// Returns the value of a key; `None` if it is absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key).filter(|value| !value.is_null())
    }

    /// Returns the words `KEY of FILE`, for comments and messages.
    pub(super) fn place(&self, key: &str) -> String {
        format!("{key} of {}", self.name)
    }

    /// Returns a value of one type; `None` if it is absent or null.
    ///
    /// # Errors
    /// Fails if the value has another type.
    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        read(value).map(Some).ok_or_else(|| {
            let mut found = value.to_string();
            if found.chars().count() > 80 {
                found = found.chars().take(80).chain(['…']).collect();
            }
            anyhow!("{}: {key} is {found}, expected {expected}", self.name)
        })
    }

    /// Returns a finite number.
    ///
    /// # Errors
    /// Fails if the value is something else.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |v| v.as_f64().filter(|v| v.is_finite()))
    }

    /// Returns a whole number of at least 1.
    ///
    /// # Errors
    /// Fails if the value is something else.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number of at least 1", size_of)
    }

    /// Returns a text.
    ///
    /// # Errors
    /// Fails if the value is something else.
    pub(super) fn string(&self, key: &str) -> Result<Option<String>> {
        self.typed(key, "a text", |v| v.as_str().map(str::to_owned))
    }

    /// Returns whether a flag is set; an absent flag is not.
    ///
    /// # Errors
    /// Fails if the value is something else.
    pub(super) fn flag(&self, key: &str) -> Result<bool> {
        Ok(self
            .typed(key, "true or false", Value::as_bool)?
            .unwrap_or_default())
    }

    /// Returns the height and the width of an image: a whole number, or a list of two.
    ///
    /// # Errors
    /// Fails if the value is something else.
    pub(super) fn image_size(&self, key: &str) -> Result<Option<[usize; 2]>> {
        self.typed(key, "a size, or [height, width]", |value| match value {
            Value::Array(sizes) => match &sizes[..] {
                [height, width] => Some([size_of(height)?, size_of(width)?]),
                _ => None,
            },
            other => size_of(other).map(|size| [size, size]),
        })
    }

    /// Returns the number of entries of a list.
    ///
    /// # Errors
    /// Fails if the value is something else.
    pub(super) fn list_length(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a list", |v| v.as_array().map(Vec::len))
    }
}

/// Returns a whole number of at least 1 and at most 2³².
fn size_of(value: &Value) -> Option<usize> {
    let size = value.as_u64().filter(|n| (1..=1 << 32).contains(n))?;
    usize::try_from(size).ok()
}
