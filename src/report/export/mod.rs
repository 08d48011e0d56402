//! What a run says, in the forms that papers, issues, model cards and other programs take.
//!
//! A new form is a file here, a `mod` line and a line in [`EXPORT_FORMS`].

mod columns;
mod eval_results;
mod json;
mod junit;
mod latex;
mod markdown;
mod model_index;
mod parquet_tables;
mod research_object;
mod sentence;
mod trackio;

use anyhow::{Result, bail};

use super::Facts;
use crate::rows::{ClaimResult, Tables};

/// What is exported.
pub(crate) struct ExportSource<'a> {
    pub tables: &'a Tables,
    pub facts: &'a Facts,
    /// The verdicts of a file of claims; empty without one.
    pub claims: &'a [ClaimResult],
    /// The columns to show, by their names; empty for all.
    pub columns: &'a [String],
    /// The datasets of the Hub that the run's datasets are, as pairs of names.
    pub hub_datasets: &'a [(String, String)],
    /// The day of the export, as `2026-11-30`.
    pub date: &'a str,
    /// The files of the run's directory with their sizes in bytes, relative to it.
    pub run_files: &'a [(String, u64)],
}

/// A file of an export, relative to the folder of the export.
pub(crate) struct ExportedFile {
    pub name: String,
    pub content: Vec<u8>,
}

impl ExportedFile {
    fn text(name: &str, content: String) -> ExportedFile {
        ExportedFile {
            name: name.to_owned(),
            content: content.into_bytes(),
        }
    }
}

/// One form of an export.
#[derive(Debug)]
pub(crate) struct ExportForm {
    /// The word after `--export`.
    pub name: &'static str,
    /// What it is for, for the help.
    pub purpose: &'static str,
    /// Whether it is a folder of files instead of one text.
    pub is_folder: bool,
    write: fn(&ExportSource) -> Result<Vec<ExportedFile>>,
}

/// Every form, in the order of the help.
pub(crate) const EXPORT_FORMS: [ExportForm; 9] = [
    form(
        "latex",
        "tables for a paper (booktabs), and how they were measured",
        false,
        latex::latex_document,
    ),
    form(
        "markdown",
        "the same tables for issues and pages",
        false,
        markdown::markdown_document,
    ),
    form(
        "json",
        "every table and what is known of the run, typed",
        false,
        json::json_document,
    ),
    form(
        "parquet",
        "a file for every table",
        true,
        parquet_tables::parquet_files,
    ),
    form(
        "model-index",
        "results in a model card's metadata",
        false,
        model_index::model_index,
    ),
    form(
        "eval-results",
        "results beside a model on the Hub",
        false,
        eval_results::eval_results,
    ),
    form(
        "junit",
        "the verdicts of --claims for continuous integration",
        false,
        junit::junit_document,
    ),
    form(
        "trackio",
        "a logbook with a page for each of --claims",
        true,
        trackio::logbook_files,
    ),
    form(
        "ro-crate",
        "the run's directory as a research object",
        false,
        research_object::crate_metadata,
    ),
];

const fn form(
    name: &'static str,
    purpose: &'static str,
    is_folder: bool,
    write: fn(&ExportSource) -> Result<Vec<ExportedFile>>,
) -> ExportForm {
    ExportForm {
        name,
        purpose,
        is_folder,
        write,
    }
}

impl ExportForm {
    /// The form called `name`.
    pub(crate) fn from_name(name: &str) -> Option<&'static ExportForm> {
        EXPORT_FORMS.iter().find(|form| form.name == name)
    }

    /// The files of the export.
    ///
    /// # Errors
    /// Fails if the form needs something that the source lacks, or if a column does not exist.
    pub(crate) fn export(&self, source: &ExportSource) -> Result<Vec<ExportedFile>> {
        (self.write)(source)
    }
}

/// Fails unless there are verdicts of claims.
fn check_has_claims(source: &ExportSource, form: &str) -> Result<()> {
    if source.claims.is_empty() {
        bail!("--export {form}: it holds verdicts of claims; give their file by --claims");
    }
    Ok(())
}
