//! Writes convolutions with 3×3 weights so that they take fewer multiplications.
//!
//! A convolution of many channels spends its time in multiplications, and runtimes perform them at
//! the speed of the processor. Minimal filtering algorithms (`filter`) need 1/2 or 2/3 of them, and
//! 1/4 for an image that was enlarged by repeating its pixels. Everything is written with operators
//! of the standard domain: sums of neighbouring pixels are convolutions of each channel on its own,
//! which runtimes with blocked layouts compute without a copy of the image.
//!
//! Columns alone are filtered: rows of pixels lie one behind the other in memory, so that what is
//! apart is put together again at the speed of a copy. For enlarged images both are filtered,
//! because their sums are of the image before it is enlarged.
//!
//! A model and its derivatives differ from what they were by rounding alone. Models in other types
//! than float32 stay as they are.

mod convolution;
mod filter;

use std::collections::{HashMap, HashSet};

use prost::bytes::Bytes;

use self::convolution::{Convolution, Known, single_elements};
use self::filter::{Filter, TAPS};
use crate::elem::ElemType;
use crate::model::Model;
use crate::names::Names;
use crate::proto::*;

/// The greatest height of an image whose results are one product of a matrix with the products of
/// the algorithm. The matrix is sparse, so that its product takes time that grows with the height,
/// but it is one node in place of twenty. Runtimes open a graph in a time that grows with the square
/// of the number of nodes.
const HIGHEST_PRODUCT: i64 = 32;

impl Model {
    /// Returns the model with minimal filtering algorithms in place of those convolutions that they
    /// compute faster on a processor with blocked layouts of images. Returns `None` if there is no
    /// such convolution or shapes are not known.
    pub fn with_winograd_convolutions(&self) -> Option<Model> {
        let known = Known::of(self)?;
        let graph = self.graph();
        let mut writer = Writer::new(graph);
        let mut found = false;
        for node in &graph.node {
            match (known.convolution(node), node.output.first()) {
                (Some(convolution), Some(result)) => {
                    writer.filtered(&convolution, result);
                    found = true;
                }
                _ => writer.nodes.push(node.clone()),
            }
        }
        if !found {
            return None;
        }
        let mut proto = self.proto.clone();
        let changed = proto.graph.as_mut()?;
        changed.initializer.extend(writer.constants);
        changed.node = writer.nodes;
        drop_unread(changed);
        changed.value_info = known.declarations(&changed.node);
        Some(Model {
            file: self.file.clone(),
            proto,
        })
    }
}

/// Removes what is no longer read: images that were enlarged, and the weights of convolutions. A
/// runtime would still compute the former.
fn drop_unread(graph: &mut GraphProto) {
    let read = read_names(graph);
    let unread = |node: &NodeProto| !node.output.iter().any(|name| read.contains(name));
    (graph.node).retain(|node| !matches!(node.op_type(), "Resize" | "Constant") || !unread(node));
    let read = read_names(graph);
    graph
        .initializer
        .retain(|tensor| read.contains(tensor.name()));
}

/// Returns the names of all values that a node of the graph or of its subgraphs reads, and of the
/// outputs.
fn read_names(graph: &GraphProto) -> HashSet<String> {
    let mut read = HashSet::new();
    let mut open = vec![graph];
    while let Some(graph) = open.pop() {
        read.extend(graph.output.iter().map(|output| output.name().to_owned()));
        for node in &graph.node {
            read.extend(node.input.iter().cloned());
            for attribute in &node.attribute {
                open.extend(attribute.g.iter().chain(&attribute.graphs));
            }
        }
    }
    read
}

/// The nodes and constants of the new graph.
struct Writer {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    value_names: Names,
    node_names: Names,
    /// The number in the last new name.
    last: usize,
    /// The constants by their sizes and bytes.
    known_constants: HashMap<(i32, Vec<i64>, Bytes), String>,
    /// The weights of each product, by the name of the convolution's weights.
    known_weights: HashMap<(String, bool, Filter), Vec<String>>,
}

impl Writer {
    fn new(graph: &GraphProto) -> Writer {
        Writer {
            nodes: Vec::new(),
            constants: Vec::new(),
            value_names: Names::of_values(graph),
            node_names: Names::of_nodes(graph),
            last: 0,
            known_constants: HashMap::new(),
            known_weights: HashMap::new(),
        }
    }

    /// Returns a new name.
    fn fresh_name(&mut self) -> String {
        loop {
            self.last += 1;
            let name = format!("winograd.{}", self.last);
            if !self.value_names.contains(&name) && !self.node_names.contains(&name) {
                return name;
            }
        }
    }

    /// Appends a node that makes `output`.
    fn node_to(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>, output: &str) {
        let name = self.fresh_name();
        self.nodes.push(NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(name),
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute,
            ..Default::default()
        });
    }

    /// Appends a node and returns its output.
    fn node(&mut self, op: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        let output = self.fresh_name();
        self.node_to(op, inputs, attribute, &output);
        output
    }

    /// Returns a constant. Equal constants become one.
    fn constant(&mut self, elem: ElemType, dims: &[i64], raw: Vec<u8>) -> String {
        let key = (elem.0, dims.to_vec(), Bytes::from(raw));
        if let Some(name) = self.known_constants.get(&key) {
            return name.clone();
        }
        let name = self.stored(elem, dims, key.2.clone());
        self.known_constants.insert(key, name.clone());
        name
    }

    /// Stores a tensor and returns its name.
    fn stored(&mut self, elem: ElemType, dims: &[i64], raw: Bytes) -> String {
        let name = self.fresh_name();
        self.constants.push(TensorProto {
            name: Some(name.clone()),
            dims: dims.to_vec(),
            data_type: Some(elem.0),
            raw_data: Some(raw),
            ..Default::default()
        });
        name
    }

    /// Returns a constant list of int64.
    fn integers(&mut self, values: &[i64]) -> String {
        let raw = values.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.constant(ElemType::INT64, &[values.len() as i64], raw)
    }

    /// Returns a float32 constant.
    fn singles(&mut self, values: &[f64], dims: &[i64]) -> String {
        let raw = (values.iter()).flat_map(|x| (*x as f32).to_le_bytes());
        let raw = raw.collect();
        self.constant(ElemType::FLOAT, dims, raw)
    }

    /// Returns a tensor with other sizes. 0 stands for the size that the axis has.
    fn reshaped(&mut self, of: &str, sizes: &[i64]) -> String {
        let sizes = self.integers(sizes);
        self.node("Reshape", &[of, &sizes], vec![])
    }

    /// Appends the nodes that compute a convolution, and names the result.
    fn filtered(&mut self, c: &Convolution, result: &str) {
        match c.algorithm {
            Filter::Doubled => self.enlarged(c, result),
            _ => self.columns(c, result),
        }
    }

    /// Appends a convolution whose columns are filtered.
    fn columns(&mut self, c: &Convolution, result: &str) {
        let weights = self.product_weights(c);
        let filter = c.algorithm;
        let (step, span) = (filter.step() as i64, filter.products() as i64);
        let mut products = Vec::new();
        let shares = filter.shares();
        for ((row, weights), share) in filter.signal().iter().zip(weights).zip(shares) {
            let sums = row.repeat(c.channels as usize);
            let sums = self.singles(&sums, &[c.channels, 1, span, 1]);
            let layout = vec![
                ints("kernel_shape", &[span, 1]),
                ints("strides", &[step, 1]),
                ints("pads", &[1, 0, 1, 0]),
                int("group", c.channels),
            ];
            let signal = self.node("Conv", &[&c.image, &sums], layout);
            let window = vec![
                ints("kernel_shape", &[1, TAPS as i64]),
                ints("pads", &[0, 1, 0, 1]),
            ];
            products.push(self.product(&signal, &weights, c, share, window));
        }
        if c.height > HIGHEST_PRODUCT {
            let rows = self.combined(filter, &products);
            self.interleaved(&rows, c, 2, [c.height / step, c.width], Some(result));
            return;
        }
        let products: Vec<&str> = products.iter().map(String::as_str).collect();
        let stacked = self.node("Concat", &products, vec![int("axis", 2)]);
        let results = self.results_of_products(c);
        self.node_to("MatMul", &[&results, &stacked], vec![], result);
    }

    /// Returns the matrix that makes the rows of the result from the rows of all products.
    fn results_of_products(&mut self, c: &Convolution) -> String {
        let (matrix, step) = (c.algorithm.results_of_products(), c.algorithm.step());
        let tiles = c.height as usize / step;
        let (rows, columns) = (c.height as usize, matrix[0].len() * tiles);
        let mut all = vec![0.0; rows * columns];
        for tile in 0..tiles {
            for (i, row) in matrix.iter().enumerate() {
                for (k, coefficient) in row.iter().enumerate() {
                    all[(tile * step + i) * columns + k * tiles + tile] = *coefficient;
                }
            }
        }
        self.singles(&all, &[rows as i64, columns as i64])
    }

    /// Appends the sums of products that are the results.
    fn combined(&mut self, filter: Filter, products: &[String]) -> Vec<String> {
        // Of a pair of points ±p, even powers take the sum of the products, odd ones the difference.
        let pairs: Vec<[String; 2]> = (products[1..products.len() - 1].chunks(2))
            .map(|pair| ["Add", "Sub"].map(|op| self.node(op, &[&pair[0], &pair[1]], vec![])))
            .collect();
        let last = filter.results() - 1;
        (0..=last)
            .map(|j| {
                let mut terms: Vec<String> = Vec::new();
                for (point, pair) in filter.points().iter().zip(&pairs) {
                    let part = &pair[j % 2];
                    let power = point.powi(j as i32);
                    terms.push(if power == 1.0 {
                        part.clone()
                    } else {
                        let power = self.singles(&[power], &[]);
                        self.node("Mul", &[part, &power], vec![])
                    });
                }
                if j == 0 {
                    terms.push(products[0].clone());
                } else if j == last {
                    terms.push(products[products.len() - 1].clone());
                }
                self.sum(&terms)
            })
            .collect()
    }

    /// Appends the convolution of an image that is enlarged to twice its height and width.
    fn enlarged(&mut self, c: &Convolution, result: &str) {
        let weights = self.product_weights(c);
        let filter = c.algorithm;
        let (signal, shares) = (filter.signal(), filter.shares());
        let mut products: Vec<Vec<String>> = Vec::new();
        for (i, rows) in signal.iter().enumerate() {
            let mut of_row = Vec::new();
            for (k, columns) in signal.iter().enumerate() {
                let at = i * filter.products() + k;
                let share = shares[i] * shares[k];
                let signal = self.differences(c, rows, columns);
                let window = vec![ints("kernel_shape", &[1, 1])];
                of_row.push(self.product(&signal, &weights[at], c, share, window));
            }
            products.push(of_row);
        }
        // Of three products, the first two make the first result and the last two the second.
        let of_columns: Vec<[String; 2]> = (products.iter())
            .map(|p| [0, 1].map(|j| self.node("Add", &[&p[j], &p[j + 1]], vec![])))
            .collect();
        let halves = [0, 1].map(|i| {
            let pixels = [0, 1].map(|j| {
                let (a, b) = (&of_columns[i][j], &of_columns[i + 1][j]);
                self.node("Add", &[a, b], vec![])
            });
            self.interleaved(&pixels, c, 3, [c.height, c.width], None)
        });
        self.interleaved(&halves, c, 2, [c.height, 2 * c.width], Some(result));
    }

    /// Returns the sums of neighbouring pixels for the outer product of two rows of coefficients.
    fn differences(&mut self, c: &Convolution, rows: &[f64], columns: &[f64]) -> String {
        let sums: Vec<f64> = (rows.iter())
            .flat_map(|r| columns.iter().map(move |s| r * s))
            .collect();
        if sums == [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0] {
            return c.image.clone();
        }
        let sums = sums.repeat(c.channels as usize);
        let size = TAPS as i64;
        let sums = self.singles(&sums, &[c.channels, 1, size, size]);
        let layout = vec![
            ints("kernel_shape", &[size, size]),
            ints("pads", &[1; 4]),
            int("group", c.channels),
        ];
        self.node("Conv", &[&c.image, &sums], layout)
    }

    /// Appends one product: the convolution of a signal with weights, and a share of the bias.
    fn product(
        &mut self,
        signal: &str,
        weights: &str,
        c: &Convolution,
        share: f64,
        window: Vec<AttributeProto>,
    ) -> String {
        let bias = c.bias.as_ref().filter(|_| share != 0.0).map(|bias| {
            let bias = single_elements(bias).unwrap_or_default();
            let part: Vec<f64> = bias.iter().map(|b| share * f64::from(*b)).collect();
            self.singles(&part, &[c.filters])
        });
        let mut inputs = vec![signal, weights];
        inputs.extend(bias.as_deref());
        self.node("Conv", &inputs, window)
    }

    /// Appends a sum of terms.
    fn sum(&mut self, terms: &[String]) -> String {
        let mut terms = terms.iter().cloned();
        let first = terms.next().unwrap_or_default();
        terms.fold(first, |sum, term| self.node("Add", &[&sum, &term], vec![]))
    }

    /// Puts images `[N, filters, height, width]` together so that their rows (`axis` 2) or their
    /// columns (3) alternate.
    fn interleaved(
        &mut self,
        parts: &[String],
        c: &Convolution,
        axis: usize,
        [height, width]: [i64; 2],
        name: Option<&str>,
    ) -> String {
        let count = parts.len() as i64;
        let mut apart = vec![0, c.filters, height, width];
        apart.insert(axis + 1, 1);
        let parts: Vec<String> = (parts.iter())
            .map(|part| self.reshaped(part, &apart))
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let joined = self.node("Concat", &parts, vec![int("axis", axis as i64 + 1)]);
        let mut whole = vec![0, c.filters, height, width];
        whole[axis] *= count;
        let whole = self.integers(&whole);
        let output = name.map_or_else(|| self.fresh_name(), str::to_owned);
        self.node_to("Reshape", &[&joined, &whole], vec![], &output);
        output
    }

    /// Returns the weights of each product, `[filters, channels, 1, 3]`, or `[filters, channels, 1,
    /// 1]` for an enlarged image. They are computed in float64 from the weights of the convolution.
    fn product_weights(&mut self, c: &Convolution) -> Vec<String> {
        let key = (c.weights.name().to_owned(), c.transposed, c.algorithm);
        if let Some(known) = self.known_weights.get(&key) {
            return known.clone();
        }
        let rows = c.algorithm.weights();
        let windows: Vec<Vec<[f64; TAPS]>> = match c.algorithm {
            Filter::Doubled => rows.iter().map(|row| vec![*row]).collect(),
            _ => vec![vec![[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]],
        };
        let taps = c.taps();
        let mut made = Vec::new();
        for row in &rows {
            for window in &windows {
                let mut raw = Vec::with_capacity(4 * window.len() * taps.len());
                for taps in &taps {
                    for column in window {
                        let weight = weighted(taps, row, column) as f32;
                        raw.extend_from_slice(&weight.to_le_bytes());
                    }
                }
                let dims = [c.filters, c.channels, 1, window.len() as i64];
                made.push(self.stored(ElemType::FLOAT, &dims, Bytes::from(raw)));
            }
        }
        self.known_weights.insert(key, made.clone());
        made
    }
}

/// Returns the sum of 3×3 weights times coefficients for their rows and for their columns.
fn weighted(taps: &[[f64; TAPS]; TAPS], rows: &[f64; TAPS], columns: &[f64; TAPS]) -> f64 {
    let sums = taps.map(|row| row.iter().zip(columns).map(|(w, c)| w * c).sum::<f64>());
    sums.iter().zip(rows).map(|(sum, r)| sum * r).sum()
}
