//! Constants: what initializers and folded layers hold.

use crate::error::ModelError;
use crate::limits;
use crate::quant::Element;
use rten_onnx::onnx::{DataLocation, DataType, TensorProto};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path};
use std::sync::Arc;

/// The elements of a constant.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    /// Weights and other numbers.
    Float(Arc<Vec<f32>>),
    /// Shapes, indices and booleans.
    Int(Arc<Vec<i64>>),
    /// Quantised weights and zero points: u8 or i8, as bytes.
    Bytes(Element, Arc<Vec<u8>>),
}

/// A tensor whose elements are known at import; an axis may have length 0.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    pub(super) dims: Vec<usize>,
    pub(super) data: Data,
}

impl Tensor {
    pub(super) fn floats(dims: Vec<usize>, values: Vec<f32>) -> Self {
        debug_assert_eq!(limits::elements(&dims), Some(values.len()));
        Self { dims, data: Data::Float(Arc::new(values)) }
    }

    pub(super) fn ints(dims: Vec<usize>, values: Vec<i64>) -> Self {
        debug_assert_eq!(limits::elements(&dims), Some(values.len()));
        Self { dims, data: Data::Int(Arc::new(values)) }
    }

    pub(super) fn len(&self) -> usize {
        match &self.data {
            Data::Float(values) => values.len(),
            Data::Int(values) => values.len(),
            Data::Bytes(_, values) => values.len(),
        }
    }

    pub(super) fn as_floats(&self) -> Option<&Arc<Vec<f32>>> {
        match &self.data {
            Data::Float(values) => Some(values),
            Data::Int(_) | Data::Bytes(..) => None,
        }
    }

    pub(super) fn as_ints(&self) -> Option<&[i64]> {
        match &self.data {
            Data::Int(values) => Some(values),
            Data::Float(_) | Data::Bytes(..) => None,
        }
    }

    pub(super) fn as_bytes(&self) -> Option<(Element, &[u8])> {
        match &self.data {
            Data::Bytes(element, values) => Some((*element, values)),
            _ => None,
        }
    }

    /// The elements as integers of any width; none for floats.
    pub(super) fn to_ints(&self) -> Option<Vec<i64>> {
        match &self.data {
            Data::Float(_) => None,
            Data::Int(values) => Some(values.to_vec()),
            Data::Bytes(Element::I8, values) => {
                Some(values.iter().map(|value| i64::from(*value as i8)).collect())
            }
            Data::Bytes(_, values) => Some(values.iter().map(|value| i64::from(*value)).collect()),
        }
    }

    /// The same elements under other dims.
    pub(super) fn with_dims(&self, dims: Vec<usize>) -> Self {
        debug_assert_eq!(limits::elements(&dims), Some(self.len()));
        Self { dims, data: self.data.clone() }
    }
}

/// Reads a tensor and takes its bytes out of the message, so that they are not held twice.
///
/// `folder` is where external data may lie; none when the model came from memory.
pub(super) fn read(
    proto: &mut TensorProto,
    file: &str,
    folder: Option<&Path>,
) -> Result<Tensor, ModelError> {
    let reader = TensorReader { file, name: proto.name.clone().unwrap_or_default() };
    reader.read(proto, folder)
}

fn byte_element(kind: DataType) -> Element {
    if kind == DataType::INT8 { Element::I8 } else { Element::U8 }
}

/// A half float, which f32 holds exactly.
fn widened(kind: DataType, bits: u16) -> f32 {
    match kind {
        DataType::BFLOAT16 => half::bf16::from_bits(bits).to_f32(),
        _ => half::f16::from_bits(bits).to_f32(),
    }
}

struct TensorReader<'a> {
    file: &'a str,
    name: String,
}

impl TensorReader<'_> {
    fn read(&self, proto: &mut TensorProto, folder: Option<&Path>) -> Result<Tensor, ModelError> {
        let dims: Option<Vec<usize>> =
            proto.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect();
        let sized = dims.and_then(|dims| limits::elements(&dims).map(|count| (dims, count)));
        let Some((dims, count)) = sized else {
            let most = limits::ELEMENTS_MAX;
            return self.fail(format!("at most {most} elements"), format!("{:?}", proto.dims));
        };
        let kind = proto.data_type.unwrap_or(DataType::FLOAT);
        let width = match kind {
            DataType::FLOAT | DataType::INT32 | DataType::UINT32 => 4,
            DataType::DOUBLE | DataType::INT64 => 8,
            DataType::FLOAT16 | DataType::BFLOAT16 => 2,
            DataType::BOOL | DataType::INT8 | DataType::UINT8 => 1,
            _ => {
                let expected = "f32, f16, bf16, f64, i64, i32, i8, u8 or bool elements";
                return self.fail(expected, kind.to_string());
            }
        };
        if proto.data_location == Some(DataLocation::EXTERNAL) {
            let bytes = self.external(proto, folder, count * width)?;
            return self.decode(dims, count, kind, width, &bytes);
        }
        if let Some(bytes) = proto.raw_data.take() {
            return self.decode(dims, count, kind, width, &bytes.into_inner());
        }
        let data = match kind {
            DataType::FLOAT => Data::Float(Arc::new(std::mem::take(&mut proto.float_data))),
            DataType::DOUBLE => {
                Data::Float(Arc::new(proto.double_data.iter().map(|value| *value as f32).collect()))
            }
            DataType::INT64 => Data::Int(Arc::new(std::mem::take(&mut proto.int64_data))),
            DataType::INT8 | DataType::UINT8 => {
                // Narrow integers lie in fields of 32 bits.
                let bytes = proto.int32_data.iter().map(|v| *v as u8).collect();
                Data::Bytes(byte_element(kind), Arc::new(bytes))
            }
            DataType::FLOAT16 | DataType::BFLOAT16 => {
                // Half floats lie in fields of 32 bits.
                let halves = proto.int32_data.iter().map(|v| widened(kind, *v as u16));
                Data::Float(Arc::new(halves.collect()))
            }
            DataType::UINT32 => {
                return self.fail("raw elements", "u32 elements in another field");
            }
            _ => Data::Int(Arc::new(proto.int32_data.iter().map(|v| i64::from(*v)).collect())),
        };
        let tensor = Tensor { dims, data };
        if tensor.len() != count {
            return self.fail(format!("{count} elements"), format!("{} elements", tensor.len()));
        }
        Ok(tensor)
    }

    fn decode(
        &self,
        dims: Vec<usize>,
        count: usize,
        kind: DataType,
        width: usize,
        bytes: &[u8],
    ) -> Result<Tensor, ModelError> {
        if bytes.len() != count * width {
            return self.fail(
                format!("{} bytes for {dims:?} of {kind}", count * width),
                format!("{} bytes", bytes.len()),
            );
        }
        let words = bytes.as_chunks::<4>().0.iter();
        let doubles = bytes.as_chunks::<8>().0.iter();
        let halves = bytes.as_chunks::<2>().0.iter();
        let data = match kind {
            DataType::FLOAT => {
                Data::Float(Arc::new(words.map(|b| f32::from_le_bytes(*b)).collect()))
            }
            DataType::DOUBLE => {
                Data::Float(Arc::new(doubles.map(|b| f64::from_le_bytes(*b) as f32).collect()))
            }
            DataType::FLOAT16 | DataType::BFLOAT16 => Data::Float(Arc::new(
                halves.map(|b| widened(kind, u16::from_le_bytes(*b))).collect(),
            )),
            DataType::INT64 => {
                Data::Int(Arc::new(doubles.map(|b| i64::from_le_bytes(*b)).collect()))
            }
            DataType::INT32 => {
                Data::Int(Arc::new(words.map(|b| i32::from_le_bytes(*b).into()).collect()))
            }
            DataType::UINT32 => {
                Data::Int(Arc::new(words.map(|b| u32::from_le_bytes(*b).into()).collect()))
            }
            DataType::INT8 | DataType::UINT8 => {
                Data::Bytes(byte_element(kind), Arc::new(bytes.to_vec()))
            }
            _ => Data::Int(Arc::new(bytes.iter().map(|b| i64::from(*b)).collect())),
        };
        Ok(Tensor { dims, data })
    }

    /// Reads the bytes of a tensor from a file beside the model.
    fn external(
        &self,
        proto: &TensorProto,
        folder: Option<&Path>,
        expected: usize,
    ) -> Result<Vec<u8>, ModelError> {
        let field = |key: &str| {
            let entry = proto.external_data.iter().find(|e| e.key.as_deref() == Some(key));
            entry.and_then(|entry| entry.value.as_deref())
        };
        let number = |key: &str| -> Result<Option<u64>, ModelError> {
            match field(key).map(str::parse::<u64>) {
                None => Ok(None),
                Some(Ok(number)) => Ok(Some(number)),
                Some(Err(_)) => self.fail(format!("a number as external {key}"), "other text"),
            }
        };
        let Some(folder) = folder else {
            return self.fail("elements inside the model", "external data of a model in memory");
        };
        let location = field("location").unwrap_or_default();
        let inside = !location.is_empty()
            && Path::new(location).components().all(|c| matches!(c, Component::Normal(_)));
        if !inside {
            return self.fail("external data in the model's folder", format!("{location:?}"));
        }
        let failed = |source| ModelError::Read { file: location.into(), source };
        // Links could still lead out of the folder.
        let path = folder.join(location).canonicalize().map_err(failed)?;
        if !path.starts_with(folder.canonicalize().map_err(failed)?) {
            return self.fail("external data in the model's folder", format!("{location:?}"));
        }
        let offset = number("offset")?.unwrap_or(0);
        let mut data = File::open(path).map_err(failed)?;
        let metadata = data.metadata().map_err(failed)?;
        let left = metadata.len().saturating_sub(offset);
        let length = number("length")?.unwrap_or(expected as u64);
        if !metadata.is_file() || length != expected as u64 || left < length {
            return self.fail(
                format!("{expected} bytes at {offset} of {location}"),
                format!("{} bytes", length.min(left)),
            );
        }
        let mut bytes = vec![0; expected];
        data.seek(SeekFrom::Start(offset)).map_err(failed)?;
        data.read_exact(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    fn fail<T>(
        &self,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Result<T, ModelError> {
        Err(ModelError::TensorData {
            file: self.file.into(),
            tensor: self.name.as_str().into(),
            expected: expected.into().into(),
            got: got.into().into(),
        })
    }
}
