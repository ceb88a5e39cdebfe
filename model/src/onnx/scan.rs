//! Checks the framing of an ONNX file before the parser sees it.
//!
//! The parser trusts lengths: a length beyond the file makes it allocate or overflow, one with the
//! high bit set seeks backwards, an endless varint loops, nested graphs recurse without a bound,
//! and the end of a message inside its parent is not noticed. Here each length lies in its parent,
//! each varint ends, the nesting is bounded, and so is the number of messages, because a message
//! of 2 bytes in the file takes hundreds in memory.

use std::io::{BufRead, Seek};

/// Nested messages; a graph inside a node adds 3.
const DEPTH_MAX: usize = 24;

/// Messages and strings in one file.
const FIELDS_MAX: usize = 4_000_000;

/// The message types that the parser descends into.
#[derive(Clone, Copy, PartialEq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    SequenceType,
    TensorShape,
    Leaf,
}

/// What a length-delimited field holds.
enum Content {
    Message(Message),
    PackedVarints,
    PackedFixed(u64),
    Bytes,
}

fn content(message: Message, field: u64) -> Content {
    use Content::{Bytes, PackedFixed, PackedVarints};
    let inner = match (message, field) {
        (Message::Model, 7) => Message::Graph,
        (Message::Model, 8 | 14) => Message::Leaf,
        (Message::Graph, 1) => Message::Node,
        (Message::Graph, 5) => Message::Tensor,
        (Message::Graph, 11..=13) => Message::ValueInfo,
        (Message::Node, 5) => Message::Attribute,
        (Message::Attribute, 5) => Message::Tensor,
        (Message::Attribute, 6) => Message::Graph,
        (Message::Tensor, 4) => return PackedFixed(4),
        (Message::Tensor, 10) => return PackedFixed(8),
        (Message::Tensor, 5 | 7) => return PackedVarints,
        (Message::Tensor, 13) => Message::Leaf,
        (Message::ValueInfo, 2) => Message::Type,
        (Message::Type, 1) => Message::TensorType,
        (Message::Type, 4) => Message::SequenceType,
        (Message::SequenceType, 1) => Message::Type,
        (Message::TensorType, 2) => Message::TensorShape,
        (Message::TensorShape, 1) => Message::Leaf,
        _ => return Bytes,
    };
    Content::Message(inner)
}

/// Checks that `length` bytes from the reader's position are a well-framed ONNX model.
///
/// *Errors* with what is wrong and where.
pub(super) fn scan<R: BufRead + Seek>(reader: R, length: u64) -> Result<(), String> {
    let mut scanner = Scanner { reader, position: 0, fields: 0, graphs: 0 };
    scanner.message(Message::Model, length, 0)
}

struct Scanner<R> {
    reader: R,
    position: u64,
    fields: usize,
    /// Graphs directly in the model.
    graphs: usize,
}

impl<R: BufRead + Seek> Scanner<R> {
    fn message(&mut self, message: Message, end: u64, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return self.fail(format!("more than {DEPTH_MAX} nested messages"));
        }
        while self.position < end {
            let tag = self.varint(end)?;
            match tag & 7 {
                0 => {
                    self.varint(end)?;
                }
                1 => self.skip(8, end)?,
                5 => self.skip(4, end)?,
                2 => {
                    self.fields += 1;
                    if self.fields > FIELDS_MAX {
                        return self.fail(format!("more than {FIELDS_MAX} fields"));
                    }
                    let length = self.varint(end)?;
                    if length > end - self.position {
                        return self.fail(format!(
                            "a field of {length} bytes where {} are left",
                            end - self.position
                        ));
                    }
                    // Protobuf would merge two graphs; the parser would take the last.
                    self.graphs += usize::from(message == Message::Model && tag >> 3 == 7);
                    if self.graphs > 1 {
                        return self.fail("a second graph".into());
                    }
                    self.content(content(message, tag >> 3), length, depth)?;
                }
                other => return self.fail(format!("wire type {other}")),
            }
        }
        Ok(())
    }

    fn content(&mut self, content: Content, length: u64, depth: usize) -> Result<(), String> {
        let end = self.position + length;
        match content {
            Content::Message(inner) => self.message(inner, end, depth + 1),
            Content::Bytes => self.skip(length, end),
            Content::PackedFixed(width) if length.is_multiple_of(width) => self.skip(length, end),
            Content::PackedFixed(width) => {
                self.fail(format!("{length} bytes of elements of {width} bytes"))
            }
            Content::PackedVarints => {
                while self.position < end {
                    self.varint(end)?;
                }
                Ok(())
            }
        }
    }

    fn varint(&mut self, end: u64) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(end)?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        self.fail("a number of more than 64 bits".into())
    }

    fn byte(&mut self, end: u64) -> Result<u8, String> {
        if self.position >= end {
            return self.fail("a message that ends inside a field".into());
        }
        let byte = match self.reader.fill_buf() {
            Ok([byte, ..]) => *byte,
            Ok([]) => return self.fail("the end of the file".into()),
            Err(error) => return self.fail(error.to_string()),
        };
        self.reader.consume(1);
        self.position += 1;
        Ok(byte)
    }

    fn skip(&mut self, length: u64, end: u64) -> Result<(), String> {
        if length > end - self.position {
            return self.fail("a message that ends inside a field".into());
        }
        let Ok(offset) = i64::try_from(length) else {
            return self.fail(format!("a field of {length} bytes"));
        };
        if let Err(error) = self.reader.seek_relative(offset) {
            return self.fail(error.to_string());
        }
        self.position += length;
        Ok(())
    }

    fn fail<T>(&self, what: String) -> Result<T, String> {
        Err(format!("{what} at byte {}", self.position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn check(bytes: &[u8]) -> Result<(), String> {
        scan(Cursor::new(bytes), bytes.len() as u64)
    }

    #[test]
    fn an_empty_graph_passes() {
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[0x3a, 0]), Ok(()));
    }

    #[test]
    fn bad_framing_is_found() {
        // A length beyond the file, and one beyond its parent.
        assert!(check(&[0x3a, 5]).is_err());
        assert!(check(&[0x3a, 2, 0x0a, 9, 0, 0, 0]).is_err());
        // A varint without an end, which the parser would read for ever.
        assert!(check(&[0xff; 32]).is_err());
        // Groups.
        assert!(check(&[0x3b]).is_err());
        // A length with the high bit, which the parser would seek backwards by.
        assert!(check(&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
    }

    #[test]
    fn nesting_is_bounded() {
        // Graphs in attributes of nodes, from the inside out.
        let mut bytes: Vec<u8> = Vec::new();
        for level in 0..60 {
            let tag = [0x32, 0x2a, 0x0a][level % 3];
            let mut outer = vec![tag];
            let mut length = bytes.len();
            while length > 0x7f {
                outer.push((length & 0x7f) as u8 | 0x80);
                length >>= 7;
            }
            outer.push(length as u8);
            outer.extend(bytes);
            bytes = outer;
        }
        let mut file = vec![0x3a, (bytes.len() & 0x7f) as u8 | 0x80, (bytes.len() >> 7) as u8];
        file.extend(bytes);
        assert!(check(&file).is_err_and(|reason| reason.contains("nested")));
    }
}
