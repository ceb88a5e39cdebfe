//! A coordinator and its embedded worker in one process: the same queues, no socket.

use crate::{Command, Event, Identity, Net, Payload, Permit, Wanted};
use libp2p::PeerId;
use tokio::sync::mpsc;

/// Two connected ends: the coordinator's, then the worker's.
pub fn loopback() -> (Net, Net) {
    let (left_id, right_id) = (Identity::ephemeral().peer_id(), Identity::ephemeral().peer_id());
    let (left_commands, left_rx) = mpsc::unbounded_channel();
    let (right_commands, right_rx) = mpsc::unbounded_channel();
    let (left_events, left_event_rx) = mpsc::unbounded_channel();
    let (right_events, right_event_rx) = mpsc::unbounded_channel();
    let _ = left_events.send(Event::Up(right_id, protocol::VERSION, Vec::new()));
    let _ = right_events.send(Event::Up(left_id, protocol::VERSION, Vec::new()));
    // When either end is done, so is the other: both queues close together.
    tokio::spawn(async move {
        tokio::select! {
            () = carry(left_id, left_rx, right_events) => {}
            () = carry(right_id, right_rx, left_events) => {}
        }
    });
    let net = |local, commands, events| Net {
        local,
        listening: Vec::new(),
        commands,
        events,
        wanted: Wanted::default(),
        counters: crate::Counters::default(),
    };
    (net(left_id, left_commands, left_event_rx), net(right_id, right_commands, right_event_rx))
}

async fn carry(
    from: PeerId,
    mut commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::UnboundedSender<Event>,
) {
    while let Some(command) = commands.recv().await {
        let event = match command {
            Command::Send(_, message) => Event::Message(from, message, Permit(None)),
            Command::SendBundle(_, bundle, payload) => {
                let sizes = bundle.wire_lens().unwrap_or_default();
                let pieces = split(payload, sizes.into_iter());
                Event::Bundle(from, bundle, pieces, Permit(None))
            }
            Command::SendBlob(_, hash, payload) => {
                Event::Blob(from, hash, payload.slices().flatten().copied().collect())
            }
            Command::Members(_) => continue,
            Command::Disconnect(_, reason) => Event::Down(from, reason),
            Command::Shutdown => break,
        };
        if events.send(event).is_err() {
            return;
        }
    }
    let _ = events.send(Event::Down(from, "it went away".into()));
}

fn split(mut payload: Payload, sizes: impl Iterator<Item = usize>) -> Vec<Vec<u8>> {
    let piece = |bytes: usize| {
        let mut values = vec![0; bytes];
        let mut rest = values.as_mut_slice();
        for slice in payload.split_front(bytes).slices() {
            let (head, tail) = rest.split_at_mut(slice.len());
            head.copy_from_slice(slice);
            rest = tail;
        }
        values
    };
    sizes.map(piece).collect()
}
