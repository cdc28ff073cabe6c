use std::path::{Path, PathBuf};

/// A script for Node beside this crate, whose packages are installed.
///
/// # Panics
/// When they are not.
pub fn node_script(name: &str) -> PathBuf {
    script("node", "node_modules", name)
}

/// A script for Python beside this crate, whose packages are installed.
///
/// # Panics
/// When they are not.
pub fn python_script(name: &str) -> PathBuf {
    script("python", "packages", name)
}

fn script(language: &str, packages: &str, name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(language);
    assert!(
        folder.join(packages).join(".installed").exists(),
        "what programs for {language} need is not installed: `make test` does that, or `make peers`"
    );
    folder.join(name)
}
