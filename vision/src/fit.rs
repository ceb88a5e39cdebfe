//! Where a picture lies in the input of a model, and the way back from there.
//!
//! ```text
//!   letterbox                    crop
//!   ┌────────────┐ input         ┌╌╌╌┬──────┬╌╌╌┐ picture, scaled
//!   │░░░░░░░░░░░░│               ╎   │      │   ╎
//!   │  picture   │               ╎   │ input│   ╎
//!   │░░░░░░░░░░░░│               ╎   │      │   ╎
//!   └────────────┘               └╌╌╌┴──────┴╌╌╌┘
//! ```

use crate::convention::FitMode;
use crate::detection::Bounds;
use crate::error::VisionError;
use serde::Serialize;
use std::fmt;

/// Rows and columns of a picture or an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Size {
    /// Height.
    pub rows: usize,
    /// Width.
    pub cols: usize,
}

impl Size {
    /// Rows first.
    pub const fn new(rows: usize, cols: usize) -> Self {
        Self { rows, cols }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.rows, self.cols)
    }
}

/// How one picture lies in the input: it is scaled to `scaled`, and its first row and column lie at
/// `top` and `left` of the input, which are negative where it is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// The picture as it came.
    pub picture: Size,
    /// The input.
    pub input: Size,
    /// The picture after scaling.
    pub scaled: Size,
    /// Rows of the input above it.
    pub top: isize,
    /// Columns of the input left of it.
    pub left: isize,
    /// Input rows and columns for each of the picture's.
    scale: (f64, f64),
}

impl Fit {
    /// Works out the place of a picture in an input.
    ///
    /// Letterbox bars are halved as Ultralytics does it: the odd row and column go to the end.
    ///
    /// *Errors*: another size where nothing is to be scaled, a size without rows or columns.
    pub fn new(mode: FitMode, picture: Size, input: Size) -> Result<Self, VisionError> {
        let empty = |size: Size| size.rows == 0 || size.cols == 0;
        if empty(picture) || empty(input) || (mode == FitMode::None && picture != input) {
            let (expected, got) = (input.to_string(), picture.to_string());
            return Err(VisionError::Size { expected, got });
        }
        let each = (ratio(input.rows, picture.rows), ratio(input.cols, picture.cols));
        let wanted = match mode {
            FitMode::Stretch | FitMode::None => each,
            FitMode::Letterbox => (each.0.min(each.1), each.0.min(each.1)),
            FitMode::Crop => (each.0.max(each.1), each.0.max(each.1)),
        };
        let scaled = match mode {
            FitMode::Stretch | FitMode::None => input,
            _ => {
                let along = |len: usize, scale: f64| {
                    ((len as f64 * scale).round_ties_even() as usize).max(1)
                };
                Size::new(along(picture.rows, wanted.0), along(picture.cols, wanted.1))
            }
        };
        // What rounding to whole pixels made of it: the way back must not be another.
        let scale = (ratio(scaled.rows, picture.rows), ratio(scaled.cols, picture.cols));
        let before = |input: usize, scaled: usize| {
            let room = input as isize - scaled as isize;
            if room >= 0 { room / 2 } else { -(-room / 2) }
        };
        let (top, left) = (before(input.rows, scaled.rows), before(input.cols, scaled.cols));
        Ok(Self { picture, input, scaled, top, left, scale })
    }

    /// Whether the picture goes in as it is.
    pub fn is_plain(&self) -> bool {
        self.picture == self.input
    }

    /// A point of the input as a point of the picture, not clamped.
    pub fn to_picture(&self, x: f64, y: f64) -> (f64, f64) {
        ((x - self.left as f64) / self.scale.1, (y - self.top as f64) / self.scale.0)
    }

    /// A box in the input as one in the picture, cut off at the picture's border.
    pub fn bounds_to_picture(&self, bounds: Bounds) -> Bounds {
        let (x0, y0) = self.to_picture(bounds.x0.into(), bounds.y0.into());
        let (x1, y1) = self.to_picture(bounds.x1.into(), bounds.y1.into());
        let x = |v: f64| v.clamp(0.0, self.picture.cols as f64) as f32;
        let y = |v: f64| v.clamp(0.0, self.picture.rows as f64) as f32;
        Bounds { x0: x(x0), y0: y(y0), x1: x(x1), y1: y(y1) }
    }

    /// The pixel of a map over the whole input that a pixel of the picture lies in, by centres.
    /// What the input does not show takes the nearest that it shows.
    pub fn map_pixel(&self, row: usize, col: usize, map: Size) -> (usize, usize) {
        let along = |at: usize, scale: f64, before: isize, input: usize, map: usize| {
            let position = (at as f64 + 0.5) * scale + before as f64;
            let index = position * map as f64 / input as f64;
            (index.max(0.0) as usize).min(map - 1)
        };
        (
            along(row, self.scale.0, self.top, self.input.rows, map.rows),
            along(col, self.scale.1, self.left, self.input.cols, map.cols),
        )
    }
}

fn ratio(to: usize, from: usize) -> f64 {
    to as f64 / from as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_wide_picture_between_bars() {
        let fit = Fit::new(FitMode::Letterbox, Size::new(480, 640), Size::new(640, 640)).unwrap();
        assert_eq!((fit.scaled, fit.top, fit.left), (Size::new(480, 640), 80, 0));
        let bounds = Bounds { x0: 10.0, y0: 90.0, x1: 20.0, y1: 900.0 };
        let back = fit.bounds_to_picture(bounds);
        assert_eq!(back, Bounds { x0: 10.0, y0: 10.0, x1: 20.0, y1: 480.0 });
    }

    #[test]
    fn the_odd_row_goes_to_the_end() {
        let fit = Fit::new(FitMode::Letterbox, Size::new(3, 10), Size::new(10, 10)).unwrap();
        assert_eq!((fit.top, fit.scaled.rows), (3, 3));
    }

    #[test]
    fn nothing_is_scaled_unless_asked() {
        let (a, b) = (Size::new(4, 5), Size::new(5, 4));
        assert!(Fit::new(FitMode::None, a, a).unwrap().is_plain());
        let error = Fit::new(FitMode::None, a, b).unwrap_err().to_string();
        assert_eq!(error, "the input takes 5 x 4, the picture has 4 x 5");
        assert!(Fit::new(FitMode::Stretch, Size::new(0, 3), b).is_err());
    }

    fn sizes() -> impl Strategy<Value = Size> {
        (1usize..300, 1usize..300).prop_map(|(rows, cols)| Size::new(rows, cols))
    }

    proptest! {
        /// A letterboxed picture lies inside its input, a cropped one covers it, and both keep the
        /// proportions to within a pixel.
        #[test]
        fn inside_or_covering(picture in sizes(), input in sizes()) {
            let inside = Fit::new(FitMode::Letterbox, picture, input).unwrap();
            prop_assert!(inside.scaled.rows <= input.rows && inside.scaled.cols <= input.cols);
            prop_assert!(inside.scaled.rows == input.rows || inside.scaled.cols == input.cols);
            let covering = Fit::new(FitMode::Crop, picture, input).unwrap();
            prop_assert!(covering.scaled.rows >= input.rows && covering.scaled.cols >= input.cols);
            prop_assert!(covering.top <= 0 && covering.left <= 0);
            prop_assert!(covering.top + covering.scaled.rows as isize >= input.rows as isize);
        }

        /// The naive way back: a point of the picture, scaled and moved, is found again.
        #[test]
        fn there_and_back(picture in sizes(), input in sizes(), part in (0.0f64..1.0, 0.0f64..1.0)) {
            for mode in [FitMode::Stretch, FitMode::Letterbox, FitMode::Crop] {
                let fit = Fit::new(mode, picture, input).unwrap();
                let (x, y) = (part.0 * picture.cols as f64, part.1 * picture.rows as f64);
                let sx = fit.scaled.cols as f64 / picture.cols as f64;
                let sy = fit.scaled.rows as f64 / picture.rows as f64;
                let back = fit.to_picture(x * sx + fit.left as f64, y * sy + fit.top as f64);
                prop_assert!((back.0 - x).abs() < 1e-6 && (back.1 - y).abs() < 1e-6);
            }
        }
    }
}
