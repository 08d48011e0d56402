//! A small evaluator of graphs, over numbers or over dual numbers: what the property tests compare with.

use std::collections::HashMap;

use crate::content::{Content, Item};
use crate::model::Model;
use crate::proto::*;

/// A number that carries its derivative along one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dual {
    pub value: f64,
    pub slope: f64,
}

pub(crate) fn number(value: f64) -> Dual {
    Dual { value, slope: 0.0 }
}

impl Dual {
    fn chain(self, value: f64, derivative: f64) -> Dual {
        Dual {
            value,
            slope: derivative * self.slope,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub dims: Vec<usize>,
    pub data: Vec<Dual>,
}

impl Tensor {
    pub(crate) fn new(dims: &[usize], data: Vec<Dual>) -> Tensor {
        assert_eq!(data.len(), dims.iter().product::<usize>());
        Tensor {
            dims: dims.to_vec(),
            data,
        }
    }

    fn integers(&self) -> Vec<i64> {
        self.data.iter().map(|x| x.value as i64).collect()
    }

    fn at(&self, index: &[usize]) -> Dual {
        let skip = index.len() - self.dims.len();
        let place = index[skip..]
            .iter()
            .zip(&self.dims)
            .fold(0, |p, (i, d)| p * d + if *d == 1 { 0 } else { *i });
        self.data[place]
    }
}

/// A tensor of a shape, element by element.
fn build(dims: &[usize], mut f: impl FnMut(&[usize]) -> Dual) -> Tensor {
    let mut index = vec![0; dims.len()];
    let mut data = Vec::new();
    for _ in 0..dims.iter().product::<usize>() {
        data.push(f(&index));
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            if index[axis] < dims[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Tensor::new(dims, data)
}

fn constant(tensor: &TensorProto) -> Tensor {
    let content = Content::of_tensor(tensor).expect("a small constant");
    let items = content.items.iter().map(|item| match item {
        Item::Int(n) => n.as_fixed().expect("a number") as f64,
        Item::Real(x) => *x,
        Item::Unknown => panic!("an unknown constant"),
    });
    let data = items.map(number).collect();
    Tensor::new(&content.dims, data)
}

/// All values of a graph, by name.
pub(crate) fn evaluate(model: &Model, feeds: Vec<(&str, Tensor)>) -> HashMap<String, Tensor> {
    let mut values: HashMap<String, Tensor> =
        feeds.into_iter().map(|(n, t)| (n.to_string(), t)).collect();
    run(model.graph(), &mut values);
    values
}

fn run(graph: &GraphProto, values: &mut HashMap<String, Tensor>) {
    values.extend(
        graph
            .initializer
            .iter()
            .map(|t| (t.name().to_string(), constant(t))),
    );
    for node in &graph.node {
        let inputs: Vec<Tensor> = node
            .input
            .iter()
            .filter(|n| !n.is_empty())
            .map(|name| values[name].clone())
            .collect();
        let outputs = match node.op_type() {
            "If" => {
                let chosen = if inputs[0].data[0].value != 0.0 {
                    "then_branch"
                } else {
                    "else_branch"
                };
                made(subgraph(node, chosen), Vec::new(), values)
            }
            "Loop" => loop_of(node, values),
            "Scan" => scan(node, inputs, values),
            _ => apply(node, &inputs),
        };
        values.extend(node.output.iter().cloned().zip(outputs));
    }
}

fn subgraph<'a>(node: &'a NodeProto, name: &str) -> &'a GraphProto {
    node.attribute
        .iter()
        .find(|a| a.name() == name)
        .and_then(|a| a.g.as_ref())
        .expect("a subgraph")
}

/// What a subgraph makes of what it is given.
fn made(graph: &GraphProto, given: Vec<Tensor>, around: &HashMap<String, Tensor>) -> Vec<Tensor> {
    let mut values = around.clone();
    values.extend(
        graph
            .input
            .iter()
            .map(|port| port.name().to_string())
            .zip(given),
    );
    run(graph, &mut values);
    graph
        .output
        .iter()
        .map(|port| values[port.name()].clone())
        .collect()
}

fn loop_of(node: &NodeProto, values: &HashMap<String, Tensor>) -> Vec<Tensor> {
    let body = subgraph(node, "body");
    let input = |place: usize| {
        node.input
            .get(place)
            .and_then(|name| values.get(name))
            .cloned()
    };
    let most = input(0).map_or(i64::MAX, |n| n.integers()[0]);
    let mut goes_on = input(1).is_none_or(|on| on.data[0].value != 0.0);
    let mut carried: Vec<Tensor> = (2..node.input.len()).filter_map(input).collect();
    let mut stacked: Vec<Vec<Tensor>> = vec![Vec::new(); body.output.len() - 1 - carried.len()];
    let mut step = 0;
    while step < most && goes_on {
        let [number, on] = [step as f64, 1.0].map(|x| Tensor::new(&[], vec![number(x)]));
        let mut outputs = made(body, [vec![number, on], carried.clone()].concat(), values);
        let kept = outputs.split_off(1 + carried.len());
        stacked
            .iter_mut()
            .zip(kept)
            .for_each(|(list, v)| list.push(v));
        carried = outputs.split_off(1);
        (goes_on, step) = (outputs[0].data[0].value != 0.0, step + 1);
    }
    let ports = body.output.iter().skip(1 + carried.len());
    carried.extend(stacked.into_iter().zip(ports).map(|(list, port)| {
        if list.is_empty() {
            none_of(port)
        } else {
            stack(&list, 0)
        }
    }));
    carried
}

fn scan(
    node: &NodeProto,
    mut carried: Vec<Tensor>,
    values: &HashMap<String, Tensor>,
) -> Vec<Tensor> {
    let body = subgraph(node, "body");
    let sequences =
        carried.split_off(carried.len() - attribute(node, "num_scan_inputs", 0) as usize);
    let list = |name: &str, i: usize| {
        let found = node.attribute.iter().find(|a| a.name() == name);
        found.and_then(|a| a.ints.get(i)).copied().unwrap_or(0)
    };
    let axis = |i: usize| place(list("scan_input_axes", i), sequences[i].dims.len());
    let steps = sequences[0].dims[axis(0)];
    let mut stacked: Vec<Vec<Tensor>> = vec![Vec::new(); body.output.len() - carried.len()];
    for step in 0..steps {
        let element = |(i, whole): (usize, &Tensor)| {
            let from = if list("scan_input_directions", i) == 1 {
                steps - 1 - step
            } else {
                step
            };
            let mut one = take(whole, axis(i), &[from]);
            one.dims.remove(axis(i));
            one
        };
        let given = carried
            .iter()
            .cloned()
            .chain(sequences.iter().enumerate().map(element))
            .collect();
        let mut outputs = made(body, given, values);
        let kept = outputs.split_off(carried.len());
        stacked
            .iter_mut()
            .zip(kept)
            .for_each(|(list, v)| list.push(v));
        carried = outputs;
    }
    for (i, mut steps) in stacked.into_iter().enumerate() {
        if list("scan_output_directions", i) == 1 {
            steps.reverse();
        }
        carried.push(stack(
            &steps,
            place(list("scan_output_axes", i), steps[0].dims.len() + 1),
        ));
    }
    carried
}

/// What is kept of no steps: sizes that the body does not declare are zero, as they are for ONNX Runtime.
fn none_of(port: &ValueInfoProto) -> Tensor {
    let declared = tensor_type(port).and_then(|tensor| tensor.shape.as_ref());
    let size = |dim: &DimensionProto| match dim.value {
        Some(DimensionValue::Value(n)) => n as usize,
        _ => 0,
    };
    let dims: Vec<usize> = [0]
        .into_iter()
        .chain(declared.iter().flat_map(|shape| &shape.dim).map(size))
        .collect();
    Tensor::new(&dims, Vec::new())
}

/// Tensors along a new axis.
fn stack(list: &[Tensor], axis: usize) -> Tensor {
    let mut dims = list[0].dims.clone();
    dims.insert(axis, list.len());
    build(&dims, |i| {
        let mut inner = i.to_vec();
        let place = inner.remove(axis);
        list[place].at(&inner)
    })
}

fn attribute(node: &NodeProto, name: &str, default: i64) -> i64 {
    node.attribute
        .iter()
        .find(|a| a.name() == name)
        .map_or(default, |a| a.i())
}

fn place(axis: i64, rank: usize) -> usize {
    if axis < 0 {
        (axis + rank as i64) as usize
    } else {
        axis as usize
    }
}

fn unary(x: &Tensor, f: impl Fn(Dual) -> Dual) -> Tensor {
    Tensor::new(&x.dims, x.data.iter().map(|x| f(*x)).collect())
}

fn binary(a: &Tensor, b: &Tensor, f: impl Fn(Dual, Dual) -> Dual) -> Tensor {
    let dims = crate::content::broadcast_dims(&a.dims, &b.dims).expect("shapes that broadcast");
    build(&dims, |i| f(a.at(i), b.at(i)))
}

fn add(a: Dual, b: Dual) -> Dual {
    Dual {
        value: a.value + b.value,
        slope: a.slope + b.slope,
    }
}

fn mul(a: Dual, b: Dual) -> Dual {
    Dual {
        value: a.value * b.value,
        slope: a.value * b.slope + a.slope * b.value,
    }
}

fn neg(a: Dual) -> Dual {
    mul(a, number(-1.0))
}

fn reciprocal(a: Dual) -> Dual {
    a.chain(1.0 / a.value, -1.0 / (a.value * a.value))
}

fn exp(a: Dual) -> Dual {
    a.chain(a.value.exp(), a.value.exp())
}

fn sigmoid(a: Dual) -> Dual {
    let y = 1.0 / (1.0 + (-a.value).exp());
    a.chain(y, y * (1.0 - y))
}

fn tanh(a: Dual) -> Dual {
    let y = a.value.tanh();
    a.chain(y, 1.0 - y * y)
}

fn sqrt(a: Dual) -> Dual {
    let y = a.value.sqrt();
    a.chain(y, 0.5 / y)
}

fn erf(a: Dual) -> Dual {
    let x = a.value;
    let terms = (0..60).scan(x, |term, n| {
        let this = *term / f64::from(2 * n + 1);
        *term *= -x * x / f64::from(n + 1);
        Some(this)
    });
    let root = std::f64::consts::PI.sqrt();
    a.chain(2.0 / root * terms.sum::<f64>(), 2.0 / root * (-x * x).exp())
}

fn flag(holds: bool) -> Dual {
    number(f64::from(u8::from(holds)))
}

fn apply(node: &NodeProto, x: &[Tensor]) -> Vec<Tensor> {
    let one = match node.op_type() {
        "Erf" => unary(&x[0], erf),
        "Relu" => unary(&x[0], |a| if a.value > 0.0 { a } else { number(0.0) }),
        "Greater" => binary(&x[0], &x[1], |a, b| flag(a.value > b.value)),
        "Where" => {
            let chosen = binary(&x[0], &x[1], mul);
            let other = binary(&unary(&x[0], |a| add(number(1.0), neg(a))), &x[2], mul);
            binary(&chosen, &other, add)
        }
        "Range" => {
            let [start, end, step] = [0, 1, 2].map(|i| x[i].integers()[0]);
            let places: Vec<Dual> = (start..end)
                .step_by(step as usize)
                .map(|n| number(n as f64))
                .collect();
            Tensor::new(&[places.len()], places)
        }
        "Gemm" => gemm(node, x),
        "Conv" | "ConvTranspose" => pointwise(x),
        "LayerNormalization" | "RMSNormalization" | "InstanceNormalization" => {
            normalization(node, x)
        }
        "Add" => binary(&x[0], &x[1], add),
        "Sub" => binary(&x[0], &x[1], |a, b| add(a, neg(b))),
        "Mul" => binary(&x[0], &x[1], mul),
        "Div" => binary(&x[0], &x[1], |a, b| mul(a, reciprocal(b))),
        "Neg" => unary(&x[0], neg),
        "Reciprocal" => unary(&x[0], reciprocal),
        "Exp" => unary(&x[0], exp),
        "Sigmoid" => unary(&x[0], sigmoid),
        "Tanh" => unary(&x[0], tanh),
        "Sqrt" => unary(&x[0], sqrt),
        "Sin" => unary(&x[0], |a| a.chain(a.value.sin(), a.value.cos())),
        "Cos" => unary(&x[0], |a| a.chain(a.value.cos(), -a.value.sin())),
        "Identity" | "Cast" => x[0].clone(),
        "MatMul" => matmul(&x[0], &x[1]),
        "Softmax" => softmax(&x[0], place(attribute(node, "axis", -1), x[0].dims.len())),
        "ReduceSum" | "ReduceMean" => reduce(node, x),
        "Transpose" => transpose(&x[0], &node.attribute[0].ints),
        "Reshape" => reshape(&x[0], &x[1].integers()),
        "Unsqueeze" | "Squeeze" => reaxed(node, x),
        "Expand" => {
            let target: Vec<usize> = x[1].integers().iter().map(|n| *n as usize).collect();
            let dims =
                crate::content::broadcast_dims(&x[0].dims, &target).expect("shapes that broadcast");
            build(&dims, |i| x[0].at(i))
        }
        "Shape" => Tensor::new(
            &[x[0].dims.len()],
            x[0].dims.iter().map(|d| number(*d as f64)).collect(),
        ),
        "Gather" => {
            let axis = place(attribute(node, "axis", 0), x[0].dims.len());
            let places: Vec<usize> = x[1]
                .integers()
                .iter()
                .map(|i| place(*i, x[0].dims[axis]))
                .collect();
            let mut taken = take(&x[0], axis, &places);
            taken.dims.splice(axis..=axis, x[1].dims.iter().copied());
            taken
        }
        "Concat" => concat(x, place(attribute(node, "axis", 0), x[0].dims.len())),
        "Slice" => {
            let axis = place(x[3].integers()[0], x[0].dims.len());
            if x.get(4).is_some_and(|step| step.integers() == [-1]) {
                return vec![take(
                    &x[0],
                    axis,
                    &(0..x[0].dims[axis]).rev().collect::<Vec<_>>(),
                )];
            }
            let wrap = |n: i64| place(n, x[0].dims[axis]).min(x[0].dims[axis]);
            take(
                &x[0],
                axis,
                &(wrap(x[1].integers()[0])..wrap(x[2].integers()[0])).collect::<Vec<_>>(),
            )
        }
        "Split" => {
            let axis = place(attribute(node, "axis", 0), x[0].dims.len());
            let mut start = 0;
            let part = |n: &i64| {
                start += *n as usize;
                take(
                    &x[0],
                    axis,
                    &(start - *n as usize..start).collect::<Vec<_>>(),
                )
            };
            return x[1].integers().iter().map(part).collect();
        }
        "Pad" => pad(&x[0], &x[1].integers()),
        other => panic!("{other} is not evaluated"),
    };
    vec![one]
}

fn matmul(a: &Tensor, b: &Tensor) -> Tensor {
    let (p, q) = (a.dims.len() - 2, b.dims.len() - 2);
    let batch =
        crate::content::broadcast_dims(&a.dims[..p], &b.dims[..q]).expect("batches that broadcast");
    let (rows, inner, columns) = (a.dims[p], a.dims[p + 1], b.dims[q + 1]);
    let n = batch.len();
    build(&[batch, vec![rows, columns]].concat(), |i| {
        let mut left = i.to_vec();
        let mut right = i.to_vec();
        (0..inner).fold(number(0.0), |sum, j| {
            left[n + 1] = j;
            right[n] = j;
            add(sum, mul(a.at(&left), b.at(&right)))
        })
    })
}

/// Without turned factors.
fn gemm(node: &NodeProto, x: &[Tensor]) -> Tensor {
    assert!(
        ["alpha", "beta", "transA", "transB"]
            .iter()
            .all(|name| node.attribute.iter().all(|a| a.name() != *name))
    );
    let product = matmul(&x[0], &x[1]);
    x.get(2)
        .map_or(product.clone(), |bias| binary(&product, bias, add))
}

/// By a kernel of one number.
fn pointwise(x: &[Tensor]) -> Tensor {
    assert_eq!(
        x[1].data.len(),
        1,
        "only kernels of one number are evaluated"
    );
    let product = unary(&x[0], |a| mul(a, x[1].data[0]));
    x.get(2).map_or(product.clone(), |bias| {
        unary(&product, |a| add(a, bias.data[0]))
    })
}

/// Of the last axis.
fn normalization(node: &NodeProto, x: &[Tensor]) -> Tensor {
    let last = x[0].dims.len() - 1;
    let mean = |v: &Tensor| {
        unary(&sum(v, &[last]), |a| {
            mul(a, number(1.0 / v.dims[last] as f64))
        })
    };
    let centred = match node.op_type() {
        "RMSNormalization" => x[0].clone(),
        _ => binary(&x[0], &unary(&mean(&x[0]), neg), add),
    };
    let epsilon = node
        .attribute
        .iter()
        .find(|a| a.name() == "epsilon")
        .and_then(|a| a.f)
        .map_or(1e-5, f64::from);
    let deviation = unary(&mean(&binary(&centred, &centred, mul)), |a| {
        sqrt(add(a, number(epsilon)))
    });
    let hat = binary(&centred, &deviation, |a, b| mul(a, reciprocal(b)));
    // A scale for each instance's channel, or for each place of the last axis.
    let column = |v: &Tensor| match node.op_type() {
        "InstanceNormalization" => Tensor::new(&[v.dims[0], 1], v.data.clone()),
        _ => v.clone(),
    };
    let scaled = binary(&hat, &column(&x[1]), mul);
    x.get(2)
        .map_or(scaled.clone(), |bias| binary(&scaled, &column(bias), add))
}

fn sum(x: &Tensor, axes: &[usize]) -> Tensor {
    let dims: Vec<usize> = x
        .dims
        .iter()
        .enumerate()
        .map(|(i, d)| if axes.contains(&i) { 1 } else { *d })
        .collect();
    let mut total = build(&dims, |_| number(0.0));
    let mut at = 0;
    build(&x.dims, |i| {
        let place = i
            .iter()
            .zip(&dims)
            .fold(0, |p, (i, d)| p * d + if *d == 1 { 0 } else { *i });
        total.data[place] = add(total.data[place], x.data[at]);
        at += 1;
        number(0.0)
    });
    total
}

fn reduce(node: &NodeProto, x: &[Tensor]) -> Tensor {
    let listed = node
        .attribute
        .iter()
        .find(|a| a.name() == "axes")
        .map(|a| a.ints.clone());
    let axes = listed.unwrap_or_else(|| x[1].integers());
    let axes: Vec<usize> = axes.iter().map(|a| place(*a, x[0].dims.len())).collect();
    let mut total = sum(&x[0], &axes);
    if node.op_type() == "ReduceMean" {
        let count: usize = axes.iter().map(|a| x[0].dims[*a]).product();
        total = unary(&total, |v| mul(v, number(1.0 / count as f64)));
    }
    if attribute(node, "keepdims", 1) == 0 {
        total.dims = (0..x[0].dims.len())
            .filter(|i| !axes.contains(i))
            .map(|i| x[0].dims[i])
            .collect();
    }
    total
}

fn softmax(x: &Tensor, axis: usize) -> Tensor {
    let powers = unary(x, exp);
    let total = sum(&powers, &[axis]);
    binary(&powers, &total, |a, b| mul(a, reciprocal(b)))
}

fn transpose(x: &Tensor, perm: &[i64]) -> Tensor {
    let dims: Vec<usize> = perm.iter().map(|p| x.dims[*p as usize]).collect();
    build(&dims, |i| {
        let mut from = vec![0; i.len()];
        for (j, p) in perm.iter().enumerate() {
            from[*p as usize] = i[j];
        }
        x.at(&from)
    })
}

fn reshape(x: &Tensor, target: &[i64]) -> Tensor {
    let known: i64 = target.iter().filter(|n| **n >= 0).product();
    let open = x.data.len() as i64 / known.max(1);
    let dims: Vec<usize> = target
        .iter()
        .map(|n| if *n < 0 { open } else { *n } as usize)
        .collect();
    Tensor::new(&dims, x.data.clone())
}

fn reaxed(node: &NodeProto, x: &[Tensor]) -> Tensor {
    let axes = x[1].integers();
    let mut dims = x[0].dims.clone();
    if node.op_type() == "Squeeze" {
        let axes: Vec<usize> = axes.iter().map(|a| place(*a, x[0].dims.len())).collect();
        dims = (0..dims.len())
            .filter(|i| !axes.contains(i))
            .map(|i| x[0].dims[i])
            .collect();
    } else {
        let rank = dims.len() + axes.len();
        let mut axes: Vec<usize> = axes.iter().map(|a| place(*a, rank)).collect();
        axes.sort_unstable();
        axes.into_iter().for_each(|axis| dims.insert(axis, 1));
    }
    Tensor::new(&dims, x[0].data.clone())
}

fn take(x: &Tensor, axis: usize, places: &[usize]) -> Tensor {
    let mut dims = x.dims.clone();
    dims[axis] = places.len();
    build(&dims, |i| {
        let mut from = i.to_vec();
        from[axis] = places[i[axis]];
        x.at(&from)
    })
}

fn concat(x: &[Tensor], axis: usize) -> Tensor {
    let mut dims = x[0].dims.clone();
    dims[axis] = x.iter().map(|t| t.dims[axis]).sum();
    build(&dims, |i| {
        let mut from = i.to_vec();
        for t in x {
            if from[axis] < t.dims[axis] {
                return t.at(&from);
            }
            from[axis] -= t.dims[axis];
        }
        number(0.0)
    })
}

fn pad(x: &Tensor, pads: &[i64]) -> Tensor {
    let rank = x.dims.len();
    let grown = |(i, d): (usize, &usize)| (*d as i64 + pads[i] + pads[i + rank]) as usize;
    let dims: Vec<usize> = x.dims.iter().enumerate().map(grown).collect();
    build(&dims, |i| {
        let from: Vec<i64> = i.iter().zip(pads).map(|(i, p)| *i as i64 - p).collect();
        let inside = from
            .iter()
            .zip(&x.dims)
            .all(|(i, d)| (0..*d as i64).contains(i));
        if inside {
            x.at(&from.iter().map(|i| *i as usize).collect::<Vec<_>>())
        } else {
            number(0.0)
        }
    })
}
