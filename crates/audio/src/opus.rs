use opus::{Channels, Decoder, MSDecoder};

use crate::{AudioError, CHANNELS_MAX, Encoding, Format, decoder::Reader, sink::Sink};

/// The clock of Opus, whatever rate is decoded.
pub(crate) const CLOCK_HZ: u32 = 48_000;

/// libopus decodes straight to our rate, which costs a third of decoding 48 kHz and no resampler.
const RATE_HZ: u32 = model::SAMPLE_RATE_HZ;

/// Clock ticks in one of our samples.
const TICKS_PER_SAMPLE: u64 = (CLOCK_HZ / RATE_HZ) as u64;

/// Samples of the longest packet, 120 ms (RFC 6716 section 3.2.5), at our rate.
const PACKET_SAMPLES_MAX: usize = (RATE_HZ as usize) * 120 / 1_000;

/// Samples of silence for a packet that says nothing about its length: the 20 ms that nearly all encoders send.
const LOST_PACKET_SAMPLES: usize = model::FRAME_SAMPLES;

/// Packets in a row that may be refused inside a container before the stream is given up.
const REFUSED_IN_A_ROW_MAX: u32 = 50;

/// Identification header (RFC 7845 section 5.1), in Ogg a packet, in WebM the private data of the track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpusHead {
    pub(crate) channels: u8,
    pre_skip: u16,
    gain: i16,
    /// Streams, coupled streams, and which decoded channel each channel is; None for plain mono and stereo.
    mapping: Option<(u8, u8, Vec<u8>)>,
}

impl OpusHead {
    pub(crate) fn read(encoding: Encoding, bytes: &[u8]) -> Result<Self, AudioError> {
        let broken = |what| AudioError::Malformed { encoding, what };
        let Some((
            &[
                b'O',
                b'p',
                b'u',
                b's',
                b'H',
                b'e',
                b'a',
                b'd',
                version,
                channels,
                s0,
                s1,
                _,
                _,
                _,
                _,
                g0,
                g1,
                family,
            ],
            table,
        )) = bytes.split_first_chunk::<19>()
        else {
            return Err(broken("its Opus header is too short"));
        };
        if version & 0xf0 != 0 {
            return Err(AudioError::Unsupported("this version of Opus in a container"));
        }
        if channels == 0 || u16::from(channels) > CHANNELS_MAX {
            return Err(AudioError::Channels(u16::from(channels)));
        }
        let mapping = match (family, table) {
            (0, _) if channels <= 2 => None,
            (0, _) => return Err(broken("its Opus header has too many channels")),
            (1 | 255, &[streams, coupled, ref rest @ ..]) => {
                let Some(map) = rest.get(..usize::from(channels)) else {
                    return Err(broken("its Opus header is too short"));
                };
                Some((streams, coupled, map.to_vec()))
            }
            _ => return Err(AudioError::Unsupported("this arrangement of Opus channels")),
        };
        Ok(Self {
            channels,
            pre_skip: u16::from_le_bytes([s0, s1]),
            gain: i16::from_le_bytes([g0, g1]),
            mapping,
        })
    }

    /// What a track without a header is taken for.
    pub(crate) fn plain(channels: u8) -> Self {
        Self { channels, pre_skip: 0, gain: 0, mapping: None }
    }
}

enum Engine {
    /// Mono and stereo; stereo is mixed inside the decoder.
    Mono(Decoder),
    Many(MSDecoder, u16),
}

/// Packets of one logical stream, in order.
pub(crate) struct OpusStream {
    encoding: Encoding,
    engine: Engine,
    pub(crate) channels: u8,
    /// Samples of the encoder's delay still to leave out.
    skip: usize,
    decoded: Vec<f32>,
    refused: u32,
}

impl OpusStream {
    pub(crate) fn new(encoding: Encoding, head: &OpusHead) -> Result<Self, AudioError> {
        let wrong = |_| AudioError::Malformed { encoding, what: "its Opus header is wrong" };
        let gain = i32::from(head.gain);
        let (engine, width) = match &head.mapping {
            None => {
                let mut decoder = Decoder::new(RATE_HZ, Channels::Mono).map_err(wrong)?;
                decoder.set_gain(gain).map_err(wrong)?;
                (Engine::Mono(decoder), 1)
            }
            Some((streams, coupled, map)) => {
                let mut decoder = MSDecoder::new(RATE_HZ, *streams, *coupled, map).map_err(wrong)?;
                decoder.set_gain(gain).map_err(wrong)?;
                (Engine::Many(decoder, u16::from(head.channels)), usize::from(head.channels))
            }
        };
        let skip = usize::from(head.pre_skip) / TICKS_PER_SAMPLE as usize;
        let decoded = vec![0.0; PACKET_SAMPLES_MAX * width];
        Ok(Self { encoding, engine, channels: head.channels, skip, decoded, refused: 0 })
    }

    /// Decodes one packet of a container and delivers at most `ticks_max` of it; what cannot be decoded becomes
    /// silence. Returns its length in ticks of [`CLOCK_HZ`].
    pub(crate) fn packet(
        &mut self,
        packet: &[u8],
        ticks_max: u64,
        sink: &mut Sink,
    ) -> Result<u64, AudioError> {
        if let Some(ticks) = self.decode(packet, ticks_max, sink)? {
            self.refused = 0;
            return Ok(ticks);
        }
        self.refused += 1;
        if self.refused > REFUSED_IN_A_ROW_MAX {
            return Err(AudioError::Malformed {
                encoding: self.encoding,
                what: "its Opus packets cannot be decoded",
            });
        }
        sink.silence(RATE_HZ, LOST_PACKET_SAMPLES)?;
        Ok(LOST_PACKET_SAMPLES as u64 * TICKS_PER_SAMPLE)
    }

    /// None when the packet is no Opus.
    fn decode(&mut self, packet: &[u8], ticks_max: u64, sink: &mut Sink) -> Result<Option<u64>, AudioError> {
        // The decoder takes an empty packet for a lost one and would fill the whole buffer.
        if packet.is_empty() {
            return Ok(None);
        }
        let (samples, width) = match &mut self.engine {
            Engine::Mono(decoder) => (decoder.decode_float(packet, &mut self.decoded, false), 1),
            Engine::Many(decoder, width) => (decoder.decode_float(packet, &mut self.decoded, false), *width),
        };
        let Ok(samples) = samples else { return Ok(None) };
        let skipped = self.skip.min(samples);
        self.skip -= skipped;
        let end =
            usize::try_from(ticks_max / TICKS_PER_SAMPLE).unwrap_or(usize::MAX).min(samples).max(skipped);
        let width_samples = usize::from(width);
        let sound = self.decoded.get(skipped * width_samples..end * width_samples).unwrap_or_default();
        sink.interleaved(RATE_HZ, width, sound)?;
        Ok(Some(samples as u64 * TICKS_PER_SAMPLE))
    }
}

/// Raw Opus: each message is one packet. A bad one is refused and does not harm the next.
pub(crate) struct Packets {
    channels: u16,
    stream: Option<OpusStream>,
}

impl Packets {
    pub(crate) const fn new(channels: u16) -> Self {
        Self { channels, stream: None }
    }
}

impl Reader for Packets {
    fn push(&mut self, packet: &[u8], sink: &mut Sink) -> Result<(), AudioError> {
        if packet.is_empty() {
            return Ok(());
        }
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => self.stream.insert(OpusStream::new(Encoding::Opus, &OpusHead::plain(1))?),
        };
        match stream.decode(packet, u64::MAX, sink)? {
            Some(_) => Ok(()),
            None => {
                Err(AudioError::Malformed { encoding: Encoding::Opus, what: "a message is no Opus packet" })
            }
        }
    }

    fn finish(&mut self, _: &mut Sink) -> Result<(), AudioError> {
        Ok(())
    }

    fn format(&self) -> Option<Format> {
        Format::new(Encoding::Opus, CLOCK_HZ, self.channels).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_checked() {
        let head = |tail: &[u8]| OpusHead::read(Encoding::Ogg, &[b"OpusHead", tail].concat());
        let stereo = head(&[1, 2, 0x38, 0x01, 0x80, 0xbb, 0, 0, 0, 0xff, 0]).unwrap();
        assert_eq!(stereo, OpusHead { channels: 2, pre_skip: 312, gain: -256, mapping: None });
        let surround = head(&[1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 1, 0, 2, 1]).unwrap();
        assert_eq!(surround.mapping, Some((2, 1, vec![0, 2, 1])));
        assert!(OpusStream::new(Encoding::Ogg, &surround).is_ok());
        let lying = head(&[1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 9, 9, 9]).unwrap();
        assert!(OpusStream::new(Encoding::Ogg, &lying).is_err());
        assert_eq!(head(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(AudioError::Channels(0)));
        assert_eq!(head(&[1, 200, 0, 0, 0, 0, 0, 0, 0, 0, 255]), Err(AudioError::Channels(200)));
        for tail in
            [&[1u8, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[1, 2, 0], &[1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 1]]
        {
            assert!(matches!(head(tail), Err(AudioError::Malformed { .. })), "{tail:?}");
        }
    }
}
