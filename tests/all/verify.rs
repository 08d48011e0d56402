//! `verify` and `gate` through the program: a run is what its models make of its data, an edited number is found,
//! and published numbers pass, fail or stay open.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::cli::{
    card, command, config, finish, flowgauge, listing, models, refused, samples, write,
};
use super::resume::{read, run};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A run with every kind of work, all of it cheap.
fn everything(at: &Path) -> String {
    let (mixture, moons) = (card("mixture"), card("moons"));
    let (x, points) = (
        format!("{}/heldout.npy", models("mixture")),
        format!("{}/heldout.npy", models("moons")),
    );
    write(
        at,
        "all.yaml",
        format!(
            "name: all\nestimators: [exact, {{hutchinson: {{probes: 2}}}}]\nsolvers: [{{euler: {{steps: 2}}}}, dopri5]\nchunk: 4\n\
             likelihood:\n  - {{model: {mixture:?}, data: {x:?}, samples: 6, profile: 2, budget: {{samples: 2}},\n      \
             stein: {{head: closed-form, times: 2, samples: 30, features: 2}}}}\n  \
             - {{model: {moons:?}, data: {points:?}, samples: 4, solvers: [{{heun: {{steps: 2}}}}],\n      \
             estimators: [exact, {{flow-map: {{map: lsd, steps: 2}}}}], density: {{x: [-2, 2], y: [-2, 2], points: 4}}}}\n\
             samples:\n  - {{model: {mixture:?}, samplers: [{{heun: {{steps: 3}}}}, {{steindiff: {{sampler: {{euler: {{steps: 2}}}}, population: 20}}}}],\n      \
             baseline: {{heun: {{steps: 3}}}}, count: 40, reference: {x:?}, floor: {x:?}, metrics: [frechet]}}\n\
             maps:\n  - {{model: {moons:?}, data: {points:?}, map: lsd, steps: [1], samples: 4}}\n"
        ),
    )
}

/// The last line on standard output: how many rows of each verdict.
fn counts(stdout: &str) -> [usize; 3] {
    let line = stdout.lines().last().unwrap_or_default();
    let number = |word: &str| -> usize {
        let before = line.split(&format!(" {word}")).next().unwrap_or_default();
        before
            .rsplit(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("{line}: {word}"))
    };
    ["match", "drift", "mismatch"].map(number)
}

#[test]
fn a_run_is_what_its_models_make_of_its_data() {
    let folder = folder();
    let at = folder.path();
    let config = everything(at);
    run(at, &config, "out");
    let before = listing(at);
    let done = flowgauge(at, &["verify", "out", "--fraction", "1", "--threads", "1"]);
    let [same, drift, other] = counts(&done.is(0).stdout);
    assert_eq!((drift, other), (0, 0), "{}", done.stdout);
    for kind in [
        "hutchinson",
        "frechet",
        "lsd",
        "closed-form",
        "steindiff",
        "arrays/",
        ".steps.csv",
        "tables/summary.csv",
    ] {
        assert!(done.stdout.contains(kind), "{kind}: {}", done.stdout);
    }
    // Other batches round otherwise, and that is told apart from another number.
    let batched = flowgauge(at, &["verify", "out", "--fraction", "1", "--batch", "3"]);
    assert_eq!(counts(&batched.is(0).stdout)[2], 0, "{}", batched.stdout);
    // A part of it is that part of the same.
    let some = flowgauge(
        at,
        &[
            "verify",
            "out",
            "--seed",
            "3",
            "--out",
            "verdicts.csv",
            "--quiet",
        ],
    );
    let [few, drift, other] = counts(&some.is(0).stdout);
    assert!(
        few + drift < same / 2 && few > 10 && drift < few / 4 && other == 0,
        "{few} and {drift} of {same}"
    );
    assert_eq!(some.stderr, "");
    let table = read(&at.join("verdicts.csv"));
    assert!(
        table.starts_with("verdict,file,line,what,column,stored,recomputed,difference,tolerance\n"),
        "{table}"
    );
    assert_eq!(table.lines().count(), few + drift + 1);
    std::fs::remove_file(at.join("verdicts.csv")).expect("removed");
    assert_eq!(listing(at), before, "verify writes nothing but its table");
}

/// The row file of the first trial that has estimators, and its text.
fn row_file(run: &Path) -> (PathBuf, String) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(run.join("rows"))
        .expect("rows")
        .flatten()
        .map(|e| e.path())
        .collect();
    files.sort();
    let texts = files.into_iter().map(|f| (f.clone(), read(&f)));
    texts
        .into_iter()
        .find(|(_, text)| text.contains("prior_log_density"))
        .expect("log-likelihoods")
}

/// Changes the log-likelihood in the second row of a file; the new text.
fn edited(text: &str, change: impl Fn(f64) -> f64) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let column = lines[0]
        .split(',')
        .position(|c| c == "log_likelihood")
        .expect("the column");
    let mut cells: Vec<String> = lines[2].split(',').map(str::to_owned).collect();
    cells[column] = change(cells[column].parse().expect("a number")).to_string();
    lines[2] = cells.join(",");
    lines.join("\n") + "\n"
}

/// Writes a row file and its hash into the journal, as one who covers his tracks.
fn forge(run: &Path, file: &Path, text: &str) {
    let hash = |bytes: &[u8]| {
        Sha256::digest(bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    };
    let old = hash(&std::fs::read(file).expect("rows"));
    std::fs::write(file, text).expect("written");
    let journal = read(&run.join("journal.jsonl"));
    assert!(journal.contains(&old));
    std::fs::write(
        run.join("journal.jsonl"),
        journal.replace(&old, &hash(text.as_bytes())),
    )
    .expect("written");
}

#[test]
fn an_edited_number_is_found() {
    let folder = folder();
    let at = folder.path();
    run(at, &config(at), "out");
    let out = at.join("out");
    let (file, text) = row_file(&out);
    let place = format!(
        "rows/{}:3",
        file.file_name().expect("a name").to_string_lossy()
    );
    let last = |v: f64| v + 1e-9;
    // Its file is no longer what the journal says, so its trial is recomputed whole, however small the part asked for.
    std::fs::write(&file, edited(&text, |v| v + 0.1)).expect("written");
    let done = flowgauge(at, &["verify", "out", "--fraction", "1e-6"]);
    done.is(1);
    assert!(
        done.stdout.contains("is not what the run wrote"),
        "{}",
        done.stdout
    );
    let line = done
        .stdout
        .lines()
        .find(|l| l.contains(&place))
        .unwrap_or_else(|| panic!("{place}: {}", done.stdout));
    assert!(
        line.starts_with("  mismatch  ") && line.contains(" log_likelihood "),
        "{line}"
    );
    // The least change of the file is one, even where the number only drifts by it.
    std::fs::write(&file, edited(&text, last)).expect("written");
    let done = flowgauge(at, &["verify", "out", "--fraction", "1e-6"]);
    assert_eq!(counts(&done.is(1).stdout)[1..], [1, 1], "{}", done.stdout);
    std::fs::write(&file, &text).expect("written");
    // With the journal's hash forged, recomputing alone tells.
    forge(&out, &file, &edited(&text, |v| v + 0.1));
    let done = flowgauge(at, &["verify", "out", "--fraction", "1"]);
    assert!(
        counts(&done.is(1).stdout)[2] >= 1 && done.stdout.contains(&place),
        "{}",
        done.stdout
    );
    forge(&out, &file, &edited(&text, last));
    flowgauge(at, &["report", "out", "--quiet"]).is(0);
    let done = flowgauge(at, &["verify", "out", "--fraction", "1"]);
    assert_eq!(counts(&done.is(0).stdout)[1..], [1, 0], "{}", done.stdout);
    forge(&out, &file, &text);
    // A row more, a row less, a text instead of a number.
    let lines: Vec<&str> = text.lines().collect();
    for wrong in [
        lines[..lines.len() - 1].join("\n") + "\n",
        text.clone() + lines[1] + "\n",
        edited(&text, |_| f64::NAN),
    ] {
        forge(&out, &file, &wrong);
        let done = flowgauge(at, &["verify", "out", "--fraction", "1"]);
        assert!(counts(&done.is(1).stdout)[2] >= 1, "{}", done.stdout);
        forge(&out, &file, &text);
    }
    // What is published is the derived table.
    flowgauge(at, &["report", "out", "--quiet"]).is(0);
    let summary = read(&out.join("tables/summary.csv"));
    std::fs::write(
        out.join("tables/summary.csv"),
        summary.replacen("0.", "1.", 1),
    )
    .expect("written");
    let done = flowgauge(at, &["verify", "out"]);
    assert!(
        counts(&done.is(1).stdout)[2] == 1 && done.stdout.contains("tables/summary.csv:"),
        "{}",
        done.stdout
    );
    // Damage of every other kind is a mismatch too, in words.
    flowgauge(at, &["report", "out", "--quiet"]).is(0);
    for damage in [&b""[..], b"\xff\xfe,\n\x00", b"a,b\n\"x\n", b"trial\n1,2\n"] {
        std::fs::write(&file, damage).expect("written");
        assert!(counts(&flowgauge(at, &["verify", "out"]).is(1).stdout)[2] >= 1);
    }
    std::fs::remove_file(&file).expect("removed");
    assert!(
        flowgauge(at, &["verify", "out"])
            .is(1)
            .stdout
            .contains("is missing")
    );
}

#[test]
fn a_run_without_its_files_is_refused() {
    let folder = folder();
    let at = folder.path();
    std::fs::create_dir(at.join("empty")).expect("made");
    refused(
        at,
        &["verify", "empty"],
        &["empty/plan.json", "expected the directory of a run"],
    );
    refused(at, &["verify", "nowhere"], &["nowhere"]);
    refused(
        at,
        &["gate", "empty", "--claims", "x.yaml"],
        &["x.yaml", "claims cannot be read"],
    );
    refused(at, &["gate", "empty"], &["--claims"]);
    let inside = at.join("project");
    for file in [
        "card.yaml",
        "denoiser.onnx",
        "divergence.onnx",
        "log_density.onnx",
    ] {
        let bytes = std::fs::read(Path::new(&models("mixture")).join(file)).expect(file);
        write(&inside, &format!("models/{file}"), bytes);
    }
    write(&inside, "x.npy", samples(5, 8));
    write(
        &inside,
        "c.yaml",
        "name: test\nestimators: [exact]\nsolvers: [{euler: {steps: 2}}]\nlikelihood: [{model: models/card.yaml, data: x.npy, profile: 0}]\n",
    );
    flowgauge(
        at,
        &["run", "project/c.yaml", "--out", "project/out", "--quiet"],
    )
    .is(0);
    for wrong in ["0", "-1", "1.1", "x", "nan"] {
        refused(
            at,
            &["verify", "project/out", &format!("--fraction={wrong}")],
            &["--fraction", "above 0 and at most 1"],
        );
    }
    refused(
        at,
        &["verify", "project/out", "--out", "nowhere/"],
        &["nowhere"],
    );
    // A project may move as a whole, and be verified from anywhere; its config is not asked.
    std::fs::rename(&inside, at.join("moved")).expect("moved");
    std::fs::remove_file(at.join("moved/c.yaml")).expect("removed");
    flowgauge(
        Path::new("/"),
        &["verify", at.join("moved/out").to_str().expect("UTF-8")],
    )
    .is(0);
    let before = |name: &str| std::fs::read(at.join("moved").join(name)).expect(name);
    for (name, words) in [
        (
            "x.npy",
            &["x.npy", "not the data that the run used", "SHA-256"][..],
        ),
        ("models/denoiser.onnx", &["denoiser.onnx", "SHA-256"]),
        (
            "models/divergence.onnx",
            &["not the model that the run used", "divergence.onnx"],
        ),
        (
            "models/card.yaml",
            &["card.yaml", "not the model that the run used"],
        ),
    ] {
        let bytes = before(name);
        let changed = match name {
            "x.npy" => samples(4, 8),
            "models/card.yaml" => String::from_utf8_lossy(&bytes)
                .replace("std: 80.0", "std: 79.0")
                .into_bytes(),
            "models/divergence.onnx" => before("models/log_density.onnx"),
            _ => [&bytes[..], b"\0"].concat(),
        };
        write(&at.join("moved"), name, changed);
        refused(at, &["verify", "moved/out"], words);
        std::fs::remove_file(at.join("moved").join(name)).expect("removed");
        refused(
            at,
            &["verify", "moved/out"],
            &[name.rsplit('/').next().expect("a name")],
        );
        write(&at.join("moved"), name, bytes);
    }
    flowgauge(at, &["verify", "moved/out"]).is(0);
    // A plan of an earlier version says no places.
    let plan: serde_json::Value =
        serde_json::from_str(&read(&at.join("moved/out/plan.json"))).expect("a plan");
    let mut old = plan.clone();
    old.as_object_mut().expect("a plan").remove("places");
    let journal = read(&at.join("moved/out/journal.jsonl"));
    let without: Vec<&str> = journal.lines().filter(|l| !l.contains("planned")).collect();
    std::fs::write(
        at.join("moved/out/journal.jsonl"),
        without.join("\n") + "\n",
    )
    .expect("written");
    std::fs::write(at.join("moved/out/plan.json"), old.to_string()).expect("written");
    refused(
        at,
        &["verify", "moved/out"],
        &["plan.json", "where models and data lie"],
    );
    // Nor may one that was edited point beyond what was opened.
    let wild = plan
        .to_string()
        .replace("\"data\":0,\"solver\"", "\"data\":7,\"solver\"");
    assert_ne!(wild, plan.to_string());
    std::fs::write(at.join("moved/out/plan.json"), wild).expect("written");
    refused(
        at,
        &["verify", "moved/out"],
        &["plan.json", "does not have"],
    );
    // No trial, no rows.
    std::fs::write(at.join("moved/out/plan.json"), plan.to_string()).expect("written");
    std::fs::write(at.join("moved/out/journal.jsonl"), "").expect("written");
    refused(
        at,
        &["verify", "moved/out"],
        &["no trial of this run is finished"],
    );
}

#[test]
fn what_a_run_was_made_under_is_told() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    run(at, &config, "out");
    assert!(!read(&at.join("out/index.html")).contains("run under"));
    // A config that was edited in the run's own folder.
    let written = read(&at.join("out/config.yaml"));
    std::fs::write(
        at.join("out/config.yaml"),
        written.replace("probes: 2", "probes: 200"),
    )
    .expect("written");
    for verb in ["report", "verify"] {
        flowgauge(at, &[verb, "out"])
            .is(0)
            .says(&["config.yaml was changed after the run began"]);
    }
    assert!(read(&at.join("out/index.html")).contains("config.yaml was changed"));
    std::fs::write(at.join("out/config.yaml"), written).expect("written");
    assert_eq!(flowgauge(at, &["report", "out"]).is(0).stderr, "");
    // Trials of another runtime, the last of them lost and made again here.
    let journal = read(&at.join("out/journal.jsonl"));
    let here = journal
        .split("\"under\":\"")
        .nth(1)
        .and_then(|l| l.split('"').next())
        .expect("a runtime");
    let mut lines: Vec<String> = journal
        .lines()
        .map(|l| l.replace(here, "ONNX Runtime 1.0, cpu, elsewhere"))
        .collect();
    lines.pop();
    std::fs::write(at.join("out/journal.jsonl"), lines.join("\n") + "\n").expect("written");
    let again = flowgauge(at, &["run", &config, "--out", "out"]);
    again
        .is(0)
        .says(&["were finished under ONNX Runtime 1.0, cpu, elsewhere", here]);
    let page = read(&at.join("out/index.html"));
    assert!(page.contains("run under") && page.contains("ONNX Runtime 1.0, cpu, elsewhere"));
    flowgauge(at, &["verify", "out"])
        .is(0)
        .says(&["ONNX Runtime 1.0", here]);
}

#[test]
fn published_numbers_pass_fail_or_stay_open() {
    let folder = folder();
    let at = folder.path();
    run(at, &config(at), "out");
    let before = listing(at);
    let gate = |claims: &str| {
        write(at, "claims.yaml", format!("claims:\n{claims}\n"));
        let done = flowgauge(at, &["gate", "out", "--claims", "claims.yaml"]);
        std::fs::remove_file(at.join("claims.yaml")).expect("removed");
        done
    };
    let mut reader = csv::Reader::from_path(at.join("out/tables/summary.csv")).expect("a table");
    let columns = reader.headers().expect("columns").clone();
    let row = reader.records().next().expect("a row").expect("a row");
    let number = |name: &str| -> f64 {
        row[columns.iter().position(|c| c == name).expect(name)]
            .parse()
            .expect("a number")
    };
    let (nats, stderr) = (number("nats"), number("nats_stderr"));
    // Student's t of four degrees of freedom.
    let half = 2.776_445_105 * stderr;
    let summary = |rest: String| {
        format!("  - {{table: summary, where: {{estimator: exact}}, column: nats, {rest}}}\n")
    };
    let wide = summary(format!("value: {nats}, tolerance: {}", half * 1.001));
    let narrow = summary(format!("value: {nats}, tolerance: {}", half * 0.999));
    let far = summary(format!("value: {}, tolerance: {half}", nats + 3.0 * half));
    let least = summary(format!(
        "at-least: {}, name: at least, source: '=README'",
        nats - 1.001 * half
    ));
    let frechet =
        "  - {table: metrics, where: {metric: frechet}, column: n_generated, value: 5, tolerance: 0}\n".to_owned();
    for (claims, code, line) in [
        (&[&wide][..], 0, "1 claims: 1 pass, 0 fail, 0 inconclusive"),
        (&[&narrow], 3, "1 claims: 0 pass, 0 fail, 1 inconclusive"),
        (&[&far], 1, "1 claims: 0 pass, 1 fail, 0 inconclusive"),
        (
            &[&wide, &least, &frechet],
            0,
            "3 claims: 3 pass, 0 fail, 0 inconclusive",
        ),
        (
            &[&wide, &narrow, &least],
            3,
            "3 claims: 2 pass, 0 fail, 1 inconclusive",
        ),
        (
            &[&narrow, &far, &least],
            1,
            "3 claims: 1 pass, 1 fail, 1 inconclusive",
        ),
    ] {
        let done = gate(&claims.iter().map(|c| c.as_str()).collect::<String>());
        assert_eq!(
            done.is(code).stdout.lines().last(),
            Some(line),
            "{}",
            done.stdout
        );
    }
    assert!(gate(&frechet).is(0).stdout.contains("by the value alone"));
    write(
        at,
        "claims.yaml",
        format!("confidence: 0.9\nclaims:\n{least}"),
    );
    flowgauge(
        at,
        &["gate", "out", "--claims", "claims.yaml", "--out", "v.csv"],
    )
    .is(0);
    let table = read(&at.join("v.csv"));
    assert!(table.starts_with(
        "verdict,claim,table,column,measured,stderr,low,high,claimed_low,claimed_high,confidence,"
    ));
    assert!(
        table.contains("pass,at least,summary,nats,") && table.contains(",0.9,interval,,README"),
        "{table}"
    );
    for left in ["claims.yaml", "v.csv"] {
        std::fs::remove_file(at.join(left)).expect("removed");
    }
    assert_eq!(listing(at), before, "gate writes nothing but its table");
    for (claims, words) in [
        ("", &["claims.yaml", "claims"][..]),
        (
            "  - {table: summary, column: nats, at-least: 0}",
            &[
                "claims.0.where: 2 rows of summary",
                "estimator (exact, hutchinson(probes=2))",
            ],
        ),
        (
            "  - {table: summary, where: {estimator: nope}, column: nats, at-least: 0}",
            &["claims.0.where.estimator", "`nope`", "exact"],
        ),
        (
            "  - {table: summary, where: {estimator: exact}, column: bpd, at-least: 0}",
            &["claims.0.column", "`bpd`", "bits_per_dim"],
        ),
        (
            "  - {table: nope, column: bpd, at-least: 0}",
            &["claims.0.table", "`nope`", "summary"],
        ),
        (
            "  - {table: summary, column: nats, atleast: 0}",
            &["atleast"],
        ),
        (
            "  - {table: summary, column: nats, at-least: .nan}",
            &["at-least: NaN"],
        ),
        (
            "  - {table: summary, column: nats}",
            &["claims.0.value: absent"],
        ),
        ("  - [", &["claims.yaml"]),
    ] {
        write(at, "wrong.yaml", format!("claims:\n{claims}\n"));
        refused(
            at,
            &["gate", "out", "--claims", "wrong.yaml", "--out", "v.csv"],
            &[
                &["wrong.yaml"],
                &words[usize::from(words[0] == "claims.yaml")..],
            ]
            .concat(),
        );
    }
    // Without its standard output's reader, and from a run that is not whole.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    write(at, "claims.yaml", format!("claims:\n{wide}"));
    let mut deaf = command(at, &["gate", "out", "--claims", "claims.yaml"]);
    deaf.stdout(writer);
    finish(deaf).is(0);
    let journal = read(&at.join("out/journal.jsonl"));
    let kept: Vec<&str> = journal.lines().collect();
    std::fs::write(
        at.join("out/journal.jsonl"),
        kept[..kept.len() - 1].join("\n") + "\n",
    )
    .expect("written");
    flowgauge(at, &["gate", "out", "--claims", "claims.yaml"])
        .is(0)
        .says(&["1 trials are outstanding"]);
}

/// A config of 240 samples, whose solver is measured without being asked for unless `budget` says otherwise.
fn unasked(at: &Path, name: &str, samples_of: usize, budget: &str) -> String {
    let mixture = card("mixture");
    write(at, "many.npy", samples(240, 8));
    write(
        at,
        name,
        format!(
            "name: unasked\nestimators: [exact, {{hutchinson: {{probes: 2}}}}]\nsolvers: [{{heun: {{steps: 4}}}}]\n\
             likelihood:\n  - {{model: {mixture:?}, data: many.npy, samples: {samples_of}, profile: 0{budget}}}\n"
        ),
    )
}

/// Fixed steps are measured by themselves where that is cheap, and the plan says so or says why not.
#[test]
fn a_solver_is_measured_without_being_asked_where_that_is_cheap() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let cheap = unasked(at, "cheap.yaml", 240, "");
    let planned = flowgauge(at, &["plan", &cheap]);
    assert!(
        planned
            .is(0)
            .stdout
            .contains("the solver's error on 16 samples, heun(steps=4)"),
        "{}",
        planned.stdout
    );
    let dear = unasked(at, "dear.yaml", 40, "");
    let planned = flowgauge(at, &["plan", &dear]);
    assert!(
        planned.is(0).stdout.contains("`budget: true` measures it"),
        "{}",
        planned.stdout
    );
    let without = unasked(at, "without.yaml", 240, ", budget: false");
    let planned = flowgauge(at, &["plan", &without]);
    assert!(
        !planned.is(0).stdout.contains("budget") && !planned.stdout.contains("error on"),
        "{}",
        planned.stdout
    );

    let done = flowgauge(at, &["run", &cheap, "--out", "cheap"]);
    assert!(
        done.is(0).stdout.contains("solver error, "),
        "{}",
        done.stdout
    );
    let mut reader = csv::Reader::from_path(at.join("cheap/tables/summary.csv")).expect("a table");
    let columns = reader.headers().expect("columns").clone();
    let place = |name: &str| columns.iter().position(|c| c == name).expect(name);
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().expect("rows");
    let exact = rows
        .iter()
        .find(|row| &row[place("estimator")] == "exact")
        .expect("the reference");
    let number = |name: &str| exact[place(name)].parse::<f64>().expect(name);
    assert!(
        number("solver_bias").abs() > number("solver_bias_stderr")
            && number("solver_bias_n") == 16.0
    );
    flowgauge(at, &["verify", "cheap", "--fraction", "1"]).is(0);
    let done = flowgauge(at, &["run", &without, "--out", "without"]);
    assert!(
        done.is(0).stdout.contains("solver error not measured"),
        "{}",
        done.stdout
    );
}

/// Directories whose tables and plans are of a version that measured less than this one does.
#[test]
fn an_earlier_versions_run_goes_on_and_is_verified() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    let without = unasked(at, "without.yaml", 240, ", budget: false");
    flowgauge(at, &["run", &without, "--out", "out"]).is(0);
    // Its config said nothing of a budget.
    let silent = unasked(at, "silent.yaml", 240, "");
    let lines = || {
        std::fs::read_to_string(at.join("out/journal.jsonl"))
            .expect("a journal")
            .lines()
            .count()
    };
    let before = lines();
    flowgauge(at, &["run", &silent, "--out", "out"]).is(0);
    assert_eq!(lines(), before, "nothing is added to what was begun");
    let path = at.join("out/tables/summary.csv");
    let mut reader = csv::Reader::from_path(&path).expect("a table");
    let columns = reader.headers().expect("columns").clone();
    let kept = |i: &usize| !columns[*i].starts_with("solver_bias") && &columns[*i] != "bias_n";
    let kept: Vec<usize> = (0..columns.len()).filter(kept).collect();
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer
        .write_record(kept.iter().map(|i| &columns[*i]))
        .expect("a header");
    for row in reader.records() {
        let row = row.expect("a row");
        writer
            .write_record(kept.iter().map(|i| &row[*i]))
            .expect("a row");
    }
    let text = String::from_utf8(writer.into_inner().expect("a table")).expect("text");
    std::fs::write(&path, &text).expect("written");
    flowgauge(at, &["verify", "out"]).is(0);
    // A number in it that the rows do not give is found all the same.
    std::fs::write(&path, text.replacen(",240,", ",239,", 1)).expect("written");
    flowgauge(at, &["verify", "out"]).is(1);
}
