//! The sliding windows of convolutions and pools.

use serde::{Deserialize, Serialize};

/// One value for each spatial axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Axes<T> {
    /// The value along the rows (height).
    pub rows: T,
    /// The value along the columns (width).
    pub cols: T,
}

impl<T> Axes<T> {
    /// Both values, rows first.
    pub const fn new(rows: T, cols: T) -> Self {
        Self { rows, cols }
    }
}

/// How many values outside the map lie on each side; never sent, never halo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pads {
    /// Above the first row.
    pub top: usize,
    /// Left of the first column.
    pub left: usize,
    /// Below the last row.
    pub bottom: usize,
    /// Right of the last column.
    pub right: usize,
}

/// The sliding window of a convolution or a pool.
///
/// Output row `r` reads the input rows `r * stride - top + k * dilation` for `k` in `0..kernel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Window {
    /// Taps along each axis.
    pub kernel: Axes<usize>,
    /// Step between neighbouring outputs.
    pub stride: Axes<usize>,
    /// Step between neighbouring taps.
    pub dilation: Axes<usize>,
    /// Padding around the map; `bottom` and `right` may exceed what the window reaches.
    pub pads: Pads,
}

impl Window {
    /// As high as wide, with as much padding on each side.
    pub const fn square(kernel: usize, stride: usize, pad: usize) -> Self {
        Self {
            kernel: Axes::new(kernel, kernel),
            stride: Axes::new(stride, stride),
            dilation: Axes::new(1, 1),
            pads: Pads { top: pad, left: pad, bottom: pad, right: pad },
        }
    }

    /// The same with a step between its taps.
    pub const fn dilated(self, dilation: usize) -> Self {
        Self { dilation: Axes::new(dilation, dilation), ..self }
    }
}
