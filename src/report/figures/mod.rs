//! The figures: each a function from the tables to pictures, none where its columns are empty.
//!
//! A new figure is a file here, a `mod` line and a line in [`FIGURE_BUILDERS`].

mod bias;
mod budget;
mod density;
mod divergence;
mod frontier;
mod gallery;
mod gamma;
mod histogram;
mod metrics;
mod scatter;

use anyhow::{Context, Result};

pub use budget::BUDGET_COMPONENTS;
pub use metrics::FLOOR_SAMPLER;
pub use scatter::format_correlation;

use super::Figure;
use super::figure_spec::FigureSpec;
use super::plot;
use super::text::slug;
use super::view::ReportView;

/// A picture with what the page says about it.
pub struct CaptionedFigure<'a> {
    pub model: &'a str,
    /// What the file is called, before it is made safe and unique.
    pub stem: String,
    pub caption: String,
    pub spec: FigureSpec,
}

/// Draws what the tables allow.
type FigureBuilder = for<'a> fn(&ReportView<'a>) -> Vec<CaptionedFigure<'a>>;

/// All figures, in the order in which a model's section shows them.
const FIGURE_BUILDERS: [FigureBuilder; 10] = [
    bias::bias_figures,
    frontier::frontier_figures,
    budget::budget_figures,
    scatter::scatter_figures,
    divergence::divergence_figures,
    histogram::histogram_figures,
    density::density_figures,
    gallery::gallery_figures,
    gamma::gamma_figures,
    metrics::metric_figures,
];

/// Every figure of every model, with the model's name.
pub fn render_figures<'a>(view: &ReportView<'a>) -> Result<Vec<(&'a str, Figure)>> {
    let mut done: Vec<(&str, Figure)> = vec![];
    for drawing in FIGURE_BUILDERS.iter().flat_map(|draw| draw(view)) {
        let name = unused_figure_name(&slug(&drawing.stem), &done);
        let (svg, png) =
            plot::render_figure(&drawing.spec).with_context(|| format!("figure {name}"))?;
        done.push((
            drawing.model,
            Figure {
                name,
                caption: drawing.caption,
                svg,
                png,
            },
        ));
    }
    Ok(done)
}

/// Two models may differ only in characters that a file name loses.
fn unused_figure_name(stem: &str, done: &[(&str, Figure)]) -> String {
    let taken = |name: &str| done.iter().any(|(_, figure)| figure.name == name);
    let numbered = (2..).map(|i| format!("{stem}-{i}"));
    let mut names = std::iter::once(stem.to_string()).chain(numbered);
    names.find(|name| !taken(name)).unwrap_or_default()
}
