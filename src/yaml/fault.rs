//! Faults in a text that a user wrote. Each fault has its key, its line and what would be right.

use std::fmt::{Display, Formatter, Result as Written};

/// A position in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourcePosition {
    /// The number of the line, from 1.
    pub line: usize,
    /// The number of the character in the line, from 1.
    pub column: usize,
}

/// One fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// The key at fault, such as `likelihood.0.estimators.1.hutchinson.probes`; empty for the whole
    /// text.
    pub key: String,
    /// The position of the key in the text, if it is known.
    pub position: Option<SourcePosition>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Fault {
    /// A fault without a position.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Fault {
        Fault {
            key: key.into(),
            position: None,
            message: message.into(),
        }
    }

    /// A fault from a message that may begin with its key, such as `path: expected …`.
    pub fn from_message(message: impl Into<String>) -> Fault {
        let message = message.into();
        // A message may also begin with the name of a file, which is not a key.
        let file = |key: &str| FILE_SUFFIXES.iter().any(|ending| key.ends_with(ending));
        let plain = |key: &str| {
            key.chars()
                .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        };
        let is_key = |key: &str| !key.is_empty() && plain(key) && !file(key);
        match message.split_once(": ") {
            Some((key, rest)) if is_key(key) => Fault::new(key, rest),
            _ => Fault::new("", message),
        }
    }

    /// The same fault at a position, unless it has one already.
    pub fn at_position(self, place: Option<SourcePosition>) -> Fault {
        Fault {
            position: self.position.or(place),
            ..self
        }
    }

    /// The same fault with `outer` in front of its key.
    pub fn under_key(self, outer: &str) -> Fault {
        Fault {
            key: join_keys(outer, &self.key),
            ..self
        }
    }
}

/// Suffixes of files with which messages begin.
const FILE_SUFFIXES: [&str; 8] = [
    ".npy",
    ".npz",
    ".csv",
    ".onnx",
    ".yaml",
    ".safetensors",
    ".parquet",
    ".gz",
];

/// The key `outer.inner`; an empty part is left out.
pub(super) fn join_keys(outer: &str, inner: &str) -> String {
    match (outer.is_empty(), inner.is_empty()) {
        (true, _) => inner.to_owned(),
        (_, true) => outer.to_owned(),
        _ => format!("{outer}.{inner}"),
    }
}

/// Writes `line 3, column 5: key: message`.
impl Display for Fault {
    fn fmt(&self, f: &mut Formatter) -> Written {
        if let Some(place) = self.position {
            write!(f, "line {}, column {}: ", place.line, place.column)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: Display>(message: T) -> Fault {
        Fault::new("", message.to_string())
    }

    fn invalid_type(found: serde::de::Unexpected, wanted: &dyn serde::de::Expected) -> Fault {
        Fault::new(
            "",
            format!("{}, expected {wanted}", describe_unexpected(found)),
        )
    }

    fn invalid_value(found: serde::de::Unexpected, wanted: &dyn serde::de::Expected) -> Fault {
        Fault::new(
            "",
            format!("{}, expected {wanted}", describe_unexpected(found)),
        )
    }

    fn invalid_length(length: usize, wanted: &dyn serde::de::Expected) -> Fault {
        Fault::new("", format!("{length} entries, expected {wanted}"))
    }

    fn unknown_variant(name: &str, wanted: &'static [&'static str]) -> Fault {
        Fault::new("", unknown_message("value", name, wanted.iter().copied()))
    }

    fn unknown_field(name: &str, wanted: &'static [&'static str]) -> Fault {
        Fault::new("", unknown_message("key", name, wanted.iter().copied()))
    }

    fn missing_field(name: &'static str) -> Fault {
        Fault::new("", format!("missing key `{name}`"))
    }

    fn duplicate_field(name: &'static str) -> Fault {
        Fault::new(
            "",
            format!("key `{name}` is given twice, expected each key once"),
        )
    }
}

/// Describes a value in the words of a user rather than of serde.
fn describe_unexpected(found: serde::de::Unexpected) -> String {
    use serde::de::Unexpected as U;
    match found {
        U::Bool(b) => b.to_string(),
        U::Unsigned(n) => n.to_string(),
        U::Signed(n) => n.to_string(),
        U::Float(n) => n.to_string(),
        U::Char(c) => format!("`{c}`"),
        U::Str(s) => format!("`{s}`"),
        U::Seq => "a list".to_owned(),
        U::Map | U::Enum | U::StructVariant | U::NewtypeVariant | U::TupleVariant => {
            "`key: value` entries".to_owned()
        }
        U::Unit | U::Option => "nothing".to_owned(),
        U::UnitVariant => "a name without parameters".to_owned(),
        other => other.to_string(),
    }
}

/// The message for an unknown name: ``unknown key `probs`, expected one of probes, distribution;
/// did you mean `probes`?``
pub(super) fn unknown_message<'a>(
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> String {
    let list = one_of(known.clone());
    let guess =
        nearest_name(name, known).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
    format!("unknown {what} `{name}`, expected {list}{guess}")
}

/// Lists names: `a`, or `one of a, b`.
pub fn one_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        [one] => (*one).to_owned(),
        _ => format!("one of {}", names.join(", ")),
    }
}

/// The known name that was probably meant: the nearest by Damerau–Levenshtein distance, if at most
/// a third of the letters differ.
pub(super) fn nearest_name<'a>(
    name: &str,
    known: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let plain = crate::registry::normalize_name(name);
    let near = known.map(|k| {
        (
            strsim::damerau_levenshtein(&plain, &crate::registry::normalize_name(k)),
            k,
        )
    });
    let near = near.filter(|(distance, k)| {
        *distance <= (plain.chars().count().max(k.chars().count()) / 3).max(1)
    });
    near.min_by_key(|(distance, _)| *distance).map(|(_, k)| k)
}

/// All faults of one text.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    /// The faults, in the order of the text.
    pub list: Vec<Fault>,
    /// The source line of each fault, if it is known.
    lines: Vec<Option<String>>,
}

/// The largest number of faults that a message shows. More would hide the first ones.
const MAX_SHOWN_FAULTS: usize = 20;

impl Faults {
    /// Sorts the faults by their position.
    pub fn new(mut list: Vec<Fault>) -> Faults {
        list.sort_by_key(|f| f.position.map_or((usize::MAX, 0), |p| (p.line, p.column)));
        let lines = vec![None; list.len()];
        Faults { list, lines }
    }

    /// Adds the source line of each fault. A text of one line is shown by the fault itself, so that
    /// its positions are removed.
    pub(super) fn with_source_lines(mut self, text: &str) -> Faults {
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() < 2 {
            self.list.iter_mut().for_each(|f| f.position = None);
            return self;
        }
        let line = |f: &Fault| {
            f.position
                .and_then(|p| lines.get(p.line - 1))
                .map(|l| (*l).to_owned())
        };
        self.lines = self.list.iter().map(line).collect();
        self
    }
}

/// Writes one fault in the same line, or the number of faults and one fault per line.
impl Display for Faults {
    fn fmt(&self, f: &mut Formatter) -> Written {
        let one = |f: &mut Formatter, fault: &Fault, line: &Option<String>, indent: &str| {
            write!(f, "{fault}")?;
            match (line, fault.position) {
                (Some(line), Some(place)) => write_excerpt(f, line, place, indent),
                _ => Ok(()),
            }
        };
        let pairs = || self.list.iter().zip(&self.lines);
        if let ([fault], [line]) = (self.list.as_slice(), self.lines.as_slice()) {
            return one(f, fault, line, "");
        }
        write!(f, "{} faults", self.list.len())?;
        for (fault, line) in pairs().take(MAX_SHOWN_FAULTS) {
            f.write_str("\n  ")?;
            one(f, fault, line, "  ")?;
        }
        match self.list.len().saturating_sub(MAX_SHOWN_FAULTS) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

/// Writes a source line with a caret under the column. A long line is cut to the part near the
/// column.
fn write_excerpt(f: &mut Formatter, line: &str, place: SourcePosition, indent: &str) -> Written {
    const WIDTH: usize = 90;
    let characters: Vec<char> = line
        .trim_end()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let first = (place.column - 1).saturating_sub(WIDTH / 2);
    let first = if characters.len() <= WIDTH { 0 } else { first };
    let shown: String = characters.iter().skip(first).take(WIDTH).collect();
    let (number, column) = (
        place.line.to_string(),
        place.column - 1 - first.min(place.column - 1),
    );
    let margin = " ".repeat(number.len());
    write!(
        f,
        "\n{indent}  {number} | {shown}\n{indent}  {margin} | {}^",
        " ".repeat(column)
    )
}

impl std::error::Error for Faults {}
