//! `flowgauge sample`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use super::stream::{listen, stopped};
use super::{Exit, Running, spec, summary};
use crate::data::{Dataset, file_of, png_grid, write_npy};
use crate::execute::{Needs, Pool};
use crate::model::opened::Model;
use crate::num::key::{Key, SampleId};
use crate::num::shape::{Layout, Said};
use crate::num::{Batch, decimals};
use crate::output::{Kind, Output};
use crate::plan::{initial_states, most_samples, supports_sampler};
use crate::progress::{Show, duration};
use crate::registry::named;
use crate::sample::{self, Drawn, Sampler, Setting};
use crate::stop;

#[derive(Debug, Args)]
pub struct Sample {
    /// The model's card
    #[arg(long, value_name = "CARD")]
    model: PathBuf,
    /// How samples are drawn: `heun`, `"{heun: {steps: 18, schedule: karras}}"`, …
    #[arg(long, value_name = "SPEC")]
    sampler: String,
    /// Steps; overrides the sampler's own
    #[arg(long)]
    steps: Option<usize>,
    /// How many samples
    #[arg(long, conflicts_with = "noise", required_unless_present = "noise")]
    count: Option<usize>,
    /// The seed of the initial noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The states at the prior end, instead of a seed's
    #[arg(long, value_name = "FILE")]
    noise: Option<PathBuf>,
    /// The order of the axes of --noise where it is not the card's, a letter each, such as NHWC
    #[arg(long, value_name = "LETTERS", requires = "noise")]
    layout: Option<Layout>,
    /// The array to write
    #[arg(long, value_name = "NPY")]
    out: PathBuf,
    /// A picture of the first samples, up to 256, beside the array
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    #[command(flatten)]
    running: Running,
}

impl Sample {
    pub fn execute(self) -> Result<Exit> {
        let mut sampler: Sampler = spec("--sampler", &self.sampler)?;
        if let Some(steps) = self.steps {
            sampler = sampler.with_steps(steps);
        }
        let model = Model::open(&self.model)?;
        let inputs: Vec<PathBuf> = model
            .paths()
            .into_iter()
            .chain(self.noise.as_deref().map(file_of))
            .collect();
        let out = Output::new(Kind::Array, "--out", &self.out, &inputs)?;
        let inputs = out.added_to(&inputs);
        let png = self
            .png
            .as_deref()
            .map(|png| Output::new(Kind::Picture, "--png", png, &inputs))
            .transpose()?;
        sampler
            .check(&Setting::of(&model))
            .map_err(|e| anyhow!("--sampler {}", named(sampler.name(), e)))?;
        supports_sampler(&model, &sampler).context("--sampler")?;
        let noise = self
            .noise
            .as_deref()
            .map(|file| self.states(file, &model))
            .transpose()?;
        let count = noise
            .as_ref()
            .map_or(self.count.unwrap_or(0), |n| n.nrows());
        if count == 0 {
            bail!("--count is 0, expected at least 1");
        }
        let most = most_samples(model.dim());
        if count > most {
            bail!(
                "--count is {count}, expected at most {most} samples of {} numbers at once",
                model.dim()
            );
        }
        let key = Key { seed: self.seed };
        let pool = Pool::new(&model, self.running.runtime()?, self.running.machine());
        let needs = Needs {
            samplers: std::slice::from_ref(&sampler),
            ..Needs::default()
        };
        pool.rehearse(needs, count, &Batch::zeros((1, model.dim())))?;
        let samples: Vec<SampleId> = (0..count as u64).collect();
        let noise = |batch: &[SampleId]| match &noise {
            Some(noise) => noise.select(
                ndarray::Axis(0),
                &batch.iter().map(|i| *i as usize).collect::<Vec<_>>(),
            ),
            None => sample::noise(key, batch, model.dim(), model.prior.std),
        };
        listen(None);
        let began = Instant::now();
        let mut drawn = Drawn::none();
        let show = Show::counted(
            self.running.quiet,
            pool.meter(),
            sampler.passes(&Setting::of(&model), count),
            "samples",
        );
        let ended = pool.each_sample(&sampler, &samples, key, noise, |part| {
            drawn.append(part);
            Ok(())
        });
        drop(show);
        let x = &drawn.x;
        if let Err(error) = ended {
            let mut out = out.begin()?;
            if stop::asked() && x.nrows() > 0 {
                out.write_all(&write_npy(x, &model.card.shape)?)?;
            }
            return stopped(error, out, [x.nrows(), count], "samples");
        }
        let picture =
            || png_grid(x, &model.card.shape, model.card.data.map(|d| d.range)).context("--png");
        let picture = png.as_ref().map(|_| picture()).transpose()?;
        out.write(&write_npy(x, &model.card.shape)?)?;
        if let (Some(png), Some(picture)) = (&png, picture) {
            png.write(&picture)?;
        }
        let each = |total: &[u64]| decimals(total.iter().sum::<u64>() as f64 / count as f64, 0);
        summary(
            std::iter::once(&out)
                .chain(&png)
                .find(|out| out.is_standard()),
            format_args!(
                "{count} samples of shape {:?}, {} evaluations and {} Jacobian products each, {}: {}",
                model.card.shape,
                each(&drawn.evaluations),
                each(&drawn.products),
                duration(began.elapsed().as_secs_f64()),
                self.out.display()
            ),
        );
        let broken = x
            .rows()
            .into_iter()
            .filter(|r| r.iter().any(|v| !v.is_finite()))
            .count();
        if broken > 0 {
            note!("flowgauge: {broken} of {count} samples are not finite");
            return Ok(Exit::Failed);
        }
        Ok(Exit::Well)
    }

    /// The states at the prior end that a file holds.
    fn states(&self, file: &Path, model: &Model) -> Result<Batch> {
        let noise = Dataset::read(file)?
            .laid_out(self.layout.as_ref().map(Said::always), &model.card.shape)?;
        let states = initial_states(&noise, model)?;
        if !self.running.quiet {
            noise.tell();
        }
        Ok(states)
    }
}
