//! Which head a model has, by the shapes of its outputs.

use super::{Head, Known};
use crate::fit::Size;
use crate::unbatched;

/// The steps of the maps that detectors without anchors look at.
const STRIDES: [&[usize]; 4] = [&[8, 16, 32], &[16, 32], &[8, 16, 32, 64], &[4, 8, 16, 32]];

/// Boxes of models that suppress by themselves, at most.
const FINISHED_MAX: usize = 1000;

impl Head {
    /// The head that has outputs of these dims; none where no known one has.
    pub fn find(outputs: &[Vec<usize>], known: &Known) -> Option<Self> {
        let dims: Vec<&[usize]> = outputs.iter().map(|dims| unbatched(dims)).collect();
        let lists: Vec<[usize; 2]> =
            dims.iter().filter_map(|dims| <[usize; 2]>::try_from(*dims).ok()).collect();
        let maps: Vec<[usize; 3]> =
            dims.iter().filter_map(|dims| <[usize; 3]>::try_from(*dims).ok()).collect();
        match (lists.as_slice(), maps.as_slice()) {
            ([list], _) => of_list(*list, known),
            ([a, b], []) if a[0] == b[0] && (a[1] == 4) != (b[1] == 4) => Some(Self::Ssd),
            ([], maps) if maps.len() == outputs.len() => of_maps(maps, known),
            _ => None,
        }
    }
}

/// Boxes of a head that looks at maps of these steps.
fn cells(input: Size, strides: &[usize]) -> usize {
    strides.iter().map(|s| input.rows.div_ceil(*s) * input.cols.div_ceil(*s)).sum()
}

fn of_list([first, second]: [usize; 2], known: &Known) -> Option<Head> {
    let input = known.input?;
    let boxes = |count: usize, anchors: usize| {
        STRIDES.iter().any(|strides| anchors * cells(input, strides) == count)
    };
    if boxes(second, 1) && first >= 5 {
        Some(Head::YoloV8)
    } else if boxes(first, 3) && second >= 6 {
        Some(Head::YoloV5)
    } else if boxes(first, 1) && second >= 6 {
        Some(Head::YoloX)
    } else if second == 6 && first <= FINISHED_MAX {
        Some(Head::EndToEnd)
    } else {
        None
    }
}

fn of_maps(maps: &[[usize; 3]], known: &Known) -> Option<Head> {
    let input = known.input?;
    let channels = maps.first()?[0];
    let per_cell = |anchors: usize| {
        channels.is_multiple_of(anchors)
            && match known.classes {
                Some(classes) => channels / anchors == 5 + classes,
                None => channels / anchors >= 6,
            }
    };
    let step = |map: &[usize; 3]| {
        let step = input.rows.checked_div(map[1])?;
        (map[0] == channels && map[1] * step == input.rows && map[2] * step == input.cols)
            .then_some(step)
    };
    let mut steps = maps.iter().map(step).collect::<Option<Vec<usize>>>()?;
    steps.sort_unstable();
    match steps.as_slice() {
        [32] if per_cell(5) => Some(Head::YoloV2),
        // YOLOv3-tiny has 13 convolutions, v4-tiny 21; v3 has 75, v4 110.
        [16, 32] if per_cell(3) && known.convolutions > 16 => Some(Head::YoloV4Tiny),
        [16, 32] if per_cell(3) => Some(Head::YoloV3Tiny),
        [8, 16, 32] if per_cell(3) && known.convolutions > 90 => Some(Head::YoloV4),
        [8, 16, 32] if per_cell(3) => Some(Head::YoloV3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(input: (usize, usize), outputs: &[&[usize]], convolutions: usize) -> Option<Head> {
        let known =
            Known { input: Some(Size::new(input.0, input.1)), convolutions, ..Known::default() };
        Head::find(&outputs.iter().map(|o| o.to_vec()).collect::<Vec<_>>(), &known)
    }

    #[test]
    fn published_models() {
        assert_eq!(find((640, 640), &[&[1, 84, 8400]], 64), Some(Head::YoloV8));
        assert_eq!(find((320, 640), &[&[1, 84, 4200]], 64), Some(Head::YoloV8));
        let masks: [&[usize]; 2] = [&[1, 116, 8400], &[1, 32, 160, 160]];
        assert_eq!(find((640, 640), &masks, 64), Some(Head::YoloV8));
        assert_eq!(find((640, 640), &[&[1, 25200, 85]], 60), Some(Head::YoloV5));
        assert_eq!(find((640, 640), &[&[1, 8400, 85]], 60), Some(Head::YoloX));
        assert_eq!(find((640, 640), &[&[1, 300, 6]], 60), Some(Head::EndToEnd));
        assert_eq!(find((416, 416), &[&[1, 125, 13, 13]], 9), Some(Head::YoloV2));
        assert_eq!(find((608, 608), &[&[1, 425, 19, 19]], 23), Some(Head::YoloV2));
        let two: [&[usize]; 2] = [&[1, 255, 13, 13], &[1, 255, 26, 26]];
        assert_eq!(find((416, 416), &two, 13), Some(Head::YoloV3Tiny));
        assert_eq!(find((416, 416), &two, 21), Some(Head::YoloV4Tiny));
        let three: [&[usize]; 3] = [&[1, 255, 52, 52], &[1, 255, 13, 13], &[1, 255, 26, 26]];
        assert_eq!(find((416, 416), &three, 75), Some(Head::YoloV3));
        assert_eq!(find((416, 416), &three, 110), Some(Head::YoloV4));
        let ssd: [&[usize]; 2] = [&[1, 3000, 21], &[1, 3000, 4]];
        assert_eq!(find((300, 300), &ssd, 40), Some(Head::Ssd));
    }

    #[test]
    fn others_have_none() {
        for outputs in [[1, 1000].as_slice(), &[1, 21, 224, 224], &[1, 3, 448, 448], &[1]] {
            assert_eq!(find((224, 224), &[outputs], 50), None, "{outputs:?}");
        }
        assert_eq!(find((224, 224), &[], 0), None);
    }
}
