//! Optimal transport between two sets of numbers, with the cost |x − y|^p for p ≥ 1.

/// The cost of an optimal transport plan, and a solution of the dual problem.
pub(super) struct TransportPlan {
    /// The p-th power of the Wasserstein distance, W_p^p.
    pub cost: f64,
    /// The dual potentials φ and ψ, in the order of the sorted numbers. They satisfy φ_i + ψ_j ≤
    /// |x_i − y_j|^p, with equality for all pairs of the plan.
    pub potentials: [Vec<f64>; 2],
}

/// Optimal transport between the uniform distributions on two ascending lists, which may differ in
/// length.
///
/// In one dimension the optimal plan couples equal quantiles. The algorithm advances through both
/// lists together and moves on to the next number when the mass 1/m or 1/n of the present number is
/// used up. Masses are integers in units of 1/(mn), so unequal lengths cause no rounding. Only one
/// index advances at a time, which determines the potentials up to a constant. The cost is convex
/// in x − y, so these potentials are feasible for all pairs.
pub(super) fn optimal_transport_1d(x: &[f64], y: &[f64], p: f64) -> TransportPlan {
    let (m, n) = (x.len(), y.len());
    let cost = |i: usize, j: usize| {
        let gap = (x[i] - y[j]).abs();
        if p == 2.0 { gap * gap } else { gap.powf(p) }
    };
    let (mut phi, mut psi) = (vec![0.0; m], vec![0.0; n]);
    let (mut i, mut j, mut total) = (0, 0, 0.0);
    let (mut left_x, mut left_y) = (n, m);
    psi[0] = cost(0, 0);
    loop {
        let mass = left_x.min(left_y);
        total += mass as f64 * cost(i, j);
        left_x -= mass;
        left_y -= mass;
        // If both masses are used up, x advances first. The present y then has no mass left, so the
        // next step moves nothing and only advances y.
        if left_x == 0 && i + 1 < m {
            i += 1;
            left_x = n;
            phi[i] = cost(i, j) - psi[j];
        } else if left_y == 0 && j + 1 < n {
            j += 1;
            left_y = m;
            psi[j] = cost(i, j) - phi[i];
        } else {
            break;
        }
    }
    TransportPlan {
        cost: total / (m as f64 * n as f64),
        potentials: [phi, psi],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(m: usize, n: usize) -> (Vec<f64>, Vec<f64>) {
        let list = |n: usize, a: f64| {
            let mut list: Vec<f64> = (0..n).map(|i| (a * (i + 1) as f64).sin() * 2.0).collect();
            list.sort_by(f64::total_cmp);
            list
        };
        (list(m, 1.7), list(n, 2.9))
    }

    #[test]
    fn transport_1d_pairs_sorted_values() {
        let (x, y) = lists(9, 9);
        for p in [1.0, 2.0, 3.0] {
            let want = x
                .iter()
                .zip(&y)
                .map(|(a, b)| (a - b).abs().powf(p))
                .sum::<f64>()
                / 9.0;
            assert!((optimal_transport_1d(&x, &y, p).cost - want).abs() < 1e-14);
            let thrice: Vec<f64> = x.iter().flat_map(|v| [*v; 3]).collect();
            assert!((optimal_transport_1d(&thrice, &y, p).cost - want).abs() < 1e-14);
        }
    }

    #[test]
    fn transport_potentials_are_feasible_and_tight() {
        for (m, n) in [(1, 1), (1, 5), (6, 1), (7, 7), (6, 9), (10, 4), (13, 8)] {
            let (x, y) = lists(m, n);
            for p in [1.0, 1.5, 2.0, 3.0] {
                let plan = optimal_transport_1d(&x, &y, p);
                let [phi, psi] = &plan.potentials;
                let dual = phi.iter().sum::<f64>() / m as f64 + psi.iter().sum::<f64>() / n as f64;
                assert!((dual - plan.cost).abs() < 1e-12, "{m} {n} {p}");
                for i in 0..m {
                    for j in 0..n {
                        assert!(
                            phi[i] + psi[j] <= (x[i] - y[j]).abs().powf(p) + 1e-12,
                            "{m} {n} {p}"
                        );
                    }
                }
            }
        }
    }
}
