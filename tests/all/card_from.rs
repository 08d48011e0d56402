//! Cards drafted from exported files: every kind of `flowgauge card` gives a card that runs, and hostile files are refused.

use std::path::{Path, PathBuf};

use flowgauge::flow::path::ProbabilityPath;
use flowgauge::flow::prediction::Prediction;
use flowgauge::model::card::{Card, TimeInputSpec, TimeVariable};

use crate::cli::{flowgauge, folder, models, refused, write};

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(file)
}

fn place(file: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().expect("a folder")).expect("made");
    std::fs::copy(file, to).expect("copied");
}

/// The config of a scheduler as diffusers writes it.
const SCHEDULER: &str = r#"{"_class_name": "DDPMScheduler", "_diffusers_version": "0.42.1", "beta_start": 0.0001,
    "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": true, "num_train_timesteps": 1000,
    "prediction_type": "epsilon", "trained_betas": null}"#;

/// A pipeline of diffusers in `folder/tiny`, whose network is a U-Net of diffusers with random weights.
fn place_pipeline(folder: &Path) {
    let network = data("graph/diffusers-unet2d-dynamo-op20.onnx");
    place(&network, &folder.join("tiny/unet/model.onnx"));
    write(
        folder,
        "tiny/model_index.json",
        r#"{"_class_name": "DDPMPipeline"}"#,
    );
    write(folder, "tiny/scheduler/scheduler_config.json", SCHEDULER);
    let config = r#"{"in_channels": 1, "out_channels": 1, "sample_size": 8}"#;
    write(folder, "tiny/unet/config.json", config);
}

/// A kind, its file, further arguments, and the prediction, the path and the time of the card.
struct KindCase {
    kind: &'static str,
    file: PathBuf,
    more: &'static [&'static str],
    conditions: &'static [&'static str],
    prediction: Prediction,
    path: &'static str,
    time: Option<TimeInputSpec>,
}

fn feed(feed: TimeVariable) -> Option<TimeInputSpec> {
    Some(TimeInputSpec {
        feed: Some(feed),
        ..TimeInputSpec::default()
    })
}

fn cases() -> Vec<KindCase> {
    let case = |kind, file, prediction, path, time| KindCase {
        kind,
        file,
        more: &[],
        conditions: &[],
        prediction,
        path,
        time,
    };
    let scaled = feed(TimeVariable::T).map(|time| TimeInputSpec {
        scale: 999.0,
        ..time
    });
    let mixed = feed(TimeVariable::Index).map(|time| TimeInputSpec {
        interpolate: Some(true),
        ..time
    });
    let indexed = feed(TimeVariable::Index);
    vec![
        case(
            "edm",
            data("graph/edm-ddpmpp-dynamo-op20.onnx"),
            Prediction::Denoised,
            "edm",
            feed(TimeVariable::Sigma),
        ),
        case(
            "torchcfm",
            data("graph/torchcfm-unet-dynamo-op20.onnx"),
            Prediction::Velocity,
            "flow-matching",
            None,
        ),
        case(
            "flow-matching",
            PathBuf::from(models("moons/velocity.onnx")),
            Prediction::Velocity,
            "flow-matching",
            None,
        ),
        case(
            "score-sde",
            data("graph/plain-unet-dynamo-op21.onnx"),
            Prediction::Noise,
            "vp",
            scaled,
        ),
        case(
            "ddpm",
            data("graph/ddpm_pytorch-unet-dynamo-op20.onnx"),
            Prediction::Noise,
            "discrete",
            indexed,
        ),
        case(
            "ddpm",
            data("times/indexed.onnx"),
            Prediction::Noise,
            "discrete",
            mixed,
        ),
        KindCase {
            conditions: &["label"],
            ..case(
                "flow-matching",
                data("graph/flow_matching-unet-ts-op17.onnx"),
                Prediction::Velocity,
                "flow-matching",
                None,
            )
        },
        KindCase {
            more: &[
                "--constant",
                "class=[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]",
                "--constant",
                "context=context.npy",
            ],
            conditions: &["x_o"],
            ..case(
                "sbi",
                data("times/wide.onnx"),
                Prediction::Velocity,
                "flow-matching",
                None,
            )
        },
        case(
            "onnx",
            PathBuf::from(models("digits/denoiser.onnx")),
            Prediction::Denoised,
            "edm",
            feed(TimeVariable::Sigma),
        ),
    ]
}

/// The fifteen zeros that `times/wide.onnx` takes as a context.
fn write_context(at: &Path) {
    let bytes = crate::cli::npy("<f4", "(3, 5)", &[0u8; 60]);
    write(at, "context.npy", bytes);
}

#[test]
fn every_kind_gives_a_card_that_runs() {
    for case in cases() {
        let folder = folder();
        let at = folder.path();
        write_context(at);
        place(&case.file, &at.join("net.onnx"));
        let args = [&["card", "--from", case.kind, "net.onnx"], case.more].concat();
        let done = flowgauge(at, &args);
        done.is(0);
        assert!(
            done.stdout.starts_with("wrote card.yaml\n"),
            "{}",
            done.stdout
        );
        assert!(
            done.stdout.contains("the network as it runs"),
            "{}",
            done.stdout
        );
        let card = Card::read(&at.join("card.yaml")).expect("a card");
        assert_eq!(card.name, "net");
        assert_eq!(card.network.prediction, case.prediction, "{}", case.kind);
        assert_eq!(card.path.kind(), case.path, "{}", case.kind);
        assert_eq!(card.network.time, case.time, "{}", case.kind);
        let conditions: Vec<&str> = card.network.conditions.keys().map(String::as_str).collect();
        assert_eq!(conditions, case.conditions, "{}", case.kind);
    }
}

#[test]
fn a_folder_of_diffusers_gives_a_card_that_runs() {
    let folder = folder();
    let at = folder.path();
    place_pipeline(at);
    flowgauge(at, &["card", "--from", "diffusers", "tiny"]).is(0);
    let card = Card::read(&at.join("tiny/card.yaml")).expect("a card");
    assert_eq!(
        (card.name.as_str(), &card.shape[..]),
        ("tiny", &[1, 8, 8][..])
    );
    assert_eq!(card.network.prediction, Prediction::Noise);
    assert_eq!(
        card.path,
        ProbabilityPath::defaults()
            .pop()
            .expect("the path `discrete`")
    );
    // The same card is found from inside the folder, printed, and written above it.
    let printed = flowgauge(
        &at.join("tiny"),
        &["card", "--from", "diffusers", ".", "--out", "-"],
    );
    let written = std::fs::read_to_string(at.join("tiny/card.yaml")).expect("a card");
    assert_eq!(printed.is(0).stdout, written);
    let above = ["card", "--from", "diffusers", "tiny", "--out", "above.yml"];
    flowgauge(at, &above).is(0);
    let above = Card::read(&at.join("above.yml")).expect("a card");
    assert_eq!(above.network.file, Path::new("tiny/unet/model.onnx"));
}

#[test]
fn a_drafted_card_is_that_of_the_shipped_models() {
    let found = |kind: &str, file: &str| {
        let folder = folder();
        place(Path::new(&models(file)), &folder.path().join("model.onnx"));
        let printed = ["card", "--from", kind, "model.onnx", "--out", "-"];
        let text = flowgauge(folder.path(), &printed).is(0).stdout.clone();
        write(folder.path(), "card.yaml", text);
        Card::read(&folder.path().join("card.yaml")).expect("a card")
    };
    for (kinds, file) in [
        (["flow-matching", "torchcfm", "onnx"], "moons/velocity.onnx"),
        (["edm", "edm", "onnx"], "digits/denoiser.onnx"),
    ] {
        let model = file.split('/').next().unwrap_or_default();
        let shipped = Card::read(Path::new(&crate::cli::card(model))).expect("a card");
        for kind in kinds {
            let card = found(kind, file);
            assert_eq!(card.shape, shipped.shape);
            // The graph does not say where the path ends.
            assert_eq!(card.path.kind(), shipped.path.kind());
            let ends = |card: &Card| {
                let curve = card.path.curve().expect("a path");
                curve.data_end() < curve.prior_end()
            };
            assert_eq!(ends(&card), ends(&shipped));
            assert_eq!(card.network.inputs, shipped.network.inputs);
            assert_eq!(card.network.output, shipped.network.output);
            assert_eq!(card.network.prediction, shipped.network.prediction);
            assert_eq!(
                card.time_input()
                    .value_at(&card.path.curve().expect("a path"), 0.7),
                0.7
            );
        }
    }
}

#[test]
fn an_existing_card_is_kept() {
    let folder = folder();
    let at = folder.path();
    place_pipeline(at);
    write(at, "tiny/card.yaml", "mine\n");
    let args = ["card", "--from", "diffusers", "tiny"];
    refused(at, &args, &["tiny/card.yaml: it exists", "--force"]);
    flowgauge(at, &[&args[..], &["--force"]].concat()).is(0);
    Card::read(&at.join("tiny/card.yaml")).expect("a card");
}

#[test]
fn names_with_special_characters_are_escaped() {
    let folder = folder();
    let at = folder.path();
    let name = "a: \"b\" #é, {c}.onnx";
    place(Path::new(&models("moons/velocity.onnx")), &at.join(name));
    flowgauge(at, &["card", "--from", "torchcfm", name]).is(0);
    let card = Card::read(&at.join("card.yaml")).expect("a card");
    assert_eq!(card.network.file.to_str(), Some(name));
    assert_eq!(card.name, "a_ _b_ _é, _c_");
}

#[test]
fn hostile_files_are_refused() {
    let folder = folder();
    let at = folder.path();
    place_pipeline(at);
    let network = std::fs::read(data("graph/diffusers-unet2d-dynamo-op20.onnx")).expect("a graph");
    write(at, "cut.onnx", &network[..network.len() / 2]);
    write(at, "empty.onnx", "");
    write(at, "page.onnx", "<!DOCTYPE html><html></html>");
    write(at, "net.pt", b"PK\x03\x04archive/data.pkl");
    write(at, "net.pkl", b"(dp0\nS'a'\n");
    write(at, "renamed.onnx", b"\x80\x02}q\x00.");
    write(at, "nothing/readme.txt", "");
    for (args, words) in [
        (["edm", "cut.onnx"], &["cut.onnx"][..]),
        (["edm", "empty.onnx"], &["empty.onnx", "empty"]),
        (["edm", "page.onnx"], &["page.onnx", "a web page"]),
        (
            ["edm", "net.pt"],
            &["net.pt", "can run code", "torch.onnx.export"],
        ),
        (
            ["edm", "net.pkl"],
            &["net.pkl", "can run code", "torch.onnx.export"],
        ),
        (["edm", "renamed.onnx"], &["renamed.onnx", "can run code"]),
        (
            ["edm", "tiny"],
            &["tiny: it is a folder", "--from diffusers"],
        ),
        (["edm", "none.onnx"], &["none.onnx: it does not exist"]),
        (["diffusers", "net.pt"], &["net.pt: it is no folder"]),
        (
            ["diffusers", "nothing"],
            &["nothing: it has no model_index.json"],
        ),
        (["keras", "cut.onnx"], &["one of diffusers, edm"]),
    ] {
        refused(at, &["card", "--from", args[0], args[1]], words);
    }
    let (edm, moons) = (
        ["card", "--from", "torchcfm"],
        models("moons/velocity.onnx"),
    );
    place(Path::new(&moons), &at.join("deep/net.onnx"));
    for (args, words) in [
        (
            ["deep/net.onnx", "--out", "nothing/card.yaml"],
            "in a folder above it",
        ),
        (
            ["deep/net.onnx", "--out", "missing/card.yaml"],
            "in a folder above it",
        ),
        (["deep/net.onnx", "--out", "deep/card.csv"], "ends in .yaml"),
        (["deep/net.onnx", "--out", "deep"], "it is a folder"),
        (["deep/net.onnx", "--shape", "3,x"], "separated by commas"),
        (["deep/net.onnx", "--shape", "3,0"], "separated by commas"),
        (["deep/net.onnx", "--shape", "3"], "does not fit"),
        (["deep/net.onnx", "--constant", "label"], "NAME=VALUE"),
        (["deep/net.onnx", "--constant", "label=3"], "no such input"),
        (
            ["deep/net.onnx", "--constant", "x={a: 1}"],
            "expected a number",
        ),
    ] {
        refused(at, &[&edm[..], &args[..]].concat(), &[words]);
    }
}

/// A change of a file of the pipeline, and the words of the refusal.
#[test]
fn hostile_pipelines_are_refused() {
    for (file, text, words) in [
        (
            "model_index.json",
            "[1, 2]",
            "model_index.json: it holds no object",
        ),
        (
            "model_index.json",
            "{\"a\": ",
            "model_index.json: it is not JSON",
        ),
        (
            "model_index.json",
            "\u{feff}",
            "model_index.json: it is not JSON",
        ),
        (
            "unet/config.json",
            "3",
            "unet/config.json: it holds no object",
        ),
        (
            "scheduler/scheduler_config.json",
            r#"{"_class_name": "DDPMScheduler", "beta_start": [1]}"#,
            "beta_start is [1], expected a number",
        ),
        (
            "scheduler/scheduler_config.json",
            r#"{"_class_name": "DDPMScheduler", "beta_start": 0.5, "beta_end": 0.1}"#,
            "the drafted card is not valid",
        ),
        ("unet/model.onnx", "", "unet/model.onnx"),
    ] {
        let folder = folder();
        place_pipeline(folder.path());
        write(folder.path(), &format!("tiny/{file}"), text);
        refused(
            folder.path(),
            &["card", "--from", "diffusers", "tiny"],
            &[words],
        );
    }
    for (file, words) in [
        ("model_index.json", "no model_index.json"),
        (
            "scheduler/scheduler_config.json",
            "no scheduler/scheduler_config.json",
        ),
        ("unet/model.onnx", "unet/ has no ONNX file"),
    ] {
        let folder = folder();
        place_pipeline(folder.path());
        std::fs::remove_file(folder.path().join("tiny").join(file)).expect("removed");
        refused(
            folder.path(),
            &["card", "--from", "diffusers", "tiny"],
            &[words],
        );
    }
    let folder = folder();
    let at = folder.path();
    place_pipeline(at);
    std::fs::remove_dir_all(at.join("tiny/unet")).expect("removed");
    refused(
        at,
        &["card", "--from", "diffusers", "tiny"],
        &["it has no network"],
    );
    place_pipeline(at);
    let network = data("graph/diffusers-unet2d-dynamo-op20.onnx");
    place(&network, &at.join("tiny/transformer/model.onnx"));
    refused(
        at,
        &["card", "--from", "diffusers", "tiny"],
        &["both unet and transformer"],
    );
}

/// A card whose networks cannot be run is written all the same: its text is right, and `inspect` says what is missing.
#[test]
fn a_card_without_a_runtime_is_written() {
    let folder = folder();
    let at = folder.path();
    place_pipeline(at);
    write(at, "runtime.so", "no library");
    let args = [
        "card",
        "--from",
        "diffusers",
        "tiny",
        "--ort-lib",
        "runtime.so",
    ];
    flowgauge(at, &args)
        .is(2)
        .says(&["tiny/card.yaml is written", "runtime.so"]);
    Card::read(&at.join("tiny/card.yaml")).expect("a card");
}
