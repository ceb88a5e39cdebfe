//! What strangers, peers and files say, read from bytes alone: the readers that sessions, handshakes and
//! the register use, without their sockets and files, for tests that feed them anything.

use crate::admission::Admission;
use crate::frame::{BulkFrame, BulkHeader, decode, read_message};
use crate::handshake::{Claim, Verdict};
use futures::FutureExt;
use protocol::Message;

/// Reads bytes as everything that may come over a connection. Nothing of it may panic, nor ask for
/// memory that the bytes do not fill.
pub fn anything(bytes: &[u8]) {
    let _ = decode::<Message>(bytes);
    let _ = decode::<Claim>(bytes);
    let _ = decode::<Verdict>(bytes);
    if let Ok(header) = decode::<BulkHeader>(bytes) {
        let _ = (header.lane(), header.byte_len());
        if let BulkHeader::Bundle(bundle) = header {
            let _ = (bundle.byte_len(), bundle.wire_lens(), bundle.unsent_bytes());
        }
    }
    // Bytes in memory are never waited for.
    let _ = read_message::<Message>(&mut futures::io::Cursor::new(bytes)).now_or_never();
    let _ = BulkFrame::read(&mut futures::io::Cursor::new(bytes)).now_or_never();
}

/// Reads the file of invitations and members.
///
/// *Errors*: what of it is damaged.
pub fn register(bytes: &[u8]) -> Result<Admission, String> {
    let admission: Admission = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    admission.check().map_err(|what| what.to_string())?;
    Ok(admission)
}
