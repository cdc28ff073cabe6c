//! RTMPS without nginx in front.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_rustls::TlsAcceptor;

use crate::settings::Tls;

/// Why the certificate cannot be used. The texts name files, never their contents.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The chain cannot be read.
    #[error("the certificate chain {path} (RTMP_TLS_CERT) cannot be read: {error}")]
    Chain {
        /// The file.
        path: String,
        /// Why.
        error: String,
    },
    /// The key cannot be read.
    #[error("the private key {path} (RTMP_TLS_KEY) cannot be read: {error}")]
    Key {
        /// The file.
        path: String,
        /// Why.
        error: String,
    },
    /// They do not belong together, or are of a kind that is not known.
    #[error("the certificate and the key do not work together: {0}")]
    Pair(#[from] rustls::Error),
}

/// Reads the certificate; TLS 1.2 and 1.3.
pub(crate) fn acceptor(tls: &Tls) -> Result<TlsAcceptor, TlsError> {
    let chain = CertificateDer::pem_file_iter(&tls.chain).and_then(Iterator::collect);
    let chain: Vec<_> = chain.map_err(|error| TlsError::Chain {
        path: tls.chain.display().to_string(),
        error: error.to_string(),
    })?;
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .map_err(|error| TlsError::Key { path: tls.key.display().to_string(), error: error.to_string() })?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
