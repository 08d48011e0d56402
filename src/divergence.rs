//! What is evaluated on a path's nodes: traces of the velocity's Jacobian, learned divergences.
//!
//! All estimators of a run see the same nodes of the same path, so their differences are paired.
//! Values are +div of dx/dt in the card's own time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ndarray::{Array2, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow::field::{EvalError, FlowMap, Linearized, ScalarField, VectorField};
use crate::flow::map::{FewSteps, Rule};
use crate::flow::path::Curve;
use crate::num::key::{Distribution, Key, Purpose};
use crate::num::stats;
use crate::registry;
use crate::solve::Nodes;
use crate::trace::{Along, At, Estimator, Probes};

mod control;
mod debiased;
mod shared;

pub use control::{Control, Controlled, Spent, lock};
pub use debiased::Debiased;
use debiased::Draws;
pub use shared::Plan;
use shared::Share;

/// One way to a divergence integral, as `estimators:` and `--divergence` name it.
#[derive(Debug, Clone, PartialEq)]
pub enum Divergence {
    /// From Jacobian products.
    Trace(Estimator),
    /// From a head that was trained to predict it (StAD).
    Learned(Learned),
    /// From a head and Jacobian products at a few random nodes: unbiased at the head's cost.
    Debiased(Debiased),
    /// From the model's true log-density, where the card has it:
    /// ∫div dt = log p(data end) − log p(prior end).
    ClosedForm(ClosedForm),
    /// From differences of the velocity, for networks that cannot be differentiated; never chosen by itself.
    FiniteDifference(FiniteDifference),
    /// From a few steps of a learned flow map (F2D2), which has a path of its own and takes no solver.
    FlowMap(FewSteps),
}

/// Hutchinson's estimator on central differences zᵀ(v(x + hz) − v(x − hz))/2h, with K Rademacher probes.
///
/// h is `step` times the noise level σ(t), and at least `step`/100 times α(t). Each probe is also
/// taken at 2h: a third of the difference estimates the truncation error, which enters `stderr`
/// beside the probes' own. In float32 no step is good: expect errors of 1e-4 to 1e-3 of a product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FiniteDifference {
    pub step: f64,
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
    /// The part of α(t) that the noise level is taken to be at least.
    const FLOOR: f64 = 0.01;
    /// How many of a format's distances from one number to the next a step spans at least: with fewer, the rounding of
    /// the states that it leads to is a noticeable part of it.
    const DISTANCES: f64 = 16.0;

    /// h at the card's time `t`.
    fn length(&self, curve: &Curve, t: f64) -> f64 {
        let at = curve.at(t);
        self.step * at.sigma.max(Self::FLOOR * at.alpha)
    }

    /// The smallest `step` that numbers resolve along a path that begins at data of size `largest`, where the distance
    /// from 1 to the next number is `spacing`. States of the path have the size of α · `largest` + 3 σ; the noise
    /// level is smallest against them at the data.
    pub fn smallest_step(curve: &Curve, largest: f64, spacing: f64) -> f64 {
        let at = curve.at(curve.data_end());
        let noise = (at.sigma / at.alpha).max(Self::FLOOR);
        Self::DISTANCES * spacing * (largest + 3.0 * noise) / noise
    }
}

/// A divergence head of the card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-first" = "head"))]
#[serde(deny_unknown_fields, default)]
pub struct Learned {
    pub head: String,
}

impl Default for Learned {
    fn default() -> Self {
        Learned {
            head: "stad".to_owned(),
        }
    }
}

/// No parameters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClosedForm {}

/// What kind of number an estimator gives: kinds are never mixed in one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    OdeExact,
    OdeStochastic,
    Learned,
    ClosedForm,
    FiniteDifference,
    FewStep,
    /// Few steps under the biased rule of the authors' code: never mixed with the others.
    FewStepForwardAverage,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::OdeExact => "ode-exact",
            Kind::OdeStochastic => "ode-stochastic",
            Kind::Learned => "learned",
            Kind::ClosedForm => "closed-form",
            Kind::FiniteDifference => "finite-difference",
            Kind::FewStep => "few-step",
            Kind::FewStepForwardAverage => "few-step-forward-average",
        }
    }
}

/// Names of the kinds that are no trace estimators.
const OTHERS: [registry::Names; 5] = [
    ("learned", &["head", "learned-head"]),
    ("debiased", &["debiased-head"]),
    ("closed-form", &["analytic", "closedform"]),
    ("finite-difference", &["finite-differences", "fd"]),
    ("flow-map", &["flowmap", "few-step"]),
];

impl Divergence {
    /// Every name that a user can write.
    pub fn names() -> Vec<&'static str> {
        Divergence::aliases()
            .iter()
            .map(|(name, _)| *name)
            .collect()
    }

    /// Every name with the other names that are taken for it.
    pub fn aliases() -> Vec<registry::Names> {
        Estimator::ALIASES.iter().chain(&OTHERS).copied().collect()
    }

    /// The label in tables: the name with those parameters that are not the defaults.
    pub fn label(&self) -> String {
        match self {
            Divergence::Trace(e) => {
                let default = Estimator::from_name(e.name()).unwrap_or_else(|| e.clone());
                registry::label(e.name(), e, &default)
            }
            Divergence::Learned(l) => format!("learned({})", l.head),
            Divergence::Debiased(_) => {
                registry::label("debiased", self, &Divergence::Debiased(Default::default()))
            }
            Divergence::ClosedForm(_) => "closed-form".to_owned(),
            Divergence::FiniteDifference(_) => registry::label(
                "finite-difference",
                self,
                &Divergence::FiniteDifference(Default::default()),
            ),
            Divergence::FlowMap(f) => f.label(),
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Divergence::Trace(e) if e.is_exact() => Kind::OdeExact,
            Divergence::Trace(_) => Kind::OdeStochastic,
            Divergence::Learned(_) => Kind::Learned,
            Divergence::Debiased(_) => Kind::OdeStochastic,
            Divergence::ClosedForm(_) => Kind::ClosedForm,
            Divergence::FiniteDifference(_) => Kind::FiniteDifference,
            Divergence::FlowMap(f) if f.rule == Some(Rule::ForwardAverage) => {
                Kind::FewStepForwardAverage
            }
            Divergence::FlowMap(_) => Kind::FewStep,
        }
    }

    /// Whether it is evaluated on the nodes of a solver's path, or has a path of its own.
    pub fn takes_solver(&self) -> bool {
        !matches!(self, Divergence::FlowMap(_))
    }

    /// Evaluations per sample of an estimator that takes no solver.
    pub fn own_evaluations(&self) -> u64 {
        match self {
            Divergence::FlowMap(f) => f.steps as u64,
            _ => 0,
        }
    }

    /// How many independent values it averages, and the name of that parameter; `None` where more of
    /// anything would not make its variance fall as 1/K, as with orthogonal probes, or its cost grow with K, as
    /// with the draws of a debiased head.
    pub fn averages(&self) -> Option<(&'static str, usize)> {
        let Divergence::Trace(estimator) = self else {
            return None;
        };
        let entry = serde_json::to_value(estimator).ok()?;
        let parameters = entry.get(estimator.name())?;
        if parameters.get("orthogonal").and_then(|v| v.as_bool()) == Some(true) {
            return None;
        }
        let of = |key: &'static str| Some((key, parameters.get(key)?.as_u64()? as usize));
        of("replicates")
            .or_else(|| of("probes"))
            .filter(|_| self.kind() == Kind::OdeStochastic)
    }

    /// Whether the spread of its chains is an error of their integral. The leave-one-out values of a single XTrace are
    /// not: what the sketch of one node misses those of the others miss as well.
    fn tells_its_error_along_a_path(&self) -> bool {
        !matches!(self, Divergence::Trace(Estimator::XTrace(xtrace)) if xtrace.replicates == 1)
    }

    /// What it is on grids that are to be compared: the same without draws at single nodes, which would differ from grid
    /// to grid; none where it follows no path.
    pub fn undrawn(&self) -> Option<Divergence> {
        match self {
            Divergence::FlowMap(_) => None,
            Divergence::Debiased(d) => Some(Divergence::Learned(Learned {
                head: d.head.clone(),
            })),
            Divergence::Trace(e) if !self.is_continuous() => {
                let mut entry = serde_json::to_value(e).ok()?;
                entry[e.name()]["along"] = "fixed".into();
                serde_json::from_value(entry).ok().map(Divergence::Trace)
            }
            _ => Some(self.clone()),
        }
    }

    /// Whether its values along a path are those of one function of time: not where each node has draws of its own.
    pub fn is_continuous(&self) -> bool {
        match self {
            Divergence::Trace(e) => {
                let entry = serde_json::to_value(e).unwrap_or_default();
                entry[e.name()]["along"] != "fresh"
            }
            Divergence::Learned(_) | Divergence::FiniteDifference(_) => true,
            Divergence::Debiased(_) | Divergence::ClosedForm(_) | Divergence::FlowMap(_) => false,
        }
    }

    /// Whether its values are drawn, so that they vary with the seed.
    pub fn is_random(&self) -> bool {
        matches!(self.kind(), Kind::OdeStochastic | Kind::FiniteDifference)
    }

    /// Evaluations of the network per node, besides the path's own.
    pub fn evaluations(&self) -> u64 {
        match self {
            Divergence::FiniteDifference(f) => 4 * f.probes as u64,
            _ => 0,
        }
    }

    /// Jacobian products per node.
    pub fn products(&self, dim: usize) -> u64 {
        match self {
            Divergence::Trace(e) => e.matvecs(dim) as u64,
            _ => 0,
        }
    }

    /// Jacobian products per sample besides those of its nodes.
    pub fn products_once(&self) -> u64 {
        match self {
            Divergence::Debiased(d) => d.probes as u64,
            _ => 0,
        }
    }

    /// The head of the card that it needs, if it needs one.
    pub fn head(&self) -> Option<&str> {
        match self {
            Divergence::Learned(Learned { head }) | Divergence::Debiased(Debiased { head, .. }) => {
                Some(head)
            }
            _ => None,
        }
    }

    /// Whether it needs Jacobian products, and whether products with the transpose are among them.
    pub fn needs_products(&self) -> (bool, bool) {
        match self {
            Divergence::Trace(e) => (true, e.transposes()),
            Divergence::Debiased(_) => (true, false),
            _ => (false, false),
        }
    }

    /// Refuses parameters that make no sense in `dim` dimensions, by their key.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    pub fn check(&self, dim: usize) -> Result<(), String> {
        // All probe vectors of a node are held at once: a bound keeps a slip of the pen from filling the memory.
        const NUMBERS: u64 = 1 << 24;
        if self.kind() == Kind::OdeStochastic
            && self.products(dim).saturating_mul(dim as u64) > NUMBERS
        {
            let most = NUMBERS / dim.max(1) as u64;
            return Err(format!(
                "{}: {} products per node, expected at most {most}",
                self.label(),
                self.products(dim)
            ));
        }
        match self {
            Divergence::Trace(e) => e.check(dim),
            // Drawn states are kept until their path's end.
            Divergence::Debiased(d) => {
                registry::within("debiased: probes", d.probes, 1, (1 << 20) / dim.max(1) + 1)
            }
            Divergence::FiniteDifference(f) if !(f.step > 0.0 && f.step <= 1.0) => Err(format!(
                "finite-difference: step is {}, expected above 0 and at most 1",
                f.step
            )),
            Divergence::FiniteDifference(f) => {
                registry::within("finite-difference: probes", f.probes, 1, 1_000_000)
            }
            _ => Ok(()),
        }
    }
}

impl Serialize for Divergence {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = match self {
            Divergence::Trace(e) => return e.serialize(serializer),
            _ => serializer.serialize_map(Some(1))?,
        };
        match self {
            Divergence::Learned(l) => map.serialize_entry("learned", l)?,
            Divergence::Debiased(d) => map.serialize_entry("debiased", d)?,
            Divergence::FiniteDifference(f) => map.serialize_entry("finite-difference", f)?,
            Divergence::FlowMap(f) => map.serialize_entry("flow-map", f)?,
            _ => map.serialize_entry("closed-form", &ClosedForm {})?,
        }
        map.end()
    }
}

impl JsonSchema for Divergence {
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
        ]);
        registry::schema(&Divergence::aliases(), entries)
    }
}

impl<'de> Deserialize<'de> for Divergence {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> serde::de::Visitor<'de> for Entry {
            type Value = Divergence;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                write!(
                    f,
                    "a name or {{name: {{…}}}}, one of {}",
                    Divergence::names().join(", ")
                )
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Divergence, E> {
                match registry::canonical(name, &OTHERS) {
                    Some("learned") => Ok(Divergence::Learned(Learned::default())),
                    Some("debiased") => Ok(Divergence::Debiased(Debiased::default())),
                    Some("closed-form") => Ok(Divergence::ClosedForm(ClosedForm {})),
                    Some("finite-difference") => {
                        Ok(Divergence::FiniteDifference(Default::default()))
                    }
                    Some("flow-map") => Ok(Divergence::FlowMap(FewSteps::default())),
                    _ => Estimator::from_name(name)
                        .map(Divergence::Trace)
                        .ok_or_else(|| registry::unknown(name, &Divergence::names())),
                }
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Divergence, A::Error> {
                let name: String = registry::only_key(&mut map, &Divergence::names())?;
                let entry = match registry::canonical(&name, &Divergence::aliases()) {
                    Some("learned") => Divergence::Learned(map.next_value()?),
                    Some("debiased") => Divergence::Debiased(map.next_value()?),
                    Some("closed-form") => Divergence::ClosedForm(map.next_value()?),
                    Some("finite-difference") => Divergence::FiniteDifference(map.next_value()?),
                    Some("flow-map") => Divergence::FlowMap(map.next_value()?),
                    Some(known) => Divergence::Trace(Estimator::from_entry(known, &mut map)?),
                    None => return Err(registry::unknown(&name, &Divergence::names())),
                };
                registry::no_more_keys(&mut map)?;
                Ok(entry)
            }
        }
        deserializer.deserialize_any(Entry)
    }
}

/// What a model offers to estimators, opened for one worker.
#[derive(Default)]
pub struct Sources {
    pub tangents: Option<Box<dyn Linearized>>,
    pub heads: BTreeMap<String, Box<dyn ScalarField>>,
    pub closed_form: Option<Box<dyn ScalarField>>,
    /// A second velocity, for differences, with the path it belongs to.
    pub velocity: Option<(Box<dyn VectorField>, Curve)>,
    /// The model's path.
    pub curve: Option<Curve>,
    /// Heads that are evaluated in the velocity's calls and cost none of their own.
    pub joint: BTreeSet<String>,
    /// Whether the card has such heads, asked for or not: then the velocity is never taken from the products' calls.
    pub apart: bool,
    /// Flow maps by their names.
    pub maps: BTreeMap<String, Box<dyn FlowMap>>,
    /// Seconds of the velocity for one row, once they were measured.
    pub velocity_seconds: Option<f64>,
}

impl Sources {
    /// The flow map of that name.
    ///
    /// # Errors
    /// Where it was not opened.
    pub fn map(&mut self, name: &str) -> Result<&mut dyn FlowMap, EvalError> {
        match self.maps.get_mut(name) {
            Some(map) => Ok(&mut **map),
            None => Err(EvalError::Missing(format!(
                "this model has no flow map `{name}`"
            ))),
        }
    }
}

/// A divergence integral per sample, with its standard error where it is an estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Integral {
    pub value: f64,
    pub stderr: Option<f64>,
    /// Half the width of the 95 % interval: by Student's t, since few chains tell their own error only roughly.
    pub half_width: Option<f64>,
}

impl Integral {
    /// A value without an error of its own.
    pub fn certain(value: f64) -> Integral {
        Integral {
            value,
            stderr: None,
            half_width: None,
        }
    }

    fn of(chains: &[f64]) -> Integral {
        let Some(e) = stats::mean(chains) else {
            return Integral::certain(f64::NAN);
        };
        let half_width = e
            .stderr
            .map(|s| stats::half_width(s, Some(chains.len()), 0.95));
        Integral {
            value: e.value,
            stderr: e.stderr,
            half_width,
        }
    }
}

/// One estimator on its way along the paths of a batch.
pub struct Integrator<'a> {
    spec: &'a Divergence,
    key: Key,
    /// Chains × samples of the batch; made at the first node.
    sums: Option<Array2<f64>>,
    /// Nodes at which a head is to be held against the Jacobian.
    draws: Option<Draws>,
    /// Whether the divergence that controls the steps is this estimator's own.
    controls: bool,
    /// What it takes from the products that are planned for all.
    share: Option<Share>,
    samples: usize,
    /// Nodes seen, per sample.
    pub nodes: Vec<u64>,
    /// Time spent in this estimator, for all samples together.
    pub seconds: f64,
}

impl<'a> Integrator<'a> {
    pub fn new(spec: &'a Divergence, key: Key, samples: usize) -> Integrator<'a> {
        let draws = match spec {
            Divergence::Debiased(d) => Some(Draws::new(d, samples)),
            _ => None,
        };
        Integrator {
            spec,
            key,
            sums: None,
            draws,
            controls: false,
            share: None,
            samples,
            nodes: vec![0; samples],
            seconds: 0.0,
        }
    }

    /// The same on a path whose steps `control` holds and with products that are planned for all estimators: what
    /// several want is taken once.
    #[must_use]
    pub fn under(self, control: &Control, plan: &Plan) -> Integrator<'a> {
        Integrator {
            controls: control.is(self.spec),
            share: plan.share(self.spec),
            ..self
        }
    }

    /// Evaluates the divergence on nodes and adds it to the integrals; the values are handed back.
    ///
    /// # Errors
    /// Where the model cannot be evaluated or lacks what the estimator needs.
    pub fn visit(&mut self, nodes: &Nodes, sources: &mut Sources) -> Result<Vec<f64>, EvalError> {
        let started = Instant::now();
        let mut chains = self.chains(nodes, sources)?;
        if !self.spec.tells_its_error_along_a_path() {
            chains = chains
                .mean_axis(Axis(0))
                .map(|m| m.insert_axis(Axis(0)))
                .unwrap_or(chains);
        }
        self.seconds += started.elapsed().as_secs_f64();
        let sums = self
            .sums
            .get_or_insert_with(|| Array2::zeros((chains.nrows(), self.samples)));
        for (i, slot) in nodes.slot.iter().enumerate() {
            sums.column_mut(*slot)
                .scaled_add(nodes.weight[i], &chains.column(i));
            self.nodes[*slot] += 1;
        }
        let shown = match self.spec {
            Divergence::FiniteDifference(f) => chains.slice(ndarray::s![..f.probes, ..]),
            _ => chains.view(),
        };
        Ok(shown
            .mean_axis(Axis(0))
            .map(|m| m.to_vec())
            .unwrap_or_default())
    }

    /// Chains × rows of nodes. Rows that are no longer finite give NaN and reach no network.
    fn chains(&mut self, nodes: &Nodes, sources: &mut Sources) -> Result<Array2<f64>, EvalError> {
        let sound: Vec<usize> = (0..nodes.slot.len())
            .filter(|i| nodes.x.row(*i).iter().all(|v| v.is_finite()))
            .collect();
        if sound.len() == nodes.slot.len() {
            return self.evaluate(nodes, sources);
        }
        let pick = |v: &[u64]| sound.iter().map(|i| v[*i]).collect::<Vec<_>>();
        let real = |v: &[f64]| sound.iter().map(|i| v[*i]).collect::<Vec<_>>();
        let known = nodes.divergence.map(real);
        let products = nodes.products.map(|p| p.select(&sound));
        let part = Nodes {
            sample: &pick(nodes.sample),
            node: &pick(nodes.node),
            slot: &sound,
            t: &real(nodes.t),
            x: &nodes.x.select(Axis(0), &sound),
            weight: &real(nodes.weight),
            divergence: known.as_deref(),
            products: products.as_ref(),
        };
        let some = if sound.is_empty() {
            Array2::zeros((1, 0))
        } else {
            self.evaluate(&part, sources)?
        };
        let rows = self.sums.as_ref().map_or(some.nrows(), |s| s.nrows());
        let mut all = Array2::from_elem((rows, nodes.slot.len()), f64::NAN);
        for (j, i) in sound.iter().enumerate() {
            all.column_mut(*i).assign(&some.column(j));
        }
        Ok(all)
    }

    fn evaluate(&mut self, nodes: &Nodes, sources: &mut Sources) -> Result<Array2<f64>, EvalError> {
        if let Some(known) = nodes.divergence.filter(|_| self.controls) {
            return Ok(Array2::from_shape_vec((1, known.len()), known.to_vec())
                .expect("one value per row"));
        }
        match self.spec {
            Divergence::Trace(estimator) => {
                let probes = Probes {
                    key: self.key,
                    sample: nodes.sample,
                    node: nodes.node,
                };
                if let (Some(share), Some(products)) = (&self.share, nodes.products)
                    && let Some(chains) =
                        share.chains(estimator, products, (nodes.t, nodes.x), &probes)?
                {
                    return Ok(chains);
                }
                let missing =
                    || EvalError::Missing("this model offers no Jacobian products".to_owned());
                let field = sources.tangents.as_mut().ok_or_else(missing)?;
                estimator.trace(
                    &mut At {
                        field: &mut **field,
                        t: nodes.t,
                        x: nodes.x,
                    },
                    &probes,
                )
            }
            Divergence::Learned(Learned { head }) | Divergence::Debiased(Debiased { head, .. }) => {
                let missing =
                    || EvalError::Missing(format!("this model has no divergence head `{head}`"));
                let values = sources
                    .heads
                    .get_mut(head)
                    .ok_or_else(missing)?
                    .eval(nodes.t, nodes.x)?;
                if let Some(draws) = &mut self.draws {
                    draws.offer(self.key, nodes, &values, sources)?;
                }
                Ok(Array2::from_shape_vec((1, values.len()), values).expect("one value per row"))
            }
            Divergence::FiniteDifference(spec) => self.differences(spec, nodes, sources),
            Divergence::ClosedForm(_) | Divergence::FlowMap(_) => {
                Ok(Array2::zeros((1, nodes.slot.len())))
            }
        }
    }

    /// 2K chains: each probe's quotient at h, then each at 2h.
    fn differences(
        &self,
        spec: &FiniteDifference,
        nodes: &Nodes,
        sources: &mut Sources,
    ) -> Result<Array2<f64>, EvalError> {
        let missing =
            || EvalError::Missing("this model offers no velocity for differences".to_owned());
        let (field, curve) = sources.velocity.as_mut().ok_or_else(missing)?;
        let dim = nodes.x.ncols();
        let probes = Probes {
            key: self.key,
            sample: nodes.sample,
            node: nodes.node,
        };
        let z = probes.draw(
            Purpose::Probe,
            Distribution::Rademacher,
            Along::Fixed,
            0..spec.probes as u64,
            dim,
        );
        let steps: Vec<f64> = nodes.t.iter().map(|t| spec.length(curve, *t)).collect();
        let mut chains = Array2::zeros((2 * spec.probes, nodes.slot.len()));
        for (probe, z) in z.outer_iter().enumerate() {
            for (row, factor) in [(probe, 1.0), (spec.probes + probe, 2.0)] {
                let scaled = ndarray::Array1::from_iter(steps.iter().map(|h| h * factor))
                    .insert_axis(Axis(1));
                let ahead = field.velocity(nodes.t, &(nodes.x + &(&z * &scaled)))?;
                let behind = field.velocity(nodes.t, &(nodes.x - &(&z * &scaled)))?;
                let quotient = ((ahead - behind) * z / (scaled * 2.0)).sum_axis(Axis(1));
                chains.row_mut(row).assign(&quotient);
            }
        }
        Ok(chains)
    }

    /// Does what is left to do once all nodes have been seen.
    ///
    /// # Errors
    /// Where the model cannot be evaluated.
    pub fn settle(&mut self, sources: &mut Sources) -> Result<(), EvalError> {
        if let (Divergence::Debiased(spec), Some(draws), Some(head)) =
            (self.spec, self.draws.take(), &self.sums)
        {
            let started = Instant::now();
            let residuals = draws.residuals(spec, self.key, sources)?;
            self.sums = Some(residuals + head.row(0));
            self.seconds += started.elapsed().as_secs_f64();
        }
        Ok(())
    }

    /// The integrals with their standard errors: mean over chains, and its error where there are several.
    pub fn finish(&self) -> Vec<Integral> {
        let Some(sums) = &self.sums else {
            return vec![Integral::certain(0.0); self.samples];
        };
        if let Divergence::FiniteDifference(spec) = self.spec {
            return sums
                .columns()
                .into_iter()
                .map(|c| with_truncation(&c.to_vec(), spec.probes))
                .collect();
        }
        sums.columns()
            .into_iter()
            .map(|chains| Integral::of(&chains.to_vec()))
            .collect()
    }
}

/// The mean of the chains at h; its error from the probes and from a third of the difference to 2h.
fn with_truncation(chains: &[f64], probes: usize) -> Integral {
    let (fine, coarse) = chains.split_at(probes);
    let mean = |c: &[f64]| c.iter().sum::<f64>() / c.len() as f64;
    let truncation = (mean(fine) - mean(coarse)) / 3.0;
    let spread = stats::mean(fine).and_then(|e| e.stderr);
    let half_width = spread.map(|s| (s * stats::t95(probes - 1)).hypot(stats::Z95 * truncation));
    Integral {
        value: mean(fine),
        stderr: spread.map(|s| s.hypot(truncation)),
        half_width,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_as_itself() {
        for name in Divergence::names() {
            let spec: Divergence = serde_yaml::from_str(name).expect(name);
            let text = serde_json::to_string(&spec).expect("serializes");
            let back: Divergence = serde_json::from_str(&text).expect("reads back");
            assert_eq!(spec, back);
            let flow: Divergence = serde_yaml::from_str(&format!("{{{name}: {{}}}}")).expect(name);
            assert_eq!(spec, flow);
        }
    }

    #[test]
    fn what_is_averaged_is_known_of_every_trace_estimator() {
        for name in Divergence::names() {
            let spec: Divergence = serde_yaml::from_str(name).expect(name);
            let traces = matches!(spec, Divergence::Trace(_));
            assert_eq!(
                spec.averages().is_some(),
                traces && spec.kind() == Kind::OdeStochastic,
                "{name}"
            );
        }
        let spec: Divergence = serde_yaml::from_str("{hutchinson: {probes: 3}}").expect("a spec");
        assert_eq!(spec.averages(), Some(("probes", 3)));
        let spec = "{hutchinson: {probes: 3, distribution: sphere, orthogonal: true}}";
        assert_eq!(
            serde_yaml::from_str::<Divergence>(spec)
                .expect("a spec")
                .averages(),
            None
        );
    }

    #[test]
    fn labels_show_what_differs_from_the_defaults() {
        let label = |text: &str| {
            serde_yaml::from_str::<Divergence>(text)
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
    fn what_is_compared_between_grids_has_no_draws_at_nodes() {
        for name in Divergence::names() {
            let spec: Divergence = serde_yaml::from_str(name).expect(name);
            let undrawn = spec.undrawn();
            assert_eq!(undrawn.is_some(), spec.takes_solver(), "{name}");
            assert!(
                undrawn.is_none_or(|e| e.is_continuous() || e == spec),
                "{name}"
            );
        }
        let fresh: Divergence =
            serde_yaml::from_str("{hutchinson: {probes: 3, along: fresh}}").expect("a spec");
        assert_eq!(
            fresh.undrawn().map(|e| e.label()),
            Some("hutchinson(probes=3)".to_owned())
        );
        assert!(!fresh.is_continuous());
    }

    #[test]
    fn a_single_xtrace_tells_no_error_along_a_path() {
        let tells = |text: &str| {
            serde_yaml::from_str::<Divergence>(text)
                .expect(text)
                .tells_its_error_along_a_path()
        };
        assert!(!tells("xtrace") && tells("{xtrace: {replicates: 2}}"));
        assert!(
            Divergence::names()
                .iter()
                .filter(|n| **n != "xtrace")
                .all(|n| tells(n))
        );
    }

    #[test]
    fn unknown_kinds_and_keys_are_named() {
        let refused = |text: &str| {
            serde_yaml::from_str::<Divergence>(text)
                .expect_err(text)
                .to_string()
        };
        assert!(refused("exactly").contains("exactly"));
        assert!(refused("{hutchinson: {probe: 8}}").contains("probe"));
        assert!(refused("{hutchinson: {}, exact: {}}").contains("exact"));
    }
}
