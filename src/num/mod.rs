//! Numerics without knowledge of models: blocks of rows, addressed random draws, dense linear
//! algebra, mergeable moments, estimates with standard errors, and shapes.

pub mod adam;
pub mod importance_weights;
pub mod kernel_proposal;
pub mod key;
pub mod linalg;
pub mod logistic;
pub mod moments;
pub mod npy;
pub mod pareto;
pub mod rank_tests;
pub mod shape;
pub mod source;
pub mod stats;
pub mod stored_values;
pub mod tails;

/// `value` with `places` decimals and without a negative zero.
pub fn format_decimals(value: f64, places: usize) -> String {
    let text = format!("{value:.places$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.bytes().all(|b| matches!(b, b'0' | b'.')) => rest.to_owned(),
        _ => text,
    }
}

/// `value ± stderr`. The error has two digits, and the value has as many decimals as the error.
/// Without an error the value has six decimals.
pub fn format_with_stderr(value: f64, stderr: Option<f64>) -> String {
    match stderr.filter(|e| e.is_finite() && *e > 0.0) {
        None => format_decimals(value, 6),
        Some(e) => {
            let places = (1 - e.log10().floor() as i32).clamp(0, 12) as usize;
            format!(
                "{} ± {}",
                format_decimals(value, places),
                format_decimals(e, places)
            )
        }
    }
}

/// States of many samples, rows × dim.
pub type Batch = ndarray::Array2<f64>;

/// Tangent vectors of many samples, directions × rows × dim, as the derived graphs take them.
pub type TangentBatch = ndarray::Array3<f64>;

#[cfg(test)]
mod tests {
    use super::{format_decimals, format_with_stderr};

    #[test]
    fn stderr_sets_the_printed_digits() {
        assert_eq!(format_with_stderr(-4.40123, Some(0.2707)), "-4.40 ± 0.27");
        assert_eq!(format_with_stderr(-0.001, Some(12.3)), "0 ± 12");
        assert_eq!(format_with_stderr(2.5, None), "2.500000");
    }

    #[test]
    fn printed_zero_has_no_sign() {
        for (value, places, text) in [
            (-0.0, 4, "0.0000"),
            (-4e-5, 4, "0.0000"),
            (-6e-5, 4, "-0.0001"),
            (-0.4, 0, "0"),
            (f64::NEG_INFINITY, 2, "-inf"),
        ] {
            assert_eq!(format_decimals(value, places), text);
        }
    }
}
