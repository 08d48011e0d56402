//! Few steps of a flow map from noise to data, with the density of what comes out, and with the noise
//! moved uphill in the map's own likelihood first (F2D2's maximum-likelihood self-guidance).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cost, Denoiser, Draw, Drawn, MapUse, Point, Sample, Sampler, Setting};
use crate::flow::field::{EvalError, FlowMap};
use crate::flow::grid::Spacing;
use crate::flow::map::{FewSteps, Rule, walk};
use crate::flow::path::Curve;
use crate::flow::prior::Prior;
use crate::num::Batch;

/// One evaluation of the map in each step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("x-first" = "map"))]
pub struct FlowMapSteps {
    /// The name under the card's `flow_maps`.
    pub map: String,
    pub steps: usize,
    /// Karras for edm and ve, uniform in the card's time otherwise, unless named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<Spacing>,
    /// Also gives log p of each sample under the map, log π(noise) − ∫div from noise to data: no further evaluation.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub density: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<Guidance>,
}

impl Default for FlowMapSteps {
    fn default() -> Self {
        let FewSteps {
            map, steps, grid, ..
        } = FewSteps::default();
        FlowMapSteps {
            map,
            steps,
            grid,
            density: false,
            guidance: None,
        }
    }
}

/// One step uphill in ℓ(z) = \[log N(z; 0, I)\] − ∫div of the map's one jump from noise to data, before the
/// walk begins: z ← z + η ∇ℓ(z), where z is the noise in units of the prior's standard deviation.
///
/// The F2D2 paper says what is maximized but not with what step, nor whether the prior's term belongs to
/// it, so both are told and neither is a default of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-first" = "step"))]
pub struct Guidance {
    /// η; 0 is no guidance, below 0 is downhill.
    pub step: f64,
    /// Whether log N(z; 0, I) belongs to ℓ: it draws the noise towards 0.
    pub prior: bool,
}

/// The gradient by reverse mode: one forward and one backward pass.
const GRADIENT_EVALUATIONS: u64 = 2;

impl FlowMapSteps {
    fn few(&self) -> FewSteps {
        FewSteps {
            map: self.map.clone(),
            steps: self.steps,
            grid: self.grid,
            rule: None,
        }
    }

    /// As estimators are labelled, so that a likelihood and the samples of the same steps are found together.
    pub fn label(&self) -> String {
        let Some(Guidance { step, prior }) = self.guidance else {
            return self.few().label();
        };
        let plain = self.few().label();
        let term = if prior { " with prior" } else { "" };
        format!("{} guidance={step}{term})", plain.trim_end_matches(')'))
    }

    /// Moves noise uphill in the map's own likelihood of what it becomes.
    fn guide(
        &self,
        map: &mut dyn FlowMap,
        curve: &Curve,
        prior: Prior,
        x: Batch,
    ) -> Result<Batch, EvalError> {
        let Some(Guidance {
            step,
            prior: with_prior,
        }) = self.guidance
        else {
            return Ok(x);
        };
        let (from, to) = (curve.prior_end(), curve.data_end());
        let times = (vec![from; x.nrows()], vec![to; x.nrows()]);
        let (_, gradient) = map.divergence_gradient(&times.0, &times.1, &x)?;
        // ∇_z = std·∇_x, and a step in z is std times as long in x.
        let mut uphill = gradient * (-(to - from) * prior.std * prior.std);
        if with_prior {
            uphill -= &x;
        }
        Ok(x + uphill * step)
    }
}

impl FlowMapSteps {
    /// Times from the prior end to the data end.
    fn times(&self, curve: &Curve) -> Result<Vec<f64>, String> {
        if let Some(guidance) = self.guidance.filter(|g| !g.step.is_finite()) {
            return Err(format!(
                "guidance: step is {}, expected a number",
                guidance.step
            ));
        }
        let mut times = self.few().times(curve)?;
        times.reverse();
        Ok(times)
    }
}

impl Sample for FlowMapSteps {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::FlowMap(FlowMapSteps {
            steps,
            ..self.clone()
        })
    }

    fn grid(&self, on: &Setting) -> Result<Vec<Point>, String> {
        Ok(self
            .times(on.curve)?
            .into_iter()
            .map(|t| Point::on(on.curve, t))
            .collect())
    }

    fn check(&self, on: &Setting) -> Result<(), String> {
        self.times(on.curve).map(drop)
    }

    fn cost(&self, _: &Setting) -> Cost {
        let guidance = if self.guidance.is_some() {
            GRADIENT_EVALUATIONS
        } else {
            0
        };
        Cost {
            evaluations: self.steps as u64 + guidance,
            ..Cost::default()
        }
    }

    fn map(&self) -> Option<MapUse<'_>> {
        Some(MapUse {
            name: &self.map,
            density: self.density,
            gradient: self.guidance.is_some(),
        })
    }

    fn sample(&self, field: &mut dyn Denoiser, draw: &Draw, x: Batch) -> Result<Drawn, EvalError> {
        let (curve, prior) = (draw.on.curve, draw.prior);
        let times = self.times(curve).map_err(EvalError::Missing)?;
        let map = field.map(&self.map)?;
        let x = self.guide(map, curve, prior, x)?;
        let noise = self.density.then(|| prior.log_density(&x));
        let end = walk(map, curve, &times, Rule::TwoTime, x)?;
        let difference = |(noise, integral): (Vec<f64>, Vec<f64>)| {
            noise.iter().zip(integral).map(|(n, i)| n - i).collect()
        };
        let log_density = noise.zip(end.divergence).map(difference);
        Ok(Drawn {
            log_density,
            ..Drawn::alike(end.x, self.cost(&draw.on).evaluations, 0, Vec::new())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::field::{Averages, VectorField};
    use crate::flow::path::Path;
    use crate::flow::prediction::Prediction;
    use crate::model::analytic::{self, Gaussian};
    use crate::num::Blocks;
    use crate::num::key::Key;
    use crate::sample::noise;

    /// A model that has a flow map and nothing else.
    struct Only<M: FlowMap>(M);

    impl<M: FlowMap> VectorField for Only<M> {
        fn dim(&self) -> usize {
            self.0.dim()
        }
        fn velocity(&mut self, _: &[f64], _: &Batch) -> Result<Batch, EvalError> {
            Err(EvalError::Missing("few steps need no velocity".to_owned()))
        }
    }

    impl<M: FlowMap> Denoiser for Only<M> {
        fn denoised(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
            self.velocity(t, x)
        }
        fn map(&mut self, _: &str) -> Result<&mut dyn FlowMap, EvalError> {
            Ok(&mut self.0)
        }
    }

    fn draw<M: FlowMap>(model: M, curve: &Curve, std: f64, spec: &str, x: &Batch) -> Drawn {
        let sampler: Sampler = serde_yaml::from_str(spec).unwrap_or_else(|e| panic!("{spec}: {e}"));
        let samples: Vec<u64> = (0..x.nrows() as u64).collect();
        let on = Setting {
            curve,
            prediction: Prediction::Velocity,
        };
        let draw = Draw {
            on,
            prior: Prior { std },
            key: Key { seed: 0 },
            samples: &samples,
        };
        sampler
            .sample(&mut Only(model), &draw, x.clone())
            .expect("analytic")
    }

    /// T13 from noise to data: states and densities do not depend on the number of steps, and the density of a
    /// sample is what the walk back from it gives.
    #[test]
    fn an_exact_map_samples_and_knows_their_density_in_any_number_of_steps() {
        for path in Path::defaults() {
            let curve = path.curve().expect("right");
            let (std, model) = (curve.prior_std(), analytic::gaussian(curve.clone()));
            let x = noise(Key { seed: 3 }, &[0, 1, 2, 3], 3, std);
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
            let back =
                walk(&mut model.clone(), &curve, &times, Rule::TwoTime, one.x).expect("analytic");
            let prior = Prior { std }.log_density(&back.x);
            let there: Vec<f64> = prior
                .iter()
                .zip(back.divergence.expect("given"))
                .map(|(p, i)| p + i)
                .collect();
            for (a, b) in one.log_density.expect("asked").iter().zip(there) {
                assert!((a - b).abs() < 1e-8 * (1.0 + b.abs()), "{path:?}: {a} {b}");
            }
        }
    }

    #[test]
    fn densities_are_given_only_where_they_are_asked_for() {
        let curve = Path::defaults()[5].curve().expect("right");
        let x = noise(Key { seed: 3 }, &[0, 1], 3, 1.0);
        assert_eq!(
            draw(
                analytic::gaussian(curve.clone()),
                &curve,
                1.0,
                "flow-map",
                &x
            )
            .log_density,
            None
        );
    }

    /// T13: a Gaussian's divergence is the same everywhere, so only the prior's term moves the noise.
    #[test]
    fn on_a_gaussian_only_the_prior_guides() {
        for path in [Path::defaults()[0].clone(), Path::defaults()[6].clone()] {
            let curve = path.curve().expect("right");
            let (std, model): (f64, Gaussian) =
                (curve.prior_std(), analytic::gaussian(curve.clone()));
            let x = noise(Key { seed: 3 }, &[0, 1, 2], 3, std);
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

    /// A map whose divergence is a parabola: the gradient's sign, scale and direction of time are seen.
    #[test]
    fn guidance_goes_uphill_in_the_predicted_likelihood() {
        #[derive(Clone)]
        struct Parabola;
        impl FlowMap for Parabola {
            fn dim(&self) -> usize {
                1
            }
            fn averages(&mut self, _: &[f64], _: &[f64], x: &Batch) -> Result<Averages, EvalError> {
                let divergence = Some(x.column(0).mapv(|v| (v - 1.0).powi(2)).to_vec());
                Ok(Averages {
                    velocity: Batch::zeros(x.raw_dim()),
                    divergence,
                })
            }
            fn divergence_gradient(
                &mut self,
                from: &[f64],
                to: &[f64],
                x: &Batch,
            ) -> Result<(Vec<f64>, Batch), EvalError> {
                Ok((
                    self.averages(from, to, x)?.divergence.unwrap_or_default(),
                    (x - 1.0) * 2.0,
                ))
            }
            fn products(
                &mut self,
                _: &[f64],
                _: &[f64],
                _: &Batch,
                z: &Blocks,
            ) -> Result<Blocks, EvalError> {
                Ok(Blocks::zeros(z.raw_dim()))
            }
        }
        let x = ndarray::array![[3.0], [-2.0]];
        for (data_at, sign) in [(1, 1.0), (0, -1.0)] {
            let curve = Path::FlowMatching {
                data_at,
                t_min: 0.0,
                t_max: 1.0,
            }
            .curve()
            .expect("right");
            for prior in [true, false] {
                let spec = format!(
                    "{{flow-map: {{steps: 1, density: true, guidance: {{step: 1.0e-3, prior: {prior}}}}}}}"
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
                    // The walk stays where it is, so the end state is the guided noise itself.
                    let (old, new) = (x[[i, 0]], guided.x[[i, 0]]);
                    let pull = if prior { old } else { 0.0 };
                    assert!((new - (old - 1e-3 * (sign * 2.0 * (old - 1.0) + pull))).abs() < 1e-15);
                    let normal = |v: f64| if prior { 0.0 } else { 0.5 * v * v };
                    let of =
                        |d: &Drawn, v: f64| d.log_density.as_ref().expect("asked")[i] + normal(v);
                    assert!(of(&guided, new) > of(&plain, old), "{data_at} {prior}");
                }
            }
        }
    }

    #[test]
    fn labels_are_those_of_the_estimator_and_show_the_guidance() {
        let label = |spec: &str| {
            serde_yaml::from_str::<FlowMapSteps>(spec)
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
        let refused = serde_yaml::from_str::<FlowMapSteps>("{steps: 2, guidance: {step: 0.1}}")
            .expect_err("no prior");
        assert!(refused.to_string().contains("prior"));
    }
}
