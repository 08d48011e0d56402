//! The averages of every estimator over the samples with one value of a condition, such as a class.

use std::collections::BTreeMap;

use crate::num::stats;
use crate::plan::Plan;
use crate::rows::{ConditionRow, LikelihoodRow, Status};

/// One row for each estimator and each value of the conditions that the plan's models are split by.
/// Values are in the order of their numbers, and null comes last.
pub(super) fn condition_rows(plan: &Plan, rows: &[LikelihoodRow]) -> Vec<ConditionRow> {
    let split = |model: &str| {
        let planned = plan.models.iter().find(|planned| planned.name == model);
        planned.map_or(&[][..], |planned| &planned.by[..])
    };
    let mut groups: BTreeMap<GroupKey, Vec<&LikelihoodRow>> = BTreeMap::new();
    for row in rows {
        for condition in split(&row.model) {
            let prefix = format!("{condition}=");
            let value = row
                .conditions
                .split(' ')
                .find_map(|part| part.strip_prefix(&prefix));
            if let Some(value) = value {
                let key = GroupKey {
                    names: [&row.model, &row.dataset, &row.solver, &row.estimator]
                        .map(String::clone),
                    condition: condition.clone(),
                    order: order_of(value),
                    value: value.to_owned(),
                };
                groups.entry(key).or_default().push(row);
            }
        }
    }
    groups.into_iter().map(condition_row).collect()
}

/// The names of a group of rows, in the order of the table.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct GroupKey {
    /// Model, dataset, solver and estimator.
    names: [String; 4],
    /// The name of the condition.
    condition: String,
    /// The place of the value among numbers.
    order: u64,
    /// The value.
    value: String,
}

/// A number that sorts like the value; texts that are no numbers come last.
fn order_of(value: &str) -> u64 {
    let bits = |number: f64| {
        let bits = number.to_bits();
        if number < 0.0 { !bits } else { bits | 1 << 63 }
    };
    value.parse::<f64>().map_or(u64::MAX, bits)
}

/// The averages of one group.
fn condition_row((key, rows): (GroupKey, Vec<&LikelihoodRow>)) -> ConditionRow {
    let present = |f: fn(&LikelihoodRow) -> Option<f64>| {
        let values: Vec<f64> = rows.iter().filter_map(|row| f(row)).collect();
        stats::mean_estimate(&values)
    };
    let nats = present(|row| row.log_likelihood);
    let bits = present(|row| row.bits_per_dim);
    let [model, dataset, solver, estimator] = key.names;
    ConditionRow {
        model,
        dataset,
        estimator,
        solver,
        condition: key.condition,
        value: key.value,
        n: nats.map_or(0, |e| e.n),
        failed: rows.iter().filter(|r| r.status != Status::Ok).count(),
        bits_per_dim: bits.map(|e| e.value),
        bits_per_dim_stderr: bits.and_then(|e| e.stderr),
        nats: nats.map(|e| e.value),
        nats_stderr: nats.and_then(|e| e.stderr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_sort_as_numbers() {
        let mut values = ["10", "null", "-1", "2", "-3", "0.5"];
        values.sort_by_key(|value| order_of(value));
        assert_eq!(values, ["-3", "-1", "0.5", "2", "10", "null"]);
    }
}
