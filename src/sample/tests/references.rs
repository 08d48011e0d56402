//! Our samplers equal diffusers' schedulers, which `scripts/sampler_references.py` runs on the same
//! model.
//!
//! In double precision diffusers agrees to 1e-10. As shipped, in single precision, it differs by
//! its own rounding. It rounds the states, and on the discrete path also 1 − ᾱ, which costs three
//! to four digits of σ near the data end. If no order is lowered, the last step, which is long in
//! λ, extrapolates this error.

use std::fs::File;

use ndarray::Array2;
use ndarray_npy::NpzReader;

use super::super::multistep;
use super::*;
use crate::flow::path::Betas;

struct DiffusersReferences(NpzReader<File>);

impl DiffusersReferences {
    fn open() -> DiffusersReferences {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/data/samplers/diffusers.npz"
        );
        DiffusersReferences(NpzReader::new(File::open(path).expect(path)).expect("an archive"))
    }

    fn states(&mut self, name: &str) -> Array2<f64> {
        self.0
            .by_name(name)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn times(&mut self, name: &str) -> Vec<f64> {
        let times: ndarray::Array1<f64> = self
            .0
            .by_name(name)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        times.to_vec()
    }

    /// Compares with the f64 run to 1e-10 and with the f32 run to `single`, both relative to 1.
    fn assert_close(&mut self, name: &str, got: &Batch, single: f64) {
        for (kind, tolerance) in [("f64", 1e-10), ("f32", single)] {
            let want = self.states(&format!("{name}.{kind}"));
            let gap = (got - &want).iter().fold(0.0f64, |a, b| a.max(b.abs()));
            assert!(gap <= tolerance, "{name}.{kind}: {gap:e}");
        }
    }
}

fn mixture(path: ProbabilityPath) -> AnalyticMixture {
    AnalyticMixture {
        curve: path.curve().expect("right"),
        weights: vec![0.3, 0.7],
        means: ndarray::array![[-1.0, 0.4], [0.8, -0.2]],
        variances: vec![0.04, 0.09],
    }
}

fn end(spec: &str, path: ProbabilityPath, start: &Batch) -> Batch {
    let mut model = mixture(path);
    let curve = model.curve.clone();
    draw_samples(&sampler_from_yaml(spec), &mut model, &curve, start).x
}

/// A multistep method over points that no schedule of ours gives.
fn integrate_between(
    method: &dyn multistep::Multistep,
    points: &[PathPoint],
    model: &mut AnalyticMixture,
    start: Batch,
) -> Batch {
    let (steps, curve) = (
        multistep::steps_between_points(method, true, points),
        model.curve.clone(),
    );
    let draw = SampleRequest {
        context: velocity_context(&curve),
        prior: UNIT_PRIOR,
        key: RngKey { seed: 0 },
        samples: &(0..start.nrows() as u64).collect::<Vec<_>>(),
        step_noise: None,
    };
    sampler_step::integrate_steps(&steps, model, &draw, start)
        .expect("analytic")
        .x
}

fn discrete() -> ProbabilityPath {
    ProbabilityPath::discrete(Betas::default(), 1000)
}

#[test]
fn samplers_match_diffusers_on_the_discrete_path() {
    let mut references = DiffusersReferences::open();
    let start = references.states("start");
    for (name, spec) in [
        ("ddim_discrete", "ddim: {steps: 9}"),
        ("2m_discrete_lower", "dpmpp-2m: {steps: 9}"),
        ("3m_discrete_lower", "dpmpp-3m: {steps: 9}"),
        (
            "2m_discrete",
            "dpmpp-2m: {steps: 27, lower_order_final: false}",
        ),
        (
            "3m_discrete",
            "dpmpp-3m: {steps: 27, lower_order_final: false}",
        ),
    ] {
        let single = if name.contains("m_discrete") && !name.contains("lower") {
            2e-4
        } else {
            1e-5
        };
        references.assert_close(
            name,
            &end(&format!("{{{spec}}}"), discrete(), &start),
            single,
        );
    }
    for (order, variant) in [
        (1, "bh1"),
        (1, "bh2"),
        (2, "bh1"),
        (2, "bh2"),
        (3, "bh1"),
        (3, "bh2"),
    ] {
        let spec = format!("steps: 9, order: {order}, variant: {variant}");
        let got = end(&format!("{{unipc: {{{spec}}}}}"), discrete(), &start);
        references.assert_close(&format!("unipc{order}{variant}_discrete_lower"), &got, 1e-5);
        let got = end(
            &format!("{{unipc: {{{spec}, lower_order_final: false}}}}"),
            discrete(),
            &start,
        );
        references.assert_close(&format!("unipc{order}{variant}_discrete"), &got, 2e-4);
    }
}

/// No schedule of ours gives their "trailing" timesteps (999, 874, …, 124, 0), but the steps agree.
#[test]
fn ddim_matches_diffusers_on_its_own_timesteps() {
    let mut references = DiffusersReferences::open();
    let mut model = mixture(discrete());
    let indices = (0..8).map(|i| 999 - 125 * i).chain([0]);
    let points: Vec<PathPoint> = indices
        .map(|i| PathPoint::at_time(&model.curve, (i + 1) as f64 / 1000.0))
        .collect();
    let start = references.states("start");
    let got = integrate_between(&ddim::Ddim::default(), &points, &mut model, start);
    references.assert_close("ddim_trailing", &got, 1e-5);
}

#[test]
fn samplers_match_diffusers_on_edm_with_denoising_to_zero() {
    let mut references = DiffusersReferences::open();
    let start = references.states("start") * 80.0;
    let edm = ProbabilityPath::Edm {
        sigma_min: 0.002,
        sigma_max: 80.0,
    };
    for (name, sampler) in [
        ("euler_edm", "euler"),
        ("1m_edm", "ddim"),
        ("2m_edm", "dpmpp-2m"),
        ("3m_edm", "dpmpp-3m"),
    ] {
        let spec = format!(
            "{{{sampler}: {{steps: 16, lower_order_final: false, denoise_to_zero: true}}}}"
        );
        references.assert_close(name, &end(&spec, edm.clone(), &start), 1e-5);
    }
    // Heun runs between the two ends of their table. The single-precision ends change the state by
    // 1e-5 of 157.
    let ends = references.times("heun_karras_times.f64");
    let path = ProbabilityPath::Edm {
        sigma_min: ends[ends.len() - 2],
        sigma_max: ends[0],
    };
    let start = references.states("start") * ends[0];
    let got = end("{heun: {steps: 12, denoise_to_zero: true}}", path, &start);
    references.assert_close("heun_karras", &got, 1e-5);
}

/// All samplers end at σ = 0, and Euler also begins at α = 0.
#[test]
fn samplers_match_diffusers_on_flow_matching() {
    let mut references = DiffusersReferences::open();
    let start = references.states("start");
    let flow = |t_max| ProbabilityPath::FlowMatching {
        data_at: 0,
        t_min: 0.0,
        t_max,
    };
    for sampler in ["euler", "ddim"] {
        references.assert_close(
            "euler_flow",
            &end(&format!("{{{sampler}: {{steps: 10}}}}"), flow(1.0), &start),
            1e-5,
        );
    }
    let times = references.times("2m_flow_times.f64");
    for (name, sampler) in [("2m_flow", "dpmpp-2m"), ("3m_flow", "dpmpp-3m")] {
        references.assert_close(
            name,
            &end(
                &format!("{{{sampler}: {{steps: 10}}}}"),
                flow(times[0]),
                &start,
            ),
            1e-5,
        );
    }
    // Their UniPC omits the last of its equal steps, a grid that no schedule of ours gives.
    let mut model = mixture(flow(1.0));
    let times = references.times("unipc3bh2_flow_times.f64");
    let points: Vec<PathPoint> = times
        .iter()
        .map(|t| PathPoint::at_time(&model.curve, *t))
        .collect();
    let Sampler::UniPc(unipc) = sampler_from_yaml("{unipc: {variant: bh2}}") else {
        unreachable!()
    };
    let got = integrate_between(&unipc, &points, &mut model, start);
    references.assert_close("unipc3bh2_flow", &got, 1e-5);
}
