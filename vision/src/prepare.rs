//! A picture as the values of a model's input.

use crate::convention::{ChannelOrder, Convention};
use crate::error::VisionError;
use crate::fit::{Fit, Size};
use image::imageops::{FilterType, crop_imm, overlay, resize};
use image::{DynamicImage, Rgb, RgbImage};

/// The grey of letterbox bars, as Ultralytics trains its models with.
pub const BAR: u8 = 114;

/// A picture's values in the order rows, cols, channels, and where the picture lies in them.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// `rows * cols * channels` values.
    pub values: Vec<f32>,
    /// 3, or 1 for luminance.
    pub channels: usize,
    /// Where the picture lies.
    pub fit: Fit,
}

/// Makes a picture the values that a model takes: scaled, ordered, normalised.
///
/// Scaling down averages over all pixels that fall together (a triangle filter whose width
/// follows the scale), so that fine patterns do not flicker. One channel is the luminance.
///
/// *Errors*: a number of channels that no picture has, or a size that does not fit.
pub fn prepare(
    picture: &DynamicImage,
    convention: &Convention,
    input: Size,
    channels: usize,
) -> Result<Prepared, VisionError> {
    if !matches!(channels, 1 | 3) {
        let expected = "1 channel (luminance) or 3 (colours)";
        return Err(VisionError::Input { expected, got: format!("{channels} channels") });
    }
    let size = Size::new(picture.height() as usize, picture.width() as usize);
    let fit = Fit::new(convention.fit, size, input)?;
    let values = match channels {
        1 => {
            let luminance = DynamicImage::from(picture.to_luma8()).to_rgb8();
            values(&fitted(luminance, &fit), convention, 1)
        }
        _ => values(&fitted(picture.to_rgb8(), &fit), convention, 3),
    };
    Ok(Prepared { values, channels, fit })
}

/// The values of some rows of a picture that is not scaled: bytes in the order rows, cols, colours.
pub fn values_of_bytes(bytes: &[u8], convention: &Convention, channels: usize) -> Vec<f32> {
    let tables = tables(convention, channels);
    let order = order(convention, channels);
    let pixels = bytes.chunks_exact(channels);
    pixels.flat_map(|p| order.iter().zip(&tables).map(|(&c, t)| t[p[c] as usize])).collect()
}

/// The picture at its place in the input.
fn fitted(picture: RgbImage, fit: &Fit) -> RgbImage {
    if fit.is_plain() {
        return picture;
    }
    let Size { rows, cols } = fit.scaled;
    let scaled = match fit.scaled == fit.picture {
        true => picture,
        false => resize(&picture, cols as u32, rows as u32, FilterType::Triangle),
    };
    let (width, height) = (fit.input.cols as u32, fit.input.rows as u32);
    if fit.scaled == fit.input {
        return scaled;
    }
    if rows >= fit.input.rows && cols >= fit.input.cols {
        let (x, y) = (fit.left.unsigned_abs() as u32, fit.top.unsigned_abs() as u32);
        return crop_imm(&scaled, x, y, width, height).to_image();
    }
    let mut input = RgbImage::from_pixel(width, height, Rgb([BAR; 3]));
    overlay(&mut input, &scaled, fit.left as i64, fit.top as i64);
    input
}

fn values(picture: &RgbImage, convention: &Convention, channels: usize) -> Vec<f32> {
    if channels == 3 {
        return values_of_bytes(picture.as_raw(), convention, 3);
    }
    let table = &tables(convention, 1)[0];
    picture.pixels().map(|p| table[p.0[0] as usize]).collect()
}

/// The colour that each channel takes.
fn order(convention: &Convention, channels: usize) -> Vec<usize> {
    match (channels, convention.channels) {
        (1, _) => vec![0],
        (_, ChannelOrder::Rgb) => vec![0, 1, 2],
        (_, ChannelOrder::Bgr) => vec![2, 1, 0],
    }
}

/// The value of each byte, for each channel: 256 divisions a channel, not one a pixel.
fn tables(convention: &Convention, channels: usize) -> Vec<[f32; 256]> {
    let table =
        |colour: usize| std::array::from_fn(|byte| convention.normalize.value(byte as u8, colour));
    order(convention, channels).into_iter().map(table).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convention::{FitMode, Normalize};

    fn convention(fit: FitMode) -> Convention {
        Convention { normalize: Normalize::Bytes, channels: ChannelOrder::Rgb, fit }
    }

    fn picture(width: u32, height: u32) -> DynamicImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, (x + y) as u8])).into()
    }

    #[test]
    fn as_it_is() {
        let got = prepare(&picture(3, 2), &convention(FitMode::None), Size::new(2, 3), 3).unwrap();
        let bytes: Vec<f32> = picture(3, 2).to_rgb8().iter().map(|b| f32::from(*b)).collect();
        assert_eq!(got.values, bytes);
    }

    #[test]
    fn blue_first_also_means_the_blue_mean_first() {
        let mean_std = Normalize::Byte { mean: [1.0, 2.0, 3.0], std: [1.0; 3] };
        let convention =
            Convention { normalize: mean_std, channels: ChannelOrder::Bgr, fit: FitMode::None };
        let one = RgbImage::from_pixel(1, 1, Rgb([10, 20, 30])).into();
        let got = prepare(&one, &convention, Size::new(1, 1), 3).unwrap();
        assert_eq!(got.values, [27.0, 18.0, 9.0]);
    }

    /// Letterbox by hand: each position is a bar or the pixel of the scaled picture.
    #[test]
    fn letterbox_against_a_naive_one() {
        for (width, height) in [(40, 20), (20, 40), (7, 33), (64, 64), (100, 3)] {
            let input = Size::new(32, 48);
            let got = prepare(&picture(width, height), &convention(FitMode::Letterbox), input, 3)
                .unwrap();
            let scale = (32.0 / height as f64).min(48.0 / width as f64);
            let (w, h) = (
                (width as f64 * scale).round_ties_even() as u32,
                (height as f64 * scale).round_ties_even(),
            );
            let (w, h) = (w.max(1), (h as u32).max(1));
            let small = resize(&picture(width, height).to_rgb8(), w, h, FilterType::Triangle);
            let (top, left) = ((32 - h) / 2, (48 - w) / 2);
            for y in 0..32u32 {
                for x in 0..48u32 {
                    let inside = (top..top + h).contains(&y) && (left..left + w).contains(&x);
                    let expected =
                        if inside { small.get_pixel(x - left, y - top).0 } else { [BAR; 3] };
                    let at = (y as usize * 48 + x as usize) * 3;
                    assert_eq!(got.values[at..at + 3], expected.map(f32::from), "{x},{y}");
                }
            }
        }
    }

    #[test]
    fn crop_takes_the_middle() {
        let got = prepare(&picture(9, 3), &convention(FitMode::Crop), Size::new(3, 3), 3).unwrap();
        assert_eq!(got.values[0], 3.0);
        assert_eq!(got.values.len(), 27);
    }

    #[test]
    fn one_channel_is_luminance() {
        let grey = RgbImage::from_pixel(2, 2, Rgb([80; 3])).into();
        let got = prepare(&grey, &convention(FitMode::None), Size::new(2, 2), 1).unwrap();
        assert_eq!(got.values, [80.0; 4]);
        assert!(prepare(&grey, &convention(FitMode::None), Size::new(2, 2), 4).is_err());
    }
}
