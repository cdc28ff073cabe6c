use model::FaultKind;

/// Longest chain of ModEx prefixes before the packet itself; the specification defines one kind.
pub const MOD_EX_MAX: usize = 16;

/// Largest offset a TimestampOffsetNano may hold: below one millisecond (E-RTMP v2, "TimestampOffsetNano").
pub const TIMESTAMP_OFFSET_NS_MAX: u32 = 999_999;

/// `SoundFormat` 9 of the first byte: what follows is an ExAudioTagHeader.
const EX_HEADER: u8 = 9;

/// How the sound of a packet is encoded.
///
/// From `SoundFormat` (FLV v10.1, annex E.4.2.1) or from a FourCC (E-RTMP v2, "Enhanced Audio"). Recognized does not
/// mean decodable: see [`Codec::label`] for what to count a refusal under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// AAC: configuration is an AudioSpecificConfig (ISO/IEC 14496-3), frames are raw data blocks.
    Aac,
    /// MPEG audio layer III: every packet holds whole frames with their headers; there is no configuration.
    Mp3,
    /// Opus: configuration is an identification header (RFC 7845 section 5.1), a packet is one Opus packet.
    Opus,
    /// FLAC: configuration is `fLaC` and its metadata blocks, or from ffmpeg a bare STREAMINFO (34 bytes), which it sends again
    /// at the end; a packet is one frame.
    Flac,
    /// Linear PCM, little endian when 16 bits wide (unsigned when 8).
    Pcm(PcmLayout),
    /// G.711 A-law, 8000 Hz.
    ALaw {
        /// Interleaved channels, 1 or 2.
        channels: u8,
    },
    /// G.711 µ-law, 8000 Hz.
    MuLaw {
        /// Interleaved channels, 1 or 2.
        channels: u8,
    },
    /// ADPCM of the Flash player.
    Adpcm,
    /// Nellymoser at any of its rates.
    Nellymoser,
    /// Speex, 16 kHz mono.
    Speex,
    /// Dolby AC-3.
    Ac3,
    /// Dolby E-AC-3.
    Eac3,
    /// `SoundFormat` 15, of one device only.
    DeviceSpecific,
    /// A reserved `SoundFormat`.
    Reserved(u8),
    /// A FourCC that the specification does not name.
    Unknown([u8; 4]),
}

/// The rate, width and channels that the first byte of a tag tells of uncompressed sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PcmLayout {
    /// 5512, 11 025, 22 050 or 44 100 Hz.
    pub sample_rate_hz: u32,
    /// 8 or 16.
    pub bits: u8,
    /// 1 or 2, interleaved.
    pub channels: u8,
}

impl Codec {
    /// Every label, for metrics that start at zero.
    pub const LABELS: [&str; 14] = [
        "aac",
        "mp3",
        "opus",
        "flac",
        "pcm",
        "alaw",
        "mulaw",
        "adpcm",
        "nellymoser",
        "speex",
        "ac3",
        "eac3",
        "device_specific",
        "unknown",
    ];

    /// Metric label; bounded, whatever a publisher sends.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Aac => "aac",
            Self::Mp3 => "mp3",
            Self::Opus => "opus",
            Self::Flac => "flac",
            Self::Pcm(_) => "pcm",
            Self::ALaw { .. } => "alaw",
            Self::MuLaw { .. } => "mulaw",
            Self::Adpcm => "adpcm",
            Self::Nellymoser => "nellymoser",
            Self::Speex => "speex",
            Self::Ac3 => "ac3",
            Self::Eac3 => "eac3",
            Self::DeviceSpecific => "device_specific",
            Self::Reserved(_) | Self::Unknown(_) => "unknown",
        }
    }

    fn of_four_cc(four_cc: [u8; 4]) -> Self {
        match &four_cc {
            b"mp4a" => Self::Aac,
            b".mp3" => Self::Mp3,
            b"Opus" => Self::Opus,
            b"fLaC" => Self::Flac,
            b"ac-3" => Self::Ac3,
            b"ec-3" => Self::Eac3,
            _ => Self::Unknown(four_cc),
        }
    }

    /// The first byte of a tag whose `SoundFormat` is not 9: format, rate, width, channels.
    fn of_first_byte(first: u8) -> Self {
        let channels = (first & 1) + 1;
        match first >> 4 {
            // 0 is "platform endian"; every platform that still sends it is little endian.
            0 | 3 => Self::Pcm(PcmLayout {
                sample_rate_hz: match first >> 2 & 3 {
                    0 => 5_512,
                    1 => 11_025,
                    2 => 22_050,
                    _ => 44_100,
                },
                bits: if first & 2 == 0 { 8 } else { 16 },
                channels,
            }),
            1 => Self::Adpcm,
            2 | 14 => Self::Mp3,
            4..=6 => Self::Nellymoser,
            7 => Self::ALaw { channels },
            8 => Self::MuLaw { channels },
            10 => Self::Aac,
            11 => Self::Speex,
            15 => Self::DeviceSpecific,
            reserved => Self::Reserved(reserved),
        }
    }
}

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sets a decoder up; may come again, with other contents, in mid-stream.
    Config,
    /// Sound.
    Frames,
    /// The track ends here; another may begin. No data.
    End,
}

/// One packet of one track, still where it was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioPacket<'a> {
    /// Track within a multitrack message, else 0; the specification puts the default track at 0.
    pub track: u8,
    /// How `data` is encoded.
    pub codec: Codec,
    /// What `data` is for.
    pub kind: Kind,
    /// Bytes of the codec.
    pub data: &'a [u8],
    /// Nanoseconds to add to the timestamp of the message, at most [`TIMESTAMP_OFFSET_NS_MAX`].
    pub timestamp_offset_ns: u32,
}

/// Why the payload of an audio message is no audio tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AudioTagError {
    /// It ends before its own header does, or a track is longer than the message.
    #[error("the audio tag is cut short")]
    Truncated,
    /// An AAC packet type that is neither configuration nor sound.
    #[error("the AAC packet type is neither 0 nor 1")]
    AacPacketType,
    /// A packet type that the specification reserves, or Multitrack inside Multitrack.
    #[error("the packet type of the audio tag is reserved")]
    PacketType,
    /// A multitrack type that the specification reserves.
    #[error("the multitrack type of the audio tag is reserved")]
    MultitrackType,
    /// More than [`MOD_EX_MAX`] prefixes.
    #[error("the audio tag has more than {MOD_EX_MAX} modifiers")]
    TooManyModifiers,
}

impl AudioTagError {
    /// Every label, for metrics that start at zero.
    pub const LABELS: [&str; 5] = [
        "tag_truncated",
        "tag_aac_packet_type",
        "tag_packet_type",
        "tag_multitrack_type",
        "tag_too_many_modifiers",
    ];

    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Truncated => "tag_truncated",
            Self::AacPacketType => "tag_aac_packet_type",
            Self::PacketType => "tag_packet_type",
            Self::MultitrackType => "tag_multitrack_type",
            Self::TooManyModifiers => "tag_too_many_modifiers",
        }
    }

    /// Who must act.
    pub const fn fault(self) -> FaultKind {
        FaultKind::BadData
    }
}

/// The packets of one audio message (type 8): none when it is empty or only describes channels, one as a rule,
/// several with multitrack. After an error there are no more.
///
/// Nothing is copied; a message is one audio tag without the FLV tag header (FLV v10.1 annex E.4.2; E-RTMP v2,
/// "Enhanced Audio").
#[derive(Debug, Clone)]
pub struct AudioPackets<'a> {
    rest: &'a [u8],
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Start,
    /// Between the tracks of a multitrack message.
    Tracks {
        packet: PacketType,
        codec: Option<Codec>,
        timestamp_offset_ns: u32,
    },
    Done,
}

/// `AudioPacketType` of E-RTMP v2, as far as it can stand behind the prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PacketType {
    SequenceStart,
    CodedFrames,
    SequenceEnd,
    MultichannelConfig,
}

impl PacketType {
    fn read(value: u8) -> Result<Self, AudioTagError> {
        match value {
            0 => Ok(Self::SequenceStart),
            1 => Ok(Self::CodedFrames),
            2 => Ok(Self::SequenceEnd),
            4 => Ok(Self::MultichannelConfig),
            _ => Err(AudioTagError::PacketType),
        }
    }

    /// None for what no decoder of ours needs: our codecs say themselves how their channels lie.
    const fn kind(self) -> Option<Kind> {
        match self {
            Self::SequenceStart => Some(Kind::Config),
            Self::CodedFrames => Some(Kind::Frames),
            Self::SequenceEnd => Some(Kind::End),
            Self::MultichannelConfig => None,
        }
    }
}

const MULTITRACK: u8 = 5;
const MOD_EX: u8 = 7;
const MOD_EX_TIMESTAMP_OFFSET_NANO: u8 = 0;

impl<'a> AudioPackets<'a> {
    /// Reads `payload`, the body of an audio message.
    pub const fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload, state: State::Start }
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], AudioTagError> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(AudioTagError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, AudioTagError> {
        let (first, rest) = self.rest.split_first().ok_or(AudioTagError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    fn four_cc(&mut self) -> Result<Codec, AudioTagError> {
        let (four_cc, rest) = self.rest.split_first_chunk().ok_or(AudioTagError::Truncated)?;
        self.rest = rest;
        Ok(Codec::of_four_cc(*four_cc))
    }

    fn start(&mut self) -> Result<Option<AudioPacket<'a>>, AudioTagError> {
        let Some((&first, rest)) = self.rest.split_first() else { return Ok(None) };
        self.rest = rest;
        if first >> 4 == EX_HEADER {
            return self.start_enhanced(first & 15);
        }
        let codec = Codec::of_first_byte(first);
        let kind = match codec {
            Codec::Aac => match self.byte()? {
                0 => Kind::Config,
                1 => Kind::Frames,
                _ => return Err(AudioTagError::AacPacketType),
            },
            _ => Kind::Frames,
        };
        Ok(Some(AudioPacket {
            track: 0,
            codec,
            kind,
            data: std::mem::take(&mut self.rest),
            timestamp_offset_ns: 0,
        }))
    }

    fn start_enhanced(&mut self, mut packet: u8) -> Result<Option<AudioPacket<'a>>, AudioTagError> {
        let mut timestamp_offset_ns = 0;
        for modifiers in 0.. {
            if packet != MOD_EX {
                break;
            }
            if modifiers == MOD_EX_MAX {
                return Err(AudioTagError::TooManyModifiers);
            }
            let mut size = usize::from(self.byte()?) + 1;
            if size == 256 {
                let wide = self.take(2)?;
                size = wide.iter().fold(0, |size, byte| size << 8 | usize::from(*byte)) + 1;
            }
            let data = self.take(size)?;
            let types = self.byte()?;
            if let (MOD_EX_TIMESTAMP_OFFSET_NANO, [a, b, c, ..]) = (types >> 4, data) {
                timestamp_offset_ns = u32::from_be_bytes([0, *a, *b, *c]).min(TIMESTAMP_OFFSET_NS_MAX);
            }
            packet = types & 15;
        }
        if packet != MULTITRACK {
            let packet = PacketType::read(packet)?;
            let codec = self.four_cc()?;
            return Ok(self.rest_as(0, codec, packet, timestamp_offset_ns));
        }
        let types = self.byte()?;
        let packet = PacketType::read(types & 15)?;
        match types >> 4 {
            0 => {
                let codec = self.four_cc()?;
                let track = self.byte()?;
                Ok(self.rest_as(track, codec, packet, timestamp_offset_ns))
            }
            1 => {
                let codec = Some(self.four_cc()?);
                self.state = State::Tracks { packet, codec, timestamp_offset_ns };
                Ok(None)
            }
            2 => {
                self.state = State::Tracks { packet, codec: None, timestamp_offset_ns };
                Ok(None)
            }
            _ => Err(AudioTagError::MultitrackType),
        }
    }

    fn rest_as(
        &mut self,
        track: u8,
        codec: Codec,
        packet: PacketType,
        timestamp_offset_ns: u32,
    ) -> Option<AudioPacket<'a>> {
        let data = std::mem::take(&mut self.rest);
        packet.kind().map(|kind| AudioPacket { track, codec, kind, data, timestamp_offset_ns })
    }

    fn track(
        &mut self,
        packet: PacketType,
        codec: Option<Codec>,
        timestamp_offset_ns: u32,
    ) -> Result<Option<AudioPacket<'a>>, AudioTagError> {
        let codec = match codec {
            Some(codec) => codec,
            None => self.four_cc()?,
        };
        let track = self.byte()?;
        let size = self.take(3)?.iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
        let data = self.take(size)?;
        Ok(packet.kind().map(|kind| AudioPacket { track, codec, kind, data, timestamp_offset_ns }))
    }
}

impl<'a> Iterator for AudioPackets<'a> {
    type Item = Result<AudioPacket<'a>, AudioTagError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let read = match self.state {
                State::Start => {
                    self.state = State::Done;
                    self.start()
                }
                State::Tracks { .. } if self.rest.is_empty() => {
                    self.state = State::Done;
                    return None;
                }
                State::Tracks { packet, codec, timestamp_offset_ns } => {
                    self.track(packet, codec, timestamp_offset_ns)
                }
                State::Done => return None,
            };
            match read {
                Ok(Some(packet)) => return Some(Ok(packet)),
                Ok(None) => {}
                Err(error) => {
                    self.state = State::Done;
                    return Some(Err(error));
                }
            }
        }
    }
}
