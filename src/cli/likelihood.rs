//! `flowgauge likelihood`

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use serde::Serialize;

use super::{Exit, Running, spec};
use crate::data::Dataset;
use crate::divergence::{Divergence, Kind};
use crate::execute::{Needs, Pool};
use crate::journal::{check_writable, write_whole};
use crate::likelihood::{Row, Task, bits_per_dim, nats_per_dim};
use crate::model::card::Card;
use crate::model::opened::Model;
use crate::num::key::{Key, SampleId};
use crate::plan::{resolved, supports};
use crate::solve::{Solver, Span, Status};

#[derive(Debug, Args)]
pub struct Likelihood {
    /// The model's card
    #[arg(long, value_name = "CARD")]
    model: PathBuf,
    /// The array: .npy, .npz, .safetensors, .csv, .parquet, IDX or a folder of images
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// How the divergence is found: `exact`, `"{hutchinson: {probes: 8}}"`, …
    #[arg(long, value_name = "SPEC")]
    divergence: String,
    /// How the path is followed: `dopri5`, `"{heun: {steps: 40}}"`, …
    #[arg(long, value_name = "SPEC")]
    solver: String,
    /// The seed of all draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The table to write
    #[arg(long, value_name = "CSV")]
    out: PathBuf,
    #[command(flatten)]
    running: Running,
}

/// One line of the table.
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
}

impl Likelihood {
    pub fn execute(self) -> Result<Exit> {
        check_writable(&self.out)?;
        let divergence: Divergence = spec("--divergence", &self.divergence)?;
        let solver: Solver = spec("--solver", &self.solver)?;
        let model = Model::open(&self.model)?;
        supports(&model, &divergence).context("--divergence")?;
        let span = Span { curve: &model.curve, to_prior: true };
        solver.check(span).map_err(|e| anyhow!("--solver {}: {e}", solver.name()))?;
        let data = Dataset::read(&self.data)?;
        data.fits(&model.card)?;

        let key = Key { seed: self.seed };
        let pool = Pool::new(&model, self.running.runtime()?, self.running.machine());
        let estimators = [resolved(&model, divergence)];
        if estimators[0].kind() == Kind::FewStepForwardAverage {
            note!(
                "flowgauge: rule forward-average, for comparison with the authors' code only: \
                 its log-likelihoods are biased by O(1/steps) even for an exact map"
            );
        }
        pool.rehearse(Needs { estimators: &estimators, ..Needs::default() }, &data.states(&model.card, key, &[0]))?;
        let task = Task { curve: &model.curve, prior: model.prior, solver: &solver, estimators: &estimators, key };
        let samples: Vec<SampleId> = (0..data.len() as u64).collect();
        let (rows, _) = pool.likelihoods(&task, &samples, false, |batch| data.states(&model.card, key, batch))?;
        write(&self.out, &rows, &model.card)?;
        let failed = rows.iter().filter(|r| r.status != Status::Ok).count();
        if failed > 0 {
            note!("flowgauge: {failed} of {} samples have no likelihood: see the column `status`", rows.len());
            return Ok(Exit::Failed);
        }
        Ok(Exit::Well)
    }
}

fn write(out: &std::path::Path, rows: &[Row], card: &Card) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.serialize(Line {
            sample: row.sample,
            log_likelihood: row.log_likelihood,
            stderr: row.stderr,
            prior_log_density: row.prior_log_density,
            divergence_integral: row.divergence_integral,
            bits_per_dim: row.log_likelihood.zip(card.bits_offset()).map(|(l, o)| bits_per_dim(l, card.dim(), o)),
            nats_per_dim: row.log_likelihood.map(|l| nats_per_dim(l, card.dim())),
            evaluations: row.evaluations,
            jvps: row.jvps,
            status: row.status.as_str(),
        })?;
    }
    let bytes = writer.into_inner().map_err(|e| anyhow!("{}", e.error()))?;
    write_whole(out, &bytes).map(drop)
}
