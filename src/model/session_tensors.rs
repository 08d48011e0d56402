//! The tensors that go into a session of ONNX Runtime and come out of it.

use half::{bf16, f16};
use ndarray::{ArrayD, ArrayViewD};
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{
    IoBinding, OutputSelector, RunOptions, Session as OrtSession, SessionInputValue, SessionOutputs,
};
use ort::value::{DynTensor, Tensor, TensorElementType, TensorRef, ValueType};

/// The number formats of inputs and outputs that are supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorFormat {
    /// float16.
    F16,
    /// bfloat16.
    Bf16,
    /// float32.
    F32,
    /// float64.
    F64,
    /// int32.
    I32,
    /// int64.
    I64,
    /// bool.
    Bool,
}

/// Calls a session once and returns its outputs in f64, or the error message of ONNX Runtime. Outputs
/// that are not wanted are not copied from the provider's memory.
pub(super) fn run_session(
    session: &mut OrtSession,
    fed: &[(&str, &InputTensor)],
    wanted: &[&str],
) -> Result<Vec<ArrayD<f64>>, String> {
    check_outputs(session, wanted)?;
    let mut run = || -> ort::Result<Vec<ArrayD<f64>>> {
        let mut inputs: Vec<(&str, SessionInputValue)> = Vec::with_capacity(fed.len());
        for (name, fed) in fed {
            inputs.push((name, fed.borrowed()?));
        }
        let selected = wanted
            .iter()
            .fold(OutputSelector::no_default(), |selected, name| {
                selected.with(*name)
            });
        let options = RunOptions::new()?.with_outputs(selected);
        read_outputs(&session.run_with_options(inputs, &options)?, wanted)
    };
    run().map_err(|e| e.message().to_owned())
}

/// Checks that a session has all outputs in `wanted`.
fn check_outputs(session: &OrtSession, wanted: &[&str]) -> Result<(), String> {
    let has = |name: &str| session.outputs().iter().any(|port| port.name() == name);
    match wanted.iter().find(|name| !has(name)) {
        Some(name) => Err(format!("the graph has no output `{name}`")),
        None => Ok(()),
    }
}

/// Returns the wanted outputs of a call in f64.
fn read_outputs(outputs: &SessionOutputs, wanted: &[&str]) -> ort::Result<Vec<ArrayD<f64>>> {
    let read = |name: &&str| {
        let value = &outputs[*name];
        match tensor_element_type(value.dtype()) {
            Some(TensorElementType::Float64) => {
                value.try_extract_array::<f64>().map(|a| a.to_owned())
            }
            Some(TensorElementType::Float16) => value
                .try_extract_array::<f16>()
                .map(|a| a.mapv(f16::to_f64)),
            Some(TensorElementType::Bfloat16) => value
                .try_extract_array::<bf16>()
                .map(|a| a.mapv(bf16::to_f64)),
            Some(TensorElementType::Int32) => {
                value.try_extract_array::<i32>().map(|a| a.mapv(f64::from))
            }
            Some(TensorElementType::Int64) => value
                .try_extract_array::<i64>()
                .map(|a| a.mapv(|v| v as f64)),
            Some(TensorElementType::Bool) => value
                .try_extract_array::<bool>()
                .map(|a| a.mapv(|v| f64::from(u8::from(v)))),
            _ => value.try_extract_array::<f32>().map(|a| a.mapv(f64::from)),
        }
    };
    wanted.iter().map(read).collect()
}

/// Inputs of one session that many calls take, in the session's formats.
pub struct RepeatedInputs {
    tensors: Vec<(String, InputTensor)>,
    /// The inputs as they are bound to the session, after the first call that binds them. They are
    /// then in the memory of the provider.
    binding: Option<IoBinding>,
}

impl RepeatedInputs {
    /// Returns inputs by their names.
    pub fn new(tensors: Vec<(String, InputTensor)>) -> RepeatedInputs {
        RepeatedInputs {
            tensors,
            binding: None,
        }
    }

    /// Returns the inputs with their names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &InputTensor)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Calls the session like [`run_session`], with these inputs and those in `fed`. The first call
    /// copies these inputs to the provider's memory; they stay there for the later ones.
    pub(super) fn run_bound(
        &mut self,
        session: &mut OrtSession,
        fed: &[(&str, &InputTensor)],
        wanted: &[&str],
    ) -> Result<Vec<ArrayD<f64>>, String> {
        check_outputs(session, wanted)?;
        self.run_binding(session, fed, wanted)
            .map_err(|e| e.message().to_owned())
    }

    fn run_binding(
        &mut self,
        session: &mut OrtSession,
        fed: &[(&str, &InputTensor)],
        wanted: &[&str],
    ) -> ort::Result<Vec<ArrayD<f64>>> {
        let binding = match &mut self.binding {
            Some(binding) => binding,
            empty => {
                let mut binding = session.create_binding()?;
                for (name, tensor) in &self.tensors {
                    binding.bind_input(name, &tensor.to_owned_tensor()?)?;
                }
                empty.insert(binding)
            }
        };
        for (name, tensor) in fed {
            binding.bind_input(*name, &tensor.to_owned_tensor()?)?;
        }
        binding.clear_outputs();
        let host = MemoryInfo::new(
            AllocationDevice::CPU,
            0,
            AllocatorType::Device,
            MemoryType::CPUOutput,
        )?;
        for name in wanted {
            binding.bind_output_to_device(*name, &host)?;
        }
        read_outputs(&session.run_binding(binding)?, wanted)
    }
}

/// An input array in the network's number format.
pub enum InputTensor {
    /// float16.
    F16(ArrayD<f16>),
    /// bfloat16.
    Bf16(ArrayD<bf16>),
    /// float32.
    F32(ArrayD<f32>),
    /// float64.
    F64(ArrayD<f64>),
    /// int32.
    I32(ArrayD<i32>),
    /// int64.
    I64(ArrayD<i64>),
    /// bool.
    Bool(ArrayD<bool>),
}

impl InputTensor {
    /// Rounds numbers to a format. The result is in row-major order, as ONNX Runtime takes it.
    pub fn new(values: &ArrayViewD<f64>, format: TensorFormat) -> InputTensor {
        let values = values.as_standard_layout();
        match format {
            TensorFormat::F16 => InputTensor::F16(values.mapv(f16::from_f64)),
            TensorFormat::Bf16 => InputTensor::Bf16(values.mapv(bf16::from_f64)),
            TensorFormat::F32 => InputTensor::F32(values.mapv(|v| v as f32)),
            TensorFormat::F64 => InputTensor::F64(values.into_owned()),
            TensorFormat::I32 => InputTensor::I32(values.mapv(|v| v.round() as i32)),
            TensorFormat::I64 => InputTensor::I64(values.mapv(|v| v.round() as i64)),
            TensorFormat::Bool => InputTensor::Bool(values.mapv(|v| v != 0.0)),
        }
    }

    /// Returns a value of the binding that borrows the array.
    fn borrowed(&self) -> ort::Result<SessionInputValue<'_>> {
        Ok(match self {
            InputTensor::F16(a) => TensorRef::from_array_view(a.view())?.into(),
            InputTensor::Bf16(a) => TensorRef::from_array_view(a.view())?.into(),
            InputTensor::F32(a) => TensorRef::from_array_view(a.view())?.into(),
            InputTensor::F64(a) => TensorRef::from_array_view(a.view())?.into(),
            InputTensor::I32(a) => TensorRef::from_array_view(a.view())?.into(),
            InputTensor::I64(a) => TensorRef::from_array_view(a.view())?.into(),
            InputTensor::Bool(a) => TensorRef::from_array_view(a.view())?.into(),
        })
    }

    /// Returns a tensor of the binding with a copy of the array.
    fn to_owned_tensor(&self) -> ort::Result<DynTensor> {
        Ok(match self {
            InputTensor::F16(a) => Tensor::from_array(a.clone())?.upcast(),
            InputTensor::Bf16(a) => Tensor::from_array(a.clone())?.upcast(),
            InputTensor::F32(a) => Tensor::from_array(a.clone())?.upcast(),
            InputTensor::F64(a) => Tensor::from_array(a.clone())?.upcast(),
            InputTensor::I32(a) => Tensor::from_array(a.clone())?.upcast(),
            InputTensor::I64(a) => Tensor::from_array(a.clone())?.upcast(),
            InputTensor::Bool(a) => Tensor::from_array(a.clone())?.upcast(),
        })
    }
}

/// Returns the element type of a tensor; `None` if the value is not a tensor.
fn tensor_element_type(value: &ValueType) -> Option<TensorElementType> {
    match value {
        ValueType::Tensor { ty, .. } => Some(*ty),
        _ => None,
    }
}
