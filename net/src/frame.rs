//! Frames on a stream. Every length is checked before anything is allocated.

use crate::NetError;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use model::WeightHash;
use protocol::Bundle;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Bytes of tensor in one chunk.
pub(crate) const CHUNK: usize = 64 * 1024;

/// A control message or a bulk header is never longer. The longest is a plan: a placement of a few
/// bytes for each tile.
const MESSAGE_MAX: usize = 4 << 20;

/// Writes a value with its length before it. A message too long for the other side is our bug.
pub(crate) async fn write_message<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> Result<(), NetError> {
    let bytes = encode(value)?;
    // In one write: each is a frame of the multiplexer, encrypted and sent on its own.
    let length = (bytes.len() as u32).to_le_bytes();
    stream.write_all(&[&length, bytes.as_slice()].concat()).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads a value that [`write_message`] wrote.
pub(crate) async fn read_message<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<T, NetError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let bytes = read_limited(stream, u32::from_le_bytes(length) as usize, MESSAGE_MAX).await?;
    decode(&bytes)
}

/// Reads `length` bytes if they are few enough.
pub(crate) async fn read_limited(
    stream: &mut (impl AsyncRead + Unpin),
    length: usize,
    limit: usize,
) -> Result<Vec<u8>, NetError> {
    if length > limit {
        return Err(NetError::Breach(format!("a message of {length} bytes, at most {limit}")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, NetError> {
    let bytes = postcard::to_stdvec(value).map_err(|e| NetError::Breach(e.to_string()))?;
    if bytes.len() > MESSAGE_MAX {
        let length = bytes.len();
        return Err(NetError::Breach(format!(
            "a message of {length} bytes, at most {MESSAGE_MAX}"
        )));
    }
    Ok(bytes)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, NetError> {
    postcard::from_bytes(bytes).map_err(|e| NetError::Breach(format!("unreadable message: {e}")))
}

/// Which of the two queues of a bulk stream; a chunk of a bundle goes before one of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Bundle,
    Blob,
}

/// Announces what the chunks that follow on a lane are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BulkHeader {
    Bundle(Bundle),
    Blob { hash: WeightHash, bytes: u64 },
}

impl BulkHeader {
    pub(crate) fn lane(&self) -> Lane {
        match self {
            BulkHeader::Bundle(_) => Lane::Bundle,
            BulkHeader::Blob { .. } => Lane::Blob,
        }
    }

    /// Bytes that follow; none when the header is absurd.
    pub(crate) fn byte_len(&self) -> Option<usize> {
        match self {
            BulkHeader::Bundle(bundle) => bundle.wire_len(),
            BulkHeader::Blob { bytes, .. } => usize::try_from(*bytes).ok(),
        }
    }
}

/// The head of a bulk frame: one byte of kind, four of length (or count of credits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BulkFrame {
    /// A [`BulkHeader`] of so many bytes follows.
    Header(u32),
    /// So many bytes for a lane follow.
    Data(Lane, u32),
    /// The reader is ready for so many further chunks.
    Credit(u32),
}

impl BulkFrame {
    /// Appends the head to what is about to be written.
    pub(crate) fn put(self, bytes: &mut Vec<u8>) {
        let (kind, number) = match self {
            BulkFrame::Header(length) => (0u8, length),
            BulkFrame::Data(Lane::Bundle, length) => (1, length),
            BulkFrame::Data(Lane::Blob, length) => (2, length),
            BulkFrame::Credit(count) => (3, count),
        };
        bytes.push(kind);
        bytes.extend_from_slice(&number.to_le_bytes());
    }

    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, NetError> {
        let mut head = [0; 5];
        stream.read_exact(&mut head).await?;
        let number = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        match head[0] {
            0 => Ok(BulkFrame::Header(number)),
            1 => Ok(BulkFrame::Data(Lane::Bundle, number)),
            2 => Ok(BulkFrame::Data(Lane::Blob, number)),
            3 => Ok(BulkFrame::Credit(number)),
            kind => Err(NetError::Breach(format!("a bulk frame of unknown kind {kind}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;
    use proptest::prelude::*;

    #[test]
    fn a_huge_length_is_refused_before_it_is_allocated() {
        let wire = u32::MAX.to_le_bytes();
        let error =
            block_on(read_message::<protocol::Message>(&mut Cursor::new(wire))).unwrap_err();
        assert!(error.to_string().contains("4294967295 bytes"), "{error}");
    }

    #[test]
    fn an_absurd_region_has_no_length() {
        let whole = tiling_region(usize::MAX);
        let piece = protocol::PieceHeader {
            map: model::MapId(0),
            region: whole,
            channels: 9,
            element: model::Element::F32,
        };
        assert_eq!(piece.byte_len(), None);
    }

    /// What a header says of its pieces' forms is checked before anything is asked for.
    #[test]
    fn forms_that_contradict_their_pieces_have_no_length() {
        use tiling::Encoding::{Raw, Zeros};
        let piece = protocol::PieceHeader {
            map: model::MapId(0),
            region: tiling_region(4),
            channels: 2,
            element: model::Element::F32,
        };
        let form = |encoding, bytes| protocol::Form { encoding, bytes };
        let length = |forms: Vec<protocol::Form>| {
            let bundle = Bundle {
                kind: protocol::BundleKind::Exchange,
                plan: protocol::PlanId(0),
                task: protocol::TaskId { frame: protocol::FrameId(0), stage: 0, tile: 0 },
                attempt: 0,
                pieces: vec![piece, piece],
                forms,
                orders: protocol::Orders::default(),
            };
            BulkHeader::Bundle(bundle).byte_len()
        };
        assert_eq!(length(Vec::new()), Some(2 * 128));
        assert_eq!(length(vec![form(Raw, 128), form(Zeros, 20)]), Some(148));
        // One form for two pieces, more bytes than the values have, raw values of another length.
        assert_eq!(length(vec![form(Raw, 128)]), None);
        assert_eq!(length(vec![form(Raw, 128), form(Zeros, 129)]), None);
        assert_eq!(length(vec![form(Raw, 127), form(Zeros, 20)]), None);
        assert_eq!(length(vec![form(Raw, 128), form(Zeros, u64::MAX)]), None);
    }

    fn tiling_region(end: usize) -> tiling::Region {
        let span = tiling::Span { start: 0, end };
        tiling::Region { rows: span, cols: span }
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_or_a_message(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = block_on(read_message::<protocol::Message>(&mut Cursor::new(&bytes)));
            let _ = decode::<BulkHeader>(&bytes).map(|h| h.byte_len());
            let _ = block_on(BulkFrame::read(&mut Cursor::new(&bytes)));
        }
    }
}
