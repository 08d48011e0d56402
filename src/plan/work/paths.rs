//! What the kinds of work that follow paths share.

use anyhow::{Result, anyhow};

use crate::divergence::{ControlDivergence, DivergenceEstimator, ProductPlan};
use crate::model::loaded::Model;
use crate::plan::capabilities::check_estimator_supported;
use crate::plan::cost::ADAPTIVE_EVALUATIONS_GUESS;
use crate::plan::{PreparedPlan, SecondsPerRow, TrialCost, WorkKind};
use crate::progress::Workload;
use crate::registry::prefix_with_name;
use crate::solve::{Solver, TimeSpan};

/// The calls of a divergence head at a node. A head that shares the velocity's calls costs none.
fn head_calls(model: &Model, estimator: &DivergenceEstimator) -> u64 {
    u64::from(
        estimator
            .head()
            .is_some_and(|head| !model.card.is_joint(head)),
    )
}

/// The cost of `rows` paths of a model under every estimator, each of which is counted alone.
pub(super) fn path_cost(
    model: &Model,
    solver: &Solver,
    estimators: &[DivergenceEstimator],
    rows: usize,
) -> TrialCost {
    let dim = model.dim();
    let alone = estimators.iter().map(|e| e.jvps_per_node(dim)).sum();
    path_cost_with(model, solver, estimators, rows, alone)
}

/// The cost of `rows` paths of a model under all estimators together, which share products.
pub(super) fn shared_path_cost(
    model: &Model,
    solver: &Solver,
    estimators: &[DivergenceEstimator],
    rows: usize,
) -> TrialCost {
    let dim = model.dim();
    let is_adaptive = solver.fixed_evaluations().is_none();
    let control = match is_adaptive {
        true => ControlDivergence::for_estimators(estimators, dim),
        false => ControlDivergence::State,
    };
    let plan = ProductPlan::for_estimators(estimators, dim, &control);
    let apart = |estimator: &&DivergenceEstimator| match (&plan, estimator) {
        (ProductPlan::Jacobian | ProductPlan::Diagonal, _) => false,
        (_, DivergenceEstimator::Trace(trace)) => trace.fixed_probes().is_none(),
        _ => true,
    };
    let apart = estimators
        .iter()
        .filter(apart)
        .map(|e| e.jvps_per_node(dim))
        .sum::<u64>();
    let shared = match control {
        // The control of the steps has the whole trace already.
        ControlDivergence::Trace if is_adaptive => 0,
        _ => plan.jvps_per_node(dim) as u64,
    };
    path_cost_with(model, solver, estimators, rows, shared + apart)
}

/// The cost of `rows` paths with this many Jacobian products at each node.
fn path_cost_with(
    model: &Model,
    solver: &Solver,
    estimators: &[DivergenceEstimator],
    rows: usize,
    per_node: u64,
) -> TrialCost {
    let (dim, rows) = (model.dim(), rows as u64);
    let each = |count: &dyn Fn(&DivergenceEstimator) -> u64| estimators.iter().map(count).sum();
    let nodes = solver
        .fixed_node_count()
        .unwrap_or(ADAPTIVE_EVALUATIONS_GUESS);
    let heads: u64 = each(&|e| head_calls(model, e));
    let per_path: u64 = each(&|e| e.jvps_per_path(dim));
    let off_path: u64 = each(&|e| e.evaluations_without_solver(&model.curve));
    let follows_path = estimators.iter().any(DivergenceEstimator::needs_solver);
    let path = if follows_path {
        let extra: u64 = each(&DivergenceEstimator::evaluations_per_node);
        solver
            .fixed_evaluations()
            .unwrap_or(ADAPTIVE_EVALUATIONS_GUESS)
            + nodes * extra
    } else {
        0
    };
    let is_adaptive = follows_path && solver.fixed_evaluations().is_none();
    let control = if is_adaptive {
        let control = ControlDivergence::for_estimators(estimators, dim);
        ADAPTIVE_EVALUATIONS_GUESS * control.jvps_per_evaluation(dim)
    } else {
        0
    };
    let calls = model.most_calls();
    TrialCost {
        evaluations: (path * calls + off_path * calls) * rows,
        products: (nodes * (per_node + heads) + per_path + control) * calls * rows,
        head_calls: nodes * heads * calls * rows,
        guessed: is_adaptive,
    }
}

/// The workload of paths: work is alike if solver and estimators agree.
pub(super) fn path_workload(
    work: &dyn WorkKind,
    prepared: &PreparedPlan,
    seconds: SecondsPerRow,
    kind: &str,
    solver: &Solver,
    rows: usize,
) -> Workload {
    let labels: Vec<String> = work
        .estimators()
        .iter()
        .map(DivergenceEstimator::label)
        .collect();
    let what = format!("{}, {}", solver.label(), labels.join(", "));
    network_workload(work, prepared, seconds, kind, &what, Some(rows))
}

/// The workload of work that calls networks. Measured seconds count most for the work most alike:
/// the same `what`, then the same `kind` of work, then the same model, then any.
pub(super) fn network_workload(
    work: &dyn WorkKind,
    prepared: &PreparedPlan,
    seconds: SecondsPerRow,
    kind: &str,
    what: &str,
    rows: Option<usize>,
) -> Workload {
    let cost = work.cost(prepared);
    let units = cost.evaluations as f64 * seconds.evaluation
        + (cost.products - cost.head_calls) as f64 * seconds.product
        + cost.head_calls as f64 * seconds.head;
    let name = &prepared.plan.models[work.model_index()].name;
    let steps = if cost.guessed {
        "chosen steps"
    } else {
        "fixed steps"
    };
    Workload {
        kinds: vec![
            format!("{name}: {kind}: {what}"),
            format!("{name}: {kind}: {steps}"),
            format!("{name}: {steps}"),
            steps.to_owned(),
            "networks".to_owned(),
        ],
        units,
        rows: rows.map(|rows| rows as f64),
    }
}

/// Checks that a solver can follow the path of a model, and that the model supports the estimators.
///
/// # Errors
/// Fails with the name of the solver or the estimator that cannot be used.
pub(super) fn check_paths(
    model: &Model,
    solver: &Solver,
    estimators: &[DivergenceEstimator],
) -> Result<()> {
    let span = TimeSpan {
        curve: &model.curve,
        to_prior: true,
    };
    solver
        .check(span)
        .map_err(|e| anyhow!(prefix_with_name(solver.name(), e)))?;
    estimators
        .iter()
        .try_for_each(|estimator| check_estimator_supported(model, estimator))
}

/// Checks that data have the samples before `end`. `None` stands for an end that overflowed.
///
/// # Errors
/// Fails with the name of the data if there are fewer.
pub(super) fn check_sample_end(
    prepared: &PreparedPlan,
    data: usize,
    end: Option<usize>,
) -> Result<()> {
    let data = &prepared.data[data];
    match end.filter(|end| *end <= data.len()) {
        Some(_) => Ok(()),
        None => Err(anyhow!("{} has fewer samples", data.name)),
    }
}
