//! The element types of tensors, by their numbers in `onnx.proto`.

use std::fmt;

/// The type of a tensor's elements: a number of `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ElemType(pub i32);

impl ElemType {
    /// The type is not declared and cannot be inferred.
    pub const UNKNOWN: ElemType = ElemType(0);
    /// The 32-bit floating-point type.
    pub const FLOAT: ElemType = ElemType(1);
    /// The unsigned 8-bit integer type.
    pub const UINT8: ElemType = ElemType(2);
    /// The signed 32-bit integer type.
    pub const INT32: ElemType = ElemType(6);
    /// The signed 64-bit integer type.
    pub const INT64: ElemType = ElemType(7);
    /// The type of strings.
    pub const STRING: ElemType = ElemType(8);
    /// The type of truth values.
    pub const BOOL: ElemType = ElemType(9);
    /// The 16-bit floating-point type of IEEE 754.
    pub const FLOAT16: ElemType = ElemType(10);
    /// The 64-bit floating-point type.
    pub const DOUBLE: ElemType = ElemType(11);
    /// The 16-bit floating-point type with the exponent of a 32-bit one.
    pub const BFLOAT16: ElemType = ElemType(16);

    /// Returns whether a tensor of this type can carry a derivative.
    pub fn is_float(self) -> bool {
        [Self::FLOAT, Self::DOUBLE, Self::FLOAT16, Self::BFLOAT16].contains(&self)
    }

    /// Returns whether this is a floating-point type of eight or four bits, which holds quantized
    /// numbers.
    pub fn is_quantized(self) -> bool {
        matches!(self.0, 17..=20 | 23 | 24)
    }

    /// Returns whether this is a signed or unsigned integer type of 8 to 64 bits.
    pub fn is_integer(self) -> bool {
        matches!(self.0, 2..=7 | 12 | 13)
    }

    /// Returns the type of this type's tangents: float64 for float64, and float32 for all others,
    /// half precision among them.
    pub fn tangent(self) -> ElemType {
        if self == Self::DOUBLE {
            Self::DOUBLE
        } else {
            Self::FLOAT
        }
    }

    /// Returns the distance from 1 to the next larger number, for the floating-point types.
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

    /// Returns the number of bits that one element takes in `raw_data`, for types that are stored
    /// there.
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
