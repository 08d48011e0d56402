//! Formats numbers for readers: digits that match the error, a dash for absent values, and grouped
//! thousands.

use crate::num::stats;

/// The text that is shown for an absent number.
pub(super) const ABSENT: &str = "–";

/// Half the width of the 95 % confidence interval of a mean of `n` values with this standard error,
/// by Student's t. If `n` is unknown, the normal distribution is used. Zero if there is no standard
/// error.
pub(super) fn half_width_95(error: Option<f64>, n: Option<usize>) -> f64 {
    if_finite(error).map_or(0.0, |error| stats::confidence_half_width(error, n, 0.95))
}

/// `value ± error`: the error has two digits, and the value has as many decimals.
///
/// A value without an error has five significant digits. Very large and very small values share a
/// power of ten, as in `(2.500 ± 0.030)×10⁹`.
pub(super) fn format_with_error(value: Option<f64>, error: Option<f64>) -> String {
    let Some(value) = if_finite(value) else {
        return ABSENT.into();
    };
    let Some(error) = if_finite(error).map(f64::abs) else {
        return format_significant(value, 5);
    };
    // Values below 1e-290 count as zero: their power of ten is close to the subnormal numbers,
    // which have fewer digits.
    let normal = |v: f64| if v.abs() < 1e-290 { 0.0 } else { v };
    let (value, error) = (normal(value), normal(error));
    let top = value.abs().max(error);
    if top >= 1e7 || (top > 0.0 && top < 1e-4) {
        let exponent = top.log10().floor() as i32;
        let unit = 10f64.powi(exponent);
        let (value, error) = round_by_error(value / unit, error / unit);
        return format!("({value} ± {error})×10{}", superscript(exponent));
    }
    let (value, error) = round_by_error(value, error);
    format!("{value} ± {error}")
}

/// `value ± error` like [`format_with_error`], with a sign that programs read as one.
pub(super) fn format_with_error_ascii(value: Option<f64>, error: Option<f64>) -> String {
    format_with_error(value, error).replace('−', "-")
}

/// The value with the decimals that its error suggests, without the error.
pub(super) fn format_to_error_digits(value: f64, error: f64) -> String {
    let top = value.abs().max(error.abs());
    if !value.is_finite() {
        return ABSENT.into();
    }
    if !error.is_finite() || !(1e-4..1e7).contains(&top) {
        return format_significant(value, 3);
    }
    round_by_error(value, error.abs()).0
}

/// A part of a value, with the decimals that the value's error suggests. If all these digits are
/// zero, one significant digit is shown instead.
pub(super) fn format_part(part: f64, error: Option<f64>) -> String {
    let text = if_finite(error).map_or_else(
        || format_significant(part, 2),
        |error| format_to_error_digits(part, error),
    );
    if text.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        text
    } else {
        format_significant(part, 1)
    }
}

/// The 95 % confidence interval `[low, high]` of a mean of `n` values with this standard error.
/// `None` if the mean or its error is absent or not finite.
pub(super) fn format_interval(
    value: Option<f64>,
    error: Option<f64>,
    n: Option<usize>,
) -> Option<String> {
    let (value, error) = (if_finite(value)?, if_finite(error)?);
    let half = half_width_95(Some(error), n);
    let (low, high) = (value - half, value + half);
    Some(format!(
        "[{}, {}]",
        format_to_error_digits(low, error),
        format_to_error_digits(high, error)
    ))
}

/// The value with this many significant digits, in scientific notation if it is very large or very
/// small.
pub(super) fn format_significant(value: f64, digits: i32) -> String {
    if !value.is_finite() {
        return ABSENT.into();
    }
    if value.abs() < 1e-290 {
        return "0".into();
    }
    let exponent = value.abs().log10().floor() as i32;
    if !(-4..7).contains(&exponent) {
        let mantissa = format_fixed(
            value / 10f64.powi(exponent),
            (digits - 1).clamp(0, 12) as usize,
        );
        return format!("{mantissa}×10{}", superscript(exponent));
    }
    format_fixed(value, (digits - 1 - exponent).clamp(0, 12) as usize)
}

/// Formats a value with [`format_significant`], and an absent value as a dash.
pub(super) fn format_optional(value: Option<f64>, digits: i32) -> String {
    if_finite(value).map_or(ABSENT.into(), |value| format_significant(value, digits))
}

/// A count or a mean of counts, with grouped thousands.
///
/// A value that is not whole has one decimal from 1 to 100 and none above 100. Below 1 it has two
/// significant digits.
pub(super) fn format_count(value: f64) -> String {
    if !value.is_finite() {
        return ABSENT.into();
    }
    if value.abs() >= 1e9 || value.fract() == 0.0 {
        return if value.abs() >= 1e9 {
            format_significant(value, 3)
        } else {
            format_fixed(value, 0)
        };
    }
    match value.abs() {
        size if size < 1.0 => format_significant(value, 2),
        size if size < 100.0 => format_fixed(value, 1),
        _ => format_fixed(value, 0),
    }
}

/// A count with its noun, such as `1 probe` and `8 probes`.
pub(super) fn counted(count: f64, plural: &str) -> String {
    let noun = match plural.strip_suffix('s') {
        Some(singular) if count == 1.0 => singular,
        _ => plural,
    };
    format!("{} {noun}", format_count(count))
}

/// The value with this many decimals. Thousands are grouped by commas, the minus sign is
/// typographic, and zero has no sign.
pub(super) fn format_fixed(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, rest) = match text.find('.') {
        Some(dot) => text.split_at(dot),
        None => (text.as_str(), ""),
    };
    let negative = value < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b));
    let sign = if negative { "−" } else { "" };
    format!("{sign}{}{rest}", group_thousands(whole))
}

/// An exponent in superscript digits, such as `⁻³`.
pub(super) fn superscript(exponent: i32) -> String {
    let digit = |c: char| match c {
        '-' => '⁻',
        '0' => '⁰',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        c => char::from_u32('⁴' as u32 + (c as u32 - '4' as u32)).unwrap_or(c),
    };
    exponent.to_string().chars().map(digit).collect()
}

/// The number if it is present and finite.
pub(super) fn if_finite(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}

/// The digits with a comma between groups of three.
fn group_thousands(digits: &str) -> String {
    // A number of four digits is easy to read without a comma.
    if digits.len() <= 4 {
        return digits.into();
    }
    let lead = digits.len() % 3;
    let mut out = digits[..lead].to_string();
    for at in (lead..digits.len()).step_by(3) {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(&digits[at..at + 3]);
    }
    out
}

/// The value and its error as texts: the error with two digits, the value with as many decimals.
fn round_by_error(value: f64, error: f64) -> (String, String) {
    if error == 0.0 {
        return (format_significant(value, 5), "0".into());
    }
    // The error is rounded to two digits first, so that 0.0996 becomes 0.10 and not 0.100.
    let rounded: f64 = format!("{error:.1e}").parse().unwrap_or(error);
    let decimals = 1 - rounded.log10().floor() as i32;
    if decimals >= 0 {
        let decimals = decimals.min(12) as usize;
        return (format_fixed(value, decimals), format_fixed(error, decimals));
    }
    let unit = 10f64.powi(-decimals);
    (
        format_fixed((value / unit).round() * unit, 0),
        format_fixed((error / unit).round() * unit, 0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_sets_the_number_of_digits() {
        assert_eq!(
            format_with_error(Some(-1.23456), Some(0.0321)),
            "−1.235 ± 0.032"
        );
        assert_eq!(format_with_error(Some(1.5), Some(0.0996)), "1.50 ± 0.10");
        assert_eq!(
            format_with_error(Some(12345.6), Some(789.0)),
            "12,350 ± 790"
        );
        assert_eq!(format_with_error(Some(3.0), Some(0.0)), "3.0000 ± 0");
        assert_eq!(
            format_with_error(Some(2.5e9), Some(3e7)),
            "(2.500 ± 0.030)×10⁹"
        );
        assert_eq!(format_with_error(Some(0.0), Some(2e-9)), "(0.0 ± 2.0)×10⁻⁹");
    }

    #[test]
    fn absent_is_a_dash_and_never_zero() {
        assert_eq!(format_with_error(None, Some(1.0)), "–");
        assert_eq!(format_with_error(Some(f64::NAN), None), "–");
        assert_eq!(format_with_error(Some(1.0), None), "1.0000");
        assert_eq!(format_optional(Some(f64::INFINITY), 3), "–");
        assert_eq!(format_interval(Some(1.0), None, Some(9)), None);
    }

    #[test]
    fn intervals_are_of_95_percent() {
        assert_eq!(
            format_interval(Some(1.0), Some(0.1), None).as_deref(),
            Some("[0.80, 1.20]")
        );
        assert_eq!(
            format_interval(Some(1.0), Some(0.1), Some(4)).as_deref(),
            Some("[0.68, 1.32]"),
            "three degrees of freedom"
        );
    }

    #[test]
    fn nonzero_part_is_never_formatted_as_zero() {
        assert_eq!(format_part(-0.0304, Some(0.016)), "−0.030");
        assert_eq!(format_part(-0.0004, Some(0.016)), "−0.0004");
        assert_eq!(format_part(2.3e-7, Some(0.016)), "2×10⁻⁷");
        assert_eq!(format_part(1.234, None), "1.2");
    }

    #[test]
    fn plain_numbers_read_well() {
        assert_eq!(format_significant(0.000123456, 3), "0.000123");
        assert_eq!(format_significant(1.0e-6, 3), "1.00×10⁻⁶");
        assert_eq!(format_fixed(-0.0001, 2), "0.00");
        assert_eq!(format_fixed(1234567.0, 0), "1,234,567");
        assert_eq!(format_count(79.0), "79");
        assert_eq!(format_count(1_000_000.25), "1,000,000");
        assert_eq!(superscript(-15), "⁻¹⁵");
        assert_eq!(counted(1.0, "probes"), "1 probe");
        assert_eq!(counted(8.0, "probes"), "8 probes");
    }
}
