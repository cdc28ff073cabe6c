use std::path::{Path, PathBuf};

use crate::SpeechError;

/// Where `make model` puts the model, under the root of a checkout.
const MODEL_DIR: &str = ".parley/model";

/// Where `make model-whisper` puts that one.
const WHISPER_DIR: &str = ".parley/model-whisper";

/// What every model of CTranslate2 has.
const WHISPER_FILE: &str = "model.bin";

/// Where the files of the Moonshine model and of ONNX Runtime lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// Holds `encoder_model.ort`, `decoder_model_merged.ort` and `tokenizer.bin`.
    pub dir: PathBuf,
    /// The shared library of ONNX Runtime, 1.23 or newer.
    pub runtime: PathBuf,
}

/// No complete model where one was looked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} is missing; run `make model`, or set PARLEY_MODEL_DIR to the folder that holds it")]
pub struct ModelMissing {
    file: String,
}

impl From<ModelMissing> for SpeechError {
    fn from(missing: ModelMissing) -> Self {
        Self::Load(missing.to_string())
    }
}

impl ModelFiles {
    /// The model in `setting` (the value of PARLEY_MODEL_DIR) when it is given, else in the nearest
    /// `.parley/model` from `working_dir` upward.
    pub fn find(setting: Option<&Path>, working_dir: &Path) -> Result<Self, ModelMissing> {
        let dir = match setting {
            Some(dir) => dir.to_owned(),
            None => nearest(MODEL_DIR, working_dir)
                .ok_or_else(|| ModelMissing { file: working_dir.join(MODEL_DIR).display().to_string() })?,
        };
        Self::in_dir(dir)
    }

    /// The model in `dir`, every file of which must exist. The runtime is `libonnxruntime` with the platform's
    /// ending, or any file whose name begins so.
    pub fn in_dir(dir: PathBuf) -> Result<Self, ModelMissing> {
        let runtime_name =
            format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        let plain = dir.join(&runtime_name);
        let runtime = if plain.is_file() { plain } else { versioned_runtime(&dir).unwrap_or(plain) };
        let files = Self { dir, runtime };
        let parts = [files.encoder(), files.decoder(), files.tokenizer(), files.runtime.clone()];
        match parts.into_iter().find(|part| !part.is_file()) {
            Some(part) => Err(ModelMissing { file: part.display().to_string() }),
            None => Ok(files),
        }
    }

    pub(crate) fn encoder(&self) -> PathBuf {
        self.dir.join("encoder_model.ort")
    }

    pub(crate) fn decoder(&self) -> PathBuf {
        self.dir.join("decoder_model_merged.ort")
    }

    pub(crate) fn tokenizer(&self) -> PathBuf {
        self.dir.join("tokenizer.bin")
    }
}

/// The folder of a Whisper model in CTranslate2's format: `setting` (the value of WHISPER_MODEL_DIR) when it is given, else
/// the nearest `.parley/model-whisper` from `working_dir` upward. `None` when there is none that holds a `model.bin`.
pub fn find_whisper(setting: Option<&Path>, working_dir: &Path) -> Option<PathBuf> {
    let dir = setting.map(Path::to_owned).or_else(|| nearest(WHISPER_DIR, working_dir))?;
    dir.join(WHISPER_FILE).is_file().then_some(dir)
}

/// The folder of that name which is nearest to `working_dir`, upward.
fn nearest(folder: &str, working_dir: &Path) -> Option<PathBuf> {
    working_dir.ancestors().map(|above| above.join(folder)).find(|dir| dir.is_dir())
}

/// Wheels name the library with a hash or a version: `libonnxruntime-13ab8084.so.1`.
fn versioned_runtime(dir: &Path) -> Option<PathBuf> {
    let stem = format!("{}onnxruntime", std::env::consts::DLL_PREFIX);
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&stem))
        })
        .collect();
    found.sort();
    found.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_model_names_the_file_and_what_to_do() {
        let nowhere = Path::new("/nonexistent/place");
        let message = ModelFiles::find(Some(nowhere), Path::new("/")).unwrap_err().to_string();
        assert!(message.contains("/nonexistent/place/encoder_model.ort"), "{message}");
        assert!(message.contains("make model") && message.contains("PARLEY_MODEL_DIR"), "{message}");
        let message = ModelFiles::find(None, nowhere).unwrap_err().to_string();
        assert!(message.contains("/nonexistent/place/.parley/model"), "{message}");
    }
}
