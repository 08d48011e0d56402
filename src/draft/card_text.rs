//! A drafted card, and its text in YAML with a comment on the origin of every value.

use super::kind::DraftKind;
use crate::model::card::check_plain_name;

/// Where a value of a drafted card comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Origin {
    /// It was read: the words name the file and the key or the port.
    Read(String),
    /// It follows from the kind of file that the user named.
    Convention(String),
    /// No file says it. The words say why it is likely, and how to change it.
    Guessed(String),
}

impl Origin {
    /// The value was read, as `words` say.
    pub(super) fn read(words: impl Into<String>) -> Origin {
        Origin::Read(words.into())
    }

    /// The value follows from the user's kind, as `words` say.
    pub(super) fn convention(words: impl Into<String>) -> Origin {
        Origin::Convention(words.into())
    }

    /// The value was guessed, as `words` say.
    pub(super) fn guessed(words: impl Into<String>) -> Origin {
        Origin::Guessed(words.into())
    }

    /// The comment on the value, on one line.
    fn comment(&self) -> String {
        let text = match self {
            Origin::Read(words) => words.clone(),
            Origin::Convention(words) => format!("by convention: {words}"),
            Origin::Guessed(words) => format!("guessed: {words}"),
        };
        single_line(&text)
    }
}

/// The value of a key of a drafted card.
#[derive(Debug, Clone, PartialEq)]
enum DraftValue {
    /// YAML on the line of the key.
    Inline(String),
    /// Entries on lines of their own.
    Block(Vec<DraftEntry>),
}

/// A key of a drafted card with its value and the origin of the value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DraftEntry {
    key: String,
    value: DraftValue,
    origin: Option<Origin>,
}

impl DraftEntry {
    /// An entry with YAML on the line of the key.
    pub(super) fn new(key: &str, yaml: impl Into<String>, origin: Origin) -> DraftEntry {
        DraftEntry {
            key: key.to_owned(),
            value: DraftValue::Inline(yaml.into()),
            origin: Some(origin),
        }
    }

    /// An entry whose value is a block of entries.
    pub(super) fn block(key: &str, entries: Vec<DraftEntry>) -> DraftEntry {
        DraftEntry {
            key: key.to_owned(),
            value: DraftValue::Block(entries),
            origin: None,
        }
    }

    /// Appends the lines of the entry.
    fn write_lines(&self, indent: usize, lines: &mut Vec<String>) {
        let lead = " ".repeat(indent);
        let key = yaml_string(&self.key);
        match &self.value {
            DraftValue::Inline(yaml) => {
                let comment = self.origin.as_ref().map(Origin::comment);
                let comment = comment.map_or(String::new(), |text| format!("  # {text}"));
                lines.push(format!("{lead}{key}: {yaml}{comment}"));
            }
            DraftValue::Block(entries) => {
                lines.push(format!("{lead}{key}:"));
                for entry in entries {
                    entry.write_lines(indent + 2, lines);
                }
            }
        }
    }

    /// Appends `key: value (reason)` of every guess, with the keys of the blocks around it.
    fn collect_guesses(&self, outer: &str, found: &mut Vec<String>) {
        let key = match outer {
            "" => self.key.clone(),
            outer => format!("{outer}.{}", self.key),
        };
        match (&self.value, &self.origin) {
            (DraftValue::Block(entries), _) => entries
                .iter()
                .for_each(|entry| entry.collect_guesses(&key, found)),
            (DraftValue::Inline(yaml), Some(Origin::Guessed(why))) => {
                found.push(single_line(&format!("{key}: {yaml} ({why})")));
            }
            _ => {}
        }
    }
}

/// A card that was drafted from the facts about files.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CardDraft {
    /// The kind of the files.
    kind: DraftKind,
    /// What the card was drafted from, for its first line.
    source: String,
    /// The keys of the card in their order.
    entries: Vec<DraftEntry>,
    /// Sentences at the end of the card on what it does not say.
    remarks: Vec<String>,
}

impl CardDraft {
    /// A draft without entries; `source` names the model for the card's first line.
    pub(super) fn new(kind: DraftKind, source: impl Into<String>) -> CardDraft {
        CardDraft {
            kind,
            source: source.into(),
            entries: Vec::new(),
            remarks: Vec::new(),
        }
    }

    /// Appends a key.
    pub(super) fn push(&mut self, entry: DraftEntry) {
        self.entries.push(entry);
    }

    /// Appends a remark, which is written as a comment at the end of the card.
    pub(super) fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }

    /// Returns the card as YAML.
    pub(crate) fn text(&self) -> String {
        let mut lines = vec![
            single_line(&format!(
                "# Drafted by `flowgauge card --from {}` from {}.",
                self.kind.name(),
                self.source
            )),
            "# Each comment says where its value comes from. No file says what is guessed: check it."
                .to_owned(),
        ];
        for entry in &self.entries {
            entry.write_lines(0, &mut lines);
        }
        lines.extend(self.remarks.iter().map(|r| single_line(&format!("# {r}"))));
        lines.join("\n") + "\n"
    }

    /// Returns `key: value (reason)` of every value that was guessed.
    pub(crate) fn guesses(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in &self.entries {
            entry.collect_guesses("", &mut found);
        }
        found
    }
}

/// Writes a string as a YAML scalar that every reader takes as a string: plain if it consists of
/// letters, digits and `_-./` and looks like nothing else, and in double quotes otherwise.
pub(super) fn yaml_string(text: &str) -> String {
    const WORDS: [&str; 13] = [
        "null", "true", "false", "yes", "no", "on", "off", "y", "n", "inf", "nan", "infinity",
        "none",
    ];
    let letters = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let begins = text
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    // The letters y and n are common names of ports, and strings in YAML 1.2.
    let word = WORDS.contains(&text.to_lowercase().as_str()) && text.len() > 1;
    if begins && text.chars().all(letters) && !word {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if is_special(c) => match u32::from(c) {
                code @ 0..=0xff => quoted.push_str(&format!("\\x{code:02x}")),
                code @ 0x100..=0xffff => quoted.push_str(&format!("\\u{code:04x}")),
                code => quoted.push_str(&format!("\\U{code:08x}")),
            },
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// Whether a character must be escaped in YAML, or would change how a line is displayed.
fn is_special(c: char) -> bool {
    c.is_control()
        || matches!(
            u32::from(c),
            0x2028..=0x202e | 0x200e | 0x200f | 0x2066..=0x2069 | 0xfeff | 0xfffe..=0xffff
        )
}

/// Writes a number as YAML.
pub(super) fn yaml_number(value: f64) -> String {
    format!("{value}")
}

/// Writes a list as YAML on one line.
pub(super) fn yaml_list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(", "))
}

/// Writes a map as YAML on one line.
pub(super) fn yaml_map<'a>(entries: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let entries: Vec<String> = entries
        .into_iter()
        .map(|(key, yaml)| format!("{key}: {yaml}"))
        .collect();
    format!("{{{}}}", entries.join(", "))
}

/// Writes sizes as YAML.
pub(super) fn yaml_sizes(sizes: &[usize]) -> String {
    yaml_list(sizes.iter().map(usize::to_string))
}

/// Replaces characters that would end a comment's line.
fn single_line(text: &str) -> String {
    text.chars()
        .map(|c| if is_special(c) { '?' } else { c })
        .collect()
}

/// Returns a plain name that is as near as possible to `text`: characters that a card's name does
/// not allow become `_`.
pub(super) fn plain_name(text: &str) -> String {
    let mut name: String = text
        .chars()
        .map(|c| match c {
            c if c.is_alphanumeric() || " _-.,()[]+".contains(c) => c,
            _ => '_',
        })
        .collect();
    while name.contains("..") {
        name = name.replace("..", ".");
    }
    let starts_well = |c: char| c.is_alphanumeric() || c == '_';
    if !name.chars().next().is_some_and(starts_well) {
        name.insert(0, '_');
    }
    while name.len() > 100 {
        name.pop();
    }
    let name = name.trim_end().to_owned();
    match check_plain_name(&name) {
        Ok(()) if name.chars().any(char::is_alphanumeric) => name,
        _ => "model".to_owned(),
    }
}
