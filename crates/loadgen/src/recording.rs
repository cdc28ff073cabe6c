use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use model::SAMPLE_RATE_HZ;

/// Sound whose loudness is taken together: 20 ms.
const FRAME_SAMPLES: usize = 320;

/// How far below the loud parts of a recording (95 of 100 frames are quieter) sound still counts as speech. Soft
/// consonants lie within, breath and room below; for the committed recordings 20 dB gives the same borders within
/// 0.1 s.
const SPEECH_RANGE_DB: f64 = 25.0;

/// A pause this long ends a run of speech: 700 ms, longer than the 500 ms after which a server calls an utterance
/// finished, so that each run's end is a moment at which a final is due.
const PAUSE_FRAMES: usize = 35;

/// Loud sound with no gap longer than this belongs together: 200 ms.
const GAP_FRAMES: usize = 10;

/// Shorter bursts are clicks: 100 ms. One that lies before speech would be taken for its start.
const BURST_FRAMES_MIN: usize = 5;

/// Shorter runs are breaths and thumps: 300 ms. In no recording does a single short word stand alone.
const RUN_FRAMES_MIN: usize = 15;

/// Real speech and what is said in it.
#[derive(Debug)]
pub struct Recording {
    /// Its file's name.
    pub name: String,
    /// What is said.
    pub text: String,
    /// 16 kHz mono.
    pub pcm: Vec<i16>,
    /// Where somebody speaks without a long pause, in samples. Found by loudness alone, so by none of the means
    /// that are measured.
    pub runs: Vec<Range<usize>>,
}

/// Why recordings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// A file cannot be read.
    #[error("{0} cannot be read: {1}")]
    Unreadable(PathBuf, io::Error),
    /// A file is no WAV file of 16 kHz, mono, 16 bit.
    #[error("{0} is no WAV file of 16 kHz, one channel, 16 bit")]
    NotWav(PathBuf),
    /// The folder lists no recordings.
    #[error("{0} names no recordings: expected lines of a path, a tab and the text, after a heading")]
    Empty(PathBuf),
    /// There is nothing to hear.
    #[error("{0} holds no speech")]
    Silent(PathBuf),
}

/// The recordings that `references.tsv` in `folder` lists, in its order.
///
/// # Errors
/// A file that is missing or no recording, or a list without entries.
pub fn load(folder: &Path) -> Result<Vec<Recording>, RecordingError> {
    let list = folder.join("references.tsv");
    let lines = fs::read_to_string(&list).map_err(|error| RecordingError::Unreadable(list.clone(), error))?;
    let entries = lines.lines().skip(1).filter_map(|line| line.split_once('\t'));
    let recordings = entries
        .map(|(name, text)| {
            let path = folder.join(name);
            let bytes = fs::read(&path).map_err(|error| RecordingError::Unreadable(path.clone(), error))?;
            let pcm = samples(&bytes).ok_or_else(|| RecordingError::NotWav(path.clone()))?;
            let runs = speech_runs(&pcm);
            if runs.is_empty() {
                return Err(RecordingError::Silent(path));
            }
            Ok(Recording { name: name.to_owned(), text: text.to_owned(), pcm, runs })
        })
        .collect::<Result<Vec<_>, _>>()?;
    if recordings.is_empty() { Err(RecordingError::Empty(list)) } else { Ok(recordings) }
}

/// The samples of a RIFF WAVE file (Multimedia Programming Interface and Data Specifications 1.0) of 16 kHz, mono,
/// 16 bit; `None` for any other.
fn samples(file: &[u8]) -> Option<Vec<i16>> {
    let word = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.try_into().ok()?));
    if file.get(..4)? != b"RIFF" || file.get(8..12)? != b"WAVE" {
        return None;
    }
    let (mut rest, mut fits) = (file.get(12..)?, false);
    loop {
        let (name, length) = (rest.get(..4)?, usize::try_from(word(rest.get(4..8)?)?).ok()?);
        let body = rest.get(8..)?;
        match name {
            b"fmt " => {
                let pcm_mono = body.get(..4)? == [1, 0, 1, 0];
                fits = pcm_mono && word(body.get(4..8)?)? == SAMPLE_RATE_HZ && body.get(14..16)? == [16, 0];
            }
            b"data" => {
                let data = body.get(..length.min(body.len()))?;
                let (pairs, _) = data.as_chunks::<2>();
                return fits.then(|| pairs.iter().map(|pair| i16::from_le_bytes(*pair)).collect());
            }
            _ => {}
        }
        // Chunks begin at even places.
        rest = body.get(length.checked_next_multiple_of(2)?..)?;
    }
}

/// Where the sound is loud, across pauses up to [`PAUSE_FRAMES`].
fn speech_runs(pcm: &[i16]) -> Vec<Range<usize>> {
    let power = |frame: &[i16]| frame.iter().map(|&sample| f64::from(sample).powi(2)).sum::<f64>();
    let powers: Vec<f64> = pcm.chunks_exact(FRAME_SAMPLES).map(power).collect();
    let mut sorted = powers.clone();
    sorted.sort_by(f64::total_cmp);
    let loud = sorted.get(sorted.len() * 95 / 100).copied().unwrap_or(0.0);
    let threshold = loud / 10_f64.powf(SPEECH_RANGE_DB / 10.0);
    let loud = powers.iter().enumerate().filter(|(_, power)| **power > threshold);
    let bursts = joined(loud.map(|(frame, _)| frame..frame + 1), GAP_FRAMES, BURST_FRAMES_MIN);
    let runs = joined(bursts, PAUSE_FRAMES, RUN_FRAMES_MIN);
    runs.map(|run| run.start * FRAME_SAMPLES..run.end * FRAME_SAMPLES).collect()
}

/// Joins neighbours that lie less than `gap` apart, and leaves out what is then still shorter than `least`.
fn joined(
    parts: impl Iterator<Item = Range<usize>>,
    gap: usize,
    least: usize,
) -> impl Iterator<Item = Range<usize>> {
    let mut whole: Vec<Range<usize>> = Vec::new();
    for part in parts {
        match whole.last_mut() {
            Some(last) if part.start - last.end < gap => last.end = part.end,
            _ => whole.push(part),
        }
    }
    whole.into_iter().filter(move |joined| joined.len() >= least)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second of tone (true) or of faint noise (false) for each.
    fn sound(seconds: &[bool]) -> Vec<i16> {
        let sample = |loud: bool, at: usize| match (loud, at % 2) {
            (true, 0) => 8000,
            (true, _) => -8000,
            (false, parity) => parity as i16 * 40,
        };
        seconds.iter().flat_map(|&loud| (0..16_000).map(move |at| sample(loud, at))).collect()
    }

    fn wav(format: [u8; 16], pcm: &[i16]) -> Vec<u8> {
        let mut file = b"RIFF\0\0\0\0WAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0".to_vec();
        file.extend(format);
        file.extend(b"data");
        file.extend((pcm.len() as u32 * 2).to_le_bytes());
        file.extend(pcm.iter().flat_map(|sample| sample.to_le_bytes()));
        file
    }

    const MONO_16K: [u8; 16] = [1, 0, 1, 0, 0x80, 0x3E, 0, 0, 0, 0x7D, 0, 0, 2, 0, 16, 0];

    #[test]
    fn wav_files_are_read_or_refused() {
        assert_eq!(samples(&wav(MONO_16K, &[1, -2, 3])), Some(vec![1, -2, 3]));
        let mut stereo = MONO_16K;
        stereo[2] = 2;
        let mut fast = MONO_16K;
        fast[4] = 0x81;
        for format in [stereo, fast] {
            assert_eq!(samples(&wav(format, &[1])), None);
        }
        let whole = wav(MONO_16K, &[1, -2, 3]);
        let lengths = (0..whole.len()).map(|length| samples(&whole[..length]).map(|pcm| pcm.len()));
        assert!(lengths.flatten().all(|read| read < 3), "cut files give less");
    }

    #[test]
    fn runs_of_speech_are_told_apart_by_long_pauses_only() {
        let check = |seconds: &[bool], expected: &[(usize, usize)]| {
            let expected: Vec<_> = expected.iter().map(|&(from, to)| from * 16_000..to * 16_000).collect();
            assert_eq!(speech_runs(&sound(seconds)), expected, "{seconds:?}");
        };
        check(&[false, true, false], &[(1, 2)]);
        check(&[true, false, true, true], &[(0, 1), (2, 4)]);
        assert!(speech_runs(&[]).is_empty());
        assert!(speech_runs(&[0; 16_000]).is_empty());
        let mut click = sound(&[false, false, true, false, false]);
        click.splice(8_000..8_960, sound(&[true]).into_iter().take(960));
        click.splice(64_000..67_200, sound(&[true]).into_iter().take(3_200));
        let runs = speech_runs(&click);
        assert_eq!((runs.len(), &runs[0]), (1, &(32_000..48_000)), "a click before and a thump after");
        let mut short_pause = sound(&[true, false, true]);
        short_pause.drain(16_000..24_000);
        let runs = speech_runs(&short_pause);
        assert_eq!((runs.len(), &runs[0]), (1, &(0..40_000)));
    }

    #[test]
    fn the_committed_recordings_are_usable() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/recordings");
        let recordings = load(&folder).unwrap();
        assert!(recordings.len() >= 10);
        assert!(recordings.iter().all(|recording| recording.text.split_whitespace().count() > 3));
        assert!(matches!(load(Path::new("/nowhere")), Err(RecordingError::Unreadable(..))));
    }
}
