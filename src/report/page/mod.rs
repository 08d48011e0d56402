//! The page: one HTML file that contains everything it needs. It opens from disk, can be printed,
//! and loads nothing from a network.
//!
//! maud escapes every text that comes from a user. Only the style sheet and the program's own SVG
//! are inserted unescaped.

mod budget;
mod calibration;
mod comparison;
mod conventions;
mod data_table;
mod files;
mod flow_maps;
mod frontier;
mod reading_guide;
mod results;
mod reweight;
mod runs;
mod setup;
mod stein;
mod summary;
mod verdict;

use std::collections::BTreeMap;

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Figure;
use super::number_format::counted;
use super::text::{sanitize_block, sanitize_line, shorten};
use super::view::ReportView;
use files::EmbeddedFiles;

/// The script of the page: it sorts, filters and copies tables, and shows the values of figures.
const SCRIPT: &str = include_str!("page.js");
/// The style sheet of the page.
const STYLE_SHEET: &str = include_str!("style.css");
/// The largest total size of the figures in the page, in bytes. Further figures are files beside the page
/// alone, so that browsers can still open it.
const MAX_FIGURE_BYTES: usize = 7_000_000;
/// The largest SVG in the page, in bytes. A larger figure is included as PNG, which is smaller and
/// faster to show.
const MAX_INLINE_SVG_BYTES: usize = 500_000;

/// The text of `index.html`.
///
/// # Errors
/// Fails if a file of the page cannot be compressed.
pub(super) fn render_page(
    view: &ReportView,
    figures: &[(&str, Figure)],
    tables: &[(&str, Vec<u8>)],
) -> Result<String> {
    let data = figures.iter().map(|(_, figure)| {
        let name = format!("plots/{}.csv", figure.name);
        (name, figure.data.as_bytes())
    });
    let tables = (tables.iter()).map(|(name, bytes)| (format!("tables/{name}.csv"), &bytes[..]));
    let embedded = EmbeddedFiles::new(tables.chain(data).collect())?;
    let name = if view.facts.name.is_empty() {
        "flowgauge report"
    } else {
        &view.facts.name
    };
    let name = sanitize_line(name);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content="flowgauge";
                // An empty icon, so that no browser requests one from a server.
                link rel="icon" href="data:,";
                title { (name) " · flowgauge" }
                style { (PreEscaped(STYLE_SHEET)) }
            }
            body {
                header {
                    p.kicker { "flowgauge · likelihoods and samples of diffusion and flow models" }
                    h1 { (name) }
                    p.lead { (lead_line(view)) }
                    (table_of_contents(view))
                }
                main {
                    (summary::warnings_section(view))
                    (verdict::verdict_section(view))
                    (summary::summary_section(view))
                    section #results {
                        h2 { "Results" }
                        (runs::runs_section(view))
                        (model_articles(view, figures, &embedded))
                    }
                    (setup::setup_section(view))
                    (reading_guide::reading_guide_section(view))
                    (setup::provenance_section(view, &embedded))
                    (config_section(view))
                }
                footer {
                    "Written by flowgauge from the files of the run. To rebuild this page, use "
                    code { "flowgauge report" } "."
                }
                (embedded.markup())
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string())
}

/// The line under the title: the numbers of models, samples and trials, and the seed.
fn lead_line(view: &ReportView) -> String {
    let facts = view.facts;
    let mut parts = vec![counted(view.models.len() as f64, "models")];
    let evaluated = evaluated_samples(view);
    if evaluated > 0 {
        parts.push(format!(
            "{} evaluated",
            counted(evaluated as f64, "samples")
        ));
    }
    parts.push(format!(
        "{} finished",
        counted(facts.trials_finished as f64, "trials")
    ));
    parts.push(format!("seed {}", sanitize_line(&facts.seed)));
    let days = facts
        .environment
        .iter()
        .filter(|(key, _)| key.ends_with("started"));
    parts.extend(days.map(|(_, day)| sanitize_line(day)).take(1));
    parts.join(" · ")
}

/// The number of samples whose log-likelihood was computed, over all models and datasets.
fn evaluated_samples(view: &ReportView) -> usize {
    let mut most: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for row in &view.tables.summary {
        let n = most.entry((&row.model, &row.dataset)).or_default();
        *n = (*n).max(row.n + row.failed);
    }
    most.values().sum()
}

/// Links to the sections of the page.
fn table_of_contents(view: &ReportView) -> Markup {
    html! {
        nav aria-label="Contents" {
            a href="#verdict" { "What was found" }
            a href="#results" { "Results" }
            @if view.models.len() > 1 {
                @for (i, model) in view.models.iter().enumerate() {
                    a.sub href={ "#model-" (i + 1) } { (shorten(model, 24)) }
                }
            }
            a href="#asked" { "Setup" }
            a href="#reading" { "How to read these numbers" }
            a href="#provenance" { "Provenance" }
        }
    }
}

/// One article per model, with its tables and figures.
fn model_articles(
    view: &ReportView,
    figures: &[(&str, Figure)],
    embedded: &EmbeddedFiles,
) -> Markup {
    let mut bytes_left = MAX_FIGURE_BYTES;
    html! {
        @if view.models.is_empty() {
            p.empty { "No rows yet: no trial has finished, so there is nothing to show." }
        }
        @for (i, model) in view.models.iter().enumerate() {
            article.model id={ "model-" (i + 1) } {
                h3 { (sanitize_line(model)) }
                (comparison::comparison_tables(view, model))
                (results::result_tables(view, model))
                (results::conditions_table(view, model))
                (results::dataset_gaps_table(view, model))
                @if let Some(sentence) = view.figures_note(model) {
                    p { (sentence) }
                }
                @for (_, figure) in figures.iter().filter(|(owner, _)| owner == model) {
                    (figure_element(figure, embedded, &mut bytes_left))
                }
                (flow_maps::flow_map_tables(view, model))
                (stein::stein_section(view, model))
                (reweight::mass_section(view, model))
                (reweight::reweight_section(view, model))
                (calibration::calibration_section(view, model))
                (results::metrics_table(view, model))
                (results::contrasts_table(view, model))
            }
        }
    }
}

/// A figure with its caption and its data. `bytes_left` is the size that the page's figures may still
/// have.
fn figure_element(figure: &Figure, embedded: &EmbeddedFiles, bytes_left: &mut usize) -> Markup {
    let svg = figure.svg.len() <= MAX_INLINE_SVG_BYTES.min(*bytes_left);
    let bytes = if svg {
        figure.svg.len()
    } else {
        figure.png.len().div_ceil(3) * 4
    };
    let fits = bytes <= *bytes_left;
    if fits {
        *bytes_left -= bytes;
    }
    html! {
        figure.plot id=(figure.name) {
            @if fits && svg {
                div.drawing { (PreEscaped(&figure.svg)) }
            } @else if fits {
                div.drawing {
                    img alt=(figure.caption)
                        src={ "data:image/png;base64," (base64_encoded(&figure.png)) };
                }
            } @else {
                p.empty {
                    "This figure would make the page too large. It is beside the page, as "
                    code { "plots/" (figure.name) ".svg" } "."
                }
            }
            figcaption {
                (figure.caption)
                @if let Some(link) = embedded.link(&format!("plots/{}.csv", figure.name), "data") {
                    " " span.files { (link) }
                }
            }
        }
    }
}

fn base64_encoded(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The section with the text of the config.
fn config_section(view: &ReportView) -> Markup {
    html! {
        @if !view.facts.config.trim().is_empty() {
            section #config {
                h2 { "The config" }
                pre tabindex="0" role="region" aria-label="The config" { code { (sanitize_block(&view.facts.config)) } }
            }
        }
    }
}
