//! `flowgauge likelihood`: computes the log-likelihood of each sample of an array.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde::Serialize;

use super::console::{Align, AlignedTable, Answer, JsonArgs, Quantity, with_error};
use super::interrupt::{interrupted_exit, stop_on_signal};
use super::setting::SettingArgs;
use super::{Exit, RuntimeArgs, parse_spec};
use crate::convention::{self, AffineConversion, Convention, ConventionContext};
use crate::data::{Dataset, path_without_member};
use crate::dequantization::Dequantization;
use crate::divergence::DivergenceEstimator;
use crate::execute::{Executor, choose_steps};
use crate::lattice::LatticePolicy;
use crate::likelihood::{LikelihoodResult, bits_per_dim, nats_per_dim};
use crate::model::card::Card;
use crate::model::card::FlowMapDirection;
use crate::model::latent::LatentEncoding;
use crate::model::loaded::Model;
use crate::model::precision::NetworkPrecision;
use crate::num::key::{RngKey, SampleId};
use crate::num::shape::{AxisLayout, RequestedLayout};
use crate::num::{format_decimals, stats};
use crate::output::{Output, OutputKind, Writer};
use crate::plan::{
    AutoStepsRequest, LikelihoodWork, PreparedPlan, Trial, check_centred_states,
    check_difference_step, check_discretized_data, check_encodable, check_estimator_supported,
    likelihood_bound, with_card_defaults,
};
use crate::progress::{ProgressDisplay, format_duration};
use crate::registry::prefix_with_name;
use crate::rows::{BoundKind, EstimateKind, Status};
use crate::solve::{Solver, TimeSpan};

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge likelihood --model models/moons/card.yaml --data models/moons/heldout.npy --divergence exact --solver dopri5 --out ll.csv
  flowgauge likelihood --model models/digits/card.yaml --data models/digits/heldout.npy --divergence '{hutchinson: {probes: 8}}' --solver '{heun: {steps: 40}}' --out ll.csv --json";

/// The arguments of `flowgauge likelihood`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct LikelihoodArgs {
    /// The model card (YAML)
    #[arg(long, value_name = "CARD")]
    model: PathBuf,
    /// The samples: .npy, .npz, .safetensors, .csv, .parquet, IDX or a folder of images
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The order of the array's axes if it differs from the card's, one letter per axis: NHWC for
    /// images with channels last
    #[arg(long, value_name = "LETTERS")]
    layout: Option<AxisLayout>,
    /// The estimator of the divergence: `exact`, `"{hutchinson: {probes: 8}}"` or another of
    /// `flowgauge list`
    #[arg(long, value_name = "SPEC")]
    divergence: String,
    /// The ODE solver of the path: `dopri5`, `"{heun: {steps: 40}}"`, `"{heun: {steps: auto}}"` or
    /// another of `flowgauge list`; not needed for a flow map
    #[arg(long, value_name = "SPEC")]
    solver: Option<String>,
    /// The dequantization of integer data: `"{uniform: {repeats: 5}}"`, `truncated-normal` or
    /// `"{importance: {draws: 20}}"`; adds the columns `bound`, `draws` and `dequantization_stderr` [default: one uniform
    /// draw]
    #[arg(long, value_name = "SPEC")]
    dequantization: Option<String>,
    /// Add a column with the log-likelihood as another program reports it, such as `score_sde`; may
    /// be repeated
    #[arg(long = "convention", value_name = "NAME")]
    conventions: Vec<String>,
    /// How data become states of a latent model: by the `mean` of the encoder, or by a `draw` from
    /// its distribution
    #[arg(long, default_value = "mean", value_name = "mean|draw", value_parser = parse_encoding)]
    encode: LatentEncoding,
    /// What to do with data for which bits per dimension are meaningless
    ///
    /// Such data are floats that were quantized and not dequantized, and data that do not have the
    /// range or the number of levels in the card. `refuse` ends with an error. `allow` computes the
    /// numbers and adds the column `bound`.
    #[arg(
        long,
        default_value = "refuse",
        value_name = "refuse|allow",
        value_parser = parse_lattice
    )]
    lattice: LatticePolicy,
    /// The precision of the networks [default: that of their files]
    ///
    /// `float64` shows what float32 costs in accuracy. `float32` is for networks in half precision.
    #[arg(long, value_name = "float32|float64")]
    precision: Option<String>,
    /// The seed of all random numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The table to write (CSV); `-` is standard output
    #[arg(long, value_name = "CSV")]
    out: PathBuf,
    /// Do not check the card by the data first
    #[arg(long)]
    no_check: bool,
    #[command(flatten)]
    setting: SettingArgs,
    #[command(flatten)]
    json: JsonArgs,
    #[command(flatten)]
    pub(super) runtime_args: RuntimeArgs,
}

/// The columns of every table, in order. Options add [`ExtraColumns`] after them.
const LIKELIHOOD_COLUMNS: [&str; 11] = [
    "sample",
    "log_likelihood",
    "stderr",
    "prior_log_density",
    "divergence_integral",
    "bits_per_dim",
    "nats_per_dim",
    "evaluations",
    "jvps",
    "status",
    "solver_error",
];

/// One row of the table: one sample. The fields are in the order of [`LIKELIHOOD_COLUMNS`].
#[derive(Debug, Serialize)]
struct LikelihoodCsvRow {
    sample: SampleId,
    log_likelihood: Option<f64>,
    stderr: Option<f64>,
    prior_log_density: Option<f64>,
    divergence_integral: Option<f64>,
    bits_per_dim: Option<f64>,
    nats_per_dim: Option<f64>,
    evaluations: u64,
    jvps: u64,
    status: &'static str,
    solver_error: Option<f64>,
}

impl LikelihoodArgs {
    /// Writes the table and prints the mean.
    ///
    /// # Errors
    /// Fails if an option, the card or the data are wrong, or if the table cannot be written.
    pub(super) fn execute(self) -> Result<Exit> {
        let divergence: DivergenceEstimator = parse_spec("--divergence", &self.divergence)?;
        let mut solver: Solver = match &self.solver {
            Some(text) => parse_spec("--solver", text)?,
            None if divergence.needs_solver() => {
                bail!(
                    "--solver: absent, but `{}` follows a path and needs one; expected `dopri5`, \
                     `\"{{heun: {{steps: 40}}}}\"` or another of `flowgauge list`",
                    divergence.label()
                )
            }
            // The estimator does not follow a path, so that any solver will do.
            None => Solver::Euler(Default::default()),
        };
        let precision: Option<NetworkPrecision> = self
            .precision
            .as_deref()
            .map(|text| parse_spec("--precision", text))
            .transpose()?;
        let model = Model::open_with_precision(&self.model, precision)?;
        let model = self.setting.apply(&model, self.seed)?;
        let inputs: Vec<PathBuf> = model
            .file_paths()
            .into_iter()
            .chain([path_without_member(&self.data)])
            .chain(self.setting.input_files())
            .collect();
        let out = Output::new(OutputKind::Table, "--out", &self.out, &inputs)?;
        let asked = divergence.label();
        let divergence = with_card_defaults(&model, divergence);
        if divergence.needs_jvp_and_vjp().0 && divergence.label() != asked {
            let why = model.vjp_unsupported().unwrap_or_default();
            errln!(
                "flowgauge: {asked} is computed as {}: {why}",
                divergence.label()
            );
        }
        check_estimator_supported(&model, &divergence).context("--divergence")?;
        let span = TimeSpan {
            curve: &model.curve,
            to_prior: true,
        };
        solver
            .check(span)
            .map_err(|e| anyhow!("--solver {}", prefix_with_name(solver.name(), e)))?;
        let data = Dataset::read(&self.data)?;
        let encode = model
            .encodes(data.values.len() / data.len().max(1))
            .then_some(self.encode);
        let data_card = match encode {
            Some(_) => &model.data_card,
            None => &model.card,
        };
        let mut data = data.with_layout(
            self.layout.as_ref().map(RequestedLayout::unconditional),
            &data_card.shape,
        )?;
        data.check_fits(data_card)?;
        if encode.is_some() {
            check_encodable(&model, self.dequantization.is_some())?;
        }
        SettingArgs::check_lengths(&model, data.len(), &format!("{} holds", data.name))?;
        check_difference_step(&model, &divergence, &data).context("--divergence")?;
        check_discretized_data(&model, &divergence, &data).context("--divergence")?;
        check_centred_states(&model, &data)?;
        let bound = likelihood_bound(&model, &data, self.lattice)?;
        data.notes.extend(bound.reason);
        let dequantization = self
            .dequantization
            .as_deref()
            .map(|text| parse_spec("--dequantization", text))
            .transpose()?;
        let shown = self.lattice == LatticePolicy::Allow || bound.kind == BoundKind::Latent;
        let allowed = shown.then_some(bound.kind);
        let conventions = resolve_conventions(&self.conventions, &model.card)?;
        let mut extra = ExtraColumns {
            kind: None,
            bound_terms: false,
            inverse_residual: false,
            dequantization,
            allowed_bound: allowed,
            conventions,
        };

        if !self.runtime_args.quiet {
            data.print_notes();
        }
        let estimators = vec![divergence];
        if estimators[0].kind() == EstimateKind::FewStepForwardAverage {
            errln!(
                "flowgauge: the rule forward-average is for comparison with the authors' code \
                 only; its log-likelihoods are biased by O(1/steps) even for an exact flow map"
            );
        }
        if let Some(dequantization) = &extra.dequantization {
            data.check_dequantizable(&model.card)
                .context("--dequantization")?;
            dequantization
                .check(&estimators)
                .and_then(|()| dequantization.cell_noise(&model.curve, model.card.data))
                .map_err(|e| anyhow!("--dequantization: {e}"))?;
        }
        let (runtime, machine) = (self.runtime_args.runtime()?, self.runtime_args.machine());
        if solver.auto_steps_tolerance().is_some() {
            let request = AutoStepsRequest {
                model: &model,
                data: &data,
                encode,
                solver: &solver,
                estimators: &estimators,
                samples: data.len(),
                key: RngKey { seed: self.seed },
            };
            let chosen = choose_steps(&request, runtime, machine)
                .with_context(|| format!("--solver {}", solver.name()))?;
            if !self.runtime_args.quiet {
                errln!("flowgauge: {}", chosen.describe());
            }
            solver = chosen.chosen_solver().unwrap_or(solver);
        }
        let work = LikelihoodWork {
            model: 0,
            data: 0,
            solver,
            estimators,
            reference: 0,
            against: None,
            first: 0,
            count: data.len(),
            dequantization: extra.dequantization.clone(),
            automatic: false,
        };
        let kind = work.estimators[0].kind();
        extra.bound_terms = work.estimators[0].is_variational_bound();
        extra.inverse_residual = matches!(
            &work.estimators[0],
            DivergenceEstimator::FlowMap(few) if few.has_log_determinants()
                && model.flow_map_spec(&few.map)?.direction() == FlowMapDirection::ToData
        );
        extra.kind = match model.guidance {
            Some(_) => Some(kind.guided()),
            None => extra.bound_terms.then_some(kind),
        };
        let mut prepared = PreparedPlan::of_one_trial(model, vec![data], work.clone(), self.seed)?;
        prepared.plan.data[0].encode = encode;
        let executor = Executor::new(&prepared, runtime, machine);
        executor.dry_run()?;
        if !self.no_check {
            let trials: Vec<&Trial> = prepared.plan.trials.iter().collect();
            executor.warn_about_wrong_cards(&trials);
        }
        let card = &prepared.models[0].card;
        let samples: Vec<SampleId> = work.samples().collect();
        let mut table = LikelihoodTableWriter {
            out: out.begin()?,
            card,
            extra_columns: &extra,
            totals: LikelihoodTotals::default(),
        };
        stop_on_signal(None);
        let began = Instant::now();
        let show = ProgressDisplay::for_rows(
            self.runtime_args.quiet,
            executor.meter.clone(),
            samples.len() * work.draws(),
            "log-likelihoods",
        );
        let ended = executor.for_each_likelihood(&work, &samples, |rows| table.write_rows(&rows));
        drop(show);
        let LikelihoodTableWriter {
            out: written,
            totals: tally,
            ..
        } = table;
        if let Err(error) = ended {
            return interrupted_exit(
                error,
                written,
                [tally.rows, samples.len()],
                "log-likelihoods",
            );
        }
        written.finish()?;
        let what = match extra.bound_terms {
            // A bound is not said to be a likelihood.
            true => "lower bound of the log-likelihood",
            false => "log-likelihood",
        };
        let mut answer = tally.answer(card, what, began.elapsed().as_secs_f64(), &self.out);
        answer.set("model", &card.name);
        answer.set("data", &prepared.data[0].name);
        answer.set("estimator", work.estimators[0].label());
        answer.set("kind", kind.as_str());
        answer.set("solver", work.solver.label());
        if tally.failed > 0 {
            errln!(
                "flowgauge: {} of {} samples have no likelihood: see the column `status`",
                tally.failed,
                tally.rows
            );
        }
        let exit = match tally.failed {
            0 => Exit::Success,
            _ => Exit::Failed,
        };
        Ok(answer.show(self.json, Some(&out), exit))
    }
}

/// Parses the value of `--encode`.
fn parse_encoding(text: &str) -> Result<LatentEncoding, String> {
    serde_json::from_value(text.into()).map_err(|_| "expected mean or draw".to_owned())
}

/// Parses the value of `--lattice`.
fn parse_lattice(text: &str) -> Result<LatticePolicy, String> {
    serde_json::from_value(text.into()).map_err(|_| "expected refuse or allow".to_owned())
}

/// The columns that options add after [`LIKELIHOOD_COLUMNS`].
struct ExtraColumns {
    /// The value of the column `kind`, for the flow of a guided velocity and for variational bounds.
    kind: Option<EstimateKind>,
    /// Whether there are columns for the terms of a variational bound.
    bound_terms: bool,
    /// Whether there is a column for the residual of an inverted flow map.
    inverse_residual: bool,
    /// The value of `--dequantization`.
    dequantization: Option<Dequantization>,
    /// The value of the column `bound` under `--lattice allow`.
    allowed_bound: Option<BoundKind>,
    /// The name of each convention, and its conversion from nats.
    conventions: Vec<(&'static str, AffineConversion)>,
}

impl ExtraColumns {
    /// The names of the columns.
    fn names(&self) -> Vec<String> {
        let draws: &[&str] = match (&self.dequantization, self.allowed_bound) {
            (Some(_), _) => &["bound", "draws", "dequantization_stderr"],
            (None, Some(_)) => &["bound"],
            (None, None) => &[],
        };
        let kind: &[&str] = if self.kind.is_some() { &["kind"] } else { &[] };
        let terms: &[&str] = match self.bound_terms {
            true => &["bound_prior", "bound_diffusion", "bound_reconstruction"],
            false => &[],
        };
        let residual: &[&str] = match self.inverse_residual {
            true => &["inverse_residual"],
            false => &[],
        };
        kind.iter()
            .chain(terms)
            .chain(residual)
            .chain(draws)
            .copied()
            .chain(self.conventions.iter().map(|(name, _)| *name))
            .map(str::to_owned)
            .collect()
    }

    /// The cells of one row; an absent number is an empty cell.
    fn cells(&self, row: &LikelihoodResult) -> Vec<String> {
        let number = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
        let mut cells: Vec<String> = Vec::new();
        cells.extend(self.kind.map(|kind| kind.as_str().to_owned()));
        if self.bound_terms {
            let terms = row.bound_terms;
            cells.push(number(terms.map(|terms| terms.prior)));
            cells.push(number(terms.map(|terms| terms.diffusion)));
            cells.push(number(terms.map(|terms| terms.reconstruction)));
        }
        if self.inverse_residual {
            cells.push(number(row.inverse_residual));
        }
        let nothing = self.allowed_bound.filter(|bound| *bound == BoundKind::None);
        match &self.dequantization {
            Some(dequantization) => {
                let bound = nothing.unwrap_or(dequantization.bound_kind());
                cells.extend([
                    bound.as_str().to_owned(),
                    dequantization.draw_count().to_string(),
                ]);
                cells.push(number(row.dequantization_stderr));
            }
            None => cells.extend(self.allowed_bound.map(|bound| bound.as_str().to_owned())),
        }
        cells.extend(
            self.conventions
                .iter()
                .map(|(_, linear)| number(row.log_likelihood.map(|l| linear.convert(l)))),
        );
        cells
    }
}

/// The conventions of these names, with the range and the levels of the card's data.
///
/// # Errors
/// Fails if a name is unknown, or if a convention does not apply to the card's data.
fn resolve_conventions(
    names: &[String],
    card: &Card,
) -> Result<Vec<(&'static str, AffineConversion)>> {
    let (range, levels) = (card.data.map(|d| d.range), card.data.and_then(|d| d.levels));
    let setting = ConventionContext {
        dim: card.degrees_of_freedom(),
        range,
        levels,
    };
    let one = |name: &String| {
        let known = || {
            convention::CONVENTIONS
                .iter()
                .map(|c| c.name)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let convention = Convention::by_name(name)
            .ok_or_else(|| anyhow!("--convention {name}: expected {}", known()))?;
        let linear = convention
            .conversion_for(&setting)
            .map_err(|why| anyhow!("--convention {name}: {why}"))?;
        Ok((convention.name, linear))
    };
    names.iter().map(one).collect()
}

/// Writes the table batch by batch and adds up its totals.
struct LikelihoodTableWriter<'a> {
    out: Writer,
    card: &'a Card,
    extra_columns: &'a ExtraColumns,
    totals: LikelihoodTotals,
}

impl LikelihoodTableWriter<'_> {
    /// Writes the rows of one batch. The header is written together with the first batch, so that
    /// an interrupted run without rows leaves no file.
    ///
    /// # Errors
    /// Fails if the table cannot be written.
    fn write_rows(&mut self, rows: &[LikelihoodResult]) -> Result<()> {
        let mut writer = csv::WriterBuilder::new()
            .has_headers(false)
            .from_writer(Vec::new());
        if self.totals.rows == 0 {
            writer.write_record(
                LIKELIHOOD_COLUMNS
                    .iter()
                    .map(|c| (*c).to_owned())
                    .chain(self.extra_columns.names()),
            )?;
        }
        let (card, dim) = (self.card, self.card.degrees_of_freedom());
        for row in rows {
            let line = LikelihoodCsvRow {
                sample: row.sample,
                log_likelihood: row.log_likelihood,
                stderr: row.stderr,
                prior_log_density: row.prior_log_density,
                divergence_integral: row.divergence_integral,
                bits_per_dim: row
                    .log_likelihood
                    .zip(card.bits_offset())
                    .map(|(l, o)| bits_per_dim(l, dim, o)),
                nats_per_dim: row.log_likelihood.map(|l| nats_per_dim(l, dim)),
                evaluations: row.evaluations,
                jvps: row.jvps,
                status: row.status.as_str(),
                solver_error: row.solver_error,
            };
            writer.serialize((line, self.extra_columns.cells(row)))?;
            self.totals.add_row(row);
        }
        let bytes = writer.into_inner().map_err(|e| anyhow!("{}", e.error()))?;
        self.out.write_all(&bytes)?;
        Ok(self.out.flush()?)
    }
}

/// Sums over the rows of the table.
#[derive(Default)]
struct LikelihoodTotals {
    /// The log-likelihoods of the samples that did not fail, in nats.
    nats: Vec<f64>,
    rows: usize,
    /// The number of rows whose status is not `ok`.
    failed: usize,
    evaluations: u64,
    jvps: u64,
}

impl LikelihoodTotals {
    /// Adds one row.
    fn add_row(&mut self, row: &LikelihoodResult) {
        self.rows += 1;
        self.failed += usize::from(row.status != Status::Ok);
        self.nats.extend(row.log_likelihood);
        self.evaluations += row.evaluations;
        self.jvps += row.jvps;
    }

    /// The means with their errors, the numbers of samples and failures, and the cost.
    fn answer(&self, card: &Card, what: &str, seconds: f64, out: &Path) -> Answer {
        let mean = stats::mean_estimate(&self.nats);
        let (value, stderr) = (mean.map(|m| m.value), mean.and_then(|m| m.stderr));
        let (dim, offset) = (card.dim(), card.bits_offset());
        let per_dim = 1.0 / (dim as f64 * std::f64::consts::LN_2);
        let bits = value
            .zip(offset)
            .map(|(value, offset)| bits_per_dim(value, dim, offset));
        let bits_stderr = bits.and(stderr).map(|stderr| stderr * per_dim);
        let per_sample = |total: u64| total as f64 / self.rows.max(1) as f64;
        let each = |total: u64| format_decimals(per_sample(total), 0);

        let line = match value {
            None => format!("no {what} of {} samples; {}", self.rows, out.display()),
            Some(_) => format!(
                "mean {what} {} nats{}, of {} samples, {} failed; {}",
                with_error(value, stderr),
                bits.map_or(String::new(), |_| format!(
                    ", {} bits/dim",
                    with_error(bits, bits_stderr)
                )),
                self.nats.len(),
                self.failed,
                out.display()
            ),
        };
        let mut answer = Answer::new("likelihood", line);
        let mut table = AlignedTable::new([
            ("bits/dim ± SE", Align::Right),
            ("nats ± SE", Align::Right),
            ("n", Align::Right),
            ("failed", Align::Right),
            ("evaluations per sample", Align::Right),
            ("Jacobian products per sample", Align::Right),
            ("time", Align::Right),
        ]);
        table.row([
            with_error(bits, bits_stderr).into(),
            with_error(value, stderr).into(),
            self.nats.len().to_string().into(),
            self.failed.to_string().into(),
            each(self.evaluations).into(),
            each(self.jvps).into(),
            format_duration(seconds).into(),
        ]);
        answer.table(table.without_empty_columns());
        answer.set("log_likelihood", Quantity::new(value, stderr, "nats"));
        answer.set(
            "bits_per_dim",
            bits.map(|_| Quantity::new(bits, bits_stderr, "bits/dim")),
        );
        answer.set("n", self.nats.len());
        answer.set("failed", self.failed);
        answer.set("evaluations_per_sample", per_sample(self.evaluations));
        answer.set("jacobian_products_per_sample", per_sample(self.jvps));
        answer.set("seconds", seconds);
        answer.set_path("table", out);
        answer
    }
}
