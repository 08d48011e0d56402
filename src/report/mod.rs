//! Tables to figures and one page: pure functions of what the journal holds.
//!
//! A report is a value; writing it is the caller's. Nothing here runs a network.

mod axis;
mod curves;
mod figure_spec;
mod figures;
mod number_format;
mod page;
mod palette;
mod plot;
mod text;
mod view;

#[cfg(test)]
mod tests;

use crate::rows::Tables;

/// Draws all that the tables allow and writes the page around it.
///
/// The same tables and facts give the same bytes: nothing else is looked at.
pub fn build_report(tables: &Tables, facts: &Facts) -> anyhow::Result<Report> {
    let view = view::ReportView::new(tables, facts);
    let figures = figures::render_figures(&view)?;
    let html = page::render_page(&view, &figures);
    let figures = figures.into_iter().map(|(_, figure)| figure).collect();
    Ok(Report { figures, html })
}

/// One line of provenance per model, for the page's header tables.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFacts {
    pub name: String,
    /// Numbers in one sample.
    pub dim: usize,
    /// The path and its parameters, as the card says them: `edm {sigma_min: 0.02, sigma_max: 20}`.
    pub path: String,
    pub prediction: String,
    pub prior: String,
    /// Where the path is cut off, and how far the state is from the prior there.
    pub truncation: String,
    pub parameters: u64,
    /// What its networks are given besides the state: the card's keys of their inputs, and values.
    pub extra_inputs: Vec<(String, String)>,
    /// Files with their SHA-256.
    pub files: Vec<(String, String)>,
    /// How bits/dim come about, in one sentence, or why there are none.
    pub convention: String,
    /// The card's provenance, key by key.
    pub provenance: Vec<(String, String)>,
}

/// One dataset that was evaluated.
#[derive(Debug, Clone, PartialEq)]
pub struct DataFacts {
    pub model: String,
    pub file: String,
    pub sha256: String,
    pub samples: usize,
    /// How integers became reals, or that floats were taken as they are.
    pub preprocessing: String,
}

/// What the page says besides the tables.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The run's name; of several runs, their names.
    pub name: String,
    /// Of several runs, each with its run's name.
    pub seed: String,
    pub models: Vec<ModelFacts>,
    pub data: Vec<DataFacts>,
    pub trials_finished: usize,
    /// Trials that failed, with their reason.
    pub trials_failed: Vec<(String, String)>,
    pub trials_outstanding: usize,
    /// (what, value): program version, runtime version, provider obtained, host, threads, times.
    pub environment: Vec<(String, String)>,
    /// The config's text, as the user gave it.
    pub config: String,
}

/// One figure in both forms.
#[derive(Debug, Clone)]
pub struct Figure {
    /// File stem under `plots/`.
    pub name: String,
    /// The sentence under the figure: what is drawn, n, and what the bars mean.
    pub caption: String,
    pub svg: String,
    pub png: Vec<u8>,
}

/// The derived files of a run directory: `plots/*` and `index.html`.
#[derive(Debug, Clone)]
pub struct Report {
    pub figures: Vec<Figure>,
    pub html: String,
}
