use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use ort::{
    environment::Environment,
    session::{Session, builder::GraphOptimizationLevel},
};

use crate::SpeechError;

/// ONNX Runtime allows one environment in a process; sessions keep it alive, this keeps it for later ones.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// The process's ONNX Runtime, loaded from `library` the first time. Later calls get the same one, whatever
/// they name.
pub fn environment(library: &Path) -> Result<Environment, SpeechError> {
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(ready) = environment.as_ref() {
        return Ok(ready.clone());
    }
    let ready = ort::init_from(library)
        .map_err(|error| SpeechError::Load(error.to_string()))?
        .with_name("parley")
        .with_telemetry(false)
        .build()
        .map_err(|error| SpeechError::Load(error.to_string()))?;
    *environment = Some(ready.clone());
    Ok(ready)
}

/// A session of the model in `file`. Threads never spin: the cores belong to other streams too.
pub fn session(environment: &Environment, file: &Path, threads: usize) -> Result<Session, SpeechError> {
    let failed = |error: &dyn std::fmt::Display| SpeechError::Load(format!("{}: {error}", file.display()));
    Session::builder(environment)
        .map_err(|error| failed(&error))?
        .with_intra_threads(threads)
        .map_err(|error| failed(&error))?
        .with_intra_op_spinning(false)
        .map_err(|error| failed(&error))?
        .with_optimization_level(GraphOptimizationLevel::Level3)
        .map_err(|error| failed(&error))?
        .commit_from_file(file)
        .map_err(|error| failed(&error))
}
