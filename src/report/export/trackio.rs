//! A logbook of Trackio: a page with the tables, and a page for each claim with its verdict.
//!
//! The folder is the source of a logbook; `trackio logbook sync` makes its site from it.

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::columns::export_tables;
use super::markdown::{claims_table, markdown_table, markdown_text};
use super::sentence::{VERSION, how_measured};
use super::{ExportSource, ExportedFile, check_has_claims};
use crate::host::hex;
use crate::report::text::slug;
use crate::rows::ClaimResult;

/// The version of the format of `logbook.json` that Trackio 0.43 writes.
const SCHEMA: u32 = 2;

/// The pages, the list of them, and the workspace of the logbook.
pub(super) fn logbook_files(source: &ExportSource) -> Result<Vec<ExportedFile>> {
    check_has_claims(source, "trackio")?;
    let title = format!("Results of {}", source.facts.name);
    let time = format!("{}T00:00:00+00:00", source.date);
    let mut pages: Vec<(String, String, String)> = Vec::new();
    let summary = |place: &str| -> Result<String> {
        let mut text = cell(
            "Verdicts",
            place,
            &time,
            &claims_table(source).unwrap_or_default(),
        );
        for table in export_tables(source)? {
            text += &cell(table.label, place, &time, &markdown_table(&table));
        }
        Ok(text
            + &cell(
                "How it was measured",
                place,
                &time,
                &markdown_text(&how_measured(source)),
            ))
    };
    pages.push((
        "results".to_owned(),
        "Results".to_owned(),
        summary("results")?,
    ));
    for claim in source.claims {
        let mut page = slug(&claim.claim);
        // Two claims may have names that differ only in what a slug leaves out.
        while pages.iter().any(|(known, ..)| *known == page) {
            page += "-2";
        }
        let body = cell("Verdict", &page, &time, &claim_text(claim))
            + &cell("Evidence", &page, &time, &evidence(source));
        pages.push((page, single(&claim.claim), body));
    }
    let child = |(page, title, _): &(String, String, String)| -> Value {
        json!({
            "slug": page,
            "title": title,
            "file": format!("pages/{page}/page.md"),
            "children": [],
        })
    };
    let logbook = json!({
        "schema_version": SCHEMA,
        "title": title,
        "emoji": "📏",
        "space_id": null,
        "paper": null,
        "tags": [],
        "updated_at": time,
        "root": {
            "slug": "index",
            "title": title,
            "file": "pages/index.md",
            "children": pages.iter().map(child).collect::<Vec<_>>(),
        },
        "traces": [],
    });
    let metadata = json!({
        "space_id": null,
        "emoji": "📏",
        "created_at": time,
        "last_page": "results",
    });
    let links: String = (pages.iter())
        .map(|(page, title, _)| format!("| [{}](#/{page}) |\n", markdown_text(title)))
        .collect();
    let index = format!(
        "# {}\n\n## Pages\n\n| Page |\n| --- |\n{links}",
        markdown_text(&title)
    );
    let mut files = vec![
        ExportedFile::text(
            ".trackio/metadata.json",
            serde_json::to_string_pretty(&metadata)?,
        ),
        ExportedFile::text(
            ".trackio/logbook/logbook.json",
            serde_json::to_string_pretty(&logbook)?,
        ),
        ExportedFile::text(".trackio/logbook/pages/index.md", index),
    ];
    files.extend(pages.into_iter().map(|(page, title, body)| {
        ExportedFile::text(
            &format!(".trackio/logbook/pages/{page}/page.md"),
            format!("# {}\n{body}", markdown_text(&title)),
        )
    }));
    Ok(files)
}

/// A text on one line.
fn single(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A cell of Markdown. Its number follows from its place, so that the same run gives the same logbook.
fn cell(title: &str, page: &str, time: &str, body: &str) -> String {
    let number = hex(&Sha256::digest(format!("{page}\n{title}").as_bytes()));
    let head = json!({
        "type": "markdown",
        "id": format!("cell_{}", &number[..12]),
        "created_at": time,
        "title": title,
    });
    format!("\n\n---\n<!-- trackio-cell\n{head}\n-->\n{body}\n")
}

fn claim_text(claim: &ClaimResult) -> String {
    let number = |value: Option<f64>| value.map_or("–".to_owned(), |v| v.to_string());
    format!(
        "**{}**: `{}.{}` was measured as {}, with the interval [{}, {}] at {} %; claimed is [{}, {}]. \
         Decided by the {}.{}\n\nSource of the claim: {}\n",
        claim.verdict,
        claim.table,
        claim.column,
        number(claim.measured),
        number(claim.low),
        number(claim.high),
        100.0 * claim.confidence,
        number(claim.claimed_low),
        number(claim.claimed_high),
        claim.decided_by,
        match claim.note.is_empty() {
            true => String::new(),
            false => format!(" {}.", markdown_text(&claim.note)),
        },
        match claim.source.is_empty() {
            true => "not said".to_owned(),
            false => markdown_text(&claim.source),
        }
    )
}

/// The command, and the hashes of what it measured.
fn evidence(source: &ExportSource) -> String {
    let mut out = format!(
        "flowgauge {VERSION}, `flowgauge run config.yaml` with seed {}, then `flowgauge gate`.\n\n| file | \
         SHA-256 |\n| --- | --- |\n",
        markdown_text(&source.facts.seed)
    );
    let files = (source.facts.models.iter())
        .flat_map(|model| model.files.iter().map(|(name, hash)| (name, hash)))
        .chain(
            source
                .facts
                .data
                .iter()
                .map(|data| (&data.file, &data.sha256)),
        );
    for (name, hash) in files {
        out += &format!("| {} | `{}` |\n", markdown_text(name), markdown_text(hash));
    }
    out
}
