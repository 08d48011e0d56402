//! A kind's label, as tables print it, read back: the inverse of [`crate::registry::label`].
//!
//! `dopri5(rtol=1e-6 atol=1e-6)` is `{dopri5: {rtol: 1e-6, atol: 1e-6}}`; what a label gives without a name,
//! `learned(stad)`, is the parameter that the schema names `x-first`.

use serde_json::Value as Json;

use super::check::entry;
use super::form::{Form, Keys, Kind, Shape};
use super::node::{self, Node, Place, Value};

/// The entry that a label stands for; none where it is no label of these kinds.
pub fn parse(root: &Json, kinds: &[Kind], label: &str, place: Option<Place>) -> Option<Node> {
    let (name, rest) = label.split_once('(')?;
    let inner = rest.strip_suffix(')')?;
    let kind = kinds.iter().find(|k| k.name.is(name.trim()))?;
    let Form::Keys(keys) = Shape::of(root, kind.parameters?).form else {
        return None;
    };
    let parameters = parameters(root, &keys, inner, place)?;
    Some(Node::entry(kind.name.name, parameters, place))
}

fn parameters(root: &Json, keys: &Keys, text: &str, place: Option<Place>) -> Option<Node> {
    let mut found: Vec<(&str, String)> = Vec::new();
    for token in tokens(text) {
        let named = token.split_once('=').and_then(|(key, value)| {
            let known = keys
                .known
                .iter()
                .find(|(name, _)| crate::registry::plain(name) == crate::registry::plain(key));
            known.map(|(name, _)| (*name, value))
        });
        match (named, found.last_mut()) {
            (Some((key, value)), _) => found.push((key, value.to_owned())),
            // A name with spaces.
            (None, Some((_, value))) => *value = format!("{value} {token}"),
            (None, None) => found.push((keys.first?, token.to_owned())),
        }
    }
    let entries = found
        .into_iter()
        .map(|(key, text)| Some(entry(key, value(root, keys.get(key)?, &text, place)?)));
    Some(Node {
        value: Value::Map(entries.collect::<Option<_>>()?),
        place,
    })
}

/// The value of one parameter.
fn value(root: &Json, schema: &Json, text: &str, place: Option<Place>) -> Option<Node> {
    let mut parsed = match Shape::of(root, schema).form {
        Form::Text | Form::Word(_) | Form::Kinds(_) if !text.starts_with(['"', '{']) => {
            Node::text(text, place)
        }
        Form::Keys(keys) if keys.first.is_some() && !text.starts_with('{') => {
            abridged(&keys, text, place)?
        }
        _ => node::parse(text).ok()?,
    };
    parsed.placed(place);
    Some(parsed)
}

/// `0.5 with prior`: the first key's value, then the flags that are set; the others are not.
fn abridged(keys: &Keys, text: &str, place: Option<Place>) -> Option<Node> {
    let mut parts = text.split(" with ");
    let first = entry(keys.first?, node::parse(parts.next()?).ok()?);
    let set: Vec<&str> = parts.collect();
    let flags = keys.required.iter().filter(|k| Some(**k) != keys.first);
    let flags = flags.map(|k| entry(k, Node::flag(set.contains(k), place)));
    Some(Node {
        value: Value::Map(std::iter::once(first).chain(flags).collect()),
        place,
    })
}

/// Parts divided by spaces that no bracket or quote holds together.
fn tokens(text: &str) -> Vec<&str> {
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
