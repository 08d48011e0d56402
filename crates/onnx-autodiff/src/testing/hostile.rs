//! Files that are broken on purpose, and what is said about them.

use std::path::Path;

use super::*;
use crate::model::read::{self, External};
use crate::{GraphError, differentiate, external_files, obstacles};

#[test]
fn every_truncation_is_an_error_or_a_model() {
    let whole = bytes(small_network(), 17);
    for length in 0..whole.len() {
        if let Ok(model) = Model::from_bytes("cut.onnx", &whole[..length]) {
            let _ = obstacles(&model, Mode::Jvp, None, None);
        }
    }
    assert!(reading_error(&whole[..whole.len() / 2]).contains("m.onnx: not an ONNX model"));
    assert_eq!(
        reading_error(&[]),
        "m.onnx: not an ONNX model: the file is empty"
    );
}

#[test]
fn text_is_not_a_model() {
    assert!(reading_error(b"name: digits\nshape: [64]\n").contains("not an ONNX model"));
}

#[test]
fn a_cycle_is_named() {
    let nodes = vec![
        node("Add", "x b", "a", vec![]),
        node("Neg", "a", "b", vec![]),
        node("Exp", "a", "y", vec![]),
    ];
    let error = reading_error(&bytes(graph(&["x: N 2"], &["y: N 2"], vec![], nodes), 17));
    assert_eq!(
        error,
        "m.onnx: not an ONNX model: its nodes form a cycle, through node `node_a`"
    );
}

#[test]
fn nodes_may_stand_in_any_order() {
    let nodes = vec![node("Exp", "a", "y", vec![]), node("Neg", "x", "a", vec![])];
    let model = Model::from_bytes(
        "m",
        &bytes(graph(&["x: N 2"], &["y: N 2"], vec![], nodes), 17),
    )
    .unwrap();
    assert!(differentiate(&model, Mode::Jvp, None, None).is_ok());
}

#[test]
fn unknown_and_doubled_names_are_told() {
    let missing = vec![node("Add", "x ghost", "y", vec![])];
    let error = reading_error(&bytes(graph(&["x: N 2"], &["y: N 2"], vec![], missing), 17));
    assert!(
        error.ends_with("node `node_y` (Add) uses `ghost`, which nothing makes"),
        "{error}"
    );
    let doubled = vec![node("Neg", "x", "y", vec![]), node("Exp", "x", "y", vec![])];
    let error = reading_error(&bytes(graph(&["x: N 2"], &["y: N 2"], vec![], doubled), 17));
    assert!(error.contains("`y` is made twice"), "{error}");
    let error = reading_error(&bytes(graph(&["x: N 2"], &["z: N 2"], vec![], vec![]), 17));
    assert!(error.ends_with("nothing makes its output `z`"), "{error}");
}

#[test]
fn tensors_must_hold_what_their_shape_says() {
    let nodes = || vec![node("Mul", "x w", "y", vec![])];
    let short = floats("w", &[2, 3], &[1.0]);
    let error = reading_error(&bytes(
        graph(&["x: N 3"], &["y: N 3"], vec![short], nodes()),
        17,
    ));
    assert!(
        error.contains("tensor `w` of shape [2, 3] and type float32 holds 1 elements"),
        "{error}"
    );
    let huge = integers("w", &[i64::MAX, i64::MAX], &[1]);
    let error = reading_error(&bytes(
        graph(&["x: N 3"], &["y: N 3"], vec![huge], nodes()),
        17,
    ));
    assert!(error.contains("impossible shape"), "{error}");
    let negative = integers("w", &[-1], &[1]);
    let error = reading_error(&bytes(
        graph(&["x: N 3"], &["y: N 3"], vec![negative], nodes()),
        17,
    ));
    assert!(error.contains("impossible shape"), "{error}");
}

#[test]
fn data_outside_the_folder_are_not_read() {
    for location in ["../secret", "/etc/passwd", ""] {
        let entry = StringStringEntryProto {
            key: Some("location".into()),
            value: Some(location.into()),
        };
        let tensor = TensorProto {
            name: Some("w".into()),
            dims: vec![1],
            data_type: Some(1),
            data_location: Some(EXTERNAL),
            external_data: vec![entry],
            ..Default::default()
        };
        let graph = graph(
            &["x: 1"],
            &["y: 1"],
            vec![tensor],
            vec![node("Mul", "x w", "y", vec![])],
        );
        let folder = std::env::temp_dir();
        let error = read::model(
            "m",
            Bytes::from(bytes(graph, 17)),
            External::Loaded(&folder),
        )
        .unwrap_err();
        assert!(
            error.to_string().contains("outside the model's folder"),
            "{error}"
        );
    }
}

#[test]
fn external_data_are_read_from_beside_the_file() {
    let folder =
        std::env::temp_dir().join(format!("onnx-autodiff-external-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let raw: Vec<u8> = [1.0f32, 2.0, 3.0]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    std::fs::write(folder.join("weights.bin"), raw).unwrap();
    let external = |offset: &str, length: &str| {
        let pair = |key: &str, value: &str| StringStringEntryProto {
            key: Some(key.into()),
            value: Some(value.into()),
        };
        let tensor = TensorProto {
            name: Some("w".into()),
            dims: vec![2],
            data_type: Some(1),
            data_location: Some(EXTERNAL),
            external_data: vec![
                pair("location", "weights.bin"),
                pair("offset", offset),
                pair("length", length),
            ],
            ..Default::default()
        };
        bytes(
            graph(
                &["x: 2"],
                &["y: 2"],
                vec![tensor],
                vec![node("Mul", "x w", "y", vec![])],
            ),
            17,
        )
    };
    std::fs::write(folder.join("good.onnx"), external("4", "8")).unwrap();
    std::fs::write(folder.join("bad.onnx"), external("400", "8")).unwrap();
    std::fs::write(folder.join("more.onnx"), external("0", "12")).unwrap();
    let good = Model::load(&folder.join("good.onnx")).unwrap();
    assert_eq!(good.parameters(), 2);
    assert!(
        differentiate(&good, Mode::Jvp, None, None)
            .unwrap()
            .to_bytes()
            .is_ok()
    );
    let bad = Model::load(&folder.join("bad.onnx"))
        .err()
        .unwrap()
        .to_string();
    assert!(bad.contains("reach beyond the end"), "{bad}");
    let more = Model::load(&folder.join("more.onnx"))
        .err()
        .unwrap()
        .to_string();
    assert!(
        more.contains("takes 8 bytes, but its entry claims 12"),
        "{more}"
    );
    let files = external_files("good.onnx", &external("4", "8")).unwrap();
    assert_eq!(
        files.into_iter().collect::<Vec<_>>(),
        [Path::new("weights.bin")]
    );
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Weights of 3 GB that nobody has to store: the model's claim alone is refused, and may still be looked at.
#[test]
fn more_than_two_gigabytes_are_refused_before_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let entry = StringStringEntryProto {
        key: Some("location".into()),
        value: Some("weights.bin".into()),
    };
    let tensor = TensorProto {
        name: Some("w".into()),
        dims: vec![768, 1 << 20],
        data_type: Some(1),
        data_location: Some(EXTERNAL),
        external_data: vec![entry],
        ..Default::default()
    };
    let model = bytes(
        graph(
            &["x: N 768"],
            &["y: N M"],
            vec![tensor],
            vec![node("MatMul", "x w", "y", vec![])],
        ),
        17,
    );
    let path = folder.path().join("large.onnx");
    std::fs::write(&path, model).unwrap();
    let error = Model::load(&path).err().unwrap().to_string();
    assert!(
        error.contains("large.onnx") && error.contains("3221225472 bytes"),
        "{error}"
    );
    let skimmed = Model::skim(&path).unwrap();
    assert_eq!(skimmed.parameters(), 768 << 20);
    assert!(obstacles(&skimmed, Mode::Jvp, None, None).is_empty());
}

/// Many tensors that share one buffer in memory, and would take more than a message holds.
#[test]
fn a_result_of_more_than_two_gigabytes_is_not_written() {
    let shared = Bytes::from(vec![0u8; 1 << 24]);
    let tensor = |i: usize| TensorProto {
        name: Some(format!("w{i}")),
        dims: vec![1 << 22],
        data_type: Some(1),
        raw_data: Some(shared.clone()),
        ..Default::default()
    };
    let graph = GraphProto {
        initializer: (0..130).map(tensor).collect(),
        ..Default::default()
    };
    let model = Model {
        file: "m".into(),
        proto: ModelProto {
            graph: Some(graph),
            ..Default::default()
        },
    };
    assert!(matches!(model.to_bytes(), Err(GraphError::TooLarge { .. })));
}

#[test]
fn operands_of_impossible_ranks_are_no_panic() {
    let cases = [
        node("Conv", "x w", "y", vec![]),
        node("MatMul", "x w", "y", vec![]),
        node(
            "Einsum",
            "x x",
            "y",
            vec![text("equation", "abcd,abcd->aae")],
        ),
        node(
            "Einsum",
            "x x",
            "y",
            vec![text("equation", "abcd,abed->acez")],
        ),
    ];
    for case in cases {
        for dims in [vec![], vec![1], vec![1, 1], vec![1, 1, 3, 3, 3]] {
            let weights = floats(
                "w",
                &dims,
                &vec![1.0; dims.iter().product::<i64>() as usize],
            );
            let model = graph(
                &["x: N 16 4 4"],
                &["y: N 16 4 4"],
                vec![weights],
                vec![case.clone()],
            );
            let Ok(model) = Model::from_bytes("m", &bytes(model, 17)) else {
                continue;
            };
            for mode in [Mode::Jvp, Mode::Vjp] {
                let _ = obstacles(&model, mode, None, None);
                let _ = differentiate(&model, mode, None, None);
            }
        }
    }
}

#[test]
fn a_function_that_calls_itself_is_an_error() {
    let call = |name: &str, output: &str| NodeProto {
        domain: Some("local".into()),
        ..node(name, "a", output, vec![])
    };
    let function = |name: &str, calls: &str| FunctionProto {
        name: Some(name.into()),
        domain: Some("local".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: vec![call(calls, "b")],
        ..Default::default()
    };
    let entry = NodeProto {
        domain: Some("local".into()),
        ..node("F", "x", "y", vec![])
    };
    let mut model = ModelProto::decode(
        bytes(graph(&["x: N 2"], &["y: N 2"], vec![], vec![entry]), 17).as_slice(),
    )
    .unwrap();
    model.functions = vec![function("F", "G"), function("G", "F")];
    assert!(reading_error(&model.encode_to_vec()).contains("calls itself"));
}

#[test]
fn functions_that_double_at_every_level_are_refused_early() {
    let call = |name: String, input: &str, output: &str| NodeProto {
        domain: Some("local".into()),
        ..node(&name, input, output, vec![])
    };
    let function = |level: usize| FunctionProto {
        name: Some(format!("F{level}")),
        domain: Some("local".into()),
        input: vec!["a".into()],
        output: vec!["c".into()],
        node: vec![
            call(format!("F{}", level + 1), "a", "b"),
            call(format!("F{}", level + 1), "b", "c"),
        ],
        ..Default::default()
    };
    let entry = call("F0".into(), "x", "y");
    let mut model = ModelProto::decode(
        bytes(graph(&["x: N 2"], &["y: N 2"], vec![], vec![entry]), 17).as_slice(),
    )
    .unwrap();
    model.functions = (0..30).map(function).collect();
    let error = reading_error(&model.encode_to_vec());
    assert!(
        error.contains("expand to more than") || error.contains("nested too deeply"),
        "{error}"
    );
}

#[test]
fn ranks_that_double_at_every_node_stay_bounded() {
    let mut nodes = vec![node("Gather", "x i", "g0", vec![])];
    for level in 0..200 {
        nodes.push(node(
            "Gather",
            &format!("g{level} g{level}"),
            &format!("g{}", level + 1),
            vec![],
        ));
    }
    let graph = graph(
        &["x: N 2"],
        &["g200:"],
        vec![integers("i", &[1, 1, 1], &[0])],
        nodes,
    );
    let model = Model::from_bytes("m", &bytes(graph, 17)).unwrap();
    let _ = obstacles(&model, Mode::Jvp, None, None);
}

#[test]
fn sizes_beyond_all_bounds_are_followed_no_further() {
    let constants = vec![
        integers("big", &[2], &[i64::MAX / 2, i64::MAX / 2]),
        floats("one", &[], &[1.0]),
    ];
    let nodes = vec![
        node("Expand", "one big", "wide", vec![]),
        node("Shape", "wide", "s", vec![]),
        node("ReduceProd", "s", "p", vec![]),
        node("ConstantOfShape", "p", "c", vec![]),
        node("Mul", "x c", "y", vec![]),
    ];
    let model = Model::from_bytes(
        "m",
        &bytes(graph(&["x: 1"], &["y: 1"], constants, nodes), 13),
    )
    .unwrap();
    let _ = obstacles(&model, Mode::Vjp, None, None);
}
