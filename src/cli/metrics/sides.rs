//! The arrays of one call: read, put into one order of axes, and held against each other as shapes.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use ndarray::{Array1, Array2};

use crate::data::{Dataset, Held, Statistics, Stored};
use crate::features::Extracted;
use crate::metric::frechet;
use crate::metric::sample::Sample;
use crate::num::shape::{self, Layout, Layouts, Misfit, Said};
use crate::num::source::Source;

/// The sets of samples that a call may name, as `--layout` names them.
pub(super) const SETS: [&str; 5] = ["generated", "reference", "floor", "train", "test"];

/// What `--layout` says: one layout for all sets that need it, or `SET=LETTERS` for some.
pub(super) fn layouts(written: &[String]) -> Result<Option<Layouts>> {
    let parsed = |text: &str| text.parse::<Layout>().map_err(|e| anyhow!("--{e}"));
    let each = written.iter().map(|text| match text.split_once('=') {
        Some((set, layout)) => Ok((set.to_owned(), parsed(layout)?)),
        None => bail!(
            "--layout {text}: it is there with others; expected SET=LETTERS, such as reference=NHWC"
        ),
    });
    let layouts = match written {
        [] => return Ok(None),
        [one] if !one.contains('=') => Layouts::All(parsed(one)?),
        _ => Layouts::Each(each.collect::<Result<_>>()?),
    };
    layouts.check(&SETS).map_err(|e| anyhow!("--{e}"))?;
    Ok(Some(layouts))
}

/// What a file holds, before features are taken.
pub(super) enum File {
    /// Rows of a large file, which stay there.
    Stored(String, Stored),
    Data(Dataset),
    Statistics(Statistics),
}

impl File {
    /// Reads a file; `whole` where its rows may not stay in it.
    pub(super) fn open(path: &Path, whole: bool) -> Result<File> {
        if !whole && let Some(stored) = Stored::open(path)? {
            return Ok(File::Stored(path.display().to_string(), stored));
        }
        Ok(match Held::read(path)? {
            Held::Samples(data) => File::Data(data),
            Held::Statistics(statistics) => File::Statistics(statistics),
        })
    }

    fn name(&self) -> &str {
        match self {
            File::Stored(name, _) => name,
            File::Data(data) => &data.name,
            File::Statistics(statistics) => &statistics.name,
        }
    }

    /// The shape of the array, samples first; none of statistics.
    fn shape(&self) -> Option<Vec<usize>> {
        match self {
            File::Stored(_, stored) => Some([&[stored.shape().0], &stored.shape[..]].concat()),
            File::Data(data) => Some(data.values.shape().to_vec()),
            File::Statistics(_) => None,
        }
    }

    /// As a layout says, in an order that an extractor takes, or channels first.
    pub(super) fn laid_out(self, said: Option<Said>, port: Option<&[i64]>) -> Result<File> {
        let Some(said) = said else { return Ok(self) };
        Ok(match self {
            File::Data(data) if port.is_none_or(|port| said.applies(data.values.shape(), port)) => {
                File::Data(data.arranged(said.layout, port)?)
            }
            other => other,
        })
    }
}

/// The sets in the layouts that were said, refused where two cannot be compared number by number.
pub(super) fn comparable<'a>(
    files: Vec<(&'a str, File)>,
    layouts: Option<&Layouts>,
) -> Result<Vec<(&'a str, File)>> {
    let shapes: Vec<Vec<usize>> = files.iter().filter_map(|(_, file)| file.shape()).collect();
    let mut sets = Vec::new();
    for (set, file) in files {
        let said = match layouts {
            Some(Layouts::All(layout)) => file
                .shape()
                .is_some_and(|s| needs(&s, layout, &shapes))
                .then_some(layout),
            Some(Layouts::Each(each)) => each.get(set),
            None => None,
        };
        sets.push((set, file.laid_out(said.map(Said::always), None)?));
    }
    let arrays: Vec<Array> = sets
        .iter()
        .filter_map(|(set, file)| Array::of(set, file))
        .collect();
    let Some(reference) = arrays.iter().find(|a| a.set == "reference") else {
        return Ok(sets);
    };
    if let Some(other) = arrays
        .iter()
        .find(|a| !shape::agree(sample(&a.shape), sample(&reference.shape)))
    {
        // Of two orders the unusual one is named.
        let swapped = other.is_channels_first_of(reference);
        let (one, against) = if swapped {
            (reference, other)
        } else {
            (other, reference)
        };
        let mut misfit = Misfit::of(&one.shape, sample(&against.shape));
        // Another layout would be one of what is read already.
        misfit.layout = misfit.layout.filter(|_| layouts.is_none());
        let told = misfit.told(&format!("those of {} have", against.name), |l| {
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
struct Array<'a> {
    set: &'a str,
    name: String,
    /// Samples first.
    shape: Vec<usize>,
}

impl<'a> Array<'a> {
    fn of(set: &'a str, file: &File) -> Option<Array<'a>> {
        Some(Array {
            set,
            name: file.name().to_owned(),
            shape: file.shape()?,
        })
    }

    /// Whether it has the axes of the other in another order, and that is the usual one: channels first.
    fn is_channels_first_of(&self, other: &Array) -> bool {
        let layout = Misfit::of(&self.shape, sample(&other.shape)).layout;
        layout
            .is_some_and(|l| l.channels_first(&self.shape).as_deref() == Some(sample(&self.shape)))
    }
}

/// Whether one of several arrays is meant by a layout that is said of all that need it: there is one shape that all
/// of them have, some of them in that layout.
fn needs(array: &[usize], layout: &Layout, all: &[Vec<usize>]) -> bool {
    let read = |array: &[usize]| layout.channels_first(array);
    let Some(mine) = read(array) else {
        return false;
    };
    let common = all.iter().filter_map(|one| read(one)).find(|shape| {
        let fits = |one: &Vec<usize>| {
            read(one).is_some_and(|read| read == *shape) || shape::agree(sample(one), shape)
        };
        all.iter().all(fits)
    });
    common.is_none_or(|common| common == mine)
}

fn sample(array: &[usize]) -> &[usize] {
    array.get(1..).unwrap_or_default()
}

/// One set of samples or of their features, or what is known of one.
pub(super) struct Side {
    /// As the user named it.
    pub(super) name: String,
    numbers: Numbers,
    pub(super) integer: bool,
}

enum Numbers {
    Samples(Box<dyn Source + Send>, Option<Array2<f64>>),
    /// Their mean and their covariance alone.
    Law(Array1<f64>, Array2<f64>),
}

impl Side {
    /// The numbers themselves.
    pub(super) fn plain(name: String, rows: Box<dyn Source + Send>, integer: bool) -> Side {
        Side {
            name,
            numbers: Numbers::Samples(rows, None),
            integer,
        }
    }

    /// Features, and logits where there are classes.
    pub(super) fn features(name: String, of: Extracted, integer: bool) -> Side {
        Side {
            name,
            numbers: Numbers::Samples(Box::new(of.features), of.logits),
            integer,
        }
    }

    pub(super) fn statistics(of: Statistics) -> Side {
        Side {
            name: of.name,
            numbers: Numbers::Law(of.mean, of.covariance),
            integer: false,
        }
    }

    /// Its samples, in the order that statistics ask for.
    ///
    /// # Errors
    /// Where there are none, or some are not finite.
    pub(super) fn sample(&self) -> Result<Sample<'_>> {
        let Numbers::Samples(rows, logits) = &self.numbers else {
            bail!("{}: it holds statistics, and not samples", self.name);
        };
        let sample = Sample::new(&**rows).map_err(|e| anyhow!("{}: {e}", self.name))?;
        Ok(sample.with_logits(logits.as_ref().map(|l| l.view())))
    }

    /// How many samples; none where only their statistics are known.
    pub(super) fn count(&self) -> Option<usize> {
        match &self.numbers {
            Numbers::Samples(rows, _) => Some(rows.shape().0),
            Numbers::Law(..) => None,
        }
    }

    pub(super) fn classifies(&self) -> bool {
        matches!(&self.numbers, Numbers::Samples(_, Some(_)))
    }

    /// Numbers of one sample, or features behind the statistics.
    pub(super) fn width(&self) -> usize {
        match &self.numbers {
            Numbers::Samples(rows, _) => rows.shape().1,
            Numbers::Law(mean, _) => mean.len(),
        }
    }

    /// The normal law of the samples.
    ///
    /// # Errors
    /// Where samples cannot be read, or what is given as a covariance is none.
    pub(super) fn law(&self) -> Result<frechet::Side> {
        let law = match &self.numbers {
            Numbers::Samples(..) => frechet::Side::whole(&self.sample()?),
            Numbers::Law(mean, covariance) => frechet::Side::given(mean, covariance),
        };
        law.map_err(|e| anyhow!("{}: {e}", self.name))
    }
}
