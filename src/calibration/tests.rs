//! Tests of calibration on Gaussian posteriors whose draws are known, and against the package `sbi`.

use std::fs::File;

use ndarray::{Array1, Array2, Array3, Axis, Ix0, OwnedRepr};
use ndarray_npy::NpzReader;

use super::tarp::rank_by_distance;
use super::*;
use crate::num::rank_tests::RankSample;
use crate::num::tails::kolmogorov_tail;

/// Observations x = θ + noise of θ ~ N(0, I), and draws of the Gaussian posterior with its standard
/// deviations times `width` and its means moved by `shift` of them.
#[derive(Clone, Copy)]
struct GaussianPosterior {
    dim: usize,
    observations: usize,
    draws: usize,
    width: f64,
    shift: f64,
}

impl GaussianPosterior {
    /// The ranks of every test in one repetition, as groups.
    fn groups(&self, test: &CalibrationTest, repetition: u64) -> Vec<RankGroup> {
        let key = RngKey { seed: repetition };
        let noise = 0.7f64;
        let gain = 1.0 / (1.0 + noise * noise);
        let deviation = noise * gain.sqrt();
        let normal = |index: SampleId, probe: u64, rows: usize| {
            let numbers = key.normal(Purpose::Check, index, probe, rows * self.dim);
            numbers
                .into_shape_with_order((rows, self.dim))
                .expect("rows × dim numbers")
        };
        let all = self.observations as SampleId;
        let mut truths = Array2::zeros((self.observations, self.dim));
        for (index, mut row) in (0..all).zip(truths.axis_iter_mut(Axis(0))) {
            row.assign(&normal(index, 0, 1).row(0));
        }
        let parameters = ParameterBox::of(truths.view());
        let observed_of = |index: SampleId| {
            &truths.row(index as usize) + &(normal(index, 1, 1).row(0).to_owned() * noise)
        };
        let draws_of = |index: SampleId| {
            let standard = normal(index, 2, self.draws) * self.width + self.shift;
            standard * deviation + &(observed_of(index) * gain)
        };
        let classifiers = test.needs_classifiers().then(|| {
            let mut observed = Array2::zeros(truths.raw_dim());
            let mut firsts = Array2::zeros(truths.raw_dim());
            for index in 0..all {
                observed.row_mut(index as usize).assign(&observed_of(index));
                firsts
                    .row_mut(index as usize)
                    .assign(&draws_of(index).row(0));
            }
            let pairs = local_c2st::TrainingPairs {
                truths: truths.view(),
                draws: firsts.view(),
                observed: observed.view(),
            };
            LocalClassifiers::train(&pairs, self.draws, key)
        });
        let mut found: Vec<Vec<ObservationRank>> = Vec::new();
        for index in 0..all {
            let truth = truths.row(index as usize);
            let observed = observed_of(index);
            let mean = &observed * gain;
            let draws = draws_of(index);
            let density = |row: ArrayView1<f64>| {
                let gap = (&row - &mean) / (deviation * self.width) - self.shift / self.width;
                Some(-0.5 * gap.dot(&gap))
            };
            let densities = DrawDensities {
                truth: density(truth),
                stderr: None,
                draws: draws.rows().into_iter().map(density).collect(),
                status: Status::Ok,
            };
            found.push(test.ranks(&Observation {
                index,
                truth,
                draws: draws.view(),
                densities: Some(&densities),
                classifiers: classifiers.as_ref().map(|found| (found, observed.view())),
                parameters: &parameters,
                key,
            }));
        }
        group_ranks(&found, self.draws)
    }

    /// The statistics of one repetition.
    fn statistics(&self, test: &CalibrationTest, repetition: u64) -> Vec<CalibrationStatistic> {
        let key = RngKey { seed: repetition };
        test.statistics(&self.groups(test, repetition), key)
    }
}

/// The ranks of observations as groups, one for each parameter.
fn group_ranks(found: &[Vec<ObservationRank>], draws: usize) -> Vec<RankGroup> {
    (0..found[0].len())
        .map(|place| {
            let ranks = found.iter().filter_map(|ranks| ranks[place].rank).collect();
            let values = found
                .iter()
                .filter_map(|ranks| ranks[place].value)
                .collect();
            let parameter = found[0][place].parameter;
            RankGroup::new(parameter, ranks, draws, 0, values).expect("ranks")
        })
        .collect()
}

/// The largest share by which the empirical distribution of p-values lies above and below the line.
fn p_value_excess(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    let sides = values.iter().enumerate();
    sides.fold([0.0, 0.0], |[above, below], (i, p)| {
        [
            f64::max(above, (i + 1) as f64 / n - p),
            f64::max(below, p - i as f64 / n),
        ]
    })
}

#[test]
fn p_values_of_an_exact_posterior_are_uniform() {
    const REPETITIONS: u64 = 200;
    let posterior = GaussianPosterior {
        dim: 2,
        observations: 200,
        draws: 99,
        width: 1.0,
        shift: 0.0,
    };
    // One Kolmogorov distance of this size or more in a thousand.
    let limit = 1.95 / (REPETITIONS as f64).sqrt();
    // Observations under classifiers are dependent; these have tests of their own.
    let independent = CalibrationTest::defaults().into_iter();
    for test in independent.filter(|test| !test.needs_classifiers()) {
        let mut p_values: std::collections::BTreeMap<(String, &str, String), Vec<f64>> =
            Default::default();
        for repetition in 0..REPETITIONS {
            for row in posterior.statistics(&test, repetition) {
                let Some(p) = row.p else { continue };
                let level = row.level.map(|l| format!("{l:.2}")).unwrap_or_default();
                p_values
                    .entry((row.parameter, row.statistic, level))
                    .or_default()
                    .push(p);
            }
        }
        assert!(p_values.values().all(|p| p.len() == REPETITIONS as usize));
        for ((parameter, statistic, level), values) in p_values {
            let [above, below] = p_value_excess(values);
            println!(
                "{} {parameter} {statistic} {level}: {above:.3} {below:.3}",
                test.label()
            );
            assert!(
                above < limit,
                "{} {parameter} {statistic} {level}: {above}",
                test.label()
            );
            // A corrected p-value and the binomial ones of points of a curve are at most too large.
            let exact = parameter != "all" && statistic != "coverage";
            assert!(
                !exact || below < limit,
                "{} {parameter} {statistic}: {below}",
                test.label()
            );
        }
    }
}

#[test]
fn draws_that_are_too_narrow_are_rejected() {
    const REPETITIONS: u64 = 40;
    let narrow = GaussianPosterior {
        dim: 4,
        observations: 500,
        draws: 199,
        width: 0.9,
        shift: 0.0,
    };
    for (name, statistics) in [
        (
            "coverage",
            &[
                ("", "ecdf", 0.95),
                ("", "chi-square", 0.9),
                ("", "location", 0.95),
            ][..],
        ),
        (
            "sbc",
            &[
                ("all", "dispersion", 0.9),
                ("all", "ecdf", 0.5),
                ("all", "chi-square", 0.5),
            ],
        ),
        (
            "tarp",
            &[
                ("", "dispersion", 0.75),
                ("", "ecdf", 0.3),
                ("", "area", 0.25),
            ],
        ),
    ] {
        let test = CalibrationTest::from_name(name).expect(name);
        let repetitions: Vec<Vec<CalibrationStatistic>> = (0..REPETITIONS)
            .map(|repetition| narrow.statistics(&test, repetition))
            .collect();
        for (parameter, statistic, least) in statistics {
            let p = |rows: &Vec<CalibrationStatistic>| {
                let same = |row: &&CalibrationStatistic| {
                    row.statistic == *statistic && row.parameter == *parameter
                };
                rows.iter()
                    .find(same)
                    .and_then(|row| row.p)
                    .expect("a p-value")
            };
            let rejected = repetitions.iter().filter(|rows| p(rows) < 0.05).count();
            let share = rejected as f64 / REPETITIONS as f64;
            println!("{name} {parameter} {statistic}: {share}");
            assert!(share >= *least, "{name} {parameter} {statistic}: {share}");
        }
    }
    // The sign says in which way draws are wrong.
    let value = |posterior: GaussianPosterior, name: &str, statistic: &str| {
        let test = CalibrationTest::from_name(name).expect(name);
        let rows = posterior.statistics(&test, 1);
        let row = rows.iter().find(|row| row.statistic == statistic);
        row.and_then(|row| row.value).expect("a value")
    };
    let wide = GaussianPosterior {
        width: 1.2,
        ..narrow
    };
    let high = GaussianPosterior {
        width: 1.0,
        shift: 0.3,
        ..narrow
    };
    assert!(value(narrow, "sbc", "dispersion") > 0.0 && value(wide, "sbc", "dispersion") < 0.0);
    assert!(
        value(narrow, "coverage", "location") > 0.0 && value(wide, "coverage", "location") < 0.0
    );
    assert!(value(high, "sbc", "location") < 0.0 && value(high, "coverage", "location") > 0.0);
}

#[test]
fn intervals_of_curves_cover_the_diagonal() {
    const REPETITIONS: u64 = 200;
    let posterior = GaussianPosterior {
        dim: 1,
        observations: 150,
        draws: 99,
        width: 1.0,
        shift: 0.0,
    };
    for name in ["coverage", "tarp"] {
        let test = CalibrationTest::from_name(name).expect(name);
        let (mut inside, mut all, mut z) = (0, 0, Vec::new());
        for repetition in 0..REPETITIONS {
            for row in posterior.statistics(&test, repetition) {
                let Some(level) = row.level.filter(|l| (0.15..0.85).contains(l)) else {
                    continue;
                };
                let [low, high] = row.interval.expect("an interval");
                all += 1;
                inside += usize::from((low..=high).contains(&level));
                let gap = row.value.expect("a share") - level;
                z.push((gap / row.stderr.expect("an error")).powi(2));
            }
        }
        let share = inside as f64 / all as f64;
        let calibration = (z.iter().sum::<f64>() / z.len() as f64).sqrt();
        println!("{name}: {share:.3} {calibration:.3}");
        // Clopper and Pearson's intervals cover at least 95 %, and resampling about as many.
        assert!((0.92..0.985).contains(&share), "{name}: {share}");
        assert!((0.9..1.1).contains(&calibration), "{name}: {calibration}");
    }
}

#[test]
fn equal_draws_share_their_ranks_at_random() {
    // Two values, so that nearly every draw is equal to the true one.
    let key = RngKey { seed: 5 };
    let coin = |index, probe, n| {
        let uniform = key.uniform(Purpose::Check, index, probe, n);
        uniform.mapv(|u| f64::from(u8::from(u < 0.5)))
    };
    let parameters = ParameterBox {
        low: vec![0.0],
        high: vec![1.0],
    };
    let test = CalibrationTest::from_name("sbc").expect("sbc");
    let found: Vec<Vec<ObservationRank>> = (0..2000)
        .map(|index| {
            let (truth, draws) = (coin(index, 0, 1), coin(index, 1, 9));
            let draws = draws.into_shape_with_order((9, 1)).expect("9 draws");
            test.ranks(&Observation {
                index,
                truth: truth.view(),
                draws: draws.view(),
                densities: None,
                classifiers: None,
                parameters: &parameters,
                key,
            })
        })
        .collect();
    assert!(found.iter().filter(|ranks| ranks[0].ties > 0).count() > 1900);
    let groups = group_ranks(&found, 9);
    let p = groups[0]
        .sample
        .as_ref()
        .expect("ranks")
        .chi_square(Some(10))
        .p;
    assert!(p > 1e-3, "{p}");
}

#[test]
fn draws_that_are_not_finite_give_no_rank() {
    let key = RngKey { seed: 1 };
    let parameters = ParameterBox {
        low: vec![0.0, 0.0],
        high: vec![1.0, 1.0],
    };
    let draws = ndarray::array![[0.1, f64::NAN], [0.2, 0.3]];
    let densities = DrawDensities {
        truth: Some(-1.0),
        stderr: Some(0.1),
        draws: vec![Some(-2.0), None],
        status: Status::MaxSteps,
    };
    let truth = ndarray::array![0.15, 0.5];
    let observation = Observation {
        index: 0,
        truth: truth.view(),
        draws: draws.view(),
        densities: Some(&densities),
        classifiers: None,
        parameters: &parameters,
        key,
    };
    let ranks = |name: &str| {
        let test = CalibrationTest::from_name(name).expect(name);
        let found = test.ranks(&observation).into_iter();
        found.map(|r| (r.rank, r.status)).collect::<Vec<_>>()
    };
    assert_eq!(
        ranks("sbc"),
        [(Some(1), Status::Ok), (None, Status::NonFinite)]
    );
    assert_eq!(ranks("tarp"), [(None, Status::NonFinite)]);
    assert_eq!(ranks("coverage"), [(None, Status::MaxSteps)]);
    assert_eq!(ranks("local-c2st"), [(None, Status::NonFinite)]);
    // Without any rank there is a row that counts the failures, and no number.
    for test in CalibrationTest::defaults() {
        let group = RankGroup::new(None, Vec::new(), 2, 3, Vec::new()).expect("no ranks");
        let rows = test.statistics(&[group], key);
        for row in &rows {
            assert_eq!((row.n, row.failed, row.value, row.p), (0, 3, None, None));
            let first = if test.needs_classifiers() {
                "rejected"
            } else {
                "ecdf"
            };
            assert_eq!(row.statistic, first, "{}", test.name());
        }
        assert!(!rows.is_empty(), "{}", test.name());
    }
}

#[test]
fn parameters_of_tests_are_heeded() {
    let posterior = GaussianPosterior {
        dim: 1,
        observations: 100,
        draws: 19,
        width: 1.0,
        shift: 0.0,
    };
    let key = RngKey { seed: 1 };
    let mut changed: Vec<&str> = Vec::new();
    for text in [
        "{sbc: {bins: 4}}",
        "{tarp: {resamples: 200, bins: 4}}",
        "{coverage: {bins: 4}}",
    ] {
        let test: CalibrationTest = crate::yaml::from_yaml_str(text).expect(text);
        assert!(test.label().contains("bins=4"), "{}", test.label());
        changed.push(test.name());
        let groups = posterior.groups(&test, 1);
        let rows = test.statistics(&groups, key);
        let default = CalibrationTest::from_name(test.name()).expect("a test");
        let plain = default.statistics(&groups, key);
        let row = |rows: &[CalibrationStatistic], name: &str| {
            let found = rows.iter().find(|row| row.statistic == name);
            found.cloned().expect(name)
        };
        let ranks = groups[0].sample.clone().expect("ranks");
        let ranks = match test.needs_density() {
            true => ranks.reversed(),
            false => ranks,
        };
        assert_eq!(
            row(&rows, "chi-square").value,
            Some(ranks.chi_square(Some(4)).value)
        );
        assert_ne!(
            row(&rows, "chi-square").value,
            row(&plain, "chi-square").value
        );
        if test.name() == "tarp" {
            assert_ne!(row(&rows, "area").stderr, row(&plain, "area").stderr);
        }
        assert!(test.check(19).is_ok() && test.check(2).is_err());
    }
    // The last one has no parameters.
    assert_eq!(
        [&changed[..], &["local-c2st"]].concat(),
        CalibrationTest::NAMES
    );
}

#[test]
fn every_statistic_is_explained() {
    let posterior = GaussianPosterior {
        dim: 2,
        observations: 30,
        draws: 20,
        width: 1.0,
        shift: 0.0,
    };
    let mut found: Vec<&str> = Vec::new();
    for test in CalibrationTest::defaults() {
        found.extend(
            posterior
                .statistics(&test, 0)
                .iter()
                .map(|row| row.statistic),
        );
    }
    assert!(
        found
            .iter()
            .all(|name| STATISTICS.iter().any(|s| s.0 == *name))
    );
    assert!(STATISTICS.iter().all(|s| found.contains(&s.0)));
}

/// The arrays of `scripts/calibration_references.py`.
struct SbiReferences(NpzReader<File>);

impl SbiReferences {
    fn open() -> SbiReferences {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/data/calibration/sbi.npz"
        );
        SbiReferences(NpzReader::new(File::open(path).expect(path)).expect("an archive"))
    }

    fn array<D: ndarray::Dimension>(&mut self, name: &str) -> ndarray::Array<f64, D> {
        self.0
            .by_name::<OwnedRepr<f64>, D>(name)
            .unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

#[test]
fn ranks_p_values_and_curves_are_those_of_sbi() {
    let mut sbi = SbiReferences::open();
    let theta: Array2<f64> = sbi.array("theta");
    let draws: Array3<f64> = sbi.array("draws");
    let references: Array2<f64> = sbi.array("references");
    let log_prob: Array1<f64> = sbi.array("log_prob");
    let draw_log_prob: Array2<f64> = sbi.array("draw_log_prob");
    let ranks: Array2<f64> = sbi.array("ranks");
    let coverage_ranks: Array1<f64> = sbi.array("coverage_ranks");
    let parameters = ParameterBox::of(theta.view());
    let count = draws.len_of(Axis(0));
    let [sbc, coverage] =
        ["sbc", "coverage"].map(|name| CalibrationTest::from_name(name).expect(name));
    let (mut ties, mut credibilities) = (0, Vec::new());
    for (i, truth) in theta.rows().into_iter().enumerate() {
        let drawn = draws.index_axis(Axis(1), i);
        let densities = DrawDensities {
            truth: Some(log_prob[i]),
            stderr: None,
            draws: draw_log_prob.column(i).iter().copied().map(Some).collect(),
            status: Status::Ok,
        };
        let observation = Observation {
            index: i as SampleId,
            truth,
            draws: drawn,
            densities: Some(&densities),
            classifiers: None,
            parameters: &parameters,
            key: RngKey { seed: 1 },
        };
        for found in sbc.ranks(&observation) {
            let known = ranks[[i, found.parameter.expect("a parameter")]] as usize;
            let rank = found.rank.expect("a rank");
            // sbi gives equal draws the lowest of their ranks.
            assert!(
                (known..=known + found.ties).contains(&rank),
                "{found:?} {known}"
            );
            ties += found.ties;
        }
        let found = coverage.ranks(&observation).remove(0);
        assert_eq!(found.rank, Some(coverage_ranks[i] as usize), "{i}");
        let reference = references.row(i).to_vec();
        let found = rank_by_distance(&observation, &reference);
        credibilities.push(found.rank.expect("a rank") as f64 / count as f64);
    }
    assert_eq!(ties, 5);
    let ks_p: Array1<f64> = sbi.array("ks_p");
    let coverage_p: Array1<f64> = sbi.array("coverage_ks_p");
    let columns = ranks.columns().into_iter().zip(&ks_p);
    for (ranks, known) in columns.chain([(coverage_ranks.view(), &coverage_p[0])]) {
        let ranks = ranks.iter().map(|rank| *rank as usize).collect();
        let found = RankSample::new(ranks, count).expect("ranks").kolmogorov();
        assert!((found.p - known).abs() < 1e-12, "{found:?} {known}");
    }
    // sbi's curve is a histogram of the credibilities from the smallest to the largest.
    let (ecp, alpha): (Array1<f64>, Array1<f64>) = (sbi.array("ecp"), sbi.array("alpha"));
    let area = sbi.array::<Ix0>("area").into_scalar();
    let ends = credibilities
        .iter()
        .fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], c| {
            [low.min(*c), high.max(*c)]
        });
    let last = alpha.len() - 1;
    let edge = |k: usize| ends[0] + (ends[1] - ends[0]) * k as f64 / last as f64;
    let below = |k: usize| match k == last {
        true => 1.0,
        false => {
            let inside = credibilities
                .iter()
                .filter(|c| **c < edge(k) - 1e-12)
                .count();
            inside as f64 / credibilities.len() as f64
        }
    };
    for k in 0..=last {
        assert!((alpha[k] - edge(k)).abs() < 1e-12, "{k}: {}", alpha[k]);
        assert!(
            (ecp[k] - below(k)).abs() < 1e-12,
            "{k}: {} {}",
            ecp[k],
            below(k)
        );
    }
    let gaps = (alpha.len() / 2..alpha.len()).map(|k| (below(k) - edge(k)) * (edge(1) - edge(0)));
    assert!((gaps.sum::<f64>() - area).abs() < 1e-12, "{area}");
    // The tail of Kolmogorov's distribution is used above.
    assert!(kolmogorov_tail(100, 0.1) < 1.0);
}
