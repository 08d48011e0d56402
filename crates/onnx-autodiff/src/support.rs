//! What the crate does with each operator, for tables and programs that ask before they export.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::differentiate::OPSETS;
use super::loops;
use super::lowering;
use super::rules::{self, Rule};
use super::signatures;

/// How an operator is treated where a derivative passes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Support {
    /// Its derivative is zero, or its outputs carry none: steps, integers, truth values.
    Constant,
    /// A rule writes its tangents.
    Rule,
    /// Its tangents are those of the operators that it consists of.
    Parts,
    /// It is replaced by the operators that it consists of when the file is read.
    Lowered,
    /// It is replaced by one copy of its body for each step, where their number is known before anything runs.
    Unrolled,
    /// The branch that a known condition chooses takes its place; otherwise both branches are differentiated.
    Branches,
    /// It is refused.
    Refused,
}

/// What is known of one operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorSupport {
    /// Empty for the standard domain.
    pub domain: String,
    pub name: String,
    pub support: Support,
    /// The opsets of the forms that are known; none outside the standard. Files of opset 9 to 12 are read as of 13.
    pub opsets: Option<RangeInclusive<i64>>,
    /// Why it is refused, or why some of its forms are.
    pub reason: Option<String>,
}

/// Every operator of the standard domain, and every other that is read, in alphabetical order of domain and name.
pub fn operator_support() -> Vec<OperatorSupport> {
    let standard = signatures::operators().chain(rules::names()).map(|name| ("", name));
    let all: BTreeSet<(&str, &str)> = standard.chain(lowering::names()).collect();
    all.into_iter().map(|(domain, name)| described(domain, name)).collect()
}

fn described(domain: &str, name: &str) -> OperatorSupport {
    let support = support(domain, name);
    let partly = matches!(support, Support::Refused | Support::Unrolled);
    let first = signatures::first_opset(name).filter(|_| domain.is_empty());
    OperatorSupport {
        domain: domain.to_owned(),
        name: name.to_owned(),
        support,
        opsets: first.map(|first| first.max(*OPSETS.start())..=*OPSETS.end()),
        reason: partly.then(|| rules::refusal(domain, name)),
    }
}

fn support(domain: &str, name: &str) -> Support {
    let rule = rules::named(name).filter(|_| domain.is_empty());
    match rule {
        Some(Rule::Constant) => Support::Constant,
        Some(Rule::Branches) => Support::Branches,
        Some(Rule::Parts(_)) => Support::Parts,
        Some(Rule::Diagonal(_) | Rule::Single(_) | Rule::Behind(_) | Rule::Several(_)) => Support::Rule,
        None if lowering::names().any(|known| known == (domain, name)) => Support::Lowered,
        None if domain.is_empty() && loops::UNROLLED.contains(&name) => Support::Unrolled,
        None => Support::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(domain: &str, name: &str) -> OperatorSupport {
        let known = operator_support().into_iter().find(|o| o.domain == domain && o.name == name);
        known.unwrap_or_else(|| panic!("{domain} {name} is not listed"))
    }

    #[test]
    fn every_kind_of_support_is_told() {
        let kinds = [
            ("Ceil", Support::Constant),
            ("Conv", Support::Rule),
            ("LSTM", Support::Parts),
            ("RotaryEmbedding", Support::Lowered),
            ("Loop", Support::Unrolled),
            ("If", Support::Branches),
            ("QuantizeLinear", Support::Refused),
        ];
        for (name, support) in kinds {
            assert_eq!(of("", name).support, support, "{name}");
        }
        assert_eq!(of("com.microsoft", "FusedMatMul").support, Support::Lowered);
        assert_eq!(of("com.microsoft", "FusedMatMul").opsets, None);
        assert_eq!(of("", "Gelu").opsets, Some(20..=28));
        assert_eq!(of("", "Abs").opsets, Some(13..=28));
        assert!(of("", "QuantizeLinear").reason.is_some_and(|why| why.contains("quantization")));
        assert_eq!(of("", "Conv").reason, None);
    }

    /// `OPERATORS.md` says of every operator what the crate does with it.
    #[test]
    fn the_table_is_what_the_crate_says() {
        let table = include_str!("../OPERATORS.md");
        let row = |name: &str| table.lines().find(|line| line.starts_with(&format!("| `{name}` | ")));
        for operator in operator_support().into_iter().filter(|o| o.opsets.is_some()) {
            let row = row(&operator.name).unwrap_or_else(|| panic!("{} is missing", operator.name));
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            assert_eq!(cells[3], format!("{:?}", operator.support).to_lowercase(), "{row}");
            assert_eq!(cells[6], operator.reason.unwrap_or_default(), "{row}");
        }
    }

    /// What the list says is differentiated is what the crate differentiates.
    #[test]
    fn the_list_agrees_with_the_rules() {
        let listed = |o: &OperatorSupport| {
            o.domain.is_empty() && !matches!(o.support, Support::Constant | Support::Refused | Support::Unrolled)
        };
        let list = operator_support();
        let names: Vec<&str> = list.iter().filter(|o| listed(o)).map(|o| o.name.as_str()).collect();
        assert!(rules::differentiable().iter().all(|op| names.contains(op)), "{names:?}");
        assert!(list.iter().all(|o| (o.support == Support::Refused) <= o.reason.is_some()));
    }
}
