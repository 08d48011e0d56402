//! YAML as a tree in which each part knows its position in the text.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{DefaultMessageFormatter, Error, MessageFormatter, Spanned};

use super::fault::{Fault, SourcePosition};

/// A value with its position.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// The position; `None` if the value is not part of the text, as for a `--set` change.
    pub position: Option<SourcePosition>,
}

/// A YAML value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A text, a number, or true or false.
    Scalar(YamlScalar),
    /// A list.
    List(Vec<Node>),
    /// `key: value` entries, in the order of the text.
    Map(Vec<MapEntry>),
}

/// A scalar.
#[derive(Debug, Clone, PartialEq)]
pub struct YamlScalar {
    /// The text as it was written. A type that expects a string reads this text, even if it looks
    /// like a number.
    pub text: String,
    /// The value for a type that accepts any scalar.
    pub value: ScalarValue,
}

/// The value of a scalar by the rules of YAML.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScalarValue {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    /// A text; [`YamlScalar::text`] has it.
    Text,
}

/// One `key: value` entry of a map.
#[derive(Debug, Clone, PartialEq)]
pub struct MapEntry {
    /// The key.
    pub key: String,
    /// The position of the key.
    pub position: Option<SourcePosition>,
    /// The value.
    pub node: Node,
}

impl Node {
    /// A text.
    pub fn from_text(text: &str, place: Option<SourcePosition>) -> Node {
        Node {
            value: Value::Scalar(YamlScalar {
                text: text.to_owned(),
                value: ScalarValue::Text,
            }),
            position: place,
        }
    }

    /// A truth value.
    pub fn from_bool(set: bool, place: Option<SourcePosition>) -> Node {
        Node {
            value: Value::Scalar(YamlScalar {
                text: set.to_string(),
                value: ScalarValue::Bool(set),
            }),
            position: place,
        }
    }

    /// A map of one entry.
    pub fn single_entry(key: &str, node: Node, place: Option<SourcePosition>) -> Node {
        Node {
            value: Value::Map(vec![MapEntry {
                key: key.to_owned(),
                position: place,
                node,
            }]),
            position: place,
        }
    }

    /// Sets the position of this node and of every node below it.
    pub fn set_position(&mut self, place: Option<SourcePosition>) {
        self.position = place;
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|i| i.set_position(place)),
            Value::Map(entries) => entries.iter_mut().for_each(|e| {
                e.position = place;
                e.node.set_position(place);
            }),
            _ => {}
        }
    }

    /// The value of a key of a map, or of an index of a list.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.node),
            Value::List(items) => key.parse::<usize>().ok().and_then(|i| items.get(i)),
            _ => None,
        }
    }

    /// The position of a key such as `likelihood.0.samples`. If the key is missing, it is the
    /// position of the part of the key that exists; `None` if no part exists.
    pub fn position_of(&self, key: &str) -> Option<SourcePosition> {
        let (mut at, mut place) = (self, None);
        let mut rest = key;
        while !rest.is_empty() {
            // A name may contain dots itself, so that the longest name that exists is taken.
            let mut ends = rest.match_indices('.').map(|(i, _)| i).chain([rest.len()]);
            let Some(end) = ends.rfind(|end| at.get(&rest[..*end]).is_some()) else {
                break;
            };
            let name = &rest[..end];
            let entry = match &at.value {
                Value::Map(entries) => entries
                    .iter()
                    .find(|e| e.key == name)
                    .and_then(|e| e.position),
                _ => None,
            };
            at = at.get(name)?;
            place = at.position.or(entry).or(place);
            rest = rest[end..].trim_start_matches('.');
        }
        place
    }
}

/// Parses one YAML document.
///
/// # Errors
/// Fails if the text is not valid YAML. The fault has the line and the column.
pub(super) fn parse_tree(text: &str) -> Result<Node, Fault> {
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = LineIndex::new(body);
    let options = serde_yaml::options! {
        non_finite_float_policy: serde_yaml::NonFiniteFloatPolicy::PassThrough,
        alias_limits: serde_yaml::alias_limits! { max_total_replayed_events: 100_000 },
    };
    let raw: Spanned<RawNode> =
        serde_yaml::from_str_with_options(body, options).map_err(|e| parser_fault(&e, &lines))?;
    Ok(lines.build_node(raw))
}

/// A text and the index of the byte at which each line begins.
struct LineIndex<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> LineIndex<'a> {
    /// Finds the lines of a text.
    fn new(text: &'a str) -> LineIndex<'a> {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(i, _)| i + 1))
            .collect();
        LineIndex { text, starts }
    }

    /// The position of a location of the parser. It is computed from the byte offset, because the
    /// parser does not count lines exactly as editors do.
    fn position(&self, location: serde_yaml::Location) -> SourcePosition {
        let Some(byte) = location.span().byte_offset() else {
            return SourcePosition {
                line: location.line().max(1) as usize,
                column: location.column().max(1) as usize,
            };
        };
        let byte = self.boundary(byte as usize);
        let line = self.starts.partition_point(|s| *s <= byte).max(1);
        SourcePosition {
            line,
            column: self.text[self.starts[line - 1]..byte].chars().count() + 1,
        }
    }

    /// The largest character boundary that is at most `byte`.
    fn boundary(&self, byte: usize) -> usize {
        (0..=byte.min(self.text.len()))
            .rev()
            .find(|b| self.text.is_char_boundary(*b))
            .unwrap_or(0)
    }

    /// The text at a location of the parser; empty if it is not known.
    fn source_text(&self, location: serde_yaml::Location) -> &'a str {
        let span = location.span();
        let Some((from, length)) = span.byte_offset().zip(span.byte_len()) else {
            return "";
        };
        let (from, to) = (
            self.boundary(from as usize),
            self.boundary((from + length) as usize),
        );
        self.text[from..to.max(from)].trim()
    }

    /// The tree of a value of the parser.
    fn build_node(&self, raw: Spanned<RawNode>) -> Node {
        let (referenced, defined) = (raw.referenced, raw.defined);
        let scalar = |read: ScalarValue, otherwise: String| {
            let written = self.source_text(defined);
            let text = if written.is_empty() {
                otherwise
            } else {
                written.to_owned()
            };
            Value::Scalar(YamlScalar { text, value: read })
        };
        let value = match raw.value {
            RawNode::Null => Value::Null,
            RawNode::Text(text) => Value::Scalar(YamlScalar {
                text,
                value: ScalarValue::Text,
            }),
            RawNode::Bool(b) => scalar(ScalarValue::Bool(b), b.to_string()),
            RawNode::Unsigned(n) => scalar(ScalarValue::Unsigned(n), n.to_string()),
            RawNode::Signed(n) => scalar(ScalarValue::Signed(n), n.to_string()),
            RawNode::Float(n) => scalar(ScalarValue::Float(n), n.to_string()),
            RawNode::List(items) => {
                Value::List(items.into_iter().map(|i| self.build_node(i)).collect())
            }
            RawNode::Map(entries) => Value::Map(
                (entries.into_iter())
                    .map(|(key, value)| MapEntry {
                        position: Some(self.position(key.referenced)),
                        key: key.value.0,
                        node: self.build_node(value),
                    })
                    .collect(),
            ),
        };
        Node {
            value,
            position: Some(self.position(referenced)),
        }
    }
}

/// A value of the parser, with the parser's locations.
enum RawNode {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<RawNode>>),
    Map(Vec<(Spanned<RawKey>, Spanned<RawNode>)>),
}

/// A key of the parser. The word `null` is a key like any other: cards name a condition's null value
/// by it.
struct RawKey(String);

impl<'de> Deserialize<'de> for RawKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawKey, D::Error> {
        let key = Option::<String>::deserialize(deserializer)?;
        Ok(RawKey(key.unwrap_or_else(|| "null".to_owned())))
    }
}

impl<'de> Deserialize<'de> for RawNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawNode, D::Error> {
        struct RawNodeVisitor;
        impl<'de> Visitor<'de> for RawNodeVisitor {
            type Value = RawNode;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a value, a list or `key: value` entries")
            }
            fn visit_unit<E>(self) -> Result<RawNode, E> {
                Ok(RawNode::Null)
            }
            fn visit_none<E>(self) -> Result<RawNode, E> {
                Ok(RawNode::Null)
            }
            fn visit_bool<E>(self, v: bool) -> Result<RawNode, E> {
                Ok(RawNode::Bool(v))
            }
            fn visit_u64<E>(self, v: u64) -> Result<RawNode, E> {
                Ok(RawNode::Unsigned(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<RawNode, E> {
                Ok(RawNode::Signed(v))
            }
            fn visit_f64<E>(self, v: f64) -> Result<RawNode, E> {
                Ok(RawNode::Float(v))
            }
            fn visit_str<E>(self, v: &str) -> Result<RawNode, E> {
                Ok(RawNode::Text(v.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawNode, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(RawNode::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawNode, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(RawNode::Map(entries))
            }
        }
        deserializer.deserialize_any(RawNodeVisitor)
    }
}

/// The fault for an error of the parser, in the words of a user.
fn parser_fault(error: &Error, lines: &LineIndex) -> Fault {
    let inner = error.without_snippet();
    let message = match inner {
        Error::MultipleDocuments { .. } => {
            "several documents, separated by `---`, expected one; use one file for each".to_owned()
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("duplicate key `{key}`, expected each key once")
        }
        Error::DuplicateMappingKey { key: None, .. } => {
            "duplicate key, expected each key once".to_owned()
        }
        Error::NullIntoString { .. } => {
            "a key is missing, expected a name before the `:`".to_owned()
        }
        Error::UnknownAnchor { .. } => "`*name` without an earlier `&name`".to_owned(),
        Error::Eof { .. } => {
            "the text ends too early; a bracket or a quote may be unclosed".to_owned()
        }
        other => {
            let message = DefaultMessageFormatter.format_message(other).into_owned();
            let words = [
                (
                    "alias replay limit exceeded",
                    "`*names` expand to too much text",
                ),
                (
                    "alias expansion limit exceeded",
                    "`*names` expand to too much text",
                ),
                ("unexpected end of plain scalar", "a value ends in a `:`"),
                ("simple key expected ':'", "expected a `:` after a key"),
                (
                    "simple key is no longer valid",
                    "expected `key: value` on one line",
                ),
                (
                    "tabs disallowed within this context (block indentation)",
                    "a tab indents this line, expected spaces",
                ),
                (
                    "tabs disallowed in this context",
                    "a tab is not allowed here, expected spaces",
                ),
                (
                    "tab cannot be used as indentation",
                    "a tab indents this line, expected spaces",
                ),
                ("unexpected eof", "the text ends too early"),
                ("block mapping", "`key: value` entries"),
                ("flow mapping", "`{key: value}` entries"),
                ("block sequence", "list"),
                ("flow sequence", "list"),
                ("mapping", "`key: value` entries"),
                ("sequence", "list"),
                ("scalar", "value"),
            ];
            words
                .iter()
                .fold(message, |m, (theirs, ours)| m.replace(theirs, ours))
        }
    };
    Fault::new("", message).at_position(inner.location().map(|l| lines.position(l)))
}

/// A map entry whose key has the position of its value.
pub(super) fn entry_at_node_position(key: &str, node: Node) -> MapEntry {
    MapEntry {
        key: key.to_owned(),
        position: node.position,
        node,
    }
}
