use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use model::Samples;

use crate::sound::Measure;

/// How much sound may be on its way without an acknowledgement. Below the server's 30 s, so that it never has to
/// refuse; above its longest utterance, after which an acknowledgement comes at the latest.
pub const WINDOW: Duration = Duration::from_secs(25);

/// What was read and is not yet acknowledged, and how far it was sent. Sound that can be measured is kept until it
/// is acknowledged, so that a lost connection loses nothing; other sound is forgotten once sent.
pub struct Uplink {
    measure: Option<Measure>,
    /// Read and not acknowledged. Its first byte is number `acknowledged` of the source.
    kept: BytesMut,
    /// Where the current stream began, in bytes of the source.
    began: u64,
    acknowledged: u64,
    sent: u64,
}

impl Uplink {
    /// For sound of this measure, if it has one.
    pub fn new(measure: Option<Measure>) -> Self {
        Self { measure, kept: BytesMut::new(), began: 0, acknowledged: 0, sent: 0 }
    }

    /// Takes what was read from the source.
    pub fn push(&mut self, chunk: &[u8]) {
        self.kept.extend_from_slice(chunk);
    }

    /// Whether sound waits to be sent.
    pub fn has_unsent(&self) -> bool {
        self.unsent() > 0
    }

    /// Whether more may be sent now.
    pub fn has_room(&self) -> bool {
        self.unacknowledged() < Samples::from_millis(WINDOW.as_millis() as u64)
    }

    /// Sent without being acknowledged. Zero for sound without a measure: there the socket alone holds back.
    pub fn unacknowledged(&self) -> Samples {
        self.measure.map_or(Samples(0), |measure| measure.samples(self.sent - self.acknowledged))
    }

    /// The next piece to send, counted as sent.
    pub fn next(&mut self, bytes_max: usize) -> Option<Bytes> {
        let offset = self.offset();
        let end = offset.saturating_add(bytes_max).min(self.kept.len());
        let piece = Bytes::copy_from_slice(self.kept.get(offset..end).filter(|piece| !piece.is_empty())?);
        self.sent += piece.len() as u64;
        if self.measure.is_none() {
            self.forget_to(self.sent);
        }
        Some(piece)
    }

    /// The server has dealt with the current stream up to `position`. Never goes back, nor beyond what was sent.
    pub fn acknowledge(&mut self, position: Samples) {
        if let Some(measure) = self.measure {
            self.forget_to(self.began.saturating_add(measure.bytes(position)).min(self.sent));
        }
    }

    /// Drops what was read and not sent: nobody will send it any more.
    pub fn give_up_unsent(&mut self) {
        self.kept.truncate(self.offset());
    }

    /// A new stream begins; it is sent from the first byte that is not acknowledged.
    pub fn restart(&mut self) {
        self.began = self.acknowledged;
        self.sent = self.acknowledged;
    }

    /// The current stream goes on over a new connection: what it has from `position` is sent again.
    pub fn resume(&mut self, position: Samples) {
        if let Some(measure) = self.measure {
            let byte = self.began.saturating_add(measure.bytes(position));
            self.sent = byte.clamp(self.acknowledged, self.acknowledged + self.kept.len() as u64);
        }
    }

    /// Up to where the current stream is acknowledged.
    pub fn acknowledged(&self) -> Samples {
        self.measure.map_or(Samples(0), |measure| measure.samples(self.acknowledged - self.began))
    }

    /// Whether [`Uplink::restart`] loses nothing: not so once sound without a measure was sent.
    pub fn can_restart(&self) -> bool {
        self.measure.is_some() || self.sent == 0
    }

    /// Where in the source the current stream began.
    pub fn began(&self) -> Samples {
        self.measure.map_or(Samples(0), |measure| measure.samples(self.began))
    }

    /// How much of the source was sent.
    pub fn sent(&self) -> Samples {
        self.measure.map_or(Samples(0), |measure| measure.samples(self.sent))
    }

    /// How much of the source was sent, in bytes.
    pub fn sent_bytes(&self) -> u64 {
        self.sent
    }

    fn offset(&self) -> usize {
        usize::try_from(self.sent - self.acknowledged).unwrap_or(usize::MAX)
    }

    fn unsent(&self) -> usize {
        self.kept.len().saturating_sub(self.offset())
    }

    fn forget_to(&mut self, byte: u64) {
        let step = byte.saturating_sub(self.acknowledged).min(self.kept.len() as u64);
        self.kept.advance(usize::try_from(step).unwrap_or(usize::MAX));
        self.acknowledged += step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 16 kHz, 16 bit, mono: two bytes a sample.
    const PLAIN: Measure = Measure { rate_hz: 16_000, sample_bytes: 2 };

    #[test]
    fn what_is_not_acknowledged_is_sent_again_on_a_new_stream() {
        let mut uplink = Uplink::new(Some(PLAIN));
        uplink.push(&[1, 1, 2, 2, 3, 3, 4, 4]);
        assert_eq!(uplink.next(4).unwrap(), &[1, 1, 2, 2][..]);
        assert_eq!(uplink.next(100).unwrap(), &[3, 3, 4, 4][..]);
        assert_eq!(uplink.next(100), None);
        uplink.acknowledge(Samples(1));
        uplink.acknowledge(Samples(0));
        assert_eq!(uplink.unacknowledged(), Samples(3));
        uplink.restart();
        assert_eq!((uplink.began(), uplink.sent()), (Samples(1), Samples(1)));
        assert_eq!(uplink.next(2).unwrap(), &[2, 2][..]);
        uplink.acknowledge(Samples(u64::MAX));
        assert_eq!(uplink.sent(), Samples(2), "an acknowledgement cannot run ahead of what was sent");
        uplink.push(&[5, 5]);
        assert_eq!(uplink.next(100).unwrap(), &[3, 3, 4, 4, 5, 5][..]);
        uplink.acknowledge(Samples(4));
        assert_eq!(uplink.unacknowledged(), Samples(0));
        assert!(!uplink.has_unsent());
    }

    #[test]
    fn a_stream_that_goes_on_is_sent_again_from_where_it_is_asked_for() {
        let mut uplink = Uplink::new(Some(PLAIN));
        uplink.push(&[1, 1, 2, 2, 3, 3, 4, 4]);
        uplink.next(6).unwrap();
        uplink.acknowledge(Samples(1));
        uplink.resume(Samples(2));
        assert_eq!(
            (uplink.acknowledged(), uplink.sent(), uplink.began()),
            (Samples(1), Samples(2), Samples(0))
        );
        assert_eq!(uplink.next(100).unwrap(), &[3, 3, 4, 4][..]);
        uplink.resume(Samples(0));
        assert_eq!(uplink.next(2).unwrap(), &[2, 2][..], "what is acknowledged is not there any more");
        uplink.resume(Samples(99));
        assert_eq!(uplink.sent(), Samples(4), "nor what was never read");
    }

    #[test]
    fn the_window_holds_back_until_an_acknowledgement() {
        let mut uplink = Uplink::new(Some(PLAIN));
        let second = vec![0; 32_000];
        for _ in 0..25 {
            assert!(uplink.has_room());
            uplink.push(&second);
            uplink.next(usize::MAX).unwrap();
        }
        assert!(!uplink.has_room());
        uplink.acknowledge(Samples(16_000));
        assert!(uplink.has_room());
    }

    #[test]
    fn sound_without_a_measure_is_sent_once() {
        let mut uplink = Uplink::new(None);
        assert!(uplink.can_restart());
        uplink.push(b"OggS");
        assert_eq!(uplink.next(100).unwrap(), &b"OggS"[..]);
        assert!(uplink.has_room() && !uplink.has_unsent());
        assert!(!uplink.can_restart());
        assert_eq!(uplink.sent_bytes(), 4);
    }
}
