//! The arrays of one call: read, put into one order of axes, and held against each other as shapes.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use ndarray::{Array1, Array2};

use crate::data::{Dataset, FeatureStatistics, LoadedData, NpyRows};
use crate::features::ExtractedFeatures;
use crate::metric::feature_set::FeatureSet;
use crate::metric::frechet;
use crate::num::shape::{self, AxisLayout, AxisLayouts, RequestedLayout, ShapeMismatch};
use crate::num::source::RowSource;

/// The sets of samples that a call may name, as `--layout` names them.
pub(super) const SET_NAMES: [&str; 5] = ["generated", "reference", "floor", "train", "test"];

/// What `--layout` says: one layout for all sets that need it, or `SET=LETTERS` for some.
pub(super) fn parse_layouts(written: &[String]) -> Result<Option<AxisLayouts>> {
    let parsed = |text: &str| text.parse::<AxisLayout>().map_err(|e| anyhow!("--{e}"));
    let each = written.iter().map(|text| match text.split_once('=') {
        Some((set, layout)) => Ok((set.to_owned(), parsed(layout)?)),
        None => bail!(
            "--layout {text}: it is there with others; expected SET=LETTERS, such as reference=NHWC"
        ),
    });
    let layouts = match written {
        [] => return Ok(None),
        [one] if !one.contains('=') => AxisLayouts::All(parsed(one)?),
        _ => AxisLayouts::Each(each.collect::<Result<_>>()?),
    };
    layouts.check(&SET_NAMES).map_err(|e| anyhow!("--{e}"))?;
    Ok(Some(layouts))
}

/// What a file holds, before features are taken.
pub(super) enum SetFile {
    /// Rows of a large file, which stay there.
    Stored(String, NpyRows),
    Data(Dataset),
    Statistics(FeatureStatistics),
}

impl SetFile {
    /// Reads a file; `whole` where its rows may not stay in it.
    pub(super) fn open(path: &Path, whole: bool) -> Result<SetFile> {
        if !whole && let Some(stored) = NpyRows::open(path)? {
            return Ok(SetFile::Stored(path.display().to_string(), stored));
        }
        Ok(match LoadedData::read(path)? {
            LoadedData::Samples(data) => SetFile::Data(data),
            LoadedData::Statistics(statistics) => SetFile::Statistics(statistics),
        })
    }

    fn name(&self) -> &str {
        match self {
            SetFile::Stored(name, _) => name,
            SetFile::Data(data) => &data.name,
            SetFile::Statistics(statistics) => &statistics.name,
        }
    }

    /// The shape of the array, samples first; none of statistics.
    fn shape(&self) -> Option<Vec<usize>> {
        match self {
            SetFile::Stored(_, stored) => Some([&[stored.shape().0], &stored.shape[..]].concat()),
            SetFile::Data(data) => Some(data.values.shape().to_vec()),
            SetFile::Statistics(_) => None,
        }
    }

    /// As a layout says, in an order that an extractor takes, or channels first.
    pub(super) fn with_layout(
        self,
        said: Option<RequestedLayout>,
        port: Option<&[i64]>,
    ) -> Result<SetFile> {
        let Some(said) = said else { return Ok(self) };
        Ok(match self {
            SetFile::Data(data)
                if port.is_none_or(|port| said.applies(data.values.shape(), port)) =>
            {
                SetFile::Data(data.rearranged(said.layout, port)?)
            }
            other => other,
        })
    }
}

/// The sets in the layouts that were said, refused where two cannot be compared number by number.
pub(super) fn arrange_comparable_sets<'a>(
    files: Vec<(&'a str, SetFile)>,
    layouts: Option<&AxisLayouts>,
) -> Result<Vec<(&'a str, SetFile)>> {
    let shapes: Vec<Vec<usize>> = files.iter().filter_map(|(_, file)| file.shape()).collect();
    let mut sets = Vec::new();
    for (set, file) in files {
        let said = match layouts {
            Some(AxisLayouts::All(layout)) => file
                .shape()
                .is_some_and(|s| needs_layout(&s, layout, &shapes))
                .then_some(layout),
            Some(AxisLayouts::Each(each)) => each.get(set),
            None => None,
        };
        sets.push((
            set,
            file.with_layout(said.map(RequestedLayout::unconditional), None)?,
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
        // Of two orders the unusual one is named.
        let swapped = other.is_channels_first_order_of(reference);
        let (one, against) = if swapped {
            (reference, other)
        } else {
            (other, reference)
        };
        let mut misfit = ShapeMismatch::for_shape(&one.shape, sample_shape(&against.shape));
        // Another layout would be one of what is read already.
        misfit.layout = misfit.layout.filter(|_| layouts.is_none());
        let told = misfit.message(&format!("those of {} have", against.name), |l| {
            format!("`--layout {}={l}`", one.set)
        });
        let read = if layouts.is_some() {
            ", read as --layout says,"
        } else {
            ""
        };
        bail!("{}: {}{read} {told}", one.name, one.set);
    }
    Ok(sets)
}

/// What messages say of a set.
struct SetShape<'a> {
    set: &'a str,
    name: String,
    /// Samples first.
    shape: Vec<usize>,
}

impl<'a> SetShape<'a> {
    fn from_file(set: &'a str, file: &SetFile) -> Option<SetShape<'a>> {
        Some(SetShape {
            set,
            name: file.name().to_owned(),
            shape: file.shape()?,
        })
    }

    /// Whether it has the axes of the other in another order, and that is the usual one: channels first.
    fn is_channels_first_order_of(&self, other: &SetShape) -> bool {
        let layout = ShapeMismatch::for_shape(&self.shape, sample_shape(&other.shape)).layout;
        layout.is_some_and(|l| {
            l.channels_first(&self.shape).as_deref() == Some(sample_shape(&self.shape))
        })
    }
}

/// Whether one of several arrays is meant by a layout that is said of all that need it: there is one shape that all
/// of them have, some of them in that layout.
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

fn sample_shape(array: &[usize]) -> &[usize] {
    array.get(1..).unwrap_or_default()
}

/// One set of samples or of their features, or what is known of one.
pub(super) struct SampleSet {
    /// As the user named it.
    pub(super) name: String,
    contents: SetContents,
    pub(super) is_integer: bool,
}

enum SetContents {
    Samples(Box<dyn RowSource + Send>, Option<Array2<f64>>),
    /// Their mean and their covariance alone.
    Statistics(Array1<f64>, Array2<f64>),
}

impl SampleSet {
    /// The numbers themselves.
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

    /// Features, and logits where there are classes.
    pub(super) fn from_features(name: String, of: ExtractedFeatures, integer: bool) -> SampleSet {
        SampleSet {
            name,
            contents: SetContents::Samples(Box::new(of.features), of.logits),
            is_integer: integer,
        }
    }

    pub(super) fn from_statistics(of: FeatureStatistics) -> SampleSet {
        SampleSet {
            name: of.name,
            contents: SetContents::Statistics(of.mean, of.covariance),
            is_integer: false,
        }
    }

    /// Its samples, in the order that statistics ask for.
    ///
    /// # Errors
    /// Where there are none, or some are not finite.
    pub(super) fn sorted_sample(&self) -> Result<FeatureSet<'_>> {
        let SetContents::Samples(rows, logits) = &self.contents else {
            bail!("{}: it holds statistics, and not samples", self.name);
        };
        let sample = FeatureSet::new(&**rows).map_err(|e| anyhow!("{}: {e}", self.name))?;
        Ok(sample.with_logits(logits.as_ref().map(|l| l.view())))
    }

    /// How many samples; none where only their statistics are known.
    pub(super) fn count(&self) -> Option<usize> {
        match &self.contents {
            SetContents::Samples(rows, _) => Some(rows.shape().0),
            SetContents::Statistics(..) => None,
        }
    }

    pub(super) fn has_logits(&self) -> bool {
        matches!(&self.contents, SetContents::Samples(_, Some(_)))
    }

    /// Numbers of one sample, or features behind the statistics.
    pub(super) fn dim(&self) -> usize {
        match &self.contents {
            SetContents::Samples(rows, _) => rows.shape().1,
            SetContents::Statistics(mean, _) => mean.len(),
        }
    }

    /// The normal law of the samples.
    ///
    /// # Errors
    /// Where samples cannot be read, or what is given as a covariance is none.
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
