//! Guidance: a field that is extrapolated away from a weaker one.
//!
//! v = v_weak + w·(v_strong − v_weak), with the scale w. For classifier-free guidance (Ho & Salimans
//! 2022) the weak field is the same network without conditions; for autoguidance (Karras et al.
//! 2024) it is another, worse network. At fixed x and t the velocity is affine in the noise, the
//! denoised and the score prediction, so that this is the field's usual formula on any of them. The
//! Jacobian is extrapolated likewise.
//!
//! The density that a guided velocity gives is that of the *guided* flow. It is not the model's
//! conditional density to a power.

use ndarray::{Array, Array2, Axis, Dimension, RemoveAxis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::{EvalError, JacobianOperator, Points, ScalarField, VectorField};
use super::path::PathCurve;
use crate::num::key::{SampleId, without_conditions};
use crate::num::{Batch, TangentBatch};

/// How strongly a field is guided, and at which noise levels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Guidance {
    /// The scale w. At 1 the field is the conditional one, at 0 the weak one.
    pub scale: f64,
    /// The lowest and the highest noise level σ/α at which the field is guided (Kynkäänniemi et al.
    /// 2024); outside it is the conditional one. Default: all noise levels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
}

impl Guidance {
    /// Checks the scale and the interval.
    ///
    /// # Errors
    /// Fails if one of them is out of range. The message names the key and says what is expected.
    pub fn check(&self) -> Result<(), String> {
        if !self.scale.is_finite() {
            return Err(format!("scale: {}, expected a number", self.scale));
        }
        match self.interval {
            Some([low, high]) if !(low >= 0.0 && low < high) => Err(format!(
                "interval: [{low}, {high}], expected [low, high] in sigma/alpha with 0 <= low < high"
            )),
            _ => Ok(()),
        }
    }

    /// Whether the field at time `t` is guided.
    pub fn applies_at(&self, curve: &PathCurve, t: f64) -> bool {
        let s = curve.at(t);
        let level = s.sigma / s.alpha;
        self.scale != 1.0
            && self
                .interval
                .is_none_or(|[low, high]| low <= level && level <= high)
    }

    /// The times inside the path at which the field switches between guided and unguided.
    pub fn switch_times(&self, curve: &PathCurve) -> Vec<f64> {
        let ends = [curve.data_end(), curve.prior_end()];
        let inside = |level: &f64| {
            let t = curve.time_of_ratio(*level);
            (level.is_finite() && *level > 0.0 && !ends.contains(&t)).then_some(t)
        };
        match self.interval {
            Some(levels) if self.scale != 1.0 => levels.iter().filter_map(inside).collect(),
            _ => Vec::new(),
        }
    }

    /// The words for tables, such as `1.5` and `1.5 in [0.3, 5]`.
    pub fn label(&self) -> String {
        match self.interval {
            None => self.scale.to_string(),
            Some([low, high]) => format!("{} in [{low}, {high}]", self.scale),
        }
    }
}

/// A guidance as configs and `--guidance` give it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a scale, such as 1.5, or {scale: 1.5, interval: [0.3, 5]}"
)]
pub enum GuidanceSetting {
    /// The scale alone; the interval is that of the card.
    Scale(f64),
    /// The scale and the interval.
    Full(Guidance),
}

impl GuidanceSetting {
    /// The guidance, with the interval of the card's own guidance if only a scale is given.
    pub fn with_interval(self, card: Option<[f64; 2]>) -> Guidance {
        match self {
            GuidanceSetting::Scale(scale) => Guidance {
                scale,
                interval: card,
            },
            GuidanceSetting::Full(guidance) => guidance,
        }
    }
}

/// A velocity and products from the same calls, if the field gives both.
type JointResult<D> = Result<Option<(Batch, Array<f64, D>)>, EvalError>;

/// The field away from which a guided field is extrapolated.
pub enum WeakField<F> {
    /// The same field without the samples' conditions. Both are evaluated in one call.
    Unconditional,
    /// Another field.
    Other(F),
}

/// The guidance of a field with everything that its evaluation needs.
pub struct ActiveGuidance<F> {
    /// The scale and the interval.
    pub guidance: Guidance,
    /// The path, from which the noise level follows.
    pub curve: PathCurve,
    /// The weak field.
    pub weak: WeakField<F>,
}

/// A field that may be guided: a velocity, the operator of its Jacobian, or a learned divergence.
pub struct Guided<F> {
    /// The field with the samples' conditions.
    pub field: F,
    /// The guidance; `None` leaves the field as it is.
    pub guidance: Option<ActiveGuidance<F>>,
}

/// The rows of a call of a guided field: all rows, and the guided rows again without conditions.
struct GuidedRows {
    /// The guided rows.
    guided: Vec<usize>,
    /// For each row of the call the row of the points that it comes from.
    source: Vec<usize>,
    /// The sample of each row of the call.
    samples: Vec<SampleId>,
    /// The time of each row of the call.
    t: Vec<f64>,
    /// The states of the call.
    x: Batch,
}

impl GuidedRows {
    /// The rows of a call at `at` with the rows `guided` doubled.
    fn new(at: Points, guided: Vec<usize>) -> GuidedRows {
        let source: Vec<usize> = (0..at.rows()).chain(guided.iter().copied()).collect();
        let samples = (0..at.rows())
            .map(|i| at.samples[i])
            .chain(guided.iter().map(|i| without_conditions(at.samples[*i])))
            .collect();
        GuidedRows {
            t: source.iter().map(|i| at.t[*i]).collect(),
            x: at.x.select(Axis(0), &source),
            guided,
            source,
            samples,
        }
    }

    /// The points of the call.
    fn points(&self) -> Points<'_> {
        Points::new(&self.samples, &self.t, &self.x)
    }

    /// The directions of the call, from one direction per row of the points.
    fn directions(&self, z: &TangentBatch) -> TangentBatch {
        z.select(Axis(1), &self.source)
    }

    /// Replaces the guided rows of a call's result along `axis` by the extrapolation, and drops the
    /// rows without conditions.
    fn combine<D: Dimension + RemoveAxis>(
        &self,
        scale: f64,
        axis: Axis,
        mut values: Array<f64, D>,
    ) -> Array<f64, D> {
        let rows = self.source.len() - self.guided.len();
        let weak = values.slice_axis(axis, (rows..).into()).to_owned();
        extrapolate(scale, axis, &self.guided, &mut values, &weak);
        values.slice_axis_inplace(axis, (..rows).into());
        values
    }
}

/// Replaces the rows `guided` of `strong` along `axis` by weak + scale · (strong − weak).
fn extrapolate<D: Dimension + RemoveAxis>(
    scale: f64,
    axis: Axis,
    guided: &[usize],
    strong: &mut Array<f64, D>,
    weak: &Array<f64, D>,
) {
    for (row, weak) in guided.iter().zip(weak.axis_iter(axis)) {
        let mut strong = strong.index_axis_mut(axis, *row);
        strong.zip_mut_with(&weak, |strong, weak| {
            *strong = weak + scale * (*strong - weak);
        });
    }
}

impl<F> Guided<F> {
    /// A field without guidance.
    pub fn unguided(field: F) -> Guided<F> {
        Guided {
            field,
            guidance: None,
        }
    }

    /// The number of calls of the field at time `t`: one, or two where it is guided.
    fn guided_calls(&self, t: f64) -> u64 {
        let guided = self
            .guidance
            .as_ref()
            .is_some_and(|active| active.guidance.applies_at(&active.curve, t));
        1 + u64::from(guided)
    }

    /// Evaluates the field with `call`, which gives one result per row along `axis`. `z` are
    /// directions, one set per row, that the call takes.
    ///
    /// # Errors
    /// Fails if `call` fails.
    fn call<D: Dimension + RemoveAxis>(
        &mut self,
        at: Points,
        z: &TangentBatch,
        axis: Axis,
        mut call: impl FnMut(&mut F, Points, &TangentBatch) -> Result<Array<f64, D>, EvalError>,
    ) -> Result<Array<f64, D>, EvalError> {
        let result = self.try_call(
            at,
            z,
            |field, at, z| call(field, at, z).map(Some),
            |values, scale, rows| rows.combine(scale, axis, values),
            |strong, weak, scale, guided| extrapolate(scale, axis, guided, strong, weak),
        )?;
        Ok(result.expect("the call gives a result"))
    }

    /// Evaluates the field with `call`, or returns `None` if it gives no result. `combine` extrapolates
    /// a result with doubled rows, `join` the results of two fields.
    ///
    /// # Errors
    /// Fails if `call` fails.
    fn try_call<T>(
        &mut self,
        at: Points,
        z: &TangentBatch,
        mut call: impl FnMut(&mut F, Points, &TangentBatch) -> Result<Option<T>, EvalError>,
        combine: impl Fn(T, f64, &GuidedRows) -> T,
        join: impl Fn(&mut T, &T, f64, &[usize]),
    ) -> Result<Option<T>, EvalError> {
        let Some(active) = &mut self.guidance else {
            return call(&mut self.field, at, z);
        };
        let guided: Vec<usize> = (0..at.rows())
            .filter(|i| active.guidance.applies_at(&active.curve, at.t[*i]))
            .collect();
        if guided.is_empty() {
            return call(&mut self.field, at, z);
        }
        let scale = active.guidance.scale;
        match &mut active.weak {
            WeakField::Unconditional => {
                let rows = GuidedRows::new(at, guided);
                let z = match z.is_empty() {
                    true => z.clone(),
                    false => rows.directions(z),
                };
                let values = call(&mut self.field, rows.points(), &z)?;
                Ok(values.map(|values| combine(values, scale, &rows)))
            }
            WeakField::Other(other) => {
                let Some(mut strong) = call(&mut self.field, at, z)? else {
                    return Ok(None);
                };
                let part = at.select(&guided);
                let z = match z.is_empty() {
                    true => z.clone(),
                    false => z.select(Axis(1), &guided),
                };
                let Some(weak) = call(other, part.points(), &z)? else {
                    return Ok(None);
                };
                join(&mut strong, &weak, scale, &guided);
                Ok(Some(strong))
            }
        }
    }

    /// Evaluates the field with `call`, which gives a velocity, rows × dim, and products with one
    /// entry per row along their second axis.
    ///
    /// # Errors
    /// Fails if `call` fails.
    fn call_joint<D: Dimension + RemoveAxis>(
        &mut self,
        at: Points,
        z: &TangentBatch,
        call: impl FnMut(&mut F, Points, &TangentBatch) -> JointResult<D>,
    ) -> JointResult<D> {
        self.try_call(
            at,
            z,
            call,
            |(velocity, products), scale, rows| {
                (
                    rows.combine(scale, Axis(0), velocity),
                    rows.combine(scale, Axis(1), products),
                )
            },
            |strong, weak, scale, guided| {
                extrapolate(scale, Axis(0), guided, &mut strong.0, &weak.0);
                extrapolate(scale, Axis(1), guided, &mut strong.1, &weak.1);
            },
        )
    }

    /// Evaluates the field with `call`, which gives products with one entry per row along their
    /// second axis, if it gives any.
    ///
    /// # Errors
    /// Fails if `call` fails.
    fn call_products<D: Dimension + RemoveAxis>(
        &mut self,
        at: Points,
        z: &TangentBatch,
        call: impl FnMut(&mut F, Points, &TangentBatch) -> Result<Option<Array<f64, D>>, EvalError>,
    ) -> Result<Option<Array<f64, D>>, EvalError> {
        self.try_call(
            at,
            z,
            call,
            |products, scale, rows| rows.combine(scale, Axis(1), products),
            |strong, weak, scale, guided| extrapolate(scale, Axis(1), guided, strong, weak),
        )
    }

    /// Evaluates a quantity that is affine in the velocity, such as the denoiser, with `call`: one
    /// value per row, rows × dim.
    ///
    /// # Errors
    /// Fails if `call` fails.
    pub fn extrapolated(
        &mut self,
        at: Points,
        mut call: impl FnMut(&mut F, Points) -> Result<Batch, EvalError>,
    ) -> Result<Batch, EvalError> {
        self.call(at, &no_directions(), Axis(0), |field, at, _| {
            call(field, at)
        })
    }
}

/// No directions, for calls that take none.
fn no_directions() -> TangentBatch {
    TangentBatch::zeros((0, 0, 0))
}

impl<F: VectorField> VectorField for Guided<F> {
    fn dim(&self) -> usize {
        self.field.dim()
    }

    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
        self.extrapolated(at, F::velocity)
    }

    fn is_smooth(&self) -> bool {
        let weak = match self.guidance.as_ref().map(|active| &active.weak) {
            Some(WeakField::Other(other)) => other.is_smooth(),
            _ => true,
        };
        let switches = self
            .guidance
            .as_ref()
            .is_some_and(|active| !active.guidance.switch_times(&active.curve).is_empty());
        self.field.is_smooth() && weak && !switches
    }

    fn calls_at(&self, t: f64) -> u64 {
        self.guided_calls(t) * self.field.calls_at(t)
    }

    fn switch_times(&self) -> Vec<f64> {
        let times = |active: &ActiveGuidance<F>| active.guidance.switch_times(&active.curve);
        self.guidance.as_ref().map(times).unwrap_or_default()
    }
}

impl<F: JacobianOperator> JacobianOperator for Guided<F> {
    fn dim(&self) -> usize {
        self.field.dim()
    }

    fn calls_at(&self, t: f64) -> u64 {
        self.guided_calls(t) * self.field.calls_at(t)
    }

    fn jvp(&mut self, at: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
        self.call(at, z, Axis(1), F::jvp)
    }

    fn quadratic_form(&mut self, at: Points, z: &TangentBatch) -> Result<Array2<f64>, EvalError> {
        self.call(at, z, Axis(1), F::quadratic_form)
    }

    fn velocity_and_quadratic_form(
        &mut self,
        at: Points,
        z: &TangentBatch,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        self.call_joint(at, z, F::velocity_and_quadratic_form)
    }

    fn velocity_and_jvp(
        &mut self,
        at: Points,
        z: &TangentBatch,
    ) -> Result<Option<(Batch, TangentBatch)>, EvalError> {
        self.call_joint(at, z, F::velocity_and_jvp)
    }

    fn jacobian(&mut self, at: Points) -> Result<Option<TangentBatch>, EvalError> {
        self.call_products(at, &no_directions(), |field, at, _| field.jacobian(at))
    }

    fn velocity_and_jacobian(
        &mut self,
        at: Points,
    ) -> Result<Option<(Batch, TangentBatch)>, EvalError> {
        self.call_joint(at, &no_directions(), |field, at, _| {
            field.velocity_and_jacobian(at)
        })
    }

    fn trace_terms(&mut self, at: Points) -> Result<Option<Array2<f64>>, EvalError> {
        self.call_products(at, &no_directions(), |field, at, _| field.trace_terms(at))
    }

    fn velocity_and_trace_terms(
        &mut self,
        at: Points,
    ) -> Result<Option<(Batch, Array2<f64>)>, EvalError> {
        self.call_joint(at, &no_directions(), |field, at, _| {
            field.velocity_and_trace_terms(at)
        })
    }

    fn vjp(&mut self, at: Points, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
        self.call_products(at, w, F::vjp)
    }
}

/// The divergence is linear in the velocity, so that a head of the conditional and the unconditional
/// field gives the divergence of the guided one.
impl<F: ScalarField> ScalarField for Guided<F> {
    fn eval(&mut self, at: Points) -> Result<Vec<f64>, EvalError> {
        let values = self.call(at, &no_directions(), Axis(0), |field, at, _| {
            field.eval(at).map(ndarray::Array1::from_vec)
        })?;
        Ok(values.to_vec())
    }

    fn is_smooth(&self) -> bool {
        self.field.is_smooth() && self.guidance.is_none()
    }

    fn calls_at(&self, t: f64) -> u64 {
        self.guided_calls(t) * self.field.calls_at(t)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::path::ProbabilityPath;
    use crate::num::key::has_conditions;

    /// v = (c + t)·x with c = 3 with conditions and 1 without, which counts the rows of its calls.
    struct Scaled {
        rows: Vec<usize>,
    }

    impl Scaled {
        fn factors(at: &Points) -> Vec<f64> {
            let factor = |(sample, t): (&SampleId, &f64)| {
                t + if has_conditions(*sample) { 3.0 } else { 1.0 }
            };
            at.samples.iter().zip(at.t).map(factor).collect()
        }
    }

    impl VectorField for Scaled {
        fn dim(&self) -> usize {
            2
        }
        fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
            self.rows.push(at.rows());
            let mut out = at.x.clone();
            for (mut row, factor) in out.rows_mut().into_iter().zip(Scaled::factors(&at)) {
                row *= factor;
            }
            Ok(out)
        }
    }

    impl JacobianOperator for Scaled {
        fn dim(&self) -> usize {
            2
        }
        fn jvp(&mut self, at: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
            let mut out = z.clone();
            for (i, factor) in Scaled::factors(&at).into_iter().enumerate() {
                let mut rows = out.index_axis_mut(Axis(1), i);
                rows *= factor;
            }
            Ok(out)
        }
        fn vjp(&mut self, at: Points, w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
            self.jvp(at, w).map(Some)
        }
    }

    fn guided(scale: f64, interval: Option<[f64; 2]>, other: bool) -> Guided<Scaled> {
        let path = ProbabilityPath::FlowMatching {
            data_at: 0,
            t_min: 0.0,
            t_max: 1.0,
        };
        let rows = || Scaled { rows: Vec::new() };
        Guided {
            field: rows(),
            guidance: Some(ActiveGuidance {
                guidance: Guidance { scale, interval },
                curve: path.curve().expect("right"),
                weak: if other {
                    WeakField::Other(rows())
                } else {
                    WeakField::Unconditional
                },
            }),
        }
    }

    #[test]
    fn guided_field_and_its_products_are_extrapolated() {
        let x = ndarray::array![[1.0, 2.0], [-1.0, 0.5], [0.3, 0.1]];
        // The noise level sigma/alpha is 1/9, 1 and 9: only the middle row is in the interval.
        let at = Points::new(&[4, 5, 6], &[0.1, 0.5, 0.9], &x);
        let z = TangentBatch::from_shape_fn((2, 3, 2), |(k, i, j)| (k + 2 * i + j) as f64);
        for (interval, inside) in [(None, [true; 3]), (Some([0.5, 2.0]), [false, true, false])] {
            let mut field = guided(2.5, interval, false);
            let factor = |i: usize| at.t[i] + if inside[i] { 1.0 + 2.5 * 2.0 } else { 3.0 };
            let v = field.velocity(at).expect("analytic");
            assert_eq!(
                field.field.rows,
                [3 + inside.iter().filter(|i| **i).count()]
            );
            let jvp = field.jvp(at, &z).expect("analytic");
            let vjp = field.vjp(at, &z).expect("analytic").expect("reverse mode");
            let form = field.quadratic_form(at, &z).expect("analytic");
            for i in 0..3 {
                assert_eq!(field.guided_calls(at.t[i]), 1 + u64::from(inside[i]));
                let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{i}: {a} {b}");
                (0..2).for_each(|j| close(v[[i, j]], factor(i) * x[[i, j]]));
                for k in 0..2 {
                    (0..2).for_each(|j| close(jvp[[k, i, j]], factor(i) * z[[k, i, j]]));
                    (0..2).for_each(|j| close(vjp[[k, i, j]], factor(i) * z[[k, i, j]]));
                    let square: f64 = (0..2).map(|j| z[[k, i, j]].powi(2)).sum();
                    close(form[[k, i]], factor(i) * square);
                }
            }
        }
    }

    #[test]
    fn another_field_is_called_for_the_guided_rows_alone() {
        let x = ndarray::array![[1.0, 2.0], [-1.0, 0.5]];
        let at = Points::new(&[0, 1], &[0.1, 0.5], &x);
        let mut field = guided(3.0, Some([0.5, 2.0]), true);
        let v = field.velocity(at).expect("analytic");
        // Both networks are the same with conditions, so that guidance changes nothing.
        assert!(
            (&v - &field.field.velocity(at).expect("analytic"))
                .iter()
                .all(|e| e.abs() < 1e-12)
        );
        let Some(ActiveGuidance {
            weak: WeakField::Other(other),
            ..
        }) = &field.guidance
        else {
            panic!("another field");
        };
        assert_eq!(other.rows, [1]);
    }

    #[test]
    fn guidance_is_checked_and_labelled() {
        let guidance = |scale, interval| Guidance { scale, interval };
        assert_eq!(guidance(1.5, None).label(), "1.5");
        assert_eq!(guidance(4.0, Some([0.3, 5.0])).label(), "4 in [0.3, 5]");
        assert!(guidance(f64::NAN, None).check().is_err());
        assert!(
            guidance(2.0, Some([5.0, 0.3]))
                .check()
                .expect_err("reversed")
                .contains("interval")
        );
        let curve = ProbabilityPath::Edm {
            sigma_min: 0.1,
            sigma_max: 10.0,
        }
        .curve()
        .expect("right");
        let times = guidance(2.0, Some([0.01, 5.0])).switch_times(&curve);
        assert_eq!(times.len(), 1);
        assert!((times[0] - 5.0).abs() < 1e-9);
        assert!(
            guidance(1.0, Some([0.3, 5.0]))
                .switch_times(&curve)
                .is_empty()
        );
    }
}
