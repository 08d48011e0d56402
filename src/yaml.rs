//! Reads YAML files that users write, strictly, and reports all faults at once.
//!
//! The text is parsed into a tree whose nodes know their lines (`node`). The tree is checked
//! against the JSON schema of the Rust type (`check`). The check collects every unknown key, wrong
//! value and missing key, and replaces aliases and labels by canonical names. Only then is the
//! value deserialized (`deserialize`).

use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;

mod check;
mod deserialize;
mod fault;
mod label;
mod node;
pub mod schema_type;

pub use fault::{Fault, Faults, one_of};
pub use node::{MapEntry, Node, Value, YamlScalar};

/// A YAML text and its tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    text: String,
    /// The root of the tree.
    pub root: Node,
    /// The list entries that [`Document::read_partly`] has removed because of faults.
    removed_entries: Vec<check::RemovedEntries>,
}

impl Document {
    /// Parses one YAML document.
    ///
    /// # Errors
    /// Fails if the text is not valid YAML. The message has the line and the column.
    pub fn parse(text: &str) -> Result<Document, Faults> {
        let root = node::parse_tree(text)
            .map_err(|fault| Faults::new(vec![fault]).with_source_lines(text))?;
        Ok(Document {
            text: text.to_owned(),
            root,
            removed_entries: Vec::new(),
        })
    }

    /// The value of the document. Afterwards the tree has canonical names; its positions stay.
    ///
    /// # Errors
    /// Fails if a key is unknown, missing or has a wrong value. The error lists every fault with
    /// its line.
    pub fn read<T: JsonSchema + DeserializeOwned>(&mut self) -> Result<T, Faults> {
        match self.read_partly() {
            (Some(whole), faults) if faults.is_empty() => Ok(whole),
            (_, faults) => Err(self.report_faults(faults)),
        }
    }

    /// The value of the document without the parts that have faults, and the faults. The rest can
    /// then be checked further, so that one message reports everything. The value is `None` if a
    /// required key is missing or wrong.
    pub fn read_partly<T: JsonSchema + DeserializeOwned>(&mut self) -> (Option<T>, Vec<Fault>) {
        let found = check::check_against_schema(&schema_with_aliases::<T>(), &mut self.root);
        self.removed_entries.extend(found.removed_entries);
        let mut faults = found.faults;
        if !found.usable {
            return (None, faults);
        }
        match T::deserialize(&self.root) {
            Ok(rest) => (Some(rest), faults),
            Err(fault) => {
                faults.push(fault);
                (None, faults)
            }
        }
    }

    /// Adds the positions of their keys to faults without a position.
    ///
    /// The keys of these faults refer to the value of [`Document::read_partly`], in which list
    /// entries may be missing. They are changed to refer to the text.
    pub fn locate(&self, mut faults: Vec<Fault>) -> Vec<Fault> {
        for fault in faults.iter_mut().filter(|f| f.position.is_none()) {
            fault.position = self.root.position_of(&fault.key);
            fault.key = self.original_key(&fault.key);
        }
        faults
    }

    /// Translates a key of the value of [`Document::read_partly`] into the key in the text. The two
    /// differ if list entries were removed.
    pub fn original_key(&self, key: &str) -> String {
        self.removed_entries
            .iter()
            .rev()
            .fold(key.to_owned(), |key, removed| {
                restore_list_index(&key, removed)
            })
    }

    /// An error that lists the faults with the lines of the text.
    pub fn report_faults(&self, faults: Vec<Fault>) -> Faults {
        Faults::new(self.locate(faults)).with_source_lines(&self.text)
    }
}

/// A key with the index that its list entry had before other entries of this list were removed.
fn restore_list_index(key: &str, (list, numbers): &check::RemovedEntries) -> String {
    let rest = key
        .strip_prefix(list.as_str())
        .and_then(|r| r.strip_prefix('.'))
        .unwrap_or_default();
    let (number, below) = rest.split_once('.').unwrap_or((rest, ""));
    let before = number.parse::<usize>().ok().and_then(|n| numbers.get(n));
    before.map_or(key.to_owned(), |n| {
        fault::join_keys(&fault::join_keys(list, &n.to_string()), below)
    })
}

/// Reads a value from a YAML text.
///
/// # Errors
/// Fails if the text is not valid YAML or does not fit the type. The error lists every fault with
/// its key, its line and what would be right.
pub fn from_yaml_str<T: JsonSchema + DeserializeOwned>(text: &str) -> Result<T, Faults> {
    Document::parse(text)?.read()
}

/// The JSON schema of a type with the extension keywords (`x-…`) that the check and `flowgauge
/// list` use.
pub fn schema_with_aliases<T: JsonSchema>() -> serde_json::Value {
    let generator: SchemaGenerator = schemars::generate::SchemaSettings::draft2020_12().into();
    generator.into_root_schema_for::<T>().to_value()
}

/// The JSON schema of a type with standard keywords only, for third-party validators.
pub fn standard_schema<T: JsonSchema>() -> serde_json::Value {
    let mut schema = schema_with_aliases::<T>();
    strip_extension_keywords(&mut schema);
    schema
}

/// Removes the extension keywords, which only [`schema_type`] understands.
fn strip_extension_keywords(schema: &mut serde_json::Value) {
    match schema {
        serde_json::Value::Object(keywords) => {
            keywords.retain(|key, _| !key.starts_with("x-"));
            for (keyword, value) in keywords.iter_mut() {
                // The names of properties are the users', and may begin like an extension's.
                match value.as_object_mut().filter(|_| keyword == "properties") {
                    Some(named) => named.values_mut().for_each(strip_extension_keywords),
                    None => strip_extension_keywords(value),
                }
            }
        }
        serde_json::Value::Array(parts) => parts.iter_mut().for_each(strip_extension_keywords),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Whole {
        entries: Vec<Entry>,
        #[serde(default)]
        names: BTreeMap<String, f64>,
        #[serde(default)]
        few: Option<u8>,
    }

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        size: u64,
        #[serde(default)]
        parts: Vec<u64>,
    }

    fn faults(text: &str) -> Vec<String> {
        let mut document = Document::parse(text).expect("YAML");
        let (_, found) = document.read_partly::<Whole>();
        document
            .locate(found)
            .iter()
            .map(|f| f.to_string())
            .collect()
    }

    #[test]
    fn every_fault_names_key_and_position() {
        let text = "entries:\n  - {size: 1, parts: [1, x]}\n  - {sise: 2}\nnames: {a: b}\nfew: 300\nmore: 1\n";
        assert_eq!(
            faults(text),
            [
                "line 2, column 26: entries.0.parts.1: x, expected a whole number of at least 0",
                "line 3, column 6: entries.1: unknown key `sise`, expected one of size, parts; did you mean `size`?",
                "line 3, column 5: entries.1: missing key `size`, expected a whole number of at least 0",
                "line 4, column 12: names.a: b, expected a number",
                "line 5, column 6: few: 300, expected a whole number of at most 255",
                "line 6, column 1: unknown key `more`, expected one of entries, names, few",
            ]
        );
    }

    #[test]
    fn later_faults_keep_original_list_indices() {
        let text = "entries:\n  - {}\n  - {size: 1, parts: [x, 7]}\n  - {size: 3}\nmore: 1\n";
        let mut document = Document::parse(text).expect("YAML");
        let (left, _) = document.read_partly::<Whole>();
        let sizes: Vec<u64> = left
            .expect("two entries")
            .entries
            .iter()
            .map(|e| e.size)
            .collect();
        assert_eq!(sizes, [1, 3]);
        let later = document.locate(vec![
            Fault::new("entries.0.parts.0", "a"),
            Fault::new("entries.1.size", "b"),
        ]);
        let told: Vec<String> = later.iter().map(|f| f.to_string()).collect();
        assert_eq!(
            told,
            [
                "line 3, column 26: entries.1.parts.1: a",
                "line 4, column 12: entries.2.size: b"
            ]
        );
    }

    #[test]
    fn number_like_text_is_read_as_string() {
        #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
        struct Named {
            name: String,
        }
        for (text, name) in [
            ("name: 2024", "2024"),
            ("name: yes", "yes"),
            ("name: 1e5", "1e5"),
            ("name: 'null'", "null"),
        ] {
            assert_eq!(from_yaml_str::<Named>(text).expect(text).name, name);
        }
        assert!(from_yaml_str::<Named>("name: null").is_err());
    }
}
