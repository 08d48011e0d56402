//! Passes: choices for speed or memory that change results by rounding at most. Each pass has a
//! name and a switch.
//!
//! A rule makes the choice where it writes an operator (`JoinedProducts` writes one product of
//! matrices in place of two), or the graph makes it for every operator (`SharedNodes`). The code
//! that makes the choice asks [`Passes::has`].

/// A choice for speed or memory. [`Pass::gain`] says what each one gains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// Filters of one channel are applied to blocks of sixteen channels.
    BlockedFilters,
    /// Tangents of an `Einsum` of two operands are products of matrices.
    EinsumProducts,
    /// The derivative of a value times its sigmoid is made of values that the network has.
    GatedSlopes,
    /// The two products of a bilinear tangent are one product.
    JoinedProducts,
    /// Transpositions stay next to the product that they are free in.
    KeptTranspositions,
    /// Tangents that are the same for every sample are repeated late.
    LateExpansion,
    /// Elementwise derivatives are multiplied before the tangents are.
    LazyFactors,
    /// Local axes of the state share the directions of a trace.
    LocalAxes,
    /// Directions stay merged into the batch between operators on images.
    MergedDirections,
    /// Factors that are the same along inner axes stay narrow through a reshape.
    NarrowFactors,
    /// Tangents of norms of long rows take one product of matrices.
    NormalizedRows,
    /// Zeros in a concatenated tangent are left out of the product that follows.
    OmittedZeros,
    /// Traces and quadratic forms are summed before the last linear layer.
    ReducedOutputs,
    /// Nodes that compute the same are merged.
    SharedNodes,
    /// The tangent of a product with a softmax avoids the tangent of the softmax.
    SoftmaxProducts,
    /// Derivatives that are one everywhere are not multiplied.
    UnitFactors,
    /// Unit vectors that are scaled meet the weights of a layer row by row.
    UnitVectors,
}

impl Pass {
    /// All passes, in alphabetical order.
    pub const ALL: [Pass; 17] = [
        Pass::BlockedFilters,
        Pass::EinsumProducts,
        Pass::GatedSlopes,
        Pass::JoinedProducts,
        Pass::KeptTranspositions,
        Pass::LateExpansion,
        Pass::LazyFactors,
        Pass::LocalAxes,
        Pass::MergedDirections,
        Pass::NarrowFactors,
        Pass::NormalizedRows,
        Pass::OmittedZeros,
        Pass::ReducedOutputs,
        Pass::SharedNodes,
        Pass::SoftmaxProducts,
        Pass::UnitFactors,
        Pass::UnitVectors,
    ];

    /// Returns the name of the pass, in lower case with hyphens.
    pub fn name(self) -> &'static str {
        self.description().0
    }

    /// Returns one sentence that says what the pass gains.
    pub fn gain(self) -> &'static str {
        self.description().1
    }

    /// Returns the name of the pass and the sentence that says what it gains.
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
            Pass::GatedSlopes => (
                "gated-slopes",
                "The derivative of `y = x s` with the sigmoid `s` of `x` is `s + y (1 - s)`, of values that the network has.",
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
            Pass::NarrowFactors => (
                "narrow-factors",
                "What multiplies a tangent and is the same along its inner axes, as the deviation of a norm is, stays as narrow behind a reshape.",
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
            Pass::UnitVectors => (
                "unit-vectors",
                "A layer of unit vectors that elementwise functions have scaled is its weights, scaled row by row; directions of a trace are such at first.",
            ),
        }
    }
}

/// A set of passes that are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passes(u32);

impl Passes {
    /// Returns the set of all passes, which `differentiate` uses.
    pub fn all() -> Passes {
        Passes(u32::MAX)
    }

    /// Returns the set without one pass.
    #[must_use]
    pub fn without(self, pass: Pass) -> Passes {
        Passes(self.0 & !(1 << pass as u32))
    }

    /// Returns whether a pass is on.
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
        for (index, pass) in Pass::ALL.into_iter().enumerate() {
            assert_eq!(pass as usize, index);
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
