//! What goes wrong, and how the others notice.

use crate::cluster::{Cluster, Event};
use crate::device::Device;
use crate::link::End;
use crate::scenario::FaultKind;
use protocol::worker::{Input, Peer};
use protocol::{Nanos, SECOND, WorkerId};

/// How long a worker waits before it calls the coordinator again.
const RECONNECT_NS: Nanos = SECOND / 4;

impl Cluster {
    pub(crate) fn strike(&mut self, fault: usize) {
        match self.scenario.faults[fault].kind {
            FaultKind::Crash(i) => {
                let session = self.devices[i].session;
                self.end_process(i);
                if let Some(session) = session {
                    let at = self.now + self.link(End::Device(i), End::Head).latency_ns;
                    self.schedule(at, Event::HeadLost { device: i, session });
                }
                let peer_life = self.devices[i].life - 1;
                for other in (0..self.devices.len()).filter(|&o| o != i) {
                    let at = self.now + self.link(End::Device(i), End::Device(other)).latency_ns;
                    let lost = Event::PeerLost { device: other, peer: i, peer_life };
                    self.schedule(at, lost);
                }
            }
            FaultKind::PowerLoss(i) => self.end_process(i),
            FaultKind::Restart(i) => {
                if self.devices[i].up {
                    return;
                }
                let old = &self.devices[i];
                let (life, sessions_made) = (old.life, old.sessions_made);
                let mut fresh = Device::new(i, &old.spec);
                (fresh.life, fresh.sessions_made) = (life, sessions_made);
                self.devices[i] = fresh;
                self.connect_later(i);
            }
            FaultKind::SlowDown(i, slowness) => self.devices[i].slowness = slowness.max(1),
            FaultKind::Stall(i, for_ns) => {
                // What waits for the end of a longer stall stays in order.
                let until_ns = &mut self.devices[i].stalled_until_ns;
                *until_ns = (*until_ns).max(self.now + for_ns);
            }
            FaultKind::Cut(a, b) => {
                self.cut.insert((a.min(b), a.max(b)));
            }
            FaultKind::Heal(a, b) => {
                self.cut.remove(&(a.min(b), a.max(b)));
            }
        }
    }

    fn end_process(&mut self, i: usize) {
        let device = &mut self.devices[i];
        device.up = false;
        device.life += 1;
        device.session = None;
        device.inputs.clear();
        device.stalled_until_ns = 0;
    }

    pub(crate) fn connect_later(&mut self, i: usize) {
        let life = self.devices[i].life;
        self.schedule(self.now + RECONNECT_NS, Event::Connect { device: i, life });
    }

    /// Connects to another worker, unless that was done.
    pub(crate) fn dial(&mut self, i: usize, peer: usize) {
        let Some(there) = self.devices.get(peer).filter(|d| d.up) else { return };
        let peer_life = there.life;
        if self.devices[i].peers.insert(peer, peer_life) != Some(peer_life) {
            let at = self.now + 2 * self.link(End::Device(i), End::Device(peer)).latency_ns;
            let life = self.devices[i].life;
            self.schedule(at, Event::PeerUp { device: i, life, peer, peer_life });
        }
    }

    pub(crate) fn peer_up(&mut self, i: usize, life: u32, peer: usize, peer_life: u32) {
        let device = &self.devices[i];
        if device.up && device.life == life && device.peers.get(&peer) == Some(&peer_life) {
            self.device_handle(i, Input::PeerUp(WorkerId(peer as u32)));
        }
    }

    pub(crate) fn peer_lost(&mut self, i: usize, peer: usize, peer_life: u32) {
        if self.devices[i].up && self.devices[i].peers.get(&peer) == Some(&peer_life) {
            self.devices[i].peers.remove(&peer);
            let peer = Peer::Worker(WorkerId(peer as u32));
            self.device_handle(i, Input::Disconnected(peer));
        }
    }
}
