//! What a verb found: tables and lines for readers with one line at the end, or a document for programs.

use std::path::Path;

use anstyle::Style;
use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::table::AlignedTable;
use super::{HEADING, print_stdout, terminal_width};
use crate::cli::Exit;
use crate::output::Output;

/// The format number of documents; it rises where a key is renamed, removed or gets another meaning.
const FORMAT: u32 = 1;

/// The option of verbs that print results.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(in crate::cli) struct JsonArgs {
    /// Print one JSON document on standard output and nothing else there
    #[arg(long)]
    pub json: bool,
}

impl JsonArgs {
    /// Refuses `--json` where standard output is the result's file.
    ///
    /// # Errors
    /// Fails if both are asked for.
    pub(in crate::cli) fn check(self, out: Option<&Output>) -> Result<()> {
        if self.json && out.is_some_and(Output::is_stdout) {
            bail!(
                "--json: standard output takes the document, and --out writes the result there too; \
                 expected a file after --out"
            );
        }
        Ok(())
    }
}

/// A number of a document with its standard error and its unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(in crate::cli) struct Quantity {
    /// The value; null if there is none.
    pub value: Option<f64>,
    /// The standard error of the value; null if there is none.
    pub stderr: Option<f64>,
    pub unit: &'static str,
}

impl Quantity {
    /// A number with its error.
    pub(in crate::cli) fn new(
        value: Option<f64>,
        stderr: Option<f64>,
        unit: &'static str,
    ) -> Quantity {
        let finite = |number: Option<f64>| number.filter(|number| number.is_finite());
        Quantity {
            value: finite(value),
            stderr: finite(stderr),
            unit,
        }
    }
}

/// A part of the text of an answer.
enum AnswerPart {
    Table(AlignedTable),
    Line(String, Style),
}

/// What a verb found.
pub(in crate::cli) struct Answer {
    verb: &'static str,
    parts: Vec<AnswerPart>,
    /// The keys of the document, in their order.
    document: Map<String, Value>,
    /// The last line: what was found, and where it is.
    line: String,
}

impl Answer {
    /// The answer of a verb, which ends in `line`: what was found, and where it is.
    pub(in crate::cli) fn new(verb: &'static str, line: impl Into<String>) -> Answer {
        Answer {
            verb,
            parts: Vec::new(),
            document: Map::new(),
            line: line.into(),
        }
    }

    /// The answer with another last line.
    pub(in crate::cli) fn ending_in(self, line: impl Into<String>) -> Answer {
        Answer {
            line: line.into(),
            ..self
        }
    }

    /// Appends a table, unless it has no rows.
    pub(in crate::cli) fn table(&mut self, table: AlignedTable) {
        if !table.is_empty() {
            self.parts.push(AnswerPart::Table(table));
        }
    }

    /// Appends a line.
    pub(in crate::cli) fn say(&mut self, text: impl Into<String>) {
        self.parts.push(AnswerPart::Line(text.into(), Style::new()));
    }

    /// Appends a heading, with an empty line before it unless it is the first line.
    pub(in crate::cli) fn heading(&mut self, text: impl Into<String>) {
        if !self.parts.is_empty() {
            self.say("");
        }
        self.parts.push(AnswerPart::Line(text.into(), HEADING));
    }

    /// Appends the text of another answer, whose document becomes a key and whose last line is taken.
    pub(in crate::cli) fn append(&mut self, key: &str, other: Answer) {
        self.parts.extend(other.parts);
        self.set(key, other.document);
        self.line = other.line;
    }

    /// Sets a key of the document.
    pub(in crate::cli) fn set(&mut self, key: &str, value: impl Serialize) {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        self.document.insert(key.to_owned(), value);
    }

    /// Sets a key of the document to a path.
    pub(in crate::cli) fn set_path(&mut self, key: &str, path: &Path) {
        self.set(key, path.display().to_string());
    }

    /// Prints the answer and returns how the verb ends: the document on standard output, or the text.
    /// The text goes to standard error if `out` is standard output.
    pub(in crate::cli) fn show(self, json: JsonArgs, out: Option<&Output>, exit: Exit) -> Exit {
        if json.json {
            print_stdout(format_args!("{}\n", self.document(exit)));
        } else if out.is_some_and(Output::is_stdout) {
            let text = self.text(None);
            for line in text.lines() {
                errln!("{line}");
            }
            errln!("flowgauge: {}", self.line);
        } else {
            let text = self.text(terminal_width());
            print_stdout(format_args!("{text}{}\n", self.line));
        }
        exit
    }

    /// The tables and lines before the last line, with an empty line at the end if there are any.
    fn text(&self, width: Option<usize>) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                AnswerPart::Table(table) => text += &table.render(width),
                AnswerPart::Line(line, style) if style.is_plain() => text += &format!("{line}\n"),
                AnswerPart::Line(line, style) => {
                    text += &format!("{}{line}{}\n", style.render(), style.render_reset());
                }
            }
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }

    /// The document.
    fn document(&self, exit: Exit) -> String {
        let mut document = Map::new();
        document.insert("flowgauge".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        document.insert("format".to_owned(), json!(FORMAT));
        document.insert("verb".to_owned(), json!(self.verb));
        document.insert("exit_status".to_owned(), json!(exit.status()));
        document.insert("answer".to_owned(), json!(self.line));
        document.extend(self.document.clone());
        serde_json::to_string_pretty(&document).unwrap_or_default()
    }
}

/// The tables and lines of an answer without colours, for tests of what readers see.
#[cfg(test)]
pub(in crate::cli) fn plain_text(answer: &Answer) -> String {
    anstream::adapter::strip_str(&answer.text(None)).to_string()
}
