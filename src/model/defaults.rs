//! Defaults of the keys of a card, and whether a value is one and is not written.

/// The default of a scale.
pub(super) fn unit_scale() -> f64 {
    1.0
}

/// Whether `v` is 0, the default, which is not written.
pub(super) fn is_zero(v: &f64) -> bool {
    *v == 0.0
}
