//! The default boxes of SSD heads that give offsets, and what the offsets mean.
//!
//! *Source*: Liu et al., SSD (2016); the figures are those of torchvision's `ssd300_vgg16` and
//! `ssdlite320_mobilenet_v3_large`. Neither is in a model's file; the number of boxes tells them apart.

use crate::detection::Bounds;

/// Of how much of its default box a centre moves for an offset of one, and a side grows e-fold.
const CENTRE: f32 = 0.1;
const SIDE: f32 = 0.2;

/// No side grows by more: an offset that large comes of no training.
const GROWTH_MAX: f32 = 4.135_166_6; // ln(1000 / 16)

/// The default boxes of a network, in parts of the input.
pub(super) struct Priors {
    /// Cells a side of each map, the cells that a side of the input is long, and the longer sides of
    /// boxes by their shorter ones.
    maps: &'static [(usize, f32, &'static [f32])],
    /// Side of the square boxes of each map, and of the map after the last.
    scales: [f32; 7],
}

const SSD300: Priors = Priors {
    maps: &[
        (38, 300.0 / 8.0, &[2.0]),
        (19, 300.0 / 16.0, &[2.0, 3.0]),
        (10, 300.0 / 32.0, &[2.0, 3.0]),
        (5, 300.0 / 64.0, &[2.0, 3.0]),
        (3, 300.0 / 100.0, &[2.0]),
        (1, 1.0, &[2.0]),
    ],
    scales: [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
};

const SSDLITE320: Priors = Priors {
    maps: &[
        (20, 20.0, &[2.0, 3.0]),
        (10, 10.0, &[2.0, 3.0]),
        (5, 5.0, &[2.0, 3.0]),
        (3, 3.0, &[2.0, 3.0]),
        (2, 2.0, &[2.0, 3.0]),
        (1, 1.0, &[2.0, 3.0]),
    ],
    scales: [0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0],
};

impl Priors {
    /// Those of a network with so many boxes, where it is a known one.
    pub(super) fn of(boxes: usize) -> Option<Self> {
        [SSD300, SSDLITE320].into_iter().find(|priors| priors.len() == boxes)
    }

    fn len(&self) -> usize {
        self.maps.iter().map(|(cells, _, ratios)| cells * cells * (2 + 2 * ratios.len())).sum()
    }

    /// Centre and sides of each: by maps, rows, cols, then shapes.
    fn boxes(&self) -> impl Iterator<Item = [f32; 4]> {
        self.maps.iter().zip(self.scales.windows(2)).flat_map(
            |(&(cells, across, ratios), scale)| {
                let (own, between) = (scale[0], (scale[0] * scale[1]).sqrt());
                let mut shapes = vec![[own, own], [between, between]];
                for ratio in ratios {
                    let (long, short) = (own * ratio.sqrt(), own / ratio.sqrt());
                    shapes.extend([[long, short], [short, long]]);
                }
                let at = move |i: usize| (i as f32 + 0.5) / across;
                let cells = (0..cells).flat_map(move |row| (0..cells).map(move |col| (row, col)));
                cells.flat_map(move |(row, col)| {
                    let inside = |side: f32| side.clamp(0.0, 1.0);
                    let place = move |[w, h]: [f32; 2]| [at(col), at(row), inside(w), inside(h)];
                    shapes.clone().into_iter().map(place)
                })
            },
        )
    }

    /// Corners of the boxes that offsets stand for, in parts of the input.
    pub(super) fn corners<'a>(
        &'a self,
        offsets: impl Iterator<Item = [f32; 4]> + 'a,
    ) -> impl Iterator<Item = Bounds> + 'a {
        self.boxes().zip(offsets).map(|([x, y, w, h], [dx, dy, dw, dh])| {
            let (x, y) = (x + dx * CENTRE * w, y + dy * CENTRE * h);
            let grown = |side: f32, by: f32| side * (by * SIDE).min(GROWTH_MAX).exp();
            let (w, h) = (grown(w, dw) / 2.0, grown(h, dh) / 2.0);
            Bounds { x0: x - w, y0: y - h, x1: x + w, y1: y + h }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_numbers_of_boxes() {
        for boxes in [8732, 3234] {
            let priors = Priors::of(boxes).unwrap();
            assert_eq!(priors.boxes().count(), boxes);
        }
        assert!(Priors::of(1000).is_none());
    }

    #[test]
    fn no_offset_is_the_default_box() {
        let priors = Priors::of(8732).unwrap();
        let corners: Vec<Bounds> = priors.corners(std::iter::repeat([0.0; 4])).collect();
        // The last map has one cell; its first box is a square of 0.87 around the middle.
        let Bounds { x0, y0, x1, y1 } = corners[8728];
        let near = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(near(x0, 0.065) && near(y0, 0.065) && near(x1, 0.935) && near(y1, 0.935));
        let moved: Vec<Bounds> = priors.corners(std::iter::repeat([1.0, 0.0, 5.0, 0.0])).collect();
        // A tenth of its width to the right, and e times as wide.
        let Bounds { x0, x1, .. } = moved[8728];
        assert!(near((x0 + x1) / 2.0, 0.587) && near(x1 - x0, 0.87 * 1f32.exp()));
    }
}
