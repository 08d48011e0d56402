//! How the numbers were measured, as a sentence and as an entry of a bibliography.

use super::ExportSource;
use crate::report::text::join_with_and;

/// The version of the program.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Distinct texts in the order in which they first appear.
fn distinct<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for text in texts.filter(|text| !text.is_empty()) {
        if !found.iter().any(|known| known == text) {
            found.push(text.to_owned());
        }
    }
    found
}

/// Sentences that say how the run measured its numbers, to paste into a paper.
pub(super) fn how_measured(source: &ExportSource) -> String {
    let tables = source.tables;
    let mut sentences = Vec::new();
    if !tables.summary.is_empty() {
        let followed = || tables.summary.iter().filter(|row| row.kind.follows_path());
        let estimators = distinct(tables.summary.iter().map(|row| row.estimator.as_str()));
        let solvers = distinct(followed().map(|row| row.solver.as_str()));
        let along = match solvers.is_empty() {
            true => String::new(),
            false => format!(
                " along the probability-flow ODE with {}",
                join_with_and(&solvers)
            ),
        };
        sentences.push(format!(
            "Log-likelihoods were computed by flowgauge {VERSION}{along}, by {}; every ± is one standard \
             error over the samples.",
            join_with_and(&estimators)
        ));
        if tables.summary.iter().any(|row| row.bits_per_dim.is_some()) {
            let conventions = source
                .facts
                .models
                .iter()
                .map(|model| model.convention.as_str());
            let stated = distinct(conventions.filter(|text| text.starts_with("bits/dim =")));
            sentences.push(match stated.is_empty() {
                true => {
                    "Bits per dimension are -log p/(D ln 2) plus the offset of the data's levels."
                        .to_owned()
                }
                false => format!("Bits per dimension: {}.", stated.join("; ")),
            });
        }
    }
    if !tables.metrics.is_empty() {
        let samplers = distinct(
            (tables.metrics.iter().map(|row| row.sampler.as_str())).filter(|name| *name != "data"),
        );
        let features = distinct(tables.metrics.iter().map(|row| row.features.as_str()));
        sentences.push(format!(
            "Samples were drawn by {}, and compared on {} features with standard errors in which both \
             sets are random.",
            join_with_and(&samplers),
            join_with_and(&features)
        ));
    }
    sentences.push(format!(
        "The run is `{}`, with seed {}.",
        source.facts.name, source.facts.seed
    ));
    sentences.join(" ")
}

/// The program as an entry of a bibliography.
pub(super) fn bibtex(year: &str) -> String {
    format!(
        "@software{{flowgauge,\n  title   = {{flowgauge: log-likelihoods and samples of diffusion and flow \
         models}},\n  author  = {{{{The flowgauge developers}}}},\n  version = {{{VERSION}}},\n  year    = \
         {{{year}}},\n}}\n"
    )
}
