//! What a model wants of a picture: which values, in which order, and how it is made to fit.

use crate::error::VisionError;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// Which numbers stand for the bytes of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalize {
    /// `byte / 255`
    ZeroToOne,
    /// `byte / 127.5 - 1`
    MinusOneToOne,
    /// The bytes as they are.
    Bytes,
    /// `(byte / 255 - mean) / std` for red, green and blue.
    Unit {
        /// What is taken off, of 1.
        mean: [f32; 3],
        /// What the rest is divided by.
        std: [f32; 3],
    },
    /// `(byte - mean) / std` for red, green and blue.
    Byte {
        /// What is taken off, of 255.
        mean: [f32; 3],
        /// What the rest is divided by.
        std: [f32; 3],
    },
}

impl Normalize {
    /// Means and deviations of the ImageNet pictures, which most classifiers were trained with.
    pub const IMAGENET: Self =
        Self::Unit { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    /// The value of a byte of one colour (red, green, blue: 0, 1, 2).
    pub fn value(&self, byte: u8, colour: usize) -> f32 {
        let v = f32::from(byte);
        match self {
            Self::ZeroToOne => v / 255.0,
            Self::MinusOneToOne => v / 127.5 - 1.0,
            Self::Bytes => v,
            Self::Unit { mean, std } => (v / 255.0 - mean[colour]) / std[colour],
            Self::Byte { mean, std } => (v - mean[colour]) / std[colour],
        }
    }

    /// The byte that an output value stands for, where the model gives a picture in the numbers
    /// that it takes. Models that take means and deviations give pictures from 0 to 1.
    pub fn byte(&self, value: f32) -> u8 {
        let scaled = match self {
            Self::ZeroToOne | Self::Unit { .. } => value.clamp(0.0, 1.0) * 255.0,
            Self::MinusOneToOne => (value.clamp(-1.0, 1.0) + 1.0) * 127.5,
            Self::Bytes | Self::Byte { .. } => value.clamp(0.0, 255.0),
        };
        // NaN becomes 0.
        scaled.round() as u8
    }
}

impl FromStr for Normalize {
    type Err = VisionError;

    /// A name, or `MEAN/STD` with one number or three numbers each. Where any of them is above 1
    /// they count in bytes, else in parts of 1.
    fn from_str(text: &str) -> Result<Self, VisionError> {
        let wrong = || VisionError::Word {
            what: "normalisation",
            expected: "imagenet, 0-1, -1-1, 0-255, or MEAN/STD such as 0.5,0.5,0.5/0.25,0.25,0.25",
            got: text.into(),
        };
        match text.to_ascii_lowercase().as_str() {
            "imagenet" => return Ok(Self::IMAGENET),
            "0-1" => return Ok(Self::ZeroToOne),
            "-1-1" => return Ok(Self::MinusOneToOne),
            "0-255" => return Ok(Self::Bytes),
            _ => {}
        }
        let numbers = |text: &str| {
            let numbers = text.split(',').map(|n| n.trim().parse::<f32>().ok());
            match numbers.collect::<Option<Vec<f32>>>()?.as_slice() {
                [one] => Some([*one; 3]),
                [red, green, blue] => Some([*red, *green, *blue]),
                _ => None,
            }
        };
        let (mean, std) = text.split_once('/').ok_or_else(wrong)?;
        let (mean, std) = numbers(mean).zip(numbers(std)).ok_or_else(wrong)?;
        Self::from_mean_std(mean, std).ok_or_else(wrong)
    }
}

impl Normalize {
    /// Means and deviations, in bytes where any of them is above 1; none where one of them is not
    /// a number or a deviation is not above 0.
    pub fn from_mean_std(mean: [f32; 3], std: [f32; 3]) -> Option<Self> {
        if !mean.iter().chain(&std).all(|v| v.is_finite()) || std.iter().any(|v| *v <= 0.0) {
            return None;
        }
        let bytes = mean.iter().chain(&std).any(|v| *v > 1.0);
        Some(if bytes { Self::Byte { mean, std } } else { Self::Unit { mean, std } })
    }
}

impl fmt::Display for Normalize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = |v: &[f32; 3]| format!("{},{},{}", v[0], v[1], v[2]);
        match self {
            Self::ZeroToOne => f.write_str("0-1"),
            Self::MinusOneToOne => f.write_str("-1-1"),
            Self::Bytes => f.write_str("0-255"),
            _ if *self == Self::IMAGENET => f.write_str("imagenet"),
            Self::Unit { mean, std } | Self::Byte { mean, std } => {
                write!(f, "{}/{}", numbers(mean), numbers(std))
            }
        }
    }
}

/// A word for each variant: the command line, the metadata and the report use the same.
macro_rules! words {
    ($type:ident, $what:literal, $expected:literal, $($variant:ident = $word:literal),+) => {
        impl FromStr for $type {
            type Err = VisionError;

            fn from_str(text: &str) -> Result<Self, VisionError> {
                match text.to_ascii_lowercase().as_str() {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(VisionError::Word { what: $what, expected: $expected, got: text.into() }),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}
pub(crate) use words;

/// Which colour comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red: what OpenCV reads, and what models trained with Caffe take.
    Bgr,
}

words!(ChannelOrder, "channel order", "rgb or bgr", Rgb = "rgb", Bgr = "bgr");

/// How a picture of another size is made to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FitMode {
    /// Both axes scaled to the input, whatever that does to the proportions.
    Stretch,
    /// Scaled to lie inside the input, the rest grey.
    Letterbox,
    /// Scaled to cover the input, what hangs over cut off on both sides.
    Crop,
    /// Not scaled at all.
    None,
}

words!(
    FitMode,
    "fit",
    "stretch, letterbox, crop or none",
    Stretch = "stretch",
    Letterbox = "letterbox",
    Crop = "crop",
    None = "none"
);

/// Where the channels of an input are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// ONNX dims `[1, channels, rows, cols]`, as PyTorch writes them.
    Nchw,
    /// ONNX dims `[1, rows, cols, channels]`, as TensorFlow writes them.
    Nhwc,
}

impl Layout {
    /// By the dims of an input, where one axis has the length of colours; none where no picture
    /// fits. `None` in the dims is an open axis.
    pub fn of(dims: &[Option<usize>]) -> Option<Self> {
        let colours = |dim: Option<usize>| matches!(dim, Some(1 | 3));
        match dims {
            [_, channels, _, _] if colours(*channels) => Some(Self::Nchw),
            [_, _, _, channels] if colours(*channels) => Some(Self::Nhwc),
            _ => None,
        }
    }
}

/// All that a model wants of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Convention {
    /// Which numbers.
    pub normalize: Normalize,
    /// Which colour first.
    pub channels: ChannelOrder,
    /// How it fits.
    pub fit: FitMode,
}

impl fmt::Display for Convention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { normalize, channels, fit } = self;
        write!(f, "--normalize {normalize} --channels {channels} --fit {fit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for name in ["imagenet", "0-1", "-1-1", "0-255", "0.5,0.4,0.3/0.1,0.2,0.3"] {
            assert_eq!(name.parse::<Normalize>().unwrap().to_string(), name);
        }
        let caffe: Normalize = "123,117,104/1".parse().unwrap();
        assert_eq!(caffe, Normalize::Byte { mean: [123.0, 117.0, 104.0], std: [1.0; 3] });
        for bad in ["", "0-2", "1/0", "1,2/1", "a/b", "0/nan", "1/1/1", "0.5/-1"] {
            assert!(bad.parse::<Normalize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_ends_of_each_scale() {
        let ends = |n: Normalize| (n.value(0, 0), n.value(255, 0));
        assert_eq!(ends(Normalize::ZeroToOne), (0.0, 1.0));
        assert_eq!(ends(Normalize::MinusOneToOne), (-1.0, 1.0));
        assert_eq!(ends(Normalize::Bytes), (0.0, 255.0));
        let (low, high) = ends(Normalize::IMAGENET);
        assert!((low + 0.485 / 0.229).abs() < 1e-6 && (high - 0.515 / 0.229).abs() < 1e-6);
    }

    #[test]
    fn bytes_survive_the_way_there_and_back() {
        for normalize in [Normalize::ZeroToOne, Normalize::MinusOneToOne, Normalize::Bytes] {
            for byte in 0..=255 {
                assert_eq!(normalize.byte(normalize.value(byte, 1)), byte, "{normalize}");
            }
            assert_eq!(normalize.byte(f32::NAN), 0);
            assert_eq!(normalize.byte(1e9), 255);
        }
    }

    #[test]
    fn layouts() {
        let of = |dims: [usize; 4]| Layout::of(&dims.map(Some));
        assert_eq!(of([1, 3, 224, 224]), Some(Layout::Nchw));
        assert_eq!(of([1, 224, 224, 3]), Some(Layout::Nhwc));
        assert_eq!(of([1, 64, 56, 56]), None);
        assert_eq!(Layout::of(&[None, None, None, Some(1)]), Some(Layout::Nhwc));
    }
}
