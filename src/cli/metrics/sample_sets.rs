//! The sets of samples of `flowgauge metrics`: they are read, put into one order of axes, and their
//! shapes are compared.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use ndarray::{Array1, Array2, s};
use ndarray_npy::NpzWriter;

use crate::data::{Dataset, FeatureStatistics, LoadedData};
use crate::features::ExtractedFeatures;
use crate::metric::feature_set::FeatureSet;
use crate::metric::frechet;
use crate::num::shape::{self, AxisLayout, AxisLayouts, RequestedLayout, ShapeMismatch};
use crate::num::source::RowSource;

/// The names of the sets, as `--layout` takes them.
pub(super) const SET_NAMES: [&str; 5] = ["generated", "reference", "floor", "train", "test"];

/// Parses the values of `--layout`: one layout for all sets that need it, or `SET=LETTERS` for
/// some. `None` if there are no values.
///
/// # Errors
/// Fails if a layout or the name of a set is wrong.
pub(super) fn parse_layouts(values: &[String]) -> Result<Option<AxisLayouts>> {
    let parsed = |text: &str| text.parse::<AxisLayout>().map_err(|e| anyhow!("--{e}"));
    let each = values.iter().map(|text| match text.split_once('=') {
        Some((set, layout)) => Ok((set.to_owned(), parsed(layout)?)),
        None => bail!(
            "--layout {text}: there are several layouts; expected SET=LETTERS for each, \
             such as reference=NHWC"
        ),
    });
    let layouts = match values {
        [] => return Ok(None),
        [one] if !one.contains('=') => AxisLayouts::All(parsed(one)?),
        _ => AxisLayouts::Each(each.collect::<Result<_>>()?),
    };
    layouts.check(&SET_NAMES).map_err(|e| anyhow!("--{e}"))?;
    Ok(Some(layouts))
}

/// The number of rows that are read at a time when features are written.
const ARCHIVE_BLOCK_ROWS: usize = 1024;

/// The content of a file, before features are extracted.
pub(super) enum SetFile {
    /// Samples, in memory or in their file.
    Data(Dataset),
    /// A mean and a covariance without samples.
    Statistics(FeatureStatistics),
}

impl SetFile {
    /// Opens a file.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub(super) fn open(path: &Path) -> Result<SetFile> {
        Ok(match LoadedData::read(path)? {
            LoadedData::Samples(data) => SetFile::Data(data),
            LoadedData::Statistics(statistics) => SetFile::Statistics(statistics),
        })
    }

    /// The name of the file, as the user wrote it.
    fn name(&self) -> &str {
        match self {
            SetFile::Data(data) => &data.name,
            SetFile::Statistics(statistics) => &statistics.name,
        }
    }

    /// The shape of the array, with samples as the first axis; `None` for statistics.
    fn shape(&self) -> Option<Vec<usize>> {
        match self {
            SetFile::Data(data) => Some(data.values.shape().to_vec()),
            SetFile::Statistics(_) => None,
        }
    }

    /// The array with its axes rearranged from the requested layout to the order of the extractor's
    /// input `port`, or to channels first without a port.
    ///
    /// # Errors
    /// Fails if the layout does not fit the shape.
    pub(super) fn with_layout(
        self,
        requested: Option<RequestedLayout>,
        port: Option<&[i64]>,
    ) -> Result<SetFile> {
        let Some(requested) = requested else {
            return Ok(self);
        };
        Ok(match self {
            SetFile::Data(data)
                if port.is_none_or(|port| requested.applies(data.values.shape(), port)) =>
            {
                SetFile::Data(data.rearranged(requested.layout, port)?)
            }
            other => other,
        })
    }
}

/// The sets with their axes rearranged by `layouts`, so that they can be compared number by number.
///
/// # Errors
/// Fails if the shape of a set does not fit the reference. The message names a layout that would
/// fit, if there is one.
pub(super) fn arrange_comparable_sets<'a>(
    files: Vec<(&'a str, SetFile)>,
    layouts: Option<&AxisLayouts>,
) -> Result<Vec<(&'a str, SetFile)>> {
    let shapes: Vec<Vec<usize>> = files.iter().filter_map(|(_, file)| file.shape()).collect();
    let mut sets = Vec::new();
    for (set, file) in files {
        let requested = match layouts {
            Some(AxisLayouts::All(layout)) => file
                .shape()
                .is_some_and(|s| needs_layout(&s, layout, &shapes))
                .then_some(layout),
            Some(AxisLayouts::Each(each)) => each.get(set),
            None => None,
        };
        sets.push((
            set,
            file.with_layout(requested.map(RequestedLayout::unconditional), None)?,
        ));
    }
    let arrays: Vec<SetShape> = sets
        .iter()
        .filter_map(|(set, file)| SetShape::from_file(set, file))
        .collect();
    let Some(reference) = arrays.iter().find(|a| a.set == "reference") else {
        return Ok(sets);
    };
    if let Some(other) = arrays
        .iter()
        .find(|a| !shape::shapes_comparable(sample_shape(&a.shape), sample_shape(&reference.shape)))
    {
        // The message names the set whose order is unusual: the one that is not channels first.
        let swapped = other.is_channels_first_order_of(reference);
        let (one, against) = if swapped {
            (reference, other)
        } else {
            (other, reference)
        };
        let mut mismatch = ShapeMismatch::for_shape(&one.shape, sample_shape(&against.shape));
        // With --layout the axes are already rearranged, so that another layout would mislead.
        mismatch.layout = mismatch.layout.filter(|_| layouts.is_none());
        let explanation = mismatch.message(&format!("those of {} have", against.name), |l| {
            format!("`--layout {}={l}`", one.set)
        });
        let read = if layouts.is_some() {
            ", read as --layout says,"
        } else {
            ""
        };
        bail!("{}: {}{read} {explanation}", one.name, one.set);
    }
    Ok(sets)
}

/// The name and shape of a set, for messages.
struct SetShape<'a> {
    set: &'a str,
    name: String,
    /// The shape of the array, with samples as the first axis.
    shape: Vec<usize>,
}

impl<'a> SetShape<'a> {
    /// The shape of a file; `None` if the file holds statistics.
    fn from_file(set: &'a str, file: &SetFile) -> Option<SetShape<'a>> {
        Some(SetShape {
            set,
            name: file.name().to_owned(),
            shape: file.shape()?,
        })
    }

    /// Whether the set has the axes of `other` in another order, and its own order is channels
    /// first.
    fn is_channels_first_order_of(&self, other: &SetShape) -> bool {
        let layout = ShapeMismatch::for_shape(&self.shape, sample_shape(&other.shape)).layout;
        layout.is_some_and(|l| {
            l.channels_first(&self.shape).as_deref() == Some(sample_shape(&self.shape))
        })
    }
}

/// Whether `array` must be rearranged by a layout that is given for all sets that need it. This is
/// so if the rearranged shape is the one that all sets have, some of them only after they are
/// rearranged too.
fn needs_layout(array: &[usize], layout: &AxisLayout, all: &[Vec<usize>]) -> bool {
    let read = |array: &[usize]| layout.channels_first(array);
    let Some(mine) = read(array) else {
        return false;
    };
    let common = all.iter().filter_map(|one| read(one)).find(|shape| {
        let fits = |one: &Vec<usize>| {
            read(one).is_some_and(|read| read == *shape)
                || shape::shapes_comparable(sample_shape(one), shape)
        };
        all.iter().all(fits)
    });
    common.is_none_or(|common| common == mine)
}

/// The shape of one sample: the shape of the array without its first axis.
fn sample_shape(array: &[usize]) -> &[usize] {
    array.get(1..).unwrap_or_default()
}

/// One set of samples or features, or only its statistics.
pub(super) struct SampleSet {
    /// The name of the file, as the user wrote it.
    pub(super) name: String,
    contents: SetContents,
    /// Whether the file holds integers.
    pub(super) is_integer: bool,
}

/// The values of a set.
enum SetContents {
    /// Samples or features, and logits of shape (samples, classes) if the extractor has them.
    Samples(Box<dyn RowSource + Send>, Option<Array2<f64>>),
    /// The mean and the covariance only.
    Statistics(Array1<f64>, Array2<f64>),
}

impl SampleSet {
    /// A set of samples whose raw numbers are compared.
    pub(super) fn from_rows(
        name: String,
        rows: Box<dyn RowSource + Send>,
        integer: bool,
    ) -> SampleSet {
        SampleSet {
            name,
            contents: SetContents::Samples(rows, None),
            is_integer: integer,
        }
    }

    /// A set of features, with logits if the extractor has them.
    pub(super) fn from_features(name: String, of: ExtractedFeatures, integer: bool) -> SampleSet {
        SampleSet {
            name,
            contents: SetContents::Samples(Box::new(of.features), of.logits),
            is_integer: integer,
        }
    }

    /// A set of which only the statistics are known.
    pub(super) fn from_statistics(of: FeatureStatistics) -> SampleSet {
        SampleSet {
            name: of.name,
            contents: SetContents::Statistics(of.mean, of.covariance),
            is_integer: false,
        }
    }

    /// The samples, sorted in the order in which statistics sum them.
    ///
    /// # Errors
    /// Fails if only statistics are known, or if a value is not finite.
    pub(super) fn sorted_sample(&self) -> Result<FeatureSet<'_>> {
        let SetContents::Samples(rows, logits) = &self.contents else {
            bail!("{}: it holds statistics, and not samples", self.name);
        };
        let sample = FeatureSet::new(&**rows).map_err(|e| anyhow!("{}: {e}", self.name))?;
        Ok(sample.with_logits(logits.as_ref().map(|l| l.view())))
    }

    /// The number of samples; `None` if only statistics are known.
    pub(super) fn count(&self) -> Option<usize> {
        match &self.contents {
            SetContents::Samples(rows, _) => Some(rows.size().0),
            SetContents::Statistics(..) => None,
        }
    }

    /// Whether the set has class logits.
    pub(super) fn has_logits(&self) -> bool {
        matches!(&self.contents, SetContents::Samples(_, Some(_)))
    }

    /// The number of values per sample, or of features in the statistics.
    pub(super) fn dim(&self) -> usize {
        match &self.contents {
            SetContents::Samples(rows, _) => rows.size().1,
            SetContents::Statistics(mean, _) => mean.len(),
        }
    }

    /// The bytes of an `.npz` archive of the set: its features as an array called `member`, or their
    /// mean, covariance and number without a name.
    ///
    /// # Errors
    /// Fails if samples cannot be read, or if features are wanted of which only statistics are known.
    pub(super) fn archive(&self, member: Option<&str>) -> Result<Vec<u8>> {
        let mut bytes = Cursor::new(Vec::new());
        let mut archive = NpzWriter::new_compressed(&mut bytes);
        match (member, &self.contents) {
            (Some(name), SetContents::Samples(rows, _)) => {
                let (count, width) = rows.size();
                let mut features = Array2::<f32>::zeros((count, width));
                let positions: Vec<usize> = (0..count).collect();
                for part in positions.chunks(ARCHIVE_BLOCK_ROWS) {
                    let block = rows
                        .read_rows(part)
                        .map_err(|e| anyhow!("{}: {e}", self.name))?;
                    let mut target = features.slice_mut(s![part[0]..part[0] + part.len(), ..]);
                    target.assign(&block.mapv(|v| v as f32));
                }
                archive.add_array(name, &features)?;
            }
            (Some(name), SetContents::Statistics(..)) => bail!(
                "--save-reference: {} holds statistics, and no features to write as `{name}`",
                self.name
            ),
            (None, _) => {
                let law = self.gaussian()?;
                archive.add_array("mu", law.mean())?;
                archive.add_array("sigma", &law.covariance())?;
                if let Some(count) = self.count() {
                    archive.add_array("n", &ndarray::arr0(count as i64))?;
                }
            }
        }
        archive.finish()?;
        Ok(bytes.into_inner())
    }

    /// The normal distribution with the mean and covariance of the set.
    ///
    /// # Errors
    /// Fails if samples cannot be read, or if the given matrix is not a covariance.
    pub(super) fn gaussian(&self) -> Result<frechet::GaussianFit> {
        let law = match &self.contents {
            SetContents::Samples(..) => frechet::GaussianFit::fit_all_rows(&self.sorted_sample()?),
            SetContents::Statistics(mean, covariance) => {
                frechet::GaussianFit::from_moments(mean, covariance)
            }
        };
        law.map_err(|e| anyhow!("{}: {e}", self.name))
    }
}
