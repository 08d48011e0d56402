//! What figures and page share: which rows belong together, who is the reference, who looks how.

use std::collections::BTreeMap;

use super::Facts;
use super::palette::{self, MarkerStyle};
use super::text::{compact_label, sanitize_line, shorten};
use crate::rows::{SampleLikelihoodRow, SummaryRow, Tables};

/// Longest name of an estimator in a figure, in characters.
const MAX_NAME_CHARS: usize = 32;

/// Groups of a model that have figures of their own.
pub const GROUPS_WITH_FIGURES: usize = 24;

/// Tables and facts with what is derived from them once.
pub struct ReportView<'a> {
    pub tables: &'a Tables,
    pub facts: &'a Facts,
    /// Models in the order in which they first appear.
    pub models: Vec<&'a str>,
    pub groups: Vec<ComparisonGroup<'a>>,
    styles: Vec<(&'a str, MarkerStyle)>,
    /// What figures call each estimator: short, and no two alike.
    short_names: Vec<(&'a str, String)>,
}

/// One model on one dataset under one solver: what is compared within a figure.
pub struct ComparisonGroup<'a> {
    pub model: &'a str,
    pub dataset: &'a str,
    pub solver: &'a str,
    pub rows: Vec<&'a SummaryRow>,
    /// Name of the reference estimator; empty where none is named.
    pub reference: &'a str,
    /// Whether the reference stands under another solver: such rows are compared in a table across solvers.
    pub reference_under_other_solver: bool,
    /// Numbers in one sample, where the facts say.
    pub dim: Option<usize>,
}

impl<'a> ReportView<'a> {
    pub fn new(tables: &'a Tables, facts: &'a Facts) -> ReportView<'a> {
        let mut view = ReportView {
            tables,
            facts,
            models: models_in_order(tables, facts),
            groups: vec![],
            styles: assign_styles(tables),
            short_names: vec![],
        };
        view.short_names = assign_short_names(&view.styles);
        for (model, dataset, solver) in group_keys(tables) {
            let of = |row: &&SummaryRow| {
                (
                    row.model.as_str(),
                    row.dataset.as_str(),
                    row.solver.as_str(),
                ) == (model, dataset, solver)
            };
            let rows: Vec<&SummaryRow> = tables.summary.iter().filter(of).collect();
            let named = rows
                .iter()
                .map(|row| row.reference.as_str())
                .find(|name| !name.is_empty());
            let reference = named.or(tables
                .summary
                .iter()
                .map(|row| row.reference.as_str())
                .find(|name| !name.is_empty()));
            let dim = facts
                .models
                .iter()
                .find(|facts| facts.name == model)
                .map(|facts| facts.dim);
            let dim = dim.filter(|&dim| dim > 0);
            let elsewhere = rows
                .iter()
                .any(|row| !row.reference_solver.is_empty() && row.reference_solver != solver);
            let reference = reference.unwrap_or("");
            view.groups.push(ComparisonGroup {
                model,
                dataset,
                solver,
                rows,
                reference,
                reference_under_other_solver: elsewhere,
                dim,
            });
        }
        view
    }

    /// Groups that have figures of their own: the first [`GROUPS_WITH_FIGURES`] of each model.
    pub fn groups_with_figures(&self) -> impl Iterator<Item = &ComparisonGroup<'a>> {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        self.groups.iter().filter(move |group| {
            let before = seen.entry(group.model).or_default();
            *before += 1;
            *before <= GROUPS_WITH_FIGURES
        })
    }

    /// What the page says where a model has more groups than that.
    pub fn figures_note(&self, model: &str) -> Option<String> {
        let all = self
            .groups
            .iter()
            .filter(|group| group.model == model)
            .count();
        (all > GROUPS_WITH_FIGURES).then(|| {
            format!("Figures are drawn of the first {GROUPS_WITH_FIGURES} of {all} combinations of data and solver; the tables hold all.")
        })
    }

    /// The look of an estimator, the same in every figure.
    pub fn style(&self, estimator: &str) -> MarkerStyle {
        let found = self.styles.iter().find(|(name, _)| *name == estimator);
        found.map_or(palette::REFERENCE_STYLE, |(_, look)| *look)
    }

    /// An estimator's name as figures and sentences show it.
    pub fn short_name(&self, estimator: &str) -> String {
        let found = self.short_names.iter().find(|(name, _)| *name == estimator);
        found.map_or_else(
            || shorten(&compact_label(estimator), MAX_NAME_CHARS),
            |(_, name)| name.clone(),
        )
    }

    /// What tells this group's files from those of the other groups.
    pub fn file_stem(&self, kind: &str, group: &ComparisonGroup) -> String {
        let others = || {
            self.groups
                .iter()
                .filter(|other| other.model == group.model)
        };
        let mut stem = format!("{kind}-{}", group.model);
        if others().any(|other| other.dataset != group.dataset) {
            stem = format!("{stem}-{}", group.dataset);
        }
        if others().any(|other| other.solver != group.solver) {
            stem = format!("{stem}-{}", group.solver);
        }
        stem
    }
}

impl<'a> ComparisonGroup<'a> {
    /// Samples of one estimator that carry a log-likelihood.
    pub fn samples(&self, tables: &'a Tables, estimator: &str) -> Vec<&'a SampleLikelihoodRow> {
        let here = |s: &&SampleLikelihoodRow| {
            s.estimator == estimator
                && (s.model.as_str(), s.dataset.as_str(), s.solver.as_str())
                    == (self.model, self.dataset, self.solver)
                && s.log_likelihood.is_some_and(f64::is_finite)
        };
        tables.samples.iter().filter(here).collect()
    }

    /// Estimators of this group, the reference first.
    pub fn estimators(&self) -> Vec<&'a str> {
        let mut names: Vec<&str> = vec![];
        for row in &self.rows {
            if !names.contains(&row.estimator.as_str()) {
                names.push(&row.estimator);
            }
        }
        names.sort_by_key(|name| *name != self.reference);
        names
    }

    /// The summary row of the reference estimator.
    pub fn reference_row(&self) -> Option<&'a SummaryRow> {
        self.rows
            .iter()
            .find(|row| row.estimator == self.reference)
            .copied()
    }

    /// Factor from a difference of log-densities in nats to one in bits/dim, sign included;
    /// `None` where bits/dim are not defined for this model.
    pub fn bits_per_nat(&self) -> Option<f64> {
        let defined = self.rows.iter().any(|row| row.bits_per_dim.is_some());
        let dim = self.dim.filter(|_| defined)?;
        Some(-1.0 / (dim as f64 * std::f64::consts::LN_2))
    }

    /// `digits · heun {steps: 18} · n = 128`, without what is the same throughout.
    pub fn subtitle(&self) -> String {
        let n = self.rows.iter().map(|row| row.n).max();
        let parts = [
            shorten(self.dataset, 40),
            shorten(self.solver, 48),
            n.map(|n| format!("n = {n}")).unwrap_or_default(),
        ];
        let said: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        said.join(" · ")
    }
}

/// A model's name as titles show it.
pub fn figure_title(model: &str, what: &str) -> String {
    format!("{} · {what}", shorten(&sanitize_line(model), 40))
}

fn models_in_order<'a>(tables: &'a Tables, facts: &'a Facts) -> Vec<&'a str> {
    let names = (tables.summary.iter().map(|row| row.model.as_str()))
        .chain(facts.models.iter().map(|model| model.name.as_str()))
        .chain(tables.metrics.iter().map(|row| row.model.as_str()))
        .chain(tables.maps.iter().map(|row| row.model.as_str()))
        .chain(
            tables
                .galleries
                .iter()
                .map(|gallery| gallery.model.as_str()),
        )
        .chain(tables.density.iter().map(|row| row.model.as_str()))
        .chain(tables.samples.iter().map(|row| row.model.as_str()))
        .chain(tables.profile.iter().map(|row| row.model.as_str()));
    unique(names)
}

fn group_keys(tables: &Tables) -> Vec<(&str, &str, &str)> {
    let summary = tables
        .summary
        .iter()
        .map(|r| (r.model.as_str(), r.dataset.as_str(), r.solver.as_str()));
    let samples = tables
        .samples
        .iter()
        .map(|r| (r.model.as_str(), r.dataset.as_str(), r.solver.as_str()));
    let profile = tables
        .profile
        .iter()
        .map(|r| (r.model.as_str(), r.dataset.as_str(), r.solver.as_str()));
    unique(summary.chain(samples).chain(profile))
}

fn assign_styles(tables: &Tables) -> Vec<(&str, MarkerStyle)> {
    // Only the first reference is drawn in ink: two of them may meet in one figure.
    let references: Vec<&str> = unique(tables.summary.iter().map(|row| row.reference.as_str()))
        .into_iter()
        .take(1)
        .collect();
    let names = (tables.summary.iter().map(|row| row.estimator.as_str()))
        .chain(tables.samples.iter().map(|row| row.estimator.as_str()))
        .chain(tables.profile.iter().map(|row| row.estimator.as_str()))
        .chain(tables.density.iter().map(|row| row.estimator.as_str()));
    let others = unique(names)
        .into_iter()
        .filter(|name| !references.contains(name));
    let others = others
        .enumerate()
        .map(|(i, name)| (name, palette::estimator_style(i)));
    references
        .iter()
        .map(|name| (*name, palette::REFERENCE_STYLE))
        .chain(others)
        .collect()
}

fn assign_short_names<'a>(looks: &[(&'a str, MarkerStyle)]) -> Vec<(&'a str, String)> {
    let mut names: Vec<(&str, String)> = vec![];
    for (estimator, _) in looks {
        let short = shorten(&compact_label(estimator), MAX_NAME_CHARS);
        let taken = |name: &String| names.iter().any(|(_, other)| other == name);
        let numbered = (2..).map(|i| format!("{short} #{i}"));
        let name = std::iter::once(short.clone())
            .chain(numbered)
            .find(|name| !taken(name));
        names.push((estimator, name.unwrap_or(short)));
    }
    names
}

/// Each item once, in the order of first appearance; quick also for many repeats in a row.
fn unique<T: PartialEq + Copy>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen: Vec<T> = vec![];
    for item in items {
        if seen.last() != Some(&item) && !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}
