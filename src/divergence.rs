//! What is evaluated on a path's nodes: traces of the velocity's Jacobian, learned divergences.
//!
//! All estimators of a run see the same nodes of the same path, so their differences are paired.
//! Values are +div of dx/dt in the card's own time.

use std::collections::BTreeMap;
use std::time::Instant;

use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};

use crate::flow::field::{EvalError, Linearized, ScalarField};
use crate::num::key::Key;
use crate::num::stats;
use crate::registry;
use crate::solve::Nodes;
use crate::trace::{At, Estimator, Probes};

/// One way to a divergence integral, as `estimators:` and `--divergence` name it.
#[derive(Debug, Clone, PartialEq)]
pub enum Divergence {
    /// From Jacobian products.
    Trace(Estimator),
    /// From a head that was trained to predict it (StAD).
    Learned(Learned),
    /// From the model's true log-density, where the card has it:
    /// ∫div dt = log p(data end) − log p(prior end).
    ClosedForm(ClosedForm),
}

/// A divergence head of the card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Learned {
    pub head: String,
}

impl Default for Learned {
    fn default() -> Self {
        Learned { head: "stad".to_owned() }
    }
}

/// No parameters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClosedForm {}

/// What kind of number an estimator gives: kinds are never mixed in one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    OdeExact,
    OdeStochastic,
    Learned,
    ClosedForm,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::OdeExact => "ode-exact",
            Kind::OdeStochastic => "ode-stochastic",
            Kind::Learned => "learned",
            Kind::ClosedForm => "closed-form",
        }
    }
}

impl Divergence {
    /// Every name that a user can write.
    pub fn names() -> Vec<&'static str> {
        Estimator::NAMES.iter().copied().chain(["learned", "closed-form"]).collect()
    }

    /// The label in tables: the name with those parameters that are not the defaults.
    pub fn label(&self) -> String {
        match self {
            Divergence::Trace(e) => {
                let default = Estimator::from_name(e.name()).unwrap_or_else(|| e.clone());
                registry::label(e.name(), e, &default)
            }
            Divergence::Learned(l) => format!("learned({})", l.head),
            Divergence::ClosedForm(_) => "closed-form".to_owned(),
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Divergence::Trace(e) if e.is_exact() => Kind::OdeExact,
            Divergence::Trace(_) => Kind::OdeStochastic,
            Divergence::Learned(_) => Kind::Learned,
            Divergence::ClosedForm(_) => Kind::ClosedForm,
        }
    }

    /// Jacobian products per node.
    pub fn products(&self, dim: usize) -> u64 {
        match self {
            Divergence::Trace(e) => e.matvecs(dim) as u64,
            _ => 0,
        }
    }

    /// Refuses parameters that make no sense in `dim` dimensions, by their key.
    ///
    /// # Errors
    /// A sentence with the key and what would be right.
    pub fn check(&self, dim: usize) -> Result<(), String> {
        match self {
            Divergence::Trace(e) => e.check(dim),
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
            _ => map.serialize_entry("closed-form", &ClosedForm {})?,
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Divergence {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> serde::de::Visitor<'de> for Entry {
            type Value = Divergence;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                write!(f, "a name or {{name: {{…}}}}, one of {}", Divergence::names().join(", "))
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Divergence, E> {
                match name {
                    "learned" => Ok(Divergence::Learned(Learned::default())),
                    "closed-form" => Ok(Divergence::ClosedForm(ClosedForm {})),
                    _ => Estimator::from_name(name)
                        .map(Divergence::Trace)
                        .ok_or_else(|| registry::unknown(name, &Divergence::names())),
                }
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Divergence, A::Error> {
                let name: String = registry::only_key(&mut map, &Divergence::names())?;
                let entry = match name.as_str() {
                    "learned" => Divergence::Learned(map.next_value()?),
                    "closed-form" => Divergence::ClosedForm(map.next_value()?),
                    known if Estimator::NAMES.contains(&known) => {
                        Divergence::Trace(Estimator::from_entry(known, &mut map)?)
                    }
                    other => return Err(registry::unknown(other, &Divergence::names())),
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
}

/// A divergence integral per sample, with its standard error where it is an estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Integral {
    pub value: f64,
    pub stderr: Option<f64>,
}

/// One estimator on its way along the paths of a batch.
pub struct Integrator<'a> {
    spec: &'a Divergence,
    key: Key,
    /// Chains × samples of the batch; made at the first node.
    sums: Option<Array2<f64>>,
    samples: usize,
    /// Nodes seen, per sample.
    pub nodes: Vec<u64>,
    /// Time spent in this estimator, for all samples together.
    pub seconds: f64,
}

impl<'a> Integrator<'a> {
    pub fn new(spec: &'a Divergence, key: Key, samples: usize) -> Integrator<'a> {
        Integrator { spec, key, sums: None, samples, nodes: vec![0; samples], seconds: 0.0 }
    }

    /// Evaluates the divergence on nodes and adds it to the integrals; the values are handed back.
    ///
    /// # Errors
    /// Where the model cannot be evaluated or lacks what the estimator needs.
    pub fn visit(&mut self, nodes: &Nodes, sources: &mut Sources) -> Result<Vec<f64>, EvalError> {
        let started = Instant::now();
        let chains = self.chains(nodes, sources)?;
        self.seconds += started.elapsed().as_secs_f64();
        let sums = self.sums.get_or_insert_with(|| Array2::zeros((chains.nrows(), self.samples)));
        for (i, slot) in nodes.slot.iter().enumerate() {
            sums.column_mut(*slot).scaled_add(nodes.weight[i], &chains.column(i));
            self.nodes[*slot] += 1;
        }
        Ok(chains.mean_axis(Axis(0)).map(|m| m.to_vec()).unwrap_or_default())
    }

    /// Chains × rows of nodes. Rows that are no longer finite give NaN and reach no network.
    fn chains(&self, nodes: &Nodes, sources: &mut Sources) -> Result<Array2<f64>, EvalError> {
        let sound: Vec<usize> =
            (0..nodes.slot.len()).filter(|i| nodes.x.row(*i).iter().all(|v| v.is_finite())).collect();
        if sound.len() == nodes.slot.len() {
            return self.evaluate(nodes, sources);
        }
        let pick = |v: &[u64]| sound.iter().map(|i| v[*i]).collect::<Vec<_>>();
        let real = |v: &[f64]| sound.iter().map(|i| v[*i]).collect::<Vec<_>>();
        let part = Nodes {
            sample: &pick(nodes.sample),
            node: &pick(nodes.node),
            slot: &sound,
            t: &real(nodes.t),
            x: &nodes.x.select(Axis(0), &sound),
            weight: &real(nodes.weight),
        };
        let some = if sound.is_empty() { Array2::zeros((1, 0)) } else { self.evaluate(&part, sources)? };
        let rows = self.sums.as_ref().map_or(some.nrows(), |s| s.nrows());
        let mut all = Array2::from_elem((rows, nodes.slot.len()), f64::NAN);
        for (j, i) in sound.iter().enumerate() {
            all.column_mut(*i).assign(&some.column(j));
        }
        Ok(all)
    }

    fn evaluate(&self, nodes: &Nodes, sources: &mut Sources) -> Result<Array2<f64>, EvalError> {
        match self.spec {
            Divergence::Trace(estimator) => {
                let missing = || EvalError::Missing("this model offers no Jacobian products".to_owned());
                let field = sources.tangents.as_mut().ok_or_else(missing)?;
                let probes = Probes { key: self.key, sample: nodes.sample, node: nodes.node };
                estimator.trace(&mut At { field: &mut **field, t: nodes.t, x: nodes.x }, &probes)
            }
            Divergence::Learned(learned) => {
                let missing = || EvalError::Missing(format!("this model has no divergence head `{}`", learned.head));
                let head = sources.heads.get_mut(&learned.head).ok_or_else(missing)?;
                let values = head.eval(nodes.t, nodes.x)?;
                Ok(Array2::from_shape_vec((1, values.len()), values).expect("one value per row"))
            }
            Divergence::ClosedForm(_) => Ok(Array2::zeros((1, nodes.slot.len()))),
        }
    }

    /// The integrals with their standard errors: mean over chains, and its error where there are several.
    pub fn finish(&self) -> Vec<Integral> {
        let Some(sums) = &self.sums else {
            return vec![Integral { value: 0.0, stderr: None }; self.samples];
        };
        (sums.columns().into_iter())
            .map(|column| stats::mean(&column.to_vec()))
            .map(|e| e.map_or(Integral { value: f64::NAN, stderr: None }, |e| Integral { value: e.value, stderr: e.stderr }))
            .collect()
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
    fn labels_show_what_differs_from_the_defaults() {
        let label = |text: &str| serde_yaml::from_str::<Divergence>(text).expect(text).label();
        assert_eq!(label("exact"), "exact");
        assert_eq!(label("{hutchinson: {probes: 8}}"), "hutchinson(probes=8)");
        assert_eq!(label("{hutch++: {matvecs: 9, replicates: 4}}"), "hutch++(matvecs=9 replicates=4)");
        assert_eq!(label("{learned: {head: stad}}"), "learned(stad)");
    }

    #[test]
    fn unknown_kinds_and_keys_are_named() {
        let refused = |text: &str| serde_yaml::from_str::<Divergence>(text).expect_err(text).to_string();
        assert!(refused("exactly").contains("exactly"));
        assert!(refused("{hutchinson: {probe: 8}}").contains("probe"));
        assert!(refused("{hutchinson: {}, exact: {}}").contains("exact"));
    }
}
