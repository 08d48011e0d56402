//! What figures and page share: which rows are compared, which estimator is the reference, and the
//! style and the short name of each estimator.

use std::collections::BTreeMap;

use super::Facts;
use super::palette::{self, MarkerStyle};
use super::text::{sanitize_line, shorten};
use crate::rows::{CalibrationRow, RankRow, SampleLikelihoodRow, SummaryRow, Tables};

/// The longest name of an estimator in a figure, in characters.
const MAX_NAME_CHARS: usize = 32;

/// The number of comparison groups of a model that have figures.
pub(super) const GROUPS_WITH_FIGURES: usize = 24;

/// The tables and facts of a report, with the values that are derived from them once.
pub(super) struct ReportView<'a> {
    pub tables: &'a Tables,
    pub facts: &'a Facts,
    /// The models in the order of their first appearance.
    pub models: Vec<&'a str>,
    /// The comparison groups in the order of their first appearance.
    pub groups: Vec<ComparisonGroup<'a>>,
    /// The style of each estimator.
    styles: Vec<(&'a str, MarkerStyle)>,
    /// The short name of each estimator. No two are equal.
    short_names: Vec<(&'a str, String)>,
}

/// The rows of one model on one dataset under one solver. A figure compares the estimators of one
/// group.
pub(super) struct ComparisonGroup<'a> {
    pub model: &'a str,
    pub dataset: &'a str,
    pub solver: &'a str,
    /// The group's rows of `summary.csv`.
    pub rows: Vec<&'a SummaryRow>,
    /// The label of the reference estimator, empty if the tables name none.
    pub reference: &'a str,
    /// Whether the reference values come from another solver. Then the rows are compared in the
    /// table across solvers, and the group has no figures of bias and cost.
    pub reference_under_other_solver: bool,
    /// The number of values in one sample, if the facts contain it.
    pub dim: Option<usize>,
}

impl<'a> ReportView<'a> {
    /// Groups the rows of the tables, and assigns styles and short names.
    pub(super) fn new(tables: &'a Tables, facts: &'a Facts) -> ReportView<'a> {
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
            let in_group = |row: &&SummaryRow| {
                (
                    row.model.as_str(),
                    row.dataset.as_str(),
                    row.solver.as_str(),
                ) == (model, dataset, solver)
            };
            let rows: Vec<&SummaryRow> = tables.summary.iter().filter(in_group).collect();
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
            let reference_under_other_solver = rows
                .iter()
                .any(|row| !row.reference_solver.is_empty() && row.reference_solver != solver);
            let reference = reference.unwrap_or("");
            view.groups.push(ComparisonGroup {
                model,
                dataset,
                solver,
                rows,
                reference,
                reference_under_other_solver,
                dim,
            });
        }
        view
    }

    /// The groups that have figures: the first [`GROUPS_WITH_FIGURES`] of each model.
    pub(super) fn groups_with_figures(&self) -> impl Iterator<Item = &ComparisonGroup<'a>> {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        self.groups.iter().filter(move |group| {
            let before = seen.entry(group.model).or_default();
            *before += 1;
            *before <= GROUPS_WITH_FIGURES
        })
    }

    /// A sentence for the page if the model has more than [`GROUPS_WITH_FIGURES`] groups.
    pub(super) fn figures_note(&self, model: &str) -> Option<String> {
        let all = self
            .groups
            .iter()
            .filter(|group| group.model == model)
            .count();
        (all > GROUPS_WITH_FIGURES).then(|| {
            format!(
                "Figures show only the first {GROUPS_WITH_FIGURES} of {all} combinations of data \
                 and solver; the tables contain all of them."
            )
        })
    }

    /// The style of an estimator, the same in every figure. An unknown estimator gets the style of
    /// the reference.
    pub(super) fn style(&self, estimator: &str) -> MarkerStyle {
        let found = self.styles.iter().find(|(name, _)| *name == estimator);
        found.map_or(palette::REFERENCE_STYLE, |(_, style)| *style)
    }

    /// The name of an estimator in figures and sentences.
    pub(super) fn short_name(&self, estimator: &str) -> String {
        let found = self.short_names.iter().find(|(name, _)| *name == estimator);
        found.map_or_else(
            || shorten(estimator, MAX_NAME_CHARS),
            |(_, name)| name.clone(),
        )
    }

    /// The file stem of a figure of this group. It names the dataset and the solver only if the
    /// model has several of them.
    pub(super) fn file_stem(&self, kind: &str, group: &ComparisonGroup) -> String {
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

/// The tests of calibration on one set of draws.
pub(super) struct CalibrationGroup<'a> {
    pub model: &'a str,
    pub dataset: &'a str,
    pub sampler: &'a str,
    /// The number of draws per observation.
    pub draws: usize,
    /// The labels of the tests, in the order of the rows.
    pub tests: Vec<&'a str>,
}

impl CalibrationGroup<'_> {
    /// Whether a statistic belongs to this group.
    pub(super) fn holds(&self, row: &CalibrationRow) -> bool {
        let key = (
            &row.model[..],
            &row.dataset[..],
            &row.sampler[..],
            row.draws,
        );
        key == (self.model, self.dataset, self.sampler, self.draws)
    }

    /// Whether a rank belongs to this group.
    pub(super) fn holds_ranks(&self, row: &RankRow) -> bool {
        let key = (
            &row.model[..],
            &row.dataset[..],
            &row.sampler[..],
            row.draws,
        );
        key == (self.model, self.dataset, self.sampler, self.draws)
    }
}

impl<'a> ReportView<'a> {
    /// The groups of calibration in the order of their first appearance.
    pub(super) fn calibration_groups(&self) -> Vec<CalibrationGroup<'a>> {
        let mut groups: Vec<CalibrationGroup> = Vec::new();
        for row in &self.tables.calibration {
            match groups.iter_mut().find(|group| group.holds(row)) {
                Some(group) if group.tests.contains(&row.test.as_str()) => {}
                Some(group) => group.tests.push(&row.test),
                None => groups.push(CalibrationGroup {
                    model: &row.model,
                    dataset: &row.dataset,
                    sampler: &row.sampler,
                    draws: row.draws,
                    tests: vec![&row.test],
                }),
            }
        }
        groups
    }
}

impl<'a> ComparisonGroup<'a> {
    /// The samples of one estimator that have a finite log-likelihood.
    pub(super) fn samples(
        &self,
        tables: &'a Tables,
        estimator: &str,
    ) -> Vec<&'a SampleLikelihoodRow> {
        let of_estimator = |s: &&SampleLikelihoodRow| {
            s.estimator == estimator
                && (s.model.as_str(), s.dataset.as_str(), s.solver.as_str())
                    == (self.model, self.dataset, self.solver)
                && s.log_likelihood.is_some_and(f64::is_finite)
        };
        tables.samples.iter().filter(of_estimator).collect()
    }

    /// The estimators of this group, the reference first.
    pub(super) fn estimators(&self) -> Vec<&'a str> {
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
    pub(super) fn reference_row(&self) -> Option<&'a SummaryRow> {
        self.rows
            .iter()
            .find(|row| row.estimator == self.reference)
            .copied()
    }

    /// The factor from a difference of log-densities in nats to a difference in bits/dim: −1 / (D
    /// ln 2). `None` if the model has no bits/dim.
    pub(super) fn bits_per_nat(&self) -> Option<f64> {
        let defined = self.rows.iter().any(|row| row.bits_per_dim.is_some());
        let dim = self.dim.filter(|_| defined)?;
        Some(-1.0 / (dim as f64 * std::f64::consts::LN_2))
    }

    /// A line such as `digits · heun(steps=18) · n = 128`. Empty parts are omitted.
    pub(super) fn subtitle(&self) -> String {
        let n = self.rows.iter().map(|row| row.n).max();
        let parts = [
            shorten(self.dataset, 40),
            shorten(self.solver, 48),
            n.map(|n| format!("n = {n}")).unwrap_or_default(),
        ];
        let shown: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        shown.join(" · ")
    }
}

/// The title of a figure: the model's name, and `what` the figure shows.
pub(super) fn figure_title(model: &str, what: &str) -> String {
    format!("{} · {what}", shorten(&sanitize_line(model), 40))
}

/// The models of all tables, each once.
fn models_in_order<'a>(tables: &'a Tables, facts: &'a Facts) -> Vec<&'a str> {
    let names = (tables.summary.iter().map(|row| row.model.as_str()))
        .chain(facts.models.iter().map(|model| model.name.as_str()))
        .chain(tables.metrics.iter().map(|row| row.model.as_str()))
        .chain(tables.maps.iter().map(|row| row.model.as_str()))
        .chain(tables.mass.iter().map(|row| row.model.as_str()))
        .chain(tables.reweight.iter().map(|row| row.model.as_str()))
        .chain(tables.weights.iter().map(|row| row.model.as_str()))
        .chain(tables.calibration.iter().map(|row| row.model.as_str()))
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

/// The model, dataset and solver of each comparison group.
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

/// Assigns a style to each estimator of the tables.
fn assign_styles(tables: &Tables) -> Vec<(&str, MarkerStyle)> {
    // Only the first reference is drawn in black, because two references may appear in one figure.
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

/// Assigns a short name to each estimator. A name that is taken gets a number.
fn assign_short_names<'a>(styles: &[(&'a str, MarkerStyle)]) -> Vec<(&'a str, String)> {
    let mut names: Vec<(&str, String)> = vec![];
    for (estimator, _) in styles {
        let short = shorten(estimator, MAX_NAME_CHARS);
        let taken = |name: &String| names.iter().any(|(_, other)| other == name);
        let numbered = (2..).map(|i| format!("{short} #{i}"));
        let name = std::iter::once(short.clone())
            .chain(numbered)
            .find(|name| !taken(name));
        names.push((estimator, name.unwrap_or(short)));
    }
    names
}

/// Each item once, in the order of first appearance. Repeated items in a row cost one comparison
/// each.
fn unique<T: PartialEq + Copy>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen: Vec<T> = vec![];
    for item in items {
        if seen.last() != Some(&item) && !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}
