//! Estimates: a value, its standard error, and the number of values behind it.

use serde::{Deserialize, Serialize};

/// Half the width of a 95 % normal interval, in standard errors.
pub const Z95: f64 = 1.959_963_984_540_054;

/// Half the width of a 95 % confidence interval of a mean, in standard errors with `dof` degrees of
/// freedom.
///
/// It is the quantile of Student's t, accurate to about 1e-10. A normal interval from four values
/// would cover the truth in only 86 % of cases.
pub fn t95(dof: usize) -> f64 {
    student_t_quantile(0.95, dof)
}

/// Half the width of a confidence interval of a mean, in standard errors with `dof` degrees of
/// freedom. `confidence` is below 1.
pub fn student_t_quantile(confidence: f64, dof: usize) -> f64 {
    invert_probability(confidence, |t| student_t_central_probability(t, dof))
}

/// Half the width of the confidence interval of a mean with the standard error `stderr`.
/// `confidence` is below 1.
///
/// It is Student's t if `n` values are behind the mean, and the normal distribution if `n` is
/// unknown. For the difference of two sets of values, `n` is the smaller number. Tables, pages,
/// figures and gates use no other kind of interval.
pub fn confidence_half_width(stderr: f64, n: Option<usize>, confidence: f64) -> f64 {
    stderr
        * match n {
            Some(n) if n > 1 => student_t_quantile(confidence, n - 1),
            _ => normal_quantile(confidence),
        }
}

/// Half the width of a normal interval, in standard errors. `confidence` is below 1.
pub fn normal_quantile(confidence: f64) -> f64 {
    invert_probability(confidence, |z| 1.0 - normal_two_sided_p(z))
}

/// The argument at which a probability, which rises from 0, reaches `confidence`.
fn invert_probability(confidence: f64, probability: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while probability(high) < confidence && high < 1e9 {
        (low, high) = (high, 2.0 * high);
    }
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if probability(middle) < confidence {
            low = middle
        } else {
            high = middle
        }
    }
    0.5 * (low + high)
}

/// The probability that |t| ≤ `t` with `dof` degrees of freedom (Abramowitz & Stegun 26.7.3 and
/// 26.7.4).
fn student_t_central_probability(t: f64, dof: usize) -> f64 {
    // The sum has dof/2 terms. Beyond this limit the normal distribution is close enough and is
    // computed at once.
    if dof > 2000 {
        return 1.0 - normal_two_sided_p(t);
    }
    let theta = (t / (dof as f64).sqrt()).atan();
    let cosine = theta.cos();
    let (mut term, mut sum) = (if dof % 2 == 1 { cosine } else { 1.0 }, 0.0);
    let mut k = if dof % 2 == 1 { 2.0 } else { 1.0 };
    for _ in 0..dof / 2 {
        sum += term;
        term *= cosine * cosine * k / (k + 1.0);
        k += 2.0;
    }
    match dof % 2 {
        1 => (theta + theta.sin() * sum) * std::f64::consts::FRAC_2_PI,
        _ => theta.sin() * sum,
    }
}

/// The probability that a standard normal draw lies farther from zero than `z`, to a relative
/// accuracy of about 1e-14.
pub fn normal_two_sided_p(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    if x < 2.0 {
        // 1 − erf by its series.
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    // erfc by its continued fraction, from the inside out.
    let fraction = (1..=120).rev().fold(x, |f, n| x + 0.5 * n as f64 / f);
    (-x * x).exp() / fraction / std::f64::consts::PI.sqrt()
}

/// The standard normal distribution function, to a relative accuracy of about 1e-13 in the lower tail.
pub fn normal_cdf(z: f64) -> f64 {
    let outside = 0.5 * normal_two_sided_p(z);
    if z < 0.0 { outside } else { 1.0 - outside }
}

/// A value with its standard error and the number of values behind it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The estimated value.
    pub value: f64,
    /// The standard error. `None` if it is not defined, as for a single value.
    pub stderr: Option<f64>,
    /// The number of values behind the estimate.
    pub n: usize,
}

/// The mean of independent values with its standard error. `None` if there are no values.
pub fn mean_estimate(values: &[f64]) -> Option<Estimate> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let value = values.iter().sum::<f64>() / n as f64;
    let stderr = (n > 1).then(|| {
        let square = values.iter().map(|v| (v - value).powi(2)).sum::<f64>();
        (square / (n - 1) as f64 / n as f64).sqrt()
    });
    Some(Estimate { value, stderr, n })
}

/// The root mean square. `None` if there are no values.
pub fn rms(values: &[f64]) -> Option<f64> {
    let n = values.len();
    (n > 0).then(|| (values.iter().map(|v| v * v).sum::<f64>() / n as f64).sqrt())
}

/// The Pearson correlation. `None` for fewer than three pairs, or if one side is constant.
pub fn pearson_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let (ma, mb) = (mean_estimate(a)?.value, mean_estimate(b)?.value);
    let moment = |x: &[f64], mx: f64, y: &[f64], my: f64| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum()
    };
    let spread = (moment(a, ma, a, ma) * moment(b, mb, b, mb)).sqrt();
    (a.len() > 2 && spread > 0.0).then(|| moment(a, ma, b, mb) / spread)
}

/// Spearman's rank correlation, with tied values at their mean rank. `None` for fewer than three
/// pairs, or if one side is constant.
pub fn spearman_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    pearson_correlation(&ranks(a), &ranks(b))
}

/// The rank of each value, from 0. Equal values share the mean of their ranks.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|i, j| values[*i].total_cmp(&values[*j]));
    let mut ranks = vec![0.0; values.len()];
    for equal in order.chunk_by(|i, j| values[*i] == values[*j]) {
        let first = equal[0];
        let below = values
            .iter()
            .filter(|v| v.total_cmp(&values[first]).is_lt())
            .count();
        equal
            .iter()
            .for_each(|i| ranks[*i] = below as f64 + (equal.len() - 1) as f64 / 2.0);
    }
    ranks
}

/// The value below which the weight is `share` of the whole. `pairs` are weights with their values,
/// and between two values the quantile is interpolated. 0 if there are no pairs.
pub fn weighted_quantile(mut pairs: Vec<(f64, f64)>, share: f64) -> f64 {
    pairs.sort_by(|a, b| a.1.total_cmp(&b.1));
    let total: f64 = pairs.iter().map(|(weight, _)| weight).sum();
    let (mut below, mut last) = (0.0, None);
    for (weight, value) in &pairs {
        // Half of a value's weight lies below it.
        let place = (below + 0.5 * weight) / total;
        if place >= share {
            return match last {
                Some((before, lower)) if place > before => {
                    lower + (value - lower) * (share - before) / (place - before)
                }
                _ => *value,
            };
        }
        (below, last) = (below + weight, Some((place, *value)));
    }
    last.map_or(0.0, |(_, value)| value)
}

/// The difference a − b of two independent estimates. Its standard error combines both standard
/// errors.
pub fn independent_difference(a: Estimate, b: Estimate) -> Estimate {
    let stderr = a.stderr.zip(b.stderr).map(|(a, b)| a.hypot(b));
    Estimate {
        value: a.value - b.value,
        stderr,
        n: a.n.min(b.n),
    }
}

/// The area under the ROC curve, P(x > y) + ½ P(x = y), with the standard error of DeLong, DeLong
/// and Clarke-Pearson (Biometrics 44, 1988). `None` if a side has no values.
///
/// The standard error is `None` for fewer than two values on a side, and if the sides do not
/// overlap. In that case the formula gives zero, which no finite number of samples can justify.
pub fn auroc(x: &[f64], y: &[f64]) -> Option<Estimate> {
    let below = |sorted: &[f64], v: f64| {
        let (less, upto) = (
            sorted.partition_point(|s| *s < v),
            sorted.partition_point(|s| *s <= v),
        );
        0.5 * (less + upto) as f64 / sorted.len() as f64
    };
    let sorted = |v: &[f64]| {
        let mut v = v.to_vec();
        v.sort_by(f64::total_cmp);
        v
    };
    let (xs, ys) = (sorted(x), sorted(y));
    if xs.is_empty() || ys.is_empty() {
        return None;
    }
    let of_x = mean_estimate(&x.iter().map(|v| below(&ys, *v)).collect::<Vec<_>>())?;
    let of_y = mean_estimate(&y.iter().map(|v| 1.0 - below(&xs, *v)).collect::<Vec<_>>())?;
    let stderr = of_x
        .stderr
        .zip(of_y.stderr)
        .map(|(a, b)| a.hypot(b))
        .filter(|e| *e > 0.0);
    Some(Estimate {
        value: of_x.value,
        stderr,
        n: x.len().min(y.len()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_of_known_values() {
        let e = mean_estimate(&[1.0, 2.0, 3.0, 4.0]).expect("four values");
        assert_eq!((e.value, e.n), (2.5, 4));
        assert!((e.stderr.expect("n > 1") - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-15);
        assert_eq!(mean_estimate(&[1.0]).expect("one value").stderr, None);
        assert_eq!(mean_estimate(&[]), None);
    }

    /// Tables of the quantiles of Student's t and of the normal law.
    #[test]
    fn interval_half_widths_match_published_tables() {
        for (confidence, dof, expected) in [
            (0.95, 1, 12.706_204_736),
            (0.95, 4, 2.776_445_105),
            (0.99, 100, 2.625_890_521),
            (0.999, 1, 636.619_248_9),
        ] {
            assert!(
                (student_t_quantile(confidence, dof) / expected - 1.0).abs() < 1e-8,
                "{confidence} {dof}: {}",
                student_t_quantile(confidence, dof)
            );
        }
        assert!((normal_quantile(0.95) - Z95).abs() < 1e-10);
        assert!((confidence_half_width(2.0, Some(5), 0.95) - 2.0 * 2.776_445_105).abs() < 1e-7);
        assert!((confidence_half_width(2.0, None, 0.95) - 2.0 * Z95).abs() < 1e-9);
        assert!((normal_quantile(0.99) - 2.575_829_303_5).abs() < 1e-9);
    }

    /// Ranks computed by hand, (0, 1.5, 1.5, 3) and (0, 2, 1, 3), and an increasing function.
    #[test]
    fn spearman_correlation_of_known_values() {
        let (a, b) = ([1.0, 2.0, 2.0, 9.0], [0.1, 0.3, 0.2, 0.4]);
        assert_eq!(ranks(&a), [0.0, 1.5, 1.5, 3.0]);
        assert!(
            (spearman_correlation(&a, &b).expect("varies") - 4.5 / (4.5f64 * 5.0).sqrt()).abs()
                < 1e-15
        );
        let line = [3.0, -1.0, 0.5, 2.0];
        assert!(
            (spearman_correlation(&line, &line.map(f64::exp)).expect("varies") - 1.0).abs() < 1e-15
        );
        assert_eq!(spearman_correlation(&line, &[1.0; 4]), None);
    }

    #[test]
    fn auroc_counts_pairs_and_ties() {
        let area = |x: &[f64], y: &[f64]| auroc(x, y).expect("values");
        // 1 > 0; 3 > 0 and 2; 2 > 0 and ties with 2: 4½ of 6 pairs.
        let e = area(&[1.0, 3.0, 2.0], &[0.0, 2.0]);
        assert!((e.value - 4.5 / 6.0).abs() < 1e-15, "{e:?}");
        // By hand: the placements are ½, 1, ¾ and 1, ½; variances 1/16 and 1/8; SE² = 1/48 + 1/16.
        assert!(
            (e.stderr.expect("overlap").powi(2) - (1.0 / 48.0 + 1.0 / 16.0)).abs() < 1e-15,
            "{e:?}"
        );
        assert_eq!(
            area(&[2.0, 3.0], &[0.0, 1.0]),
            Estimate {
                value: 1.0,
                stderr: None,
                n: 2
            }
        );
        assert_eq!(area(&[0.0, 0.0], &[0.0, 0.0]).value, 0.5);
        assert_eq!(auroc(&[], &[1.0]), None);
    }

    /// The coverage of the 95 % interval is nominal for two normal distributions whose means
    /// differ by 1, where the truth is Φ(1/√2).
    #[test]
    fn auroc_stderr_has_nominal_coverage() {
        use crate::num::key::{Purpose, RngKey};
        let (trials, n, truth) = (1000, 64, 0.760_249_938_906_522_9);
        let draw = |i: u64| RngKey { seed: 5 }.normal(Purpose::Check, i, 0, n).to_vec();
        let covered = (0..trials).filter(|i| {
            let x: Vec<f64> = draw(2 * i).iter().map(|v| v + 1.0).collect();
            let e = auroc(&x, &draw(2 * i + 1)).expect("values");
            (e.value - truth).abs() <= Z95 * e.stderr.expect("overlap")
        });
        let share = covered.count() as f64 / trials as f64;
        assert!((0.92..0.97).contains(&share), "{share}");
    }

    #[test]
    fn t_quantiles_and_normal_tails_match_published_tables() {
        for (dof, known) in [
            (1, 12.706205),
            (2, 4.302653),
            (3, 3.182446),
            (4, 2.776445),
            (7, 2.364624),
            (30, 2.042272),
        ] {
            assert!((t95(dof) - known).abs() < 1e-6, "{dof}: {}", t95(dof));
        }
        assert!((t95(1999) - t95(2001)).abs() < 2e-3 && (t95(1_000_000) - Z95).abs() < 1e-9);
        for (z, known) in [
            (0.0, 1.0),
            (1.0, 0.317310507862914),
            (Z95, 0.05),
            (4.0, 6.33424836662398e-5),
        ] {
            assert!(
                (normal_two_sided_p(z) - known).abs() < 1e-13,
                "{z}: {}",
                normal_two_sided_p(z)
            );
        }
        assert!(
            (normal_two_sided_p(2.8284) / normal_two_sided_p(2.8285) - 1.0).abs() < 1e-3
                && normal_two_sided_p(30.0) < 1e-190
        );
    }

    #[test]
    fn pearson_correlation_of_lines_and_constants() {
        let a = [1.0, 2.0, 3.0];
        assert!((pearson_correlation(&a, &[2.0, 4.0, 6.0]).expect("varies") - 1.0).abs() < 1e-15);
        assert!((pearson_correlation(&a, &[3.0, 2.0, 1.0]).expect("varies") + 1.0).abs() < 1e-15);
        assert_eq!(pearson_correlation(&a, &[1.0, 1.0, 1.0]), None);
    }
}
