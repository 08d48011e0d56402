//! Arrays are held against shapes, wherever one is read: equal, flat or equal up to axes of length 1, and nothing
//! else. Files of several arrays, and bytes into extractors.

use std::collections::BTreeSet;
use std::path::Path;

use ndarray::{Array1, Array2, ArrayD, Axis, IxDyn};
use ndarray_npy::{NpzWriter, WritableElement, read_npy, write_npy};
use serde_json::Value;

use super::cli::{Done, card, command, finish, flowgauge, folder, models, refused};

pub(crate) const N: usize = 6;
const SHAPE: [usize; 3] = [3, 8, 8];

/// Mean and deviation of every number's law, as `scripts/make_shapes.py` has them.
fn law() -> (ArrayD<f64>, ArrayD<f64>) {
    let place = Array1::from_iter(0..192u32)
        .into_shape_with_order(IxDyn(&SHAPE))
        .expect("192 numbers");
    (
        place.mapv(|i| (f64::from(i % 7) - 3.0) / 16.0),
        place.mapv(|i| 0.05 + f64::from(i % 11) / 100.0),
    )
}

/// Images of the law, channels first; some lie outside the card's range, which likelihoods of them allow.
pub(crate) fn images() -> ArrayD<f32> {
    let (mean, std) = law();
    let draw = |i: usize| 2.0 * ((i * 7919 + 13) as f64).sin();
    let image = |i: usize| {
        let each = mean.iter().zip(&std).enumerate();
        each.map(move |(j, (m, s))| (m + s * draw(193 * i + j)) as f32)
            .collect::<Vec<_>>()
    };
    let all: Vec<f32> = (0..N).flat_map(image).collect();
    ArrayD::from_shape_vec(IxDyn(&[N, 3, 8, 8]), all).expect("images")
}

/// The card, its networks and its maps, in a folder.
pub(crate) fn model(at: &Path) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/shapes");
    for file in std::fs::read_dir(shipped).expect("the networks").flatten() {
        std::fs::copy(file.path(), at.join(file.file_name())).expect("copied");
    }
    let card = "name: images\nshape: [3, 8, 8]\nnetwork: {file: denoiser.onnx, inputs: {x: x, time: sigma}, \
        output: denoised, prediction: denoised, time: {feed: sigma}}\n\
        path: {kind: edm, sigma_min: 0.02, sigma_max: 20.0}\ndata: {range: [-1, 1], levels: 256}\n\
        flow_maps:\n  m: {file: map.onnx, inputs: {x: x, from: t, to: s}, outputs: {velocity: u, divergence: d}}\n";
    std::fs::write(at.join("card.yaml"), card).expect("written");
}

fn channels_last<T: Clone>(images: &ArrayD<T>) -> ArrayD<T> {
    images
        .clone()
        .permuted_axes(IxDyn(&[0, 2, 3, 1]))
        .as_standard_layout()
        .into_owned()
}

fn shaped<T: Clone>(images: &ArrayD<T>, shape: &[usize]) -> ArrayD<T> {
    images
        .to_shape(IxDyn(shape))
        .expect("as many numbers")
        .into_owned()
}

/// The same images in every form, with whether it fits, and words of the refusal where it does not.
fn forms(at: &Path) -> Vec<(&'static str, Option<&'static [&'static str]>)> {
    let right = images();
    type Form = (&'static str, ArrayD<f32>, Option<&'static [&'static str]>);
    let forms: [Form; 6] = [
        ("right.npy", right.clone(), None),
        ("flat.npy", shaped(&right, &[N, 192]), None),
        ("ones.npy", shaped(&right, &[N, 1, 3, 8, 8, 1]), None),
        (
            "last.npy",
            channels_last(&right),
            Some(&["[8, 8, 3]", "channels last", "NHWC"]),
        ),
        (
            "product.npy",
            shaped(&right, &[N, 12, 16]),
            Some(&["[12, 16]", "nothing says in which order"]),
        ),
        (
            "narrow.npy",
            right
                .slice(ndarray::s![.., .., .., ..7])
                .to_owned()
                .into_dyn(),
            Some(&["[3, 8, 7]", "168"]),
        ),
    ];
    forms
        .into_iter()
        .map(|(name, values, words)| {
            write_npy(at.join(name), &values).expect("written");
            (name, words)
        })
        .collect()
}

/// Where arrays are read: the key or flag, and the call with a file there and a layout said of it.
pub(crate) type Place = (&'static str, fn(&Path, &str, Option<&str>) -> Vec<String>);

pub(crate) const PLACES: [Place; 17] = [
    ("likelihood --data", |_, file, layout| {
        let args = "likelihood --model card.yaml --divergence exact --solver {euler:{steps:1}} --lattice allow --data";
        call(args, file, layout.map(str::to_owned))
    }),
    ("sample --noise", |_, file, layout| {
        call(
            "sample --model card.yaml --sampler {euler:{steps:2}} --noise",
            file,
            layout.map(str::to_owned),
        )
    }),
    ("metrics --generated", |_, file, layout| {
        metrics("generated", file, layout, "")
    }),
    ("metrics --reference", |_, file, layout| {
        metrics("reference", file, layout, "")
    }),
    ("metrics --floor", |_, file, layout| {
        metrics("floor", file, layout, "")
    }),
    ("metrics --train", |_, file, layout| {
        metrics("train", file, layout, "")
    }),
    ("metrics --test", |_, file, layout| {
        metrics("test", file, layout, "")
    }),
    ("an extractor's input", |_, file, layout| {
        metrics(
            "generated",
            file,
            layout,
            "--no-cache --extractor features.onnx",
        )
    }),
    ("an extractor's input of a reference", |_, file, layout| {
        metrics(
            "reference",
            file,
            layout,
            "--no-cache --extractor features.onnx",
        )
    }),
    ("likelihood.data", |at, file, layout| {
        config(
            at,
            "estimators: [exact]\nsolvers: [euler]\nlikelihood:\n  - {model: card.yaml, lattice: allow",
            "data",
            file,
            layout,
        )
    }),
    ("maps.data", |at, file, layout| {
        config(
            at,
            "maps:\n  - {model: card.yaml, map: m, samples: 2",
            "data",
            file,
            layout,
        )
    }),
    ("samples.noise", |at, file, layout| {
        samples(at, "noise", file, layout)
    }),
    ("samples.reference", |at, file, layout| {
        samples(at, "reference", file, layout)
    }),
    ("samples.floor", |at, file, layout| {
        samples(at, "floor", file, layout)
    }),
    ("samples.train", |at, file, layout| {
        samples(at, "train", file, layout)
    }),
    ("samples.test", |at, file, layout| {
        samples(at, "test", file, layout)
    }),
    ("samples.layout of one", |at, file, layout| {
        let layout = layout.map(|l| format!("{{reference: {l}}}"));
        samples(at, "reference", file, layout.as_deref())
    }),
];

fn call(args: &str, file: &str, layout: Option<String>) -> Vec<String> {
    let mut all: Vec<String> = args
        .split(' ')
        .filter(|a| !a.is_empty())
        .map(|a| a.replace(':', ": "))
        .collect();
    all.push(file.to_owned());
    all.extend(layout.map(|l| format!("--layout={l}")));
    let out = if all[0] == "sample" {
        "out.npy"
    } else {
        "out.csv"
    };
    all.extend(["--out".to_owned(), out.to_owned()]);
    all
}

/// The other sets are right.
fn metrics(set: &str, file: &str, layout: Option<&str>, other: &str) -> Vec<String> {
    let others = ["generated", "reference"]
        .iter()
        .filter(|s| **s != set)
        .map(|s| format!("--{s} right.npy"));
    let others = others.collect::<Vec<_>>().join(" ");
    call(
        &format!("metrics --metric energy {other} {others} --{set}"),
        file,
        layout.map(str::to_owned),
    )
}

fn config(at: &Path, entry: &str, key: &str, file: &str, layout: Option<&str>) -> Vec<String> {
    let layout = layout.map_or(String::new(), |l| format!(", layout: {l}"));
    std::fs::write(
        at.join("config.yaml"),
        format!("name: it\n{entry}, {key}: {file}{layout}}}\n"),
    )
    .expect("written");
    ["plan", "config.yaml"].map(str::to_owned).to_vec()
}

fn samples(at: &Path, key: &str, file: &str, layout: Option<&str>) -> Vec<String> {
    let reference = if key == "reference" {
        ""
    } else {
        ", reference: right.npy"
    };
    let entry = format!(
        "samples:\n  - {{model: card.yaml, samplers: [{{euler: {{steps: 2}}}}], count: {N}, metrics: [energy]{reference}"
    );
    config(at, &entry, key, file, layout)
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn every_place_takes_what_fits_and_nothing_else() {
    let folder = folder();
    let at = folder.path();
    model(at);
    for (file, words) in forms(at) {
        for (place, args) in PLACES {
            let args = args(at, file, None);
            match words {
                None => drop(flowgauge(at, &strs(&args)).is(0)),
                Some(words) => {
                    let _ = ["out.csv", "out.npy", "out.floor.csv"]
                        .map(|out| std::fs::remove_file(at.join(out)));
                    refused(at, &strs(&args), words);
                    println!("{place}: {file} refused");
                }
            }
        }
    }
    for (place, args) in PLACES {
        let done = flowgauge(at, &strs(&args(at, "last.npy", Some("NHWC"))));
        assert!(
            done.is(0).stderr.contains("NHWC"),
            "{place}: {}",
            done.stderr
        );
        let _ =
            ["out.csv", "out.npy", "out.floor.csv"].map(|out| std::fs::remove_file(at.join(out)));
        refused(at, &strs(&args(at, "last.npy", Some("NHCW"))), &["layout"]);
        refused(at, &strs(&args(at, "last.npy", Some("HWC"))), &["layout"]);
    }
}

/// Flags and keys that name a file which is no array of samples.
const OTHERS: [&str; 15] = [
    "--ort-lib",
    "--font",
    "--png",
    "--claims",
    "--save-reference",
    "--model",
    "--extractor",
    "likelihood.model",
    "samples.model",
    "samples.extractor",
    "maps.model",
    "maps.map",
    "--out",
    // Their verdicts depend on the network; `readings.rs` and `samplers.rs` hold them against shapes.
    "inspect --data",
    "sample --step-noise",
];

#[test]
fn no_place_is_forgotten() {
    let at = Path::new(".");
    let known = |name: &str| PLACES.iter().any(|(place, _)| *place == name);
    let mut found = BTreeSet::new();
    for verb in [
        "run",
        "plan",
        "report",
        "verify",
        "gate",
        "likelihood",
        "sample",
        "metrics",
        "differentiate",
        "inspect",
    ] {
        let help = flowgauge(at, &[verb, "--help"]).is(0).stdout.clone();
        for line in help.lines().map(str::trim).filter(|l| l.starts_with("--")) {
            let (flag, value) = line.split_once(' ').unwrap_or((line, ""));
            let names_file = ["FILE", "NPY", "NPZ", "DATA", "ARRAY"]
                .iter()
                .any(|kind| value.contains(kind));
            let name = format!("{verb} {flag}");
            if names_file && !OTHERS.contains(&flag) && !OTHERS.contains(&name.as_str()) {
                found.insert(name);
            }
        }
    }
    assert!(found.len() >= 7, "{found:?}");
    let schema: Value =
        serde_json::from_str(&flowgauge(at, &["schema", "config"]).is(0).stdout).expect("JSON");
    for (entry, definition) in [
        ("likelihood", "LikelihoodEntry"),
        ("samples", "SamplesEntry"),
        ("maps", "MapsEntry"),
    ] {
        let keys = schema["$defs"][definition]["properties"]
            .as_object()
            .expect("the keys of an entry");
        for (key, form) in keys {
            let text = |v: &Value| {
                v == "string" || v.as_array().is_some_and(|a| a.contains(&"string".into()))
            };
            let name = format!("{entry}.{key}");
            if text(&form["type"])
                && form.get("enum").is_none()
                && key != "layout"
                && !OTHERS.contains(&name.as_str())
            {
                found.insert(name);
            }
        }
    }
    assert!(found.len() >= 14, "{found:?}");
    let unlisted: Vec<&String> = found.iter().filter(|name| !known(name)).collect();
    assert!(
        unlisted.is_empty(),
        "not held against shapes: {unlisted:?}; list them in PLACES, or in OTHERS"
    );
}

fn column(at: &Path, file: &str, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(at.join(file)).expect("a table");
    let place = text
        .lines()
        .next()
        .and_then(|l| l.split(',').position(|c| c == name))
        .expect("the column");
    text.lines()
        .skip(1)
        .map(|l| {
            l.split(',')
                .nth(place)
                .expect("a cell")
                .parse()
                .expect("a number")
        })
        .collect()
}

#[test]
fn every_form_that_is_read_has_the_known_density() {
    let folder = folder();
    let at = folder.path();
    model(at);
    forms(at);
    let (mean, std) = law();
    let (from, to) = (0.02f64, 20.0f64);
    let truth: Vec<f64> = (images().axis_iter(Axis(0)))
        .map(|image| {
            let each = image.iter().zip(&mean).zip(&std).map(|((x, m), s)| {
                let (near, far) = (s * s + from * from, s * s + to * to);
                let end = m + (f64::from(*x) - m) * (far / near).sqrt();
                0.5 * (far / near).ln()
                    - end * end / (2.0 * to * to)
                    - 0.5 * (std::f64::consts::TAU * to * to).ln()
            });
            each.sum()
        })
        .collect();
    for (file, layout) in [
        ("right.npy", None),
        ("flat.npy", None),
        ("ones.npy", None),
        ("last.npy", Some("--layout=nhwc")),
    ] {
        let mut args = vec![
            "likelihood",
            "--model",
            "card.yaml",
            "--divergence",
            "exact",
            "--data",
            file,
            "--out",
            "out.csv",
        ];
        args.extend([
            "--solver",
            "{dopri5: {rtol: 1e-7, atol: 1e-7}}",
            "--lattice",
            "allow",
        ]);
        args.extend(layout);
        flowgauge(at, &args).is(0);
        for (got, want) in column(at, "out.csv", "log_likelihood").iter().zip(&truth) {
            assert!((got - want).abs() < 2e-3, "{file}: {got} {want}");
        }
    }
}

#[test]
fn two_axes_are_read_row_by_row_where_flat_samples_are_wanted() {
    let folder = folder();
    let at = folder.path();
    let digits: ArrayD<u8> = read_npy(format!("{}/heldout.npy", models("digits"))).expect("digits");
    let few = digits.slice(ndarray::s![..5, ..]).to_owned().into_dyn();
    for (name, shape) in [
        ("flat.npy", &[5, 64][..]),
        ("rows.npy", &[5, 8, 8]),
        ("cubes.npy", &[5, 4, 4, 4]),
    ] {
        write_npy(at.join(name), &shaped(&few, shape)).expect("written");
    }
    let digits = card("digits");
    let usual = [
        "likelihood",
        "--model",
        &digits,
        "--divergence",
        "{hutchinson: {probes: 1}}",
        "--out",
        "out.csv",
    ];
    let read = |other: &[&str]| {
        let done = flowgauge(
            at,
            &[
                &usual[..],
                &["--solver", "{euler: {steps: 2}}", "--data"],
                other,
            ]
            .concat(),
        );
        done.is(0);
        (column(at, "out.csv", "log_likelihood"), done.stderr)
    };
    let (want, _) = read(&["flat.npy"]);
    let (rows, said) = read(&["rows.npy"]);
    assert!(
        rows == want && said.contains("[8, 8]") && said.contains("row by row"),
        "{said}"
    );
    assert_eq!(read(&["cubes.npy", "--layout", "NCHW"]).0, want);
    assert_ne!(read(&["rows.npy", "--layout", "NWH"]).0, want);
    std::fs::remove_file(at.join("out.csv")).expect("there");
    let more = [
        &usual[..],
        &["--solver", "{euler: {steps: 2}}", "--data", "cubes.npy"],
    ]
    .concat();
    refused(at, &more, &["[4, 4, 4]", "[64]", "--layout NCHW"]);
}

fn npz<T: WritableElement>(
    at: &Path,
    name: &str,
    arrays: &[(&str, ArrayD<T>)],
    labels: &[(&str, ArrayD<i64>)],
    first: bool,
) {
    let mut file = NpzWriter::new(std::fs::File::create(at.join(name)).expect("a file"));
    for (key, values) in labels.iter().filter(|_| first) {
        file.add_array(*key, values).expect("written");
    }
    for (key, values) in arrays {
        file.add_array(*key, values).expect("written");
    }
    for (key, values) in labels.iter().filter(|_| !first) {
        file.add_array(*key, values).expect("written");
    }
    file.finish().expect("written");
}

fn likelihood(at: &Path, other: &[&str]) -> Done {
    let mut args = vec![
        "likelihood",
        "--model",
        "card.yaml",
        "--divergence",
        "exact",
        "--solver",
        "{euler: {steps: 2}}",
    ];
    args.extend(["--out", "out.csv"]);
    args.extend(other);
    flowgauge(at, &args)
}

#[test]
fn files_of_several_arrays_are_known_or_named() {
    let folder = folder();
    let at = folder.path();
    model(at);
    let bytes = images().mapv(|v| ((v + 2.0) * 60.0).clamp(0.0, 255.0) as u8);
    let labels = Array1::from_iter(0..N as i64).into_dyn();
    write_npy(at.join("bytes.npy"), &bytes).expect("written");
    let read = |file: &str, other: &[&str]| {
        let done = likelihood(at, &[&["--data", file], other].concat());
        done.is(0);
        (
            std::fs::read_to_string(at.join("out.csv")).expect("a table"),
            done.stderr,
        )
    };
    let (plain, silent) = read("bytes.npy", &[]);
    assert!(!silent.contains("bytes.npy"), "{silent}");
    // As samplers of guided diffusion write them, and as data sets come.
    npz(
        at,
        "adm.npz",
        &[("arr_0", channels_last(&bytes))],
        &[("arr_1", labels.clone())],
        false,
    );
    npz(
        at,
        "set.npz",
        &[("images", bytes.clone())],
        &[("labels", labels.clone())],
        false,
    );
    npz(at, "one.npz", &[("anything", bytes.clone())], &[], false);
    let (table, said) = read("adm.npz", &["--layout", "NHWC"]);
    assert!(
        table == plain && said.contains("`arr_0`") && said.contains("`arr_1`"),
        "{said}"
    );
    let (table, said) = read("set.npz", &[]);
    assert!(table == plain && said.contains("`images`"), "{said}");
    for (file, other) in [
        ("set.npz", &["--quiet"][..]),
        ("set.npz:images", &[]),
        ("one.npz", &[]),
    ] {
        let (table, said) = read(file, other);
        assert!(table == plain && !said.contains(file), "{file}: {said}");
    }
    std::fs::remove_file(at.join("out.csv")).expect("there");
    let usual = [
        "likelihood",
        "--model",
        "card.yaml",
        "--divergence",
        "exact",
        "--solver",
        "euler",
        "--out",
        "out.csv",
    ];
    let wrong =
        |file: &str, words: &[&str]| refused(at, &[&usual[..], &["--data", file]].concat(), words);
    wrong("adm.npz", &["[8, 8, 3]", "--layout NHWC"]);
    npz(
        at,
        "first.npz",
        &[("images", bytes.clone())],
        &[("labels", labels.clone())],
        true,
    );
    wrong(
        "first.npz",
        &["labels [6]", "images [6, 3, 8, 8]", "FILE:images"],
    );
    npz(
        at,
        "two.npz",
        &[("a", bytes.clone()), ("b", bytes.clone())],
        &[],
        false,
    );
    wrong("two.npz", &["a [6, 3, 8, 8]", "b [6, 3, 8, 8]"]);
    wrong("two.npz:c", &["`c`", "a [6, 3, 8, 8]"]);
    // What a run took stands in its plan.
    let config = "name: it\nestimators: [{hutchinson: {probes: 1}}]\nsolvers: [{euler: {steps: 1}}]\n\
        likelihood:\n  - {model: card.yaml, data: adm.npz, layout: NHWC, samples: 2}\n";
    std::fs::write(at.join("config.yaml"), config).expect("written");
    flowgauge(at, &["run", "config.yaml", "--out", "run"])
        .is(0)
        .says(&["`arr_0`", "NHWC"]);
    for file in ["run/plan.json", "run/index.html"] {
        let text = std::fs::read_to_string(at.join(file)).expect("of the run");
        assert!(text.contains("arr_0") && text.contains("NHWC"), "{file}");
    }
    flowgauge(at, &["verify", "run", "--fraction", "1"]).is(0);
    std::fs::write(at.join("config.yaml"), config.replace(", layout: NHWC", "")).expect("written");
    refused(
        at,
        &["run", "config.yaml", "--out", "run"],
        &["likelihood.0", "--layout NHWC", "layout: NHWC"],
    );
}

#[test]
fn statistics_stand_for_their_samples_in_a_frechet_distance_alone() {
    let folder = folder();
    let at = folder.path();
    let draws = |n: usize, shift: f64| {
        Array2::from_shape_fn((n, 5), |(i, j)| {
            ((i * 5 + j) * (i + 3 * j + 1) % 211) as f64 / 50.0 + shift * j as f64
        })
    };
    let statistics = |x: &Array2<f64>| {
        let mean = x.mean_axis(Axis(0)).expect("rows");
        let centred = x - &mean;
        (
            mean.into_dyn(),
            (centred.t().dot(&centred) / (x.nrows() as f64 - 1.0)).into_dyn(),
        )
    };
    for (name, x) in [("a", draws(80, 0.0)), ("b", draws(60, 0.7))] {
        write_npy(at.join(format!("{name}.npy")), &x).expect("written");
        let (mu, sigma) = statistics(&x);
        npz(
            at,
            &format!("{name}_stats.npz"),
            &[("mu", mu.clone()), ("sigma", sigma.clone())],
            &[],
            false,
        );
        npz(
            at,
            &format!("{name}_turned.npz"),
            &[("sigma", sigma.clone()), ("mu", mu.clone())],
            &[],
            false,
        );
        let spatial = [
            ("mu", mu.clone()),
            ("sigma", sigma.clone()),
            ("mu_s", mu * 2.0),
            ("sigma_s", sigma * 4.0),
        ];
        npz(at, &format!("{name}_adm.npz"), &spatial, &[], false);
    }
    let usual = ["--metric", "frechet", "--out", "out.csv"];
    let measured = |a: &str, b: &str| {
        let done = flowgauge(
            at,
            &[&["metrics", "--generated", a, "--reference", b], &usual[..]].concat(),
        );
        done.is(0);
        (
            std::fs::read_to_string(at.join("out.csv")).expect("a table"),
            column_value(at),
            done.stderr,
        )
    };
    let cells = |table: &str| -> Vec<String> {
        let row = table.lines().nth(1).expect("a row");
        row.split(',').map(str::to_owned).collect()
    };
    let stderr = |table: &str| cells(table)[2].parse::<f64>().expect("a standard error");
    let (table, want, _) = measured("a.npy", "b.npy");
    let whole = stderr(&table);
    for (a, b, counts, lacks) in [
        ("a_stats.npz", "b_stats.npz", ",", "no standard error"),
        ("a_turned.npz", "b_adm.npz", ",", "no standard error"),
        (
            "a.npy",
            "b_stats.npz",
            "80,",
            "of the generated samples alone, not of the reference",
        ),
        (
            "a_stats.npz",
            "b.npy",
            ",60",
            "of the reference alone, not of the generated samples",
        ),
    ] {
        let (table, value, said) = measured(a, b);
        assert!(
            (value - want).abs() < 1e-9 * want,
            "{a} {b}: {value} {want}"
        );
        assert_eq!(cells(&table)[3..5].join(","), *counts, "{table}");
        assert!(
            said.contains(lacks) && table.contains(lacks),
            "{said} {table}"
        );
    }
    // The errors of both sides add up to that of the samples.
    let sides = [("a.npy", "b_stats.npz"), ("a_stats.npz", "b.npy")];
    let sides = sides.map(|(a, b)| stderr(&measured(a, b).0).powi(2));
    let sum = (sides[0] + sides[1]).sqrt();
    assert!((sum - whole).abs() < 1e-6 * whole, "{sides:?} {whole}");
    // Twice as far in every direction.
    let (_, value, _) = measured("a_adm.npz:mu_s", "b_adm.npz:mu_s");
    assert!((value - 4.0 * want).abs() < 1e-9 * want, "{value} {want}");
    std::fs::remove_file(at.join("out.csv")).expect("there");
    for metric in flowgauge::metric::Metric::NAMES
        .iter()
        .filter(|m| **m != "frechet")
    {
        let args = [
            "metrics",
            "--generated",
            "a.npy",
            "--reference",
            "b_stats.npz",
            "--metric",
            metric,
            "--out",
            "out.csv",
        ];
        refused(at, &args, &["b_stats.npz", "statistics", "frechet"]);
    }
    let (mu, sigma) = statistics(&draws(80, 0.0));
    let mut lopsided = sigma.clone();
    lopsided[[0, 1]] += 1.0;
    npz(
        at,
        "lopsided.npz",
        &[("mu", mu.clone()), ("sigma", lopsided)],
        &[],
        false,
    );
    npz(
        at,
        "negative.npz",
        &[("mu", mu.clone()), ("sigma", -&sigma)],
        &[],
        false,
    );
    npz(
        at,
        "holed.npz",
        &[("mu", mu * f64::NAN), ("sigma", sigma)],
        &[],
        false,
    );
    npz(
        at,
        "narrow.npz",
        &[
            ("mu", ArrayD::<f64>::zeros(IxDyn(&[3]))),
            ("sigma", Array2::eye(3).into_dyn()),
        ],
        &[],
        false,
    );
    for (file, words) in [
        ("lopsided.npz", &["lopsided.npz", "symmetric"][..]),
        ("negative.npz", &["negative.npz", "eigenvalue"]),
        ("holed.npz", &["holed.npz", "NaN"]),
        ("narrow.npz", &["5 numbers", "3"]),
    ] {
        refused(
            at,
            &[
                &["metrics", "--generated", "a.npy", "--reference", file],
                &usual[..],
            ]
            .concat(),
            words,
        );
    }
    let other = [
        "metrics",
        "--generated",
        "a.npy",
        "--reference",
        "b.npy",
        "--train",
        "b_stats.npz",
        "--out",
        "out.csv",
    ];
    refused(at, &other, &["b_stats.npz", "statistics"]);
    // Nothing else takes them for samples.
    model(at);
    refused(
        at,
        &[
            "sample",
            "--model",
            "card.yaml",
            "--sampler",
            "euler",
            "--noise",
            "b_stats.npz",
            "--out",
            "o.npy",
        ],
        &["statistics"],
    );
    refused(
        at,
        &strs(&samples(at, "reference", "b_stats.npz", None)),
        &["reference", "b_stats.npz", "statistics"],
    );
}

fn column_value(at: &Path) -> f64 {
    column(at, "out.csv", "value")[0]
}

#[test]
fn bytes_into_an_extractor_need_a_range() {
    let folder = folder();
    let at = folder.path();
    model(at);
    let bytes = |shift: usize| {
        ArrayD::from_shape_fn(IxDyn(&[20, 3, 8, 8]), |p| {
            ((p[0] * 31 + p[1] * 57 + p[2] * 11 + p[3] * p[0] * 7 + shift * p[2]) % 256) as u8
        })
    };
    let (a, b) = (bytes(0), bytes(9));
    let scaled = |x: &ArrayD<u8>| x.mapv(|v| f32::from(v) / 127.5 - 1.0);
    for (name, x) in [("a", &a), ("b", &b)] {
        write_npy(at.join(format!("{name}.npy")), x).expect("written");
        write_npy(at.join(format!("{name}_last.npy")), &channels_last(x)).expect("written");
        write_npy(at.join(format!("{name}_whole.npy")), &x.mapv(f32::from)).expect("written");
        write_npy(at.join(format!("{name}_scaled.npy")), &scaled(x)).expect("written");
        write_npy(at.join(format!("{name}_flat.npy")), &shaped(x, &[20, 192])).expect("written");
    }
    let args = |form: &str, extractor: &str, other: &[&str]| -> Vec<String> {
        let (a, b) = (format!("a{form}.npy"), format!("b{form}.npy"));
        let usual = [
            "metrics",
            "--generated",
            &a,
            "--reference",
            &b,
            "--extractor",
            extractor,
            "--metric",
            "frechet",
        ];
        [&usual[..], &["--no-cache", "--out", "out.csv"], other]
            .concat()
            .iter()
            .map(|s| s.to_string())
            .collect()
    };
    let value = |form: &str, extractor: &str, other: &[&str]| {
        let done = flowgauge(at, &strs(&args(form, extractor, other)));
        done.is(0);
        (column_value(at), done.stderr)
    };
    let want = value("_scaled", "features.onnx", &[]).0;
    let close = |got: f64| (got - want).abs() < 1e-4 * want;
    let range = &["--range", "-1,1"][..];
    for (form, extractor, other) in [
        ("", "features.onnx", range),
        ("_flat", "features.onnx", range),
        ("_flat", "features_flat.onnx", range),
        ("", "features_255.onnx", &[]),
        ("", "features_255.onnx", range),
        ("_scaled", "features_255.onnx", range),
        ("_whole", "features_255.onnx", &[]),
        ("_last", "features_mean.onnx", &[]),
        ("", "features_mean.onnx", &["--layout", "NCHW"]),
        (
            "_last",
            "features.onnx",
            &["--range", "-1,1", "--layout", "NHWC"],
        ),
    ] {
        let (got, said) = value(form, extractor, other);
        assert!(close(got), "{form} {extractor} {other:?}: {got} {want}");
        let own = extractor.contains("255") || extractor.contains("mean");
        assert_eq!(
            own,
            said.contains("scales images itself, 0 to -1 and 255 to 1"),
            "{said}"
        );
    }
    // As they are, where that is said.
    let raw = value("", "features.onnx", &["--range", "0,255"]).0;
    assert!(
        (raw / want / 127.5f64.powi(2) - 1.0).abs() < 1e-4,
        "{raw} {want}"
    );
    std::fs::remove_file(at.join("out.csv")).expect("there");
    for (form, extractor, words) in [
        (
            "",
            "features.onnx",
            &["features.onnx", "bytes", "--range"][..],
        ),
        (
            "_whole",
            "features.onnx",
            &["features.onnx", "bytes", "--range"],
        ),
        (
            "_flat",
            "features_flat.onnx",
            &["features_flat.onnx", "bytes", "--range"],
        ),
        (
            "_scaled",
            "features_255.onnx",
            &["features_255.onnx", "--range"],
        ),
        (
            "_last",
            "features_255.onnx",
            &["[3, any, any]", "--layout NHWC"],
        ),
        ("_flat", "features_255.onnx", &["[3, any, any]"]),
        (
            "",
            "features_mean.onnx",
            &["channels first", "--layout NCHW"],
        ),
        ("", "features_flat.onnx", &["--layout NCHW"]),
    ] {
        refused(at, &strs(&args(form, extractor, &[])), words);
    }
    let runtime = flowgauge::model::library::find_library(None).expect("ONNX Runtime");
    // In a run the card's range says it, and the scaling of the graph is met.
    let metrics_of = |extractor: &str| {
        let config = format!(
            "name: it\nsamples:\n  - {{model: card.yaml, samplers: [{{euler: {{steps: 2}}}}], count: 20, reference: a.npy, \
             floor: b.npy, extractor: {extractor}, metrics: [frechet]}}\n"
        );
        std::fs::write(at.join("config.yaml"), config).expect("written");
        let out = format!("run-{extractor}");
        let mut asked = command(at, &["run", "config.yaml", "--out", &out]);
        asked
            .env("FLOWGAUGE_CACHE", at.join("cache"))
            .env("ORT_DYLIB_PATH", &runtime.path);
        let done = finish(asked);
        done.is(0);
        let own = extractor.contains("255");
        assert_eq!(
            own,
            done.stderr.contains("scales images itself"),
            "{}",
            done.stderr
        );
        let plan = std::fs::read_to_string(at.join(&out).join("plan.json")).expect("a plan");
        assert_eq!(own, plan.contains("scales images itself"));
        column(at, &format!("{out}/tables/metrics.csv"), "value")
    };
    let (plain, own) = (metrics_of("features.onnx"), metrics_of("features_255.onnx"));
    // Dequantized into the range, or the bytes themselves: apart by half a level.
    assert!(
        plain
            .iter()
            .zip(&own)
            .all(|(a, b)| (a - b).abs() < 0.05 * a),
        "{plain:?} {own:?}"
    );
    assert!(
        (own[1] - want).abs() < 1e-4 * want || (own[0] - want).abs() < 1e-4 * want,
        "{own:?} {want}"
    );
    let bare = std::fs::read_to_string(at.join("card.yaml"))
        .expect("a card")
        .replace("data: {range: [-1, 1], levels: 256}\n", "");
    std::fs::write(at.join("card.yaml"), bare).expect("written");
    let config = std::fs::read_to_string(at.join("config.yaml")).expect("a config");
    let config = config
        .replace("a.npy", "a_whole.npy")
        .replace("b.npy", "b_whole.npy")
        .replace("features_255", "features");
    std::fs::write(at.join("config.yaml"), config).expect("written");
    refused(
        at,
        &["run", "config.yaml", "--out", "bare"],
        &["a_whole.npy", "features.onnx", "bytes"],
    );
}
