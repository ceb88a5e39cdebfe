//! What people's files say, read from bytes alone: the readers that `run` uses, without their files, for
//! tests that feed them anything.

use crate::{arrays, pictures};
use anyhow::Result;
use image::ImageReader;
use std::io::Cursor;
use vision::prepare::prepare;
use vision::{Size, Task};

/// Reads a `.npy` array; gives back its dims.
///
/// *Errors*: no array of numbers.
pub fn npy(bytes: &[u8]) -> Result<Vec<usize>> {
    Ok(arrays::parse_npy(bytes)?.dims)
}

/// Reads a `.npz` archive of which no member has more than so many bytes; gives back how many it has.
///
/// *Errors*: no archive of arrays.
pub fn npz(bytes: &[u8], limit: u64) -> Result<usize> {
    Ok(arrays::parse_npz(Cursor::new(bytes), limit)?.len())
}

/// Reads a picture for which decoding may take so many bytes, and makes it an input of a size.
///
/// *Errors*: no picture, or one that takes more.
pub fn picture(bytes: &[u8], bytes_max: u64, input: Size) -> Result<usize> {
    let picture = pictures::decode(ImageReader::new(Cursor::new(bytes)), bytes_max)?;
    let convention = Task::Classify.usual_convention(None);
    Ok(prepare(&picture, &convention, input, 3)?.values.len())
}
