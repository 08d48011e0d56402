//! Derived graphs run by ONNX Runtime: every rule against a case of its own, made by `scripts/rule_cases.py`.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use flowgauge::graph::{self, ElemType, Mode, Model};
use flowgauge::model::onnx::{Provider, Runtime, Session};
use ndarray::{Array2, ArrayD, ArrayViewD, Axis, IxDyn};
use ndarray_npy::NpzReader;

fn open(model: &Model) -> Session {
    let runtime = Runtime::get(None).expect("ONNX Runtime is found or fetched");
    let bytes = model.to_bytes().expect("the graph is written");
    runtime
        .open(model.file(), &bytes, Provider::Cpu, 1)
        .expect("the graph loads")
}

fn derived(model: &Model, mode: Mode) -> Session {
    open(&graph::differentiate(model, mode, None, None).unwrap_or_else(|e| panic!("{e}")))
}

fn run(session: &mut Session, feeds: &[(&str, ArrayViewD<f64>)], wanted: &str) -> ArrayD<f64> {
    session
        .run(feeds.to_vec(), &[wanted])
        .unwrap_or_else(|e| panic!("{e}"))
        .remove(0)
}

fn norm(a: &ArrayD<f64>) -> f64 {
    a.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Numbers without a pattern, for cotangents.
fn irregular(shape: &[usize]) -> ArrayD<f64> {
    let mut place = 0.0f64;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        place += 1.0;
        (place * 1.7 + 0.3).sin() + 0.25 * (place * 0.61).cos()
    })
}

/// How far the graphs of one case are from the references: the tangents, and the inner products of both modes.
fn rule_errors(model: &Model, xv: &ArrayD<f64>, jv: &ArrayD<f64>) -> (f64, f64) {
    let (x, v) = (
        xv.index_axis(Axis(0), 0),
        xv.slice_axis(Axis(0), (1..).into()),
    );
    let mut forward = derived(model, Mode::Jvp);
    let found = run(
        &mut forward,
        &[("x", x.view()), ("x_tangent", v.view())],
        "y_tangent",
    );
    let scale = jv.iter().fold(1e-3, |m: f64, x| m.max(x.abs()));
    let tangent = (&found - jv).iter().fold(0.0, |m: f64, x| m.max(x.abs())) / scale;
    let u = irregular(&jv.shape()[1..]);
    let mut reverse = derived(model, Mode::Vjp);
    let g = run(
        &mut reverse,
        &[("x", x.view()), ("y_cotangent", u.view())],
        "x_cotangent",
    );
    let mut product = 0.0f64;
    for (direction, image) in v.outer_iter().zip(found.outer_iter()) {
        let (a, b) = ((&image * &u).sum(), (&direction * &g).sum());
        product = product.max((a - b).abs() / (norm(&u) * norm(&image.to_owned())).max(1e-3));
    }
    (tangent, product)
}

#[test]
fn every_rule_agrees_with_differences_and_with_its_transpose() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/graph/rules.npz");
    let mut cases = NpzReader::new(File::open(&path).expect("rules.npz")).expect("rules.npz");
    let names: Vec<String> = cases
        .names()
        .expect("names")
        .into_iter()
        .filter_map(|n| Some(n.strip_suffix(".onnx")?.to_string()))
        .collect();
    let mut wrong = Vec::new();
    let mut tested: BTreeSet<String> = BTreeSet::new();
    // Cases in double precision whose references are right to 1e-12.
    let mut exact = 0;
    for name in &names {
        let bytes: ndarray::Array1<u8> = cases.by_name(&format!("{name}.onnx")).expect(name);
        let model = Model::from_bytes(name, &bytes.to_vec()).expect(name);
        let [xv, jv]: [ArrayD<f64>; 2] =
            ["xv", "jv"].map(|a| cases.by_name(&format!("{name}.{a}")).expect(name));
        let double = model.inputs()[0].elem == ElemType::DOUBLE;
        let right: ndarray::Array1<f64> = cases.by_name(&format!("{name}.right")).expect(name);
        exact += usize::from(double && right[0] <= 1e-12);
        // ONNX Runtime's attention rounds its scale to single precision.
        let bounds = match (double, name.ends_with("Attention")) {
            (true, false) => (right[0], 1e-12),
            (true, true) => (1e-6, 1e-7),
            (false, _) => (5e-6, 2e-6),
        };
        let (tangent, product) = rule_errors(&model, &xv, &jv);
        if !(tangent <= bounds.0 && product <= bounds.1) {
            wrong.push(format!(
                "{name}: tangent {tangent:.1e}, product {product:.1e}"
            ));
        }
        tested.extend(model.operators().into_keys());
    }
    assert!(
        exact > 400,
        "{exact} of {} cases are held to 1e-12",
        names.len()
    );
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        names.len(),
        wrong.join("\n")
    );
    // Choices and loops are no single operators and have cases among the outputs below; ONNX Runtime has none of the others
    // yet.
    let elsewhere = [
        "CausalConvWithState",
        "If",
        "LinearAttention",
        "Loop",
        "Scan",
        "SwiGLU",
    ];
    let untested: Vec<&str> = graph::operators()
        .into_iter()
        .filter(|op| !tested.contains(*op) && !elsewhere.contains(op))
        .collect();
    assert!(untested.is_empty(), "rules without a case: {untested:?}");
}

/// What the references of operators compute in float32 even for float64: the third of HardSwish, the coordinates of cubic
/// interpolation, the smallest deviation.
const ROUNDED: &[(&str, f64)] = &[
    ("HardSwish", 5e-8),
    ("MeanVarianceNormalization", 5e-9),
    ("Resize", 2e-6),
];

#[test]
fn operators_without_a_kernel_in_float64_are_computed_in_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/graph/rules.npz");
    let mut cases = NpzReader::new(File::open(&path).expect("rules.npz")).expect("rules.npz");
    let names: Vec<String> = cases
        .names()
        .expect("names")
        .into_iter()
        .filter_map(|n| Some(n.strip_suffix(".onnx")?.to_string()))
        .collect();
    let mut lifted: BTreeSet<String> = BTreeSet::new();
    let mut refused = Vec::new();
    for name in &names {
        let bytes: ndarray::Array1<u8> = cases.by_name(&format!("{name}.onnx")).expect(name);
        let model = Model::from_bytes(name, &bytes.to_vec()).expect(name);
        if model.inputs()[0].elem != ElemType::FLOAT {
            continue;
        }
        let Ok(wide) = model.in_precision(ElemType::DOUBLE) else {
            refused.push(name);
            continue;
        };
        let [xv, jv]: [ArrayD<f64>; 2] =
            ["xv", "jv"].map(|a| cases.by_name(&format!("{name}.{a}")).expect(name));
        let right: ndarray::Array1<f64> = cases.by_name(&format!("{name}.right")).expect(name);
        let rounded = ROUNDED
            .iter()
            .find(|(op, _)| name.ends_with(op))
            .map_or(0.0, |(_, bound)| *bound);
        let (tangent, product) = rule_errors(&wide, &xv, &jv);
        assert!(
            tangent <= right[0].max(rounded) && product <= 1e-12,
            "{name}: {tangent:.1e}, {product:.1e}"
        );
        lifted.extend(model.operators().into_keys());
    }
    assert!(lifted.len() >= 30, "{lifted:?}");
    // Antialiasing and a constant around a cropped region alone have no form in float64.
    assert!(
        refused.len() == 4 && refused.iter().all(|name| name.ends_with("Resize")),
        "{refused:?}"
    );
}

/// Of every rule whose output has the shape of its input, the trace graph agrees with forward mode along the unit vectors.
#[test]
fn the_trace_of_every_rule_is_that_of_its_tangents() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/graph/rules.npz");
    let mut cases = NpzReader::new(File::open(&path).expect("rules.npz")).expect("rules.npz");
    let names: Vec<String> = cases
        .names()
        .expect("names")
        .into_iter()
        .filter_map(|n| Some(n.strip_suffix(".onnx")?.to_string()))
        .collect();
    let mut wrong = Vec::new();
    let mut tested = 0;
    for name in &names {
        let [xv, jv]: [ArrayD<f64>; 2] =
            ["xv", "jv"].map(|a| cases.by_name(&format!("{name}.{a}")).expect(name));
        let x = xv.index_axis(Axis(0), 0);
        if x.ndim() < 2 || jv.shape()[1..] != *x.shape() {
            continue;
        }
        let bytes: ndarray::Array1<u8> = cases.by_name(&format!("{name}.onnx")).expect(name);
        let model = Model::from_bytes(name, &bytes.to_vec()).expect(name);
        // A batch that is a number in one port and a name in the other is not known to be the same.
        let mut forward = derived(&model, Mode::Jvp);
        if forward
            .outputs
            .iter()
            .all(|port| port.name != "y_quadratic")
        {
            continue;
        }
        let (rows, size) = (x.shape()[0], x.len() / x.shape()[0]);
        let z = ArrayD::from_shape_fn(IxDyn(&[size, rows, size]), |i| {
            f64::from(u8::from(i[0] == i[2]))
        });
        let shape: Vec<usize> = std::iter::once(size)
            .chain(x.shape().iter().copied())
            .collect();
        let z = z.into_shape_with_order(shape).expect("as many");
        let forms = run(
            &mut forward,
            &[("x", x.view()), ("x_tangent", z.view())],
            "y_quadratic",
        );
        let right = forms.sum_axis(Axis(0));
        let mut traced = derived(&model, Mode::Trace);
        let terms = run(&mut traced, &[("x", x.view())], "y_trace_terms").sum_axis(Axis(0));
        let trace = run(&mut traced, &[("x", x.view())], "y_trace");
        let scale = forms.iter().fold(1e-3, |m: f64, v| m.max(v.abs())) * size as f64;
        let gap =
            |a: &ArrayD<f64>| (a - &right).iter().fold(0.0, |m: f64, v| m.max(v.abs())) / scale;
        let double = model.inputs()[0].elem == ElemType::DOUBLE && !name.ends_with("Attention");
        let worst = gap(&terms).max(gap(&trace));
        if worst.is_nan() || worst > if double { 1e-12 } else { 2e-6 } {
            wrong.push(format!("{name}: {worst:.1e}"));
        }
        tested += 1;
    }
    assert!(tested > 140, "{tested} of {}", names.len());
    assert!(
        wrong.is_empty(),
        "{} of {tested}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The derivative of a derived graph's result along some directions, as fourth-order differences tell it.
fn differences(
    session: &mut Session,
    x: &ArrayD<f64>,
    given: (&str, &ArrayD<f64>),
    of: &str,
    u: &ArrayD<f64>,
) -> ArrayD<f64> {
    let step = 1e-4;
    let mut at = |s: f64, u: ArrayViewD<f64>| {
        let moved = x + &u.mapv(|v| s * v);
        run(
            session,
            &[("x", moved.view()), (given.0, given.1.view())],
            of,
        )
    };
    let along = |u: ArrayViewD<f64>| {
        let near = at(step, u.view()) - at(-step, u.view());
        let far = at(2.0 * step, u.view()) - at(-2.0 * step, u.view());
        (8.0 * near - far) / (12.0 * step)
    };
    let found: Vec<ArrayD<f64>> = u.outer_iter().map(along).collect();
    let views: Vec<ArrayViewD<f64>> = found.iter().map(|f| f.view()).collect();
    ndarray::stack(Axis(0), &views).expect("one shape")
}

/// A graph derived twice against differences of the graph derived once: forward mode, and reverse mode by inner products;
/// and the largest second derivative.
fn second_errors(
    model: &Model,
    first: Mode,
    x: &ArrayD<f64>,
    given: &ArrayD<f64>,
    u: &ArrayD<f64>,
) -> [f64; 3] {
    let (seed, of, twice, result) = match first {
        Mode::Jvp => ("x_tangent", "y_tangent", "x_tangent_2", "x_cotangent"),
        _ => ("y_cotangent", "x_cotangent", "x_tangent", "x_cotangent_2"),
    };
    let again = |once: &Model, mode| {
        graph::differentiate(once, mode, Some("x"), Some(of)).unwrap_or_else(|e| panic!("{e}"))
    };
    let once = graph::differentiate(model, first, None, None).unwrap_or_else(|e| panic!("{e}"));
    let right = differences(&mut open(&once), x, (seed, given), of, u);
    let feeds = [("x", x.view()), (seed, given.view())];
    let mut forward = open(&again(&once, Mode::Jvp));
    let found = run(
        &mut forward,
        &[&feeds[..], &[(twice, u.view())]].concat(),
        &format!("{of}_tangent"),
    );
    let w = irregular(&right.shape()[1..]);
    let mut reverse = open(&again(&once, Mode::Vjp));
    let cotangent = format!("{of}_cotangent");
    let back = run(
        &mut reverse,
        &[&feeds[..], &[(cotangent.as_str(), w.view())]].concat(),
        result,
    );
    let largest = found.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let scale = right.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
    let tangent = (&found - &right)
        .iter()
        .fold(0.0, |m: f64, v| m.max(v.abs()))
        / scale;
    let product = |(u, image): (ArrayViewD<f64>, ArrayViewD<f64>)| {
        ((&image * &w).sum() - (&u * &back).sum()).abs()
            / (norm(&w) * norm(&image.to_owned())).max(1e-3)
    };
    [
        tangent,
        u.outer_iter()
            .zip(found.outer_iter())
            .map(product)
            .fold(0.0, f64::max),
        largest,
    ]
}

/// Operators that are linear piece by piece: their second derivative is zero.
const PIECEWISE: &[&str] = &[
    "Abs",
    "Clip",
    "HardSigmoid",
    "LeakyRelu",
    "Max",
    "Min",
    "PRelu",
    "Relu",
    "ReduceL1",
    "ReduceMax",
];

/// Of each operator its first case is derived twice, in all four orders of the modes.
#[test]
fn second_derivatives_of_every_rule_agree_with_differences_of_the_first() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/graph/rules.npz");
    let mut cases = NpzReader::new(File::open(&path).expect("rules.npz")).expect("rules.npz");
    let mut names: Vec<String> = cases
        .names()
        .expect("names")
        .into_iter()
        .filter_map(|n| Some(n.strip_suffix(".onnx")?.to_string()))
        .collect();
    names.sort();
    let (mut tested, mut wrong) = (BTreeSet::new(), Vec::new());
    for name in &names {
        let operator = name.split('-').nth(1).expect("an operator").to_owned();
        if tested.contains(&operator) {
            continue;
        }
        let bytes: ndarray::Array1<u8> = cases.by_name(&format!("{name}.onnx")).expect(name);
        let model = Model::from_bytes(name, &bytes.to_vec()).expect(name);
        let Ok(model) = model.in_precision(ElemType::DOUBLE) else {
            continue;
        };
        let [xv, jv]: [ArrayD<f64>; 2] =
            ["xv", "jv"].map(|a| cases.by_name(&format!("{name}.{a}")).expect(name));
        let (x, v) = (
            xv.index_axis(Axis(0), 0).to_owned(),
            xv.slice_axis(Axis(0), (1..).into()).to_owned(),
        );
        let u = irregular(v.shape());
        for (first, given) in [
            (Mode::Jvp, v.clone()),
            (Mode::Vjp, irregular(&jv.shape()[1..])),
        ] {
            let [tangent, product, largest] = second_errors(&model, first, &x, &given, &u);
            let zero = PIECEWISE.contains(&operator.as_str());
            // ONNX Runtime's attention rounds its scale to single precision.
            let bound = if operator == "Attention" { 1e-6 } else { 1e-7 };
            let exact = if operator == "Attention" { 1e-7 } else { 1e-11 };
            if !(tangent <= bound && product <= exact) || zero && largest != 0.0 {
                wrong.push(format!(
                    "{name} {first:?}: tangent {tangent:.1e}, product {product:.1e}, {largest:.1e}"
                ));
            }
        }
        tested.insert(operator);
    }
    assert!(
        PIECEWISE.iter().all(|operator| tested.contains(*operator)),
        "{tested:?}"
    );
    assert!(tested.len() > 120, "{} operators: {tested:?}", tested.len());
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Cases of an archive by name: the model, its input and its Jacobian, where there is one.
struct Edge {
    name: String,
    model: Model,
    x: ArrayD<f64>,
    jacobian: Option<Array2<f64>>,
}

fn edges(archive: &str) -> Vec<Edge> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/graph")
        .join(archive);
    let mut cases = NpzReader::new(File::open(&path).expect(archive)).expect(archive);
    let members = cases.names().expect("names");
    let names: Vec<&str> = members
        .iter()
        .filter_map(|n| n.strip_suffix(".onnx"))
        .collect();
    let mut edges = Vec::new();
    for name in names {
        let bytes: ndarray::Array1<u8> = cases.by_name(&format!("{name}.onnx")).expect(name);
        let model = Model::from_bytes(name, &bytes.to_vec()).expect(name);
        let x = cases.by_name(&format!("{name}.x")).expect(name);
        let jacobian = format!("{name}.j");
        let jacobian = members
            .contains(&jacobian)
            .then(|| cases.by_name(&jacobian).expect(name));
        edges.push(Edge {
            name: name.to_owned(),
            model,
            x,
            jacobian,
        });
    }
    edges
}

/// The Jacobian as the derived graph of a mode gives it, and the plain outputs beside it.
fn jacobian_by(edge: &Edge, mode: Mode) -> (Array2<f64>, ArrayD<f64>) {
    let mut session = derived(&edge.model, mode);
    let y = open(&edge.model)
        .run(vec![("x", edge.x.view())], &["y"])
        .expect("the model runs")
        .remove(0);
    let unit = |length: usize, place: usize| {
        ndarray::Array1::from_shape_fn(length, |i| f64::from(u8::from(i == place)))
    };
    let mut found = Array2::zeros((y.len(), edge.x.len()));
    let mut plain = y.clone();
    for place in 0..if mode == Mode::Jvp {
        edge.x.len()
    } else {
        y.len()
    } {
        if mode == Mode::Jvp {
            let v = unit(edge.x.len(), place)
                .into_shape_with_order(edge.x.shape())
                .expect("as long")
                .insert_axis(Axis(0));
            let feeds = vec![("x", edge.x.view()), ("x_tangent", v.view())];
            let out = session
                .run(feeds, &["y", "y_tangent"])
                .unwrap_or_else(|e| panic!("{}: {e}", edge.name));
            plain = out[0].clone();
            found
                .column_mut(place)
                .iter_mut()
                .zip(&out[1])
                .for_each(|(to, from)| *to = *from);
        } else {
            let u = unit(y.len(), place)
                .into_shape_with_order(y.shape())
                .expect("as long");
            let feeds = vec![("x", edge.x.view()), ("y_cotangent", u.view())];
            let out = session
                .run(feeds, &["y", "x_cotangent"])
                .unwrap_or_else(|e| panic!("{}: {e}", edge.name));
            plain = out[0].clone();
            found
                .row_mut(place)
                .iter_mut()
                .zip(&out[1])
                .for_each(|(to, from)| *to = *from);
        }
    }
    let gap = (&plain - &y)
        .iter()
        .filter(|v| !v.is_nan())
        .fold(0.0, |m: f64, v| m.max(v.abs()));
    assert!(
        gap <= 1e-5,
        "{} {mode:?}: its own output moved by {gap:.1e}",
        edge.name
    );
    (found, y)
}

/// The largest difference, infinite where one of the two is not finite and the other is not the same.
fn distance(found: &Array2<f64>, right: &Array2<f64>) -> f64 {
    let alike = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan();
    let gap = |(a, b): (&f64, &f64)| if alike(*a, *b) { 0.0 } else { (a - b).abs() };
    found.iter().zip(right).map(gap).fold(0.0, |m, gap| {
        if gap.is_nan() {
            f64::INFINITY
        } else {
            m.max(gap)
        }
    })
}

const MODES: [Mode; 2] = [Mode::Jvp, Mode::Vjp];

/// The operator and the output of a case's name: `012-LayerNormalization-2`.
fn operator_and_output(name: &str) -> (&str, usize) {
    let mut parts = name.split('-').skip(1);
    let operator = parts.next().expect("an operator");
    (
        operator,
        parts
            .next()
            .and_then(|place| place.parse().ok())
            .expect("an output"),
    )
}

/// Every output of every operator that has several, alone: its derivative is right, or it is refused by its node.
#[test]
fn every_output_has_its_derivative_or_is_refused() {
    let mut tested: BTreeSet<(String, usize)> = BTreeSet::new();
    let mut wrong = Vec::new();
    for edge in edges("outputs.npz") {
        let (operator, output) = operator_and_output(&edge.name);
        for mode in MODES {
            match &edge.jacobian {
                Some(right) => {
                    let found = distance(&jacobian_by(&edge, mode).0, right);
                    let double = edge.model.inputs()[0].elem == ElemType::DOUBLE;
                    let bound = if double { 1e-7 } else { 2e-4 }
                        * right.iter().fold(1.0, |m: f64, v| m.max(v.abs()));
                    if found.is_nan() || found > bound {
                        wrong.push(format!("{} {mode:?}: off by {found:.1e}", edge.name));
                    }
                }
                None => {
                    let message = graph::differentiate(&edge.model, mode, None, None)
                        .err()
                        .map(|e| e.to_string());
                    let seen: Vec<String> = graph::obstacles(&edge.model, mode, None, None)
                        .into_iter()
                        .map(|o| o.op)
                        .collect();
                    if !message
                        .as_ref()
                        .is_some_and(|m| m.contains(&format!("({operator})")))
                        || seen.is_empty()
                    {
                        wrong.push(format!("{} {mode:?}: {message:?}", edge.name));
                    }
                }
            }
        }
        tested.insert((operator.to_owned(), output));
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // Text depends on no number; a choice has cases of its first output, and others beside the module; no runtime has the
    // others yet.
    let elsewhere = [
        "CausalConvWithState",
        "If",
        "LinearAttention",
        "StringSplit",
    ];
    for (operator, outputs) in graph::several_outputs()
        .into_iter()
        .filter(|(op, _)| !elsewhere.contains(op))
    {
        for place in 0..if outputs == usize::MAX { 3 } else { outputs } {
            assert!(
                tested.contains(&(operator.to_owned(), place)),
                "output {place} of {operator} has no case"
            );
        }
    }
}

/// Where a formula divides zero by zero and the derivative is there all the same.
#[test]
fn singular_points_have_the_derivative_that_is_there() {
    let mut wrong = Vec::new();
    let mut operators = BTreeSet::new();
    for edge in edges("singular.npz") {
        let right = edge.jacobian.as_ref().expect("a Jacobian");
        let double = edge.model.inputs()[0].elem == ElemType::DOUBLE;
        for mode in MODES {
            let (found, _) = jacobian_by(&edge, mode);
            let bound = if double { 1e-12 } else { 1e-6 };
            let apart = distance(&found, right);
            if apart.is_nan() || apart > bound {
                wrong.push(format!("{} {mode:?}:\n{found}\nis not\n{right}", edge.name));
            }
        }
        operators.extend(edge.model.operators().into_keys());
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(operators.len() > 40, "{operators:?}");
}
