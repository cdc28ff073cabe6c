use std::path::{Path, PathBuf};

/// A folder of its own under the system's temporary folder, removed when dropped.
#[derive(Debug)]
pub struct ScratchFolder(PathBuf);

impl ScratchFolder {
    /// Makes it. `what` becomes part of its name.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(what: &str) -> Self {
        let path = std::env::temp_dir().join(format!("parley-test-{what}-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&path).expect("a scratch folder");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        // Whoever still writes into it keeps it; the system's temporary folder is the place for that.
        let _removed = std::fs::remove_dir_all(&self.0);
    }
}
