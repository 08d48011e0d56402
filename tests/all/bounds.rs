//! Variational bounds through ONNX and the command line: the continuous bound against the closed form of a mixture,
//! and the discrete bound against improved-diffusion's own code (`scripts/vlb_references.py`).

use std::path::{Path, PathBuf};

use ndarray::Array2;

use super::cli::{flowgauge, refused, write};

fn at_root(name: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// The numbers in some columns of a table; an empty cell is NaN.
pub(crate) fn numbers(path: &Path, names: &[&str]) -> Vec<Vec<f64>> {
    let mut reader = csv::Reader::from_path(path).expect("a table");
    let header = reader.headers().expect("columns").clone();
    let places: Vec<usize> = names
        .iter()
        .map(|name| {
            let found = header.iter().position(|h| h == *name);
            found.unwrap_or_else(|| panic!("no column {name} in {header:?}"))
        })
        .collect();
    reader
        .records()
        .map(|row| {
            let row = row.expect("a row");
            places
                .iter()
                .map(|i| row[*i].parse().unwrap_or(f64::NAN))
                .collect()
        })
        .collect()
}

fn likelihood(folder: &Path, model: &str, data: &str, spec: &str, more: &[&str]) -> Vec<Vec<f64>> {
    let mut args = vec![
        "likelihood",
        "--model",
        model,
        "--data",
        data,
        "--divergence",
        spec,
        "--out",
        "out.csv",
    ];
    args.extend(more);
    flowgauge(folder, &args).is(0);
    let terms = ["bound_prior", "bound_diffusion", "bound_reconstruction"];
    let names = ["log_likelihood", "stderr", "evaluations", "jvps"];
    numbers(&folder.join("out.csv"), &[&names[..], &terms].concat())
}

/// The exact denoiser of a mixture: the bound is the log-density of every sample within its error.
#[test]
fn the_continuous_bound_of_an_exact_denoiser_is_tight() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, data) = (
        at_root("models/mixture/card.yaml"),
        at_root("models/mixture/heldout.npy"),
    );
    let args = [
        "--model",
        &model,
        "--data",
        &data,
        "--divergence",
        "closed-form",
    ];
    let more = ["--solver", "euler", "--out", "truth.csv"];
    flowgauge(folder.path(), &[&["likelihood"], &args[..], &more].concat()).is(0);
    let truth = numbers(&folder.path().join("truth.csv"), &["log_likelihood"]);
    for times in ["stratified", "uniform", "importance"] {
        let spec = format!("{{nelbo: {{draws: 256, times: {times}}}}}");
        let rows = likelihood(folder.path(), &model, &data, &spec, &[]);
        let mut gaps = Vec::new();
        for (row, truth) in rows.iter().zip(&truth) {
            let [value, stderr, evaluations, jvps] = row[..4] else {
                panic!("{row:?}");
            };
            assert_eq!((evaluations, jvps), (256.0, 0.0));
            let terms: f64 = row[4..].iter().sum();
            assert!((terms + value).abs() < 1e-9 * (1.0 + value.abs()));
            assert!(
                (value - truth[0]).abs() < 6.0 * stderr + 0.02,
                "{times}: {row:?} {truth:?}"
            );
            gaps.push(value - truth[0]);
        }
        let n = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / n;
        let spread = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let error = (spread / n).sqrt();
        assert!(mean.abs() < 4.0 * error + 0.01, "{times}: {mean} ± {error}");
    }
    let table = std::fs::read_to_string(folder.path().join("out.csv")).expect("a table");
    assert!(table.lines().next().expect("a header").contains("kind"));
    assert!(
        table.lines().skip(1).all(|line| line.contains("elbo")),
        "{table}"
    );
}

/// Every term of a network whose terms have no noise equals improved-diffusion's, and so do bits per dimension.
#[test]
fn the_discrete_bound_has_the_terms_of_improved_diffusion() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = "tests/data/vlb";
    let (model, data) = (
        at_root(&format!("{at}/constant.yaml")),
        at_root(&format!("{at}/integers.npy")),
    );
    let truth = std::fs::File::open(at_root(&format!("{at}/truth.npz"))).expect("truth.npz");
    let mut truth = ndarray_npy::NpzReader::new(truth).expect("an archive");
    for variance in ["fixed-small", "fixed-large", "learned"] {
        let want: Array2<f64> = truth.by_name(variance).expect("terms");
        let spec = format!("{{vlb: {{variance: {variance}}}}}");
        let rows = likelihood(folder.path(), &model, &data, &spec, &[]);
        let bits = numbers(&folder.path().join("out.csv"), &["bits_per_dim"]);
        let calls = if variance == "learned" { 2.0 } else { 1.0 };
        for ((row, want), bits) in rows.iter().zip(want.rows()).zip(bits) {
            for (found, want) in row[4..].iter().zip(want) {
                assert!(
                    (found - want).abs() < 1e-6 * (1.0 + want),
                    "{variance}: {row:?} {want}"
                );
            }
            assert_eq!((row[2], row[3]), (51.0 * calls, 0.0));
            let whole = want.sum() / (4.0 * std::f64::consts::LN_2);
            assert!((bits[0] - whole).abs() < 1e-6 * whole, "{bits:?} {whole}");
        }
        // A subset of the steps has the same last term, and the others within its error.
        let spec = format!("{{vlb: {{variance: {variance}, steps: 26}}}}");
        let rows = likelihood(folder.path(), &model, &data, &spec, &[]);
        for (row, want) in rows.iter().zip(want.rows()) {
            assert!((row[6] - want[2]).abs() < 1e-6 * (1.0 + want[2]));
            let gap = (row[5] - want[1]).abs();
            assert!(gap < 6.0 * row[1] + 1e-6, "{variance}: {row:?} {want}");
            assert_eq!(row[2], 26.0 * calls);
        }
    }
}

/// Both bounds stand in a run beside the ODE, with their gap in the table of pairs.
#[test]
fn bounds_stand_beside_the_ode_and_never_in_its_column() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, data) = (
        at_root("models/mixture/card.yaml"),
        at_root("models/mixture/heldout.npy"),
    );
    let config = format!(
        "name: bounds\nseed: 1\nlikelihood:\n  - model: {model}\n    data: {data}\n    samples: 24\n    \
         solvers: [{{dopri5: {{rtol: 1e-6, atol: 1e-6}}}}]\n    estimators: [exact, {{nelbo: {{draws: 128}}}}]\n    \
         reference: exact\n"
    );
    write(folder.path(), "run.yaml", config);
    flowgauge(folder.path(), &["run", "run.yaml", "--out", "out"]).is(0);
    let table = |name: &str| {
        let path = folder.path().join("out/tables").join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let pairs = table("pairs.csv");
    assert!(pairs.contains("nelbo"), "{pairs}");
    let rows = numbers(
        &folder.path().join("out/tables/pairs.csv"),
        &["difference", "difference_stderr"],
    );
    assert_eq!(rows.len(), 1);
    assert!(rows[0][0].abs() < 4.0 * rows[0][1] + 0.02, "{rows:?}");
    let samples = table("samples.csv");
    let header = samples.lines().next().expect("a header");
    assert!(header.contains("bound_diffusion"), "{header}");
    let summary = table("summary.csv");
    let kinds: Vec<&str> = summary.lines().filter(|l| l.contains(",elbo,")).collect();
    assert_eq!(kinds.len(), 1, "{summary}");
    assert!(kinds[0].contains("nelbo"), "{summary}");
}

/// What a bound needs and the card does not say is refused by name.
#[test]
fn what_a_bound_lacks_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let constant =
        std::fs::read_to_string(at_root("tests/data/vlb/constant.yaml")).expect("a card");
    let graph = std::fs::read(at_root("tests/data/vlb/constant.onnx")).expect("a graph");
    write(folder.path(), "constant.onnx", graph);
    let variances = "  variance_channels: [1, 2]\n";
    let levels = ", levels: 256";
    let path = "path: {kind: discrete, betas: {linear: [0.001, 0.2]}, steps: 50}";
    for (from, to, spec, words) in [
        (
            variances,
            "",
            "{vlb: {variance: learned}}",
            "variance_channels",
        ),
        (levels, "", "vlb", "levels"),
        (path, "path: {kind: vp}", "vlb", "discrete"),
        ("", "", "{vlb: {steps: 52}}", "steps"),
        ("", "", "{vlb: {steps: 11}}", "even"),
        ("", "", "{nelbo: {draws: 6}}", "multiple of 4"),
        (
            variances,
            "  variance_channels: [0, 2]\n",
            "vlb",
            "variance_channels",
        ),
        ("  channels: [0, 1]\n", "", "vlb", "network.channels"),
    ] {
        assert!(constant.contains(from));
        write(folder.path(), "card.yaml", constant.replacen(from, to, 1));
        let data = at_root("tests/data/vlb/integers.npy");
        let args = [
            "likelihood",
            "--model",
            "card.yaml",
            "--data",
            &data,
            "--divergence",
            spec,
            "--out",
            "out.csv",
        ];
        refused(folder.path(), &args, &[words]);
        assert!(!folder.path().join("out.csv").exists());
    }
    // Floats would be rounded to levels in silence.
    write(folder.path(), "card.yaml", &constant);
    let floats = Array2::from_shape_fn((3, 4), |(i, j)| 0.137 * (i + 2 * j) as f64 - 0.4);
    let floats = floats
        .into_shape_with_order((3, 1, 2, 2))
        .expect("four values");
    ndarray_npy::write_npy(folder.path().join("floats.npy"), &floats).expect("written");
    let args = [
        "likelihood",
        "--model",
        "card.yaml",
        "--data",
        "floats.npy",
        "--divergence",
        "vlb",
        "--out",
        "out.csv",
    ];
    refused(folder.path(), &args, &["floats", "decoder: continuous"]);
}
