//! Lists how the crate treats each operator, for tables and for programs that ask before they
//! export a model.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::import::OPSETS;
use crate::operators::{self, Operator, Rule};
use crate::signatures;

/// The treatment of an operator that a derivative passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Support {
    /// The derivative is zero, or the outputs are steps, integers or truth values, which carry no
    /// derivative.
    Constant,
    /// A rule writes the tangents.
    Rule,
    /// The operator is decomposed into other operators, whose rules write the tangents.
    Parts,
    /// The operator is replaced by other operators when the file is read.
    Lowered,
    /// The subgraphs are differentiated. The chosen branch replaces an `If` whose condition is
    /// known before the graph runs, and copies of the body replace a loop whose number of steps is
    /// known. Otherwise the tangent is another `If` or `Loop`.
    Subgraphs,
    /// The operator is refused.
    Refused,
}

/// The treatment of one operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorSupport {
    /// The domain of the operator, which is empty for the standard domain.
    pub domain: String,
    /// The name of the operator.
    pub name: String,
    /// The treatment.
    pub support: Support,
    /// The opsets whose forms of the operator are known. It is `None` outside the standard domain.
    /// Files of opset 9 to 12 are upgraded to 13.
    pub opsets: Option<RangeInclusive<i64>>,
    /// Why the operator, or some of its forms, is refused.
    pub reason: Option<String>,
}

/// Returns the treatment of every operator of the standard domain and of every other operator that
/// is read, sorted by domain and name.
pub fn operator_support() -> Vec<OperatorSupport> {
    let declared = operators::all().map(|operator| (operator.domain, operator.name));
    let all: BTreeSet<(&str, &str)> = signatures::operators()
        .map(|name| ("", name))
        .chain(declared)
        .collect();
    all.into_iter()
        .map(|(domain, name)| described(domain, name))
        .collect()
}

/// Returns the treatment of one operator.
fn described(domain: &str, name: &str) -> OperatorSupport {
    let operator = operators::find(domain, name);
    let reason = match operator.map(|operator| operator.rule) {
        Some(Rule::Refused(reason)) => Some(reason),
        Some(_) => None,
        None => Some(operators::unknown_operator_reason(domain)),
    };
    let first = signatures::first_opset(name).filter(|_| domain.is_empty());
    OperatorSupport {
        domain: domain.to_owned(),
        name: name.to_owned(),
        support: operator.map_or(Support::Refused, support),
        opsets: first.map(|first| first.max(*OPSETS.start())..=*OPSETS.end()),
        reason: reason.map(str::to_owned),
    }
}

/// Returns the treatment that a declaration implies.
fn support(operator: &Operator) -> Support {
    match operator.rule {
        Rule::Constant => Support::Constant,
        Rule::WithSubgraphs(_) => Support::Subgraphs,
        Rule::Decomposition(_) => Support::Parts,
        Rule::Derivative(_) | Rule::Single(_) | Rule::WithProducers(_) | Rule::Several(_) => {
            Support::Rule
        }
        Rule::Refused(_) if operator.lowering.is_some() => Support::Lowered,
        Rule::Refused(_) => Support::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(domain: &str, name: &str) -> OperatorSupport {
        let known = operator_support()
            .into_iter()
            .find(|o| o.domain == domain && o.name == name);
        known.unwrap_or_else(|| panic!("{domain} {name} is not listed"))
    }

    #[test]
    fn every_kind_of_support_is_told() {
        let kinds = [
            ("Ceil", Support::Constant),
            ("Conv", Support::Rule),
            ("LSTM", Support::Parts),
            ("RotaryEmbedding", Support::Lowered),
            ("Loop", Support::Subgraphs),
            ("If", Support::Subgraphs),
            ("QuantizeLinear", Support::Refused),
        ];
        for (name, support) in kinds {
            assert_eq!(of("", name).support, support, "{name}");
        }
        assert_eq!(of("com.microsoft", "FusedMatMul").support, Support::Lowered);
        assert_eq!(of("com.microsoft", "FusedMatMul").opsets, None);
        assert_eq!(of("", "Gelu").opsets, Some(20..=28));
        assert_eq!(of("", "Abs").opsets, Some(13..=28));
        assert!(
            of("", "QuantizeLinear")
                .reason
                .is_some_and(|why| why.contains("quantization"))
        );
        assert_eq!(of("", "Conv").reason, None);
    }

    /// `OPERATORS.md` says of every operator what the crate does with it.
    #[test]
    fn the_table_is_what_the_crate_says() {
        let table = include_str!("../OPERATORS.md");
        let row = |name: &str| {
            table
                .lines()
                .find(|line| line.starts_with(&format!("| `{name}` | ")))
        };
        for operator in operator_support()
            .into_iter()
            .filter(|o| o.opsets.is_some())
        {
            let row = row(&operator.name).unwrap_or_else(|| panic!("{} is missing", operator.name));
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            assert_eq!(
                cells[3],
                format!("{:?}", operator.support).to_lowercase(),
                "{row}"
            );
            assert_eq!(cells[6], operator.reason.unwrap_or_default(), "{row}");
        }
    }

    /// What the list says is differentiated is what the crate differentiates.
    #[test]
    fn the_list_agrees_with_the_rules() {
        let listed = |o: &OperatorSupport| {
            o.domain.is_empty() && !matches!(o.support, Support::Constant | Support::Refused)
        };
        let list = operator_support();
        let names: Vec<&str> = list
            .iter()
            .filter(|o| listed(o))
            .map(|o| o.name.as_str())
            .collect();
        assert!(
            operators::differentiable()
                .iter()
                .all(|op| names.contains(op)),
            "{names:?}"
        );
        assert!(
            list.iter()
                .all(|o| (o.support == Support::Refused) <= o.reason.is_some())
        );
    }
}
