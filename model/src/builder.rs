//! Builds a graph layer by layer, with every shape inferred on the way.

use crate::error::ModelError;
use crate::graph::{FeatureMap, Layer, Layout, LoadedModel, MapId, Model, Shape};
use crate::infer::{Mismatch, check_size, infer, infer_element};
use crate::limits;
use crate::op::Op;
use crate::passes;
use crate::passes::Origin;
use crate::quant::Element;
use crate::weights::{WeightHash, WeightId, WeightInfo, WeightStore};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A model that grows: what the ONNX reader, the zoo and tests build with.
///
/// ```
/// use model::{Activation, Op, Shape, builder::Builder};
/// let mut builder = Builder::new("tiny", "tiny");
/// let input = builder.input("image", Shape::Spatial { channels: 3, rows: 8, cols: 8 })?;
/// let output = builder.layer("relu", Op::Activate(Activation::Relu), &[input])?;
/// builder.output(output);
/// let model = builder.finish()?;
/// assert_eq!(model.graph.shape(model.graph.outputs[0]).channels(), 3);
/// # Ok::<(), model::ModelError>(())
/// ```
pub struct Builder {
    /// Named in errors.
    file: Box<str>,
    model: Model,
    store: WeightStore,
    weight_ids: BTreeMap<(WeightHash, Vec<usize>, Element), WeightId>,
    /// What float weights were quantised as, by the hash of the floats.
    origins: BTreeMap<WeightHash, Origin>,
}

impl Builder {
    /// An empty model. `file` is what errors name: the path where there is one.
    pub fn new(name: &str, file: &str) -> Self {
        Self {
            file: file.into(),
            model: Model {
                name: name.into(),
                maps: Vec::new(),
                layers: Vec::new(),
                inputs: Vec::new(),
                outputs: Vec::new(),
                weights: Vec::new(),
            },
            store: WeightStore::default(),
            weight_ids: BTreeMap::new(),
            origins: BTreeMap::new(),
        }
    }

    /// The graph as far as it is built.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The shape of a map.
    pub fn shape(&self, map: MapId) -> &Shape {
        self.model.shape(map)
    }

    /// Adds a map that the caller of the model provides.
    ///
    /// *Errors* when it is empty or too large.
    pub fn input(&mut self, name: &str, shape: Shape) -> Result<MapId, ModelError> {
        self.input_of(name, shape, Element::F32)
    }

    /// As [`Builder::input`], for any type of elements.
    ///
    /// *Errors* when it is empty or too large.
    pub fn input_of(
        &mut self,
        name: &str,
        shape: Shape,
        element: Element,
    ) -> Result<MapId, ModelError> {
        let checked = check_size(&shape.dims());
        checked.map_err(|mismatch| self.shape_error(name, "Input", mismatch))?;
        let map = self.push_map(name, Shape::from_dims(&shape.dims()), element)?;
        self.model.inputs.push(map);
        Ok(map)
    }

    /// Keeps a weight tensor; equal ones are kept once.
    ///
    /// *Panics* when the elements do not fill the dims: that is the caller's arithmetic.
    pub fn weight(
        &mut self,
        values: impl Into<Arc<Vec<f32>>>,
        dims: &[usize],
    ) -> Result<WeightId, ModelError> {
        let values = values.into();
        assert_eq!(limits::elements(dims), Some(values.len()), "a weight fills its dims {dims:?}");
        let hash = self.store.insert_shared(values);
        self.weight_id(hash, dims, Element::F32)
    }

    /// Keeps a tensor of integers, as little-endian bytes; equal ones are kept once.
    ///
    /// *Panics* when the bytes do not fill the dims: that is the caller's arithmetic.
    pub fn weight_bytes(
        &mut self,
        bytes: Vec<u8>,
        dims: &[usize],
        element: Element,
    ) -> Result<WeightId, ModelError> {
        let expected = limits::elements(dims).map(|count| count * element.bytes());
        assert_eq!(expected, Some(bytes.len()), "a weight fills its dims {dims:?}");
        let hash = self.store.insert_bytes(bytes);
        self.weight_id(hash, dims, element)
    }

    fn weight_id(
        &mut self,
        hash: WeightHash,
        dims: &[usize],
        element: Element,
    ) -> Result<WeightId, ModelError> {
        let key = (hash, dims.to_vec(), element);
        if let Some(id) = self.weight_ids.get(&key) {
            return Ok(*id);
        }
        self.check_count("weights", self.model.weights.len(), limits::WEIGHTS_MAX)?;
        let id = WeightId(self.model.weights.len() as u32);
        self.model.weights.push(WeightInfo { hash, dims: dims.to_vec(), element });
        self.weight_ids.insert(key, id);
        Ok(id)
    }

    /// Adds a layer whose output map has the layer's name.
    ///
    /// *Errors* when the operator does not fit its inputs and weights.
    pub fn layer(&mut self, name: &str, op: Op, inputs: &[MapId]) -> Result<MapId, ModelError> {
        self.layer_to(name, op, inputs, name, None)
    }

    /// Adds a layer with a name for its output map and, for operators that leave a choice, its
    /// shape (see [`infer`]).
    ///
    /// *Errors* when the operator does not fit its inputs and weights, or gives another shape.
    pub fn layer_to(
        &mut self,
        name: &str,
        op: Op,
        inputs: &[MapId],
        output: &str,
        declared: Option<Shape>,
    ) -> Result<MapId, ModelError> {
        self.check_count("layers", self.model.layers.len(), limits::LAYERS_MAX)?;
        let shapes: Vec<&Shape> = inputs.iter().map(|map| self.model.shape(*map)).collect();
        let shape = infer(&op, &shapes, &self.model.weights, declared.as_ref())
            .map_err(|mismatch| self.shape_error(name, op.name(), mismatch))?;
        if let Some(declared) = declared.filter(|declared| *declared != shape) {
            let got =
                Mismatch::new(format!("{:?}", declared.dims()), format!("{:?}", shape.dims()));
            return Err(self.shape_error(name, op.name(), got));
        }
        let elements: Vec<Element> = inputs.iter().map(|map| self.model.element(*map)).collect();
        let element = infer_element(&op, &elements, &self.model.weights)
            .map_err(|mismatch| self.shape_error(name, op.name(), mismatch))?;
        let output = self.push_map(output, shape, element)?;
        let inputs = inputs.to_vec();
        self.model.layers.push(Layer { name: name.into(), op, inputs, output });
        Ok(output)
    }

    /// Remembers that float weights stand for integers, for layers that become quantised ones.
    pub(crate) fn origin(&mut self, floats: &[f32], origin: Origin) {
        self.origins.insert(WeightHash::of(floats), origin);
    }

    /// Says how the caller gives or takes a map.
    pub(crate) fn layout(&mut self, map: MapId, layout: Layout) {
        self.model.maps[map.index()].layout = layout;
    }

    /// Adds a map to what the model gives back.
    pub fn output(&mut self, map: MapId) {
        self.model.outputs.push(map);
    }

    /// Folds, fuses and checks the model.
    ///
    /// *Errors* when the graph breaks a rule (see [`Model::validate`]).
    pub fn finish(mut self) -> Result<LoadedModel, ModelError> {
        passes::quantize(&mut self.model, &mut self.store, &self.origins);
        passes::optimize(&mut self.model, &mut self.store);
        self.finish_unfused()
    }

    /// Checks the model and leaves its layers as they were added.
    ///
    /// *Errors* when the graph breaks a rule (see [`Model::validate`]).
    pub fn finish_unfused(self) -> Result<LoadedModel, ModelError> {
        self.model.validate()?;
        Ok(LoadedModel { graph: Arc::new(self.model), weights: self.store })
    }

    fn push_map(
        &mut self,
        name: &str,
        shape: Shape,
        element: Element,
    ) -> Result<MapId, ModelError> {
        self.check_count("feature maps", self.model.maps.len(), limits::MAPS_MAX)?;
        let map = MapId(self.model.maps.len() as u32);
        self.model.maps.push(FeatureMap::of(name, shape, element));
        Ok(map)
    }

    fn check_count(&self, what: &str, count: usize, limit: usize) -> Result<(), ModelError> {
        if count < limit {
            return Ok(());
        }
        Err(ModelError::TooLarge {
            file: self.file.clone(),
            what: what.into(),
            limit: limit as u64,
            got: "more".into(),
        })
    }

    fn shape_error(&self, layer: &str, operator: &str, mismatch: Mismatch) -> ModelError {
        ModelError::UnsupportedShape {
            operator: operator.into(),
            layer: layer.into(),
            file: self.file.clone(),
            expected: mismatch.expected.into(),
            got: mismatch.got.into(),
            hint: None,
        }
    }
}
