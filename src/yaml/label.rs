//! Reads a label, as tables show it, back into an entry: the inverse of
//! [`crate::registry::kind_label`].
//!
//! `dopri5(rtol=1e-6 atol=1e-6)` becomes `{dopri5: {rtol: 1e-6, atol: 1e-6}}`. A value without a
//! name, as in `learned(stad)`, belongs to the parameter that the schema names in `x-first`.

use serde_json::Value as Json;

use super::fault::SourcePosition;
use super::node::{self, Node, Value, entry_at_node_position};
use super::schema_type::{FamilyKind, ObjectKeys, SchemaForm, SchemaType};

/// The entry that a label stands for; `None` if the text is not a label of one of these kinds.
pub(super) fn parse_label(
    root: &Json,
    kinds: &[FamilyKind],
    label: &str,
    place: Option<SourcePosition>,
) -> Option<Node> {
    let (name, rest) = label.split_once('(')?;
    let inner = rest.strip_suffix(')')?;
    let kind = kinds.iter().find(|k| k.name.matches(name.trim()))?;
    let SchemaForm::Object(keys) = SchemaType::from_schema(root, kind.parameters?).form else {
        return None;
    };
    let parameters = parse_parameters(root, &keys, inner, place)?;
    Some(Node::single_entry(kind.name.name, parameters, place))
}

/// The parameters between the parentheses of a label; `None` if one of them is unknown.
fn parse_parameters(
    root: &Json,
    keys: &ObjectKeys,
    text: &str,
    place: Option<SourcePosition>,
) -> Option<Node> {
    let mut found: Vec<(&str, String)> = Vec::new();
    for token in split_tokens(text) {
        let named = token.split_once('=').and_then(|(key, value)| {
            let known = keys.known.iter().find(|(name, _)| {
                crate::registry::normalize_name(name) == crate::registry::normalize_name(key)
            });
            known.map(|(name, _)| (*name, value))
        });
        match (named, found.last_mut()) {
            (Some((key, value)), _) => found.push((key, value.to_owned())),
            // The value of the preceding parameter has a space.
            (None, Some((_, value))) => *value = format!("{value} {token}"),
            (None, None) => found.push((keys.positional?, token.to_owned())),
        }
    }
    let entries = found.into_iter().map(|(key, text)| {
        Some(entry_at_node_position(
            key,
            parse_parameter_value(root, keys.get(key)?, &text, place)?,
        ))
    });
    Some(Node {
        value: Value::Map(entries.collect::<Option<_>>()?),
        position: place,
    })
}

/// The value of one parameter; `None` if it is not valid.
fn parse_parameter_value(
    root: &Json,
    schema: &Json,
    text: &str,
    place: Option<SourcePosition>,
) -> Option<Node> {
    let mut parsed = match SchemaType::from_schema(root, schema).form {
        SchemaForm::Text | SchemaForm::Choice(_) | SchemaForm::Family(_)
            if !text.starts_with(['"', '{']) =>
        {
            Node::from_text(text, place)
        }
        SchemaForm::Object(keys) if keys.positional.is_some() && !text.starts_with('{') => {
            parse_value_with_flags(&keys, text, place)?
        }
        _ => node::parse_tree(text).ok()?,
    };
    parsed.set_position(place);
    Some(parsed)
}

/// A value with flags, such as `0.5 with prior`: the value of the first key, then the flags that
/// are set. All other flags are false.
fn parse_value_with_flags(
    keys: &ObjectKeys,
    text: &str,
    place: Option<SourcePosition>,
) -> Option<Node> {
    let mut parts = text.split(" with ");
    let first = entry_at_node_position(keys.positional?, node::parse_tree(parts.next()?).ok()?);
    let set: Vec<&str> = parts.collect();
    let flags = keys
        .required
        .iter()
        .filter(|k| Some(**k) != keys.positional);
    let flags = flags.map(|k| entry_at_node_position(k, Node::from_bool(set.contains(k), place)));
    Some(Node {
        value: Value::Map(std::iter::once(first).chain(flags).collect()),
        position: place,
    })
}

/// Splits a text at spaces that are outside of brackets and quotes.
fn split_tokens(text: &str) -> Vec<&str> {
    let (mut found, mut from, mut depth, mut quoted) = (Vec::new(), 0, 0i32, false);
    for (i, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ' ' if depth == 0 && !quoted => {
                found.push(&text[from..i]);
                from = i + 1;
            }
            _ => {}
        }
    }
    found.push(&text[from..]);
    found.retain(|t| !t.is_empty());
    found
}
