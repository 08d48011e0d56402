//! The figures. Each is a function from the tables to descriptions of figures; it returns none if
//! the tables lack its columns.
//!
//! A new figure is a file here, a `mod` line and a line in [`FIGURE_BUILDERS`].

mod bias;
mod bound_profile;
mod budget;
mod calibration;
mod density;
mod divergence;
mod frontier;
mod gallery;
mod gamma;
mod histogram;
mod metrics;
mod scatter;
mod weights;

use anyhow::{Context, Result};

pub(super) use budget::BUDGET_COMPONENTS;
pub(super) use metrics::FLOOR_SAMPLER;
pub(super) use scatter::format_correlation;

use super::Figure;
use super::figure_data;
use super::figure_spec::FigureSpec;
use super::plot;
use super::text::slug;
use super::view::ReportView;

/// The description of a figure, with its model and its caption.
pub(super) struct CaptionedFigure<'a> {
    pub model: &'a str,
    /// The file stem, before it is reduced to safe characters and made unique.
    pub stem: String,
    /// The text under the figure on the page.
    pub caption: String,
    pub spec: FigureSpec,
}

/// Describes the figures of one kind that the tables allow.
type FigureBuilder = for<'a> fn(&ReportView<'a>) -> Vec<CaptionedFigure<'a>>;

/// All kinds of figures, in their order within a model's section of the page.
const FIGURE_BUILDERS: [FigureBuilder; 13] = [
    bias::bias_figures,
    frontier::frontier_figures,
    budget::budget_figures,
    scatter::scatter_figures,
    divergence::divergence_figures,
    bound_profile::bound_profile_figures,
    histogram::histogram_figures,
    density::density_figures,
    gallery::gallery_figures,
    gamma::gamma_figures,
    metrics::metric_figures,
    weights::weight_figures,
    calibration::calibration_figures,
];

/// Draws the figures of importance weights alone.
///
/// # Errors
/// Fails if a figure cannot be drawn.
pub(super) fn render_weight_figures(view: &ReportView) -> Result<Vec<Figure>> {
    let drawn = render_with(view, &[weights::weight_figures])?;
    Ok(drawn.into_iter().map(|(_, figure)| figure).collect())
}

/// Draws every figure of every model. Each figure comes with its model's name.
///
/// # Errors
/// Fails if a figure cannot be drawn.
pub(super) fn render_figures<'a>(view: &ReportView<'a>) -> Result<Vec<(&'a str, Figure)>> {
    render_with(view, &FIGURE_BUILDERS)
}

/// Draws the figures of some kinds, with unique names.
fn render_with<'a>(
    view: &ReportView<'a>,
    builders: &[FigureBuilder],
) -> Result<Vec<(&'a str, Figure)>> {
    let mut rendered: Vec<(&str, Figure)> = vec![];
    for figure in builders.iter().flat_map(|describe| describe(view)) {
        let name = unused_figure_name(&slug(&figure.stem), |name| {
            rendered.iter().any(|(_, other)| other.name == name)
        });
        let (svg, png) =
            plot::render_figure(&figure.spec).with_context(|| format!("figure {name}"))?;
        rendered.push((
            figure.model,
            Figure {
                name,
                caption: figure.caption,
                svg,
                png,
                data: figure_data::figure_csv(&figure.spec)?,
            },
        ));
    }
    Ok(rendered)
}

/// The description of every figure of every model, with the name of its files.
pub(super) fn described_figures<'a>(view: &ReportView<'a>) -> Vec<(String, CaptionedFigure<'a>)> {
    let mut named: Vec<(String, CaptionedFigure)> = vec![];
    for figure in FIGURE_BUILDERS.iter().flat_map(|describe| describe(view)) {
        let name = unused_figure_name(&slug(&figure.stem), |name| {
            named.iter().any(|(other, _)| other == name)
        });
        named.push((name, figure));
    }
    named
}

/// The stem, with a number if another figure has it already. Two models may differ only in
/// characters that a file name loses.
fn unused_figure_name(stem: &str, taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|i| format!("{stem}-{i}"));
    let mut names = std::iter::once(stem.to_string()).chain(numbered);
    names.find(|name| !taken(name)).unwrap_or_default()
}
