use std::path::PathBuf;

/// A script for Node beside this crate, whose packages are installed.
///
/// # Panics
/// When they are not.
pub fn node_script(name: &str) -> PathBuf {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/node"));
    assert!(
        folder.join("node_modules/ws").is_dir(),
        "npm's ws is needed: `make test` installs it, or `npm install` in {}",
        folder.display()
    );
    folder.join(name)
}
