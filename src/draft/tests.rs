//! Drafts of every kind against snapshots, and what is refused.

use std::collections::BTreeMap;

use super::diffusers::PipelinePart;
use super::json_file::JsonFile;
use super::*;
use crate::graph::{Dim, ElemType, Port};
use crate::model::card::Card;
use crate::model::constants::Constant;

/// Compares a text with the snapshot of that name in `tests/snapshots`.
fn assert_card_snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../tests/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(format!("card-{name}"), text));
}

/// A port from words such as `x float32 [N, 3, 32, 32]`; without brackets its rank is unknown.
fn port(words: &str) -> Port {
    let (name, rest) = words.split_once(' ').expect("a name and a type");
    let (elem, dims) = rest.split_once(' ').unwrap_or((rest, ""));
    let elem = match elem {
        "float32" => ElemType::FLOAT,
        "float16" => ElemType::FLOAT16,
        "int64" => ElemType::INT64,
        "bool" => ElemType::BOOL,
        other => panic!("no type {other}"),
    };
    let inner = dims.trim_matches(['[', ']']);
    let dims_of = |text: &str| match text.parse() {
        Ok(size) => Dim::Fixed(size),
        Err(_) => Dim::Symbol(text.to_owned()),
    };
    Port {
        name: name.to_owned(),
        elem,
        dims: (inner.split(", ").filter(|d| !d.is_empty()).map(dims_of)).collect(),
        ranked: !dims.is_empty(),
    }
}

/// A graph from its ports, separated by `;`.
fn graph(file: &str, inputs: &str, outputs: &str) -> GraphFacts {
    let ports = |words: &str| {
        words
            .split("; ")
            .filter(|w| !w.is_empty())
            .map(port)
            .collect()
    };
    GraphFacts {
        file: file.to_owned(),
        inputs: ports(inputs),
        outputs: ports(outputs),
        draws: false,
    }
}

fn given() -> GivenFacts {
    GivenFacts {
        name: "toy".to_owned(),
        ..GivenFacts::default()
    }
}

/// Kinds with a name of the case, and the inputs and outputs of the graph.
const BARE_CASES: [(DraftKind, &str, &str, &str); 17] = [
    (
        DraftKind::Edm,
        "edm",
        "x float32 [N, 3, 32, 32]; sigma float32 [N]; class_labels float32 [N, 10]; \
         augment_labels float32 [N, 9]",
        "D float32 [N, 3, 32, 32]",
    ),
    (
        DraftKind::Edm,
        "edm-inner",
        "x float32 [N, 64]; c_noise float32 [N]",
        "F float32 [N, 64]",
    ),
    (
        DraftKind::Torchcfm,
        "torchcfm",
        "t float32 []; x float32 [N, 2]",
        "v float32 [N, 2]",
    ),
    (
        DraftKind::FlowMatching,
        "flow-matching",
        "x float32 [N, 3, 32, 32]; t float32 [N]; label int64 [N]",
        "v float32 [N, 3, 32, 32]",
    ),
    (
        DraftKind::ScoreSde,
        "score-sde-vp",
        "x float32 [N, 3, 32, 32]; labels float32 [N]",
        "output float32 [N, 3, 32, 32]",
    ),
    (
        DraftKind::ScoreSde,
        "score-sde-ve",
        "x float32 [N, 3, 32, 32]; used_sigmas float32 [N]",
        "output float32 [N, 3, 32, 32]",
    ),
    (
        DraftKind::ScoreSde,
        "score-sde-function",
        "x float32 [N, 2]; t float32 [N, 1]",
        "score float32 [N, 2]",
    ),
    (
        DraftKind::Ddpm,
        "ddpm",
        "x float32 [8, 3, 32, 32]; t int64 [8, 1]",
        "eps float32 [8, 6, 32, 32]",
    ),
    (
        DraftKind::Ddpm,
        "ddpm-float",
        "x float32 [N, 32, 32, 3]; timesteps float32 [N]; y int64 [N]; training bool []",
        "eps float32 [N, 32, 32, 3]",
    ),
    (
        DraftKind::Sbi,
        "sbi-flow",
        "theta float32 [N, 2]; x_o float32 [N, 5]; t float32 [N]",
        "v float32 [N, 2]",
    ),
    (
        DraftKind::Sbi,
        "sbi-score",
        "input float32 [N, 2]; condition float32 [N, 5]; time float32 [N]",
        "score float32 [N, 2]",
    ),
    (
        DraftKind::Onnx,
        "onnx-flow",
        "a float32 [N, 2]; b float32 [N, 1]; c float32 [N, 7]",
        "d1 float32 [N, 2]",
    ),
    (
        DraftKind::Onnx,
        "onnx-edm",
        "noisy float32 [batch, 1, 128, 128]; sigma float32 [batch]; difficulty float32 [batch]",
        "denoised float32 [batch, 1, 128, 128]",
    ),
    (
        DraftKind::Onnx,
        "onnx-ddpm",
        "input float32 [1, 1, 28, 28]; t int64 [1]",
        "output float32 [1, 1, 28, 28]",
    ),
    (
        DraftKind::Onnx,
        "onnx-score",
        "x float32 [N, 2]; t float32 [N]",
        "score float32 [N, 2]; extra float32 [N]",
    ),
    (
        DraftKind::Onnx,
        "onnx-whole-flow",
        "hidden_states float32 [N, 4, 8, 8]; timestep int64 [N]",
        "velocity float32 [N, 4, 8, 8]",
    ),
    (
        DraftKind::Onnx,
        "onnx-without-time",
        "x float32 [N, 2]",
        "velocity float32 [N, 2]",
    ),
];

/// Files of a folder of diffusers, and the ports of its graphs.
struct PipelineCase {
    name: &'static str,
    index: &'static str,
    scheduler: &'static str,
    network: (&'static str, &'static str, &'static str),
    config: &'static str,
    autoencoder: Option<&'static str>,
}

const VAE: &str = r#"{"_class_name": "AutoencoderKL", "latent_channels": 4, "out_channels": 3,
    "block_out_channels": [128, 256, 512, 512], "sample_size": 512}"#;

const PIPELINES: [PipelineCase; 9] = [
    PipelineCase {
        name: "stable-diffusion",
        index: r#"{"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}"#,
        scheduler: r#"{"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "trained_betas": null,
            "prediction_type": "v_prediction", "rescale_betas_zero_snr": true,
            "timestep_spacing": "trailing", "steps_offset": 1}"#,
        network: (
            "unet",
            "sample float32 [batch_size, num_channels, height, width]; timestep float32 []; \
             encoder_hidden_states float32 [batch_size, sequence_length, 768]",
            "out_sample float32 [batch_size, num_channels, height, width]",
        ),
        config: r#"{"in_channels": 4, "out_channels": 4, "sample_size": 64}"#,
        autoencoder: Some(VAE),
    },
    PipelineCase {
        name: "stable-diffusion-xl",
        index: r#"{"_class_name": "StableDiffusionXLPipeline", "vae": ["diffusers", "AutoencoderKL"]}"#,
        scheduler: r#"{"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085,
            "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
            "prediction_type": "epsilon", "timestep_type": "discrete"}"#,
        network: (
            "unet",
            "sample float16 [b, c, h, w]; timestep int64 []; \
             encoder_hidden_states float16 [b, s, 2048]; text_embeds float16 [b, 1280]; \
             time_ids float16 [b, 6]",
            "out_sample float16 [b, c, h, w]",
        ),
        config: r#"{"in_channels": 4, "out_channels": 4, "sample_size": 128}"#,
        autoencoder: Some(
            r#"{"scaling_factor": 0.13025, "block_out_channels": [128, 256, 512, 512]}"#,
        ),
    },
    PipelineCase {
        name: "stable-diffusion-3",
        index: r#"{"_class_name": "StableDiffusion3Pipeline"}"#,
        scheduler: r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0,
            "num_train_timesteps": 1000}"#,
        network: (
            "transformer",
            "hidden_states float32 [b, c, h, w]; encoder_hidden_states float32 [b, s, 4096]; \
             pooled_projections float32 [b, 2048]; timestep int64 [step]",
            "out_hidden_states float32 [b, c, h, w]",
        ),
        config: r#"{"in_channels": 16, "out_channels": 16, "sample_size": 128}"#,
        autoencoder: Some(
            r#"{"scaling_factor": 1.5305, "shift_factor": 0.0609,
                "block_out_channels": [128, 256, 512, 512]}"#,
        ),
    },
    PipelineCase {
        name: "dit",
        index: r#"{"_class_name": "DiTPipeline"}"#,
        scheduler: r#"{"_class_name": "DDIMScheduler", "beta_start": 0.0001, "beta_end": 0.02,
            "beta_schedule": "linear", "num_train_timesteps": 1000}"#,
        network: (
            "transformer",
            "hidden_states float32 [N, 4, 32, 32]; timestep int64 [N]; class_labels int64 [N]",
            "out_sample float32 [N, 8, 32, 32]",
        ),
        config: r#"{"in_channels": 4, "out_channels": 8, "sample_size": 32,
            "num_embeds_ada_norm": 1000}"#,
        autoencoder: Some(VAE),
    },
    PipelineCase {
        name: "ddpm-pipeline",
        index: r#"{"_class_name": "DDPMPipeline"}"#,
        scheduler: r#"{"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2",
            "num_train_timesteps": 1000, "prediction_type": "sample"}"#,
        network: (
            "unet",
            "sample float32 [4, 3, 32, 32]; timestep int64 []",
            "out_sample float32 [4, 3, 32, 32]",
        ),
        config: r#"{"in_channels": 3, "out_channels": 3, "sample_size": 32}"#,
        autoencoder: None,
    },
    PipelineCase {
        name: "unexported-autoencoder",
        index: r#"{"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}"#,
        scheduler: r#"{"_class_name": "PNDMScheduler"}"#,
        network: (
            "unet",
            "sample float32 [N, 3, 64, 64]; timestep float32 [N]",
            "out_sample float32 [N, 3, 64, 64]",
        ),
        config: "{}",
        autoencoder: None,
    },
    PipelineCase {
        name: "sana",
        index: r#"{"_class_name": "SanaPipeline"}"#,
        scheduler: r#"{"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": true,
            "prediction_type": "flow_prediction", "flow_shift": 3.0, "num_train_timesteps": 1000}"#,
        network: (
            "transformer",
            "hidden_states float32 [b, c, h, w]; encoder_hidden_states float32 [b, s, 2304]; \
             encoder_attention_mask int64 [b, s]; timestep float32 [step]",
            "out_hidden_states float32 [b, c, h, w]",
        ),
        config: r#"{"in_channels": 32, "out_channels": 32, "sample_size": 32}"#,
        autoencoder: Some(
            r#"{"_class_name": "AutoencoderDC", "scaling_factor": 0.41407, "latent_channels": 32,
                "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024]}"#,
        ),
    },
    PipelineCase {
        name: "edm-pipeline",
        index: r#"{"_class_name": "StableDiffusionXLPipeline"}"#,
        scheduler: r#"{"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 80.0,
            "sigma_data": 0.5, "prediction_type": "epsilon"}"#,
        network: (
            "unet",
            "sample float32 [N, 4, 8, 8]; timestep float32 []",
            "out_sample float32 [N, 4, 8, 8]",
        ),
        config: "{}",
        autoencoder: None,
    },
    PipelineCase {
        name: "score-sde-pipeline",
        index: r#"{"_class_name": "ScoreSdeVePipeline"}"#,
        scheduler: r#"{"_class_name": "ScoreSdeVeScheduler", "sigma_min": 0.01, "sigma_max": 1348.0}"#,
        network: (
            "unet",
            "sample float32 [N, 3, 64, 64]; timestep float32 [N]",
            "out_sample float32 [N, 3, 64, 64]",
        ),
        config: "{}",
        autoencoder: None,
    },
];

impl PipelineCase {
    fn facts(&self) -> PipelineFacts {
        let json = |name: &str, text: &str| JsonFile::parse(name, text).expect("an object");
        let (folder, inputs, outputs) = self.network;
        let part = |name: &str, config: &str, inputs: &str, outputs: &str| PipelinePart {
            graph: graph(&format!("{name}/model.onnx"), inputs, outputs),
            config: Some(json(&format!("{name}/config.json"), config)),
        };
        let encoder = |config| {
            let output = "latent_parameters float32 [b, c, h, w]";
            part("vae_encoder", config, "sample float32 [b, c, h, w]", output)
        };
        let decoder = |config| {
            let input = "latent_sample float32 [b, c, h, w]";
            part("vae_decoder", config, input, "sample float32 [b, c, h, w]")
        };
        let index = json("model_index.json", self.index);
        PipelineFacts {
            has_unexported_autoencoder: index.get("vae").or(index.get("vqvae")).is_some(),
            index,
            scheduler: json("scheduler/scheduler_config.json", self.scheduler),
            network: part(folder, self.config, inputs, outputs),
            encoder: self.autoencoder.map(encoder),
            decoder: self.autoencoder.map(decoder),
            betas_file: None,
            null_file: None,
        }
    }
}

/// Drafts of all cases, by the names of their snapshots.
fn drafts() -> BTreeMap<&'static str, CardDraft> {
    let bare = BARE_CASES.map(|(kind, name, inputs, outputs)| {
        let graph = graph("net.onnx", inputs, outputs);
        let draft = draft_bare_graph(kind, &graph, &given());
        (name, draft.unwrap_or_else(|e| panic!("{name}: {e:#}")))
    });
    let pipelines = PIPELINES.map(|case| {
        let draft = draft_pipeline(&case.facts(), &given());
        (
            case.name,
            draft.unwrap_or_else(|e| panic!("{}: {e:#}", case.name)),
        )
    });
    bare.into_iter().chain(pipelines).collect()
}

#[test]
fn every_kind_has_a_case() {
    for kind in DraftKind::ALL {
        let tested = kind == DraftKind::Diffusers || BARE_CASES.iter().any(|case| case.0 == kind);
        assert!(tested, "{kind:?}");
        assert_eq!(DraftKind::from_name(kind.name()), Ok(kind));
    }
    assert_eq!(DraftKind::from_name("score_sde"), Ok(DraftKind::ScoreSde));
    let unknown = DraftKind::from_name("keras").expect_err("no kind");
    assert!(unknown.contains("one of diffusers, edm"), "{unknown}");
}

#[test]
fn drafts_agree_with_their_snapshots() {
    for (name, draft) in drafts() {
        assert_card_snapshot(name, &draft.text());
    }
}

#[test]
fn drafts_are_valid_cards() {
    for (name, draft) in drafts() {
        if let Err(error) = Card::parse(&draft.text()) {
            panic!("{name}: {error:#}");
        }
    }
}

#[test]
fn every_value_has_its_origin() {
    for (name, draft) in drafts() {
        for line in draft.text().lines().filter(|line| !line.starts_with('#')) {
            let is_block = line.ends_with(':');
            assert!(is_block || line.contains("  # "), "{name}: {line}");
        }
    }
}

#[test]
fn guesses_are_listed_with_their_keys() {
    let graph = graph(
        "n.onnx",
        "a float32 [N, 2]; b float32 [N]",
        "c float32 [N, 2]",
    );
    let draft = draft_bare_graph(DraftKind::Edm, &graph, &given()).expect("a draft");
    let guesses = draft.guesses();
    assert!(
        guesses
            .iter()
            .any(|g| g.starts_with("network.inputs: {x: a, time: b}"))
    );
    assert!(guesses.iter().any(|g| g.starts_with("path: {kind: edm")));
    assert!(!guesses.iter().any(|g| g.starts_with("network.prediction")));
}

#[test]
fn names_are_escaped() {
    let graph = graph(
        "a b\"é\u{85}.onnx",
        "x:\u{7}# float32 [N, 2]; t float32 [N]",
        "null float32 [N, 2]",
    );
    let named = GivenFacts {
        name: "../<b> & \"co\" #1\n".to_owned(),
        ..GivenFacts::default()
    };
    let draft = draft_bare_graph(DraftKind::FlowMatching, &graph, &named).expect("a draft");
    let card = Card::parse(&draft.text()).expect("a card");
    assert_eq!(card.network.file.to_str(), Some("a b\"é\u{85}.onnx"));
    assert_eq!(card.network.inputs.x, "x:\u{7}#");
    assert_eq!(card.network.output, "null");
    assert_eq!(card.name, "_.__b_ _ _co_ _1_");
    let long = "é".repeat(80);
    assert_eq!(card_text::plain_name(&long), "é".repeat(50));
    assert_eq!(card_text::plain_name("///"), "model");
    for word in ["y", "n", "t", "unet/model.onnx", "x_t"] {
        assert_eq!(card_text::yaml_string(word), word);
    }
    for word in ["", "true", "No", "1e3", "~", "- a", "a: b", ".inf", "-1"] {
        assert_eq!(card_text::yaml_string(word), format!("\"{word}\""));
    }
}

#[test]
fn shapes_and_constants_come_from_the_user() {
    let open = graph(
        "n.onnx",
        "x float32 [N, c, h, w]; t float32 [N]; guidance float32 []",
        "v float32 [N, c, h, w]",
    );
    let refusal = |given: &GivenFacts| {
        let draft = draft_bare_graph(DraftKind::FlowMatching, &open, given);
        format!("{:#}", draft.expect_err("something is missing"))
    };
    let mut facts = given();
    assert!(refusal(&facts).contains("--shape"));
    facts.shape = Some(vec![3, 8]);
    assert!(refusal(&facts).contains("does not fit"));
    facts.shape = Some(vec![3, 8, 8]);
    assert!(refusal(&facts).contains("--constant guidance=VALUE"));
    facts
        .constants
        .insert("scale".to_owned(), Constant::Number(3.5));
    assert!(refusal(&facts).contains("no such input"));
    facts.constants = BTreeMap::from([("guidance".to_owned(), Constant::Number(3.5))]);
    let draft = draft_bare_graph(DraftKind::FlowMatching, &open, &facts).expect("a draft");
    let card = Card::parse(&draft.text()).expect("a card");
    assert_eq!(card.shape, [3, 8, 8]);
    assert_eq!(card.network.constants, facts.constants);
}

#[test]
fn graphs_that_no_card_describes_are_refused() {
    let cases = [
        (
            "x float32 [N, 3]",
            "v float32 [N, 2]",
            "the time is a column of the state",
        ),
        (
            "x float32 [N, 3]; t float32 [N]",
            "v float32 [N, 2]",
            "as many, or twice as many",
        ),
        (
            "x float32 [N, 3]; t float32 [N]; r float32 [N]",
            "v float32 [N, 3]",
            "is a flow map",
        ),
        (
            "x float32 [N, 3]; from float32 [N]; to float32 [N]",
            "v float32 [N, 3]",
            "not clear whether",
        ),
        (
            "x float32 [N, 3]; t int64 [N]",
            "v float32 [N, 3]",
            "takes whole numbers",
        ),
        (
            "a float32 [N, 3]; b float32 [N, 3]; t float32 [N]",
            "v float32 [N, 3]",
            "as the state",
        ),
        (
            "x int64 [N, 3]; t float32 [N]",
            "v float32 [N, 3]",
            "as the state",
        ),
        (
            "x float32 [3]; t float32 []",
            "v float32 [3]",
            "as the state",
        ),
        ("", "v float32 [3]", "no inputs"),
        ("x float32 [N, 3]; t float32 [N]", "", "no output"),
        (
            "x float32 [N, 3]; t float32 [N]",
            "a float32 [N, 3]; b float32 [N, 3]",
            "which output",
        ),
        (
            "x float32 [N, 3, 4]; t float32 [N]",
            "v float32 [N, 12]",
            "shape of the state",
        ),
        (
            "x float32 [N, 8, 8, 3]; t float32 [N]",
            "v float32 [N, 8, 8, 6]",
            "shape of the state",
        ),
    ];
    for (inputs, outputs, words) in cases {
        let graph = graph("n.onnx", inputs, outputs);
        let draft = draft_bare_graph(DraftKind::Torchcfm, &graph, &given());
        let error = format!("{:#}", draft.expect_err(inputs));
        assert!(
            error.starts_with("n.onnx: ") && error.contains(words),
            "{inputs}: {error}"
        );
    }
    let timeless = graph("n.onnx", "x float32 [N, 3]", "eps float32 [N, 3]");
    let draft = draft_bare_graph(DraftKind::Ddpm, &timeless, &given());
    let error = format!("{:#}", draft.expect_err("no time"));
    assert!(
        error.contains("no input is recognized as the time"),
        "{error}"
    );
}

#[test]
fn pipelines_that_no_card_describes_are_refused() {
    let [sd, _, _, dit, ..] = &PIPELINES;
    let with = |case: &PipelineCase, change: &dyn Fn(&mut PipelineFacts)| {
        let mut facts = case.facts();
        change(&mut facts);
        let draft = draft_pipeline(&facts, &given());
        format!("{:#}", draft.expect_err("it is refused"))
    };
    let scheduler = |text: &'static str| {
        with(sd, &move |facts: &mut PipelineFacts| {
            facts.scheduler = JsonFile::parse("s.json", text).expect("an object");
        })
    };
    let known = r#""_class_name": "DDIMScheduler""#;
    for (text, words) in [
        ("{}", "_class_name"),
        (r#"{"_class_name": 3}"#, "expected a text"),
        (
            r#"{"_class_name": "SCMScheduler"}"#,
            "`SCMScheduler` is not known",
        ),
        (
            r#"{KNOWN, "beta_start": "a"}"#,
            "beta_start is \"a\", expected a number",
        ),
        (
            r#"{KNOWN, "num_train_timesteps": 0}"#,
            "num_train_timesteps is 0",
        ),
        (
            r#"{KNOWN, "prediction_type": "score"}"#,
            "prediction_type is score",
        ),
        (
            r#"{KNOWN, "beta_schedule": "laplace"}"#,
            "beta_schedule is laplace",
        ),
        (
            r#"{KNOWN, "beta_schedule": "sigmoid", "beta_end": 0.01}"#,
            "sigmoid",
        ),
        (r#"{KNOWN, "trained_betas": [0.1]}"#, "1 entries"),
        (
            r#"{KNOWN, "trained_betas": [0.1, 0.2], "num_train_timesteps": 2}"#,
            "numpy.save",
        ),
        (r#"{KNOWN, "timestep_type": "continuous"}"#, "continuous"),
        (
            r#"{KNOWN, "use_flow_sigmas": true, "prediction_type": "epsilon"}"#,
            "flow_prediction",
        ),
        (
            r#"{"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}"#,
            "expected epsilon",
        ),
    ] {
        let text: &'static str = Box::leak(text.replace("KNOWN", known).into_boxed_str());
        let error = scheduler(text);
        assert!(
            error.starts_with("s.json: ") && error.contains(words),
            "{text}: {error}"
        );
    }
    let config = |case: &PipelineCase, text: &'static str| {
        with(case, &move |facts: &mut PipelineFacts| {
            let config = JsonFile::parse("unet/config.json", text).expect("an object");
            facts.network.config = Some(config);
        })
    };
    for (text, words) in [
        ("{}", "--shape"),
        (
            r#"{"in_channels": 9, "out_channels": 4, "sample_size": 64}"#,
            "inpainting",
        ),
        (r#"{"in_channels": "4"}"#, "in_channels is \"4\""),
        (
            r#"{"in_channels": 4, "sample_size": [64, 0]}"#,
            "sample_size is [64,0]",
        ),
    ] {
        let error = config(sd, text);
        assert!(error.contains(words), "{text}: {error}");
    }
    let ports = |inputs: &'static str| {
        with(dit, &move |facts: &mut PipelineFacts| {
            facts.network.graph.inputs = graph("", inputs, "").inputs;
        })
    };
    let state = "hidden_states float32 [N, 4, 32, 32]";
    assert!(ports(state).contains("baked into the graph"));
    let packed = "hidden_states float32 [N, p, 64]; img_ids float32 [p, 3]; timestep float32 [N]";
    assert!(ports(packed).contains("packed tokens"));
    let draws = with(sd, &|facts: &mut PipelineFacts| {
        facts.encoder.as_mut().expect("an encoder").graph.draws = true;
    });
    assert!(draws.contains("draws its output at random"), "{draws}");
    let channels = with(sd, &|facts: &mut PipelineFacts| {
        let decoder = facts.decoder.as_mut().expect("a decoder");
        decoder.graph.inputs = vec![port("latent_sample float32 [b, 16, h, w]")];
    });
    assert!(channels.contains("16 channels"), "{channels}");
}

#[test]
fn files_of_the_folder_are_named() {
    let mut facts = PIPELINES[0].facts();
    facts.null_file = Some("null.npy".to_owned());
    facts.betas_file = Some("scheduler/betas.npy".to_owned());
    facts.scheduler = JsonFile::parse(
        "s.json",
        r#"{"_class_name": "DDIMScheduler", "trained_betas": [0.1, 0.2], "num_train_timesteps": 2}"#,
    )
    .expect("an object");
    let text = draft_pipeline(&facts, &given()).expect("a draft").text();
    assert!(
        text.contains("context: {input: encoder_hidden_states, null: null.npy}"),
        "{text}"
    );
    assert!(
        text.contains("path: {kind: discrete, betas: scheduler/betas.npy, steps: 2}"),
        "{text}"
    );
}
