//! The known elements of small tensors.
//!
//! Exporters compute target shapes, slice bounds and scales inside the graph, from `Shape` through
//! `Gather`, `Concat` and a little arithmetic. These few numbers, symbolic sizes among them,
//! determine the shapes of everything else. An element that is not known before the graph runs is
//! [`Item::Unknown`].

use crate::elem::ElemType;
use crate::proto::TensorProto;
use crate::size::Size;

/// The largest number of elements of a tensor whose elements are followed.
pub(crate) const LIMIT: usize = 1024;

/// One element of a small tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    /// An integer or a boolean. It may be a symbolic size.
    Int(Size),
    /// A floating-point number.
    Real(f64),
    /// An element that is not known before the graph runs.
    Unknown,
}

impl Item {
    /// Returns the element for a known integer.
    pub(crate) fn fixed(n: i64) -> Item {
        Item::Int(Size::fixed(n))
    }

    /// Returns the integer if the element is a known integer.
    pub(crate) fn as_fixed(&self) -> Option<i64> {
        match self {
            Item::Int(size) => size.as_fixed(),
            _ => None,
        }
    }

    /// Returns the element as a floating-point number if it is a known number.
    pub(crate) fn as_real(&self) -> Option<f64> {
        match self {
            Item::Int(size) => size.as_fixed().map(|n| n as f64),
            Item::Real(x) => Some(*x),
            Item::Unknown => None,
        }
    }
}

/// The elements of a small tensor, in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Content {
    /// The sizes of the axes.
    pub dims: Vec<usize>,
    /// The elements, as many as the product of the sizes.
    pub items: Vec<Item>,
}

impl Content {
    /// Returns the content of a tensor without axes.
    pub(crate) fn scalar(item: Item) -> Content {
        Content {
            dims: Vec::new(),
            items: vec![item],
        }
    }

    /// Returns the content of a tensor with one axis.
    pub(crate) fn list(items: Vec<Item>) -> Content {
        Content {
            dims: vec![items.len()],
            items,
        }
    }

    /// Returns the elements of a stored tensor. Returns `None` if the tensor has more than
    /// [`LIMIT`] elements or a type that is not followed.
    pub(crate) fn of_tensor(tensor: &TensorProto) -> Option<Content> {
        let dims: Option<Vec<usize>> = tensor
            .dims
            .iter()
            .map(|d| usize::try_from(*d).ok())
            .collect();
        let dims = dims?;
        let count = followed_count(&dims)?;
        let items = elements(tensor, count)?;
        (items.len() == count).then_some(Content { dims, items })
    }

    /// Returns all elements as integers if each one is a known integer.
    pub(crate) fn fixed(&self) -> Option<Vec<i64>> {
        self.items.iter().map(Item::as_fixed).collect()
    }

    /// Returns all elements as floating-point numbers if each one is a known number.
    pub(crate) fn reals(&self) -> Option<Vec<f64>> {
        self.items.iter().map(Item::as_real).collect()
    }
}

/// Returns the number of elements if it is at most [`LIMIT`].
pub(crate) fn followed_count(dims: &[usize]) -> Option<usize> {
    let span = dims
        .iter()
        .try_fold(1usize, |n, d| n.checked_mul((*d).max(1)))?;
    (span <= LIMIT).then(|| dims.iter().product())
}

/// Returns the elements of a stored tensor of any size as floating-point numbers.
pub(crate) fn real_elements(tensor: &TensorProto) -> Option<Vec<f64>> {
    let count = tensor
        .dims
        .iter()
        .try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?))?;
    let items = elements(tensor, count)?;
    (items.len() == count).then(|| items.iter().map(Item::as_real).collect())?
}

/// Returns the elements of a stored tensor that has `count` of them. Returns `None` if the tensor
/// holds another number or has a type that is not followed.
fn elements(tensor: &TensorProto, count: usize) -> Option<Vec<Item>> {
    let elem = ElemType(tensor.data_type());
    if let Some(raw) = &tensor.raw_data {
        let width = elem.bits()? as usize / 8;
        if width == 0 || Some(raw.len()) != count.checked_mul(width) {
            return None;
        }
        return raw
            .chunks_exact(width)
            .map(|bytes| raw_element(elem, bytes))
            .collect();
    }
    Some(match elem {
        ElemType::INT64 => tensor.int64_data.iter().map(|n| Item::fixed(*n)).collect(),
        ElemType::FLOAT => tensor
            .float_data
            .iter()
            .map(|x| Item::Real(f64::from(*x)))
            .collect(),
        ElemType::DOUBLE => tensor.double_data.iter().map(|x| Item::Real(*x)).collect(),
        ElemType::INT32 | ElemType::BOOL => tensor
            .int32_data
            .iter()
            .map(|n| Item::fixed(i64::from(*n)))
            .collect(),
        ElemType::FLOAT16 => tensor
            .int32_data
            .iter()
            .map(|n| Item::Real(float16_from_bits(*n as u16)))
            .collect(),
        ElemType::BFLOAT16 => tensor
            .int32_data
            .iter()
            .map(|n| Item::Real(bfloat16_from_bits(*n as u16)))
            .collect(),
        _ => return None,
    })
}

/// Decodes one element from its little-endian bytes.
fn raw_element(elem: ElemType, bytes: &[u8]) -> Option<Item> {
    Some(match elem {
        ElemType::INT64 => Item::fixed(i64::from_le_bytes(bytes.try_into().ok()?)),
        ElemType::INT32 => Item::fixed(i64::from(i32::from_le_bytes(bytes.try_into().ok()?))),
        ElemType::BOOL => Item::fixed(i64::from(bytes[0] != 0)),
        ElemType::FLOAT => Item::Real(f64::from(f32::from_le_bytes(bytes.try_into().ok()?))),
        ElemType::DOUBLE => Item::Real(f64::from_le_bytes(bytes.try_into().ok()?)),
        ElemType::FLOAT16 => Item::Real(float16_from_bits(u16::from_le_bytes(
            bytes.try_into().ok()?,
        ))),
        ElemType::BFLOAT16 => Item::Real(bfloat16_from_bits(u16::from_le_bytes(
            bytes.try_into().ok()?,
        ))),
        _ => return None,
    })
}

/// Returns the number that the bits of a float16 encode.
pub(crate) fn float16_from_bits(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    }
}

/// Returns the number that the bits of a bfloat16 encode.
pub(crate) fn bfloat16_from_bits(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

/// Returns the shape to which two shapes are broadcast, by numpy's rule. Returns `None` if they do
/// not fit each other.
pub(crate) fn broadcast_dims(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |j| dims[j]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (p, q) if p == q => Some(p),
            (1, q) => Some(q),
            (p, 1) => Some(p),
            _ => None,
        })
        .collect()
}
