//! Tables for issues, pull requests and pages, in the Markdown of GitHub.

use std::fmt::Write;

use anyhow::Result;

use super::columns::{ExportCell, ExportTable, export_tables};
use super::sentence::how_measured;
use super::{ExportSource, ExportedFile};
use crate::report::text::sanitize_line;

/// All tables, the verdicts of claims, and how the numbers were measured.
pub(super) fn markdown_document(source: &ExportSource) -> Result<Vec<ExportedFile>> {
    let mut parts: Vec<String> = export_tables(source)?.iter().map(markdown_table).collect();
    parts.extend(claims_table(source));
    parts.push(format!("{}\n", markdown_text(&how_measured(source))));
    Ok(vec![ExportedFile::text("tables.md", parts.join("\n"))])
}

/// One table below its caption.
pub(super) fn markdown_table(table: &ExportTable) -> String {
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = format!("{}\n\n", markdown_text(&table.caption));
    out += &row(table
        .headings
        .iter()
        .map(|h| markdown_text(&h.text))
        .collect());
    out += &row((table.headings.iter())
        .map(|h| if h.is_number { "--:" } else { "---" }.to_owned())
        .collect());
    for cells in &table.rows {
        let cell = |cell: &ExportCell| match cell {
            ExportCell::Number { best: true, .. } => format!("**{}**", cell.text()),
            ExportCell::Text(text) => markdown_text(text),
            other => other.text(),
        };
        out += &row(cells.iter().map(cell).collect());
    }
    out
}

/// The verdicts of claims; `None` without claims.
pub(super) fn claims_table(source: &ExportSource) -> Option<String> {
    if source.claims.is_empty() {
        return None;
    }
    let mut out = "| claim | verdict | measured | 95 % interval | claimed |\n\
                   | --- | --- | --: | --- | --- |\n"
        .to_owned();
    let number = |value: Option<f64>| value.map_or("–".to_owned(), |v| format!("{v}"));
    for claim in source.claims {
        let _ = writeln!(
            out,
            "| {} | {} | {} | [{}, {}] | [{}, {}] |",
            markdown_text(&claim.claim),
            claim.verdict,
            number(claim.measured),
            number(claim.low),
            number(claim.high),
            number(claim.claimed_low),
            number(claim.claimed_high)
        );
    }
    Some(out)
}

/// A text in which nothing is Markdown, HTML, a mention, a reference or a link.
pub(super) fn markdown_text(text: &str) -> String {
    let mut out = String::new();
    for c in sanitize_line(text).chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '@' => out += "&#64;",
            '#' => out += "&#35;",
            ':' => out += "&#58;",
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '(' | ')' | '!' | '|' | '~' | '$' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.replace("www.", "www&#46;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inert() {
        let text = markdown_text("a|b <img src=x> @user #12 [x](http://y) `c` **d** www.z.org");
        for live in [
            "|b", "<img", "@user", "#12", "](", "http:", " `c", " **d", "www.",
        ] {
            let escaped = text
                .replace("\\|", "")
                .replace("\\`", "")
                .replace("\\*", "");
            assert!(
                !escaped.replace("\\]\\(", "").contains(live),
                "{live}: {text}"
            );
        }
    }
}
