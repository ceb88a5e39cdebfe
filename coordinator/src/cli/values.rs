//! What a person writes for a number, an extent or a size.

use std::str::FromStr;

/// A number a second with `k`, `M` or `G`.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(['k', 'M', 'G', 'T']);
    let factor = match &text[digits.len()..] {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        _ => return Err("expected a number with k, M or G, such as 6G".into()),
    };
    let number: f64 = digits.parse().map_err(|_| "expected a number, such as 6G".to_owned())?;
    let rate = number * factor;
    if (1.0..=1e15).contains(&rate) { Ok(rate as u64) } else { Err("expected 1 to 1000T".into()) }
}

/// `ROWSxCOLS` on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub rows: usize,
    pub cols: usize,
}

impl FromStr for Extent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(['x', 'X']).and_then(|(rows, cols)| {
            Some(Self { rows: rows.trim().parse().ok()?, cols: cols.trim().parse().ok()? })
        });
        let sound =
            parts.filter(|e| (1..=65_535).contains(&e.rows) && (1..=65_535).contains(&e.cols));
        sound.ok_or_else(|| "expected ROWSxCOLS, such as 3x3".into())
    }
}

/// A number from 0 to 1 on the command line.
pub(super) fn part_of_one(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|v| (0.0..=1.0).contains(v));
    number.ok_or_else(|| "expected a number from 0 to 1".into())
}

/// Bytes on the command line: `256M`, `1G`; a K, M or G counts 1024 of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_end_matches(['B', 'b']).trim_end_matches(['i', 'I']);
        let (digits, shift) = match text.chars().last().map(|c| c.to_ascii_uppercase()) {
            Some('K') => (&text[..text.len() - 1], 10),
            Some('M') => (&text[..text.len() - 1], 20),
            Some('G') => (&text[..text.len() - 1], 30),
            _ => (text, 0),
        };
        let number = digits.trim().parse::<u64>().ok().filter(|n| *n > 0);
        let bytes = number.and_then(|n| n.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| "expected bytes, such as 256M or 1G".into())
    }
}

/// `W,H,W,H,...` on the command line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Anchors(pub Vec<[f32; 2]>);

impl FromStr for Anchors {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number =
            |text: &str| text.trim().parse::<f32>().ok().filter(|v| *v > 0.0 && v.is_finite());
        let numbers = text.split(',').map(number).collect::<Option<Vec<f32>>>();
        let pairs = numbers.filter(|n| n.len().is_multiple_of(2));
        let pairs = pairs.map(|n| n.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect());
        pairs.map(Self).ok_or_else(|| "expected pairs of positive numbers: W,H,W,H,...".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents() {
        assert_eq!("3x4".parse(), Ok(Extent { rows: 3, cols: 4 }));
        for bad in ["3", "0x1", "x", "3x", "99999999x1", "-1x2"] {
            assert!(bad.parse::<Extent>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_have_units() {
        for (text, bytes) in
            [("256M", 256 << 20), ("1GiB", 1 << 30), ("512 KB", 512 << 10), ("7", 7)]
        {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for bad in ["", "M", "-1M", "1.5G", "99999999999G", "0", "x"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn anchors_come_in_pairs() {
        assert_eq!("1,2, 3,4.5".parse(), Ok(Anchors(vec![[1.0, 2.0], [3.0, 4.5]])));
        for bad in ["", "1", "1,2,3", "1,0", "a,b", "1,inf"] {
            assert!(bad.parse::<Anchors>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_have_factors() {
        for (text, per_s) in [("6G", 6_000_000_000), ("1.5M", 1_500_000), ("7", 7)] {
            assert_eq!(rate(text), Ok(per_s), "{text}");
        }
        for bad in ["", "G", "-1G", "0", "1e99", "6Gbit"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
