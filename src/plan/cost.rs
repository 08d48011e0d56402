//! The cost of trials, known before they run.

/// The evaluations per sample that a plan assumes of an adaptive solver.
pub(super) const ADAPTIVE_EVALUATIONS_GUESS: u64 = 200;

/// The cost of a trial for all its samples together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TrialCost {
    /// Evaluations of the network.
    pub evaluations: u64,
    /// Jacobian products and calls of divergence heads.
    pub products: u64,
    /// Calls of divergence heads alone.
    pub head_calls: u64,
    /// Whether the evaluations of an adaptive solver were guessed.
    pub guessed: bool,
}

impl TrialCost {
    /// The cost of two pieces of work together.
    pub(super) fn plus(self, other: TrialCost) -> TrialCost {
        TrialCost {
            evaluations: self.evaluations + other.evaluations,
            products: self.products + other.products,
            head_calls: self.head_calls + other.head_calls,
            guessed: self.guessed || other.guessed,
        }
    }
}
