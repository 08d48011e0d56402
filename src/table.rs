//! Journal and rows to tidy tables: pure functions of a run directory.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use polars::prelude::*;
use serde::de::DeserializeOwned;

use crate::budget;
use crate::convention::{self, ConventionContext};
use crate::data::decode_npy_f32;
use crate::frontier::{self, AveragingCounts};
use crate::journal::{Outcome, RunDirectory, array_file, row_file, step_file};
use crate::metric::paired::PairedErrorMethod;
use crate::num::stats;
use crate::plan::{Plan, Trial, TrialWork, solver_label};
use crate::rows::{
    ContrastRow, ConventionRow, DensityRow, Gallery, LikelihoodRow, MapRow, MetricRow, PairRow,
    ProfileRow, RefinedRow, SampleLikelihoodRow, SampleRow, SteinRow, StepRow, SummaryRow, Tables,
};

mod gaps;

/// Everything that the finished trials of a run hold, in one directory or in those of its shards.
///
/// # Errors
/// Where a row file cannot be read, by its name.
pub fn load_tables(plan: &Plan, parts: &[RunDirectory]) -> Result<Tables> {
    let mut tables = Tables::default();
    let mut likelihoods: Vec<LikelihoodRow> = Vec::new();
    let mut references: BTreeMap<String, [String; 2]> = BTreeMap::new();
    let mut refined: Vec<RefinedRow> = Vec::new();
    let mut averages = AveragingCounts::new();
    let mut spent = SamplingCosts::default();
    let finished = plan
        .trials
        .iter()
        .filter_map(|t| Some((t, RunDirectory::holding_trial(parts, &t.id)?)));
    for (trial, RunDirectory { dir, journal }) in finished {
        let path = row_file(dir, &trial.id);
        match &trial.work {
            TrialWork::Likelihood(w) => {
                let (estimator, solver) = match &w.against {
                    Some(against) => (&against.estimator, &against.solver),
                    None => (&w.estimators[w.reference], &w.solver),
                };
                references.insert(trial.id.clone(), [estimator.label(), solver_label(solver)]);
                averages.extend(w.estimators.iter().filter_map(|e| {
                    let (what, count) = e.averaging_parameter()?;
                    Some((e.label(), (what.to_owned(), count)))
                }));
                likelihoods.extend(read_csv_rows::<LikelihoodRow>(&path)?);
            }
            TrialWork::Budget(_) => refined.extend(read_csv_rows::<RefinedRow>(&path)?),
            TrialWork::Contrast(_) => tables.contrasts.extend(
                read_csv_rows::<ContrastRow>(&path)?
                    .into_iter()
                    .map(with_interval),
            ),
            TrialWork::Maps(_) => tables.maps.extend(read_csv_rows::<MapRow>(&path)?),
            TrialWork::Profile(_) => tables.profile.extend(read_csv_rows::<ProfileRow>(&path)?),
            TrialWork::Stein { .. } => tables.stein.extend(read_csv_rows::<SteinRow>(&path)?),
            TrialWork::Density { .. } => tables.density.extend(read_csv_rows::<DensityRow>(&path)?),
            TrialWork::Metrics { .. } => {
                tables.metrics.extend(
                    read_csv_rows::<MetricRow>(&path)?
                        .into_iter()
                        .map(|row| spent.with_cost(row)),
                );
                tables.galleries.extend(load_gallery(dir, plan, trial)?);
            }
            TrialWork::Sample { .. } => {
                spent.add(&read_csv_rows::<SampleRow>(&path)?);
                if matches!(
                    journal.outcomes.get(&trial.id),
                    Some(Outcome::Finished {
                        steps_sha256: Some(_),
                        ..
                    })
                ) {
                    tables
                        .steps
                        .extend(read_csv_rows::<StepRow>(&step_file(dir, &trial.id))?);
                }
            }
        }
    }
    tables.samples = likelihoods.iter().map(sample_from_likelihood_row).collect();
    tables
        .samples
        .sort_by(|a, b| sample_sort_key(a).cmp(&sample_sort_key(b)));
    add_summaries_and_pairs(&likelihoods, &references, &mut tables)?;
    tables.conventions = convention_rows(plan, &tables.summary);
    let dims = plan
        .models
        .iter()
        .map(|m| (m.name.clone(), m.shape.iter().product()))
        .collect();
    tables.budget = budget::budget_rows(&tables.summary, &refined, &dims);
    budget::set_solver_bias(&mut tables.summary, &tables.budget);
    tables.frontier = frontier::frontier_rows(&tables.summary, &tables.samples, &averages, &dims);
    tables.gaps = gaps::dataset_gap_rows(&likelihoods);
    Ok(tables)
}

/// A difference with its 95 % interval, whatever version of the program wrote the row.
fn with_interval(row: ContrastRow) -> ContrastRow {
    let n = row.n.min(row.n_reference);
    let half = match PairedErrorMethod::from_name(&row.method) {
        Some(method) => method.half_width(row.difference_stderr, n),
        None => stats::confidence_half_width(row.difference_stderr, Some(n), 0.95),
    };
    ContrastRow {
        low: row.difference - half,
        high: row.difference + half,
        ..row
    }
}

fn sample_sort_key(s: &SampleLikelihoodRow) -> (&str, &str, &str, &str, usize) {
    (&s.model, &s.dataset, &s.solver, &s.estimator, s.sample)
}

fn read_csv_rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| path.display().to_string())?;
    reader
        .deserialize()
        .collect::<Result<_, _>>()
        .with_context(|| path.display().to_string())
}

fn sample_from_likelihood_row(r: &LikelihoodRow) -> SampleLikelihoodRow {
    SampleLikelihoodRow {
        model: r.model.clone(),
        dataset: r.dataset.clone(),
        estimator: r.estimator.clone(),
        solver: r.solver.clone(),
        sample: r.sample,
        log_likelihood: r.log_likelihood,
        stderr: r.stderr,
        half_width: r.half_width,
        prior_log_density: r.prior_log_density,
        divergence_integral: r.divergence_integral,
        bits_per_dim: r.bits_per_dim,
        nats_per_dim: r.nats_per_dim,
        evaluations: r.evaluations,
        jvps: r.jvps,
        status: r.status.clone(),
        bound: r.bound.clone(),
        dequantization_stderr: r.dequantization_stderr,
        solver_error: r.solver_error,
    }
}

/// Every summary under every convention.
fn convention_rows(plan: &Plan, summaries: &[SummaryRow]) -> Vec<ConventionRow> {
    let of = |row: &SummaryRow| -> Vec<ConventionRow> {
        let Some(model) = plan.models.iter().find(|m| m.name == row.model) else {
            return Vec::new();
        };
        let setting = ConventionContext {
            dim: model.shape.iter().product(),
            range: model.range,
            levels: model.levels,
        };
        convention::CONVENTIONS
            .iter()
            .map(|c| convention_row(c, &setting, row))
            .collect()
    };
    summaries.iter().flat_map(of).collect()
}

fn convention_row(
    convention: &convention::Convention,
    setting: &ConventionContext,
    row: &SummaryRow,
) -> ConventionRow {
    let linear = convention.conversion_for(setting);
    let applied = linear.as_ref().ok();
    ConventionRow {
        model: row.model.clone(),
        dataset: row.dataset.clone(),
        estimator: row.estimator.clone(),
        solver: row.solver.clone(),
        kind: row.kind.clone(),
        bound: row.bound.clone(),
        convention: convention.name.to_owned(),
        unit: convention.unit.to_owned(),
        n: row.n,
        value: applied.zip(row.nats).map(|(l, v)| l.convert(v)),
        stderr: applied
            .zip(row.nats_stderr)
            .map(|(l, e)| l.convert_stderr(e)),
        scale: applied.map(|l| l.scale),
        offset: applied.map(|l| l.offset),
        reason: linear.err().unwrap_or_default(),
        formula: convention.formula.to_owned(),
        source: convention.source.to_owned(),
        protocol: convention.protocol.to_owned(),
    }
}

/// Summaries and paired differences, one group of (model, dataset, solver) after the other.
fn add_summaries_and_pairs(
    rows: &[LikelihoodRow],
    references: &BTreeMap<String, [String; 2]>,
    tables: &mut Tables,
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let index: Vec<u32> = (0..rows.len() as u32).collect();
    let text = |f: fn(&LikelihoodRow) -> &str| rows.iter().map(f).collect::<Vec<&str>>();
    let frame = DataFrame::new(
        rows.len(),
        vec![
            Column::new("row".into(), index),
            Column::new("model".into(), text(|r| &r.model)),
            Column::new("dataset".into(), text(|r| &r.dataset)),
            Column::new("solver".into(), text(|r| &r.solver)),
            Column::new("estimator".into(), text(|r| &r.estimator)),
            Column::new(
                "sample".into(),
                rows.iter().map(|r| r.sample as u64).collect::<Vec<_>>(),
            ),
            Column::new(
                "value".into(),
                rows.iter().map(|r| r.log_likelihood).collect::<Vec<_>>(),
            ),
            Column::new(
                "stderr".into(),
                rows.iter().map(|r| r.stderr).collect::<Vec<_>>(),
            ),
        ],
    )?;
    let first = |f: &DataFrame| -> Result<&LikelihoodRow> {
        let row = f
            .column("row")?
            .u32()?
            .get(0)
            .ok_or_else(|| anyhow!("an empty group"))?;
        Ok(&rows[row as usize])
    };
    let everywhere =
        frame.partition_by_stable(["model", "dataset", "solver", "estimator"], true)?;
    for group in frame.partition_by_stable(["model", "dataset", "solver"], true)? {
        let estimators = group.partition_by_stable(["estimator"], true)?;
        let here = first(&group)?;
        let [reference, solver] = references.get(&here.trial).cloned().unwrap_or_default();
        let is_base = |r: &LikelihoodRow| {
            (&r.model, &r.dataset, &r.solver, &r.estimator)
                == (&here.model, &here.dataset, &solver, &reference)
        };
        let base = everywhere.iter().find(|e| first(e).is_ok_and(is_base));
        // A reference under this very solver that has no rows gives way to the first that has some.
        let base = if solver == here.solver {
            base.or(estimators.first())
        } else {
            base
        };
        let base = ReferenceRows {
            rows: base,
            first_row: base.map(&first).transpose()?,
            planned_labels: [&reference, &solver],
        };
        for one in &estimators {
            tables
                .summary
                .push(summarize_estimator(one, &base, rows, first(one)?)?);
        }
        for (i, one) in estimators.iter().enumerate() {
            for other in &estimators[i + 1..] {
                tables.pairs.extend(paired_difference_row(
                    other,
                    one,
                    first(other)?,
                    &first(one)?.estimator,
                )?);
            }
        }
    }
    Ok(())
}

/// Values of two estimators on the samples where both have one, with the first's standard errors.
#[derive(Default)]
struct PairedLogLikelihoods {
    a: Vec<f64>,
    b: Vec<f64>,
    stderr: Vec<Option<f64>>,
}

fn join_by_sample(a: &DataFrame, b: &DataFrame) -> Result<PairedLogLikelihoods> {
    let part = |f: &DataFrame| f.select(["sample", "value", "stderr"]);
    let mut joined = part(a)?.inner_join(&part(b)?, ["sample"], ["sample"])?;
    joined.sort_in_place(["sample"], SortMultipleOptions::default())?;
    let column = |name: &str| -> Result<Vec<Option<f64>>> {
        Ok(joined.column(name)?.f64()?.iter().collect())
    };
    let (left, right, stderr) = (column("value")?, column("value_right")?, column("stderr")?);
    let mut out = PairedLogLikelihoods {
        a: Vec::new(),
        b: Vec::new(),
        stderr: Vec::new(),
    };
    for ((a, b), s) in left.into_iter().zip(right).zip(stderr) {
        if let (Some(a), Some(b)) = (a, b) {
            out.a.push(a);
            out.b.push(b);
            out.stderr.push(s);
        }
    }
    Ok(out)
}

impl PairedLogLikelihoods {
    fn differences(&self) -> Vec<f64> {
        self.a.iter().zip(&self.b).map(|(a, b)| a - b).collect()
    }
}

/// What the rows of a group are compared with.
struct ReferenceRows<'a> {
    /// Absent where its trials have not finished.
    rows: Option<&'a DataFrame>,
    first_row: Option<&'a LikelihoodRow>,
    /// Estimator and solver, as the plan names them.
    planned_labels: [&'a str; 2],
}

impl ReferenceRows<'_> {
    fn labels(&self) -> [&str; 2] {
        self.first_row
            .map_or(self.planned_labels, |row| [&row.estimator, &row.solver])
    }

    fn matches(&self, row: &LikelihoodRow) -> bool {
        self.labels() == [&row.estimator, &row.solver]
    }
}

fn summarize_estimator(
    one: &DataFrame,
    base: &ReferenceRows,
    rows: &[LikelihoodRow],
    first: &LikelihoodRow,
) -> Result<SummaryRow> {
    let mine: Vec<&LikelihoodRow> = one
        .column("row")?
        .u32()?
        .iter()
        .flatten()
        .map(|i| &rows[i as usize])
        .collect();
    let present = |f: fn(&LikelihoodRow) -> Option<f64>| {
        mine.iter().filter_map(|r| f(r)).collect::<Vec<f64>>()
    };
    let mean_of =
        |f: fn(&LikelihoodRow) -> f64| mine.iter().map(|r| f(r)).sum::<f64>() / mine.len() as f64;
    let nats = stats::mean_estimate(&present(|r| r.log_likelihood));
    let bits = stats::mean_estimate(&present(|r| r.bits_per_dim));
    let paired = base
        .rows
        .map_or(Ok(PairedLogLikelihoods::default()), |base| {
            join_by_sample(one, base)
        })?;
    let gaps = paired.differences();
    let bias = stats::mean_estimate(&gaps).filter(|_| !base.matches(first));
    let [reference, solver] = base.labels();
    let scaled: Vec<f64> = gaps
        .iter()
        .zip(&paired.stderr)
        .filter_map(|(g, s)| s.filter(|s| *s > 0.0).map(|s| g / s))
        .collect();
    let (path, own) = (
        mean_of(|r| r.path_seconds),
        mean_of(|r| r.divergence_seconds),
    );
    let evaluations = mean_of(|r| r.evaluations as f64);
    Ok(SummaryRow {
        model: first.model.clone(),
        dataset: first.dataset.clone(),
        estimator: first.estimator.clone(),
        solver: first.solver.clone(),
        kind: first.kind.clone(),
        n: nats.map_or(0, |e| e.n),
        failed: mine.iter().filter(|r| r.status != "ok").count(),
        bits_per_dim: bits.map(|e| e.value),
        bits_per_dim_stderr: bits.and_then(|e| e.stderr),
        nats: nats.map(|e| e.value),
        nats_stderr: nats.and_then(|e| e.stderr),
        nats_per_dim: stats::mean_estimate(&present(|r| r.nats_per_dim)).map(|e| e.value),
        probe_stderr: stats::rms(&present(|r| r.stderr)),
        reference: if solver == first.solver {
            reference.to_owned()
        } else {
            format!("{reference}, {solver}")
        },
        reference_solver: solver.to_owned(),
        bias: bias.map(|e| e.value),
        bias_stderr: bias.and_then(|e| e.stderr),
        bias_n: bias.map(|e| e.n),
        rmse: bias.and_then(|_| stats::rms(&gaps)),
        correlation: bias.and_then(|_| stats::pearson_correlation(&paired.a, &paired.b)),
        rank_correlation: bias.and_then(|_| stats::spearman_correlation(&paired.a, &paired.b)),
        calibration: bias.and_then(|_| stats::rms(&scaled)),
        evaluations,
        jvps: mean_of(|r| r.jvps as f64),
        head_calls: mean_of(|r| r.head_calls as f64),
        cost: if path > 0.0 {
            evaluations * (1.0 + own / path)
        } else {
            evaluations
        },
        seconds_per_sample: path + own,
        bound: first.bound.clone(),
        draws: first.draws,
        dequantization_stderr: stats::rms(&present(|r| r.dequantization_stderr)),
        solver_error: stats::mean_estimate(&present(|r| r.solver_error)).map(|e| e.value),
        entry_seconds_per_sample: stats::mean_estimate(&present(|r| r.entry_seconds))
            .map(|e| e.value),
        ..SummaryRow::default()
    })
}

fn paired_difference_row(
    one: &DataFrame,
    other: &DataFrame,
    first: &LikelihoodRow,
    name: &str,
) -> Result<Option<PairRow>> {
    let Some(difference) = stats::mean_estimate(&join_by_sample(one, other)?.differences()) else {
        return Ok(None);
    };
    let Some(stderr) = difference.stderr else {
        return Ok(None);
    };
    let half = stats::confidence_half_width(stderr, Some(difference.n), 0.95);
    Ok(Some(PairRow {
        model: first.model.clone(),
        dataset: first.dataset.clone(),
        solver: first.solver.clone(),
        estimator: first.estimator.clone(),
        other: name.to_owned(),
        n: difference.n,
        difference: difference.value,
        difference_stderr: stderr,
        low: difference.value - half,
        high: difference.value + half,
    }))
}

/// What each sampler's samples have cost, from their own rows.
#[derive(Default)]
struct SamplingCosts(BTreeMap<(String, String), [f64; 5]>);

impl SamplingCosts {
    fn add(&mut self, rows: &[SampleRow]) {
        for row in rows {
            let sums = self
                .0
                .entry((row.model.clone(), row.sampler.clone()))
                .or_default();
            let one = [
                1.0,
                row.evaluations as f64,
                row.jvps as f64,
                row.seconds,
                row.jvp_seconds,
            ];
            sums.iter_mut().zip(one).for_each(|(sum, v)| *sum += v);
        }
    }

    fn with_cost(&self, mut row: MetricRow) -> MetricRow {
        if let Some([n, evaluations, jvps, all, products]) =
            self.0.get(&(row.model.clone(), row.sampler.clone()))
        {
            (row.evaluations, row.jvps) = (evaluations / n, jvps / n);
            let ratio = if all > products {
                products / (all - products)
            } else {
                0.0
            };
            row.cost = row.evaluations * (1.0 + ratio);
        }
        row
    }
}

/// The first generated samples of a sampler beside data, from the arrays that the run kept.
fn load_gallery(dir: &Path, plan: &Plan, trial: &Trial) -> Result<Option<Gallery>> {
    const MAX_GALLERY_SAMPLES: usize = 512;
    let TrialWork::Metrics {
        model,
        sampler: Some(sampler),
        parts,
        ..
    } = &trial.work
    else {
        return Ok(None);
    };
    let load = |id: &str| -> Result<Vec<Vec<f64>>> {
        let path = array_file(dir, id);
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let rows = decode_npy_f32(&bytes).with_context(|| path.display().to_string())?;
        Ok(rows
            .rows()
            .into_iter()
            .take(MAX_GALLERY_SAMPLES)
            .map(|r| r.to_vec())
            .collect())
    };
    let mut generated = Vec::new();
    for id in parts {
        if generated.len() < MAX_GALLERY_SAMPLES {
            generated.extend(load(id)?);
        }
    }
    generated.truncate(MAX_GALLERY_SAMPLES);
    let (model, real) = (&plan.models[*model], load(&trial.id)?);
    let values = real.iter().flatten();
    let spread = || {
        [
            values.clone().fold(f64::INFINITY, |a, b| a.min(*b)),
            values.clone().fold(f64::NEG_INFINITY, |a, b| a.max(*b)),
        ]
    };
    Ok(Some(Gallery {
        model: model.name.clone(),
        sampler: sampler.label(),
        shape: image_shape(&model.shape),
        range: model.range.unwrap_or_else(spread),
        generated,
        real,
    }))
}

/// A flat sample with a square number of values is drawn as a square image.
fn image_shape(shape: &[usize]) -> Vec<usize> {
    match shape {
        [n] if *n > 4 && n.isqrt() * n.isqrt() == *n => vec![n.isqrt(), n.isqrt()],
        [1, h, w] => vec![*h, *w],
        other => other.to_vec(),
    }
}

/// Writes every table that has rows, and removes what is left of those that have none.
///
/// # Errors
/// Where the disk refuses.
pub fn write_tables(dir: &Path, tables: &Tables) -> Result<()> {
    for (name, bytes) in tables.files()? {
        let path = dir.join("tables").join(format!("{name}.csv"));
        if !bytes.is_empty() {
            crate::output::write_atomic(&path, &bytes)?;
        } else if let Err(e) = std::fs::remove_file(&path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            bail!("{}: {e}", path.display());
        }
    }
    Ok(())
}
