//! `flowgauge metrics` in full: orders, images, ranges, the floor, presets and what is kept between calls.

use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2, Array3, Axis, s};
use ndarray_npy::{read_npy, write_npy};

use super::cli::{Done, command, finish, flowgauge, refused, samples, write};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn digits(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models/digits")
        .join(name)
}

fn table(path: PathBuf) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(
        text.starts_with("metric,value,stderr,n_generated,n_reference,note\n"),
        "{text}"
    );
    text.lines()
        .skip(1)
        .map(|l| l.split(',').map(str::to_owned).collect())
        .collect()
}

fn call(at: &Path, other: &[&str]) -> Done {
    let mut args = vec!["metrics", "--quiet"];
    args.extend(other);
    flowgauge(at, &args)
}

#[test]
fn neither_order_nor_threads_nor_batch_change_a_digit() {
    let folder = folder();
    let at = folder.path();
    let (held, train): (Array2<u8>, Array2<u8>) = (
        read_npy(digits("heldout.npy")).expect("digits"),
        read_npy(digits("train.npy")).expect("digits"),
    );
    write_npy(at.join("a.npy"), &held).expect("written");
    write_npy(at.join("b.npy"), &train.slice(s![..310, ..])).expect("written");
    write_npy(at.join("c.npy"), &train.slice(s![400..650, ..])).expect("written");
    write_npy(at.join("a_back.npy"), &held.slice(s![..;-1, ..])).expect("written");
    write_npy(at.join("b_back.npy"), &train.slice(s![..310;-1, ..])).expect("written");
    let extractor = digits("features.onnx").display().to_string();
    let read = |a: &str, b: &str, other: &[&str]| {
        let mut args = vec![
            "--generated",
            a,
            "--reference",
            b,
            "--extractor",
            &extractor,
            "--test",
            "c.npy",
            "--out",
            "out.csv",
            "--no-cache",
        ];
        args.extend(other);
        call(at, &args).is(0);
        std::fs::read_to_string(at.join("out.csv")).expect("a table")
    };
    let first = read("a.npy", "b.npy", &["--threads", "1"]);
    assert_eq!(
        first,
        read(
            "a_back.npy",
            "b_back.npy",
            &["--threads", "2", "--batch", "7"]
        )
    );
    // All that are listed, the extractor's logits included.
    let listed = flowgauge::metric::Metric::NAMES;
    let names: Vec<String> = table(at.join("out.csv"))
        .into_iter()
        .map(|l| l[0].clone())
        .collect();
    assert_eq!(names, listed);
}

#[test]
fn images_and_floats_meet_in_bytes() {
    let folder = folder();
    let at = folder.path();
    // Grey images as a folder of PNGs, and as floats in [-1, 1] up to half a level beside the bytes.
    let bytes = Array3::from_shape_fn((6, 4, 5), |(i, y, x)| (37 * i + 11 * y + 53 * x) as u8);
    std::fs::create_dir(at.join("images")).expect("made");
    for (i, image) in bytes.outer_iter().enumerate() {
        let grey =
            image::GrayImage::from_fn(5, 4, |x, y| image::Luma([image[[y as usize, x as usize]]]));
        grey.save(at.join(format!("images/{i}.png")))
            .expect("written");
    }
    let floats = bytes.mapv(|b| ((f32::from(b) + 0.3) / 127.5 - 1.0).min(1.0));
    write_npy(at.join("floats.npy"), &floats).expect("written");
    let args = [
        "--generated",
        "floats.npy",
        "--reference",
        "images",
        "--metric",
        "energy",
        "--out",
        "out.csv",
    ];
    call(at, &args).is(0).says(&["--range"]);
    assert_ne!(table(at.join("out.csv"))[0][1], "0.0");
    call(at, &[&args[..], &["--range", "-1,1"]].concat()).is(0);
    assert_eq!(table(at.join("out.csv"))[0][1], "0.0");
    for (range, word) in [
        ("1,-1", "the smaller first"),
        ("1", "two numbers"),
        ("a,b", "two numbers"),
    ] {
        refused(
            at,
            &[&["metrics"], &args[..], &["--range", range]].concat(),
            &[word],
        );
    }
    let few = [
        &["metrics"],
        &args[..],
        &["--range", "0,1", "--levels", "16"],
    ]
    .concat();
    refused(at, &few, &["images", "--levels", "levels 0 to 15"]);
}

#[test]
fn a_floor_is_a_table_of_its_own() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", samples(40, 3));
    write(at, "y.npy", samples(30, 3));
    write(at, "z.npy", samples(20, 3));
    let args = [
        "--generated",
        "x.npy",
        "--reference",
        "y.npy",
        "--floor",
        "z.npy",
        "--metric",
        "frechet",
        "--out",
        "o.csv",
    ];
    call(at, &args).is(0);
    let (plain, floor) = (table(at.join("o.csv")), table(at.join("o.floor.csv")));
    assert_eq!(
        (&plain[0][3], &plain[0][4]),
        (&"40".to_owned(), &"30".to_owned())
    );
    assert_eq!(
        (&floor[0][0], &floor[0][3], &floor[0][4]),
        (&"frechet".to_owned(), &"20".to_owned(), &"30".to_owned())
    );
    let missing = [
        "metrics",
        "--generated",
        "x.npy",
        "--reference",
        "y.npy",
        "--floor",
        "no.npy",
        "--out",
        "p.csv",
    ];
    refused(at, &missing, &["no.npy"]);
}

/// What makes a value mislead stands in its row and on the terminal, and what cannot be computed is refused by name.
#[test]
fn what_misleads_is_said() {
    let folder = folder();
    let at = folder.path();
    let drawn = |n: usize, width: usize, seed: f64| {
        Array2::from_shape_fn((n, width), |(i, j)| {
            (seed + 1.7 * (i * width + j + 1) as f64).sin() * 2.0
        })
    };
    write_npy(at.join("x.npy"), &drawn(30, 24, 0.1)).expect("written");
    write_npy(at.join("y.npy"), &drawn(60, 24, 0.5)).expect("written");
    write_npy(at.join("z.npy"), &drawn(50, 24, 0.9)).expect("written");
    // Every training sample is there twice, and one of them eight times.
    let (once, mut twice) = (drawn(60, 24, 0.5), Array2::zeros((126, 24)));
    for (i, mut row) in twice.rows_mut().into_iter().enumerate() {
        row.assign(&once.row(if i < 120 { i % 60 } else { 0 }));
    }
    write_npy(at.join("twice.npy"), &twice).expect("written");
    write_npy(at.join("large.npy"), &(drawn(30, 24, 0.1) * 1e200)).expect("written");
    let args = |metric: &'static str, generated: &'static str, reference: &'static str| {
        [
            "--generated",
            generated,
            "--reference",
            reference,
            "--metric",
            metric,
            "--out",
            "o.csv",
        ]
    };
    let note = |file: &str| table(at.join(file))[0][5..].join(",");
    for (metric, reference, words) in [
        (
            "frechet",
            "y.npy",
            ["30 generated samples", "frechet-infinity"].as_slice(),
        ),
        (
            "authenticity",
            "twice.npy",
            &["126 of 126 training samples", "hide"],
        ),
        (
            "memorization",
            "twice.npy",
            &["126 of 126 training samples", "hide"],
        ),
        (
            "precision",
            "twice.npy",
            &["8 of 126 reference samples", "no radius"],
        ),
        (
            "coverage",
            "twice.npy",
            &["8 of 126 reference samples", "no radius"],
        ),
        (
            "c2st",
            "twice.npy",
            &["126 of 126 reference samples", "held out"],
        ),
    ] {
        call(at, &args(metric, "x.npy", reference))
            .is(0)
            .says(words);
        assert!(
            words.iter().all(|word| note("o.csv").contains(word)),
            "{metric}: {}",
            note("o.csv")
        );
    }
    call(at, &args("precision", "x.npy", "y.npy")).is(0);
    assert_eq!(note("o.csv"), "");
    // A floor of more data than samples is taken of as many where that matters, and of fewer says so.
    for (metric, count) in [("energy", "30"), ("kernel", "50")] {
        call(
            at,
            &[&args(metric, "x.npy", "y.npy")[..], &["--floor", "z.npy"]].concat(),
        )
        .is(0);
        assert_eq!(
            (&table(at.join("o.floor.csv"))[0][3], note("o.floor.csv")),
            (&count.to_owned(), String::new())
        );
    }
    call(
        at,
        &[&args("energy", "z.npy", "y.npy")[..], &["--floor", "x.npy"]].concat(),
    )
    .is(0);
    assert!(
        note("o.floor.csv").contains("30 samples") && note("o.floor.csv").contains("50 generated")
    );
    std::fs::remove_file(at.join("o.csv")).expect("there");
    std::fs::remove_file(at.join("o.floor.csv")).expect("there");
    for metric in flowgauge::metric::Metric::NAMES
        .iter()
        .filter(|name| !name.starts_with("fld"))
    {
        let args = [
            "metrics",
            "--generated",
            "large.npy",
            "--reference",
            "y.npy",
            "--out",
            "p.csv",
            "--metric",
        ];
        let metric = if *metric == "inception-score" {
            "{inception-score: {of: logits}}"
        } else {
            metric
        };
        refused(
            at,
            &[&args[..], &[metric]].concat(),
            &["large.npy", "sample", "double precision"],
        );
    }
}

#[test]
fn classes_are_needed_where_they_are_counted() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", samples(40, 3));
    let args = [
        "metrics",
        "--generated",
        "x.npy",
        "--reference",
        "x.npy",
        "--out",
        "out.csv",
    ];
    refused(
        at,
        &[&args[..], &["--metric", "inception-score"]].concat(),
        &["logits", "extractor"],
    );
    flowgauge(
        at,
        &[
            &args[..],
            &["--metric", "{inception-score: {of: logits, splits: 1}}"],
        ]
        .concat(),
    )
    .is(0);
    // What is not asked for is left out: numbers without classes, and what so few samples do not allow.
    flowgauge(at, &args).is(0);
    let names: Vec<String> = table(at.join("out.csv"))
        .into_iter()
        .map(|l| l[0].clone())
        .collect();
    assert!(
        names.contains(&"vendi".to_owned()) && !names.contains(&"inception-score".to_owned()),
        "{names:?}"
    );
}

#[test]
fn an_absent_preset_says_its_file_and_how_it_is_made() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", samples(9, 3));
    let args = [
        "metrics",
        "--generated",
        "x.npy",
        "--reference",
        "x.npy",
        "--out",
        "out.csv",
        "--extractor",
    ];
    for name in [
        "inception-v3",
        "inception-v3-clean",
        "dinov2-vitl14",
        "clip-vitl14-336",
    ] {
        let mut asked = command(at, &[&args[..], &[name]].concat());
        let done = finish({
            asked.env("FLOWGAUGE_CACHE", at.join("cache"));
            asked
        });
        done.is(2)
            .says(&[".onnx", "scripts/export_extractors.py", name]);
        assert!(!at.join("out.csv").exists());
    }
    refused(at, &[&args[..], &["inception"]].concat(), &["inception-v3"]);
}

#[test]
fn features_of_the_reference_are_kept_and_never_trusted() {
    let folder = folder();
    let at = folder.path();
    let rows = Array1::from_iter((0..40 * 64).map(|i| (i * i % 97) as f32 / 48.0 - 1.0));
    let rows = rows.into_shape_with_order((40, 64)).expect("rows");
    write_npy(at.join("x.npy"), &rows).expect("written");
    write_npy(at.join("y.npy"), &rows.slice(s![..30, ..]).mapv(|v| -v)).expect("written");
    let runtime = flowgauge::model::library::find_library(None).expect("ONNX Runtime");
    let extractor = digits("features.onnx").display().to_string();
    let measured = |other: &[&str]| {
        let args = [
            "metrics",
            "--generated",
            "x.npy",
            "--reference",
            "y.npy",
            "--out",
            "o.csv",
            "--extractor",
            &extractor,
        ];
        let mut asked = command(at, &[&args[..], other].concat());
        asked
            .env("FLOWGAUGE_CACHE", at.join("cache"))
            .env("ORT_DYLIB_PATH", &runtime.path);
        let done = finish(asked);
        done.is(0);
        (
            std::fs::read_to_string(at.join("o.csv")).expect("a table"),
            done.stderr,
        )
    };
    let entries = || -> Vec<PathBuf> {
        let Ok(found) = std::fs::read_dir(at.join("cache/features")) else {
            return Vec::new();
        };
        found.flatten().map(|e| e.path()).collect()
    };
    let first = measured(&["--no-cache"]).0;
    assert!(entries().is_empty());
    assert_eq!(measured(&[]).0, first);
    let [entry] = &entries()[..] else {
        panic!("expected one entry: {:?}", entries())
    };
    let provenance = std::fs::read_to_string(entry.join("provenance.json")).expect("provenance");
    for word in ["data_sha256", "extractor_sha256", "shape", "y.npy"] {
        assert!(provenance.contains(word), "{provenance}");
    }
    assert_eq!(measured(&[]).0, first);
    // Other numbers in the entry change nothing: it is made again, and says so.
    let kept = entry.join("features.npy");
    let features: Array2<f64> = read_npy(&kept).expect("features");
    assert_eq!(features.len_of(Axis(0)), 30);
    write_npy(&kept, &(features + 1.0)).expect("written");
    let (again, said) = measured(&[]);
    assert_eq!(again, first);
    assert!(said.contains("computed again"), "{said}");
    assert!(!measured(&[]).1.contains("computed again"));
}

/// A model of grey images, a preset whose features are known, and two sets of bytes.
pub(crate) fn grey_images(at: &Path) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/metrics");
    for name in ["grey.onnx", "mean.onnx"] {
        std::fs::copy(shipped.join(name), at.join(name)).expect("copied");
    }
    let card = "name: grey\nshape: [1, 4, 6]\n\
        network: {file: grey.onnx, inputs: {x: x, time: sigma}, output: denoised, prediction: denoised, time: {feed: sigma}}\n\
        path: {kind: edm, sigma_min: 0.02, sigma_max: 20.0}\nprior: {std: 20.0}\ndata: {range: [-1, 1], levels: 256}\n";
    std::fs::write(at.join("card.yaml"), card).expect("written");
    std::fs::write(at.join("mean.yaml"), MEAN).expect("written");
    for (name, count) in [("real.npy", 50), ("train.npy", 70)] {
        let bytes = Array1::from_iter((0..count * 24).map(|i| (i * i * 31 % 251 + count) as u8));
        write_npy(
            at.join(name),
            &bytes
                .into_shape_with_order((count, 1, 4, 6))
                .expect("images"),
        )
        .expect("written");
    }
}

const MEAN: &str = "name: mean\nfile: mean.onnx\nexport: python scripts/metric_references.py\n\
    input: {shape: [3, 4, 6], resize: clean, range: [-1, 1]}\noutputs: {features: means, logits: sums}\n";

#[test]
fn a_run_keeps_features_of_data_and_hands_presets_their_bytes() {
    let folder = folder();
    let at = folder.path();
    grey_images(at);
    let config = "name: grey\nsamples:\n  - {model: card.yaml, samplers: [{euler: {steps: 3}}], count: 70, \
        reference: real.npy, floor: train.npy, test: train.npy, extractor: mean.yaml, metrics: [energy, fld-gap]}\n";
    std::fs::write(at.join("run.yaml"), config).expect("written");
    let runtime = flowgauge::model::library::find_library(None).expect("ONNX Runtime");
    let cached = |args: &[&str]| {
        let mut asked = command(at, args);
        asked
            .env("FLOWGAUGE_CACHE", at.join("cache"))
            .env("ORT_DYLIB_PATH", &runtime.path);
        let done = finish(asked);
        done.is(0);
    };
    let entries = || std::fs::read_dir(at.join("cache/features")).map_or(0, Iterator::count);
    let values = |file: &str, column: usize| -> Vec<String> {
        let text = std::fs::read_to_string(at.join(file)).expect("a table");
        let of_data = text
            .lines()
            .filter(|l| !l.starts_with("model") && !l.contains("euler"));
        of_data
            .filter(|l| l.contains("energy"))
            .map(|l| l.split(',').nth(column).expect("a value").to_owned())
            .collect()
    };
    cached(&["run", "run.yaml", "--out", "first", "--quiet"]);
    assert_eq!(entries(), 2);
    cached(&["run", "run.yaml", "--out", "second", "--quiet"]);
    assert_eq!(entries(), 2);
    let metrics = |out: &str| {
        std::fs::read_to_string(at.join(out).join("tables/metrics.csv")).expect("a table")
    };
    assert_eq!(metrics("first"), metrics("second"));
    assert!(metrics("first").contains("fld-gap"));
    // Bytes alone, without a model around them, have the same features, and the reference's are at hand.
    let args = [
        "metrics",
        "--generated",
        "train.npy",
        "--reference",
        "real.npy",
        "--extractor",
        "mean.yaml",
    ];
    cached(
        &[
            &args[..],
            &["--metric", "energy", "--out", "plain.csv", "--quiet"],
        ]
        .concat(),
    );
    assert_eq!(
        values("first/tables/metrics.csv", 3),
        values("plain.csv", 1)
    );
    assert_eq!(entries(), 2);
    let wrong = config.replace("test: train.npy, ", "");
    std::fs::write(at.join("wrong.yaml"), wrong).expect("written");
    refused(
        at,
        &["run", "wrong.yaml", "--out", "third"],
        &["fld-gap", "`train`", "`test`"],
    );
}

#[test]
fn folders_of_images_of_any_sizes_need_a_preset_that_resizes() {
    let folder = folder();
    let at = folder.path();
    grey_images(at);
    // Even images stay what they are at any size, in any format, grey or in colour.
    let bytes = Array3::from_shape_fn((6, 4, 6), |(i, _, _)| (40 * i) as u8);
    write_npy(at.join("even.npy"), &bytes).expect("written");
    std::fs::create_dir(at.join("images")).expect("made");
    for (i, (width, height)) in [(6, 4), (9, 4), (3, 11), (6, 5), (20, 30), (1, 2)]
        .into_iter()
        .enumerate()
    {
        let value = bytes[[i, 0, 0]];
        let name = at.join(format!(
            "images/{i}.{}",
            if i % 2 == 0 { "png" } else { "jpg" }
        ));
        match i {
            2 => image::RgbImage::from_pixel(width, height, image::Rgb([value; 3]))
                .save(name)
                .expect("written"),
            _ => image::GrayImage::from_pixel(width, height, image::Luma([value]))
                .save(name)
                .expect("written"),
        }
    }
    let args = [
        "--generated",
        "images",
        "--reference",
        "even.npy",
        "--metric",
        "energy",
        "--out",
        "out.csv",
    ];
    let preset = ["--extractor", "mean.yaml", "--no-cache"];
    call(at, &[&args[..], &preset].concat()).is(0);
    let value: f64 = table(at.join("out.csv"))[0][1].parse().expect("a number");
    assert!(value.abs() < 1e-6, "{value}");
    // Without a size to come to they are no array, and the two that differ are named.
    std::fs::remove_file(at.join("out.csv")).expect("there");
    let words = ["0.png", "6×4", "1.jpg", "9×4"];
    refused(at, &[&["metrics"], &args[..]].concat(), &words);
    std::fs::write(
        at.join("rigid.yaml"),
        MEAN.replace("resize: clean", "resize: none"),
    )
    .expect("written");
    refused(
        at,
        &[&["metrics"], &args[..], &["--extractor", "rigid.yaml"]].concat(),
        &words,
    );
    // A file that is no image is named.
    std::fs::write(at.join("images/7.png"), b"no image").expect("written");
    refused(at, &[&["metrics"], &args[..], &preset].concat(), &["7.png"]);
}

#[test]
fn samples_can_be_looked_at() {
    let folder = folder();
    let at = folder.path();
    let card = digits("card.yaml").display().to_string();
    let args = [
        "sample",
        "--model",
        &card,
        "--sampler",
        "{euler: {steps: 2}}",
        "--count",
        "5",
        "--out",
        "x.npy",
    ];
    flowgauge(at, &[&args[..], &["--png", "x.png"]].concat()).is(0);
    let picture = image::open(at.join("x.png")).expect("a picture");
    assert_eq!((picture.width(), picture.height()), (24, 16));
    refused(
        at,
        &[&args[..7], &["--out", "y.npy", "--png", "no/"]].concat(),
        &["no/"],
    );
}

/// The value and the standard error of a table's only row.
fn estimate(at: &Path, args: &[&str]) -> (f64, f64, String) {
    let usual = ["--metric=frechet", "--out=o.csv"];
    let done = call(at, &[args, &usual].concat());
    done.is(0);
    let row = table(at.join("o.csv")).remove(0);
    let number = |i: usize| row[i].parse().expect("a number");
    (number(1), number(2), row[5..].join(","))
}

/// What `--save-reference` writes is read by the names of pytorch-fid and score_sde, and stands for the
/// samples.
#[test]
fn saved_references_stand_for_their_samples() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", samples(90, 64));
    write_npy(at.join("y.npy"), &{
        let rows: Array2<f32> = read_npy(at.join("x.npy")).expect("rows");
        rows.slice(s![..80, ..]).mapv(|v| 0.8 * f64::from(v) + 0.1)
    })
    .expect("written");
    let extractor = digits("features.onnx").display().to_string();
    for extractor in [&[][..], &["--extractor", &extractor]] {
        let against = |reference: &str, more: &[&str]| {
            let sets = ["--generated=x.npy", "--reference", reference];
            estimate(at, &[&sets[..], extractor, more].concat())
        };
        let (want, whole, _) = against("y.npy", &["--save-reference=stats.npz"]);
        against("y.npy", &["--save-reference=features.npz:pool_3"]);
        let (of_statistics, part, note) = against("stats.npz", &[]);
        assert!(
            (of_statistics - want).abs() < 1e-6 * want,
            "{of_statistics} {want}"
        );
        assert!(
            part < whole && note.contains("not of the reference"),
            "{part} {whole} {note}"
        );
        let (of_features, same, _) = against("features.npz", &[]);
        assert!(
            (of_features - want).abs() < 1e-4 * want,
            "{of_features} {want}"
        );
        assert!((same - whole).abs() < 1e-3 * whole, "{same} {whole}");

        let file = std::fs::File::open(at.join("stats.npz")).expect("an archive");
        let mut archive = ndarray_npy::NpzReader::new(file).expect("an archive");
        let mu: Array1<f64> = archive.by_name("mu.npy").expect("a mean");
        let sigma: Array2<f64> = archive.by_name("sigma.npy").expect("a covariance");
        assert_eq!(sigma.dim(), (mu.len(), mu.len()));
        if extractor.is_empty() {
            let y: Array2<f64> = read_npy(at.join("y.npy")).expect("rows");
            let centred = &y - &y.mean_axis(Axis(0)).expect("rows");
            let covariance = centred.t().dot(&centred) / 79.0;
            assert!((&sigma - &covariance).iter().all(|gap| gap.abs() < 1e-10));
        }
    }
    for (more, words) in [
        (
            &["--save-reference=x.npy"][..],
            &["--save-reference", ".npz"][..],
        ),
        (&["--save-reference=s.npz:a/b"], &["`a/b`"]),
        (&["--bytes=floor"], &["--bytes", "--range"]),
        (&["--bytes=half", "--range=-1,1"], &["nearest or floor"]),
    ] {
        let usual = [
            "metrics",
            "--generated=x.npy",
            "--reference=y.npy",
            "--out=p.csv",
        ];
        refused(at, &[&usual[..], more].concat(), words);
    }
}

/// `--bytes floor` is what a conversion of 255·x to an integer does.
#[test]
fn floats_become_the_nearest_byte_or_the_one_below() {
    let folder = folder();
    let at = folder.path();
    let x = Array2::from_shape_fn((300, 3), |(i, j)| {
        ((i * 37 + j * 101) % 1009) as f64 / 504.0 - 1.0
    });
    write_npy(at.join("x.npy"), &x).expect("written");
    for (name, up) in [("nearest", 0.5), ("floor", 0.0)] {
        let bytes = x.mapv(|v| (127.5 * (v + 1.0) + up).floor().clamp(0.0, 255.0) as u8);
        write_npy(at.join("bytes.npy"), &bytes).expect("written");
        let option = format!("--bytes={name}");
        let sets = ["--generated=x.npy", "--reference=bytes.npy", "--range=-1,1"];
        let (value, _, note) = estimate(at, &[&sets[..], &[&option]].concat());
        assert!(value.abs() < 1e-12, "{name}: {value}");
        assert_eq!(note.contains("byte below"), name == "floor", "{note}");
        let other = if name == "floor" {
            "--bytes=nearest"
        } else {
            "--bytes=floor"
        };
        // Half a level darker in each of three channels, on average.
        let (value, _, _) = estimate(at, &[&sets[..], &[other]].concat());
        let expected = 3.0 * (0.5f64 / 127.5).powi(2);
        assert!(
            (value / expected - 1.0).abs() < 0.2,
            "{name}: {value} {expected}"
        );
    }
}

/// One picture in every format that is read has the same features.
#[test]
fn folders_hold_images_of_every_format() {
    let folder = folder();
    let at = folder.path();
    let picture = |n: u32| {
        image::RgbImage::from_fn(6, 4, |x, y| {
            image::Rgb([
                (x * 40 + n) as u8,
                (y * 50) as u8,
                ((x + y * n) % 2 * 255) as u8,
            ])
        })
    };
    for extension in ["png", "bmp", "webp", "tif", "tiff", "ppm", "tga", "qoi"] {
        let of = at.join(extension);
        std::fs::create_dir(&of).expect("a folder");
        for n in 0..12 {
            let file = of.join(format!("{n:02}.{extension}"));
            picture(n)
                .save(&file)
                .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        }
        let args = [
            "--generated",
            extension,
            "--reference=png",
            "--metric=energy",
            "--out=o.csv",
        ];
        call(at, &args).is(0);
        assert_eq!(table(at.join("o.csv"))[0][1], "0.0", "{extension}");
    }
    // A GIF has 256 colours, which these few pixels do not exceed.
    std::fs::create_dir(at.join("gif")).expect("a folder");
    for n in 0..12 {
        let image = image::DynamicImage::ImageRgb8(picture(n)).to_rgba8();
        image
            .save(at.join(format!("gif/{n:02}.gif")))
            .expect("written");
    }
    let args = [
        "--generated=gif",
        "--reference=png",
        "--metric=energy",
        "--out=o.csv",
    ];
    call(at, &args).is(0);
    let energy: f64 = table(at.join("o.csv"))[0][1].parse().expect("a number");
    assert!(energy < 1.0, "{energy}");
}

#[test]
fn entries_with_other_features_share_samples() {
    let folder = folder();
    let at = folder.path();
    let entry = |more: &str| {
        let [card, reference] = ["card.yaml", "heldout.npy"].map(digits);
        format!(
            "  - {{model: {}, samplers: [{{heun: {{steps: 3}}}}], count: 48, reference: {}, \
             metrics: [kernel]{more}}}\n",
            card.display(),
            reference.display()
        )
    };
    let extracted = format!(", extractor: {}", digits("features.onnx").display());
    let config = |entries: &[String]| format!("name: f\nsamples:\n{}", entries.concat());
    write(at, "c.yaml", config(&[entry(""), entry(&extracted)]));
    flowgauge(at, &["run", "c.yaml", "--out", "run", "--quiet"]).is(0);
    let read = |name: &str| std::fs::read_to_string(at.join("run").join(name)).expect(name);
    // The samples are drawn once, and each entry has its statistic.
    assert_eq!(read("tables/metrics.csv").lines().count(), 1 + 2);
    let sampled = |line: &&str| line.contains("\"finished\"") && line.contains("\"rows\":48");
    assert_eq!(read("journal.jsonl").lines().filter(sampled).count(), 1);
    write(at, "c.yaml", config(&[entry(""), entry("")]));
    let twice = ["run", "c.yaml", "--out", "twice", "--quiet"];
    refused(at, &twice, &["the same work is listed twice"]);
}
