//! What others on the same network can do to a coordinator: over real sockets, with the claims,
//! lengths and silences that an honest worker never sends. Each ends in a counter, and a session
//! that is up goes on.

mod support;

use futures::AsyncWriteExt;
use net::{
    Answer, Command, Event, Identity, Intent, Multiaddr, Net, NetConfig, Register, Role, Terms,
    Token,
};
use protocol::Message;
use std::time::Duration;
use support::{ASK, BULK, CONTROL, Claim, Stranger, Verdict, WORK, invitation, proof, say};
use tokio::net::TcpStream;

struct Coordinator {
    net: Net,
    register: Register,
}

fn anywhere() -> Vec<Multiaddr> {
    vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()]
}

fn config(identity: Identity, role: Role) -> NetConfig {
    NetConfig { mdns: false, ..NetConfig::new(identity, role, anywhere()) }
}

impl Coordinator {
    async fn start() -> Self {
        let register = Register::in_memory();
        let role = Role::Coordinator(register.clone());
        let net = net::start(config(Identity::ephemeral(), role)).await.unwrap();
        Self { net, register }
    }

    fn token(&self, lifetime_s: Option<u64>) -> Token {
        let terms = Terms { label: String::new(), lifetime_s };
        let invitation = self.register.invite(&terms).unwrap();
        Token::new(self.net.local, self.net.listening.clone(), &invitation)
    }

    /// Waits until so many handshakes ended badly.
    async fn turned_away(&self, count: u64) {
        until(|| self.net.counters.turned_away() >= count).await;
    }

    async fn crowded_out(&self, count: u64) {
        until(|| self.net.counters.crowded_out() >= count).await;
    }

    /// Nothing of the protocol was heard.
    fn heard_nothing(&mut self) {
        assert!(self.net.events.try_recv().is_err(), "the driver hears nothing of strangers");
    }
}

async fn until(mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it happens within 30 s");
}

async fn next(net: &mut Net) -> Event {
    let event = tokio::time::timeout(Duration::from_secs(30), net.events.recv());
    event.await.expect("an event within 30 s").expect("the network runs")
}

async fn worker(identity: Identity, token: &Token) -> Net {
    net::start(config(identity, Role::Worker(token.clone()))).await.unwrap()
}

/// Waits until a session is up, whatever was tried before.
async fn up(net: &mut Net) {
    loop {
        match next(net).await {
            Event::Up(..) => return,
            Event::Unreachable(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A worker that is up.
async fn joined(coordinator: &mut Coordinator, token: &Token) -> Net {
    let mut worker = worker(Identity::ephemeral(), token).await;
    assert!(matches!(next(&mut coordinator.net).await, Event::Up(..)));
    assert!(matches!(next(&mut worker).await, Event::Up(..)));
    worker
}

/// A word there and back.
async fn talk(coordinator: &mut Coordinator, worker: &mut Net) {
    let there = Command::Send(worker.local, Message::Heartbeat);
    coordinator.net.commands.send(there).unwrap();
    assert!(matches!(next(worker).await, Event::Message(_, Message::Heartbeat, _)));
    let back = Command::Send(coordinator.net.local, Message::Heartbeat);
    worker.commands.send(back).unwrap();
    assert!(matches!(next(&mut coordinator.net).await, Event::Message(_, Message::Heartbeat, _)));
}

fn without_proof(intent: u8) -> Claim {
    let (proof, name, addresses) = (Vec::new(), "mallory".to_owned(), Vec::new());
    Claim { intent, invitation: None, proof, name, addresses }
}

fn refused(verdict: Verdict, word: &str) {
    let Verdict::Refused(reason, _) = verdict else { panic!("admitted") };
    assert!(reason.contains(word), "{reason}");
}

#[tokio::test]
async fn without_a_token_nobody_comes_in() {
    let mut coordinator = Coordinator::start().await;
    let token = coordinator.token(None);
    let mut stranger = Stranger::connected(&token).await;
    refused(stranger.shake(|_| without_proof(WORK)).await, "no token");
    let guess =
        |_| Claim { invitation: invitation(&token), proof: vec![7; 32], ..without_proof(WORK) };
    refused(stranger.shake(guess).await, "no invitation");
    for odd in [vec![], vec![0; 31], vec![0; 4000]] {
        let claim = |_| Claim { invitation: invitation(&token), proof: odd, ..without_proof(WORK) };
        refused(stranger.shake(claim).await, "no invitation");
    }
    coordinator.turned_away(5).await;
    coordinator.heard_nothing();
    assert!(coordinator.register.read().unwrap().members.is_empty());
}

#[tokio::test]
async fn an_old_token_is_told_what_became_of_it() {
    let mut coordinator = Coordinator::start().await;
    let (expired, revoked) = (coordinator.token(Some(0)), coordinator.token(None));
    coordinator.register.change(|r| (true, r.revoke(revoked.invitation).is_some())).unwrap();
    for (token, word) in [(expired, "expired"), (revoked, "revoked")] {
        let mut worker = worker(Identity::ephemeral(), &token).await;
        let Event::Refused(why) = next(&mut worker).await else { panic!("a refusal") };
        assert!(why.reason.contains(word) && why.cure.contains("cluster token"), "{why}");
    }
    coordinator.heard_nothing();
}

#[tokio::test]
async fn a_member_comes_back_without_and_a_removed_one_does_not() {
    let mut coordinator = Coordinator::start().await;
    let token = coordinator.token(None);
    let identity = Identity::ephemeral();
    for _ in 0..2 {
        let mut there = worker(identity.clone(), &token).await;
        assert!(matches!(next(&mut coordinator.net).await, Event::Up(..)));
        assert!(matches!(next(&mut there).await, Event::Up(..)));
        drop(there);
        assert!(matches!(next(&mut coordinator.net).await, Event::Down(..)));
        coordinator.register.change(|r| (true, r.revoke(token.invitation).is_some())).unwrap();
    }
    let peer = identity.peer_id();
    coordinator.register.change(|r| (true, r.remove(&peer, net::now_unix_s()).is_some())).unwrap();
    let mut gone = worker(identity.clone(), &token).await;
    let Event::Refused(why) = next(&mut gone).await else { panic!("a refusal") };
    assert!(why.reason.contains("removed"), "{why}");
    let again = coordinator.token(None);
    let mut back = worker(identity, &again).await;
    assert!(matches!(next(&mut back).await, Event::Up(..)));
}

#[tokio::test]
async fn a_recorded_handshake_is_of_no_use() {
    let coordinator = Coordinator::start().await;
    let token = coordinator.token(None);
    let key = libp2p::identity::Keypair::generate_ed25519();
    let mut honest = Stranger::with_key(key.clone(), &token).await;
    let mut recorded = None;
    let peer = honest.peer;
    // Asked only, so that it is no member afterwards.
    let verdict = honest.shake(|nonce| {
        let proof = proof(&token, &nonce, &peer);
        let claim = Claim { invitation: invitation(&token), proof, ..without_proof(ASK) };
        recorded.insert(claim).clone()
    });
    assert!(matches!(verdict.await, Verdict::Ok(_)), "it was a good one");
    let recorded = recorded.unwrap();
    // With the same key and with another one: the coordinator drew another nonce.
    let mut others = [honest, Stranger::connected(&token).await];
    for other in &mut others {
        refused(other.shake(|_| recorded.clone()).await, "no invitation");
    }
    // A proof made for one worker, shown by another within the same handshake.
    let stolen = |nonce| Claim { proof: proof(&token, &nonce, &peer), ..recorded.clone() };
    refused(others[1].shake(stolen).await, "no invitation");
    coordinator.turned_away(3).await;
}

/// The identity is the transport's: who it is, is nowhere in what a worker says of itself.
#[tokio::test]
async fn nobody_comes_in_as_somebody_else() {
    let mut coordinator = Coordinator::start().await;
    let token = coordinator.token(None);
    let mut member = joined(&mut coordinator, &token).await;
    let addresses = member.listening.iter().map(|a| a.to_string()).collect();
    let name = coordinator.register.read().unwrap().members[0].name.clone();
    let mut mallory = Stranger::connected(&token).await;
    let claim = Claim { name, addresses, ..without_proof(WORK) };
    refused(mallory.shake(|_| claim).await, "no member");
    // A key with the member's public half and another secret half cannot even be put together.
    let public = libp2p::identity::Keypair::generate_ed25519().public();
    let public = public.try_into_ed25519().unwrap().to_bytes();
    let own = libp2p::identity::ed25519::Keypair::generate().to_bytes();
    let mut forged = [&own[..32], &public[..]].concat();
    assert!(libp2p::identity::ed25519::Keypair::try_from_bytes(&mut forged).is_err());
    talk(&mut coordinator, &mut member).await;
}

#[tokio::test]
async fn lengths_that_lie_and_garbage_end_the_handshake() {
    let mut coordinator = Coordinator::start().await;
    let token = coordinator.token(None);
    let mut stranger = Stranger::connected(&token).await;
    let mut garbage = stranger.open(CONTROL).await;
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    garbage.flush().await.unwrap();
    coordinator.turned_away(1).await;
    for (count, length) in [(2, u32::MAX), (3, 1 << 20)] {
        let (mut stream, _) = stranger.begin().await;
        stream.write_all(&length.to_le_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        // Refused by the length alone: not a byte of the claim was sent.
        coordinator.turned_away(count).await;
    }
    let (mut stream, _) = stranger.begin().await;
    let bytes = [40u32.to_le_bytes().as_slice(), &[0xff; 40]].concat();
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
    coordinator.turned_away(4).await;
    coordinator.heard_nothing();
}

/// A member that says whatever a test wants, with a session that is up.
struct Raw {
    node: Stranger,
    control: libp2p::Stream,
    _bulk: libp2p::Stream,
}

impl Raw {
    async fn joined(coordinator: &mut Coordinator, token: &Token) -> Self {
        let mut node = Stranger::connected(token).await;
        let peer = node.peer;
        let (mut control, nonce) = node.begin().await;
        let proof = proof(token, &nonce, &peer);
        let claim = Claim { invitation: invitation(token), proof, ..without_proof(WORK) };
        say(&mut control, &claim).await;
        assert!(matches!(support::hear(&mut control).await, Verdict::Ok(_)));
        let mut bulk = node.open(BULK).await;
        // Nothing is negotiated before something is sent: credit that nobody owes.
        bulk.write_all(&[3, 1, 0, 0, 0]).await.unwrap();
        bulk.flush().await.unwrap();
        up(&mut coordinator.net).await;
        Self { node, control, _bulk: bulk }
    }
}

#[tokio::test]
async fn a_member_that_lies_about_a_length_is_cut_off_and_counted() {
    let mut coordinator = Coordinator::start().await;
    let token = coordinator.token(None);
    let mut liar = Raw::joined(&mut coordinator, &token).await;
    liar.control.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    liar.control.flush().await.unwrap();
    let Event::Down(_, reason) = next(&mut coordinator.net).await else { panic!("cut off") };
    assert!(reason.contains("4294967295 bytes"), "{reason}");
    assert_eq!(coordinator.net.counters.breaches(), 1);
    liar.node.is_cut_off().await;
}

#[tokio::test]
async fn a_second_handshake_that_fails_does_not_end_the_session_of_the_first() {
    let mut coordinator = Coordinator::start().await;
    let token = coordinator.token(None);
    let mut member = Raw::joined(&mut coordinator, &token).await;
    let mut garbage = member.node.open(CONTROL).await;
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    garbage.flush().await.unwrap();
    coordinator.turned_away(1).await;
    let heartbeat = postcard::to_stdvec(&Message::Heartbeat).unwrap();
    let framed = [&(heartbeat.len() as u32).to_le_bytes()[..], &heartbeat].concat();
    member.control.write_all(&framed).await.unwrap();
    member.control.flush().await.unwrap();
    let heard = next(&mut coordinator.net).await;
    assert!(matches!(heard, Event::Message(_, Message::Heartbeat, _)), "{heard:?}");
}

/// With the key of a worker that is up, as its doctor does.
#[tokio::test]
async fn asking_disturbs_nobody_and_leaves_no_trace() {
    let mut coordinator = Coordinator::start().await;
    let token = coordinator.token(None);
    let identity = Identity::ephemeral();
    let asks = |identity: &Identity| {
        let config = config(identity.clone(), Role::Worker(token.clone()));
        net::ask(config, Intent::Ask, Duration::from_secs(20))
    };
    assert!(matches!(asks(&identity).await.unwrap(), Answer::Admitted { .. }));
    assert!(coordinator.register.read().unwrap().members.is_empty());
    let mut member = worker(identity.clone(), &token).await;
    up(&mut coordinator.net).await;
    up(&mut member).await;
    assert!(matches!(asks(&identity).await.unwrap(), Answer::Admitted { .. }));
    talk(&mut coordinator, &mut member).await;
    coordinator.register.change(|r| (true, r.revoke(token.invitation).is_some())).unwrap();
    let Answer::Refused(why) = asks(&Identity::ephemeral()).await.unwrap() else { panic!("in") };
    assert!(why.reason.contains("revoked"), "{why}");
}

#[tokio::test]
async fn a_stream_that_never_ends_keeps_no_stranger_in() {
    let mut coordinator = Coordinator::start().await;
    let token = coordinator.token(None);
    let mut stranger = Stranger::connected(&token).await;
    let mut bulk = stranger.open(BULK).await;
    let _ = bulk.write_all(&[1; 64]).await;
    let _ = bulk.flush().await;
    coordinator.crowded_out(1).await;
    // Told in dribbles, a handshake takes no longer than any other.
    let mut slow = stranger.open(CONTROL).await;
    slow.write_all(b"TILE").await.unwrap();
    slow.flush().await.unwrap();
    coordinator.turned_away(1).await;
    // Nothing keeps the connection open now.
    drop((bulk, slow));
    stranger.is_cut_off().await;
    coordinator.heard_nothing();
}

/// Handshakes that were begun and left: 32 at a time and 5 s each, whatever their number.
#[tokio::test]
async fn a_flood_of_half_open_handshakes_is_bounded_and_passes() {
    let mut coordinator = Coordinator::start().await;
    let token = coordinator.token(None);
    let mut member = joined(&mut coordinator, &token).await;
    let mut flood = Vec::new();
    for _ in 0..40 {
        let mut stranger = Stranger::connected(&token).await;
        let mut stream = stranger.open(CONTROL).await;
        // A stream that found no place is over by now.
        let _ = stream.write_all(b"T").await;
        let _ = stream.flush().await;
        flood.push((stranger, stream));
    }
    coordinator.crowded_out(8).await;
    talk(&mut coordinator, &mut member).await;
    // An honest worker outside tries again until the lobby is empty.
    let mut late = worker(Identity::ephemeral(), &token).await;
    up(&mut coordinator.net).await;
    up(&mut late).await;
    talk(&mut coordinator, &mut member).await;
    coordinator.turned_away(32).await;
}

/// Sockets that are opened and left: this process holds a bounded number of them.
#[tokio::test]
async fn a_flood_of_connections_is_bounded_and_passes() {
    let mut coordinator = Coordinator::start().await;
    let token = coordinator.token(None);
    let mut member = joined(&mut coordinator, &token).await;
    let port = coordinator.net.listening[0].iter().find_map(|part| match part {
        libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let (descriptors, memory) = (descriptors(), resident_bytes());
    let mut flood = Vec::new();
    for _ in 0..300 {
        flood.push(TcpStream::connect(("127.0.0.1", port.unwrap())).await.unwrap());
    }
    talk(&mut coordinator, &mut member).await;
    // Both ends are in this process: of the other ends at most 32 are left, the rest was closed.
    until(|| self::descriptors() <= descriptors + flood.len() + 32 + 8).await;
    assert!(resident_bytes() < memory + (64 << 20), "each costs some kilobytes");
    let mut late = worker(Identity::ephemeral(), &token).await;
    up(&mut coordinator.net).await;
    up(&mut late).await;
    talk(&mut coordinator, &mut member).await;
}

/// Open files of this process; none where the system does not tell.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count())
}

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}
