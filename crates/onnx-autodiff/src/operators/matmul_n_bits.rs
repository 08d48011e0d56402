//! `MatMulNBits`: a product with quantized weights, which are replaced by the numbers that they
//! stand for.

use prost::bytes::Bytes;

use super::operator::{Lowered, Operator};
use super::parts::{one, plus};
use crate::content;
use crate::elem::ElemType;
use crate::graph::{Graph, Node, Val};
use crate::proto::TensorProto;

/// The declaration of `MatMulNBits`.
pub(super) const OPERATORS: &[Operator] = &[Operator::fused("MatMulNBits", matmul_n_bits)];

/// The layout of weights `[N, K]` in blocks along K.
struct Blocks {
    rows: usize,
    columns: usize,
    block: usize,
    bits: usize,
}

impl Blocks {
    /// Returns the layout that the attributes describe.
    fn of(node: &Node) -> Option<Blocks> {
        let size = |name: &str| {
            usize::try_from(node.int(name, 0))
                .ok()
                .filter(|n| (1..=1 << 24).contains(n))
        };
        let blocks = Blocks {
            rows: size("N")?,
            columns: size("K")?,
            block: size("block_size")?,
            bits: size("bits")?,
        };
        let whole = blocks.block.is_power_of_two()
            && blocks.block >= 16
            && [2, 4, 8].contains(&blocks.bits);
        (whole && blocks.rows.checked_mul(blocks.columns)? <= 1 << 31).then_some(blocks)
    }

    /// Returns the number of blocks in a row.
    fn count(&self) -> usize {
        self.columns.div_ceil(self.block)
    }

    /// Returns the number of bytes of a row's packed zero points.
    fn zeros(&self) -> usize {
        (self.count() * self.bits).div_ceil(8)
    }

    /// Returns the number of a few bits at an index of a packed row.
    fn packed(&self, row: &[u8], place: usize) -> Option<f64> {
        let bit = place * self.bits;
        let mask = ((1u16 << self.bits) - 1) as u8;
        Some(f64::from(row.get(bit / 8)? >> (bit % 8) & mask))
    }
}

/// Returns the replacement of `MatMulNBits`.
pub(super) fn matmul_n_bits(g: &mut Graph, node: &Node) -> Lowered {
    // A permutation of the columns, and layouts that are specific to a processor, are not known
    // exactly.
    if node.input(4).is_some() || node.int("weight_prepacked", 0) != 0 {
        return None;
    }
    let x = node.input(0)?;
    let weights = weights(g, node)?;
    let weights = g.add_constant(weights);
    let weights = g.cast(weights, g.elem(x));
    let product = g.op("MatMul", &[x, weights]);
    one(plus(g, product, node.input(5)))
}

/// Returns the weights `[K, N]` in float32.
fn weights(g: &Graph, node: &Node) -> Option<TensorProto> {
    let blocks = Blocks::of(node)?;
    let packed = bytes(g, node.input(1)?)?;
    let scales = content::real_elements(g.value(node.input(2)?).constant.as_ref()?)?;
    let zeros = match node.input(3) {
        Some(v) => Some(zero_points(g, v, &blocks)?),
        None => None,
    };
    let width = blocks.count() * blocks.block * blocks.bits / 8;
    let (n, k, count) = (blocks.rows, blocks.columns, blocks.count());
    if packed.len() != n.checked_mul(width)? || scales.len() != n * count {
        return None;
    }
    let middle = f64::from(1u16 << (blocks.bits - 1));
    let mut raw = vec![0u8; 4usize.checked_mul(n)?.checked_mul(k)?];
    for (row, codes) in packed.chunks_exact(width).enumerate() {
        for column in 0..k {
            let place = row * count + column / blocks.block;
            let zero = zeros.as_ref().map_or(middle, |zeros| zeros[place]);
            let weight = ((blocks.packed(codes, column)? - zero) * scales[place]) as f32;
            let at = 4 * (column * n + row);
            raw[at..at + 4].copy_from_slice(&weight.to_le_bytes());
        }
    }
    Some(TensorProto {
        dims: vec![k as i64, n as i64],
        data_type: Some(ElemType::FLOAT.0),
        raw_data: Some(Bytes::from(raw)),
        ..Default::default()
    })
}

/// Returns the zero point of each block of each row. They are packed like the weights, or have the
/// type of the scales.
fn zero_points(g: &Graph, v: Val, blocks: &Blocks) -> Option<Vec<f64>> {
    let (n, count) = (blocks.rows, blocks.count());
    if g.elem(v).is_float() {
        return content::real_elements(g.value(v).constant.as_ref()?)
            .filter(|zeros| zeros.len() == n * count);
    }
    let packed = bytes(g, v)?;
    if packed.len() != n.checked_mul(blocks.zeros())? {
        return None;
    }
    let rows = packed.chunks_exact(blocks.zeros());
    rows.flat_map(|row| (0..count).map(|place| blocks.packed(row, place)))
        .collect()
}

/// Returns the elements of a constant of bytes.
fn bytes(g: &Graph, v: Val) -> Option<Vec<u8>> {
    let tensor = g.value(v).constant.as_ref()?;
    if ElemType(tensor.data_type()) != ElemType::UINT8 {
        return None;
    }
    match &tensor.raw_data {
        Some(raw) => Some(raw.to_vec()),
        None => tensor
            .int32_data
            .iter()
            .map(|n| u8::try_from(*n).ok())
            .collect(),
    }
}
