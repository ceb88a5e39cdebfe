//! Walks the nodes of a file in an order in which each comes after what it reads, folds those
//! that are constant and lowers the others to layers.

use super::fold::{Budget, fold};
use super::inputs::{channels_last_in, resolve};
use super::lower;
use super::node::Node;
use super::tensor::{self, Tensor};
use super::{LoadOptions, malformed};
use crate::builder::Builder;
use crate::error::ModelError;
use crate::graph::{Layout, LoadedModel, MapId, Shape};
use crate::limits;
use crate::op::{Activation, Op};
use rten_onnx::onnx::{GraphProto, ModelProto, NodeProto};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// The oldest operator set whose operators mean what is implemented here.
const OPSET_MIN: i64 = 7;

/// What a name in the file stands for.
#[derive(Clone)]
pub(super) enum Value {
    /// Known at import.
    Constant(Tensor),
    /// Computed for each frame.
    Map(MapId),
    /// A spatial map whose dims the file has as `[1, rows, cols, channels]`. In memory that is what
    /// every spatial map is, so the transposes between the two orders cost nothing.
    ChannelsLast(MapId),
}

/// An import under way.
pub(super) struct Importer<'a> {
    pub(super) builder: Builder,
    pub(super) file: &'a str,
    values: HashMap<&'a str, Value>,
    /// Constants that a layer reads as maps, by name and dims.
    constant_maps: HashMap<(String, Vec<usize>), MapId>,
    /// Maps whose channels were moved last for layers that ask for it.
    turned: HashMap<MapId, MapId>,
    budget: Budget,
    /// How many values layers have been given names for that the file does not have.
    helpers: usize,
}

/// Turns a parsed file into a model.
pub(super) fn import(
    mut proto: ModelProto,
    name: &str,
    file: &str,
    folder: Option<&Path>,
    options: &LoadOptions,
) -> Result<LoadedModel, ModelError> {
    let opset = opset(&proto, file)?;
    let Some(mut graph) = proto.graph.take() else {
        return Err(malformed(file, "no graph".into()));
    };
    let initializers = std::mem::take(&mut graph.initializer);
    let initializer_names: BTreeSet<String> =
        initializers.iter().filter_map(|initializer| initializer.name.clone()).collect();
    let order = order(&graph.node, &graph, &initializer_names, file)?;
    let mut importer = Importer {
        builder: Builder::new(name, file),
        file,
        values: HashMap::new(),
        constant_maps: HashMap::new(),
        turned: HashMap::new(),
        budget: Budget(limits::FOLDED_ELEMENTS_MAX),
        helpers: 0,
    };

    let used: BTreeSet<&str> = order
        .iter()
        .flat_map(|index| graph.node[*index].input.iter().map(String::as_str))
        .chain(graph.output.iter().filter_map(|output| output.name.as_deref()))
        .collect();
    let mut constants = HashMap::new();
    for mut initializer in initializers {
        let name = initializer.name.clone().unwrap_or_default();
        if let Some(name) = used.get(name.as_str()) {
            constants.insert(*name, tensor::read(&mut initializer, file, folder)?);
        }
    }
    let last = channels_last_in(&graph);
    for input in &graph.input {
        let name = input.name.as_deref().unwrap_or_default();
        // Old files list their initializers among the inputs.
        if !initializer_names.contains(name) && !name.is_empty() {
            let (shape, element, layout) = resolve(input, &last, file, options)?;
            let map = importer.builder.input_of(name, shape, element)?;
            importer.builder.layout(map, layout);
            importer.values.insert(
                name,
                match layout {
                    Layout::ChannelsSecond => Value::Map(map),
                    Layout::ChannelsLast => Value::ChannelsLast(map),
                },
            );
        }
    }
    importer.values.extend(constants.into_iter().map(|(k, v)| (k, Value::Constant(v))));

    for index in order {
        importer.node(&Node::new(&graph.node[index], file, opset), &used)?;
    }
    let mut outputs = BTreeSet::new();
    for output in &graph.output {
        let name = output.name.as_deref().unwrap_or_default();
        let map = importer.output(name, &mut outputs)?;
        importer.builder.output(map);
    }
    importer.builder.finish()
}

fn opset(proto: &ModelProto, file: &str) -> Result<i64, ModelError> {
    let own = |domain: &Option<String>| matches!(domain.as_deref(), None | Some("" | "ai.onnx"));
    let version =
        proto.opset_import.iter().find(|set| own(&set.domain)).and_then(|set| set.version);
    match version {
        Some(version) if version >= OPSET_MIN => Ok(version),
        version => Err(ModelError::UnsupportedOpset {
            file: file.into(),
            expected: format!("{OPSET_MIN} or later").into(),
            got: version.map_or("none".into(), |version| version.to_string()).into(),
        }),
    }
}

/// The nodes that the outputs need, each after what it reads, otherwise as in the file.
fn order(
    nodes: &[NodeProto],
    graph: &GraphProto,
    initializers: &BTreeSet<String>,
    file: &str,
) -> Result<Vec<usize>, ModelError> {
    let mut producers = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            if producers.insert(output.as_str(), index).is_some() || initializers.contains(output) {
                return Err(malformed(file, format!("\"{output}\" is written twice")));
            }
        }
    }
    let provided: BTreeSet<&str> = graph
        .input
        .iter()
        .filter_map(|input| input.name.as_deref())
        .chain(initializers.iter().map(String::as_str))
        .collect();
    let producer = |value: &str, layer: &str| match producers.get(value) {
        Some(index) => Ok(Some(*index)),
        None if provided.contains(value) => Ok(None),
        None => Err(ModelError::UnknownValue {
            file: file.into(),
            layer: layer.into(),
            value: value.into(),
        }),
    };

    let mut needed = vec![false; nodes.len()];
    let mut stack = Vec::new();
    for output in &graph.output {
        stack.extend(producer(output.name.as_deref().unwrap_or_default(), "output")?);
    }
    while let Some(index) = stack.pop() {
        if std::mem::replace(&mut needed[index], true) {
            continue;
        }
        let name = Node::new(&nodes[index], file, 0).name;
        for input in nodes[index].input.iter().filter(|input| !input.is_empty()) {
            stack.extend(producer(input, name)?);
        }
    }

    let mut waiting = vec![0usize; nodes.len()];
    let mut readers = vec![Vec::new(); nodes.len()];
    for index in (0..nodes.len()).filter(|index| needed[*index]) {
        for input in nodes[index].input.iter() {
            if let Some(producer) = producers.get(input.as_str()) {
                waiting[index] += 1;
                readers[*producer].push(index);
            }
        }
    }
    let mut ready: BTreeSet<usize> =
        (0..nodes.len()).filter(|index| needed[*index] && waiting[*index] == 0).collect();
    let mut order = Vec::new();
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for reader in &readers[index] {
            waiting[*reader] -= 1;
            if waiting[*reader] == 0 {
                ready.insert(*reader);
            }
        }
    }
    match (0..nodes.len()).find(|index| needed[*index] && waiting[*index] > 0) {
        None => Ok(order),
        Some(index) => Err(ModelError::Cycle {
            file: file.into(),
            layer: Node::new(&nodes[index], file, 0).name.into(),
        }),
    }
}

impl<'a> Importer<'a> {
    fn node(&mut self, node: &Node<'a>, used: &BTreeSet<&str>) -> Result<(), ModelError> {
        if !lower::is_known(node) {
            return Err(lower::unsupported_operator(node));
        }
        if node.proto.output.is_empty() {
            return node.unsupported("outputs", "1", "none");
        }
        let values = self.evaluate(node)?;
        for output in node.proto.output.iter().skip(values.len()) {
            if used.contains(output.as_str()) {
                return node.unsupported("outputs", "only the first to be used", output);
            }
        }
        for (output, value) in node.proto.output.iter().zip(values) {
            self.values.insert(output, value);
        }
        Ok(())
    }

    /// What the outputs of a node stand for; fewer where the later ones are not given.
    fn evaluate(&mut self, node: &Node<'a>) -> Result<Vec<Value>, ModelError> {
        if node.operator == "Shape" {
            return Ok(vec![Value::Constant(self.shape_of(node)?)]);
        }
        if node.operator == "Size" {
            let count = self.dims(node, 0)?.iter().product::<usize>();
            return Ok(vec![Value::Constant(Tensor::ints(vec![], vec![count as i64]))]);
        }
        let inputs: Option<Vec<Option<Tensor>>> = (0..node.proto.input.len())
            .map(|index| match node.input(index).map(|name| &self.values[name]) {
                None => Some(None),
                Some(Value::Constant(tensor)) => Some(Some(tensor.clone())),
                Some(Value::Map(_) | Value::ChannelsLast(_)) => None,
            })
            .collect();
        if let (Some(_), "DequantizeLinear") = (&inputs, node.operator) {
            return Ok(vec![Value::Constant(lower::dequantize_constant(self, node)?)]);
        }
        if let Some(inputs) = inputs {
            let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
            if let Some(tensors) = fold(node, &inputs, &mut self.budget)? {
                return Ok(tensors.into_iter().map(Value::Constant).collect());
            }
        }
        lower::lower(self, node)
    }

    /// The dims of a map are constants, since all shapes are concrete.
    fn shape_of(&self, node: &Node<'_>) -> Result<Tensor, ModelError> {
        node.allow(&["start", "end"])?;
        let dims = self.dims(node, 0)?;
        let rank = dims.len() as i64;
        let clamp = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank);
        let start = clamp(node.int("start", 0)) as usize;
        let end = clamp(node.int("end", rank)) as usize;
        let dims: Vec<i64> = dims[start..end.max(start)].iter().map(|dim| *dim as i64).collect();
        Ok(Tensor::ints(vec![dims.len()], dims))
    }

    /// What an input stands for; an error when it is left out.
    pub(super) fn value(&self, node: &Node<'_>, index: usize) -> Result<&Value, ModelError> {
        match node.input(index) {
            Some(name) => Ok(&self.values[name]),
            None => node.unsupported("inputs", format!("input {index}"), "none"),
        }
    }

    /// A constant input; none when it is left out.
    pub(super) fn constant(
        &self,
        node: &Node<'_>,
        index: usize,
        what: &str,
    ) -> Result<Option<&Tensor>, ModelError> {
        match node.input(index).map(|name| &self.values[name]) {
            None => Ok(None),
            Some(Value::Constant(tensor)) => Ok(Some(tensor)),
            Some(_) => node.unsupported(what, "a constant", "a feature map"),
        }
    }

    /// The dims of an input.
    pub(super) fn dims(&self, node: &Node<'_>, index: usize) -> Result<Vec<usize>, ModelError> {
        Ok(match self.value(node, index)? {
            Value::Constant(tensor) => tensor.dims.clone(),
            Value::Map(map) => self.builder.shape(*map).dims(),
            Value::ChannelsLast(map) => {
                let shape = self.builder.shape(*map);
                vec![1, shape.rows(), shape.cols(), shape.channels()]
            }
        })
    }

    /// Counts elements that a small file could ask for many of.
    pub(super) fn spend(&mut self, node: &Node<'_>, count: usize) -> Result<(), ModelError> {
        self.budget.spend(node, &[count]).map(drop)
    }

    /// Lets an input stand for something else; returns what it stood for.
    pub(super) fn replace(&mut self, name: &str, value: Value) -> Option<Value> {
        self.values.get_mut(name).map(|slot| std::mem::replace(slot, value))
    }

    /// An input as a map; a constant becomes a layer.
    pub(super) fn map(&mut self, node: &Node<'_>, index: usize) -> Result<MapId, ModelError> {
        match self.value(node, index)?.clone() {
            Value::Map(map) => Ok(map),
            Value::ChannelsLast(map) => self.channels_last(node, map),
            Value::Constant(tensor) => {
                let name = node.input(index).unwrap_or_default();
                self.constant_map(node, name, &tensor)
            }
        }
    }

    /// The layer that really moves the channels of a map last, once for each map.
    fn channels_last(&mut self, node: &Node<'_>, map: MapId) -> Result<MapId, ModelError> {
        if let Some(turned) = self.turned.get(&map) {
            return Ok(*turned);
        }
        let op = Op::Transpose { perm: vec![0, 2, 3, 1] };
        let turned = self.emit_helper(node, op, &[map], None)?;
        self.turned.insert(map, turned);
        Ok(turned)
    }

    /// A layer that gives a constant, once for each name and dims.
    pub(super) fn constant_map(
        &mut self,
        node: &Node<'_>,
        name: &str,
        tensor: &Tensor,
    ) -> Result<MapId, ModelError> {
        let key = (name.to_owned(), tensor.dims.clone());
        if let Some(map) = self.constant_maps.get(&key) {
            return Ok(*map);
        }
        let value = match (tensor.as_floats(), tensor.as_bytes()) {
            _ if tensor.len() == 0 => None,
            (Some(values), _) => Some(self.builder.weight(values.clone(), &tensor.dims)?),
            (_, Some((element, bytes))) => {
                Some(self.builder.weight_bytes(bytes.to_vec(), &tensor.dims, element)?)
            }
            _ => None,
        };
        let Some(value) = value else {
            return node.unsupported(name, "an input of f32, u8 or i8", "integers or nothing");
        };
        let map = self.builder.layer(name, Op::Constant { value }, &[])?;
        self.constant_maps.insert(key, map);
        Ok(map)
    }

    /// Adds the layer of a node, whose output has the name that the file gives it.
    pub(super) fn emit(
        &mut self,
        node: &Node<'_>,
        op: Op,
        inputs: &[MapId],
        declared: Option<Shape>,
    ) -> Result<MapId, ModelError> {
        self.emit_output(node, 0, op, inputs, declared)
    }

    /// As [`Importer::emit`], for one of several outputs.
    pub(super) fn emit_output(
        &mut self,
        node: &Node<'_>,
        index: usize,
        op: Op,
        inputs: &[MapId],
        declared: Option<Shape>,
    ) -> Result<MapId, ModelError> {
        let output = node.proto.output.get(index).map_or(node.name, String::as_str);
        let name = if index == 0 { node.name } else { output };
        let added = self.builder.layer_to(name, op, inputs, output, declared);
        added.map_err(|error| with_batch_hint(error, node))
    }

    /// Adds a layer that the file does not have, beside the one of a node.
    pub(super) fn emit_helper(
        &mut self,
        node: &Node<'_>,
        op: Op,
        inputs: &[MapId],
        declared: Option<Shape>,
    ) -> Result<MapId, ModelError> {
        self.helpers += 1;
        let name = format!("{}/{}_{}", node.name, op.name().to_lowercase(), self.helpers);
        let added = self.builder.layer_to(&name, op, inputs, &name, declared);
        added.map_err(|error| with_batch_hint(error, node))
    }

    /// A map under other dims.
    pub(super) fn reshape(
        &mut self,
        node: &Node<'_>,
        map: MapId,
        dims: &[usize],
    ) -> Result<MapId, ModelError> {
        let shape = Shape::from_dims(dims);
        if *self.builder.shape(map) == shape {
            return Ok(map);
        }
        self.emit_helper(node, Op::Reshape, &[map], Some(shape))
    }

    /// A map for an output of the model: its own, and not one that the caller provides.
    fn output(&mut self, name: &str, taken: &mut BTreeSet<MapId>) -> Result<MapId, ModelError> {
        let map = match self.values.get(name) {
            Some(Value::Map(map)) => *map,
            Some(Value::ChannelsLast(map)) => {
                // A map of its own, so that the caller may have it another way than others do.
                let op = Op::Activate(Activation::None);
                let (layer, map) = (format!("{name}/channels_last"), *map);
                let map = self.builder.layer_to(&layer, op, &[map], name, None)?;
                self.builder.layout(map, Layout::ChannelsLast);
                map
            }
            Some(Value::Constant(tensor)) => {
                let Some(values) = tensor.as_floats().filter(|v| !v.is_empty()).cloned() else {
                    return Err(ModelError::TensorData {
                        file: self.file.into(),
                        tensor: name.into(),
                        expected: "an output of f32".into(),
                        got: "integers or nothing".into(),
                    });
                };
                let value = self.builder.weight(values, &tensor.dims)?;
                self.builder.layer(name, Op::Constant { value }, &[])?
            }
            None => {
                return Err(ModelError::UnknownValue {
                    file: self.file.into(),
                    layer: "output".into(),
                    value: name.into(),
                });
            }
        };
        if taken.insert(map) && !self.builder.model().inputs.contains(&map) {
            return Ok(map);
        }
        let copy = self.builder.layer(name, Op::Activate(Activation::None), &[map])?;
        taken.insert(copy);
        Ok(copy)
    }
}

/// Names the node's own operator, and says what to do about a batch.
fn with_batch_hint(error: ModelError, node: &Node<'_>) -> ModelError {
    match error {
        ModelError::UnsupportedShape { layer, file, expected, got, .. } => {
            let batch = got.strip_prefix('[').and_then(|got| got.split(',').next());
            let batch = batch.and_then(|batch| batch.parse::<usize>().ok());
            let hint = batch.filter(|batch| *batch > 1 && expected.contains("[1, channels")).map(
                |batch| {
                    format!("batch {batch}: export with batch 1 and run the frames as a stream")
                        .into()
                },
            );
            let operator = node.operator.into();
            ModelError::UnsupportedShape { operator, layer, file, expected, got, hint }
        }
        other => other,
    }
}
