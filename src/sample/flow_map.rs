//! Few steps of a flow map from the prior end to the data end.
//!
//! The sampler can also compute the log-density of its samples. It can first move the noise uphill
//! in the map's own likelihood (F2D2's maximum-likelihood self-guidance).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Denoiser, DrawnSamples, FlowMapRequirements, PathPoint, SampleCost, SampleRequest, Sampler,
    SamplerContext, SamplingMethod,
};
use crate::flow::field::{EvalError, FlowMap, Points};
use crate::flow::flow_map::{FewSteps, FlowMapStepRule, MapVolume, apply_flow_map_steps};
use crate::flow::grid::{self, GridSpacing};
use crate::flow::map_volume;
use crate::flow::path::PathCurve;
use crate::flow::prior::Prior;
use crate::num::Batch;
use crate::num::adam::Adam;
use crate::num::key::SampleId;
use crate::registry;
use crate::rows::Status;

/// Few steps of the card's flow map, with one evaluation of the map in each step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("x-first" = "map"))]
pub struct FlowMapSampler {
    /// The name of the flow map under the card's `flow_maps`. Default: `f2d2`.
    pub map: String,
    /// The number of steps. Default: 8.
    pub steps: usize,
    /// The spacing of the grid. Default: `karras` on edm and ve paths, `uniform` in the card's time
    /// on others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<GridSpacing>,
    /// Whether to compute log p of each sample under the map: log π(noise) − ∫div from the prior
    /// end to the data end, in nats. Default: false. This takes no further evaluation.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub density: bool,
    /// Where the change of volume of the density comes from. Default: `head`, the map's divergence
    /// output. `log-det` takes a Jacobian product with every unit vector in every step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<MapVolume>,
    /// Moves the noise uphill in the map's own likelihood before the first step. Default: no
    /// guidance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<SelfGuidance>,
}

impl Default for FlowMapSampler {
    fn default() -> Self {
        let FewSteps {
            map, steps, grid, ..
        } = FewSteps::default();
        FlowMapSampler {
            map,
            steps,
            grid,
            density: false,
            volume: None,
            guidance: None,
        }
    }
}

/// One step uphill in ℓ(z) = log N(z; 0, I) − ∫div before sampling begins: z ← z + η ∇ℓ(z). The
/// first term is optional.
///
/// Here z is the noise in units of the prior's standard deviation, and ∫div belongs to a single
/// jump of the map from the prior end to the data end. The F2D2 paper gives neither the size of the
/// step nor whether the first term belongs to ℓ. Both parameters are therefore required.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-first" = "step"))]
pub struct SelfGuidance {
    /// The size η of the step. 0 is no guidance, and a negative number moves downhill.
    pub step: f64,
    /// Whether log N(z; 0, I) is part of ℓ. This term draws the noise towards 0.
    pub prior: bool,
    /// The number of steps of Adam (Kingma & Ba 2015) on −ℓ with the learning rate `step` and its
    /// usual constants, as the F2D2 authors state their guidance; each takes a gradient. Default: one
    /// plain step along the gradient.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub adam: Option<usize>,
}

impl SelfGuidance {
    /// The number of gradients that the guidance takes.
    fn gradients(&self) -> u64 {
        self.adam.unwrap_or(1) as u64
    }
}

/// The cost of a gradient in evaluations. Reverse mode takes one forward and one backward pass.
const GRADIENT_EVALUATIONS: u64 = 2;

impl FlowMapSampler {
    /// The same steps as the settings of a few-step likelihood.
    fn few_steps(&self) -> FewSteps {
        FewSteps {
            map: self.map.clone(),
            steps: self.steps,
            grid: self.grid,
            rule: None,
            volume: None,
        }
    }

    /// The sampler's label in tables.
    ///
    /// It equals the label of the few-step estimator with the same steps, so a reader can match
    /// likelihoods with samples.
    pub fn label(&self) -> String {
        let Some(SelfGuidance { step, prior, adam }) = self.guidance else {
            return self.few_steps().label();
        };
        let unguided = self.few_steps().label();
        let term = if prior { " with prior" } else { "" };
        let adam = adam.map_or(String::new(), |steps| format!(" adam={steps}"));
        format!(
            "{} guidance={step}{term}{adam})",
            unguided.trim_end_matches(')')
        )
    }

    /// Whether the sampler takes the steps of a few-step estimator, whose volume does not matter.
    pub fn takes_steps_of(&self, few: &FewSteps) -> bool {
        let steps = FewSteps {
            rule: None,
            volume: None,
            ..few.clone()
        };
        let biased = few.rule == Some(FlowMapStepRule::ForwardAverage);
        self.guidance.is_none() && !biased && self.few_steps() == steps
    }

    /// Whether the density of samples takes exact log-determinants.
    fn takes_log_determinants(&self) -> bool {
        self.density && self.volume == Some(MapVolume::LogDet)
    }

    /// Moves the noise uphill in the map's own likelihood, if guidance is set.
    fn guide_noise(
        &self,
        map: &mut dyn FlowMap,
        curve: &PathCurve,
        prior: Prior,
        samples: &[SampleId],
        x: Batch,
    ) -> Result<Batch, EvalError> {
        let Some(guidance) = self.guidance else {
            return Ok(x);
        };
        let (from, to) = (curve.prior_end(), curve.data_end());
        let times = (vec![from; x.nrows()], vec![to; x.nrows()]);
        let mut x = x;
        let mut adam = Adam::new(x.raw_dim());
        for _ in 0..guidance.gradients() {
            let at = Points::new(samples, &times.0, &x);
            let (_, gradient) = map.divergence_gradient(at, &times.1)?;
            // With z = x/std, ∇_z = std·∇_x.
            let mut uphill = gradient * (-(to - from) * prior.std);
            if guidance.prior {
                uphill.scaled_add(-1.0 / prior.std, &x);
            }
            let direction = match guidance.adam {
                Some(_) => adam.direction(&uphill),
                None => uphill,
            };
            x.scaled_add(guidance.step * prior.std, &direction);
        }
        Ok(prior.project(x))
    }
}

impl FlowMapSampler {
    /// The times of the steps, from the prior end to the data end.
    ///
    /// # Errors
    /// Fails if a parameter is invalid. The message names the key and says what is expected.
    fn times(&self, curve: &PathCurve) -> Result<Vec<f64>, String> {
        if let Some(guidance) = self.guidance.filter(|g| !g.step.is_finite()) {
            return Err(format!(
                "guidance: step is {}, expected a number",
                guidance.step
            ));
        }
        if let Some(steps) = self.guidance.and_then(|g| g.adam) {
            registry::check_bounds("guidance: adam", steps, 1, 10_000)?;
        }
        let mut times = self.few_steps().times(curve)?;
        times.reverse();
        Ok(times)
    }
}

impl SamplingMethod for FlowMapSampler {
    fn trajectory(&self) -> Option<String> {
        let name = || grid::trajectory_name(&format!("flow-map {}", self.map), self.grid);
        self.guidance.is_none().then(name)
    }

    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::FlowMap(FlowMapSampler {
            steps,
            ..self.clone()
        })
    }

    fn grid(&self, context: &SamplerContext) -> Result<Vec<PathPoint>, String> {
        Ok(self
            .times(context.curve)?
            .into_iter()
            .map(|t| PathPoint::at_time(context.curve, t))
            .collect())
    }

    fn check(&self, context: &SamplerContext) -> Result<(), String> {
        self.times(context.curve).map(drop)
    }

    fn cost(&self, context: &SamplerContext) -> SampleCost {
        let guidance = self
            .guidance
            .map_or(0, |guidance| guidance.gradients() * GRADIENT_EVALUATIONS);
        SampleCost {
            evaluations: self.steps as u64 + guidance,
            products: match self.takes_log_determinants() {
                true => (self.steps * context.dim) as u64,
                false => 0,
            },
            ..SampleCost::default()
        }
    }

    fn flow_map(&self) -> Option<FlowMapRequirements<'_>> {
        Some(FlowMapRequirements {
            name: &self.map,
            steps: self.steps,
            density: self.density && !self.takes_log_determinants(),
            jacobian: self.takes_log_determinants(),
            gradient: self.guidance.is_some(),
        })
    }

    fn sample(
        &self,
        field: &mut dyn Denoiser,
        draw: &SampleRequest,
        x: Batch,
    ) -> Result<DrawnSamples, EvalError> {
        let (curve, prior) = (draw.context.curve, draw.prior);
        let times = self.times(curve).map_err(EvalError::Missing)?;
        let map = field.flow_map(&self.map)?;
        let x = self.guide_noise(map, curve, prior, draw.samples, x)?;
        let noise = self.density.then(|| prior.log_density(&x));
        if self.takes_log_determinants() {
            let walk = map_volume::walk_with_volume(map, prior.centred, &times, draw.samples, x)?;
            let density = |i: usize| match walk.status[i] {
                Status::Ok => noise.as_ref().map_or(f64::NAN, |n| n[i]) - walk.log_volume[i],
                _ => f64::NAN,
            };
            let cost = self.cost(&draw.context);
            return Ok(DrawnSamples {
                log_density: Some((0..draw.samples.len()).map(density).collect()),
                ..DrawnSamples::with_equal_cost(walk.x, cost.evaluations, cost.products, Vec::new())
            });
        }
        let end = apply_flow_map_steps(
            map,
            curve,
            &times,
            FlowMapStepRule::TwoTime,
            draw.samples,
            x,
        )?;
        let difference = |(noise, integral): (Vec<f64>, Vec<f64>)| {
            noise.iter().zip(integral).map(|(n, i)| n - i).collect()
        };
        let log_density = noise.zip(end.divergence_integral).map(difference);
        Ok(DrawnSamples {
            log_density,
            ..DrawnSamples::with_equal_cost(
                end.x,
                self.cost(&draw.context).evaluations,
                0,
                Vec::new(),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::field::{FlowMapAverages, VectorField};
    use crate::flow::path::ProbabilityPath;
    use crate::flow::prediction::Prediction;
    use crate::model::analytic::{self, AnalyticGaussian};
    use crate::num::TangentBatch;
    use crate::num::key::RngKey;
    use crate::sample::initial_noise;

    /// A model with a flow map and without a velocity.
    struct Only<M: FlowMap>(M);

    impl<M: FlowMap> VectorField for Only<M> {
        fn dim(&self) -> usize {
            self.0.dim()
        }
        fn velocity(&mut self, _: Points) -> Result<Batch, EvalError> {
            Err(EvalError::Missing("few steps need no velocity".to_owned()))
        }
    }

    impl<M: FlowMap> Denoiser for Only<M> {
        fn denoised(&mut self, at: Points) -> Result<Batch, EvalError> {
            self.velocity(at)
        }
        fn flow_map(&mut self, _: &str) -> Result<&mut dyn FlowMap, EvalError> {
            Ok(&mut self.0)
        }
    }

    fn draw<M: FlowMap>(
        model: M,
        curve: &PathCurve,
        std: f64,
        spec: &str,
        x: &Batch,
    ) -> DrawnSamples {
        let sampler: Sampler = serde_yaml::from_str(spec).unwrap_or_else(|e| panic!("{spec}: {e}"));
        let samples: Vec<u64> = (0..x.nrows() as u64).collect();
        let context = SamplerContext {
            curve,
            prediction: Prediction::Velocity,
            dim: x.ncols(),
        };
        let draw = SampleRequest {
            context,
            prior: Prior::isotropic(std),
            key: RngKey { seed: 0 },
            samples: &samples,
            step_noise: None,
        };
        sampler
            .sample(&mut Only(model), &draw, x.clone())
            .expect("analytic")
    }

    /// T13 from noise to data: states and densities do not depend on the number of steps, and the
    /// steps back from a sample give the same density.
    #[test]
    fn exact_flow_map_samples_and_densities_do_not_depend_on_step_count() {
        for path in ProbabilityPath::defaults() {
            let curve = path.curve().expect("right");
            let (std, model) = (curve.prior_std(), analytic::example_gaussian(curve.clone()));
            let x = initial_noise(RngKey { seed: 3 }, &[0, 1, 2, 3], 3, std);
            let one = draw(
                model.clone(),
                &curve,
                std,
                "{flow-map: {steps: 1, density: true}}",
                &x,
            );
            for steps in [2, 5] {
                let few = draw(
                    model.clone(),
                    &curve,
                    std,
                    &format!("{{flow-map: {{steps: {steps}, density: true}}}}"),
                    &x,
                );
                let gap = (&few.x - &one.x)
                    .mapv(f64::abs)
                    .into_iter()
                    .fold(0.0, f64::max);
                assert!(gap < 1e-9, "{path:?}: {gap}");
                for (a, b) in few
                    .log_density
                    .expect("asked")
                    .iter()
                    .zip(one.log_density.as_ref().expect("asked"))
                {
                    assert!((a - b).abs() < 1e-9 * (1.0 + b.abs()), "{path:?}: {a} {b}");
                }
            }
            let times = FewSteps {
                steps: 3,
                ..Default::default()
            }
            .times(&curve)
            .expect("right");
            let first: Vec<SampleId> = (0..one.x.nrows() as SampleId).collect();
            let back = apply_flow_map_steps(
                &mut model.clone(),
                &curve,
                &times,
                FlowMapStepRule::TwoTime,
                &first,
                one.x,
            )
            .expect("analytic");
            let prior = Prior::isotropic(std).log_density(&back.x);
            let there: Vec<f64> = prior
                .iter()
                .zip(back.divergence_integral.expect("given"))
                .map(|(p, i)| p + i)
                .collect();
            for (a, b) in one.log_density.expect("asked").iter().zip(there) {
                assert!((a - b).abs() < 1e-8 * (1.0 + b.abs()), "{path:?}: {a} {b}");
            }
        }
    }

    #[test]
    fn log_density_is_returned_only_when_requested() {
        let curve = ProbabilityPath::defaults()[5].curve().expect("right");
        let x = initial_noise(RngKey { seed: 3 }, &[0, 1], 3, 1.0);
        assert_eq!(
            draw(
                analytic::example_gaussian(curve.clone()),
                &curve,
                1.0,
                "flow-map",
                &x
            )
            .log_density,
            None
        );
    }

    /// T13: a Gaussian's map has a constant divergence, so only the prior's term moves the noise.
    #[test]
    fn on_a_gaussian_guidance_comes_from_the_prior_alone() {
        for path in [
            ProbabilityPath::defaults()[0].clone(),
            ProbabilityPath::defaults()[6].clone(),
        ] {
            let curve = path.curve().expect("right");
            let (std, model): (f64, AnalyticGaussian) =
                (curve.prior_std(), analytic::example_gaussian(curve.clone()));
            let x = initial_noise(RngKey { seed: 3 }, &[0, 1, 2], 3, std);
            let plain = draw(model.clone(), &curve, std, "{flow-map: {steps: 2}}", &x);
            let spec = |prior: bool| {
                format!("{{flow-map: {{steps: 2, guidance: {{step: 0.25, prior: {prior}}}}}}}")
            };
            assert_eq!(
                draw(model.clone(), &curve, std, &spec(false), &x).x,
                plain.x
            );
            let shrunk = draw(
                model.clone(),
                &curve,
                std,
                "{flow-map: {steps: 2}}",
                &(&x * 0.75),
            );
            let guided = draw(model, &curve, std, &spec(true), &x);
            assert!((guided.x - shrunk.x).iter().all(|g| g.abs() < 1e-12));
        }
    }

    /// On ½|z|² Adam takes the steps of PyTorch's `torch.optim.Adam` with the learning rate 0.1.
    #[test]
    fn adam_takes_the_steps_of_torch() {
        let curve = ProbabilityPath::defaults()[6].curve().expect("right");
        let std = curve.prior_std();
        let model = analytic::example_gaussian(curve.clone());
        let z = ndarray::array![[0.7, -1.3, 0.05]];
        for (steps, want) in [
            (
                1,
                [
                    0.6000000014285714,
                    -1.2000000007692309,
                    -0.04999998000000398,
                ],
            ),
            (
                3,
                [
                    0.40274348419418166,
                    -1.0010947850695695,
                    -0.007126712577327263,
                ],
            ),
        ] {
            let spec = format!(
                "{{flow-map: {{steps: 1, guidance: {{step: 0.1, prior: true, adam: {steps}}}}}}}"
            );
            let guided = draw(model.clone(), &curve, std, &spec, &(&z * std));
            let start = ndarray::Array2::from_shape_fn((1, 3), |(_, j)| want[j] * std);
            let unguided = draw(model.clone(), &curve, std, "{flow-map: {steps: 1}}", &start);
            let gap = (&guided.x - &unguided.x)
                .iter()
                .fold(0.0f64, |a, b| a.max(b.abs()));
            assert!(gap < 1e-12, "{steps}: {gap}");
            assert_eq!(guided.evaluations, vec![1 + 2 * steps; 1]);
        }
    }

    /// A parabola as divergence shows the gradient's sign, its scale and the direction of time.
    #[test]
    fn guidance_increases_the_predicted_likelihood() {
        #[derive(Clone)]
        struct Parabola;
        impl FlowMap for Parabola {
            fn dim(&self) -> usize {
                1
            }
            fn averages(&mut self, at: Points, _: &[f64]) -> Result<FlowMapAverages, EvalError> {
                let Points { x, .. } = at;
                let divergence = Some(x.column(0).mapv(|v| (v - 1.0).powi(2)).to_vec());
                Ok(FlowMapAverages {
                    velocity: Batch::zeros(x.raw_dim()),
                    divergence,
                })
            }
            fn divergence_gradient(
                &mut self,
                at: Points,
                to: &[f64],
            ) -> Result<(Vec<f64>, Batch), EvalError> {
                let x = at.x;
                Ok((
                    self.averages(at, to)?.divergence.unwrap_or_default(),
                    (x - 1.0) * 2.0,
                ))
            }
            fn jvp(
                &mut self,
                _: Points,
                _: &[f64],
                z: &TangentBatch,
            ) -> Result<TangentBatch, EvalError> {
                Ok(TangentBatch::zeros(z.raw_dim()))
            }
        }
        let x = ndarray::array![[3.0], [-2.0]];
        for (data_at, sign) in [(1, 1.0), (0, -1.0)] {
            let curve = ProbabilityPath::FlowMatching {
                data_at,
                t_min: 0.0,
                t_max: 1.0,
            }
            .curve()
            .expect("right");
            for prior in [true, false] {
                let spec = format!(
                    "{{flow-map: {{steps: 1, density: true, \
                     guidance: {{step: 1.0e-3, prior: {prior}}}}}}}"
                );
                let plain = draw(
                    Parabola,
                    &curve,
                    1.0,
                    "{flow-map: {steps: 1, density: true}}",
                    &x,
                );
                let guided = draw(Parabola, &curve, 1.0, &spec, &x);
                for i in 0..2 {
                    // The map's velocity is zero, so the sample is the guided noise itself.
                    let (old, new) = (x[[i, 0]], guided.x[[i, 0]]);
                    let pull = if prior { old } else { 0.0 };
                    assert!((new - (old - 1e-3 * (sign * 2.0 * (old - 1.0) + pull))).abs() < 1e-15);
                    let normal = |v: f64| if prior { 0.0 } else { 0.5 * v * v };
                    let of = |d: &DrawnSamples, v: f64| {
                        d.log_density.as_ref().expect("asked")[i] + normal(v)
                    };
                    assert!(of(&guided, new) > of(&plain, old), "{data_at} {prior}");
                }
            }
        }
    }

    #[test]
    fn flow_map_labels_match_the_estimator_and_show_guidance() {
        let label = |spec: &str| {
            serde_yaml::from_str::<FlowMapSampler>(spec)
                .expect(spec)
                .label()
        };
        assert_eq!(
            label("{map: m, steps: 2, density: true}"),
            "flow-map(m steps=2)"
        );
        assert_eq!(
            label("{steps: 2, guidance: {step: 0.1, prior: true}}"),
            "flow-map(f2d2 steps=2 guidance=0.1 with prior)"
        );
        let refused = serde_yaml::from_str::<FlowMapSampler>("{steps: 2, guidance: {step: 0.1}}")
            .expect_err("no prior");
        assert!(refused.to_string().contains("prior"));
    }
}
