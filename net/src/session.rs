//! The four tasks of one connection between admitted peers: control and bulk, each read and
//! written on its own, so that no writer can keep its reader waiting.
//!
//! Bulk data is cut into chunks. A writer may have [`CREDIT_CHUNKS`] chunks under way; each that
//! the reader takes in earns one more. This keeps the queue in the transport short, so that a
//! control message passes in milliseconds whatever is being sent, and it bounds memory.

use crate::counted::Counted;
use crate::frame::{BulkFrame, BulkHeader, CHUNK, Lane, decode, encode, read_limited};
use crate::frame::{read_message, write_message};
use crate::{Counters, Event, NetError, Payload, Permit, Wanted};
use futures::io::{ReadHalf, WriteHalf};
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};
use libp2p::{PeerId, Stream};
use model::WeightHash;
use protocol::{Bundle, Message};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// Chunks under way in one direction.
const CREDIT_CHUNKS: u32 = 4;

/// So many are given back at a time: each word of credit is a packet, and wakes both sides. The rest keeps a
/// link of 100 Mbit/s busy for ten milliseconds.
const CREDIT_TOGETHER: u32 = 2;

/// Control messages read and not yet handled.
const MESSAGES_MAX: usize = 256;

/// Bytes are counted in these units, so that the largest limit fits a semaphore.
const UNIT: usize = 1024;

/// What one session may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Tensor bytes received and not yet taken by the driver; also the largest bundle.
    pub bundle_bytes_max: usize,
    /// The largest blob.
    pub blob_bytes_max: usize,
}

/// What goes out on the bulk stream.
pub(crate) struct Outgoing {
    pub header: BulkHeader,
    pub payload: Payload,
}

/// The sending ends of a session. Dropping it ends the session.
pub(crate) struct Session {
    pub control: mpsc::UnboundedSender<Message>,
    pub bulk: mpsc::UnboundedSender<Outgoing>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Session {
    /// Starts the tasks; `ended` is called once, when any of them stops.
    pub(crate) fn start(
        peer: PeerId,
        (control, bulk): (Stream, Stream),
        limits: Limits,
        (wanted, counters): (Wanted, Counters),
        events: mpsc::UnboundedSender<Event>,
        ended: impl FnOnce(String) + Send + 'static,
    ) -> Self {
        let (control_tx, control_rx) = mpsc::unbounded_channel();
        let (bulk_tx, bulk_rx) = mpsc::unbounded_channel();
        let (credit_tx, credit_rx) = mpsc::unbounded_channel();
        let (grant_tx, grant_rx) = mpsc::unbounded_channel();
        let (control_read, control_write) = Counted::new(control, counters.clone()).split();
        let (bulk_read, bulk_write) = Counted::new(bulk, counters.clone()).split();
        let reader = BulkReader {
            peer,
            stream: bulk_read,
            limits,
            wanted,
            room: Arc::new(Semaphore::new(limits.bundle_bytes_max.div_ceil(UNIT))),
            credits: credit_tx,
            grants: grant_tx,
            events: events.clone(),
            bundle: None,
            blob: None,
        };
        let writer = BulkWriter {
            stream: bulk_write,
            outgoing: bulk_rx,
            credits: credit_rx,
            grants: grant_rx,
            owed: 0,
            credit: CREDIT_CHUNKS,
            outgoing_bytes: Vec::new(),
            bundles: VecDeque::new(),
            blobs: VecDeque::new(),
        };
        // Each of the four runs as a task of its own, so that decryption, encryption and copying of
        // the two directions can use two cores.
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(read_control(peer, control_read, events));
            tasks.spawn(write_control(control_write, control_rx));
            tasks.spawn(reader.run());
            tasks.spawn(writer.run());
            let reason = match tasks.join_next().await {
                Some(Ok(Err(error))) => {
                    if matches!(error, NetError::Breach(_)) {
                        counters.breach();
                        tracing::warn!(%peer, "cut off: {error}");
                    }
                    describe(error)
                }
                Some(Ok(Ok(()))) | None => "closed".into(),
                Some(Err(error)) => error.to_string(),
            };
            ended(reason);
        });
        Self { control: control_tx, bulk: bulk_tx, task }
    }
}

/// The words a person understands for a stream that ended.
fn describe(error: NetError) -> String {
    match error {
        NetError::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => "it went away".into(),
        error => error.to_string(),
    }
}

async fn read_control(
    peer: PeerId,
    mut stream: ReadHalf<Counted<Stream>>,
    events: mpsc::UnboundedSender<Event>,
) -> Result<(), NetError> {
    let room = Arc::new(Semaphore::new(MESSAGES_MAX));
    loop {
        let message = read_message(&mut stream).await?;
        let permit = room.clone().acquire_owned().await.ok();
        if events.send(Event::Message(peer, message, Permit(permit))).is_err() {
            return Ok(());
        }
    }
}

async fn write_control(
    mut stream: WriteHalf<Counted<Stream>>,
    mut messages: mpsc::UnboundedReceiver<Message>,
) -> Result<(), NetError> {
    while let Some(message) = messages.recv().await {
        write_message(&mut stream, &message).await?;
    }
    Ok(())
}

struct BulkWriter {
    stream: WriteHalf<Counted<Stream>>,
    outgoing: mpsc::UnboundedReceiver<Outgoing>,
    /// Chunks that the other side took in.
    credits: mpsc::UnboundedReceiver<u32>,
    /// Chunks that we took in and owe credit for.
    grants: mpsc::UnboundedReceiver<u32>,
    owed: u32,
    credit: u32,
    /// One chunk with its heads, on its way into the stream.
    outgoing_bytes: Vec<u8>,
    bundles: VecDeque<(Option<BulkHeader>, Payload)>,
    blobs: VecDeque<(Option<BulkHeader>, Payload)>,
}

impl BulkWriter {
    async fn run(mut self) -> Result<(), NetError> {
        loop {
            let idle = self.credit == 0 || (self.bundles.is_empty() && self.blobs.is_empty());
            tokio::select! {
                biased;
                Some(count) = self.grants.recv() => {
                    self.owed += count;
                    while let Some(Some(more)) = self.grants.recv().now_or_never() {
                        self.owed += more;
                    }
                    if self.owed >= CREDIT_TOGETHER {
                        let mut head = Vec::new();
                        BulkFrame::Credit(std::mem::take(&mut self.owed)).put(&mut head);
                        self.stream.write_all(&head).await?;
                        self.stream.flush().await?;
                    }
                }
                Some(count) = self.credits.recv() => {
                    self.credit = self.credit.saturating_add(count).min(CREDIT_CHUNKS);
                }
                item = self.outgoing.recv() => {
                    let Some(Outgoing { header, payload }) = item else { return Ok(()) };
                    match header.lane() {
                        Lane::Bundle => self.bundles.push_back((Some(header), payload)),
                        Lane::Blob => self.blobs.push_back((Some(header), payload)),
                    }
                }
                () = std::future::ready(()), if !idle => self.write_chunk().await?,
            }
        }
    }

    async fn write_chunk(&mut self) -> Result<(), NetError> {
        let (lane, queue) = if self.bundles.is_empty() {
            (Lane::Blob, &mut self.blobs)
        } else {
            (Lane::Bundle, &mut self.bundles)
        };
        let Some((header, payload)) = queue.front_mut() else { return Ok(()) };
        // Heads and slices go out in one write: each write is a frame of the multiplexer, encrypted
        // on its own, and a narrow region has a slice for every row.
        self.outgoing_bytes.clear();
        if let Some(header) = header.take() {
            let bytes = encode(&header)?;
            BulkFrame::Header(bytes.len() as u32).put(&mut self.outgoing_bytes);
            self.outgoing_bytes.extend_from_slice(&bytes);
        }
        if !payload.is_empty() {
            let chunk = payload.split_front(CHUNK);
            BulkFrame::Data(lane, chunk.len() as u32).put(&mut self.outgoing_bytes);
            chunk.slices().for_each(|slice| self.outgoing_bytes.extend_from_slice(slice));
            self.credit -= 1;
        }
        if payload.is_empty() {
            queue.pop_front();
        }
        self.stream.write_all(&self.outgoing_bytes).await?;
        self.stream.flush().await?;
        Ok(())
    }
}

struct IncomingBundle {
    header: Bundle,
    pieces: Vec<Vec<u8>>,
    /// Which piece the next byte belongs to, and where.
    piece: usize,
    offset: usize,
    permit: Permit,
}

struct IncomingBlob {
    hash: WeightHash,
    bytes: Vec<u8>,
    expected: usize,
}

struct BulkReader {
    peer: PeerId,
    stream: ReadHalf<Counted<Stream>>,
    limits: Limits,
    wanted: Wanted,
    room: Arc<Semaphore>,
    credits: mpsc::UnboundedSender<u32>,
    grants: mpsc::UnboundedSender<u32>,
    events: mpsc::UnboundedSender<Event>,
    bundle: Option<IncomingBundle>,
    blob: Option<IncomingBlob>,
}

impl BulkReader {
    async fn run(mut self) -> Result<(), NetError> {
        loop {
            match BulkFrame::read(&mut self.stream).await? {
                BulkFrame::Credit(count) => {
                    let _ = self.credits.send(count);
                }
                BulkFrame::Header(length) => {
                    let bytes = read_limited(&mut self.stream, length as usize, 4 << 20).await?;
                    self.open(decode(&bytes)?).await?;
                }
                BulkFrame::Data(lane, length) => {
                    let length = length as usize;
                    if length == 0 || length > CHUNK {
                        return Err(NetError::Breach(format!("a chunk of {length} bytes")));
                    }
                    match lane {
                        Lane::Bundle => self.read_bundle(length).await?,
                        Lane::Blob => self.read_blob(length).await?,
                    }
                    let _ = self.grants.send(1);
                }
            }
            if self.events.is_closed() {
                return Ok(());
            }
        }
    }

    /// Checks a header, then makes room for what it announces.
    async fn open(&mut self, header: BulkHeader) -> Result<(), NetError> {
        let limit = match header.lane() {
            Lane::Bundle => self.limits.bundle_bytes_max,
            Lane::Blob => self.limits.blob_bytes_max,
        };
        let bytes = header.byte_len().filter(|&b| b <= limit).ok_or_else(|| {
            NetError::Breach(format!("announced more than the {limit} bytes allowed at a time"))
        })?;
        match header {
            BulkHeader::Bundle(header) => {
                if self.bundle.is_some() {
                    return Err(NetError::Breach("a bundle inside a bundle".into()));
                }
                // Room is made for the values as they will be decoded, which no header says to be
                // fewer than what travels.
                let bytes = header.byte_len().filter(|&b| b <= limit).ok_or_else(|| {
                    NetError::Breach(format!("encoded more than the {limit} bytes allowed"))
                })?;
                let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
                // Waiting here stops the credit, and so the sender, until the driver took the
                // bundles before this one.
                let permit = self.room.clone().acquire_many_owned(units).await.ok();
                let sizes = header.wire_lens().unwrap_or_default();
                let pieces = sizes.into_iter().map(|bytes| vec![0; bytes]).collect();
                let permit = Permit(permit);
                self.bundle = Some(IncomingBundle { header, pieces, piece: 0, offset: 0, permit });
                self.close_bundle();
            }
            BulkHeader::Blob { hash, .. } => {
                if self.blob.is_some() || !self.wanted.take(hash) {
                    return Err(NetError::Breach(format!("blob {hash:?} was not asked for")));
                }
                // Grown as the bytes arrive: a peer that announces much and sends nothing costs
                // nothing.
                self.blob = Some(IncomingBlob { hash, bytes: Vec::new(), expected: bytes });
                self.close_blob()?;
            }
        }
        Ok(())
    }

    /// Reads a chunk straight into the pieces.
    async fn read_bundle(&mut self, mut length: usize) -> Result<(), NetError> {
        let breach = || NetError::Breach("more bytes than the bundle has".into());
        let incoming = self.bundle.as_mut().ok_or_else(breach)?;
        while length > 0 {
            let bytes = incoming.pieces.get_mut(incoming.piece).ok_or_else(breach)?;
            let end = bytes.len().min(incoming.offset + length);
            self.stream.read_exact(&mut bytes[incoming.offset..end]).await?;
            length -= end - incoming.offset;
            incoming.offset = end;
            if end == bytes.len() {
                (incoming.piece, incoming.offset) = (incoming.piece + 1, 0);
            }
        }
        self.close_bundle();
        Ok(())
    }

    fn close_bundle(&mut self) {
        let complete = |b: &mut IncomingBundle| {
            while b.offset == 0 && b.pieces.get(b.piece).is_some_and(|p| p.is_empty()) {
                b.piece += 1;
            }
            b.piece == b.pieces.len()
        };
        if let Some(IncomingBundle { header, pieces, permit, .. }) = self.bundle.take_if(complete) {
            let _ = self.events.send(Event::Bundle(self.peer, header, pieces, permit));
        }
    }

    async fn read_blob(&mut self, length: usize) -> Result<(), NetError> {
        let incoming = self.blob.as_mut();
        let fits = |b: &&mut IncomingBlob| b.bytes.len() + length <= b.expected;
        let Some(incoming) = incoming.filter(fits) else {
            return Err(NetError::Breach("more bytes than the blob has".into()));
        };
        let start = incoming.bytes.len();
        incoming.bytes.resize(start + length, 0);
        self.stream.read_exact(&mut incoming.bytes[start..]).await?;
        self.close_blob()
    }

    fn close_blob(&mut self) -> Result<(), NetError> {
        let complete = |b: &mut IncomingBlob| b.bytes.len() == b.expected;
        let Some(IncomingBlob { hash, bytes, .. }) = self.blob.take_if(complete) else {
            return Ok(());
        };
        if WeightHash::of_bytes(&bytes) != hash {
            return Err(NetError::Breach(format!("blob {hash:?} has another content")));
        }
        let _ = self.events.send(Event::Blob(self.peer, hash, bytes));
        Ok(())
    }
}
