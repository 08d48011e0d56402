//! What the kinds of work that compute statistics share.

use std::collections::HashSet;

use super::{WorkKind, features_name};
use crate::metric::Metric;
use crate::plan::{PlannedFile, PreparedPlan};
use crate::progress::Workload;

/// The seconds of a statistic per two samples and dimension: an order of magnitude, used until a
/// statistic was measured.
const SECONDS_PER_PAIR: f64 = 1e-9;

/// The seconds of an extractor per sample: an order of magnitude, as above.
const EXTRACTOR_SECONDS_PER_SAMPLE: f64 = 1e-3;

/// The workload of statistics, which call no network but an extractor.
pub(super) fn statistics_workload(
    work: &dyn WorkKind,
    prepared: &PreparedPlan,
    kind: &str,
    metrics: &[Metric],
    extractor: Option<&PlannedFile>,
) -> Workload {
    let plan = &prepared.plan;
    let required: HashSet<&str> = work.required_trials().into_iter().collect();
    let generated: usize = plan
        .trials
        .iter()
        .filter(|trial| required.contains(trial.id.as_str()))
        .filter_map(|trial| trial.work.sample_range())
        .map(|range| (range.end - range.start) as usize)
        .sum();
    let data: usize = work
        .data_indices()
        .iter()
        .map(|index| plan.data[*index].samples)
        .sum();
    let n = (generated + data) as f64;
    let dim = prepared.models[work.model_index()].dim() as f64;
    let names: Vec<&str> = metrics.iter().map(|m| m.name()).collect();
    let features = features_name(extractor);
    let model = &plan.models[work.model_index()].name;
    Workload {
        kinds: vec![
            format!("{model}: {kind} of {features}: {}", names.join(", ")),
            format!("{kind} of {features}"),
        ],
        units: n * n * dim * SECONDS_PER_PAIR * names.len() as f64
            + extractor.map_or(0.0, |_| n * EXTRACTOR_SECONDS_PER_SAMPLE),
        rows: None,
    }
}
