//! The suites that cross crates. One problem, five runners, all bit-equal: that is the project's
//! proof.
//!
//! | file | idea |
//! |---|---|
//! | `problem.rs` | a random graph as a value with a proptest strategy |
//! | `draw.rs` | how the graph of a seed is drawn, layer by layer |
//! | `runners.rs` | naive reference, whole, tiled in process |
//! | `simulated.rs` | tiled in the simulated cluster, with faults drawn from a seed |
//! | `loopback.rs` | tiled over real libp2p |

mod draw;
pub mod loopback;
pub mod problem;
pub mod runners;
pub mod simulated;

pub use problem::{Built, GraphProblem};

/// The output maps of one frame, in the order of the model's outputs.
pub type Maps = kernels::Pieces;

/// Where two answers differ; none when all their bits are equal.
pub fn difference(expected: &Maps, got: &Maps) -> Option<String> {
    if expected.len() != got.len() {
        return Some(format!("{} maps, expected {}", got.len(), expected.len()));
    }
    for ((map, a), (other, b)) in expected.iter().zip(got) {
        if (map, a.region, a.channels) != (other, b.region, b.channels) {
            return Some(format!("{other:?} {b:?}, expected {map:?} {a:?}"));
        }
        if a.element() != b.element() {
            return Some(format!("{map:?}: {}, expected {}", b.element(), a.element()));
        }
        let (a, b) = (a.cast(model::Element::F32), b.cast(model::Element::F32));
        let values = a.values().iter().zip(b.values()).enumerate();
        for (i, (a, b)) in values {
            // The bits of a NaN are not promised.
            if a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan()) {
                return Some(format!("{map:?}: value {i} is {b:e}, expected {a:e}"));
            }
        }
    }
    None
}

/// *Panics* when two answers differ in any bit.
pub fn assert_equal(expected: &Maps, got: &Maps, who: &str) {
    if let Some(difference) = difference(expected, got) {
        panic!("{who}: {difference}");
    }
}
