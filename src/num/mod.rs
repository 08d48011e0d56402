//! Numbers without meaning: blocks of rows, addressed randomness, dense linear algebra,
//! mergeable moments, estimates with their errors, and shapes.

pub mod key;
pub mod linalg;
pub mod moments;
pub mod npy;
pub mod shape;
pub mod source;
pub mod stats;

/// A number with so many decimals, and no negative zero.
pub fn decimals(value: f64, places: usize) -> String {
    let text = format!("{value:.places$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.bytes().all(|b| matches!(b, b'0' | b'.')) => rest.to_owned(),
        _ => text,
    }
}

/// States of many samples: rows × dimension.
pub type Batch = ndarray::Array2<f64>;

/// Tangents of many samples: directions × rows × dimension, as the tangent graph takes them.
pub type Blocks = ndarray::Array3<f64>;

#[cfg(test)]
mod tests {
    use super::decimals;

    #[test]
    fn zero_has_no_sign() {
        for (value, places, text) in [
            (-0.0, 4, "0.0000"),
            (-4e-5, 4, "0.0000"),
            (-6e-5, 4, "-0.0001"),
            (-0.4, 0, "0"),
            (f64::NEG_INFINITY, 2, "-inf"),
        ] {
            assert_eq!(decimals(value, places), text);
        }
    }
}
