//! Random permutations of positions, and random subsets of positions without replacement.

use crate::num::key::{Purpose, RngKey};

/// The positions 0 to n − 1 in a random order, which depends on the seed and on `side`. Different
/// values of `side` give independent orders.
///
/// Positions refer to the hash order of a [`FeatureSet`](super::feature_set::FeatureSet), so the
/// chosen vectors do not depend on the input order of the samples.
pub(super) fn random_permutation(n: usize, key: RngKey, side: u64) -> Vec<usize> {
    argsort(key.uniform(Purpose::Split, side, 0, n).to_vec())
}

/// A random subset of `size` of n positions, in random order, without replacement. Different values
/// of `subset` give independent subsets.
pub(super) fn random_subset(n: usize, size: usize, key: RngKey, subset: u64) -> Vec<usize> {
    let mut order = argsort(key.uniform(Purpose::Subset, subset, 0, n).to_vec());
    order.truncate(size);
    order
}

/// The positions of the draws in ascending order of the draws.
fn argsort(draws: Vec<f64>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..draws.len()).collect();
    order.sort_by(|a, b| draws[*a].total_cmp(&draws[*b]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_permutations_differ_by_side_and_seed() {
        let key = RngKey { seed: 4 };
        let one = random_permutation(30, key, 0);
        let mut back = one.clone();
        back.sort_unstable();
        assert_eq!(back, (0..30).collect::<Vec<_>>());
        assert_ne!(one, random_permutation(30, key, 1));
        assert_ne!(one, random_permutation(30, RngKey { seed: 5 }, 0));
        assert_eq!(random_subset(30, 7, key, 3).len(), 7);
    }
}
