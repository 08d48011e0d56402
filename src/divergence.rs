//! Divergence estimators, which are evaluated on a path's nodes: traces of the velocity's Jacobian,
//! and learned divergences.
//!
//! All estimators of a run use the same nodes of the same path, so their differences are paired.
//! Values are +div of dx/dt in the card's own time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ndarray::{Array2, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow::field::{
    EvalError, FlowMap, JacobianOperator, OneCallDensity, ScalarField, VectorField,
};
use crate::flow::flow_map::{FewSteps, FlowMapStepRule};
use crate::flow::network_velocity::ForwardNetwork;
use crate::flow::path::PathCurve;
use crate::model::card::DataSpec;
use crate::num::key::{Distribution, Purpose, RngKey};
use crate::num::stats;
use crate::registry;
use crate::rows::EstimateKind;
use crate::solve::Nodes;
use crate::trace::{Estimator, JacobianAt, ProbeReuse, ProbeSource};

mod bounds;
mod control;
mod debiased;
mod shared_products;

pub use bounds::{BoundDecoder, BoundTimes, ContinuousBound, DiscreteBound, ReverseVariance};
pub use control::{ControlDivergence, ControlledVelocity, EvaluationCost, lock_model_handles};
pub use debiased::Debiased;
use debiased::NodeReservoir;
use shared_products::EstimatorProducts;
pub use shared_products::ProductPlan;

/// An estimator of the divergence's integral, by the names that `estimators:` and `--divergence`
/// accept.
#[derive(Debug, Clone, PartialEq)]
pub enum DivergenceEstimator {
    /// A trace estimator, which uses Jacobian products.
    Trace(Estimator),
    /// A divergence head that was trained to predict the divergence (StAD).
    Learned(Learned),
    /// A head, corrected by Jacobian products at a few random nodes: unbiased, at little more than
    /// the head's cost.
    Debiased(Debiased),
    /// The difference of the model's true log-density, if the card has one: ∫div dt = log p(data
    /// end) − log p(prior end).
    ClosedForm(ClosedForm),
    /// Finite differences of the velocity, for networks that cannot be differentiated. No default
    /// selects it.
    FiniteDifference(FiniteDifference),
    /// A few steps of a learned flow map (F2D2), which has its own path and needs no solver.
    FlowMap(FewSteps),
    /// The continuous variational bound, from denoising errors.
    ContinuousBound(ContinuousBound),
    /// The discrete variational bound of DDPM, over the steps of a discrete path.
    DiscreteBound(DiscreteBound),
    /// The log-density that a normalizing flow, or a graph of the density, gives in one call.
    OneCall(OneCallLikelihood),
}

/// Hutchinson's estimator with central differences zᵀ(v(x + hz) − v(x − hz))/2h instead of Jacobian
/// products, with Rademacher probes z.
///
/// The difference step h is `step` times the noise level σ(t), and at least `step`/100 times α(t).
/// Each probe is also evaluated at 2h. A third of the difference estimates the truncation error,
/// which is part of `stderr` together with the probes' error. In single precision, rounding limits
/// the accuracy to 1e-4 to 1e-3 of a product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FiniteDifference {
    /// The difference step h, relative to the noise level; above 0 and at most 1. Default: 0.03.
    pub step: f64,
    /// The number of probes. Default: 8.
    pub probes: usize,
}

impl Default for FiniteDifference {
    fn default() -> Self {
        FiniteDifference {
            step: 0.03,
            probes: 8,
        }
    }
}

impl FiniteDifference {
    /// The lower bound of the noise level, as a fraction of α(t).
    const MIN_RELATIVE_NOISE: f64 = 0.01;
    /// The minimum length of a difference step, in spacings between neighbouring floating-point
    /// numbers. With a shorter step, the rounding of the states is a noticeable part of the
    /// difference.
    const MIN_SPACINGS_PER_STEP: f64 = 16.0;

    /// The difference step h at the card's time `t`.
    fn step_length(&self, curve: &PathCurve, t: f64) -> f64 {
        let at = curve.at(t);
        self.step * at.sigma.max(Self::MIN_RELATIVE_NOISE * at.alpha)
    }

    /// The smallest `step` that floating-point numbers resolve along a path. `largest` is the size
    /// of the data, and `spacing` is the distance from 1 to the next number. States of the path
    /// have a size of about α · `largest` + 3 σ. The ratio of the noise level to that size is
    /// smallest at the data end.
    pub fn smallest_step(curve: &PathCurve, largest: f64, spacing: f64) -> f64 {
        let at = curve.at(curve.data_end());
        let noise = (at.sigma / at.alpha).max(Self::MIN_RELATIVE_NOISE);
        Self::MIN_SPACINGS_PER_STEP * spacing * (largest + 3.0 * noise) / noise
    }
}

/// The divergence that a divergence head of the card predicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-first" = "head"))]
#[serde(deny_unknown_fields, default)]
pub struct Learned {
    /// The head's name in the card. Default: `stad`.
    pub head: String,
}

impl Default for Learned {
    fn default() -> Self {
        Learned {
            head: "stad".to_owned(),
        }
    }
}

/// The exact log-density of an analytic model. There are no parameters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClosedForm {}

/// The log-density of a model that gives it in one call, of a card of `kind: flow` or
/// `kind: density`. There are no parameters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OneCallLikelihood {}

/// The names and aliases of the estimators that are not trace estimators.
const NON_TRACE_NAMES: [registry::Names; 8] = [
    ("learned", &["head", "learned-head"]),
    ("debiased", &["debiased-head"]),
    ("closed-form", &["analytic", "closedform"]),
    ("finite-difference", &["finite-differences", "fd"]),
    ("flow-map", &["flowmap", "few-step"]),
    ("nelbo", &["elbo", "variational-bound", "continuous-bound"]),
    ("vlb", &["discrete-bound"]),
    ("one-call", &["onecall", "normalizing-flow"]),
];

/// What the estimators are that are not trace estimators, in the order of [`NON_TRACE_NAMES`].
enum NonTrace {}

crate::registry::describe_kinds! { NonTrace {
    "learned" {
        what: "The divergence that a trained head of the card predicts.",
        when: "Where Jacobian products are too expensive and the head passed its Stein tests.",
        source: "Jagwani et al. 2026, arXiv:2605.16486",
    },
    "debiased" {
        what: "A head that is corrected by Jacobian products at a few random nodes, without bias.",
        when: "A head whose bias matters, at a cost that does not grow with the steps.",
        source: "",
    },
    "closed-form" {
        what: "The log-density that the card's closed form gives.",
        when: "Analytic models, as the truth that the others are compared with.",
        source: "",
    },
    "finite-difference" {
        what: "Hutchinson's estimator with differences of the velocity in the place of products.",
        when: "Networks that cannot be differentiated.",
        source: "Hutchinson 1990, doi:10.1080/03610919008812866",
    },
    "flow-map" {
        what: "A few steps of a learned flow map with its divergence or its log-determinants.",
        when: "A ranking of samples in 1 to 8 evaluations.",
        source: "Ai et al. 2025, arXiv:2512.02636",
    },
    "nelbo" {
        what: "The variational bound in continuous time, from denoising errors.",
        when: "Bounds to set beside published ones, on any path.",
        source: "Kingma et al. 2021, arXiv:2107.00630",
    },
    "vlb" {
        what: "The variational bound in discrete steps.",
        when: "Bits per dimension to set beside a DDPM paper's.",
        source: "Ho et al. 2020, arXiv:2006.11239; Nichol & Dhariwal 2021, arXiv:2102.09672",
    },
    "one-call" {
        what: "The log-density that the model gives in one call.",
        when: "Normalizing flows and graphs of a density.",
        source: "Papamakarios et al. 2021, arXiv:1912.02762",
    },
} }

impl registry::Described for DivergenceEstimator {
    fn descriptions() -> Vec<registry::KindDescription> {
        let mut all = Estimator::descriptions();
        all.extend(NonTrace::descriptions());
        all
    }
}

impl DivergenceEstimator {
    /// Every name, without aliases.
    pub fn names() -> Vec<&'static str> {
        DivergenceEstimator::aliases()
            .iter()
            .map(|(name, _)| *name)
            .collect()
    }

    /// Every name with its aliases.
    pub fn aliases() -> Vec<registry::Names> {
        Estimator::ALIASES
            .iter()
            .chain(&NON_TRACE_NAMES)
            .copied()
            .collect()
    }

    /// The label in tables: the name with all parameters that differ from their defaults.
    pub fn label(&self) -> String {
        match self {
            DivergenceEstimator::Trace(e) => {
                let default = Estimator::from_name(e.name()).unwrap_or_else(|| e.clone());
                registry::kind_label(e.name(), e, &default)
            }
            DivergenceEstimator::Learned(l) => format!("learned({})", l.head),
            DivergenceEstimator::Debiased(_) => registry::kind_label(
                "debiased",
                self,
                &DivergenceEstimator::Debiased(Default::default()),
            ),
            DivergenceEstimator::ClosedForm(_) => "closed-form".to_owned(),
            DivergenceEstimator::OneCall(_) => "one-call".to_owned(),
            DivergenceEstimator::FiniteDifference(_) => registry::kind_label(
                "finite-difference",
                self,
                &DivergenceEstimator::FiniteDifference(Default::default()),
            ),
            DivergenceEstimator::FlowMap(f) => f.label(),
            DivergenceEstimator::ContinuousBound(_) => registry::kind_label(
                "nelbo",
                self,
                &DivergenceEstimator::ContinuousBound(Default::default()),
            ),
            DivergenceEstimator::DiscreteBound(_) => registry::kind_label(
                "vlb",
                self,
                &DivergenceEstimator::DiscreteBound(Default::default()),
            ),
        }
    }

    /// The kind of the estimator's values.
    pub fn kind(&self) -> EstimateKind {
        match self {
            DivergenceEstimator::Trace(e) if e.is_exact() => EstimateKind::OdeExact,
            DivergenceEstimator::Trace(_) => EstimateKind::OdeStochastic,
            DivergenceEstimator::Learned(_) => EstimateKind::Learned,
            DivergenceEstimator::Debiased(_) => EstimateKind::OdeStochastic,
            DivergenceEstimator::ClosedForm(_) => EstimateKind::ClosedForm,
            DivergenceEstimator::OneCall(_) => EstimateKind::OneCall,
            DivergenceEstimator::FiniteDifference(_) => EstimateKind::FiniteDifference,
            DivergenceEstimator::FlowMap(f) if f.rule == Some(FlowMapStepRule::ForwardAverage) => {
                EstimateKind::FewStepForwardAverage
            }
            DivergenceEstimator::FlowMap(f) if f.has_log_determinants() => {
                EstimateKind::FewStepExact
            }
            DivergenceEstimator::FlowMap(_) => EstimateKind::FewStep,
            DivergenceEstimator::ContinuousBound(_) | DivergenceEstimator::DiscreteBound(_) => {
                EstimateKind::Elbo
            }
        }
    }

    /// Whether the estimator is evaluated on the nodes of a solver's path. A flow map has its own
    /// path, and variational bounds and one-call models have none.
    pub fn needs_solver(&self) -> bool {
        !matches!(
            self,
            DivergenceEstimator::FlowMap(_) | DivergenceEstimator::OneCall(_)
        ) && !self.is_variational_bound()
    }

    /// Whether the estimator is a lower bound of the log-density from denoising errors.
    pub fn is_variational_bound(&self) -> bool {
        self.kind() == EstimateKind::Elbo
    }

    /// Whether the estimator evaluates the velocity.
    pub fn needs_velocity(&self) -> bool {
        self.needs_solver() || self.is_variational_bound()
    }

    /// The number of network evaluations per sample of an estimator that needs no solver on the path
    /// `curve`; 0 for all others.
    pub fn evaluations_without_solver(&self, curve: &PathCurve) -> u64 {
        match self {
            DivergenceEstimator::FlowMap(f) => f.steps as u64,
            DivergenceEstimator::ContinuousBound(bound) => bound.draws as u64,
            DivergenceEstimator::DiscreteBound(bound) => bound.evaluations(curve),
            DivergenceEstimator::OneCall(_) => 1,
            _ => 0,
        }
    }

    /// The parameter whose increase to K reduces the variance as 1/K at a cost proportional to K:
    /// its name and its value. `None` if there is none. With orthogonal probes the variance falls
    /// faster than 1/K; the cost of a debiased head does not grow in proportion to its reservoir.
    pub fn averaging_parameter(&self) -> Option<(&'static str, usize)> {
        match self {
            DivergenceEstimator::Trace(estimator) => estimator
                .averaging_parameter()
                .filter(|_| self.kind() == EstimateKind::OdeStochastic),
            _ => None,
        }
    }

    /// Whether the spread of the replicates gives the standard error of their integral. It does not
    /// for the leave-one-out values of a single XTrace. All nodes share their test vectors, so the
    /// sketch misses the same part at all of them.
    fn has_path_standard_error(&self) -> bool {
        !matches!(self, DivergenceEstimator::Trace(Estimator::XTrace(xtrace)) if xtrace.replicates == 1)
    }

    /// The estimator for the comparison of two grids. It has no random draws at single nodes,
    /// because these would differ between the grids. `None` if the estimator follows no solver's
    /// path.
    pub fn without_node_draws(&self) -> Option<DivergenceEstimator> {
        match self {
            DivergenceEstimator::FlowMap(_)
            | DivergenceEstimator::ContinuousBound(_)
            | DivergenceEstimator::DiscreteBound(_)
            | DivergenceEstimator::OneCall(_) => None,
            DivergenceEstimator::Debiased(d) => Some(DivergenceEstimator::Learned(Learned {
                head: d.head.clone(),
            })),
            DivergenceEstimator::Trace(e) if !self.is_continuous_along_path() => {
                let mut entry = serde_json::to_value(e).ok()?;
                entry[e.name()]["along"] = "fixed".into();
                serde_json::from_value(entry)
                    .ok()
                    .map(DivergenceEstimator::Trace)
            }
            _ => Some(self.clone()),
        }
    }

    /// Whether the values along a path are those of one function of time. They are not if each node
    /// has its own random reservoir.
    pub fn is_continuous_along_path(&self) -> bool {
        match self {
            DivergenceEstimator::Trace(e) => {
                let entry = serde_json::to_value(e).unwrap_or_default();
                entry[e.name()]["along"] != "fresh"
            }
            DivergenceEstimator::Learned(_) | DivergenceEstimator::FiniteDifference(_) => true,
            DivergenceEstimator::Debiased(_)
            | DivergenceEstimator::ClosedForm(_)
            | DivergenceEstimator::FlowMap(_)
            | DivergenceEstimator::ContinuousBound(_)
            | DivergenceEstimator::DiscreteBound(_)
            | DivergenceEstimator::OneCall(_) => false,
        }
    }

    /// Whether the values are random, so that they depend on the seed.
    pub fn is_random(&self) -> bool {
        matches!(
            self.kind(),
            EstimateKind::OdeStochastic | EstimateKind::FiniteDifference | EstimateKind::Elbo
        )
    }

    /// The number of network evaluations per node, in addition to those of the path.
    pub fn evaluations_per_node(&self) -> u64 {
        match self {
            DivergenceEstimator::FiniteDifference(f) => 4 * f.probes as u64,
            _ => 0,
        }
    }

    /// The number of Jacobian products per node.
    pub fn jvps_per_node(&self, dim: usize) -> u64 {
        match self {
            DivergenceEstimator::Trace(e) => e.matvecs(dim) as u64,
            _ => 0,
        }
    }

    /// The number of Jacobian products per sample, in addition to those at the nodes.
    pub fn jvps_per_path(&self, dim: usize) -> u64 {
        match self {
            DivergenceEstimator::Debiased(d) => d.probes as u64,
            DivergenceEstimator::FlowMap(f) if f.has_log_determinants() => (f.steps * dim) as u64,
            _ => 0,
        }
    }

    /// The name of the head that the estimator needs; `None` if it needs none.
    pub fn head(&self) -> Option<&str> {
        match self {
            DivergenceEstimator::Learned(Learned { head })
            | DivergenceEstimator::Debiased(Debiased { head, .. }) => Some(head),
            _ => None,
        }
    }

    /// Whether the estimator needs Jacobian products, and whether it needs products with the
    /// transpose.
    pub fn needs_jvp_and_vjp(&self) -> (bool, bool) {
        match self {
            DivergenceEstimator::Trace(e) => (true, e.needs_transpose()),
            DivergenceEstimator::Debiased(_) => (true, false),
            _ => (false, false),
        }
    }

    /// Checks the parameters for `dim` dimensions.
    ///
    /// # Errors
    /// Fails if a parameter is invalid. The message names its key and what is expected.
    pub fn check(&self, dim: usize) -> Result<(), String> {
        // All probe vectors of a node are in memory at once, so a typing error in a count could
        // exhaust it.
        const NUMBERS: u64 = 1 << 24;
        if self.kind() == EstimateKind::OdeStochastic
            && self.jvps_per_node(dim).saturating_mul(dim as u64) > NUMBERS
        {
            let most = NUMBERS / dim.max(1) as u64;
            return Err(format!(
                "{}: {} Jacobian products per node, expected at most {most}",
                self.label(),
                self.jvps_per_node(dim)
            ));
        }
        match self {
            DivergenceEstimator::Trace(e) => e.check(dim),
            // The drawn states stay in memory until the end of the path, so their number is
            // limited.
            DivergenceEstimator::Debiased(d) => {
                registry::check_bounds("debiased: probes", d.probes, 1, (1 << 20) / dim.max(1) + 1)
            }
            DivergenceEstimator::FiniteDifference(f) if !(f.step > 0.0 && f.step <= 1.0) => {
                Err(format!(
                    "finite-difference: step is {}, expected above 0 and at most 1",
                    f.step
                ))
            }
            DivergenceEstimator::ContinuousBound(bound) => bound.check(),
            DivergenceEstimator::DiscreteBound(bound) => bound.check(),
            DivergenceEstimator::FiniteDifference(f) => {
                registry::check_bounds("finite-difference: probes", f.probes, 1, 1_000_000)
            }
            _ => Ok(()),
        }
    }
}

impl Serialize for DivergenceEstimator {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = match self {
            DivergenceEstimator::Trace(e) => return e.serialize(serializer),
            _ => serializer.serialize_map(Some(1))?,
        };
        match self {
            DivergenceEstimator::Learned(l) => map.serialize_entry("learned", l)?,
            DivergenceEstimator::Debiased(d) => map.serialize_entry("debiased", d)?,
            DivergenceEstimator::FiniteDifference(f) => {
                map.serialize_entry("finite-difference", f)?
            }
            DivergenceEstimator::FlowMap(f) => map.serialize_entry("flow-map", f)?,
            DivergenceEstimator::ContinuousBound(b) => map.serialize_entry("nelbo", b)?,
            DivergenceEstimator::DiscreteBound(b) => map.serialize_entry("vlb", b)?,
            DivergenceEstimator::OneCall(o) => map.serialize_entry("one-call", o)?,
            _ => map.serialize_entry("closed-form", &ClosedForm {})?,
        }
        map.end()
    }
}

impl JsonSchema for DivergenceEstimator {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Divergence".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut entries = Estimator::schemas(generator);
        entries.extend([
            ("learned", generator.subschema_for::<Learned>()),
            ("debiased", generator.subschema_for::<Debiased>()),
            ("closed-form", generator.subschema_for::<ClosedForm>()),
            (
                "finite-difference",
                generator.subschema_for::<FiniteDifference>(),
            ),
            ("flow-map", generator.subschema_for::<FewSteps>()),
            ("nelbo", generator.subschema_for::<ContinuousBound>()),
            ("vlb", generator.subschema_for::<DiscreteBound>()),
            ("one-call", generator.subschema_for::<OneCallLikelihood>()),
        ]);
        registry::schema(&DivergenceEstimator::aliases(), entries)
    }
}

impl<'de> Deserialize<'de> for DivergenceEstimator {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> serde::de::Visitor<'de> for Entry {
            type Value = DivergenceEstimator;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                write!(
                    f,
                    "a name or {{name: {{…}}}}, one of {}",
                    DivergenceEstimator::names().join(", ")
                )
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<DivergenceEstimator, E> {
                match registry::canonical(name, &NON_TRACE_NAMES) {
                    Some("learned") => Ok(DivergenceEstimator::Learned(Learned::default())),
                    Some("debiased") => Ok(DivergenceEstimator::Debiased(Debiased::default())),
                    Some("closed-form") => Ok(DivergenceEstimator::ClosedForm(ClosedForm {})),
                    Some("finite-difference") => {
                        Ok(DivergenceEstimator::FiniteDifference(Default::default()))
                    }
                    Some("flow-map") => Ok(DivergenceEstimator::FlowMap(FewSteps::default())),
                    Some("nelbo") => Ok(DivergenceEstimator::ContinuousBound(Default::default())),
                    Some("vlb") => Ok(DivergenceEstimator::DiscreteBound(Default::default())),
                    Some("one-call") => Ok(DivergenceEstimator::OneCall(OneCallLikelihood {})),
                    _ => Estimator::from_name(name)
                        .map(DivergenceEstimator::Trace)
                        .ok_or_else(|| registry::unknown(name, &DivergenceEstimator::names())),
                }
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<DivergenceEstimator, A::Error> {
                let name: String = registry::only_key(&mut map, &DivergenceEstimator::names())?;
                let entry = match registry::canonical(&name, &DivergenceEstimator::aliases()) {
                    Some("learned") => DivergenceEstimator::Learned(map.next_value()?),
                    Some("debiased") => DivergenceEstimator::Debiased(map.next_value()?),
                    Some("closed-form") => DivergenceEstimator::ClosedForm(map.next_value()?),
                    Some("finite-difference") => {
                        DivergenceEstimator::FiniteDifference(map.next_value()?)
                    }
                    Some("flow-map") => DivergenceEstimator::FlowMap(map.next_value()?),
                    Some("nelbo") => DivergenceEstimator::ContinuousBound(map.next_value()?),
                    Some("vlb") => DivergenceEstimator::DiscreteBound(map.next_value()?),
                    Some("one-call") => DivergenceEstimator::OneCall(map.next_value()?),
                    Some(known) => {
                        DivergenceEstimator::Trace(Estimator::from_entry(known, &mut map)?)
                    }
                    None => return Err(registry::unknown(&name, &DivergenceEstimator::names())),
                };
                registry::no_more_keys(&mut map)?;
                Ok(entry)
            }
        }
        deserializer.deserialize_any(Entry)
    }
}

/// The parts of a model that estimators use, opened for one worker.
#[derive(Default)]
pub struct ModelHandles {
    /// The Jacobian products of the velocity, if they were opened.
    pub jacobian: Option<Box<dyn JacobianOperator>>,
    /// The divergence heads by their names.
    pub heads: BTreeMap<String, Box<dyn ScalarField>>,
    /// The true log-density of an analytic model.
    pub closed_form: Option<Box<dyn ScalarField>>,
    /// The log-density of a one-call model.
    pub one_call: Option<Box<dyn OneCallDensity>>,
    /// A second velocity for finite differences, with its path.
    pub difference_velocity: Option<(Box<dyn VectorField>, PathCurve)>,
    /// The probability path of the model.
    pub curve: Option<PathCurve>,
    /// The names of the heads that are evaluated in the velocity's calls and need no calls of their
    /// own.
    pub joint_heads: BTreeSet<String>,
    /// Whether the card has such heads, used or not. If it has, the velocity always comes from its
    /// own graph, and never from the graph of the Jacobian products.
    pub separate_velocity: bool,
    /// The range and the levels of the data, if the card says them.
    pub data: Option<DataSpec>,
    /// The network whose output is the learned variances of reverse steps.
    pub variances: Option<Box<dyn ForwardNetwork>>,
    /// The flow maps by their names.
    pub flow_maps: BTreeMap<String, Box<dyn FlowMap>>,
    /// The names of the flow maps that lead only from noise to data.
    pub maps_to_data: BTreeSet<String>,
    /// The measured time of the velocity alone, in seconds per row; `None` before the measurement.
    pub velocity_seconds: Option<f64>,
}

impl ModelHandles {
    /// The number of calls of a network for one row when an estimator evaluates a node at time `t`.
    fn calls_at(&self, estimator: &DivergenceEstimator, t: f64) -> u64 {
        let calls = match estimator {
            DivergenceEstimator::Trace(_) => self.jacobian.as_ref().map(|j| j.calls_at(t)),
            DivergenceEstimator::FiniteDifference(_) => {
                let velocity = self.difference_velocity.as_ref();
                velocity.map(|(velocity, _)| velocity.calls_at(t))
            }
            _ => estimator
                .head()
                .and_then(|head| self.heads.get(head))
                .map(|head| head.calls_at(t)),
        };
        calls.unwrap_or(1)
    }

    /// Returns the flow map `name`.
    ///
    /// # Errors
    /// Fails if no flow map of that name was opened.
    pub fn flow_map(&mut self, name: &str) -> Result<&mut dyn FlowMap, EvalError> {
        match self.flow_maps.get_mut(name) {
            Some(map) => Ok(&mut **map),
            None => Err(EvalError::Missing(format!(
                "this model has no flow map `{name}`"
            ))),
        }
    }
}

/// The divergence integral of one sample, with its standard error if it is an estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DivergenceIntegral {
    /// The integral, in nats.
    pub value: f64,
    /// The standard error, in nats; `None` for a deterministic estimator.
    pub stderr: Option<f64>,
    /// Half the width of the 95 % confidence interval, in nats. It uses Student's t, because a few
    /// replicates give an uncertain standard error.
    pub half_width: Option<f64>,
}

impl DivergenceIntegral {
    /// A value without a standard error.
    pub fn exact(value: f64) -> DivergenceIntegral {
        DivergenceIntegral {
            value,
            stderr: None,
            half_width: None,
        }
    }

    /// The mean of independent values with its standard error and confidence interval.
    fn from_replicates(estimates: &[f64]) -> DivergenceIntegral {
        let Some(e) = stats::mean_estimate(estimates) else {
            return DivergenceIntegral::exact(f64::NAN);
        };
        let half_width = e
            .stderr
            .map(|s| stats::confidence_half_width(s, Some(estimates.len()), 0.95));
        DivergenceIntegral {
            value: e.value,
            stderr: e.stderr,
            half_width,
        }
    }
}

/// Integrates the values of one estimator along the paths of a batch.
pub struct DivergenceIntegrator<'a> {
    spec: &'a DivergenceEstimator,
    key: RngKey,
    /// The integrals so far, replicates × samples. The array is created at the first node.
    sums: Option<Array2<f64>>,
    /// The random nodes at which a debiased head is compared with the Jacobian.
    node_reservoir: Option<NodeReservoir>,
    /// Whether this estimator's values are the divergence that controls the steps.
    is_control: bool,
    /// This estimator's part of the products that several estimators share.
    shared_products: Option<EstimatorProducts>,
    samples: usize,
    /// The number of nodes visited, per sample. A node counts as often as the network is called
    /// there for one row.
    pub calls: Vec<u64>,
    /// The number of Jacobian products of a debiased head's correction, per sample.
    pub residual_jvps: Vec<u64>,
    /// The time in this estimator for all samples together, in seconds.
    pub seconds: f64,
}

impl<'a> DivergenceIntegrator<'a> {
    /// Starts an integrator for `samples` paths.
    pub fn new(
        spec: &'a DivergenceEstimator,
        key: RngKey,
        samples: usize,
    ) -> DivergenceIntegrator<'a> {
        let reservoir = match spec {
            DivergenceEstimator::Debiased(d) => Some(NodeReservoir::new(d, samples)),
            _ => None,
        };
        DivergenceIntegrator {
            spec,
            key,
            sums: None,
            node_reservoir: reservoir,
            is_control: false,
            shared_products: None,
            samples,
            calls: vec![0; samples],
            residual_jvps: vec![0; samples],
            seconds: 0.0,
        }
    }

    /// Uses the divergence that controls the steps and the products that several estimators share,
    /// so that nothing is computed twice.
    #[must_use]
    pub fn with_shared_products(
        self,
        control: &ControlDivergence,
        plan: &ProductPlan,
    ) -> DivergenceIntegrator<'a> {
        DivergenceIntegrator {
            is_control: control.is_estimator(self.spec),
            shared_products: plan.products_of(self.spec),
            ..self
        }
    }

    /// Evaluates the divergence on nodes and adds it to the integrals. Returns one value per node,
    /// the mean over replicates.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated, or if it lacks a part that the estimator needs.
    pub fn visit(
        &mut self,
        nodes: &Nodes,
        sources: &mut ModelHandles,
    ) -> Result<Vec<f64>, EvalError> {
        let started = Instant::now();
        let mut estimates = self.replicate_estimates(nodes, sources)?;
        if !self.spec.has_path_standard_error() {
            estimates = estimates
                .mean_axis(Axis(0))
                .map(|m| m.insert_axis(Axis(0)))
                .unwrap_or(estimates);
        }
        self.seconds += started.elapsed().as_secs_f64();
        let sums = self
            .sums
            .get_or_insert_with(|| Array2::zeros((estimates.nrows(), self.samples)));
        for (i, index) in nodes.batch_index.iter().enumerate() {
            sums.column_mut(*index)
                .scaled_add(nodes.weight[i], &estimates.column(i));
            self.calls[*index] += sources.calls_at(self.spec, nodes.t[i]);
        }
        let shown = match self.spec {
            DivergenceEstimator::FiniteDifference(f) => {
                estimates.slice(ndarray::s![..f.probes, ..])
            }
            _ => estimates.view(),
        };
        Ok(shown
            .mean_axis(Axis(0))
            .map(|m| m.to_vec())
            .unwrap_or_default())
    }

    /// Evaluates the divergence: replicates × nodes. Nodes whose state is not finite give NaN and
    /// do not reach the network.
    fn replicate_estimates(
        &mut self,
        nodes: &Nodes,
        sources: &mut ModelHandles,
    ) -> Result<Array2<f64>, EvalError> {
        let finite: Vec<usize> = (0..nodes.batch_index.len())
            .filter(|i| nodes.x.row(*i).iter().all(|v| v.is_finite()))
            .collect();
        if finite.len() == nodes.batch_index.len() {
            return self.evaluate(nodes, sources);
        }
        let pick = |v: &[u64]| finite.iter().map(|i| v[*i]).collect::<Vec<_>>();
        let real = |v: &[f64]| finite.iter().map(|i| v[*i]).collect::<Vec<_>>();
        let known = nodes.divergence.map(real);
        let products = nodes.products.map(|p| p.select(&finite));
        let part = Nodes {
            sample: &pick(nodes.sample),
            node: &pick(nodes.node),
            batch_index: &finite,
            t: &real(nodes.t),
            x: &nodes.x.select(Axis(0), &finite),
            weight: &real(nodes.weight),
            divergence: known.as_deref(),
            products: products.as_ref(),
        };
        let some = if finite.is_empty() {
            Array2::zeros((1, 0))
        } else {
            self.evaluate(&part, sources)?
        };
        let rows = self.sums.as_ref().map_or(some.nrows(), |s| s.nrows());
        let mut all = Array2::from_elem((rows, nodes.batch_index.len()), f64::NAN);
        for (j, i) in finite.iter().enumerate() {
            all.column_mut(*i).assign(&some.column(j));
        }
        Ok(all)
    }

    /// Evaluates the divergence on nodes with finite states: replicates × nodes.
    fn evaluate(
        &mut self,
        nodes: &Nodes,
        sources: &mut ModelHandles,
    ) -> Result<Array2<f64>, EvalError> {
        if let Some(known) = nodes.divergence.filter(|_| self.is_control) {
            return Ok(Array2::from_shape_vec((1, known.len()), known.to_vec())
                .expect("one value per row"));
        }
        match self.spec {
            DivergenceEstimator::Trace(estimator) => {
                let probes = ProbeSource {
                    key: self.key,
                    sample: nodes.sample,
                    node: nodes.node,
                };
                if let (Some(share), Some(products)) = (&self.shared_products, nodes.products)
                    && let Some(estimates) =
                        share.replicate_estimates(estimator, products, nodes.points(), &probes)?
                {
                    return Ok(estimates);
                }
                let missing =
                    || EvalError::Missing("this model offers no Jacobian products".to_owned());
                let field = sources.jacobian.as_mut().ok_or_else(missing)?;
                estimator.trace(
                    &mut JacobianAt {
                        field: &mut **field,
                        at: nodes.points(),
                    },
                    &probes,
                )
            }
            DivergenceEstimator::Learned(Learned { head })
            | DivergenceEstimator::Debiased(Debiased { head, .. }) => {
                let missing =
                    || EvalError::Missing(format!("this model has no divergence head `{head}`"));
                let values = sources
                    .heads
                    .get_mut(head)
                    .ok_or_else(missing)?
                    .eval(nodes.points())?;
                if let Some(reservoir) = &mut self.node_reservoir {
                    reservoir.update(self.key, nodes, &values, sources)?;
                }
                Ok(Array2::from_shape_vec((1, values.len()), values).expect("one value per row"))
            }
            DivergenceEstimator::FiniteDifference(spec) => {
                self.finite_differences(spec, nodes, sources)
            }
            DivergenceEstimator::ClosedForm(_)
            | DivergenceEstimator::FlowMap(_)
            | DivergenceEstimator::ContinuousBound(_)
            | DivergenceEstimator::DiscreteBound(_)
            | DivergenceEstimator::OneCall(_) => Ok(Array2::zeros((1, nodes.batch_index.len()))),
        }
    }

    /// Computes the finite differences: 2K × nodes, with each probe's quotient at h first and then
    /// each at 2h.
    fn finite_differences(
        &self,
        spec: &FiniteDifference,
        nodes: &Nodes,
        sources: &mut ModelHandles,
    ) -> Result<Array2<f64>, EvalError> {
        let missing = || {
            EvalError::Missing("this model offers no velocity for finite differences".to_owned())
        };
        let (field, curve) = sources.difference_velocity.as_mut().ok_or_else(missing)?;
        let dim = nodes.x.ncols();
        let probes = ProbeSource {
            key: self.key,
            sample: nodes.sample,
            node: nodes.node,
        };
        let z = probes.draw(
            Purpose::Probe,
            Distribution::Rademacher,
            ProbeReuse::Fixed,
            0..spec.probes as u64,
            dim,
        );
        let steps: Vec<f64> = nodes
            .t
            .iter()
            .map(|t| spec.step_length(curve, *t))
            .collect();
        let mut estimates = Array2::zeros((2 * spec.probes, nodes.batch_index.len()));
        for (probe, z) in z.outer_iter().enumerate() {
            for (row, factor) in [(probe, 1.0), (spec.probes + probe, 2.0)] {
                let scaled = ndarray::Array1::from_iter(steps.iter().map(|h| h * factor))
                    .insert_axis(Axis(1));
                let at = nodes.points();
                let ahead = field.velocity(at.with_states(&(nodes.x + &(&z * &scaled))))?;
                let behind = field.velocity(at.with_states(&(nodes.x - &(&z * &scaled))))?;
                let quotient = ((ahead - behind) * z / (scaled * 2.0)).sum_axis(Axis(1));
                estimates.row_mut(row).assign(&quotient);
            }
        }
        Ok(estimates)
    }

    /// Adds the correction of a debiased head, after all nodes have been visited. Other estimators
    /// are unchanged.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    pub fn add_head_residuals(&mut self, sources: &mut ModelHandles) -> Result<(), EvalError> {
        if let (DivergenceEstimator::Debiased(spec), Some(reservoir), Some(head)) =
            (self.spec, self.node_reservoir.take(), &self.sums)
        {
            let started = Instant::now();
            let (residuals, jvps) = reservoir.residuals(spec, self.key, sources)?;
            self.residual_jvps = jvps;
            self.sums = Some(residuals + head.row(0));
            self.seconds += started.elapsed().as_secs_f64();
        }
        Ok(())
    }

    /// The integral per sample: the mean over the replicates, with its standard error if there are
    /// several.
    pub fn integrals(&self) -> Vec<DivergenceIntegral> {
        let Some(sums) = &self.sums else {
            return vec![DivergenceIntegral::exact(0.0); self.samples];
        };
        if let DivergenceEstimator::FiniteDifference(spec) = self.spec {
            return sums
                .columns()
                .into_iter()
                .map(|c| finite_difference_integral(&c.to_vec(), spec.probes))
                .collect();
        }
        sums.columns()
            .into_iter()
            .map(|estimates| DivergenceIntegral::from_replicates(&estimates.to_vec()))
            .collect()
    }
}

/// The mean of the differences at h. Its error combines the spread of the probes with the
/// truncation error, which is a third of the difference between h and 2h.
fn finite_difference_integral(estimates: &[f64], probes: usize) -> DivergenceIntegral {
    let (fine, coarse) = estimates.split_at(probes);
    let mean = |c: &[f64]| c.iter().sum::<f64>() / c.len() as f64;
    let truncation = (mean(fine) - mean(coarse)) / 3.0;
    let spread = stats::mean_estimate(fine).and_then(|e| e.stderr);
    let half_width = spread.map(|s| (s * stats::t95(probes - 1)).hypot(stats::Z95 * truncation));
    DivergenceIntegral {
        value: mean(fine),
        stderr: spread.map(|s| s.hypot(truncation)),
        half_width,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_estimator_name_round_trips() {
        for name in DivergenceEstimator::names() {
            let spec: DivergenceEstimator = serde_yaml::from_str(name).expect(name);
            let text = serde_json::to_string(&spec).expect("serializes");
            let back: DivergenceEstimator = serde_json::from_str(&text).expect("reads back");
            assert_eq!(spec, back);
            let flow: DivergenceEstimator =
                serde_yaml::from_str(&format!("{{{name}: {{}}}}")).expect(name);
            assert_eq!(spec, flow);
        }
    }

    #[test]
    fn averaging_parameter_is_known_for_every_trace_estimator() {
        for name in DivergenceEstimator::names() {
            let spec: DivergenceEstimator = serde_yaml::from_str(name).expect(name);
            let traces = matches!(spec, DivergenceEstimator::Trace(_));
            assert_eq!(
                spec.averaging_parameter().is_some(),
                traces && spec.kind() == EstimateKind::OdeStochastic,
                "{name}"
            );
        }
        let spec: DivergenceEstimator =
            serde_yaml::from_str("{hutchinson: {probes: 3}}").expect("a spec");
        assert_eq!(spec.averaging_parameter(), Some(("probes", 3)));
        let spec = "{hutchinson: {probes: 3, distribution: sphere, orthogonal: true}}";
        assert_eq!(
            serde_yaml::from_str::<DivergenceEstimator>(spec)
                .expect("a spec")
                .averaging_parameter(),
            None
        );
    }

    #[test]
    fn labels_show_what_differs_from_the_defaults() {
        let label = |text: &str| {
            serde_yaml::from_str::<DivergenceEstimator>(text)
                .expect(text)
                .label()
        };
        assert_eq!(label("exact"), "exact");
        assert_eq!(label("{hutchinson: {probes: 8}}"), "hutchinson(probes=8)");
        assert_eq!(
            label("{hutch++: {matvecs: 9, replicates: 4}}"),
            "hutch++(matvecs=9 replicates=4)"
        );
        assert_eq!(label("{learned: {head: stad}}"), "learned(stad)");
        assert_eq!(label("{debiased: {probes: 3}}"), "debiased(probes=3)");
        assert_eq!(label("{flow-map: {steps: 2}}"), "flow-map(f2d2 steps=2)");
        let compatible = "{flow-map: {map: m, grid: log-snr, rule: forward-average}}";
        assert_eq!(
            label(compatible),
            "flow-map(m steps=8 grid=log-snr rule=forward-average)"
        );
    }

    #[test]
    fn without_node_draws_removes_fresh_probes() {
        for name in DivergenceEstimator::names() {
            let spec: DivergenceEstimator = serde_yaml::from_str(name).expect(name);
            let undrawn = spec.without_node_draws();
            assert_eq!(undrawn.is_some(), spec.needs_solver(), "{name}");
            assert!(
                undrawn.is_none_or(|e| e.is_continuous_along_path() || e == spec),
                "{name}"
            );
        }
        let fresh: DivergenceEstimator =
            serde_yaml::from_str("{hutchinson: {probes: 3, along: fresh}}").expect("a spec");
        assert_eq!(
            fresh.without_node_draws().map(|e| e.label()),
            Some("hutchinson(probes=3)".to_owned())
        );
        assert!(!fresh.is_continuous_along_path());
    }

    #[test]
    fn single_xtrace_has_no_path_standard_error() {
        let tells = |text: &str| {
            serde_yaml::from_str::<DivergenceEstimator>(text)
                .expect(text)
                .has_path_standard_error()
        };
        assert!(!tells("xtrace") && tells("{xtrace: {replicates: 2}}"));
        assert!(
            DivergenceEstimator::names()
                .iter()
                .filter(|n| **n != "xtrace")
                .all(|n| tells(n))
        );
    }

    #[test]
    fn unknown_estimators_and_keys_are_named() {
        let refused = |text: &str| {
            serde_yaml::from_str::<DivergenceEstimator>(text)
                .expect_err(text)
                .to_string()
        };
        assert!(refused("exactly").contains("exactly"));
        assert!(refused("{hutchinson: {probe: 8}}").contains("probe"));
        assert!(refused("{hutchinson: {}, exact: {}}").contains("exact"));
    }
}
