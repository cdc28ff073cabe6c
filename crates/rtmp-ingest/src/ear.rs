//! Audio tags of one stream to sound at its place: decoders, the clock of timestamps, gaps and overlaps. No waiting
//! and no input or output; it works on a thread of its own.

use audio::{AudioError, Encoding, Format, PacketDecoder, Packets};
use model::Samples;
use rtmp::{AudioPacket, AudioPackets, Codec, Kind, Step, Timeline};
use tokio::time::Instant;

use crate::desk::{Sitting, Tag};

/// How far sound and timestamps may lie apart before the sound is moved. Timestamps are rounded to milliseconds,
/// encoders stamp in bursts, and decoders hold back up to 100 ms.
const TOLERANCE: Samples = Samples::from_millis(150);

/// Longest gap that becomes silence; of a longer one so much does. It is what an uplink takes at once.
pub(crate) const GAP_MAX: Samples = rpc::WINDOW;

/// Tags in a row that may be broken before the stream is given up.
const BROKEN_IN_A_ROW_MAX: u32 = 50;

/// Corrections up to this length are drift of the encoder's clocks; longer ones are gaps.
const DRIFT_MAX: Samples = Samples::from_millis(1_000);

/// What is to be done with the stream next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Sound, right after what was before.
    Sound(Vec<i16>),
    /// Silence up to there.
    GoOnAt(Samples),
}

impl Piece {
    /// How much sound it holds.
    pub(crate) fn sound(&self) -> Samples {
        match self {
            Self::Sound(sound) => Samples::of(sound.len()),
            Self::GoOnAt(_) => Samples(0),
        }
    }
}

/// Why a stream cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A codec that is known and not decoded.
    Codec(Codec),
    /// A codec that is decoded, in a shape that is not, or data that is not what it claims to be.
    Audio(AudioError),
    /// Sound whose configuration does not come.
    NoConfig,
    /// Tags that are none.
    Tags,
}

impl Fault {
    /// Metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Codec(codec) => codec.label(),
            Self::Audio(AudioError::Unsupported(_)) => "unsupported",
            Self::Audio(_) | Self::NoConfig | Self::Tags => "undecodable",
        }
    }

    /// What the person at the encoder can do.
    pub(crate) fn text(self) -> String {
        let accepted = "send AAC (AAC-LC), MP3, Opus, FLAC or G.711";
        match self {
            Self::Codec(codec) => format!("{} sound cannot be transcribed: {accepted}", codec.label()),
            Self::Audio(AudioError::Unsupported(what)) => format!("{what} is not supported: {accepted}"),
            Self::Audio(error) => error.to_string(),
            Self::NoConfig => "the sound came without its codec's configuration".to_owned(),
            Self::Tags => "the audio tags of this stream cannot be read".to_owned(),
        }
    }
}

/// What happened to the sound, counted until it is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Silence that was put in for missing sound.
    pub(crate) gap: Samples,
    /// Gaps.
    pub(crate) gaps: u64,
    /// Sound that was left out since it came twice, or ran ahead of its timestamps.
    pub(crate) overlap: Samples,
    /// Timestamps that began to count from somewhere else.
    pub(crate) rebases: u64,
    /// Tags and packets that could not be decoded.
    pub(crate) errors: u64,
}

pub(crate) struct Ear {
    present: Sitting,
    /// Of the present connection, once it has sent sound.
    timeline: Option<Timeline>,
    /// Where the timeline's zero lies in the stream, in samples: before its start once pauses were left behind.
    base: i64,
    /// Up to where sound was delivered.
    position: Samples,
    /// So much of what comes next is left out.
    trim: Samples,
    /// When the first sound came.
    began: Option<Instant>,
    /// When the last sound came; of another connection when this one has sent none yet.
    last_came: Option<Instant>,
    /// Which track is heard: the one asked for, or the first.
    track: Option<u8>,
    decoder: Option<(PacketDecoder, Codec, Vec<u8>)>,
    /// Packets that the decoder before this one could not decode.
    concealed: u64,
    broken_in_a_row: u32,
    /// Packets of sound since there was a decoder for them.
    without_config: u32,
    counts: Counts,
    /// Positive: the encoder makes more sound than its timestamps tell.
    drift: i64,
}

impl Ear {
    /// For a stream that begins.
    pub(crate) fn new() -> Self {
        Self {
            present: 0,
            timeline: None,
            base: 0,
            position: Samples(0),
            trim: Samples(0),
            began: None,
            last_came: None,
            track: None,
            decoder: None,
            concealed: 0,
            broken_in_a_row: 0,
            without_config: 0,
            counts: Counts::default(),
            drift: 0,
        }
    }

    /// Up to where sound was delivered.
    pub(crate) fn position(&self) -> Samples {
        self.position
    }

    /// When the sound at position 0 came, if any has.
    pub(crate) fn began(&self) -> Option<Instant> {
        self.began
    }

    /// By how many milliseconds the encoder's sound has run ahead of its timestamps.
    pub(crate) fn drift_ms(&self) -> i64 {
        self.drift * 1_000 / i64::from(model::SAMPLE_RATE_HZ)
    }

    /// What was counted since it was last asked.
    pub(crate) fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Hears tags in order, up to the first that makes the stream one that cannot be understood.
    pub(crate) fn hear(&mut self, tags: &[Tag]) -> (Vec<Piece>, Option<Fault>) {
        let mut pieces = Vec::new();
        let fault = tags.iter().find_map(|tag| self.tag(tag, &mut pieces).err());
        self.count_concealed();
        (pieces, fault)
    }

    /// Delivers what is held back; more may follow.
    pub(crate) fn flush(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.flush_into(&mut pieces);
        self.count_concealed();
        pieces
    }

    fn tag(&mut self, tag: &Tag, pieces: &mut Vec<Piece>) -> Result<(), Fault> {
        if tag.sitting < self.present {
            // Of a connection that has lost the stream to another.
            return Ok(());
        }
        if tag.sitting > self.present {
            self.begin(tag, pieces);
        }
        for packet in AudioPackets::new(&tag.data) {
            let Ok(packet) = packet else {
                self.counts.errors += 1;
                self.broken_in_a_row += 1;
                return if self.broken_in_a_row > BROKEN_IN_A_ROW_MAX { Err(Fault::Tags) } else { Ok(()) };
            };
            self.broken_in_a_row = 0;
            if *self.track.get_or_insert(packet.track) == packet.track {
                self.packet(&packet, tag, pieces)?;
            }
        }
        Ok(())
    }

    /// A connection begins to send.
    fn begin(&mut self, tag: &Tag, pieces: &mut Vec<Piece>) {
        self.flush_into(pieces);
        self.decoder = None;
        self.timeline = None;
        self.present = tag.sitting;
        self.track = tag.track;
        self.trim = Samples(0);
    }

    /// Where a tag of sound lies, as its timestamp says; None for one that came late, whose sound goes on where the sound
    /// before it ends. Only sound moves the clock: configurations often carry 0, wherever the sound is.
    fn moment(&mut self, tag: &Tag) -> Option<Samples> {
        let elapsed = self.last_came.map_or(0, |last| millis(tag.came - last));
        self.began.get_or_insert(tag.came);
        self.last_came = Some(tag.came);
        let timeline = self.timeline.get_or_insert_with(|| {
            // The first sound of a connection lies as long after the last as it came later.
            self.base = signed(self.position + Samples::from_millis(elapsed));
            Timeline::starting_at(0)
        });
        let moment = timeline.advance(tag.timestamp, elapsed);
        match moment.step {
            Step::Late { .. } => return None,
            Step::Rebased { .. } => self.counts.rebases += 1,
            Step::Forward { .. } => {}
        }
        let at = self.base.saturating_add(signed(Samples::from_millis(moment.at_ms)));
        Some(Samples(u64::try_from(at).unwrap_or(0)))
    }

    fn packet(&mut self, packet: &AudioPacket<'_>, tag: &Tag, pieces: &mut Vec<Piece>) -> Result<(), Fault> {
        match packet.kind {
            Kind::Config => {
                let known = self.decoder.as_ref().is_some_and(|(_, codec, config)| {
                    *codec == packet.codec && config.as_slice() == packet.data
                });
                if !known {
                    self.flush_into(pieces);
                    self.decoder = None;
                    self.set_up(packet.codec, packet.data)?;
                }
                Ok(())
            }
            Kind::End => {
                self.flush_into(pieces);
                self.decoder = None;
                Ok(())
            }
            Kind::Frames if packet.data.is_empty() => Ok(()),
            Kind::Frames => {
                if self.decoder.as_ref().is_none_or(|(_, codec, _)| *codec != packet.codec) {
                    self.flush_into(pieces);
                    self.decoder = None;
                    if !self.set_up(packet.codec, &[])? {
                        // An encoder that was joined in the middle may still send it.
                        self.counts.errors += 1;
                        self.without_config += 1;
                        let is_enough = self.without_config > BROKEN_IN_A_ROW_MAX;
                        return if is_enough { Err(Fault::NoConfig) } else { Ok(()) };
                    }
                }
                if let Some(at) = self.moment(tag) {
                    self.keep_time(at, pieces);
                }
                let mut sound = Vec::new();
                let Some((decoder, ..)) = &mut self.decoder else { return Ok(()) };
                let decoded = decoder.push(packet.data, &mut sound);
                self.deliver(sound, pieces);
                decoded.map_err(Fault::Audio)
            }
        }
    }

    /// Makes a decoder. False when the codec needs a configuration and there is none.
    fn set_up(&mut self, codec: Codec, config: &[u8]) -> Result<bool, Fault> {
        let raw = |encoding, rate_hz, channels: u8| {
            Format::new(encoding, rate_hz, u16::from(channels)).map(Packets::Raw).map_err(Fault::Audio)
        };
        let packets = match codec {
            Codec::Aac | Codec::Flac if config.is_empty() => return Ok(false),
            Codec::Aac => Packets::Aac(config),
            Codec::Mp3 => Packets::Mp3,
            Codec::Opus => Packets::Opus((!config.is_empty()).then_some(config)),
            Codec::Flac => Packets::Flac(stream_info(config)),
            Codec::ALaw { channels } => raw(Encoding::Alaw, 8_000, channels)?,
            Codec::MuLaw { channels } => raw(Encoding::Mulaw, 8_000, channels)?,
            Codec::Pcm(layout) if layout.bits == 16 => {
                raw(Encoding::PcmS16le, layout.sample_rate_hz, layout.channels)?
            }
            unsupported => return Err(Fault::Codec(unsupported)),
        };
        let decoder = PacketDecoder::new(packets).map_err(Fault::Audio)?;
        (self.concealed, self.without_config) = (0, 0);
        self.decoder = Some((decoder, codec, config.to_vec()));
        Ok(true)
    }

    /// Moves what comes next to where its timestamp says, if that is too far from where it would lie.
    fn keep_time(&mut self, at: Samples, pieces: &mut Vec<Piece>) {
        if at - self.position > TOLERANCE {
            self.flush_into(pieces);
            // What comes lies behind all that was delivered.
            self.trim = Samples(0);
            let gap = at - self.position;
            let silence = gap.min(GAP_MAX);
            if silence > Samples(0) {
                self.position = self.position + silence;
                pieces.push(Piece::GoOnAt(self.position));
                self.counts.gap = self.counts.gap + silence;
                self.counts.gaps += 1;
                if gap <= DRIFT_MAX {
                    self.drift -= signed(gap);
                }
            }
            // A gap beyond the limit is left behind by the clock.
            self.base -= signed(gap - silence);
        } else if (self.position - at) - self.trim > TOLERANCE {
            self.flush_into(pieces);
            let overlap = (self.position - at) - self.trim;
            self.trim = self.trim + overlap;
            self.counts.overlap = self.counts.overlap + overlap;
            if overlap <= DRIFT_MAX {
                self.drift += signed(overlap);
            }
        }
    }

    fn flush_into(&mut self, pieces: &mut Vec<Piece>) {
        let mut sound = Vec::new();
        if let Some((decoder, ..)) = &mut self.decoder
            && decoder.flush(&mut sound).is_err()
        {
            self.counts.errors += 1;
        }
        self.deliver(sound, pieces);
    }

    fn deliver(&mut self, mut sound: Vec<i16>, pieces: &mut Vec<Piece>) {
        let trimmed = self.trim.min(Samples::of(sound.len()));
        self.trim = self.trim - trimmed;
        sound.drain(..usize::try_from(trimmed.0).unwrap_or(usize::MAX).min(sound.len()));
        self.position = self.position + Samples::of(sound.len());
        match pieces.last_mut() {
            _ if sound.is_empty() => {}
            Some(Piece::Sound(before)) => before.append(&mut sound),
            _ => pieces.push(Piece::Sound(sound)),
        }
    }

    fn count_concealed(&mut self) {
        if let Some((decoder, ..)) = &self.decoder {
            self.counts.errors += decoder.concealed() - self.concealed;
            self.concealed = decoder.concealed();
        }
    }
}

/// The body of STREAMINFO in a configuration of FLAC: behind the mark and the header of its block (Enhanced RTMP), or
/// alone (some encoders).
fn stream_info(config: &[u8]) -> &[u8] {
    const BYTES: usize = 34;
    let blocks = config.strip_prefix(b"fLaC").unwrap_or(config);
    if blocks.len() == BYTES { blocks } else { blocks.get(4..4 + BYTES).unwrap_or_default() }
}

fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn signed(samples: Samples) -> i64 {
    i64::try_from(samples.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    /// An encoder that sends 20 ms of A-law at a time.
    struct Encoder {
        ear: Ear,
        sitting: Sitting,
        timestamp: u32,
        now: Instant,
        /// Of every piece so far: its end, and whether it was sound.
        heard: Vec<(u64, bool)>,
    }

    /// `SoundFormat` 7, mono.
    const ALAW: u8 = 0x72;

    impl Encoder {
        fn new() -> Self {
            Self { ear: Ear::new(), sitting: 1, timestamp: 77_000, now: Instant::now(), heard: Vec::new() }
        }

        fn tag(&mut self, data: &[u8]) -> Option<Fault> {
            let data = Bytes::copy_from_slice(data);
            let tag =
                Tag { sitting: self.sitting, timestamp: self.timestamp, came: self.now, data, track: None };
            let (pieces, fault) = self.ear.hear(&[tag]);
            self.note(pieces);
            fault
        }

        fn note(&mut self, pieces: Vec<Piece>) {
            for piece in pieces {
                let before = self.heard.last().map_or(0, |(end, _)| *end);
                self.heard.push(match piece {
                    Piece::Sound(sound) => (before + sound.len() as u64, true),
                    Piece::GoOnAt(position) => (position.0, false),
                });
            }
        }

        fn speak(&mut self, millis: u32) {
            for _ in 0..millis / 20 {
                let mut tag = vec![ALAW];
                tag.resize(161, 0xd5);
                assert_eq!(self.tag(&tag), None);
                self.timestamp = self.timestamp.wrapping_add(20);
                self.now += Duration::from_millis(20);
            }
        }

        fn wait(&mut self, millis: u32) {
            self.timestamp = self.timestamp.wrapping_add(millis);
            self.now += Duration::from_millis(millis.into());
        }

        /// Where the stream ends, in milliseconds, once all is delivered.
        fn end(&mut self) -> u64 {
            let pieces = self.ear.flush();
            self.note(pieces);
            assert_eq!(self.heard.last().map_or(0, |(end, _)| *end), self.ear.position().0);
            self.ear.position().millis()
        }
    }

    #[test]
    fn sound_without_gaps_is_as_long_as_it_was() {
        let mut encoder = Encoder::new();
        encoder.speak(10_000);
        assert_eq!(encoder.end(), 10_000);
        assert_eq!(encoder.ear.take_counts(), Counts::default());
    }

    #[test]
    fn a_gap_becomes_silence_where_it_was() {
        let mut encoder = Encoder::new();
        encoder.speak(1_000);
        encoder.wait(3_000);
        encoder.speak(1_000);
        assert_eq!(encoder.end(), 5_000);
        assert!(encoder.heard.contains(&(64_000, false)), "{:?}", encoder.heard);
        let counts = encoder.ear.take_counts();
        assert_eq!((counts.gap, counts.gaps), (Samples::from_millis(3_000), 1));
        assert_eq!(encoder.ear.drift_ms(), 0, "a gap is no drift");
    }

    #[test]
    fn jitter_moves_nothing() {
        let mut encoder = Encoder::new();
        for turn in 0..200_u32 {
            let jitter = [0, 40, 90, 10][turn as usize % 4];
            let honest = encoder.timestamp;
            encoder.timestamp = honest + jitter;
            let mut tag = vec![ALAW];
            tag.resize(161, 0xd5);
            encoder.tag(&tag);
            encoder.timestamp = honest;
            encoder.wait(20);
        }
        assert_eq!(encoder.end(), 4_000);
        assert_eq!(encoder.ear.take_counts().gaps, 0);
    }

    #[test]
    fn a_pause_beyond_the_limit_is_left_behind() {
        let mut encoder = Encoder::new();
        encoder.speak(1_000);
        encoder.wait(600_000);
        encoder.speak(1_000);
        encoder.wait(500);
        encoder.speak(1_000);
        assert_eq!(encoder.end(), 1_000 + GAP_MAX.millis() + 1_000 + 500 + 1_000);
    }

    #[test]
    fn a_jump_of_the_timestamps_is_no_jump_of_the_clock() {
        let mut encoder = Encoder::new();
        for jump in [50_000_000_u32, 0_u32.wrapping_sub(7_000_000), 0x8000_0000] {
            encoder.speak(2_000);
            encoder.timestamp = encoder.timestamp.wrapping_add(jump);
        }
        encoder.speak(2_000);
        let end = encoder.end();
        assert!((8_000..8_150).contains(&end), "{end}");
        assert_eq!(encoder.ear.take_counts().rebases, 3);
    }

    #[test]
    fn sound_that_runs_ahead_of_its_timestamps_is_trimmed() {
        let mut encoder = Encoder::new();
        encoder.speak(1_000);
        for _ in 0..50 {
            encoder.speak(20);
            encoder.timestamp -= 10;
        }
        encoder.speak(1_000);
        let end = encoder.end();
        assert!((2_490..=2_670).contains(&end), "{end}");
        assert!(encoder.ear.take_counts().overlap > Samples::from_millis(300));
    }

    #[test]
    fn clocks_that_drift_apart_are_reported() {
        let mut encoder = Encoder::new();
        // Of every second of timestamps there is 1 ms of sound too little.
        for _ in 0..600 {
            encoder.speak(1_000);
            encoder.timestamp += 1;
        }
        let end = encoder.end();
        assert!((600_400..=600_600).contains(&end), "{end}");
        let drift = encoder.ear.drift_ms();
        assert!((-600..=-400).contains(&drift), "{drift}");
    }

    /// An AudioSpecificConfig, AAC-LC 44.1 kHz stereo, on a track that is not heard, and then on the one that is.
    const CONFIGS: [&[u8]; 2] = [b"\x95\x00mp4a\x05\x12\x10", &[0xaf, 0, 0x12, 0x10]];

    #[test]
    fn a_configuration_that_carries_no_time_moves_nothing() {
        let mut encoder = Encoder::new();
        for config in CONFIGS {
            encoder.speak(3_000);
            let honest = std::mem::replace(&mut encoder.timestamp, 0);
            assert_eq!(encoder.tag(config), None);
            encoder.timestamp = honest;
            // A pause: the time of it is believed although a tag came meanwhile.
            encoder.wait(20_000);
        }
        encoder.speak(3_000);
        let end = encoder.end();
        assert!((48_990..=49_010).contains(&end), "{end}");
        let counts = encoder.ear.take_counts();
        assert_eq!((counts.rebases, counts.gaps), (0, 2));
    }

    #[test]
    fn sound_that_comes_late_is_kept() {
        let mut encoder = Encoder::new();
        encoder.speak(2_000);
        // The encoder counts on from a little before, as if it had sent that twice; every word of it is new.
        encoder.timestamp -= 300;
        encoder.speak(2_000);
        let end = encoder.end();
        assert_eq!(end, 4_000);
        let counts = encoder.ear.take_counts();
        assert_eq!((counts.overlap, counts.gaps), (Samples(0), 0));
    }

    #[test]
    fn nothing_behind_a_gap_is_trimmed_for_what_was_before_it() {
        let mut encoder = Encoder::new();
        encoder.speak(1_000);
        // More sound than its timestamps tell, and at once a gap.
        for _ in 0..9 {
            encoder.speak(20);
            encoder.timestamp -= 20;
        }
        encoder.timestamp += 20;
        encoder.wait(5_000);
        encoder.speak(1_000);
        assert_eq!(encoder.end(), 7_020);
        assert_eq!(encoder.ear.take_counts().gaps, 1);
    }

    #[test]
    fn a_publisher_that_returns_goes_on_at_its_time_although_its_configuration_came_sooner() {
        let mut encoder = Encoder::new();
        encoder.speak(2_000);
        encoder.sitting = 2;
        encoder.timestamp = 0;
        encoder.now += Duration::from_millis(4_980);
        assert_eq!(encoder.tag(CONFIGS[1]), None);
        encoder.now += Duration::from_millis(3_000);
        encoder.speak(1_000);
        let end = encoder.end();
        assert!((10_980..=11_000).contains(&end), "{end}");
    }

    #[test]
    fn sound_whose_configuration_never_comes_is_refused() {
        let mut encoder = Encoder::new();
        let fault = (0..100).find_map(|_| encoder.tag(&[0xaf, 1, 0x21, 0x10]));
        assert_eq!(fault, Some(Fault::NoConfig));
    }

    #[test]
    fn a_publisher_that_returns_goes_on_at_its_time() {
        let mut encoder = Encoder::new();
        encoder.speak(2_000);
        encoder.sitting = 2;
        encoder.timestamp = 0;
        encoder.now += Duration::from_millis(7_980);
        encoder.speak(1_000);
        let end = encoder.end();
        assert!((10_980..=11_000).contains(&end), "{end}");
        // What the old connection still delivers is passed over.
        encoder.sitting = 1;
        encoder.speak(1_000);
        assert_eq!(encoder.end(), end);
    }

    #[test]
    fn what_cannot_be_decoded_is_named() {
        // Speex; AC-3 of Enhanced RTMP; AAC Main.
        let cases: [(&[u8], &str); 3] =
            [(&[0xb2, 0, 0], "speex"), (b"\x91ac-3....", "ac3"), (&[0xaf, 0, 0x0a, 0x10], "unsupported")];
        for (tag, label) in cases {
            let fault = Encoder::new().tag(tag).unwrap();
            assert_eq!(fault.label(), label);
            assert!(fault.text().contains("AAC"), "{}", fault.text());
        }
        let mut encoder = Encoder::new();
        let fault = (0..100).find_map(|_| encoder.tag(&[0xaf, 9, 9]));
        assert_eq!(fault, Some(Fault::Tags));
    }

    #[test]
    fn sound_before_its_configuration_is_counted() {
        let mut encoder = Encoder::new();
        assert_eq!(encoder.tag(&[0xaf, 1, 0x21, 0x10]), None);
        assert_eq!(encoder.ear.take_counts().errors, 1);
    }

    #[test]
    fn only_the_chosen_track_is_heard() {
        // Enhanced RTMP, multitrack, one track: coded frames of an FourCC that would be refused, on track 2.
        let stranger = b"\x95\x01ac-3\x02data";
        let mut encoder = Encoder::new();
        encoder.speak(100);
        assert_eq!(encoder.tag(stranger), None);
        assert!(Encoder::new().tag(stranger).is_some(), "as the first track it is the one");
    }
}
