//! Random orders of samples that do not depend on the order in which the samples came.

use ndarray::{ArrayView1, ArrayView2};

use crate::num::key::{Key, Purpose};

/// The rows' indices in an order drawn by the seed: the rows are sorted before they are shuffled.
pub fn order(x: ArrayView2<f64>, key: Key, side: u64) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..x.nrows()).collect();
    rows.sort_by(|a, b| lexical(x.row(*a), x.row(*b)));
    let draws = key.uniform(Purpose::Split, side, 0, rows.len());
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|a, b| draws[*a].total_cmp(&draws[*b]));
    order.into_iter().map(|i| rows[i]).collect()
}

fn lexical(a: ArrayView1<f64>, b: ArrayView1<f64>) -> std::cmp::Ordering {
    let differing = a.iter().zip(b).map(|(a, b)| a.total_cmp(b)).find(|o| o.is_ne());
    differing.unwrap_or(std::cmp::Ordering::Equal)
}

#[cfg(test)]
mod tests {
    use ndarray::Axis;

    use super::*;
    use crate::metric::testing::normal;

    #[test]
    fn the_same_samples_come_in_the_same_order() {
        let x = normal(1, 30, 2, 0.0, 1.0);
        let back = x.slice(ndarray::s![..;-1, ..]);
        let key = Key { seed: 4 };
        let (one, two) = (order(x.view(), key, 0), order(back, key, 0));
        assert_eq!(x.select(Axis(0), &one), back.select(Axis(0), &two));
        assert_ne!(one, order(x.view(), key, 1));
    }
}
