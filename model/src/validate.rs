//! Checks a graph from anywhere: a file, a pass, a peer.

use crate::error::ModelError;
use crate::graph::{Layer, MapId, Model, Shape};
use crate::infer::{Mismatch, check_size, infer, infer_element};
use crate::limits;

impl Model {
    /// Checks every rule of the graph, so that whoever holds a valid model may index and multiply
    /// without further checks.
    ///
    /// Names and counts are within [`limits`]; every id exists; each map is an input or written by
    /// one layer, before it is read; the shape of each map is what the operator gives; weights have
    /// the dims that their layers need. Maps and weights that nothing uses are allowed.
    ///
    /// *Errors* with the first rule that is broken. It never panics, whatever the graph.
    pub fn validate(&self) -> Result<(), ModelError> {
        self.validate_counts()?;
        self.validate_sizes()?;
        let mut written = vec![false; self.maps.len()];
        for map in &self.inputs {
            self.write(&mut written, *map, "an input")?;
        }
        let mut multiply_adds = 0u128;
        for layer in &self.layers {
            self.validate_layer(layer, &mut written)?;
            multiply_adds += self.multiply_adds_of(layer);
        }
        let limit = limits::MULTIPLY_ADDS_MAX;
        if multiply_adds > u128::from(limit) {
            return Err(self.too_large("multiply-adds", limit, multiply_adds));
        }
        let mut seen = vec![false; self.maps.len()];
        for map in &self.outputs {
            if !written.get(map.index()).copied().unwrap_or(false) {
                return Err(self.invalid("an output", "a map that is written", map.0));
            }
            if std::mem::replace(&mut seen[map.index()], true) {
                return Err(self.invalid("an output", "each map once", map.0));
            }
        }
        Ok(())
    }

    fn validate_counts(&self) -> Result<(), ModelError> {
        let counts = [
            ("layers", self.layers.len(), limits::LAYERS_MAX),
            ("feature maps", self.maps.len(), limits::MAPS_MAX),
            ("weights", self.weights.len(), limits::WEIGHTS_MAX),
            ("inputs", self.inputs.len(), limits::ARITY_MAX),
            ("outputs", self.outputs.len(), limits::ARITY_MAX),
        ];
        for (what, count, limit) in counts {
            if count > limit {
                return Err(self.too_large(what, limit as u64, count as u128));
            }
        }
        if self.inputs.is_empty() || self.outputs.is_empty() {
            return Err(self.invalid("the graph", "an input and an output", "none"));
        }
        Ok(())
    }

    fn validate_sizes(&self) -> Result<(), ModelError> {
        let layers = self.layers.iter().map(|layer| &layer.name);
        let names = self.maps.iter().map(|map| &map.name).chain(layers).chain([&self.name]);
        for name in names {
            if name.len() > limits::NAME_BYTES_MAX {
                let limit = limits::NAME_BYTES_MAX as u64;
                return Err(self.too_large("bytes of a name", limit, name.len() as u128));
            }
        }
        for map in &self.maps {
            let dims = map.shape.dims();
            check_size(&dims).map_err(|mismatch| self.mismatch(&map.name, mismatch))?;
            if !map.element.is_of_maps() {
                let place = format!("map {}", map.name);
                return Err(self.invalid(&place, "elements of f32, u8 or i8", map.element));
            }
            if Shape::from_dims(&dims) != map.shape {
                let place = format!("map {}", map.name);
                return Err(self.invalid(&place, "a spatial shape", format!("{dims:?}")));
            }
        }
        for (index, weight) in self.weights.iter().enumerate() {
            let place = format!("weight {index}");
            check_size(&weight.dims).map_err(|mismatch| self.mismatch(&place, mismatch))?;
            if limits::elements(&weight.dims).is_none() {
                let most = format!("at most {} elements", limits::ELEMENTS_MAX);
                return Err(self.invalid(&place, &most, format!("{:?}", weight.dims)));
            }
        }
        Ok(())
    }

    fn validate_layer(&self, layer: &Layer, written: &mut [bool]) -> Result<(), ModelError> {
        let place = format!("layer {}", layer.name);
        if layer.inputs.len() > limits::ARITY_MAX {
            let limit = limits::ARITY_MAX as u64;
            return Err(self.too_large("inputs of a layer", limit, layer.inputs.len() as u128));
        }
        let mut shapes = Vec::with_capacity(layer.inputs.len());
        for map in &layer.inputs {
            if !written.get(map.index()).copied().unwrap_or(false) {
                return Err(self.invalid(&place, "inputs written by earlier layers", map.0));
            }
            shapes.push(self.shape(*map));
        }
        self.write(written, layer.output, &place)?;
        let declared = self.shape(layer.output);
        let shape = infer(&layer.op, &shapes, &self.weights, Some(declared))
            .map_err(|mismatch| self.mismatch(&place, mismatch))?;
        if shape != *declared {
            return Err(self.invalid(
                &place,
                &format!("an output of {:?}", shape.dims()),
                format!("{:?}", declared.dims()),
            ));
        }
        let elements: Vec<_> = layer.inputs.iter().map(|map| self.element(*map)).collect();
        let element = infer_element(&layer.op, &elements, &self.weights)
            .map_err(|mismatch| self.mismatch(&place, mismatch))?;
        let declared = self.element(layer.output);
        if element != declared {
            let expected = format!("an output of {element}");
            return Err(self.invalid(&place, &expected, declared));
        }
        Ok(())
    }

    /// Marks a map as written.
    fn write(&self, written: &mut [bool], map: MapId, place: &str) -> Result<(), ModelError> {
        match written.get_mut(map.index()) {
            Some(written) if !*written => {
                *written = true;
                Ok(())
            }
            Some(_) => Err(self.invalid(place, "each map written once", map.0)),
            None => {
                let expected = format!("a map below {}", self.maps.len());
                Err(self.invalid(place, &expected, map.0))
            }
        }
    }

    /// As [`Model::multiply_adds_per_position`] times the positions, in a type that cannot overflow.
    fn multiply_adds_of(&self, layer: &Layer) -> u128 {
        use crate::op::{Op, QProduct};
        use crate::window::{Axes, Window};
        let output = self.shape(layer.output);
        let per_position = match &layer.op {
            Op::Conv { weights, .. } | Op::QConv { product: QProduct { weights, .. }, .. } => {
                self.weight(*weights).elements() as u128
            }
            Op::ConvTranspose {
                window: Window { stride: Axes { rows, cols }, .. },
                weights,
                ..
            } => (self.weight(*weights).elements() as u128).div_ceil((rows * cols) as u128),
            Op::Linear { weights, .. } | Op::QLinear { product: QProduct { weights, .. } } => {
                let weight = self.weight(*weights);
                (output.elements() / weight.dims[0]) as u128 * weight.elements() as u128
            }
            Op::LinearRows { slices, .. } => self.weight(slices[0]).dims[1] as u128,
            Op::MatMul => {
                let inner = self.shape(layer.inputs[0]).dims().last().copied().unwrap_or(1);
                output.elements() as u128 * inner as u128
            }
            _ => 0,
        };
        per_position * (output.rows() * output.cols()) as u128
    }

    fn invalid(&self, place: &str, expected: &str, got: impl ToString) -> ModelError {
        ModelError::InvalidGraph {
            file: self.short_name(),
            place: place.into(),
            expected: expected.into(),
            got: got.to_string().into(),
        }
    }

    fn mismatch(&self, place: &str, mismatch: Mismatch) -> ModelError {
        self.invalid(place, &mismatch.expected, mismatch.got)
    }

    fn too_large(&self, what: &str, limit: u64, got: u128) -> ModelError {
        ModelError::TooLarge {
            file: self.short_name(),
            what: what.into(),
            limit,
            got: got.to_string().into(),
        }
    }

    /// A name that a hostile peer cannot flood a log with.
    fn short_name(&self) -> Box<str> {
        self.name.chars().take(80).collect::<String>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoadOptions;
    use crate::graph::LayerId;
    use crate::op::{Activation, Op};
    use crate::weights::WeightId;

    fn good() -> Model {
        let model = crate::open("zoo:unet@16x16", &LoadOptions::default()).unwrap();
        Model::clone(&model.graph)
    }

    /// Each change breaks one rule of a good graph.
    #[test]
    fn broken_rules_are_found() {
        type Change = fn(&mut Model);
        let changes: [(&str, Change); 16] = [
            ("no output", |m| m.outputs.clear()),
            ("no input", |m| m.inputs.clear()),
            ("an output that is not there", |m| m.outputs.push(MapId(u32::MAX))),
            ("an output twice", |m| m.outputs.push(m.outputs[0])),
            ("an input twice", |m| m.inputs.push(m.inputs[0])),
            ("an input that is not there", |m| m.inputs.push(MapId(u32::MAX))),
            ("a layer that reads what comes later", |m| m.layers.swap(0, 1)),
            ("a layer that reads nothing", |m| m.layers[3].inputs.clear()),
            ("a layer that reads what is not there", |m| m.layers[3].inputs[0] = MapId(u32::MAX)),
            ("a map written twice", |m| m.layers[3].output = m.layers[2].output),
            ("a map that is not there", |m| m.layers[3].output = MapId(u32::MAX)),
            ("an empty map", |m| m.maps[2].shape = Shape::General(vec![0])),
            ("a map beyond memory", |m| m.maps[2].shape = Shape::General(vec![usize::MAX; 3])),
            ("another shape", |m| {
                m.maps[2].shape = Shape::Spatial { channels: 1, rows: 2, cols: 3 };
            }),
            ("a weight that is not there", |m| m.weights.truncate(1)),
            ("weights of other dims", |m| m.weights[0].dims.reverse()),
        ];
        assert!(good().validate().is_ok());
        for (what, change) in changes {
            let mut model = good();
            change(&mut model);
            assert!(model.validate().is_err(), "{what}");
        }
    }

    #[test]
    fn a_shape_has_one_form() {
        let mut model = good();
        let id = model.inputs[0].index();
        model.maps[id].shape = Shape::General(model.maps[id].shape.dims());
        assert!(matches!(model.validate(), Err(ModelError::InvalidGraph { .. })));
    }

    #[test]
    fn counts_and_work_are_bounded() {
        let mut model = good();
        model.layers = vec![model.layer(LayerId(0)).clone(); limits::LAYERS_MAX + 1];
        assert!(matches!(model.validate(), Err(ModelError::TooLarge { .. })));
        let mut model = good();
        model.name = "x".repeat(limits::NAME_BYTES_MAX + 1);
        let error = model.validate().unwrap_err();
        assert!(matches!(error, ModelError::TooLarge { .. }));
        assert!(error.to_string().len() < 200);
    }

    #[test]
    fn a_weight_without_its_tensor_is_an_error() {
        let mut model = good();
        model.layers[0].op = Op::ChannelAffine {
            scale: WeightId(u32::MAX),
            shift: WeightId(u32::MAX),
            activation: Activation::None,
        };
        assert!(matches!(model.validate(), Err(ModelError::InvalidGraph { .. })));
    }
}
