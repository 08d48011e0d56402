//! Files that hold several arrays, .npz and .safetensors: which of them the samples are, and files of statistics.

use std::io::{Cursor, Read};

use anyhow::{Context, Result, anyhow, bail};
use ndarray::{Array1, ArrayD, Ix2, IxDyn};
use safetensors::{Dtype, SafeTensors};

use super::{Array, Content, Numbers};
use crate::num::npy;

/// A bound on what a few bytes may unpack to.
const UNPACKED: u64 = 1 << 32;

/// Bytes of an array's file in which its header lies.
const HEADER: u64 = 1 << 16;

/// Names under which programs keep a mean and a covariance: pytorch-fid, clean-fid and EDM the first alone, ADM the
/// second beside it, of features that keep their place in the image.
const STATISTICS: [(&str, &str); 2] = [("mu", "sigma"), ("mu_s", "sigma_s")];

/// One array of a file, before it is read.
pub(super) struct Member {
    name: String,
    shape: Vec<usize>,
    integer: bool,
}

/// What a file of arrays holds; `wanted` names one of them.
pub(super) fn content(mut archive: impl Arrays, wanted: Option<&str>) -> Result<Content> {
    let members = archive.members()?;
    if members.is_empty() {
        bail!("it holds no array");
    }
    let pair = |mean: &str| {
        STATISTICS
            .iter()
            .find(|(mu, _)| *mu == mean)
            .filter(|(mu, sigma)| is_law(&members, mu, sigma))
    };
    if let Some(name) = wanted {
        if !members.iter().any(|m| m.name == name) {
            bail!("it holds no array `{name}`; it has {}", listed(&members));
        }
        return match pair(name) {
            Some((mu, sigma)) => law(&mut archive, mu, sigma),
            None => Ok(Content::Samples(archive.array(name)?)),
        };
    }
    let laws: Vec<&(&str, &str)> = STATISTICS
        .iter()
        .filter(|(mu, sigma)| is_law(&members, mu, sigma))
        .collect();
    let of_law = |m: &&Member| {
        laws.iter()
            .any(|(mu, sigma)| m.name == *mu || m.name == *sigma)
    };
    let (statistics, others): (Vec<&Member>, Vec<&Member>) = members.iter().partition(of_law);
    let Some((first, labels)) = others.split_first() else {
        return law(&mut archive, laws[0].0, laws[0].1);
    };
    if labels.is_empty() && statistics.is_empty() {
        return Ok(Content::Samples(archive.array(&first.name)?));
    }
    let of_each = |m: &&Member| {
        m.integer && (m.shape[..] == first.shape[..1] || m.shape == [first.shape[0], 1])
    };
    if first.shape.len() < 2 || !labels.iter().all(of_each) {
        let largest = members
            .iter()
            .max_by_key(|m| m.shape.iter().product::<usize>())
            .unwrap_or(first);
        bail!(
            "it holds several arrays: {}; name one, as FILE:{}",
            listed(&members),
            largest.name
        );
    }
    let mut array = archive.array(&first.name)?;
    let names = |members: &[&Member]| {
        members
            .iter()
            .map(|m| format!("`{}`", m.name))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut note = format!("the samples are its array `{}`", first.name);
    if !labels.is_empty() {
        note += &format!("; {} are labels and not used", names(labels));
    }
    if !statistics.is_empty() {
        note += &format!(
            "; {} are statistics and not used, FILE:{} is them",
            names(&statistics),
            laws[0].0
        );
    }
    array.notes.push(note);
    Ok(Content::Samples(array))
}

/// Whether two arrays have the shapes of a mean and a covariance.
fn is_law(members: &[Member], mu: &str, sigma: &str) -> bool {
    let shape = |name: &str| {
        members
            .iter()
            .find(|m| m.name == name)
            .map(|m| &m.shape[..])
    };
    matches!((shape(mu), shape(sigma)), (Some([d] | [1, d]), Some([a, b])) if a == d && b == d)
}

fn law(archive: &mut impl Arrays, mu: &str, sigma: &str) -> Result<Content> {
    let (mean, covariance) = (archive.array(mu)?.values, archive.array(sigma)?.values);
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
        bail!("its `{sigma}` is not symmetric: it is no covariance");
    }
    let note = format!(
        "its arrays `{mu}` and `{sigma}` are the mean and the covariance of {} features",
        mean.len()
    );
    Ok(Content::Statistics {
        mean,
        covariance,
        note,
    })
}

fn listed(members: &[Member]) -> String {
    members
        .iter()
        .map(|m| format!("{} {:?}", m.name, m.shape))
        .collect::<Vec<_>>()
        .join(", ")
}

/// What is asked of a file of arrays.
pub(super) trait Arrays {
    fn members(&mut self) -> Result<Vec<Member>>;

    fn array(&mut self, name: &str) -> Result<Array>;
}

/// A .npz archive, its arrays in the order in which they lie there.
pub(super) struct Npz<'a>(zip::ZipArchive<Cursor<&'a [u8]>>);

impl<'a> Npz<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Npz<'a>> {
        Ok(Npz(
            zip::ZipArchive::new(Cursor::new(bytes)).context("it is no .npz archive")?
        ))
    }

    fn bytes(&mut self, place: usize, most: u64) -> Result<Vec<u8>> {
        let mut plain = Vec::new();
        self.0
            .by_index(place)?
            .take(most)
            .read_to_end(&mut plain)
            .context("its member cannot be unpacked")?;
        Ok(plain)
    }
}

fn bare(name: &str) -> &str {
    name.strip_suffix(".npy").unwrap_or(name)
}

impl Arrays for Npz<'_> {
    fn members(&mut self) -> Result<Vec<Member>> {
        (0..self.0.len())
            .map(|place| {
                let name = bare(self.0.by_index_raw(place)?.name()).to_owned();
                let (format, shape) =
                    npy::described(&self.bytes(place, HEADER)?).with_context(|| name.clone())?;
                Ok(Member {
                    name,
                    shape,
                    integer: format.starts_with(['i', 'u']),
                })
            })
            .collect()
    }

    fn array(&mut self, name: &str) -> Result<Array> {
        let at = (0..self.0.len()).find(|i| {
            self.0
                .by_index_raw(*i)
                .is_ok_and(|f| bare(f.name()) == name)
        });
        let place = at.ok_or_else(|| anyhow!("it holds no array `{name}`"))?;
        super::npy(&self.bytes(place, UNPACKED)?).with_context(|| name.to_owned())
    }
}

/// A .safetensors file, its tensors in the order of their names.
pub(super) struct Tensors<'a>(SafeTensors<'a>);

impl<'a> Tensors<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Tensors<'a>> {
        Ok(Tensors(
            SafeTensors::deserialize(bytes)
                .map_err(|e| anyhow!("it is no .safetensors file: {e}"))?,
        ))
    }
}

impl Arrays for Tensors<'_> {
    fn members(&mut self) -> Result<Vec<Member>> {
        let mut members: Vec<Member> = (self.0.iter())
            .map(|(name, tensor)| Member {
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

    fn array(&mut self, name: &str) -> Result<Array> {
        let tensor = self
            .0
            .tensor(name)
            .map_err(|_| anyhow!("it holds no array `{name}`"))?;
        let data = tensor.data();
        macro_rules! read {
            ($ty:ty, $numbers:expr) => {{
                let width = size_of::<$ty>();
                let value = |b: &[u8]| {
                    <$ty>::from_le_bytes(b.try_into().expect("chunks of the number's width")) as f64
                };
                (
                    data.chunks_exact(width).map(value).collect::<Vec<f64>>(),
                    $numbers,
                )
            }};
        }
        let (values, numbers) = match tensor.dtype() {
            Dtype::F16 => (
                halves(data, |bits| half::f16::from_bits(bits).to_f64()),
                Numbers::Reals,
            ),
            Dtype::BF16 => (
                halves(data, |bits| half::bf16::from_bits(bits).to_f64()),
                Numbers::Reals,
            ),
            Dtype::F32 => read!(f32, Numbers::Reals),
            Dtype::F64 => read!(f64, Numbers::Reals),
            Dtype::U8 => read!(u8, Numbers::Bytes),
            Dtype::I8 => read!(i8, Numbers::Integers),
            Dtype::U16 => read!(u16, Numbers::Integers),
            Dtype::I16 => read!(i16, Numbers::Integers),
            Dtype::U32 => read!(u32, Numbers::Integers),
            Dtype::I32 => read!(i32, Numbers::Integers),
            Dtype::U64 => read!(u64, Numbers::Integers),
            Dtype::I64 => read!(i64, Numbers::Integers),
            other => {
                bail!(
                    "tensor `{name}` has format {other:?}; expected float32, float64, float16, bfloat16 or integers"
                )
            }
        };
        let values = ArrayD::from_shape_vec(IxDyn(tensor.shape()), values)
            .context("its shape does not match its bytes")?;
        Ok(Array {
            values,
            numbers,
            notes: Vec::new(),
        })
    }
}

/// Numbers of 16 bits, the lower byte first.
fn halves(data: &[u8], of: impl Fn(u16) -> f64) -> Vec<f64> {
    data.chunks_exact(2)
        .map(|b| of(u16::from_le_bytes([b[0], b[1]])))
        .collect()
}
