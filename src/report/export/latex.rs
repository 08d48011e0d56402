//! Tables for a paper, in LaTeX with booktabs.

use std::fmt::Write;

use anyhow::Result;

use super::columns::{ExportCell, ExportTable, export_tables};
use super::sentence::{VERSION, bibtex, how_measured};
use super::{ExportSource, ExportedFile};
use crate::report::text::{sanitize_line, slug};

/// All tables, with the way they were measured and a bibliography entry as comments.
pub(super) fn latex_document(source: &ExportSource) -> Result<Vec<ExportedFile>> {
    let mut out =
        format!("% Written by flowgauge {VERSION}. The preamble needs \\usepackage{{booktabs}}.\n");
    for table in export_tables(source)? {
        out += &latex_table(&table, &slug(&source.facts.name));
    }
    let comment = |text: &str| -> String {
        text.lines()
            .map(|line| format!("% {}\n", sanitize_line(line)))
            .collect()
    };
    out += "\n% How this was measured:\n";
    out += &comment(&latex_text(&how_measured(source)));
    out += "%\n";
    out += &comment(&bibtex(&source.date[..source.date.len().min(4)]));
    Ok(vec![ExportedFile::text("tables.tex", out)])
}

fn latex_table(table: &ExportTable, run: &str) -> String {
    let alignment: String = (table.headings.iter())
        .map(|heading| if heading.is_number { 'r' } else { 'l' })
        .collect();
    let headings: Vec<String> = table
        .headings
        .iter()
        .map(|heading| latex_text(&heading.text))
        .collect();
    let mut out = String::new();
    let _ = write!(
        out,
        "\n\\begin{{table}}\n  \\centering\n  \\caption{{{}}}\n  \\label{{tab:{run}-{}}}\n  \
         \\begin{{tabular}}{{@{{}}{alignment}@{{}}}}\n    \\toprule\n    {} \\\\\n    \\midrule\n",
        latex_text(&table.caption),
        table.label,
        headings.join(" & ")
    );
    for row in &table.rows {
        let cells: Vec<String> = row.iter().map(latex_cell).collect();
        let _ = writeln!(out, "    {} \\\\", cells.join(" & "));
    }
    out + "    \\bottomrule\n  \\end{tabular}\n\\end{table}\n"
}

fn latex_cell(cell: &ExportCell) -> String {
    match cell {
        ExportCell::Text(text) => latex_text(text),
        ExportCell::Number { value: None, .. } => "--".to_owned(),
        ExportCell::Number { best, .. } => {
            let math = latex_math(&cell.text());
            match best {
                true => format!("$\\mathbf{{{math}}}$"),
                false => format!("${math}$"),
            }
        }
        ExportCell::Count(_) => format!("${}$", latex_math(&cell.text())),
    }
}

/// A formatted number in math mode: `(2.5 ± 0.1)×10⁹` becomes `(2.5 \pm 0.1)\times 10^{9}`.
fn latex_math(number: &str) -> String {
    let mut out = String::new();
    let mut is_raised = false;
    for c in number.chars() {
        let raised = "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().position(|digit| digit == c);
        let raised = raised
            .map(|digit| digit.to_string())
            .or((c == '⁻').then(|| "-".to_owned()));
        if raised.is_some() != is_raised {
            out += if is_raised { "}" } else { "^{" };
            is_raised = raised.is_some();
        }
        match (raised, c) {
            (Some(digit), _) => out += &digit,
            (None, '±') => out += "\\pm",
            (None, '×') => out += "\\times ",
            (None, '−') => out += "-",
            (None, ',') => out += "{,}",
            (None, '–') => out += "\\text{--}",
            (None, c) => out.push(c),
        }
    }
    if is_raised {
        out += "}";
    }
    out
}

/// A text with every character that LaTeX would interpret escaped, so that no name is a command.
/// Characters that pdflatex may not have become a question mark.
fn latex_text(text: &str) -> String {
    let mut out = String::new();
    for c in sanitize_line(text).chars() {
        match c {
            '\\' => out += "\\textbackslash{}",
            '~' => out += "\\textasciitilde{}",
            '^' => out += "\\textasciicircum{}",
            '<' => out += "\\textless{}",
            '>' => out += "\\textgreater{}",
            '|' => out += "\\textbar{}",
            '"' => out += "\\textquotedbl{}",
            '`' => out += "\\textasciigrave{}",
            '\'' => out += "\\textquotesingle{}",
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(c);
            }
            '±' => out += "$\\pm$",
            '×' => out += "$\\times$",
            '−' => out += "$-$",
            '–' => out += "--",
            'π' => out += "$\\pi$",
            'σ' => out += "$\\sigma$",
            '²' => out += "$^2$",
            // A double hyphen would become a dash.
            '-' => out += "{-}",
            // At the start of a row they would belong to the end of the row before.
            '[' => out += "{[}",
            '*' => out += "{*}",
            c if c.is_ascii() => out.push(c),
            _ => out.push('?'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_math() {
        for (number, math) in [
            ("2.152 ± 0.016", "2.152 \\pm 0.016"),
            ("(2.5 ± 0.1)×10⁹", "(2.5 \\pm 0.1)\\times 10^{9}"),
            ("1.1×10⁻¹⁵", "1.1\\times 10^{-15}"),
            ("−0.0739", "-0.0739"),
            ("12,345", "12{,}345"),
        ] {
            assert_eq!(latex_math(number), math);
        }
    }

    #[test]
    fn names_are_no_commands() {
        let escaped = latex_text("\\input{/etc/passwd} $x$ 50% a_b #1 ~^ <&> σ²\n\u{202e}");
        for raw in ["\\input{", " $x", "0%", "a_b", " #1", " ~", " <", "\n"] {
            assert!(!escaped.contains(raw), "{raw}: {escaped}");
        }
        assert!(
            escaped.starts_with("\\textbackslash{}input\\{"),
            "{escaped}"
        );
    }
}
