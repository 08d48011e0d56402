//! Estimates: a value, its standard error and how many draws stand behind it.

use serde::{Deserialize, Serialize};

/// Half-width of a 95 % normal interval in standard errors.
pub const Z95: f64 = 1.959_963_984_540_054;

/// A value with its standard error (absent where it is not defined) and its n.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub stderr: Option<f64>,
    pub n: usize,
}

/// The mean of independent values and its standard error; `None` of no values.
pub fn mean(values: &[f64]) -> Option<Estimate> {
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

/// Root mean square; `None` of no values.
pub fn rms(values: &[f64]) -> Option<f64> {
    let n = values.len();
    (n > 0).then(|| (values.iter().map(|v| v * v).sum::<f64>() / n as f64).sqrt())
}

/// Pearson correlation; `None` for fewer than three pairs or where one side is constant.
pub fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let (ma, mb) = (mean(a)?.value, mean(b)?.value);
    let moment =
        |x: &[f64], mx: f64, y: &[f64], my: f64| -> f64 { x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum() };
    let spread = (moment(a, ma, a, ma) * moment(b, mb, b, mb)).sqrt();
    (a.len() > 2 && spread > 0.0).then(|| moment(a, ma, b, mb) / spread)
}

/// Spearman's rank correlation, ties at their mean rank; `None` as for [`correlation`].
pub fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    correlation(&ranks(a), &ranks(b))
}

/// The rank of each value, from 0, equal values sharing the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|i, j| values[*i].total_cmp(&values[*j]));
    let mut ranks = vec![0.0; values.len()];
    for equal in order.chunk_by(|i, j| values[*i] == values[*j]) {
        let first = equal[0];
        let below = values.iter().filter(|v| v.total_cmp(&values[first]).is_lt()).count();
        equal.iter().for_each(|i| ranks[*i] = below as f64 + (equal.len() - 1) as f64 / 2.0);
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_of_known_values() {
        let e = mean(&[1.0, 2.0, 3.0, 4.0]).expect("four values");
        assert_eq!((e.value, e.n), (2.5, 4));
        assert!((e.stderr.expect("n > 1") - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-15);
        assert_eq!(mean(&[1.0]).expect("one value").stderr, None);
        assert_eq!(mean(&[]), None);
    }

    /// By hand: ranks (0, 1.5, 1.5, 3) and (0, 2, 1, 3); and any increasing function of a line.
    #[test]
    fn rank_correlation_of_known_values() {
        let (a, b) = ([1.0, 2.0, 2.0, 9.0], [0.1, 0.3, 0.2, 0.4]);
        assert_eq!(ranks(&a), [0.0, 1.5, 1.5, 3.0]);
        assert!((rank_correlation(&a, &b).expect("varies") - 4.5 / (4.5f64 * 5.0).sqrt()).abs() < 1e-15);
        let line = [3.0, -1.0, 0.5, 2.0];
        assert!((rank_correlation(&line, &line.map(f64::exp)).expect("varies") - 1.0).abs() < 1e-15);
        assert_eq!(rank_correlation(&line, &[1.0; 4]), None);
    }

    #[test]
    fn correlation_of_lines_and_of_nothing() {
        let a = [1.0, 2.0, 3.0];
        assert!((correlation(&a, &[2.0, 4.0, 6.0]).expect("varies") - 1.0).abs() < 1e-15);
        assert!((correlation(&a, &[3.0, 2.0, 1.0]).expect("varies") + 1.0).abs() < 1e-15);
        assert_eq!(correlation(&a, &[1.0, 1.0, 1.0]), None);
    }
}
