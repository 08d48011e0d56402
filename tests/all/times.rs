//! What networks are given besides the state: times that they can take and heed, constants of their inputs' width,
//! steps that their numbers resolve; and that all of it is on record.

use std::path::Path;

use crate::cli::{flowgauge, folder, le, npy, refused, write};

/// A network of a card, by the key that its roles stand under.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Role {
    Network,
    Head,
    ClosedForm,
    Map,
}

const ROLES: [Role; 4] = [Role::Network, Role::Head, Role::ClosedForm, Role::Map];

impl Role {
    fn key(self) -> &'static str {
        match self {
            Role::Network => "network",
            Role::Head => "divergence_heads.h",
            Role::ClosedForm => "closed_form",
            Role::Map => "flow_maps.m",
        }
    }

    /// The graph of this name that has the role's ports.
    fn file(self, name: &str) -> String {
        if self == Role::Map {
            format!("{name}_map.onnx")
        } else {
            format!("{name}.onnx")
        }
    }

    /// A card whose network in this role is `file` with more keys, and whose others are as they should be.
    fn card(self, file: &str, more: &str, path: &str) -> String {
        let of = |role: Role| match (role == self, role) {
            (true, _) => (file.to_owned(), more.to_owned()),
            (false, Role::Network) if path.contains("discrete") => {
                ("indexed.onnx".to_owned(), String::new())
            }
            (false, _) => ("heeding.onnx".to_owned(), String::new()),
        };
        let (network, more_of_it) = of(Role::Network);
        let mut text = format!(
            "name: it\nshape: [4]\nnetwork: {{file: {network}, inputs: {{x: x, time: t}}, output: y, prediction: \
             noise{more_of_it}}}\npath: {path}\n"
        );
        text += &match self {
            Role::Network => String::new(),
            Role::Head => {
                format!(
                    "divergence_heads: {{h: {{file: {file}, inputs: {{x: x, time: t}}, output: d{more}}}}}\n"
                )
            }
            Role::ClosedForm => format!(
                "closed_form: {{file: {file}, inputs: {{x: x, time: t}}, output: d{more}}}\n"
            ),
            Role::Map => {
                let outputs = "outputs: {velocity: y, divergence: d}";
                format!(
                    "flow_maps: {{m: {{file: {file}, inputs: {{x: x, from: t, to: s}}, {outputs}{more}}}}}\n"
                )
            }
        };
        text
    }
}

/// ln (2π)².
const NORMALIZER: f64 = 3.675_754_132_818_690_7;
const VP: &str = "{kind: vp}";
const DISCRETE: &str = "{kind: discrete}";

/// A folder with the graphs of `tests/data/times`, and four samples.
fn place() -> tempfile::TempDir {
    let folder = folder();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/times");
    for file in std::fs::read_dir(data).expect("test data").flatten() {
        std::fs::copy(file.path(), folder.path().join(file.file_name())).expect("copied");
    }
    let values: Vec<f32> = states().into_iter().map(|v| v as f32).collect();
    write(folder.path(), "x.npy", npy("<f4", "(4, 4)", &le(&values)));
    folder
}

/// Sixteen numbers of the size of the law's.
fn states() -> Vec<f64> {
    (0..16)
        .map(|i| f64::from((i * 37 + 11) % 23) / 8.0 - 1.5)
        .collect()
}

/// The column `log_likelihood` of `likelihood` under a card.
fn likelihoods(at: &Path, card: &str) -> Vec<f64> {
    write(at, "card.yaml", card);
    flowgauge(at, &likelihood("exact")).is(0);
    let mut reader = csv::Reader::from_path(at.join("o.csv")).expect("a table");
    reader
        .records()
        .map(|r| r.expect("a row")[1].parse().expect("a number"))
        .collect()
}

/// The sum of the column `evaluations` of the last table.
fn evaluations(at: &Path) -> u64 {
    let mut reader = csv::Reader::from_path(at.join("o.csv")).expect("a table");
    let place = reader
        .headers()
        .expect("a header")
        .iter()
        .position(|name| name == "evaluations")
        .expect("the column");
    reader
        .records()
        .map(|r| r.expect("a row")[place].parse::<u64>().expect("a count"))
        .sum()
}

fn likelihood(divergence: &str) -> Vec<&str> {
    let solver = "{dopri5: {rtol: 1e-6, atol: 1e-6}}";
    vec![
        "likelihood",
        "--model",
        "card.yaml",
        "--data",
        "x.npy",
        "--solver",
        solver,
        "--divergence",
        divergence,
        "--out",
        "o.csv",
    ]
}

#[test]
fn whole_numbers_are_fed_indices_or_nothing() {
    let folder = place();
    let at = folder.path();
    let config = "name: c\nestimators: [exact]\nsolvers: [euler]\nlikelihood: [{model: card.yaml, data: x.npy}]\n";
    write(at, "c.yaml", config);
    for role in ROLES {
        let file = role.file("indexed");
        let inspects = |time: &str, path: &str| {
            write(at, "card.yaml", role.card(&file, time, path));
        };
        for (time, path, words) in [
            (
                ", time: {feed: t}",
                DISCRETE,
                &["int64", "from 0.001 to 1", "feed: index"][..],
            ),
            (
                ", time: {feed: sigma}",
                DISCRETE,
                &["int64", "sigma from 0.01", "feed: index"],
            ),
            (
                ", time: {feed: t}",
                VP,
                &["int64", "from 0.00001 to 1", "scale: 999"],
            ),
            (
                ", time: {feed: index}",
                VP,
                &["feed: index", "`vp` has no indices", "scale: 999"],
            ),
            (", time: {feed: t, scale: 0}", VP, &["scale: 0"]),
            (", time: {feed: t, offset: .nan}", VP, &["offset: NaN"]),
        ] {
            inspects(time, path);
            let key = role.key();
            refused(at, &["inspect", "card.yaml"], &[&[key], words].concat());
            refused(at, &["plan", "c.yaml"], &[&[key], words].concat());
            if role == Role::Network {
                refused(at, &likelihood("exact"), &[&[key], words].concat());
            }
        }
        for (time, path) in [
            ("", DISCRETE),
            (", time: {feed: index}", DISCRETE),
            (", time: {feed: t, scale: 999}", VP),
            (", time: {feed: t, scale: 998, offset: 1}", VP),
        ] {
            inspects(time, path);
            flowgauge(at, &["inspect", "card.yaml"]).is(0);
        }
    }
    // Every path is without indices but one.
    for kind in ["edm", "ve", "vp", "sub-vp", "cosine", "flow-matching"] {
        write(
            at,
            "card.yaml",
            Role::Network.card(
                "heeding.onnx",
                ", time: {feed: index}",
                &format!("{{kind: {kind}}}"),
            ),
        );
        refused(
            at,
            &["inspect", "card.yaml"],
            &["network.time.feed: index", kind],
        );
    }
}

/// N(0, I) is its own noised law: log p is that of the standard normal, and only the mixing of indices stands between.
#[test]
fn times_between_indices_are_interpolated() {
    let folder = place();
    let at = folder.path();
    let card = |file: &str, time: &str| Role::Network.card(file, time, DISCRETE);
    let normal: Vec<f64> = states()
        .chunks(4)
        .map(|x| -0.5 * x.iter().map(|v| v * v).sum::<f64>() - NORMALIZER)
        .collect();
    let off = |found: &[f64], right: &[f64]| {
        found
            .iter()
            .zip(right)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max)
    };
    let mixed = likelihoods(at, &card("indexed.onnx", ", time: {interpolate: true}"));
    let calls_mixed = evaluations(at);
    let smooth = likelihoods(at, &card("smooth.onnx", ""));
    let calls_smooth = evaluations(at);
    for time in ["", ", time: {feed: index}"] {
        let by_default = likelihoods(at, &card("indexed.onnx", time));
        assert_eq!(by_default, mixed, "the default");
    }
    assert!(off(&mixed, &normal) < 1e-3, "{mixed:?}, right {normal:?}");
    // Between two indices both are evaluated.
    assert!(
        calls_mixed > 3 * calls_smooth / 2,
        "{calls_mixed} calls, {calls_smooth} in the graph"
    );
    // The same interpolation in the graph: velocities and Jacobian products are mixed as they are there.
    assert!(
        off(&mixed, &smooth) < 1e-4,
        "{mixed:?}, in the graph {smooth:?}"
    );
    // Whole indices alone: a solver of other times is refused, one of theirs is not.
    write(
        at,
        "card.yaml",
        card("indexed.onnx", ", time: {interpolate: false}"),
    );
    refused(
        at,
        &likelihood("exact"),
        &[
            "indexed.onnx",
            "takes only whole numbers",
            "interpolate: true",
        ],
    );
    // What takes fractions has nothing to interpolate.
    write(
        at,
        "card.yaml",
        card("smooth.onnx", ", time: {interpolate: true}"),
    );
    refused(
        at,
        &["inspect", "card.yaml"],
        &["network.time.interpolate", "takes fractions (float32)"],
    );
    write(
        at,
        "card.yaml",
        Role::Map.card("indexed_map.onnx", ", time: {interpolate: true}", DISCRETE),
    );
    refused(
        at,
        &["inspect", "card.yaml"],
        &["flow_maps.m.time.interpolate"],
    );
    // How times are given is said, by `inspect` and by `plan`.
    for (time, words) in [
        ("", "both outputs are evaluated and mixed"),
        (", time: {interpolate: true}", "evaluated and mixed"),
    ] {
        write(at, "card.yaml", card("indexed.onnx", time));
        let config = "name: c\nestimators: [exact]\nsolvers: [euler]\nlikelihood: [{model: card.yaml, data: x.npy}]\n";
        write(at, "c.yaml", config);
        for verb in [["inspect", "card.yaml"], ["plan", "c.yaml"]] {
            let said = flowgauge(at, &verb);
            assert!(
                said.is(0)
                    .stdout
                    .contains("network.inputs.time: index (int64), from 0 to 999"),
                "{}",
                said.stdout
            );
            assert!(said.stdout.contains(words), "{}", said.stdout);
        }
    }
}

#[test]
fn times_that_change_nothing_are_refused_unless_the_card_says_so() {
    let folder = place();
    let at = folder.path();
    for role in ROLES {
        let key = role.key();
        let (ignoring, heeding) = (role.file("ignoring"), role.file("heeding"));
        let input = if role == Role::Map {
            "input `s`"
        } else {
            "input `t`"
        };
        write(at, "card.yaml", role.card(&ignoring, "", VP));
        let words: [&str; 5] = [&ignoring, input, "changes nothing", key, "ignored: true"];
        match role {
            // A log-density may be the same at all times, as that of N(0, I) is here.
            Role::ClosedForm => drop(flowgauge(at, &["inspect", "card.yaml"]).is(0).says(&words)),
            _ => refused(at, &["inspect", "card.yaml"], &words),
        }
        write(
            at,
            "card.yaml",
            role.card(&ignoring, ", time: {ignored: true}", VP),
        );
        flowgauge(at, &["inspect", "card.yaml"]).is(0);
        write(
            at,
            "card.yaml",
            role.card(&heeding, ", time: {ignored: true}", VP),
        );
        refused(
            at,
            &["inspect", "card.yaml"],
            &[&heeding, "depends on", &format!("{key}.time.ignored")],
        );
        write(at, "card.yaml", role.card(&heeding, "", VP));
        flowgauge(at, &["inspect", "card.yaml"]).is(0);
    }
    write(at, "card.yaml", Role::Network.card("ignoring.onnx", "", VP));
    refused(at, &likelihood("exact"), &["input `t` changes nothing"]);
    // A velocity, a score and a `v` need not depend on time, and neither need their divergences.
    let steady = ["velocity", "score", "v"]
        .into_iter()
        .flat_map(|p| [(p, Role::Network), (p, Role::Head)]);
    for (prediction, role) in steady {
        let card = |more: &str| {
            let prediction = format!("prediction: {prediction}");
            let card = role
                .card("ignoring.onnx", more, VP)
                .replace("prediction: noise", &prediction);
            write(at, "card.yaml", card);
        };
        card("");
        let words = ["ignoring.onnx", "does not depend on time", "ignored: true"];
        flowgauge(at, &["inspect", "card.yaml"]).is(0).says(&words);
        card(", time: {ignored: true}");
        assert_eq!(flowgauge(at, &["inspect", "card.yaml"]).is(0).stderr, "");
    }
}

#[test]
fn one_number_is_not_spread_over_a_wide_input() {
    let folder = place();
    let at = folder.path();
    write(at, "context.npy", npy("<f4", "(3, 5)", &le(&[0.5; 15])));
    let one_hot = "[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]";
    for role in ROLES {
        let file = role.file("wide");
        let constants = |class: &str, context: &str, label: &str| {
            let more =
                format!(", constants: {{class: {class}, context: {context}, label: {label}}}");
            write(at, "card.yaml", role.card(&file, &more, VP));
        };
        constants(one_hot, "context.npy", "3");
        flowgauge(at, &["inspect", "card.yaml"]).is(0);
        let key = |name: &str| format!("{}.constants.{name}", role.key());
        constants("3", "context.npy", "3");
        refused(
            at,
            &["inspect", "card.yaml"],
            &[
                &key("class"),
                "one number",
                "takes [10]",
                "a list of 10",
                "[N, 1]",
            ],
        );
        constants(one_hot, "0", "3");
        refused(
            at,
            &["inspect", "card.yaml"],
            &[
                &key("context"),
                "one number",
                "takes [3, 5]",
                ".npy",
                "[N, 1]",
            ],
        );
        constants(one_hot, "false", "3");
        refused(
            at,
            &["inspect", "card.yaml"],
            &[&key("context"), "one number"],
        );
    }
}

#[test]
fn runs_with_other_constants_do_not_look_alike() {
    let folder = place();
    let at = folder.path();
    write(at, "context.npy", npy("<f4", "(3, 5)", &le(&[0.5; 15])));
    let config = "name: NAME\nestimators: [{hutchinson: {probes: 2}}]\nsolvers: [{euler: {steps: 2}}]\n\
                  likelihood: [{model: card.yaml, data: x.npy}]\n";
    let run = |label: &str| {
        let constants = format!(
            ", constants: {{class: [0, 0, 0, 1, 0, 0, 0, 0, 0, 0], context: context.npy, label: {label}}}"
        );
        write(
            at,
            "card.yaml",
            Role::Network.card("wide.onnx", &constants, VP),
        );
        write(
            at,
            "c.yaml",
            config.replace("NAME", &format!("with {label}")),
        );
        flowgauge(at, &["run", "c.yaml", "--quiet", "--out", label]).is(0);
        let plan: serde_json::Value = serde_json::from_slice(
            &std::fs::read(at.join(label).join("plan.json")).expect("a plan"),
        )
        .expect("JSON");
        (
            plan["trials"][0]["id"].to_string(),
            plan["models"][0]["constants"].to_string(),
        )
    };
    let (first, second) = (run("3"), run("7"));
    assert_ne!(first.0, second.0, "the trials' ids");
    assert!(
        first.1.contains("network.constants.label\",\"3\"") && second.1.contains("label\",\"7\""),
        "{first:?} {second:?}"
    );
    assert!(
        first.1.contains("context.npy, shape [3, 5], SHA-256 "),
        "{}",
        first.1
    );
    refused(
        at,
        &["run", "c.yaml", "--out", "3"],
        &["another plan", "constants", "there \"3\""],
    );
    flowgauge(at, &["report", "3", "7", "--out", "both"]).is(0);
    for (page, labels) in [("3", &["3"][..]), ("7", &["7"]), ("both", &["3", "7"])] {
        let page = std::fs::read_to_string(at.join(page).join("index.html")).expect("a page");
        for label in labels {
            let row =
                format!("<code>network.constants.label</code></td><td class=\"wide\">{label}</td>");
            assert!(page.contains(&row), "{label}");
        }
        assert!(page.contains("network.inputs.time") && page.contains("shape [3, 5]"));
    }
}

/// On a path whose noise level ends at 5 every format resolves some step.
#[test]
fn steps_that_the_networks_numbers_do_not_resolve_are_refused_with_the_smallest() {
    let folder = place();
    let at = folder.path();
    let with = |file: &str, path: &str, step: &str| -> Vec<String> {
        write(
            at,
            "card.yaml",
            Role::Network.card(file, ", time: {scale: 0.01}", path),
        );
        let spec = format!("{{finite-difference: {{step: {step}, probes: 2}}}}");
        let args = likelihood("SPEC")
            .into_iter()
            .map(|arg| arg.replace("SPEC", &spec));
        args.map(|arg| {
            if arg.starts_with("{dopri5") {
                "{euler: {steps: 4}}".to_owned()
            } else {
                arg
            }
        })
        .collect()
    };
    let wide = "{kind: edm, sigma_min: 5, sigma_max: 20}";
    let mut smallest = Vec::new();
    for (file, format, too_small) in [
        ("heeding_float64.onnx", "float64", "1e-16"),
        ("heeding.onnx", "float32", "1e-7"),
        ("heeding_float16.onnx", "float16", "1e-3"),
        ("heeding_cast.onnx", "float16", "1e-3"),
    ] {
        let args = with(file, wide, too_small);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        refused(
            at,
            &args,
            &["finite-difference", file, format, "expected at least"],
        );
        let said = flowgauge(at, &args).stderr;
        let least = said.trim().rsplit(' ').next().expect("a number").to_owned();
        let args = with(file, wide, &least);
        flowgauge(at, &args.iter().map(String::as_str).collect::<Vec<_>>()).is(0);
        smallest.push(least.parse::<f64>().expect("a number"));
        write(
            at,
            "c.yaml",
            format!(
                "name: c\nestimators: [{{finite-difference: {{step: {too_small}}}}}]\nsolvers: [euler]\n\
                 likelihood: [{{model: card.yaml, data: x.npy}}]\n"
            ),
        );
        refused(
            at,
            &["plan", "c.yaml"],
            &["likelihood.0", "finite-difference", "expected at least"],
        );
        for left in ["o.csv", "c.yaml"] {
            std::fs::remove_file(at.join(left)).expect("removed");
        }
    }
    assert!(
        smallest[0] < smallest[1] && smallest[1] < smallest[2] && smallest[2] == smallest[3],
        "{smallest:?}"
    );
    // Data without noise beside them, in half precision: no step is resolved.
    let args = with("heeding_float16.onnx", VP, "1");
    refused(
        at,
        &args.iter().map(String::as_str).collect::<Vec<_>>(),
        &["float16", "no step at all"],
    );
}
