//! Checks a tree against a schema: finds every fault at once, and replaces aliases by canonical
//! names.
//!
//! Optional keys and list entries that have faults are removed from the tree, so that the rest can
//! be read and checked further. [`RemovedEntries`] records the original indices of the remaining
//! list entries.

use serde_json::Value as Json;

use super::deserialize::parse_scalar;
use super::fault::{Fault, join_keys, nearest_name, unknown_message};
use super::label;
use super::node::{MapEntry, Node, ScalarValue, Value, YamlScalar};
use super::schema_type::{AliasedName, FamilyKind, ObjectKeys, SchemaForm, SchemaType};

/// A list from which entries were removed: its key, and the original index of each remaining entry.
pub(super) type RemovedEntries = (String, Vec<usize>);

/// The result of a check.
pub(super) struct CheckResult {
    /// The faults, in the order in which they were found.
    pub faults: Vec<Fault>,
    /// The lists that have lost entries, inner lists before the lists around them.
    pub removed_entries: Vec<RemovedEntries>,
    /// Whether the rest of the tree can be deserialized.
    pub usable: bool,
}

/// Finds every fault of a tree. Aliases, labels and other spellings are replaced by the names that
/// the type reads.
pub(super) fn check_against_schema(schema: &Json, root: &mut Node) -> CheckResult {
    let mut check = SchemaChecker {
        root: schema,
        faults: Vec::new(),
        removed_entries: Vec::new(),
    };
    let usable = check.check_node(schema, root, "");
    CheckResult {
        faults: check.faults,
        removed_entries: check.removed_entries,
        usable,
    }
}

/// The state of a check.
struct SchemaChecker<'a> {
    /// The whole schema, in which references (`$ref`) are resolved.
    root: &'a Json,
    faults: Vec<Fault>,
    removed_entries: Vec<RemovedEntries>,
}

impl<'a> SchemaChecker<'a> {
    /// Records a fault at a node. Returns false: the node cannot be read.
    fn report_fault(&mut self, key: &str, node: &Node, message: String) -> bool {
        self.faults
            .push(Fault::new(key, message).at_position(node.position));
        false
    }

    /// Checks a node. Returns whether the rest of it, without its faults, can be read.
    fn check_node(&mut self, schema: &'a Json, node: &mut Node, key: &str) -> bool {
        let shape = SchemaType::from_schema(self.root, schema);
        if node.value == Value::Null && shape.nullable {
            return true;
        }
        match (&shape.form, &mut node.value) {
            (SchemaForm::Any, _) | (SchemaForm::Text, Value::Scalar(_)) => true,
            (SchemaForm::Bool, Value::Scalar(scalar)) if parse_scalar::<bool>(scalar).is_some() => {
                true
            }
            (SchemaForm::Number, Value::Scalar(scalar))
                if parse_scalar::<f64>(scalar).is_some() =>
            {
                true
            }
            (SchemaForm::Integer { least, most }, Value::Scalar(scalar))
                if parse_scalar::<i128>(scalar).is_some_and(|n| (*least..=*most).contains(&n)) =>
            {
                true
            }
            (SchemaForm::Integer { most, .. }, Value::Scalar(scalar))
                if parse_scalar::<i128>(scalar).is_some_and(|n| n > *most) =>
            {
                self.report_fault(
                    key,
                    node,
                    format!(
                        "{}, expected a whole number of at most {most}",
                        describe_node(node)
                    ),
                )
            }
            (SchemaForm::Choice(names), Value::Scalar(scalar)) => {
                match names.iter().find(|n| n.matches(&scalar.text)) {
                    Some(name) => {
                        *scalar = text_scalar(name.name);
                        true
                    }
                    None => {
                        let message = unknown_name_message("value", &scalar.text, names);
                        self.report_fault(key, node, message)
                    }
                }
            }
            (SchemaForm::List { item, least, most }, Value::List(items)) => {
                let count = items.len();
                if !(*least..=*most).contains(&count) {
                    return self.report_fault(
                        key,
                        node,
                        format!("{count} entries, expected {}", shape.describe(self.root)),
                    );
                }
                let remaining = self.check_list(item, items, key);
                remaining == count || remaining >= *least
            }
            (SchemaForm::Map(inner), Value::Map(entries)) => {
                entries.retain_mut(|entry| {
                    self.check_node(inner, &mut entry.node, &join_keys(key, &entry.key))
                });
                true
            }
            (SchemaForm::Object(keys), Value::Map(_)) => self.check_object(keys, node, key),
            (SchemaForm::Family(kinds), Value::Scalar(_) | Value::Map(_)) => {
                self.check_family(kinds, node, key)
            }
            (SchemaForm::Tagged { tag, kinds }, Value::Map(_)) => {
                self.check_tagged(tag, kinds, node, key)
            }
            (SchemaForm::AnyOf(schemas), _) => self.check_any_of(schemas, &shape, node, key),
            _ => self.report_fault(
                key,
                node,
                format!(
                    "{}, expected {}",
                    describe_node(node),
                    shape.describe(self.root)
                ),
            ),
        }
    }

    /// Checks the entries of a list and removes those that cannot be read. Returns how many remain.
    fn check_list(&mut self, item: &'a Json, items: &mut Vec<Node>, key: &str) -> usize {
        let count = items.len();
        let mut remaining = Vec::new();
        let mut number = 0;
        items.retain_mut(|inner| {
            let usable = self.check_node(item, inner, &join_keys(key, &number.to_string()));
            remaining.extend(usable.then_some(number));
            number += 1;
            usable
        });
        if remaining.len() < count {
            self.removed_entries
                .push((key.to_owned(), remaining.clone()));
        }
        remaining.len()
    }

    /// Checks the keys of an object. Returns whether every required key can be read.
    fn check_object(&mut self, keys: &ObjectKeys<'a>, node: &mut Node, key: &str) -> bool {
        let place = node.position;
        let Value::Map(entries) = &mut node.value else {
            return false;
        };
        let mut usable = true;
        let mut seen: Vec<String> = Vec::new();
        entries.retain_mut(|entry| {
            if let Some((name, _)) = keys
                .known
                .iter()
                .find(|(name, _)| same_key(name, &entry.key))
            {
                entry.key = (*name).to_owned();
            }
            if seen.contains(&entry.key) {
                let message = format!("duplicate key `{}`, expected each key once", entry.key);
                self.faults
                    .push(Fault::new(key, message).at_position(entry.position));
                return false;
            }
            seen.push(entry.key.clone());
            match keys.get(&entry.key) {
                Some(schema) => {
                    let fine =
                        self.check_node(schema, &mut entry.node, &join_keys(key, &entry.key));
                    usable &= fine || !keys.required.contains(&entry.key.as_str());
                    fine
                }
                None if keys.closed => {
                    self.report_unknown_key(keys, entry, key);
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
            let wanted = keys.get(name).map_or(String::new(), |s| {
                SchemaType::from_schema(self.root, s).describe(self.root)
            });
            self.faults.push(
                Fault::new(key, format!("missing key `{name}`, expected {wanted}"))
                    .at_position(place),
            );
            usable = false;
        }
        usable
    }

    /// Records a key that the type does not have.
    fn report_unknown_key(&mut self, keys: &ObjectKeys, entry: &MapEntry, key: &str) {
        let names = || keys.known.iter().map(|(name, _)| *name);
        let message = match keys.known.is_empty() {
            true => format!("unknown key `{}`, expected none here", entry.key),
            false => unknown_message("key", &entry.key, names()),
        };
        self.faults
            .push(Fault::new(key, message).at_position(entry.position));
    }

    /// Checks an entry of a family: a bare name, a label, or `{name: {…}}`.
    fn check_family(&mut self, kinds: &[FamilyKind<'a>], node: &mut Node, key: &str) -> bool {
        let place = node.position;
        if let Value::Scalar(YamlScalar { text, .. }) = &node.value {
            let text = text.trim().to_owned();
            match kinds.iter().find(|k| k.name.matches(&text)) {
                Some(kind) if kind.bare => {
                    *node = Node::from_text(kind.name.name, place);
                    return true;
                }
                Some(kind) => {
                    let none = Node {
                        value: Value::Map(Vec::new()),
                        position: place,
                    };
                    *node = Node::single_entry(kind.name.name, none, place);
                }
                // The bare name of an array's file is the kind `file`, if the family has it.
                None if text.ends_with(".npy") && kinds.iter().any(|k| k.name.name == "file") => {
                    *node = Node::single_entry("file", Node::from_text(&text, place), place);
                }
                None => match label::parse_label(self.root, kinds, &text, place) {
                    Some(entry) => *node = entry,
                    None => {
                        let written = text.split_once('(').map_or(text.as_str(), |(name, _)| name);
                        let message = unknown_name_message("kind", written, &kind_names(kinds));
                        return self.report_fault(key, node, message);
                    }
                },
            }
        }
        let Value::Map(entries) = &mut node.value else {
            return false;
        };
        let Some(first) = entries.first_mut() else {
            let all = super::one_of(kinds.iter().map(|k| k.name.name));
            return self.report_fault(key, node, format!("an empty entry, expected {all}"));
        };
        let mut usable = match kinds.iter().find(|k| k.name.matches(&first.key)) {
            Some(kind) => {
                first.key = kind.name.name.to_owned();
                if first.node.value == Value::Null && kind.parameters.is_some() {
                    first.node.value = Value::Map(Vec::new());
                }
                let below = join_keys(key, kind.name.name);
                kind.parameters
                    .is_none_or(|p| self.check_node(p, &mut first.node, &below))
            }
            None => {
                let message = unknown_name_message("kind", &first.key, &kind_names(kinds));
                self.faults
                    .push(Fault::new(key, message).at_position(first.position));
                false
            }
        };
        if let Some(second) = entries.get(1) {
            let message = format!(
                "a second name `{}` in one entry; write each kind as an entry of its own",
                second.key
            );
            self.faults
                .push(Fault::new(key, message).at_position(second.position.or(place)));
            usable = false;
        }
        usable
    }

    /// Checks an object whose key `tag` names its kind.
    fn check_tagged(
        &mut self,
        tag: &str,
        kinds: &[FamilyKind<'a>],
        node: &mut Node,
        key: &str,
    ) -> bool {
        let Value::Map(entries) = &mut node.value else {
            return false;
        };
        let Some(entry) = entries.iter_mut().find(|e| same_key(tag, &e.key)) else {
            let all = super::one_of(kinds.iter().map(|k| k.name.name));
            return self.report_fault(key, node, format!("missing key `{tag}`, expected {all}"));
        };
        let written = match &entry.node.value {
            Value::Scalar(scalar) => scalar.text.clone(),
            _ => describe_node(&entry.node),
        };
        let Some(kind) = kinds.iter().find(|k| k.name.matches(&written)) else {
            let message = unknown_name_message("kind", &written, &kind_names(kinds));
            self.faults
                .push(Fault::new(join_keys(key, tag), message).at_position(entry.node.position));
            return false;
        };
        entry.node.value = Value::Scalar(text_scalar(kind.name.name));
        match kind
            .parameters
            .map(|p| SchemaType::from_schema(self.root, p).form)
        {
            Some(SchemaForm::Object(keys)) => self.check_object(&keys, node, key),
            _ => true,
        }
    }

    /// Checks a node against several schemas and takes the first that fits. If none fits, the
    /// faults are those of the first schema with the form of the node, which the user probably
    /// meant.
    fn check_any_of(
        &mut self,
        schemas: &[&'a Json],
        shape: &SchemaType,
        node: &mut Node,
        key: &str,
    ) -> bool {
        let mut meant = None;
        for schema in schemas {
            let mut tried = node.clone();
            let mut one = SchemaChecker {
                root: self.root,
                faults: Vec::new(),
                removed_entries: Vec::new(),
            };
            one.check_node(schema, &mut tried, key);
            if one.faults.is_empty() {
                *node = tried;
                return true;
            }
            let form = SchemaType::from_schema(self.root, schema).form;
            let alike = matches!(
                (&form, &node.value),
                (SchemaForm::List { .. }, Value::List(_))
                    | (
                        SchemaForm::Object(_) | SchemaForm::Family(_) | SchemaForm::Map(_),
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
            None => self.report_fault(
                key,
                node,
                format!(
                    "{}, expected {}",
                    describe_node(node),
                    shape.describe(self.root)
                ),
            ),
        }
    }
}

/// Whether `written` is the key `name`; `_` and `-` are equal.
fn same_key(name: &str, written: &str) -> bool {
    name == written || name.replace('_', "-") == written.replace('_', "-")
}

/// A scalar that is read as text, even if it looks like a number.
fn text_scalar(text: &str) -> YamlScalar {
    YamlScalar {
        text: text.to_owned(),
        value: ScalarValue::Text,
    }
}

/// The names of the kinds, with their aliases.
fn kind_names<'a>(kinds: &[FamilyKind<'a>]) -> Vec<AliasedName<'a>> {
    kinds.iter().map(|k| k.name.clone()).collect()
}

/// Common names for several metrics together, and the metrics they stand for.
const COMBINED_METRICS: [(&str, &[&str]); 3] = [
    ("prc", &["precision", "recall"]),
    ("precision-recall", &["precision", "recall"]),
    ("prdc", &["precision", "recall", "density", "coverage"]),
];

/// The message for an unknown name. In addition to [`unknown_message`], it guesses by the aliases,
/// and explains common names for several metrics.
fn unknown_name_message(what: &str, written: &str, names: &[AliasedName]) -> String {
    let several = COMBINED_METRICS.iter().find(|(name, parts)| {
        *name == crate::registry::normalize_name(written)
            && parts
                .iter()
                .all(|part| names.iter().any(|n| n.name == *part))
    });
    if let Some((_, parts)) = several {
        return format!(
            "unknown {what} `{written}`: it stands for {}, each an entry of its own",
            parts.join(", ")
        );
    }
    let message = unknown_message(what, written, names.iter().map(|n| n.name));
    let aliases = names
        .iter()
        .flat_map(|n| n.aliases.iter().map(|a| (*a, n.name)));
    match nearest_name(written, aliases.clone().map(|(alias, _)| alias)) {
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

/// Describes a node in words; a long text is cut.
fn describe_node(node: &Node) -> String {
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
