//! Samples to features through an ONNX extractor.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use ndarray::{Array2, ArrayD, ArrayView2, Axis, IxDyn, s};
use sha2::{Digest, Sha256};

use self::cache::Provenance;
use self::images::{Image, ImageShape, PixelCoding};
use self::preset::{Preset, PresetInput, ResolvedExtractor};
use self::resize::Resize;
use crate::graph::{self, Scaling};
use crate::model::library::hex;
use crate::model::onnx::{Provider, Runtime, Session};
use crate::num::shape::{self, ShapeMismatch};
use crate::progress::Meter;
use crate::signature::{self, ExpectedFile};

pub mod cache;
pub mod images;
pub mod preset;
pub mod resize;

/// Samples per call: fixed, so that `--batch` cannot reach a statistic.
pub const MICRO_BATCH: usize = 64;

/// Calls are filled up to a multiple of this: the runtime rounds differently where vector units are not full.
const ROWS_MULTIPLE: usize = 4;

/// How much of one unit a graph makes of 255 bytes, at least and at most, for its scaling to be one of bytes.
const MIN_SCALED_BYTE_RANGE: f64 = 0.4;
const MAX_SCALED_BYTE_RANGE: f64 = 8.0;

/// An opened feature extractor.
pub struct Extractor {
    session: Session,
    pub sha256: String,
    pub preset: Option<Preset>,
    input: String,
    features: String,
    logits: Option<String>,
    /// Sizes of one sample, −1 where dynamic.
    shape: Vec<i64>,
    /// Counts the samples of the set that is at work.
    pub meter: Arc<Meter>,
    /// What its graph does to numbers first, where that makes small numbers of bytes.
    scaling: Option<Scaling>,
}

/// What an extractor gives for each sample.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtractedFeatures {
    pub features: Array2<f64>,
    /// Where the network classifies.
    pub logits: Option<Array2<f64>>,
}

impl ExtractedFeatures {
    /// The numbers themselves.
    pub fn from_rows(rows: Array2<f64>) -> ExtractedFeatures {
        ExtractedFeatures {
            features: rows,
            logits: None,
        }
    }

    /// Those of some samples.
    pub fn select(&self, rows: &[usize]) -> ExtractedFeatures {
        let of = |x: &Array2<f64>| x.select(Axis(0), rows);
        ExtractedFeatures {
            features: of(&self.features),
            logits: self.logits.as_ref().map(of),
        }
    }
}

impl Extractor {
    /// Opens an ONNX file, a preset file or a preset of the program.
    ///
    /// Without a preset the input is the first, features are the output `features` or the first, logits the output
    /// `logits`, and samples are fed as they are.
    ///
    /// # Errors
    /// Where the file is no model, has no ports of the right kind, or is not what its preset says.
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
                "{name}: it has {} inputs and {} outputs, expected one input: samples",
                session.inputs.len(),
                session.outputs.len()
            );
        }
        let input = &session.inputs[0];
        if input.shape.len() < 2 || input.shape[0] >= 0 {
            bail!(
                "{name}: input `{}` has shape {:?}, expected a dynamic batch and a sample: [N, …]",
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
                        let there: Vec<&str> =
                            session.outputs.iter().map(|p| p.name.as_str()).collect();
                        bail!(
                            "{name}: it has no output `{wanted}`, which its preset names; it has {}",
                            there.join(", ")
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
            // Where nothing tells the sizes, the first samples show where its nodes run.
            if let Some(sample) = named
                .preset
                .as_ref()
                .map(|p| p.input.tensor_shape())
                .or(sizes)
            {
                let four = ArrayD::from_elem([&[4], &sample[..]].concat(), 0.5);
                session.run(vec![(&input, four.view())], &[&features])?;
            }
        }
        let sha256 = hex(&Sha256::digest(&bytes));
        // What a preset says of its input goes before.
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
        })
    }

    /// Whether it takes images of bytes, by its preset or by what its graph does first.
    pub fn takes_bytes(&self) -> bool {
        self.preset.is_some() || self.scaling.is_some()
    }

    /// That its graph makes small numbers of bytes, in words, where it does.
    pub fn describe_own_scaling(&self) -> Option<String> {
        self.scaling
            .map(|scaling| describe_scaling(&self.session.file, scaling))
    }

    /// How numbers become what it is fed, in words that stand for the features in a cache.
    pub fn coding_name(&self, coding: Option<PixelCoding>) -> String {
        let fed = if self.scaling.is_some() && coding.is_some() {
            ", fed as bytes"
        } else {
            ""
        };
        Provenance::describe_coding(coding) + fed
    }

    /// The sizes of one sample that it is fed, below zero where any will do; none where a preset makes images fit.
    pub fn sample_shape(&self) -> Option<&[i64]> {
        self.preset.is_none().then_some(&self.shape)
    }

    /// Refuses samples that it cannot be fed, before it is run: of a wrong shape or number, or bytes of which nothing
    /// says what they stand for.
    ///
    /// # Errors
    /// A message with the file and what would be right.
    pub fn check(
        &self,
        samples: ArrayView2<f64>,
        shape: &[usize],
        coding: Option<PixelCoding>,
    ) -> Result<()> {
        self.extractor_input(samples, shape, coding).map(drop)
    }

    /// Whether it gives class logits.
    pub fn classifies(&self) -> bool {
        self.logits.is_some()
    }

    /// Features and logits of each row, in f64.
    ///
    /// `coding` says what the numbers stand for. A preset needs it, for it takes bytes; without a preset, numbers are fed
    /// as they are.
    ///
    /// # Errors
    /// Where the rows do not fit the extractor's input, or it cannot be run.
    pub fn extract(
        &mut self,
        samples: ArrayView2<f64>,
        shape: &[usize],
        coding: Option<PixelCoding>,
    ) -> Result<ExtractedFeatures> {
        let feed = self.extractor_input(samples, shape, coding)?;
        let file = self.session.file.clone();
        let chunks = samples.axis_chunks_iter(Axis(0), MICRO_BATCH);
        self.meter.begin(samples.nrows());
        self.run_calls(chunks.map(|chunk| {
            Ok((
                chunk.nrows(),
                feed.batch_tensor(chunk).with_context(|| file.clone())?,
            ))
        }))
    }

    /// Features and logits of images of any sizes, by a preset that resizes each on its own; a call's images are in
    /// memory at once, and no more.
    ///
    /// # Errors
    /// As [`Extractor::extract`], and where an image cannot be had.
    pub fn extract_images(
        &mut self,
        mut images: impl Iterator<Item = Result<Image>>,
    ) -> Result<ExtractedFeatures> {
        let file = self.session.file.clone();
        let input = self
            .preset
            .as_ref()
            .map(|p| p.input.clone())
            .ok_or_else(|| anyhow!("{file}: it has no preset"))?;
        if let (_, Some(rows)) = images.size_hint() {
            self.meter.begin(rows);
        }
        self.run_calls(std::iter::from_fn(|| {
            let some: Vec<Result<Image>> = images.by_ref().take(MICRO_BATCH).collect();
            let call = |some: Vec<Result<Image>>| -> Result<_> {
                let (count, mut values) = (some.len(), Vec::new());
                for image in some {
                    let Image {
                        values: bytes,
                        shape,
                    } = image?;
                    let prepared = input.prepare(bytes.view(), shape, PixelCoding::Levels(256));
                    values.extend(prepared.with_context(|| file.clone())?);
                }
                Ok((count, padded_batch(values, count, input.tensor_shape())?))
            };
            (!some.is_empty()).then(|| call(some))
        }))
    }

    /// Whether images of several sizes can be given to it.
    pub fn resizes_images(&self) -> bool {
        self.preset
            .as_ref()
            .is_some_and(|p| p.input.resize != Resize::None)
    }

    /// Calls the network: how many samples a call holds, and its input.
    fn run_calls(
        &mut self,
        calls: impl Iterator<Item = Result<(usize, ArrayD<f64>)>>,
    ) -> Result<ExtractedFeatures> {
        let wanted: Vec<String> = [Some(self.features.clone()), self.logits.clone()]
            .into_iter()
            .flatten()
            .collect();
        let mut parts: Vec<Vec<Array2<f64>>> = vec![Vec::new(); wanted.len()];
        for call in calls {
            let (count, fed) = call?;
            let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
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
                let width = out.len() / rows;
                let flat = out.into_shape_with_order((rows, width))?;
                if let Some(bad) = flat.iter().find(|v| !v.is_finite()) {
                    bail!(
                        "{}: output `{name}` holds {bad}; expected finite numbers",
                        self.session.file
                    );
                }
                parts.push(flat.slice_move(s![..count, ..]));
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

    /// How samples are fed: by the preset, or as they are in the shape of the extractor's input.
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
                    "{file}: the preset `{}` takes images of bytes; say in which range the numbers lie",
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
                "{file}: the samples are bytes, {} to {}, and nothing says in which range it takes images; say where \
                 black and white lie for it with `--range LO,HI`, such as -1,1 or 0,1 (0,255 feeds bytes as they are), \
                 in a run with the card's `data: {{range: [LO, HI]}}`, or with a preset",
                spread[0],
                spread[1]
            );
        }
        if self.scaling.is_some() && spread[0] >= -2.0 && spread[1] <= 2.0 {
            bail!(
                "{file}: its graph scales bytes itself, but the samples lie in {spread:?}; say with `--range LO,HI` where \
                 black and white lie in them"
            );
        }
        Ok(ExtractorInput::Plain(fed, None))
    }
}

/// What an ONNX file does to its input first, where that makes small numbers of bytes: a division by 255 and the like.
pub fn byte_scaling(name: &str, bytes: &[u8]) -> Option<Scaling> {
    // A graph that cannot be looked through says nothing.
    let graph = graph::Model::from_bytes(name, bytes).ok()?;
    let scaling = graph.scaling(&graph.inputs().first()?.name);
    (MIN_SCALED_BYTE_RANGE..=MAX_SCALED_BYTE_RANGE)
        .contains(&(255.0 * scaling.scale.abs()))
        .then_some(scaling)
}

/// A [`byte_scaling`] in words.
pub fn describe_scaling(file: &str, Scaling { scale, offset }: Scaling) -> String {
    let ends = [offset, 255.0 * scale + offset].map(|v| (v * 1e3).round() / 1e3);
    format!(
        "{file}: its graph scales images itself, 0 to {} and 255 to {}, and is fed bytes",
        ends[0], ends[1]
    )
}

/// Whole numbers that begin at 0 or above and end between 17 and 255: more levels than counts and digits have.
fn is_bytes([lo, hi]: [f64; 2], samples: ArrayView2<f64>) -> bool {
    lo >= 0.0 && hi > 16.0 && hi <= 255.0 && samples.iter().all(|v| v.fract() == 0.0)
}

enum ExtractorInput {
    Images(PresetInput, ImageShape, PixelCoding),
    /// In that shape, as bytes where a coding says how.
    Plain(Vec<usize>, Option<PixelCoding>),
}

impl ExtractorInput {
    /// One call's input, its last sample repeated until the call is full.
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
        padded_batch(values, chunk.nrows(), shape)
    }
}

/// Samples of a shape as one call's input, the last repeated until the call is full.
fn padded_batch(mut values: Vec<f64>, count: usize, shape: Vec<usize>) -> Result<ArrayD<f64>> {
    let (width, rows) = (values.len() / count, count.next_multiple_of(ROWS_MULTIPLE));
    for _ in count..rows {
        values.extend_from_within(values.len() - width..);
    }
    let full: Vec<usize> = std::iter::once(rows).chain(shape).collect();
    Ok(ArrayD::from_shape_vec(IxDyn(&full), values)?)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::num::key::{Purpose, RngKey};

    /// Our own classifier, and another author's convolutions where they are at hand.
    fn networks() -> Vec<(PathBuf, Vec<usize>)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = vec![(root.join("models/digits/features.onnx"), vec![64])];
        let lenet = root.join("../shared/data/lenet-mnist/lenet.onnx");
        match lenet.is_file() {
            true => found.push((lenet, vec![1, 28, 28])),
            false => println!("skipped: {} is not there", lenet.display()),
        }
        found
    }

    #[test]
    fn features_ignore_batching_order_and_threads() {
        let runtime = Runtime::get(None).expect("ONNX Runtime");
        for (path, shape) in networks() {
            let width = shape.iter().product::<usize>();
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
        // White and black, 8 by 12: halved in size they stay white and black.
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
