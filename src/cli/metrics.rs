//! `flowgauge metrics`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use ndarray::Array2;
use serde::Serialize;

use self::sides::{File, Side, comparable, layouts};
use super::stream::{STOPPED, listen};
use super::{Exit, Running, spec, summary};
use crate::data::{Dataset, Folder, Numbers, file_of};
use crate::features::cache::{self, Provenance};
use crate::features::images::Coding;
use crate::features::{Extracted, Extractor};
use crate::metric::frechet::{self, Frechet};
use crate::metric::{Metric, Sets, measure_all, notes};
use crate::model::library::cache_root;
use crate::num::key::Key;
use crate::num::with_stderr;
use crate::output::{Kind, Output, Writer};
use crate::progress::Show;
use crate::registry;
use crate::stop;

mod sides;

#[derive(Debug, Args)]
pub struct Metrics {
    /// Generated samples: .npy, .npz, .safetensors, .csv, .parquet, IDX or a folder of images; for `frechet` also a file of
    /// their statistics, .npz with `mu` and `sigma`
    #[arg(long, value_name = "FILE")]
    generated: PathBuf,
    /// Reference samples or statistics, likewise
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,
    /// Other data of the reference's law: what the statistics are of data against data goes to OUT with `.floor.csv`
    #[arg(long, value_name = "FILE")]
    floor: Option<PathBuf>,
    /// What the model was trained on, where that is not the reference: for authenticity, memorization and fld
    #[arg(long, value_name = "FILE")]
    train: Option<PathBuf>,
    /// Data that the model has not seen, where those are not the reference: for fld, whose third set is the reference
    #[arg(long, value_name = "FILE")]
    test: Option<PathBuf>,
    /// A network whose features are compared: an ONNX file, a preset file, or inception-v3, inception-v3-clean,
    /// dinov2-vitl14, clip-vitl14-336; the raw numbers unless given
    #[arg(long, value_name = "ONNX|YAML|NAME")]
    extractor: Option<PathBuf>,
    /// Where black and white lie in floats, such as `-1,1`: floats are rounded to the nearest of 256 levels, and
    /// integers put into the range
    #[arg(long, value_name = "LO,HI", value_parser = range, allow_hyphen_values = true)]
    range: Option<Ends>,
    /// The order of axes of arrays that are not channels first, a letter each, such as NHWC; or of one of them, such
    /// as reference=NHWC, and then again for others
    #[arg(long, value_name = "[SET=]LETTERS")]
    layout: Vec<String>,
    /// How many levels integers have
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..=65536))]
    levels: u32,
    /// Statistics to compute, such as `frechet` or `"{kernel: {subsets: 100, subset_size: 1000}}"` [default: all that so many samples allow]
    #[arg(long, value_name = "SPEC")]
    metric: Vec<String>,
    /// Compute features of the reference again, and keep none
    #[arg(long)]
    no_cache: bool,
    /// The seed of subsets and projections
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The table to write; `-` is standard output
    #[arg(long, value_name = "CSV")]
    out: PathBuf,
    #[command(flatten)]
    running: Running,
}

#[derive(Debug, Clone, Copy)]
struct Ends([f64; 2]);

fn range(text: &str) -> Result<Ends, String> {
    let ends: Option<Vec<f64>> = text.split(',').map(|e| e.trim().parse().ok()).collect();
    match ends.as_deref() {
        Some([lo, hi]) if lo < hi && (hi - lo).is_finite() => Ok(Ends([*lo, *hi])),
        _ => Err("expected two numbers, the smaller first, such as -1,1".to_owned()),
    }
}

#[derive(Debug, Serialize)]
struct Line {
    metric: &'static str,
    value: f64,
    stderr: Option<f64>,
    /// Not known of statistics.
    n_generated: Option<usize>,
    n_reference: Option<usize>,
    /// What to know before trusting the value.
    note: String,
}

/// Statistics as they are measured: each a row of the table, and a line for whoever waits.
struct Table<'a> {
    out: &'a Output,
    /// What is compared, where that is not the generated samples.
    whose: &'a str,
    /// Of a floor: the generated samples beside it, whose count biased statistics take too.
    count: Option<usize>,
    /// Begun with the first row.
    written: Option<csv::Writer<Writer>>,
}

impl Table<'_> {
    fn add(&mut self, line: &Line) -> Result<()> {
        let written = match &mut self.written {
            Some(written) => written,
            None => self
                .written
                .insert(csv::Writer::from_writer(self.out.begin()?)),
        };
        written.serialize(line)?;
        written.flush()?;
        let count = |n: Option<usize>, what: &str| n.map(|n| format!("{n} {what}"));
        let counts = [
            count(line.n_generated, "generated"),
            count(line.n_reference, "reference"),
        ];
        let counts: Vec<String> = counts.into_iter().flatten().collect();
        let of = if counts.is_empty() {
            String::new()
        } else {
            format!(" ({})", counts.join(", "))
        };
        let value = with_stderr(line.value, line.stderr);
        summary(
            Some(self.out),
            format_args!("{}{} {value}{of}", self.whose, line.metric),
        );
        Ok(())
    }

    fn finish(self) -> Result<()> {
        match self.written {
            Some(written) => written
                .into_inner()
                .map_err(|e| anyhow!("{}", e.error()))?
                .finish(),
            None => self.out.write(&[]),
        }
    }
}

impl Metrics {
    pub fn execute(self) -> Result<Exit> {
        // A statistic looks at no flag.
        listen(Some(Duration::from_secs(2)));
        match self.measured() {
            Err(_) if stop::asked() => {
                note!("flowgauge: {STOPPED}");
                Ok(Exit::Stopped)
            }
            ended => ended,
        }
    }

    fn measured(&self) -> Result<Exit> {
        let out = Output::new(Kind::Table, "--out", &self.out, &self.inputs())?;
        let beside = || out.beside(Kind::Table, "--floor", "floor.csv", &self.inputs());
        let floor_out = self.floor.as_ref().map(|_| beside()).transpose()?;
        let named: Vec<Metric> = self
            .metric
            .iter()
            .map(|m| spec("--metric", m))
            .collect::<Result<_>>()?;
        let mut extractor = match &self.extractor {
            Some(spec) => {
                let machine = self.running.machine();
                Some(Extractor::open(
                    spec,
                    self.running.runtime()?,
                    machine.provider,
                    machine.threads,
                )?)
            }
            None => None,
        };
        if let Some(scaling) = extractor.as_ref().and_then(Extractor::own_scaling) {
            self.tell(|| note!("flowgauge: {scaling}"));
        }
        let meter = extractor
            .as_ref()
            .map(|e| e.meter.clone())
            .unwrap_or_default();
        let show = Show::metered(self.running.quiet, meter, || "features".to_owned());
        let mut sides = self.sides(extractor.as_mut())?;
        drop(show);
        let mut side = |set: &str| sides.remove(set);
        let (Some(generated), Some(reference)) = (side("generated"), side("reference")) else {
            bail!("no samples")
        };
        let (floor, train, test) = (side("floor"), side("train"), side("test"));
        let samples = generated.count().is_some() && reference.count().is_some();
        if samples && generated.integer != reference.integer && self.range.is_none() {
            note!(
                "flowgauge: one of {} and {} holds integers and the other floats, compared as they are; if the floats \
                 are images, say with --range where black and white lie",
                self.generated.display(),
                self.reference.display()
            );
        }
        let sets = |generated| Sets {
            generated,
            reference: &reference,
            train: train.as_ref(),
            test: test.as_ref(),
        };
        let table = |out, whose, count| Table {
            out,
            whose,
            count,
            written: None,
        };
        // What cannot be compared is refused before anything is.
        if let Some(floor) = &floor {
            self.chosen(sets(floor), &named)?;
        }
        self.table(sets(&generated), &named, table(&out, "", None))?;
        if let (Some(floor_out), Some(floor)) = (&floor_out, &floor) {
            self.table(
                sets(floor),
                &named,
                table(floor_out, "data against data: ", generated.count()),
            )?;
        }
        Ok(Exit::Well)
    }

    /// Every set that was named, in one order of axes; with an extractor its features, before the next is read.
    fn sides(&self, extractor: Option<&mut Extractor>) -> Result<BTreeMap<&'static str, Side>> {
        let layouts = layouts(&self.layout)?;
        let paths = [
            ("generated", Some(&self.generated)),
            ("reference", Some(&self.reference)),
            ("floor", self.floor.as_ref()),
            ("train", self.train.as_ref()),
            ("test", self.test.as_ref()),
        ];
        let paths = paths
            .into_iter()
            .filter_map(|(set, path)| Some((set, path?)));
        let mut sides = BTreeMap::new();
        if let Some(extractor) = extractor {
            let port = extractor.port().map(<[i64]>::to_vec);
            for (set, path) in paths {
                let kept = set != "generated";
                let side = if extractor.resizes() && self.levels == 256 && path.is_dir() {
                    self.folder(path, extractor, kept)?
                } else {
                    let file = File::open(path, true)?
                        .laid_out(layouts.as_ref().and_then(|l| l.of(set)), port.as_deref())?;
                    self.side(file, Some(extractor), kept)?
                };
                sides.insert(set, side);
            }
            return Ok(sides);
        }
        let whole = self.range.is_some() || layouts.is_some();
        let files = paths
            .map(|(set, path)| Ok((set, File::open(path, whole)?)))
            .collect::<Result<Vec<_>>>()?;
        for (set, file) in comparable(files, layouts.as_ref())? {
            sides.insert(set, self.side(file, None, false)?);
        }
        Ok(sides)
    }

    /// The files that are read.
    fn inputs(&self) -> Vec<PathBuf> {
        let given = [
            Some(&self.generated),
            Some(&self.reference),
            self.floor.as_ref(),
            self.train.as_ref(),
        ];
        let given = given
            .into_iter()
            .chain([self.test.as_ref(), self.extractor.as_ref()]);
        given.flatten().map(|path| file_of(path)).collect()
    }

    /// The samples of a file, or the features of them; those of references are kept for the next time.
    fn side(&self, file: File, extractor: Option<&mut Extractor>, kept: bool) -> Result<Side> {
        let data = match file {
            File::Stored(name, stored) => return Ok(Side::plain(name, Box::new(stored), false)),
            File::Statistics(statistics) => {
                self.tell(|| statistics.tell());
                return Ok(Side::statistics(statistics));
            }
            File::Data(data) => data,
        };
        self.tell(|| data.tell());
        let mut rows = data.rows(data.len());
        let bytes = extractor.as_ref().is_some_and(|e| e.takes_bytes());
        let integer = matches!(data.numbers, Numbers::Integers | Numbers::Bytes);
        let coding = match (integer, self.range) {
            (true, Some(_)) => Some(Coding::Levels(self.levels)),
            (true, None) if bytes => Some(Coding::Levels(self.levels)),
            (false, Some(Ends(range))) => Some(Coding::Range(range)),
            (_, None) => None,
        };
        if let (Some(Coding::Levels(levels)), Some(above)) = (
            coding,
            rows.iter()
                .find(|v| **v < 0.0 || **v >= f64::from(self.levels)),
        ) {
            bail!(
                "{}: it holds {above}, expected levels 0 to {}; say with --levels how many there are",
                data.name,
                levels - 1
            );
        }
        if let (Some(coding), Some(Ends([lo, hi])), false) = (coding, self.range, bytes) {
            rows.mapv_inplace(|v| lo + (hi - lo) * coding.byte(v) / 255.0);
        }
        let Some(extractor) = extractor else {
            return Ok(Side::plain(data.name, Box::new(rows), integer));
        };
        let extracted = self.features(extractor, &data, rows, coding, kept)?;
        Ok(Side::features(data.name, extracted, integer))
    }

    /// Says something on standard error, unless nothing is to be said.
    fn tell(&self, what: impl FnOnce()) {
        if !self.running.quiet {
            what();
        }
    }

    /// A folder of images of any sizes, one at a time.
    fn folder(&self, path: &Path, extractor: &mut Extractor, kept: bool) -> Result<Side> {
        let name = path.display().to_string();
        let folder = Folder::open(path).with_context(|| name.clone())?;
        self.tell(|| {
            folder
                .notes
                .iter()
                .for_each(|text| note!("flowgauge: {name}: {text}"))
        });
        let coding = extractor.coding_name(Some(Coding::Levels(256)));
        let provenance =
            self.provenance(extractor, folder.sha256.clone(), vec![folder.len()], coding)?;
        let extract = || {
            extractor
                .extract_images(folder.images())
                .with_context(|| name.clone())
        };
        let extracted = cache::kept(self.cache(kept).as_deref(), || provenance, &name, extract)?;
        Ok(Side::features(name, extracted, true))
    }

    fn features(
        &self,
        extractor: &mut Extractor,
        data: &Dataset,
        rows: Array2<f64>,
        coding: Option<Coding>,
        kept: bool,
    ) -> Result<Extracted> {
        if extractor.preset.is_some() && coding.is_none() {
            bail!(
                "{}: it holds floats, and a preset takes images; say with --range where black and white lie",
                data.name
            );
        }
        let mut coding_name = extractor.coding_name(coding);
        if let Some(Ends(range)) = self.range.filter(|_| !extractor.takes_bytes()) {
            coding_name += &format!(" in {range:?}");
        }
        if let Some(layout) = &data.layout {
            coding_name += &format!(", axes {layout}");
        }
        let shape = data.values.shape();
        let provenance =
            self.provenance(extractor, data.sha256.clone(), shape.to_vec(), coding_name)?;
        let extract = || {
            extractor
                .extract(rows.view(), &shape[1..], coding)
                .context(data.name.clone())
        };
        cache::kept(
            self.cache(kept).as_deref(),
            || provenance,
            &data.name,
            extract,
        )
    }

    fn provenance(
        &self,
        of: &Extractor,
        data: String,
        shape: Vec<usize>,
        coding: String,
    ) -> Result<Provenance> {
        Ok(Provenance {
            version: Provenance::VERSION,
            data_sha256: data,
            shape,
            coding,
            extractor_sha256: of.sha256.clone(),
            preset: of.preset.clone(),
            machine: Provenance::machine(
                &self.running.runtime()?.library.version,
                self.running.machine().provider,
            ),
        })
    }

    /// Where features are kept, if they are.
    fn cache(&self, kept: bool) -> Option<PathBuf> {
        cache_root().ok().filter(|_| kept && !self.no_cache)
    }

    /// The first of the sets that is known by its statistics alone.
    fn law<'s>(&self, sides: Sets<&'s Side>) -> Result<Option<&'s Side>> {
        let all = [
            Some(sides.generated),
            Some(sides.reference),
            sides.train,
            sides.test,
        ];
        let law = all
            .into_iter()
            .flatten()
            .find(|side| side.count().is_none());
        match law.filter(|_| {
            [sides.train, sides.test]
                .into_iter()
                .flatten()
                .any(|side| side.count().is_none())
        }) {
            Some(law) => bail!(
                "{}: it holds statistics, and not samples; expected them of --generated and --reference alone",
                law.name
            ),
            None => Ok(law),
        }
    }

    /// The statistics to compute: those that were named, or all that so many samples allow.
    fn chosen(&self, sides: Sets<&Side>, named: &[Metric]) -> Result<Vec<Metric>> {
        if self.law(sides)?.is_some() {
            return Ok(named.to_vec());
        }
        let n = sides.map(|side| side.count().unwrap_or_default());
        let metrics = if named.is_empty() {
            let classes = sides.generated.classifies();
            let possible = |m: &Metric| m.check_all(n).is_ok() && (!m.needs_logits() || classes);
            // Where not even the first is possible, its own check says why.
            let all = Metric::defaults().into_iter().enumerate();
            all.filter(|(i, m)| *i == 0 || possible(m))
                .map(|(_, m)| m)
                .collect()
        } else {
            named.to_vec()
        };
        for metric in &metrics {
            metric.check_all(n).map_err(|e| anyhow!("--metric {e}"))?;
        }
        Ok(metrics)
    }

    /// Statistics of one side against the others, into a table.
    fn table(&self, sides: Sets<&Side>, named: &[Metric], mut table: Table) -> Result<()> {
        if let Some(law) = self.law(sides)? {
            return self.of_laws(sides, law, named, table);
        }
        let metrics = self.chosen(sides, named)?;
        let n = sides.map(|side| side.count().unwrap_or_default());
        let machine = self.running.machine();
        let samples = machine.with_threads(|| sides.try_map(Side::sample))??;
        let samples = samples.as_ref();
        let fewer = match table.count.filter(|count| *count < n.generated) {
            Some(count) => Some(sides.generated.sample()?.first(count)),
            None => None,
        };
        for (i, metric) in metrics.iter().enumerate() {
            let samples = match &fewer {
                Some(fewer) if metric.biased() => Sets {
                    generated: fewer,
                    ..samples
                },
                _ => samples,
            };
            let n = samples.map(|set| set.len());
            let what = format!("{} ({} of {})", metric.name(), i + 1, metrics.len());
            let show = Show::metered(self.running.quiet, Arc::default(), move || what.clone());
            let measured =
                machine.with_threads(|| measure_all(metric, samples, Key { seed: self.seed }))?;
            drop(show);
            let estimate = match measured {
                Ok(estimate) => estimate,
                // Of what nobody asked for by name, what these samples do not allow is left out.
                Err(reason) if named.is_empty() && i > 0 => {
                    note!("flowgauge: {} is left out: {reason}", metric.name());
                    continue;
                }
                Err(reason) => bail!("--metric {}", registry::named(metric.name(), reason)),
            };
            let mut notes = notes::of(metric, samples);
            notes.extend(
                table
                    .count
                    .and_then(|count| notes::other_count(metric, n.generated, count)),
            );
            self.say(sides.generated, metric, &notes);
            table.add(&Line {
                metric: metric.name(),
                value: estimate.value,
                stderr: estimate.stderr,
                n_generated: Some(n.generated),
                n_reference: Some(n.of(metric.compared())),
                note: notes.join("; "),
            })?;
        }
        table.finish()
    }

    /// What to know before trusting a value, on the terminal too.
    fn say(&self, of: &Side, metric: &Metric, notes: &[String]) {
        for note in notes {
            note!("flowgauge: {}: {}: {note}", of.name, metric.name());
        }
    }

    /// The Fréchet distance where one set is known by its mean and covariance alone: nothing else needs no samples.
    fn of_laws(
        &self,
        sides: Sets<&Side>,
        law: &Side,
        named: &[Metric],
        mut table: Table,
    ) -> Result<()> {
        let distance = Metric::Frechet(Frechet {});
        if let Some(other) = named.iter().find(|m| **m != distance) {
            let (name, file) = (other.name(), &law.name);
            bail!(
                "--metric {name}: {file} holds statistics, and not samples; expected `frechet` alone"
            );
        }
        let (generated, reference) = (sides.generated, sides.reference);
        if generated.width() != reference.width() {
            bail!(
                "{} has {} numbers per sample and {} has {}: they cannot be compared; statistics need the extractor \
                 that they were computed with",
                generated.name,
                generated.width(),
                reference.name,
                reference.width()
            );
        }
        let n = |side: &Side| side.count().unwrap_or(2);
        distance
            .check(n(generated), n(reference))
            .map_err(|e| anyhow!("--metric {e}"))?;
        let machine = self.running.machine();
        let value = machine.with_threads(|| -> Result<f64> {
            frechet::alone(&generated.law()?, &reference.law()?)
                .map_err(|e| anyhow!("frechet: {e}"))
        })??;
        self.tell(|| {
            note!(
                "flowgauge: {}: statistics have no samples, so that the distance has no standard error, and nothing \
                 says that they are of the same features",
                law.name
            );
        });
        let (n_generated, n_reference) = (generated.count(), reference.count());
        let note = notes::few_for_a_covariance(generated.width(), n_generated, n_reference);
        self.say(generated, &distance, note.as_slice());
        let note = note.unwrap_or_default();
        table.add(&Line {
            metric: distance.name(),
            value,
            stderr: None,
            n_generated,
            n_reference,
            note,
        })?;
        table.finish()
    }
}
