//! Turns the tables of a run into figures and one HTML page.
//!
//! Everything here is a pure function: it computes a [`Report`] in memory, and the caller writes
//! the files. Nothing here runs a network, so a report needs no ONNX Runtime.

mod axis;
mod curves;
pub(crate) mod export;
mod figure_data;
mod figure_spec;
mod figures;
mod number_format;
mod page;
mod palette;
pub(crate) mod paper;
mod plot;
mod text;
mod view;

#[cfg(test)]
mod tests;

use crate::rows::Tables;

/// Draws every figure that the tables allow, and renders the page around the figures.
///
/// Equal tables and facts give equal bytes, because nothing else is read.
///
/// # Errors
/// Fails if a figure cannot be drawn or encoded.
pub(crate) fn build_report(tables: &Tables, facts: &Facts) -> anyhow::Result<Report> {
    let view = view::ReportView::new(tables, facts);
    let figures = figures::render_figures(&view)?;
    let html = page::render_page(&view, &figures, &tables.files()?)?;
    let figures = figures.into_iter().map(|(_, figure)| figure).collect();
    Ok(Report { figures, html })
}

/// Draws the figures of the rows of `weights.csv` in some tables.
///
/// # Errors
/// Fails if a figure cannot be drawn or encoded.
pub(crate) fn draw_weight_figures(tables: &Tables) -> anyhow::Result<Vec<Figure>> {
    let facts = Facts::default();
    figures::render_weight_figures(&view::ReportView::new(tables, &facts))
}

/// What the page says about one model besides its numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelFacts {
    /// The model's name in the run.
    pub name: String,
    /// The number of values in one sample.
    pub dim: usize,
    /// The path's kind with its parameters from the card, such as `edm {sigma_min: 0.02, sigma_max:
    /// 20}`.
    pub path: String,
    /// What the network predicts, and the precision if the run overrides it.
    pub prediction: String,
    /// The prior distribution, such as `N(0, 80² I)`.
    pub prior: String,
    /// Where the path is cut off, and how far the state is from the prior there.
    pub truncation: String,
    /// The number of parameters of the model's networks.
    pub parameters: u64,
    /// The inputs of the networks besides the state: the card's key of each input, and its value.
    pub extra_inputs: Vec<(String, String)>,
    /// The model's files: the name and the SHA-256 of each.
    pub files: Vec<(String, String)>,
    /// One sentence that says how bits/dim are computed, or why there are none.
    pub convention: String,
    /// The keys and values of the card's `provenance` section.
    pub provenance: Vec<(String, String)>,
}

/// What the page says about one dataset that the run evaluated.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DataFacts {
    /// The name of the model that was evaluated on this dataset.
    pub model: String,
    /// The name of the data file.
    pub file: String,
    pub sha256: String,
    /// The number of samples in the dataset.
    pub samples: usize,
    /// How the values of the file became inputs of the model, for example by dequantization.
    pub preprocessing: String,
}

/// What the page shows besides the tables.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Facts {
    /// The run's name. If the page covers several runs, their names, separated by commas.
    pub name: String,
    /// The run's seed. If several runs have different seeds, each seed with its run's name.
    pub seed: String,
    /// One entry for each model.
    pub models: Vec<ModelFacts>,
    /// One entry for each dataset that a model was evaluated on.
    pub data: Vec<DataFacts>,
    /// The number of finished trials.
    pub trials_finished: usize,
    /// The failed trials: a description of each trial, and its error message.
    pub trials_failed: Vec<(String, String)>,
    /// The number of trials that have neither finished nor failed.
    pub trials_outstanding: usize,
    /// Names and values that describe how the run was made, such as the program's version, the
    /// runtime's version, the execution provider and the number of threads.
    pub environment: Vec<(String, String)>,
    /// The text of the config, as the user wrote it.
    pub config: String,
}

/// One figure, as SVG and as PNG, with its data.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    /// The file stem under `plots/`.
    pub name: String,
    /// The text under the figure: what it shows, the number of samples, and what the bars mean.
    pub caption: String,
    /// The figure as SVG text.
    pub svg: String,
    /// The figure as PNG bytes.
    pub png: Vec<u8>,
    /// The values of the figure's marks as CSV.
    pub data: String,
}

/// The derived files of a run directory, in memory: `plots/*` and `index.html`.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// The figures in the order of the page.
    pub figures: Vec<Figure>,
    /// The text of `index.html`.
    pub html: String,
}
