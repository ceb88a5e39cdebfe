//! The class of each pixel, and the masks of single boxes.

use crate::Output;
use crate::detection::Detection;
use crate::error::{VisionError, describe};
use crate::fit::{Fit, Size};
use ndarray::{ArrayView2, ArrayView3, Axis, Ix3};

/// A class for each position of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassMap {
    /// Its size.
    pub size: Size,
    /// Row by row.
    pub classes: Vec<u16>,
}

impl ClassMap {
    /// The class at a position.
    pub fn at(&self, row: usize, col: usize) -> usize {
        self.classes[row * self.size.cols + col].into()
    }

    /// The classes of the pixels of a picture.
    pub fn of_picture(&self, fit: &Fit) -> Self {
        let size = fit.picture;
        let rows = (0..size.rows).flat_map(|row| (0..size.cols).map(move |col| (row, col)));
        let at = |(row, col)| {
            let (row, col) = fit.map_pixel(row, col, self.size);
            self.classes[row * self.size.cols + col]
        };
        Self { size, classes: rows.map(at).collect() }
    }

    /// How many positions each class has, for those that have any.
    pub fn counts(&self) -> Vec<(usize, usize)> {
        let most = self.classes.iter().copied().max().map_or(0, usize::from);
        let mut counts = vec![0; most + 1];
        self.classes.iter().for_each(|class| counts[usize::from(*class)] += 1);
        counts.into_iter().enumerate().filter(|(_, count)| *count > 0).collect()
    }
}

/// The most likely class at each position, over a map of the input's size.
///
/// One channel is a single class against the background, 1 where a value is above `threshold`. A
/// coarser map is enlarged before the classes are compared, so that borders are not stairs.
///
/// *Errors*: no output is a map.
pub fn classes(
    outputs: &[Output<'_>],
    input: Size,
    threshold: f32,
) -> Result<ClassMap, VisionError> {
    let missing = || VisionError::Outputs {
        what: "map of classes",
        expected: "a map [1, classes, rows, cols]".into(),
        got: describe(outputs),
    };
    let scores = outputs.iter().find_map(map).or_else(|| outputs.iter().find_map(plane));
    let scores = scores.ok_or_else(missing)?;
    let (channels, rows, cols) = scores.dim();
    if channels > usize::from(u16::MAX) || scores.is_empty() || input.rows * input.cols == 0 {
        return Err(missing());
    }
    // A map that is finer than the input is kept as it is.
    let coarse = rows < input.rows && cols < input.cols;
    let size = if coarse { input } else { Size::new(rows, cols) };
    let mut best = vec![(threshold, 0u16); size.rows * size.cols];
    if channels > 1 {
        best.fill((f32::NEG_INFINITY, 0));
    }
    let first = u16::from(channels == 1);
    for (class, plane) in scores.outer_iter().enumerate() {
        let class = class as u16 + first;
        for row in 0..size.rows {
            for col in 0..size.cols {
                let value = match coarse {
                    true => {
                        sample(&plane, centre(row, size.rows, rows), centre(col, size.cols, cols))
                    }
                    false => plane[[row, col]],
                };
                let best = &mut best[row * size.cols + col];
                if value > best.0 {
                    *best = (value, class);
                }
            }
        }
    }
    Ok(ClassMap { size, classes: best.into_iter().map(|(_, class)| class).collect() })
}

/// The most likely class of each position of a map whose values come position by position, the
/// channels of each together: as [`classes`] without enlarging, for maps that come in parts.
pub fn classes_of_rows(values: &[f32], channels: usize, threshold: f32) -> Vec<u16> {
    let class = |pixel: &[f32]| match pixel {
        [one] => u16::from(*one > threshold),
        many => {
            let larger = |b: (usize, f32), v: (usize, f32)| if v.1 > b.1 { v } else { b };
            many.iter().copied().enumerate().fold((0, f32::NEG_INFINITY), larger).0 as u16
        }
    };
    values.chunks_exact(channels.max(1)).map(class).collect()
}

/// The mask of a box, over the pixels of the picture inside the box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Rows and columns.
    pub size: Size,
    /// Row by row, whether the pixel belongs to it.
    pub inside: Vec<bool>,
}

impl Mask {
    /// Pixels that belong to it.
    pub fn pixels(&self) -> usize {
        self.inside.iter().filter(|inside| **inside).count()
    }
}

/// The masks of boxes in the input: what each takes of the prototypes, cut off at its box.
/// *Source*: Bolya et al., YOLACT (2019). One for each box, empty where the box has none.
///
/// *Errors*: boxes with masks, and no output with as many prototypes.
pub fn masks(
    found: &[Detection],
    outputs: &[Output<'_>],
    fit: &Fit,
) -> Result<Vec<Mask>, VisionError> {
    let wanted = found.first().map_or(0, |d| d.mask.len());
    let prototypes = outputs.iter().find_map(map).filter(|p| p.len_of(Axis(0)) == wanted);
    let Some(prototypes) = prototypes else {
        return Err(VisionError::Outputs {
            what: "prototypes of masks",
            expected: format!("a map [1, {wanted}, rows, cols]"),
            got: describe(outputs),
        });
    };
    Ok(found.iter().map(|found| mask(found, &prototypes, fit)).collect())
}

fn mask(found: &Detection, prototypes: &ArrayView3<'_, f32>, fit: &Fit) -> Mask {
    let (_, rows, cols) = prototypes.dim();
    let mut coarse = ndarray::Array2::<f32>::zeros((rows, cols));
    for (share, plane) in found.mask.iter().zip(prototypes.outer_iter()) {
        coarse.scaled_add(*share, &plane);
    }
    let coarse = coarse.view();
    let bounds = fit.bounds_to_picture(found.bounds);
    let (top, left) = (bounds.y0.floor() as usize, bounds.x0.floor() as usize);
    let end_row = (bounds.y1.ceil() as usize).min(fit.picture.rows);
    let end_col = (bounds.x1.ceil() as usize).min(fit.picture.cols);
    let size = Size::new(end_row.saturating_sub(top), end_col.saturating_sub(left));
    let input = fit.input;
    let mut inside = Vec::with_capacity(size.rows * size.cols);
    // Points of the picture as points of the input: the inverse of `Fit::to_picture`.
    let (x_zero, y_zero) = fit.to_picture(0.0, 0.0);
    let (x_one, y_one) = fit.to_picture(1.0, 1.0);
    for row in top..end_row {
        let y = (row as f64 + 0.5 - y_zero) / (y_one - y_zero);
        let y = (y * rows as f64 / input.rows as f64 - 0.5) as f32;
        for col in left..end_col {
            let x = (col as f64 + 0.5 - x_zero) / (x_one - x_zero);
            let x = (x * cols as f64 / input.cols as f64 - 0.5) as f32;
            inside.push(sample(&coarse, y, x) > 0.0);
        }
    }
    Mask { top, left, size, inside }
}

/// An output `[1, channels, rows, cols]` as a map.
fn map<'a>(output: &'a Output<'_>) -> Option<ArrayView3<'a, f32>> {
    match output.values.shape() {
        [1, _, _, _] => {
            let map = output.values.view().index_axis_move(Axis(0), 0);
            map.into_dimensionality::<Ix3>().ok()
        }
        _ => None,
    }
}

/// An output `[1, rows, cols]` as a map of one channel.
fn plane<'a>(output: &'a Output<'_>) -> Option<ArrayView3<'a, f32>> {
    let map = output.values.view().into_dimensionality::<Ix3>().ok();
    map.filter(|map| map.len_of(Axis(0)) == 1)
}

/// Where the centre of a position of a finer axis lies on a coarser one.
fn centre(at: usize, fine: usize, coarse: usize) -> f32 {
    (at as f32 + 0.5) * coarse as f32 / fine as f32 - 0.5
}

/// The value between four neighbours, those at the border going on for ever.
fn sample(map: &ArrayView2<'_, f32>, row: f32, col: f32) -> f32 {
    let along = |at: f32, len: usize| {
        let at = at.clamp(0.0, (len - 1) as f32);
        let first = at as usize;
        (first, (first + 1).min(len - 1), at - first as f32)
    };
    let (r0, r1, down) = along(row, map.nrows());
    let (c0, c1, right) = along(col, map.ncols());
    let upper = map[[r0, c0]] * (1.0 - right) + map[[r0, c1]] * right;
    let lower = map[[r1, c0]] * (1.0 - right) + map[[r1, c1]] * right;
    upper * (1.0 - down) + lower * down
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convention::FitMode;
    use crate::detection::Bounds;
    use ndarray::{Array4, array};

    #[test]
    fn the_largest_channel_wins() {
        let mut scores = Array4::<f32>::zeros((1, 3, 2, 2));
        scores[[0, 2, 0, 1]] = 1.0;
        scores[[0, 1, 1, 0]] = 2.0;
        let outputs = [Output { name: "o", values: scores.view().into_dyn() }];
        let map = classes(&outputs, Size::new(2, 2), 0.0).unwrap();
        assert_eq!(map.classes, [0, 2, 1, 0]);
        assert_eq!(map.counts(), [(0, 2), (1, 1), (2, 1)]);
        assert_eq!(classes_of_rows(&[0.0, 0.0, 1.0, 2.0, 1.0, 0.0], 3, 0.0), [2, 0]);
    }

    #[test]
    fn one_channel_is_above_its_threshold() {
        let of = |values: [f32; 4], threshold: f32| {
            let scores = Array4::from_shape_vec((1, 1, 2, 2), values.into()).unwrap();
            let outputs = [Output { name: "o", values: scores.view().into_dyn() }];
            let whole = classes(&outputs, Size::new(2, 2), threshold).unwrap().classes;
            assert_eq!(classes_of_rows(&values, 1, threshold), whole);
            whole
        };
        assert_eq!(of([0.4, 0.6, 0.5, 1.0], 0.5), [0, 1, 0, 1]);
        assert_eq!(of([-3.0, 0.2, 0.0, 7.0], 0.0), [0, 1, 0, 1]);
    }

    #[test]
    fn a_coarse_map_is_enlarged_before_classes_are_compared() {
        let mut scores = Array4::<f32>::zeros((1, 2, 1, 2));
        (scores[[0, 0, 0, 0]], scores[[0, 1, 0, 1]]) = (3.0, 1.0);
        let outputs = [Output { name: "o", values: scores.view().into_dyn() }];
        let map = classes(&outputs, Size::new(2, 8), 0.0).unwrap();
        // The stronger class reaches beyond the middle: equal at 3 / 4 of the way.
        assert_eq!(map.classes[..8], [0, 0, 0, 0, 0, 1, 1, 1]);
    }

    #[test]
    fn a_mask_is_cut_at_its_box() {
        let fit = Fit::new(FitMode::Stretch, Size::new(16, 16), Size::new(8, 8)).unwrap();
        let plane = array![[1.0f32, -1.0], [1.0, -1.0]];
        let prototypes = plane.insert_axis(Axis(0)).insert_axis(Axis(0));
        let list = ndarray::Array3::<f32>::zeros((1, 6, 21));
        let outputs = [
            Output { name: "boxes", values: list.view().into_dyn() },
            Output { name: "prototypes", values: prototypes.view().into_dyn() },
        ];
        let bounds = Bounds { x0: 2.0, y0: 1.0, x1: 8.0, y1: 3.0 };
        let found = [Detection { class: 0, score: 1.0, bounds, mask: vec![2.0] }];
        let masks = masks(&found, &outputs, &fit).unwrap();
        let [mask] = masks.as_slice() else { panic!() };
        assert_eq!((mask.top, mask.left, mask.size), (2, 4, Size::new(4, 12)));
        // The prototype changes its sign in the middle, at column 8 of 16.
        let row: Vec<bool> = (4..16).map(|col| col < 8).collect();
        assert!(mask.inside.chunks(12).all(|r| r == row), "{mask:?}");
        assert_eq!(mask.pixels(), 16);
    }
}
