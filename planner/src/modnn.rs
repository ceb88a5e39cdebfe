//! `modnn`: one stage a layer, strips along the longer side with shares by speed, gather after
//! each. *Source*: Mao et al., MoDNN, DATE 2017 (biased one-dimensional partition).

use crate::profile::{fastest, layer_works, speeds};
use crate::{DeviceProfile, PlanOptions, PlannerError};
use model::{LayerId, Model};
use tiling::{Grid, Locality, Plan, Slot, Stage, locality};

pub(crate) fn plan(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
) -> Result<Plan, PlannerError> {
    let works = layer_works(model, options.numerics);
    let stage = |(i, work)| match locality(model, LayerId(i as u32)) {
        Locality::Whole => Stage::whole(i..i + 1, fastest(devices, work)),
        Locality::Local => strips(model, &speeds(devices, work), i),
    };
    let stages = works.iter().enumerate().map(stage).collect();
    Ok(Plan::new("modnn", options.numerics, stages))
}

fn strips(model: &Model, speeds: &[u64], layer: usize) -> Stage {
    let shape = model.shape(model.layers[layer].output);
    let (rows, cols) = (shape.rows(), shape.cols());
    let longer = rows.max(cols);
    let (shares, placement) = shares(speeds, longer);
    if shares.len() == 1 {
        return Stage::whole(layer..layer + 1, placement[0]);
    }
    let grid = if rows >= cols {
        Grid { row_shares: shares, col_shares: vec![1] }
    } else {
        Grid { row_shares: vec![1], col_shares: shares }
    };
    Stage::cut(layer..layer + 1, grid, placement)
}

/// Whole positions for each device in proportion to its speed, largest remainder first; a device
/// whose share rounds to nothing is left out. Shares are lengths, so cuts fall exactly there.
pub(crate) fn shares(speeds: &[u64], len: usize) -> (Vec<u32>, Vec<Slot>) {
    let total: u128 = speeds.iter().map(|&s| s as u128).sum();
    let exact = |speed: u64| len as u128 * speed as u128;
    let mut parts: Vec<usize> = speeds.iter().map(|&s| (exact(s) / total) as usize).collect();
    let mut order: Vec<usize> = (0..speeds.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(exact(speeds[i]) % total));
    let missing = len - parts.iter().sum::<usize>();
    for &i in order.iter().cycle().take(missing) {
        parts[i] += 1;
    }
    let used = parts.iter().enumerate().filter(|(_, part)| **part > 0);
    used.map(|(i, &part)| (part as u32, Slot(i as u32))).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_speed_and_add_up() {
        let devices = [4, 2, 1];
        assert_eq!(shares(&devices, 14).0, [8, 4, 2]);
        assert_eq!(shares(&devices, 1), (vec![1], vec![Slot(0)]));
        for len in 1..50 {
            assert_eq!(shares(&devices, len).0.iter().sum::<u32>(), len as u32);
        }
    }
}
