//! Layers whose output positions each look at a neighbourhood of the input.

use super::{Inferred, Mismatch, expect_dims, product, spatial, sum};
use crate::graph::Shape;
use crate::limits;
use crate::window::{Axes, Window};

pub(super) fn conv(
    (channels, size): (usize, Axes<usize>),
    window: &Window,
    groups: usize,
    kernel: &[usize],
    bias: Option<&[usize]>,
) -> Inferred {
    let &[out, group_in, rows, cols] = kernel else {
        return Err(Mismatch::new("weights of 4 dims", format!("{kernel:?}")));
    };
    if window.kernel != Axes::new(rows, cols) {
        return Err(Mismatch::new(
            format!("weights with a {}x{} kernel", window.kernel.rows, window.kernel.cols),
            format!("{kernel:?}"),
        ));
    }
    if groups == 0 || out == 0 || !out.is_multiple_of(groups) {
        return Err(Mismatch::new(
            format!("output channels divisible by {groups} groups"),
            out.to_string(),
        ));
    }
    if group_in.checked_mul(groups) != Some(channels) {
        return Err(Mismatch::new(
            format!("weights for {channels} channels in {groups} groups"),
            format!("{kernel:?}"),
        ));
    }
    if let Some(bias) = bias {
        expect_dims("a bias", bias, &[out])?;
    }
    let reach = reaches(size, window)?;
    Ok(Shape::Spatial {
        channels: out,
        rows: reach.rows.positions_floor()?,
        cols: reach.cols.positions_floor()?,
    })
}

pub(super) fn conv_transpose(
    (channels, size): (usize, Axes<usize>),
    window: &Window,
    extra: Axes<usize>,
    groups: usize,
    kernel: &[usize],
    bias: Option<&[usize]>,
) -> Inferred {
    let &[inputs, group_out, rows, cols] = kernel else {
        return Err(Mismatch::new("weights of 4 dims", format!("{kernel:?}")));
    };
    if window.kernel != Axes::new(rows, cols) {
        return Err(Mismatch::new(
            format!("weights with a {}x{} kernel", window.kernel.rows, window.kernel.cols),
            format!("{kernel:?}"),
        ));
    }
    if groups == 0 || inputs != channels || !channels.is_multiple_of(groups) {
        return Err(Mismatch::new(
            format!("weights for {channels} channels in {groups} groups"),
            format!("{kernel:?}"),
        ));
    }
    let channels = product(&[group_out, groups])?;
    if let Some(bias) = bias {
        expect_dims("a bias", bias, &[channels])?;
    }
    let reach = reaches(size, window)?;
    Ok(Shape::Spatial {
        channels,
        rows: reach.rows.spread(extra.rows)?,
        cols: reach.cols.spread(extra.cols)?,
    })
}

pub(super) fn pool(
    channels: usize,
    size: Axes<usize>,
    window: &Window,
    declared: Option<&Shape>,
) -> Inferred {
    let reach = reaches(size, window)?;
    let pick = |reach: &Reach, declared: Option<usize>| -> Result<usize, Mismatch> {
        let floor = reach.positions_floor();
        let ceil = reach.positions_ceil();
        let positions = if declared.is_some() && ceil.as_ref().ok() == declared.as_ref() {
            ceil
        } else {
            floor
        }?;
        reach.check_touches(positions)?;
        Ok(positions)
    };
    let declared = declared.filter(|shape| shape.is_spatial());
    Ok(Shape::Spatial {
        channels,
        rows: pick(&reach.rows, declared.map(Shape::rows))?,
        cols: pick(&reach.cols, declared.map(Shape::cols))?,
    })
}

/// The shape of a pool that rounds up (ONNX `ceil_mode`).
pub(crate) fn pooled_up(input: &Shape, window: &Window) -> Inferred {
    let (channels, size) = spatial(input)?;
    let reach = reaches(size, window)?;
    let (rows, cols) = (reach.rows.positions_ceil()?, reach.cols.positions_ceil()?);
    Ok(Shape::Spatial { channels, rows, cols })
}

/// A window along one axis.
struct Reach {
    length: usize,
    before: usize,
    padded: usize,
    kernel: usize,
    dilation: usize,
    stride: usize,
    /// From the first tap to the last, both included.
    extent: usize,
}

fn reaches(size: Axes<usize>, window: &Window) -> Result<Axes<Reach>, Mismatch> {
    let Window { kernel, stride, dilation, pads } = window;
    Ok(Axes::new(
        Reach::new(size.rows, [pads.top, pads.bottom], kernel.rows, stride.rows, dilation.rows)?,
        Reach::new(size.cols, [pads.left, pads.right], kernel.cols, stride.cols, dilation.cols)?,
    ))
}

impl Reach {
    fn new(
        length: usize,
        pads: [usize; 2],
        kernel: usize,
        stride: usize,
        dilation: usize,
    ) -> Result<Self, Mismatch> {
        if [kernel, stride, dilation].iter().any(|n| *n == 0 || *n > limits::ELEMENTS_MAX) {
            return Err(Mismatch::new(
                "a kernel, stride and dilation of at least 1",
                format!("{kernel}, {stride} and {dilation}"),
            ));
        }
        let extent = sum(&[product(&[kernel - 1, dilation])?, 1])?;
        let padded = sum(&[length, pads[0], pads[1]])?;
        Ok(Self { length, before: pads[0], padded, kernel, dilation, stride, extent })
    }

    /// The positions that a transposed convolution spreads to, and some more.
    fn spread(&self, extra: usize) -> Result<usize, Mismatch> {
        let steps = product(&[self.length.saturating_sub(1), self.stride])?;
        let spread = sum(&[steps, self.extent, extra])?;
        let cut = self.padded - self.length;
        // Each side may cut off all of it, but not both together.
        spread.checked_sub(cut).filter(|length| *length > 0).ok_or_else(|| {
            Mismatch::new(
                format!("padding that leaves some of {spread} positions"),
                cut.to_string(),
            )
        })
    }

    fn positions_floor(&self) -> Result<usize, Mismatch> {
        let room = self.padded.checked_sub(self.extent).ok_or_else(|| {
            Mismatch::new(
                format!("a map of at least {} positions with its padding", self.extent),
                self.padded.to_string(),
            )
        })?;
        Ok(room / self.stride + 1)
    }

    /// ONNX `ceil_mode`: a last window that would begin in the padding after the map is dropped.
    fn positions_ceil(&self) -> Result<usize, Mismatch> {
        let floor = self.positions_floor()?;
        let room = self.padded - self.extent;
        let more =
            !room.is_multiple_of(self.stride) && floor * self.stride < self.length + self.before;
        Ok(floor + usize::from(more))
    }

    /// A pool over padding alone has no value, so that each window must hold one of the map's.
    fn check_touches(&self, positions: usize) -> Result<(), Mismatch> {
        let last = (positions - 1).saturating_mul(self.stride);
        let ends_inside = last < sum(&[self.length, self.before])?;
        let begins_inside = self.before == 0
            || (self.before <= (self.kernel - 1) * self.dilation && self.dilation <= self.length);
        if ends_inside && begins_inside {
            return Ok(());
        }
        Err(Mismatch::new(
            "a pool whose every window touches the map",
            format!("padding {} on a map of {}", self.padded - self.length, self.length),
        ))
    }
}

pub(super) fn resize(
    (channels, size): (usize, Axes<usize>),
    scale: Axes<f32>,
    declared: Option<&Shape>,
) -> Inferred {
    let axis = |length: usize, scale: f32, declared: Option<usize>| -> Result<usize, Mismatch> {
        if !scale.is_finite() || scale <= 0.0 {
            return Err(Mismatch::new("a positive scale", scale.to_string()));
        }
        // In f32, as ONNX Runtime has it; a cast saturates.
        let floor = (length as f32 * scale) as usize;
        let exact = length as f64 * f64::from(scale);
        match declared {
            None => Ok(floor),
            Some(declared) if (declared as f64 - exact).abs() < 1.0 => Ok(declared),
            Some(declared) => {
                Err(Mismatch::new(format!("about {exact} positions"), declared.to_string()))
            }
        }
    };
    let declared = declared.filter(|shape| shape.is_spatial());
    Ok(Shape::Spatial {
        channels,
        rows: axis(size.rows, scale.rows, declared.map(Shape::rows))?,
        cols: axis(size.cols, scale.cols, declared.map(Shape::cols))?,
    })
}
