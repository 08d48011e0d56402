//! Scattering that multiplies, or that takes the largest or the smallest: linear in tangents by weights of their own.

use super::gather::added;
use crate::emit::text;
use crate::error::Refusal;
use crate::ir::Val;
use crate::proto::AttributeProto;
use crate::step::{Step, Tangent};

/// The tangent of what is scattered with such a reduction; none where tangents are scattered as the primal is.
pub fn reduced(s: &mut Step) -> Result<Option<Tangent>, Refusal> {
    let (of_data, of_updates) = match s.node.text("reduction", "none").as_str() {
        "none" | "add" => return Ok(None),
        "mul" => of_product(s)?,
        "max" | "min" => of_extremum(s)?,
        other => return Err(format!("its reduction `{other}` is not known").into()),
    };
    let data = s.d(0).map(|d| s.g.mul(d, of_data));
    let updates = match s.d(2) {
        Some(d) => {
            let weighted = s.g.mul(d, of_updates);
            Some(added(s, weighted)?)
        }
        None => None,
    };
    Ok(s.sum(data.map(Tangent::plain), updates.map(Tangent::plain)))
}

/// Updates scattered into data, with a reduction.
fn scattered(s: &mut Step, data: Val, updates: Val, reduction: &str) -> Result<Val, Refusal> {
    let indices = s.node.input(1).ok_or("its indices are missing")?;
    let mut attributes: Vec<AttributeProto> = s.node.attribute("axis").cloned().into_iter().collect();
    attributes.push(text("reduction", reduction));
    let op = s.node.op.clone();
    Ok(s.g.op_with(&op, &[data, indices, updates], attributes))
}

/// What lies where the updates go.
fn gathered(s: &mut Step, data: Val) -> Result<Val, Refusal> {
    let indices = s.node.input(1).ok_or("its indices are missing")?;
    let by_elements = s.node.op == "ScatterElements";
    let attributes = s.node.attribute("axis").cloned().into_iter().collect();
    Ok(s.g.op_with(if by_elements { "GatherElements" } else { "GatherND" }, &[data, indices], attributes))
}

/// The product of the other factors of the same place: that of all which are not zero, divided by the factor itself,
/// where no other factor is zero.
fn of_product(s: &mut Step) -> Result<(Val, Val), Refusal> {
    let (x, u) = (s.x(0)?, s.x(2)?);
    let (zero, one) = (s.g.real_like(0.0, x), s.g.real_like(1.0, x));
    let mut parts = Vec::new();
    for v in [x, u] {
        let hit = s.g.op("Equal", &[v, zero]);
        parts.push((s.g.cast(hit, s.g.elem(x)), s.g.op("Where", &[hit, one, v])));
    }
    let [(x_zero, x_safe), (u_zero, u_safe)] = parts[..] else { return Err("its inputs are missing".into()) };
    let product = scattered(s, x_safe, u_safe, "mul")?;
    let zeros = scattered(s, x_zero, u_zero, "add")?;
    let (product_there, zeros_there) = (gathered(s, product)?, gathered(s, zeros)?);
    let mut weight = |product: Val, safe: Val, zeros: Val, mine: Val| {
        let others = s.g.div(product, safe);
        let alone = s.g.op("Equal", &[zeros, mine]);
        s.g.op("Where", &[alone, others, zero])
    };
    Ok((weight(product, x_safe, zeros, x_zero), weight(product_there, u_safe, zeros_there, u_zero)))
}

/// Those that equal the result share its tangent.
fn of_extremum(s: &mut Step) -> Result<(Val, Val), Refusal> {
    let (x, u, y) = (s.x(0)?, s.x(2)?, s.y()?);
    let there = gathered(s, y)?;
    let mut hits = Vec::new();
    for (v, result) in [(x, y), (u, there)] {
        let hit = s.g.op("Equal", &[v, result]);
        hits.push(s.g.cast(hit, s.g.elem(x)));
    }
    let count = scattered(s, hits[0], hits[1], "add")?;
    let count_there = gathered(s, count)?;
    Ok((s.g.div(hits[0], count), s.g.div(hits[1], count_there)))
}
