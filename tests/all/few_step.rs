//! Few-step likelihoods and samples through ONNX and the command line, against the closed form of a Gaussian
//! (`scripts/make_gaussian_map.py`).

use std::path::Path;

use super::cli::{flowgauge, refused, write};

/// log N(x; m, diag C) of `points.npy`: the model's law at the data end, since its flow ends in its prior exactly.
fn truth() -> Vec<f64> {
    let points = [[0.7, 0.3, -2.0], [0.5, -1.0, 0.0], [-0.4, 0.9, 3.1]];
    let (mean, variance) = ([0.5, -1.0, 0.0], [0.25f64, 1.0, 4.0]);
    let one = |x: &[f64; 3]| -> f64 {
        let term = |i: usize| {
            let gap: f64 = x[i] - mean[i];
            -0.5 * (gap * gap / variance[i] + (std::f64::consts::TAU * variance[i]).ln())
        };
        (0..3).map(term).sum()
    };
    points.iter().map(one).collect()
}

fn data(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/gaussian_map")
        .join(name);
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// The arguments of `likelihood` for one estimator.
fn likelihood(spec: &str) -> Vec<String> {
    let (card, points) = (data("card.yaml"), data("points.npy"));
    [
        "likelihood",
        "--model",
        &card,
        "--data",
        &points,
        "--divergence",
        spec,
        "--solver",
        "euler",
        "--out",
        "out.csv",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// Columns of a CSV file by their names.
fn columns(path: &Path, names: &[&str]) -> Vec<Vec<String>> {
    let mut reader =
        csv::Reader::from_path(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let header = reader.headers().expect("columns").clone();
    let at: Vec<usize> = names
        .iter()
        .map(|n| {
            header
                .iter()
                .position(|h| h == *n)
                .unwrap_or_else(|| panic!("no column {n}"))
        })
        .collect();
    reader
        .records()
        .map(|r| r.expect("a row"))
        .map(|r| at.iter().map(|i| r[*i].to_owned()).collect())
        .collect()
}

fn number(text: &str) -> f64 {
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// T13 through ONNX: exact for every number of steps, in both signatures that can go to the noise.
#[test]
fn an_exact_map_is_exact_in_any_number_of_steps() {
    let folder = folder();
    for map in ["two-time", "step"] {
        for steps in [1, 2, 4, 8] {
            let spec = format!("{{flow-map: {{map: {map}, steps: {steps}}}}}");
            flowgauge(folder.path(), &strs(&likelihood(&spec))).is(0);
            let rows = columns(
                &folder.path().join("out.csv"),
                &["log_likelihood", "evaluations", "jvps", "stderr"],
            );
            for (row, want) in rows.iter().zip(truth()) {
                assert!(
                    (number(&row[0]) - want).abs() < 1e-6,
                    "{spec}: {} {want}",
                    row[0]
                );
                assert_eq!(
                    (row[1].as_str(), row[2].as_str(), row[3].as_str()),
                    (&*steps.to_string(), "0", "")
                );
            }
        }
    }
}

/// Exact log-determinants need no divergence: both directions of a map have the density of the Gaussian, with d
/// products and one evaluation for each step towards the noise.
#[test]
fn log_determinants_are_the_density_in_both_directions() {
    let folder = folder();
    for (map, inverted) in [("two-time", false), ("step", false), ("duration", true)] {
        for steps in [1, 3] {
            let spec = format!("{{flow-map: {{map: {map}, steps: {steps}, volume: log-det}}}}");
            flowgauge(folder.path(), &strs(&likelihood(&spec))).is(0);
            let names = ["log_likelihood", "evaluations", "jvps"];
            let rows = columns(&folder.path().join("out.csv"), &names);
            for (row, want) in rows.iter().zip(truth()) {
                assert!(
                    (number(&row[0]) - want).abs() < 1e-6,
                    "{spec}: {row:?} {want}"
                );
                if !inverted {
                    let cost = [&row[1], &row[2]].map(|n| number(n));
                    assert_eq!(cost, [f64::from(steps), f64::from(3 * steps)]);
                }
            }
            let header = std::fs::read_to_string(folder.path().join("out.csv")).expect("a table");
            assert_eq!(header.contains("inverse_residual"), inverted);
        }
    }
}

/// §4.4 of the project's notes through the signature that the authors' networks have.
#[test]
fn the_compatibility_rule_has_its_known_bias_and_says_so() {
    let folder = folder();
    for (steps, want) in [
        (1, -5.393),
        (2, -5.112),
        (4, -4.504),
        (8, -4.215),
        (64, -4.159),
    ] {
        for map in ["duration", "two-time"] {
            let spec =
                format!("{{flow-map: {{map: {map}, steps: {steps}, rule: forward-average}}}}");
            let done = flowgauge(folder.path(), &strs(&likelihood(&spec)));
            done.is(0).says(&["forward-average", "biased"]);
            let rows = columns(&folder.path().join("out.csv"), &["log_likelihood"]);
            assert!(
                (number(&rows[0][0]) - want).abs() < 5e-4,
                "{spec}: {}",
                rows[0][0]
            );
        }
    }
}

/// A map with a class beside its times: of the class that it was made for it is the map itself.
#[test]
fn a_map_takes_the_constants_of_its_card() {
    let folder = folder();
    let at = folder.path();
    let whole = std::fs::read_to_string(data("card.yaml")).expect("the card");
    for name in ["velocity", "two_time", "step", "duration", "classed"] {
        write(
            at,
            &format!("{name}.onnx"),
            std::fs::read(data(&format!("{name}.onnx"))).expect("a graph"),
        );
    }
    let card = |constants: &str| {
        let ports = "inputs: {x: x, from: t, to: s}, outputs: {velocity: u, divergence: d}";
        let entry = format!("flow_maps:\n  classed: {{file: classed.onnx, {ports}{constants}}}\n");
        write(at, "card.yaml", whole.replacen("flow_maps:\n", &entry, 1))
    };
    let points = data("points.npy");
    let spec = "{flow-map: {map: classed, steps: 3}}";
    // A flow map follows no path of a solver, so none is asked for.
    let args = [
        "likelihood",
        "--model",
        "card.yaml",
        "--data",
        &points,
        "--divergence",
        spec,
        "--out",
        "out.csv",
    ];
    for (class, right) in [("3", true), ("2", false)] {
        card(&format!(", constants: {{label: {class}}}"));
        flowgauge(at, &args).is(0);
        let rows = columns(&at.join("out.csv"), &["log_likelihood"]);
        let gap = rows
            .iter()
            .zip(truth())
            .map(|(r, t)| (number(&r[0]) - t).abs())
            .fold(0.0, f64::max);
        assert_eq!(gap < 1e-5, right, "class {class}: {gap}");
    }
    std::fs::remove_file(at.join("out.csv")).expect("removed");
    // Its gradient and its Jacobian are given them too.
    card(", constants: {label: 3}");
    let guided = "{flow-map: {map: classed, steps: 1, guidance: {step: 0.5, prior: true}}}";
    flowgauge(
        at,
        &[
            "sample",
            "--model",
            "card.yaml",
            "--sampler",
            guided,
            "--count",
            "3",
            "--out",
            "a.npy",
        ],
    )
    .is(0);
    flowgauge(
        at,
        &[
            "sample",
            "--model",
            "card.yaml",
            "--sampler",
            &guided.replace("classed", "two-time"),
            "--count",
            "3",
            "--out",
            "b.npy",
        ],
    )
    .is(0);
    let bytes = |name: &str| std::fs::read(at.join(name)).expect(name);
    assert_eq!(bytes("a.npy"), bytes("b.npy"), "the same map");
    let maps = format!(
        "name: maps\nmaps: [{{model: card.yaml, data: {points:?}, map: classed, steps: [2], samples: 2}}]\n"
    );
    write(at, "maps.yaml", maps);
    flowgauge(at, &["run", "maps.yaml", "--out", "out", "--quiet"]).is(0);
    for (constants, words) in [
        (
            "",
            &[
                "classed.onnx",
                "input `label` has no role",
                "constants: {label: …}",
            ][..],
        ),
        (
            ", constants: {lable: 3}",
            &["classed.onnx", "no input `lable`", "label"],
        ),
        (
            ", constants: {label: 3, s: 1}",
            &["flow_maps.classed.constants.s", "already"],
        ),
        (
            ", constants: {label: [1, 2]}",
            &["flow_maps.classed.constants.label", "shape [2]"],
        ),
        (
            ", constants: {label: nowhere.npy}",
            &["flow_maps.classed.constants.label", "nowhere.npy"],
        ),
    ] {
        card(constants);
        refused(at, &args, words);
    }
}

/// No noise level lies below the least, where the rule of the authors' code asks the map.
#[test]
fn the_authors_rule_is_refused_on_edm() {
    let folder = folder();
    let (card, points) = (
        super::cli::card("digits"),
        format!("{}/heldout.npy", super::cli::models("digits")),
    );
    let spec = "{flow-map: {map: shortcut, steps: 2, rule: forward-average}}";
    let args = [
        "likelihood",
        "--model",
        &card,
        "--data",
        &points,
        "--divergence",
        spec,
        "--out",
        "out.csv",
    ];
    refused(
        folder.path(),
        &args,
        &[
            "flow_maps.shortcut",
            "forward-average",
            "sigma_min = 0.02",
            "two-time",
        ],
    );
    let args = [
        "likelihood",
        "--model",
        &card,
        "--data",
        &points,
        "--divergence",
        "exact",
        "--out",
        "out.csv",
    ];
    refused(
        folder.path(),
        &args,
        &["--solver: absent", "`exact` follows a path", "dopri5"],
    );
}

#[test]
fn what_a_map_cannot_do_is_refused_in_words() {
    let folder = folder();
    let cases: &[(&str, &[&str])] = &[
        (
            "{flow-map: {map: nope}}",
            &["no flow map `nope`", "two-time"],
        ),
        (
            "{flow-map: {map: duration}}",
            &["flow_maps.duration", "to-data", "forward-average"],
        ),
        ("{flow-map: {map: step, steps: 0}}", &["steps is 0"]),
        (
            "{flow-map: {map: step, grid: karras}}",
            &["grid", "uniform"],
        ),
        (
            "{flow-map: {map: step, rule: backward}}",
            &["backward", "two-time"],
        ),
        ("{flow-map: {map: step, stops: 2}}", &["stops"]),
    ];
    for (spec, words) in cases {
        refused(folder.path(), &strs(&likelihood(spec)), words);
    }
    let card = std::fs::read_to_string(data("card.yaml")).expect("the card");
    for name in ["velocity", "two_time", "step", "duration"] {
        let file = format!("{name}.onnx");
        write(
            folder.path(),
            &file,
            std::fs::read(data(&file)).expect("a graph"),
        );
    }
    let edits: &[(&str, &str, &str, &[&str])] = &[
        (
            "outputs: {velocity: u, divergence: d}",
            "outputs: {velocity: u}",
            "step, volume: head",
            &["no `divergence`", "flow_maps.step", "log-det"],
        ),
        (
            "outputs: {velocity: u, divergence: d}",
            "outputs: {velocity: d, divergence: u}",
            "step",
            &["step.onnx", "`d`"],
        ),
        (
            "step: dt}",
            "step: delta}",
            "step",
            &["step.onnx", "`delta`", "dt"],
        ),
        (
            "duration: dt}, outputs: {velocity: u, divergence: d}, direction: to-data",
            "duration: dt}, outputs: {velocity: u, divergence: d}",
            "step",
            &["flow_maps.duration.direction", "to-noise"],
        ),
    ];
    for (from, to, map, words) in edits {
        assert!(card.contains(from), "{from}");
        let edited = write(folder.path(), "card.yaml", card.replace(from, to));
        let mut args = likelihood(&format!("{{flow-map: {{map: {map}}}}}"));
        args[2] = edited;
        refused(folder.path(), &strs(&args), words);
    }
    let sampled = |spec: &str| {
        [
            "sample",
            "--model",
            &data("card.yaml"),
            "--sampler",
            spec,
            "--count",
            "4",
            "--out",
            "out.npy",
        ]
        .map(str::to_owned)
    };
    refused(
        folder.path(),
        &strs(&sampled("{flow-map: {map: nope}}")),
        &["no flow map `nope`"],
    );
    refused(
        folder.path(),
        &strs(&sampled("{flow-map: {map: step, guidance: {step: 1}}}")),
        &["prior"],
    );
}

/// A whole run: rows beside a full trajectory, kinds kept apart, and samples whose densities are their likelihoods.
#[test]
fn a_run_holds_few_steps_beside_the_full_trajectory() {
    let folder = folder();
    let config = format!(
        "name: few\nchunk: 2\nestimators: [exact, {{flow-map: {{map: two-time, steps: 2}}}}, \
         {{flow-map: {{map: step, steps: 1}}}}, {{flow-map: {{map: duration, steps: 2, rule: forward-average}}}}]\n\
         solvers: [{{dopri5: {{rtol: 1e-9, atol: 1e-9}}}}, {{rk4: {{steps: 8}}}}]\n\
         likelihood: [{{model: {card}, data: {points}}}]\n\
         samples:\n  - {{model: {card}, count: 16, reference: {points}, metrics: [energy], samplers: [\
         {{flow-map: {{map: duration, steps: 2, density: true}}}}, \
         {{flow-map: {{map: two-time, steps: 1, guidance: {{step: 0.5, prior: true}}}}}}]}}\n",
        card = data("card.yaml"),
        points = data("points.npy"),
    );
    write(folder.path(), "c.yaml", config);
    let planned = flowgauge(folder.path(), &["plan", "c.yaml"]);
    assert!(
        planned
            .is(0)
            .stdout
            .contains("flow-map(two-time steps=1 guidance=0.5 with prior)"),
        "{}",
        planned.stdout
    );
    flowgauge(folder.path(), &["run", "c.yaml", "--out", "out", "--quiet"]).is(0);
    let out = folder.path().join("out");
    let names = ["estimator", "kind", "solver", "n", "evaluations", "rmse"];
    let rows = columns(&out.join("tables/summary.csv"), &names);
    let of = |label: &str| rows.iter().filter(|r| r[0] == label).collect::<Vec<_>>();
    for (label, kind, evaluations) in [
        ("flow-map(two-time steps=2)", "few-step", "2.0"),
        ("flow-map(step steps=1)", "few-step", "1.0"),
        (
            "flow-map(duration steps=2 rule=forward-average)",
            "few-step-forward-average",
            "2.0",
        ),
    ] {
        let found = of(label);
        assert_eq!(
            found.len(),
            1,
            "{label} stands once, beside the first solver: {rows:?}"
        );
        assert_eq!(
            (
                found[0][1].as_str(),
                found[0][3].as_str(),
                found[0][4].as_str()
            ),
            (kind, "3", evaluations)
        );
        let exact = kind == "few-step";
        assert_eq!(number(&found[0][5]) < 1e-6, exact, "{found:?}");
    }
    assert_eq!(of("exact").len(), 2);
    assert!(
        std::fs::read_to_string(out.join("index.html"))
            .expect("the page")
            .contains("Few steps beside full")
    );

    let mut densities = Vec::new();
    for entry in std::fs::read_dir(out.join("rows")).expect("rows").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("rows");
        let densities_here = text
            .lines()
            .next()
            .is_some_and(|l| l.split(',').any(|c| c == "log_density"));
        if densities_here && text.contains("duration") {
            densities.extend(
                columns(&entry.path(), &["log_density"])
                    .into_iter()
                    .map(|r| number(&r[0])),
            );
        }
    }
    assert_eq!(densities.len(), 16);
    // E log p = −½ ln det(2πe C) = −4.2568 for the model's own samples; 16 of them are within 4 standard errors.
    let mean = densities.iter().sum::<f64>() / 16.0;
    assert!(
        (mean + 4.2568).abs() < 4.0 * (1.5f64 / 16.0).sqrt(),
        "{mean}"
    );
}

/// Entries of one model, data set and solver may each have a reference of their own.
#[test]
fn every_entry_keeps_its_own_reference() {
    let folder = folder();
    let entry = |estimators: &str| {
        let (card, points) = (data("card.yaml"), data("points.npy"));
        format!("  - {{model: {card}, data: {points}, estimators: [{estimators}]}}\n")
    };
    let config = format!(
        "name: each\nsolvers: [{{euler: {{steps: 8}}}}]\nlikelihood:\n{}{}",
        entry("exact, {hutchinson: {probes: 1}}"),
        entry("{hutchinson: {probes: 4}}, {hutchinson: {probes: 2}}"),
    );
    write(folder.path(), "c.yaml", &config);
    flowgauge(folder.path(), &["run", "c.yaml", "--out", "out", "--quiet"]).is(0);
    let names = ["estimator", "reference"];
    let rows = columns(&folder.path().join("out/tables/summary.csv"), &names);
    let found: Vec<(&str, &str)> = rows
        .iter()
        .map(|r| (r[0].as_str(), r[1].as_str()))
        .collect();
    let (four, two) = ("hutchinson(probes=4)", "hutchinson(probes=2)");
    assert_eq!(
        found,
        [
            ("exact", "exact"),
            ("hutchinson", "exact"),
            (four, four),
            (two, four)
        ]
    );
}

/// Rows of one solver against the reference of another: few steps of the plain flow against its full trajectory.
#[test]
fn a_reference_can_stand_under_a_solver_of_its_own() {
    let folder = folder();
    let config = format!(
        "name: across\nestimators: [exact]\nreference_solver: {{dopri5: {{rtol: 1e-9, atol: 1e-9}}}}\nlikelihood:\n  \
         - {{model: {card}, data: {points}, solvers: [{{dopri5: {{rtol: 1e-9, atol: 1e-9}}}}]}}\n  \
         - {{model: {card}, data: {points}, solvers: [{{euler: {{steps: 2}}}}, {{euler: {{steps: 64}}}}]}}\n",
        card = data("card.yaml"),
        points = data("points.npy"),
    );
    write(folder.path(), "c.yaml", &config);
    flowgauge(folder.path(), &["run", "c.yaml", "--out", "out", "--quiet"]).is(0);
    let out = folder.path().join("out");
    let names = [
        "solver",
        "reference",
        "reference_solver",
        "bias",
        "rmse",
        "rank_correlation",
    ];
    let rows = columns(&out.join("tables/summary.csv"), &names);
    let samples = columns(
        &out.join("tables/samples.csv"),
        &["solver", "sample", "log_likelihood"],
    );
    // What Euler's rule makes of the first point, from the project's notes (§4.4).
    for (steps, known) in [(2, -4.561), (64, -4.169)] {
        // Labels leave out what is the default, as 64 steps are.
        let solver = if steps == 64 {
            "euler".to_owned()
        } else {
            format!("euler(steps={steps})")
        };
        let values: Vec<f64> = samples
            .iter()
            .filter(|r| r[0] == solver)
            .map(|r| number(&r[2]))
            .collect();
        assert!((values[0] - known).abs() < 5e-4, "{values:?}");
        let row = rows.iter().find(|r| r[0] == solver).expect("a row");
        assert_eq!(
            (row[1].as_str(), row[2].as_str()),
            (
                "exact, dopri5(rtol=1e-9 atol=1e-9)",
                "dopri5(rtol=1e-9 atol=1e-9)"
            )
        );
        let gaps: Vec<f64> = values.iter().zip(truth()).map(|(a, b)| a - b).collect();
        let mean = gaps.iter().sum::<f64>() / 3.0;
        let rms = (gaps.iter().map(|g| g * g).sum::<f64>() / 3.0).sqrt();
        assert!(
            (number(&row[3]) - mean).abs() < 1e-6 && (number(&row[4]) - rms).abs() < 1e-6,
            "{row:?} {gaps:?}"
        );
        assert!(number(&row[5]) > 0.99, "{row:?}");
    }
    let reference = rows
        .iter()
        .find(|r| r[0].starts_with("dopri5"))
        .expect("a row");
    assert_eq!(
        (reference[1].as_str(), reference[3].as_str()),
        ("exact", "")
    );
    let page = std::fs::read_to_string(out.join("index.html")).expect("the page");
    assert!(page.contains("Few steps beside full") && page.contains("euler(steps=2)"));

    write(
        folder.path(),
        "d.yaml",
        config.replace(
            "reference_solver: {dopri5: {rtol: 1e-9",
            "reference_solver: {dopri5: {rtol: 1e-3",
        ),
    );
    refused(
        folder.path(),
        &["run", "d.yaml", "--out", "no"],
        &["reference_solver", "rtol=0.001", "not measured"],
    );
}
