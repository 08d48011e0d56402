//! The Jacobian products that the estimators of one entry take together.
//!
//! At a node every estimator looks at the same Jacobian, so nothing is computed twice: Hutchinson's first probe is the
//! first of eight, and where the exact trace stands among them all of J is known, by which every other product is a
//! multiplication. What is planned depends on the entry alone. Values are those that each estimator would find by
//! itself, up to rounding.

use std::ops::Range;

use ndarray::{Array2, Axis};

use super::{Control, Divergence};
use crate::flow::field::{EvalError, KnownJacobian, Linearized, Products};
use crate::num::key::{Distribution, Key, Purpose, SampleId};
use crate::num::{Batch, Blocks};
use crate::solve::Nodes;
use crate::trace::{Along, At, Estimator, Jacobians, Probes};

/// Dimensions up to which whole Jacobians are kept: 128² numbers for each sample of a batch at each stage of a step.
const WHOLE: usize = 128;

/// Directions beyond those that control which an adaptive path takes along at every stage. Those of rejected steps are
/// lost, and a product costs about as much as the velocity that a later call would compute again: few pay.
const ALONG: usize = 4;

/// What is taken at a node for several estimators.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// Every estimator takes its own.
    Apart,
    /// Quadratic forms of probes that are fixed along a path: how many of each law.
    Forms(Vec<(Distribution, usize)>),
    /// The exact trace alone: its terms from a graph of their own, or the quadratic forms of the unit vectors.
    Diagonal,
    /// Products with every unit vector.
    Jacobian,
}

impl Plan {
    /// Of an entry's estimators in `dim` dimensions on paths whose steps `control` holds.
    pub fn of(estimators: &[Divergence], dim: usize, control: &Control) -> Plan {
        let traces: Vec<&Estimator> = estimators
            .iter()
            .filter_map(|e| {
                if let Divergence::Trace(estimator) = e {
                    Some(estimator)
                } else {
                    None
                }
            })
            .collect();
        let exact = traces.iter().any(|e| e.is_exact());
        let others = traces.iter().any(|e| !e.is_exact());
        let whole = exact || *control == Control::Trace;
        if others && whole && dim <= WHOLE {
            return Plan::Jacobian;
        }
        if exact && !others && *control != Control::Trace && dim <= WHOLE {
            return Plan::Diagonal;
        }
        let mut laws: Vec<(Distribution, usize)> = Vec::new();
        for (law, probes) in traces.iter().filter_map(|e| e.fixed_probes()) {
            match laws.iter_mut().find(|(known, _)| *known == law) {
                Some((_, most)) => *most = probes.max(*most),
                None => laws.push((law, probes)),
            }
        }
        if laws.is_empty() {
            Plan::Apart
        } else {
            Plan::Forms(laws)
        }
    }

    /// Products for each sample of a node.
    pub fn products(&self, dim: usize) -> usize {
        match self {
            Plan::Apart => 0,
            Plan::Forms(laws) => laws.iter().map(|(_, probes)| probes).sum(),
            Plan::Diagonal | Plan::Jacobian => dim,
        }
    }

    /// Whether they come along with the velocity, at every stage that may become a node, and are not asked for at the
    /// nodes of accepted steps.
    pub fn comes_along(&self, dim: usize, adaptive: bool, control: &Control) -> bool {
        match self {
            Plan::Apart => false,
            _ if !adaptive => true,
            Plan::Jacobian => *control == Control::Trace,
            Plan::Forms(_) | Plan::Diagonal => self.products(dim) <= ALONG,
        }
    }

    /// How it is said in a plan.
    pub fn describe(&self, along: bool) -> Option<&'static str> {
        match (self, along) {
            (Plan::Apart, _) => None,
            (Plan::Jacobian, true) => {
                Some("all products from Jacobians that come with the velocity")
            }
            (Plan::Jacobian, false) => Some("all products from the exact trace's Jacobians"),
            (_, true) => Some("products come with the velocity"),
            (_, false) => Some("products at the nodes of accepted steps"),
        }
    }

    /// The planned directions of some samples, directions × rows × dim.
    pub fn directions(&self, key: Key, sample: &[SampleId], dim: usize) -> Blocks {
        match self {
            Plan::Apart => Blocks::zeros((0, sample.len(), dim)),
            Plan::Diagonal | Plan::Jacobian => basis(sample.len(), dim),
            Plan::Forms(laws) => {
                // The addresses of probes that are fixed along a path do not tell nodes.
                let probes = Probes {
                    key,
                    sample,
                    node: &vec![0; sample.len()],
                };
                let draw = |(law, count): &(Distribution, usize)| {
                    probes.draw(Purpose::Probe, *law, Along::Fixed, 0..*count as u64, dim)
                };
                let blocks: Vec<Blocks> = laws.iter().map(draw).collect();
                let views: Vec<_> = blocks.iter().map(|b| b.view()).collect();
                ndarray::concatenate(Axis(0), &views).expect("rows and dimension are the same")
            }
        }
    }

    /// The planned products at some nodes, from calls of their own.
    ///
    /// # Errors
    /// As [`Linearized::products`].
    pub fn take(
        &self,
        key: Key,
        nodes: &Nodes,
        tangents: &mut dyn Linearized,
    ) -> Result<Products, EvalError> {
        if *self == Plan::Diagonal
            && let Some(terms) = tangents.trace_terms(nodes.t, nodes.x)?
        {
            return Ok(Products::Forms(terms));
        }
        let z = self.directions(key, nodes.sample, nodes.x.ncols());
        Ok(match self {
            Plan::Jacobian => Products::Jacobian(tangents.products(nodes.t, nodes.x, &z)?),
            _ => Products::Forms(tangents.quadratic(nodes.t, nodes.x, &z)?),
        })
    }

    /// Which of the planned products are one estimator's; none where it takes its own.
    pub fn share(&self, estimator: &Divergence) -> Option<Share> {
        let Divergence::Trace(estimator) = estimator else {
            return None;
        };
        match self {
            Plan::Apart => None,
            Plan::Jacobian => Some(Share::Jacobian),
            Plan::Diagonal => estimator.is_exact().then_some(Share::Diagonal),
            Plan::Forms(laws) => {
                let (law, probes) = estimator.fixed_probes()?;
                let mut first = 0;
                for (known, most) in laws {
                    if *known == law {
                        return Some(Share::Forms(first..first + probes));
                    }
                    first += most;
                }
                None
            }
        }
    }
}

/// The unit vectors of each row, dim × rows × dim.
pub fn basis(rows: usize, dim: usize) -> Blocks {
    let mut basis = Blocks::zeros((dim, rows, dim));
    for (i, mut block) in basis.outer_iter_mut().enumerate() {
        block.column_mut(i).fill(1.0);
    }
    basis
}

/// What one estimator makes of the planned products.
#[derive(Debug, Clone, PartialEq)]
pub enum Share {
    Forms(Range<usize>),
    Diagonal,
    Jacobian,
}

impl Share {
    /// The estimator's chains at some nodes; none where the products are of another plan.
    ///
    /// # Errors
    /// As [`crate::trace::TraceEstimator::trace`].
    pub fn chains(
        &self,
        estimator: &Estimator,
        products: &Products,
        (t, x): (&[f64], &Batch),
        probes: &Probes,
    ) -> Result<Option<Array2<f64>>, EvalError> {
        Ok(match (self, products) {
            (Share::Forms(range), Products::Forms(forms)) => {
                Some(forms.slice(ndarray::s![range.clone(), ..]).to_owned())
            }
            (Share::Diagonal, Products::Forms(forms)) => {
                Some(estimator.trace(&mut KnownDiagonal(forms), probes)?)
            }
            (Share::Jacobian, Products::Jacobian(columns)) => {
                let mut field = KnownJacobian(columns);
                Some(estimator.trace(
                    &mut At {
                        field: &mut field,
                        t,
                        x,
                    },
                    probes,
                )?)
            }
            _ => None,
        })
    }
}

/// Matrices of which only the diagonals are known, or as many sums of parts of them, terms × rows: enough for the forms of
/// unit vectors, which the exact trace sums in its own order.
struct KnownDiagonal<'a>(&'a Array2<f64>);

impl Jacobians for KnownDiagonal<'_> {
    fn rows(&self) -> usize {
        self.0.ncols()
    }

    fn dim(&self) -> usize {
        self.0.nrows()
    }

    fn apply(&mut self, z: &Blocks) -> Result<Blocks, EvalError> {
        Ok(z * &self.0.t())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(text: &str) -> Vec<Divergence> {
        serde_yaml::from_str(text).expect(text)
    }

    #[test]
    fn what_is_shared_follows_from_the_entry() {
        let of = |text: &str, dim: usize, control: Control| Plan::of(&specs(text), dim, &control);
        let forms = |laws: &[(Distribution, usize)]| Plan::Forms(laws.to_vec());
        let state = Control::State;
        assert_eq!(of("[exact]", 64, state.clone()), Plan::Diagonal);
        assert_eq!(of("[exact, hutchinson]", 64, state.clone()), Plan::Jacobian);
        assert_eq!(of("[hutchinson]", 3, Control::Trace), Plan::Jacobian);
        // Its values are those that control.
        assert_eq!(of("[exact]", 3, Control::Trace), Plan::Apart);
        let one = [(Distribution::Rademacher, 8)];
        assert_eq!(
            of(
                "[hutchinson, {hutchinson: {probes: 8}}, hutch++]",
                64,
                state.clone()
            ),
            forms(&one)
        );
        assert_eq!(
            of("[exact, {hutchinson: {probes: 8}}]", 3072, state.clone()),
            forms(&one)
        );
        assert_eq!(
            of(
                "[{hutchinson: {along: fresh}}, hutch++, learned]",
                64,
                state
            ),
            Plan::Apart
        );
    }

    /// Every trace estimator finds in shared products what it finds by itself.
    #[test]
    fn shared_products_give_each_estimator_its_own_values() {
        let dim = 6;
        let key = Key { seed: 5 };
        let matrix = key
            .normal(Purpose::Check, 1, 0, dim * dim)
            .into_shape_with_order((dim, dim))
            .expect("a matrix");
        let (sample, node, slot, t) = ([3, 8, 9], [4, 5, 6], [0, 1, 2], [0.1, 0.2, 0.3]);
        let x = Batch::zeros((3, dim));
        let nodes = Nodes {
            sample: &sample,
            node: &node,
            slot: &slot,
            t: &t,
            x: &x,
            weight: &[1.0; 3],
            divergence: None,
            products: None,
        };
        let columns = Blocks::from_shape_fn((dim, 3, dim), |(i, row, j)| {
            matrix[[j, i]] * (1.0 + row as f64)
        });
        let mut all: Vec<Divergence> = Estimator::defaults()
            .into_iter()
            .map(Divergence::Trace)
            .collect();
        all.extend(specs(
            "[{hutchinson: {probes: 3}}, {hutchinson: {probes: 2, distribution: gaussian}}]",
        ));
        all.extend(specs(
            "[{hutchinson: {probes: 3, along: fresh}}, {hutch++: {matvecs: 6, replicates: 2}}]",
        ));
        let exact = all
            .iter()
            .position(|e| matches!(e, Divergence::Trace(e) if e.is_exact()))
            .expect("listed");
        let without: Vec<Divergence> = all
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != exact)
            .map(|(_, e)| e.clone())
            .collect();
        for (entry, least) in [
            (&all, all.len()),
            (&without, 3),
            (&vec![all[exact].clone()], 1),
        ] {
            let plan = Plan::of(entry, dim, &Control::State);
            let products = plan
                .take(key, &nodes, &mut KnownJacobian(&columns))
                .expect("known");
            let mut shared = 0;
            for spec in entry {
                let Divergence::Trace(estimator) = spec else {
                    continue;
                };
                let Some(share) = plan.share(spec) else {
                    continue;
                };
                shared += 1;
                let probes = Probes {
                    key,
                    sample: &sample,
                    node: &node,
                };
                let chains = share
                    .chains(estimator, &products, (&t, &x), &probes)
                    .expect("known")
                    .expect("its plan");
                let mut field = KnownJacobian(&columns);
                let own = estimator
                    .trace(
                        &mut At {
                            field: &mut field,
                            t: &t,
                            x: &x,
                        },
                        &probes,
                    )
                    .expect("known");
                assert_eq!(chains.dim(), own.dim(), "{spec:?}");
                assert!(
                    chains
                        .iter()
                        .zip(&own)
                        .all(|(a, b)| (a - b).abs() < 1e-12 * (1.0 + b.abs())),
                    "{spec:?}"
                );
                // A row is its sample's, whoever stands beside it.
                let row = products.select(&[1]);
                let probes = Probes {
                    key,
                    sample: &sample[1..2],
                    node: &node[1..2],
                };
                let part = x.select(Axis(0), &[1]);
                let alone = share
                    .chains(estimator, &row, (&t[1..2], &part), &probes)
                    .expect("known")
                    .expect("its plan");
                assert!(
                    alone
                        .iter()
                        .zip(chains.column(1))
                        .all(|(a, b)| (a - b).abs() < 1e-12),
                    "{spec:?}"
                );
            }
            assert!(shared >= least, "{shared} of {entry:?}");
        }
    }
}
