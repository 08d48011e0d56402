//! Shapes of samples: the one rule of which shapes fit together, and names for orders of axes.
//!
//! Samples fit a shape if they are equal to it, flat, or equal up to axes of length 1. If only the
//! products of the sizes agree, the order of the numbers is unknown, so such samples are refused.
//! If a permutation of the axes would fit, the message names it, and an [`AxisLayout`] applies it.
//! If flat samples are wanted, samples with two axes are read row by row, and samples with more
//! axes need a layout.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ndarray::{ArrayD, IxDyn};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether samples of the shape `found` fit the shape `wanted`.
pub fn fits(found: &[usize], wanted: &[usize]) -> bool {
    let count = |shape: &[usize]| shape.iter().product::<usize>();
    let flat = squeezed(found) == [count(wanted)];
    squeezed(found) == squeezed(wanted)
        || flat
        || (flattens_by_rows(found, wanted) && count(found) == count(wanted))
}

/// Whether samples have two axes and flat samples are wanted. Such samples are read row by row.
pub fn flattens_by_rows(found: &[usize], wanted: &[usize]) -> bool {
    squeezed(found).len() == 2 && squeezed(wanted).len() <= 1
}

/// Whether samples of two shapes can be compared number by number, because one shape fits the
/// other.
pub fn shapes_comparable(a: &[usize], b: &[usize]) -> bool {
    fits(a, b) || fits(b, a)
}

/// The shape that samples of the shape `found` take at a graph's input. `None` if they do not fit.
///
/// A negative size in `port` is dynamic: it matches any size.
pub fn shape_at_port(found: &[usize], port: &[i64]) -> Option<Vec<usize>> {
    let fixed: Option<Vec<usize>> = port.iter().map(|s| usize::try_from(*s).ok()).collect();
    match fixed {
        Some(fixed) => fits(found, &fixed).then_some(fixed),
        None if port.len() == 1 && squeezed(found).len() == 2 => Some(vec![found.iter().product()]),
        None => align_axes(found, port).or_else(|| align_axes(&squeezed(found), port)),
    }
}

/// A fixed shape as the sizes of a graph's input.
pub fn port_sizes(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|n| *n as i64).collect()
}

/// Matches the axes one by one. Either side may have axes of length 1 that the other lacks.
fn align_axes(found: &[usize], port: &[i64]) -> Option<Vec<usize>> {
    let same = |found: usize, size: i64| size < 0 || size as usize == found;
    if found.len() == port.len() {
        return found
            .iter()
            .zip(port)
            .all(|(f, p)| same(*f, *p))
            .then(|| found.to_vec());
    }
    match (found.split_first(), port.split_first()) {
        (Some((1, rest)), _) if found.len() > port.len() => align_axes(rest, port),
        (_, Some((size, rest))) if found.len() < port.len() && same(1, *size) => {
            align_axes(found, rest).map(|taken| [&[1], &taken[..]].concat())
        }
        (Some((first, found)), Some((size, port))) if same(*first, *size) => {
            align_axes(found, port).map(|taken| [&[*first], &taken[..]].concat())
        }
        _ => None,
    }
}

/// The shape without its axes of length 1.
fn squeezed(shape: &[usize]) -> Vec<usize> {
    shape.iter().copied().filter(|n| *n != 1).collect()
}

/// Why samples do not fit a shape, for a message.
#[derive(Debug, Clone, PartialEq)]
pub struct ShapeMismatch {
    /// The shape of one sample.
    pub found: Vec<usize>,
    /// The wanted shape. A negative size matches any size.
    pub wanted: Vec<i64>,
    /// The order of the array's axes with which the samples would fit, if there is one.
    pub layout: Option<AxisLayout>,
}

impl ShapeMismatch {
    /// The mismatch between an array with the samples along its first axis and the wanted shape of
    /// one sample.
    pub fn for_shape(array: &[usize], wanted: &[usize]) -> ShapeMismatch {
        ShapeMismatch::for_port(array, &port_sizes(wanted))
    }

    /// The mismatch between an array with the samples along its first axis and the sizes of a
    /// graph's input.
    pub fn for_port(array: &[usize], port: &[i64]) -> ShapeMismatch {
        let found = array.get(1..).unwrap_or_default().to_vec();
        ShapeMismatch {
            found,
            wanted: port.to_vec(),
            layout: AxisLayout::find_fitting(array, port),
        }
    }

    /// The message for users.
    ///
    /// `whose` names what wants the shape, such as "the card `a` has shape". `remedy` says how a
    /// user gives a layout for this array.
    pub fn message(&self, whose: &str, remedy: impl Fn(&AxisLayout) -> String) -> String {
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        let fixed: Option<Vec<usize>> = self
            .wanted
            .iter()
            .map(|n| usize::try_from(*n).ok())
            .collect();
        let sizes: Vec<String> = self
            .wanted
            .iter()
            .map(|n| {
                if *n < 0 {
                    "any".to_owned()
                } else {
                    n.to_string()
                }
            })
            .collect();
        let facts = format!(
            "samples have shape {:?}, but {whose} [{}]",
            self.found,
            sizes.join(", ")
        );
        match (&self.layout, fixed) {
            (Some(layout), _) => format!(
                "{facts}: {}; {} reads the axes in this order",
                layout.description(),
                remedy(layout)
            ),
            (None, Some(wanted)) if squeezed(&wanted) == [count(&self.found)] => {
                let example = axis_letters(&port_sizes(&self.found))
                    .map(|l| AxisLayout([&['N'], &l[..]].concat()));
                let example = example.map_or(String::new(), |layout| {
                    format!(", such as {}", remedy(&layout))
                });
                format!(
                    "{facts}: as many numbers, but a flat shape has no axes; give the order of the \
                     array's axes{example}, or give a flat array"
                )
            }
            (None, Some(wanted)) if count(&wanted) == count(&self.found) => format!(
                "{facts}: as many numbers, but nothing says in which order; give the samples in \
                 that shape, or flat in the order of that shape as [N, {}]",
                count(&wanted)
            ),
            (None, Some(wanted)) => {
                format!(
                    "{facts}: {} numbers each instead of {}",
                    count(&self.found),
                    count(&wanted)
                )
            }
            (None, None) => format!("{facts} ({} numbers each)", count(&self.found)),
        }
    }
}

/// How a user gives a layout for a single array, on the command line and in a config.
pub fn layout_option_hint(layout: &AxisLayout) -> String {
    format!("`--layout {layout}` (config `layout: {layout}`)")
}

/// The order of an array's axes, with one letter for each axis, such as `NHWC`.
///
/// N stands for the samples, C for channels, T for time, D for depth, H for height (rows), W for
/// width (columns) and L for length. The axes are put into the order N C T D H W L, or N T D H W C
/// if only that order fits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct AxisLayout(Vec<char>);

/// The axes of a sample in their usual order, channels first.
const CANONICAL_AXES: &str = "CTDHWL";

impl FromStr for AxisLayout {
    type Err = String;

    fn from_str(text: &str) -> Result<AxisLayout, String> {
        let letters: Vec<char> = text.to_uppercase().chars().collect();
        let known = |c: &char| *c == 'N' || CANONICAL_AXES.contains(*c);
        let twice = (1..letters.len()).any(|i| letters[..i].contains(&letters[i]));
        if !letters.contains(&'N') || letters.len() < 2 || !letters.iter().all(known) || twice {
            return Err(format!(
                "layout {text:?}: expected one letter for each axis, such as NHWC: N for the \
                 samples, and C, T, D, H, W or L for the others, each at most once"
            ));
        }
        Ok(AxisLayout(letters))
    }
}

impl TryFrom<String> for AxisLayout {
    type Error = String;

    fn try_from(text: String) -> Result<AxisLayout, String> {
        text.parse()
    }
}

impl From<AxisLayout> for String {
    fn from(layout: AxisLayout) -> String {
        layout.to_string()
    }
}

impl fmt::Display for AxisLayout {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|c| write!(f, "{c}"))
    }
}

impl AxisLayout {
    /// Moves the samples to the first axis and puts the axes of a sample into an order that fits
    /// `wanted`.
    ///
    /// `wanted` is a fixed shape or the sizes of a graph's input. Without it the channels come
    /// first. If flat samples are wanted, they come out flat.
    ///
    /// # Errors
    /// Fails if the array has other axes than the layout, or if no order of them fits.
    pub fn rearrange(
        &self,
        values: ArrayD<f64>,
        wanted: Option<&[i64]>,
    ) -> Result<ArrayD<f64>, String> {
        let array = values.shape().to_vec();
        let first = self.channels_first(&array).ok_or_else(|| {
            format!(
                "the layout {self} has {} axes, but the array's shape is {array:?}",
                self.0.len()
            )
        })?;
        let Some((order, shape)) = self.fitting_order(&array, wanted) else {
            return Err(format!(
                "in the layout {self} samples have shape {first:?}, expected {:?}",
                wanted.unwrap_or_default()
            ));
        };
        let values = values
            .permuted_axes(IxDyn(&order))
            .as_standard_layout()
            .into_owned();
        let full = [&array[order[0]..=order[0]], &shape[..]].concat();
        values
            .into_shape_with_order(IxDyn(&full))
            .map_err(|e| e.to_string())
    }

    /// Whether [`AxisLayout::rearrange`] succeeds for an array of this shape.
    pub fn can_rearrange(&self, array: &[usize], wanted: &[i64]) -> bool {
        self.fitting_order(array, Some(wanted)).is_some()
    }

    /// The shape of one sample with channels first. `None` if the array has another number of axes.
    pub fn channels_first(&self, array: &[usize]) -> Option<Vec<usize>> {
        (array.len() == self.0.len()).then(|| {
            self.axis_order(true)[1..]
                .iter()
                .map(|a| array[*a])
                .collect()
        })
    }

    /// The order of the axes that fits, and the shape that samples then have.
    fn fitting_order(
        &self,
        array: &[usize],
        wanted: Option<&[i64]>,
    ) -> Option<(Vec<usize>, Vec<usize>)> {
        let first = self.channels_first(array)?;
        let Some(wanted) = wanted else {
            return Some((self.axis_order(true), first));
        };
        let count = first.iter().product::<usize>();
        // The layout gives the order of the numbers, so samples of any shape can be made flat.
        let flat: Vec<i64> = wanted.iter().copied().filter(|n| *n != 1).collect();
        if flat == [count as i64] || flat == [-1] {
            return Some((self.axis_order(true), vec![count]));
        }
        let last = axis_letters(wanted).is_some_and(|l| l.ends_with(&['C']))
            || self.channels_are_shortest(array);
        [true, false]
            .into_iter()
            .filter(|first| *first || last)
            .find_map(|channels_first| {
                let order = self.axis_order(channels_first);
                let shape: Vec<usize> = order[1..].iter().map(|a| array[*a]).collect();
                shape_at_port(&shape, wanted)
                    .is_some()
                    .then_some((order, shape))
            })
    }

    /// Whether the channel axis is shorter than every other axis of a sample.
    fn channels_are_shortest(&self, array: &[usize]) -> bool {
        let size = |c: char| self.0.iter().position(|l| *l == c).map(|a| array[a]);
        size('C').is_some_and(|channels| {
            self.0
                .iter()
                .zip(array)
                .filter(|(l, _)| !['N', 'C'].contains(l))
                .all(|(_, n)| channels < *n)
        })
    }

    /// The positions of the axes in the array: first the samples, then the axes of a sample with
    /// channels first or last.
    fn axis_order(&self, channels_first: bool) -> Vec<usize> {
        let rank = |c: char| match c {
            'N' => 0,
            'C' if !channels_first => CANONICAL_AXES.len() + 1,
            c => 1 + CANONICAL_AXES.find(c).unwrap_or_default(),
        };
        let mut order: Vec<usize> = (0..self.0.len()).collect();
        order.sort_by_key(|a| rank(self.0[*a]));
        order
    }

    /// The layout with which an array would fit, if it does not fit with the samples along its
    /// first axis.
    fn find_fitting(array: &[usize], wanted: &[i64]) -> Option<AxisLayout> {
        let letters = axis_letters(wanted)?;
        // The samples may lie along any axis. The first axis is tried first.
        (0..array.len()).find_map(|samples| {
            let mut free: Vec<usize> = (0..array.len()).filter(|a| *a != samples).collect();
            let mut named = vec![' '; array.len()];
            named[samples] = 'N';
            if free.len() != wanted.len() {
                return None;
            }
            // Fixed sizes identify axes, and dynamic sizes take the axes that are left.
            let mut places: Vec<usize> = (0..wanted.len()).collect();
            places.sort_by_key(|i| wanted[*i] < 0);
            for place in places {
                let at = free
                    .iter()
                    .position(|a| wanted[place] < 0 || array[*a] as i64 == wanted[place])?;
                named[free.remove(at)] = letters[place];
            }
            let layout = AxisLayout(named);
            (layout.axis_order(true) != (0..array.len()).collect::<Vec<_>>()
                || letters.last() == Some(&'C'))
            .then_some(layout)
        })
    }

    /// The order in words, such as "channels last".
    pub fn description(&self) -> String {
        let of_sample: String = self.0.iter().filter(|c| **c != 'N').collect();
        match () {
            () if self.0[0] != 'N' => "the samples are not along the first axis".to_owned(),
            () if of_sample.len() > 2 && of_sample.ends_with('C') => "channels last".to_owned(),
            () if of_sample.len() > 2 && of_sample.starts_with('C') => "channels first".to_owned(),
            () => format!("the axes are in the order {self}"),
        }
    }
}

/// The layouts of several arrays, as `layout:` and `--layout` give them: one for all arrays that
/// need it, or one for each array by its key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a layout such as NHWC, or one for each array, such as {reference: NHWC}"
)]
pub enum AxisLayouts {
    /// One layout for all arrays that do not fit without it.
    All(AxisLayout),
    /// A layout for each array that is named by its key.
    Each(BTreeMap<String, AxisLayout>),
}

impl AxisLayouts {
    /// The layout that was given for the array with this key.
    pub fn for_array(&self, key: &str) -> Option<RequestedLayout<'_>> {
        match self {
            AxisLayouts::All(layout) => Some(RequestedLayout {
                layout,
                unconditional: false,
            }),
            AxisLayouts::Each(each) => each.get(key).map(RequestedLayout::unconditional),
        }
    }

    /// Checks that every key names an array.
    ///
    /// # Errors
    /// Fails if a key names no array. The message lists the valid keys.
    pub fn check(&self, keys: &[&str]) -> Result<(), String> {
        let AxisLayouts::Each(each) = self else {
            return Ok(());
        };
        match each.keys().find(|key| !keys.contains(&key.as_str())) {
            Some(key) => Err(format!(
                "layout: `{key}` is not an array here; expected one of {}",
                keys.join(", ")
            )),
            None => Ok(()),
        }
    }
}

/// A layout that a user gave for an array.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestedLayout<'a> {
    /// The order of the array's axes.
    pub layout: &'a AxisLayout,
    /// Whether the layout was given for this array alone. A layout for several arrays does not
    /// apply to arrays that fit without it.
    unconditional: bool,
}

impl RequestedLayout<'_> {
    /// A layout that was given for this array alone.
    pub fn unconditional(layout: &AxisLayout) -> RequestedLayout<'_> {
        RequestedLayout {
            layout,
            unconditional: true,
        }
    }

    /// Whether an array with the samples along its first axis is read in this layout if samples of
    /// the shape `wanted` are needed.
    pub fn applies(&self, array: &[usize], wanted: &[i64]) -> bool {
        self.unconditional
            || self.layout.can_rearrange(array, wanted)
            || shape_at_port(array.get(1..).unwrap_or_default(), wanted).is_none()
    }
}

/// The letters for the axes of a wanted shape. `None` if there are too many axes.
fn axis_letters(wanted: &[i64]) -> Option<Vec<char>> {
    let few = |n: Option<&i64>| n.is_some_and(|n| (1..=4).contains(n));
    let last = few(wanted.last()) && !few(wanted.first());
    let letters = match (wanted.len(), last) {
        (1, _) => "C",
        (2, _) => "HW",
        (3, false) => "CHW",
        (3, true) => "HWC",
        (4, false) => "CDHW",
        (4, true) => "DHWC",
        _ => return None,
    };
    Some(letters.chars().collect())
}

#[cfg(test)]
mod tests {
    use ndarray::Dimension;

    use super::*;

    #[test]
    fn equal_flat_and_unit_axis_shapes_fit() {
        for found in [
            &[3, 8, 8][..],
            &[192],
            &[1, 3, 8, 8],
            &[3, 1, 8, 8, 1],
            &[192, 1],
        ] {
            assert!(fits(found, &[3, 8, 8]), "{found:?}");
            assert_eq!(shape_at_port(found, &[3, 8, 8]), Some(vec![3, 8, 8]));
        }
        for found in [
            &[8, 8, 3][..],
            &[3, 64],
            &[12, 16],
            &[24, 8],
            &[191],
            &[3, 8, 9],
            &[],
        ] {
            assert!(
                !fits(found, &[3, 8, 8]) && shape_at_port(found, &[3, 8, 8]).is_none(),
                "{found:?}"
            );
        }
        assert!(fits(&[28, 28], &[1, 28, 28]) && fits(&[], &[1]) && fits(&[1, 1], &[1]));
        assert!(
            fits(&[8, 8], &[64])
                && fits(&[1, 8, 8], &[64])
                && !fits(&[8, 8], &[63])
                && !fits(&[4, 4, 4], &[64])
        );
        assert!(
            shapes_comparable(&[3, 8, 8], &[192])
                && shapes_comparable(&[192], &[3, 8, 8])
                && !shapes_comparable(&[8, 8], &[4, 16])
        );
    }

    #[test]
    fn shape_at_port_respects_fixed_sizes() {
        let any = -1;
        assert_eq!(
            shape_at_port(&[3, 8, 9], &[3, any, any]),
            Some(vec![3, 8, 9])
        );
        assert_eq!(shape_at_port(&[8, 9], &[1, any, any]), Some(vec![1, 8, 9]));
        assert_eq!(shape_at_port(&[1, 28, 28], &[any, any]), Some(vec![28, 28]));
        assert_eq!(shape_at_port(&[64], &[any]), Some(vec![64]));
        assert_eq!(shape_at_port(&[8, 8], &[any]), Some(vec![64]));
        for (found, port) in [
            (&[8, 9, 3][..], &[3, any, any][..]),
            (&[192], &[3, any, any]),
            (&[3, 8, 8], &[any]),
            (&[8, 9], &[3, any, any]),
        ] {
            assert_eq!(shape_at_port(found, port), None, "{found:?} {port:?}");
        }
    }

    #[test]
    fn fitting_layout_is_suggested_and_applied() {
        for (array, wanted, layout) in [
            (&[5, 8, 8, 3][..], &[3, 8, 8][..], Some("NHWC")),
            (&[5, 3, 8, 8], &[8, 8, 3], Some("NCHW")),
            (&[5, 6, 4], &[4, 6], Some("NWH")),
            (&[8, 8, 3, 5], &[3, 8, 8], Some("HWCN")),
            (&[64, 5], &[64], Some("CN")),
            (&[5, 6, 7, 2, 3], &[3, 2, 6, 7], Some("NHWDC")),
            (&[5, 9, 9, 3], &[3, 8, 8], None),
            (&[5, 12, 16], &[3, 8, 8], None),
            (&[5, 24, 8], &[192], None),
        ] {
            let mismatch = ShapeMismatch::for_shape(array, wanted);
            assert_eq!(
                mismatch
                    .layout
                    .as_ref()
                    .map(AxisLayout::to_string)
                    .as_deref(),
                layout,
                "{array:?} {wanted:?}"
            );
            let Some(layout) = mismatch.layout else {
                continue;
            };
            assert!(layout.can_rearrange(array, &port_sizes(wanted)));
            let values = ArrayD::from_shape_fn(IxDyn(array), |at| {
                at.slice().iter().fold(0.0, |v, i| 10.0 * v + *i as f64)
            });
            let arranged = layout
                .rearrange(values.clone(), Some(&port_sizes(wanted)))
                .expect("it fits");
            assert_eq!(arranged.shape(), [&[5], wanted].concat());
            assert_eq!(arranged.sum(), values.sum());
        }
        assert_eq!(
            ShapeMismatch::for_port(&[5, 8, 9, 3], &[3, -1, -1])
                .layout
                .expect("one")
                .to_string(),
            "NHWC"
        );
        let message = ShapeMismatch::for_shape(&[5, 8, 8, 3], &[3, 8, 8])
            .message("the card `a` has shape", layout_option_hint);
        assert!(
            message.contains("[8, 8, 3]")
                && message.contains("[3, 8, 8]")
                && message.contains("--layout NHWC"),
            "{message}"
        );
    }

    #[test]
    fn rearrange_permutes_values_with_axes() {
        let first = ArrayD::from_shape_fn(IxDyn(&[2, 3, 4, 5]), |at| {
            at.slice().iter().fold(0.0, |v, i| 10.0 * v + *i as f64)
        });
        let last = first
            .clone()
            .permuted_axes(IxDyn(&[0, 2, 3, 1]))
            .as_standard_layout()
            .into_owned();
        let read = |text: &str, values: &ArrayD<f64>, wanted: Option<&[i64]>| {
            text.parse::<AxisLayout>()
                .expect("a layout")
                .rearrange(values.clone(), wanted)
        };
        assert_eq!(read("NHWC", &last, Some(&[3, 4, 5])), Ok(first.clone()));
        assert_eq!(read("nhwc", &last, None), Ok(first.clone()));
        assert_eq!(read("NCHW", &first, Some(&[4, 5, 3])), Ok(last.clone()));
        assert_eq!(read("NHWC", &last, Some(&[4, 5, 3])), Ok(last.clone()));
        // A layout gives the order, so samples can be made flat.
        let flat = first
            .to_shape((2, 60))
            .expect("60 numbers each")
            .into_owned()
            .into_dyn();
        assert_eq!(read("NHWC", &last, Some(&[60])), Ok(flat));
        // The letters must agree with the sizes, even if the array would fit without a layout.
        assert!(read("NCHW", &last, Some(&[3, 4, 5])).is_err_and(|e| e.contains("[4, 5, 3]")));
        assert!(read("NHWC", &first, Some(&[3, 4, 5])).is_err_and(|e| e.contains("[5, 3, 4]")));
        assert!(read("NHW", &last, None).is_err_and(|e| e.contains("3 axes")));
    }

    #[test]
    fn shared_layout_leaves_arrays_that_already_fit() {
        let all: AxisLayouts = serde_json::from_str("\"NHWC\"").expect("one");
        let requested = all.for_array("noise").expect("of all");
        assert!(
            requested.applies(&[5, 8, 8, 3], &[3, 8, 8])
                && !requested.applies(&[5, 3, 8, 8], &[3, 8, 8])
        );
        // An array that fits with and without the layout is read in the layout. An array that fits
        // in neither way is left to the layout, which refuses it.
        assert!(
            requested.applies(&[5, 8, 8, 8], &[8, 8, 8])
                && requested.applies(&[5, 9, 9, 3], &[3, 8, 8])
        );
        let each: AxisLayouts = serde_json::from_str("{\"noise\": \"NHWC\"}").expect("each");
        assert!(
            each.for_array("noise")
                .is_some_and(|s| s.applies(&[5, 3, 8, 8], &[3, 8, 8]))
                && each.for_array("floor").is_none()
        );
        assert!(
            each.check(&["noise"]).is_ok()
                && each.check(&["floor"]).is_err_and(|e| e.contains("`noise`"))
        );
    }

    #[test]
    fn layout_letters_are_validated() {
        for wrong in ["", "N", "HWC", "NHWX", "NHHC", "NHW C"] {
            assert!(
                wrong
                    .parse::<AxisLayout>()
                    .is_err_and(|e| e.contains("NHWC")),
                "{wrong}"
            );
        }
        let layout: AxisLayout = serde_json::from_str("\"NHWC\"").expect("a layout");
        assert_eq!(serde_json::to_string(&layout).expect("text"), "\"NHWC\"");
    }
}
