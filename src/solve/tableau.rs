//! Explicit Runge–Kutta methods as data.

use ndarray::Zip;

use crate::flow::field::{EvalError, Points, VectorField};
use crate::num::Batch;

/// A Butcher tableau with its embedded error estimate.
#[derive(Debug)]
pub struct Tableau {
    /// The order of the method.
    pub order: u32,
    /// The position of each stage, as a fraction of the step.
    pub c: &'static [f64],
    /// The weights of the earlier slopes in each stage's state.
    pub a: &'static [&'static [f64]],
    /// The weights of the slopes in the new state; they are also the quadrature weights of the
    /// nodes.
    pub b: &'static [f64],
    /// The weights of the embedded error estimate; `None` for methods with fixed steps.
    pub error_weights: Option<EmbeddedErrorWeights>,
    /// Whether the last stage is the first stage of the next step (first same as last).
    pub fsal: bool,
    /// The weights of the slopes in the quartic term of the dense output. The term is h·θ²(1 − θ)²
    /// times their weighted sum, and is added to the cubic Hermite interpolant.
    pub quartic_weights: Option<&'static [f64]>,
    /// Whether the step is also checked in its middle. An embedded pair of high order hardly
    /// detects a divergence that jumps between two stages with a wide gap (`solve/jump.rs`).
    pub checks_midpoint: bool,
}

/// The weights of the slopes in the embedded error estimate, b − b̂.
#[derive(Debug)]
pub enum EmbeddedErrorWeights {
    /// One estimate.
    One(&'static [f64]),
    /// Two estimates e₅ and e₃, combined into |e₅|² / √(|e₅|² + |e₃|²/100). The result has the
    /// order of the method, and is safe if |e₅| is small by chance (Hairer, Nørsett & Wanner,
    /// II.10).
    Two {
        fifth: &'static [f64],
        third: &'static [f64],
    },
}

/// Euler's method, of order 1.
pub const EULER: Tableau = Tableau {
    order: 1,
    c: &[0.0],
    a: &[&[]],
    b: &[1.0],
    error_weights: None,
    fsal: false,
    quartic_weights: None,
    checks_midpoint: false,
};

/// The explicit midpoint method, of order 2.
pub const MIDPOINT: Tableau = Tableau {
    order: 2,
    c: &[0.0, 0.5],
    a: &[&[], &[0.5]],
    b: &[0.0, 1.0],
    error_weights: None,
    fsal: false,
    quartic_weights: None,
    checks_midpoint: false,
};

/// Heun's method, of order 2.
pub const HEUN: Tableau = Tableau {
    order: 2,
    c: &[0.0, 1.0],
    a: &[&[], &[1.0]],
    b: &[0.5, 0.5],
    error_weights: None,
    fsal: false,
    quartic_weights: None,
    checks_midpoint: false,
};

/// The classical Runge–Kutta method, of order 4.
pub const RK4: Tableau = Tableau {
    order: 4,
    c: &[0.0, 0.5, 0.5, 1.0],
    a: &[&[], &[0.5], &[0.0, 0.5], &[0.0, 0.0, 1.0]],
    b: &[1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0],
    error_weights: None,
    fsal: false,
    quartic_weights: None,
    checks_midpoint: false,
};

/// Bogacki & Shampine 1989, 3(2).
pub const BOSH3: Tableau = Tableau {
    order: 3,
    c: &[0.0, 0.5, 0.75, 1.0],
    a: &[
        &[],
        &[0.5],
        &[0.0, 0.75],
        &[2.0 / 9.0, 1.0 / 3.0, 4.0 / 9.0],
    ],
    b: &[2.0 / 9.0, 1.0 / 3.0, 4.0 / 9.0, 0.0],
    error_weights: Some(EmbeddedErrorWeights::One(&[
        2.0 / 9.0 - 7.0 / 24.0,
        1.0 / 3.0 - 0.25,
        4.0 / 9.0 - 1.0 / 3.0,
        -0.125,
    ])),
    fsal: true,
    quartic_weights: None,
    checks_midpoint: true,
};

/// Dormand & Prince 1980, 5(4).
pub const DOPRI5: Tableau = Tableau {
    order: 5,
    c: &[0.0, 0.2, 0.3, 0.8, 8.0 / 9.0, 1.0, 1.0],
    a: &[
        &[],
        &[0.2],
        &[3.0 / 40.0, 9.0 / 40.0],
        &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
        &[
            19372.0 / 6561.0,
            -25360.0 / 2187.0,
            64448.0 / 6561.0,
            -212.0 / 729.0,
        ],
        &[
            9017.0 / 3168.0,
            -355.0 / 33.0,
            46732.0 / 5247.0,
            49.0 / 176.0,
            -5103.0 / 18656.0,
        ],
        &[
            35.0 / 384.0,
            0.0,
            500.0 / 1113.0,
            125.0 / 192.0,
            -2187.0 / 6784.0,
            11.0 / 84.0,
        ],
    ],
    b: &[
        35.0 / 384.0,
        0.0,
        500.0 / 1113.0,
        125.0 / 192.0,
        -2187.0 / 6784.0,
        11.0 / 84.0,
        0.0,
    ],
    error_weights: Some(EmbeddedErrorWeights::One(&[
        71.0 / 57600.0,
        0.0,
        -71.0 / 16695.0,
        71.0 / 1920.0,
        -17253.0 / 339200.0,
        22.0 / 525.0,
        -1.0 / 40.0,
    ])),
    fsal: true,
    // The source is Hairer, Nørsett & Wanner, II.6; the digits are those of their code `dopri5.f`.
    quartic_weights: Some(&[
        -12715105075.0 / 11282082432.0,
        0.0,
        87487479700.0 / 32700410799.0,
        -10690763975.0 / 1880347072.0,
        701980252875.0 / 199316789632.0,
        -1453857185.0 / 822651844.0,
        69997945.0 / 29380423.0,
    ]),
    checks_midpoint: true,
};

/// Tsitouras 2011, 5(4): the coefficients of Table 1, computed from its free parameters in closed
/// form and rounded to f64.
pub const TSIT5: Tableau = Tableau {
    order: 5,
    c: &[0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0],
    a: &[
        &[],
        &[0.161],
        &[-0.008480655492356989, 0.335480655492357],
        &[2.8971530571054935, -6.359448489975075, 4.3622954328695815],
        &[
            5.325864828439257,
            -11.748883564062828,
            7.4955393428898365,
            -0.09249506636175525,
        ],
        &[
            5.86145544294642,
            -12.92096931784711,
            8.159367898576159,
            -0.071584973281401,
            -0.028269050394068383,
        ],
        &[
            0.09646076681806523,
            0.01,
            0.4798896504144996,
            1.379008574103742,
            -3.290069515436081,
            2.324710524099774,
        ],
    ],
    b: &[
        0.09646076681806523,
        0.01,
        0.4798896504144996,
        1.379008574103742,
        -3.290069515436081,
        2.324710524099774,
        0.0,
    ],
    error_weights: Some(EmbeddedErrorWeights::One(&[
        0.0017800110522257714,
        0.0008164344596567469,
        -0.007880878010261995,
        0.1447110071732629,
        -0.5823571654525552,
        0.45808210592918697,
        -1.0 / 66.0,
    ])),
    fsal: true,
    quartic_weights: None,
    checks_midpoint: true,
};

/// One trial step of every row: the stages and the new states.
pub struct RungeKuttaStep {
    /// The times of the stages, stages × rows.
    pub t: Vec<Vec<f64>>,
    /// The states of the stages, rows × dim each.
    pub x: Vec<Batch>,
    /// The slopes of the stages, rows × dim each.
    pub k: Vec<Batch>,
    /// The new states, rows × dim.
    pub next: Batch,
}

/// A function that returns the slopes of a stage, from the stage's number, its times and its
/// states.
pub type StageSlope<'a> = dyn FnMut(usize, &[f64], &Batch) -> Result<Batch, EvalError> + 'a;

impl Tableau {
    /// The number of stages.
    pub fn stages(&self) -> usize {
        self.b.len()
    }

    /// The number of stages with a nonzero quadrature weight.
    pub fn node_count(&self) -> usize {
        self.b.iter().filter(|b| **b != 0.0).count()
    }

    /// Takes one step of size `h[i]` from the point `(t[i], x[i])` for every row. `first` has the
    /// slopes of the first stage if they are known.
    ///
    /// # Errors
    /// Fails if the field cannot be evaluated.
    pub fn step(
        &self,
        field: &mut dyn VectorField,
        at: Points,
        h: &[f64],
        first: Option<Batch>,
    ) -> Result<RungeKuttaStep, EvalError> {
        self.step_with_slopes(at.t, h, at.x, first, &mut |_, t, state| {
            field.velocity(Points::new(at.samples, t, state))
        })
    }

    /// Takes one step like [`Tableau::step`], with slopes from the function `slope`.
    ///
    /// # Errors
    /// Fails if `slope` fails.
    pub fn step_with_slopes(
        &self,
        t: &[f64],
        h: &[f64],
        x: &Batch,
        first: Option<Batch>,
        slope: &mut StageSlope,
    ) -> Result<RungeKuttaStep, EvalError> {
        let mut step = RungeKuttaStep {
            t: Vec::new(),
            x: Vec::new(),
            k: Vec::new(),
            next: Batch::zeros((0, 0)),
        };
        let mut first = first;
        for s in 0..self.stages() {
            let at: Vec<f64> = t.iter().zip(h).map(|(t, h)| t + self.c[s] * h).collect();
            let state = add_weighted_slopes(x, h, self.a[s], &step.k);
            let k = match first.take() {
                Some(first) => first,
                None => slope(s, &at, &state)?,
            };
            step.t.push(at);
            step.x.push(state);
            step.k.push(k);
        }
        // In a first-same-as-last method, the state of the last stage is the new state.
        step.next = if self.fsal {
            step.x[self.stages() - 1].clone()
        } else {
            add_weighted_slopes(x, h, self.b, &step.k)
        };
        Ok(step)
    }
}

impl Tableau {
    /// Whether a step needs the divergence at this stage: for the quadrature, for its error, or
    /// because the next step starts there.
    pub fn needs_divergence(&self, stage: usize) -> bool {
        let weights: &[&[f64]] = match &self.error_weights {
            None => &[],
            Some(EmbeddedErrorWeights::One(weights)) => &[weights],
            Some(EmbeddedErrorWeights::Two { fifth, third }) => &[fifth, third],
        };
        stage + 1 == self.stages()
            || self.b[stage] != 0.0
            || weights.iter().any(|w| w[stage] != 0.0)
    }

    /// Whether a stage is a node of the quadrature. The last stage also counts if the next step
    /// starts there with a node.
    pub fn is_node(&self, stage: usize) -> bool {
        self.b[stage] != 0.0 || (stage + 1 == self.stages() && self.b[0] != 0.0)
    }

    /// The largest error of the quadrature for a unit jump within the step, as a fraction of the
    /// step.
    pub fn worst_jump_error(&self) -> f64 {
        let error = |place: f64, from: &dyn Fn(f64) -> bool| {
            let sum: f64 = self
                .b
                .iter()
                .zip(self.c)
                .filter(|(_, c)| from(**c))
                .map(|(b, _)| b)
                .sum();
            (sum - (1.0 - place)).abs()
        };
        let both = self
            .c
            .iter()
            .map(|p| error(*p, &|c| c > *p).max(error(*p, &|c| c >= *p)));
        both.fold(0.0, f64::max)
    }

    /// The dense output: the states inside a step, without an evaluation. It has order 4 if the
    /// method has a quartic term; otherwise it is the cubic Hermite interpolant. Each entry of
    /// `places` is a row of the step and a fraction θ of its length. `x` has the states at the
    /// start of the step.
    pub fn interpolate(
        &self,
        step: &RungeKuttaStep,
        x: &Batch,
        h: &[f64],
        places: &[(usize, f64)],
    ) -> Batch {
        let last = &step.k[self.stages() - 1];
        let mut out = Batch::zeros((places.len(), x.ncols()));
        for (mut target, (row, part)) in out.rows_mut().into_iter().zip(places) {
            let (row, h, rest) = (*row, h[*row], 1.0 - part);
            let (from, to, first, last) = (
                x.row(row),
                step.next.row(row),
                step.k[0].row(row),
                last.row(row),
            );
            for j in 0..x.ncols() {
                let rise = to[j] - from[j];
                let bend = h * first[j] - rise;
                let twist = rise - h * last[j] - bend;
                let quartic = self.quartic_weights.map_or(0.0, |d| {
                    d.iter().zip(&step.k).map(|(d, k)| d * k[[row, j]]).sum()
                });
                target[j] =
                    from[j] + part * (rise + rest * (bend + part * (twist + rest * h * quartic)));
            }
        }
        out
    }
}

/// Returns x + h·Σ w_j k_j for each row.
pub fn add_weighted_slopes(x: &Batch, h: &[f64], weights: &[f64], k: &[Batch]) -> Batch {
    let mut out = x.clone();
    for (w, k) in weights.iter().zip(k).filter(|(w, _)| **w != 0.0) {
        Zip::from(out.rows_mut())
            .and(k.rows())
            .and(&ndarray::aview1(h))
            .for_each(|mut o, k, h| {
                o.scaled_add(w * h, &k);
            });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solve::dop853::DOP853;

    const ALL: [(&str, &Tableau); 8] = [
        ("euler", &EULER),
        ("midpoint", &MIDPOINT),
        ("heun", &HEUN),
        ("rk4", &RK4),
        ("bosh3", &BOSH3),
        ("dopri5", &DOPRI5),
        ("tsit5", &TSIT5),
        ("dop853", &DOP853),
    ];

    fn estimates(tableau: &Tableau) -> Vec<&'static [f64]> {
        match tableau.error_weights {
            None => vec![],
            Some(EmbeddedErrorWeights::One(one)) => vec![one],
            Some(EmbeddedErrorWeights::Two { fifth, third }) => vec![fifth, third],
        }
    }

    /// x' = r·cos(t)·x(1 − x): a logistic curve in r·sin t. Its ∫div is the difference of ln(x(1 −
    /// x)) between the ends.
    struct Logistic(f64);

    impl Logistic {
        fn solution(&self, x: f64, t: f64) -> f64 {
            let odds = x / (1.0 - x) * (self.0 * t.sin()).exp();
            odds / (1.0 + odds)
        }
    }

    impl VectorField for Logistic {
        fn dim(&self) -> usize {
            1
        }
        fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
            let Points { t, x, .. } = at;
            Ok(Batch::from_shape_fn(x.raw_dim(), |(i, j)| {
                self.0 * t[i].cos() * x[[i, j]] * (1.0 - x[[i, j]])
            }))
        }
    }

    /// The errors of the state and of ∫div over the nodes, after `steps` steps from 0 to `last`.
    fn errors(tableau: &Tableau, mut field: Logistic, last: f64, steps: usize) -> (f64, f64) {
        let (start, h) = (0.2, last / steps as f64);
        let (mut x, mut integral) = (ndarray::array![[start]], 0.0);
        for i in 0..steps {
            let step = tableau
                .step(
                    &mut field,
                    Points::of_first_samples(&[i as f64 * h], &x),
                    &[h],
                    None,
                )
                .expect("analytic");
            for s in 0..tableau.stages() {
                integral += h
                    * tableau.b[s]
                    * field.0
                    * step.t[s][0].cos()
                    * (1.0 - 2.0 * step.x[s][[0, 0]]);
            }
            x = step.next;
        }
        let end = field.solution(start, last);
        let divergence = (end * (1.0 - end) / (start * (1.0 - start))).ln();
        ((x[[0, 0]] - end).abs(), (integral - divergence).abs())
    }

    /// A rooted tree with its weight per stage: the product over its branches of A times the
    /// branch's weight.
    struct Tree {
        size: u32,
        density: f64,
        weight: Vec<f64>,
    }

    /// All rooted trees with up to `order` vertices, with their weights for one tableau.
    fn trees(tableau: &Tableau, order: u32) -> Vec<Tree> {
        let mut all = vec![Tree {
            size: 1,
            density: 1.0,
            weight: vec![1.0; tableau.stages()],
        }];
        for size in 2..=order {
            let mut grown = Vec::new();
            join(
                tableau,
                &all,
                (0, size - 1),
                (1.0, vec![1.0; tableau.stages()]),
                size,
                &mut grown,
            );
            all.extend(grown);
        }
        all
    }

    /// Adds branches in the order of `all`, from number `at.0` on, until `at.1` vertices are used.
    fn join(
        tableau: &Tableau,
        all: &[Tree],
        at: (usize, u32),
        so_far: (f64, Vec<f64>),
        size: u32,
        out: &mut Vec<Tree>,
    ) {
        if at.1 == 0 {
            out.push(Tree {
                size,
                density: so_far.0 * f64::from(size),
                weight: so_far.1,
            });
            return;
        }
        for (i, branch) in all
            .iter()
            .enumerate()
            .skip(at.0)
            .filter(|(_, b)| b.size <= at.1)
        {
            let through = |row: &&[f64]| {
                row.iter()
                    .zip(&branch.weight)
                    .map(|(a, w)| a * w)
                    .sum::<f64>()
            };
            let weight = tableau
                .a
                .iter()
                .map(through)
                .zip(&so_far.1)
                .map(|(a, w)| a * w)
                .collect();
            join(
                tableau,
                all,
                (i, at.1 - branch.size),
                (so_far.0 * branch.density, weight),
                size,
                out,
            );
        }
    }

    /// Butcher's conditions Σ b·Φ = 1/γ hold for every rooted tree up to the order, and not beyond
    /// it. The method then has its order on every smooth field, and in every integral over its
    /// nodes.
    #[test]
    fn order_conditions_hold_up_to_the_order() {
        let counts = [1, 2, 4, 8, 17, 37, 85, 200, 486];
        for (name, tableau) in ALL {
            let all = trees(tableau, tableau.order + 1);
            assert_eq!(all.len(), counts[tableau.order as usize], "{name}");
            let miss = |tree: &Tree| {
                let sum: f64 = tableau.b.iter().zip(&tree.weight).map(|(b, w)| b * w).sum();
                (sum - 1.0 / tree.density).abs()
            };
            let worst = |beyond: bool| {
                all.iter()
                    .filter(|t| (t.size > tableau.order) == beyond)
                    .map(miss)
                    .fold(0.0, f64::max)
            };
            assert!(worst(false) < 1e-13, "{name}: {}", worst(false));
            assert!(worst(true) > 1e-6, "{name}: {}", worst(true));
        }
    }

    #[test]
    fn worst_jump_errors_match_known_values() {
        // Euler's quadrature misses the whole of a jump at the start of the step, the midpoint rule
        // half of a jump in the middle.
        for (tableau, worst) in [(&EULER, 1.0), (&MIDPOINT, 0.5), (&HEUN, 0.5)] {
            assert!(
                (tableau.worst_jump_error() - worst).abs() < 1e-15,
                "{}",
                tableau.worst_jump_error()
            );
        }
        assert!(
            (0.35..0.45).contains(&DOPRI5.worst_jump_error()),
            "{}",
            DOPRI5.worst_jump_error()
        );
    }

    #[test]
    fn tableau_rows_sum_to_c_and_weights_to_one() {
        for (name, tableau) in ALL {
            assert_eq!(
                (tableau.a.len(), tableau.c.len()),
                (tableau.stages(), tableau.stages()),
                "{name}"
            );
            for (c, row) in tableau.c.iter().zip(tableau.a) {
                assert!((row.iter().sum::<f64>() - c).abs() < 1e-14, "{name}");
            }
            for e in estimates(tableau) {
                assert!(
                    e.len() == tableau.stages() && e.iter().sum::<f64>().abs() < 1e-14,
                    "{name}"
                );
            }
            if tableau.fsal {
                let last = tableau.a[tableau.stages() - 1];
                assert_eq!(last, &tableau.b[..last.len()], "{name}");
            }
        }
    }

    /// Σ b cᵏ = 1/(k + 1) for k below the order, as a divergence that depends on time alone needs.
    #[test]
    fn weights_integrate_polynomials_below_the_order() {
        for (name, tableau) in ALL {
            for k in 0..tableau.order {
                let sum: f64 = tableau
                    .b
                    .iter()
                    .zip(tableau.c)
                    .map(|(b, c)| b * c.powi(k as i32))
                    .sum();
                assert!(
                    (sum - 1.0 / f64::from(k + 1)).abs() < 1e-14,
                    "{name}: degree {k}"
                );
            }
        }
    }

    #[test]
    fn states_and_divergences_converge_at_the_order() {
        for ((name, tableau), steps) in ALL.iter().zip([1600, 200, 200, 100, 200, 48, 48, 8]) {
            // At order 8, rounding soon dominates, so a gentler curve is used there.
            let (rate, last) = if *name == "dop853" {
                (1.0, 2.0)
            } else {
                (2.0, 3.0)
            };
            let error = |steps| errors(tableau, Logistic(rate), last, steps);
            let (coarse, fine, order) = (error(steps), error(2 * steps), f64::from(tableau.order));
            for (what, observed) in [
                ("state", (coarse.0 / fine.0).log2()),
                ("divergence", (coarse.1 / fine.1).log2()),
            ] {
                assert!(
                    (observed - order).abs() < 0.25,
                    "{name}: {what} converges at order {observed}"
                );
            }
        }
    }

    /// An error estimate of order q is proportional to h^(q+1) in one step.
    #[test]
    fn error_estimates_have_their_order() {
        for (name, orders) in [
            ("bosh3", vec![2.0]),
            ("dopri5", vec![4.0]),
            ("tsit5", vec![4.0]),
            ("dop853", vec![5.0, 3.0]),
        ] {
            let tableau = ALL.iter().find(|(n, _)| *n == name).expect("listed").1;
            for (weights, order) in estimates(tableau).into_iter().zip(orders) {
                let estimate = |h: f64| {
                    let x = ndarray::array![[0.2]];
                    let step = tableau
                        .step(
                            &mut Logistic(1.0),
                            Points::of_first_samples(&[0.3], &x),
                            &[h],
                            None,
                        )
                        .expect("analytic");
                    add_weighted_slopes(&Batch::zeros((1, 1)), &[h], weights, &step.k)[[0, 0]].abs()
                };
                let observed = (estimate(0.1) / estimate(0.05)).log2() - 1.0;
                assert!((observed - order).abs() < 0.25, "{name}: {observed}");
            }
        }
    }

    #[test]
    fn field_is_evaluated_at_the_stage_times_of_each_row() {
        struct Asked(Vec<Vec<f64>>);
        impl VectorField for Asked {
            fn dim(&self) -> usize {
                1
            }
            fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
                let Points { t, x, .. } = at;
                self.0.push(t.to_vec());
                Ok(x.clone())
            }
        }
        let (t, h, x) = ([0.5, -1.0], [0.25, -0.5], ndarray::array![[1.0], [2.0]]);
        for (name, tableau) in ALL {
            let mut asked = Asked(Vec::new());
            tableau
                .step(&mut asked, Points::of_first_samples(&t, &x), &h, None)
                .expect("mock");
            let expected: Vec<Vec<f64>> = tableau
                .c
                .iter()
                .map(|c| vec![t[0] + c * h[0], t[1] + c * h[1]])
                .collect();
            assert_eq!(asked.0, expected, "{name}");
            // A known first slope is not evaluated again.
            let mut asked = Asked(Vec::new());
            tableau
                .step(
                    &mut asked,
                    Points::of_first_samples(&t, &x),
                    &h,
                    Some(x.clone()),
                )
                .expect("mock");
            assert_eq!(asked.0, expected[1..], "{name}");
        }
    }

    #[test]
    fn fsal_slope_is_the_first_of_the_next_step() {
        for (name, tableau) in ALL.iter().filter(|(_, t)| t.fsal) {
            let x = ndarray::array![[0.2]];
            let step = tableau
                .step(
                    &mut Logistic(1.0),
                    Points::of_first_samples(&[0.3], &x),
                    &[0.4],
                    None,
                )
                .expect("analytic");
            let weighted = add_weighted_slopes(&x, &[0.4], tableau.b, &step.k);
            assert!(
                (&step.next - &weighted).iter().all(|e| e.abs() < 1e-15),
                "{name}"
            );
            let first = Logistic(1.0)
                .velocity(Points::of_first_samples(&[0.7], &step.next))
                .expect("analytic");
            assert_eq!(step.k[tableau.stages() - 1], first, "{name}");
        }
    }
}
