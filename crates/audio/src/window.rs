/// Bytes that a demuxer has and cannot use yet. It grows by what is pushed (the decoder feeds small pieces) and
/// shrinks by what is used, so its limit is one piece plus the largest element that its demuxer waits for.
#[derive(Default)]
pub(crate) struct Window {
    bytes: Vec<u8>,
    used: usize,
}

impl Window {
    /// Adds the bytes that came next.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used.min(self.bytes.len()));
        self.used = 0;
        // After one large element the room it took is given back.
        if self.bytes.capacity() > KEPT_BYTES_MAX && self.bytes.len() + bytes.len() < KEPT_BYTES_MAX / 4 {
            self.bytes.shrink_to(KEPT_BYTES_MAX / 2);
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// What is not used yet.
    pub(crate) fn rest(&self) -> &[u8] {
        self.bytes.get(self.used..).unwrap_or_default()
    }

    /// Gives up the first `count` bytes of [`Window::rest`].
    pub(crate) fn advance(&mut self, count: usize) {
        self.used = (self.used + count).min(self.bytes.len());
    }

    /// Gives up as much as there is of `skip`, and counts it down.
    pub(crate) fn skip(&mut self, skip: &mut u64) {
        let here = usize::try_from(*skip).unwrap_or(usize::MAX).min(self.rest().len());
        self.advance(here);
        *skip -= here as u64;
    }
}

/// Capacity that an idle window may keep, in bytes.
const KEPT_BYTES_MAX: usize = 64 * 1024;
