//! Sends a stream on, unchanged, to another RTMP server. The ingest never waits for it.

use std::str::FromStr;

use model::SessionSlug;
use rtmp::{Address, AddressError};

/// Where streams are sent on to: an address with `{key}` and `{session}` in it.
#[derive(Debug, Clone)]
pub(crate) struct Template(String);

impl Template {
    /// The address for one publisher.
    pub(crate) fn address(&self, key: &str, session: &SessionSlug) -> Result<Address, AddressError> {
        Address::parse(&self.0.replace("{key}", key).replace("{session}", session.as_str()))
    }
}

impl FromStr for Template {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let example = text.replace("{key}", "key").replace("{session}", "session");
        Address::parse(&example).map(|_| Self(text.to_owned()))
    }
}
