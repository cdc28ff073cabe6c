use earshot::Detector;

/// Samples in a frame of the voice detector: 16 ms.
pub const FRAME: usize = 256;

/// What the detector says of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// How likely somebody speaks, 0 to 1.
    pub voice: f32,
    /// Mean power in dB of full scale; -120 for nothing at all.
    pub level_db: f32,
}

/// Frames at or above this begin and continue speech.
pub const VOICE_MIN: f32 = 0.5;

impl Frame {
    /// Whether somebody speaks.
    pub fn voiced(&self) -> bool {
        self.voice >= VOICE_MIN
    }
}

/// The voice detector of one stream: cuts samples into frames and judges each.
pub struct Ear {
    detector: Box<Detector>,
    /// The newest samples, less than a frame.
    rest: Vec<i16>,
}

impl Ear {
    pub fn new() -> Self {
        Self { detector: Detector::default_boxed(), rest: Vec::with_capacity(FRAME) }
    }

    /// Samples heard that do not fill a frame yet.
    pub fn rest(&self) -> usize {
        self.rest.len()
    }

    /// Takes samples from the front of `pcm` until they fill a frame, and judges it; `None` when they do not.
    pub fn frame(&mut self, pcm: &mut &[i16]) -> Option<([i16; FRAME], Frame)> {
        let (taken, later) = pcm.split_at((FRAME - self.rest.len()).min(pcm.len()));
        *pcm = later;
        self.rest.extend_from_slice(taken);
        let samples: [i16; FRAME] = self.rest.as_slice().try_into().ok()?;
        self.rest.clear();
        let voice = self.detector.predict_i16(&samples);
        Some((samples, Frame { voice, level_db: level_db(&samples) }))
    }
}

fn level_db(pcm: &[i16]) -> f32 {
    let power: f32 =
        pcm.iter().map(|&sample| (f32::from(sample) / 32_768.0).powi(2)).sum::<f32>() / pcm.len() as f32;
    10.0 * power.max(1e-12).log10()
}
