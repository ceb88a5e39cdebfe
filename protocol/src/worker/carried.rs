//! What pieces took on the wire that went from here to other workers: the coordinator plans with it, and
//! sees nothing of them.

use super::Worker;
use crate::ids::ModelHash;
use crate::message::{Bundle, Carried, Message};
use model::MapId;
use std::collections::BTreeMap;
use tiling::Wire;

/// Bytes as they lie in memory, and as they travelled, since the coordinator was told.
#[derive(Debug, Default)]
pub(super) struct Ledger(BTreeMap<(ModelHash, bool), BTreeMap<MapId, (u64, u64)>>);

impl Worker {
    /// Counts a bundle. It is told with the next result, or at once where none is to come soon.
    pub(super) fn on_packed(&mut self, bundle: &Bundle) {
        let Some(plan) = self.plans.get(&bundle.plan) else { return };
        // Maps that are rounded to half floats are another matter.
        let key = (plan.model, plan.body.wire == Wire::F16);
        let maps = self.carried.0.entry(key).or_default();
        for (piece, form) in bundle.pieces.iter().zip(&bundle.forms) {
            let (raw, wire) = maps.entry(piece.map).or_default();
            *raw = raw.saturating_add(piece.byte_len().unwrap_or(0) as u64);
            *wire = wire.saturating_add(form.bytes);
        }
        if self.running.is_none() && self.queue.is_empty() {
            self.tell_carried();
        }
    }

    pub(super) fn tell_carried(&mut self) {
        if self.id.is_none() {
            return;
        }
        for ((model, halved), maps) in std::mem::take(&mut self.carried.0) {
            let wire = if halved { Wire::F16 } else { Wire::Auto };
            let carried = |(map, (raw_bytes, wire_bytes))| Carried { map, raw_bytes, wire_bytes };
            let maps: Vec<Carried> = maps.into_iter().map(carried).collect();
            if !maps.is_empty() {
                self.send(Message::Carried { model, wire, maps });
            }
        }
    }
}
