//! AAC access units without a container, as RTMP and MP4 carry them.

use crate::{
    AudioError, Encoding, Format,
    codec::{Codec, Heard},
    decoder::Reader,
    sink::Sink,
};

/// Samples of each channel in an access unit.
const UNIT_SAMPLES: usize = 1_024;

/// AudioObjectType of ISO 14496-3 section 1.5.1: the only one that is decoded.
const AAC_LC: u32 = 2;
/// Spectral band replication: HE-AAC is an AAC-LC core of half the rate with a hint how the upper half sounds.
const SBR: u32 = 5;
/// Parametric stereo: HE-AAC v2 is a mono core with a hint where in the room it sounds.
const PS: u32 = 29;

const RATES_HZ: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];

/// The sampling frequency index which says that the frequency itself follows.
const RATE_ESCAPE: u32 = 15;

/// Extensions of the core are left out: speech lies below 8 kHz, which every core holds.
pub(crate) struct Aac {
    codec: Codec,
    format: Format,
}

impl Aac {
    /// `config` is an AudioSpecificConfig (ISO 14496-3 section 1.6.2.1).
    pub(crate) fn new(config: &[u8]) -> Result<Self, AudioError> {
        let core = Core::read(config)?;
        let format = Format::new(Encoding::Aac, core.rate_hz, core.channels)?;
        Ok(Self { codec: Codec::aac(&core.config())?, format })
    }
}

impl Reader for Aac {
    fn push(&mut self, unit: &[u8], sink: &mut Sink) -> Result<(), AudioError> {
        match self.codec.packet(unit, &mut 0, sink)? {
            Heard::Sound(..) => Ok(()),
            Heard::Nothing => sink.silence(self.format.sample_rate_hz, UNIT_SAMPLES),
        }
    }

    fn finish(&mut self, _: &mut Sink) -> Result<(), AudioError> {
        Ok(())
    }

    fn format(&self) -> Option<Format> {
        Some(self.format)
    }
}

/// The AAC-LC core that a configuration describes.
#[derive(Debug, PartialEq, Eq)]
struct Core {
    rate_hz: u32,
    channels: u16,
}

impl Core {
    fn read(config: &[u8]) -> Result<Self, AudioError> {
        let mut bits = Bits { bytes: config, at: 0 };
        let core = Self::parse(&mut bits);
        core.unwrap_or(Err(AudioError::Malformed {
            encoding: Encoding::Aac,
            what: "its configuration is too short",
        }))
    }

    /// None when the bytes end too early.
    fn parse(bits: &mut Bits<'_>) -> Option<Result<Self, AudioError>> {
        let mut object = bits.object()?;
        let rate_hz = bits.rate()?;
        let channels = bits.take(4)?;
        if matches!(object, SBR | PS) {
            // The rate with the extension; what follows describes the core.
            bits.rate()?;
            object = bits.object()?;
        }
        if object != AAC_LC {
            return Some(Err(AudioError::Unsupported("this kind of AAC (only AAC-LC and HE-AAC are)")));
        }
        if bits.take(1)? == 1 {
            return Some(Err(AudioError::Unsupported("AAC with frames of 960 samples")));
        }
        let channels = match channels {
            1 => 1,
            2 => 2,
            0 => return Some(Err(AudioError::Unsupported("AAC with channels of its own arrangement"))),
            _ => return Some(Err(AudioError::Unsupported("AAC of more than two channels"))),
        };
        let Some(rate_hz) = rate_hz else {
            return Some(Err(AudioError::Malformed {
                encoding: Encoding::Aac,
                what: "its sample rate is reserved",
            }));
        };
        Some(Ok(Self { rate_hz, channels }))
    }

    /// The shortest configuration of this core.
    fn config(&self) -> Vec<u8> {
        let index = RATES_HZ.iter().position(|rate| *rate == self.rate_hz);
        let tail = u64::from(self.channels) << 3;
        match index {
            // Object type, rate, channels, three flags that are zero.
            Some(index) => (u16::try_from(u64::from(AAC_LC) << 11 | (index as u64) << 7 | tail)
                .unwrap_or_default())
            .to_be_bytes()
            .to_vec(),
            None => {
                let all = u64::from(AAC_LC) << 35
                    | u64::from(RATE_ESCAPE) << 31
                    | u64::from(self.rate_hz & 0xff_ffff) << 7
                    | tail;
                all.to_be_bytes().get(3..).unwrap_or_default().to_vec()
            }
        }
    }
}

/// Bits of a configuration, the highest of each byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// At most 24 bits.
    fn take(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for at in self.at..self.at + count {
            let byte = self.bytes.get(at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - at % 8) & 1);
        }
        self.at += count;
        Some(value)
    }

    fn object(&mut self) -> Option<u32> {
        match self.take(5)? {
            31 => Some(32 + self.take(6)?),
            object => Some(object),
        }
    }

    /// `Some(None)` for an index that means nothing.
    fn rate(&mut self) -> Option<Option<u32>> {
        match self.take(4)? {
            RATE_ESCAPE => Some(Some(self.take(24)?)),
            index => Some(RATES_HZ.get(index as usize).copied()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_of_every_kind_is_found() {
        let core = |rate_hz, channels| Ok(Core { rate_hz, channels });
        let cases: [(&[u8], Result<Core, AudioError>); 6] = [
            // AAC-LC as ffmpeg and OBS write it, 44.1 kHz stereo and 48 kHz mono.
            (&[0x12, 0x10], core(44_100, 2)),
            (&[0x11, 0x88, 0x56, 0xe5, 0x00], core(48_000, 1)),
            // HE-AAC: a core of 22.05 kHz below 44.1; HE-AAC v2: mono 24 kHz below 48.
            (&[0x2b, 0x92, 0x08, 0x00], core(22_050, 2)),
            (&[0xeb, 0x09, 0x88, 0x00], core(24_000, 1)),
            // The rate written out: 44,056 Hz.
            (&[0x17, 0x80, 0x56, 0x0c, 0x08], core(44_056, 1)),
            (
                &[0xf8, 0xe6, 0x20],
                Err(AudioError::Unsupported("this kind of AAC (only AAC-LC and HE-AAC are)")),
            ),
        ];
        for (config, expected) in cases {
            assert_eq!(Core::read(config), expected, "{config:02x?}");
        }
        for config in [&[][..], &[0x12], &[0x2b, 0x92]] {
            assert!(matches!(Core::read(config), Err(AudioError::Malformed { .. })), "{config:02x?}");
        }
        for config in [&[0x12, 0x00][..], &[0x12, 0x30], &[0x12, 0x14], &[0x0a, 0x10]] {
            assert!(matches!(Core::read(config), Err(AudioError::Unsupported(_))), "{config:02x?}");
        }
    }

    #[test]
    fn a_core_is_written_as_it_was_read() {
        for core in [
            Core { rate_hz: 44_100, channels: 2 },
            Core { rate_hz: 8_000, channels: 1 },
            Core { rate_hz: 44_056, channels: 2 },
        ] {
            assert_eq!(Core::read(&core.config()), Ok(core));
        }
        assert_eq!(Core { rate_hz: 44_100, channels: 2 }.config(), [0x12, 0x10]);
    }
}
