//! The elements of small tensors, followed through shape arithmetic.
//!
//! Exporters compute target shapes, slice bounds and scales inside the graph, from `Shape` through `Gather`, `Concat`
//! and a little arithmetic. Following those few numbers, with symbolic sizes among them, tells the shapes of
//! everything else. An element that cannot be followed is [`Item::Unknown`].

use crate::elem::ElemType;
use crate::proto::TensorProto;
use crate::size::Size;

/// Tensors of more elements than this are not followed.
pub const LIMIT: usize = 1024;

#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// An integer or boolean, perhaps a symbolic size.
    Int(Size),
    Real(f64),
    Unknown,
}

impl Item {
    pub fn fixed(n: i64) -> Item {
        Item::Int(Size::fixed(n))
    }

    pub fn as_fixed(&self) -> Option<i64> {
        match self {
            Item::Int(size) => size.as_fixed(),
            _ => None,
        }
    }

    pub fn as_real(&self) -> Option<f64> {
        match self {
            Item::Int(size) => size.as_fixed().map(|n| n as f64),
            Item::Real(x) => Some(*x),
            Item::Unknown => None,
        }
    }
}

/// A small tensor, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    pub dims: Vec<usize>,
    pub items: Vec<Item>,
}

impl Content {
    pub fn scalar(item: Item) -> Content {
        Content {
            dims: Vec::new(),
            items: vec![item],
        }
    }

    pub fn list(items: Vec<Item>) -> Content {
        Content {
            dims: vec![items.len()],
            items,
        }
    }

    pub fn of_tensor(tensor: &TensorProto) -> Option<Content> {
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

    pub fn fixed(&self) -> Option<Vec<i64>> {
        self.items.iter().map(Item::as_fixed).collect()
    }

    pub fn reals(&self) -> Option<Vec<f64>> {
        self.items.iter().map(Item::as_real).collect()
    }
}

/// The number of elements, where it is small enough to follow.
pub fn followed_count(dims: &[usize]) -> Option<usize> {
    let span = dims
        .iter()
        .try_fold(1usize, |n, d| n.checked_mul((*d).max(1)))?;
    (span <= LIMIT).then(|| dims.iter().product())
}

/// The elements of a tensor of any size that holds real numbers.
pub fn real_elements(tensor: &TensorProto) -> Option<Vec<f64>> {
    let count = tensor
        .dims
        .iter()
        .try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?))?;
    let items = elements(tensor, count)?;
    (items.len() == count).then(|| items.iter().map(Item::as_real).collect())?
}

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

/// A float16 by its bits.
pub fn float16_from_bits(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    }
}

/// A bfloat16 by its bits.
pub fn bfloat16_from_bits(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

/// Numpy's rule for the shapes of two operands.
pub fn broadcast_dims(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
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
