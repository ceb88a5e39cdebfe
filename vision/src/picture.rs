//! An output map that is itself a picture: enlarged, denoised, recoloured.

use crate::Output;
use crate::convention::{ChannelOrder, Convention};
use crate::error::{VisionError, describe};
use crate::fit::Fit;
use image::{DynamicImage, GrayImage, RgbImage};
use ndarray::{ArrayView3, Axis, Ix3};

/// The first output of 1 or 3 channels as a picture, in the numbers that the model's input has.
///
/// Where the input had letterbox bars, they are cut off.
///
/// *Errors*: no such output.
pub fn picture(
    outputs: &[Output<'_>],
    convention: &Convention,
    fit: Option<&Fit>,
) -> Result<DynamicImage, VisionError> {
    let missing = || VisionError::Outputs {
        what: "picture",
        expected: "a map of 1 or 3 channels".into(),
        got: describe(outputs),
    };
    let map = outputs.iter().find_map(map).ok_or_else(missing)?;
    let (channels, rows, cols) = map.dim();
    let order: &[usize] = match (channels, convention.channels) {
        (1, _) => &[0],
        (_, ChannelOrder::Rgb) => &[0, 1, 2],
        (_, ChannelOrder::Bgr) => &[2, 1, 0],
    };
    let mut bytes = Vec::with_capacity(rows * cols * channels);
    for row in 0..rows {
        for col in 0..cols {
            bytes.extend(order.iter().map(|&c| convention.normalize.byte(map[[c, row, col]])));
        }
    }
    let (width, height) = (cols as u32, rows as u32);
    let picture = match channels {
        1 => GrayImage::from_raw(width, height, bytes).map(DynamicImage::from),
        _ => RgbImage::from_raw(width, height, bytes).map(DynamicImage::from),
    };
    let picture = picture.ok_or_else(missing)?;
    let Some(fit) = fit.filter(|fit| fit.top > 0 || fit.left > 0) else { return Ok(picture) };
    let scale = (rows as f64 / fit.input.rows as f64, cols as f64 / fit.input.cols as f64);
    let at = |value: usize, scale: f64| (value as f64 * scale).round() as u32;
    Ok(picture.crop_imm(
        at(fit.left.unsigned_abs(), scale.1),
        at(fit.top.unsigned_abs(), scale.0),
        at(fit.scaled.cols, scale.1),
        at(fit.scaled.rows, scale.0),
    ))
}

/// Bytes of some rows of a picture whose values come pixel by pixel, for pictures in parts.
pub fn bytes_of_rows(values: &[f32], convention: &Convention, channels: usize) -> Vec<u8> {
    let byte = |v: &f32| convention.normalize.byte(*v);
    let mut bytes: Vec<u8> = values.iter().map(byte).collect();
    if channels == 3 && convention.channels == ChannelOrder::Bgr {
        bytes.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
    }
    bytes
}

fn map<'a>(output: &'a Output<'_>) -> Option<ArrayView3<'a, f32>> {
    let view = match output.values.shape() {
        [1, 1 | 3, _, _] => output.values.view().index_axis_move(Axis(0), 0),
        _ => return None,
    };
    view.into_dimensionality::<Ix3>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convention::{FitMode, Normalize};
    use crate::fit::Size;
    use crate::prepare::{prepare, values_of_bytes};
    use image::Rgb;
    use ndarray::Array4;

    /// A network that gives back what it gets: the picture comes back, whatever the convention.
    #[test]
    fn there_and_back() {
        let original = RgbImage::from_fn(5, 4, |x, y| Rgb([x as u8 * 50, y as u8 * 60, 200]));
        for normalize in [Normalize::ZeroToOne, Normalize::MinusOneToOne, Normalize::Bytes] {
            for channels in [ChannelOrder::Rgb, ChannelOrder::Bgr] {
                let convention = Convention { normalize, channels, fit: FitMode::None };
                let size = Size::new(4, 5);
                let input = prepare(&original.clone().into(), &convention, size, 3).unwrap();
                let whole = Array4::from_shape_vec((1, 4, 5, 3), input.values).unwrap();
                let whole = whole.permuted_axes([0, 3, 1, 2]);
                let outputs = [Output { name: "o", values: whole.view().into_dyn() }];
                let back = picture(&outputs, &convention, None).unwrap().to_rgb8();
                assert_eq!(back, original);
                let rows = values_of_bytes(original.as_raw(), &convention, 3);
                assert_eq!(bytes_of_rows(&rows, &convention, 3), *original.as_raw());
            }
        }
    }

    #[test]
    fn bars_are_cut_off_at_the_output_s_scale() {
        let convention = Convention {
            normalize: Normalize::ZeroToOne,
            channels: ChannelOrder::Rgb,
            fit: FitMode::Letterbox,
        };
        let fit = Fit::new(FitMode::Letterbox, Size::new(4, 8), Size::new(8, 8)).unwrap();
        let doubled = Array4::<f32>::zeros((1, 1, 16, 16));
        let outputs = [Output { name: "o", values: doubled.view().into_dyn() }];
        let got = picture(&outputs, &convention, Some(&fit)).unwrap();
        assert_eq!((got.width(), got.height()), (16, 8));
    }
}
