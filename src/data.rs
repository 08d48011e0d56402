//! Arrays from files, with the hash of their bytes, and how they become states of a model.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use ndarray::{Array1, Array2, ArrayD, IxDyn};
use sha2::{Digest, Sha256};

use crate::dequantization::CellNoise;
use crate::host::hex;
use crate::hub;
use crate::lattice::{self, DataMismatch, LatticePolicy};
use crate::model::card::Card;
use crate::num::Batch;
use crate::num::key::{Purpose, RngKey, SampleId, unpack_draw};
use crate::num::npy;
use crate::num::shape::{self, AxisLayout, RequestedLayout, ShapeMismatch};
use crate::num::stored_values::StoredValues;
use crate::rows::BoundKind;
use crate::signature::{self, ExpectedFile};

mod archive;
mod csv_table;
mod images;
mod mapped_npy;
mod parquet_table;
pub use images::{ImageFolder, png_grid};
use mapped_npy::MappedNpy;

/// A whole array of samples, as read from a file or a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The name that the user gave: a path, and the member of an archive if there is one.
    pub name: String,
    /// The SHA-256 of the file's bytes, in hexadecimal.
    pub sha256: String,
    /// The values, with the samples along the first axis.
    pub values: StoredValues,
    /// The kind of the file's numbers.
    pub number_kind: NumberKind,
    /// Whether the file says by an array's name that these are features, and not samples.
    pub are_features: bool,
    /// The order of the file's axes, if the user gave one and it was applied.
    pub layout: Option<AxisLayout>,
    /// What the reader left out or assumed. Each note continues a sentence that begins with the
    /// file's name.
    pub notes: Vec<String>,
}

/// What a log-likelihood says about its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LikelihoodBound {
    /// The text in the column `bound`.
    pub kind: BoundKind,
    /// Why it bounds nothing. The text continues a sentence that begins with the file's name.
    pub reason: Option<String>,
}

/// The mean and the covariance of features, as programs store them for a Fréchet distance.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureStatistics {
    /// The name that the user gave: a path, and the member of an archive if there is one.
    pub name: String,
    /// The SHA-256 of the file's bytes, in hexadecimal.
    pub sha256: String,
    /// The mean of the features.
    pub mean: Array1<f64>,
    /// The covariance of the features.
    pub covariance: Array2<f64>,
    /// What the reader assumed. Each note continues a sentence that begins with the file's name.
    pub notes: Vec<String>,
}

/// The content of a file: samples, or statistics of samples.
#[derive(Debug, Clone, PartialEq)]
pub enum LoadedData {
    /// An array of samples.
    Samples(Dataset),
    /// A mean and a covariance of features.
    Statistics(FeatureStatistics),
}

/// An array from a parser, with the notes for [`Dataset::notes`].
#[derive(Debug)]
struct ParsedArray {
    values: StoredValues,
    number_kind: NumberKind,
    /// Whether the array is one of features, by its name.
    are_features: bool,
    notes: Vec<String>,
}

/// The content of a file's bytes.
enum ParsedContent {
    Samples(ParsedArray),
    Statistics {
        mean: Array1<f64>,
        covariance: Array2<f64>,
        note: String,
    },
}

/// Prints each note on standard error, after the name of its file.
fn print_file_notes(name: &str, notes: &[String]) {
    notes
        .iter()
        .for_each(|text| errln!("flowgauge: {name}: {text}"));
}

/// The kind of a file's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberKind {
    /// Floating-point numbers, which are used as they are.
    Floats,
    /// Integers according to the file's number type. The levels of a card turn them into real
    /// numbers.
    Integers,
    /// Integers of a type that holds only 0 to 255.
    Uint8,
    /// A text table in which every number is written as an integer. Text has no number types, so
    /// these are integers for a card with levels and real numbers for any other card.
    IntegerText,
}

impl LoadedData {
    /// Reads samples like [`Dataset::read`], or statistics of samples from a `.npz` or
    /// `.safetensors` file.
    ///
    /// # Errors
    /// Fails if the file cannot be read or does not contain valid data. The message names the file.
    pub fn read(spec: &Path) -> Result<LoadedData> {
        let spec = &hub::local_path(spec)?;
        let name = spec.display().to_string();
        let (file, member) = split_member(spec);
        let (content, sha256) = if file.is_dir() {
            let (array, sha256) =
                images::array_from_image_folder(&file).with_context(|| name.clone())?;
            (ParsedContent::Samples(array), sha256)
        } else {
            if let Some(why) = signature::explain_missing(&file) {
                bail!("{name}: {why}");
            }
            // Reading a device or a pipe may never end.
            if file.exists() && !file.is_file() {
                bail!("{name}: it is neither a file nor a folder");
            }
            if member.is_none()
                && let Some(mapped) = MappedNpy::open(&file)?
            {
                let MappedNpy {
                    values,
                    number_kind,
                    sha256,
                } = mapped;
                let data = Dataset::new(name, sha256, values, number_kind);
                data.check_values()?;
                return Ok(LoadedData::Samples(data));
            }
            let bytes = std::fs::read(&file)
                .with_context(|| format!("{}: the data cannot be read", file.display()))?;
            // An empty file has no signature. Its reader gives a better message.
            if let Some(why) = signature::explain_mismatch(&bytes, ExpectedFile::Array)
                .filter(|_| !bytes.is_empty())
            {
                bail!("{name}: {why}");
            }
            let sha256 = hex(&Sha256::digest(&bytes));
            (
                parse_data_file(&file, member.as_deref(), &bytes).with_context(|| name.clone())?,
                sha256,
            )
        };
        Ok(match content {
            ParsedContent::Samples(ParsedArray {
                values,
                number_kind: numbers,
                are_features,
                notes,
            }) => {
                let data = Dataset {
                    notes,
                    are_features,
                    ..Dataset::new(name, sha256, values, numbers)
                };
                data.check_values()?;
                LoadedData::Samples(data)
            }
            ParsedContent::Statistics {
                mean,
                covariance,
                note,
            } => LoadedData::Statistics(FeatureStatistics {
                name,
                sha256,
                mean,
                covariance,
                notes: vec![note],
            }),
        })
    }
}

impl FeatureStatistics {
    /// Prints the notes on standard error.
    pub fn print_notes(&self) {
        print_file_notes(&self.name, &self.notes);
    }
}

impl Dataset {
    /// A dataset without layout and notes. The samples lie along the first axis of `values`.
    pub fn new(
        name: String,
        sha256: String,
        values: impl Into<StoredValues>,
        numbers: NumberKind,
    ) -> Dataset {
        Dataset {
            name,
            sha256,
            values: values.into(),
            number_kind: numbers,
            are_features: false,
            layout: None,
            notes: Vec::new(),
        }
    }

    /// Reads samples from a file or a folder.
    ///
    /// The formats are `.npy`, `.npz` and `.safetensors` (also `file.npz:name`), `.csv`, `.tsv`,
    /// `.parquet`, IDX, `.gz` of these, and a folder of images.
    ///
    /// # Errors
    /// Fails if the file cannot be read or does not contain valid samples. The message names the
    /// file.
    pub fn read(spec: &Path) -> Result<Dataset> {
        match LoadedData::read(spec)? {
            LoadedData::Samples(data) => Ok(data),
            LoadedData::Statistics(FeatureStatistics { name, mean, .. }) => bail!(
                "{name}: it holds statistics (a mean and a covariance of {} features) and no \
                 samples; only `flowgauge metrics --metric frechet` compares statistics",
                mean.len()
            ),
        }
    }

    /// Rearranges the axes to samples of the shape `wanted`, if a layout was given and applies.
    ///
    /// # Errors
    /// Fails if the array has another number of axes than the layout, or if no order of them fits.
    pub fn with_layout(
        mut self,
        requested: Option<RequestedLayout>,
        wanted: &[usize],
    ) -> Result<Dataset> {
        let port = shape::port_sizes(wanted);
        if let Some(requested) =
            requested.filter(|requested| requested.applies(self.values.shape(), &port))
        {
            return self.rearranged(requested.layout, Some(&port));
        }
        if shape::flattens_by_rows(self.sample_shape(), wanted)
            && shape::fits(self.sample_shape(), wanted)
        {
            self.notes.push(format!(
                "samples of shape {:?} are read row by row as {wanted:?}",
                self.sample_shape()
            ));
        }
        Ok(self)
    }

    /// Rearranges the axes with [`AxisLayout::rearrange`] and adds a note.
    ///
    /// # Errors
    /// Fails if the array has another number of axes than the layout, or if no order of them fits.
    pub fn rearranged(mut self, layout: &AxisLayout, wanted: Option<&[i64]>) -> Result<Dataset> {
        let read = self.values.shape().to_vec();
        self.values = layout
            .rearrange(self.values.into_array(), wanted)
            .map_err(|e| anyhow!("{}: {e}", self.name))?
            .into();
        self.notes.push(format!(
            "its axes {read:?} are read as {layout}: samples have shape {:?}",
            self.sample_shape()
        ));
        self.layout = Some(layout.clone());
        Ok(self)
    }

    /// Prints the notes on standard error.
    pub fn print_notes(&self) {
        print_file_notes(&self.name, &self.notes);
    }

    /// The shape of one sample.
    pub fn sample_shape(&self) -> &[usize] {
        &self.values.shape()[1..]
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.values.samples()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks that there is at least one sample and that all values are finite.
    fn check_values(&self) -> Result<()> {
        if self.values.shape().is_empty() || self.values.is_empty() {
            bail!(
                "{}: it has shape {:?}, expected at least one sample",
                self.name,
                self.values.shape()
            );
        }
        for (i, sample) in self.values.all_samples().enumerate() {
            if let Some(bad) = sample.iter().find(|v| !v.is_finite()) {
                bail!(
                    "{}: sample {i} holds {bad}; expected finite numbers",
                    self.name
                );
            }
        }
        Ok(())
    }

    /// The first `n` samples as flat rows, with unchanged values.
    pub fn first_rows(&self, n: usize) -> Array2<f64> {
        self.values.first_rows(n)
    }

    /// The given samples as flat rows, with unchanged values.
    pub fn rows(&self, samples: &[SampleId]) -> Batch {
        let mut rows = Batch::zeros((samples.len(), self.values.width()));
        for (row, sample) in rows.rows_mut().into_iter().zip(samples) {
            self.values.write_sample(*sample as usize, row);
        }
        rows
    }

    /// Checks that the samples fit the card's shape, by the rule of [`shape::fits`].
    ///
    /// # Errors
    /// Fails if they do not fit. The message contains both shapes, and the layout with which the
    /// samples would fit.
    pub fn check_shape(&self, card: &Card) -> Result<()> {
        if shape::fits(self.sample_shape(), &card.shape) {
            return Ok(());
        }
        let whose = format!("the card `{}` has shape", card.name);
        let mismatch = ShapeMismatch::for_shape(self.values.shape(), &card.shape);
        Err(anyhow!(
            "{}: {}",
            self.name,
            mismatch.message(&whose, shape::layout_option_hint)
        ))
    }

    /// Checks that the data fit the card, before anything runs.
    ///
    /// # Errors
    /// Fails if the shapes differ, if the data are integers and the card has no `levels`, or if an
    /// integer is outside the levels.
    pub fn check_fits(&self, card: &Card) -> Result<()> {
        self.check_shape(card)?;
        if !self.is_quantized(card) {
            return Ok(());
        }
        let Some(levels) = card.data.and_then(|d| d.levels) else {
            bail!(
                "{}: it holds integers, but the card `{}` has no `data: {{range, levels}}` to \
                 scale them; give floats in the model's coordinates, or add the levels to the card",
                self.name,
                card.name
            );
        };
        let is_outside = |v: &&f64| **v < 0.0 || **v >= f64::from(levels);
        let outside = self
            .values
            .all_samples()
            .find_map(|sample| sample.iter().find(is_outside).copied());
        let hint = match self.number_kind {
            NumberKind::IntegerText => {
                "; a table of whole numbers is read as integers: write 1.0 instead of 1 for floats"
            }
            _ => "",
        };
        outside.map_or(Ok(()), |v| {
            let last = levels - 1;
            Err(anyhow!(
                "{}: it holds {v}, but the card `{}` has levels 0 to {last}{hint}",
                self.name,
                card.name
            ))
        })
    }

    /// Whether the card's levels turn these numbers into real numbers.
    pub fn is_quantized(&self, card: &Card) -> bool {
        match self.number_kind {
            NumberKind::Floats => false,
            NumberKind::Integers | NumberKind::Uint8 => true,
            NumberKind::IntegerText => card.data.is_some_and(|d| d.levels.is_some()),
        }
    }

    /// What a log-likelihood says about these data.
    ///
    /// It is a `density` at the given floats, or a lower bound (`elbo`) of the discrete
    /// log-probability of integers. It is `none` if it would bound nothing and `lattice` allows
    /// this.
    ///
    /// # Errors
    /// Fails if a log-likelihood would bound nothing and `lattice` does not allow this. The message
    /// gives the reason and the remedy.
    pub fn likelihood_bound(&self, card: &Card, lattice: LatticePolicy) -> Result<LikelihoodBound> {
        let quantized = self.is_quantized(card);
        let mismatch = match quantized {
            true => lattice::integer_data_mismatch(
                &self.values,
                self.number_kind == NumberKind::Uint8,
                card.data,
            ),
            false => lattice::float_data_mismatch(&self.values, &card.shape, card.data),
        };
        let Some(mismatch) = mismatch else {
            return Ok(LikelihoodBound {
                kind: if quantized {
                    BoundKind::Elbo
                } else {
                    BoundKind::Density
                },
                reason: None,
            });
        };
        let why = match &mismatch {
            DataMismatch::Quantized(how) => format!("its floats lie on a lattice ({how})"),
            DataMismatch::OutOfRange(how) => how.clone(),
        };
        if lattice == LatticePolicy::Allow {
            return Ok(LikelihoodBound {
                kind: BoundKind::None,
                reason: Some(format!(
                    "{why}: its log-likelihoods and bits/dim bound nothing"
                )),
            });
        }
        let levels = card.data.and_then(|d| d.levels);
        let remedy = match (mismatch, levels) {
            (DataMismatch::OutOfRange(_), _) if quantized => {
                "the card would scale them to values that its model has not seen; give data of the \
                 card's depth, or a card with the levels and the range of these data"
                    .to_owned()
            }
            (DataMismatch::OutOfRange(_), _) => {
                "bits per dimension count levels of the card's range; scale the data into this \
                 range, or write the range that the model was trained on into the card, or remove \
                 `levels` from the card if you do not need bits per dimension"
                    .to_owned()
            }
            (DataMismatch::Quantized(_), levels) => {
                let give = match levels {
                    Some(levels) => format!(
                        "give the integers 0 to {}, which are then dequantized",
                        levels - 1
                    ),
                    None => "give the integers, and a card with `data: {range, levels}` to \
                             dequantize them"
                        .to_owned(),
                };
                format!(
                    "they were quantized and not dequantized, and a density at such points bounds \
                     no probability and can grow without limit; {give}, or give floats with \
                     uniform noise of one step added"
                )
            }
        };
        bail!(
            "{}: {why}: {remedy}; `lattice: allow` (`--lattice allow`) takes the data as they are, \
             and the column `bound` then says none",
            self.name
        )
    }

    /// The states of the given samples, rows × dim.
    ///
    /// Floats are used as they are. An integer X becomes lo + (hi − lo)(X + u)/levels with u
    /// uniform in \[0, 1) (uniform dequantization). The noise u depends only on the seed, the
    /// sample's index and the draw's number.
    pub fn states(&self, card: &Card, key: RngKey, samples: &[SampleId]) -> Batch {
        let dim = card.dim();
        let mut out = Batch::zeros((samples.len(), dim));
        for (mut row, sample) in out.rows_mut().into_iter().zip(samples) {
            let (sample, draw) = unpack_draw(*sample);
            self.values.write_sample(sample as usize, row.view_mut());
            if let (true, Some(data)) = (self.is_quantized(card), card.data) {
                let levels = f64::from(data.levels.unwrap_or(1));
                let u = key.uniform(Purpose::Dequantization, sample, draw, dim);
                row += &u;
                row.mapv_inplace(|v| data.range[0] + (data.range[1] - data.range[0]) * v / levels);
            }
        }
        out
    }

    /// The states of the given samples with truncated normal noise in place of uniform noise, and
    /// what is added to the log-density of each; see [`CellNoise`].
    pub fn states_with_cell_noise(
        &self,
        card: &Card,
        key: RngKey,
        samples: &[SampleId],
        noise: &CellNoise,
    ) -> (Batch, Vec<f64>) {
        let whole: Vec<SampleId> = samples.iter().map(|s| unpack_draw(*s).0).collect();
        let mut states = self.scaled_rows(card, &whole);
        let mut corrections = Vec::with_capacity(samples.len());
        for (mut row, sample) in states.rows_mut().into_iter().zip(samples) {
            let (sample, draw) = unpack_draw(*sample);
            let u = key.uniform(Purpose::Dequantization, sample, draw, row.len());
            let drawn = u.mapv(|u| noise.from_uniform(u));
            corrections.push(noise.correction(&drawn));
            row += &drawn;
            row *= noise.alpha();
        }
        (states, corrections)
    }

    /// The values of the given samples in the card's range, rows × numbers, as an encoder takes them:
    /// floats as they are, and an integer X as lo + (hi − lo)·X/(levels − 1), without noise.
    pub fn scaled_rows(&self, card: &Card, samples: &[SampleId]) -> Batch {
        let mut out = Batch::zeros((samples.len(), card.dim()));
        for (mut row, sample) in out.rows_mut().into_iter().zip(samples) {
            self.values.write_sample(*sample as usize, row.view_mut());
            if let (true, Some(data)) = (self.is_quantized(card), card.data) {
                let [low, high] = data.range;
                let last = f64::from(data.levels.unwrap_or(2)) - 1.0;
                row.mapv_inplace(|v| low + (high - low) * v / last);
            }
        }
        out
    }

    /// Checks that the data are integers, because floats cannot be dequantized.
    ///
    /// # Errors
    /// Fails if the data are floats. The message gives the remedy.
    pub fn check_dequantizable(&self, card: &Card) -> Result<()> {
        if !self.is_quantized(card) {
            bail!(
                "dequantization: {} holds floats, which are taken as they are; expected integers, \
                 or remove the dequantization",
                self.name
            );
        }
        Ok(())
    }

    /// How [`Dataset::states`] treats this array, in words.
    pub fn describe_treatment(&self, card: &Card) -> String {
        match (self.is_quantized(card), card.data) {
            (true, Some(d)) => format!(
                "integers 0 to {} uniformly dequantized into [{}, {}]",
                d.levels.unwrap_or(1).saturating_sub(1),
                d.range[0],
                d.range[1]
            ),
            _ => "floats taken as they are".to_owned(),
        }
    }
}

/// The file or folder that a user names, without the member of an archive: `file.npz` for
/// `file.npz:name`.
pub fn path_without_member(spec: &Path) -> PathBuf {
    split_member(spec).0
}

/// Splits `file.npz:name` into the file and its member. A path that exists has no member.
fn split_member(spec: &Path) -> (PathBuf, Option<String>) {
    let text = spec.to_string_lossy();
    if spec.exists() {
        return (spec.to_owned(), None);
    }
    match text.rsplit_once(':') {
        Some((file, member)) if Path::new(file).is_file() => {
            (PathBuf::from(file), Some(member.to_owned()))
        }
        _ => (spec.to_owned(), None),
    }
}

/// Parses the bytes of a file. The file's name decides the format.
fn parse_data_file(file: &Path, member: Option<&str>, bytes: &[u8]) -> Result<ParsedContent> {
    let name = file
        .file_name()
        .map(|n| n.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    if let (Some(member), false) = (
        member,
        name.ends_with(".npz") || name.ends_with(".safetensors"),
    ) {
        bail!(
            "`:{member}` names an array inside a .npz or .safetensors file, but this file is \
             neither"
        );
    }
    if let Some(inner) = name.strip_suffix(".gz") {
        let mut plain = Vec::new();
        // A few bytes of gzip may unpack to any size, so the size is limited.
        let mut reader = flate2::read::GzDecoder::new(bytes).take(1 << 32);
        reader
            .read_to_end(&mut plain)
            .context("it cannot be unpacked as gzip")?;
        return parse_data_file(Path::new(inner), None, &plain);
    }
    let array = if name.ends_with("-ubyte") || name.ends_with(".idx") {
        array_from_idx(bytes)?
    } else {
        match name.rsplit('.').next() {
            Some("npy") => array_from_npy(bytes)?,
            Some("npz") => {
                return archive::archive_content(archive::NpzArchive::open(bytes)?, member);
            }
            Some("safetensors") => {
                return archive::archive_content(archive::SafetensorsArchive::open(bytes)?, member);
            }
            Some("csv" | "tsv") => csv_table::array_from_csv(bytes)?,
            Some("parquet") => parquet_table::array_from_parquet(bytes)?,
            _ => bail!(
                "unknown kind of array; expected .npy, .npz, .safetensors, .csv, .parquet, IDX \
                 (-ubyte) or a folder of images"
            ),
        }
    };
    Ok(ParsedContent::Samples(array))
}

/// Parses a `.npy` file.
fn array_from_npy(bytes: &[u8]) -> Result<ParsedArray> {
    let (values, format) = npy::parse_npy(bytes)?;
    let numbers = match format {
        npy::NpyFormat::Uint8 => NumberKind::Uint8,
        npy::NpyFormat::Integers => NumberKind::Integers,
        npy::NpyFormat::Floats | npy::NpyFormat::Void2 => NumberKind::Floats,
    };
    let note =
        "its numbers are pairs of bytes without a type, as NumPy writes bfloat16, and are read as \
         bfloat16"
            .to_owned();
    Ok(ParsedArray {
        values,
        number_kind: numbers,
        are_features: false,
        notes: Vec::from_iter((format == npy::NpyFormat::Void2).then_some(note)),
    })
}

/// Parses the IDX format of the MNIST files: two zero bytes, a type byte, the number of axes, the
/// sizes, the numbers.
fn array_from_idx(bytes: &[u8]) -> Result<ParsedArray> {
    if bytes.len() < 4 || bytes[0] != 0 || bytes[1] != 0 {
        bail!("it is no IDX file (it does not begin with two zero bytes)");
    }
    if bytes[2] != 8 {
        bail!(
            "it is an IDX file of type {:#x}; expected unsigned bytes (0x8)",
            bytes[2]
        );
    }
    let axes = bytes[3] as usize;
    let header = 4 + 4 * axes;
    if axes == 0 || bytes.len() < header {
        bail!("its IDX header is truncated");
    }
    let size = |i: usize| {
        u32::from_be_bytes(bytes[4 + 4 * i..8 + 4 * i].try_into().expect("four bytes")) as usize
    };
    let shape: Vec<usize> = (0..axes).map(size).collect();
    let count = shape.iter().try_fold(1usize, |a, b| a.checked_mul(*b));
    if count != Some(bytes.len() - header) {
        bail!(
            "its IDX header claims shape {shape:?}, but {} bytes follow",
            bytes.len() - header
        );
    }
    Ok(ParsedArray {
        values: StoredValues::from_bytes(&shape, bytes[header..].to_vec()),
        number_kind: NumberKind::Uint8,
        are_features: false,
        notes: Vec::new(),
    })
}

/// The bytes of a `.npy` file of float32 with the rows of `x`, each in the shape `shape`.
///
/// # Errors
/// Fails if a row does not have as many numbers as `shape`.
pub fn encode_npy_f32(x: &Batch, shape: &[usize]) -> Result<Vec<u8>> {
    encode_npy(&x.mapv(|v| v as f32), shape)
}

/// The bytes of a `.npy` file of float64 with the rows of `x`, each in the shape `shape`.
///
/// # Errors
/// Fails if a row does not have as many numbers as `shape`.
pub(crate) fn encode_npy_f64(x: &Batch, shape: &[usize]) -> Result<Vec<u8>> {
    encode_npy(x, shape)
}

/// The bytes of a `.npy` file with the rows of `x`, each in the shape `shape`.
fn encode_npy<T: ndarray_npy::WritableElement + Clone>(
    x: &ndarray::Array2<T>,
    shape: &[usize],
) -> Result<Vec<u8>> {
    let full: Vec<usize> = std::iter::once(x.nrows())
        .chain(shape.iter().copied())
        .collect();
    let values = x
        .as_standard_layout()
        .into_owned()
        .into_shape_with_order(IxDyn(&full))?;
    let mut bytes = Vec::new();
    ndarray_npy::WriteNpyExt::write_npy(&values, &mut bytes)?;
    Ok(bytes)
}

/// The rows of a `.npy` file of float32, flattened.
///
/// # Errors
/// Fails if the bytes are not such a file.
pub fn decode_npy_f32(bytes: &[u8]) -> Result<Batch> {
    let values = <ArrayD<f32> as ndarray_npy::ReadNpyExt>::read_npy(bytes)?;
    let rows = values.shape().first().copied().unwrap_or(0).max(1);
    let width = values.len() / rows;
    Ok(values
        .mapv(f64::from)
        .into_shape_with_order((rows, width))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::key::pack_draw;
    use ndarray_npy::WriteNpyExt;

    fn written(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        (folder, path)
    }

    fn npy_bytes<T: ndarray_npy::WritableElement>(array: &ndarray::ArrayD<T>) -> Vec<u8> {
        let mut bytes = Vec::new();
        array.write_npy(&mut bytes).expect("written");
        bytes
    }

    /// A .npy file with the given header and a few numbers.
    fn npy_claiming(header: &str) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend(
            u16::try_from(header.len())
                .expect("a short header")
                .to_le_bytes(),
        );
        bytes.extend(header.as_bytes());
        bytes.extend([0; 96]);
        bytes
    }

    #[test]
    fn file_formats_agree_on_one_array() {
        let values = ndarray::array![[0.5f64, -1.0], [2.0, 3.25]].into_dyn();
        let (_a, npy) = written("a.npy", &npy_bytes(&values));
        let (_b, f32s) = written("b.npy", &npy_bytes(&values.mapv(|v| v as f32)));
        let (_c, csv) = written("c.csv", b"name,x,y\nfirst,0.5,-1\nsecond,2,3.25\n");
        let mut quoted =
            npy_claiming("{\"descr\": \"<f8\", \"fortran_order\": False, \"shape\": (2, 2)}\n");
        quoted.truncate(quoted.len() - 96);
        values.iter().for_each(|v| quoted.extend(v.to_le_bytes()));
        let (_d, quoted) = written("d.npy", &quoted);
        for path in [npy, f32s, csv, quoted] {
            let data = Dataset::read(&path).expect("read");
            assert_eq!(
                (data.values.clone(), data.number_kind),
                (values.clone().into(), NumberKind::Floats),
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn idx_and_gzipped_idx_agree() {
        let plain = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255];
        let (_a, path) = written("t-images-idx2-ubyte", &plain);
        let data = Dataset::read(&path).expect("read");
        assert_eq!(data.values.shape(), [2, 3]);
        assert_eq!(data.number_kind, NumberKind::Uint8);
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, &plain).expect("packed");
        let (_b, path) = written("t-images-idx2-ubyte.gz", &packed.finish().expect("packed"));
        assert_eq!(Dataset::read(&path).expect("read").values, data.values);
    }

    #[test]
    fn damaged_files_are_refused_with_a_reason() {
        let refused = |name: &str, bytes: &[u8]| {
            let (_folder, path) = written(name, bytes);
            format!("{:#}", Dataset::read(&path).expect_err(name))
        };
        let whole = npy_bytes(&ndarray::Array2::<f64>::zeros((4, 3)).into_dyn());
        assert!(refused("a.npy", &whole[..whole.len() - 8]).contains("a.npy"));
        assert!(refused("a.npy", b"").contains("header"));
        let huge = String::from_utf8_lossy(&whole[10..128]).replace("(4, 3)", "(4, 999999999999)");
        assert!(refused("a.npy", &npy_claiming(&huge)).contains("claims"));
        let far = format!(
            "{{'descr': '<f8',{}'fortran_order': False, 'shape': (4, 999999999999), }}\n",
            " ".repeat(400)
        );
        assert!(refused("a.npy", &npy_claiming(&far)).contains("claims"));
        assert!(refused("a.npy", &whole[..40]).contains("truncated"));
        let nan = npy_bytes(&ndarray::array![[1.0f64], [f64::NAN]].into_dyn());
        assert!(refused("a.npy", &nan).contains("sample 1"));
        assert!(
            refused(
                "a.npy",
                &npy_bytes(&ndarray::Array2::<f64>::zeros((0, 3)).into_dyn())
            )
            .contains("at least one")
        );
        assert!(refused("a.csv", b"1,2\n3\n").contains("table"));
        assert!(refused("a.csv", b"1,2\n3,x\n").contains("line 2, column 2: \"x\" is no number"));
        // A missing number in the first row does not remove its column.
        assert!(
            refused("a.csv", b"x,y\n,1\n2,3\n").contains("line 2, column 1: \"\" is no number")
        );
        assert!(refused("a-ubyte", &[0, 0, 8, 1, 0, 0, 0, 9, 1]).contains("claims"));
        assert!(refused("a.pkl", b"x").contains("expected"));
        assert!(refused("a.safetensors", b"xxxxxxxxxxxx").contains("safetensors"));
    }

    #[test]
    fn dequantization_stays_in_the_cell_and_is_batch_independent() {
        let card: Card = serde_yaml::from_str(
            "name: a\nshape: [2]\n\
             network: {file: f, inputs: {x: x}, output: v, prediction: velocity}\n\
             path: {kind: flow-matching}\ndata: {range: [-1, 1], levels: 4}\n",
        )
        .expect("a card");
        let values = ndarray::array![[0.0, 3.0], [1.0, 2.0]].into_dyn();
        let data = Dataset::new("a".into(), String::new(), values, NumberKind::Integers);
        data.check_fits(&card).expect("it fits");
        let both = data.states(&card, RngKey { seed: 1 }, &[0, 1]);
        let second = data.states(&card, RngKey { seed: 1 }, &[1]);
        assert_eq!(both.row(1), second.row(0));
        let again = data.states(&card, RngKey { seed: 1 }, &[pack_draw(1, 1)]);
        assert!(
            again
                .row(0)
                .iter()
                .zip(second.row(0))
                .all(|(a, b)| a != b && (a - b).abs() < 0.5)
        );
        for (x, cell) in both.iter().zip([0.0, 3.0, 1.0, 2.0]) {
            assert!(((x + 1.0) * 2.0).floor() == cell, "{x} {cell}");
        }
    }
}
