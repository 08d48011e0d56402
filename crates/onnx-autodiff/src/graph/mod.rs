//! A graph in memory: values with what is known of them, and nodes in an order in which they can run.
//!
//! A graph only grows: [`Graph::push`] appends a node and infers its outputs; [`Graph::export`] writes the part that
//! the outputs need.

pub mod counted_loop;
pub mod emit;
mod late_expansion;
mod scoped_map;
pub mod subgraph;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use prost::Message;

use scoped_map::{Mark, ScopedMap};
use subgraph::ControlSubgraphs;

use crate::content::Content;
use crate::elem::ElemType;
use crate::error::{Obstacle, Refusal};
use crate::passes::{Pass, Passes};
use crate::proto::*;
use crate::size::{Size, Symbols};

/// A value of the graph, by its place in [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Val(u32);

impl Val {
    pub fn from_index(index: usize) -> Val {
        Val(index as u32)
    }
}

pub type Shape = Vec<Size>;

/// The type of an output's elements, and its shape where that can be told.
pub type Inferred = (ElemType, Option<Shape>);

/// What a graph asks of the operators of its nodes while it grows.
pub trait OperatorRegistry {
    /// Types and shapes of at least so many outputs of a node whose inputs are values of the graph.
    fn infer(&self, g: &mut Graph, node: &Node, outputs: usize) -> Vec<Inferred>;

    /// What the outputs hold, as far as the inputs tell; asked before the outputs exist.
    fn fold(&self, g: &mut Graph, node: &Node) -> Vec<Option<Content>>;

    /// What computes the `wanted` outputs of a node of the file instead, by place; none where it is kept.
    fn replaced(&self, g: &mut Graph, node: &Node, wanted: &[bool]) -> Option<Vec<Option<Val>>>;

    /// What computes the outputs of a node in float64 instead, where the runtime has no kernel for it.
    fn in_float64(&self, g: &mut Graph, node: &Node) -> Option<Vec<Val>>;

    /// Whether a node says nothing of the numbers in its inputs.
    fn reads_only_shapes(&self, node: &Node) -> bool;

    /// Whether a node of an operator with so many inputs draws random numbers, so that two equal ones need not agree.
    fn draws(&self, domain: &str, op: &str, inputs: usize) -> bool;
}

/// What is known of a value before anything runs.
pub struct Value {
    pub name: String,
    pub elem: ElemType,
    pub shape: Option<Shape>,
    /// The elements of a small tensor of integers, booleans or scalars.
    pub content: Option<Content>,
    pub constant: Option<Rc<TensorProto>>,
    /// Whether the value depends on a tangent, and so is linear in it.
    pub linear: bool,
    /// The place of the node that makes it.
    place: Option<usize>,
}

#[derive(Clone)]
pub struct Node {
    pub op: String,
    pub domain: String,
    pub name: String,
    pub inputs: Vec<Option<Val>>,
    pub outputs: Vec<Option<Val>>,
    pub attributes: Vec<AttributeProto>,
    /// Values of this graph that the node's subgraphs use.
    pub captures: Vec<Val>,
    /// For nodes made here: the place of the original node that they serve.
    pub origin: Option<usize>,
}

impl Node {
    pub fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.attributes.iter().find(|a| a.name() == name)
    }

    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).and_then(|a| a.i).unwrap_or(default)
    }

    pub fn float(&self, name: &str, default: f64) -> f64 {
        self.attribute(name)
            .and_then(|a| a.f)
            .map_or(default, f64::from)
    }

    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        self.attribute(name).map(|a| a.ints.clone())
    }

    pub fn text(&self, name: &str, default: &str) -> String {
        let bytes = self.attribute(name).and_then(|a| a.s.clone());
        bytes.map_or(default.to_string(), |b| {
            String::from_utf8_lossy(&b).into_owned()
        })
    }

    /// The input at a place, where there is one.
    pub fn input(&self, place: usize) -> Option<Val> {
        self.inputs.get(place).copied().flatten()
    }

    pub fn output(&self, place: usize) -> Option<Val> {
        self.outputs.get(place).copied().flatten()
    }

    /// The operator as people write it, with its domain unless that is the standard one.
    pub fn operator(&self) -> String {
        if self.domain.is_empty() {
            self.op.clone()
        } else {
            format!("{}.{}", self.domain, self.op)
        }
    }

    /// The operator where it is of the standard domain.
    pub fn standard(&self) -> &str {
        if self.domain.is_empty() { &self.op } else { "" }
    }
}

/// What makes up a tangent `y ∘ (d - Σ y ∘ d)`, as that of a softmax is.
#[derive(Clone, Copy)]
pub struct SoftmaxTangent {
    pub y: Val,
    /// The axis of the sums, in y.
    pub axis: usize,
    /// `y ∘ d`
    pub weighted: Val,
    /// Its sums, along an axis of size 1.
    pub sums: Val,
}

/// A node with subgraphs that is being made.
pub struct Control {
    pub op: &'static str,
    pub inputs: Vec<Option<Val>>,
    pub attributes: Vec<AttributeProto>,
    /// Values of the graph that the subgraphs use.
    pub captures: Vec<Val>,
    /// Whether its outputs are tangents.
    pub linear: bool,
}

/// What is known where a branch begins.
pub struct Scope {
    nodes: usize,
    shared: Mark,
    dim_sources: Mark,
    names: Mark,
}

pub struct Graph {
    pub opset: i64,
    pub operators: &'static dyn OperatorRegistry,
    pub values: Vec<Value>,
    pub nodes: Vec<Node>,
    pub inputs: Vec<Val>,
    pub outputs: Vec<Val>,
    pub symbols: Symbols,
    /// The place of the original node that is being differentiated.
    pub origin: Option<usize>,
    /// The parts of `d - Σ y ∘ d`, for products that can do without it.
    pub softmax_tangents: HashMap<Val, SoftmaxTangent>,
    /// Whether the tangents may be the same for every row, as those of a trace are.
    pub has_common_directions: bool,
    pub passes: Passes,
    /// Whether operators that ONNX Runtime has in float32 alone are replaced where they are given float64.
    pub avoids_single: bool,
    /// Values that whoever runs the graph gives to it, so that what makes them is not exported.
    pub given: HashSet<Val>,
    /// What nodes of tangents with subgraphs hold, by their first output.
    pub control_subgraphs: HashMap<Val, ControlSubgraphs>,
    /// How many subgraphs the one that is being read lies in.
    pub nesting: usize,
    names: ScopedMap<String, Val>,
    taken: HashSet<String>,
    /// Names of the file's nodes.
    labels: HashSet<String>,
    fresh: usize,
    shared: ScopedMap<Vec<u8>, Vec<Val>>,
    constants: HashMap<Vec<u8>, Val>,
    dim_sources: ScopedMap<Size, (Val, usize)>,
    declared: HashMap<String, ValueInfoProto>,
}

impl Graph {
    /// An empty graph; `declared` is what a file says of its values, used where inference knows less.
    pub fn new(
        opset: i64,
        operators: &'static dyn OperatorRegistry,
        declared: HashMap<String, ValueInfoProto>,
        taken: HashSet<String>,
    ) -> Graph {
        Graph {
            opset,
            operators,
            values: Vec::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            symbols: Symbols::default(),
            origin: None,
            softmax_tangents: HashMap::new(),
            has_common_directions: false,
            passes: Passes::all(),
            avoids_single: false,
            given: HashSet::new(),
            control_subgraphs: HashMap::new(),
            nesting: 0,
            names: ScopedMap::default(),
            taken,
            labels: HashSet::new(),
            fresh: 0,
            shared: ScopedMap::default(),
            constants: HashMap::new(),
            dim_sources: ScopedMap::default(),
            declared,
        }
    }

    pub fn value(&self, v: Val) -> &Value {
        &self.values[v.0 as usize]
    }

    pub fn shape(&self, v: Val) -> Option<&Shape> {
        self.value(v).shape.as_ref()
    }

    pub fn rank(&self, v: Val) -> Option<usize> {
        self.shape(v).map(Vec::len)
    }

    pub fn elem(&self, v: Val) -> ElemType {
        self.value(v).elem
    }

    pub fn content(&self, v: Val) -> Option<&Content> {
        self.value(v).content.as_ref()
    }

    pub fn named(&self, name: &str) -> Option<Val> {
        self.names.get(name).copied()
    }

    /// A name that nothing has or gets: the one that is wanted, or that with the first number that is free.
    pub fn reserved_name(&mut self, wanted: &str) -> String {
        let numbered = (2..).map(|n| format!("{wanted}_{n}"));
        let free = std::iter::once(wanted.to_string())
            .chain(numbered)
            .find(|name| !self.taken.contains(name));
        let name = free.unwrap_or_default();
        self.taken.insert(name.clone());
        name
    }

    /// The node that makes a value.
    pub fn maker(&self, v: Val) -> Option<&Node> {
        self.nodes.get(self.place(v)?)
    }

    /// The place of the node that makes a value.
    pub fn place(&self, v: Val) -> Option<usize> {
        // Places in a branch that has ended are another node's, or nobody's.
        let place = self.value(v).place?;
        self.nodes
            .get(place)?
            .outputs
            .contains(&Some(v))
            .then_some(place)
    }

    /// A value that carries `size` along one of its axes.
    pub fn dim_source(&self, size: &Size) -> Option<(Val, usize)> {
        self.dim_sources.get(size).copied()
    }

    pub fn add_input(&mut self, name: &str, elem: ElemType, shape: Option<Shape>) -> Val {
        let input = self.add_value(name.to_string(), elem, shape, None, None, false);
        self.inputs.push(input);
        input
    }

    /// Adds a tensor under its own name.
    pub fn add_initializer(&mut self, tensor: TensorProto) -> Val {
        let shape = tensor.dims.iter().map(|d| Size::fixed(*d)).collect();
        let content = Content::of_tensor(&tensor);
        let elem = ElemType(tensor.data_type());
        self.add_value(
            tensor.name().to_string(),
            elem,
            Some(shape),
            content,
            Some(Rc::new(tensor)),
            false,
        )
    }

    /// A constant made here; equal ones are one value.
    pub fn add_constant(&mut self, mut tensor: TensorProto) -> Val {
        let key = tensor.encode_to_vec();
        if let Some(known) = self.constants.get(&key).copied() {
            // A branch in which it was made may have ended, and its names with it.
            self.names.insert(self.value(known).name.clone(), known);
            return known;
        }
        tensor.name = Some(self.fresh_name("constant"));
        let constant = self.add_initializer(tensor);
        self.constants.insert(key, constant);
        constant
    }

    /// A value of a type and shape that nothing makes: it must not be used.
    pub fn placeholder(&mut self, elem: ElemType, shape: Option<Shape>) -> Val {
        let name = self.fresh_name("placeholder");
        // Marked as linear, so that no size is taken from it.
        self.add_value(name, elem, shape, None, None, true)
    }

    /// States a shape that is known better than inference can tell.
    pub fn set_shape(&mut self, v: Val, shape: &[Size]) {
        self.values[v.0 as usize].shape = Some(shape.to_vec());
    }

    /// States type and shape where inference told nothing.
    pub fn complete(&mut self, v: Val, elem: ElemType, shape: Option<Shape>) {
        let value = &mut self.values[v.0 as usize];
        if value.elem == ElemType::UNKNOWN {
            value.elem = elem;
        }
        if value.shape.is_none() {
            value.shape = shape;
        }
    }

    /// Marks a value as the tangent that everything else is linear in.
    pub fn mark_linear(&mut self, v: Val) {
        self.values[v.0 as usize].linear = true;
    }

    /// Appends a node of the file, under the names that it has there.
    pub fn push_original(
        &mut self,
        node: &NodeProto,
        inputs: Vec<Option<Val>>,
        captures: Vec<Val>,
    ) {
        self.labels.insert(node.name().to_string());
        let mut made = self.original(node, inputs, captures);
        let name = |name: &String| (!name.is_empty()).then(|| name.clone());
        let wanted: Vec<bool> = node.output.iter().map(|name| !name.is_empty()).collect();
        if let Some(values) = self.operators.replaced(self, &made, &wanted) {
            for (name, v) in node
                .output
                .iter()
                .zip(values)
                .filter(|(name, _)| !name.is_empty())
            {
                let identity = NodeProto {
                    op_type: Some("Identity".into()),
                    name: Some(format!("{}.{name}", node.name())),
                    output: vec![name.clone()],
                    ..Default::default()
                };
                self.push_original(&identity, vec![v], Vec::new());
            }
            return;
        }
        let names = node.output.iter().map(name).collect();
        self.append(&mut made, names);
        if let Some(key) = self.share_key(&made) {
            let outputs: Option<Vec<Val>> = made.outputs.iter().copied().collect();
            if let Some(outputs) = outputs {
                self.shared.insert_if_absent(key, outputs);
            }
        }
        self.nodes.push(made);
    }

    /// A node of the file as a node of the graph, whose outputs are not made yet.
    pub fn original(&self, node: &NodeProto, inputs: Vec<Option<Val>>, captures: Vec<Val>) -> Node {
        Node {
            op: node.op_type().to_string(),
            domain: standardize(node.domain()),
            name: node.name().to_string(),
            inputs,
            outputs: vec![None; node.output.len()],
            attributes: node.attribute.clone(),
            captures,
            origin: None,
        }
    }

    /// Appends a node made here, or finds the one that computes the same already.
    pub fn push(
        &mut self,
        op: &str,
        inputs: &[Option<Val>],
        attributes: Vec<AttributeProto>,
        outputs: usize,
    ) -> Vec<Val> {
        let mut node = Node {
            op: op.to_string(),
            domain: String::new(),
            name: String::new(),
            inputs: inputs.to_vec(),
            outputs: vec![None; outputs],
            attributes,
            captures: Vec::new(),
            origin: self.origin,
        };
        if let Some(replacement) = self
            .operators
            .in_float64(self, &node)
            .filter(|made| made.len() >= outputs)
        {
            return replacement;
        }
        let key = self.share_key(&node);
        if let Some(known) = key.as_ref().and_then(|key| self.shared.get(key)) {
            return known.clone();
        }
        let names = (0..outputs).map(|_| Some(self.fresh_name(op))).collect();
        node.name = self.fresh_name(&format!("{op}_node"));
        self.append(&mut node, names);
        let made: Vec<Val> = node.outputs.iter().flatten().copied().collect();
        if let Some(key) = key {
            self.shared.insert(key, made.clone());
        }
        self.nodes.push(node);
        made
    }

    /// Starts a branch: what is appended from here on is seen only until [`Graph::leave`].
    pub fn enter(&mut self) -> Scope {
        Scope {
            nodes: self.nodes.len(),
            shared: self.shared.enter(),
            dim_sources: self.dim_sources.enter(),
            names: self.names.enter(),
        }
    }

    /// Ends a branch: its nodes, and what they use from outside it.
    pub fn leave(&mut self, scope: Scope) -> (Vec<Node>, Vec<Val>) {
        let nodes = self.nodes.split_off(scope.nodes);
        self.shared.leave(scope.shared);
        self.dim_sources.leave(scope.dim_sources);
        self.names.leave(scope.names);
        let made: HashSet<Val> = nodes
            .iter()
            .flat_map(|node| node.outputs.iter().flatten().copied())
            .collect();
        let uses = nodes
            .iter()
            .flat_map(|node| node.inputs.iter().flatten().chain(&node.captures).copied());
        let used = uses.filter(|v| !made.contains(v)).collect();
        (nodes, used)
    }

    /// A copy of a value under a name of its own.
    pub fn fresh_identity(&mut self, v: Val) -> Val {
        let name = self.fresh_name("Identity");
        let identity = NodeProto {
            op_type: Some("Identity".into()),
            name: Some(format!("{name}_node")),
            output: vec![name.clone()],
            ..Default::default()
        };
        self.push_original(&identity, vec![Some(v)], Vec::new());
        self.names.get(&name).copied().unwrap_or(v)
    }

    /// A value that a subgraph is given by the node that runs it.
    pub fn add_formal(&mut self, elem: ElemType, shape: Option<Shape>, linear: bool) -> Val {
        let name = self.fresh_name("given");
        self.add_value(name, elem, shape, None, None, linear)
    }

    /// Makes a value known by its name where that ended with the subgraph in which it was first used.
    pub fn restore_name(&mut self, v: Val) {
        self.names.insert(self.value(v).name.clone(), v);
    }

    /// Appends a node with subgraphs, whose outputs are not inferred.
    pub fn push_control(&mut self, control: Control, outputs: Vec<Inferred>) -> Vec<Val> {
        let Control {
            op,
            inputs,
            attributes,
            captures,
            linear,
        } = control;
        let (place, origin) = (Some(self.nodes.len()), self.origin);
        let mut made = Vec::new();
        for (elem, shape) in outputs {
            let name = self.fresh_name(op);
            let v = self.add_value(name, elem, shape, None, None, linear);
            self.values[v.0 as usize].place = place;
            made.push(v);
        }
        let (name, outputs) = (
            self.fresh_name(&format!("{op}_node")),
            made.iter().copied().map(Some).collect(),
        );
        let (op, domain) = (op.into(), String::new());
        self.nodes.push(Node {
            op,
            domain,
            name,
            inputs,
            outputs,
            attributes,
            captures,
            origin,
        });
        made
    }

    /// Gives a node with a subgraph another one, which has more outputs than before.
    pub fn extend_control(
        &mut self,
        place: usize,
        attributes: Vec<AttributeProto>,
        outputs: Vec<Inferred>,
    ) -> Vec<Val> {
        let mut made = Vec::new();
        for (elem, shape) in outputs {
            let name = self.fresh_name("kept");
            let v = self.add_value(name, elem, shape, None, None, false);
            self.values[v.0 as usize].place = Some(place);
            made.push(v);
        }
        let node = &mut self.nodes[place];
        node.attributes = attributes;
        node.outputs.extend(made.iter().copied().map(Some));
        made
    }

    /// Appends the nodes of a subgraph that has ended once more, in another one.
    pub fn repeat(&mut self, nodes: &[Node]) {
        for node in nodes {
            for v in node.outputs.iter().flatten() {
                self.values[v.0 as usize].place = Some(self.nodes.len());
                self.restore_value(*v);
            }
            self.nodes.push(node.clone());
        }
    }

    /// Makes a value known by its name and its sizes.
    pub fn restore_value(&mut self, v: Val) {
        self.restore_name(v);
        let value = &self.values[v.0 as usize];
        for (axis, size) in value.shape.iter().flatten().enumerate() {
            if size.as_fixed().is_none() && !value.linear {
                self.dim_sources.insert_if_absent(size.clone(), (v, axis));
            }
        }
    }

    /// Infers the outputs of a node and gives them their names.
    fn append(&mut self, node: &mut Node, names: Vec<Option<String>>) {
        let linear = !self.operators.reads_only_shapes(node)
            && node.inputs.iter().flatten().any(|v| self.value(*v).linear);
        let inferred = self.operators.infer(self, node, names.len());
        let contents = self.operators.fold(self, node);
        let contents = contents.into_iter().chain(std::iter::repeat(None));
        node.outputs.clear();
        for ((name, (elem, shape)), content) in names.into_iter().zip(inferred).zip(contents) {
            node.outputs
                .push(name.map(|name| self.add_value(name, elem, shape, content, None, linear)));
        }
        for v in node.outputs.iter().flatten() {
            self.values[v.0 as usize].place = Some(self.nodes.len());
        }
    }

    fn add_value(
        &mut self,
        name: String,
        elem: ElemType,
        shape: Option<Shape>,
        content: Option<Content>,
        constant: Option<Rc<TensorProto>>,
        linear: bool,
    ) -> Val {
        let v = Val(self.values.len() as u32);
        let (elem, shape) = self.with_declaration(&name, elem, shape);
        self.taken.insert(name.clone());
        self.names.insert(name.clone(), v);
        for (axis, size) in shape.iter().flatten().enumerate() {
            if size.as_fixed().is_none() && !linear {
                self.dim_sources.insert_if_absent(size.clone(), (v, axis));
            }
        }
        self.values.push(Value {
            name,
            elem,
            shape,
            content,
            constant,
            linear,
            place: None,
        });
        v
    }

    /// Fills what inference left open with what the file declares.
    fn with_declaration(
        &mut self,
        name: &str,
        elem: ElemType,
        shape: Option<Shape>,
    ) -> (ElemType, Option<Shape>) {
        let Some(declared) = self.declared.remove(name) else {
            return (elem, shape);
        };
        let Some(tensor) = tensor_type(&declared) else {
            return (elem, shape);
        };
        let elem = if elem == ElemType::UNKNOWN {
            ElemType(tensor.elem_type())
        } else {
            elem
        };
        let Some(said) = self.declared_shape(tensor) else {
            return (elem, shape);
        };
        let merged = match shape {
            Some(known) if known.len() == said.len() => known
                .into_iter()
                .zip(said)
                .map(|(k, s)| self.merge(k, s))
                .collect(),
            Some(known) => known,
            None => said,
        };
        (elem, Some(merged))
    }

    fn merge(&self, known: Size, said: Size) -> Size {
        let opaque = known.as_symbol().is_some()
            && self.symbols.name(&known).is_none()
            && self.dim_source(&known).is_none();
        let telling = said.as_fixed().is_some() || self.symbols.name(&said).is_some();
        if opaque && telling { said } else { known }
    }

    /// The shape that a file declares; dimensions of the same name are the same size.
    pub fn declared_shape(&mut self, tensor: &TensorTypeProto) -> Option<Shape> {
        let shape = tensor.shape.as_ref()?;
        Some(
            shape
                .dim
                .iter()
                .map(|dim| self.declared_size(dim))
                .collect(),
        )
    }

    fn declared_size(&mut self, dim: &DimensionProto) -> Size {
        match &dim.value {
            Some(DimensionValue::Value(n)) if *n >= 0 => Size::fixed(*n),
            Some(DimensionValue::Param(name)) if !name.is_empty() => self.symbols.named(name),
            _ => self.symbols.fresh(),
        }
    }

    pub fn fresh_name(&mut self, stem: &str) -> String {
        loop {
            self.fresh += 1;
            let name = format!("d.{stem}.{}", self.fresh);
            if !self.taken.contains(&name) && !self.labels.contains(&name) {
                return name;
            }
        }
    }

    /// The nodes that the outputs need, by place, in order.
    pub fn needed(&self) -> Vec<bool> {
        let mut wanted: HashSet<Val> = self.outputs.iter().copied().collect();
        let mut needed = vec![false; self.nodes.len()];
        for (place, node) in self.nodes.iter().enumerate().rev() {
            if node
                .outputs
                .iter()
                .flatten()
                .any(|v| wanted.contains(v) && !self.given.contains(v))
            {
                needed[place] = true;
                wanted.extend(node.inputs.iter().flatten());
                wanted.extend(&node.captures);
            }
        }
        needed
    }

    /// The graph as a message: needed nodes and constants only.
    pub fn export(&self, outputs: &[(String, Option<TypeProto>)]) -> GraphProto {
        let needed = self.needed();
        let mut graph = GraphProto {
            name: Some("onnx-autodiff".into()),
            ..Default::default()
        };
        let mut used: HashSet<Val> = HashSet::new();
        for node in self
            .nodes
            .iter()
            .zip(&needed)
            .filter(|(_, needed)| **needed)
            .map(|(node, _)| node)
        {
            used.extend(node.inputs.iter().flatten().chain(&node.captures));
            graph.node.push(self.export_node(node));
        }
        for ((name, declared), v) in outputs.iter().zip(&self.outputs) {
            used.insert(*v);
            if *name != self.value(*v).name {
                graph.node.push(NodeProto {
                    op_type: Some("Identity".into()),
                    name: Some(format!("d.output.{name}")),
                    input: vec![self.value(*v).name.clone()],
                    output: vec![name.clone()],
                    ..Default::default()
                });
            }
            let declared = declared.clone().filter(says_shape);
            let r#type = declared.or_else(|| Some(self.export_type(*v)));
            graph.output.push(ValueInfoProto {
                name: Some(name.clone()),
                r#type,
            });
        }
        for v in &self.inputs {
            graph.input.push(ValueInfoProto {
                name: Some(self.value(*v).name.clone()),
                r#type: Some(self.export_type(*v)),
            });
        }
        for value in self
            .values
            .iter()
            .enumerate()
            .filter(|(i, _)| used.contains(&Val(*i as u32)))
            .map(|(_, v)| v)
        {
            if let Some(tensor) = &value.constant {
                graph.initializer.push(TensorProto {
                    name: Some(value.name.clone()),
                    ..tensor.as_ref().clone()
                });
            }
        }
        graph
    }

    pub fn export_node(&self, node: &Node) -> NodeProto {
        let names = |values: &[Option<Val>]| {
            values
                .iter()
                .map(|v| v.map_or(String::new(), |v| self.value(v).name.clone()))
                .collect()
        };
        NodeProto {
            op_type: Some(node.op.clone()),
            name: (!node.name.is_empty()).then(|| node.name.clone()),
            domain: (!node.domain.is_empty()).then(|| node.domain.clone()),
            input: names(&node.inputs),
            output: names(&node.outputs),
            attribute: node.attributes.clone(),
            overload: None,
        }
    }

    /// What makes two nodes compute the same; none where they need not (random draws, subgraphs).
    fn share_key(&self, node: &Node) -> Option<Vec<u8>> {
        if self
            .operators
            .draws(&node.domain, &node.op, node.inputs.len())
            || !self.passes.has(Pass::SharedNodes)
            || !node.domain.is_empty()
            || !node.captures.is_empty()
        {
            return None;
        }
        let proto = NodeProto {
            op_type: Some(node.op.clone()),
            input: node
                .inputs
                .iter()
                .map(|v| v.map_or(String::new(), |v| v.0.to_string()))
                .collect(),
            output: vec![node.outputs.len().to_string()],
            attribute: node.attributes.clone(),
            ..Default::default()
        };
        Some(proto.encode_to_vec())
    }

    /// What is wrong with a node.
    pub fn obstacle(&self, node: &Node, refusal: Refusal) -> Obstacle {
        let output = node.outputs.iter().flatten().next();
        let name = match (&node.name, output) {
            (name, Some(v)) if name.is_empty() => self.value(*v).name.clone(),
            (name, _) => name.clone(),
        };
        Obstacle {
            node: name,
            op: node.operator(),
            reason: refusal.0,
        }
    }

    /// The type of a value as a message, with the names of its symbolic dimensions.
    pub fn export_type(&self, v: Val) -> TypeProto {
        let dimension = |size: &Size| DimensionProto {
            value: match (size.as_fixed(), self.symbols.name(size)) {
                (Some(n), _) => Some(DimensionValue::Value(n)),
                (None, name) => name.map(|name| DimensionValue::Param(name.to_string())),
            },
        };
        let shape = self.shape(v).map(|shape| TensorShapeProto {
            dim: shape.iter().map(dimension).collect(),
        });
        TypeProto {
            value: Some(TypeValue::Tensor(TensorTypeProto {
                elem_type: Some(self.elem(v).0),
                shape,
            })),
        }
    }
}

fn says_shape(declared: &TypeProto) -> bool {
    !matches!(&declared.value, Some(TypeValue::Tensor(tensor)) if tensor.shape.is_none())
}
