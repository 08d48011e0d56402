//! `flowgauge likelihood`

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde::Serialize;

use super::stream::{listen, stopped};
use super::{Exit, Running, spec, summary};
use crate::convention::{self, Convention, Linear, Setting};
use crate::data::{Dataset, file_of};
use crate::dequantization::{Dequantization, NONE};
use crate::divergence::{self, Divergence};
use crate::execute::{Needs, Pool, choose_steps};
use crate::lattice::Lattice;
use crate::likelihood::{Row, Task, bits_per_dim, nats_per_dim};
use crate::model::card::Card;
use crate::model::lift::NetworkPrecision;
use crate::model::opened::Model;
use crate::num::key::{Key, SampleId};
use crate::num::shape::{Layout, Said};
use crate::num::{decimals, stats, with_stderr};
use crate::output::{Kind, Output, Writer};
use crate::plan::{Wanted, resolved, resolves, supports};
use crate::progress::{Show, duration};
use crate::registry::named;
use crate::solve::{Solver, Span, Status};

#[derive(Debug, Args)]
pub struct Likelihood {
    /// The model's card
    #[arg(long, value_name = "CARD")]
    model: PathBuf,
    /// The array: .npy, .npz, .safetensors, .csv, .parquet, IDX or a folder of images
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The order of the array's axes where it is not the card's, a letter each: NHWC are images with channels last
    #[arg(long, value_name = "LETTERS")]
    layout: Option<Layout>,
    /// How the divergence is found: `exact`, `"{hutchinson: {probes: 8}}"`, …
    #[arg(long, value_name = "SPEC")]
    divergence: String,
    /// How the path is followed: `dopri5`, `"{heun: {steps: 40}}"`, `"{heun: {steps: auto}}"`, …; a flow map
    /// follows none
    #[arg(long, value_name = "SPEC")]
    solver: Option<String>,
    /// How integers become reals: `"{uniform: {repeats: 5}}"`, `"{importance: {draws: 20}}"`; adds the columns
    /// `bound`, `draws` and `dequantization_stderr` [default: one uniform draw]
    #[arg(long, value_name = "SPEC")]
    dequantization: Option<String>,
    /// Adds a column with the number as another program prints it, such as `score_sde`; may be repeated
    #[arg(long = "convention", value_name = "NAME")]
    conventions: Vec<String>,
    /// What to do about data whose numbers bound nothing: floats that were quantized and not dequantized, or data that
    /// are not in the range or of the depth that the card says; `refuse`, or `allow`, which adds the column `bound`
    #[arg(long, default_value = "refuse", value_name = "refuse|allow", value_parser = lattice)]
    lattice: Lattice,
    /// What the networks compute in, where that is not the type of their files: `float64` shows what float32 costs in
    /// accuracy, `float32` is for networks in half precision
    #[arg(long, value_name = "float32|float64")]
    precision: Option<String>,
    /// The seed of all draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The table to write; `-` is standard output
    #[arg(long, value_name = "CSV")]
    out: PathBuf,
    #[command(flatten)]
    running: Running,
}

/// The promised columns.
const COLUMNS: [&str; 11] = [
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

/// One line of the table, in the order of its columns.
#[derive(Debug, Serialize)]
struct Line {
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

impl Likelihood {
    pub fn execute(self) -> Result<Exit> {
        let divergence: Divergence = spec("--divergence", &self.divergence)?;
        let mut solver: Solver = match &self.solver {
            Some(text) => spec("--solver", text)?,
            None if divergence.takes_solver() => {
                bail!(
                    "--solver: absent, but `{}` follows a path; expected `dopri5`, `\"{{heun: {{steps: 40}}}}\"` or another of `flowgauge list`",
                    divergence.label()
                )
            }
            // It follows no path.
            None => Solver::Euler(Default::default()),
        };
        let precision: Option<NetworkPrecision> = self
            .precision
            .as_deref()
            .map(|text| spec("--precision", text))
            .transpose()?;
        let model = Model::open_in(&self.model, precision)?;
        let inputs: Vec<PathBuf> = model
            .paths()
            .into_iter()
            .chain([file_of(&self.data)])
            .collect();
        let out = Output::new(Kind::Table, "--out", &self.out, &inputs)?;
        let asked = divergence.label();
        let divergence = resolved(&model, divergence);
        if divergence.needs_products().0 && divergence.label() != asked {
            let why = model.irreversible().unwrap_or_default();
            note!(
                "flowgauge: {asked} is carried out as {}: {why}",
                divergence.label()
            );
        }
        supports(&model, &divergence).context("--divergence")?;
        let span = Span {
            curve: &model.curve,
            to_prior: true,
        };
        solver
            .check(span)
            .map_err(|e| anyhow!("--solver {}", named(solver.name(), e)))?;
        let mut data = Dataset::read(&self.data)?
            .laid_out(self.layout.as_ref().map(Said::always), &model.card.shape)?;
        data.fits(&model.card)?;
        resolves(&model, &divergence, &data).context("--divergence")?;
        let bound = data.bound(&model.card, self.lattice)?;
        data.notes.extend(bound.why);
        let dequantization = self
            .dequantization
            .as_deref()
            .map(|text| spec("--dequantization", text))
            .transpose()?;
        let allowed = (self.lattice == Lattice::Allow).then_some(bound.what);
        let conventions = conventions(&self.conventions, &model.card)?;
        let extra = Extra {
            dequantization,
            allowed,
            conventions,
        };

        if !self.running.quiet {
            data.tell();
        }
        let key = Key { seed: self.seed };
        let pool = Pool::new(&model, self.running.runtime()?, self.running.machine());
        let estimators = [divergence];
        if estimators[0].kind() == divergence::Kind::FewStepForwardAverage {
            note!(
                "flowgauge: rule forward-average, for comparison with the authors' code only: \
                 its log-likelihoods are biased by O(1/steps) even for an exact map"
            );
        }
        if let Some(dequantization) = &extra.dequantization {
            data.dequantizable(&model.card)
                .context("--dequantization")?;
            dequantization
                .check(&estimators)
                .map_err(|e| anyhow!("--dequantization: {e}"))?;
        }
        if solver.automatic().is_some() {
            let wanted = Wanted {
                model: &model,
                data: &data,
                solver: &solver,
                estimators: &estimators,
                samples: data.len(),
                key,
            };
            let chosen = choose_steps(&wanted, self.running.runtime()?, self.running.machine());
            let chosen = chosen.with_context(|| format!("--solver {}", solver.name()))?;
            if !self.running.quiet {
                note!("flowgauge: {}", chosen.sentence());
            }
            solver = chosen.settled().unwrap_or(solver);
        }
        let needs = Needs {
            estimators: &estimators,
            ..Needs::default()
        };
        pool.rehearse(needs, data.len(), &data.states(&model.card, key, &[0]))?;
        let task = Task {
            curve: &model.curve,
            prior: model.prior,
            solver: &solver,
            estimators: &estimators,
            key,
        };
        let samples: Vec<SampleId> = (0..data.len() as u64).collect();
        let states = |batch: &[SampleId]| data.states(&model.card, key, batch);

        let draws = extra.dequantization.as_ref().map_or(1, |d| d.draws());
        let mut table = Table {
            out: out.begin()?,
            card: &model.card,
            extra: &extra,
            tally: Tally::default(),
        };
        listen(None);
        let began = Instant::now();
        let show = Show::counted(
            self.running.quiet,
            pool.meter(),
            samples.len() * draws,
            "log-likelihoods",
        );
        let ended = pool.each_draw(
            &task,
            extra.dequantization.as_ref(),
            &samples,
            states,
            |rows| table.add(&rows),
        );
        drop(show);
        let Table {
            out: written,
            tally,
            ..
        } = table;
        if let Err(error) = ended {
            return stopped(
                error,
                written,
                [tally.rows, samples.len()],
                "log-likelihoods",
            );
        }
        written.finish()?;
        let sentence = tally.sentence(&model.card, began.elapsed().as_secs_f64());
        summary(Some(&out), format_args!("{sentence}"));
        if tally.failed > 0 {
            note!(
                "flowgauge: {} of {} samples have no likelihood: see the column `status`",
                tally.failed,
                tally.rows
            );
            return Ok(Exit::Failed);
        }
        Ok(Exit::Well)
    }
}

fn lattice(text: &str) -> Result<Lattice, String> {
    serde_json::from_value(text.into()).map_err(|_| "expected refuse or allow".to_owned())
}

/// Columns beyond the promised ones, for what was asked beyond the promised flags.
struct Extra {
    dequantization: Option<Dequantization>,
    /// What the numbers are to the data, where some that bound nothing are allowed.
    allowed: Option<&'static str>,
    conventions: Vec<(&'static str, Linear)>,
}

impl Extra {
    fn columns(&self) -> Vec<String> {
        let draws: &[&str] = match (&self.dequantization, self.allowed) {
            (Some(_), _) => &["bound", "draws", "dequantization_stderr"],
            (None, Some(_)) => &["bound"],
            (None, None) => &[],
        };
        draws
            .iter()
            .copied()
            .chain(self.conventions.iter().map(|(name, _)| *name))
            .map(str::to_owned)
            .collect()
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let number = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
        let mut cells = Vec::new();
        let nothing = self.allowed.filter(|bound| *bound == NONE);
        match &self.dequantization {
            Some(dequantization) => {
                let bound = nothing.unwrap_or(dequantization.bound());
                cells.extend([bound.to_owned(), dequantization.draws().to_string()]);
                cells.push(number(row.dequantization_stderr));
            }
            None => cells.extend(self.allowed.map(str::to_owned)),
        }
        cells.extend(
            self.conventions
                .iter()
                .map(|(_, linear)| number(row.log_likelihood.map(|l| linear.value(l)))),
        );
        cells
    }
}

/// The conventions that were named, in the card's setting.
fn conventions(names: &[String], card: &Card) -> Result<Vec<(&'static str, Linear)>> {
    let (range, levels) = (card.data.map(|d| d.range), card.data.and_then(|d| d.levels));
    let setting = Setting {
        dim: card.dim(),
        range,
        levels,
    };
    let one = |name: &String| {
        let known = || {
            convention::ALL
                .iter()
                .map(|c| c.name)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let convention = Convention::named(name)
            .ok_or_else(|| anyhow!("--convention {name}: expected {}", known()))?;
        let linear = convention
            .of(&setting)
            .map_err(|why| anyhow!("--convention {name}: {why}"))?;
        Ok((convention.name, linear))
    };
    names.iter().map(one).collect()
}

/// The table on its way, with what it comes to.
struct Table<'a> {
    out: Writer,
    card: &'a Card,
    extra: &'a Extra,
    tally: Tally,
}

impl Table<'_> {
    /// Writes the rows of some samples, headed where they are the first.
    fn add(&mut self, rows: &[Row]) -> Result<()> {
        let mut writer = csv::WriterBuilder::new()
            .has_headers(false)
            .from_writer(Vec::new());
        if self.tally.rows == 0 {
            writer.write_record(
                COLUMNS
                    .iter()
                    .map(|c| (*c).to_owned())
                    .chain(self.extra.columns()),
            )?;
        }
        let (card, dim) = (self.card, self.card.dim());
        for row in rows {
            let line = Line {
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
            writer.serialize((line, self.extra.cells(row)))?;
            self.tally.count(row);
        }
        let bytes = writer.into_inner().map_err(|e| anyhow!("{}", e.error()))?;
        self.out.write_all(&bytes)?;
        Ok(self.out.flush()?)
    }
}

/// What the rows come to.
#[derive(Default)]
struct Tally {
    nats: Vec<f64>,
    rows: usize,
    failed: usize,
    evaluations: u64,
    jvps: u64,
}

impl Tally {
    fn count(&mut self, row: &Row) {
        self.rows += 1;
        self.failed += usize::from(row.status != Status::Ok);
        self.nats.extend(row.log_likelihood);
        self.evaluations += row.evaluations;
        self.jvps += row.jvps;
    }

    /// One line: mean, number, failures, cost.
    fn sentence(&self, card: &Card, seconds: f64) -> String {
        let each = |total: u64| decimals(total as f64 / self.rows.max(1) as f64, 0);
        let cost = format!(
            "{} evaluations and {} Jacobian products per sample, {}",
            each(self.evaluations),
            each(self.jvps),
            duration(seconds)
        );
        let Some(mean) = stats::mean(&self.nats) else {
            return format!("no log-likelihood of {} samples; {cost}", self.rows);
        };
        let bits = card.bits_offset().map(|offset| {
            let scale = 1.0 / (card.dim() as f64 * std::f64::consts::LN_2);
            let value = bits_per_dim(mean.value, card.dim(), offset);
            format!(
                ", {} bits/dim",
                with_stderr(value, mean.stderr.map(|e| e * scale))
            )
        });
        format!(
            "mean log-likelihood {} nats{}, of {} samples, {} failed; {cost}",
            with_stderr(mean.value, mean.stderr),
            bits.unwrap_or_default(),
            mean.n,
            self.failed
        )
    }
}
