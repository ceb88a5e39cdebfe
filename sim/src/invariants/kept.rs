//! What the coordinator takes a worker to keep for later stages, that worker has: a task that is
//! sent to take it from there would wait for ever.

use super::Violation;
use crate::cluster::Cluster;

impl Cluster {
    /// Looks at one device. What its last message said of it may still be on its way.
    pub(super) fn check_kept(&self, i: usize) -> Result<(), Violation> {
        let (device, head) = (&self.devices[i], &self.head);
        let in_touch =
            device.up && device.session == head.sessions[i] && device.session == head.joined[i];
        if !in_touch || self.scenario.payload.frames() == 0 {
            return Ok(());
        }
        for (frame, piece) in head.machine.kept_by(device.id()) {
            let kept = device.kept.get(&frame).into_iter().flatten();
            let mut covers =
                kept.filter(|(k, _)| k.map == piece.map && k.region.contains(piece.region));
            if covers.next().is_none() {
                return Err(Violation::NotKept { worker: device.id(), frame });
            }
        }
        Ok(())
    }
}
