//! The sections about the setup of the run and about the origin of its files.

use maud::{Markup, html};

use super::files::EmbeddedFiles;
use crate::report::number_format::{ABSENT, counted, format_count};
use crate::report::text::sanitize_line;
use crate::report::view::ReportView;

/// The section with models, data, estimators and solvers.
pub(super) fn setup_section(view: &ReportView) -> Markup {
    html! {
        section #asked {
            h2 { "Setup" }
            @if !view.facts.models.is_empty() {
                div.scroll { table {
                    thead { tr { th { "Model" } th.n { "D" } th { "Path" } th { "Network predicts" }
                        th { "Prior" } th.n { "Parameters" } th { "Bits per dimension" } } }
                    tbody { @for model in &view.facts.models { tr {
                        th scope="row" { (sanitize_line(&model.name)) }
                        td.n { (model.dim) }
                        td { (or_dash(&model.path)) }
                        td { (or_dash(&model.prediction)) }
                        td { (or_dash(&model.prior)) }
                        td.n { (format_count(model.parameters as f64)) }
                        td.wide { (or_dash(&model.convention)) }
                    } } }
                } }
            }
            @if view.facts.models.iter().any(|model| !model.extra_inputs.is_empty()) {
                details {
                summary { "Inputs besides the state" }
                div.scroll { table {
                    thead { tr { th { "Model" } th { "Input" } th { "Value" } } }
                    tbody { @for model in &view.facts.models {
                        @for (input, value) in &model.extra_inputs { tr {
                        th scope="row" { (sanitize_line(&model.name)) }
                        td { code { (sanitize_line(input)) } }
                        td.wide { (or_dash(value)) }
                    } } } }
                } }
                }
            }
            @for model in view.facts.models.iter().filter(|model| !model.truncation.is_empty()) {
                p.note {
                    "The path of " (sanitize_line(&model.name)) " is cut off "
                    (sanitize_line(&model.truncation)) "."
                }
            }
            @if !view.facts.data.is_empty() {
                div.scroll { table {
                    thead { tr { th { "Data for" } th { "File" } th.n { "Samples" }
                        th { "Preprocessing" } } }
                    tbody { @for data in &view.facts.data { tr {
                        th scope="row" { (sanitize_line(&data.model)) }
                        td { code { (sanitize_line(&data.file)) } }
                        td.n { (format_count(data.samples as f64)) }
                        td.wide { (or_dash(&data.preprocessing)) }
                    } } }
                } }
            }
            dl.facts {
                (definition_entry("Estimators", &estimator_labels(view)))
                @let solvers = view.groups.iter().map(|group| group.solver);
                (definition_entry("Solvers", &unique_labels(solvers)))
                @let references = view.groups.iter().map(|group| group.reference);
                (definition_entry("Reference", &unique_labels(references)))
                dt { "Seed" } dd { (sanitize_line(&view.facts.seed)) }
            }
        }
    }
}

/// The section with versions, hashes, the cards' provenance, and links to the tables.
pub(super) fn provenance_section(view: &ReportView, embedded: &EmbeddedFiles) -> Markup {
    let facts = view.facts;
    html! {
        section #provenance {
            h2 { "Provenance" }
            @if !facts.environment.is_empty() {
                dl.facts { @for (key, value) in &facts.environment {
                    dt { (sanitize_line(key)) } dd { (or_dash(value)) }
                } }
            }
            @if facts.models.iter().any(|model| !model.files.is_empty()) || !facts.data.is_empty() {
                h3 { "Files" }
                div.scroll { table {
                    thead { tr { th { "Belongs to" } th { "File" } th { "SHA-256" } } }
                    tbody {
                        @for model in &facts.models { @for (file, hash) in &model.files {
                            tr {
                                th scope="row" { (sanitize_line(&model.name)) }
                                td { code { (sanitize_line(file)) } }
                                td { code.hash { (or_dash(hash)) } }
                            }
                        } }
                        @for data in &facts.data {
                            tr { th scope="row" { (sanitize_line(&data.model)) ", data" }
                                td { code { (sanitize_line(&data.file)) } }
                                td { code.hash { (or_dash(&data.sha256)) } } }
                        }
                    }
                } }
            }
            @for model in facts.models.iter().filter(|model| !model.provenance.is_empty()) {
                h3 { "Provenance in the card of " (sanitize_line(&model.name)) }
                dl.facts { @for (key, value) in &model.provenance {
                    dt { (sanitize_line(key)) } dd { (or_dash(value)) }
                } }
            }
            h3 { "Tables" }
            p {
                "Every number of this page and of its figures is in these CSV tables: "
                (table_links(view, embedded))
            }
        }
    }
}

/// The CSV tables that have rows. Those that the page contains are links.
fn table_links(view: &ReportView, embedded: &EmbeddedFiles) -> Markup {
    let files = view.tables.row_counts();
    html! {
        @for (file, rows) in files.iter().filter(|(_, rows)| *rows > 0) {
            @let path = format!("tables/{file}.csv");
            @match embedded.link(&path, &format!("{file}.csv")) {
                Some(link) => (link),
                None => { code { (path) } " beside the page" },
            }
            " (" (counted(*rows as f64, "rows")) ") "
        }
        @if files.iter().all(|(_, rows)| *rows == 0) { "none yet." }
    }
}

/// A term of a definition list with its values, unless there are none.
fn definition_entry(label: &str, values: &[String]) -> Markup {
    html! {
        @if !values.is_empty() {
            dt { (label) }
            dd { @for (i, value) in values.iter().enumerate() {
                @if i > 0 { ", " }
                code { (value) }
            } }
        }
    }
}

fn estimator_labels(view: &ReportView) -> Vec<String> {
    unique_labels(view.groups.iter().flat_map(|group| group.estimators()))
}

/// Each label once, without empty ones.
fn unique_labels<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut all: Vec<String> = vec![];
    for name in names.filter(|name| !name.is_empty()).map(sanitize_line) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// The text, or a dash if it is empty.
fn or_dash(text: &str) -> String {
    if text.trim().is_empty() {
        ABSENT.into()
    } else {
        sanitize_line(text)
    }
}
