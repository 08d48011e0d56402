//! Appends operators to a graph: constants, sizes that are computed when the graph runs, and
//! operators whose form depends on the opset.
//!
//! A helper appends nothing if the result is already there, for example if a value already has the
//! shape that it is to be reshaped to.

use prost::bytes::Bytes;

use crate::elem::ElemType;
use crate::graph::{Graph, Val};
use crate::passes::Pass;
use crate::proto::*;
pub(crate) use crate::proto::{float, int, ints, text};
use crate::size::Size;

impl Graph {
    /// Appends an operator with one output and no attributes.
    pub(crate) fn op(&mut self, op: &str, inputs: &[Val]) -> Val {
        self.op_with(op, inputs, Vec::new())
    }

    /// Appends an operator with one output and the given attributes.
    pub(crate) fn op_with(
        &mut self,
        op: &str,
        inputs: &[Val],
        attributes: Vec<AttributeProto>,
    ) -> Val {
        if let Some(earlier) = self.before_expansion(op, inputs, &attributes) {
            return earlier;
        }
        if let ("MatMul", [tangent, weights]) = (op, inputs)
            && let Some(product) = self.product_of_unit_vectors(*tangent, *weights)
        {
            return product;
        }
        let inputs: Vec<Option<Val>> = inputs.iter().copied().map(Some).collect();
        self.op_optional(op, &inputs, attributes)
    }

    /// Appends an operator with one output. An input that is `None` is left out.
    pub(crate) fn op_optional(
        &mut self,
        op: &str,
        inputs: &[Option<Val>],
        attributes: Vec<AttributeProto>,
    ) -> Val {
        self.push(op, inputs, attributes, 1)[0]
    }

    /// Appends a constant list of int64.
    pub(crate) fn integers(&mut self, values: &[i64]) -> Val {
        let raw: Vec<u8> = values.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.tensor(ElemType::INT64, &[values.len() as i64], raw)
    }

    /// Appends a constant int64 without axes.
    pub(crate) fn integer(&mut self, value: i64) -> Val {
        self.tensor(ElemType::INT64, &[], value.to_le_bytes().to_vec())
    }

    /// Appends a constant floating-point number without axes, in the type that tangents of `elem`
    /// have: float64 for float64, float32 otherwise.
    pub(crate) fn real(&mut self, value: f64, elem: ElemType) -> Val {
        let raw = if elem == ElemType::DOUBLE {
            value.to_le_bytes().to_vec()
        } else {
            (value as f32).to_le_bytes().to_vec()
        };
        self.tensor(elem.tangent(), &[], raw)
    }

    /// Appends a constant floating-point number without axes, in the type that tangents of `like`
    /// have.
    pub(crate) fn real_like(&mut self, value: f64, like: Val) -> Val {
        self.real(value, self.elem(like))
    }

    /// Appends a constant float64 tensor with the sizes `dims`.
    pub(crate) fn reals(&mut self, values: &[f64], dims: &[i64]) -> Val {
        let raw: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensor(ElemType::DOUBLE, dims, raw)
    }

    /// Appends a constant from its little-endian bytes.
    fn tensor(&mut self, elem: ElemType, dims: &[i64], raw: Vec<u8>) -> Val {
        self.add_constant(TensorProto {
            dims: dims.to_vec(),
            data_type: Some(elem.0),
            raw_data: Some(Bytes::from(raw)),
            ..Default::default()
        })
    }

    /// Appends the computation of a list of sizes, as int64. Known sizes are constants; the others
    /// are computed when the graph runs.
    pub(crate) fn sizes(&mut self, sizes: &[Size]) -> Val {
        let mut parts: Vec<Val> = Vec::new();
        let mut run: Vec<i64> = Vec::new();
        for size in sizes {
            match size.as_fixed() {
                Some(n) => run.push(n),
                None => {
                    if !run.is_empty() {
                        parts.push(self.integers(&std::mem::take(&mut run)));
                    }
                    parts.push(self.size(size));
                }
            }
        }
        if !run.is_empty() || parts.is_empty() {
            parts.push(self.integers(&run));
        }
        self.concat(&parts, 0)
    }

    /// Appends the computation of one size, as a list of one int64.
    fn size(&mut self, size: &Size) -> Val {
        if let Some(n) = size.as_fixed() {
            return self.integers(&[n]);
        }
        if let Some((carrier, axis)) = self.dim_source(size) {
            let shape = self.op("Shape", &[carrier]);
            let index = self.integers(&[axis as i64]);
            return self.op("Gather", &[shape, index]);
        }
        if size.as_symbol().is_some() {
            return self.carried_by_a_tangent(size);
        }
        let terms: Vec<(i64, Vec<Size>)> = size
            .terms()
            .map(|(c, factors)| (c, factors.iter().map(|f| Size::symbol(*f)).collect()))
            .collect();
        let terms: Vec<Val> = terms
            .into_iter()
            .map(|(c, factors)| self.product(c, &factors))
            .collect();
        self.combine("Add", &terms)
    }

    /// Appends the product of a coefficient and symbolic sizes, as a list of one int64.
    fn product(&mut self, coefficient: i64, factors: &[Size]) -> Val {
        let mut parts: Vec<Val> = factors.iter().map(|f| self.size(f)).collect();
        if coefficient != 1 || parts.is_empty() {
            parts.push(self.integers(&[coefficient]));
        }
        self.combine("Mul", &parts)
    }

    /// Appends the computation of a size that only tangents have, such as the number of directions.
    fn carried_by_a_tangent(&mut self, size: &Size) -> Val {
        let carrier = self.values.iter().enumerate().find_map(|(i, value)| {
            self.named(&value.name)
                .filter(|v| *v == Val::from_index(i))?;
            let axis = value.shape.as_ref()?.iter().position(|d| d == size)?;
            Some((Val::from_index(i), axis))
        });
        match carrier {
            Some((carrier, axis)) => {
                let shape = self.op("Shape", &[carrier]);
                let index = self.integers(&[axis as i64]);
                self.op("Gather", &[shape, index])
            }
            // No value has this size, so the only size that can be written is the wildcard -1.
            None => self.integers(&[-1]),
        }
    }

    /// Applies a binary operator to all values from left to right.
    pub(crate) fn combine(&mut self, op: &str, parts: &[Val]) -> Val {
        let mut parts = parts.iter().copied();
        let first = parts.next().expect("at least one part is combined");
        parts.fold(first, |sum, part| self.op(op, &[sum, part]))
    }

    /// Concatenates values along an axis.
    pub(crate) fn concat(&mut self, parts: &[Val], axis: i64) -> Val {
        match parts {
            [only] => *only,
            _ => self.op_with("Concat", parts, vec![int("axis", axis)]),
        }
    }

    /// Reshapes a value. The order of its elements stays the same.
    pub(crate) fn reshape(&mut self, v: Val, shape: &[Size]) -> Val {
        if self.shape(v).is_some_and(|s| s == shape) {
            return v;
        }
        if let Some(source) = self
            .reshaped_from(v)
            .filter(|source| self.shape(*source).is_some_and(|s| s == shape))
        {
            return source;
        }
        if let Some(earlier) = self.reshape_before_expansion(v, shape) {
            return earlier;
        }
        let mut target = shape.to_vec();
        // `Reshape` accepts one wildcard. It replaces the size that takes the most work to compute.
        let open = |size: &&mut Size| size.as_fixed().is_none();
        let wildcard = target
            .iter_mut()
            .filter(open)
            .max_by_key(|size| (size.as_symbol().is_none(), size.terms().count()));
        if let Some(size) = wildcard.filter(|_| !shape.iter().any(|d| d.is(0))) {
            *size = Size::fixed(-1);
        }
        let target = self.sizes(&target);
        let reshaped = self.op("Reshape", &[v, target]);
        self.set_shape(reshaped, shape);
        reshaped
    }

    /// Returns the value of which `v` is a reshaped form.
    pub(crate) fn reshaped_from(&self, v: Val) -> Option<Val> {
        self.maker(v)
            .filter(|node| node.standard() == "Reshape")
            .and_then(|node| node.input(0))
    }

    /// Returns the values of which `a` and `b` are reshaped forms, if both pairs have equal shapes.
    /// Elementwise operators can then work on these values instead.
    ///
    /// Runtimes keep images in layouts of their own between two operators, and lose these layouts
    /// if a `Reshape` splits the directions off the batch.
    pub(crate) fn common_source(&self, a: Val, b: Val) -> Option<(Val, Val)> {
        let merged = |v: Val| {
            self.reshaped_from(v)
                .filter(|_| self.passes.has(Pass::MergedDirections))
        };
        let (from_a, from_b) = (merged(a)?, merged(b)?);
        let alike = |a: Val, b: Val| self.shape(a).is_some() && self.shape(a) == self.shape(b);
        (alike(a, b) && alike(from_a, from_b)).then_some((from_a, from_b))
    }

    /// Broadcasts a value to a shape.
    pub(crate) fn expand(&mut self, v: Val, shape: &[Size]) -> Val {
        if self.shape(v).is_some_and(|s| s == shape) {
            return v;
        }
        let target = self.sizes(shape);
        let expanded = self.op("Expand", &[v, target]);
        self.set_shape(expanded, shape);
        expanded
    }

    /// Permutes the axes of a value: axis `i` of the result is axis `perm[i]` of `v`.
    pub(crate) fn transpose(&mut self, v: Val, perm: &[usize]) -> Val {
        if perm.iter().enumerate().all(|(i, p)| i == *p) {
            return v;
        }
        let perm: Vec<i64> = perm.iter().map(|p| *p as i64).collect();
        self.op_with("Transpose", &[v], vec![ints("perm", &perm)])
    }

    /// Exchanges the last two axes of a value. If `v` is a transposed value itself, one `Transpose`
    /// of the value before it does both.
    pub(crate) fn swap(&mut self, v: Val, rank: usize) -> Val {
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(rank - 2, rank - 1);
        let before = self.maker(v).filter(|node| node.standard() == "Transpose");
        let before = before.and_then(|node| Some((node.input(0)?, node.ints("perm")?)));
        match before {
            Some((source, first))
                if first.len() == rank && first.iter().all(|p| (0..rank as i64).contains(p)) =>
            {
                let composed: Vec<usize> = perm.iter().map(|p| first[*p] as usize).collect();
                self.transpose(source, &composed)
            }
            _ => self.transpose(v, &perm),
        }
    }

    /// Casts a value to another element type.
    pub(crate) fn cast(&mut self, v: Val, elem: ElemType) -> Val {
        if self.elem(v) == elem {
            return v;
        }
        self.op_with("Cast", &[v], vec![int("to", i64::from(elem.0))])
    }

    /// Removes axes of size 1.
    pub(crate) fn squeeze(&mut self, v: Val, axes: &[i64]) -> Val {
        let axes = self.integers(axes);
        self.op("Squeeze", &[v, axes])
    }

    /// Inserts axes of size 1.
    pub(crate) fn unsqueeze(&mut self, v: Val, axes: &[i64]) -> Val {
        if axes.is_empty() {
            return v;
        }
        let axes = self.integers(axes);
        self.op("Unsqueeze", &[v, axes])
    }

    /// Appends one of the `Reduce…` operators. The axes are an input from opset 18 on (`ReduceSum`:
    /// from opset 13 on) and an attribute before.
    pub(crate) fn reduce(&mut self, op: &str, v: Val, axes: &[i64], keep: bool) -> Val {
        if axes.is_empty() {
            return v;
        }
        let keep = int("keepdims", i64::from(keep));
        if op == "ReduceSum" || self.opset >= 18 {
            let axes = self.integers(axes);
            self.op_with(op, &[v, axes], vec![keep])
        } else {
            self.op_with(op, &[v], vec![ints("axes", axes), keep])
        }
    }

    /// Appends `a + b`.
    pub(crate) fn add(&mut self, a: Val, b: Val) -> Val {
        self.op("Add", &[a, b])
    }

    /// Appends `a - b`.
    pub(crate) fn sub(&mut self, a: Val, b: Val) -> Val {
        self.op("Sub", &[a, b])
    }

    /// Appends `a · b`, element by element.
    pub(crate) fn mul(&mut self, a: Val, b: Val) -> Val {
        self.op("Mul", &[a, b])
    }

    /// Appends `a / b`, element by element.
    pub(crate) fn div(&mut self, a: Val, b: Val) -> Val {
        self.op("Div", &[a, b])
    }

    /// Appends `-a`.
    pub(crate) fn neg(&mut self, a: Val) -> Val {
        self.op("Neg", &[a])
    }

    /// Appends the product of a value and a number.
    pub(crate) fn scale(&mut self, v: Val, by: f64) -> Val {
        if by == 1.0 {
            return v;
        }
        let by = self.real_like(by, v);
        self.mul(v, by)
    }

    /// Appends the sum of a value and a number.
    pub(crate) fn shift(&mut self, v: Val, by: f64) -> Val {
        let by = self.real_like(by, v);
        self.add(v, by)
    }

    /// Appends zeros of a shape.
    pub(crate) fn zeros(&mut self, shape: &[Size], elem: ElemType) -> Val {
        let zero = self.real(0.0, elem);
        self.expand(zero, shape)
    }
}
