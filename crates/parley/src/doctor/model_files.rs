//! The speech model on this machine.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use settings::Reader;
use sha2::{Digest, Sha256};

use super::check::Check;

const NAME: &str = "model";

/// The files of Moonshine tiny-en, with their SHA-256, as deploy/dev/fetch-model verifies them.
const FILES: [(&str, &str); 3] = [
    ("encoder_model.ort", "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221"),
    ("decoder_model_merged.ort", "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0"),
    ("tokenizer.bin", "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d"),
];

/// Looks for the model where the worker would; `None` where it is not set and not there, as beside a server in containers.
pub fn examine(reader: &Reader) -> Option<Check> {
    let set = reader.text("PARLEY_MODEL_DIR").map(PathBuf::from);
    let here = std::env::current_dir().unwrap_or_default();
    let found = here.ancestors().map(|folder| folder.join(".parley/model")).find(|folder| folder.is_dir());
    let folder = set.or(found)?;
    const MEND: &str = "`make model` fetches it again; PARLEY_MODEL_DIR names another folder";
    for (name, expected) in FILES {
        let fault = match sha256(&folder.join(name)) {
            Ok(found) if found == expected => continue,
            Ok(_) => "is another file than that of the model".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "is missing".to_owned(),
            Err(error) => format!("cannot be read: {error}"),
        };
        return Some(Check::fail(NAME, format!("{} {fault}", folder.join(name).display()), MEND));
    }
    Some(Check::ok(NAME, format!("{}: every file verified", folder.display())))
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            let bytes = digest.finalize();
            return Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        digest.update(buffer.get(..length).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_those_that_are_fetched() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/dev/fetch-model");
        let script = std::fs::read_to_string(script).unwrap();
        for (name, sum) in FILES {
            assert!(script.contains(sum), "{name}");
        }
    }
}
