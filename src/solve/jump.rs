//! Jumps of the divergence: the solver brackets a jump between two positions, steps up to it, and
//! then crosses it.
//!
//! A network with ReLUs, SELUs or max-pooling is piecewise smooth. If a path crosses from one piece
//! to the next, the divergence jumps. A jump of size Δ within a step of size h leaves an error of
//! up to about Δ·h/3 in any quadrature, whatever its order. Embedded pairs of high order do not
//! even detect it, because their error weights nearly cancel over the wide gaps between their
//! stages. For a jump at a random position, the estimate of Dormand–Prince 5(4) is less than a
//! third of its error at 94 % of all positions, and in the worst case 1/170. A comparison with
//! Simpson's rule, with one more evaluation in the middle, is that low at only 2 % of the
//! positions, and in the worst case 1/4.
//!
//! It is inefficient to let the steps shrink before a jump and grow again after it. Bisection along
//! the dense output of the step finds the position at one evaluation per bit. One step then leads
//! up to the jump, a short one crosses it, and the next step is as long as before.

/// The interval in which a divergence jumps, as fractions of the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JumpBracket {
    /// The start of the interval.
    pub from: f64,
    /// The end of the interval.
    pub to: f64,
}

/// What a sample does next about a jump. Lengths are signed, as steps are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum JumpPhase {
    /// No jump is known.
    None,
    /// The current step ends just before a jump.
    Before {
        /// The length of the step that crosses the jump.
        width: f64,
        /// The step to try after the jump.
        next_step: f64,
    },
    /// The sample stands just before a jump, which the next step crosses.
    Across {
        /// The length of the step that crosses the jump.
        width: f64,
        /// The step to try after the jump.
        next_step: f64,
    },
}

/// The maximum ratio of the step after a jump to the distance up to and across the jump. If there
/// are many jumps, the next one is near.
const MAX_GROWTH_AFTER_JUMP: f64 = 4.0;

impl JumpPhase {
    /// Plans for a jump that a step of size `h` contains, between the fractions `from` and `to` of
    /// the step. Returns the new phase and the next step.
    pub fn approach_jump(self, h: f64, from: f64, to: f64) -> (JumpPhase, f64) {
        let longest = match self {
            JumpPhase::Before { next_step, .. } | JumpPhase::Across { next_step, .. }
                if next_step.abs() > h.abs() =>
            {
                next_step
            }
            _ => h,
        };
        let (way, width) = (from * h, (to - from) * h);
        let behind = MAX_GROWTH_AFTER_JUMP * to * h;
        let next_step = if behind.abs() < longest.abs() {
            behind
        } else {
            longest
        };
        // A distance much shorter than the bracket is not worth a step of its own.
        if way.abs() > 1e-3 * width.abs() {
            (JumpPhase::Before { width, next_step }, way)
        } else {
            (
                JumpPhase::Across {
                    width: to * h,
                    next_step,
                },
                to * h,
            )
        }
    }

    /// The phase after the step up to the jump is accepted.
    pub fn reach_jump(self) -> JumpPhase {
        match self {
            JumpPhase::Before { width, next_step } => JumpPhase::Across { width, next_step },
            other => other,
        }
    }
}

/// A search for a jump within a step, by bisection. Positions are fractions of the step.
#[derive(Debug, Clone, Copy)]
pub struct JumpSearch {
    /// The position and the divergence at the start of the bracket.
    from: (f64, f64),
    /// The position and the divergence at the end of the bracket.
    to: (f64, f64),
    /// The first bracket's width and its change of the divergence.
    initial: (f64, f64),
    /// The bracket is narrow enough if its width times its change of the divergence is at most
    /// this.
    tolerated_area: f64,
    /// The width below which two positions are equal up to rounding.
    min_width: f64,
    /// Whether the bracket contains no jump, because the divergence changes smoothly.
    smooth: bool,
}

impl JumpSearch {
    /// Starts with the neighbouring pair of `places` across which the divergence changes most; each
    /// place is a fraction of the step with the divergence there, in ascending order. `h` is the
    /// length of the step. A step across the final bracket may have an error of `tolerance` nats.
    /// Lengths below `finest` are rounding. `None` if a divergence is not finite or there are fewer
    /// than two places.
    pub fn new(places: &[(f64, f64)], h: f64, tolerance: f64, finest: f64) -> Option<JumpSearch> {
        let gap = |pair: &&[(f64, f64)]| (pair[1].1 - pair[0].1).abs();
        if places.iter().any(|p| !p.1.is_finite()) {
            return None;
        }
        let widest = places.windows(2).max_by(|a, b| gap(a).total_cmp(&gap(b)))?;
        let (from, to) = (widest[0], widest[1]);
        let first = (to.0 - from.0, gap(&widest));
        Some(JumpSearch {
            from,
            to,
            initial: first,
            tolerated_area: 1.6 * tolerance / h,
            min_width: finest / h,
            smooth: false,
        })
    }

    /// The width of the bracket.
    fn width(&self) -> f64 {
        self.to.0 - self.from.0
    }

    /// The change of the divergence across the bracket.
    fn difference(&self) -> f64 {
        (self.to.1 - self.from.1).abs()
    }

    /// Whether the bracket is still too wide.
    pub fn is_open(&self) -> bool {
        !self.smooth
            && self.width() * self.difference() > self.tolerated_area
            && self.width() > 2.0 * self.min_width
    }

    /// The position in the middle of the bracket, at which the divergence is needed next.
    pub fn midpoint(&self) -> f64 {
        0.5 * (self.from.0 + self.to.0)
    }

    /// Continues in the half across which the divergence changes more. `value` is the divergence at
    /// the midpoint.
    pub fn bisect(&mut self, value: f64) {
        let middle = (self.midpoint(), value);
        if (value - self.from.1).abs() > (self.to.1 - value).abs() {
            self.to = middle;
        } else {
            self.from = middle;
        }
        // Over an eighth of the width, a smooth divergence changes by about an eighth; a jump keeps
        // its size.
        self.smooth = !value.is_finite()
            || (self.width() <= self.initial.0 / 8.0 && self.difference() < 0.4 * self.initial.1);
    }

    /// The bracket, if it contains a jump.
    pub fn bracket(&self) -> Option<JumpBracket> {
        let jumps =
            !self.smooth && self.difference() > 0.5 * self.initial.1 && self.initial.1 > 0.0;
        let from = if self.from.0 > self.min_width {
            self.from.0
        } else {
            0.0
        };
        jumps.then_some(JumpBracket {
            from,
            to: self.to.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(g: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        [0.0, 0.3, 0.5, 0.8, 0.9, 1.0].map(|c| (c, g(c))).to_vec()
    }

    fn search(g: impl Fn(f64) -> f64 + Copy, tolerance: f64) -> (Option<JumpBracket>, u32) {
        let mut search = JumpSearch::new(&places(g), 1.0, tolerance, 1e-12).expect("finite");
        let mut asked = 0;
        while search.is_open() {
            search.bisect(g(search.midpoint()));
            asked += 1;
        }
        (search.bracket(), asked)
    }

    #[test]
    fn bisection_brackets_a_jump_at_one_evaluation_per_bit() {
        for at in [0.013, 0.31, 0.499, 0.62, 0.85, 0.97] {
            let (bracket, asked) = search(|c| 0.3 * c + if c > at { 2.0 } else { 0.0 }, 1e-5);
            let bracket = bracket.expect("a jump");
            assert!(bracket.from <= at && at <= bracket.to, "{at}: {bracket:?}");
            assert!(
                (bracket.to - bracket.from) * 2.0 <= 2e-5 && asked <= 16,
                "{at}: {bracket:?} {asked}"
            );
        }
    }

    #[test]
    fn smooth_divergence_gives_no_bracket() {
        for g in [
            |c: f64| (3.0 * c).sin(),
            |c: f64| c * c * c,
            |c: f64| (5.0 * c).exp(),
        ] {
            let (bracket, asked) = search(g, 1e-9);
            assert_eq!(bracket, None);
            assert!(asked <= 8, "{asked}");
        }
        assert!(
            JumpSearch::new(
                &places(|c| if c > 0.6 { f64::NAN } else { 0.0 }),
                1.0,
                1e-3,
                1e-12
            )
            .is_none()
        );
    }

    #[test]
    fn step_after_a_jump_is_bounded_by_the_way_to_it() {
        let (aim, h) = JumpPhase::None.approach_jump(-0.5, 0.4, 0.41);
        assert!((h + 0.2).abs() < 1e-15);
        let JumpPhase::Across { width, next_step } = aim.reach_jump() else {
            panic!("{aim:?}")
        };
        assert!((width + 0.005).abs() < 1e-12 && next_step == -0.5);
        let (JumpPhase::Before { next_step, .. }, _) =
            JumpPhase::None.approach_jump(0.5, 0.02, 0.03)
        else {
            panic!("a way up to it")
        };
        assert!((next_step - 0.06).abs() < 1e-12, "{next_step}");
        // A jump at the very start of a step is crossed at once.
        assert!(
            matches!(JumpPhase::None.approach_jump(0.5, 0.0, 0.01), (JumpPhase::Across { .. }, h) if h == 0.005)
        );
    }
}
