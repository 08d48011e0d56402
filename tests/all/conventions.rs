//! What a number is called and what it bounds: lattices, dequantization, named conventions.

use std::path::Path;

use crate::cli::{card, flowgauge, folder, le, npy, refused, samples, strs, write};

/// `likelihood` of a file under the digits' card at next to no cost, with more flags.
fn digits(data: &str, other: &[&str]) -> Vec<String> {
    let mut args: Vec<String> = ["likelihood", "--out=out.csv", "--threads=1"]
        .map(str::to_owned)
        .to_vec();
    args.push(format!("--model={}", card("digits")));
    args.push(format!("--data={data}"));
    args.extend(other.iter().map(|o| (*o).to_owned()));
    for (flag, usual) in [
        ("--divergence", "exact"),
        ("--solver", "{euler: {steps: 2}}"),
    ] {
        if !other.iter().any(|o| o.starts_with(flag)) {
            args.push(format!("{flag}={usual}"));
        }
    }
    args
}

/// Whole numbers from 0 to 16, of every kind.
fn whole(rows: usize) -> Vec<u8> {
    (0..rows * 64)
        .map(|i| ((i * 37 + i / 64 * 5 + 11) % 17) as u8)
        .collect()
}

/// The rows of `out.csv`, by the names of its columns.
fn table(at: &Path) -> Vec<std::collections::BTreeMap<String, String>> {
    let text = std::fs::read_to_string(at.join("out.csv")).expect("a table");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader
        .deserialize()
        .collect::<Result<_, _>>()
        .expect("rows")
}

fn numbers(at: &Path, column: &str) -> Vec<f64> {
    table(at)
        .iter()
        .map(|row| row[column].parse().expect(column))
        .collect()
}

#[test]
fn floats_on_a_lattice_are_refused_unless_allowed() {
    let folder = folder();
    let at = folder.path();
    let float = |f: &dyn Fn(f32) -> f32| {
        let values: Vec<f32> = whole(3).iter().map(|v| f(f32::from(*v))).collect();
        npy("<f4", "(3, 64)", &le(&values))
    };
    for (name, bytes) in [
        ("levels.npy", float(&|v| v / 8.0 - 1.0)),
        ("stored.npy", float(&|v| v)),
    ] {
        write(at, name, bytes);
        refused(
            at,
            &strs(&digits(name, &[])),
            &[name, "lattice", "integers 0 to 16", "--lattice allow"],
        );
        flowgauge(at, &strs(&digits(name, &["--lattice=allow"]))).is(0);
        assert_eq!(table(at).len(), 3);
        std::fs::remove_file(at.join("out.csv")).expect("written");
    }
    // A card without levels: bytes scaled to [0, 1], which no hand-written number hits.
    let scaled: Vec<f32> = (0..24).map(|i| (i * 37 % 256) as f32 / 255.0).collect();
    write(at, "scaled.npy", npy("<f4", "(3, 8)", &le(&scaled)));
    let mixture = format!("--model={}", card("mixture"));
    let args = |data: &str| {
        let usual = [
            "likelihood",
            "--out=out.csv",
            "--divergence=exact",
            "--solver={euler: {steps: 2}}",
        ];
        usual
            .map(str::to_owned)
            .into_iter()
            .chain([mixture.clone(), format!("--data={data}")])
            .collect::<Vec<_>>()
    };
    refused(at, &strs(&args("scaled.npy")), &["k/255", "levels"]);
    write(at, "eighths.npy", samples(3, 8));
    write(at, "zeros.npy", npy("<f4", "(3, 8)", &[0; 96]));
    for fine in ["eighths.npy", "zeros.npy"] {
        flowgauge(at, &strs(&args(fine))).is(0);
    }
    let config = format!(
        "name: a\nestimators: [exact]\nsolvers: [{{euler: {{steps: 2}}}}]\n\
         likelihood:\n  - {{model: '{}', data: levels.npy}}\n",
        card("digits")
    );
    write(at, "c.yaml", &config);
    refused(at, &["plan", "c.yaml"], &["likelihood.0", "lattice: allow"]);
    write(
        at,
        "c.yaml",
        config.replace("levels.npy", "levels.npy, lattice: allow"),
    );
    flowgauge(at, &["plan", "c.yaml"]).is(0);
}

/// Text has no types: whole numbers are integers to a card with levels, and numbers of the plane to another.
#[test]
fn a_table_of_whole_numbers_is_read_as_the_card_means_it() {
    let folder = folder();
    let at = folder.path();
    let rows: Vec<String> = whole(2)
        .chunks(64)
        .map(|r| r.iter().map(u8::to_string).collect::<Vec<_>>().join(","))
        .collect();
    write(at, "x.npy", npy("|u1", "(2, 64)", &whole(2)));
    write(at, "x.csv", rows.join("\n"));
    let mut tables = Vec::new();
    for name in ["x.npy", "x.csv"] {
        flowgauge(at, &strs(&digits(name, &[]))).is(0);
        tables.push(std::fs::read_to_string(at.join("out.csv")).expect("a table"));
    }
    assert_eq!(tables[0], tables[1]);
    std::fs::remove_file(at.join("out.csv")).expect("written");
    write(at, "low.csv", rows.join("\n").replace("11,", "-1,"));
    refused(
        at,
        &strs(&digits("low.csv", &[])),
        &["levels 0 to 16", "write 1.0 instead of 1"],
    );
    write(at, "plane.csv", "0,1\n1,0\n");
    let moons = format!("--model={}", card("moons"));
    let args = [
        "likelihood",
        &moons,
        "--data=plane.csv",
        "--divergence=exact",
        "--solver={heun: {steps: 20, grid: log-snr}}",
        "--out=out.csv",
    ];
    flowgauge(at, &args).is(0);
}

#[test]
fn draws_of_noise_are_repeatable_and_bound_what_they_say() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", npy("|u1", "(2, 64)", &whole(2)));
    let values = |other: &[&str]| {
        flowgauge(at, &strs(&digits("x.npy", other))).is(0);
        numbers(at, "log_likelihood")
    };
    let plain = values(&[]);
    assert!(!table(at)[0].contains_key("bound"));
    for one in ["uniform", "{importance: {draws: 1}}"] {
        assert_eq!(values(&["--dequantization", one]), plain, "{one}");
    }
    let mean = values(&["--dequantization={uniform: {repeats: 4}}"]);
    let rows = table(at);
    assert!(
        rows.iter()
            .all(|r| r["bound"] == "elbo" && r["draws"] == "4" && r["evaluations"] == "8")
    );
    let errors = numbers(at, "dequantization_stderr");
    assert!(
        mean.iter()
            .zip(&plain)
            .zip(&errors)
            .all(|((m, p), e)| m != p && (m - p).abs() < 12.0 * e && *e > 0.0)
    );
    let parts = [
        numbers(at, "prior_log_density"),
        numbers(at, "divergence_integral"),
    ];
    assert!((parts[0][0] + parts[1][0] - mean[0]).abs() < 1e-9);
    let bound = values(&["--dequantization={importance: {draws: 4}}"]);
    let rows = table(at);
    assert!(
        rows.iter()
            .all(|r| r["bound"] == "iw-elbo" && r["divergence_integral"].is_empty())
    );
    assert!(
        bound.iter().zip(&mean).all(|(b, m)| b > m),
        "{bound:?} {mean:?}"
    );
    // Neither batch nor seed-independent draws: the same command gives the same digits, another seed others.
    assert_eq!(
        values(&["--dequantization={uniform: {repeats: 4}}", "--batch=4"]),
        mean
    );
    assert_ne!(
        values(&["--dequantization={uniform: {repeats: 4}}", "--seed=1"]),
        mean
    );
    std::fs::remove_file(at.join("out.csv")).expect("written");

    let random = [
        "--dequantization=importance",
        "--divergence={hutchinson: {probes: 2}}",
    ];
    refused(
        at,
        &strs(&digits("x.npy", &random)),
        &["hutchinson(probes=2)", "bias", "repeats"],
    );
    refused(
        at,
        &strs(&digits(
            "x.npy",
            &["--dequantization={uniform: {repeats: 0}}"],
        )),
        &["repeats is 0"],
    );
    refused(
        at,
        &strs(&digits("x.npy", &["--dequantization=variational"])),
        &["variational", "uniform, importance"],
    );
    let noise: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin()).collect();
    write(at, "floats.npy", npy("<f4", "(1, 64)", &le(&noise)));
    refused(
        at,
        &strs(&digits("floats.npy", &["--dequantization=uniform"])),
        &["floats.npy", "holds floats"],
    );
}

#[test]
fn conventions_are_columns_where_they_apply() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", npy("|u1", "(2, 64)", &whole(2)));
    flowgauge(
        at,
        &strs(&digits(
            "x.npy",
            &["--convention=bits-per-dim", "--convention=flow_matching"],
        )),
    )
    .is(0);
    let row = &table(at)[1];
    assert_eq!(row["log_likelihood"], row["flow_matching"]);
    let bits = |column: &str| row[column].parse::<f64>().expect(column);
    assert!((bits("bits-per-dim") - bits("bits_per_dim")).abs() < 1e-12);
    std::fs::remove_file(at.join("out.csv")).expect("written");
    refused(
        at,
        &strs(&digits("x.npy", &["--convention=score_sde"])),
        &["score_sde", "256 levels", "17"],
    );
    refused(
        at,
        &strs(&digits("x.npy", &["--convention=vdm"])),
        &["vdm", "nats-per-dim", "ffjord"],
    );
}

/// A run: every summary under every convention, two bounds of one file side by side and never mixed.
#[test]
fn a_run_prints_its_conventions_and_keeps_bounds_apart() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", npy("|u1", "(4, 64)", &whole(4)));
    let entry = |rest: &str| {
        format!(
            "  - {{model: '{}', data: x.npy, profile: 2{rest}}}\n",
            card("digits")
        )
    };
    let config = format!(
        "name: a\nestimators: [exact]\nsolvers: [{{euler: {{steps: 2}}}}]\nlikelihood:\n{}{}{}",
        entry(""),
        entry(", dequantization: {uniform: {repeats: 3}}"),
        entry(", dequantization: {importance: {draws: 3}}"),
    );
    write(at, "c.yaml", config);
    flowgauge(
        at,
        &["run", "c.yaml", "--out=run", "--quiet", "--threads=1"],
    )
    .is(0);
    let read = |name: &str| -> Vec<std::collections::BTreeMap<String, String>> {
        let mut reader = csv::Reader::from_path(at.join("run/tables").join(name)).expect(name);
        reader
            .deserialize()
            .collect::<Result<_, _>>()
            .expect("rows")
    };
    let summary = read("summary.csv");
    let bounds: Vec<_> = summary
        .iter()
        .map(|r| (r["dataset"].as_str(), r["bound"].as_str(), &*r["draws"]))
        .collect();
    assert_eq!(
        bounds,
        [
            ("x.npy", "elbo", "1"),
            ("x.npy [3 draws]", "elbo", "3"),
            ("x.npy [importance, 3 draws]", "iw-elbo", "3")
        ]
    );
    let nats = |i: usize| summary[i]["nats"].parse::<f64>().expect("nats");
    assert!(nats(2) > nats(1));
    let conventions = read("conventions.csv");
    assert_eq!(conventions.len(), 3 * 7);
    for row in &conventions {
        let of = summary
            .iter()
            .find(|s| s["dataset"] == row["dataset"])
            .expect("its summary");
        match row["convention"].as_str() {
            "bits-per-dim" => assert_eq!(row["value"][..12], of["bits_per_dim"][..12]),
            "nats" | "flow_matching" => assert_eq!(row["value"], of["nats"]),
            "nats-per-dim" => assert_eq!(row["value"][..12], of["nats_per_dim"][..12]),
            _ => assert!(
                row["value"].is_empty() && row["reason"].contains("17"),
                "{row:?}"
            ),
        }
        assert_eq!(row["bound"], of["bound"]);
    }
    let page = std::fs::read_to_string(at.join("run/index.html")).expect("a page");
    for words in [
        "Under named conventions",
        "score_sde",
        "iw-elbo of 3 draws",
        "does not apply",
    ] {
        assert!(page.contains(words), "{words}");
    }
}
