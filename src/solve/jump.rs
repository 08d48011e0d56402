//! Jumps of the divergence: found between two places, stepped up to, and stepped over.
//!
//! A network of ReLUs, of SELUs or with max-pooling bends its velocity where a path crosses from one linear piece to
//! the next, and there the divergence jumps. A jump of Δ at some place within a step of size h leaves an error of up
//! to some Δ·h/3 in any quadrature, and no high order makes that less. Pairs of high order do not even see it: their error
//! weights nearly cancel over the wide gaps between their stages, and for a jump at a random place Dormand–Prince 5(4)
//! tells less than a third of its error in 94 % of all places, in the worst 1/170. Against Simpson's rule, with one
//! more place in the middle, it is 2 % and 1/4.
//!
//! Nothing is gained by steps that shrink before a jump and grow behind it. Bisection along the step's interpolation
//! finds the place at one evaluation per bit; one step leads up to it, a short one over it, and the step behind is as
//! long as it was.

/// The two parts of a step between which a divergence jumps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JumpBracket {
    pub from: f64,
    pub to: f64,
}

/// What a sample is about to do with a jump. Lengths are signed, as steps are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum JumpPhase {
    None,
    /// The present step ends before a jump.
    Before {
        width: f64,
        next_step: f64,
    },
    /// The sample stands before it.
    Across {
        width: f64,
        next_step: f64,
    },
}

/// How many times the way up to a jump and over it the step behind it may be: where jumps are many the next one is
/// near.
const MAX_GROWTH_AFTER_JUMP: f64 = 4.0;

impl JumpPhase {
    /// The aim and the step after a step of size `h` was seen to hold a jump.
    pub fn approach_jump(self, h: f64, from: f64, to: f64) -> (JumpPhase, f64) {
        let longest = match self {
            JumpPhase::Before {
                next_step: then, ..
            }
            | JumpPhase::Across {
                next_step: then, ..
            } if then.abs() > h.abs() => then,
            _ => h,
        };
        let (way, width) = (from * h, (to - from) * h);
        let behind = MAX_GROWTH_AFTER_JUMP * to * h;
        let then = if behind.abs() < longest.abs() {
            behind
        } else {
            longest
        };
        // A way that is shorter than the bracket is not worth a step of its own.
        if way.abs() > 1e-3 * width.abs() {
            (
                JumpPhase::Before {
                    width,
                    next_step: then,
                },
                way,
            )
        } else {
            (
                JumpPhase::Across {
                    width: to * h,
                    next_step: then,
                },
                to * h,
            )
        }
    }

    /// What follows once the step up to the jump is made.
    pub fn reach_jump(self) -> JumpPhase {
        match self {
            JumpPhase::Before {
                width,
                next_step: then,
            } => JumpPhase::Across {
                width,
                next_step: then,
            },
            other => other,
        }
    }
}

/// A bisection under way.
#[derive(Debug, Clone, Copy)]
pub struct JumpSearch {
    from: (f64, f64),
    to: (f64, f64),
    /// The first bracket's width and difference.
    initial: (f64, f64),
    /// The width at which what is left does no harm is this over the difference.
    tolerated_area: f64,
    /// The part of the step below which two places are one.
    min_width: f64,
    smooth: bool,
}

impl JumpSearch {
    /// Between those two of some places (part of the step, divergence there), in order, across which it changes most.
    /// A step of size `h` over what is left of the bracket may be wrong by `tolerance`; lengths below `finest` are none.
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

    fn width(&self) -> f64 {
        self.to.0 - self.from.0
    }

    fn difference(&self) -> f64 {
        (self.to.1 - self.from.1).abs()
    }

    pub fn is_open(&self) -> bool {
        !self.smooth
            && self.width() * self.difference() > self.tolerated_area
            && self.width() > 2.0 * self.min_width
    }

    pub fn midpoint(&self) -> f64 {
        0.5 * (self.from.0 + self.to.0)
    }

    /// Goes on in that half across which it changes more; `value` is the divergence in the middle.
    pub fn bisect(&mut self, value: f64) {
        let middle = (self.midpoint(), value);
        if (value - self.from.1).abs() > (self.to.1 - value).abs() {
            self.to = middle;
        } else {
            self.from = middle;
        }
        // What is smooth differs by an eighth on an eighth of the way; a jump keeps its size.
        self.smooth = !value.is_finite()
            || (self.width() <= self.initial.0 / 8.0 && self.difference() < 0.4 * self.initial.1);
    }

    /// The bracket, where what was found is a jump.
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
        let JumpPhase::Across {
            width,
            next_step: then,
        } = aim.reach_jump()
        else {
            panic!("{aim:?}")
        };
        assert!((width + 0.005).abs() < 1e-12 && then == -0.5);
        let (
            JumpPhase::Before {
                next_step: then, ..
            },
            _,
        ) = JumpPhase::None.approach_jump(0.5, 0.02, 0.03)
        else {
            panic!("a way up to it")
        };
        assert!((then - 0.06).abs() < 1e-12, "{then}");
        // A jump right at the start is stepped over at once.
        assert!(
            matches!(JumpPhase::None.approach_jump(0.5, 0.0, 0.01), (JumpPhase::Across { .. }, h) if h == 0.005)
        );
    }
}
