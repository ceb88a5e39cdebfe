//! Values on their way out, as references into the tensors that own them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Something that owns bytes.
pub type Owner = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A run of byte ranges, sent one after another without copying them together first.
#[derive(Clone, Default)]
pub struct Payload {
    parts: Vec<(Owner, Range<usize>)>,
    len: usize,
}

impl Payload {
    /// No bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// All bytes of an owner.
    pub fn whole(owner: Owner) -> Self {
        let len = owner.as_ref().as_ref().len();
        let mut payload = Self::new();
        payload.push(owner, 0..len);
        payload
    }

    /// Appends a range of an owner's bytes.
    ///
    /// *Panics* when the range is not inside.
    pub fn push(&mut self, owner: Owner, range: Range<usize>) {
        assert!(range.end <= owner.as_ref().as_ref().len(), "range inside its owner");
        self.len += range.len();
        if range.start < range.end {
            self.parts.push((owner, range));
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slices, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|(owner, range)| &owner.as_ref().as_ref()[range.clone()])
    }

    /// Takes up to `count` bytes off the front.
    pub(crate) fn split_front(&mut self, count: usize) -> Payload {
        let mut front = Payload::new();
        let mut taken = 0;
        for (owner, range) in &mut self.parts {
            let room = (count - front.len).min(range.len());
            if room == 0 {
                break;
            }
            front.push(owner.clone(), range.start..range.start + room);
            range.start += room;
            taken += usize::from(range.start == range.end);
        }
        self.parts.drain(..taken);
        self.len -= front.len;
        front
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes in {} parts)", self.len, self.parts.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_are_the_bytes_in_order(
            parts in proptest::collection::vec((0usize..40, 0usize..40), 0..6),
            chunk in 1usize..50,
        ) {
            let owner: Owner = Arc::new((0u8..80).collect::<Vec<u8>>());
            let mut payload = Payload::new();
            for (start, len) in parts {
                payload.push(owner.clone(), start..start + len);
            }
            let expected: Vec<u8> = payload.slices().flatten().copied().collect();
            let mut got: Vec<u8> = Vec::new();
            while !payload.is_empty() {
                let front = payload.split_front(chunk);
                prop_assert!(front.len() <= chunk && !front.is_empty());
                got.extend(front.slices().flatten());
            }
            prop_assert_eq!(got, expected);
        }
    }
}
