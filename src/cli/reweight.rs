//! `flowgauge reweight`: reweights samples to an unnormalized density.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use ndarray::{ArrayView2, Axis};
use serde::Serialize;

use super::console::{Align, AlignedTable, Answer, Cell, JsonArgs, Quantity, with_error};
use super::interrupt::stop_on_signal;
use super::run_summary::unit_of_quantity;
use super::{Exit, RuntimeArgs};
use crate::data::{Dataset, NumberKind, path_without_member};
use crate::model::loaded::{Model, SessionOptions};
use crate::model::state_function::StateFunction;
use crate::num::importance_weights::IntervalEstimate;
use crate::num::key::SampleId;
use crate::num::shape::{AxisLayout, RequestedLayout};
use crate::output::{Output, OutputKind, check_output_folder, write_atomic};
use crate::report::draw_weight_figures;
use crate::reweight::{ReweightedSamples, Reweighting};
use crate::rows::{Status, Tables, TextTable, WeightRow};
use crate::stop;

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge reweight --samples X.npy --log-density X.csv --model models/dw4/card.yaml --out weights.csv
  flowgauge reweight --samples X.npy --log-density X.csv --energy tests/data/reweight/gaussian.onnx --observable tests/data/reweight/square.onnx --out weights.csv --json";

/// The arguments of `flowgauge reweight`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReweightArgs {
    /// The samples, as `flowgauge sample` writes them: .npy, .npz, .safetensors, .csv or .parquet
    #[arg(long, value_name = "FILE")]
    samples: PathBuf,
    /// A table with the log-density of each sample under the model that drew it, as `flowgauge
    /// sample --density` and `flowgauge likelihood` write it
    ///
    /// Its columns `sample` and `log_likelihood` (nats) are read, and `stderr` and `status` if it
    /// has them. Samples without a log-density are left out and counted.
    #[arg(long, value_name = "CSV")]
    log_density: PathBuf,
    /// The energy u of the target with the density exp(-u), an ONNX file from a batch of samples to
    /// one number each
    #[arg(long, value_name = "ONNX", required_unless_present = "model")]
    energy: Option<PathBuf>,
    /// The factor of the energy, such as 1/kT
    #[arg(
        long,
        value_name = "FACTOR",
        default_value_t = 1.0,
        requires = "energy",
        allow_hyphen_values = true
    )]
    energy_scale: f64,
    /// A model card whose `energy` is the target's, instead of --energy
    #[arg(long, value_name = "CARD", conflicts_with = "energy")]
    model: Option<PathBuf>,
    /// An observable whose mean under the target is computed, an ONNX file from a batch of samples
    /// to one number each; may be repeated
    #[arg(long = "observable", value_name = "ONNX")]
    observables: Vec<PathBuf>,
    /// The order of the axes of the samples if it differs from that of the energy, one letter per
    /// axis, such as NHWC
    #[arg(long, value_name = "LETTERS")]
    layout: Option<AxisLayout>,
    /// The table to write (CSV); `-` is standard output
    #[arg(long, value_name = "CSV")]
    out: PathBuf,
    /// A folder for the figure of weights and energies (SVG and PNG)
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArgs,
    #[command(flatten)]
    pub(super) runtime_args: RuntimeArgs,
}

/// One row of the table: one quantity.
#[derive(Debug, Serialize)]
struct QuantityCsvRow<'a> {
    quantity: &'a str,
    value: f64,
    stderr: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
    n: usize,
}

impl ReweightArgs {
    /// Writes the table and prints a summary.
    ///
    /// # Errors
    /// Fails if an option or a file is wrong, or if a result cannot be written.
    pub(super) fn execute(self) -> Result<Exit> {
        if !(self.energy_scale.is_finite() && self.energy_scale != 0.0) {
            bail!(
                "--energy-scale {}: expected a number other than 0",
                self.energy_scale
            );
        }
        let names = observable_names(&self.observables)?;
        let model = self.model.as_deref().map(Model::open).transpose()?;
        let inputs: Vec<PathBuf> = [path_without_member(&self.samples), self.log_density.clone()]
            .into_iter()
            .chain(self.energy.clone())
            .chain(self.observables.clone())
            .chain(model.iter().flat_map(Model::file_paths))
            .collect();
        let out = Output::new(OutputKind::Table, "--out", &self.out, &inputs)?;
        self.json.check(Some(&out))?;
        if let Some(folder) = &self.plots {
            check_output_folder(folder).context("--plots")?;
        }
        let samples = self.read_samples(model.as_ref())?;
        let table = LogDensityTable::read(&self.log_density, samples.len())
            .with_context(|| format!("--log-density {}", self.log_density.display()))?;

        let machine = self.runtime_args.machine();
        let options = SessionOptions {
            provider: machine.provider,
            threads: machine.threads,
        };
        let runtime = self.runtime_args.runtime()?;
        let open = |file: &Path, scale: f64| StateFunction::open(file, scale, runtime, options);
        let mut energy = match (&self.energy, &model) {
            (Some(file), _) => open(file, self.energy_scale).context("--energy")?,
            (None, Some(model)) => model.energy(runtime, options)?,
            (None, None) => bail!("--energy is missing"),
        };
        let kept = table.kept_samples();
        let shape = samples.sample_shape();
        let x = samples.first_rows(samples.len()).select(Axis(0), &kept);
        stop_on_signal(None);
        let evaluated = self.evaluate(&mut energy, &names, &table, x.view(), shape, &open);
        let weighted = match evaluated {
            Err(_) if stop::requested() => {
                errln!("flowgauge: stopped; the same command starts again");
                return Ok(Exit::Stopped);
            }
            other => other?,
        };
        let found = weighted
            .reweight()
            .map_err(|e| anyhow!("{}: {e}", self.samples.display()))?;

        let figures = match &self.plots {
            Some(folder) => self.draw_figures(folder, &kept, &weighted, energy.file())?,
            None => Vec::new(),
        };
        let mut writer = csv::Writer::from_writer(Vec::new());
        for quantity in &found.quantities {
            let IntervalEstimate {
                value,
                stderr,
                low,
                high,
                n,
            } = quantity.estimate;
            writer.serialize(QuantityCsvRow {
                quantity: &quantity.name,
                value,
                stderr,
                low,
                high,
                n,
            })?;
        }
        let bytes = writer.into_inner().map_err(|e| anyhow!("{}", e.error()))?;
        out.write(&bytes)?;
        for (path, bytes) in figures {
            write_atomic(&path, &bytes)?;
        }
        let left_out = samples.len() - kept.len();
        if left_out > 0 {
            errln!(
                "flowgauge: {}: {left_out} of {} samples have no log-density and are left out; \
                 every number is of the others",
                self.log_density.display(),
                samples.len()
            );
        }
        for remark in &found.remarks {
            errln!("flowgauge: {remark}");
        }
        let mut answer = answer(&found, &self.out);
        answer.set("left_out", left_out);
        answer.set_path("table", &self.out);
        answer.set("plots", &self.plots);
        Ok(answer.show(self.json, Some(&out), Exit::Success))
    }

    /// Evaluates the energy and the observables on the samples `x` that have a log-density.
    ///
    /// # Errors
    /// Fails if a file cannot be opened, or if a network cannot be evaluated.
    fn evaluate(
        &self,
        energy: &mut StateFunction,
        names: &[String],
        table: &LogDensityTable,
        x: ArrayView2<f64>,
        shape: &[usize],
        open: &dyn Fn(&Path, f64) -> Result<StateFunction>,
    ) -> Result<ReweightedSamples> {
        let samples: Vec<SampleId> = table
            .kept_samples()
            .iter()
            .map(|i| *i as SampleId)
            .collect();
        let energies = energy.evaluate(&samples, x, shape).context("--energy")?;
        let mut observables = Vec::new();
        for (name, file) in names.iter().zip(&self.observables) {
            let mut network = open(file, 1.0).context("--observable")?;
            let values = network
                .evaluate(&samples, x, shape)
                .context("--observable")?;
            observables.push((name.clone(), values));
        }
        Ok(ReweightedSamples {
            log_densities: table.rows.values().map(|row| row.value).collect(),
            stderrs: table.rows.values().map(|row| row.stderr).collect(),
            energies,
            observables,
        })
    }

    /// Reads the samples in the order of axes that the user names.
    ///
    /// # Errors
    /// Fails if they cannot be read, if they are integers, or if they do not fit the card.
    fn read_samples(&self, model: Option<&Model>) -> Result<Dataset> {
        let mut samples = Dataset::read(&self.samples)?;
        if matches!(
            samples.number_kind,
            NumberKind::Integers | NumberKind::Uint8
        ) {
            bail!(
                "--samples {}: it holds integers, which have no density; expected floats in the \
                 coordinates of the energy",
                self.samples.display()
            );
        }
        if let Some(layout) = &self.layout {
            samples = match model {
                Some(model) => {
                    let requested = RequestedLayout::unconditional(layout);
                    samples.with_layout(Some(requested), &model.card.shape)?
                }
                None => samples.rearranged(layout, None)?,
            };
        }
        if let Some(model) = model {
            samples.check_shape(&model.card)?;
        }
        if !self.runtime_args.quiet {
            samples.print_notes();
        }
        Ok(samples)
    }

    /// The files of the figure of weights and energies, with their paths in `folder`.
    ///
    /// # Errors
    /// Fails if it cannot be drawn.
    fn draw_figures(
        &self,
        folder: &Path,
        kept: &[usize],
        weighted: &ReweightedSamples,
        energy: &str,
    ) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let file_name = |path: &Path| {
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let (model, target) = (file_name(&self.samples), file_name(Path::new(energy)));
        let log_weights = weighted.log_weights();
        let row = |(i, sample): (usize, &usize)| WeightRow {
            model: model.clone(),
            sampler: String::new(),
            estimator: String::new(),
            target: target.clone(),
            sample: *sample,
            status: Status::Ok,
            log_likelihood: Some(weighted.log_densities[i]),
            stderr: Some(weighted.stderrs[i]),
            energy: Some(weighted.energies[i]),
            log_weight: Some(log_weights[i]),
            observables: String::new(),
            evaluations: 0,
            jvps: 0,
        };
        let tables = Tables {
            weights: kept.iter().enumerate().map(row).collect(),
            ..Tables::default()
        };
        let mut files = Vec::new();
        for figure in draw_weight_figures(&tables)? {
            let path = |suffix: &str| folder.join(format!("{}.{suffix}", figure.name));
            files.push((path("svg"), figure.svg.into_bytes()));
            files.push((path("png"), figure.png));
        }
        Ok(files)
    }
}

/// The name of each observable: that of its file without the suffix.
///
/// # Errors
/// Fails if two files have the same name, or if a name would break a table.
fn observable_names(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for file in files {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let name: String = stem
            .chars()
            .map(|c| {
                if c.is_alphanumeric() || "-_.".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        if names.contains(&name) {
            bail!(
                "--observable {}: two observables are named `{name}`; give each file a name of its \
                 own",
                file.display()
            );
        }
        names.push(name);
    }
    Ok(names)
}

/// The quantities with their errors and intervals, and the line that says the effective sample size and
/// log Z.
fn answer(found: &Reweighting, out: &Path) -> Answer {
    let percent = |value: f64| format!("{:.3} %", 100.0 * value);
    let share = found.estimate("ess").map(|share| {
        let interval = match (share.low, share.high) {
            (Some(low), Some(high)) => {
                format!(" (95 % interval {} to {})", percent(low), percent(high))
            }
            (None, Some(high)) => {
                format!(" (at most {}; no lower end is known)", percent(high))
            }
            _ => String::new(),
        };
        format!(
            "effective sample size {} of {} samples{interval}",
            percent(share.value),
            share.n
        )
    });
    let log_z = found
        .estimate("log_z")
        .map(|log_z| format!("log Z {} nats", with_error(Some(log_z.value), log_z.stderr)));
    let parts: Vec<String> = share.into_iter().chain(log_z).collect();
    let mut answer = Answer::new(
        "reweight",
        format!("{}; {}", parts.join(", "), out.display()),
    );
    let mut table = AlignedTable::new([
        ("quantity", Align::Left),
        ("unit", Align::Left),
        ("value ± SE", Align::Right),
        ("95 % interval", Align::Right),
        ("n", Align::Right),
    ]);
    let mut quantities = Vec::new();
    for quantity in &found.quantities {
        let IntervalEstimate {
            value,
            stderr,
            low,
            high,
            n,
        } = quantity.estimate;
        // The ends have as many decimals as the value.
        let end = |v: Option<f64>| {
            let text = with_error(v, stderr);
            text.split(" ± ").next().unwrap_or_default().to_owned()
        };
        let interval = match (low, high) {
            (None, None) => "–".to_owned(),
            (low, high) => format!("[{}, {}]", end(low), end(high)),
        };
        let unit = unit_of_quantity(&quantity.name);
        table.row([
            Cell::from(quantity.name.as_str()),
            unit.into(),
            with_error(Some(value), stderr).into(),
            interval.into(),
            n.to_string().into(),
        ]);
        quantities.push(QuantityDocument {
            quantity: &quantity.name,
            number: Quantity::new(Some(value), stderr, unit),
            low,
            high,
            n,
        });
    }
    answer.table(table);
    answer.set("quantities", quantities);
    answer
}

/// One quantity of a document.
#[derive(Debug, Serialize)]
struct QuantityDocument<'a> {
    quantity: &'a str,
    #[serde(flatten)]
    number: Quantity,
    /// The ends of the 95 % confidence interval.
    low: Option<f64>,
    high: Option<f64>,
    n: usize,
}

/// The log-density of one sample.
#[derive(Debug, Clone, Copy)]
struct LogDensity {
    value: f64,
    /// The standard error over probes; 0 if there is none.
    stderr: f64,
}

/// The log-densities of a table, by sample.
struct LogDensityTable {
    rows: BTreeMap<usize, LogDensity>,
}

impl LogDensityTable {
    /// Reads the table of `count` samples.
    ///
    /// # Errors
    /// Fails if a column is missing, if a row is malformed or stands twice, if a sample has no row,
    /// or if the numbers are no log-densities. The message names the line.
    fn read(file: &Path, count: usize) -> Result<LogDensityTable> {
        let bytes = std::fs::read(file)?;
        let table = TextTable::read(&bytes).context("it is not a CSV table")?;
        let column = |name: &str| {
            table.column_index(name).ok_or_else(|| {
                anyhow!(
                    "it has no column `{name}`; expected `sample`, `log_likelihood` and `stderr`, \
                     as `flowgauge sample --density` writes them"
                )
            })
        };
        let (sample, value) = (column("sample")?, column("log_likelihood")?);
        let [stderr, status, bound] =
            ["stderr", "status", "bound"].map(|name| table.column_index(name));
        let mut seen = vec![false; count];
        let mut rows = BTreeMap::new();
        for (line, cells) in &table.rows {
            let cell = |column: Option<usize>| column.map_or("", |column| cells[column].trim());
            let index: usize = cell(Some(sample)).parse().map_err(|_| {
                anyhow!(
                    "line {line}: sample is {:?}, expected a whole number",
                    cell(Some(sample))
                )
            })?;
            match seen.get_mut(index) {
                None => bail!(
                    "line {line}: sample {index}, but --samples holds {count} samples, counted \
                     from 0"
                ),
                Some(true) => bail!("line {line}: sample {index} has two rows, expected one each"),
                Some(seen) => *seen = true,
            }
            if let bound @ ("elbo" | "iw-elbo" | "none") = cell(bound) {
                bail!(
                    "line {line}: the number is a bound of kind `{bound}` and no log-density; \
                     expected log-densities of samples that are not dequantized"
                );
            }
            let text = cell(Some(value));
            if text.is_empty() || !matches!(cell(status), "" | "ok") {
                continue;
            }
            let number = |name: &str, text: &str| {
                let number: Option<f64> = text.parse().ok();
                number.filter(|v| v.is_finite()).ok_or_else(|| {
                    anyhow!("line {line}: {name} is {text:?}, expected a finite number")
                })
            };
            let value = number("log_likelihood", text)?;
            let stderr = match cell(stderr) {
                "" => 0.0,
                text => number("stderr", text)?,
            };
            if stderr < 0.0 {
                bail!("line {line}: stderr is {stderr}, expected at least 0");
            }
            rows.insert(index, LogDensity { value, stderr });
        }
        if let Some(sample) = seen.iter().position(|seen| !seen) {
            bail!(
                "it has no row for sample {sample}; --samples holds {count} samples, and each \
                 needs a row"
            );
        }
        if rows.len() < 2 {
            bail!(
                "{} of {count} samples have a log-density, expected at least 2",
                rows.len()
            );
        }
        Ok(LogDensityTable { rows })
    }

    /// The samples with a log-density, in their order.
    fn kept_samples(&self) -> Vec<usize> {
        self.rows.keys().copied().collect()
    }
}
