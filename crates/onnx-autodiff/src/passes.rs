//! What is done for speed or memory alone. Each pass has a name and a switch, and changes no result but by rounding.
//!
//! A pass is a choice that rules make where they write an operator (`JoinedProducts` writes one product of matrices in the
//! place of two), or one that the graph makes for every operator (`SharedNodes`). Where it is made, [`Passes::has`] is
//! asked.

/// One thing that is done for speed or memory alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    BlockedFilters,
    EinsumProducts,
    JoinedProducts,
    KeptTranspositions,
    LateExpansion,
    LazyFactors,
    LocalAxes,
    MergedDirections,
    NormalizedRows,
    OmittedZeros,
    ReducedOutputs,
    SharedNodes,
    SoftmaxProducts,
    UnitFactors,
}

impl Pass {
    /// All passes, in alphabetical order.
    pub const ALL: [Pass; 14] = [
        Pass::BlockedFilters,
        Pass::EinsumProducts,
        Pass::JoinedProducts,
        Pass::KeptTranspositions,
        Pass::LateExpansion,
        Pass::LazyFactors,
        Pass::LocalAxes,
        Pass::MergedDirections,
        Pass::NormalizedRows,
        Pass::OmittedZeros,
        Pass::ReducedOutputs,
        Pass::SharedNodes,
        Pass::SoftmaxProducts,
        Pass::UnitFactors,
    ];

    /// The pass in lower case with hyphens.
    pub fn name(self) -> &'static str {
        self.description().0
    }

    /// What it buys, in one sentence.
    pub fn gain(self) -> &'static str {
        self.description().1
    }

    fn description(self) -> (&'static str, &'static str) {
        match self {
            Pass::BlockedFilters => (
                "blocked-filters",
                "A filter of one channel is applied to sixteen images as channels, where runtimes would pad the one channel to a block of that size.",
            ),
            Pass::EinsumProducts => (
                "einsum-products",
                "The tangent of an `Einsum` of two operands is a product of matrices, at which runtimes are several times faster.",
            ),
            Pass::JoinedProducts => (
                "joined-products",
                "Where a product is much larger than its operands, as the scores of attention are, `dA B + A dB` is one product and no sum.",
            ),
            Pass::KeptTranspositions => (
                "kept-transpositions",
                "A transposition of whole matrices stays next to the product that takes it for nothing, behind a reshape that leaves matrices whole.",
            ),
            Pass::LateExpansion => (
                "late-expansion",
                "Directions of a trace that are the same for every row are repeated as late as possible, so that the first layer is applied to them once.",
            ),
            Pass::LazyFactors => (
                "lazy-factors",
                "Chains of elementwise operators multiply their derivatives at the primal's size, and the tangents, which are K times larger, once.",
            ),
            Pass::LocalAxes => (
                "local-axes",
                "An axis of the state that the network leaves to itself takes one direction of a trace for all of its places.",
            ),
            Pass::MergedDirections => (
                "merged-directions",
                "Directions stay merged into the batch between operators on images, where runtimes then keep their own layouts.",
            ),
            Pass::NormalizedRows => (
                "normalized-rows",
                "What a norm of long rows takes off a tangent is one product of matrices instead of a product and a sum of the tangent's size.",
            ),
            Pass::OmittedZeros => (
                "omitted-zeros",
                "A tangent joined from one part and zeros, as that of state and time is, meets the part's rows of the weights alone.",
            ),
            Pass::ReducedOutputs => (
                "reduced-outputs",
                "Traces and quadratic forms are summed before the last linear layer, which is then not applied to every direction.",
            ),
            Pass::SharedNodes => (
                "shared-nodes",
                "What is computed already is not computed again.",
            ),
            Pass::SoftmaxProducts => (
                "softmax-products",
                "The tangent of attention's result needs one product with the weighted tangent of the scores, and no other value of their size.",
            ),
            Pass::UnitFactors => (
                "unit-factors",
                "A derivative that is one everywhere multiplies nothing.",
            ),
        }
    }
}

/// The passes that are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passes(u32);

impl Passes {
    /// All of them, as `differentiate` has them.
    pub fn all() -> Passes {
        Passes(u32::MAX)
    }

    /// The same with one switched off.
    #[must_use]
    pub fn without(self, pass: Pass) -> Passes {
        Passes(self.0 & !(1 << pass as u32))
    }

    pub fn has(self, pass: Pass) -> bool {
        self.0 >> (pass as u32) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_has_a_name_of_its_own_and_a_sentence() {
        let names: Vec<&str> = Pass::ALL.iter().map(|pass| pass.name()).collect();
        assert!(names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]));
        for (place, pass) in Pass::ALL.into_iter().enumerate() {
            assert_eq!(pass as usize, place);
            assert!(pass.gain().ends_with('.'), "{}", pass.name());
            assert!(!Passes::all().without(pass).has(pass) && Passes::all().has(pass));
            let row = format!("| `{}` | {} |", pass.name(), pass.gain());
            assert!(
                include_str!("../README.md").contains(&row),
                "the README lacks {row}"
            );
        }
    }
}
