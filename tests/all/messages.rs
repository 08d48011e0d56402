//! Messages: plain words, every fault at once, with its key and its line; and names by which kinds are known.

use std::path::Path;

use flowgauge::dequantization::Dequantization;
use flowgauge::divergence::DivergenceEstimator;
use flowgauge::metric::Metric;
use flowgauge::sample::Sampler;
use flowgauge::solve::Solver;
use flowgauge::{registry, yaml};
use serde_json::{Value, json};

use super::cli::{card, config, flowgauge, folder, models, refused, samples, write};

/// Words of parsers and of their libraries that no user should have to know.
const JARGON: &[&str] = &[
    "newtype",
    "untagged",
    "variant",
    "invalid type",
    "invalid value",
    "invalid length",
    "unit struct",
    "missing field",
    "unknown field",
    "duplicate field",
    "deserialize",
    "DuplicateKeyPolicy",
    "from_str",
    "serde",
    "usize",
    "u64",
    "i64",
    "f64",
    "Option<",
    "block mapping",
    "flow mapping",
    "scalar",
];

/// What standard error of a refused call says, held to the rules that every message keeps.
fn message(folder: &Path, args: &[&str]) -> String {
    refused(folder, args, &[]);
    let text = flowgauge(folder, args).stderr;
    for word in JARGON {
        assert!(!text.contains(word), "`{word}` in: {text}\n{args:?}");
    }
    for (one, next) in text.split(": ").zip(text.split(": ").skip(1)) {
        let last = one.rsplit(char::is_whitespace).next().unwrap_or_default();
        assert!(
            last.is_empty() || last != next.split(": ").next().unwrap_or_default(),
            "`{last}` twice: {text}"
        );
    }
    text
}

/// What is written, and words of the message.
type Entry = (&'static str, &'static [&'static str]);

/// Refused entries of each family.
const REFUSED: &[(&str, &[Entry])] = &[
    (
        "estimators",
        &[
            (
                "hutchinsen",
                &["unknown kind `hutchinsen`", "did you mean `hutchinson`?"],
            ),
            (
                "{hutchinson: {probs: 3}}",
                &["unknown key `probs`", "did you mean `probes`?"],
            ),
            ("{hutchinson: {probes: 0}}", &["probes is 0", "at least 1"]),
            (
                "{hutchinson: {probes: 100000000}}",
                &["100000000", "at most"],
            ),
            (
                "{hutchinson: {probes: x}}",
                &["probes", "x, expected a whole number of at least 0"],
            ),
            (
                "{hutchinson: {probes: -1}}",
                &["-1, expected a whole number of at least 0"],
            ),
            (
                "{hutchinson: {distribution: [1]}}",
                &["a list, expected one of rademacher"],
            ),
            (
                "{hutchinson: 8}",
                &["8, expected `key: value` entries: probes"],
            ),
            ("{hutch++: {matvecs: 2}}", &["matvecs is 2", "at least 3"]),
            (
                "{xtrace: {replicates: 0}}",
                &["replicates is 0", "at least 1"],
            ),
            ("{exact: {chunk: 0}}", &["chunk is 0", "at least 1"]),
            (
                "{finite-difference: {step: 2}}",
                &["step is 2", "at most 1"],
            ),
            ("{learned: {head: nope}}", &["`nope`"]),
            ("{flow-map: {map: nope}}", &["nope"]),
            ("[exact]", &["a list, expected a name"]),
        ],
    ),
    (
        "solvers",
        &[
            ("dopri", &["unknown kind `dopri`", "did you mean `dopri5`?"]),
            (
                "{euler: {stepz: 3}}",
                &["unknown key `stepz`", "did you mean `steps`?"],
            ),
            ("{euler: {steps: 0}}", &["steps is 0, expected at least 1"]),
            (
                "{euler: {steps: 100000000}}",
                &["steps is 100000000, expected at most 10000000"],
            ),
            ("{dopri5: {rtol: a}}", &["a, expected a number"]),
            ("{dopri5: {rtol: -1}}", &["rtol is -1"]),
            (
                "{dopri5: {max_steps: 0}}",
                &["max_steps is 0, expected at least 1"],
            ),
            (
                "{dopri5: {controller: {coefficients: [1, 2]}}}",
                &["2 entries, expected a list of 3"],
            ),
            (
                "{dopri5: {controller: {coefficients: [0, 0, 0]}}}",
                &["coefficients", "i above 0"],
            ),
            ("{dopri5: {controller: pd}}", &["unknown kind `pd`", "pid"]),
        ],
    ),
    (
        "samplers",
        &[
            ("hean", &["unknown kind `hean`", "did you mean `heun`?"]),
            (
                "{heun: {step: 3}}",
                &["unknown key `step`", "did you mean `steps`?"],
            ),
            ("{heun: {steps: 0}}", &["steps is 0"]),
            (
                "{heun: {steps: 100000000}}",
                &["steps is 100000000", "at most 1000000"],
            ),
            ("{heun: {rho: 0}}", &["rho is 0"]),
            (
                "{heun: {schedule: karas}}",
                &["unknown value `karas`", "did you mean `karras`?"],
            ),
            ("{unipc: {order: 4}}", &["4, expected 1, 2 or 3"]),
            (
                "{steindiff: {sampler: {heun: {steps: 0}}}}",
                &["steps is 0"],
            ),
            ("{steindiff: {probes: 0}}", &["probes is 0"]),
            ("{steindiff: {mode: nope}}", &["unknown value `nope`"]),
            ("{flow-map: {map: nope}}", &["nope"]),
        ],
    ),
    (
        "metrics",
        &[
            (
                "freshet",
                &["unknown kind `freshet`", "did you mean `frechet`?"],
            ),
            (
                "prdc",
                &["precision, recall, density, coverage, each an entry of its own"],
            ),
            (
                "{kernel: {subset: 3}}",
                &["unknown key `subset`", "did you mean `subsets`?"],
            ),
            ("{kernel: {subsets: 0}}", &["subsets is 0"]),
            ("{inception-score: {splits: 0}}", &["splits is 0"]),
            (
                "{inception-score: {of: nope}}",
                &["unknown value `nope`", "logits"],
            ),
            ("{precision: {k: 0}}", &["k is 0"]),
            (
                "{sliced-wasserstein: {projections: 0}}",
                &["projections is 0, expected at least 1"],
            ),
            ("{vendi: {q: 0}}", &["q is 0"]),
        ],
    ),
];

/// Every refusal of a family, from the command line and from a config, names the flag or the key once.
#[test]
fn refusals_name_their_flag_or_key_once() {
    let folder = folder();
    let at = folder.path();
    let config = config(at);
    let model = card("mixture");
    for (family, entries) in REFUSED {
        for (spec, words) in *entries {
            let (flag, args): (&str, Vec<&str>) = match *family {
                "estimators" => (
                    "--divergence",
                    vec![
                        "likelihood",
                        "--model",
                        &model,
                        "--data",
                        "x.npy",
                        "--out",
                        "o.csv",
                        "--solver",
                        "euler",
                    ],
                ),
                "solvers" => (
                    "--solver",
                    vec![
                        "likelihood",
                        "--model",
                        &model,
                        "--data",
                        "x.npy",
                        "--out",
                        "o.csv",
                        "--divergence",
                        "exact",
                    ],
                ),
                "samplers" => (
                    "--sampler",
                    vec![
                        "sample", "--model", &model, "--count", "2", "--out", "o.npy",
                    ],
                ),
                _ => (
                    "--metric",
                    vec![
                        "metrics",
                        "--generated",
                        "x.npy",
                        "--reference",
                        "x.npy",
                        "--out",
                        "o.csv",
                    ],
                ),
            };
            let given = format!("{flag}={spec}");
            let key = if ["samplers", "metrics"].contains(family) {
                "samples.0."
            } else {
                ""
            };
            let change = format!("{key}{family}=[{spec}]");
            for (text, named) in [
                (
                    message(at, &[&args[..], &[&given]].concat()),
                    flag.to_owned(),
                ),
                (
                    message(at, &["plan", &config, "--set", &change]),
                    format!("{key}{family}.0"),
                ),
            ] {
                assert!(text.contains(&named), "{named}: {text}");
                assert!(
                    words.iter().all(|w| text.contains(w)),
                    "{spec}: expected {words:?} in: {text}"
                );
            }
        }
    }
}

#[test]
fn a_metric_that_fails_while_computed_names_itself_once() {
    let folder = folder();
    write(folder.path(), "x.npy", samples(30, 8));
    let text = message(
        folder.path(),
        &[
            "metrics",
            "--generated",
            "x.npy",
            "--reference",
            "x.npy",
            "--out",
            "o.csv",
            "--metric",
            "inception-score",
        ],
    );
    assert!(
        text.contains("--metric inception-score: it needs class logits"),
        "{text}"
    );
}

#[test]
fn wrong_configs_are_refused_in_plain_words() {
    let folder = folder();
    let at = folder.path();
    let text = std::fs::read_to_string(at.join(config(at))).expect("a config");
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "name: test",
            "name: [a]",
            &["line 1", "name: a list, expected string"],
        ),
        (
            "name: test",
            "name:",
            &["line 1", "name: nothing, expected string"],
        ),
        ("name: test\n", "", &["missing key `name`"]),
        (
            "chunk: 2",
            "chunk: two",
            &[
                "line 4",
                "chunk: two, expected a whole number of at least 0",
            ],
        ),
        (
            "chunk: 2",
            "chunk: 2\nseed: {a: 1}",
            &["seed: `key: value` entries, expected a whole number"],
        ),
        ("chunk: 2", "chunk: 2\nchunk: 3", &["duplicate key `chunk`"]),
        (
            "chunk: 2",
            "chunk: 2\nchnk: 3",
            &["unknown key `chnk`", "did you mean `chunk`?"],
        ),
        (
            "profile: 1",
            "budget: some",
            &["budget: some, expected", "true or false"],
        ),
        (
            "profile: 1",
            "budget: {sample: 4}",
            &["unknown key `sample`", "did you mean `samples`?"],
        ),
        (
            "profile: 1",
            "stein: {heads: h}",
            &["unknown key `heads`", "did you mean `head`?"],
        ),
        (
            "profile: 1",
            "lattice: perhaps",
            &["unknown value `perhaps`", "refuse"],
        ),
        (
            "profile: 1",
            "density: {x: [0, 1, 2], y: [0, 1]}",
            &["3 entries, expected a list of 2"],
        ),
        (
            "profile: 1",
            "density: {x: [0, a], y: [0, 1]}",
            &["density.x.1: a, expected a number"],
        ),
        (
            "profile: 1",
            "dequantization: {uniform: {repeats: many}}",
            &["repeats: many, expected a whole number"],
        ),
        (
            "likelihood:",
            "likelihoods:",
            &["unknown key `likelihoods`", "did you mean `likelihood`?"],
        ),
        ("solvers: [", "solvers: [[", &["line"]),
        ("chunk: 2", "chunk: *none", &["line 4"]),
        ("chunk: 2", "chunk: \"2", &["line"]),
        ("chunk: 2", "\tchunk: 2", &["line"]),
    ];
    for (from, to, words) in cases {
        let from = if text.contains(from) {
            from
        } else {
            "chunk: 2"
        };
        let path = write(at, "wrong.yaml", text.replacen(from, to, 1));
        let found = message(at, &["plan", &path]);
        assert!(
            words.iter().all(|w| found.contains(w)),
            "{to}: expected {words:?} in: {found}"
        );
    }
}

/// A card beside its graph, in which something is replaced.
fn toy(at: &Path, name: &str, edits: &[(&str, &str)]) -> String {
    let graph = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hostile/toy.onnx");
    write(
        at,
        &format!("{name}/model.onnx"),
        std::fs::read(graph).expect("a graph"),
    );
    let text = format!(
        "name: {name}\nshape: [2]\nnetwork:\n  file: model.onnx\n  inputs: {{x: x, time: t}}\n  output: y\n  \
         prediction: velocity\npath: {{kind: flow-matching, t_min: 0.01, t_max: 0.9}}\n"
    );
    let text = edits.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    });
    write(at, &format!("{name}/card.yaml"), text)
}

#[test]
fn wrong_cards_and_claims_are_refused_in_plain_words() {
    let folder = folder();
    let at = folder.path();
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "shape: [2]",
            "shape: 2",
            &["line 2", "shape: 2, expected a list"],
        ),
        (
            "shape: [2]",
            "shape: [a]",
            &["shape.0: a, expected a whole number"],
        ),
        (
            "output: y",
            "outputs: y",
            &["unknown key `outputs`", "missing key `output`"],
        ),
        (
            "prediction: velocity",
            "prediction: speed",
            &["unknown value `speed`"],
        ),
        (
            "prediction: velocity",
            "prediction: velocityy",
            &["did you mean `velocity`?"],
        ),
        (
            "prediction: velocity",
            "prediction: {a: 1}",
            &["expected one of denoised"],
        ),
        (
            "kind: flow-matching",
            "kind: nowhere",
            &["unknown kind `nowhere`"],
        ),
        (
            "kind: flow-matching",
            "kinds: flow-matching",
            &["missing key `kind`"],
        ),
        (
            "t_min: 0.01",
            "tmin: 0.01",
            &["unknown key `tmin`", "did you mean `t_min`?"],
        ),
        (
            "t_min: 0.01",
            "t_min: low",
            &["t_min: low, expected a number"],
        ),
        (
            "path:",
            "data: {range: [0, 1], levels: 256.5}\npath:",
            &["levels: 256.5, expected a whole number"],
        ),
        (
            "path:",
            "prior: 3\npath:",
            &["prior: 3, expected `key: value` entries: std"],
        ),
        (
            "path:",
            "divergence_heads: {a: {file: f}}\npath:",
            &["divergence_heads.a", "missing key `inputs`"],
        ),
    ];
    for (from, to, words) in cases {
        let found = message(at, &["inspect", &toy(at, "toy", &[(from, to)])]);
        assert!(
            words.iter().all(|w| found.contains(w)),
            "{to}: expected {words:?} in: {found}"
        );
    }
    let claims: &[(&str, &[&str])] = &[
        ("claims: 3", &["claims: 3, expected a list"]),
        (
            "claims: [{tabel: summary}]",
            &["did you mean `table`?", "missing key `column`"],
        ),
        (
            "claims: [{table: a, column: b, at-least: x}]",
            &["at-least: x, expected a number"],
        ),
        (
            "claims: [{table: a, column: b, at-least: 1, where: {a: [1]}}]",
            &["claims.0.where.a: a list"],
        ),
        (
            "confidence: high\nclaims: []",
            &["confidence: high, expected a number"],
        ),
    ];
    for (text, words) in claims {
        let path = write(at, "claims.yaml", text);
        let found = message(at, &["gate", ".", "--claims", &path]);
        assert!(
            words.iter().all(|w| found.contains(w)),
            "{text}: expected {words:?} in: {found}"
        );
    }
}

/// Lines as an editor counts them, whatever stands above.
#[test]
fn faults_have_the_line_of_an_editor() {
    let folder = folder();
    let at = folder.path();
    let wrong = "name: a\nchunk: none\n";
    for (name, text, line) in [
        ("plain", wrong.to_owned(), 2),
        ("comments", format!("# one\n\n# two\n{wrong}"), 5),
        ("marker", format!("---\n{wrong}"), 3),
        ("mark", format!("\u{feff}{wrong}"), 2),
        ("windows", wrong.replace('\n', "\r\n"), 2),
        ("letters", format!("# ünï cödé 日本 🔑\n{wrong}"), 3),
        (
            "tab",
            format!("name: a\t\n# a\ttab\nseed: 3\t# tab\nchunk: none\n{}", ""),
            4,
        ),
        (
            "block",
            format!("estimators:\n  - exact\n\n  - euler:\n{wrong}"),
            6,
        ),
    ] {
        let path = write(at, &format!("{name}.yaml"), text);
        let found = message(at, &["plan", &path]);
        assert!(
            found.contains(&format!("line {line}, column 8: chunk: none")),
            "{name}: {found}"
        );
    }
    let path = write(at, "tabbed.yaml", "name: a\nsolvers:\n\t- euler\n");
    let found = message(at, &["plan", &path]);
    assert!(found.contains("line 3"), "{found}");
}

#[test]
fn all_faults_of_a_config_are_told_at_once() {
    let folder = folder();
    let at = folder.path();
    let model = card("mixture");
    write(at, "x.npy", samples(5, 8));
    let text = format!(
        "name: ../a\nsead: 3\nestimators: [exact, {{hutchinson: {{probs: 2}}}}, {{hutchinson: {{probes: 0}}}}]\n\
         solvers: [{{euler: {{steps: 100000000}}}}, hean]\nchunk: 0\nlikelihood:\n  \
         - {{model: {model:?}, data: missing.npy, samples: 0}}\n  - {{model: absent.yaml, data: x.npy}}\n  \
         - {{data: x.npy}}\n  - {{model: {model:?}, data: x.npy, samples: 99}}\nsamples:\n  \
         - {{model: {model:?}, samplers: [], count: 5, reference: gone.npy, metrics: [nope]}}\n"
    );
    let path = write(at, "all.yaml", text);
    let found = message(at, &["plan", &path]);
    for words in [
        "line 1, column 7: name: ",
        "line 2, column 1: unknown key `sead`",
        "line 3, column 35: estimators.1.hutchinson: unknown key `probs`",
        "estimators.2: hutchinson: probes is 0",
        "solvers.0: euler: steps is 100000000, expected at most 10000000",
        "solvers.1: unknown kind `hean`",
        "line 5, column 8: chunk: 0",
        "likelihood.0.data: missing.npy",
        "likelihood.0.samples: 0, expected at least 1",
        "likelihood.1.model: absent.yaml",
        "likelihood.2: missing key `model`",
        "likelihood.3.samples: 99, but x.npy has only 5",
        "samples.0.samplers: none",
        "samples.0.reference: gone.npy",
        "samples.0.metrics.0: unknown kind `nope`",
    ] {
        let (place, rest) = words.split_once(": ").unwrap_or(("", words));
        let there = found.contains(words) || (found.contains(rest) && !place.starts_with("line"));
        assert!(there, "expected `{words}` in: {found}");
    }
    let path = toy(
        at,
        "toy",
        &[
            ("shape: [2]", "shape: [0]"),
            ("output: y", "outputs: y"),
            ("t_min: 0.01", "t_mni: 1"),
        ],
    );
    let found = message(at, &["inspect", &path]);
    for words in [
        "3 faults",
        "unknown key `outputs`",
        "missing key `output`",
        "unknown key `t_mni`",
    ] {
        assert!(found.contains(words), "expected `{words}` in: {found}");
    }
    let path = toy(
        at,
        "toy",
        &[
            ("shape: [2]", "shape: [0]"),
            ("name: toy", "name: =1"),
            ("t_min: 0.01", "t_min: 0.95"),
            ("file: m", "file: ../m"),
        ],
    );
    let found = message(at, &["inspect", &path]);
    for words in [
        "4 faults",
        "line 1",
        "name",
        "line 2",
        "shape",
        "line 4",
        "network.file",
        "line 8",
        "path",
    ] {
        assert!(found.contains(words), "expected `{words}` in: {found}");
    }
}

/// Files that are given for others: each has its sentence, whatever its name says.
#[test]
fn files_in_the_place_of_others_are_called_what_they_are() {
    let folder = folder();
    let at = folder.path();
    let mixture = card("mixture");
    let config = config(at);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n";
    let onnx = std::fs::read(format!("{}/network.onnx", models("moons"))).or_else(|_| {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hostile/toy.onnx"))
    });
    let files: Vec<(&str, Vec<u8>, &str)> = vec![
        ("lfs", pointer.into(), "git lfs pull"),
        (
            "annex",
            b"/annex/objects/SHA256E-s3--0\n".to_vec(),
            "git annex get",
        ),
        (
            "page",
            b"<!DOCTYPE html>\n<html></html>".to_vec(),
            "web page",
        ),
        (
            "torch",
            [&b"PK\x03\x04"[..], &[0; 26], b"archive/data.pkl"].concat(),
            "PyTorch",
        ),
        ("pickle", b"\x80\x02}q\x00.".to_vec(), "pickle"),
        ("hdf", b"\x89HDF\r\n\x1a\n\x00\x00".to_vec(), "HDF5"),
    ];
    for (name, bytes, word) in &files {
        for ending in ["npy", "npz", "safetensors", "csv"] {
            let path = write(at, &format!("{name}.{ending}"), bytes);
            let args = [
                "metrics",
                "--generated",
                &path,
                "--reference",
                "x.npy",
                "--out",
                "o.csv",
            ];
            assert!(message(at, &args).contains(word), "{path}");
        }
        let path = write(at, &format!("{name}.onnx"), bytes);
        for args in [
            &["inspect", &path][..],
            &["differentiate", &path, "--out", "d.onnx"],
        ] {
            assert!(
                message(at, args).contains(word),
                "{args:?}: {}",
                message(at, args)
            );
        }
        let card = toy(at, "toy", &[]);
        write(at, "toy/model.onnx", bytes);
        assert!(
            message(at, &["inspect", &card]).contains(word),
            "{name} as a card's network"
        );
        let path = write(at, &format!("{name}.yaml"), bytes);
        for args in [
            &["inspect", &path][..],
            &["plan", &path],
            &["gate", ".", "--claims", &path],
        ] {
            assert!(message(at, args).contains(word), "{args:?}");
        }
    }
    write(at, "net.bin", onnx.expect("a graph"));
    write(
        at,
        "claims.yaml",
        "claims: [{table: a, column: b, at-least: 1}]\n",
    );
    write(at, "empty.yaml", "");
    for (args, words) in [
        (
            &["inspect", "net.bin"][..],
            &["it is an ONNX file", "card.yaml"][..],
        ),
        (&["plan", "net.bin"], &["it is an ONNX file", "a config"]),
        (&["inspect", "x.npy"], &["a file of data", "a model card"]),
        (&["plan", "x.npy"], &["a file of data", "a config"]),
        (
            &["plan", &mixture],
            &["it is a model card, expected a config"],
        ),
        (
            &["inspect", &config],
            &["it is a config, expected a model card"],
        ),
        (
            &["inspect", "claims.yaml"],
            &["it is a file of claims, expected a model card"],
        ),
        (
            &["plan", "claims.yaml"],
            &["it is a file of claims, expected a config"],
        ),
        (
            &["gate", ".", "--claims", &config],
            &["`likelihood` is no file of claims"],
        ),
        (
            &["inspect", "empty.yaml"],
            &["it is empty, expected a model card"],
        ),
        (&["plan", "empty.yaml"], &["it is empty, expected a config"]),
        (&["plan", "."], &["it is a folder, expected a config"]),
        (
            &["inspect", "."],
            &["it is a folder, expected a model card"],
        ),
    ] {
        let found = message(at, args);
        assert!(words.iter().all(|w| found.contains(w)), "{args:?}: {found}");
    }
}

/// Every entry of a family: its defaults, each number and flag of them changed, and what defaults leave out.
fn changed(defaults: Vec<Value>, more: Vec<Value>) -> Vec<Value> {
    let mut all = defaults.clone();
    for entry in &defaults {
        let (name, parameters) = entry
            .as_object()
            .and_then(|o| o.iter().next())
            .expect("an entry");
        for (key, value) in parameters.as_object().into_iter().flatten() {
            let other = match value {
                Value::Bool(flag) => json!(!flag),
                Value::Number(n) if n.is_u64() => json!(n.as_u64().expect("whole") % 3 + 1),
                Value::Number(n) => json!(n.as_f64().expect("a number") * 0.37 + 1e-7),
                _ => continue,
            };
            let mut parameters = parameters.clone();
            parameters[key] = other;
            all.push(json!({ name.as_str(): parameters }));
        }
    }
    all.extend(more);
    all
}

fn holds<T>(entries: Vec<Value>, label: impl Fn(&T) -> String)
where
    T: serde::de::DeserializeOwned
        + serde::Serialize
        + schemars::JsonSchema
        + PartialEq
        + std::fmt::Debug,
{
    for entry in entries {
        let Ok(value) = serde_json::from_value::<T>(entry.clone()) else {
            continue;
        };
        let text = label(&value);
        let back = yaml::from_yaml_str::<T>(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(back, value, "{text}");
        let listed = yaml::from_yaml_str::<Vec<T>>(&format!(
            "[{}]",
            serde_json::to_string(&text).expect("text")
        ));
        assert_eq!(listed.expect("a list"), [value], "{text}");
    }
}

fn values<T: serde::Serialize>(defaults: Vec<T>) -> Vec<Value> {
    defaults
        .iter()
        .map(|d| serde_json::to_value(d).expect("JSON"))
        .collect()
}

#[test]
fn labels_are_read_back() {
    let estimators: Vec<DivergenceEstimator> = DivergenceEstimator::names()
        .iter()
        .map(|n| serde_json::from_value((*n).into()).expect(n))
        .collect();
    holds::<DivergenceEstimator>(
        changed(
            values(estimators),
            vec![
                json!({"learned": {"head": "a head of mine"}}),
                json!({"hutchinson": {"probes": 3, "distribution": "sphere", "orthogonal": true}}),
                json!({"debiased": {"head": "other", "probes": 3}}),
                json!({"flow-map": {"map": "m", "steps": 2, "grid": "log-snr", "rule": "forward-average"}}),
            ],
        ),
        DivergenceEstimator::label,
    );
    holds::<Solver>(
        changed(
            values(Solver::defaults()),
            vec![
                json!({"euler": {"steps": 7, "grid": "karras"}}),
                json!({"dopri5": {"rtol": 1e-6, "atol": 1e-6}}),
                json!({"tsit5": {"controller": "pid", "max_steps": 9}}),
                json!({"dop853": {"controller": {"coefficients": [0.7, 0.4, 0.1]}}}),
            ],
        ),
        Solver::label,
    );
    holds::<Sampler>(
        changed(
            values(Sampler::defaults()),
            vec![
                json!({"heun": {"steps": 7, "schedule": "uniform", "s_max": 3.5, "variable": "sigma"}}),
                json!({"unipc": {"order": 2, "variant": "bh2"}}),
                json!({"flow-map": {"map": "m", "steps": 1, "guidance": {"step": 0.5, "prior": true}}}),
                json!({"flow-map": {"map": "m", "steps": 1, "guidance": {"step": -0.5, "prior": false}}}),
                json!({"steindiff": {"sampler": {"heun": {"steps": 4, "rho": 5.0}}, "mode": "literal", "gate": [0.5, 2.0]}}),
            ],
        ),
        Sampler::label,
    );
    let metric = |m: &Metric| {
        registry::kind_label(m.name(), m, &Metric::from_name(m.name()).expect("listed"))
    };
    holds::<Metric>(
        changed(
            values(Metric::defaults()),
            vec![
                json!({"kernel": {"subsets": 3, "subset_size": 5}}),
                json!({"inception-score": {"of": "logits"}}),
            ],
        ),
        metric,
    );
    let dequantization = |d: &Dequantization| {
        registry::kind_label(
            d.name(),
            d,
            &Dequantization::from_name(d.name()).expect("listed"),
        )
    };
    holds::<Dequantization>(
        changed(values(Dequantization::defaults()), Vec::new()),
        dequantization,
    );
}

#[test]
fn kinds_are_known_by_the_names_of_the_field() {
    fn same<T>(pairs: &[(&str, &str)])
    where
        T: serde::de::DeserializeOwned + schemars::JsonSchema + PartialEq + std::fmt::Debug,
    {
        for (other, name) in pairs {
            let read = |text: &str| {
                yaml::from_yaml_str::<T>(text).unwrap_or_else(|e| panic!("{text}: {e}"))
            };
            assert_eq!(read(other), read(name), "{other}");
        }
    }
    same::<Metric>(&[
        ("fid", "frechet"),
        ("FID", "frechet"),
        ("{kid: {subsets: 3}}", "{kernel: {subsets: 3}}"),
        ("is", "inception-score"),
        ("mmd", "mmd-rbf"),
        ("sliced_wasserstein", "sliced-wasserstein"),
    ]);
    same::<Sampler>(&[
        ("dpmpp_2m", "dpmpp-2m"),
        ("dpm++ 2m", "dpmpp-2m"),
        ("{dpmpp_3m: {steps: 4}}", "{dpmpp-3m: {steps: 4}}"),
        ("{heun: {s-churn: 3}}", "{heun: {s_churn: 3}}"),
    ]);
    same::<Solver>(&[
        ("rk45", "dopri5"),
        ("rk23", "bosh3"),
        (
            "dopri5(rtol=1e-6 atol=1e-6)",
            "{dopri5: {rtol: 1e-6, atol: 1e-6}}",
        ),
    ]);
    same::<DivergenceEstimator>(&[
        ("hutch_pp", "hutch++"),
        ("closed_form", "closed-form"),
        ("fd", "finite-difference"),
    ]);
    use flowgauge::flow::path::{Betas, ProbabilityPath};
    use flowgauge::flow::prediction::Prediction;
    same::<Prediction>(&[
        ("epsilon", "noise"),
        ("eps", "noise"),
        ("v_prediction", "v"),
        ("sample", "denoised"),
        ("x_start", "denoised"),
        ("flow", "velocity"),
    ]);
    same::<ProbabilityPath>(&[
        ("{kind: vpsde}", "{kind: vp}"),
        ("{kind: vesde}", "{kind: ve}"),
        ("{kind: subvpsde}", "{kind: sub-vp}"),
        ("{kind: rectified_flow}", "{kind: flow-matching}"),
        ("{kind: ot}", "{kind: flow-matching}"),
    ]);
    same::<Betas>(&[("{scaled_linear: [0.1, 0.2]}", "{scaled-linear: [0.1, 0.2]}")]);
}

/// `list` leaves no parameter of any kind out; the schemas that editors are given say what there is.
#[test]
fn list_shows_every_parameter_of_every_kind() {
    let at = folder();
    let list = flowgauge(at.path(), &["list"]).is(0).stdout.clone();
    let mut seen = 0;
    for file in ["config", "card"] {
        let text = flowgauge(at.path(), &["schema", file]).is(0).stdout.clone();
        let root: Value = serde_json::from_str(&text).expect("JSON");
        let mut found = Vec::new();
        kinds(&root, &root, &mut found);
        for (name, keys) in found {
            let lines: Vec<&str> = list
                .lines()
                .filter(|l| l.trim_start().split(' ').next() == Some(&name))
                .collect();
            assert!(!lines.is_empty(), "{name} in: {list}");
            for key in &keys {
                assert!(
                    lines.iter().any(|l| l.contains(&format!("{key}: "))),
                    "{name}.{key} in: {lines:?}"
                );
            }
            seen += keys.len();
        }
    }
    assert!(seen > 100, "{seen}");
    for words in [
        "also fid",
        "probes: 1",
        "rademacher | gaussian | sphere",
        "karras | log-snr",
        "logits | probabilities",
    ] {
        assert!(list.contains(words), "{words} in: {list}");
    }
}

/// Kinds with the keys of their parameters: entries of one key, and objects told apart by `kind`.
fn kinds(root: &Value, schema: &Value, found: &mut Vec<(String, Vec<String>)>) {
    let keys = |schema: &Value| -> Vec<String> {
        let place = schema["$ref"]
            .as_str()
            .map(|r| r.trim_start_matches('#').to_owned());
        let there = place.and_then(|p| root.pointer(&p)).unwrap_or(schema);
        there["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, _)| k.clone())
            .collect()
    };
    if schema["maxProperties"] == 1 {
        let (name, parameters) = schema["properties"]
            .as_object()
            .and_then(|p| p.iter().next())
            .expect("a kind");
        found.push((name.clone(), keys(parameters)));
    }
    if let Some(name) = schema["properties"]["kind"]["enum"][0].as_str() {
        found.push((
            name.to_owned(),
            keys(schema).into_iter().filter(|k| k != "kind").collect(),
        ));
    }
    match schema {
        Value::Object(parts) => parts.values().for_each(|part| kinds(root, part, found)),
        Value::Array(parts) => parts.iter().for_each(|part| kinds(root, part, found)),
        _ => {}
    }
}

/// A full disk is no fault of the input.
#[test]
fn a_full_disk_is_a_failure_while_running() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", samples(9, 8));
    let model = card("mixture");
    for args in [
        &[
            "likelihood",
            "--model",
            &model,
            "--data",
            "x.npy",
            "--divergence",
            "exact",
            "--solver",
            "euler",
        ][..],
        &[
            "sample",
            "--model",
            &model,
            "--sampler",
            "{heun: {steps: 3}}",
            "--count",
            "2",
        ],
        &[
            "metrics",
            "--generated",
            "x.npy",
            "--reference",
            "x.npy",
            "--metric",
            "energy",
        ],
    ] {
        let done = flowgauge(at, &[args, &["--out", "/dev/full"]].concat());
        done.is(1).says(&["/dev/full"]);
    }
}
