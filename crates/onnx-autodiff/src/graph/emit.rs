//! Appending operators to a graph: constants, shapes at run time, and the operators whose form depends on the opset.
//!
//! Each helper emits nothing where there is nothing to do.

use prost::bytes::Bytes;

use crate::elem::ElemType;
use crate::graph::{Graph, Val};
use crate::passes::Pass;
use crate::proto::*;
pub use crate::proto::{float, int, ints, text};
use crate::size::Size;

impl Graph {
    pub fn op(&mut self, op: &str, inputs: &[Val]) -> Val {
        self.op_with(op, inputs, Vec::new())
    }

    pub fn op_with(&mut self, op: &str, inputs: &[Val], attributes: Vec<AttributeProto>) -> Val {
        if let Some(earlier) = self.before_expansion(op, inputs, &attributes) {
            return earlier;
        }
        let inputs: Vec<Option<Val>> = inputs.iter().copied().map(Some).collect();
        self.op_optional(op, &inputs, attributes)
    }

    /// An operator some of whose inputs are left out.
    pub fn op_optional(
        &mut self,
        op: &str,
        inputs: &[Option<Val>],
        attributes: Vec<AttributeProto>,
    ) -> Val {
        self.push(op, inputs, attributes, 1)[0]
    }

    /// A list of integers.
    pub fn integers(&mut self, values: &[i64]) -> Val {
        let raw: Vec<u8> = values.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.tensor(ElemType::INT64, &[values.len() as i64], raw)
    }

    /// One integer without axes.
    pub fn integer(&mut self, value: i64) -> Val {
        self.tensor(ElemType::INT64, &[], value.to_le_bytes().to_vec())
    }

    /// One number without axes, in single or double precision.
    pub fn real(&mut self, value: f64, elem: ElemType) -> Val {
        let raw = if elem == ElemType::DOUBLE {
            value.to_le_bytes().to_vec()
        } else {
            (value as f32).to_le_bytes().to_vec()
        };
        self.tensor(elem.tangent(), &[], raw)
    }

    /// One number without axes, of the type of `like`.
    pub fn real_like(&mut self, value: f64, like: Val) -> Val {
        self.real(value, self.elem(like))
    }

    /// Numbers in double precision.
    pub fn reals(&mut self, values: &[f64], dims: &[i64]) -> Val {
        let raw: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensor(ElemType::DOUBLE, dims, raw)
    }

    fn tensor(&mut self, elem: ElemType, dims: &[i64], raw: Vec<u8>) -> Val {
        self.add_constant(TensorProto {
            dims: dims.to_vec(),
            data_type: Some(elem.0),
            raw_data: Some(Bytes::from(raw)),
            ..Default::default()
        })
    }

    /// The sizes as a list at run time.
    pub fn sizes(&mut self, sizes: &[Size]) -> Val {
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

    /// One size as a list of one element at run time.
    fn size(&mut self, size: &Size) -> Val {
        if let Some(n) = size.as_fixed() {
            return self.integers(&[n]);
        }
        if let Some((carrier, axis)) = self.dim_source(size) {
            let shape = self.op("Shape", &[carrier]);
            let place = self.integers(&[axis as i64]);
            return self.op("Gather", &[shape, place]);
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

    fn product(&mut self, coefficient: i64, factors: &[Size]) -> Val {
        let mut parts: Vec<Val> = factors.iter().map(|f| self.size(f)).collect();
        if coefficient != 1 || parts.is_empty() {
            parts.push(self.integers(&[coefficient]));
        }
        self.combine("Mul", &parts)
    }

    /// A size that no value of the original graph carries.
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
                let place = self.integers(&[axis as i64]);
                self.op("Gather", &[shape, place])
            }
            // No value has this size; a wildcard is the best that can be written.
            None => self.integers(&[-1]),
        }
    }

    /// All values joined by a binary operator.
    pub fn combine(&mut self, op: &str, parts: &[Val]) -> Val {
        let mut parts = parts.iter().copied();
        let first = parts.next().expect("at least one part is combined");
        parts.fold(first, |sum, part| self.op(op, &[sum, part]))
    }

    pub fn concat(&mut self, parts: &[Val], axis: i64) -> Val {
        match parts {
            [only] => *only,
            _ => self.op_with("Concat", parts, vec![int("axis", axis)]),
        }
    }

    /// The same elements with other axes.
    pub fn reshape(&mut self, v: Val, shape: &[Size]) -> Val {
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
        // One size may be left to the operator: the one that would be the most work to compute.
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

    /// What a value has other axes of.
    pub fn reshaped_from(&self, v: Val) -> Option<Val> {
        self.maker(v)
            .filter(|node| node.standard() == "Reshape")
            .and_then(|node| node.input(0))
    }

    /// What values of one shape are reshaped from, where that has one shape too: what is done element by element can be
    /// done there. Runtimes keep images in layouts of their own from one operator to the next, and give them up where
    /// the directions are taken apart from the batch.
    pub fn common_source(&self, a: Val, b: Val) -> Option<(Val, Val)> {
        let merged = |v: Val| {
            self.reshaped_from(v)
                .filter(|_| self.passes.has(Pass::MergedDirections))
        };
        let (from_a, from_b) = (merged(a)?, merged(b)?);
        let alike = |a: Val, b: Val| self.shape(a).is_some() && self.shape(a) == self.shape(b);
        (alike(a, b) && alike(from_a, from_b)).then_some((from_a, from_b))
    }

    /// The value broadcast to a shape.
    pub fn expand(&mut self, v: Val, shape: &[Size]) -> Val {
        if self.shape(v).is_some_and(|s| s == shape) {
            return v;
        }
        let target = self.sizes(shape);
        let expanded = self.op("Expand", &[v, target]);
        self.set_shape(expanded, shape);
        expanded
    }

    pub fn transpose(&mut self, v: Val, perm: &[usize]) -> Val {
        if perm.iter().enumerate().all(|(i, p)| i == *p) {
            return v;
        }
        let perm: Vec<i64> = perm.iter().map(|p| *p as i64).collect();
        self.op_with("Transpose", &[v], vec![ints("perm", &perm)])
    }

    /// Exchanges the last two axes; of a value that was transposed already, from what that was.
    pub fn swap(&mut self, v: Val, rank: usize) -> Val {
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

    pub fn cast(&mut self, v: Val, elem: ElemType) -> Val {
        if self.elem(v) == elem {
            return v;
        }
        self.op_with("Cast", &[v], vec![int("to", i64::from(elem.0))])
    }

    pub fn squeeze(&mut self, v: Val, axes: &[i64]) -> Val {
        let axes = self.integers(axes);
        self.op("Squeeze", &[v, axes])
    }

    pub fn unsqueeze(&mut self, v: Val, axes: &[i64]) -> Val {
        if axes.is_empty() {
            return v;
        }
        let axes = self.integers(axes);
        self.op("Unsqueeze", &[v, axes])
    }

    /// Any of the `Reduce…` operators, whose axes were an attribute before opset 18 (`ReduceSum`: before 13).
    pub fn reduce(&mut self, op: &str, v: Val, axes: &[i64], keep: bool) -> Val {
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

    pub fn add(&mut self, a: Val, b: Val) -> Val {
        self.op("Add", &[a, b])
    }

    pub fn sub(&mut self, a: Val, b: Val) -> Val {
        self.op("Sub", &[a, b])
    }

    pub fn mul(&mut self, a: Val, b: Val) -> Val {
        self.op("Mul", &[a, b])
    }

    pub fn div(&mut self, a: Val, b: Val) -> Val {
        self.op("Div", &[a, b])
    }

    pub fn neg(&mut self, a: Val) -> Val {
        self.op("Neg", &[a])
    }

    /// A value times a number.
    pub fn scale(&mut self, v: Val, by: f64) -> Val {
        if by == 1.0 {
            return v;
        }
        let by = self.real_like(by, v);
        self.mul(v, by)
    }

    /// A value plus a number.
    pub fn shift(&mut self, v: Val, by: f64) -> Val {
        let by = self.real_like(by, v);
        self.add(v, by)
    }

    /// Zeros of a shape.
    pub fn zeros(&mut self, shape: &[Size], elem: ElemType) -> Val {
        let zero = self.real(0.0, elem);
        self.expand(zero, shape)
    }
}
