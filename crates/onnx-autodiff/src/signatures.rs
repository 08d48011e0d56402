//! The signatures of the standard operators by opset: their inputs, outputs and attributes, read
//! from `operators.txt`.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use crate::proto::NodeProto;

/// Whether an input or output of an operator must be present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parameter {
    Required,
    Optional,
    /// Any number of inputs or outputs, at the end of the list.
    Variadic,
}

/// The signature of an operator from one opset on.
struct Signature {
    since: i64,
    inputs: Vec<Parameter>,
    outputs: Vec<Parameter>,
    /// The names of the attributes, and whether each one is required.
    attributes: HashMap<&'static str, bool>,
}

/// The signatures of each operator, in the order of their opsets.
type Table = HashMap<&'static str, Vec<Signature>>;

/// Returns the table of `operators.txt`.
fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Table::new();
        for line in include_str!("operators.txt")
            .lines()
            .filter(|line| !line.starts_with('#'))
        {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap_or_default();
            let (op, since, inputs, outputs) = (word(), word(), word(), word());
            let attributes = words
                .map(|w| (w.trim_end_matches('!'), w.ends_with('!')))
                .collect();
            let signature = Signature {
                since: since.parse().unwrap_or(0),
                inputs: ports(inputs),
                outputs: ports(outputs),
                attributes,
            };
            table.entry(op).or_default().push(signature);
        }
        table
    })
}

/// Reads a list of inputs or outputs from its letters in `operators.txt`.
fn ports(letters: &str) -> Vec<Parameter> {
    let port = |letter| match letter {
        'r' => Some(Parameter::Required),
        'o' => Some(Parameter::Optional),
        '*' => Some(Parameter::Variadic),
        _ => None,
    };
    letters.chars().filter_map(port).collect()
}

/// Returns whether the standard domain has the operator in any opset.
pub(crate) fn is_standard(op: &str) -> bool {
    table().contains_key(op)
}

/// Returns all operators of the standard domain.
pub(crate) fn operators() -> impl Iterator<Item = &'static str> {
    table().keys().copied()
}

/// Returns the first opset of an operator, or the first opset that the table knows if the operator
/// is older.
pub(crate) fn first_opset(op: &str) -> Option<i64> {
    table().get(op)?.iter().map(|form| form.since).min()
}

/// Returns the standard operators that may have more than one output, in alphabetical order, with
/// their largest number of outputs in any opset. The number is `usize::MAX` if it is not limited.
pub fn several_outputs() -> Vec<(&'static str, usize)> {
    let count = |form: &Signature| match form.outputs.last() {
        Some(Parameter::Variadic) => usize::MAX,
        _ => form.outputs.len(),
    };
    let most = |(op, forms): (&&'static str, &Vec<Signature>)| {
        (*op, forms.iter().map(count).max().unwrap_or(0))
    };
    let mut several: Vec<_> = table()
        .iter()
        .map(most)
        .filter(|(_, outputs)| *outputs > 1)
        .collect();
    several.sort_unstable();
    several
}

/// Checks a node of the standard domain against the signature of its operator. A node with an
/// unknown operator passes.
///
/// # Errors
///
/// Returns what is wrong with the node.
pub(crate) fn check_signature(node: &NodeProto, opset: i64) -> Result<(), String> {
    let Some(forms) = table().get(node.op_type()) else {
        return Ok(());
    };
    let Some(form) = forms.iter().rev().find(|form| form.since <= opset) else {
        let since = forms.first().map_or(0, |form| form.since);
        return Err(format!(
            "the operator exists from opset {since} on, and the model is of opset {opset}"
        ));
    };
    check_ports("input", &form.inputs, &node.input)?;
    check_ports("output", &form.outputs, &node.output)?;
    check_attributes(form, node)
}

/// Checks the inputs or outputs of a node.
fn check_ports(what: &str, ports: &[Parameter], names: &[String]) -> Result<(), String> {
    let many = ports.last() == Some(&Parameter::Variadic);
    if !many && names.len() > ports.len() {
        return Err(format!(
            "it has {} {what}s, and the operator has at most {}",
            names.len(),
            ports.len()
        ));
    }
    for (index, _) in ports
        .iter()
        .enumerate()
        .filter(|(_, port)| **port == Parameter::Required)
    {
        match names.get(index) {
            None => return Err(format!("its {what} {index} is missing")),
            Some(name) if name.is_empty() => {
                return Err(format!("its required {what} {index} is left out"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Checks the attributes of a node.
fn check_attributes(form: &Signature, node: &NodeProto) -> Result<(), String> {
    let mut seen = HashSet::new();
    for attribute in &node.attribute {
        let name = attribute.name();
        if !form.attributes.contains_key(name) {
            return Err(format!("the operator has no attribute `{name}`"));
        }
        if !seen.insert(name) {
            return Err(format!("its attribute `{name}` is there twice"));
        }
    }
    match form
        .attributes
        .iter()
        .find(|(name, required)| **required && !seen.contains(*name))
    {
        Some((name, _)) => Err(format!("its attribute `{name}` is missing")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::emit::{int, ints};
    use crate::testing::node;

    #[test]
    fn a_node_is_held_to_its_operator() {
        let said = |node: NodeProto, opset| check_signature(&node, opset).err().unwrap_or_default();
        assert_eq!(said(node("Add", "a b", "y", vec![]), 17), "");
        assert_eq!(
            said(node("Add", "a", "y", vec![]), 17),
            "its input 1 is missing"
        );
        assert_eq!(
            said(node("Add", "a -", "y", vec![]), 17),
            "its required input 1 is left out"
        );
        assert_eq!(
            said(node("Add", "a b c", "y", vec![]), 17),
            "it has 3 inputs, and the operator has at most 2"
        );
        assert_eq!(said(node("Sum", "a b c", "y", vec![]), 17), "");
        assert_eq!(said(node("Clip", "a - b", "y", vec![]), 17), "");
        assert_eq!(
            said(node("TopK", "a k", "v", vec![]), 17),
            "its output 1 is missing"
        );
        assert_eq!(
            said(node("TopK", "a k", "- i", vec![]), 17),
            "its required output 0 is left out"
        );
        assert_eq!(
            said(
                node("MaxPool", "a", "y -", vec![ints("kernel_shape", &[2])]),
                17
            ),
            ""
        );
        assert_eq!(
            said(node("Concat", "a b", "y", vec![]), 17),
            "its attribute `axis` is missing"
        );
        assert_eq!(
            said(node("Exp", "a", "y", vec![int("axis", 1)]), 17),
            "the operator has no attribute `axis`"
        );
        assert!(said(node("Gelu", "a", "y", vec![]), 17).contains("exists from opset 20 on"));
        assert_eq!(
            said(node("SimplifiedLayerNormalization", "a", "y z", vec![]), 17),
            ""
        );
        assert!(
            several_outputs().contains(&("Attention", 4))
                && several_outputs().contains(&("Split", usize::MAX))
        );
    }
}
