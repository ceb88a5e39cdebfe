//! What the writer of a file says of it, beside the graph: `metadata_props`.
//!
//! Exporters tell there how pictures are to be prepared, what the model is for and what its
//! classes are called. Nothing here gives the entries a meaning.

use super::{malformed, open_scanned};
use crate::error::ModelError;
use crate::limits;
use rten_onnx::onnx::StringStringEntryProto;
use rten_onnx::protobuf::{
    DecodeMessage, FieldValue, Fields, OwnedValues, ProtobufError, ReadValue, ValueReader,
};
use std::collections::BTreeMap;
use std::path::Path;

/// The entries of a file's metadata by key, without reading its weights; of a key that comes twice
/// the last value.
///
/// *Errors* when the file cannot be read, is not a well-framed ONNX model, or has more metadata
/// than [`limits::METADATA_BYTES_MAX`].
pub fn metadata(path: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    let file = path.display().to_string();
    let reader = ValueReader::from_file(open_scanned(path, &file)?);
    let entries = Entries::decode(reader).map_err(|e| malformed(&file, e.to_string()))?;
    if entries.bytes > limits::METADATA_BYTES_MAX {
        return Err(ModelError::TooLarge {
            file: file.into(),
            what: "bytes of metadata".into(),
            limit: limits::METADATA_BYTES_MAX as u64,
            got: entries.bytes.to_string().into(),
        });
    }
    Ok(entries.by_key)
}

/// A model of which only the metadata is kept.
#[derive(Default)]
struct Entries {
    by_key: BTreeMap<String, String>,
    /// Of all entries, also of those that were not kept for their size.
    bytes: usize,
}

impl DecodeMessage for Entries {
    type Types = OwnedValues;

    fn decode_fields<R: ReadValue<Types = OwnedValues>>(
        mut fields: Fields<R>,
    ) -> Result<Self, ProtobufError> {
        let mut entries = Self::default();
        while let Some(mut field) = fields.next()? {
            let (14, FieldValue::Len(length)) = (field.number(), field.value()) else {
                field.skip()?;
                continue;
            };
            entries.bytes = entries.bytes.saturating_add(length as usize);
            if entries.bytes > limits::METADATA_BYTES_MAX {
                field.skip()?;
                continue;
            }
            let entry = StringStringEntryProto::decode_field(&mut field)?;
            entries.by_key.insert(entry.key.unwrap_or_default(), entry.value.unwrap_or_default());
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A length-delimited field with a short payload.
    fn field(number: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len();
        let mut bytes = vec![number << 3 | 2];
        bytes.extend([(length & 0x7f) as u8 | 0x80, (length >> 7 & 0x7f) as u8 | 0x80]);
        bytes.push((length >> 14) as u8);
        bytes.extend(payload);
        bytes
    }

    fn file(entries: &[(&str, &str)]) -> tempfile::NamedTempFile {
        let mut bytes = field(7, &[]);
        for (key, value) in entries {
            let entry = [field(1, key.as_bytes()), field(2, value.as_bytes())].concat();
            bytes.extend(field(14, &entry));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn entries_come_by_key() {
        let written = file(&[("task", "detect"), ("stride", "32"), ("task", "segment")]);
        let entries = metadata(written.path()).unwrap();
        assert_eq!(entries["task"], "segment");
        assert_eq!(entries["stride"], "32");
        assert!(metadata(file(&[]).path()).unwrap().is_empty());
    }

    #[test]
    fn too_much_is_refused() {
        let long = "x".repeat(1 << 20);
        let error = metadata(file(&[("a", &long), ("b", &long)]).path()).unwrap_err();
        assert!(error.to_string().contains("bytes of metadata"), "{error}");
    }
}
