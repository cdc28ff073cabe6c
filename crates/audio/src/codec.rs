use std::panic::{AssertUnwindSafe, catch_unwind};

use symphonia::{
    core::{
        codecs::audio::{
            AudioCodecParameters, AudioDecoder,
            well_known::{CODEC_ID_AAC, CODEC_ID_FLAC, CODEC_ID_MP3},
        },
        packet::PacketRef,
        units::{Duration, Timestamp},
    },
    default::codecs::{AacDecoder, FlacDecoder, MpaDecoder},
};

use crate::{AudioError, Encoding, sink::Sink};

/// Packets in a row that a codec may refuse before the stream is given up.
const REFUSED_IN_A_ROW_MAX: u32 = 50;

/// What happened to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It was delivered: rate in Hz and channels.
    Sound(u32, u16),
    /// The codec refused it; nothing was delivered.
    Nothing,
}

/// A packet decoder of AAC, FLAC or MP3.
pub(crate) struct Codec {
    encoding: Encoding,
    decoder: Box<dyn AudioDecoder>,
    interleaved: Vec<f32>,
    refused: u32,
}

impl Codec {
    /// `stream_info` is the body of the metadata block (RFC 9639 section 8.2).
    pub(crate) fn flac(stream_info: &[u8]) -> Result<Self, AudioError> {
        let mut parameters = AudioCodecParameters::new();
        parameters.for_codec(CODEC_ID_FLAC).with_extra_data(stream_info.into());
        let decoder = FlacDecoder::try_new(&parameters, &Default::default()).map_err(|_| {
            AudioError::Malformed { encoding: Encoding::Flac, what: "its stream information is wrong" }
        })?;
        Ok(Self::of(Encoding::Flac, Box::new(decoder)))
    }

    /// `config` is an AudioSpecificConfig of AAC-LC.
    pub(crate) fn aac(config: &[u8]) -> Result<Self, AudioError> {
        let mut parameters = AudioCodecParameters::new();
        parameters.for_codec(CODEC_ID_AAC).with_extra_data(config.into());
        let decoder = AacDecoder::try_new(&parameters, &Default::default()).map_err(|_| {
            AudioError::Malformed { encoding: Encoding::Aac, what: "its configuration is wrong" }
        })?;
        Ok(Self::of(Encoding::Aac, Box::new(decoder)))
    }

    pub(crate) fn mp3() -> Result<Self, AudioError> {
        let mut parameters = AudioCodecParameters::new();
        parameters.for_codec(CODEC_ID_MP3);
        let decoder =
            MpaDecoder::try_new(&parameters, &Default::default()).map_err(|_| AudioError::Conversion)?;
        Ok(Self::of(Encoding::Mp3, Box::new(decoder)))
    }

    fn of(encoding: Encoding, decoder: Box<dyn AudioDecoder>) -> Self {
        Self { encoding, decoder, interleaved: Vec::new(), refused: 0 }
    }

    /// Decodes one packet, leaves out `skip` samples of each channel, and delivers the others.
    pub(crate) fn packet(
        &mut self,
        packet: &[u8],
        skip: &mut usize,
        sink: &mut Sink,
    ) -> Result<Heard, AudioError> {
        let Self { decoder, interleaved, .. } = self;
        interleaved.clear();
        // The codecs are not ours and their input is hostile: arithmetic that overflows in there is bad data, not
        // the end of the process. A decoder that panicked is reset before it is used again.
        let decoded = catch_unwind(AssertUnwindSafe(|| {
            let buffer =
                decoder.decode_ref(&PacketRef::new(0, Timestamp::new(0), Duration::new(0), packet)).ok()?;
            buffer.copy_to_vec_interleaved(interleaved);
            let channels = u16::try_from(buffer.spec().channels().count()).ok()?;
            Some((buffer.spec().rate(), channels))
        }))
        .unwrap_or_else(|_| {
            decoder.reset();
            None
        });
        let Some((rate_hz, channels)) = decoded else {
            self.refused += 1;
            if self.refused > REFUSED_IN_A_ROW_MAX {
                return Err(AudioError::Malformed {
                    encoding: self.encoding,
                    what: "its frames cannot be decoded",
                });
            }
            return Ok(Heard::Nothing);
        };
        self.refused = 0;
        let skipped = (*skip).min(interleaved.len() / usize::from(channels.max(1)));
        *skip -= skipped;
        let sound = interleaved.get(skipped * usize::from(channels)..).unwrap_or_default();
        // Never beyond full scale, and never without a number, whatever a codec made of hostile input.
        sink.interleaved(rate_hz, channels, sound)?;
        Ok(Heard::Sound(rate_hz, channels))
    }
}
