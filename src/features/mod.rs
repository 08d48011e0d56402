//! Feature extraction: an ONNX network, the extractor, computes features of samples. Statistics
//! compare these features.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use ndarray::{Array2, ArrayD, ArrayView2, Axis};
use sha2::{Digest, Sha256};

use self::cache::Provenance;
use self::images::{Image, ImageShape, PixelCoding};
use self::micro_batches::MicroBatches;
use self::preset::{Preset, PresetInput, ResolvedExtractor};
use self::resize::Resize;
use self::row_places::{find_row_places, rows_of_call};
use crate::graph::{self, Scaling};
use crate::host::hex;
use crate::model::call_rows::RowPlaces;
use crate::model::onnx::{Provider, Runtime, Session};
use crate::num::shape::{self, ShapeMismatch};
use crate::progress::Meter;
use crate::signature::{self, ExpectedFile};

pub mod cache;
pub mod images;
mod micro_batches;
pub mod preset;
pub mod resize;
mod row_places;

/// The number of samples per call of the extractor. It is fixed, so that `--batch` cannot change a
/// statistic.
pub const MICRO_BATCH: usize = 64;

/// The smallest range, after the scaling at the start of a graph, of inputs from 0 to 255 for which
/// the scaling counts as one of bytes.
const MIN_SCALED_BYTE_RANGE: f64 = 0.4;
/// The largest such range.
const MAX_SCALED_BYTE_RANGE: f64 = 8.0;

/// An opened feature extractor.
pub struct Extractor {
    /// The session of ONNX Runtime.
    session: Session,
    /// The SHA-256 of the ONNX file.
    pub sha256: String,
    /// The preset, if the extractor has one.
    pub preset: Option<Preset>,
    /// The name of the input.
    input: String,
    /// The name of the output with the features.
    features: String,
    /// The name of the output with the class logits, if there is one.
    logits: Option<String>,
    /// The axes of one sample at the input; dynamic axes are −1.
    shape: Vec<i64>,
    /// Counts the processed samples of the present set.
    pub meter: Arc<Meter>,
    /// The scaling at the start of the graph, if it maps bytes to small numbers and there is no
    /// preset.
    scaling: Option<Scaling>,
    /// Whether a row's output depends on its place in the call; `None` before the first call.
    places: Option<RowPlaces>,
}

/// The outputs of an extractor for a set of samples, one row per sample.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtractedFeatures {
    /// The features.
    pub features: Array2<f64>,
    /// The class logits, if the extractor provides them.
    pub logits: Option<Array2<f64>>,
}

impl ExtractedFeatures {
    /// Uses the samples' own numbers as features, without an extractor.
    pub fn from_rows(rows: Array2<f64>) -> ExtractedFeatures {
        ExtractedFeatures {
            features: rows,
            logits: None,
        }
    }

    /// The features and logits of the samples with the given indices.
    pub fn select(&self, rows: &[usize]) -> ExtractedFeatures {
        let of = |x: &Array2<f64>| x.select(Axis(0), rows);
        ExtractedFeatures {
            features: of(&self.features),
            logits: self.logits.as_ref().map(of),
        }
    }
}

impl Extractor {
    /// Opens the extractor that `spec` names: an ONNX file, a preset file or a built-in preset.
    ///
    /// Without a preset, features are the output `features`, or the first output if there is none
    /// of this name. Class logits are the output `logits`, if there is one. Samples are fed without
    /// preprocessing, except that a graph which scales bytes itself is fed bytes.
    ///
    /// # Errors
    /// Fails if the preset is invalid or the ONNX file cannot be read or opened. Also fails if its
    /// inputs or outputs are unsuitable, or if it is not the file that the preset describes.
    pub fn open(
        spec: &Path,
        runtime: &Runtime,
        provider: Provider,
        threads: usize,
    ) -> Result<Extractor> {
        let named = ResolvedExtractor::resolve(spec)?;
        let name = named.onnx.display().to_string();
        let bytes = std::fs::read(&named.onnx)
            .with_context(|| format!("{name}: the extractor cannot be read"))?;
        if let Some(why) = signature::explain_mismatch(&bytes, ExpectedFile::Onnx) {
            bail!("{name}: the extractor: {why}");
        }
        let mut session = runtime.open(&name, &bytes, provider, threads)?;
        if session.inputs.len() != 1 || session.outputs.is_empty() {
            bail!(
                "{name}: the extractor has {} inputs and {} outputs, expected one input (the \
                 samples) and at least one output",
                session.inputs.len(),
                session.outputs.len()
            );
        }
        let input = &session.inputs[0];
        if input.shape.len() < 2 || input.shape[0] >= 0 {
            bail!(
                "{name}: input `{}` has shape {:?}, expected a dynamic batch axis and the axes of \
                 a sample: [N, …]",
                input.name,
                input.shape
            );
        }
        let has = |name: &str| session.outputs.iter().any(|p| p.name == name);
        let (features, logits) = match &named.preset {
            Some(preset) => {
                let outputs = &preset.outputs;
                for wanted in [Some(&outputs.features), outputs.logits.as_ref()]
                    .into_iter()
                    .flatten()
                {
                    if !has(wanted) {
                        let names: Vec<&str> =
                            session.outputs.iter().map(|p| p.name.as_str()).collect();
                        bail!(
                            "{name}: the extractor has no output `{wanted}`, which its preset \
                             names; its outputs are {}",
                            names.join(", ")
                        );
                    }
                }
                (outputs.features.clone(), outputs.logits.clone())
            }
            None if has("features") => (
                "features".to_owned(),
                has("logits").then(|| "logits".to_owned()),
            ),
            None => (
                session.outputs[0].name.clone(),
                has("logits").then(|| "logits".to_owned()),
            ),
        };
        let (input, shape) = (input.name.clone(), input.shape[1..].to_vec());
        if session.awaits_first_call() {
            let sizes = shape
                .iter()
                .map(|n| usize::try_from(*n).ok().filter(|n| *n > 0))
                .collect::<Option<Vec<usize>>>();
            // A provider proves on its first call that it runs the nodes. If the sizes are dynamic
            // and there is no preset, this has to wait for the first samples.
            if let Some(sample) = named
                .preset
                .as_ref()
                .map(|p| p.input.tensor_shape())
                .or(sizes)
            {
                let probe_input = ArrayD::from_elem([&[4], &sample[..]].concat(), 0.5);
                session.run(vec![(&input, probe_input.view())], &[&features])?;
            }
        }
        let sha256 = hex(&Sha256::digest(&bytes));
        // A preset defines the preprocessing, whatever the graph does first.
        let scaling = if named.preset.is_none() {
            byte_scaling(&name, &bytes)
        } else {
            None
        };
        Ok(Extractor {
            session,
            sha256,
            preset: named.preset,
            input,
            features,
            logits,
            shape,
            meter: Arc::default(),
            scaling,
            places: None,
        })
    }

    /// Whether the extractor takes images of bytes, because of a preset or because its graph scales
    /// bytes.
    pub fn takes_bytes(&self) -> bool {
        self.preset.is_some() || self.scaling.is_some()
    }

    /// A sentence for users if the extractor has no preset and its graph scales bytes itself.
    pub fn describe_own_scaling(&self) -> Option<String> {
        self.scaling
            .map(|scaling| describe_scaling(&self.session.file, scaling))
    }

    /// How numbers are converted to the extractor's input, in words. The text is part of the key in
    /// the cache of features.
    pub fn coding_name(&self, coding: Option<PixelCoding>) -> String {
        let fed = if self.scaling.is_some() && coding.is_some() {
            ", fed as bytes"
        } else {
            ""
        };
        Provenance::describe_coding(coding) + fed
    }

    /// The axes of one sample at the input, negative for axes of any size. The result is `None` for
    /// an extractor with a preset, which prepares images itself.
    pub fn sample_shape(&self) -> Option<&[i64]> {
        self.preset.is_none().then_some(&self.shape)
    }

    /// Checks that samples can be fed to the extractor, without running it.
    ///
    /// # Errors
    /// Fails if the shape does not fit the input, or if the range of the numbers is needed but not
    /// given. The message names the file and what was expected.
    pub fn check(
        &self,
        samples: ArrayView2<f64>,
        shape: &[usize],
        coding: Option<PixelCoding>,
    ) -> Result<()> {
        self.extractor_input(samples, shape, coding).map(drop)
    }

    /// Whether the extractor provides class logits.
    pub fn classifies(&self) -> bool {
        self.logits.is_some()
    }

    /// Computes the features and class logits of samples in f64. Each row of `samples` is one
    /// sample of the given shape.
    ///
    /// `coding` is the meaning of the numbers. Extractors with a preset need it, because they take
    /// bytes. Extractors whose graph scales bytes use it if it is given. All others are fed the
    /// numbers without preprocessing.
    ///
    /// # Errors
    /// Fails if the samples do not fit the extractor's input or the extractor cannot be run. Also
    /// fails if an output is not finite or has the wrong number of rows.
    pub fn extract(
        &mut self,
        samples: ArrayView2<f64>,
        shape: &[usize],
        coding: Option<PixelCoding>,
    ) -> Result<ExtractedFeatures> {
        let feed = self.extractor_input(samples, shape, coding)?;
        self.meter.begin(samples.nrows());
        let batches = samples.axis_chunks_iter(Axis(0), MICRO_BATCH);
        self.extract_batches(batches.map(Ok), &feed)
    }

    /// Like [`Extractor::extract`], for samples that come in parts. The outputs are those of all parts
    /// together, bit for bit, and only a part is in memory at a time. What the numbers mean is judged
    /// from the first call's samples.
    ///
    /// # Errors
    /// Fails like [`Extractor::extract`], and with the first error of a part.
    pub fn extract_parts(
        &mut self,
        parts: impl Iterator<Item = Result<Array2<f64>>>,
        shape: &[usize],
        coding: Option<PixelCoding>,
    ) -> Result<ExtractedFeatures> {
        self.meter.restart();
        let mut batches = MicroBatches::new(parts);
        let feed = self.extractor_input(batches.peek()?.view(), shape, coding)?;
        self.extract_batches(batches, &feed)
    }

    /// Computes the features and class logits of batches of samples, one call each.
    ///
    /// # Errors
    /// Fails with the first error of a batch, or if a call fails.
    fn extract_batches<S: ndarray::Data<Elem = f64>>(
        &mut self,
        batches: impl Iterator<Item = Result<ndarray::ArrayBase<S, ndarray::Ix2>>>,
        feed: &ExtractorInput,
    ) -> Result<ExtractedFeatures> {
        let file = self.session.file.clone();
        self.run_calls(batches.map(|batch| {
            let batch = batch?;
            let tensor = feed.batch_tensor(batch.view());
            tensor.with_context(|| file.clone())
        }))
    }

    /// Computes the features and class logits of images of different sizes. The preset resizes each
    /// image on its own. Only the images of one call are in memory at a time.
    ///
    /// # Errors
    /// Fails if there is no preset, if an image cannot be read or prepared, or if the extractor
    /// cannot be run. Also fails if an output is not finite or has the wrong number of rows.
    pub fn extract_images(
        &mut self,
        mut images: impl Iterator<Item = Result<Image>>,
    ) -> Result<ExtractedFeatures> {
        let file = self.session.file.clone();
        let input = self
            .preset
            .as_ref()
            .map(|p| p.input.clone())
            .ok_or_else(|| {
                anyhow!("{file}: the extractor has no preset, expected one for images")
            })?;
        if let (_, Some(rows)) = images.size_hint() {
            self.meter.begin(rows);
        }
        self.run_calls(std::iter::from_fn(|| {
            let batch: Vec<Result<Image>> = images.by_ref().take(MICRO_BATCH).collect();
            let call = |batch: Vec<Result<Image>>| -> Result<_> {
                let (count, mut values) = (batch.len(), Vec::new());
                for image in batch {
                    let Image {
                        values: bytes,
                        shape,
                    } = image?;
                    let prepared = input.prepare(bytes.view(), shape, PixelCoding::Levels(256));
                    values.extend(prepared.with_context(|| file.clone())?);
                }
                batch_of(values, count, &input.tensor_shape())
            };
            (!batch.is_empty()).then(|| call(batch))
        }))
    }

    /// Whether the extractor takes images of different sizes, because its preset resizes them.
    pub fn resizes_images(&self) -> bool {
        self.preset
            .as_ref()
            .is_some_and(|p| p.input.resize != Resize::None)
    }

    /// Runs the network on a series of calls and concatenates the outputs. Each call has the inputs
    /// of its samples.
    ///
    /// # Errors
    /// Fails if a call cannot be prepared or run, or if an output is not finite or has the wrong
    /// number of rows.
    fn run_calls(
        &mut self,
        calls: impl Iterator<Item = Result<ArrayD<f64>>>,
    ) -> Result<ExtractedFeatures> {
        let wanted: Vec<String> = [Some(self.features.clone()), self.logits.clone()]
            .into_iter()
            .flatten()
            .collect();
        let mut parts: Vec<Vec<Array2<f64>>> = vec![Vec::new(); wanted.len()];
        let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
        for samples in calls {
            let samples = samples?;
            let count = samples.shape()[0];
            let places = *self.places.get_or_insert_with(|| {
                let (ports, bytes) = ((&*self.input, &*names), self.scaling.is_some());
                find_row_places(&mut self.session, ports, &samples.shape()[1..], bytes)
            });
            let call = rows_of_call(&samples, places);
            let fed = match call.filled.iter().copied().eq(0..count) {
                true => samples,
                false => samples.select(Axis(0), &call.filled),
            };
            let outputs = self.session.run(vec![(&self.input, fed.view())], &names)?;
            self.meter.batch_finished(count);
            for ((out, name), parts) in outputs.into_iter().zip(&names).zip(&mut parts) {
                let rows = fed.shape()[0];
                if out.shape().first() != Some(&rows) {
                    bail!(
                        "{}: output `{name}` has shape {:?}, expected {rows} rows",
                        self.session.file,
                        out.shape()
                    );
                }
                let out = call.given_outputs(out, Axis(0));
                let width = out.len() / count;
                let flat = out.into_shape_with_order((count, width))?;
                if let Some(bad) = flat.iter().find(|v| !v.is_finite()) {
                    bail!(
                        "{}: output `{name}` contains {bad}; expected finite numbers",
                        self.session.file
                    );
                }
                parts.push(flat);
            }
        }
        let mut whole = parts.iter().map(|parts| {
            let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
            ndarray::concatenate(Axis(0), &views)
        });
        let features = whole.next().ok_or_else(|| anyhow!("no output"))??;
        Ok(ExtractedFeatures {
            features,
            logits: whole.next().transpose()?,
        })
    }

    /// Decides how samples are fed: as images by the preset, or in the shape of the extractor's
    /// input.
    ///
    /// # Errors
    /// Fails if the shape does not fit the input, or if the range of the numbers is needed but not
    /// given.
    fn extractor_input(
        &self,
        samples: ArrayView2<f64>,
        shape: &[usize],
        coding: Option<PixelCoding>,
    ) -> Result<ExtractorInput> {
        let file = &self.session.file;
        if let Some(preset) = &self.preset {
            let coding = coding.ok_or_else(|| {
                anyhow!(
                    "{file}: the preset `{}` takes images of bytes; give the range of the numbers \
                     with the card's `data: {{range: [LO, HI]}}` or with `--range LO,HI`",
                    preset.name
                )
            })?;
            return Ok(ExtractorInput::Images(
                preset.input.clone(),
                ImageShape::from_dims(shape)?,
                coding,
            ));
        }
        let Some(fed) = shape::shape_at_port(shape, &self.shape) else {
            let array = [&[samples.nrows()], shape].concat();
            let whose = format!("input `{}` takes", self.input);
            bail!(
                "{file}: {}",
                ShapeMismatch::for_port(&array, &self.shape)
                    .message(&whose, shape::layout_option_hint)
            );
        };
        match (&self.scaling, coding) {
            (Some(_), Some(coding)) => return Ok(ExtractorInput::Plain(fed, Some(coding))),
            (None, Some(_)) => return Ok(ExtractorInput::Plain(fed, None)),
            (_, None) => {}
        }
        let spread = samples
            .iter()
            .fold([f64::INFINITY, f64::NEG_INFINITY], |[lo, hi], v| {
                [lo.min(*v), hi.max(*v)]
            });
        let (bytes, image) = (
            is_bytes(spread, samples),
            fed.iter().filter(|n| **n > 1).count() > 1,
        );
        if self.scaling.is_none() && bytes && (image || spread[1] > 127.0) {
            bail!(
                "{file}: the samples are bytes from {} to {}, but the range of numbers that the \
                 extractor takes is unknown; give its values of black and white with \
                 `--range LO,HI`, such as -1,1 or 0,1 (0,255 feeds bytes unchanged), in a run with the \
                 card's `data: {{range: [LO, HI]}}`, or use a preset",
                spread[0],
                spread[1]
            );
        }
        if self.scaling.is_some() && spread[0] >= -2.0 && spread[1] <= 2.0 {
            bail!(
                "{file}: the extractor's graph scales bytes itself, but the samples are in the \
                 range {spread:?}; give their values of black and white with `--range LO,HI`"
            );
        }
        Ok(ExtractorInput::Plain(fed, None))
    }
}

/// The scaling at the start of a graph, if it maps bytes to small numbers, such as a division by
/// 255; otherwise `None`.
pub fn byte_scaling(name: &str, bytes: &[u8]) -> Option<Scaling> {
    // A graph that cannot be parsed counts as one without scaling.
    let graph = graph::Model::from_bytes(name, bytes).ok()?;
    let scaling = graph.scaling(&graph.inputs().first()?.name);
    (MIN_SCALED_BYTE_RANGE..=MAX_SCALED_BYTE_RANGE)
        .contains(&(255.0 * scaling.scale.abs()))
        .then_some(scaling)
}

/// A sentence for users about the scaling at the start of a graph.
pub fn describe_scaling(file: &str, Scaling { scale, offset }: Scaling) -> String {
    let ends = [offset, 255.0 * scale + offset].map(|v| (v * 1e3).round() / 1e3);
    format!(
        "{file}: its graph scales images itself, 0 to {} and 255 to {}, and is fed bytes",
        ends[0], ends[1]
    )
}

/// Whether numbers are probably bytes: integers of at least 0 whose largest is between 17 and 255.
/// Counts and digits usually have fewer levels.
fn is_bytes([lo, hi]: [f64; 2], samples: ArrayView2<f64>) -> bool {
    lo >= 0.0 && hi > 16.0 && hi <= 255.0 && samples.iter().all(|v| v.fract() == 0.0)
}

/// How samples are fed to an extractor.
enum ExtractorInput {
    /// The samples are images that the preset prepares.
    Images(PresetInput, ImageShape, PixelCoding),
    /// The samples are fed in the given shape. With a coding, they are converted to bytes.
    Plain(Vec<usize>, Option<PixelCoding>),
}

impl ExtractorInput {
    /// The inputs of one call's samples, from one row per sample.
    fn batch_tensor(&self, chunk: ArrayView2<f64>) -> Result<ArrayD<f64>> {
        let (shape, values) = match self {
            ExtractorInput::Images(input, shape, coding) => {
                let mut values = Vec::new();
                for sample in chunk.rows() {
                    values.extend(input.prepare(sample, *shape, *coding)?);
                }
                (input.tensor_shape(), values)
            }
            ExtractorInput::Plain(shape, None) => (shape.clone(), chunk.iter().copied().collect()),
            ExtractorInput::Plain(shape, Some(coding)) => (
                shape.clone(),
                chunk.iter().map(|v| coding.to_byte(*v)).collect(),
            ),
        };
        batch_of(values, chunk.nrows(), &shape)
    }
}

/// The inputs of `count` samples of the given shape.
fn batch_of(values: Vec<f64>, count: usize, shape: &[usize]) -> Result<ArrayD<f64>> {
    Ok(ArrayD::from_shape_vec([&[count], shape].concat(), values)?)
}

#[cfg(test)]
mod tests {

    use ndarray::s;

    use super::*;
    use crate::num::key::{Purpose, RngKey};

    #[test]
    fn features_ignore_batching_order_and_threads() {
        let runtime = Runtime::get(None).expect("ONNX Runtime");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits/features.onnx");
        let (shape, width) = ([64], 64);
        let draws = RngKey { seed: 1 }.uniform(Purpose::Check, 0, 0, 150 * width);
        let samples = draws.into_shape_with_order((150, width)).expect("draws");
        let on = |threads, samples: ArrayView2<f64>| {
            let mut extractor =
                Extractor::open(&path, runtime, Provider::Cpu, threads).expect("a model");
            assert!(extractor.classifies());
            extractor.extract(samples, &shape, None).expect("features")
        };
        let all = on(1, samples.view());
        assert_eq!(
            (all.features.nrows(), all.logits.as_ref().map(|l| l.ncols())),
            (150, Some(10))
        );
        assert_eq!(all, on(2, samples.view()));
        let back = on(1, samples.slice(s![..;-1, ..]));
        assert_eq!(back.features.slice(s![..;-1, ..]), all.features);
        for size in [1, 7, 64] {
            for (i, chunk) in samples
                .axis_chunks_iter(Axis(0), size)
                .enumerate()
                .step_by(5)
            {
                let some = on(1, chunk);
                let rows = i * size..i * size + chunk.nrows();
                assert_eq!(
                    some.features,
                    all.features.slice(s![rows.clone(), ..]),
                    "{} {size}",
                    path.display()
                );
                assert_eq!(
                    some.logits,
                    all.logits
                        .as_ref()
                        .map(|l| l.slice(s![rows, ..]).to_owned())
                );
            }
        }
    }

    #[test]
    fn preset_defines_image_preprocessing() {
        let runtime = Runtime::get(None).expect("ONNX Runtime");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let network = include_bytes!("../../tests/data/metrics/mean.onnx");
        std::fs::write(folder.path().join("mean.onnx"), network).expect("written");
        let preset = "name: mean\nfile: mean.onnx\nexport: python scripts/metric_references.py\n\
                      input: {shape: [3, 4, 6], resize: clean, range: [-1, 1], mean: [0, 0.5, 0]}\n\
                      outputs: {features: means, logits: sums}\n";
        let path = folder.path().join("mean.yaml");
        std::fs::write(&path, preset).expect("written");
        let mut extractor = Extractor::open(&path, runtime, Provider::Cpu, 1).expect("a preset");
        // A white and a black image of 8 by 12 pixels. Resizing to half the size keeps them white
        // and black.
        let mut images = Array2::zeros((2, 96));
        images.row_mut(0).fill(255.0);
        let got = extractor
            .extract(images.view(), &[8, 12], Some(PixelCoding::Levels(256)))
            .expect("images");
        let want = ndarray::array![[1.0, 0.5, 1.0], [-1.0, -1.5, -1.0]];
        assert!(
            (&got.features - &want).iter().all(|e| e.abs() < 1e-6),
            "{got:?}"
        );
        assert!(
            (got.logits.expect("named") - want * 24.0)
                .iter()
                .all(|e| e.abs() < 1e-4)
        );
        let refused = extractor
            .extract(images.view(), &[8, 12], None)
            .expect_err("no range");
        assert!(refused.to_string().contains("range"), "{refused}");
        std::fs::write(&path, preset.replace("sums", "nope")).expect("written");
        let refused = Extractor::open(&path, runtime, Provider::Cpu, 1)
            .err()
            .expect("no such output");
        assert!(
            refused.to_string().contains("`nope`") && refused.to_string().contains("means, sums"),
            "{refused}"
        );
    }
}
