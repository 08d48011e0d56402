//! Finds the convolutions of a model that a minimal filtering algorithm computes faster.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::filter::{Filter, TAPS};
use crate::content::Content;
use crate::elem::ElemType;
use crate::graph::Graph;
use crate::import::{check_opset, import};
use crate::model::Model;
use crate::proto::*;
use crate::size::Size;

/// The least number of multiplications of a convolution of one image for which F(2, 3) and the
/// algorithm for enlarged images save more time than their additional operators take.
const LEAST_PRODUCTS: i64 = 4 << 20;

/// The least number of multiplications for F(4, 3), which adds more operators.
const LEAST_PRODUCTS_FOUR: i64 = 9 << 20;

/// The least height of an image for F(4, 3).
const LEAST_HEIGHT_FOUR: i64 = 8;

/// The least number of channels on both sides. With fewer, sums of the image take longer than the
/// products that they save.
const LEAST_CHANNELS: i64 = 16;

/// A convolution with 3×3 weights, whose result is as large as the image.
#[derive(Clone, Debug)]
pub(super) struct Convolution {
    /// The image `[N, channels, height, width]`. With [`Filter::Doubled`] it is the image before it
    /// is enlarged.
    pub image: String,
    /// The stored weights: `[filters, channels, 3, 3]`, or `[channels, filters, 3, 3]` if
    /// `transposed`.
    pub weights: Rc<TensorProto>,
    /// Whether the node is a `ConvTranspose`.
    pub transposed: bool,
    /// The bias `[filters]`, if there is one.
    pub bias: Option<Rc<TensorProto>>,
    /// The number of channels of the image.
    pub channels: i64,
    /// The number of channels of the result.
    pub filters: i64,
    /// The height of the image.
    pub height: i64,
    /// The width of the image.
    pub width: i64,
    /// The algorithm. It is applied to columns of the image, and [`Filter::Doubled`] to its rows
    /// too.
    pub algorithm: Filter,
}

impl Convolution {
    /// Returns the 3×3 weights with which the image is correlated, first of all channels of the
    /// image for the first channel of the result.
    pub(super) fn taps(&self) -> Vec<[[f64; TAPS]; TAPS]> {
        let elements = single_elements(&self.weights).unwrap_or_default();
        let size = TAPS * TAPS;
        let (filters, channels) = (self.filters as usize, self.channels as usize);
        let window = |filter: usize, channel: usize| {
            let at = if self.transposed {
                channel * filters + filter
            } else {
                filter * channels + channel
            };
            let stored = &elements[at * size..(at + 1) * size];
            let mut taps = [[0.0; TAPS]; TAPS];
            for (place, weight) in stored.iter().enumerate() {
                // A transposed convolution turns its weights by half a turn.
                let place = if self.transposed {
                    size - 1 - place
                } else {
                    place
                };
                taps[place / TAPS][place % TAPS] = f64::from(*weight);
            }
            taps
        };
        (0..filters)
            .flat_map(|filter| (0..channels).map(move |channel| (filter, channel)))
            .map(|(filter, channel)| window(filter, channel))
            .collect()
    }
}

/// Returns the elements of a stored float32 tensor. Returns `None` if they lie in another file.
pub(super) fn single_elements(tensor: &TensorProto) -> Option<Vec<f32>> {
    let count = tensor.dims.iter().product::<i64>() as usize;
    let elements = match &tensor.raw_data {
        Some(raw) => (raw.chunks_exact(4))
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        None => tensor.float_data.clone(),
    };
    (ElemType(tensor.data_type()) == ElemType::FLOAT && elements.len() == count).then_some(elements)
}

/// Returns whether a tensor is of float32 and its elements are in the file.
fn is_stored(tensor: &TensorProto) -> bool {
    let count = tensor.dims.iter().product::<i64>() as usize;
    let bytes = tensor.raw_data.as_ref().map(|raw| raw.len());
    ElemType(tensor.data_type()) == ElemType::FLOAT
        && bytes.unwrap_or(4 * tensor.float_data.len()) == 4 * count
}

/// What is known of a model before it runs.
pub(super) struct Known<'a> {
    graph: Graph,
    makers: HashMap<&'a str, &'a NodeProto>,
    /// The names of the inputs, of which some may be stored too.
    fed: HashSet<&'a str>,
}

impl<'a> Known<'a> {
    /// Reads the model. Returns `None` if its shapes cannot be inferred.
    pub(super) fn of(model: &'a Model) -> Option<Known<'a>> {
        check_opset(model).ok()?;
        let (graph, _) = import(model, model.opset()).ok()?;
        let nodes = model.graph().node.iter();
        Some(Known {
            graph,
            makers: nodes
                .flat_map(|node| node.output.iter().map(move |name| (name.as_str(), node)))
                .collect(),
            fed: (model.graph().input.iter())
                .map(|input| input.name())
                .collect(),
        })
    }

    /// Returns a stored float32 tensor that no input replaces.
    fn stored(&self, name: &str) -> Option<Rc<TensorProto>> {
        let value = self
            .graph
            .named(name)
            .filter(|_| !self.fed.contains(name))?;
        let tensor = self.graph.value(value).constant.clone()?;
        is_stored(&tensor).then_some(tensor)
    }

    /// Returns the sizes of a float32 tensor with four axes. The first one, the batch, is left out.
    fn image(&self, name: &str) -> Option<[i64; 3]> {
        let [_, channels, height, width] = self.sizes(name)?;
        Some([channels?, height?, width?])
    }

    /// Returns the sizes of a float32 tensor with four axes, as far as they are known.
    fn sizes(&self, name: &str) -> Option<[Option<i64>; 4]> {
        let value = self.graph.named(name)?;
        let shape = self.graph.shape(value)?;
        let [a, b, c, d] = &shape[..] else {
            return None;
        };
        (self.graph.elem(value) == ElemType::FLOAT).then(|| [a, b, c, d].map(|s| s.as_fixed()))
    }

    /// Returns declarations of those outputs of the nodes whose sizes are known, although only the
    /// run decides some of them. Equal sizes have the same name everywhere. A runtime that plans
    /// memory compares these names; without them, it compares each value with all others.
    pub(super) fn declarations(&self, nodes: &[NodeProto]) -> Vec<ValueInfoProto> {
        let graph = &self.graph;
        let mut names: HashMap<Size, String> = HashMap::new();
        let mut declared = Vec::new();
        for name in nodes.iter().flat_map(|node| &node.output) {
            let known = graph
                .named(name)
                .and_then(|value| Some((value, graph.shape(value)?)));
            let Some((value, shape)) = known else {
                continue;
            };
            if shape.iter().all(|size| size.as_fixed().is_some()) {
                continue;
            }
            let mut r#type = graph.export_type(value);
            if let Some(TypeValue::Tensor(tensor)) = &mut r#type.value {
                for (dim, size) in tensor.shape.iter_mut().flat_map(|s| &mut s.dim).zip(shape) {
                    if dim.value.is_none() {
                        dim.value = Some(DimensionValue::Param(self.size_name(&mut names, size)));
                    }
                }
            }
            declared.push(ValueInfoProto {
                name: Some(name.clone()),
                r#type: Some(r#type),
            });
        }
        declared
    }

    /// Returns the name of a size that has none in the file.
    fn size_name(&self, names: &mut HashMap<Size, String>, size: &Size) -> String {
        if let Some(name) = names.get(size) {
            return name.clone();
        }
        let mut name = format!("winograd.size.{}", names.len());
        while self.graph.symbols.is_known(&name) {
            name.push('_');
        }
        names.insert(size.clone(), name.clone());
        name
    }

    /// Returns the convolution that a node is, if an algorithm computes it faster.
    pub(super) fn convolution(&self, node: &NodeProto) -> Option<Convolution> {
        let transposed = match node.op_type() {
            "Conv" => false,
            "ConvTranspose" => true,
            _ => return None,
        };
        let [image, weights, rest @ ..] = &node.input[..] else {
            return None;
        };
        let keeps_size = standardize(node.domain()).is_empty() && keeps_size(node, transposed);
        if !keeps_size {
            return None;
        }
        let [Some(a), Some(b), Some(3), Some(3)] = self.sizes(weights)? else {
            return None;
        };
        let (filters, channels) = if transposed { (b, a) } else { (a, b) };
        let [of_image, height, width] = self.image(image)?;
        if of_image != channels || filters.min(channels) < LEAST_CHANNELS {
            return None;
        }
        let products = [filters, height, width, (TAPS * TAPS) as i64]
            .into_iter()
            .try_fold(channels, i64::checked_mul)?;
        let small = (!transposed)
            .then(|| self.enlarged(image, height, width))
            .flatten();
        let algorithm = match small {
            _ if products < LEAST_PRODUCTS => return None,
            Some(_) => Filter::Doubled,
            None if height % 4 == 0
                && height >= LEAST_HEIGHT_FOUR
                && products >= LEAST_PRODUCTS_FOUR =>
            {
                Filter::FourResults
            }
            None if height % 2 == 0 => Filter::TwoResults,
            None => return None,
        };
        let scale = if small.is_some() { 2 } else { 1 };
        let bias = match rest.first().filter(|name| !name.is_empty()) {
            Some(name) => Some(self.stored(name).filter(|bias| bias.dims == [filters])?),
            None => None,
        };
        Some(Convolution {
            image: small.unwrap_or_else(|| image.clone()),
            weights: self.stored(weights)?,
            transposed,
            bias,
            channels,
            filters,
            height: height / scale,
            width: width / scale,
            algorithm,
        })
    }

    /// Returns the image that was enlarged to twice its height and width by repetition, if that
    /// gave `image`.
    fn enlarged(&self, image: &str, height: i64, width: i64) -> Option<String> {
        let node = *self.makers.get(image)?;
        let text = |name: &str, default: &str| {
            let value = attribute(node, name).and_then(|a| a.s.clone());
            value.map_or(default.to_owned(), |s| {
                String::from_utf8_lossy(&s).into_owned()
            })
        };
        let resized = standardize(node.domain()).is_empty()
            && node.op_type() == "Resize"
            && text("mode", "nearest") == "nearest"
            && repeats_pixels(
                &text("coordinate_transformation_mode", "half_pixel"),
                &text("nearest_mode", "round_prefer_floor"),
            );
        let small = node.input.first().filter(|_| resized)?;
        let [_, before_height, before_width] = self.image(small)?;
        let doubled = (2 * before_height, 2 * before_width) == (height, width);
        (doubled && self.is_scaled_by_two(node)).then(|| small.clone())
    }

    /// Returns whether a `Resize` that doubles the height and the width does so by exactly two, and
    /// keeps the other axes. Where the node has scales instead of sizes, they must say it, because
    /// the sizes of the result are rounded.
    fn is_scaled_by_two(&self, node: &NodeProto) -> bool {
        let Some(scales) = node.input.get(2).filter(|name| !name.is_empty()) else {
            return attribute(node, "axes").is_none();
        };
        let scales = self.graph.named(scales).and_then(|v| self.graph.content(v));
        let axes = attribute(node, "axes").map(|a| a.ints.clone());
        matches!(
            (scales.and_then(Content::reals).as_deref(), axes.as_deref()),
            (Some([1.0, 1.0, 2.0, 2.0]), None) | (Some([2.0, 2.0]), Some([2, 3] | [-2, -1]))
        )
    }
}

/// Returns whether a `Resize` of an axis to twice its length takes each element twice.
fn repeats_pixels(coordinates: &str, rounding: &str) -> bool {
    match coordinates {
        "asymmetric" => matches!(rounding, "floor" | "round_prefer_floor"),
        "half_pixel" | "pytorch_half_pixel" | "half_pixel_symmetric" => {
            matches!(rounding, "round_prefer_floor" | "round_prefer_ceil")
        }
        _ => false,
    }
}

/// Returns whether a node with 3×3 weights moves them by one pixel over an image with a margin of
/// one pixel of zeros.
fn keeps_size(node: &NodeProto, transposed: bool) -> bool {
    let all = |name: &str, default: i64, wanted: i64| {
        attribute(node, name).map_or(default == wanted, |a| a.ints.iter().all(|n| *n == wanted))
    };
    let same = attribute(node, "auto_pad")
        .and_then(|a| a.s.as_deref())
        .is_some_and(|mode| !transposed && (mode == b"SAME_UPPER" || mode == b"SAME_LOWER"));
    let given = attribute(node, "auto_pad").is_none_or(|a| a.s.as_deref() == Some(b"NOTSET"))
        && all("pads", 0, 1);
    all("strides", 1, 1)
        && all("dilations", 1, 1)
        && all("output_padding", 0, 0)
        && attribute(node, "output_shape").is_none()
        && attribute(node, "group").is_none_or(|a| a.i() == 1)
        && (same || given)
}

/// Returns an attribute of a node.
fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|a| a.name() == name)
}
