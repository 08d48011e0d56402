//! Tail probabilities of the binomial, χ² and Kolmogorov distributions, in f64.
//!
//! Sums and recursions are exact up to rounding: about 1e-13 absolute. Only the Kolmogorov
//! distribution of more than [`MAX_EXACT_KOLMOGOROV`] values is an expansion.

use super::stats::normal_two_sided_p;

/// The part of ln n! that Stirling's formula leaves out: ln n! − ((n + ½) ln n − n + ½ ln 2π).
fn stirling_error(n: usize) -> f64 {
    if n < 16 {
        let factorial: f64 = (1..=n).map(|i| i as f64).product();
        let n = n as f64;
        let leading = if n > 0.0 { (n + 0.5) * n.ln() - n } else { 0.0 };
        return factorial.ln() - leading - 0.5 * (2.0 * std::f64::consts::PI).ln();
    }
    let n = n as f64;
    let square = n * n;
    (1.0 / 12.0
        - (1.0 / 360.0 - (1.0 / 1260.0 - (1.0 / 1680.0 - 1.0 / 1188.0 / square) / square) / square)
            / square)
        / n
}

/// x ln(x/m) + m − x, without cancellation for x near m.
fn deviance(x: f64, m: f64) -> f64 {
    let gap = (x - m) / (x + m);
    if gap.abs() >= 0.1 {
        return x * (x / m).ln() + m - x;
    }
    // ln(x/m) = 2 artanh(gap), as a series.
    let (mut power, mut sum, mut k) = (2.0 * x * gap * gap * gap, (x - m) * gap, 3.0);
    loop {
        let next = sum + power / k;
        if next == sum {
            return sum;
        }
        sum = next;
        power *= gap * gap;
        k += 2.0;
    }
}

/// The probability of `x` successes in `n` trials with probability `p` each (Loader 2000).
pub fn binomial_probability(n: usize, p: f64, x: usize) -> f64 {
    if x > n {
        return 0.0;
    }
    if p <= 0.0 || p >= 1.0 {
        let only = if p <= 0.0 { 0 } else { n };
        return f64::from(u8::from(x == only));
    }
    let (size, count) = (n as f64, x as f64);
    if x == 0 {
        return (size * (-p).ln_1p()).exp();
    }
    if x == n {
        return (size * p.ln()).exp();
    }
    let rest = size - count;
    let log = stirling_error(n)
        - stirling_error(x)
        - stirling_error(n - x)
        - deviance(count, size * p)
        - deviance(rest, size * (1.0 - p));
    log.exp() * (size / (2.0 * std::f64::consts::PI * count * rest)).sqrt()
}

/// The probability of `x` events of a Poisson distribution with this mean.
pub fn poisson_probability(mean: f64, x: usize) -> f64 {
    if mean <= 0.0 {
        return f64::from(u8::from(x == 0));
    }
    if x == 0 {
        return (-mean).exp();
    }
    let count = x as f64;
    (-stirling_error(x) - deviance(count, mean)).exp() / (2.0 * std::f64::consts::PI * count).sqrt()
}

/// The probability of at most `x` successes in `n` trials with probability `p` each.
pub fn binomial_at_most(n: usize, p: f64, x: usize) -> f64 {
    if x >= n {
        return 1.0;
    }
    if x as f64 > n as f64 * p {
        return 1.0 - binomial_at_least(n, p, x + 1);
    }
    let (mut term, mut sum) = (binomial_probability(n, p, x), 0.0);
    for k in (0..=x).rev() {
        sum += term;
        if term < 1e-18 * sum {
            break;
        }
        term *= k as f64 / (n - k + 1) as f64 * (1.0 - p) / p;
    }
    sum.min(1.0)
}

/// The probability of at least `x` successes in `n` trials with probability `p` each.
pub fn binomial_at_least(n: usize, p: f64, x: usize) -> f64 {
    if x == 0 {
        return 1.0;
    }
    if x > n {
        return 0.0;
    }
    if (x as f64) < n as f64 * p {
        return 1.0 - binomial_at_most(n, p, x - 1);
    }
    let (mut term, mut sum) = (binomial_probability(n, p, x), 0.0);
    for k in x..=n {
        sum += term;
        if term < 1e-18 * sum {
            break;
        }
        term *= (n - k) as f64 / (k + 1) as f64 * p / (1.0 - p);
    }
    sum.min(1.0)
}

/// Twice the smaller tail of a binomial count, at most 1: the two-sided p-value of `x`.
pub fn binomial_two_sided_p(n: usize, p: f64, x: usize) -> f64 {
    let smaller = binomial_at_most(n, p, x).min(binomial_at_least(n, p, x));
    (2.0 * smaller).min(1.0)
}

/// The confidence interval of a probability after `x` successes in `n` trials (Clopper and Pearson
/// 1934). It covers the probability in at least the share `confidence` of all cases.
pub fn binomial_interval(n: usize, x: usize, confidence: f64) -> [f64; 2] {
    let tail = 0.5 * (1.0 - confidence);
    let root = |rises: &dyn Fn(f64) -> bool| {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if rises(middle) {
                high = middle
            } else {
                low = middle
            }
        }
        0.5 * (low + high)
    };
    let low = match x {
        0 => 0.0,
        _ => root(&|p| binomial_at_least(n, p, x) > tail),
    };
    let high = match x {
        _ if x >= n => 1.0,
        _ => root(&|p| binomial_at_most(n, p, x) < tail),
    };
    [low, high]
}

/// The probability that a χ² variable with `dof` degrees of freedom exceeds `x`.
pub fn chi_square_tail(x: f64, dof: usize) -> f64 {
    if x <= 0.0 || dof == 0 {
        return 1.0;
    }
    // Q(a, h) with h = x/2 rises by hᵃ e⁻ʰ/Γ(a + 1) from a to a + 1.
    let half = 0.5 * x;
    let odd = dof % 2 == 1;
    let (mut a, mut sum, mut term) = match odd {
        true => (
            0.5,
            normal_two_sided_p(x.sqrt()),
            (0.5 * half.ln() - half).exp() * std::f64::consts::FRAC_2_SQRT_PI,
        ),
        false => (1.0, (-half).exp(), (half.ln() - half).exp()),
    };
    for _ in 0..(dof - 1) / 2 {
        sum += term;
        a += 1.0;
        term *= half / a;
    }
    sum.min(1.0)
}

/// The largest number of values whose Kolmogorov distribution is computed exactly.
pub const MAX_EXACT_KOLMOGOROV: usize = 4000;

/// The probability that the empirical distribution function of `n` uniform values deviates by `d` or
/// more from the line.
///
/// Up to [`MAX_EXACT_KOLMOGOROV`] values it is exact to about 1e-13: the matrix formula of
/// Marsaglia, Tsang and Wang (2003) in the middle and twice the one-sided probability of Smirnov in
/// the tail. Beyond, it is Vrbik's expansion (2018), with an error below 1e-5.
pub fn kolmogorov_tail(n: usize, d: f64) -> f64 {
    if n == 0 || d <= 0.0 {
        return 1.0;
    }
    if d >= 1.0 {
        return 0.0;
    }
    let root = (n as f64).sqrt();
    let scaled = d * root;
    if scaled * scaled >= 4.0 {
        return (2.0 * smirnov_tail(n, d)).min(1.0);
    }
    if n > MAX_EXACT_KOLMOGOROV {
        let moved = scaled + 1.0 / (6.0 * root) + (scaled - 1.0) / (4.0 * n as f64);
        return kolmogorov_limit_tail(moved);
    }
    (1.0 - kolmogorov_by_matrix(n, d)).clamp(0.0, 1.0)
}

/// 2 Σ (−1)ᵏ⁻¹ exp(−2 k² s²), the limit for many values.
fn kolmogorov_limit_tail(s: f64) -> f64 {
    if s < 0.2 {
        return 1.0;
    }
    let terms = (1..=100).map(|k| {
        let sign = if k % 2 == 1 { 2.0 } else { -2.0 };
        sign * (-2.0 * (k * k) as f64 * s * s).exp()
    });
    terms.sum::<f64>().clamp(0.0, 1.0)
}

/// The probability that the empirical distribution function exceeds the line by `d` or more
/// somewhere (Birnbaum and Tingey 1951).
fn smirnov_tail(n: usize, d: f64) -> f64 {
    let size = n as f64;
    let last = (size * (1.0 - d)).floor() as usize;
    (0..=last)
        .map(|j| {
            let at = d + j as f64 / size;
            // C(n, j) atʲ (1 − at)ⁿ⁻ʲ is a binomial probability.
            d / at * binomial_probability(n, at.min(1.0), j)
        })
        .sum()
}

/// The probability that the largest deviation of `n` uniform values is below `d` (Marsaglia, Tsang
/// and Wang 2003).
fn kolmogorov_by_matrix(n: usize, d: f64) -> f64 {
    let size = n as f64;
    let k = (size * d).floor() as usize + 1;
    let m = 2 * k - 1;
    let h = k as f64 - size * d;
    let mut matrix = vec![0.0; m * m];
    for i in 0..m {
        for j in 0..m {
            matrix[i * m + j] = f64::from(u8::from(i + 1 >= j));
        }
    }
    for i in 0..m {
        matrix[i * m] -= h.powi(i as i32 + 1);
        matrix[(m - 1) * m + i] -= h.powi((m - i) as i32);
    }
    matrix[(m - 1) * m] += (2.0 * h - 1.0).max(0.0).powi(m as i32);
    for i in 0..m {
        for j in 0..m {
            if i + 1 > j {
                (1..=i + 1 - j).for_each(|g| matrix[i * m + j] /= g as f64);
            }
        }
    }
    let (power, mut exponent) = matrix_power(&matrix, m, n);
    let mut value = power[(k - 1) * m + k - 1];
    for i in 1..=n {
        value *= i as f64 / size;
        if value < 1e-140 {
            value *= 1e140;
            exponent -= 140;
        }
    }
    value * 10f64.powi(exponent)
}

/// The `n`-th power of an m × m matrix as a matrix and a decimal exponent.
fn matrix_power(a: &[f64], m: usize, n: usize) -> (Vec<f64>, i32) {
    if n == 1 {
        return (a.to_vec(), 0);
    }
    let (half, exponent) = matrix_power(a, m, n / 2);
    let mut square = square_product(&half, &half, m);
    let mut exponent = 2 * exponent;
    if n % 2 == 1 {
        square = square_product(a, &square, m);
    }
    let middle = square[(m / 2) * m + m / 2];
    if middle > 1e140 {
        square.iter_mut().for_each(|v| *v *= 1e-140);
        exponent += 140;
    }
    (square, exponent)
}

/// The product of two m × m matrices, row by row.
fn square_product(a: &[f64], b: &[f64], m: usize) -> Vec<f64> {
    let mut product = vec![0.0; m * m];
    for (row, out) in a.chunks_exact(m).zip(product.chunks_exact_mut(m)) {
        for (factor, other) in row.iter().zip(b.chunks_exact(m)) {
            if *factor != 0.0 {
                out.iter_mut()
                    .zip(other)
                    .for_each(|(out, v)| *out += factor * v);
            }
        }
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, known: f64) {
        assert!(
            (found - known).abs() < 1e-13 * (1.0 + known.abs()),
            "{found:e}, expected {known:e}"
        );
    }

    #[test]
    fn probabilities_match_scipy() {
        // scipy 1.17: binom.pmf, binom.cdf, binom.sf, poisson.pmf, chi2.sf.
        for (n, p, x, pmf, at_most, at_least) in [
            (
                10,
                0.3,
                4,
                0.20012094899999988,
                0.8497316674000001,
                0.3503892815999998,
            ),
            (
                500,
                0.95,
                480,
                0.05161619253664078,
                0.8727654760909439,
                0.17885071644569692,
            ),
            (
                1000,
                0.001,
                3,
                0.061282509389840666,
                0.9810731665496396,
                0.080209342840201,
            ),
            (
                100_000,
                0.5,
                50_500,
                1.700012400317946e-05,
                0.9992258201845774,
                0.0007911799394257577,
            ),
        ] {
            near(binomial_probability(n, p, x), pmf);
            near(binomial_at_most(n, p, x), at_most);
            near(binomial_at_least(n, p, x), at_least);
        }
        near(poisson_probability(3.5, 2), 0.18495897346170082);
        near(poisson_probability(400.0, 433), 0.00509351467798609);
        for (x, dof, tail) in [
            (3.84, 1, 0.05004352124870519),
            (12.5, 7, 0.08526927515826925),
            (30.0, 24, 0.18475179902393143),
            (80.0, 40, 0.0001763028977385677),
            (0.2, 3, 0.9775892977616494),
        ] {
            near(chi_square_tail(x, dof), tail);
        }
    }

    #[test]
    fn intervals_match_scipy() {
        // scipy 1.17: binomtest(x, n).proportion_ci(0.95, "exact").
        for (n, x, low, high) in [
            (500, 470, 0.9154514462923983, 0.9591558182369319),
            (20, 0, 0.0, 0.16843347098308548),
            (20, 20, 0.8315665290169145, 1.0),
            (1000, 13, 0.006939617502847037, 0.022127803636780307),
        ] {
            let found = binomial_interval(n, x, 0.95);
            assert!(
                (found[0] - low).abs() < 1e-12 && (found[1] - high).abs() < 1e-12,
                "{found:?}"
            );
        }
    }

    #[test]
    fn kolmogorov_tails_match_scipy() {
        // scipy 1.17: kstwo.sf, and _ksstats._kolmogn_DMTW for 1000 values, where kstwo.sf is an
        // expansion.
        for (n, d, tail, tolerance) in [
            (10, 0.5, 0.00777741, 1e-13),
            (60, 0.03, 0.9999999744479303, 1e-13),
            (100, 0.05, 0.9532159710635725, 1e-13),
            (100, 0.1, 0.2526927570063874, 1e-13),
            (100, 0.25, 5.408871776434847e-06, 1e-13),
            (140, 0.09, 0.1946946629845738, 1e-13),
            (1000, 0.02, 0.8108971310702145, 1e-12),
            (2000, 0.05, 8.74309579589503e-05, 1e-13),
        ] {
            let found = kolmogorov_tail(n, d);
            assert!((found - tail).abs() < tolerance, "{n} {d}: {found:e}");
        }
        // The expansion continues the exact formula.
        let moved = |n: usize, s: f64| {
            let root = (n as f64).sqrt();
            kolmogorov_limit_tail(s + 1.0 / (6.0 * root) + (s - 1.0) / (4.0 * n as f64))
        };
        for s in [0.6, 0.9, 1.36, 1.9] {
            let n = 2000;
            let exact = kolmogorov_tail(n, s / (n as f64).sqrt());
            assert!((exact - moved(n, s)).abs() < 2e-5, "{s}: {exact}");
        }
    }
}
