//! Tests of the whole report: the figures and sentences that it shows, the escaping of texts from
//! users, and unusual tables.

use super::*;
use crate::rows::{
    BoundKind, BudgetRow, CalibrationRow, ConventionRow, DensityRow, EstimateKind, FrontierRow,
    Gallery, MassRow, MetricRow, PairRow, ProfileRow, RankRow, ReweightRow, SampleLikelihoodRow,
    Status, SteinRow, StepRow, SummaryRow, WeightRow,
};

const ESTIMATORS: [(&str, EstimateKind); 3] = [
    ("exact", EstimateKind::OdeExact),
    ("hutchinson-8", EstimateKind::OdeStochastic),
    ("stad", EstimateKind::Learned),
];

/// Small tables with every kind of row. All names are passed through `name`.
fn tables(samples: usize, name: impl Fn(&str) -> String) -> Tables {
    let key = || (name("moons"), name("test.npy"), name("heun"));
    let mut tables = Tables::default();
    for (e, (estimator, kind)) in ESTIMATORS.iter().enumerate() {
        let shift = 0.1 * e as f64;
        let (model, dataset, solver) = key();
        tables.summary.push(SummaryRow {
            model,
            dataset,
            estimator: name(estimator),
            solver,
            kind: *kind,
            n: samples,
            failed: 0,
            bits_per_dim: Some(2.5 + shift),
            bits_per_dim_stderr: (samples > 1).then_some(0.02),
            nats: Some(-3.5 - shift),
            nats_stderr: (samples > 1).then_some(0.1),
            nats_per_dim: Some(1.7),
            probe_stderr: None,
            reference: name("exact"),
            reference_solver: name("heun"),
            bias: Some(-shift),
            bias_stderr: (samples > 1).then_some(0.03),
            rmse: Some(shift),
            correlation: (samples > 1).then_some(0.98),
            rank_correlation: (samples > 1).then_some(0.97),
            calibration: None,
            evaluations: 40.0,
            jvps: if e == 2 { 0.0 } else { 80.0 },
            head_calls: 0.0,
            cost: 120.0 / (1.0 + e as f64),
            seconds_per_sample: 0.01,
            bound: BoundKind::Elbo,
            draws: 1,
            bias_n: Some(samples),
            solver_bias: Some(-0.02),
            ..SummaryRow::default()
        });
        tables
            .samples
            .extend((0..samples).map(|i| sample(key(), name(estimator), i, shift)));
        tables
            .profile
            .extend((0..samples * 4).map(|i| node(key(), name(estimator), i, shift)));
        tables.density.extend((0..30).map(|i| DensityRow {
            model: name("moons"),
            estimator: name(estimator),
            x: f64::from(i % 6),
            y: f64::from(i / 6),
            log_density: (i != 7).then_some(-f64::from(i) / 3.0 - shift),
        }));
    }
    let weight = |i: usize| WeightRow {
        model: name("moons"),
        sampler: name("heun"),
        estimator: name("exact"),
        target: name("energy.onnx"),
        sample: i,
        status: Status::Ok,
        log_likelihood: Some(-2.0 - 0.1 * i as f64),
        stderr: None,
        energy: Some(1.5 * i as f64),
        log_weight: Some(2.0 - 1.4 * i as f64),
        observables: String::new(),
        evaluations: 18,
        jvps: 36,
    };
    tables.weights.extend((0..samples).map(weight));
    tables.reweight.extend(
        [
            ("ess", 0.4),
            ("log_z", -1.2),
            ("khat", 0.8),
            ("mean_radius", 1.1),
        ]
        .map(|(quantity, value)| ReweightRow {
            model: name("moons"),
            sampler: name("heun"),
            estimator: name("exact"),
            target: name("energy.onnx"),
            quantity: quantity.into(),
            value,
            stderr: Some(0.1),
            low: None,
            high: Some(value + 0.2),
            n: samples,
            failed: 1,
        }),
    );
    for (estimator, kind) in ESTIMATORS {
        let (model, dataset, solver) = key();
        tables.mass.push(MassRow {
            model: model.clone(),
            dataset: dataset.clone(),
            estimator: name(estimator),
            solver: solver.clone(),
            mass: 1.3,
            stderr: Some(0.02),
            low: Some(1.26),
            high: Some(1.35),
            khat: Some(0.2),
            ess: 0.3,
            noise_variance: None,
            n: samples,
            failed: 0,
        });
        tables
            .conventions
            .extend([None, Some("presumes 256 levels")].map(|reason| {
                ConventionRow {
                    model: model.clone(),
                    dataset: dataset.clone(),
                    estimator: name(estimator),
                    solver: solver.clone(),
                    kind,
                    bound: BoundKind::Elbo,
                    convention: if reason.is_some() {
                        "score_sde"
                    } else {
                        "nats"
                    }
                    .into(),
                    unit: "nats".into(),
                    n: samples,
                    value: reason.is_none().then_some(-3.5),
                    stderr: (samples > 1).then_some(0.1),
                    scale: Some(1.0),
                    offset: Some(0.0),
                    reason: name(reason.unwrap_or("")),
                    formula: "log p".into(),
                    source: name("a source"),
                    protocol: String::new(),
                }
            }));
        tables.budget.extend(
            ["data", "probe", "solver", "total"].map(|component| BudgetRow {
                model: model.clone(),
                dataset: dataset.clone(),
                estimator: name(estimator),
                solver: solver.clone(),
                component: component.into(),
                n: samples,
                sample_nats: Some(0.4),
                mean_nats: (component != "probe").then_some(0.02),
                share: Some(0.3),
                bias_nats: (component == "solver").then_some(-0.02),
                bias_stderr: None,
                sample_bits_per_dim: Some(0.1),
                mean_bits_per_dim: Some(0.01),
                bias_bits_per_dim: None,
                observed_order: (component == "solver").then_some(1.9),
                knob: "more of it".into(),
                measured: name("somehow"),
            }),
        );
        tables
            .frontier
            .extend(["sample", "mean"].map(|scope| FrontierRow {
                model: model.clone(),
                dataset: dataset.clone(),
                solver: solver.clone(),
                estimator: name(estimator),
                kind,
                scope: scope.into(),
                target: 0.1,
                unit: "nats".into(),
                n: samples,
                error: Some(0.2),
                basis: "1/K".into(),
                averages: "probes".into(),
                needed: Some(32.0),
                jvps: (kind != EstimateKind::Learned).then_some(320.0),
                head_calls: Some(0.0),
                fewest_jvps: kind == EstimateKind::OdeExact,
                seconds: Some(0.1),
                least_seconds: kind == EstimateKind::Learned,
                variance_jvps: Some(3.0),
                variance_seconds: Some(0.01),
            }));
    }
    let (model, dataset, solver) = key();
    let (estimator, other) = (name("stad"), name("exact"));
    let (difference, low, high) = (-0.2, -0.26, -0.14);
    tables.pairs.push(PairRow {
        model,
        dataset,
        solver,
        estimator,
        other,
        n: samples,
        difference,
        difference_stderr: 0.03,
        low,
        high,
    });
    tables
        .metrics
        .extend([name("heun"), "data".into()].map(|sampler| MetricRow {
            model: name("moons"),
            sampler,
            metric: name("frechet"),
            value: 1.5,
            stderr: Some(0.2),
            n_generated: 100,
            n_reference: 100,
            evaluations: 35.0,
            jvps: 0.0,
            cost: 35.0,
            features: name("raw"),
            note: name("few samples"),
            trajectory: None,
            guidance: String::new(),
        }));
    tables
        .steps
        .extend((0..10).map(|i| step(name("moons"), name("steindiff(heun)"), i)));
    let test = |function: &str, z: Option<f64>| SteinRow {
        model: name("moons"),
        dataset: name("test.npy"),
        head: name("stad"),
        from: 0.0,
        to: 1.0,
        function: function.to_owned(),
        n: 2000,
        mean: Some(0.5),
        stderr: Some(0.1),
        z,
        p: z.map(|_| 1e-5),
        bits_per_dim: Some(-0.36),
        bits_per_dim_stderr: Some(0.07),
    };
    tables.stein.extend([
        test("1", Some(0.5)),
        test("x[0]", Some(-5.0)),
        test("bias", None),
    ]);
    let calibration = |test: &str, parameter: &str, statistic: &str, level| CalibrationRow {
        model: name("moons"),
        dataset: name("theta.npy"),
        sampler: name("heun"),
        test: name(test),
        parameter: parameter.into(),
        statistic: statistic.into(),
        level,
        n: samples,
        draws: 9,
        value: Some(0.4),
        stderr: Some(0.05),
        low: Some(0.3),
        high: Some(0.5),
        p: Some(0.01),
        ..CalibrationRow::default()
    };
    tables.calibration.extend([
        calibration("sbc", "0", "ecdf", None),
        calibration("sbc", "all", "dispersion", None),
        calibration("tarp", "", "coverage", Some(0.5)),
        calibration("tarp", "", "area", None),
        calibration("local-c2st", "", "rejected", None),
    ]);
    tables.ranks.extend((0..samples).map(|i| RankRow {
        model: name("moons"),
        dataset: name("theta.npy"),
        sampler: name("heun"),
        test: name("sbc"),
        parameter: Some(0),
        sample: i,
        draws: 9,
        rank: Some(i % 10),
        value: Some(0.1),
        ..RankRow::default()
    }));
    let points = |n: usize| {
        (0..n)
            .map(|i| vec![(i as f64).sin(), (i as f64).cos()])
            .collect()
    };
    tables.galleries.push(Gallery {
        model: name("moons"),
        sampler: name("heun"),
        shape: vec![2],
        range: [-1.0, 1.0],
        generated: points(samples),
        real: points(samples),
    });
    tables
}

fn step(model: String, sampler: String, i: usize) -> StepRow {
    let sigma = 1.0 / (1 + i % 5) as f64;
    StepRow {
        model,
        sampler,
        inner: "heun".into(),
        mode: "clipped".into(),
        population: (i / 5) as u64,
        n: 100,
        step: i % 5,
        t: sigma,
        alpha: 1.0,
        sigma,
        t_next: sigma / 2.0,
        alpha_next: 1.0,
        sigma_next: sigma / 2.0,
        gamma: 0.9,
        gamma_raw: Some(0.5 + 0.3 * i as f64),
        gamma_probe_stderr: None,
        gamma_stderr: Some(0.02),
        action: "applied".into(),
        divergence: "jacobian".into(),
        s_xu: Some(1.0),
        s_uu: Some(1.0),
        s_div: Some(1.0),
        coupling: Some(1.1),
        blend: None,
        lipschitz: Some(1.5),
        lipschitz_stderr: Some(0.1),
        lipschitz_max: Some(2.0),
        lipschitz_residual: Some(0.01),
        evaluations: 2,
        jvps: 10,
    }
}

fn sample(
    (model, dataset, solver): (String, String, String),
    estimator: String,
    i: usize,
    shift: f64,
) -> SampleLikelihoodRow {
    let log_likelihood = -3.5 - shift + (i as f64 * 0.7).sin();
    SampleLikelihoodRow {
        model,
        dataset,
        estimator,
        solver,
        sample: i,
        log_likelihood: Some(log_likelihood),
        prior_log_density: Some(-2.0),
        divergence_integral: Some(log_likelihood + 2.0),
        bits_per_dim: Some(2.5 - log_likelihood / 10.0),
        nats_per_dim: Some(-log_likelihood / 2.0),
        evaluations: 40,
        jvps: 80,
        status: Status::Ok,
        bound: BoundKind::Elbo,
        ..SampleLikelihoodRow::default()
    }
}

fn node(
    (model, dataset, solver): (String, String, String),
    estimator: String,
    i: usize,
    shift: f64,
) -> ProfileRow {
    let t = (i % 4) as f64 / 4.0;
    let (sample, half_log_snr) = (i / 4, ((1.0 - t) / t).ln());
    ProfileRow {
        model,
        dataset,
        solver,
        estimator,
        sample,
        t,
        half_log_snr,
        divergence: t - shift,
    }
}

fn facts(name: impl Fn(&str) -> String) -> Facts {
    let pairs = || vec![(name("key"), name("value"))];
    Facts {
        name: name("run"),
        seed: "7".into(),
        models: vec![ModelFacts {
            extra_inputs: vec![("network.constants.label".into(), "3".into())],
            name: name("moons"),
            dim: 2,
            path: name("edm"),
            prediction: name("denoised"),
            prior: name("N(0, 1)"),
            truncation: name("from t = 0 to t = 1"),
            parameters: 12_345,
            files: pairs(),
            convention: name("none"),
            provenance: pairs(),
        }],
        data: vec![DataFacts {
            model: name("moons"),
            file: name("test.npy"),
            sha256: name("c0ffee"),
            samples: 12,
            preprocessing: name("as they are"),
        }],
        trials_finished: 3,
        trials_failed: pairs(),
        trials_outstanding: 2,
        environment: pairs(),
        config: name("name: run\nseed: 7"),
    }
}

fn plain(text: &str) -> String {
    text.into()
}

fn names(report: &Report) -> Vec<&str> {
    report
        .figures
        .iter()
        .map(|figure| figure.name.as_str())
        .collect()
}

#[test]
fn every_kind_of_row_has_its_figure() {
    let report = build_report(&tables(12, plain), &facts(plain)).unwrap();
    let all = [
        "bias-moons",
        "frontier-moons",
        "budget-moons",
        "scatter-moons",
        "divergence-moons",
        "histogram-moons",
        "density-moons",
        "gallery-moons-heun",
        "gamma-moons-heun-clipped",
        "metrics-moons",
        "weights-moons",
        "calibration-moons",
    ];
    assert_eq!(names(&report), all);
    for figure in &report.figures {
        assert!(
            report
                .html
                .contains(&format!("<figure class=\"plot\" id=\"{}\"", figure.name))
        );
        assert!(figure.png.starts_with(b"\x89PNG") && !figure.caption.is_empty());
    }
}

#[test]
fn figure_is_omitted_without_its_columns() {
    let full = || tables(6, plain);
    let cases: [(&str, Tables); 10] = [
        (
            "scatter-moons histogram-moons",
            Tables {
                samples: vec![],
                ..full()
            },
        ),
        (
            "budget-moons",
            Tables {
                budget: vec![],
                ..full()
            },
        ),
        (
            "divergence-moons",
            Tables {
                profile: vec![],
                ..full()
            },
        ),
        (
            "density-moons",
            Tables {
                density: vec![],
                ..full()
            },
        ),
        (
            "gallery-moons-heun",
            Tables {
                galleries: vec![],
                ..full()
            },
        ),
        (
            "calibration-moons",
            Tables {
                calibration: vec![],
                ..full()
            },
        ),
        (
            "metrics-moons",
            Tables {
                metrics: vec![],
                ..full()
            },
        ),
        (
            "weights-moons",
            Tables {
                weights: vec![],
                ..full()
            },
        ),
        (
            "gamma-moons-heun-clipped",
            Tables {
                steps: vec![],
                ..full()
            },
        ),
        ("bias-moons frontier-moons scatter-moons", {
            let mut tables = tables(5, plain);
            tables.summary.retain(|row| row.estimator == "exact");
            tables.samples.retain(|row| row.estimator == "exact");
            tables
        }),
    ];
    for (gone, tables) in cases {
        let report = build_report(&tables, &facts(plain)).unwrap();
        let names = names(&report);
        assert!(
            gone.split(' ').all(|name| !names.contains(&name)),
            "{gone}: {names:?}"
        );
        assert_eq!(names.len(), 12 - gone.split(' ').count());
    }
}

/// Bounds and densities are never in one column.
#[test]
fn variational_bounds_have_a_table_of_their_own() {
    let count = |tables: &Tables| {
        let html = build_report(tables, &facts(plain)).unwrap().html;
        (
            html.matches("data-name=\"log-likelihoods").count()
                + html.matches("data-name=\"variational-bounds").count(),
            html.contains("Variational bounds"),
        )
    };
    let mut tables = tables(6, plain);
    let (before, named) = count(&tables);
    assert!(before > 0 && !named);
    let other = tables
        .summary
        .iter_mut()
        .find(|row| row.estimator != "exact");
    other.expect("an estimator").kind = EstimateKind::Elbo;
    assert_eq!(count(&tables), (before + 1, true));
}

/// The first thing that the page says of a model is one sentence with its number, its error and its unit.
#[test]
fn every_model_has_its_sentence() {
    let html = build_report(&tables(12, plain), &facts(plain))
        .unwrap()
        .html;
    let sentence = html
        .split("<p class=\"verdict\">")
        .nth(1)
        .and_then(|rest| rest.split("</p>").next())
        .expect("a sentence");
    for part in [
        "<b>moons</b> has <b>",
        "\u{a0}±\u{a0}",
        "right to about <b>",
    ] {
        assert!(sentence.contains(part), "{part}: {sentence}");
    }
    assert!(html.find("id=\"verdict\"") < html.find("id=\"summary\""));
}

/// Every number of a table of results stands in its cell in full, and no link leads out of the page.
#[test]
fn tables_carry_their_numbers_and_links_stay_inside() {
    let html = build_report(&tables(12, plain), &facts(plain))
        .unwrap()
        .html;
    let bodies = html.split("<table class=\"data\"").skip(1);
    let mut cells = 0;
    for body in bodies.filter_map(|rest| rest.split("</table>").next()) {
        for cell in body.split("<td class=\"n").skip(1) {
            let text = cell.split("</td>").next().expect("a cell");
            cells += 1;
            assert!(text.contains("data-v=") || text.ends_with(">–"), "{text}");
        }
    }
    assert!(cells > 50, "{cells}");
    for link in html.split("href=\"").skip(1) {
        let target = link.split('"').next().expect("a target");
        let inside = target.starts_with('#') || target.starts_with("data:");
        let packed = html.contains(&format!("\"{target}\":\"H4sI"));
        assert!(inside || packed, "{target}");
    }
}

/// Figures for papers have no title, the asked width, and letters that stay letters.
#[test]
fn figures_for_papers_are_as_wide_as_asked() {
    use super::paper::{PaperStyle, draw_paper_figures};
    let style = PaperStyle {
        width: "84mm".parse().expect("a width"),
        ..PaperStyle::default()
    };
    let (tables, facts) = (tables(12, plain), facts(plain));
    let figures = draw_paper_figures(&tables, &facts, &style).expect("figures");
    let page = build_report(&tables, &facts).unwrap();
    assert_eq!(figures.len(), page.figures.len());
    for (figure, of_page) in figures.iter().zip(&page.figures) {
        assert_eq!((&figure.name, &figure.data), (&of_page.name, &of_page.data));
        let pdf = String::from_utf8_lossy(&figure.pdf);
        let size = pdf.split("/MediaBox [0 0 ").nth(1).expect("a page");
        let width: f64 = size
            .split(' ')
            .next()
            .unwrap_or("")
            .parse()
            .expect("a width");
        assert!(
            (width - 84.0 * 72.0 / 25.4).abs() < 3.0,
            "{}: {width}",
            figure.name
        );
        assert!(pdf.contains("/ToUnicode"), "{}", figure.name);
        assert!(
            !figure.svg.contains("font-size=\"150\""),
            "{} has a title",
            figure.name
        );
    }
}

#[test]
fn report_is_deterministic() {
    let twice = [(); 2].map(|()| build_report(&tables(6, plain), &facts(plain)).unwrap());
    assert_eq!(twice[0].html, twice[1].html);
    for (a, b) in twice[0].figures.iter().zip(&twice[1].figures) {
        assert_eq!((&a.svg, &a.png), (&b.svg, &b.png));
    }
}

#[test]
fn empty_tables_still_give_a_page() {
    let report = build_report(&Tables::default(), &Facts::default()).unwrap();
    assert!(report.figures.is_empty());
    assert!(report.html.contains("No rows yet") && report.html.ends_with("</html>"));
}

#[test]
fn hostile_names_are_escaped() {
    let hostile = |text: &str| {
        format!("</text><script>alert('{text}')</script>\"&\u{0}\u{1b}\u{202e}日本😀=cmd")
    };
    let report = build_report(&tables(4, hostile), &facts(hostile)).unwrap();
    let svgs: Vec<&str> = report
        .figures
        .iter()
        .map(|figure| figure.svg.as_str())
        .collect();
    assert!(svgs.len() >= 7, "{}", svgs.len());
    for text in svgs.iter().copied().chain([report.html.as_str()]) {
        // The page has two scripts of its own: its files, and its code.
        let own = if text.starts_with("<svg") { 0 } else { 2 };
        assert_eq!(text.matches("<script").count(), own);
        assert!(text.contains("&lt;script"));
        assert!(
            text.chars()
                .all(|c| c == '\n' || c == '\t' || !c.is_control())
        );
        assert!(!text.contains('\u{202e}'));
    }
    for svg in svgs {
        let known = [
            "svg ",
            "/svg>",
            "rect ",
            "line ",
            "polyline ",
            "polygon ",
            "circle ",
            "path ",
            "g ",
            "/g>",
            "image ",
            "text ",
            "/text>",
        ];
        let tags = svg.split('<').skip(1);
        tags.for_each(|tag| assert!(known.iter().any(|k| tag.starts_with(k)), "{tag}"));
    }
    for name in names(&Report {
        html: String::new(),
        ..report
    }) {
        assert!(
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        );
    }
}

#[test]
fn names_with_equal_slugs_keep_separate_files() {
    let mut tables = tables(2, plain);
    let others = tables.metrics.clone().into_iter().map(|row| MetricRow {
        model: "Moons".into(),
        ..row
    });
    tables.metrics.extend(others);
    let report = build_report(&tables, &facts(plain)).unwrap();
    let last = [
        "metrics-moons",
        "metrics-moons-2",
        "weights-moons",
        "calibration-moons",
    ];
    assert!(names(&report).ends_with(&last));
}

#[test]
fn only_first_groups_have_figures_and_page_says_so() {
    let mut all = tables(2, plain);
    let (summary, profile) = (all.summary.clone(), all.profile.clone());
    for i in 0..29 {
        let solver = || format!("heun-{i}");
        all.summary
            .extend(summary.iter().cloned().map(|row| SummaryRow {
                solver: solver(),
                ..row
            }));
        all.profile
            .extend(profile.iter().cloned().map(|row| ProfileRow {
                solver: solver(),
                ..row
            }));
    }
    let report = build_report(&all, &facts(plain)).expect("a report");
    let of_kind = names(&report)
        .into_iter()
        .filter(|name| name.starts_with("divergence-"))
        .count();
    assert_eq!(of_kind, crate::report::view::GROUPS_WITH_FIGURES);
    assert!(
        report
            .html
            .contains("the first 24 of 30 combinations of data and solver")
    );
}

#[test]
fn page_loads_no_external_resources() {
    let html = build_report(&tables(6, plain), &facts(plain)).unwrap().html;
    let html = html.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for outside in [
        "http:",
        "https:",
        "url(",
        "@import",
        "<script src",
        "src=\"/",
    ] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn failures_come_first_and_absent_numbers_are_dashes() {
    let mut tables = tables(5, plain);
    tables.summary[2].failed = 3;
    tables.summary[2].bias = None;
    let html = build_report(&tables, &facts(plain)).unwrap().html;
    let at = |text: &str| {
        html.find(text)
            .unwrap_or_else(|| panic!("{text} is missing"))
    };
    assert!(at("3 of 8 samples failed") < at("<h2>In short"));
    assert!(at("Trial key failed") < at("<h2>In short"));
    assert!(html.contains("<td class=\"n\">–</td>"));
}

#[test]
fn summary_says_whether_interval_contains_zero() {
    let mut tables = tables(5, plain);
    let says = |tables: &Tables| build_report(tables, &facts(plain)).unwrap().html;
    assert!(says(&tables).contains("] does not contain zero"));
    for row in &mut tables.summary {
        row.bias_stderr = Some(0.5);
    }
    let html = says(&tables);
    assert!(html.contains("] contains zero") && !html.contains("] does not contain zero"));
}

/// Rows of few steps and of other solvers share one table. It reports a likelihood that is too high
/// to be true.
#[test]
fn few_step_rows_are_compared_across_solvers_and_overestimates_reported() {
    let mut tables = tables(5, plain);
    let plain_page = build_report(&tables, &facts(plain)).unwrap().html;
    assert!(!plain_page.contains("Few steps beside full trajectories"));
    tables.summary[2].kind = EstimateKind::FewStep;
    tables.summary[2].bias = Some(0.4);
    let far = SummaryRow {
        solver: "euler(steps=2)".into(),
        trajectory: Some("euler".into()),
        reference: "exact, heun".into(),
        evaluations: 2.0,
        rank_correlation: Some(0.123),
        ..tables.summary[1].clone()
    };
    let drawn = MetricRow {
        sampler: far.solver.clone(),
        trajectory: far.trajectory.clone(),
        evaluations: 2.0,
        value: 0.4567,
        ..tables.metrics[0].clone()
    };
    tables.summary.push(far);
    tables.metrics.push(drawn);
    let report = build_report(&tables, &facts(plain)).unwrap();
    let table = report
        .html
        .split("Few steps beside full trajectories<")
        .nth(1)
        .unwrap();
    let table = table.split("</article>").next().unwrap();
    let note = table
        .split("not a better model but a miscalibrated one")
        .nth(1)
        .unwrap();
    assert!(
        note.split("</p>")
            .next()
            .unwrap()
            .contains(tables.summary[2].estimator.as_str())
    );
    assert!(
        !note.split("</p>").next().unwrap().contains("euler"),
        "its bias is below zero"
    );
    for text in [
        "euler(steps=2)",
        "its own",
        "0.123",
        &format!("{} ± SE", tables.metrics[0].metric),
    ] {
        assert!(table.contains(text), "{text}");
    }
    assert!(
        names(&report).iter().all(|name| !name.contains("euler")),
        "what is compared in the table has no figures"
    );
}

#[test]
fn one_sample_and_non_finite_numbers_never_panic() {
    let odd = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.0,
        1e308,
        -1e308,
        1e-320,
        -1e6,
    ];
    for (i, &value) in odd.iter().enumerate() {
        let mut tables = tables(1 + i % 2, plain);
        for row in &mut tables.summary {
            (row.bias, row.bias_stderr, row.rmse) = (Some(value), Some(value), Some(value));
            (row.nats, row.nats_stderr, row.correlation) = (Some(value), None, Some(value));
            (row.cost, row.jvps, row.seconds_per_sample) = (value, value, value);
        }
        for row in &mut tables.samples {
            (row.log_likelihood, row.bits_per_dim) = (Some(value), (i % 2 == 0).then_some(value));
        }
        for row in &mut tables.metrics {
            (row.value, row.stderr, row.evaluations) = (value, Some(value), value);
        }
        for row in tables.profile.iter_mut().step_by(2) {
            (row.divergence, row.half_log_snr) = (value, value);
        }
        for row in tables.density.iter_mut().step_by(3) {
            row.log_density = Some(value);
        }
        for row in tables.weights.iter_mut().skip(i % 2) {
            (row.log_weight, row.energy) = (Some(value), Some(value));
        }
        for row in &mut tables.reweight {
            (row.value, row.stderr, row.low) = (value, Some(value), Some(value));
        }
        for row in &mut tables.mass {
            (row.mass, row.ess, row.khat) = (value, value, Some(value));
        }
        tables.density[4].x = value;
        tables.pairs[0].difference_stderr = value;
        let gallery = &mut tables.galleries[0];
        gallery.generated = vec![vec![value, value], vec![]];
        let report = build_report(&tables, &facts(plain)).unwrap();
        for figure in &report.figures {
            let text = figure
                .svg
                .split_once("NaN")
                .or(figure.svg.split_once("inf\n"));
            assert!(
                text.is_none(),
                "{} at {value}: {:.200}",
                figure.name,
                text.unwrap_or_default().1
            );
        }
    }
}

/// The headline distinguishes a measured bias, a bias below rounding, and a bias that was not
/// measured. A few-step map has no solver, so the headline mentions none.
#[test]
fn headline_shows_solver_bias() {
    let page = |change: &dyn Fn(&mut SummaryRow)| {
        let mut tables = tables(5, plain);
        tables.summary.iter_mut().for_each(change);
        build_report(&tables, &facts(plain))
            .expect("a page")
            .html
            .replace('\u{a0}', " ")
    };
    let bits = |row: &mut SummaryRow| row.solver_bias_bits_per_dim = Some(-0.0301);
    let (unmeasured, nothing) = ("solver error not measured", "no solver error");
    let html = page(&bits);
    assert!(html.contains("solver error −0.030</span>"), "{html}");
    assert!(!html.contains(unmeasured) && !html.contains(nothing));
    let html = page(&|row| (row.bits_per_dim, row.solver_bias) = (None, Some(0.5)));
    assert!(html.contains("solver error 0.50</span>"), "{html}");
    let html = page(&|row| row.solver_bias = Some(1e-6));
    assert!(html.contains(nothing) && !html.contains(unmeasured));
    let html = page(&|row| row.solver_bias = None);
    assert!(html.contains(unmeasured) && !html.contains(nothing));
    let html = page(&|row| (row.solver_bias, row.kind) = (None, EstimateKind::FewStep));
    assert!(!html.contains(unmeasured) && !html.contains(nothing));
}

#[test]
fn solver_bias_above_standard_error_is_reported() {
    let page = |bias: f64| {
        let mut tables = tables(5, plain);
        tables
            .budget
            .iter_mut()
            .filter(|b| b.component == "solver")
            .for_each(|b| b.bias_nats = Some(bias));
        build_report(&tables, &facts(plain)).expect("a page").html
    };
    assert!(!page(-0.09).contains("the log-likelihoods are too"));
    assert!(
        page(-0.5).contains("the log-likelihoods are too low by <b>0.5"),
        "{}",
        page(-0.5)
    );
    assert!(page(0.5).contains("the log-likelihoods are too high by"));
}
