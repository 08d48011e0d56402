//! What a page says besides its tables, from the plan and the journal.

use super::{DataFacts, Facts, ModelFacts};
use crate::journal::{Journal, Outcome, outstanding};
use crate::plan::{Plan, PlannedModel};

/// The facts of one run.
pub fn facts(plan: &Plan, environment: &[(String, String)], journal: &Journal, config: String) -> Facts {
    let failed = |id: &str| match journal.outcomes.get(id) {
        Some(Outcome::Failed { error }) => Some(error.clone()),
        _ => None,
    };
    let mut environment = environment.to_vec();
    environment.push(("measuring took".to_owned(), format!("{:.0} s", journal.seconds)));
    Facts {
        name: plan.name.clone(),
        seed: plan.seed,
        models: plan.models.iter().map(model).collect(),
        data: plan
            .data
            .iter()
            .map(|d| DataFacts {
                model: plan.models[d.model].name.clone(),
                file: d.name.clone(),
                sha256: d.sha256.clone(),
                samples: d.samples,
                treatment: d.treatment.clone(),
            })
            .collect(),
        trials_finished: journal.outcomes.values().filter(|o| matches!(o, Outcome::Finished { .. })).count(),
        trials_failed: plan.trials.iter().filter_map(|t| Some((t.work.describe(plan), failed(&t.id)?))).collect(),
        trials_outstanding: outstanding(plan, journal, false).len(),
        environment,
        config,
    }
}

fn model(m: &PlannedModel) -> ModelFacts {
    let pairs = |value: &serde_json::Value, skip: &str| -> Vec<(String, String)> {
        let text = |v: &serde_json::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let map = value.as_object().into_iter().flatten();
        map.filter(|(k, _)| *k != skip).map(|(k, v)| (k.clone(), text(v))).collect()
    };
    let kind = m.path.get("kind").and_then(|k| k.as_str()).unwrap_or_default();
    let parameters: Vec<String> = pairs(&m.path, "kind").iter().map(|(k, v)| format!("{k}: {v}")).collect();
    let convention = match (m.range, m.levels) {
        (Some([low, high]), Some(levels)) => format!(
            "bits/dim = nats/dim / ln 2 + log2({levels} / ({high} − ({low}))) = nats/dim / ln 2 + {:.4}: \
             bits per dimension of data with {levels} levels, uniformly dequantized (an upper bound on the discrete code length)",
            (f64::from(levels) / (high - low)).log2()
        ),
        _ => "no bits/dim: the data are not quantized, so only nats and nats/dim are given".to_owned(),
    };
    ModelFacts {
        name: m.name.clone(),
        dim: m.shape.iter().product(),
        path: format!("{kind} {{{}}}", parameters.join(", ")),
        prediction: m.prediction.clone(),
        prior: format!("N(0, {}² I)", m.prior_std),
        parameters: m.parameters,
        files: m.files.iter().map(|f| (f.name.clone(), f.sha256.clone())).collect(),
        convention,
        provenance: pairs(&m.provenance, ""),
    }
}
