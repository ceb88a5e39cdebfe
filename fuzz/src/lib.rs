//! Everything that Tilehive reads from outside, as functions of bytes that may be anything. The fuzz
//! targets call these, and so does `tests/tests/seeds.rs` with the files in `seeds/`. They end with an
//! error or not, but never with a panic, and ask for no memory that the bytes do not pay for.

use kernels::wire;
use model::{Element, LoadOptions};
use std::str::FromStr;
use tiling::{Encoding, Region, Span};
use vision::Size;

/// What a decoded picture or array may take here: enough for every path, little enough to try many.
const DECODED_BYTES_MAX: u64 = 16 << 20;

/// A target's name, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 9] = [
    ("onnx", onnx),
    ("messages", messages),
    ("graph", graph),
    ("piece", piece),
    ("token", token),
    ("register", register),
    ("configs", configs),
    ("arrays", arrays),
    ("pictures", pictures),
];

/// A model file.
pub fn onnx(bytes: &[u8]) {
    let input_size = Some(model::Axes::new(8, 8));
    if let Ok(loaded) = model::onnx::from_bytes(bytes, "fuzz", &LoadOptions { input_size }) {
        loaded.graph.validate().expect("what was read is sound");
    }
}

/// What comes over a connection: messages, the handshake, headers of bundles and blobs.
pub fn messages(bytes: &[u8]) {
    net::outside::anything(bytes);
}

/// A graph that came over a connection, as a worker opens it.
pub fn graph(bytes: &[u8]) {
    if let Ok(graph) = postcard::from_bytes::<model::Model>(bytes) {
        let _ = graph.validate();
    }
}

/// The values of a piece: its header says the first bytes, the rest is what travelled.
pub fn piece(bytes: &[u8]) {
    let Some((head, values)) = bytes.split_at_checked(8) else { return };
    let span = |start: u8, len: u8| Span {
        start: start.into(),
        end: usize::from(start) + usize::from(len),
    };
    let region = Region { rows: span(head[0], head[1]), cols: span(head[2], head[3]) };
    let channels = usize::from(u16::from_le_bytes([head[4], head[5]]));
    let encodings =
        [Encoding::Raw, Encoding::Palette, Encoding::Zeros, Encoding::Half, Encoding::HalfZeros];
    let encoding = encodings[usize::from(head[6]) % encodings.len()];
    let elements = [Element::F32, Element::U8, Element::I8];
    let element = elements[usize::from(head[7]) % elements.len()];
    if let Ok(piece) = wire::decode(region, channels, element, encoding, values) {
        assert_eq!(piece.region, region);
        if let Some(again) = wire::encode(&piece, region) {
            let back = wire::decode(region, channels, element, again.encoding, &again.bytes);
            let back = back.expect("what was encoded can be decoded");
            assert!(back.as_bytes() == piece.as_bytes(), "an encoding gives back the same bits");
        }
    }
}

/// A token that somebody pasted.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = net::Token::from_str(text) {
        let again = net::Token::from_str(&token.to_string());
        assert!(again.is_ok_and(|again| again == token), "a token's text is that token");
    }
}

/// The file of invitations and members.
pub fn register(bytes: &[u8]) {
    if let Ok(admission) = net::outside::register(bytes) {
        let again = serde_json::to_vec(&admission).expect("what was read can be written");
        net::outside::register(&again).expect("what was written can be read");
    }
}

/// Devices, links, clusters and scenarios.
pub fn configs(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    sim::files::parse_anything(text);
}

/// Arrays of numbers, alone and in archives.
pub fn arrays(bytes: &[u8]) {
    let _ = coordinator::outside::npy(bytes);
    let _ = coordinator::outside::npz(bytes, DECODED_BYTES_MAX);
}

/// Pictures, down to the values of an input.
pub fn pictures(bytes: &[u8]) {
    let _ = coordinator::outside::picture(bytes, DECODED_BYTES_MAX, Size::new(8, 8));
}
