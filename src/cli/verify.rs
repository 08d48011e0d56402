//! `flowgauge verify DIR`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{Exit, Running, summary};
use crate::journal::config_changed;
use crate::output::{Kind, Output};
use crate::rows::as_csv;
use crate::run::under;
use crate::verify::{Checked, Line, Opened, Options, Verdict, verify};

#[derive(Debug, Args)]
pub struct Verify {
    /// The run directory
    dir: PathBuf,
    /// The part of every kind of row that is recomputed, above 0 and at most 1
    #[arg(long, default_value_t = 0.05, value_parser = fraction)]
    fraction: f64,
    /// Which rows: another seed recomputes others
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Writes the verdict of every row to this table instead of standard output
    #[arg(long, value_name = "CSV")]
    out: Option<PathBuf>,
    #[command(flatten)]
    running: Running,
}

impl Verify {
    pub fn execute(self) -> Result<Exit> {
        let opened = Opened::read(&self.dir)?;
        let out = self
            .out
            .as_deref()
            .map(|out| Output::new(Kind::Table, "--out", out, &opened.inputs()))
            .transpose()?;
        let (runtime, machine) = (self.running.runtime()?, self.running.machine());
        if let Some(changed) = config_changed(&self.dir, &opened.file) {
            note!("flowgauge: {}: {changed}", self.dir.display());
        }
        let options = Options {
            fraction: self.fraction,
            seed: self.seed,
            machine,
        };
        let mut checked: Vec<Checked> = Vec::new();
        let rows = verify(&opened, runtime, &options, &mut |row| {
            if out.is_none() {
                print(&row);
            }
            checked.push(row);
        })?;
        if let Some(out) = &out {
            let lines: Vec<Line> = checked.iter().map(Checked::line).collect();
            out.write(&as_csv(&lines)?)?;
        }
        let count = |verdict| {
            checked
                .iter()
                .filter(|c| c.compared.verdict == verdict)
                .count()
        };
        let [same, drift, other] = [Verdict::Match, Verdict::Drift, Verdict::Mismatch].map(count);
        let in_rows = |c: &&Checked| {
            c.file.starts_with("rows/") && !c.file.ends_with(".steps.csv") && c.line.is_some()
        };
        let of_rows = checked.iter().filter(in_rows).count();
        let others = checked.len() - of_rows;
        summary(
            out.as_ref(),
            format_args!(
                "{of_rows} of {rows} rows verified, and {others} others (samples, steps, tables): \
             {same} match, {drift} drift, {other} mismatch"
            ),
        );
        if !self.running.quiet {
            let there: Vec<&str> = opened.journal.under().into_keys().collect();
            let (here, there) = (under(runtime, machine), there.join(" | "));
            note!("flowgauge: the run: {there}; here: {here}");
        }
        Ok(if other > 0 { Exit::Failed } else { Exit::Well })
    }
}

fn print(row: &Checked) {
    let Line {
        verdict,
        file,
        line,
        what,
        column,
        stored,
        recomputed,
        difference,
        tolerance,
    } = row.line();
    let place = line.map_or(file.to_owned(), |line| format!("{file}:{line}"));
    let number = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.3e}"));
    let detail = match (verdict, difference) {
        ("match", _) => String::new(),
        (_, None) if recomputed.is_empty() && column.is_empty() => format!(": {stored}"),
        (_, None) => {
            format!("; {column} stored {stored:?}, recomputed {recomputed:?}").replace("  ", " ")
        }
        _ => format!(
            "; {column} stored {stored}, recomputed {recomputed}, difference {}, tolerance {}",
            number(difference),
            number(tolerance)
        ),
    };
    say!("{verdict:<9} {place}  {what}{detail}");
}

fn fraction(text: &str) -> Result<f64, String> {
    let right = text.parse().ok().filter(|f: &f64| *f > 0.0 && *f <= 1.0);
    right.ok_or_else(|| "expected a number above 0 and at most 1".to_owned())
}
