//! Rows for each device of a stage that is cut into strips, so that all are done at once.
//!
//! Bisection over the time of the last device. Given a time, the first device takes as many rows as
//! it can have back by then, halo, memory and both ways of the link included; the next one goes on
//! where it stopped, and so on. Is there a row left in the end, the time was too short.

use crate::DeviceProfile;
use crate::cost::{Cut, Parts, Reach, bytes, nanos, walk};
use model::Model;
use tiling::{Grid, Numerics, Slot, Split, Stage};

/// Halvings of the time: a thousandth of it is left.
const HALVINGS: usize = 10;

/// Strips of this many layers x devices take too long to look at so often.
const EFFORT_MAX: usize = 400;

pub(crate) struct Strips<'a> {
    model: &'a Model,
    devices: &'a [DeviceProfile],
    numerics: Numerics,
    reach: &'a Reach,
    layers: (usize, usize),
    rows: usize,
    /// What the coordinator's link carries.
    cable: u64,
    /// Whether inputs come from the coordinator, and outputs go there.
    scattered: bool,
    gathered: bool,
}

/// The stage with other rows: none where it is no strips of rows, or too long.
pub(crate) fn balanced(
    model: &Model,
    devices: &[DeviceProfile],
    (numerics, reach): (Numerics, &Reach),
    stage: &Stage,
    (scattered, gathered): (bool, bool),
) -> Option<Stage> {
    let Split::Spatial(grid) = &stage.split else { return None };
    let layers = (stage.first_layer as usize, stage.end_layer as usize);
    let effort = (layers.1 - layers.0) * grid.row_shares.len();
    if grid.col_shares.len() > 1 || grid.row_shares.len() < 2 || effort > EFFORT_MAX {
        return None;
    }
    let rows = model.shape(model.layers[layers.1 - 1].output).rows();
    let cables = devices.iter().filter(|d| !d.same_machine).map(|d| d.link_bytes_per_s);
    let cable = cables.max().unwrap_or(u64::MAX).max(1);
    let strips =
        Strips { model, devices, numerics, reach, layers, rows, cable, scattered, gathered };
    let (mut short, mut long) = (0, strips.longest(&stage.placement)?);
    let mut best = strips.within(&stage.placement, long);
    for _ in 0..HALVINGS {
        let middle = short + (long - short) / 2;
        match strips.within(&stage.placement, middle) {
            Some(shares) => (best, long) = (Some(shares), middle),
            None => short = middle,
        }
    }
    let shares: Vec<(u32, Slot)> = best?;
    let (row_shares, placement): (Vec<u32>, Vec<Slot>) = shares.into_iter().unzip();
    if row_shares.len() == 1 {
        let whole = Stage::whole(layers.0..layers.1, placement[0]);
        return Some(Stage { handover: stage.handover, ..whole });
    }
    let split = Split::Spatial(Grid { row_shares, col_shares: vec![1] });
    Some(Stage { split, placement, ..stage.clone() })
}

impl Strips<'_> {
    /// A time within which one of the devices does it all.
    fn longest(&self, placement: &[Slot]) -> Option<u64> {
        let all = self.strip(0, self.rows)?;
        let alone = placement.iter().filter_map(|slot| self.ends(slot.0 as usize, &all, 0));
        alone.map(|(end, _)| end).min()
    }

    /// The rows of each device if all are to be done by then; devices without any are left out.
    fn within(&self, placement: &[Slot], ns: u64) -> Option<Vec<(u32, Slot)>> {
        let (mut from, mut sends) = (0, 0);
        let mut shares = Vec::new();
        for &slot in placement {
            let left = self.rows - from;
            let in_time = |rows: usize| {
                let cut = self.strip(from, from + rows)?;
                let (end, sent) = self.ends(slot.0 as usize, &cut, sends)?;
                (end <= ns).then_some(sent)
            };
            let (mut few, mut many, mut sent) = (0, left + 1, sends);
            while few + 1 < many {
                let middle = few + (many - few) / 2;
                match in_time(middle) {
                    Some(after) => (few, sent) = (middle, after),
                    None => many = middle,
                }
            }
            if few > 0 {
                shares.push((few as u32, slot));
                (from, sends) = (from + few, sent);
            }
            if from == self.rows {
                return Some(shares);
            }
        }
        None
    }

    /// Some rows of the stage.
    fn strip(&self, from: usize, to: usize) -> Option<Cut> {
        let parts = [from, to - from, self.rows - to];
        let row_shares: Vec<u32> = parts.iter().filter(|&&p| p > 0).map(|&p| p as u32).collect();
        let grid = Grid { row_shares, col_shares: vec![1] };
        let parts = Parts::Row(&grid, usize::from(from > 0));
        let (first, end) = self.layers;
        walk(self.model, self.reach, self.numerics, parts, &[first], end).pop()
    }

    /// When a device is done with a strip and what it sends is there, and until when the coordinator
    /// sends what the strip reads; none where it does not fit.
    fn ends(&self, device: usize, cut: &Cut, sends: u64) -> Option<(u64, u64)> {
        let device = self.devices.get(device)?;
        let tile = &cut.borders.tiles[0];
        let (read, made) = (bytes(self.model, &tile.inputs), bytes(self.model, &tile.outputs));
        if device.memory_bytes.is_some_and(|given| read + made > given) {
            return None;
        }
        let own = device.link_bytes_per_s.max(1);
        let mut end = device.round_trip_ns;
        let mut sent = sends;
        if self.scattered {
            end += sends + nanos(read, own);
            if !device.same_machine {
                sent += nanos(read, self.cable);
            }
        }
        end += device.takes_ns(&cut.works[0]);
        if self.gathered {
            end += nanos(made, own);
        }
        Some((end, sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{LoadOptions, open};
    use tiling::Rates;

    fn balanced_rows(devices: &[DeviceProfile], gathered: bool) -> Vec<u32> {
        let model = open("zoo:vgg16@224x224", &LoadOptions::default()).unwrap().graph;
        let grid = Grid::even(devices.len(), 1);
        let placement = (0..devices.len()).map(|i| Slot(i as u32)).collect();
        let stage = Stage::cut(0..3, grid, placement);
        let kind = (Numerics::Exact, &Reach::of(&model));
        let stage = balanced(&model, devices, kind, &stage, (gathered, gathered)).unwrap();
        match stage.split {
            Split::Spatial(grid) => grid.row_shares,
            _ => vec![model.shape(model.layers[2].output).rows() as u32],
        }
    }

    fn device(speed: u64, link_bytes_per_s: u64) -> DeviceProfile {
        let wired = DeviceProfile::wired("d", Rates::typical(speed * 1_000_000_000));
        DeviceProfile { link_bytes_per_s, ..wired }
    }

    #[test]
    fn rows_follow_speed_and_link() {
        let fast = 10_000_000_000;
        let rows = balanced_rows(&[device(8, fast), device(8, fast), device(4, fast)], false);
        assert_eq!(rows.iter().sum::<u32>(), 112);
        assert!(rows[0].abs_diff(rows[1]) <= 2 && rows[0].abs_diff(2 * rows[2]) <= 4, "{rows:?}");
        // A strip at the border has one halo less, so that it has a row more.
        let rows = balanced_rows(&vec![device(8, fast); 3], false);
        assert!(rows[0] >= rows[1], "{rows:?}");
        // Who has to wait for a slow link gets less, and for one that is slow enough nothing.
        let rows = balanced_rows(&[device(8, fast), device(8, 40_000_000)], true);
        assert!(rows[0] > rows[1] + 10, "{rows:?}");
        assert_eq!(balanced_rows(&[device(8, fast), device(8, 100_000)], true), [112]);
    }

    #[test]
    fn memory_limits_rows() {
        let fast = 10_000_000_000;
        let mut devices = [device(8, fast), device(8, fast)];
        // What it makes for 16 rows of 112 x 64 values, and the input for these.
        devices[0].memory_bytes = Some(16 * 112 * 64 * 4 + 40 * 224 * 3 * 4);
        let rows = balanced_rows(&devices, false);
        assert!((10..=17).contains(&rows[0]), "{rows:?}");
    }
}
