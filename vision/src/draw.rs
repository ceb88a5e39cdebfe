//! Results drawn on a picture: boxes with labels, masks in colours.

use crate::colours;
use crate::detection::{Bounds, Detection};
use crate::segment::{ClassMap, Mask};
use embedded_graphics::mono_font::{MonoTextStyle, iso_8859_1::FONT_10X20};
use embedded_graphics::prelude::*;
use embedded_graphics::text::{Baseline, Text};
use embedded_graphics::{Pixel as Dot, pixelcolor::BinaryColor};
use image::{Rgb, RgbImage};
use std::convert::Infallible;

/// Letters of the font.
const LETTER: (u32, u32) = (10, 20);

/// How much of a mask's colour covers the picture, of 256.
const COVER: u32 = 120;

/// Draws boxes with their labels; the most certain last, so that it lies on top.
///
/// `found` has the bounds in pixels of the picture, and a text for each.
pub fn boxes(picture: &mut RgbImage, found: &[(Detection, String)]) {
    let side = picture.width().max(picture.height());
    let stroke = (side / 400).max(2);
    // Letters of 20 pixels are too small to read on a large photograph.
    let scale = (side / 1200).clamp(1, 8);
    for (detection, text) in found.iter().rev() {
        let colour = colours::of_class(detection.class);
        frame(picture, detection.bounds, stroke, colour);
        let (x, y) = (detection.bounds.x0.max(0.0) as u32, detection.bounds.y0.max(0.0) as u32);
        label(picture, text, (x, y), scale, colour);
    }
}

/// The border of a box, drawn inwards.
fn frame(picture: &mut RgbImage, bounds: Bounds, stroke: u32, colour: Rgb<u8>) {
    let (x0, y0) = (bounds.x0.max(0.0) as u32, bounds.y0.max(0.0) as u32);
    let x1 = (bounds.x1.max(0.0).round() as u32).min(picture.width());
    let y1 = (bounds.y1.max(0.0).round() as u32).min(picture.height());
    let inner = (x0 + stroke..x1.saturating_sub(stroke), y0 + stroke..y1.saturating_sub(stroke));
    for y in y0..y1 {
        // Whole rows above and below, two strokes in between.
        let (left, right) = match inner.1.contains(&y) && !inner.0.is_empty() {
            true => (x0..inner.0.start, inner.0.end..x1),
            false => (x0..x1, 0..0),
        };
        left.chain(right).for_each(|x| picture.put_pixel(x, y, colour));
    }
}

/// A text on a ground of its own, above the point where there is room, else below it.
fn label(picture: &mut RgbImage, text: &str, at: (u32, u32), scale: u32, colour: Rgb<u8>) {
    let letters = text.chars().count() as u32;
    let margin = 2 * scale;
    let (width, height) = (letters * LETTER.0 * scale + 2 * margin, LETTER.1 * scale);
    let left = at.0.min(picture.width().saturating_sub(width));
    let top = if at.1 >= height { at.1 - height } else { at.1 };
    let bottom = (top + height).min(picture.height());
    let right = (left + width).min(picture.width());
    for y in top..bottom {
        (left..right).for_each(|x| picture.put_pixel(x, y, colour));
    }
    let ink = ink_on(colour);
    let mut put = |x: u32, y: u32| {
        for (dy, dx) in (0..scale).flat_map(|dy| (0..scale).map(move |dx| (dy, dx))) {
            let (x, y) = (left + margin + x * scale + dx, top + y * scale + dy);
            if x < right && y < bottom {
                picture.put_pixel(x, y, ink);
            }
        }
    };
    let style = MonoTextStyle::new(&FONT_10X20, BinaryColor::On);
    let text = Text::with_baseline(text, Point::zero(), style, Baseline::Top);
    let mut canvas = Canvas { size: Size::new(letters * LETTER.0, LETTER.1), put: &mut put };
    match text.draw(&mut canvas) {
        Ok(_) => {}
        Err(never) => match never {},
    }
}

/// Black or white, whichever is easier to read.
fn ink_on(colour: Rgb<u8>) -> Rgb<u8> {
    let [red, green, blue] = colour.0.map(u32::from);
    let light = 299 * red + 587 * green + 114 * blue > 150_000;
    Rgb([if light { 0 } else { 255 }; 3])
}

/// What the font draws on.
struct Canvas<'a> {
    size: Size,
    put: &'a mut dyn FnMut(u32, u32),
}

impl OriginDimensions for Canvas<'_> {
    fn size(&self) -> Size {
        self.size
    }
}

impl DrawTarget for Canvas<'_> {
    type Color = BinaryColor;
    type Error = Infallible;

    fn draw_iter<I>(&mut self, dots: I) -> Result<(), Infallible>
    where
        I: IntoIterator<Item = Dot<BinaryColor>>,
    {
        for Dot(Point { x, y }, colour) in dots {
            if let (BinaryColor::On, Ok(x), Ok(y)) = (colour, u32::try_from(x), u32::try_from(y)) {
                (self.put)(x, y);
            }
        }
        Ok(())
    }
}

/// Lays the masks of boxes over a picture, each in the colour of its class.
pub fn masks(picture: &mut RgbImage, found: &[(Detection, String)], masks: &[Mask]) {
    for ((detection, _), mask) in found.iter().zip(masks).rev() {
        let colour = colours::of_class(detection.class);
        for (i, _) in mask.inside.iter().enumerate().filter(|(_, inside)| **inside) {
            let (row, col) = (mask.top + i / mask.size.cols, mask.left + i % mask.size.cols);
            cover(picture, col as u32, row as u32, colour);
        }
    }
}

/// The classes of a picture's pixels as colours, the first class black.
pub fn class_colours(map: &ClassMap) -> RgbImage {
    let (width, height) = (map.size.cols as u32, map.size.rows as u32);
    RgbImage::from_fn(width, height, |x, y| colours::of_segment(map.at(y as usize, x as usize)))
}

/// Lays the classes of a picture's pixels over it; the first class shows the picture.
pub fn class_overlay(picture: &mut RgbImage, map: &ClassMap) {
    for y in 0..picture.height().min(map.size.rows as u32) {
        for x in 0..picture.width().min(map.size.cols as u32) {
            let class = map.at(y as usize, x as usize);
            if class > 0 {
                cover(picture, x, y, colours::of_segment(class));
            }
        }
    }
}

fn cover(picture: &mut RgbImage, x: u32, y: u32, colour: Rgb<u8>) {
    let Some(pixel) = picture.get_pixel_mut_checked(x, y) else { return };
    for (below, above) in pixel.0.iter_mut().zip(colour.0) {
        let mixed = u32::from(*below) * (256 - COVER) + u32::from(above) * COVER;
        *below = (mixed / 256) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detection(bounds: Bounds) -> Detection {
        Detection { class: 0, score: 0.9, bounds, mask: Vec::new() }
    }

    #[test]
    fn a_frame_is_where_the_box_is_and_the_middle_stays() {
        let mut picture = RgbImage::new(100, 80);
        let bounds = Bounds { x0: 10.0, y0: 30.0, x1: 60.0, y1: 70.0 };
        boxes(&mut picture, &[(detection(bounds), String::new())]);
        let colour = colours::of_class(0);
        for at in [(10, 30), (59, 69), (10, 50), (35, 31), (59, 30)] {
            assert_eq!(*picture.get_pixel(at.0, at.1), colour, "{at:?}");
        }
        for at in [(35, 50), (60, 70), (9, 50), (35, 70)] {
            assert_eq!(*picture.get_pixel(at.0, at.1), Rgb([0; 3]), "{at:?}");
        }
    }

    #[test]
    fn letters_are_drawn_inside_their_ground() {
        let mut picture = RgbImage::new(200, 60);
        let bounds = Bounds { x0: 20.0, y0: 40.0, x1: 21.0, y1: 41.0 };
        boxes(&mut picture, &[(detection(bounds), "dog 90 %".into())]);
        let ink = ink_on(colours::of_class(0));
        let inked = picture.enumerate_pixels().filter(|(.., p)| **p == ink && ink != Rgb([0; 3]));
        let inked: Vec<(u32, u32)> = inked.map(|(x, y, _)| (x, y)).collect();
        assert!(inked.len() > 100, "{}", inked.len());
        assert!(inked.iter().all(|(x, y)| (20..104).contains(x) && (20..40).contains(y)));
    }

    #[test]
    fn nothing_outside_the_picture_is_touched() {
        let mut picture = RgbImage::new(9, 7);
        let wild = Bounds { x0: -50.0, y0: -1e9, x1: 1e9, y1: 3.0 };
        let thin = Bounds { x0: 8.0, y0: 6.0, x1: 8.0, y1: 6.0 };
        let far = Bounds { x0: 500.0, y0: 500.0, x1: 600.0, y1: 600.0 };
        let text = "a long text, wider than the picture".to_owned();
        let found = [wild, thin, far].map(|b| (detection(b), text.clone()));
        boxes(&mut picture, &found);
        assert_eq!((picture.width(), picture.height()), (9, 7));
    }

    #[test]
    fn the_background_shows_the_picture() {
        let mut picture = RgbImage::from_pixel(2, 1, Rgb([100; 3]));
        let map = ClassMap { size: crate::Size::new(1, 2), classes: vec![0, 1] };
        class_overlay(&mut picture, &map);
        assert_eq!(*picture.get_pixel(0, 0), Rgb([100; 3]));
        assert_ne!(*picture.get_pixel(1, 0), Rgb([100; 3]));
        assert_eq!(*class_colours(&map).get_pixel(0, 0), Rgb([0; 3]));
    }
}
