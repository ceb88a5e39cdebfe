//! Real swarms on loopback: admission, delivery, and what a bad peer gets.

use model::{MapId, WeightHash};
use net::{
    Command, Event, Identity, Multiaddr, Net, NetConfig, NetError, Payload, PeerId, Register, Role,
    Terms, Token,
};
use protocol::{Bundle, BundleKind, FrameId, LAST_VERSION, Message, PieceHeader, PlanId, TaskId};
use std::sync::Arc;
use std::time::Duration;
use tiling::{Region, Span};

fn anywhere() -> Vec<Multiaddr> {
    vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()]
}

fn config(identity: Identity, role: Role) -> NetConfig {
    NetConfig { mdns: false, ..NetConfig::new(identity, role, anywhere()) }
}

async fn coordinator() -> (Net, Token) {
    let register = Register::in_memory();
    let role = Role::Coordinator(register.clone());
    let net = net::start(config(Identity::ephemeral(), role)).await.unwrap();
    let token = token(&net, &register);
    (net, token)
}

fn token(net: &Net, register: &Register) -> Token {
    let invitation = register.invite(&Terms::default()).unwrap();
    Token::new(net.local, net.listening.clone(), &invitation)
}

async fn worker(token: &Token) -> Net {
    net::start(config(Identity::ephemeral(), Role::Worker(token.clone()))).await.unwrap()
}

async fn next(net: &mut Net) -> Event {
    let event = tokio::time::timeout(Duration::from_secs(20), net.events.recv());
    event.await.expect("an event within 20 s").expect("the network runs")
}

async fn connected() -> (Net, Net) {
    let (mut coordinator, token) = coordinator().await;
    let mut worker = worker(&token).await;
    assert!(matches!(next(&mut coordinator).await, Event::Up(..)));
    assert!(matches!(next(&mut worker).await, Event::Up(..)));
    (coordinator, worker)
}

fn bundle(rows: usize, channels: u32) -> Bundle {
    let region = Region::new(Span::whole(rows), Span::whole(100));
    let piece =
        |map| PieceHeader { map: MapId(map), region, channels, element: model::Element::F32 };
    Bundle {
        kind: BundleKind::Scatter,
        plan: PlanId(1),
        task: TaskId { frame: FrameId(1), stage: 0, tile: 0 },
        attempt: 1,
        pieces: vec![piece(0), piece(1)],
        forms: Vec::new(),
        orders: protocol::Orders::default(),
    }
}

fn bytes_of(values: &[f32]) -> Payload {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Payload::whole(Arc::new(bytes))
}

#[tokio::test]
async fn messages_bundles_and_blobs_arrive_as_sent() {
    let (coordinator, mut worker) = connected().await;
    let hello = Message::Heartbeat;
    coordinator.commands.send(Command::Send(worker.local, hello.clone())).unwrap();
    let Event::Message(from, message, _) = next(&mut worker).await else { panic!("a message") };
    assert_eq!((from, message), (coordinator.local, hello));

    // Larger than the credit, so that chunks and credit are really used.
    let sent = bundle(1000, 3);
    let values: Vec<f32> = (0..sent.byte_len().unwrap() / 4).map(|i| i as f32).collect();
    let command = Command::SendBundle(worker.local, sent.clone(), bytes_of(&values));
    coordinator.commands.send(command).unwrap();
    let Event::Bundle(_, got, pieces, _) = next(&mut worker).await else { panic!("a bundle") };
    assert_eq!(got, sent);
    let sent: &[u8] = bytemuck::cast_slice(&values);
    assert_eq!(pieces.concat(), sent);

    let blob: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
    let hash = WeightHash::of_bytes(&blob);
    worker.wanted.expect([hash]);
    let payload = Payload::whole(Arc::new(blob.clone()));
    coordinator.commands.send(Command::SendBlob(worker.local, hash, payload)).unwrap();
    let Event::Blob(_, got, bytes) = next(&mut worker).await else { panic!("a blob") };
    assert_eq!((got, bytes), (hash, blob));
}

#[tokio::test]
async fn another_protocol_version_is_named() {
    let (_coordinator, token) = coordinator().await;
    let mut old = config(Identity::ephemeral(), Role::Worker(token));
    old.version = 99;
    let mut worker = net::start(old).await.unwrap();
    let Event::Refused(reason) = next(&mut worker).await else { panic!("a refusal") };
    assert!(reason.reason.contains("99") && reason.cure.contains("release"), "{reason}");
}

#[tokio::test]
async fn the_last_version_is_spoken_by_whoever_dials() {
    let old = |config: NetConfig| NetConfig { version: LAST_VERSION, ..config };
    // Who is older says its own version, and who is newer falls back to it.
    for (coordinator_is_old, worker_is_old) in [(false, true), (true, false), (true, true)] {
        let aged = |config, is_old| if is_old { old(config) } else { config };
        let register = Register::in_memory();
        let invitation = register.invite(&Terms::default()).unwrap();
        let role = Role::Coordinator(register);
        let settings = aged(config(Identity::ephemeral(), role), coordinator_is_old);
        let mut coordinator = net::start(settings).await.unwrap();
        let token = Token::new(coordinator.local, coordinator.listening.clone(), &invitation);
        let settings = aged(config(Identity::ephemeral(), Role::Worker(token)), worker_is_old);
        let mut worker = net::start(settings).await.unwrap();
        let (above, below) = (coordinator.local, worker.local);
        for (net, other) in [(&mut worker, above), (&mut coordinator, below)] {
            let Event::Up(peer, version, _) = next(net).await else { panic!("up") };
            assert_eq!((peer, version), (other, LAST_VERSION));
        }
    }
}

#[tokio::test]
async fn another_coordinator_at_the_same_address_is_not_joined() {
    let (_impostor, token) = coordinator().await;
    let mut wrong = token;
    wrong.coordinator = Identity::ephemeral().peer_id();
    wrong.addresses.truncate(1);
    let mut worker = worker(&wrong).await;
    let Event::Unreachable(_) = next(&mut worker).await else { panic!("unreachable") };
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let (coordinator, _token) = coordinator().await;
    let mut second = config(Identity::ephemeral(), Role::Coordinator(Register::in_memory()));
    second.listen = coordinator.listening.clone();
    let error = net::start(second).await.unwrap_err();
    assert!(matches!(error, NetError::Listen { .. }), "{error}");
}

async fn expect_cut_off(command: Command) {
    let (mut coordinator, worker) = connected().await;
    worker.commands.send(command_to(command, coordinator.local)).unwrap();
    let Event::Down(_, reason) = next(&mut coordinator).await else { panic!("cut off") };
    assert!(reason.contains("breach of protocol"), "{reason}");
}

fn command_to(command: Command, to: net::PeerId) -> Command {
    match command {
        Command::SendBundle(_, bundle, payload) => Command::SendBundle(to, bundle, payload),
        Command::SendBlob(_, hash, payload) => Command::SendBlob(to, hash, payload),
        other => other,
    }
}

#[tokio::test]
async fn an_oversized_bundle_cuts_the_peer_off() {
    let nobody = Identity::ephemeral().peer_id();
    let huge = bundle(1 << 40, 1 << 20);
    expect_cut_off(Command::SendBundle(nobody, huge, Payload::new())).await;
}

#[tokio::test]
async fn more_bytes_than_announced_cut_the_peer_off() {
    let nobody = Identity::ephemeral().peer_id();
    let small = bundle(1, 1);
    expect_cut_off(Command::SendBundle(nobody, small, bytes_of(&[0.0; 1000]))).await;
}

#[tokio::test]
async fn a_blob_that_nobody_wants_cuts_the_peer_off() {
    let nobody = Identity::ephemeral().peer_id();
    let hash = WeightHash::of_bytes(b"x");
    expect_cut_off(Command::SendBlob(nobody, hash, bytes_of(&[1.0]))).await;
}

#[tokio::test]
async fn a_blob_with_another_content_cuts_the_peer_off() {
    let (coordinator, mut worker) = connected().await;
    let hash = WeightHash::of_bytes(b"something else");
    worker.wanted.expect([hash]);
    let command = Command::SendBlob(worker.local, hash, bytes_of(&[1.0]));
    coordinator.commands.send(command).unwrap();
    let Event::Down(_, reason) = next(&mut worker).await else { panic!("cut off") };
    assert!(reason.contains("another content"), "{reason}");
}

#[tokio::test]
async fn a_worker_that_starts_first_finds_its_coordinator_later_and_again() {
    // Reserve a port, so that the token is known before the coordinator lives.
    let (identity, register) = (Identity::ephemeral(), Register::in_memory());
    let role = Role::Coordinator(register.clone());
    let first = net::start(config(identity.clone(), role.clone())).await.unwrap();
    let listening = first.listening.clone();
    let token = token(&first, &register);
    drop(first);
    let mut worker = worker(&token).await;
    for _ in 0..2 {
        let again =
            NetConfig { listen: listening.clone(), ..config(identity.clone(), role.clone()) };
        let coordinator = start_when_free(again).await;
        loop {
            match next(&mut worker).await {
                Event::Up(peer, ..) => break assert_eq!(peer, token.coordinator),
                Event::Unreachable(_) | Event::Down(..) => {}
                other => panic!("{other:?}"),
            }
        }
        drop(coordinator);
        while !matches!(next(&mut worker).await, Event::Down(..)) {}
    }
}

/// A dropped network ends a moment later and frees its port then.
async fn start_when_free(config: NetConfig) -> Net {
    for _ in 0..100 {
        if let Ok(net) = net::start(config.clone()).await {
            return net;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the port stays taken");
}

/// Two workers that know of each other, and what they were told.
async fn acquainted() -> (Net, [Net; 2], Vec<(PeerId, Vec<Multiaddr>)>) {
    let (mut coordinator, token) = coordinator().await;
    let mut workers = [worker(&token).await, worker(&token).await];
    let mut members = Vec::new();
    for _ in 0..2 {
        let Event::Up(peer, _, addresses) = next(&mut coordinator).await else { panic!("up") };
        members.push((peer, addresses));
    }
    for net in &mut workers {
        assert!(matches!(next(net).await, Event::Up(peer, ..) if peer == token.coordinator));
        net.commands.send(Command::Members(members.clone())).unwrap();
    }
    let [a, b] = &mut workers;
    assert!(matches!(next(a).await, Event::Up(peer, ..) if peer == b.local));
    assert!(matches!(next(b).await, Event::Up(peer, ..) if peer == a.local));
    (coordinator, workers, members)
}

#[tokio::test]
async fn workers_on_the_roster_connect_to_each_other() {
    acquainted().await;
}

#[tokio::test]
async fn who_loses_the_coordinator_begins_anew_with_the_others() {
    let (coordinator, [mut a, mut b], members) = acquainted().await;
    a.commands.send(Command::Disconnect(coordinator.local, "silent".into())).unwrap();
    let mut lost = Vec::new();
    for _ in 0..2 {
        let Event::Down(peer, _) = next(&mut a).await else { panic!("down") };
        lost.push(peer);
    }
    assert_eq!(lost, [coordinator.local, b.local]);
    assert!(matches!(next(&mut b).await, Event::Down(peer, _) if peer == a.local));
    assert!(matches!(next(&mut a).await, Event::Up(peer, ..) if peer == coordinator.local));
    a.commands.send(Command::Members(members)).unwrap();
    assert!(matches!(next(&mut a).await, Event::Up(peer, ..) if peer == b.local));
    assert!(matches!(next(&mut b).await, Event::Up(peer, ..) if peer == a.local));
}
