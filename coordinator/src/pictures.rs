//! Pictures in and out of files.

use crate::rows::RowSink;
use anyhow::{Context, Result};
use image::ColorType;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::{BufRead, Seek};
use std::path::Path;
use vision::Size;

/// Bytes that decoding one picture may take: 16384 x 16384 in colours, with room.
const DECODED_BYTES_MAX: u64 = 1 << 30;

/// Rows or columns of a picture.
const SIDE_MAX: u32 = 1 << 16;

/// Reads a picture upright: cameras store which side is up beside the pixels.
///
/// *Errors*: a file that is missing, is no picture, or claims to be larger than is read; its size
/// is checked before memory is taken.
pub(crate) fn read(path: &Path) -> Result<DynamicImage> {
    read_within(path, DECODED_BYTES_MAX)
}

/// As [`read`], where decoding may take so many bytes.
pub(crate) fn read_within(path: &Path, bytes_max: u64) -> Result<DynamicImage> {
    decode(ImageReader::open(path).context("cannot open it")?, bytes_max)
}

/// Reads a picture from bytes, where decoding may take so many.
///
/// *Errors*: as [`read`].
pub(crate) fn decode<R: BufRead + Seek>(
    reader: ImageReader<R>,
    bytes_max: u64,
) -> Result<DynamicImage> {
    let mut reader = reader.with_guessed_format().context("cannot open it")?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(bytes_max);
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let bytes = decoder.total_bytes();
    anyhow::ensure!(bytes <= bytes_max, "it takes {bytes} bytes, at most {bytes_max} are read");
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

/// Writes a picture in the format of the file's ending.
///
/// *Errors*: a disk that cannot be written.
pub(crate) fn write(path: &Path, picture: &DynamicImage) -> Result<()> {
    if crate::input::ending(path) != "png" {
        return Ok(picture.save(path)?);
    }
    // As a picture that is streamed: the same pixels are the same file.
    let (size, channels) = match picture.color() {
        ColorType::L8 => (Size::new(picture.height() as usize, picture.width() as usize), 1),
        _ => (Size::new(picture.height() as usize, picture.width() as usize), 3),
    };
    let mut sink = RowSink::create(path, size, channels)?;
    match channels {
        1 => sink.write(picture.to_luma8().as_raw())?,
        _ => sink.write(picture.to_rgb8().as_raw())?,
    }
    sink.finish()
}

/// Whether a file's ending is that of a picture that can be read.
pub(crate) fn is_readable(ending: &str) -> bool {
    ImageFormat::from_extension(ending).is_some_and(|format| format.reading_enabled())
}

/// Whether a file's ending is that of a picture that can be written.
pub(crate) fn is_writable(ending: &str) -> bool {
    ImageFormat::from_extension(ending).is_some_and(|format| format.writing_enabled())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absurd_size_is_refused_before_memory_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge.ppm");
        for header in ["P6\n65000 65000\n255\n", "P6\n4000000000 1\n255\n"] {
            std::fs::write(&path, header).unwrap();
            assert!(read(&path).is_err());
        }
    }

    #[test]
    fn endings() {
        assert!(["png", "JPG", "webp", "ppm", "bmp"].into_iter().all(is_readable));
        assert!(["png", "jpeg", "webp", "ppm"].into_iter().all(is_writable));
        assert!(!is_readable("txt") && !is_writable("npy"));
    }
}
