use std::process::{Command, Output};

use crate::ScratchFolder;

/// Runs a service's binary with these settings alone, in a folder without files, until it ends.
pub fn run_binary(path: &str, settings: &[(&str, &str)]) -> Output {
    let folder = ScratchFolder::new("settings");
    let mut service = Command::new(path);
    service.env_clear().envs(settings.iter().copied()).current_dir(folder.path());
    service.output().expect("the binary runs")
}

/// The lines in which a binary reports wrong settings, without their head.
pub fn reported(output: &Output) -> Vec<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines().skip(1).map(|line| line.trim().to_owned()).collect()
}
