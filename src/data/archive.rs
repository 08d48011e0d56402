//! Files that hold several arrays, `.npz` and `.safetensors`: which array holds the samples, and
//! files of statistics.

use std::io::{Cursor, Read};

use anyhow::{Context, Result, anyhow, bail};
use ndarray::{Array1, ArrayD, Ix2, IxDyn};
use safetensors::{Dtype, SafeTensors};

use super::{NumberKind, ParsedArray, ParsedContent};
use crate::num::npy;
use crate::num::stored_values::StoredValues;

/// The largest size to which an array may unpack.
const MAX_UNPACKED_BYTES: u64 = 1 << 32;

/// The number of bytes at the start of an array's file in which its header must lie.
const MAX_HEADER_BYTES: u64 = 1 << 16;

/// The names under which programs store a mean and a covariance.
///
/// pytorch-fid, clean-fid and EDM use only the first pair. ADM adds the second pair for features
/// that keep their place in the image.
const STATISTICS_NAMES: [(&str, &str); 2] = [("mu", "sigma"), ("mu_s", "sigma_s")];

/// The names under which programs store the features of samples: score_sde, torch-fidelity's
/// scripts and clean-fid.
const FEATURE_NAMES: [&str; 3] = ["pool_3", "features", "feats"];

/// One array of a file, before its values are read.
pub(super) struct ArchiveMember {
    name: String,
    shape: Vec<usize>,
    /// Whether its numbers are integers.
    integer: bool,
}

/// The content of a file with several arrays. `wanted` is the array that the user named.
///
/// # Errors
/// Fails if the file has no array of that name, or if it is not clear which array holds the
/// samples.
pub(super) fn archive_content(
    mut archive: impl ArrayArchive,
    wanted: Option<&str>,
) -> Result<ParsedContent> {
    let members = archive.members()?;
    if members.is_empty() {
        bail!("it holds no array");
    }
    let pair = |mean: &str| {
        STATISTICS_NAMES
            .iter()
            .find(|(mu, _)| *mu == mean)
            .filter(|(mu, sigma)| is_mean_and_covariance(&members, mu, sigma))
    };
    if let Some(name) = wanted {
        if !members.iter().any(|m| m.name == name) {
            bail!(
                "it holds no array `{name}`; it has {}",
                list_members(&members)
            );
        }
        return match pair(name) {
            Some((mu, sigma)) => read_mean_and_covariance(&mut archive, mu, sigma),
            None => Ok(ParsedContent::Samples(read_samples(&mut archive, name)?)),
        };
    }
    // Logits and the like may lie beside features.
    let features = members
        .iter()
        .find(|m| FEATURE_NAMES.contains(&&m.name[..]) && m.shape.len() == 2);
    if let Some(features) = features {
        let mut array = read_samples(&mut archive, &features.name)?;
        if members.len() > 1 {
            array.notes.push(format!(
                "its array `{}` is used, and no other of {}",
                features.name,
                list_members(&members)
            ));
        }
        return Ok(ParsedContent::Samples(array));
    }
    let statistics_pairs: Vec<&(&str, &str)> = STATISTICS_NAMES
        .iter()
        .filter(|(mu, sigma)| is_mean_and_covariance(&members, mu, sigma))
        .collect();
    // A number beside statistics counts their samples.
    let is_statistic = |m: &&ArchiveMember| {
        m.shape.is_empty() && !statistics_pairs.is_empty()
            || statistics_pairs
                .iter()
                .any(|(mu, sigma)| m.name == *mu || m.name == *sigma)
    };
    let (statistics, others): (Vec<&ArchiveMember>, Vec<&ArchiveMember>) =
        members.iter().partition(is_statistic);
    let Some((first, labels)) = others.split_first() else {
        return read_mean_and_covariance(
            &mut archive,
            statistics_pairs[0].0,
            statistics_pairs[0].1,
        );
    };
    if labels.is_empty() && statistics.is_empty() {
        return Ok(ParsedContent::Samples(archive.read_array(&first.name)?));
    }
    // Labels are integers, one for each sample.
    let is_labels = |m: &&ArchiveMember| {
        m.integer && (m.shape[..] == first.shape[..1] || m.shape == [first.shape[0], 1])
    };
    if first.shape.len() < 2 || !labels.iter().all(is_labels) {
        let largest = members
            .iter()
            .max_by_key(|m| m.shape.iter().product::<usize>())
            .unwrap_or(first);
        bail!(
            "it holds several arrays: {}; name one of them, such as FILE:{}",
            list_members(&members),
            largest.name
        );
    }
    let mut array = archive.read_array(&first.name)?;
    let names = |members: &[&ArchiveMember]| {
        members
            .iter()
            .map(|m| format!("`{}`", m.name))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut note = format!("the samples are its array `{}`", first.name);
    if !labels.is_empty() {
        note += &format!("; {} are labels and are not used", names(labels));
    }
    if !statistics.is_empty() {
        note += &format!(
            "; {} are statistics and are not used; name FILE:{} to use them",
            names(&statistics),
            statistics_pairs[0].0
        );
    }
    array.notes.push(note);
    Ok(ParsedContent::Samples(array))
}

/// Reads an array of samples, or of features if its name says so.
fn read_samples(archive: &mut impl ArrayArchive, name: &str) -> Result<ParsedArray> {
    let mut array = archive.read_array(name)?;
    array.are_features = FEATURE_NAMES.contains(&name) && array.values.shape().len() == 2;
    Ok(array)
}

/// Whether two arrays exist and have the shapes of a mean and a covariance.
fn is_mean_and_covariance(members: &[ArchiveMember], mu: &str, sigma: &str) -> bool {
    let shape = |name: &str| {
        members
            .iter()
            .find(|m| m.name == name)
            .map(|m| &m.shape[..])
    };
    matches!((shape(mu), shape(sigma)), (Some([d] | [1, d]), Some([a, b])) if a == d && b == d)
}

/// Reads statistics and checks that they are finite and that the covariance is symmetric.
fn read_mean_and_covariance(
    archive: &mut impl ArrayArchive,
    mu: &str,
    sigma: &str,
) -> Result<ParsedContent> {
    let (mean, covariance) = (
        archive.read_array(mu)?.values.into_array(),
        archive.read_array(sigma)?.values.into_array(),
    );
    let mean = Array1::from_iter(mean.iter().copied());
    let covariance = covariance
        .into_dimensionality::<Ix2>()
        .with_context(|| sigma.to_owned())?;
    if let Some(bad) = mean.iter().chain(&covariance).find(|v| !v.is_finite()) {
        bail!("its statistics hold {bad}; expected finite numbers");
    }
    let largest = covariance.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    if (&covariance - &covariance.t())
        .iter()
        .any(|gap| gap.abs() > 1e-5 * largest)
    {
        bail!("its `{sigma}` is not symmetric, so it is not a covariance");
    }
    let note = format!(
        "its arrays `{mu}` and `{sigma}` are the mean and the covariance of {} features",
        mean.len()
    );
    Ok(ParsedContent::Statistics {
        mean,
        covariance,
        note,
    })
}

/// The names and the shapes of all arrays, for a message.
fn list_members(members: &[ArchiveMember]) -> String {
    members
        .iter()
        .map(|m| format!("{} {:?}", m.name, m.shape))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A file with several named arrays.
pub(super) trait ArrayArchive {
    /// The arrays of the file, without their values.
    ///
    /// # Errors
    /// Fails if the file is damaged.
    fn members(&mut self) -> Result<Vec<ArchiveMember>>;

    /// Reads the array called `name`.
    ///
    /// # Errors
    /// Fails if there is no such array, or if it cannot be read.
    fn read_array(&mut self, name: &str) -> Result<ParsedArray>;
}

/// A `.npz` archive. Its arrays are in the order of the archive.
pub(super) struct NpzArchive<'a>(zip::ZipArchive<Cursor<&'a [u8]>>);

impl<'a> NpzArchive<'a> {
    /// Opens an archive.
    ///
    /// # Errors
    /// Fails if the bytes are not a zip archive.
    pub(super) fn open(bytes: &'a [u8]) -> Result<NpzArchive<'a>> {
        Ok(NpzArchive(
            zip::ZipArchive::new(Cursor::new(bytes)).context("it is no .npz archive")?,
        ))
    }

    /// The first `most` bytes of the member at `place`, unpacked.
    fn member_bytes(&mut self, place: usize, most: u64) -> Result<Vec<u8>> {
        let mut plain = Vec::new();
        self.0
            .by_index(place)?
            .take(most)
            .read_to_end(&mut plain)
            .context("its member cannot be unpacked")?;
        Ok(plain)
    }
}

/// The name of an array, without the suffix of its member.
fn strip_npy_suffix(name: &str) -> &str {
    name.strip_suffix(".npy").unwrap_or(name)
}

impl ArrayArchive for NpzArchive<'_> {
    fn members(&mut self) -> Result<Vec<ArchiveMember>> {
        (0..self.0.len())
            .map(|place| {
                let name = strip_npy_suffix(self.0.by_index_raw(place)?.name()).to_owned();
                let (format, shape) =
                    npy::npy_format_and_shape(&self.member_bytes(place, MAX_HEADER_BYTES)?)
                        .with_context(|| name.clone())?;
                Ok(ArchiveMember {
                    name,
                    shape,
                    integer: format.starts_with(['i', 'u']),
                })
            })
            .collect()
    }

    fn read_array(&mut self, name: &str) -> Result<ParsedArray> {
        let at = (0..self.0.len()).find(|i| {
            self.0
                .by_index_raw(*i)
                .is_ok_and(|f| strip_npy_suffix(f.name()) == name)
        });
        let place = at.ok_or_else(|| anyhow!("it holds no array `{name}`"))?;
        super::array_from_npy(&self.member_bytes(place, MAX_UNPACKED_BYTES)?)
            .with_context(|| name.to_owned())
    }
}

/// A `.safetensors` file. Its tensors are in the order of their names.
pub(super) struct SafetensorsArchive<'a>(SafeTensors<'a>);

impl<'a> SafetensorsArchive<'a> {
    /// Opens a file.
    ///
    /// # Errors
    /// Fails if the bytes are not a `.safetensors` file.
    pub(super) fn open(bytes: &'a [u8]) -> Result<SafetensorsArchive<'a>> {
        Ok(SafetensorsArchive(
            SafeTensors::deserialize(bytes)
                .map_err(|e| anyhow!("it is no .safetensors file: {e}"))?,
        ))
    }
}

impl ArrayArchive for SafetensorsArchive<'_> {
    fn members(&mut self) -> Result<Vec<ArchiveMember>> {
        let mut members: Vec<ArchiveMember> = (self.0.iter())
            .map(|(name, tensor)| ArchiveMember {
                name: name.to_owned(),
                shape: tensor.shape().to_vec(),
                integer: !matches!(
                    tensor.dtype(),
                    Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64 | Dtype::BOOL
                ),
            })
            .collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(members)
    }

    fn read_array(&mut self, name: &str) -> Result<ParsedArray> {
        let tensor = self
            .0
            .tensor(name)
            .map_err(|_| anyhow!("it holds no array `{name}`"))?;
        // The numbers of a file's type as numbers of a type that holds them all.
        macro_rules! read {
            ($ty:ty as $stored:ty, $numbers:expr) => {{
                let value = |b: &[u8]| {
                    let bytes = b.try_into().expect("chunks of the number's width");
                    <$ty>::from_le_bytes(bytes) as $stored
                };
                let values = tensor.data().chunks_exact(size_of::<$ty>()).map(value);
                (stored(tensor.shape(), values.collect())?, $numbers)
            }};
        }
        let half_precision = |of: fn(u16) -> f32| {
            let pairs = tensor.data().chunks_exact(2);
            let values = pairs.map(|b| of(u16::from_le_bytes([b[0], b[1]])));
            stored(tensor.shape(), values.collect())
        };
        let (values, numbers) = match tensor.dtype() {
            Dtype::F16 => (
                half_precision(|bits| half::f16::from_bits(bits).to_f32())?,
                NumberKind::Floats,
            ),
            Dtype::BF16 => (
                half_precision(|bits| half::bf16::from_bits(bits).to_f32())?,
                NumberKind::Floats,
            ),
            Dtype::F32 => read!(f32 as f32, NumberKind::Floats),
            Dtype::F64 => read!(f64 as f64, NumberKind::Floats),
            Dtype::U8 => read!(u8 as u8, NumberKind::Uint8),
            Dtype::I8 => read!(i8 as f32, NumberKind::Integers),
            Dtype::U16 => read!(u16 as f32, NumberKind::Integers),
            Dtype::I16 => read!(i16 as f32, NumberKind::Integers),
            Dtype::U32 => read!(u32 as f64, NumberKind::Integers),
            Dtype::I32 => read!(i32 as f64, NumberKind::Integers),
            Dtype::U64 => read!(u64 as f64, NumberKind::Integers),
            Dtype::I64 => read!(i64 as f64, NumberKind::Integers),
            other => {
                bail!(
                    "tensor `{name}` has format {other:?}; expected float32, float64, float16, \
                     bfloat16 or integers"
                )
            }
        };
        Ok(ParsedArray {
            values,
            number_kind: numbers,
            are_features: false,
            notes: Vec::new(),
        })
    }
}

/// An array of this shape, kept in the type of its numbers.
///
/// # Errors
/// Fails if the shape has another number of elements.
fn stored<T>(shape: &[usize], values: Vec<T>) -> Result<StoredValues>
where
    StoredValues: From<ArrayD<T>>,
{
    let array = ArrayD::from_shape_vec(IxDyn(shape), values);
    Ok(array.context("its shape does not match its bytes")?.into())
}
