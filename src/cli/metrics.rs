//! `flowgauge metrics`: computes statistics of generated samples against reference samples.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use ndarray::Array2;
use serde::Serialize;

use self::sample_sets::{SampleSet, SetFile, arrange_comparable_sets, parse_layouts};
use super::console::{Align, AlignedTable, Answer, Cell, JsonArgs, with_error};
use super::interrupt::{STOPPED_MESSAGE, stop_on_signal};
use super::run_summary::unit_of_statistic;
use super::{Exit, RuntimeArgs, parse_spec};
use crate::data::{Dataset, ImageFolder, NumberKind, path_without_member};
use crate::features::cache::{self, Provenance};
use crate::features::images::{ByteRounding, PixelCoding};
use crate::features::{ExtractedFeatures, Extractor};
use crate::host::user_cache_folder;
use crate::metric::frechet::{self, Frechet, FrechetInfluence};
use crate::metric::measured::{FloorSamples, measure_with_notes};
use crate::metric::{Metric, SampleSets, notes};
use crate::model::card::check_plain_name;
use crate::num::key::RngKey;
use crate::num::source::RowSource;
use crate::num::stats::Estimate;
use crate::output::{Output, OutputKind, Writer};
use crate::progress::ProgressDisplay;
use crate::registry;
use crate::stop;

mod sample_sets;

/// The examples of the help.
const EXAMPLES: &str = "\
Examples:
  flowgauge metrics --generated models/moons/heldout.npy --reference models/moons/train.npy --out metrics.csv
  flowgauge metrics --generated models/digits/heldout.npy --reference models/digits/train.npy --extractor models/digits/features.onnx --metric frechet --metric kernel --out metrics.csv --json";

/// The arguments of `flowgauge metrics`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct MetricsArgs {
    /// Generated samples: .npy, .npz, .safetensors, .csv, .parquet, IDX or a folder of images
    ///
    /// For the metric `frechet` also a file of statistics: an .npz with `mu` and `sigma`.
    #[arg(long, value_name = "FILE")]
    generated: PathBuf,
    /// Reference samples or statistics, in the same formats
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,
    /// Other samples of the reference's distribution, for the statistics of data against data
    ///
    /// They show what a perfect model would score, and are written beside --out with the suffix
    /// `.floor.csv`.
    #[arg(long, value_name = "FILE")]
    floor: Option<PathBuf>,
    /// The training data of the model, if they differ from the reference; for authenticity,
    /// memorization and fld
    #[arg(long, value_name = "FILE")]
    train: Option<PathBuf>,
    /// Data that the model has not seen, if they differ from the reference; for fld
    #[arg(long, value_name = "FILE")]
    test: Option<PathBuf>,
    /// The feature extractor [default: none, the raw numbers are compared]
    ///
    /// An ONNX file, a preset file (YAML), or one of inception-v3, inception-v3-clean,
    /// dinov2-vitl14 and clip-vitl14-336.
    #[arg(long, value_name = "ONNX|YAML|NAME")]
    extractor: Option<PathBuf>,
    /// The values of black and white in floats, such as `-1,1`
    ///
    /// Floats are rounded to one of 256 levels, as --bytes says, and integers are scaled to the
    /// range.
    #[arg(long, value_name = "LO,HI", value_parser = parse_range, allow_hyphen_values = true)]
    range: Option<ValueRange>,
    /// How floats in --range become bytes: `nearest`, or `floor`, as several published evaluations
    /// truncate
    #[arg(long, value_name = "nearest|floor", default_value = "nearest", value_parser = parse_bytes)]
    bytes: ByteRounding,
    /// The order of the axes of arrays that are not channels first, one letter per axis, such as
    /// NHWC
    ///
    /// `reference=NHWC` sets the order for one array; the option may then be repeated for others.
    #[arg(long, value_name = "[SET=]LETTERS")]
    layout: Vec<String>,
    /// The number of levels of integer data
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..=65536))]
    levels: u32,
    /// A statistic, such as `frechet` or `"{kernel: {subsets: 100, subset_size: 1000}}"`; may be
    /// repeated [default: all that the number of samples allows]
    #[arg(long, value_name = "SPEC")]
    metric: Vec<String>,
    /// Write the statistics of the reference: an .npz with `mu`, `sigma` and `n`, as other programs
    /// read it
    ///
    /// `FILE.npz:pool_3` writes the features themselves as an array of that name, in float32.
    #[arg(long, value_name = "NPZ")]
    save_reference: Option<PathBuf>,
    /// Neither read nor write the cache of the features of references
    #[arg(long)]
    no_cache: bool,
    /// The seed of random subsets and projections
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The table to write (CSV); `-` is standard output
    #[arg(long, value_name = "CSV")]
    out: PathBuf,
    #[command(flatten)]
    json: JsonArgs,
    #[command(flatten)]
    pub(super) runtime_args: RuntimeArgs,
}

/// The values of black and white, the smaller first.
#[derive(Debug, Clone, Copy)]
struct ValueRange([f64; 2]);

/// Parses `LO,HI`.
fn parse_range(text: &str) -> Result<ValueRange, String> {
    let ends: Option<Vec<f64>> = text.split(',').map(|e| e.trim().parse().ok()).collect();
    match ends.as_deref() {
        Some([lo, hi]) if lo < hi && (hi - lo).is_finite() => Ok(ValueRange([*lo, *hi])),
        _ => Err("expected two numbers, the smaller first, such as -1,1".to_owned()),
    }
}

/// Parses `nearest` or `floor`.
fn parse_bytes(text: &str) -> Result<ByteRounding, String> {
    parse_spec("--bytes", text).map_err(|_| "expected nearest or floor".to_owned())
}

/// One row of the table: one statistic.
#[derive(Debug, Serialize)]
struct MetricCsvRow {
    metric: &'static str,
    value: f64,
    stderr: Option<f64>,
    /// The number of generated samples; absent if only their statistics are known.
    n_generated: Option<usize>,
    /// The number of samples in the set that the generated samples are compared with; absent if
    /// only its statistics are known.
    n_reference: Option<usize>,
    /// A warning about the value; empty if there is none.
    note: String,
}

impl MetricCsvRow {
    /// The row of a document: that of the table with its unit.
    fn document(&self) -> serde_json::Value {
        serde_json::json!({
            "metric": self.metric,
            "value": self.value,
            "stderr": self.stderr,
            "unit": unit_of_statistic(self.metric),
            "n_generated": self.n_generated,
            "n_reference": self.n_reference,
            "note": self.note,
        })
    }
}

/// Writes each statistic to the table as soon as it is computed.
struct MetricTableWriter<'a> {
    out: &'a Output,
    /// For the floor, the number of generated samples. Biased statistics depend on the number of
    /// samples, so that they use only this many samples of the floor.
    generated_count: Option<usize>,
    /// Opened with the first row.
    writer: Option<csv::Writer<Writer>>,
    /// What was written so far.
    rows: Vec<MetricCsvRow>,
}

impl MetricTableWriter<'_> {
    /// Writes one row.
    ///
    /// # Errors
    /// Fails if the table cannot be written.
    fn write_row(&mut self, row: MetricCsvRow) -> Result<()> {
        let written = match &mut self.writer {
            Some(written) => written,
            None => self
                .writer
                .insert(csv::Writer::from_writer(self.out.begin()?)),
        };
        written.serialize(&row)?;
        written.flush()?;
        self.rows.push(row);
        Ok(())
    }

    /// Puts the table into its place and returns its rows; it is empty if there were none.
    ///
    /// # Errors
    /// Fails if the table cannot be written.
    fn finish(self) -> Result<Vec<MetricCsvRow>> {
        match self.writer {
            Some(written) => written
                .into_inner()
                .map_err(|e| anyhow!("{}", e.error()))?
                .finish()?,
            None => self.out.write(&[])?,
        }
        Ok(self.rows)
    }
}

impl MetricsArgs {
    /// Writes the table and prints each statistic.
    ///
    /// # Errors
    /// Fails if an option or an array is wrong, or if the table cannot be written.
    pub(super) fn execute(self) -> Result<Exit> {
        // A statistic does not check for signals, so that the process ends without it.
        stop_on_signal(Some(Duration::from_secs(2)));
        match self.measure() {
            Err(_) if stop::requested() => {
                errln!("flowgauge: {STOPPED_MESSAGE}");
                Ok(Exit::Stopped)
            }
            ended => ended,
        }
    }

    /// Reads the sets, computes their features and writes the tables.
    ///
    /// # Errors
    /// Fails if an option or an array is wrong, or if a table cannot be written.
    fn measure(&self) -> Result<Exit> {
        let out = Output::new(OutputKind::Table, "--out", &self.out, &self.input_files())?;
        self.json.check(Some(&out))?;
        let beside = || {
            out.sibling(
                OutputKind::Table,
                "--floor",
                "floor.csv",
                &self.input_files(),
            )
        };
        if !self.bytes.is_default() && self.range.is_none() {
            bail!("--bytes: floats become bytes only in a --range, which is absent");
        }
        let saved = self.reference_output()?;
        let floor_out = self.floor.as_ref().map(|_| beside()).transpose()?;
        let named: Vec<Metric> = self
            .metric
            .iter()
            .map(|m| parse_spec("--metric", m))
            .collect::<Result<_>>()?;
        let mut extractor = match &self.extractor {
            Some(spec) => {
                let machine = self.runtime_args.machine();
                Some(Extractor::open(
                    spec,
                    self.runtime_args.runtime()?,
                    machine.provider,
                    machine.threads,
                )?)
            }
            None => None,
        };
        if let Some(scaling) = extractor.as_ref().and_then(Extractor::describe_own_scaling) {
            self.unless_quiet(|| errln!("flowgauge: {scaling}"));
        }
        let meter = extractor
            .as_ref()
            .map(|e| e.meter.clone())
            .unwrap_or_default();
        let show =
            ProgressDisplay::for_meter(self.runtime_args.quiet, meter, || "features".to_owned());
        let mut sides = self.read_sets(extractor.as_mut())?;
        drop(show);
        let mut side = |set: &str| sides.remove(set);
        let (Some(generated), Some(reference)) = (side("generated"), side("reference")) else {
            bail!("no samples")
        };
        let (floor, train, test) = (side("floor"), side("train"), side("test"));
        if let Some((file, member)) = &saved {
            file.write(&reference.archive(member.as_deref())?)?;
        }
        let samples = generated.count().is_some() && reference.count().is_some();
        if samples && generated.is_integer != reference.is_integer && self.range.is_none() {
            errln!(
                "flowgauge: one of {} and {} holds integers and the other floats; they are \
                 compared unchanged. If the floats are images, give the values of black and \
                 white by --range",
                self.generated.display(),
                self.reference.display()
            );
        }
        let sets = |generated| SampleSets {
            generated,
            reference: &reference,
            train: train.as_ref(),
            test: test.as_ref(),
        };
        let table = |out, count| MetricTableWriter {
            out,
            generated_count: count,
            writer: None,
            rows: Vec::new(),
        };
        // The floor is checked first, so that nothing is computed if it cannot be compared.
        if let Some(floor) = &floor {
            self.choose_metrics(sets(floor), &named)?;
        }
        let rows = self.write_table(sets(&generated), &named, table(&out, None))?;
        let floor_rows = match (&floor_out, &floor) {
            (Some(floor_out), Some(floor)) => {
                self.write_table(sets(floor), &named, table(floor_out, generated.count()))?
            }
            _ => Vec::new(),
        };
        let answer = self.answer(&rows, &floor_rows);
        Ok(answer.show(self.json, Some(&out), Exit::Success))
    }

    /// The statistics with their floor beside them, and the line that names the first.
    fn answer(&self, rows: &[MetricCsvRow], floor_rows: &[MetricCsvRow]) -> Answer {
        let first = rows.first().map_or("no statistic".to_owned(), |row| {
            format!("{} {}", row.metric, with_error(Some(row.value), row.stderr))
        });
        let more = match rows.len() {
            0 | 1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        let line = format!("{first}{more}; {}", self.out.display());
        let mut answer = Answer::new("metrics", line);
        let mut table = AlignedTable::new([
            ("statistic", Align::Left),
            ("value ± SE", Align::Right),
            ("floor ± SE", Align::Right),
            ("n", Align::Right),
            ("n reference", Align::Right),
        ]);
        let count = |n: Option<usize>| n.map_or("–".to_owned(), |n| n.to_string());
        for row in rows {
            let floor = floor_rows.iter().find(|floor| floor.metric == row.metric);
            let floor = floor.map_or("–".to_owned(), |floor| {
                with_error(Some(floor.value), floor.stderr)
            });
            table.row([
                Cell::from(row.metric),
                with_error(Some(row.value), row.stderr).into(),
                floor.into(),
                count(row.n_generated).into(),
                count(row.n_reference).into(),
            ]);
        }
        answer.table(table.without_empty_columns());
        let documents = |rows: &[MetricCsvRow]| -> Vec<serde_json::Value> {
            rows.iter().map(MetricCsvRow::document).collect()
        };
        answer.set("metrics", documents(rows));
        answer.set("floor", documents(floor_rows));
        answer.set_path("table", &self.out);
        answer
    }

    /// Reads every set that was named, in one order of axes. With an extractor, each set is
    /// replaced by its features before the next set is read, so that only one set of images is in
    /// memory.
    ///
    /// # Errors
    /// Fails if an array cannot be read, or if the shapes cannot be compared.
    fn read_sets(
        &self,
        extractor: Option<&mut Extractor>,
    ) -> Result<BTreeMap<&'static str, SampleSet>> {
        let layouts = parse_layouts(&self.layout)?;
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
            let port = extractor.sample_shape().map(<[i64]>::to_vec);
            for (set, path) in paths {
                let kept = set != "generated";
                let side = if extractor.resizes_images() && self.levels == 256 && path.is_dir() {
                    self.image_folder_features(path, extractor, kept)?
                } else {
                    let file = SetFile::open(path)?.with_layout(
                        layouts.as_ref().and_then(|l| l.for_array(set)),
                        port.as_deref(),
                    )?;
                    self.load_set(file, Some(extractor), kept)?
                };
                sides.insert(set, side);
            }
            return Ok(sides);
        }
        let files = paths
            .map(|(set, path)| Ok((set, SetFile::open(path)?)))
            .collect::<Result<Vec<_>>>()?;
        for (set, file) in arrange_comparable_sets(files, layouts.as_ref())? {
            sides.insert(set, self.load_set(file, None, false)?);
        }
        Ok(sides)
    }

    /// Where the statistics of the reference go, and the name of the array if its features do.
    ///
    /// # Errors
    /// Fails if the file cannot be written, or is one that is read.
    fn reference_output(&self) -> Result<Option<(Output, Option<String>)>> {
        let Some(spec) = &self.save_reference else {
            return Ok(None);
        };
        let text = spec.to_string_lossy();
        let (file, member) = match text.rsplit_once(".npz:") {
            Some((file, member)) => (PathBuf::from(format!("{file}.npz")), Some(member)),
            None => (spec.clone(), None),
        };
        if let Some(member) = member.filter(|name| check_plain_name(name).is_err()) {
            bail!("--save-reference: `{member}` is no name of an array, expected such as `pool_3`");
        }
        let inputs = self.input_files();
        let out = Output::new(OutputKind::Archive, "--save-reference", &file, &inputs)?;
        if file == self.out {
            bail!("--save-reference and --out name the same file");
        }
        Ok(Some((out, member.map(str::to_owned))))
    }

    /// All files that are read, which the table must not overwrite.
    fn input_files(&self) -> Vec<PathBuf> {
        let given = [
            Some(&self.generated),
            Some(&self.reference),
            self.floor.as_ref(),
            self.train.as_ref(),
        ];
        let given = given
            .into_iter()
            .chain([self.test.as_ref(), self.extractor.as_ref()]);
        given
            .flatten()
            .map(|path| path_without_member(path))
            .collect()
    }

    /// The samples of a file, or their features if there is an extractor. `kept` says whether the
    /// features are cached for later calls.
    ///
    /// # Errors
    /// Fails if the values are out of range, or if the extractor does not take them.
    fn load_set(
        &self,
        file: SetFile,
        extractor: Option<&mut Extractor>,
        kept: bool,
    ) -> Result<SampleSet> {
        let data = match file {
            SetFile::Statistics(statistics) => {
                self.unless_quiet(|| statistics.print_notes());
                return Ok(SampleSet::from_statistics(statistics));
            }
            SetFile::Data(data) => data,
        };
        self.unless_quiet(|| data.print_notes());
        if data.are_features && extractor.is_some() {
            self.unless_quiet(|| {
                errln!(
                    "flowgauge: {}: it holds features, which are compared as they are; it cannot be \
                     checked that --extractor gives the same",
                    data.name
                );
            });
            return Ok(SampleSet::from_rows(
                data.name,
                Box::new(data.values),
                false,
            ));
        }
        let bytes = extractor.as_ref().is_some_and(|e| e.takes_bytes());
        let integer = matches!(data.number_kind, NumberKind::Integers | NumberKind::Uint8);
        let coding = match (integer, self.range) {
            (true, Some(_)) => Some(PixelCoding::Levels(self.levels)),
            (true, None) if bytes => Some(PixelCoding::Levels(self.levels)),
            (false, Some(ValueRange(range))) => Some(PixelCoding::of_range(range, self.bytes)),
            (_, None) => None,
        };
        if let (Some(PixelCoding::Levels(levels)), Some(above)) = (
            coding,
            data.values
                .find_value(|v| v < 0.0 || v >= f64::from(self.levels)),
        ) {
            bail!(
                "{}: it holds {above}, expected levels 0 to {}; \
                 give the number of levels by --levels",
                data.name,
                levels - 1
            );
        }
        let scaled = match (coding, self.range, bytes) {
            (Some(coding), Some(ValueRange([lo, hi])), false) => {
                let mut rows = data.first_rows(data.len());
                rows.mapv_inplace(|v| lo + (hi - lo) * coding.to_byte(v) / 255.0);
                Some(rows)
            }
            _ => None,
        };
        let Some(extractor) = extractor else {
            let rows: Box<dyn RowSource + Send> = match scaled {
                Some(rows) => Box::new(rows),
                None => Box::new(data.values),
            };
            return Ok(SampleSet::from_rows(data.name, rows, integer));
        };
        let rows = scaled.unwrap_or_else(|| data.first_rows(data.len()));
        let extracted = self.extract_features(extractor, &data, rows, coding, kept)?;
        Ok(SampleSet::from_features(data.name, extracted, integer))
    }

    /// Calls `what`, which prints a note, unless `--quiet` is given.
    fn unless_quiet(&self, what: impl FnOnce()) {
        if !self.runtime_args.quiet {
            what();
        }
    }

    /// The features of a folder of images, which are read one at a time and may differ in size.
    ///
    /// # Errors
    /// Fails if an image cannot be read or the extractor fails.
    fn image_folder_features(
        &self,
        path: &Path,
        extractor: &mut Extractor,
        kept: bool,
    ) -> Result<SampleSet> {
        let name = path.display().to_string();
        let folder = ImageFolder::open(path).with_context(|| name.clone())?;
        self.unless_quiet(|| {
            folder
                .notes
                .iter()
                .for_each(|text| errln!("flowgauge: {name}: {text}"))
        });
        let coding = extractor.coding_name(Some(PixelCoding::Levels(256)));
        let provenance =
            self.provenance(extractor, folder.sha256.clone(), vec![folder.len()], coding)?;
        let extract = || {
            extractor
                .extract_images(folder.images())
                .with_context(|| name.clone())
        };
        let extracted = cache::cached_or_computed(
            self.cache_dir(kept).as_deref(),
            || provenance,
            &name,
            extract,
        )?;
        Ok(SampleSet::from_features(name, extracted, true))
    }

    /// The features of an array, from the cache if they are there.
    ///
    /// # Errors
    /// Fails if a preset gets floats without `--range`, or if the extractor fails.
    fn extract_features(
        &self,
        extractor: &mut Extractor,
        data: &Dataset,
        rows: Array2<f64>,
        coding: Option<PixelCoding>,
        kept: bool,
    ) -> Result<ExtractedFeatures> {
        if extractor.preset.is_some() && coding.is_none() {
            bail!(
                "{}: it holds floats, and a preset takes images; \
                 give the values of black and white by --range",
                data.name
            );
        }
        let mut coding_name = extractor.coding_name(coding);
        if let Some(ValueRange(range)) = self.range.filter(|_| !extractor.takes_bytes()) {
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
        cache::cached_or_computed(
            self.cache_dir(kept).as_deref(),
            || provenance,
            &data.name,
            extract,
        )
    }

    /// What the features depend on: the key of the cache.
    ///
    /// # Errors
    /// Fails if no ONNX Runtime is found.
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
            machine: Provenance::describe_machine(
                &self.runtime_args.runtime()?.library.version,
                self.runtime_args.machine().provider,
            ),
        })
    }

    /// The folder of the cache; `None` if the features are not cached.
    fn cache_dir(&self, kept: bool) -> Option<PathBuf> {
        user_cache_folder().ok().filter(|_| kept && !self.no_cache)
    }

    /// The first set of which only the statistics are known.
    ///
    /// # Errors
    /// Fails if the set is `--train` or `--test`, which must be samples.
    fn statistics_only_set<'s>(
        &self,
        sides: SampleSets<&'s SampleSet>,
    ) -> Result<Option<&'s SampleSet>> {
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
                "{}: it holds statistics, and not samples; expected statistics for --generated or \
                 --reference only",
                law.name
            ),
            None => Ok(law),
        }
    }

    /// The metrics to compute: those that were named, or all that the numbers of samples allow.
    ///
    /// # Errors
    /// Fails if there are too few samples for a named metric, or for every metric.
    fn choose_metrics(
        &self,
        sides: SampleSets<&SampleSet>,
        named: &[Metric],
    ) -> Result<Vec<Metric>> {
        if self.statistics_only_set(sides)?.is_some() {
            return Ok(named.to_vec());
        }
        let n = sides.map(|side| side.count().unwrap_or_default());
        let metrics = if named.is_empty() {
            let classes = sides.generated.has_logits();
            let possible = |m: &Metric| m.check_all(n).is_ok() && (!m.needs_logits() || classes);
            // The first metric stays in any case: if even this one is impossible, its check says
            // why.
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

    /// Computes the metrics of one set against the others and writes the table.
    ///
    /// # Errors
    /// Fails if a named metric fails, or if the table cannot be written.
    fn write_table(
        &self,
        sides: SampleSets<&SampleSet>,
        named: &[Metric],
        mut table: MetricTableWriter,
    ) -> Result<Vec<MetricCsvRow>> {
        if let Some(law) = self.statistics_only_set(sides)? {
            return self.write_frechet_of_statistics(sides, law, named, table);
        }
        let metrics = self.choose_metrics(sides, named)?;
        let machine = self.runtime_args.machine();
        let samples = machine.with_threads(|| sides.try_map(SampleSet::sorted_sample))??;
        let samples = samples.as_ref();
        let floor = match table.generated_count {
            Some(count) => Some(FloorSamples::new(sides.generated.sorted_sample()?, count)),
            None => None,
        };
        for (i, metric) in metrics.iter().enumerate() {
            let what = format!("{} ({} of {})", metric.name(), i + 1, metrics.len());
            let show =
                ProgressDisplay::for_meter(self.runtime_args.quiet, Arc::default(), move || {
                    what.clone()
                });
            let key = RngKey { seed: self.seed };
            let measured = machine
                .with_threads(|| measure_with_notes(metric, samples, floor.as_ref(), key))?;
            drop(show);
            let measured = match measured {
                Ok(measured) => measured,
                // A metric that was not named may fail for these samples; it is left out.
                Err(reason) if named.is_empty() && i > 0 => {
                    errln!("flowgauge: {} is left out: {reason}", metric.name());
                    continue;
                }
                Err(reason) => bail!(
                    "--metric {}",
                    registry::prefix_with_name(metric.name(), reason)
                ),
            };
            self.print_notes(sides.generated, metric, &measured.notes);
            table.write_row(MetricCsvRow {
                metric: metric.name(),
                value: measured.estimate.value,
                stderr: measured.estimate.stderr,
                n_generated: Some(measured.n_generated),
                n_reference: Some(measured.n_reference),
                note: self.joined_notes(measured.notes.into_iter()),
            })?;
        }
        table.finish()
    }

    /// Prints the warnings about a value on standard error.
    fn print_notes(&self, of: &SampleSet, metric: &Metric, notes: &[String]) {
        for note in notes {
            errln!("flowgauge: {}: {}: {note}", of.name, metric.name());
        }
    }

    /// Writes the Fréchet distance of sets of which at least one is known only by its mean and
    /// covariance. All other metrics need samples.
    ///
    /// # Errors
    /// Fails if another metric was named, or if the numbers of features differ.
    fn write_frechet_of_statistics(
        &self,
        sides: SampleSets<&SampleSet>,
        law: &SampleSet,
        named: &[Metric],
        mut table: MetricTableWriter,
    ) -> Result<Vec<MetricCsvRow>> {
        let distance = Metric::Frechet(Frechet {});
        if let Some(other) = named.iter().find(|m| **m != distance) {
            let (name, file) = (other.name(), &law.name);
            bail!(
                "--metric {name}: {file} holds statistics, and not samples; expected only `frechet`"
            );
        }
        let (generated, reference) = (sides.generated, sides.reference);
        if generated.dim() != reference.dim() {
            bail!(
                "{} has {} numbers per sample and {} has {}: they cannot be compared; give the \
                 --extractor that the statistics were computed with",
                generated.name,
                generated.dim(),
                reference.name,
                reference.dim()
            );
        }
        let n = |side: &SampleSet| side.count().unwrap_or(2);
        distance
            .check(n(generated), n(reference))
            .map_err(|e| anyhow!("--metric {e}"))?;
        let machine = self.runtime_args.machine();
        let estimate =
            machine.with_threads(|| self.distance_of_statistics(generated, reference))??;
        let (known, missing) = match (generated.count(), reference.count()) {
            (Some(_), None) => ("generated samples", "the reference"),
            (None, Some(_)) => ("reference", "the generated samples"),
            _ => ("", "both sets"),
        };
        let lacks = match estimate.stderr {
            Some(_) => format!("the standard error is that of the {known} alone, not of {missing}"),
            None => "there is no standard error".to_owned(),
        };
        self.unless_quiet(|| {
            errln!(
                "flowgauge: {}: it holds statistics without samples: {lacks}, and it cannot be \
                 checked that the features are the same",
                law.name
            );
        });
        let (n_generated, n_reference) = (generated.count(), reference.count());
        let note = notes::too_few_for_covariance(generated.dim(), n_generated, n_reference);
        self.print_notes(generated, &distance, note.as_slice());
        let notes = note.into_iter().chain([lacks]);
        table.write_row(MetricCsvRow {
            metric: distance.name(),
            value: estimate.value,
            stderr: estimate.stderr,
            n_generated,
            n_reference,
            note: self.joined_notes(notes),
        })?;
        table.finish()
    }

    /// The Fréchet distance of two sets of which at least one is known only by its statistics. The
    /// standard error is that of the other one.
    fn distance_of_statistics(
        &self,
        generated: &SampleSet,
        reference: &SampleSet,
    ) -> Result<Estimate> {
        let named = |e: String| anyhow!("frechet: {e}");
        let fits = [generated.gaussian()?, reference.gaussian()?];
        let sampled = [generated, reference]
            .into_iter()
            .position(|set| set.count().is_some());
        let Some(number) = sampled else {
            let value = frechet::frechet_distance(&fits[0], &fits[1]).map_err(named)?;
            return Ok(Estimate {
                value,
                stderr: None,
                n: 0,
            });
        };
        let coupling = FrechetInfluence::between_fits(&fits[0], &fits[1]).map_err(named)?;
        let set = [generated, reference][number].sorted_sample()?;
        let key = RngKey { seed: self.seed };
        let variance = coupling
            .variance(&set, &fits[number], number, key)
            .map_err(named)?;
        Ok(Estimate {
            value: coupling.distance,
            stderr: Some(variance.sqrt()),
            n: set.len(),
        })
    }

    /// The notes of a row, with what --bytes did.
    fn joined_notes(&self, notes: impl Iterator<Item = String>) -> String {
        let bytes = self.bytes.note().map(str::to_owned);
        notes.chain(bytes).collect::<Vec<_>>().join("; ")
    }
}
