//! A tree held against a schema: every fault at once, and canonical names in the place of others.
//!
//! What is at fault is taken out of the tree, so that the rest can be read and checked further: a key that may be
//! absent, an entry of a list; `Moved` says where the entries behind it stood.

use serde_json::Value as Json;

use super::deserialize::typed;
use super::fault::{Fault, joined, nearest, unknown};
use super::form::{Form, Keys, Kind, Name, Shape};
use super::label;
use super::node::{Entry, Node, Read, Scalar, Value};

/// A list that lost entries: its key, and where those that are left stood before.
pub type Moved = (String, Vec<usize>);

/// What a check found.
pub struct Found {
    pub faults: Vec<Fault>,
    pub moved: Vec<Moved>,
    /// Whether the rest can be read.
    pub usable: bool,
}

/// Finds every fault of a tree, and rewrites aliases, labels and spellings of keys to what the type reads.
pub fn check(schema: &Json, root: &mut Node) -> Found {
    let mut check = Check {
        root: schema,
        faults: Vec::new(),
        moved: Vec::new(),
    };
    let usable = check.node(schema, root, "");
    Found {
        faults: check.faults,
        moved: check.moved,
        usable,
    }
}

struct Check<'a> {
    root: &'a Json,
    faults: Vec<Fault>,
    moved: Vec<Moved>,
}

impl<'a> Check<'a> {
    fn fault(&mut self, key: &str, node: &Node, message: String) -> bool {
        self.faults.push(Fault::new(key, message).at(node.place));
        false
    }

    /// Whether what is left of a node can be read.
    fn node(&mut self, schema: &'a Json, node: &mut Node, key: &str) -> bool {
        let shape = Shape::of(self.root, schema);
        if node.value == Value::Null && shape.nullable {
            return true;
        }
        match (&shape.form, &mut node.value) {
            (Form::Anything, _) | (Form::Text, Value::Scalar(_)) => true,
            (Form::Flag, Value::Scalar(scalar)) if typed::<bool>(scalar).is_some() => true,
            (Form::Number, Value::Scalar(scalar)) if typed::<f64>(scalar).is_some() => true,
            (Form::Whole { least, most }, Value::Scalar(scalar))
                if typed::<i128>(scalar).is_some_and(|n| (*least..=*most).contains(&n)) =>
            {
                true
            }
            (Form::Whole { most, .. }, Value::Scalar(scalar))
                if typed::<i128>(scalar).is_some_and(|n| n > *most) =>
            {
                self.fault(
                    key,
                    node,
                    format!("{}, expected a whole number of at most {most}", found(node)),
                )
            }
            (Form::Word(names), Value::Scalar(scalar)) => {
                match names.iter().find(|n| n.is(&scalar.text)) {
                    Some(name) => {
                        *scalar = word(name.name);
                        true
                    }
                    None => {
                        let message = unknown_name("value", &scalar.text, names);
                        self.fault(key, node, message)
                    }
                }
            }
            (Form::List { item, least, most }, Value::List(items)) => {
                let count = items.len();
                if !(*least..=*most).contains(&count) {
                    return self.fault(
                        key,
                        node,
                        format!("{count} entries, expected {}", shape.words(self.root)),
                    );
                }
                let left = self.list(item, items, key);
                left == count || left >= *least
            }
            (Form::Entries(inner), Value::Map(entries)) => {
                entries.retain_mut(|entry| {
                    self.node(inner, &mut entry.node, &joined(key, &entry.key))
                });
                true
            }
            (Form::Keys(keys), Value::Map(_)) => self.keys(keys, node, key),
            (Form::Kinds(kinds), Value::Scalar(_) | Value::Map(_)) => self.kinds(kinds, node, key),
            (Form::Tagged { tag, kinds }, Value::Map(_)) => self.tagged(tag, kinds, node, key),
            (Form::Either(schemas), _) => self.either(schemas, &shape, node, key),
            _ => self.fault(
                key,
                node,
                format!("{}, expected {}", found(node), shape.words(self.root)),
            ),
        }
    }

    /// Entries that are left.
    fn list(&mut self, item: &'a Json, items: &mut Vec<Node>, key: &str) -> usize {
        let count = items.len();
        let mut left = Vec::new();
        let mut number = 0;
        items.retain_mut(|inner| {
            let usable = self.node(item, inner, &joined(key, &number.to_string()));
            left.extend(usable.then_some(number));
            number += 1;
            usable
        });
        if left.len() < count {
            self.moved.push((key.to_owned(), left.clone()));
        }
        left.len()
    }

    fn keys(&mut self, keys: &Keys<'a>, node: &mut Node, key: &str) -> bool {
        let place = node.place;
        let Value::Map(entries) = &mut node.value else {
            return false;
        };
        let mut usable = true;
        let mut seen: Vec<String> = Vec::new();
        entries.retain_mut(|entry| {
            if let Some((name, _)) = keys.known.iter().find(|(name, _)| is_key(name, &entry.key)) {
                entry.key = (*name).to_owned();
            }
            if seen.contains(&entry.key) {
                let message = format!("duplicate key `{}`, expected each key once", entry.key);
                self.faults.push(Fault::new(key, message).at(entry.place));
                return false;
            }
            seen.push(entry.key.clone());
            match keys.get(&entry.key) {
                Some(schema) => {
                    let fine = self.node(schema, &mut entry.node, &joined(key, &entry.key));
                    usable &= fine || !keys.required.contains(&entry.key.as_str());
                    fine
                }
                None if keys.closed => {
                    self.unknown_key(keys, entry, key);
                    false
                }
                None => true,
            }
        });
        for name in keys
            .required
            .iter()
            .filter(|name| !seen.iter().any(|s| s == *name))
        {
            let wanted = keys
                .get(name)
                .map_or(String::new(), |s| Shape::of(self.root, s).words(self.root));
            self.faults.push(
                Fault::new(key, format!("missing key `{name}`, expected {wanted}")).at(place),
            );
            usable = false;
        }
        usable
    }

    fn unknown_key(&mut self, keys: &Keys, entry: &Entry, key: &str) {
        let names = || keys.known.iter().map(|(name, _)| *name);
        let message = match keys.known.is_empty() {
            true => format!("unknown key `{}`, expected none here", entry.key),
            false => unknown("key", &entry.key, names()),
        };
        self.faults.push(Fault::new(key, message).at(entry.place));
    }

    fn kinds(&mut self, kinds: &[Kind<'a>], node: &mut Node, key: &str) -> bool {
        let place = node.place;
        if let Value::Scalar(Scalar { text, .. }) = &node.value {
            let text = text.trim().to_owned();
            match kinds.iter().find(|k| k.name.is(&text)) {
                Some(kind) if kind.bare => {
                    *node = Node::text(kind.name.name, place);
                    return true;
                }
                Some(kind) => {
                    let none = Node {
                        value: Value::Map(Vec::new()),
                        place,
                    };
                    *node = Node::entry(kind.name.name, none, place);
                }
                None => match label::parse(self.root, kinds, &text, place) {
                    Some(entry) => *node = entry,
                    None => {
                        let written = text.split_once('(').map_or(text.as_str(), |(name, _)| name);
                        let message = unknown_name("kind", written, &names(kinds));
                        return self.fault(key, node, message);
                    }
                },
            }
        }
        let Value::Map(entries) = &mut node.value else {
            return false;
        };
        let Some(first) = entries.first_mut() else {
            let all = super::listed(kinds.iter().map(|k| k.name.name));
            return self.fault(key, node, format!("an empty entry, expected {all}"));
        };
        let mut usable = match kinds.iter().find(|k| k.name.is(&first.key)) {
            Some(kind) => {
                first.key = kind.name.name.to_owned();
                if first.node.value == Value::Null && kind.parameters.is_some() {
                    first.node.value = Value::Map(Vec::new());
                }
                let below = joined(key, kind.name.name);
                kind.parameters
                    .is_none_or(|p| self.node(p, &mut first.node, &below))
            }
            None => {
                let message = unknown_name("kind", &first.key, &names(kinds));
                self.faults.push(Fault::new(key, message).at(first.place));
                false
            }
        };
        if let Some(second) = entries.get(1) {
            let message = format!(
                "a second name `{}` in one entry; write each kind as an entry of its own",
                second.key
            );
            self.faults
                .push(Fault::new(key, message).at(second.place.or(place)));
            usable = false;
        }
        usable
    }

    fn tagged(&mut self, tag: &str, kinds: &[Kind<'a>], node: &mut Node, key: &str) -> bool {
        let Value::Map(entries) = &mut node.value else {
            return false;
        };
        let Some(entry) = entries.iter_mut().find(|e| is_key(tag, &e.key)) else {
            let all = super::listed(kinds.iter().map(|k| k.name.name));
            return self.fault(key, node, format!("missing key `{tag}`, expected {all}"));
        };
        let written = match &entry.node.value {
            Value::Scalar(scalar) => scalar.text.clone(),
            _ => found(&entry.node),
        };
        let Some(kind) = kinds.iter().find(|k| k.name.is(&written)) else {
            let message = unknown_name("kind", &written, &names(kinds));
            self.faults
                .push(Fault::new(joined(key, tag), message).at(entry.node.place));
            return false;
        };
        entry.node.value = Value::Scalar(word(kind.name.name));
        match kind.parameters.map(|p| Shape::of(self.root, p).form) {
            Some(Form::Keys(keys)) => self.keys(&keys, node, key),
            _ => true,
        }
    }

    /// The alternative that fits; else the faults of the one that was probably meant.
    fn either(&mut self, schemas: &[&'a Json], shape: &Shape, node: &mut Node, key: &str) -> bool {
        let mut meant = None;
        for schema in schemas {
            let mut tried = node.clone();
            let mut one = Check {
                root: self.root,
                faults: Vec::new(),
                moved: Vec::new(),
            };
            one.node(schema, &mut tried, key);
            if one.faults.is_empty() {
                *node = tried;
                return true;
            }
            let form = Shape::of(self.root, schema).form;
            let alike = matches!(
                (&form, &node.value),
                (Form::List { .. }, Value::List(_))
                    | (
                        Form::Keys(_) | Form::Kinds(_) | Form::Entries(_),
                        Value::Map(_)
                    )
            );
            if alike && meant.is_none() {
                meant = Some(one.faults);
            }
        }
        match meant {
            Some(faults) => {
                self.faults.extend(faults);
                false
            }
            None => self.fault(
                key,
                node,
                format!("{}, expected {}", found(node), shape.words(self.root)),
            ),
        }
    }
}

/// Whether a key is meant; `_` and `-` make no difference.
fn is_key(name: &str, written: &str) -> bool {
    name == written || name.replace('_', "-") == written.replace('_', "-")
}

/// A word that is read as text whatever it looks like.
fn word(text: &str) -> Scalar {
    Scalar {
        text: text.to_owned(),
        read: Read::Text,
    }
}

fn names<'a>(kinds: &[Kind<'a>]) -> Vec<Name<'a>> {
    kinds.iter().map(|k| k.name.clone()).collect()
}

/// Names of the field for several kinds together.
const SEVERAL: [(&str, &[&str]); 3] = [
    ("prc", &["precision", "recall"]),
    ("precision-recall", &["precision", "recall"]),
    ("prdc", &["precision", "recall", "density", "coverage"]),
];

/// As [`unknown`], with a guess by the aliases too.
fn unknown_name(what: &str, written: &str, names: &[Name]) -> String {
    let several = SEVERAL.iter().find(|(name, parts)| {
        *name == crate::registry::plain(written)
            && parts
                .iter()
                .all(|part| names.iter().any(|n| n.name == *part))
    });
    if let Some((_, parts)) = several {
        return format!(
            "unknown {what} `{written}`: it is {}, each an entry of its own",
            parts.join(", ")
        );
    }
    let message = unknown(what, written, names.iter().map(|n| n.name));
    let aliases = names
        .iter()
        .flat_map(|n| n.aliases.iter().map(|a| (*a, n.name)));
    match nearest(written, aliases.clone().map(|(alias, _)| alias)) {
        Some(guess) if !message.contains("did you mean") => {
            let name = aliases
                .into_iter()
                .find(|(alias, _)| *alias == guess)
                .map_or(guess, |(_, name)| name);
            format!("{message}; did you mean `{name}`?")
        }
        _ => message,
    }
}

/// What stands there, in words.
fn found(node: &Node) -> String {
    match &node.value {
        Value::Null => "nothing".to_owned(),
        Value::Scalar(scalar) => match scalar.text.chars().count() {
            0 => "an empty text".to_owned(),
            1..=60 => scalar.text.clone(),
            _ => format!("{}…", scalar.text.chars().take(60).collect::<String>()),
        },
        Value::List(_) => "a list".to_owned(),
        Value::Map(entries) if entries.is_empty() => "{}".to_owned(),
        Value::Map(_) => "`key: value` entries".to_owned(),
    }
}

/// An entry whose key and value are of the same place.
pub(super) fn entry(key: &str, node: Node) -> Entry {
    Entry {
        key: key.to_owned(),
        place: node.place,
        node,
    }
}
