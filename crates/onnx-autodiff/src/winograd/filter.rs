//! Minimal filtering algorithms: correlations with three weights along one axis from fewer products
//! than the nine, or three per result, that the definition takes.
//!
//! An algorithm computes `y = A ((G g) ∘ (B d))` from weights `g` and elements `d` of the signal.
//! `G g` is computed once, and B and A are sparse and small, so that the products remain: of an
//! image with many channels there is one for each pair of an input and an output channel.
//!
//! Source: S. Winograd, Arithmetic Complexity of Computations (SIAM, 1980); for networks, A. Lavin
//! and S. Gray, Fast Algorithms for Convolutional Neural Networks (CVPR 2016).

/// The number of weights.
pub(super) const TAPS: usize = 3;

/// A minimal filtering algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Filter {
    /// F(2, 3): two results from four products. Its rounding error is that of the definition.
    TwoResults,
    /// F(4, 3): four results from six products. Its rounding error is 1.5 times that of the
    /// definition.
    FourResults,
    /// Two results at each element of a signal that is repeated twice, from three products of the
    /// signal as it is.
    Doubled,
}

impl Filter {
    /// Returns the number of results of one application.
    pub(super) fn results(self) -> usize {
        match self {
            Filter::TwoResults | Filter::Doubled => 2,
            Filter::FourResults => 4,
        }
    }

    /// Returns the number of products of one application.
    pub(super) fn products(self) -> usize {
        match self {
            Filter::Doubled => 3,
            _ => self.results() + TAPS - 1,
        }
    }

    /// Returns how many elements of the signal lie between two applications.
    pub(super) fn step(self) -> usize {
        match self {
            Filter::Doubled => 1,
            _ => self.results(),
        }
    }

    /// Returns the positive points of the polynomials that the algorithm interpolates. The others
    /// are their negatives, zero and infinity. Powers of these points are exact in float32, and the
    /// rounding error with 5/8 and 3/2 is two thirds of that with the usual 1 and 2.
    pub(super) fn points(self) -> &'static [f64] {
        match self {
            Filter::TwoResults => &[1.0],
            Filter::FourResults => &[0.625, 1.5],
            Filter::Doubled => &[],
        }
    }

    /// Returns the matrix B, one row for each product. The first element of `d` lies one before the
    /// first element that a result stands at.
    pub(super) fn signal(self) -> Vec<Vec<f64>> {
        if self == Filter::Doubled {
            return vec![
                vec![1.0, -1.0, 0.0],
                vec![0.0, 1.0, 0.0],
                vec![0.0, 1.0, -1.0],
            ];
        }
        let points = self.finite_points();
        let mut rows: Vec<Vec<f64>> = (0..points.len())
            .map(|i| {
                let others = points.iter().enumerate().filter(|(k, _)| *k != i);
                let mut row = with_roots(others.map(|(_, point)| *point));
                row.push(0.0);
                row
            })
            .collect();
        rows.push(with_roots(points.into_iter()));
        rows
    }

    /// Returns the matrix G, one row for each product.
    pub(super) fn weights(self) -> Vec<[f64; TAPS]> {
        if self == Filter::Doubled {
            return vec![[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, -1.0]];
        }
        let points = self.finite_points();
        let mut rows: Vec<[f64; TAPS]> = (points.iter().enumerate())
            .map(|(i, point)| {
                let others = points.iter().enumerate().filter(|(k, _)| *k != i);
                let scale: f64 = others.map(|(_, other)| point - other).product();
                [1.0 / scale, point / scale, point * point / scale]
            })
            .collect();
        rows.push([0.0, 0.0, 1.0]);
        rows
    }

    /// Returns the matrix A, one row for each result.
    pub(super) fn results_of_products(self) -> Vec<Vec<f64>> {
        if self == Filter::Doubled {
            return vec![vec![1.0, 1.0, 0.0], vec![0.0, 1.0, 1.0]];
        }
        let last = self.results() - 1;
        (0..=last)
            .map(|power| {
                let mut row: Vec<f64> = (self.finite_points().iter())
                    .map(|point| point.powi(power as i32))
                    .collect();
                row.push(if power == last { 1.0 } else { 0.0 });
                row
            })
            .collect()
    }

    /// Returns, for each product, the multiple of a constant that is added to it so that the
    /// constant is added to each result.
    pub(super) fn shares(self) -> Vec<f64> {
        let Some(point) = self.points().last() else {
            return vec![0.0, 1.0, 0.0];
        };
        // The pair ±p carries the constant to all results but the first and the last.
        let (sum, difference) = (1.0 / (point * point), 1.0 / point);
        let pair = self.products() - 3;
        let mut shares = vec![0.0; self.products()];
        shares[0] = 1.0 - sum;
        shares[pair] = (sum + difference) / 2.0;
        shares[pair + 1] = (sum - difference) / 2.0;
        shares[pair + 2] = 1.0 - point.powi(self.results() as i32 - 2);
        shares
    }

    /// Returns all points but infinity, in the order of the products.
    fn finite_points(self) -> Vec<f64> {
        let pairs = self.points().iter().flat_map(|p| [*p, -*p]);
        std::iter::once(0.0).chain(pairs).collect()
    }
}

/// Returns the coefficients of the polynomial with the given roots, the lowest first.
fn with_roots(roots: impl Iterator<Item = f64>) -> Vec<f64> {
    roots.fold(vec![1.0], |factors, root| {
        let shifted = std::iter::once(0.0).chain(factors.iter().copied());
        let scaled = factors.iter().map(|c| -root * c).chain([0.0]);
        shifted.zip(scaled).map(|(a, b)| a + b).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Filter; 3] = [Filter::TwoResults, Filter::FourResults, Filter::Doubled];

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    fn combined(filter: Filter, products: &[f64]) -> Vec<f64> {
        let rows = filter.results_of_products();
        rows.iter().map(|row| dot(row, products)).collect()
    }

    fn products(filter: Filter, d: &[f64], g: [f64; TAPS]) -> Vec<f64> {
        filter
            .signal()
            .iter()
            .zip(filter.weights())
            .map(|(row, weights)| {
                assert_eq!(row.len(), d.len());
                dot(row, d) * dot(&weights, &g)
            })
            .collect()
    }

    #[test]
    fn every_algorithm_gives_the_correlation() {
        for filter in ALL {
            let span = filter.signal()[0].len();
            let d: Vec<f64> = (0..span).map(|i| (1.7 * i as f64).sin()).collect();
            let g = [0.3, -1.1, 0.7];
            // The doubled signal of d₋₁, d₀, d₁, of which results stand at both copies of d₀.
            let signal: Vec<f64> = match filter {
                Filter::Doubled => vec![d[0], d[1], d[1], d[2]],
                _ => d.clone(),
            };
            let right =
                (0..filter.results()).map(|j| (0..TAPS).map(|i| signal[j + i] * g[i]).sum::<f64>());
            let found = combined(filter, &products(filter, &d, g));
            assert_eq!(found.len(), filter.results());
            for (a, b) in found.iter().zip(right) {
                assert!((a - b).abs() < 1e-14, "{filter:?}: {a} and {b}");
            }
        }
    }

    #[test]
    fn shares_add_the_constant_to_every_result() {
        for filter in ALL {
            let found = combined(filter, &filter.shares());
            assert!(
                found.iter().all(|y| (y - 1.0).abs() < 1e-15),
                "{filter:?}: {found:?}"
            );
        }
    }

    #[test]
    fn the_signal_is_combined_with_numbers_that_float32_has() {
        for filter in ALL {
            for c in filter.signal().into_iter().flatten() {
                assert_eq!(f64::from(c as f32), c, "{filter:?}");
            }
        }
    }

    #[test]
    fn there_are_fewer_products_than_by_definition() {
        for (filter, products) in ALL.into_iter().zip([4, 6, 3]) {
            assert_eq!(filter.products(), products);
            assert!(products < TAPS * filter.results());
        }
    }
}
