use super::*;
use proptest::prelude::*;
use tiling::Span;

fn region(rows: usize, cols: usize) -> Region {
    Region::new(Span::whole(rows), Span::whole(cols))
}

fn piece(rows: usize, cols: usize, channels: usize, values: Vec<f32>) -> Piece {
    Piece::from_values(region(rows, cols), channels, values).unwrap()
}

fn again(piece: &Piece, part: Region, encoded: &Encoded) -> Result<Piece, KernelError> {
    decode(part, piece.channels, piece.element(), encoded.encoding, &encoded.bytes)
}

/// A photograph as models take it.
fn photograph(rows: usize, cols: usize) -> Piece {
    let byte = |i: usize| (i * 7919 % 251) as f32;
    let of =
        |i: usize| (byte(i / 3) / 255.0 - 0.4 - 0.03 * (i % 3) as f32) / (0.2 + (i % 3) as f32);
    piece(rows, cols, 3, (0..rows * cols * 3).map(of).collect())
}

/// A map after a ReLU: one value in `zero_in` is not zero.
fn sparse(rows: usize, cols: usize, channels: usize, zero_in: usize) -> Piece {
    let of = |i: usize| if (i * 31).is_multiple_of(zero_in) { (i as f32).sin() + 2.0 } else { 0.0 };
    piece(rows, cols, channels, (0..rows * cols * channels).map(of).collect())
}

#[test]
fn a_photograph_travels_as_a_byte_a_value() {
    let picture = photograph(60, 80);
    for part in [picture.region, Region::new(Span::new(3, 50), Span::new(7, 71))] {
        let encoded = encode(&picture, part).unwrap();
        assert_eq!(encoded.encoding, Encoding::Palette);
        assert!(encoded.bytes.len() < part.positions() * 3 + 3 * (1 + 4 * 256));
        assert_eq!(
            again(&picture, part, &encoded).unwrap().as_bytes(),
            picture.crop(part).as_bytes()
        );
    }
}

#[test]
fn zeros_travel_as_bits() {
    let map = sparse(20, 20, 64, 4);
    let part = Region::new(Span::new(1, 20), Span::new(2, 9));
    let encoded = encode(&map, part).unwrap();
    assert_eq!(encoded.encoding, Encoding::Zeros);
    assert_eq!(again(&map, part, &encoded).unwrap().as_bytes(), map.crop(part).as_bytes());
    let values = part.positions() * 64;
    assert!(encoded.bytes.len() < values + values / 4, "{} of {values}", encoded.bytes.len());
}

#[test]
fn half_floats_travel_as_two_bytes() {
    for (map, encoding) in
        [(sparse(9, 9, 20, 1), Encoding::Half), (sparse(9, 9, 20, 3), Encoding::HalfZeros)]
    {
        let mut map = map;
        assert_ne!(encode(&map, map.region).map(|e| e.encoding), Some(encoding));
        assert_eq!(round_to_half(map.values_mut()), Saturated(0));
        let encoded = encode(&map, map.region).unwrap();
        assert_eq!(encoded.encoding, encoding);
        assert_eq!(again(&map, map.region, &encoded).unwrap().as_bytes(), map.as_bytes());
    }
}

#[test]
fn what_has_no_structure_travels_as_it_is() {
    assert_eq!(encode(&sparse(10, 10, 30, 1), region(10, 10)), None);
    // One zero in twenty is not worth a mask.
    let mut few = sparse(10, 10, 30, 1);
    few.values_mut().iter_mut().step_by(20).for_each(|v| *v = 0.0);
    assert_eq!(encode(&few, region(10, 10)), None);
    // Tables of a small piece take more than they save.
    let small = piece(1, 40, 3, (0..120).map(|i| (i as f32).sqrt()).collect());
    assert_eq!(encode(&small, small.region), None);
    assert_eq!(encode(&small, Region::EMPTY), None);
    let bytes = Piece::zeroed_of(region(30, 30), 3, Element::U8);
    assert_eq!(encode(&bytes, bytes.region), None);
}

#[test]
fn rounding_is_to_the_nearest_and_keeps_the_range() {
    let mut values = [1.0, -0.0, 1.0 + 1.0 / 4096.0, 65504.0, 65520.0, -1e9, f32::INFINITY, 1e-8];
    assert_eq!(round_to_half(&mut values), Saturated(3));
    let expected = [1.0f32, -0.0, 1.0, 65504.0, 65504.0, -65504.0, 65504.0, 0.0];
    assert_eq!(values.map(f32::to_bits), expected.map(f32::to_bits));
    let mut nan = [f32::from_bits(0xffa0_0001), f32::NAN];
    assert_eq!(round_to_half(&mut nan), Saturated(0));
    assert_eq!(nan[0].to_bits(), nan[1].to_bits());
    let once = nan.map(f32::to_bits);
    round_to_half(&mut nan);
    assert_eq!(nan.map(f32::to_bits), once);
}

/// Bits that make every encoding likely, with minus zero and NaN among them.
fn values(len: usize) -> impl Strategy<Value = Vec<u32>> {
    let any_bits = any::<u32>();
    let few = prop::sample::select(vec![0, 0x8000_0000, 0x7fc0_0000, 0x7f80_0001, 0x3f80_0000]);
    let zeros = prop_oneof![3 => Just(0u32), 1 => any::<u32>()];
    let halves = any::<u16>().prop_map(|b| ::half::f16::from_bits(b).to_f32().to_bits());
    let sparse_halves =
        prop_oneof![3 => Just(0u32), 1 => (0u16..100).prop_map(|b| f32::from(b).to_bits())];
    let kinds =
        [any_bits.boxed(), few.boxed(), zeros.boxed(), halves.boxed(), sparse_halves.boxed()];
    prop::sample::select(kinds.to_vec()).prop_flat_map(move |kind| prop::collection::vec(kind, len))
}

fn problem() -> impl Strategy<Value = (usize, usize, usize, Vec<u32>)> {
    (1usize..12, 1usize..20, 1usize..20).prop_flat_map(|(rows, cols, channels)| {
        values(rows * cols * channels).prop_map(move |values| (rows, cols, channels, values))
    })
}

const ALL: [Encoding; 5] =
    [Encoding::Raw, Encoding::Palette, Encoding::Zeros, Encoding::Half, Encoding::HalfZeros];

proptest! {
    #[test]
    fn what_is_encoded_comes_back((rows, cols, channels, bits) in problem(), cut in 0usize..5) {
        let values = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
        let piece = piece(rows, cols, channels, values);
        let part = Region::new(Span::new(cut.min(rows - 1), rows), Span::new(cut.min(cols - 1), cols));
        if let Some(encoded) = encode(&piece, part) {
            let raw = part.positions() * channels * 4;
            prop_assert!(encoded.bytes.len() * 10 <= raw * 9);
            let again = again(&piece, part, &encoded).unwrap();
            let cut = piece.crop(part);
            prop_assert_eq!(again.as_bytes(), cut.as_bytes());
        }
    }

    #[test]
    fn each_encoding_by_itself_comes_back((_, _, channels, bits) in problem()) {
        let filled = zeros::filled(&bits);
        let packed = zeros::encode(&bits, filled);
        let mut again = vec![1u32; bits.len()];
        zeros::Packed::<u32>::read(&packed, bits.len()).unwrap().unpack(&mut again);
        prop_assert_eq!(&again, &bits);
        if let Some(palette) = palette::Palette::of(&bits, channels) {
            let bytes = palette.into_bytes();
            let mut again = vec![1u32; bits.len()];
            palette::Packed::read(&bytes, bits.len(), channels).unwrap().unpack(&mut again).unwrap();
            prop_assert_eq!(&again, &bits);
        }
    }

    /// A hostile peer may send anything: it gets an error or a piece, never a panic.
    #[test]
    fn garbage_is_an_error_or_a_piece(
        (rows, cols, channels, _) in problem(),
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        which in 0usize..5,
    ) {
        let _ = decode(region(rows, cols), channels, Element::F32, ALL[which], &bytes);
    }

    /// One byte more, less or other than was sent.
    #[test]
    fn damage_is_an_error_or_another_piece(
        (rows, cols, channels, bits) in problem(),
        at in any::<prop::sample::Index>(),
        bit in 0u32..8,
    ) {
        let piece = piece(rows, cols, channels, bits.iter().map(|&b| f32::from_bits(b)).collect());
        if let Some(Encoded { encoding, bytes }) = encode(&piece, piece.region) {
            let read = |bytes: &[u8]| decode(piece.region, channels, Element::F32, encoding, bytes);
            let at = at.index(bytes.len());
            prop_assert!(read(&bytes[..at]).is_err());
            prop_assert!(read(&[&bytes[..], &[0]].concat()).is_err());
            let mut other = bytes.clone();
            other[at] ^= 1 << bit;
            let _ = read(&other);
        }
    }
}

#[test]
fn huge_dimensions_are_refused_before_memory_is_asked_for() {
    let huge = Span { start: 0, end: usize::MAX };
    for rows in [huge, Span { start: 0, end: 1 << 40 }] {
        for encoding in ALL {
            let region = Region { rows, cols: huge };
            let read = decode(region, 16, Element::F32, encoding, &[255; 100]);
            assert!(read.is_err(), "{encoding:?}");
        }
    }
    // Few enough that the count does not overflow, too many for the bytes that are there.
    let region = Region { rows: Span::whole(1 << 20), cols: Span::whole(1 << 10) };
    for encoding in ALL {
        assert!(decode(region, 4, Element::F32, encoding, &[0; 4096]).is_err(), "{encoding:?}");
    }
}

#[test]
fn lies_are_named() {
    let says = |channels, encoding, bytes: &[u8]| {
        decode(region(2, 4), channels, Element::F32, encoding, bytes).unwrap_err().to_string()
    };
    // A table of 256 entries, none of which is there.
    let error = says(1, Encoding::Palette, &[255; 9]);
    assert!(error.contains("tables are cut off"), "{error}");
    // Two entries; the third value is the fifth of the table.
    let error = says(1, Encoding::Palette, &[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0, 0]);
    assert!(error.contains("beyond the end of its table"), "{error}");
    let error = says(17, Encoding::Palette, &[0; 400]);
    assert!(error.contains("1 to 16 channels"), "{error}");
    // Three values are announced, one is there.
    let error = says(1, Encoding::Zeros, &[0b111, 0, 0, 0, 1, 2, 3, 4]);
    assert!(error.contains("counts other values"), "{error}");
    let error = says(1, Encoding::Zeros, &[0, 1, 0, 0, 1, 2, 3, 4]);
    assert!(error.contains("beyond its values"), "{error}");
    let error = says(1, Encoding::Half, &[0; 15]);
    assert!(error.contains("two bytes a value"), "{error}");
    let bytes = decode(region(2, 4), 1, Element::U8, Encoding::Zeros, &[0; 4]).unwrap_err();
    assert!(bytes.to_string().contains("no floats"), "{bytes}");
}
