//! Random damage: whatever the bytes are, reading and differentiating end, with a result or an error.
//!
//! `ONNX_AUTODIFF_FUZZ_SECONDS` and `ONNX_AUTODIFF_FUZZ_FOLDER` (a folder of models) make the search longer and wider.

use std::time::{Duration, Instant};

use prost::Message;

use super::*;
use crate::{differentiate, obstacles};

pub(super) struct Dice(pub u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides.max(1) as u64) as usize
    }

    fn integer(&mut self) -> i64 {
        let odd = [
            0,
            1,
            -1,
            2,
            3,
            7,
            64,
            1 << 20,
            1 << 31,
            1 << 40,
            i64::MAX,
            i64::MIN,
            i64::MIN + 1,
            -2,
            -5,
        ];
        odd[self.roll(odd.len())]
    }
}

fn damage_bytes(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..1 + dice.roll(4) {
        if bytes.is_empty() {
            return;
        }
        let place = dice.roll(bytes.len());
        match dice.roll(5) {
            0 => bytes.truncate(place),
            1 => bytes[place] = dice.roll(256) as u8,
            2 => bytes[place] ^= 1 << dice.roll(8),
            3 => {
                bytes.remove(place);
            }
            _ => bytes.insert(place, dice.roll(256) as u8),
        }
    }
}

fn pick<'a, T>(dice: &mut Dice, list: &'a mut [T]) -> Option<&'a mut T> {
    let place = dice.roll(list.len());
    list.get_mut(place)
}

fn put<T>(slot: Option<&mut T>, value: T) {
    if let Some(slot) = slot {
        *slot = value;
    }
}

/// Damage that leaves a readable message: names, numbers, operators and declarations.
fn damage_graph(dice: &mut Dice, graph: &mut GraphProto) {
    let names: Vec<String> = graph
        .node
        .iter()
        .flat_map(|n| n.output.iter().chain(&n.input).cloned())
        .collect();
    let ops: Vec<String> = graph.node.iter().map(|n| n.op_type().to_string()).collect();
    for _ in 0..1 + dice.roll(3) {
        let name = names
            .get(dice.roll(names.len()))
            .cloned()
            .unwrap_or_default();
        let number = dice.integer();
        match dice.roll(9) {
            0 => put(
                pick(dice, &mut graph.node).and_then(|n| pick(dice, &mut n.input)),
                name,
            ),
            1 => put(
                pick(dice, &mut graph.node).map(|n| &mut n.op_type),
                ops.get(dice.roll(ops.len())).cloned(),
            ),
            2 => {
                if let Some(attribute) =
                    pick(dice, &mut graph.node).and_then(|n| pick(dice, &mut n.attribute))
                {
                    attribute.i = Some(number);
                    put(pick(dice, &mut attribute.ints), number);
                }
            }
            3 => drop(pick(dice, &mut graph.node).map(|n| drop(n.attribute.pop()))),
            4 => drop(pick(dice, &mut graph.node).map(|n| drop(n.input.pop()))),
            5 => {
                if let Some(tensor) = pick(dice, &mut graph.initializer) {
                    damage_tensor(dice, tensor, number);
                }
            }
            6 => {
                if let Some(TypeValue::Tensor(tensor)) = pick(dice, &mut graph.input)
                    .and_then(|p| p.r#type.as_mut())
                    .and_then(|t| t.value.as_mut())
                {
                    let shape = tensor.shape.get_or_insert_default();
                    match dice.roll(3) {
                        0 => drop(shape.dim.pop()),
                        1 => tensor.shape = None,
                        _ => put(
                            pick(dice, &mut shape.dim).map(|d| &mut d.value),
                            Some(DimensionValue::Value(number)),
                        ),
                    }
                }
            }
            7 => put(
                pick(dice, &mut graph.node).and_then(|n| pick(dice, &mut n.output)),
                name,
            ),
            _ => {
                let (a, b) = (dice.roll(graph.node.len()), dice.roll(graph.node.len()));
                if a < graph.node.len() && b < graph.node.len() {
                    graph.node.swap(a, b);
                }
            }
        }
    }
}

fn damage_tensor(dice: &mut Dice, tensor: &mut TensorProto, number: i64) {
    if dice.roll(3) == 0 {
        tensor.dims = vec![number];
    }
    if let Some(raw) = &tensor.raw_data
        && tensor.data_type() == 7
    {
        let mut values = raw.to_vec();
        let place = dice.roll(values.len() / 8) * 8;
        if let Some(slot) = values.get_mut(place..place + 8) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        tensor.raw_data = Some(Bytes::from(values));
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let mut corpus: Vec<Vec<u8>> = [13, 17, 20, 23]
        .map(|opset| bytes(small_network(), opset))
        .to_vec();
    if let Ok(folder) = std::env::var("ONNX_AUTODIFF_FUZZ_FOLDER") {
        let files = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let models = files.filter(|path| path.extension().is_some_and(|e| e == "onnx"));
        corpus.extend(models.filter_map(|path| std::fs::read(path).ok()));
    }
    corpus
}

#[test]
fn damaged_models_end_in_a_result_or_an_error() {
    let seconds = std::env::var("ONNX_AUTODIFF_FUZZ_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(2);
    let seed = std::env::var("ONNX_AUTODIFF_FUZZ_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1u64);
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ seed);
    let corpus = corpus();
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut read, mut done) = (0u32, 0u32);
    while Instant::now() < end {
        let mut damaged = corpus[dice.roll(corpus.len())].clone();
        if dice.roll(4) == 0 {
            damage_bytes(&mut dice, &mut damaged);
        } else if let Ok(mut model) = ModelProto::decode(damaged.as_slice()) {
            damage_graph(&mut dice, model.graph.get_or_insert_default());
            damaged = model.encode_to_vec();
        }
        let start = Instant::now();
        if let Ok(model) = Model::from_bytes("damaged.onnx", &damaged) {
            read += 1;
            let mode = [
                Mode::Jvp,
                Mode::Vjp,
                Mode::Trace,
                Mode::Jacobian,
                Mode::Quadratic,
            ][dice.roll(5)];
            obstacles(&model, mode, None, None);
            if let Ok(derived) = differentiate(&model, mode, None, None) {
                done += 1;
                assert!(derived.to_bytes().is_ok());
            }
        }
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "a damaged model took {:?}",
            start.elapsed()
        );
    }
    assert!(
        read > 0 && done > 0,
        "{read} were read, {done} differentiated"
    );
}
