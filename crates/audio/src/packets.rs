//! Packets of one codec that come without a container, as RTMP and RTP carry them.

use crate::{
    AudioError, Encoding, Format, MESSAGE_BYTES_MAX,
    aac::Aac,
    decoder::Reader,
    flac::{FlacStream, Found, FrameHeader, STREAM_INFO_BYTES},
    mpeg::Mp3,
    opus::{CLOCK_HZ, OpusHead, OpusStream},
    pcm::{Pcm, raw_sample},
    sink::Sink,
};

/// What the packets of a stream are, with the header that its sender gave apart from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packets<'a> {
    /// AAC access units and their AudioSpecificConfig (ISO 14496-3 section 1.6.2.1): AAC-LC, mono or stereo. Of
    /// HE-AAC v1 and v2 the AAC-LC core is decoded, which has half the rate and, in v2, one channel.
    Aac(&'a [u8]),
    /// Frames of MPEG audio layer III.
    Mp3,
    /// Opus packets and their identification header (RFC 7845 section 5.1), if there is one.
    Opus(Option<&'a [u8]>),
    /// FLAC frames and the body of their STREAMINFO (RFC 9639 section 8.2).
    Flac(&'a [u8]),
    /// Samples of a raw encoding; each packet holds whole ones.
    Raw(Format),
}

/// Turns the packets of one stream into 16 kHz mono samples.
///
/// A packet that cannot be decoded becomes as much silence, so that the clock stays right; 50 such packets in a row
/// are an error, and so is a configuration that cannot be used. Takes up to 200 KiB once sound has come.
pub struct PacketDecoder {
    reader: Box<dyn Reader>,
    sink: Sink,
}

impl PacketDecoder {
    /// A decoder for packets of this kind.
    ///
    /// # Errors
    /// [`AudioError::Unsupported`] for what is recognized and not decoded; [`AudioError::Malformed`],
    /// [`AudioError::SampleRate`] and [`AudioError::Channels`] for a header that is wrong.
    pub fn new(packets: Packets<'_>) -> Result<Self, AudioError> {
        let reader: Box<dyn Reader> = match packets {
            Packets::Aac(config) => Box::new(Aac::new(config)?),
            Packets::Mp3 => Box::new(Mp3::default()),
            Packets::Opus(head) => {
                let head = match head {
                    Some(head) => OpusHead::read(Encoding::Opus, head)?,
                    None => OpusHead::plain(2),
                };
                Box::new(Opus(OpusStream::new(Encoding::Opus, &head)?))
            }
            Packets::Flac(info) => {
                let info: &[u8; STREAM_INFO_BYTES] = info.try_into().map_err(|_| AudioError::Malformed {
                    encoding: Encoding::Flac,
                    what: "its stream information has another length",
                })?;
                Box::new(Flac(FlacStream::new(Encoding::Flac, info)?))
            }
            Packets::Raw(format) => {
                let sample = raw_sample(format.encoding).ok_or(AudioError::UnknownEncoding)?;
                Box::new(Pcm::new(format, sample))
            }
        };
        Ok(Self { reader, sink: Sink::new() })
    }

    /// Decodes the packet that came next and appends what it completes to `out`; about 30 ms are held back. Costs
    /// CPU in proportion to the sound: call it off the async threads.
    ///
    /// # Errors
    /// See [`AudioError`]. The decoder may be used further, but hardly will be of use.
    pub fn push(&mut self, packet: &[u8], out: &mut Vec<i16>) -> Result<(), AudioError> {
        if packet.len() > MESSAGE_BYTES_MAX {
            return Err(AudioError::MessageTooLarge(packet.len()));
        }
        let Self { reader, sink } = self;
        sink.during(out, |sink| reader.push(packet, sink))
    }

    /// Appends what is held back: nothing follows, or sound from a later moment.
    ///
    /// # Errors
    /// As [`PacketDecoder::push`].
    pub fn flush(&mut self, out: &mut Vec<i16>) -> Result<(), AudioError> {
        let Self { reader, sink } = self;
        sink.during(out, |sink| {
            reader.finish(sink)?;
            sink.flush()
        })
    }

    /// What the source is, once that is known.
    pub fn format(&self) -> Option<Format> {
        self.reader.format()
    }

    /// Packets that became silence since the decoder was made.
    pub fn concealed(&self) -> u64 {
        self.sink.concealed()
    }
}

/// Says nothing of what was heard.
impl std::fmt::Debug for PacketDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PacketDecoder({:?})", self.format())
    }
}

struct Opus(OpusStream);

impl Reader for Opus {
    fn push(&mut self, packet: &[u8], sink: &mut Sink) -> Result<(), AudioError> {
        self.0.packet(packet, u64::MAX, sink).map(drop)
    }

    fn finish(&mut self, _: &mut Sink) -> Result<(), AudioError> {
        Ok(())
    }

    fn format(&self) -> Option<Format> {
        Format::new(Encoding::Opus, CLOCK_HZ, u16::from(self.0.channels)).ok()
    }
}

struct Flac(FlacStream);

impl Reader for Flac {
    fn push(&mut self, packet: &[u8], sink: &mut Sink) -> Result<(), AudioError> {
        match FrameHeader::read(packet) {
            Found::Header(header) => self.0.frame(packet, header.samples, sink),
            // Without a header nobody knows how long it was; whoever has its time sees the gap.
            Found::None | Found::Unclear => {
                sink.conceal();
                Ok(())
            }
        }
    }

    fn finish(&mut self, _: &mut Sink) -> Result<(), AudioError> {
        Ok(())
    }

    fn format(&self) -> Option<Format> {
        Some(self.0.format)
    }
}
