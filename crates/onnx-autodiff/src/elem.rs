//! Element types of tensors, by their numbers in the file format.

use std::fmt;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ElemType(pub i32);

impl ElemType {
    pub const UNKNOWN: ElemType = ElemType(0);
    pub const FLOAT: ElemType = ElemType(1);
    pub const UINT8: ElemType = ElemType(2);
    pub const INT32: ElemType = ElemType(6);
    pub const INT64: ElemType = ElemType(7);
    pub const STRING: ElemType = ElemType(8);
    pub const BOOL: ElemType = ElemType(9);
    pub const FLOAT16: ElemType = ElemType(10);
    pub const DOUBLE: ElemType = ElemType(11);
    pub const BFLOAT16: ElemType = ElemType(16);

    /// Whether tensors of this type can carry a derivative.
    pub fn is_float(self) -> bool {
        [Self::FLOAT, Self::DOUBLE, Self::FLOAT16, Self::BFLOAT16].contains(&self)
    }

    /// Whether this type holds numbers of eight or four bits that are meant as real ones.
    pub fn is_quantized(self) -> bool {
        matches!(self.0, 17..=20 | 23 | 24)
    }

    pub fn is_integer(self) -> bool {
        matches!(self.0, 2..=7 | 12 | 13)
    }

    /// The type of this type's tangents: double stays double, half precision is computed in single.
    pub fn tangent(self) -> ElemType {
        if self == Self::DOUBLE {
            Self::DOUBLE
        } else {
            Self::FLOAT
        }
    }

    /// The distance from 1 to the next number, for floating-point formats.
    pub fn spacing(self) -> Option<f64> {
        let bits = match self {
            Self::DOUBLE => 52,
            Self::FLOAT => 23,
            Self::FLOAT16 => 10,
            Self::BFLOAT16 => 7,
            _ => return None,
        };
        Some(f64::powi(0.5, bits))
    }

    /// Bits per element in `raw_data`, for types that have them.
    pub fn bits(self) -> Option<u64> {
        Some(match self.0 {
            2 | 3 | 9 | 17..=20 | 24 => 8,
            4 | 5 | 10 | 16 => 16,
            1 | 6 | 12 => 32,
            7 | 11 | 13 | 14 => 64,
            15 => 128,
            21..=23 => 4,
            25 | 26 => 2,
            _ => return None,
        })
    }
}

impl fmt::Display for ElemType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let names = [
            "untyped",
            "float32",
            "uint8",
            "int8",
            "uint16",
            "int16",
            "int32",
            "int64",
            "string",
            "bool",
            "float16",
            "float64",
            "uint32",
            "uint64",
            "complex64",
            "complex128",
            "bfloat16",
        ];
        match usize::try_from(self.0).ok().and_then(|i| names.get(i)) {
            Some(name) => f.write_str(name),
            None => write!(f, "element type {}", self.0),
        }
    }
}
