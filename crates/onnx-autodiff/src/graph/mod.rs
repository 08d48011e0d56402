//! A graph in memory: values with what is known of them before the graph runs, and nodes in an
//! order in which they can run.
//!
//! A graph only grows. [`Graph::push`] appends a node and infers its outputs. [`Graph::export`]
//! writes the part that the outputs need.

/// Loops that this crate appends.
pub(crate) mod counted_loop;
/// Helpers that append operators.
pub(crate) mod emit;
mod late_expansion;
mod scoped_map;
/// Subgraphs that this crate builds.
pub(crate) mod subgraph;
mod unit_vectors;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use prost::Message;

use scoped_map::{Mark, ScopedMap};
use subgraph::ControlSubgraphs;

use crate::content::Content;
use crate::elem::ElemType;
use crate::error::{Obstacle, Refusal};
use crate::names::Names;
use crate::passes::{Pass, Passes};
use crate::proto::*;
use crate::size::{Size, Symbols};

/// A value of the graph, by its index in [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Val(u32);

impl Val {
    /// Returns the value at an index of [`Graph::values`].
    pub(crate) fn from_index(index: usize) -> Val {
        Val(index as u32)
    }
}

/// The sizes of a value's axes.
pub(crate) type Shape = Vec<Size>;

/// The element type of an output, and its shape if it can be inferred.
pub(crate) type Inferred = (ElemType, Option<Shape>);

/// What a growing graph must know about the operators of its nodes.
pub(crate) trait OperatorRegistry {
    /// Infers the types and shapes of at least `outputs` outputs of a node, whose inputs are values
    /// of the graph.
    fn infer(&self, g: &mut Graph, node: &Node, outputs: usize) -> Vec<Inferred>;

    /// Returns the known elements of each output, as far as the inputs determine them. The graph
    /// calls this before the outputs exist.
    fn fold(&self, g: &mut Graph, node: &Node) -> Vec<Option<Content>>;

    /// Appends what replaces a node of the file, and returns its `wanted` outputs. Returns `None`
    /// if the node stays.
    fn replaced(&self, g: &mut Graph, node: &Node, wanted: &[bool]) -> Option<Vec<Option<Val>>>;

    /// Appends what replaces a node in float64, and returns its outputs. Returns `None` if ONNX
    /// Runtime has a float64 kernel for the node or no replacement is known.
    fn in_float64(&self, g: &mut Graph, node: &Node) -> Option<Vec<Val>>;

    /// Returns whether a node reads only the shapes of its inputs, and not their elements.
    fn reads_only_shapes(&self, node: &Node) -> bool;

    /// Returns whether a node of the operator with so many inputs draws random numbers. Two such
    /// nodes are never merged, even if they are equal.
    fn draws(&self, domain: &str, op: &str, inputs: usize) -> bool;
}

/// What is known of a value before the graph runs.
pub(crate) struct Value {
    /// The name of the value in the exported graph.
    pub name: String,
    /// The element type.
    pub elem: ElemType,
    /// The shape, if it is known.
    pub shape: Option<Shape>,
    /// The elements, if the value is small and its elements can be followed.
    pub content: Option<Content>,
    /// The stored tensor, if the value is a constant.
    pub constant: Option<Rc<TensorProto>>,
    /// Whether the value depends on the seed of the tangents. Such a value is linear in the seed.
    pub linear: bool,
    /// The index of the node that makes the value. It is `None` for inputs and constants.
    node_index: Option<usize>,
}

/// A node of the graph.
#[derive(Clone)]
pub(crate) struct Node {
    /// The name of the operator.
    pub op: String,
    /// The domain of the operator, which is empty for the standard domain.
    pub domain: String,
    /// The name of the node, which may be empty.
    pub name: String,
    /// The inputs. An optional input that is left out is `None`.
    pub inputs: Vec<Option<Val>>,
    /// The outputs. An optional output that is left out is `None`.
    pub outputs: Vec<Option<Val>>,
    /// The attributes.
    pub attributes: Vec<AttributeProto>,
    /// The values of this graph that the node's subgraphs use.
    pub captures: Vec<Val>,
    /// The index of the original node whose tangent or cotangent this node computes. It is `None`
    /// for original nodes.
    pub origin: Option<usize>,
}

impl Node {
    /// Returns an attribute by its name.
    pub(crate) fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.attributes.iter().find(|a| a.name() == name)
    }

    /// Returns an integer attribute, or `default` if the node does not have it.
    pub(crate) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).and_then(|a| a.i).unwrap_or(default)
    }

    /// Returns a floating-point attribute, or `default` if the node does not have it.
    pub(crate) fn float(&self, name: &str, default: f64) -> f64 {
        self.attribute(name)
            .and_then(|a| a.f)
            .map_or(default, f64::from)
    }

    /// Returns an attribute that is a list of integers.
    pub(crate) fn ints(&self, name: &str) -> Option<Vec<i64>> {
        self.attribute(name).map(|a| a.ints.clone())
    }

    /// Returns an attribute that is a string, or `default` if the node does not have it.
    pub(crate) fn text(&self, name: &str, default: &str) -> String {
        let bytes = self.attribute(name).and_then(|a| a.s.clone());
        bytes.map_or(default.to_string(), |b| {
            String::from_utf8_lossy(&b).into_owned()
        })
    }

    /// Returns the input at an index, if the node has it.
    pub(crate) fn input(&self, index: usize) -> Option<Val> {
        self.inputs.get(index).copied().flatten()
    }

    /// Returns the output at an index, if the node has it.
    pub(crate) fn output(&self, index: usize) -> Option<Val> {
        self.outputs.get(index).copied().flatten()
    }

    /// Returns the name of the operator, with its domain in front unless that is the standard
    /// domain.
    pub(crate) fn operator(&self) -> String {
        if self.domain.is_empty() {
            self.op.clone()
        } else {
            format!("{}.{}", self.domain, self.op)
        }
    }

    /// Returns the name of the operator if it belongs to the standard domain, and an empty string
    /// otherwise.
    pub(crate) fn standard(&self) -> &str {
        if self.domain.is_empty() { &self.op } else { "" }
    }
}

/// The parts of the tangent of a softmax, `y ∘ d - y ∘ Σ y ∘ d`. A product with the tangent may be
/// cheaper from the parts.
#[derive(Clone, Copy)]
pub(crate) struct SoftmaxTangent {
    /// The output of the softmax.
    pub y: Val,
    /// The axis of `y` along which the sums run.
    pub axis: usize,
    /// The product `y ∘ d`.
    pub weighted: Val,
    /// The sums of `weighted`, with size 1 along the axis.
    pub sums: Val,
}

/// An `If` or a `Loop` that is about to be appended.
pub(crate) struct Control {
    /// The name of the operator.
    pub op: &'static str,
    /// The inputs. An optional input that is left out is `None`.
    pub inputs: Vec<Option<Val>>,
    /// The attributes, which hold the subgraphs.
    pub attributes: Vec<AttributeProto>,
    /// The values of the graph that the subgraphs use.
    pub captures: Vec<Val>,
    /// Whether the outputs are tangents.
    pub linear: bool,
}

/// The state of a graph when a subgraph begins, to which [`Graph::leave`] returns.
pub(crate) struct Scope {
    nodes: usize,
    shared: Mark,
    dim_sources: Mark,
    names: Mark,
}

/// A graph that grows. Its nodes are the nodes of the file, or what replaces them, followed by the
/// nodes that the derivation appends.
pub(crate) struct Graph {
    /// The opset of the standard domain in which the graph is written.
    pub opset: i64,
    /// The declarations of the operators.
    pub operators: &'static dyn OperatorRegistry,
    /// All values, in the order in which they were added.
    pub values: Vec<Value>,
    /// All nodes, in an order in which they can run.
    pub nodes: Vec<Node>,
    /// The inputs of the graph.
    pub inputs: Vec<Val>,
    /// The outputs of the graph.
    pub outputs: Vec<Val>,
    /// The symbols of sizes that are known only when the graph runs.
    pub symbols: Symbols,
    /// The index of the original node that is being differentiated or transposed.
    pub origin: Option<usize>,
    /// The parts of tangents of softmaxes, by the value `y ∘ d - y ∘ Σ y ∘ d`.
    pub softmax_tangents: HashMap<Val, SoftmaxTangent>,
    /// Whether tangents may be the same for every sample, as the unit vectors of a trace are.
    pub has_common_directions: bool,
    /// The unit vectors `[D, 1, D]` of a state with one axis, if they are the directions.
    pub unit_vectors: Option<Val>,
    /// The passes for speed and memory that are on.
    pub passes: Passes,
    /// Whether float64 nodes are replaced if ONNX Runtime has only a float32 kernel for their
    /// operator.
    pub avoids_single: bool,
    /// Values that the caller of the exported graph provides. The nodes that make them are not
    /// exported.
    pub given: HashSet<Val>,
    /// The subgraphs of control-flow nodes that compute tangents, by the first output of the node.
    pub control_subgraphs: HashMap<Val, ControlSubgraphs>,
    /// The number of subgraphs around the one that is being read.
    pub nesting: usize,
    names: ScopedMap<String, Val>,
    value_names: Names,
    node_names: Names,
    fresh: usize,
    shared: ScopedMap<Vec<u8>, Vec<Val>>,
    constants: HashMap<Vec<u8>, Val>,
    dim_sources: ScopedMap<Size, (Val, usize)>,
    declared: HashMap<String, ValueInfoProto>,
}

impl Graph {
    /// Returns an empty graph. `declared` holds the types that a file declares for its values,
    /// which fill in what inference leaves open. The other two hold all names of the file, from
    /// which those of new values and nodes differ.
    pub(crate) fn new(
        opset: i64,
        operators: &'static dyn OperatorRegistry,
        declared: HashMap<String, ValueInfoProto>,
        value_names: Names,
        node_names: Names,
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
            unit_vectors: None,
            passes: Passes::all(),
            avoids_single: false,
            given: HashSet::new(),
            control_subgraphs: HashMap::new(),
            nesting: 0,
            names: ScopedMap::default(),
            value_names,
            node_names,
            fresh: 0,
            shared: ScopedMap::default(),
            constants: HashMap::new(),
            dim_sources: ScopedMap::default(),
            declared,
        }
    }

    /// Returns what is known of a value.
    pub(crate) fn value(&self, v: Val) -> &Value {
        &self.values[v.0 as usize]
    }

    /// Returns the shape of a value, if it is known.
    pub(crate) fn shape(&self, v: Val) -> Option<&Shape> {
        self.value(v).shape.as_ref()
    }

    /// Returns the number of axes of a value, if it is known.
    pub(crate) fn rank(&self, v: Val) -> Option<usize> {
        self.shape(v).map(Vec::len)
    }

    /// Returns the element type of a value.
    pub(crate) fn elem(&self, v: Val) -> ElemType {
        self.value(v).elem
    }

    /// Returns the known elements of a small value.
    pub(crate) fn content(&self, v: Val) -> Option<&Content> {
        self.value(v).content.as_ref()
    }

    /// Returns the value of a name that is visible in the current scope.
    pub(crate) fn named(&self, name: &str) -> Option<Val> {
        self.names.get(name).copied()
    }

    /// Reserves a name and returns it: the wanted name, with the first free number behind it if it
    /// is taken.
    pub(crate) fn reserved_name(&mut self, wanted: &str) -> String {
        self.value_names.reserve(wanted)
    }

    /// Reserves a name for a node and returns it, with a number behind it if it is taken.
    pub(crate) fn reserved_node_name(&mut self, wanted: &str) -> String {
        self.node_names.reserve(wanted)
    }

    /// Returns the node that makes a value.
    pub(crate) fn maker(&self, v: Val) -> Option<&Node> {
        self.nodes.get(self.node_index(v)?)
    }

    /// Returns the index of the node that makes a value.
    pub(crate) fn node_index(&self, v: Val) -> Option<usize> {
        // The index of a node in a closed subgraph may now belong to another node or to none.
        let index = self.value(v).node_index?;
        self.nodes
            .get(index)?
            .outputs
            .contains(&Some(v))
            .then_some(index)
    }

    /// Returns a value with an axis of the given size, and the index of the axis.
    pub(crate) fn dim_source(&self, size: &Size) -> Option<(Val, usize)> {
        self.dim_sources.get(size).copied()
    }

    /// Adds an input to the graph.
    pub(crate) fn add_input(&mut self, name: &str, elem: ElemType, shape: Option<Shape>) -> Val {
        let input = self.add_value(name.to_string(), elem, shape, None, None, false);
        self.inputs.push(input);
        input
    }

    /// Adds a stored tensor under its own name.
    pub(crate) fn add_initializer(&mut self, tensor: TensorProto) -> Val {
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

    /// Adds a constant under a new name. Equal constants become one value.
    pub(crate) fn add_constant(&mut self, mut tensor: TensorProto) -> Val {
        let key = tensor.encode_to_vec();
        if let Some(known) = self.constants.get(&key).copied() {
            // The constant may have been added in a subgraph that has ended, together with its
            // name.
            self.names.insert(self.value(known).name.clone(), known);
            return known;
        }
        tensor.name = Some(self.fresh_name("constant"));
        let constant = self.add_initializer(tensor);
        self.constants.insert(key, constant);
        constant
    }

    /// Adds a value that no node makes. It serves as an unused output and must not be read.
    pub(crate) fn placeholder(&mut self, elem: ElemType, shape: Option<Shape>) -> Val {
        let name = self.fresh_name("placeholder");
        // A linear value is never the source of a size.
        self.add_value(name, elem, shape, None, None, true)
    }

    /// Sets the shape of a value, for shapes that the caller knows better than inference.
    pub(crate) fn set_shape(&mut self, v: Val, shape: &[Size]) {
        self.values[v.0 as usize].shape = Some(shape.to_vec());
    }

    /// Sets the element type and the shape of a value if inference left them open.
    pub(crate) fn complete(&mut self, v: Val, elem: ElemType, shape: Option<Shape>) {
        let value = &mut self.values[v.0 as usize];
        if value.elem == ElemType::UNKNOWN {
            value.elem = elem;
        }
        if value.shape.is_none() {
            value.shape = shape;
        }
    }

    /// Marks a value as linear. The seed of the tangents is marked this way.
    pub(crate) fn mark_linear(&mut self, v: Val) {
        self.values[v.0 as usize].linear = true;
    }

    /// Appends a node of the file under the names that it has there, or what replaces it.
    pub(crate) fn push_original(
        &mut self,
        node: &NodeProto,
        inputs: Vec<Option<Val>>,
        captures: Vec<Val>,
    ) {
        self.node_names.insert(node.name().to_string());
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
                    name: Some(self.node_names.reserve(&format!("{}.{name}", node.name()))),
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

    /// Converts a node of the file to a node of the graph without appending it. Its outputs do not
    /// exist yet.
    pub(crate) fn original(
        &self,
        node: &NodeProto,
        inputs: Vec<Option<Val>>,
        captures: Vec<Val>,
    ) -> Node {
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

    /// Appends a node and returns its outputs. If an equal node exists, returns the outputs of that
    /// node instead.
    pub(crate) fn push(
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

    /// Begins a subgraph. What is appended from here on is visible until [`Graph::leave`].
    pub(crate) fn enter(&mut self) -> Scope {
        Scope {
            nodes: self.nodes.len(),
            shared: self.shared.enter(),
            dim_sources: self.dim_sources.enter(),
            names: self.names.enter(),
        }
    }

    /// Ends a subgraph. Returns its nodes and the values that they use from outside.
    pub(crate) fn leave(&mut self, scope: Scope) -> (Vec<Node>, Vec<Val>) {
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

    /// Appends a copy of a value under a name of its own.
    pub(crate) fn fresh_identity(&mut self, v: Val) -> Val {
        let name = self.fresh_name("Identity");
        let identity = NodeProto {
            op_type: Some("Identity".into()),
            name: Some(self.node_names.reserve(&format!("{name}_node"))),
            output: vec![name.clone()],
            ..Default::default()
        };
        self.push_original(&identity, vec![Some(v)], Vec::new());
        self.names.get(&name).copied().unwrap_or(v)
    }

    /// Adds an input of a subgraph, whose value comes from the node that runs the subgraph.
    pub(crate) fn add_formal(&mut self, elem: ElemType, shape: Option<Shape>, linear: bool) -> Val {
        let name = self.fresh_name("given");
        self.add_value(name, elem, shape, None, None, linear)
    }

    /// Makes a value visible again by its name, which ended with the subgraph where it was first
    /// used.
    pub(crate) fn restore_name(&mut self, v: Val) {
        self.names.insert(self.value(v).name.clone(), v);
    }

    /// Appends an `If` or a `Loop` with outputs of the given types and shapes.
    pub(crate) fn push_control(&mut self, control: Control, outputs: Vec<Inferred>) -> Vec<Val> {
        let Control {
            op,
            inputs,
            attributes,
            captures,
            linear,
        } = control;
        let (index, origin) = (Some(self.nodes.len()), self.origin);
        let mut made = Vec::new();
        for (elem, shape) in outputs {
            let name = self.fresh_name(op);
            let v = self.add_value(name, elem, shape, None, None, linear);
            self.values[v.0 as usize].node_index = index;
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

    /// Replaces the attributes of the node at an index and adds outputs to it. Returns the new
    /// outputs.
    pub(crate) fn extend_control(
        &mut self,
        index: usize,
        attributes: Vec<AttributeProto>,
        outputs: Vec<Inferred>,
    ) -> Vec<Val> {
        let mut made = Vec::new();
        for (elem, shape) in outputs {
            let name = self.fresh_name("kept");
            let v = self.add_value(name, elem, shape, None, None, false);
            self.values[v.0 as usize].node_index = Some(index);
            made.push(v);
        }
        let node = &mut self.nodes[index];
        node.attributes = attributes;
        node.outputs.extend(made.iter().copied().map(Some));
        made
    }

    /// Appends the nodes of a closed subgraph to another subgraph.
    pub(crate) fn repeat(&mut self, nodes: &[Node]) {
        for node in nodes {
            for v in node.outputs.iter().flatten() {
                self.values[v.0 as usize].node_index = Some(self.nodes.len());
                self.restore_value(*v);
            }
            self.nodes.push(node.clone());
        }
    }

    /// Makes a value visible again by its name and by its sizes.
    pub(crate) fn restore_value(&mut self, v: Val) {
        self.restore_name(v);
        let value = &self.values[v.0 as usize];
        for (axis, size) in value.shape.iter().flatten().enumerate() {
            if size.as_fixed().is_none() && !value.linear {
                self.dim_sources.insert_if_absent(size.clone(), (v, axis));
            }
        }
    }

    /// Infers the outputs of a node and adds them under the given names.
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
            self.values[v.0 as usize].node_index = Some(self.nodes.len());
        }
    }

    /// Adds a value, completed by what the file declares for its name.
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
        self.value_names.insert(name.clone());
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
            node_index: None,
        });
        v
    }

    /// Returns the inferred type and shape, with what the file declares in place of what inference
    /// left open.
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

    /// Returns the declared size if the inferred one is an unnamed symbol that no value has yet,
    /// and the inferred size otherwise.
    fn merge(&self, known: Size, said: Size) -> Size {
        let opaque = known.as_symbol().is_some()
            && self.symbols.name(&known).is_none()
            && self.dim_source(&known).is_none();
        let telling = said.as_fixed().is_some() || self.symbols.name(&said).is_some();
        if opaque && telling { said } else { known }
    }

    /// Returns the shape that a file declares. Dimensions of the same name are the same size.
    pub(crate) fn declared_shape(&mut self, tensor: &TensorTypeProto) -> Option<Shape> {
        let shape = tensor.shape.as_ref()?;
        Some(
            shape
                .dim
                .iter()
                .map(|dim| self.declared_size(dim))
                .collect(),
        )
    }

    /// Returns the size that a dimension declares, or a new symbol if it declares none.
    fn declared_size(&mut self, dim: &DimensionProto) -> Size {
        match &dim.value {
            Some(DimensionValue::Value(n)) if *n >= 0 => Size::fixed(*n),
            Some(DimensionValue::Param(name)) if !name.is_empty() => self.symbols.named(name),
            _ => self.symbols.fresh(),
        }
    }

    /// Returns an unused name that contains `stem`. No name continues it with a slash.
    pub(crate) fn fresh_name(&mut self, stem: &str) -> String {
        loop {
            self.fresh += 1;
            let name = format!("d.{stem}.{}", self.fresh);
            let taken = |names: &Names| names.contains(&name) || names.contains_prefix(&name);
            if !taken(&self.value_names) && !taken(&self.node_names) {
                return name;
            }
        }
    }

    /// Returns whether a value is known to be zero everywhere: zero, repeated.
    pub(crate) fn is_zero(&self, v: Val) -> bool {
        let spread = self
            .maker(v)
            .filter(|node| node.standard() == "Expand")
            .and_then(|node| node.input(0));
        spread
            .and_then(|number| self.content(number))
            .and_then(|c| c.reals())
            .is_some_and(|n| n == [0.0])
    }

    /// Returns, for each node, whether the outputs of the graph need it.
    pub(crate) fn needed(&self) -> Vec<bool> {
        let mut wanted: HashSet<Val> = self.outputs.iter().copied().collect();
        let mut needed = vec![false; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate().rev() {
            if node
                .outputs
                .iter()
                .flatten()
                .any(|v| wanted.contains(v) && !self.given.contains(v))
            {
                needed[index] = true;
                wanted.extend(node.inputs.iter().flatten());
                wanted.extend(&node.captures);
            }
        }
        needed
    }

    /// Writes the graph as a message, with only the nodes and constants that the outputs need.
    pub(crate) fn export(&self, outputs: &[(String, Option<TypeProto>)]) -> GraphProto {
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
        let mut node_names = Names::of_nodes(&graph);
        for ((name, declared), v) in outputs.iter().zip(&self.outputs) {
            used.insert(*v);
            if *name != self.value(*v).name {
                graph.node.push(NodeProto {
                    op_type: Some("Identity".into()),
                    name: Some(node_names.reserve(&format!("d.output.{name}"))),
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

    /// Writes a node as a message.
    pub(crate) fn export_node(&self, node: &Node) -> NodeProto {
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

    /// Returns a key that is equal for two nodes that compute the same. Returns `None` for nodes
    /// that are never merged, such as those that draw random numbers.
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

    /// Returns the obstacle that a refusal of a node is.
    pub(crate) fn obstacle(&self, node: &Node, refusal: Refusal) -> Obstacle {
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

    /// Writes the type of a value as a message, with the names of its symbolic sizes.
    pub(crate) fn export_type(&self, v: Val) -> TypeProto {
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

/// Returns whether a declared type states a shape.
fn says_shape(declared: &TypeProto) -> bool {
    !matches!(&declared.value, Some(TypeValue::Tensor(tensor)) if tensor.shape.is_none())
}
