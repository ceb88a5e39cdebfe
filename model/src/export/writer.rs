//! A file that grows: names, nodes, attributes and initializers.

use crate::graph::{LoadedModel, MapId};
use crate::weights::WeightId;
use rten_onnx::onnx::{AttributeProto, AttributeType, DataType, NodeProto, TensorProto};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// The nodes and initializers of a file that grows.
pub(super) struct Writer<'a> {
    pub(super) model: &'a LoadedModel,
    /// The name of each map in the file: its own, unless another map has it too.
    names: Vec<String>,
    taken: BTreeSet<String>,
    pub(super) nodes: Vec<NodeProto>,
    pub(super) initializers: Vec<TensorProto>,
    /// The name of each initializer, by what it holds.
    written: BTreeMap<String, String>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(model: &'a LoadedModel) -> Self {
        let mut writer = Self {
            model,
            names: Vec::new(),
            taken: BTreeSet::new(),
            nodes: Vec::new(),
            initializers: Vec::new(),
            written: BTreeMap::new(),
        };
        for map in &model.graph.maps {
            let name = writer.unique(&map.name);
            writer.names.push(name);
        }
        writer
    }

    pub(super) fn name(&self, map: MapId) -> &str {
        &self.names[map.index()]
    }

    pub(super) fn node(
        &mut self,
        operator: &str,
        name: &str,
        input: Vec<String>,
        output: String,
        attribute: Vec<AttributeProto>,
    ) {
        self.nodes.push(NodeProto {
            domain: None,
            name: Some(name.into()),
            input,
            output: vec![output],
            op_type: Some(operator.into()),
            attribute,
        });
    }

    /// A name that nothing in the file has yet.
    pub(super) fn unique(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut count = 1;
        while name.is_empty() || !self.taken.insert(name.clone()) {
            count += 1;
            name = format!("{wanted}_{count}");
        }
        name
    }

    pub(super) fn weights(
        &mut self,
        weights: WeightId,
        bias: Option<WeightId>,
    ) -> impl Iterator<Item = String> + use<> {
        let mut names = Vec::with_capacity(2);
        for id in [Some(weights), bias].into_iter().flatten() {
            let dims = self.model.graph.weight(id).dims.clone();
            names.push(self.weight_as(id, &dims));
        }
        names.into_iter()
    }

    /// A weight under dims of the same number of elements; written once.
    pub(super) fn weight_as(&mut self, id: WeightId, dims: &[usize]) -> String {
        let model = self.model;
        self.once(format!("weight:{}:{dims:?}", id.0), |writer, name| {
            writer.initializer(name, to_i64(dims), DataType::FLOAT, le_bytes(&model.elements(id)));
        })
    }

    /// Matrices on top of each other.
    pub(super) fn joined(&mut self, slices: &[WeightId]) -> String {
        let model = self.model;
        self.once(format!("weights:{slices:?}"), |writer, name| {
            let dims = |id: &WeightId| &model.graph.weight(*id).dims;
            let rows = slices.iter().map(|id| dims(id)[0]).sum();
            let bytes = slices.iter().flat_map(|&id| le_bytes(&model.elements(id))).collect();
            let dims = to_i64(&[rows, dims(&slices[0])[1]]);
            writer.initializer(name, dims, DataType::FLOAT, bytes);
        })
    }

    pub(super) fn transposed(&mut self, id: WeightId) -> String {
        let model = self.model;
        self.once(format!("weight:{}:transposed", id.0), |writer, name| {
            let values = &model.elements(id)[..];
            let dims = &model.graph.weight(id).dims;
            let (out, inner) = (dims[0], dims[1]);
            let turned: Vec<f32> =
                (0..inner).flat_map(|i| (0..out).map(move |o| values[o * inner + i])).collect();
            writer.initializer(name, to_i64(&[inner, out]), DataType::FLOAT, le_bytes(&turned));
        })
    }

    /// A list of floats, repeated.
    pub(super) fn floats(&mut self, what: &str, values: &[f32], times: usize) -> String {
        self.once(format!("{what}:{values:?}x{times}"), |writer, name| {
            let values = values.repeat(times);
            writer.initializer(name, to_i64(&[values.len()]), DataType::FLOAT, le_bytes(&values));
        })
    }

    /// A scalar.
    pub(super) fn number(&mut self, value: f32) -> String {
        self.once(format!("number:{:08x}", value.to_bits()), |writer, name| {
            writer.initializer(name, vec![], DataType::FLOAT, value.to_le_bytes().into());
        })
    }

    /// A list of integers.
    pub(super) fn list(&mut self, values: &[i64]) -> String {
        self.once(format!("list:{values:?}"), |writer, name| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            writer.initializer(name, to_i64(&[values.len()]), DataType::INT64, bytes);
        })
    }

    /// The name of an initializer, which is written the first time.
    pub(super) fn once(&mut self, key: String, write: impl FnOnce(&mut Self, String)) -> String {
        if let Some(name) = self.written.get(&key) {
            return name.clone();
        }
        let name = self.unique(&key);
        write(self, name.clone());
        self.written.insert(key, name.clone());
        name
    }

    pub(super) fn initializer(
        &mut self,
        name: String,
        dims: Vec<i64>,
        kind: DataType,
        bytes: Vec<u8>,
    ) {
        self.initializers.push(TensorProto {
            dims,
            data_type: Some(kind),
            raw_data: Some(RefCell::new(bytes)),
            name: Some(name),
            ..TensorProto::default()
        });
    }
}

pub(super) fn to_i64(dims: &[usize]) -> Vec<i64> {
    dims.iter().map(|dim| *dim as i64).collect()
}

pub(super) fn le_bytes(values: &[f32]) -> Vec<u8> {
    if cfg!(target_endian = "little") {
        bytemuck::cast_slice(values).to_vec()
    } else {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

pub(crate) fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind), ..AttributeProto::default() }
}

pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::INT) }
}

pub(crate) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::FLOAT) }
}

pub(crate) fn string(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.into()), ..attribute(name, AttributeType::STRING) }
}

pub(crate) fn ints(name: &str, values: impl IntoIterator<Item = i64>) -> AttributeProto {
    AttributeProto { ints: values.into_iter().collect(), ..attribute(name, AttributeType::INTS) }
}
