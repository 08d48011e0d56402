//! Random orders of positions, and positions drawn without replacement.

use crate::num::key::{Purpose, RngKey};

/// Positions 0 to n − 1 in an order drawn by the seed.
///
/// Positions are those of a [`Sample`](super::sample::Sample), whose order is its vectors' own: what is
/// drawn does not depend on the order in which the vectors came.
pub fn random_permutation(n: usize, key: RngKey, side: u64) -> Vec<usize> {
    argsort(key.uniform(Purpose::Split, side, 0, n).to_vec())
}

/// `size` of n positions, those with the smallest draws.
pub fn random_subset(n: usize, size: usize, key: RngKey, subset: u64) -> Vec<usize> {
    let mut order = argsort(key.uniform(Purpose::Subset, subset, 0, n).to_vec());
    order.truncate(size);
    order
}

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
