//! Arrays from files, with the hash of their bytes, and how they become states of a model.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use ndarray::{Array1, Array2, ArrayD, Axis, IxDyn};
use sha2::{Digest, Sha256};

use crate::dequantization::{DENSITY, ELBO, NO_BOUND};
use crate::lattice::{self, DataMismatch, LatticePolicy};
use crate::model::card::Card;
use crate::model::library::hex;
use crate::num::Batch;
use crate::num::key::{Purpose, RngKey, SampleId, unpack_draw};
use crate::num::npy;
use crate::num::shape::{self, AxisLayout, RequestedLayout, ShapeMismatch};
use crate::signature::{self, ExpectedFile};

mod archive;
mod csv_table;
mod images;
mod npy_rows;
mod parquet_table;
pub use images::{ImageFolder, png_grid};
pub use npy_rows::NpyRows;

/// A whole array as read.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// As the user named it.
    pub name: String,
    pub sha256: String,
    /// Samples first.
    pub values: ArrayD<f64>,
    pub number_kind: NumberKind,
    /// The order of the file's axes, where it was said.
    pub layout: Option<AxisLayout>,
    /// What was left out or taken for something, in sentences that go on after the file's name.
    pub notes: Vec<String>,
}

/// What a log-likelihood is to its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LikelihoodBound {
    /// As the column `bound` says it.
    pub kind: &'static str,
    /// Why it bounds nothing, in a sentence that goes on after the file's name.
    pub reason: Option<String>,
}

/// A mean and a covariance of features, as programs that compute a Fréchet distance keep them.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureStatistics {
    /// As the user named it.
    pub name: String,
    pub sha256: String,
    pub mean: Array1<f64>,
    pub covariance: Array2<f64>,
    /// As [`Dataset::notes`].
    pub notes: Vec<String>,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub enum LoadedData {
    Samples(Dataset),
    Statistics(FeatureStatistics),
}

/// An array as a parser gives it, with notes for [`Dataset::notes`].
#[derive(Debug)]
struct ParsedArray {
    values: ArrayD<f64>,
    number_kind: NumberKind,
    notes: Vec<String>,
}

/// What the bytes of a file are.
enum ParsedContent {
    Samples(ParsedArray),
    Statistics {
        mean: Array1<f64>,
        covariance: Array2<f64>,
        note: String,
    },
}

/// Prints notes on standard error, after the name of their file.
fn print_file_notes(name: &str, notes: &[String]) {
    notes
        .iter()
        .for_each(|text| errln!("flowgauge: {name}: {text}"));
}

/// What kind of numbers a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberKind {
    Floats,
    /// By the file's own type; a model's levels turn them into reals.
    Integers,
    /// Integers of a type that holds 0 to 255 and nothing else.
    Uint8,
    /// A text table in which every number is written as a whole one. Text has no types: these are
    /// integers to a card with levels, and reals to any other.
    IntegerText,
}

impl LoadedData {
    /// Reads samples, as [`Dataset::read`] does, or statistics of them from a .npz or .safetensors file.
    ///
    /// # Errors
    /// One message that names the file and what is wrong.
    pub fn read(spec: &Path) -> Result<LoadedData> {
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
            // A device or a pipe may never end.
            if file.exists() && !file.is_file() {
                bail!("{name}: it is neither a file nor a folder");
            }
            let bytes = std::fs::read(&file)
                .with_context(|| format!("{}: the data cannot be read", file.display()))?;
            // What is empty or cut off, its own reader tells.
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
                notes,
            }) => {
                let data = Dataset {
                    notes,
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
    /// An array, samples first, with the hash of what it was read from.
    pub fn new(name: String, sha256: String, values: ArrayD<f64>, numbers: NumberKind) -> Dataset {
        Dataset {
            name,
            sha256,
            values,
            number_kind: numbers,
            layout: None,
            notes: Vec::new(),
        }
    }

    /// Reads `.npy`, `.npz` (`file.npz:name`), `.safetensors` (likewise), `.csv`, `.parquet`, IDX
    /// (also `.gz`), or a folder of PNG or JPEG images.
    ///
    /// # Errors
    /// One message that names the file and what is wrong.
    pub fn read(spec: &Path) -> Result<Dataset> {
        match LoadedData::read(spec)? {
            LoadedData::Samples(data) => Ok(data),
            LoadedData::Statistics(FeatureStatistics { name, mean, .. }) => bail!(
                "{name}: it holds statistics, a mean and a covariance of {} features, and not samples; they are                  compared by `flowgauge metrics --metric frechet` alone",
                mean.len()
            ),
        }
    }

    /// The same with its axes in an order that fits samples of the shape `wanted`, where a layout is said.
    ///
    /// # Errors
    /// Where the array has other axes than the layout, or fits in no order of them.
    pub fn with_layout(
        mut self,
        said: Option<RequestedLayout>,
        wanted: &[usize],
    ) -> Result<Dataset> {
        let port = shape::port_sizes(wanted);
        if let Some(said) = said.filter(|said| said.applies(self.values.shape(), &port)) {
            return self.rearranged(said.layout, Some(&port));
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

    /// As [`AxisLayout::rearrange`], with a note.
    ///
    /// # Errors
    /// As there.
    pub fn rearranged(mut self, layout: &AxisLayout, wanted: Option<&[i64]>) -> Result<Dataset> {
        let read = self.values.shape().to_vec();
        self.values = layout
            .rearrange(self.values, wanted)
            .map_err(|e| anyhow!("{}: {e}", self.name))?;
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

    /// Samples.
    pub fn len(&self) -> usize {
        self.values.shape().first().copied().unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn check_values(&self) -> Result<()> {
        if self.values.ndim() == 0 || self.values.is_empty() {
            bail!(
                "{}: it has shape {:?}, expected at least one sample",
                self.name,
                self.values.shape()
            );
        }
        for (i, sample) in self.values.outer_iter().enumerate() {
            if let Some(bad) = sample.iter().find(|v| !v.is_finite()) {
                bail!(
                    "{}: sample {i} holds {bad}; expected finite numbers",
                    self.name
                );
            }
        }
        Ok(())
    }

    /// The first `n` samples flattened to rows, without any change of their values.
    pub fn first_rows(&self, n: usize) -> Array2<f64> {
        let n = n.min(self.len());
        let width = self.values.len() / self.len();
        let flat = self.values.as_standard_layout().into_owned();
        let flat = flat
            .into_shape_with_order((self.len(), width))
            .expect("samples of equal size");
        flat.slice_move(ndarray::s![..n, ..])
    }

    /// Refuses samples of another shape than the card's: see [`shape::fits`].
    ///
    /// # Errors
    /// A message with both shapes, and the layout under which they would fit.
    pub fn check_shape(&self, card: &Card) -> Result<()> {
        if shape::fits(self.sample_shape(), &card.shape) {
            return Ok(());
        }
        let whose = format!("the card `{}` has shape", card.name);
        let misfit = ShapeMismatch::for_shape(self.values.shape(), &card.shape);
        Err(anyhow!(
            "{}: {}",
            self.name,
            misfit.message(&whose, shape::layout_option_hint)
        ))
    }

    /// Refuses data that do not fit the card, before anything runs.
    ///
    /// # Errors
    /// Where the shape differs, or integers meet a card without `levels` or lie outside them.
    pub fn check_fits(&self, card: &Card) -> Result<()> {
        self.check_shape(card)?;
        if !self.is_quantized(card) {
            return Ok(());
        }
        let Some(levels) = card.data.and_then(|d| d.levels) else {
            bail!(
                "{}: it holds integers, but the card `{}` names no `data: {{range, levels}}` to scale them by; \
                 give floats in the model's coordinates, or add the levels to the card",
                self.name,
                card.name
            );
        };
        let outside = self
            .values
            .iter()
            .find(|v| **v < 0.0 || **v >= f64::from(levels));
        let hint = match self.number_kind {
            NumberKind::IntegerText => {
                "; a table of whole numbers is read as integers: write 1.0 for floats"
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

    /// Whether a model's levels turn these numbers into reals.
    pub fn is_quantized(&self, card: &Card) -> bool {
        match self.number_kind {
            NumberKind::Floats => false,
            NumberKind::Integers | NumberKind::Uint8 => true,
            NumberKind::IntegerText => card.data.is_some_and(|d| d.levels.is_some()),
        }
    }

    /// What a log-likelihood of these data is to them: a `density` at the given floats, a lower bound (`elbo`) of the
    /// discrete log-probability of integers, or `none` where it would bound nothing and that is allowed.
    ///
    /// # Errors
    /// Where it would bound nothing and that is not allowed; the message says why, and the way out.
    pub fn likelihood_bound(&self, card: &Card, lattice: LatticePolicy) -> Result<LikelihoodBound> {
        let quantized = self.is_quantized(card);
        let unfit = match quantized {
            true => lattice::integer_data_mismatch(
                &self.values,
                self.number_kind == NumberKind::Uint8,
                card.data,
            ),
            false => lattice::float_data_mismatch(&self.values, &card.shape, card.data),
        };
        let Some(unfit) = unfit else {
            return Ok(LikelihoodBound {
                kind: if quantized { ELBO } else { DENSITY },
                reason: None,
            });
        };
        let why = match &unfit {
            DataMismatch::Quantized(how) => format!("its floats lie on a lattice ({how})"),
            DataMismatch::OutOfRange(how) => how.clone(),
        };
        if lattice == LatticePolicy::Allow {
            return Ok(LikelihoodBound {
                kind: NO_BOUND,
                reason: Some(format!(
                    "{why}: log-likelihoods and bits/dim of it bound nothing"
                )),
            });
        }
        let levels = card.data.and_then(|d| d.levels);
        let way_out = match (unfit, levels) {
            (DataMismatch::OutOfRange(_), _) if quantized => {
                "scaled by the card they would not be what its model saw; give data of its depth, or a card with the \
                 levels and the range of these"
                    .to_owned()
            }
            (DataMismatch::OutOfRange(_), _) => {
                "bits per dimension count levels of the card's range; scale the data into it, or give the card the \
                 range that its model saw, or no `levels` where bits per dimension are not asked for"
                    .to_owned()
            }
            (DataMismatch::Quantized(_), levels) => {
                let give = match levels {
                    Some(levels) => format!("give the integers 0 to {}, which are then dequantized", levels - 1),
                    None => "give the integers, and the card `data: {range, levels}` to dequantize them by".to_owned(),
                };
                format!(
                    "they were quantized and not dequantized, and a density at such points bounds no probability and \
                     can be raised without limit; {give}, or floats with uniform noise of one step added"
                )
            }
        };
        bail!(
            "{}: {why}: {way_out}; `lattice: allow` (`--lattice allow`) takes them as they are, and `bound` then says \
             none",
            self.name
        )
    }

    /// States of the given draws of samples: floats as they are; integers X as lo + (hi − lo)(X + u)/levels
    /// with u uniform in \[0, 1) by the address of sample and draw (uniform dequantization).
    pub fn states(&self, card: &Card, key: RngKey, samples: &[SampleId]) -> Batch {
        let dim = card.dim();
        let mut out = Batch::zeros((samples.len(), dim));
        for (mut row, sample) in out.rows_mut().into_iter().zip(samples) {
            let (sample, draw) = unpack_draw(*sample);
            let values = self.values.index_axis(Axis(0), sample as usize);
            row.iter_mut().zip(values.iter()).for_each(|(r, v)| *r = *v);
            if let (true, Some(data)) = (self.is_quantized(card), card.data) {
                let levels = f64::from(data.levels.unwrap_or(1));
                let u = key.uniform(Purpose::Dequantization, sample, draw, dim);
                row += &u;
                row.mapv_inplace(|v| data.range[0] + (data.range[1] - data.range[0]) * v / levels);
            }
        }
        out
    }

    /// Refuses a dequantization of floats, which have nothing to dequantize.
    ///
    /// # Errors
    /// A sentence with the way out.
    pub fn check_dequantizable(&self, card: &Card) -> Result<()> {
        if !self.is_quantized(card) {
            bail!(
                "dequantization: {} holds floats, which are taken as they are; expected integers, or nothing about dequantization",
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

/// The file or folder that a user names, without the member of an archive: `file.npz` of `file.npz:name`.
pub fn path_without_member(spec: &Path) -> PathBuf {
    split_member(spec).0
}

/// `file.npz:name` is a member of a file; a path that exists is itself.
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

fn parse_data_file(file: &Path, member: Option<&str>, bytes: &[u8]) -> Result<ParsedContent> {
    let name = file
        .file_name()
        .map(|n| n.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    if let (Some(member), false) = (
        member,
        name.ends_with(".npz") || name.ends_with(".safetensors"),
    ) {
        bail!("`:{member}` names an array inside a .npz or .safetensors file, which this is not");
    }
    if let Some(inner) = name.strip_suffix(".gz") {
        let mut plain = Vec::new();
        // A bound on what a few bytes of gzip may unpack to.
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
                "unknown kind of array; expected .npy, .npz, .safetensors, .csv, .parquet, IDX (-ubyte) or a folder of images"
            ),
        }
    };
    Ok(ParsedContent::Samples(array))
}

/// A .npy file of any of the plain number formats.
fn array_from_npy(bytes: &[u8]) -> Result<ParsedArray> {
    let (values, format) = npy::parse_npy(bytes)?;
    let numbers = match format {
        npy::NpyFormat::Uint8 => NumberKind::Uint8,
        npy::NpyFormat::Integers => NumberKind::Integers,
        npy::NpyFormat::Floats | npy::NpyFormat::Void2 => NumberKind::Floats,
    };
    let note =
        "its numbers are unnamed pairs of bytes, as NumPy keeps bfloat16, and are read as that"
            .to_owned();
    Ok(ParsedArray {
        values,
        number_kind: numbers,
        notes: Vec::from_iter((format == npy::NpyFormat::Void2).then_some(note)),
    })
}

/// The IDX format of the MNIST files: two zeros, a type byte, the number of axes, sizes, numbers.
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
    let values = bytes[header..].iter().map(|b| f64::from(*b)).collect();
    let values = ArrayD::from_shape_vec(IxDyn(&shape), values)?;
    Ok(ParsedArray {
        values,
        number_kind: NumberKind::Uint8,
        notes: Vec::new(),
    })
}

/// Rows as a .npy of f32, each with the card's shape.
///
/// # Errors
/// Never for rows of that size.
pub fn encode_npy_f32(x: &Batch, shape: &[usize]) -> Result<Vec<u8>> {
    let full: Vec<usize> = std::iter::once(x.nrows())
        .chain(shape.iter().copied())
        .collect();
    let values = x
        .mapv(|v| v as f32)
        .as_standard_layout()
        .into_owned()
        .into_shape_with_order(IxDyn(&full))?;
    let mut bytes = Vec::new();
    ndarray_npy::WriteNpyExt::write_npy(&values, &mut bytes)?;
    Ok(bytes)
}

/// The rows of a .npy of f32, flattened.
///
/// # Errors
/// Where the bytes are no such array.
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
                (values.clone(), NumberKind::Floats),
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
        // A hole in the first row costs no column.
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
            "name: a\nshape: [2]\nnetwork: {file: f, inputs: {x: x}, output: v, prediction: velocity}\n\
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
