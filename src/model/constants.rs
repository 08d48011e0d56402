//! Further inputs of a network, which a card fixes: class labels, embeddings of a text, sizes of an image.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use half::f16;
use ndarray::{ArrayD, IxDyn};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::onnx::{Format, Port};
use crate::num::npy::npy;
use crate::num::shape::{self, Misfit};

/// What a card writes for one input: every sample is given the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a number, true, false, a list of numbers or the name of a .npy file"
)]
pub enum Constant {
    Flag(bool),
    Number(f64),
    List(Vec<f64>),
    File(PathBuf),
}

impl Constant {
    /// The file that holds the values, where they are not in the card.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Constant::File(file) => Some(file),
            _ => None,
        }
    }

    /// The values: no axes for one number. `bytes` are those of the file.
    ///
    /// # Errors
    /// Where the file is no array.
    pub fn values(&self, bytes: &[u8]) -> Result<ArrayD<f64>> {
        Ok(match self {
            Constant::Flag(flag) => ArrayD::from_elem(IxDyn(&[]), f64::from(u8::from(*flag))),
            Constant::Number(number) => ArrayD::from_elem(IxDyn(&[]), *number),
            Constant::List(list) => ArrayD::from_shape_vec(IxDyn(&[list.len()]), list.clone())?,
            Constant::File(file) => npy(bytes).with_context(|| file.display().to_string())?.0,
        })
    }
}

/// A constant that fits its input.
#[derive(Debug, Clone, PartialEq)]
pub struct Fixed {
    pub name: String,
    values: ArrayD<f64>,
    /// Whether the input has a batch axis, along which the values are repeated.
    batched: bool,
}

impl Fixed {
    /// Holds values against the input that they are for; an input whose first axis is dynamic has a batch axis.
    ///
    /// # Errors
    /// Where shape or range do not fit the input.
    pub fn new(port: &Port, values: ArrayD<f64>) -> Result<Fixed> {
        if let Some(bad) = values.iter().find(|v| !holds(port.format, **v)) {
            bail!(
                "holds {bad}, but input `{}` takes {}",
                port.name,
                meaning(port.format)
            );
        }
        let (batched, sizes) = match port.shape.split_first() {
            Some((first, rest)) if *first < 0 => (true, rest),
            _ => (false, &port.shape[..]),
        };
        let shape = values.shape().to_vec();
        // Rows may be meant for samples: no constant is read row by row.
        let rows = sizes.len() == 1 && shape.iter().filter(|n| **n != 1).count() > 1;
        let taken = shape::taken(&shape, sizes).filter(|_| !rows);
        let values = match &shape[..] {
            [] if sizes.iter().all(|n| *n == 1) => {
                values.to_shape(vec![1; sizes.len()])?.into_owned()
            }
            [] => bail!("is one number, but {}", wider(port, sizes, batched)),
            _ => {
                let taken = taken.ok_or_else(|| {
                    let each = if batched {
                        " for each sample (a batch axis of 1 in front is as good)"
                    } else {
                        ""
                    };
                    let turned = Misfit::at_port(&[&[1], &shape[..]].concat(), sizes).layout;
                    let turned =
                        turned.map_or(String::new(), |layout| format!(": {}", layout.described()));
                    let wanted = sizes_in_words(sizes);
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
        Ok(Fixed {
            name: port.name.clone(),
            values,
            batched,
        })
    }

    /// What the input is given for a batch of `rows` samples.
    pub fn fed(&self, rows: usize) -> ArrayD<f64> {
        if !self.batched {
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

/// Whether a format can hold a number.
fn holds(format: Format, v: f64) -> bool {
    match format {
        Format::F16 => f16::from_f64(v).is_finite(),
        Format::Bf16 | Format::F32 => (v as f32).is_finite(),
        Format::F64 => v.is_finite(),
        Format::I64 => v.fract() == 0.0 && v.abs() <= (1u64 << 53) as f64,
        Format::I32 => v.fract() == 0.0 && v.abs() <= f64::from(i32::MAX),
        Format::Bool => v == 0.0 || v == 1.0,
    }
}

fn meaning(format: Format) -> &'static str {
    match format {
        Format::F16 => "finite numbers of at most 65504 (float16)",
        Format::Bf16 | Format::F32 | Format::F64 => "finite numbers",
        Format::I64 => "whole numbers (int64)",
        Format::I32 => "whole numbers (int32)",
        Format::Bool => "true and false",
    }
}

/// What an input takes that is wider than one number, and the ways to give it.
fn wider(port: &Port, sizes: &[i64], batched: bool) -> String {
    let (shape, each) = (
        sizes_in_words(sizes),
        if batched { " for each sample" } else { "" },
    );
    let form = match sizes {
        [n] if *n > 0 => format!(
            "a list of {n} numbers (for a class in one-hot form, 1 at its place and 0 elsewhere)"
        ),
        [_] => "a list of numbers".to_owned(),
        _ => format!("the name of a .npy file of shape {shape}"),
    };
    let one = if batched { "[N] or [N, 1]" } else { "[1]" };
    format!(
        "input `{}` takes {shape}{each}; expected {form}, or a graph whose input takes one number, {one}",
        port.name
    )
}

fn sizes_in_words(sizes: &[i64]) -> String {
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

    fn port(format: Format, shape: &[i64]) -> Port {
        Port {
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
    fn a_constant_is_repeated_along_the_batch() {
        let label = Fixed::new(&port(Format::I64, &[-1]), array(&[]) + 3.0).expect("one label");
        assert_eq!(label.fed(4), ArrayD::from_elem(IxDyn(&[4]), 3.0));
        for shape in [&[2, 3][..], &[1, 2, 3]] {
            let text =
                Fixed::new(&port(Format::F32, &[-1, 2, 3]), array(shape)).expect("an embedding");
            assert_eq!(text.fed(5).shape(), [5, 2, 3]);
            assert_eq!(text.fed(5).index_axis(Axis(0), 4), array(&[2, 3]));
        }
        let sizes = Fixed::new(&port(Format::F32, &[-1, 6]), array(&[6])).expect("a list");
        assert_eq!(sizes.fed(2).shape(), [2, 6]);
    }

    #[test]
    fn flat_values_and_axes_of_one_fit() {
        for shape in [&[3, 8, 8][..], &[192], &[1, 3, 8, 8], &[3, 1, 8, 8]] {
            let fixed =
                Fixed::new(&port(Format::F32, &[-1, 3, 8, 8]), array(shape)).expect("it fits");
            assert_eq!(fixed.fed(2).shape(), [2, 3, 8, 8], "{shape:?}");
        }
    }

    #[test]
    fn an_input_without_a_batch_axis_is_given_the_values_alone() {
        assert_eq!(
            Fixed::new(&port(Format::F32, &[]), array(&[]))
                .expect("a scalar")
                .fed(4)
                .shape(),
            [0usize; 0]
        );
        assert_eq!(
            Fixed::new(&port(Format::F32, &[1, 7]), array(&[7]))
                .expect("a row")
                .fed(4)
                .shape(),
            [1, 7]
        );
        // A dynamic axis behind the batch takes what the file has.
        assert_eq!(
            Fixed::new(&port(Format::F32, &[-1, -1]), array(&[7]))
                .expect("tokens")
                .fed(2)
                .shape(),
            [2, 7]
        );
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let message = |port: Port, v: ArrayD<f64>| {
            format!("{}", Fixed::new(&port, v).expect_err("it does not fit"))
        };
        assert!(message(port(Format::I64, &[-1]), array(&[]) + 0.5).contains("whole numbers"));
        assert!(message(port(Format::I32, &[-1]), array(&[]) + 3e9).contains("int32"));
        assert!(message(port(Format::F16, &[-1]), array(&[]) + 1e6).contains("65504"));
        assert!(message(port(Format::Bool, &[]), array(&[]) + 2.0).contains("true and false"));
        assert!(message(port(Format::F32, &[-1]), array(&[]) / 0.0).contains("finite"));
        assert!(
            message(port(Format::F32, &[-1, 7]), array(&[6])).contains("takes [7] for each sample")
        );
        assert!(message(port(Format::F32, &[-1, 7]), array(&[2, 7])).contains("[2, 7]"));
        assert!(message(port(Format::F32, &[-1, -1]), array(&[])).contains("[any]"));
        assert!(message(port(Format::F32, &[-1, -1]), array(&[2, 7])).contains("[2, 7]"));
        assert!(
            message(port(Format::F32, &[-1, 3, 8, 8]), array(&[8, 8, 3])).contains("channels last")
        );
        assert!(message(port(Format::F32, &[-1, 3, 8, 8]), array(&[12, 16])).contains("[3, 8, 8]"));
    }
}
