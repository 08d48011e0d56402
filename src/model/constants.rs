//! Constants: further inputs of a network with values from the card, such as class labels, text
//! embeddings or image sizes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use half::f16;
use ndarray::{ArrayD, IxDyn};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::onnx::SessionPort;
use super::session_tensors::TensorFormat;
use crate::num::npy::parse_npy;
use crate::num::shape::{self, ShapeMismatch};

/// The value of a further input; every sample gets the same value. It is a number, `true` or
/// `false`, a list of numbers, or the name of a `.npy` file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a number, true, false, a list of numbers or the name of a .npy file"
)]
pub enum Constant {
    /// A flag: `true` or `false`.
    Flag(bool),
    /// One number.
    Number(f64),
    /// A list of numbers.
    List(Vec<f64>),
    /// The name of a `.npy` file, relative to the card's folder.
    File(PathBuf),
}

impl Constant {
    /// Returns the file with the values, if they are not in the card itself.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Constant::File(file) => Some(file),
            _ => None,
        }
    }

    /// Returns the values as an array; a single number has no axes. `bytes` is the content of the
    /// file, if there is one.
    ///
    /// # Errors
    /// Fails if the file is not a `.npy` array.
    pub fn values(&self, bytes: &[u8]) -> Result<ArrayD<f64>> {
        Ok(match self {
            Constant::Flag(flag) => ArrayD::from_elem(IxDyn(&[]), f64::from(u8::from(*flag))),
            Constant::Number(number) => ArrayD::from_elem(IxDyn(&[]), *number),
            Constant::List(list) => ArrayD::from_shape_vec(IxDyn(&[list.len()]), list.clone())?,
            Constant::File(file) => parse_npy(bytes)
                .with_context(|| file.display().to_string())?
                .0
                .into_array(),
        })
    }
}

/// The betas of a discrete path from the bytes of a `.npy` file with one axis.
///
/// # Errors
/// Fails if the file is not such an array.
pub(super) fn read_betas(bytes: &[u8]) -> Result<Vec<f64>> {
    let values = parse_npy(bytes)?.0.into_array();
    if values.ndim() != 1 {
        bail!(
            "it has shape {:?}, expected one axis with a beta for every discrete time",
            values.shape()
        );
    }
    Ok(values.into_iter().collect())
}

/// The values of a constant in the shape that its input takes.
#[derive(Debug, Clone, PartialEq)]
pub struct ConstantInput {
    /// The name of the graph's input.
    pub name: String,
    /// The values for one sample, without the batch axis.
    values: ArrayD<f64>,
    /// Whether the input has a batch axis, along which the values are repeated.
    has_batch_axis: bool,
}

impl ConstantInput {
    /// Checks the values against the input `port` that takes them, and gives them its shape. An
    /// input whose first axis is dynamic, or has the size `batch`, has a batch axis.
    ///
    /// # Errors
    /// Fails if the shape does not fit the input, or if its type cannot represent a value.
    pub fn new(
        port: &SessionPort,
        values: ArrayD<f64>,
        batch: Option<usize>,
    ) -> Result<ConstantInput> {
        if let Some(bad) = values.iter().find(|v| !can_represent(port.format, **v)) {
            bail!(
                "holds {bad}, but input `{}` takes {}",
                port.name,
                accepted_values(port.format)
            );
        }
        let (batched, sizes) = match port.shape.split_first() {
            Some((first, rest)) if is_batch_axis(*first, batch) => (true, rest),
            _ => (false, &port.shape[..]),
        };
        let shape = values.shape().to_vec();
        // Several rows may be meant as one row per sample, but a constant is the same for all
        // samples. Such an array is refused instead of being reshaped to one axis.
        let rows = sizes.len() == 1 && shape.iter().filter(|n| **n != 1).count() > 1;
        let taken = shape::shape_at_port(&shape, sizes).filter(|_| !rows);
        let values = match &shape[..] {
            [] if sizes.iter().all(|n| *n == 1) => {
                values.to_shape(vec![1; sizes.len()])?.into_owned()
            }
            [] => bail!(
                "is one number, but {}",
                tensor_expected_message(port, sizes, batched)
            ),
            _ => {
                let taken = taken.ok_or_else(|| {
                    let each = if batched {
                        " for each sample (with or without a leading batch axis of length 1)"
                    } else {
                        ""
                    };
                    let turned =
                        ShapeMismatch::for_port(&[&[1], &shape[..]].concat(), sizes).layout;
                    let turned = turned.map_or(String::new(), |layout| {
                        format!(": {}", layout.description())
                    });
                    let wanted = describe_sizes(sizes);
                    anyhow!(
                        "has shape {shape:?}, but input `{}` takes {wanted}{each}{turned}",
                        port.name
                    )
                })?;
                values
                    .as_standard_layout()
                    .into_owned()
                    .into_shape_with_order(IxDyn(&taken))?
            }
        };
        Ok(ConstantInput {
            name: port.name.clone(),
            values,
            has_batch_axis: batched,
        })
    }

    /// Returns the input's tensor for a batch of `rows` samples.
    pub fn batch_values(&self, rows: usize) -> ArrayD<f64> {
        if !self.has_batch_axis {
            return self.values.clone();
        }
        let shape: Vec<usize> = std::iter::once(rows)
            .chain(self.values.shape().iter().copied())
            .collect();
        self.values
            .broadcast(IxDyn(&shape))
            .expect("a leading axis broadcasts")
            .to_owned()
    }
}

/// Whether the first axis of an input is the batch axis: it is dynamic, or it has the only batch size
/// that the graph takes.
pub(super) fn is_batch_axis(size: i64, batch: Option<usize>) -> bool {
    size < 0 || batch.is_some_and(|batch| size == batch as i64)
}

/// Whether a tensor format can represent a number.
pub(super) fn can_represent(format: TensorFormat, v: f64) -> bool {
    match format {
        TensorFormat::F16 => f16::from_f64(v).is_finite(),
        TensorFormat::Bf16 | TensorFormat::F32 => (v as f32).is_finite(),
        TensorFormat::F64 => v.is_finite(),
        TensorFormat::I64 => v.fract() == 0.0 && v.abs() <= (1u64 << 53) as f64,
        TensorFormat::I32 => v.fract() == 0.0 && v.abs() <= f64::from(i32::MAX),
        TensorFormat::Bool => v == 0.0 || v == 1.0,
    }
}

/// Describes the numbers that a tensor format can represent.
pub(super) fn accepted_values(format: TensorFormat) -> &'static str {
    match format {
        TensorFormat::F16 => "finite numbers of at most 65504 (float16)",
        TensorFormat::Bf16 | TensorFormat::F32 | TensorFormat::F64 => "finite numbers",
        TensorFormat::I64 => "whole numbers (int64)",
        TensorFormat::I32 => "whole numbers (int32)",
        TensorFormat::Bool => "true and false",
    }
}

/// The message for a single number if the input takes more values: what it takes, and how the
/// card can give it.
fn tensor_expected_message(port: &SessionPort, sizes: &[i64], batched: bool) -> String {
    let (shape, each) = (
        describe_sizes(sizes),
        if batched { " for each sample" } else { "" },
    );
    let form = match sizes {
        [n] if *n > 0 => format!(
            "a list of {n} numbers (for a class in one-hot form: 1 for the class and 0 for the \
             others)"
        ),
        [_] => "a list of numbers".to_owned(),
        _ => format!("the name of a .npy file of shape {shape}"),
    };
    let one = if batched { "[N] or [N, 1]" } else { "[1]" };
    format!(
        "input `{}` takes {shape}{each}; expected {form}, or a graph whose input takes one number, \
         {one}",
        port.name
    )
}

/// Describes the sizes of an input without its batch axis; an open axis is `any`.
pub(super) fn describe_sizes(sizes: &[i64]) -> String {
    let sizes: Vec<String> = sizes
        .iter()
        .map(|n| {
            if *n < 0 {
                "any".to_owned()
            } else {
                n.to_string()
            }
        })
        .collect();
    if sizes.is_empty() {
        "one number".to_owned()
    } else {
        format!("[{}]", sizes.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Axis;

    use super::*;

    fn port(format: TensorFormat, shape: &[i64]) -> SessionPort {
        SessionPort {
            name: "c".to_owned(),
            format,
            shape: shape.to_vec(),
        }
    }

    fn array(shape: &[usize]) -> ArrayD<f64> {
        let count = shape.iter().product::<usize>();
        ArrayD::from_shape_vec(IxDyn(shape), (0..count).map(|i| i as f64).collect())
            .expect("as many as the shape says")
    }

    #[test]
    fn constant_is_repeated_along_the_batch() {
        let label = ConstantInput::new(&port(TensorFormat::I64, &[-1]), array(&[]) + 3.0, None)
            .expect("one label");
        assert_eq!(label.batch_values(4), ArrayD::from_elem(IxDyn(&[4]), 3.0));
        for shape in [&[2, 3][..], &[1, 2, 3]] {
            let text =
                ConstantInput::new(&port(TensorFormat::F32, &[-1, 2, 3]), array(shape), None)
                    .expect("an embedding");
            assert_eq!(text.batch_values(5).shape(), [5, 2, 3]);
            assert_eq!(text.batch_values(5).index_axis(Axis(0), 4), array(&[2, 3]));
        }
        let sizes = ConstantInput::new(&port(TensorFormat::F32, &[-1, 6]), array(&[6]), None)
            .expect("a list");
        assert_eq!(sizes.batch_values(2).shape(), [2, 6]);
    }

    #[test]
    fn flat_values_and_unit_axes_fit() {
        for shape in [&[3, 8, 8][..], &[192], &[1, 3, 8, 8], &[3, 1, 8, 8]] {
            let fixed =
                ConstantInput::new(&port(TensorFormat::F32, &[-1, 3, 8, 8]), array(shape), None)
                    .expect("it fits");
            assert_eq!(fixed.batch_values(2).shape(), [2, 3, 8, 8], "{shape:?}");
        }
    }

    #[test]
    fn input_without_batch_axis_is_not_repeated() {
        assert_eq!(
            ConstantInput::new(&port(TensorFormat::F32, &[]), array(&[]), None)
                .expect("a scalar")
                .batch_values(4)
                .shape(),
            [0usize; 0]
        );
        assert_eq!(
            ConstantInput::new(&port(TensorFormat::F32, &[1, 7]), array(&[7]), None)
                .expect("a row")
                .batch_values(4)
                .shape(),
            [1, 7]
        );
        // A dynamic axis behind the batch axis takes any size that the file has.
        assert_eq!(
            ConstantInput::new(&port(TensorFormat::F32, &[-1, -1]), array(&[7]), None)
                .expect("tokens")
                .batch_values(2)
                .shape(),
            [2, 7]
        );
    }

    #[test]
    fn unfitting_constant_is_refused() {
        let message = |port: SessionPort, v: ArrayD<f64>| {
            format!(
                "{}",
                ConstantInput::new(&port, v, None).expect_err("it does not fit")
            )
        };
        assert!(
            message(port(TensorFormat::I64, &[-1]), array(&[]) + 0.5).contains("whole numbers")
        );
        assert!(message(port(TensorFormat::I32, &[-1]), array(&[]) + 3e9).contains("int32"));
        assert!(message(port(TensorFormat::F16, &[-1]), array(&[]) + 1e6).contains("65504"));
        assert!(
            message(port(TensorFormat::Bool, &[]), array(&[]) + 2.0).contains("true and false")
        );
        assert!(message(port(TensorFormat::F32, &[-1]), array(&[]) / 0.0).contains("finite"));
        assert!(
            message(port(TensorFormat::F32, &[-1, 7]), array(&[6]))
                .contains("takes [7] for each sample")
        );
        assert!(message(port(TensorFormat::F32, &[-1, 7]), array(&[2, 7])).contains("[2, 7]"));
        assert!(message(port(TensorFormat::F32, &[-1, -1]), array(&[])).contains("[any]"));
        assert!(message(port(TensorFormat::F32, &[-1, -1]), array(&[2, 7])).contains("[2, 7]"));
        assert!(
            message(port(TensorFormat::F32, &[-1, 3, 8, 8]), array(&[8, 8, 3]))
                .contains("channels last")
        );
        assert!(
            message(port(TensorFormat::F32, &[-1, 3, 8, 8]), array(&[12, 16]))
                .contains("[3, 8, 8]")
        );
    }
}
