//! Finer and coarser versions of a solver, by which a solver's error is measured.

use super::Solver;

/// The divisor of the tolerances of a finer adaptive solver.
pub const TOLERANCE_DIVISOR: f64 = 10.0;

/// Returns the solver with twice the steps of a fixed grid, or with tolerances divided by
/// [`TOLERANCE_DIVISOR`]. `None` if the solver has no such parameter.
pub fn finer(solver: &Solver) -> Option<Solver> {
    with_changed_parameters(
        solver,
        |steps| Some(steps * 2),
        |tolerance| tolerance / TOLERANCE_DIVISOR,
    )
}

/// Returns the solver with half the steps. `None` if the number of steps is odd, or if the steps
/// are adaptive.
pub fn coarser(solver: &Solver) -> Option<Solver> {
    let half = |steps: u64| (steps >= 2 && steps.is_multiple_of(2)).then_some(steps / 2);
    solver.fixed_evaluations()?;
    with_changed_parameters(solver, half, |tolerance| tolerance)
}

/// Returns a fixed-step solver with the given number of steps and without `tol`, which only `steps:
/// auto` uses. `None` if the solver is adaptive.
pub fn with_steps(solver: &Solver, steps: usize) -> Option<Solver> {
    let mut entry = serde_json::to_value(solver).ok()?;
    let parameters = entry
        .as_object_mut()?
        .get_mut(solver.name())?
        .as_object_mut()?;
    parameters.get("steps")?;
    parameters.insert("steps".to_owned(), steps.into());
    parameters.remove("tol");
    serde_json::from_value(entry).ok()
}

/// Changes the parameters that set a solver's accuracy: `steps`, `tol`, or `rtol` and `atol`. It
/// edits the serialized solver by these keys, so no kind of solver is named here.
fn with_changed_parameters(
    solver: &Solver,
    steps: impl Fn(u64) -> Option<u64>,
    tolerance: impl Fn(f64) -> f64,
) -> Option<Solver> {
    let mut entry = serde_json::to_value(solver).ok()?;
    let parameters = entry
        .as_object_mut()?
        .get_mut(solver.name())?
        .as_object_mut()?;
    if let Some(n) = parameters.get("steps").and_then(|n| n.as_u64()) {
        parameters.insert("steps".to_owned(), steps(n)?.into());
    } else {
        let keys: &[&str] = if parameters.contains_key("tol") {
            &["tol"]
        } else {
            &["rtol", "atol"]
        };
        for key in keys {
            let value = parameters.get(*key)?.as_f64()?;
            parameters.insert((*key).to_owned(), tolerance(value).into());
        }
    }
    serde_json::from_value(entry).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_solver_can_be_refined_and_only_fixed_steps_halved() {
        for solver in Solver::defaults() {
            let fine = finer(&solver).expect("finer");
            assert_eq!(fine.name(), solver.name());
            assert_ne!(fine, solver);
            let fixed = solver.fixed_evaluations();
            assert_eq!(fine.fixed_evaluations(), fixed.map(|n| 2 * n));
            assert_eq!(
                coarser(&fine).filter(|_| fixed.is_some()),
                fixed.map(|_| solver.clone())
            );
            assert_eq!(coarser(&solver).is_some(), fixed.is_some());
        }
        let nats: Solver = serde_yaml::from_str("{dopri5: {tol: 0.01}}").expect("a solver");
        let finer: Option<Solver> = finer(&nats);
        assert_eq!(finer, serde_yaml::from_str("{dopri5: {tol: 0.001}}").ok());
        let odd: Solver = serde_yaml::from_str("{rk4: {steps: 7}}").expect("a solver");
        assert_eq!(coarser(&odd), None);
    }
}
