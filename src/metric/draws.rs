//! Random orders of positions, and positions drawn without replacement.

use crate::num::key::{Key, Purpose};

/// Positions 0 to n − 1 in an order drawn by the seed.
///
/// Positions are those of a [`Sample`](super::sample::Sample), whose order is its vectors' own: what is
/// drawn does not depend on the order in which the vectors came.
pub fn order(n: usize, key: Key, side: u64) -> Vec<usize> {
    sorted(key.uniform(Purpose::Split, side, 0, n).to_vec())
}

/// `size` of n positions, those with the smallest draws.
pub fn subset(n: usize, size: usize, key: Key, subset: u64) -> Vec<usize> {
    let mut order = sorted(key.uniform(Purpose::Subset, subset, 0, n).to_vec());
    order.truncate(size);
    order
}

fn sorted(draws: Vec<f64>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..draws.len()).collect();
    order.sort_by(|a, b| draws[*a].total_cmp(&draws[*b]));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_permutations_and_differ_by_side_and_seed() {
        let key = Key { seed: 4 };
        let one = order(30, key, 0);
        let mut back = one.clone();
        back.sort_unstable();
        assert_eq!(back, (0..30).collect::<Vec<_>>());
        assert_ne!(one, order(30, key, 1));
        assert_ne!(one, order(30, Key { seed: 5 }, 0));
        assert_eq!(subset(30, 7, key, 3).len(), 7);
    }
}
