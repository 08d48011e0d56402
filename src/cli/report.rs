//! `flowgauge report DIR...`: rebuilds the derived files of runs, or exports what they say.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::Exit;
use crate::gate::check_claims;
use crate::gate::claims::Claims;
use crate::host::today;
use crate::hub;
use crate::journal;
use crate::output::{check_output_folder, write_atomic};
use crate::publish;
use crate::report::export::{EXPORT_FORMS, ExportForm, ExportSource};
use crate::rows::ClaimResult;
use crate::status;

/// The arguments of `flowgauge report`.
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Run directories: the shards of one run give one report, each other run gives its own
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Write one report of all directories to this folder, with different runs side by side; with
    /// --export the file or the folder to write
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Export what the runs say: `latex` and `markdown` tables, `json` or `parquet` with all of it,
    /// `model-index` or `eval-results` for a model card, `junit` or `trackio` with the verdicts of
    /// --claims, or `ro-crate`; printed unless --out names a place
    #[arg(long, value_name = "FORM", value_parser = parse_form)]
    export: Option<&'static ExportForm>,
    /// The columns of `latex` and `markdown` tables, such as `estimator,nats,cost` [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "export")]
    columns: Vec<String>,
    /// The YAML file of published numbers whose verdicts are exported too
    #[arg(long, value_name = "FILE", requires = "export")]
    claims: Option<PathBuf>,
    /// The dataset of the Hub that a dataset of the run is; may be repeated
    #[arg(long, value_name = "NAME=ORG/REPO[:TASK]", value_parser = parse_dataset, requires = "export")]
    hub_dataset: Vec<(String, String)>,
    /// Print nothing
    #[arg(long)]
    quiet: bool,
}

/// Parses the name of a form.
fn parse_form(name: &str) -> Result<&'static ExportForm, String> {
    ExportForm::from_name(name).ok_or_else(|| {
        let known: Vec<String> = (EXPORT_FORMS.iter())
            .map(|form| format!("{} ({})", form.name, form.purpose))
            .collect();
        format!("expected {}", known.join(", "))
    })
}

/// Parses `NAME=ORG/REPO`.
fn parse_dataset(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, dataset)) if !name.is_empty() && dataset.contains('/') => {
            Ok((name.to_owned(), dataset.to_owned()))
        }
        _ => Err("expected NAME=ORG/REPO, with the name of a dataset of the run".to_owned()),
    }
}

impl ReportArgs {
    /// Writes the reports and prints the path of each `index.html`, or writes the export.
    ///
    /// # Errors
    /// Fails if a directory is not a run, or if a file cannot be written.
    pub(super) fn execute(self) -> Result<Exit> {
        if let Some(form) = self.export {
            return self.export(form);
        }
        for dir in publish::publish_runs(&self.dirs, self.out.as_deref())? {
            if !self.quiet {
                outln!("{}", dir.join("index.html").display());
            }
        }
        if !self.quiet {
            for lost in status::lost_shards_in(&self.dirs)? {
                errln!(
                    "flowgauge: shard {} has {} outstanding trials and no process; `{}` runs them",
                    lost.shard,
                    lost.outstanding,
                    lost.command
                );
            }
        }
        Ok(Exit::Success)
    }

    /// Writes one export, or prints it.
    ///
    /// # Errors
    /// Fails if the runs cannot be read, if the form lacks something, or if a file cannot be written.
    fn export(&self, form: &ExportForm) -> Result<Exit> {
        if form.is_folder && self.out.is_none() {
            bail!(
                "--export {}: it is a folder of files; name it by --out",
                form.name
            );
        }
        let (tables, facts) = publish::read_tables_and_facts(&self.dirs)?;
        let claims: Vec<ClaimResult> = match &self.claims {
            None => Vec::new(),
            Some(file) => {
                let claims = Claims::read(&hub::local_path(file)?)?;
                let results =
                    check_claims(&tables, &claims).with_context(|| file.display().to_string())?;
                results.into_iter().map(|(_, result)| result).collect()
            }
        };
        let run_files = match &self.dirs[..] {
            [dir] => files_below(dir)?,
            _ => Vec::new(),
        };
        let source = ExportSource {
            tables: &tables,
            facts: &facts,
            claims: &claims,
            columns: &self.columns,
            hub_datasets: &self.hub_dataset,
            date: &today(),
            run_files: &run_files,
        };
        let files = form.export(&source)?;
        match (&self.out, form.is_folder, &files[..]) {
            (None, _, [file]) => outln!("{}", String::from_utf8_lossy(&file.content).trim_end()),
            (Some(out), false, [file]) => {
                let at = match out.is_dir() {
                    true => out.join(&file.name),
                    false => out.clone(),
                };
                self.write(&at, &file.content)?;
            }
            (Some(out), _, files) => {
                check_output_folder(out)?;
                for file in files {
                    self.write(&out.join(&file.name), &file.content)?;
                }
            }
            (None, _, _) => {}
        }
        Ok(Exit::Success)
    }

    /// Writes one file and prints its path.
    ///
    /// # Errors
    /// Fails if the file is one of a run, or cannot be written.
    fn write(&self, at: &Path, content: &[u8]) -> Result<()> {
        let own = |file: &PathBuf| same_file::is_same_file(file, at).unwrap_or(false);
        let inputs = self.dirs.iter().flat_map(|dir| journal::run_files(dir));
        if let Some(input) = inputs.chain(self.claims.clone()).find(own) {
            bail!(
                "--out {}: it is a file of the run: {}",
                at.display(),
                input.display()
            );
        }
        if let Some(folder) = at.parent() {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        write_atomic(at, content)?;
        if !self.quiet {
            outln!("{}", at.display());
        }
        Ok(())
    }
}

/// The files below a folder with their sizes, relative to it and sorted.
fn files_below(folder: &Path) -> Result<Vec<(String, u64)>> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).with_context(|| at.display().to_string())? {
            let path = entry?.path();
            let name = path.strip_prefix(folder).unwrap_or(&path);
            match path.metadata() {
                Ok(metadata) if metadata.is_dir() => open.push(path),
                Ok(metadata) => {
                    found.push((name.to_string_lossy().replace('\\', "/"), metadata.len()))
                }
                Err(_) => {}
            }
        }
    }
    found.sort();
    Ok(found)
}
