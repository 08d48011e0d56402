//! `flowgauge metrics`

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;
use serde::Serialize;

use super::{Exit, Running, spec};
use crate::data::Dataset;
use crate::features::Extractor;
use crate::journal::{check_writable, write_whole};
use crate::metric::{Metric, measure};
use crate::num::key::Key;

#[derive(Debug, Args)]
pub struct Metrics {
    /// Generated samples
    #[arg(long, value_name = "FILE")]
    generated: PathBuf,
    /// Reference samples
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,
    /// An ONNX network whose features are compared; the raw numbers unless given
    #[arg(long, value_name = "ONNX")]
    extractor: Option<PathBuf>,
    /// Statistics to compute, such as `frechet` or `"{kernel: {subsets: 100, subset_size: 1000}}"` [default: all that so many samples allow]
    #[arg(long, value_name = "SPEC")]
    metric: Vec<String>,
    /// The seed of subsets and projections
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The table to write
    #[arg(long, value_name = "CSV")]
    out: PathBuf,
    #[command(flatten)]
    running: Running,
}

#[derive(Debug, Serialize)]
struct Line {
    metric: &'static str,
    value: f64,
    stderr: Option<f64>,
    n_generated: usize,
    n_reference: usize,
}

impl Metrics {
    pub fn execute(self) -> Result<Exit> {
        check_writable(&self.out)?;
        let named: Vec<Metric> = self.metric.iter().map(|m| spec("--metric", m)).collect::<Result<_>>()?;
        let (generated, reference) = (Dataset::read(&self.generated)?, Dataset::read(&self.reference)?);
        let possible = |m: &Metric| m.check(generated.len(), reference.len()).is_ok();
        let metrics = match named.is_empty() {
            // Where not even the first is possible, its own check says why.
            true => Metric::defaults()
                .into_iter()
                .enumerate()
                .filter(|(i, m)| *i == 0 || possible(m))
                .map(|(_, m)| m)
                .collect(),
            false => named,
        };
        for metric in &metrics {
            metric.check(generated.len(), reference.len()).map_err(|e| anyhow!("--metric {e}"))?;
        }
        let (a, b) = match &self.extractor {
            None => (generated.rows(generated.len()), reference.rows(reference.len())),
            Some(path) => {
                let machine = self.running.machine();
                let mut extractor = Extractor::open(path, self.running.runtime()?, machine.provider, machine.threads)?;
                let mut features = |d: &Dataset| extractor.features(&d.rows(d.len()), &d.values.shape()[1..]);
                (features(&generated)?, features(&reference)?)
            }
        };
        let mut writer = csv::Writer::from_writer(Vec::new());
        for metric in &metrics {
            let measured = || measure(metric, a.view(), b.view(), Key { seed: self.seed });
            let estimate =
                (self.running.machine().with_threads(measured)?).map_err(|e| anyhow!("{}: {e}", metric.name()))?;
            let (n_generated, n_reference) = (a.nrows(), b.nrows());
            writer.serialize(Line {
                metric: metric.name(),
                value: estimate.value,
                stderr: estimate.stderr,
                n_generated,
                n_reference,
            })?;
        }
        let bytes = writer.into_inner().map_err(|e| anyhow!("{}", e.error()))?;
        write_whole(&self.out, &bytes)?;
        Ok(Exit::Well)
    }
}
