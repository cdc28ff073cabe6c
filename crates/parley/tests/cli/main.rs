//! The built binary, as a shell and a server see it.

mod commands;
// The attribute tells clippy that functions of these files, though no tests themselves, serve tests only.
#[cfg(test)]
mod database;
#[cfg(test)]
mod import;
#[cfg(test)]
mod scripted;
mod stream;
mod tail;
