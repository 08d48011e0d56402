//! The axes of a panel: a scale, a range that is never empty, and ticks at round numbers.

use super::number_format::{format_fixed, format_significant, superscript};

/// The largest absolute value that an axis shows. Differences of larger values could overflow.
const MAX_ABS_VALUE: f64 = 1e150;

/// How a value is mapped to a position on an axis.
///
/// A position is the transformed value, for example the decimal logarithm on a logarithmic axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// The position is the value itself.
    Linear,
    /// The position is the decimal logarithm. Only positive values have a position.
    Log,
    /// The position is asinh(value / unit) / ln 10, where the field is the unit. The scale is
    /// linear near zero and logarithmic far from zero.
    Symlog(f64),
}

impl Scale {
    /// The position of a value. `None` if the value is NaN, too large, or not positive on a
    /// logarithmic scale.
    pub(super) fn transform(self, value: f64) -> Option<f64> {
        if value.is_nan() || value.abs() > MAX_ABS_VALUE {
            return None;
        }
        match self {
            Scale::Linear => Some(value),
            Scale::Log => (value > 1e-150).then(|| value.log10()),
            Scale::Symlog(unit) => Some((value / unit).asinh() / std::f64::consts::LN_10),
        }
    }
}

/// A labelled position on an axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    pub position: f64,
    pub text: String,
}

/// One axis: its label, scale, range and ticks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    /// The label with the unit, or an empty text.
    pub label: String,
    pub scale: Scale,
    /// The positions of the start and the end. The start is smaller than the end.
    pub range: [f64; 2],
    /// The ticks, which have texts.
    pub ticks: Vec<Tick>,
    /// The positions of grid lines without text.
    pub minor: Vec<f64>,
}

impl Axis {
    /// A linear axis that contains the values with a margin of 5 % on either side, and has about
    /// `ticks` ticks.
    pub(super) fn linear(label: &str, values: impl IntoIterator<Item = f64>, ticks: usize) -> Axis {
        let [low, high] = padded_range(transformed_range(values, Scale::Linear), 0.05);
        Axis::with_range(label, [low, high], ticks)
    }

    /// A linear axis over exactly this range. A range of zero width is widened.
    pub(super) fn with_range(label: &str, range: [f64; 2], ticks: usize) -> Axis {
        let range = padded_range(transformed_range(range, Scale::Linear), 0.0);
        let ticks = linear_ticks(range, ticks);
        Axis {
            label: label.into(),
            scale: Scale::Linear,
            range,
            ticks,
            minor: vec![],
        }
    }

    /// A logarithmic axis that contains the positive values, and has about `ticks` ticks.
    pub(super) fn log(label: &str, values: impl IntoIterator<Item = f64>, ticks: usize) -> Axis {
        let [low, high] = padded_range(transformed_range(values, Scale::Log), 0.06);
        // The range is at least two thirds of a decade wide, so that it contains a round number.
        let lack = (0.67 - (high - low)).max(0.0) / 2.0;
        let range = [low - lack, high + lack];
        let (ticks, minor) = log_ticks(range, ticks);
        Axis {
            label: label.into(),
            scale: Scale::Log,
            range,
            ticks,
            minor,
        }
    }

    /// A linear axis if the values have similar magnitudes, else a [`Scale::Symlog`] axis.
    ///
    /// The magnitudes are similar if the largest is less than 60 times the median, zeros excluded.
    pub(super) fn linear_or_symlog(
        label: &str,
        values: impl IntoIterator<Item = f64>,
        ticks: usize,
    ) -> Axis {
        let values: Vec<f64> = values
            .into_iter()
            .filter(|v| v.abs() <= MAX_ABS_VALUE)
            .collect();
        let mut sizes: Vec<f64> = values
            .iter()
            .map(|v| v.abs())
            .filter(|&v| v > 0.0)
            .collect();
        sizes.sort_by(f64::total_cmp);
        let (Some(&middle), Some(&largest)) = (sizes.get(sizes.len() / 2), sizes.last()) else {
            return Axis::linear(label, values, ticks);
        };
        if largest < 60.0 * middle {
            return Axis::linear(label, values, ticks);
        }
        let decade = (middle / 3.0).log10().floor();
        let unit = 10f64.powf(decade);
        let scale = Scale::Symlog(unit);
        let range = padded_range(transformed_range(values, scale), 0.05);
        let (ticks, minor) = symlog_ticks(range, decade as i32, scale, ticks);
        Axis {
            label: format!("{label} (log scale away from zero)"),
            scale,
            range,
            ticks,
            minor,
        }
    }

    /// An axis with one position per name. On a vertical axis the first name is at the top.
    pub(super) fn categorical(names: &[String]) -> Axis {
        let last = names.len().saturating_sub(1);
        let tick = |(i, name): (usize, &String)| Tick {
            position: (last - i) as f64,
            text: name.clone(),
        };
        Axis {
            label: String::new(),
            scale: Scale::Linear,
            range: [-0.6, last as f64 + 0.6],
            ticks: names.iter().enumerate().map(tick).collect(),
            minor: vec![],
        }
    }

    /// An axis from 0 to 1 without label and ticks.
    pub(super) fn hidden() -> Axis {
        let (label, scale) = (String::new(), Scale::Linear);
        Axis {
            label,
            scale,
            range: [0.0, 1.0],
            ticks: vec![],
            minor: vec![],
        }
    }

    /// The place of a value in the range: 0 at the start, 1 at the end. `None` if the value has no
    /// position.
    pub(super) fn fraction(&self, value: f64) -> Option<f64> {
        self.scale
            .transform(value)
            .map(|place| self.position_fraction(place))
    }

    /// The place of a position in the range: 0 at the start, 1 at the end.
    pub(super) fn position_fraction(&self, place: f64) -> f64 {
        (place - self.range[0]) / (self.range[1] - self.range[0])
    }
}

/// The smallest and the largest position of the values. `None` if no value has a position.
fn transformed_range(values: impl IntoIterator<Item = f64>, scale: Scale) -> Option<[f64; 2]> {
    let mut places = values
        .into_iter()
        .filter_map(|value| scale.transform(value));
    let first = places.next()?;
    Some(places.fold([first, first], |[low, high], v| [low.min(v), high.max(v)]))
}

/// The range, widened on either side by `share` of its width. A missing range becomes [0, 1].
fn padded_range(span: Option<[f64; 2]>, share: f64) -> [f64; 2] {
    let [low, high] = span.unwrap_or([0.0, 1.0]);
    let width = high - low;
    // Values that are equal, or that differ only by rounding, still need an axis with distinct
    // ticks.
    if width <= 1e-9 * low.abs().max(high.abs()) || width < 1e-140 {
        let half = (0.05 * low.abs()).max(if low == 0.0 { 0.5 } else { 1e-12 });
        return [low - half, high + half];
    }
    [low - share * width, high + share * width]
}

/// About `want` ticks at multiples of 1, 2, 2.5 or 5 times a power of ten.
fn linear_ticks([low, high]: [f64; 2], want: usize) -> Vec<Tick> {
    let rough = (high - low) / want.max(1) as f64;
    let decade = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .map(|m| m * decade)
        .into_iter()
        .find(|&step| step >= rough * 0.999)
        .unwrap_or(10.0 * decade);
    let slack = 1e-9 * (high - low);
    let first = ((low - slack) / step).ceil();
    let places = (0..30).map(|i| (first + f64::from(i)) * step);
    places
        .take_while(|&at| at <= high + slack)
        .map(|at| Tick {
            position: at,
            text: linear_tick_text(at, step, low.abs().max(high.abs())),
        })
        .collect()
}

/// The text of a tick. Its decimals depend on the step between ticks.
///
/// `top` is the largest absolute value of the range.
fn linear_tick_text(at: f64, step: f64, top: f64) -> String {
    if at.abs() < step / 2.0 {
        return "0".into();
    }
    if top >= 1e6 || step < 1e-5 {
        let digits = (at.abs().log10().floor() - step.log10().floor()) as i32 + 2;
        let text = format_significant(at, digits.clamp(1, 10));
        return trim_mantissa(&text);
    }
    let mut decimals = (-step.log10().floor()).max(0.0) as usize;
    let mantissa = step / 10f64.powf(step.log10().floor());
    if (mantissa - 2.5).abs() < 1e-6 && (step < 10.0) {
        decimals += 1;
    }
    format_fixed(at, decimals)
}

/// Removes trailing zeros of the mantissa: `2.50×10⁶` becomes `2.5×10⁶`.
fn trim_mantissa(text: &str) -> String {
    match text.split_once('×') {
        Some((mantissa, power)) if mantissa.contains('.') => {
            format!(
                "{}×{power}",
                mantissa.trim_end_matches('0').trim_end_matches('.')
            )
        }
        _ => text.into(),
    }
}

/// Ticks at powers of ten, and the grid lines between them.
///
/// A range of less than two decades also has ticks at some multiples of the powers.
fn log_ticks(range: [f64; 2], want: usize) -> (Vec<Tick>, Vec<f64>) {
    let [low, high] = range;
    let decades = (low.floor() as i32)..=(high.ceil() as i32);
    let inside = |at: &f64| (low..=high).contains(at);
    let minor = || decades.clone().flat_map(|d| (2..10).map(move |m| (d, m)));
    let place = |(d, m): (i32, i32)| f64::from(d) + f64::from(m).log10();
    let few = high - low < 2.0;
    let lines: Vec<f64> = if high - low <= 7.0 {
        minor().map(place).filter(inside).collect()
    } else {
        vec![]
    };
    let every = (((high - low) / want.max(1) as f64).ceil() as i32).max(1);
    let mut ticks: Vec<Tick> = decades
        .clone()
        .filter(|d| d.rem_euclid(every) == 0)
        .map(|d| Tick {
            position: f64::from(d),
            text: power_of_ten_text(d, 1),
        })
        .collect();
    if few {
        let labelled: &[i32] = if high - low < 1.2 {
            &[2, 3, 5, 7]
        } else {
            &[2, 5]
        };
        let between = minor().filter(|(_, m)| labelled.contains(m));
        ticks.extend(between.map(|(d, m)| Tick {
            position: place((d, m)),
            text: power_of_ten_text(d, m),
        }));
    }
    ticks.retain(|tick| inside(&tick.position));
    ticks.sort_by(|a, b| a.position.total_cmp(&b.position));
    (ticks, lines)
}

/// The text of m·10^d: plain from 10⁻³ to 10⁴, and with an exponent outside.
fn power_of_ten_text(d: i32, m: i32) -> String {
    if (-3..=4).contains(&d) {
        return format_fixed(f64::from(m) * 10f64.powi(d), (-d).max(0) as usize);
    }
    let times = if m == 1 {
        String::new()
    } else {
        format!("{m}×")
    };
    format!("{times}10{}", superscript(d))
}

/// Ticks at zero and at powers of ten of both signs, and the grid lines between them.
fn symlog_ticks(range: [f64; 2], decade: i32, scale: Scale, want: usize) -> (Vec<Tick>, Vec<f64>) {
    let inside = |at: &f64| (range[0]..=range[1]).contains(at);
    let reach = (range[1].max(-range[0]).ceil() as i32).clamp(1, 300);
    let both = range[0] < -0.5 && range[1] > 0.5;
    // If both signs are shown, each side may have `want` ticks: the ticks near zero are the closest
    // and the most read.
    let room = want.max(1) as f64 * if both { 1.0 } else { 0.7 };
    let every = (f64::from(reach) / room).ceil().max(1.0);
    let mut ticks = vec![Tick {
        position: 0.0,
        text: "0".into(),
    }];
    let mut minor = vec![];
    for d in 0..=reach {
        let Some(at) = scale.transform(10f64.powi(decade + d)) else {
            continue;
        };
        if d > 0 && d % every as i32 == 0 {
            ticks.push(Tick {
                position: at,
                text: power_of_ten_text(decade + d, 1),
            });
            ticks.push(Tick {
                position: -at,
                text: format!("−{}", power_of_ten_text(decade + d, 1)),
            });
        } else {
            minor.extend([at, -at]);
        }
    }
    ticks.retain(|tick| inside(&tick.position));
    ticks.sort_by(|a, b| a.position.total_cmp(&b.position));
    minor.retain(inside);
    (ticks, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|t| t.text.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(
            texts(&Axis::with_range("", [0.0, 1.0], 5)),
            ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(
            texts(&Axis::log("", [3.0, 2000.0], 5)),
            ["10", "100", "1000"]
        );
        assert_eq!(
            texts(&Axis::log("", [21.0, 80.0], 5)),
            ["20", "30", "50", "70"]
        );
    }

    #[test]
    fn every_axis_has_a_range_and_ticks() {
        let cases: [&[f64]; 8] = [
            &[],
            &[f64::NAN],
            &[0.0],
            &[1e6, 1e6],
            &[-1e300, 1e300],
            &[1e-300],
            &[5.0, 5.0 + 1e-13],
            &[-1e149, 1e149],
        ];
        for values in cases {
            let values = || values.iter().copied();
            for axis in [
                Axis::linear("x", values(), 5),
                Axis::log("x", values(), 5),
                Axis::linear_or_symlog("x", values(), 5),
            ] {
                assert!(axis.range[0] < axis.range[1], "{axis:?}");
                assert!(axis.range.iter().all(|v| v.is_finite()));
                assert!(!axis.ticks.is_empty() && axis.ticks.len() < 31, "{axis:?}");
            }
        }
    }

    #[test]
    fn values_of_many_magnitudes_get_a_symlog_axis() {
        let axis = Axis::linear_or_symlog("", [-2.0, 1.0, 3.0, 2.5, 40_000.0], 6);
        assert!(matches!(axis.scale, Scale::Symlog(_)));
        assert!(texts(&axis).contains(&"0"));
        let zero = axis.fraction(0.0);
        assert!(zero > axis.fraction(-2.0) && zero < axis.fraction(3.0));
    }

    #[test]
    fn undefined_values_have_no_position() {
        assert_eq!(Scale::Log.transform(0.0), None);
        assert_eq!(Scale::Linear.transform(f64::NAN), None);
        assert_eq!(Scale::Linear.transform(f64::INFINITY), None);
    }
}
