use std::path::{Path, PathBuf};

/// Somebody saying something that is known.
#[derive(Debug, Clone)]
pub struct Recording {
    /// File name without `.wav`.
    pub name: String,
    /// The file: WAV, 16 kHz, mono, 16 bit.
    pub path: PathBuf,
    /// What is said.
    pub text: String,
}

/// Every recording, in the order of `recordings/references.tsv`.
///
/// # Panics
/// When the list cannot be read.
pub fn recordings() -> Vec<Recording> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
    let list = std::fs::read_to_string(folder.join("references.tsv")).expect("recordings/references.tsv");
    let recording = |line: &str| {
        let (file, text) = line.split_once('\t').expect("a path and a text, separated by a tab");
        Recording {
            name: file.trim_end_matches(".wav").to_owned(),
            path: folder.join(file),
            text: text.trim().to_owned(),
        }
    };
    list.lines().skip(1).filter(|line| !line.trim().is_empty()).map(recording).collect()
}

/// The recording of this name, such as `jfk`.
///
/// # Panics
/// When there is none.
pub fn recording(name: &str) -> Recording {
    let found = recordings().into_iter().find(|recording| recording.name == name);
    found.unwrap_or_else(|| panic!("no recording is called {name}"))
}

impl Recording {
    /// Its samples, 16 kHz mono.
    ///
    /// # Panics
    /// When the file is not what [`Recording::path`] promises.
    pub fn samples(&self) -> Vec<i16> {
        let bytes = std::fs::read(&self.path).expect("a recording that can be read");
        samples(&bytes).unwrap_or_else(|| panic!("{} is not WAV, 16 kHz, mono, 16 bit", self.path.display()))
    }
}

/// A RIFF/WAVE file: chunks of a four-letter name, a length and as many bytes, padded to an even length.
fn samples(wav: &[u8]) -> Option<Vec<i16>> {
    // PCM, one channel, 16,000 samples and 32,000 bytes a second, 2 bytes a sample, 16 bits.
    const FORMAT: [u8; 16] = [1, 0, 1, 0, 0x80, 0x3e, 0, 0, 0, 0x7d, 0, 0, 2, 0, 16, 0];
    let mut rest = wav.strip_prefix(b"RIFF")?.get(4..)?.strip_prefix(b"WAVE")?;
    let mut known = false;
    loop {
        let (name, after) = rest.split_first_chunk::<4>()?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let body = after.get(..length.min(after.len()))?;
        match name {
            b"fmt " => known = body.starts_with(&FORMAT),
            b"data" if known => {
                return Some(body.as_chunks().0.iter().map(|pair| i16::from_le_bytes(*pair)).collect());
            }
            _ => {}
        }
        rest = after.get(length + length % 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recording_can_be_read() {
        let recordings = recordings();
        assert!(!recordings.is_empty());
        for recording in recordings {
            assert!(recording.samples().len() > 16_000, "{}", recording.name);
            assert!(!recording.text.is_empty());
        }
    }
}
