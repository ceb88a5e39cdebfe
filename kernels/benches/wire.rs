//! How fast pieces are encoded and decoded, in bytes as they lie in memory. It says what a link must
//! carry for encoding not to pay (`planner::DeviceProfile::encodes`).

use divan::Bencher;
use divan::counter::BytesCount;
use kernels::Piece;
use kernels::wire::{Encoded, decode, encode, round_to_half};
use tiling::{Region, Span};

fn main() {
    divan::main();
}

/// A map as large as the first one of VGG16, of values by their place.
fn map(channels: usize, value: impl Fn(usize) -> f32) -> Piece {
    let region = Region::new(Span::whole(224), Span::whole(224));
    let values = (0..region.positions() * channels).map(value).collect();
    Piece::from_values(region, channels, values).expect("a value for each place")
}

/// Numbers without pattern.
fn noise(i: usize) -> u32 {
    let mixed = (i as u32).wrapping_mul(0x9E37_79B9);
    (mixed ^ (mixed >> 15)).wrapping_mul(0x85EB_CA6B)
}

const KINDS: [&str; 5] = ["palette", "zeros", "half", "half zeros", "none"];

fn piece(kind: &str) -> Piece {
    let random = |i| noise(i) as f32 / 4e9 + 0.1;
    let relu = |i| if noise(i) % 5 < 3 { 0.0 } else { random(i) };
    let mut piece = match kind {
        "palette" => map(3, |i| (noise(i) >> 24) as f32 / 255.0 - 0.45),
        "zeros" | "half zeros" => map(64, relu),
        _ => map(64, random),
    };
    if kind.starts_with("half") {
        round_to_half(piece.values_mut());
    }
    piece
}

#[divan::bench(args = KINDS)]
fn encoding(bencher: Bencher, kind: &str) {
    let piece = piece(kind);
    let counted = bencher.counter(BytesCount::new(piece.byte_len()));
    counted.bench_local(|| encode(&piece, piece.region));
}

#[divan::bench(args = KINDS[..4].iter())]
fn decoding(bencher: Bencher, kind: &&str) {
    let piece = piece(kind);
    let Encoded { encoding, bytes } = encode(&piece, piece.region).expect("a shorter form");
    let counted = bencher.counter(BytesCount::new(piece.byte_len()));
    counted.bench_local(|| decode(piece.region, piece.channels, piece.element(), encoding, &bytes));
}

#[divan::bench]
fn rounding(bencher: Bencher) {
    let mut piece = piece("none");
    let counted = bencher.counter(BytesCount::new(piece.byte_len()));
    counted.bench_local(|| round_to_half(piece.values_mut()));
}
