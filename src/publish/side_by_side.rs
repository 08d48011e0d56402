//! Joins several runs on one page: their tables follow each other, and the models' names say which
//! run a row belongs to.

use std::collections::BTreeSet;

use super::across_runs::run_rows;
use super::labelled_run::LabelledRun;
use crate::report::Facts;
use crate::rows::Tables;

/// The tables and facts of all runs. A model's name that occurs in several runs is followed by the
/// run's label.
pub(super) fn join_runs(mut runs: Vec<LabelledRun>) -> (Tables, Facts) {
    distinct_labels(&mut runs);
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let names = |run: &LabelledRun| {
        run.facts
            .models
            .iter()
            .map(|m| m.name.clone())
            .collect::<BTreeSet<_>>()
    };
    let shared_names: BTreeSet<String> = runs
        .iter()
        .flat_map(names)
        .filter(|name| !seen.insert(name.clone()))
        .collect();
    let (mut tables, mut facts) = (Tables::default(), Facts::default());
    tables.runs = run_rows(&runs);
    facts.name = runs
        .iter()
        .map(|r| r.label.clone())
        .collect::<Vec<_>>()
        .join(", ");
    let seeds: BTreeSet<&String> = runs.iter().map(|r| &r.facts.seed).collect();
    facts.seed = match seeds.len() {
        1 => runs[0].facts.seed.clone(),
        _ => runs
            .iter()
            .map(|r| format!("{} ({})", r.facts.seed, r.label))
            .collect::<Vec<_>>()
            .join(", "),
    };
    for mut run in runs {
        let label = run.label.clone();
        rename_models(&mut run, |name| {
            if shared_names.contains(name) {
                format!("{name} ({label})")
            } else {
                name.to_owned()
            }
        });
        tables.append(run.tables);
        facts.models.extend(run.facts.models);
        facts.data.extend(run.facts.data);
        facts.trials_finished += run.facts.trials_finished;
        facts.trials_failed.extend(run.facts.trials_failed);
        facts.trials_outstanding += run.facts.trials_outstanding;
        facts.environment.extend(
            run.facts
                .environment
                .into_iter()
                .map(|(k, v)| (format!("{label}: {k}"), v)),
        );
        facts.config += &format!("# {label}\n{}\n", run.facts.config);
    }
    (tables, facts)
}

/// Adds a number to a label that an earlier run has already.
fn distinct_labels(runs: &mut [LabelledRun]) {
    for i in 1..runs.len() {
        let taken = |label: &str, runs: &[LabelledRun]| runs[..i].iter().any(|r| r.label == label);
        let own = runs[i].label.clone();
        let label = (1..).map(|k| {
            if k == 1 {
                own.clone()
            } else {
                format!("{own} ({k})")
            }
        });
        let free = label.into_iter().find(|l| !taken(l, runs));
        runs[i].label = free.unwrap_or(own);
    }
}

/// Renames the models in the tables and in the facts.
fn rename_models(run: &mut LabelledRun, new: impl Fn(&str) -> String) {
    let facts = run
        .facts
        .models
        .iter_mut()
        .map(|m| &mut m.name)
        .chain(run.facts.data.iter_mut().map(|d| &mut d.model));
    run.tables
        .models_mut()
        .chain(facts)
        .for_each(|name| *name = new(name));
}
