//! `flowgauge sample`: draws samples from a model.

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
use crate::data::{Dataset, encode_npy_f32, encode_npy_f64, path_without_member, png_grid};
use crate::divergence::DivergenceEstimator;
use crate::execute::Executor;
use crate::hub;
use crate::model::loaded::Model;
use crate::num::key::SampleId;
use crate::num::npy::parse_npy;
use crate::num::shape::{AxisLayout, RequestedLayout};
use crate::num::{format_decimals, stats};
use crate::output::{Output, OutputKind};
use crate::plan::{
    PreparedPlan, SampleWork, check_sampler_supported, max_samples, sample_density_solver,
    with_card_defaults, with_own_density,
};
use crate::progress::{ProgressDisplay, format_duration};
use crate::registry::prefix_with_name;
use crate::rows::rows_to_csv;
use crate::sample::ode::Ode;
use crate::sample::{DrawnSamples, ReplayedNoise, Sampler, SamplerContext, diffusers};
use crate::stop;

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge sample --model models/moons/card.yaml --sampler heun --steps 16 --count 1024 --out X.npy
  flowgauge sample --model models/digits/card.yaml --sampler dpmpp-2m --count 64 --out X.npy --png X.png
  flowgauge sample --model models/moons/card.yaml --sampler '{ode: {solver: dopri5}}' --count 1024 --density exact --out X.npy --json";

/// The arguments of `flowgauge sample`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SampleArgs {
    /// The model card (YAML)
    #[arg(long, value_name = "CARD")]
    model: PathBuf,
    /// The sampler: `heun`, `"{heun: {steps: 18, schedule: karras}}"` or another of `flowgauge
    /// list`
    #[arg(long, value_name = "SPEC", required_unless_present = "scheduler")]
    sampler: Option<String>,
    /// A scheduler_config.json of diffusers, whose scheduler is followed step by step; needs --steps
    #[arg(
        long,
        value_name = "JSON",
        conflicts_with = "sampler",
        requires = "steps"
    )]
    scheduler: Option<PathBuf>,
    /// The divergence estimator of each sample's log-density, such as `exact`: it is computed along
    /// the sample's path, and written beside --out with the suffix `.csv`. The sampler must be
    /// `ode`, plain `euler` or `heun`, or the same flow map
    #[arg(long, value_name = "SPEC", conflicts_with = "scheduler")]
    density: Option<String>,
    /// The number of steps; overrides the sampler's `steps`
    #[arg(long)]
    steps: Option<usize>,
    /// The number of samples
    #[arg(long, conflicts_with = "noise", required_unless_present = "noise")]
    count: Option<usize>,
    /// The seed of the initial noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// An array of states at the prior end, used instead of random noise
    #[arg(long, value_name = "FILE")]
    noise: Option<PathBuf>,
    /// An array of the noise of random steps, used instead of noise from the seed: draws × samples ×
    /// the card's shape. Step i takes draw i, or draws 2i and 2i + 1 where a step draws twice
    #[arg(long, value_name = "FILE")]
    step_noise: Option<PathBuf>,
    /// The order of the axes of --noise if it differs from the card's, one letter per axis, such as
    /// NHWC
    #[arg(long, value_name = "LETTERS", requires = "noise")]
    layout: Option<AxisLayout>,
    /// The array to write (.npy)
    #[arg(long, value_name = "NPY")]
    out: PathBuf,
    /// Write the latents of a latent model, without decoding them
    #[arg(long)]
    latents: bool,
    /// Write --out in float64; this is the default for a network in float64, and float32 for others
    #[arg(long)]
    float64: bool,
    /// A picture of the first samples (at most 256) to write as PNG
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    #[command(flatten)]
    setting: SettingArgs,
    #[command(flatten)]
    json: JsonArgs,
    #[command(flatten)]
    pub(super) runtime_args: RuntimeArgs,
}

impl SampleArgs {
    /// Draws the samples and writes them.
    ///
    /// # Errors
    /// Fails if an option, the card or the noise are wrong, or if a file cannot be written.
    pub(super) fn execute(self) -> Result<Exit> {
        // A sampler on the command line is checked before any file is opened.
        let given: Option<Sampler> = self
            .sampler
            .as_deref()
            .map(|text| parse_spec("--sampler", text))
            .transpose()?;
        let density: Option<DivergenceEstimator> = self
            .density
            .as_deref()
            .map(|text| parse_spec("--density", text))
            .transpose()?;
        let model = self.setting.apply(&Model::open(&self.model)?, self.seed)?;
        let density = density.map(|density| with_card_defaults(&model, density));
        let mut sampler = match (given, &self.scheduler) {
            (None, Some(file)) => self.sampler_of_scheduler(file, &model)?,
            (given, _) => given.context("--sampler is missing")?,
        };
        let flag = if self.scheduler.is_some() {
            "--scheduler"
        } else {
            "--sampler"
        };
        if let Some(steps) = self.steps {
            if let Sampler::Ode(Ode { solver }) = &sampler
                && solver.with_steps(steps).is_none()
            {
                bail!(
                    "--steps {steps}: `{}` chooses its steps itself; expected a solver with fixed \
                     steps, or no --steps",
                    solver.name()
                );
            }
            sampler = sampler.with_steps(steps);
        }
        let inputs: Vec<PathBuf> = model
            .file_paths()
            .into_iter()
            .chain(self.noise.as_deref().map(path_without_member))
            .chain(self.setting.input_files())
            .chain(self.step_noise.clone())
            .chain(self.scheduler.clone())
            .collect();
        let out = Output::new(OutputKind::Array, "--out", &self.out, &inputs)?;
        self.json.check(Some(&out))?;
        let inputs = out.appended_to(&inputs);
        let png = self
            .png
            .as_deref()
            .map(|png| Output::new(OutputKind::Picture, "--png", png, &inputs))
            .transpose()?;
        self.json.check(png.as_ref())?;
        let density_out = density
            .as_ref()
            .map(|_| out.sibling(OutputKind::Table, "--density", "csv", &inputs))
            .transpose()?;
        sampler
            .check(&SamplerContext::for_model(&model))
            .map_err(|e| anyhow!("{flag} {}", prefix_with_name(sampler.name(), e)))?;
        if let Some(density) = &density {
            sampler = with_own_density(&sampler, density);
        }
        check_sampler_supported(&model, &sampler).context(flag)?;
        if let Some(density) = &density {
            if model.card.latent.is_some() && !self.latents {
                bail!(
                    "--density: the log-density is one of latents, but the samples are decoded; \
                     expected --latents"
                );
            }
            sample_density_solver(&model, &sampler, density).context("--density")?;
        }
        let noise = self
            .noise
            .as_deref()
            .map(|file| self.read_initial_states(file, &model))
            .transpose()?;
        let count = noise.as_ref().map_or(self.count.unwrap_or(0), Dataset::len);
        if count == 0 {
            bail!("--count is 0, expected at least 1");
        }
        SettingArgs::check_lengths(&model, count, "the call draws")?;
        let most = max_samples(model.dim());
        if count > most {
            bail!(
                "--count is {count}, expected at most {most} samples of {} numbers at once",
                model.dim()
            );
        }
        let rows = sampler.network_rows(&SamplerContext::for_model(&model), count);
        let work = SampleWork {
            model: 0,
            sampler,
            noise: noise.as_ref().map(|_| 0),
            density: density.filter(DivergenceEstimator::needs_solver),
            first: 0,
            count,
        };
        let data = noise.into_iter().collect();
        let prepared = PreparedPlan::of_one_trial(model, data, work.clone(), self.seed)?;
        let mut executor = Executor::new(
            &prepared,
            self.runtime_args.runtime()?,
            self.runtime_args.machine(),
        );
        executor.step_noise = self
            .step_noise
            .as_deref()
            .map(|file| {
                read_step_noise(file, count, &prepared.models[0].card.shape)
                    .with_context(|| format!("--step-noise {}", file.display()))
            })
            .transpose()?;
        executor.dry_run()?;
        let card = &prepared.models[0].card;
        let samples: Vec<SampleId> = (0..count as SampleId).collect();
        stop_on_signal(None);
        let began = Instant::now();
        let mut drawn = DrawnSamples::empty();
        let show = ProgressDisplay::for_rows(
            self.runtime_args.quiet,
            executor.meter.clone(),
            rows,
            "samples",
        );
        let model = &prepared.models[0];
        let shape = match self.latents {
            true => card.shape.clone(),
            false => model.sample_shape(),
        };
        let ended = executor.for_each_sample_batch(&work, &samples, |mut part| {
            if !self.latents {
                let first = drawn.x.nrows();
                part.x = executor.decode(0, &samples[first..first + part.x.nrows()], part.x)?;
            }
            drawn.append(part);
            Ok(())
        });
        drop(show);
        let x = &drawn.x;
        let wide = self.float64 || model.gives_float64()?;
        let encode = if wide { encode_npy_f64 } else { encode_npy_f32 };
        if let Err(error) = ended {
            let mut out = out.begin()?;
            if stop::requested() && x.nrows() > 0 {
                out.write_all(&encode(x, &shape)?)?;
                if let Some(table) = &density_out {
                    table.begin()?.write_all(&density_table(&drawn)?)?;
                }
            }
            return interrupted_exit(error, out, [x.nrows(), count], "samples");
        }
        let picture = || png_grid(x, &shape, card.data.map(|d| d.range)).context("--png");
        let picture = png.as_ref().map(|_| picture()).transpose()?;
        out.write(&encode(x, &shape)?)?;
        if let Some(table) = &density_out {
            table.write(&density_table(&drawn)?)?;
        }
        if let (Some(png), Some(picture)) = (&png, picture) {
            png.write(&picture)?;
        }
        let seconds = began.elapsed().as_secs_f64();
        let broken = x
            .rows()
            .into_iter()
            .filter(|r| r.iter().any(|v| !v.is_finite()))
            .count();
        if broken > 0 {
            errln!("flowgauge: {broken} of {count} samples are not finite (NaN or infinite)");
        }
        let exit = match broken {
            0 => Exit::Success,
            _ => Exit::Failed,
        };
        let mut answer = self.answer(&drawn, &shape, broken, seconds);
        answer.set("model", &card.name);
        answer.set("sampler", work.sampler.label());
        let stdout = std::iter::once(&out)
            .chain(&png)
            .find(|out| out.is_stdout());
        Ok(answer.show(self.json, stdout, exit))
    }

    /// What was drawn, at which cost, and where it is.
    fn answer(&self, drawn: &DrawnSamples, shape: &[usize], broken: usize, seconds: f64) -> Answer {
        let count = drawn.x.nrows();
        let per_sample = |total: &[u64]| total.iter().sum::<u64>() as f64 / count as f64;
        let each = |total: &[u64]| format_decimals(per_sample(total), 0);
        let densities = drawn.log_density.as_deref().unwrap_or_default();
        let finite: Vec<f64> = densities
            .iter()
            .copied()
            .filter(|v| v.is_finite())
            .collect();
        let density = stats::mean_estimate(&finite);
        let (mean, stderr) = (density.map(|d| d.value), density.and_then(|d| d.stderr));
        let shown = density.map_or(String::new(), |_| {
            format!(", mean log-density {} nats", with_error(mean, stderr))
        });
        let mut answer = Answer::new(
            "sample",
            format!(
                "{count} samples of shape {shape:?}{shown}: {}",
                self.out.display()
            ),
        );
        let mut table = AlignedTable::new([
            ("samples", Align::Right),
            ("not finite", Align::Right),
            ("log-density, nats ± SE", Align::Right),
            ("evaluations per sample", Align::Right),
            ("Jacobian products per sample", Align::Right),
            ("time", Align::Right),
        ]);
        table.row([
            count.to_string().into(),
            broken.to_string().into(),
            with_error(mean, stderr).into(),
            each(&drawn.evaluations).into(),
            each(&drawn.products).into(),
            format_duration(seconds).into(),
        ]);
        answer.table(table.without_empty_columns());
        answer.set("samples", count);
        answer.set("shape", shape);
        answer.set("not_finite", broken);
        answer.set(
            "log_density",
            density.map(|_| Quantity::new(mean, stderr, "nats")),
        );
        answer.set("evaluations_per_sample", per_sample(&drawn.evaluations));
        answer.set("jacobian_products_per_sample", per_sample(&drawn.products));
        answer.set("seconds", seconds);
        answer.set_path("array", &self.out);
        answer.set(
            "density_table",
            self.density
                .as_ref()
                .map(|_| self.out.with_extension("csv")),
        );
        answer.set("picture", &self.png);
        answer
    }

    /// The sampler that follows the scheduler in a file, for a card with the scheduler's path.
    ///
    /// # Errors
    /// Fails if the file is not a scheduler's configuration, if the scheduler is not followed, or if
    /// the card has another path or prediction.
    fn sampler_of_scheduler(&self, file: &Path, model: &Model) -> Result<Sampler> {
        let named = || format!("--scheduler {}", file.display());
        let text = std::fs::read_to_string(hub::local_path(file)?).with_context(named)?;
        let scheduler = diffusers::parse_scheduler_config(&text)
            .and_then(|json| diffusers::from_scheduler_config(&json))
            .and_then(|s| s.check_card(&model.card, &model.curve).map(|()| s))
            .map_err(|e| anyhow!("{}: {e}", named()))?;
        if !self.runtime_args.quiet {
            for note in &scheduler.notes {
                errln!("flowgauge: {}: {note}", file.display());
            }
        }
        parse_spec("--scheduler", &scheduler.sampler.to_string())
    }

    /// Reads the states at the prior end from a file, in the card's order of axes.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or if its shape does not fit the model.
    fn read_initial_states(&self, file: &Path, model: &Model) -> Result<Dataset> {
        let noise = Dataset::read(file)?.with_layout(
            self.layout.as_ref().map(RequestedLayout::unconditional),
            &model.card.shape,
        )?;
        noise.check_shape(&model.card)?;
        if !self.runtime_args.quiet {
            noise.print_notes();
        }
        Ok(noise)
    }
}

/// The table of the samples' log-densities as CSV. A sample without one has empty cells.
///
/// # Errors
/// Fails if a row cannot be written.
fn density_table(drawn: &DrawnSamples) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    struct DensityCsvRow {
        sample: usize,
        log_likelihood: Option<f64>,
        stderr: Option<f64>,
    }
    let number = |value: Option<&f64>| value.copied().filter(|v| v.is_finite());
    let values = drawn.log_density.as_deref().unwrap_or_default();
    let rows: Vec<DensityCsvRow> = (0..drawn.x.nrows())
        .map(|sample| DensityCsvRow {
            sample,
            log_likelihood: number(values.get(sample)),
            stderr: number(drawn.log_density_stderrs.get(sample)),
        })
        .collect();
    Ok(rows_to_csv(&rows)?)
}

/// Reads the noise of random steps: draws × samples × the card's shape.
///
/// # Errors
/// Fails if the file is not a `.npy` array of this shape.
fn read_step_noise(file: &Path, count: usize, shape: &[usize]) -> Result<ReplayedNoise> {
    let values = parse_npy(&std::fs::read(file)?)?.0.into_array();
    let wanted = [&[count], shape].concat();
    if values.ndim() != wanted.len() + 1 || values.shape()[1..] != wanted[..] {
        bail!(
            "it has shape {:?}, expected [draws, {}]",
            values.shape(),
            wanted
                .iter()
                .map(usize::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    let draws = values.shape()[0];
    let dim = shape.iter().product();
    Ok(ReplayedNoise {
        draws: values
            .as_standard_layout()
            .into_owned()
            .into_shape_with_order((draws, count, dim))?,
    })
}
