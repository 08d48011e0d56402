//! Pooling and resizing of images.

use super::Rule;
use crate::emit::int;
use crate::error::Refusal;
use crate::ir::Val;
use crate::shapes;
use crate::size::Size;
use crate::step::{Step, Tangent};
use crate::transposes::CONTRADICTION;

pub const RULES: &[(&str, Rule)] = &[
    ("AveragePool", Rule::Single(folded)),
    ("DepthToSpace", Rule::Single(folded)),
    ("GlobalAveragePool", Rule::Single(global_average)),
    ("GlobalMaxPool", Rule::Single(global_max)),
    ("MaxPool", Rule::Several(max_pool)),
    ("Resize", Rule::Single(resize)),
    ("SpaceToDepth", Rule::Single(folded)),
];

type Output = Result<Option<Tangent>, Refusal>;

/// The shape of an output whose batch holds all directions.
fn merged(s: &mut Step, shape: &[Size]) -> Vec<Size> {
    let batch = s.g.symbols.mul(&s.k, &shape[0]);
    std::iter::once(batch).chain(shape[1..].iter().cloned()).collect()
}

/// The operator itself, with the directions merged into the batch.
fn folded(s: &mut Step) -> Output {
    let d = s.dx()?;
    let (shape, y) = (s.x_shape(0)?, s.y_shape()?);
    if shape.len() != y.len() || shape.len() < 2 {
        return Err(CONTRADICTION.into());
    }
    let d = s.fold(d, &shape)?;
    let op = s.node.op.clone();
    let attributes = s.node.attributes.clone();
    let result = s.g.op_with(&op, &[d], attributes);
    let known = merged(s, &y);
    s.g.set_shape(result, &known);
    s.unfold(result)
}

fn global_average(s: &mut Step) -> Output {
    let d = s.dx()?;
    let axes: Vec<i64> = (3..=s.rank(0)? as i64).collect();
    Ok(Some(Tangent::plain(s.g.reduce("ReduceMean", d, &axes, true))))
}

fn global_max(s: &mut Step) -> Output {
    let (x, y, d) = (s.x(0)?, s.y()?, s.dx()?);
    let axes: Vec<i64> = (2..s.rank(0)? as i64).collect();
    let hit = s.g.op("Equal", &[x, y]);
    let mask = s.g.cast(hit, s.g.elem(x));
    let count = s.g.reduce("ReduceSum", mask, &axes, true);
    let weight = s.g.div(mask, count);
    let product = s.g.mul(d, weight);
    let later: Vec<i64> = axes.iter().map(|axis| axis + 1).collect();
    Ok(Some(Tangent::plain(s.g.reduce("ReduceSum", product, &later, true))))
}

/// The places of the maxima are places in the flattened tensor.
fn max_pool(s: &mut Step) -> Result<Vec<Option<Tangent>>, Refusal> {
    let (x, d) = (s.x(0)?, s.dx()?);
    let shape = s.x_shape(0)?;
    let by_columns = s.node.int("storage_order", 0) != 0;
    let places = match s.node.output(1).filter(|_| !by_columns) {
        Some(places) => places,
        None => {
            let attributes = s.node.attributes.iter().filter(|a| a.name() != "storage_order").cloned().collect();
            s.g.push("MaxPool", &[Some(x)], attributes, 2)[1]
        }
    };
    let all = shapes::product(s.g, &shape);
    let flat = [s.k.clone(), all];
    let d = s.g.reshape(d, &flat);
    let picked = s.g.op_with("Gather", &[d, places], vec![int("axis", 1)]);
    let target = s.lead(&s.y_shape()?);
    s.g.set_shape(picked, &target);
    Ok(vec![Some(Tangent::plain(picked)), None])
}

/// Every mode is linear in the image. Sizes, where they are given, hold the batch.
fn resize(s: &mut Step) -> Output {
    s.only(&[0], "its scales and sizes must be constant")?;
    let d = s.dx()?;
    let (shape, y) = (s.x_shape(0)?, s.y_shape()?);
    if shape.len() != y.len() || shape.len() < 2 {
        return Err(CONTRADICTION.into());
    }
    let folded = s.fold(d, &shape)?;
    let known = merged(s, &y);
    let sizes = match s.node.input(3) {
        Some(sizes) => Some(batch_sizes(s, sizes, folded, &known)?),
        None => None,
    };
    let mut inputs = vec![Some(folded), s.node.input(1), s.node.input(2), sizes];
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    // Outside a cropped region there is a constant.
    let attributes = s.node.attributes.iter().filter(|a| a.name() != "extrapolation_value").cloned().collect();
    let result = s.g.op_optional("Resize", &inputs, attributes);
    s.g.set_shape(result, &known);
    s.unfold(result)
}

/// The `sizes` of the merged tensor; they are the original ones where the batch is not among the resized axes.
fn batch_sizes(s: &mut Step, sizes: Val, folded: Val, known: &[Size]) -> Result<Val, Refusal> {
    if let Some(axes) = s.node.ints("axes") {
        let rank = known.len() as i64;
        let batch = axes.iter().any(|axis| *axis == 0 || *axis == -rank);
        return if batch { Err("its batch axis is resized".into()) } else { Ok(sizes) };
    }
    if s.node.text("keep_aspect_ratio_policy", "stretch") != "stretch" {
        return Err("sizes that keep the aspect ratio must name their axes".into());
    }
    let merged = s.g.op("Shape", &[folded]);
    let (first, others) = (s.g.integers(&[0]), s.g.integers(&(1..known.len() as i64).collect::<Vec<_>>()));
    let batch = s.g.op("Gather", &[merged, first]);
    let rest = s.g.op("Gather", &[sizes, others]);
    Ok(s.g.concat(&[batch, rest], 0))
}
