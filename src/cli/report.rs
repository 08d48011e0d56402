//! `flowgauge report DIR...`: rebuilds the derived files of runs, or exports what they say.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::Exit;
use super::console::{Answer, JsonArgs};
use super::opened_run::OpenedRuns;
use super::run_summary::{add_run_tables, answer_line, run_document};
use crate::gate::check_claims;
use crate::gate::claims::Claims;
use crate::host::today;
use crate::hub;
use crate::journal;
use crate::output::{check_output_folder, write_atomic};
use crate::publish;
use crate::report::export::{EXPORT_FORMS, ExportForm, ExportSource};
use crate::report::paper::{FigureFont, FigureWidth, FontSize, PaperStyle, draw_paper_figures};
use crate::rows::ClaimResult;
use crate::status;
use crate::store::is_address;

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge report reports/quickstart --export latex --columns estimator,nats,cost
  flowgauge report reports/quickstart --figures paper --width 84mm
  flowgauge report reports/first reports/second --out reports/both --json";

/// The arguments of `flowgauge report`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReportArgs {
    /// Run directories: the shards of one run give one report, each other run gives its own. The
    /// address of a run in an object store gets its report there
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
    /// Write the figures for a paper to this folder instead: each as SVG and PDF without title, with
    /// its data as CSV and its caption
    #[arg(long, value_name = "DIR", conflicts_with_all = ["export", "out"])]
    figures: Option<PathBuf>,
    /// The width of these figures: `column` (3.25in), `text` (5.5in), `page` (6.75in), or a length in
    /// mm, cm, in or pt [default: column]
    #[arg(long, value_name = "WIDTH", requires = "figures")]
    width: Option<FigureWidth>,
    /// The TrueType or OpenType file of their letters [default: DejaVu Sans]
    #[arg(long, value_name = "FILE", requires = "figures")]
    font: Option<PathBuf>,
    /// The size of their letters [default: 8pt]
    #[arg(long, value_name = "SIZE", requires = "figures")]
    font_size: Option<FontSize>,
    /// Print nothing
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
    #[command(flatten)]
    json: JsonArgs,
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
        let runs = OpenedRuns::open(&self.dirs)?;
        for place in [&self.out, &self.figures].into_iter().flatten() {
            refuse_address(place)?;
        }
        if let Some(form) = self.export {
            return self.export(form, &runs);
        }
        if let Some(folder) = &self.figures {
            return self.draw_figures(folder, &runs);
        }
        let reports = runs.with(|dirs| publish::publish_runs(dirs, self.out.as_deref()))?;
        if self.out.is_none() {
            runs.put_reports()?;
        }
        let mut lines: Vec<String> = Vec::new();
        let mut documents = Vec::new();
        let mut parts = Answer::new("report", "");
        for report in &reports {
            if reports.len() > 1 {
                parts.heading(format!("run {}", report.results.name));
            }
            add_run_tables(&mut parts, &report.results);
            for folder in &report.folders {
                let page = runs.shown(folder).join("index.html");
                lines.push(answer_line(&report.results, &page));
                documents.push(run_document(&report.results, &page)?);
            }
        }
        let last = lines.pop().unwrap_or_default();
        if !lines.is_empty() {
            parts.say("");
            lines.into_iter().for_each(|line| parts.say(line));
        }
        parts.set("reports", documents);
        if !self.quiet {
            for lost in status::lost_shards_in(&runs.dirs)? {
                errln!(
                    "flowgauge: shard {} has {} outstanding trials and no process; `{}` runs them",
                    lost.shard,
                    lost.outstanding,
                    lost.command
                );
            }
        }
        match self.quiet {
            true => Ok(Exit::Success),
            false => Ok(parts.ending_in(last).show(self.json, None, Exit::Success)),
        }
    }

    /// Writes the figures for a paper.
    ///
    /// # Errors
    /// Fails if the runs or the font cannot be read, if there is no figure, or if a file cannot be
    /// written.
    fn draw_figures(&self, folder: &Path, runs: &OpenedRuns) -> Result<Exit> {
        let font = match &self.font {
            Some(file) => FigureFont::from_file(file).context("--font")?,
            None => FigureFont::default(),
        };
        let style = PaperStyle {
            width: self.width.unwrap_or_default(),
            font_size: self.font_size.unwrap_or_default(),
            font,
        };
        check_output_folder(folder).context("--figures")?;
        let (tables, facts) = runs.with(publish::read_tables_and_facts)?;
        let figures = draw_paper_figures(&tables, &facts, &style)?;
        if figures.is_empty() {
            bail!("the run has no figures: no trial has finished that one could be drawn of");
        }
        for figure in &figures {
            let file = |ending: &str| folder.join(format!("{}.{ending}", figure.name));
            write_atomic(&file("svg"), figure.svg.as_bytes())?;
            write_atomic(&file("pdf"), &figure.pdf)?;
            write_atomic(&file("csv"), figure.data.as_bytes())?;
            write_atomic(&file("txt"), format!("{}\n", figure.caption).as_bytes())?;
        }
        let names: Vec<&str> = figures.iter().map(|figure| figure.name.as_str()).collect();
        let mut answer = Answer::new("report", "");
        answer.set("figures", &names);
        answer.set_path("folder", folder);
        let last = format!("{} figures in {}", figures.len(), folder.display());
        match self.quiet {
            true => Ok(Exit::Success),
            false => Ok(answer.ending_in(last).show(self.json, None, Exit::Success)),
        }
    }

    /// Writes one export, or prints it.
    ///
    /// # Errors
    /// Fails if the runs cannot be read, if the form lacks something, or if a file cannot be written.
    fn export(&self, form: &ExportForm, runs: &OpenedRuns) -> Result<Exit> {
        if self.json.json && self.out.is_none() {
            bail!(
                "--json: standard output takes the document, and the export is printed there too; \
                 name a file by --out"
            );
        }
        if form.is_folder && self.out.is_none() {
            bail!(
                "--export {}: it is a folder of files; name it by --out",
                form.name
            );
        }
        let (tables, facts) = runs.with(publish::read_tables_and_facts)?;
        let claims: Vec<ClaimResult> = match &self.claims {
            None => Vec::new(),
            Some(file) => {
                let claims = Claims::read(&hub::local_path(file)?)?;
                let results =
                    check_claims(&tables, &claims).with_context(|| file.display().to_string())?;
                results.into_iter().map(|(_, result)| result).collect()
            }
        };
        let run_files = match &runs.dirs[..] {
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
        let mut written = Vec::new();
        match (&self.out, form.is_folder, &files[..]) {
            (None, _, [file]) => {
                outln!("{}", String::from_utf8_lossy(&file.content).trim_end());
                return Ok(Exit::Success);
            }
            (Some(out), false, [file]) => {
                let at = match out.is_dir() {
                    true => out.join(&file.name),
                    false => out.clone(),
                };
                written.push(self.write(&at, &file.content, runs)?);
            }
            (Some(out), _, files) => {
                check_output_folder(out)?;
                for file in files {
                    written.push(self.write(&out.join(&file.name), &file.content, runs)?);
                }
            }
            (None, _, _) => {}
        }
        if self.quiet {
            return Ok(Exit::Success);
        }
        let line = match &written[..] {
            [file] => format!("{} export: {file}", form.name),
            files => format!("{} export: {} files", form.name, files.len()),
        };
        let mut answer = Answer::new("report", line);
        if written.len() > 1 {
            written.iter().for_each(|file| answer.say(file.as_str()));
        }
        answer.set("export", form.name);
        answer.set("files", &written);
        Ok(answer.show(self.json, None, Exit::Success))
    }

    /// Writes one file and returns its path.
    ///
    /// # Errors
    /// Fails if the file is one of a run, or cannot be written.
    fn write(&self, at: &Path, content: &[u8], runs: &OpenedRuns) -> Result<String> {
        let own = |file: &PathBuf| same_file::is_same_file(file, at).unwrap_or(false);
        let inputs = runs.dirs.iter().flat_map(|dir| journal::run_files(dir));
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
        Ok(at.display().to_string())
    }
}

/// Refuses an address where a folder or a file is to be written.
///
/// # Errors
/// Fails if the path is an address.
fn refuse_address(place: &Path) -> Result<()> {
    match is_address(place) {
        None => Ok(()),
        Some(address) => bail!(
            "{address}: only a report of one run is written to an object store, beside the run; \
             expected a path of this machine"
        ),
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
