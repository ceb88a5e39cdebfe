//! Colours of classes: far apart for classes that follow each other, and always the same.

use image::Rgb;

/// Colours that are easy to tell apart, for the first classes.
const FIRST: [[u8; 3]; 12] = [
    [230, 57, 70],
    [38, 139, 210],
    [42, 157, 77],
    [255, 159, 28],
    [155, 93, 229],
    [0, 187, 190],
    [241, 91, 181],
    [142, 110, 70],
    [158, 190, 30],
    [90, 90, 220],
    [250, 120, 90],
    [110, 120, 130],
];

/// The colour of a class.
pub fn of_class(class: usize) -> Rgb<u8> {
    match FIRST.get(class) {
        Some(colour) => Rgb(*colour),
        // Hues by the golden angle never come close to the last few.
        None => Rgb(hue((class as f32 * 137.508) % 360.0)),
    }
}

/// The colour of a class of a segmentation, whose first class is the background: black.
pub fn of_segment(class: usize) -> Rgb<u8> {
    if class == 0 { Rgb([0; 3]) } else { of_class(class - 1) }
}

/// A bright colour by its angle on the wheel, in degrees.
fn hue(degrees: f32) -> [u8; 3] {
    [5.0, 3.0, 1.0].map(|offset| {
        let k = (offset + degrees / 60.0) % 6.0;
        let share = 1.0 - 0.75 * k.min(4.0 - k).clamp(0.0, 1.0);
        (share * 230.0) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_differ() {
        for class in 0..300 {
            let (Rgb(a), Rgb(b)) = (of_class(class), of_class(class + 1));
            let distance: i32 = a.iter().zip(b).map(|(a, b)| (*a as i32 - b as i32).abs()).sum();
            assert!(distance > 60, "{class}: {a:?} {b:?}");
        }
        assert_eq!(of_segment(0), Rgb([0; 3]));
        assert_eq!(of_segment(1), of_class(0));
    }
}
