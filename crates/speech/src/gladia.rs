//! Gladia's live API (version 2): recognition by somebody else, over the internet.
//!
//! In the order data passes: [`GladiaSettings`] say which account; a [`GladiaSession`] hears one stream and keeps its
//! sound on a tape; a link of its own task sends that to Gladia, again where a connection was lost, and reads what
//! comes back (wire); utterances turn it into [`Spoken`](crate::Spoken).

mod link;
mod session;
mod settings;
mod tape;
mod trouble;
mod utterances;
mod wire;

use std::sync::Arc;

pub use session::{GladiaEvent, GladiaSession, Unsettled};
pub use settings::{GladiaLimits, GladiaSettings};
pub use trouble::GladiaTrouble;

pub(crate) use wire::LABELS as MESSAGE_LABELS;

/// An account at Gladia, ready to be used. Clones are the same.
#[derive(Clone)]
pub struct Gladia(Arc<Account>);

struct Account {
    settings: GladiaSettings,
    http: reqwest::Client,
    tls: Arc<rustls::ClientConfig>,
}

/// This process cannot speak TLS, or the key cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("prepare to speak to Gladia: {0}")]
pub struct GladiaError(String);

impl Gladia {
    /// Prepares to speak to Gladia, without doing so yet.
    ///
    /// # Errors
    /// This process cannot speak TLS.
    pub fn new(settings: GladiaSettings) -> Result<Self, GladiaError> {
        // Two TLS back ends in one program leave rustls without a default. Already set is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder()
            .timeout(settings.limits.answer)
            // Whoever redirects would have the key sent to somebody whom nobody configured.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| GladiaError(error.to_string()))?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| GladiaError(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(Account { settings, http, tls: Arc::new(tls) })))
    }
}
