//! Small models with made-up weights, and the comparison that every suite makes.
#![allow(dead_code, unreachable_pub)]

use kernels::{Engine, Isa, PackedModel, Piece, reference};
use model::{
    Element, FeatureMap, Layer, LayerId, LoadedModel, MapId, Model, Op, Shape, WeightId,
    WeightInfo, WeightStore,
};
use std::sync::{Arc, LazyLock};
use tiling::{
    Algorithm, Grid, Locality, Numerics, Order, Region, Slot, Stage, StageGeometry, TileGeometry,
    locality, receptive_field,
};

/// A small generator of values: the suites need spread, not quality.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Within -1..1, with some zeros of both signs and some tiny numbers.
    pub fn value(&mut self) -> f32 {
        match self.below(40) {
            0 => 0.0,
            1 => -0.0,
            2 => -1e-30,
            _ => (self.next() % (1 << 24)) as f32 / (1 << 23) as f32 - 1.0,
        }
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

pub fn spatial(channels: usize, rows: usize, cols: usize) -> Shape {
    Shape::Spatial { channels, rows, cols }
}

/// A model under construction.
pub struct Network {
    pub graph: Model,
    pub weights: WeightStore,
    pub random: Random,
}

impl Network {
    pub fn new(seed: u64) -> Self {
        let graph = Model {
            name: "test".into(),
            maps: vec![],
            layers: vec![],
            inputs: vec![],
            outputs: vec![],
            weights: vec![],
        };
        Self { graph, weights: WeightStore::default(), random: Random::new(seed) }
    }

    pub fn map(&mut self, shape: Shape, element: Element) -> MapId {
        let id = MapId(self.graph.maps.len() as u32);
        self.graph.maps.push(FeatureMap::of(format!("map{}", id.0), shape, element));
        id
    }

    pub fn input(&mut self, shape: Shape) -> MapId {
        self.input_of(shape, Element::F32)
    }

    pub fn input_of(&mut self, shape: Shape, element: Element) -> MapId {
        let id = self.map(shape, element);
        self.graph.inputs.push(id);
        id
    }

    pub fn weight(&mut self, dims: &[usize]) -> WeightId {
        let values = self.random.values(dims.iter().product());
        self.floats(values, dims)
    }

    pub fn floats(&mut self, values: Vec<f32>, dims: &[usize]) -> WeightId {
        let hash = self.weights.insert(values);
        self.graph.weights.push(WeightInfo::new(hash, dims));
        WeightId(self.graph.weights.len() as u32 - 1)
    }

    /// Any integers; biases of a few thousand.
    pub fn integers(&mut self, dims: &[usize], element: Element) -> WeightId {
        let count: usize = dims.iter().product();
        let bytes = match element {
            Element::I32 => (0..count)
                .flat_map(|_| (self.random.below(8001) as i32 - 4000).to_le_bytes())
                .collect(),
            _ => (0..count).map(|_| self.random.next() as u8).collect(),
        };
        let hash = self.weights.insert_bytes(bytes);
        self.graph.weights.push(WeightInfo { hash, dims: dims.to_vec(), element });
        WeightId(self.graph.weights.len() as u32 - 1)
    }

    pub fn layer(&mut self, op: Op, inputs: &[MapId], shape: Shape) -> MapId {
        self.layer_of(op, inputs, shape, Element::F32)
    }

    pub fn layer_of(&mut self, op: Op, inputs: &[MapId], shape: Shape, element: Element) -> MapId {
        let output = self.map(shape, element);
        let name = format!("layer{}", self.graph.layers.len());
        self.graph.layers.push(Layer { name, op, inputs: inputs.to_vec(), output });
        output
    }

    pub fn shape(&self, map: MapId) -> (usize, usize, usize) {
        let shape = self.graph.shape(map);
        (shape.channels(), shape.rows(), shape.cols())
    }

    pub fn finish(mut self, outputs: &[MapId]) -> Problem {
        self.graph.outputs = outputs.to_vec();
        let graph = Arc::new(self.graph);
        let inputs = graph.inputs.iter().map(|&map| {
            let shape = graph.shape(map);
            let (region, channels) = (Region::whole(shape), shape.channels());
            let piece = match graph.element(map) {
                Element::F32 => {
                    let values = self.random.values(shape.elements());
                    Piece::from_values(region, channels, values)
                }
                element => {
                    let bytes: Vec<u8> =
                        (0..shape.elements()).map(|_| self.random.next() as u8).collect();
                    Piece::from_bytes(region, channels, element, &bytes)
                }
            };
            (map, Arc::new(piece.unwrap()))
        });
        let inputs = inputs.collect();
        let packed = PackedModel::new(graph.clone());
        let model = LoadedModel { graph, weights: self.weights };
        packed.pack_all(&model, Numerics::Exact).unwrap();
        packed.pack_all(&model, Numerics::Fast).unwrap();
        Problem { model, packed, inputs, random: self.random }
    }
}

/// Every available instruction set, alone and with 3 threads, in every order of work.
pub static ENGINES: LazyLock<Vec<Engine>> = LazyLock::new(|| {
    let engine = |isa, threads, order| Engine::with_isa(threads, isa).unwrap().with_order(order);
    let of = |isa| {
        let some_rows = Order::DepthFirst { threads: 3, cache_bytes: 256 };
        let alone = [Order::LayerByLayer, Order::RowByRow].map(|order| engine(isa, 1, order));
        alone.into_iter().chain([engine(isa, 3, some_rows)])
    };
    Isa::available().into_iter().flat_map(of).collect()
});

/// A model with inputs, ready to run.
pub struct Problem {
    pub model: LoadedModel,
    pub packed: PackedModel,
    pub inputs: Vec<(MapId, Arc<Piece>)>,
    pub random: Random,
}

impl Problem {
    pub fn reference(&self) -> Vec<(MapId, Piece)> {
        reference::run(&self.model, Numerics::Exact, &self.inputs).unwrap()
    }

    /// Whole on every engine, then some tiles of the single layer's output.
    pub fn run_one_layer(mut self) {
        let expected = self.reference();
        for engine in ENGINES.iter() {
            let got = engine.run_whole(&self.packed, Numerics::Exact, &self.inputs).unwrap();
            assert_same(&expected, &got, engine);
        }
        let graph = self.model.graph.clone();
        if locality(&graph, LayerId(0)) == Locality::Whole {
            return;
        }
        let (map, whole) = &expected[0];
        for _ in 0..2 {
            let mut span = |span: tiling::Span| {
                let a = span.start + self.random.below(span.len());
                let b = a + 1 + self.random.below(span.end - a);
                tiling::Span::new(a, b)
            };
            let region = Region::new(span(whole.region.rows), span(whole.region.cols));
            let layer = &graph.layers[0];
            let output = graph.shape(layer.output);
            let fields = layer.inputs.iter().map(|&input| {
                (input, receptive_field(&layer.op, region, output, graph.shape(input)))
            });
            let inputs: Vec<_> = fields.filter(|(_, region)| !region.is_empty()).collect();
            // Exactly what the tile needs and no more, so that a read outside would panic.
            let pieces: Vec<(MapId, Arc<Piece>)> = inputs
                .iter()
                .map(|&(map, region)| (map, Arc::new(self.given(map).crop(region))))
                .collect();
            let tile = TileGeometry { inputs, layers: vec![region], outputs: vec![(*map, region)] };
            let stage = one_tile(tile);
            let expected = [(*map, whole.crop(region))];
            for engine in ENGINES.iter() {
                let got = engine.run_tile(&self.packed, &stage, 0, &pieces).unwrap();
                assert_same(&expected, &got, engine);
            }
        }
    }

    pub fn given(&self, map: MapId) -> &Piece {
        &self.inputs.iter().find(|(of, _)| *of == map).unwrap().1
    }

    /// All layers as one stage over a grid, stitched; none where the grid does not fit. Tiles
    /// that run together give the bits of those that run alone.
    pub fn tiled(
        &self,
        engine: &Engine,
        numerics: Numerics,
        grid: Grid,
    ) -> Option<Vec<(MapId, Piece)>> {
        let graph = &self.model.graph;
        let placement = vec![Slot(0); grid.tiles()];
        let stage = Stage::cut(0..graph.layers.len(), grid, placement);
        let geometry = StageGeometry::new(graph, numerics, 0, &stage).ok()?;
        self.packed.pack_stage(&geometry, &self.model.weights).unwrap();
        let mut outputs: Vec<(MapId, Piece)> = Vec::new();
        for &map in &graph.outputs {
            let shape = graph.shape(map);
            let element = graph.element(map);
            outputs.push((map, Piece::zeroed_of(Region::whole(shape), shape.channels(), element)));
        }
        let inputs = |tile: &TileGeometry| -> Vec<(MapId, Arc<Piece>)> {
            let piece = |&(map, region)| (map, Arc::new(self.given(map).crop(region)));
            tile.inputs.iter().map(piece).collect()
        };
        let inputs: Vec<_> = geometry.tiles.iter().map(inputs).collect();
        let all: Vec<_> = inputs.iter().map(|inputs| &inputs[..]).enumerate().collect();
        let together = engine.run_tiles(&self.packed, &geometry, &all).unwrap();
        assert_eq!(together.len(), inputs.len());
        for ((i, inputs), together) in inputs.iter().enumerate().zip(together) {
            let alone = engine.run_tile(&self.packed, &geometry, i, inputs).unwrap();
            assert_same(&alone, &together, engine);
            for (map, piece) in alone {
                let output = outputs.iter_mut().find(|(of, _)| *of == map).unwrap();
                output.1.paste(&piece);
            }
        }
        Some(outputs)
    }
}

/// A stage of one tile, its layers computed directly.
pub fn one_tile(tile: TileGeometry) -> StageGeometry {
    StageGeometry {
        first_layer: LayerId(0),
        input_maps: vec![],
        output_maps: vec![],
        algorithms: vec![Algorithm::Direct; tile.layers.len()],
        tiles: vec![tile],
    }
}

/// Equal bits, map by map.
pub fn assert_same(expected: &[(MapId, Piece)], got: &[(MapId, Piece)], engine: &Engine) {
    let who = format!("{} with {} threads, {:?}", engine.isa(), engine.threads(), engine.order());
    assert_eq!(expected.len(), got.len(), "{who}");
    for ((map, expected), (got_map, got)) in expected.iter().zip(got) {
        assert_eq!((map, expected.region), (got_map, got.region), "{who}");
        assert_eq!(expected.element(), got.element(), "{who}");
        let (expected, got) = (expected.cast(Element::F32), got.cast(Element::F32));
        let values = expected.values().iter().zip(got.values()).enumerate();
        for (i, (a, b)) in values {
            let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            assert!(same, "{who}: map {map:?}: value {i} is {b:e}, expected {a:e}");
        }
    }
}
