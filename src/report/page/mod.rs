//! The page: one self-contained HTML file that opens from disk, prints, and needs no network.
//!
//! Every text that comes from a user goes through maud's escaping; only the style sheet and our
//! own SVG are taken as they are.

mod budget;
mod comparison;
mod conventions;
mod flow_maps;
mod frontier;
mod reading_guide;
mod results;
mod setup;
mod stein;
mod summary;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Figure;
use super::text::{sanitize_block, sanitize_line, shorten};
use super::view::ReportView;

const STYLE_SHEET: &str = include_str!("style.css");
/// Bytes of figures that the page carries; what goes beyond is linked, so that it still opens.
const MAX_FIGURE_BYTES: usize = 7_000_000;
/// Largest drawing that is put in as SVG; beyond it the PNG is smaller and quicker.
const MAX_INLINE_SVG_BYTES: usize = 500_000;

/// The page's HTML.
pub fn render_page(view: &ReportView, figures: &[(&str, Figure)]) -> String {
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
                // An icon in the page itself, so that no browser asks a server for one.
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
                    (summary::summary_section(view))
                    (setup::setup_section(view))
                    section #results {
                        h2 { "What came out" }
                        (model_articles(view, figures))
                    }
                    (reading_guide::reading_guide_section(view))
                    (setup::provenance_section(view))
                    (config_section(view))
                }
                footer {
                    "Written by flowgauge from the run's own files; everything here can be rebuilt with "
                    code { "flowgauge report" } "."
                }
            }
        }
    };
    page.into_string()
}

fn lead_line(view: &ReportView) -> String {
    let facts = view.facts;
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let samples: usize = facts.data.iter().map(|data| data.samples).sum();
    let mut parts = vec![count(view.models.len(), "model")];
    if samples > 0 {
        parts.push(count(samples, "data sample"));
    }
    parts.push(format!(
        "{} finished",
        count(facts.trials_finished, "trial")
    ));
    parts.push(format!("seed {}", sanitize_line(&facts.seed)));
    parts.join(" · ")
}

fn table_of_contents(view: &ReportView) -> Markup {
    html! {
        nav aria-label="Contents" {
            a href="#summary" { "In short" }
            a href="#asked" { "What was asked" }
            a href="#results" { "What came out" }
            @if view.models.len() > 1 {
                @for (i, model) in view.models.iter().enumerate() {
                    a.sub href={ "#model-" (i + 1) } { (shorten(model, 24)) }
                }
            }
            a href="#reading" { "How to read these numbers" }
            a href="#provenance" { "Provenance" }
        }
    }
}

fn model_articles(view: &ReportView, figures: &[(&str, Figure)]) -> Markup {
    let mut left = MAX_FIGURE_BYTES;
    html! {
        @if view.models.is_empty() {
            p.empty { "No rows yet: no trial has finished, so there is nothing to show." }
        }
        @for (i, model) in view.models.iter().enumerate() {
            article.model id={ "model-" (i + 1) } {
                h3 { (sanitize_line(model)) }
                (comparison::comparison_tables(view, model))
                (results::result_tables(view, model))
                (results::dataset_gaps_table(view, model))
                @if let Some(sentence) = view.figures_note(model) {
                    p { (sentence) }
                }
                @for (_, figure) in figures.iter().filter(|(of, _)| of == model) {
                    (figure_element(figure, &mut left))
                }
                (flow_maps::flow_map_tables(view, model))
                (stein::stein_section(view, model))
                (results::metrics_table(view, model))
                (results::contrasts_table(view, model))
            }
        }
    }
}

fn figure_element(figure: &Figure, left: &mut usize) -> Markup {
    let svg = figure.svg.len() <= MAX_INLINE_SVG_BYTES.min(*left);
    let bytes = if svg {
        figure.svg.len()
    } else {
        figure.png.len().div_ceil(3) * 4
    };
    let fits = bytes <= *left;
    if fits {
        *left -= bytes;
    }
    html! {
        figure id=(figure.name) {
            @if fits && svg {
                div.drawing { (PreEscaped(&figure.svg)) }
            } @else if fits {
                div.drawing { img alt=(figure.caption) src={ "data:image/png;base64," (base64_encoded(&figure.png)) }; }
            } @else {
                p.empty { "Left out here, since the page would become too large: see the files." }
            }
            figcaption {
                (figure.caption) " "
                span.files {
                    a href={ "plots/" (figure.name) ".svg" } { "SVG" } " "
                    a href={ "plots/" (figure.name) ".png" } { "PNG" }
                }
            }
        }
    }
}

fn base64_encoded(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn config_section(view: &ReportView) -> Markup {
    html! {
        @if !view.facts.config.trim().is_empty() {
            section #config {
                h2 { "The config" }
                pre { code { (sanitize_block(&view.facts.config)) } }
            }
        }
    }
}
