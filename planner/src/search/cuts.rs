//! Which cuts are tried.

use crate::pairs::in_line;
use crate::profile::speeds;
use crate::{DeviceProfile, square_grid};
use tiling::{Grid, Slot, Work};

/// Tiles a device in the grids that are tried...
const TILES_A_DEVICE: &[usize] = &[1, 2];

/// ...and where memory is scarce: smaller tiles take less.
const TILES_A_DEVICE_SCARCE: &[usize] = &[1, 2, 4, 8, 16];

/// More devices gather.
const KEEPERS_MAX: usize = 16;

/// Which cut over how many devices: stages of the same layout fit each other when maps stay where they
/// are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    devices: usize,
    /// Without the device that has the slowest way to another.
    without: bool,
    cut: usize,
}

impl Layout {
    /// Whether what lies in this layout goes on in another without most of it moving.
    pub(super) fn goes_on_in(self, other: Layout) -> bool {
        (self.devices, self.without) == (other.devices, other.without)
    }
}

/// A cut with the device of every tile.
pub(super) struct Tiling {
    pub(super) layout: Layout,
    pub(super) grid: Grid,
    pub(super) placement: Vec<Slot>,
    /// Whether its outputs may stay on the workers: strips of rows, and grids with a tile for each
    /// device.
    pub(super) keeps: bool,
}

/// Which cuts of a stage are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// Strips by speed, grids.
    All,
    /// Also grids of many small tiles, even on one device.
    Scarce,
    /// Equal strips of rows alone.
    EqualStrips,
}

/// The cuts over the fastest two, three, ... devices, with shares by their speeds at some work.
pub(super) fn tilings(
    devices: &[DeviceProfile],
    by_speed: &[usize],
    work: &Work,
    space: Space,
) -> Vec<Tiling> {
    let speeds = speeds(devices, work);
    let mut counts = counts(devices.len());
    if space == Space::Scarce {
        counts.insert(0, 1);
    }
    let of = |count: usize| cuts(&in_line(devices, &by_speed[..count]), &speeds, (space, false));
    let all: Vec<Tiling> = counts.iter().copied().flat_map(of).collect();
    let Some(slow) = slow_to_reach(devices, by_speed) else { return all };
    let others: Vec<usize> = by_speed.iter().copied().filter(|&i| i != slow).collect();
    let of = |count: usize| cuts(&in_line(devices, &others[..count]), &speeds, (space, true));
    let counts = counts.into_iter().filter(|&count| 1 < count && count <= others.len());
    all.into_iter().chain(counts.flat_map(of)).collect()
}

/// The device with the slowest way to another, if that is slower than their links; of the two, the one
/// that is slower itself.
fn slow_to_reach(devices: &[DeviceProfile], by_speed: &[usize]) -> Option<usize> {
    let ways = by_speed.iter().flat_map(|&i| {
        let device = &devices[i];
        let known = devices.iter().filter_map(move |other| {
            let pair = device.pair_with(other)?;
            let usual = device.usual_pair(other);
            (pair.bytes_per_s < usual.bytes_per_s).then_some(pair.bytes_per_s)
        });
        known.min().map(|rate| (rate, i))
    });
    let slowness = |&i: &usize| by_speed.iter().position(|&other| other == i);
    let slowest = ways.min_by_key(|(rate, i)| (*rate, std::cmp::Reverse(slowness(i))));
    slowest.map(|(_, device)| device)
}

fn cuts(used: &[usize], speeds: &[u64], (space, without): (Space, bool)) -> Vec<Tiling> {
    let devices = used.len();
    let slots: Vec<Slot> = used.iter().map(|&i| Slot(i as u32)).collect();
    let tiling = |cut: usize, grid: Grid, placement: Vec<Slot>| {
        let keeps = devices <= KEEPERS_MAX && (cut == 0 || cut == 2);
        Tiling { layout: Layout { devices, without, cut }, grid, placement, keeps }
    };
    if space == Space::EqualStrips {
        let grid = Grid { row_shares: vec![1; devices], col_shares: vec![1] };
        return vec![tiling(0, grid, slots)];
    }
    let fastest = used.iter().map(|&i| speeds[i]).max().unwrap_or(1);
    // Thousandths of the fastest, so that equal devices have equal shares.
    let share = |&i: &usize| (u128::from(speeds[i]) * 1000 / u128::from(fastest)).max(1) as u32;
    let shares: Vec<u32> = used.iter().map(share).collect();
    let mut cuts = Vec::new();
    if devices > 1 {
        let rows = Grid { row_shares: shares.clone(), col_shares: vec![1] };
        let cols = Grid { row_shares: vec![1], col_shares: shares };
        cuts.push(tiling(0, rows, slots.clone()));
        cuts.push(tiling(1, cols, slots));
    }
    let tiles = if space == Space::Scarce { TILES_A_DEVICE_SCARCE } else { TILES_A_DEVICE };
    for (i, tiles) in tiles.iter().map(|n| n * devices).enumerate().filter(|(_, n)| *n > 1) {
        let grid = square_grid(tiles);
        let placement = deal(used, speeds, grid.tiles());
        cuts.push(tiling(2 + i, grid, placement));
    }
    cuts
}

/// Neighbouring tiles to the same device, in numbers that follow the speeds.
fn deal(used: &[usize], speeds: &[u64], tiles: usize) -> Vec<Slot> {
    let of_used: Vec<u64> = used.iter().map(|&i| speeds[i]).collect();
    let runs = used.iter().zip(crate::deal(&of_used, tiles));
    runs.flat_map(|(&i, n)| std::iter::repeat_n(Slot(i as u32), n)).collect()
}

/// How many devices are tried: all numbers of a few, some numbers of many.
fn counts(devices: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = (2..=devices.min(4)).collect();
    counts.extend([6, 8, 12, 16, 24, 32, 64].into_iter().filter(|&n| 4 < n && n < devices));
    if devices > 4 {
        counts.push(devices);
    }
    counts
}
