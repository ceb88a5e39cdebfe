//! Pictures in and out of files row by row, for those that are too large to hold.

use crate::input::ending;
use anyhow::{Context, Result, bail, ensure};
use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use vision::Size;

/// Rows or columns of a picture.
const SIDE_MAX: usize = 1 << 20;

/// A picture that is read from top to bottom, as bytes in the order rows, cols, colours.
pub(crate) struct RowSource {
    size: Size,
    channels: usize,
    kind: Source,
}

enum Source {
    Png(Box<png::Reader<BufReader<File>>>),
    /// Netpbm: the colours in the file, then only bytes.
    Ppm(BufReader<File>, usize),
    /// Decoded at once, for formats that cannot be read by rows.
    Whole(DynamicImage, usize),
}

impl RowSource {
    /// Opens a picture; its rows come with 3 colours, or with 1 as luminance.
    ///
    /// PNG and PPM are read by rows, other formats at once where that takes at most `whole_bytes`.
    ///
    /// *Errors*: a file that is missing or cannot be read by rows, and why.
    pub(crate) fn open(path: &Path, channels: usize, whole_bytes: u64) -> Result<Self> {
        let file = || Ok::<_, anyhow::Error>(BufReader::new(File::open(path)?));
        let mut magic = [0; 8];
        let read = file()?.read(&mut magic)?;
        let (size, kind) = match &magic[..read] {
            [0x89, b'P', b'N', b'G', ..] => open_png(file()?)?,
            [b'P', b'5' | b'6', ..] => open_ppm(file()?)?,
            _ => open_whole(path, whole_bytes)?,
        };
        let sides = 1..=SIDE_MAX;
        ensure!(sides.contains(&size.rows) && sides.contains(&size.cols), "{size} is no size");
        Ok(Self { size, channels, kind })
    }

    /// Rows and columns.
    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// The next row.
    ///
    /// *Errors*: a file that ends too early or is damaged.
    pub(crate) fn next_row(&mut self) -> Result<Vec<u8>> {
        let cols = self.size.cols as u32;
        let row = match &mut self.kind {
            Source::Png(reader) => {
                let (colour, depth) = reader.output_color_type();
                let row = reader.next_row()?.context("the file ends too early")?;
                row_of_png(cols, colour, depth, row.data())?
            }
            Source::Ppm(reader, colours) => {
                let mut bytes = vec![0; self.size.cols * *colours];
                reader.read_exact(&mut bytes).context("the file ends too early")?;
                row_of_bytes(cols, *colours, bytes)?
            }
            Source::Whole(picture, next) => {
                let row = picture.crop_imm(0, *next as u32, cols, 1);
                *next += 1;
                row
            }
        };
        Ok(match self.channels {
            1 => row.to_luma8().into_raw(),
            _ => row.to_rgb8().into_raw(),
        })
    }
}

fn open_png(file: BufReader<File>) -> Result<(Size, Source)> {
    let mut decoder = png::Decoder::new(file);
    decoder.set_transformations(png::Transformations::EXPAND);
    let reader = decoder.read_info()?;
    let info = reader.info();
    ensure!(!info.interlaced, "an interlaced PNG cannot be read by rows: save it without");
    let turned = info.exif_metadata.as_ref().and_then(|exif| Orientation::from_exif_chunk(exif));
    let upright = turned.is_none_or(|turned| turned == Orientation::NoTransforms);
    ensure!(upright, "a picture that is stored turned cannot be read by rows: save it upright");
    let size = Size::new(info.height as usize, info.width as usize);
    Ok((size, Source::Png(Box::new(reader))))
}

/// `P6 width height 255` and one space, with comments in between.
fn open_ppm(mut file: BufReader<File>) -> Result<(Size, Source)> {
    let mut words = [0usize; 3];
    let mut magic = [0; 2];
    file.read_exact(&mut magic)?;
    for word in &mut words {
        let mut digits = String::new();
        loop {
            let byte = *file.fill_buf()?.first().context("the header ends too early")?;
            match byte {
                b'#' => {
                    // A comment of any length, without holding it.
                    while file.fill_buf()?.first().is_some_and(|b| *b != b'\n') {
                        file.consume(1);
                    }
                    continue;
                }
                b'0'..=b'9' if digits.len() < 8 => digits.push(byte as char),
                byte if byte.is_ascii_whitespace() && digits.is_empty() => {}
                byte if byte.is_ascii_whitespace() => {
                    file.consume(1);
                    break;
                }
                _ => bail!("the header has something else than numbers"),
            }
            file.consume(1);
        }
        *word = digits.parse()?;
    }
    let [cols, rows, most] = words;
    ensure!(most == 255, "a PPM with values up to {most} cannot be read by rows: save it with 255");
    let colours = if magic[1] == b'6' { 3 } else { 1 };
    Ok((Size::new(rows, cols), Source::Ppm(file, colours)))
}

fn open_whole(path: &Path, whole_bytes: u64) -> Result<(Size, Source)> {
    let picture = crate::pictures::read_within(path, whole_bytes).with_context(|| {
        let most = whole_bytes / (1 << 20);
        format!("this format is read at once, which may take {most} MB here, not by rows")
    })?;
    let size = Size::new(picture.height() as usize, picture.width() as usize);
    Ok((size, Source::Whole(picture, 0)))
}

/// A row as a picture, so that colours become others exactly as in a whole picture.
fn row_of_png(
    cols: u32,
    colour: png::ColorType,
    depth: png::BitDepth,
    bytes: &[u8],
) -> Result<DynamicImage> {
    let colours = colour.samples();
    if depth == png::BitDepth::Eight {
        return row_of_bytes(cols, colours, bytes.to_vec());
    }
    ensure!(depth == png::BitDepth::Sixteen, "a PNG with {depth:?} bits cannot be read by rows");
    let words = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    let row = match colours {
        1 => ImageBuffer::from_raw(cols, 1, words).map(DynamicImage::ImageLuma16),
        2 => ImageBuffer::from_raw(cols, 1, words).map(DynamicImage::ImageLumaA16),
        3 => ImageBuffer::from_raw(cols, 1, words).map(DynamicImage::ImageRgb16),
        _ => ImageBuffer::from_raw(cols, 1, words).map(DynamicImage::ImageRgba16),
    };
    row.context("a row of another length")
}

fn row_of_bytes(cols: u32, colours: usize, bytes: Vec<u8>) -> Result<DynamicImage> {
    let row = match colours {
        1 => ImageBuffer::from_raw(cols, 1, bytes).map(DynamicImage::ImageLuma8),
        2 => ImageBuffer::from_raw(cols, 1, bytes).map(DynamicImage::ImageLumaA8),
        3 => ImageBuffer::from_raw(cols, 1, bytes).map(DynamicImage::ImageRgb8),
        _ => ImageBuffer::from_raw(cols, 1, bytes).map(DynamicImage::ImageRgba8),
    };
    row.context("a row of another length")
}

/// A picture that is written from top to bottom.
pub(crate) struct RowSink {
    row_bytes: usize,
    kind: Sink,
}

enum Sink {
    Png(Box<png::StreamWriter<'static, BufWriter<File>>>),
    Ppm(BufWriter<File>),
}

impl RowSink {
    /// Starts a PNG or PPM file of 1 or 3 colours.
    ///
    /// *Errors*: another ending, a file that cannot be made.
    pub(crate) fn create(path: &Path, size: Size, channels: usize) -> Result<Self> {
        let row_bytes = size.cols * channels;
        let file = || Ok::<_, std::io::Error>(BufWriter::new(File::create(path)?));
        let kind = match ending(path).as_str() {
            "png" => {
                let (width, height) = (size.cols.try_into()?, size.rows.try_into()?);
                let mut encoder = png::Encoder::new(file()?, width, height);
                let colour =
                    if channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb };
                encoder.set_color(colour);
                encoder.set_depth(png::BitDepth::Eight);
                encoder.set_compression(png::Compression::Fast);
                Sink::Png(Box::new(encoder.write_header()?.into_stream_writer()?))
            }
            "ppm" | "pgm" | "pnm" => {
                let mut file = file()?;
                let magic = if channels == 1 { "P5" } else { "P6" };
                write!(file, "{magic}\n{} {}\n255\n", size.cols, size.rows)?;
                Sink::Ppm(file)
            }
            other => bail!("`.{other}` files cannot be written by rows: name it .png or .ppm"),
        };
        Ok(Self { row_bytes, kind })
    }

    /// Writes whole rows.
    ///
    /// *Errors*: a disk that cannot be written.
    pub(crate) fn write(&mut self, rows: &[u8]) -> Result<()> {
        // One row at a time, so that the file does not depend on how many come together.
        for row in rows.chunks(self.row_bytes) {
            match &mut self.kind {
                Sink::Png(writer) => writer.write_all(row)?,
                Sink::Ppm(writer) => writer.write_all(row)?,
            }
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// *Errors*: rows that are missing, a disk that cannot be written.
    pub(crate) fn finish(self) -> Result<()> {
        match self.kind {
            Sink::Png(writer) => Ok(writer.finish()?),
            Sink::Ppm(mut writer) => Ok(writer.flush()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageFormat, Luma, Rgb, RgbImage};

    fn rows_of(path: &Path, channels: usize) -> Result<Vec<u8>> {
        let mut source = RowSource::open(path, channels, 1 << 20)?;
        (0..source.size().rows)
            .map(|_| source.next_row())
            .collect::<Result<Vec<_>>>()
            .map(|r| r.concat())
    }

    /// Row by row or at once: the same bytes, whatever the format and the colours in the file.
    #[test]
    fn rows_are_those_of_the_whole_picture() {
        let folder = tempfile::tempdir().unwrap();
        let colours = RgbImage::from_fn(9, 7, |x, y| Rgb([x as u8 * 20, y as u8 * 30, 77]));
        let wide =
            ImageBuffer::<Luma<u16>, _>::from_fn(9, 7, |x, y| Luma([(x * 7000 + y * 99) as u16]));
        let pictures: [DynamicImage; 4] = [
            colours.clone().into(),
            DynamicImage::from(colours.clone()).to_luma8().into(),
            DynamicImage::from(colours).to_rgba8().into(),
            wide.into(),
        ];
        for (i, picture) in pictures.iter().enumerate() {
            for format in [ImageFormat::Png, ImageFormat::Pnm, ImageFormat::WebP] {
                let ending = format.extensions_str()[0];
                let path = folder.path().join(format!("{i}.{ending}"));
                // Not every format holds every kind of colours.
                if picture.save_with_format(&path, format).is_err()
                    || format == ImageFormat::Pnm && i > 1
                {
                    continue;
                }
                let whole = crate::pictures::read(&path).unwrap();
                assert_eq!(rows_of(&path, 3).unwrap(), whole.to_rgb8().into_raw(), "{ending} {i}");
                assert_eq!(rows_of(&path, 1).unwrap(), whole.to_luma8().into_raw(), "{ending} {i}");
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..5 * 4 * 3).collect();
        for name in ["a.png", "a.ppm"] {
            let path = folder.path().join(name);
            let mut sink = RowSink::create(&path, Size::new(5, 4), 3).unwrap();
            sink.write(&bytes[..24]).unwrap();
            sink.write(&bytes[24..]).unwrap();
            sink.finish().unwrap();
            assert_eq!(rows_of(&path, 3).unwrap(), bytes);
            assert_eq!(crate::pictures::read(&path).unwrap().to_rgb8().into_raw(), bytes);
        }
        assert!(RowSink::create(&folder.path().join("a.jpg"), Size::new(5, 4), 3).is_err());
    }

    #[test]
    fn a_file_that_lies_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ppm");
        for text in [
            "P6\n4 4\n255\nabc",
            "P6\n4 4\n65535\n",
            "P6\n0 4\n255\n",
            "P6\n99999999 9\n255\n",
            "P6 4",
            "P6 x",
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(rows_of(&path, 3).is_err(), "{text}");
        }
        std::fs::write(&path, "P5\n# a comment\n2 1 255\nab").unwrap();
        assert_eq!(rows_of(&path, 1).unwrap(), b"ab");
    }
}
