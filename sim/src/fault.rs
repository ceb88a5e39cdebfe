//! What goes wrong, and how the others notice.

use crate::cluster::Cluster;
use crate::device::Kind;
use crate::events::{End, Event, Parcel};
use crate::head::Head;
use crate::scenario::{Fault, FaultKind, Sabotage};
use protocol::worker::{Input, Peer};
use protocol::{Message, Nanos, SECOND, TaskId, WorkerId};

/// How long a worker waits before it calls the coordinator again.
const RECONNECT_NS: Nanos = SECOND / 4;

/// How long a process that died of a task takes to come back.
const REBIRTH_NS: Nanos = SECOND;

impl Cluster {
    pub(crate) fn strike(&mut self, fault: usize) {
        let kind = self.scenario.faults[fault].kind.clone();
        let (device, what) = describe(&kind);
        self.recorder.mark(self.now, device, what);
        match kind {
            FaultKind::Crash(i) => self.crash(i),
            FaultKind::PowerLoss(i) => self.end_process(i),
            FaultKind::Leave(i) => {
                if let Some(session) = self.devices[i].session {
                    let goodbye = Message::Goodbye { reason: "it leaves".into() };
                    let parcel = Parcel::Message(Box::new(goodbye));
                    let event = Event::ToHead { from: i, session, parcel };
                    self.transmit(End::Device(i), End::Head, event);
                }
                self.crash(i);
            }
            FaultKind::Restart(i) => {
                if !self.devices[i].up {
                    let lies = self.scenario.sabotage == Sabotage::IgnoreMemory;
                    let kind = Kind { lies, measures: self.scenario.measures_pairs };
                    self.devices[i] = self.devices[i].reborn(&self.surveys, kind);
                    self.connect_later(i);
                }
            }
            FaultKind::SlowDown(i, slowness) => {
                self.change_pace(i, |device| device.slowness = slowness.max(1));
            }
            FaultKind::Stall(i, for_ns) => {
                // What waits for the end of a longer stall stays in order.
                let until_ns = &mut self.devices[i].stalled_until_ns;
                *until_ns = (*until_ns).max(self.now + for_ns);
            }
            FaultKind::Hang(i) => self.change_pace(i, |device| device.hangs = true),
            FaultKind::Cut(a, b) => {
                self.cut.insert((a.min(b), a.max(b)));
                self.drop_transfers(|from, to| (from, to) == (a, b) || (from, to) == (b, a));
            }
            FaultKind::Heal(a, b) => {
                self.cut.remove(&(a.min(b), a.max(b)));
            }
            FaultKind::Isolate(i, for_ns) => {
                let until_ns = self.devices[i].blocked_until_ns.max(self.now + for_ns);
                self.devices[i].blocked_until_ns = until_ns;
                self.network.block(self.now, i, true);
                self.schedule(until_ns, Event::Unblock { device: i, at_ns: until_ns });
            }
            FaultKind::RestartCoordinator => self.restart_coordinator(),
            FaultKind::Poison { .. } => {}
        }
    }

    pub(crate) fn unblock(&mut self, i: usize, at_ns: Nanos) {
        if self.devices[i].blocked_until_ns == at_ns {
            self.network.block(self.now, i, false);
        }
    }

    fn crash(&mut self, i: usize) {
        let session = self.devices[i].session;
        if !self.devices[i].up {
            return;
        }
        self.end_process(i);
        if let Some(session) = session {
            // The reset comes after what was sent before.
            let at = self.now + 2 * self.usual_way(End::Device(i), End::Head);
            self.schedule(at, Event::HeadLost { device: i, session });
        }
        let peer_life = self.devices[i].life - 1;
        for other in 0..self.devices.len() {
            if self.devices[other].peers.get(&i) == Some(&peer_life) {
                let at = self.now + self.usual_way(End::Device(i), End::Device(other));
                self.schedule(at, Event::PeerLost { device: other, peer: i, peer_life });
            }
        }
    }

    fn end_process(&mut self, i: usize) {
        self.devices[i].end();
        self.drop_transfers(|from, to| from == i || to == i);
    }

    pub(crate) fn is_poison(&self, task: TaskId) -> bool {
        let kinds = self.scenario.faults.iter().map(|f| &f.kind);
        let poison = FaultKind::Poison { frame: task.frame.number(), tile: task.tile };
        task.stage == 0 && kinds.into_iter().any(|kind| *kind == poison)
    }

    pub(crate) fn die_of_poison(&mut self, i: usize) {
        self.crash(i);
        let (at_ns, kind) = (self.now + REBIRTH_NS, FaultKind::Restart(i));
        self.scenario.faults.push(Fault { at_ns, kind });
        self.schedule(at_ns, Event::Fault(self.scenario.faults.len() - 1));
    }

    /// A new coordinator that knows nothing; whoever submitted the frames does so again.
    fn restart_coordinator(&mut self) {
        let head = self.devices.len();
        self.drop_transfers(|from, to| from == head || to == head);
        for i in 0..self.devices.len() {
            if let Some(session) = self.head.sessions[i].take() {
                let at = self.now + self.usual_way(End::Head, End::Device(i));
                self.schedule(at, Event::DeviceLost { device: i, session });
            }
        }
        let old = std::mem::replace(&mut self.head, Head::new(&self.scenario));
        self.head.survive(old);
        self.invariants.begin_again();
        self.schedule(self.now + RECONNECT_NS, Event::Resubmit);
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
            let at = self.now + 2 * self.usual_way(End::Device(i), End::Device(peer));
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

/// A fault in words, and the device that it strikes.
fn describe(kind: &FaultKind) -> (Option<usize>, String) {
    let seconds = |ns: &Nanos| *ns as f64 / SECOND as f64;
    match kind {
        FaultKind::Crash(i) => (Some(*i), "crash".into()),
        FaultKind::PowerLoss(i) => (Some(*i), "power loss".into()),
        FaultKind::Leave(i) => (Some(*i), "leaves".into()),
        FaultKind::Restart(i) => (Some(*i), "restart".into()),
        FaultKind::SlowDown(i, times) => (Some(*i), format!("{times} times slower")),
        FaultKind::Stall(i, ns) => (Some(*i), format!("stalls for {} s", seconds(ns))),
        FaultKind::Hang(i) => (Some(*i), "computes nothing any more".into()),
        FaultKind::Cut(a, b) => (Some(*a), format!("link to device {b} cut")),
        FaultKind::Heal(a, b) => (Some(*a), format!("link to device {b} healed")),
        FaultKind::Isolate(i, ns) => (Some(*i), format!("no network for {} s", seconds(ns))),
        FaultKind::RestartCoordinator => (None, "the coordinator restarts".into()),
        FaultKind::Poison { frame, tile } => {
            (None, format!("tile {tile} of frame {frame} is poison"))
        }
    }
}
