//! The pairs of samplers of an entry whose statistics are compared on common noise.

use crate::sample::Sampler;

/// The positions of the samplers in each pair. The statistics of the second are subtracted from
/// those of the first.
///
/// Every sampler is paired with the baseline that the config names. A correction of a sampler, such
/// as SteinDiff, is also paired with the sampler that it corrects, if the entry has both.
pub(super) fn sampler_pairs(samplers: &[Sampler], baseline: Option<&Sampler>) -> Vec<[usize; 2]> {
    let at = |wanted: &Sampler| samplers.iter().position(|s| s == wanted);
    let baseline = baseline.and_then(at);
    let named = (0..samplers.len()).filter_map(|i| baseline.filter(|b| *b != i).map(|b| [i, b]));
    let mut pairs: Vec<[usize; 2]> = named.collect();
    let own = samplers
        .iter()
        .enumerate()
        .filter_map(|(i, s)| Some([i, at(s.uncorrected()?)?]));
    pairs.extend(own.filter(|[_, plain]| Some(*plain) != baseline));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::steindiff::SteinDiff;

    #[test]
    fn corrections_pair_with_their_sampler_and_all_pair_with_the_baseline() {
        let plain: Vec<Sampler> = ["heun", "ddim", "euler"]
            .iter()
            .filter_map(|n| Sampler::from_name(n))
            .collect();
        let around = |s: &Sampler| {
            Sampler::SteinDiff(SteinDiff {
                sampler: Box::new(s.clone()),
                ..SteinDiff::default()
            })
        };
        let samplers = vec![
            plain[0].clone(),
            around(&plain[0]),
            plain[1].clone(),
            around(&plain[1]),
            around(&plain[2]),
        ];
        // The entry has no plain Euler sampler, so its correction has no pair.
        assert_eq!(sampler_pairs(&samplers, None), [[1, 0], [3, 2]]);
        assert_eq!(
            sampler_pairs(&samplers, Some(&plain[0])),
            [[1, 0], [2, 0], [3, 0], [4, 0], [3, 2]]
        );
        assert_eq!(
            sampler_pairs(&samplers, Some(&around(&plain[1])))[..1],
            [[0, 3]]
        );
        assert_eq!(sampler_pairs(&plain, None), Vec::<[usize; 2]>::new());
    }
}
