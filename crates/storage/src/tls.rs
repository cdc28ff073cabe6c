//! TLS to Postgres: what a server must prove, and what to do when it cannot.

use std::{error::Error, io, sync::Arc};

use deadpool_postgres::Connect;
use futures_util::future::BoxFuture;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};
use tokio::task::JoinHandle;
use tokio_postgres::{
    Client, Config,
    config::{SslMode, SslNegotiation},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    StorageError,
    address::{Address, Proof, Roots},
};

/// How `tokio-postgres` says that a server has no TLS.
const NO_TLS: &str = "server does not support TLS";

/// Makes connections, with TLS as the URL says.
pub(crate) struct Dial(MakeRustlsConnect);

impl Dial {
    /// Reads the certificates that count.
    ///
    /// # Errors
    /// [`StorageError::Address`] when there are none.
    pub(crate) fn new(address: &Address) -> Result<Self, StorageError> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(Verifier::new(address, &provider)?);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| StorageError::Defect(format!("TLS cannot be set up: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        if address.config.get_ssl_negotiation() == SslNegotiation::Direct {
            // Without it the server ends such a handshake.
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Self(MakeRustlsConnect::new(config)))
    }
}

impl Connect for Dial {
    #[expect(clippy::disallowed_methods, reason = "the pool keeps the task, and ends it with its connection")]
    fn connect(
        &self,
        config: &Config,
    ) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        let config = config.clone();
        Box::pin(async move {
            let (client, connection) = match config.connect(self.0.clone()).await {
                // As libpq: who only prefers TLS goes on without it.
                Err(error) if config.get_ssl_mode() == SslMode::Prefer && of_tls(&error).is_some() => {
                    config.clone().ssl_mode(SslMode::Disable).connect(self.0.clone()).await?
                }
                outcome => outcome?,
            };
            // Ends with its client, which sees and tells every error.
            let running = tokio::spawn(async move { drop(connection.await) });
            Ok((client, running))
        })
    }
}

/// What went wrong about TLS, with the mend; `None` for every other error.
pub(crate) fn explained(error: &tokio_postgres::Error) -> Option<String> {
    if let Some(error) = of_tls(error) {
        return Some(match distrust(error) {
            Some(distrust) => distrust.to_string(),
            None => format!("TLS with the server failed: {error}"),
        });
    }
    let without = error.source().is_some_and(|source| source.to_string() == NO_TLS);
    without.then(|| {
        "the server has no TLS, and sslmode demands it: switch it on there (ssl = on), or say sslmode=disable in \
         DATABASE_URL where nobody can listen"
            .to_owned()
    })
}

fn of_tls(error: &tokio_postgres::Error) -> Option<&rustls::Error> {
    error.source()?.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

fn distrust(error: &rustls::Error) -> Option<&Distrust> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => why.downcast_ref(),
        _ => None,
    }
}

/// Why a certificate is not believed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Distrust(String);

/// Believes a server as far as the mode of the URL asks. The signature of the handshake is checked in every mode:
/// channel binding proves the server by its certificate, which it must own for that.
#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    trust: Option<Trust>,
}

#[derive(Debug)]
struct Trust {
    proof: Proof,
    chains: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
    /// Whose they are, in messages.
    owner: String,
}

impl Verifier {
    fn new(address: &Address, provider: &Arc<CryptoProvider>) -> Result<Self, StorageError> {
        let algorithms = provider.signature_verification_algorithms;
        if address.proof == Proof::Nothing {
            return Ok(Self { algorithms, trust: None });
        }
        let (certificates, owner) = match &address.roots {
            Roots::System => (rustls_native_certs::load_native_certs().certs, "this system's".to_owned()),
            Roots::File(path) => {
                let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
                let read: Vec<_> = read.map_err(|error| {
                    StorageError::Address(format!("sslrootcert={} cannot be read: {error}", path.display()))
                })?;
                (read, format!("sslrootcert={}", path.display()))
            }
        };
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(certificates.iter().cloned());
        if usable == 0 {
            return Err(StorageError::Address(match &address.roots {
                Roots::System => {
                    "this system has no CA certificates, which sslmode needs: install ca-certificates, or name a PEM \
                     file by sslrootcert"
                        .to_owned()
                }
                Roots::File(path) => format!("sslrootcert={} holds no certificate in PEM", path.display()),
            }));
        }
        let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|error| StorageError::Defect(format!("TLS cannot be set up: {error}")))?;
        Ok(Self { algorithms, trust: Some(Trust { proof: address.proof, chains, certificates, owner }) })
    }
}

impl Trust {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        use rustls::Error::InvalidCertificate;
        match self.chains.verify_server_cert(end_entity, intermediates, server, &[], now) {
            // The chain was checked before the name.
            Err(InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.proof == Proof::Issuer => Ok(()),
            // A server's own certificate may be what is trusted, and is called a CA more often than not. Its dates were
            // checked before.
            Err(InvalidCertificate(CertificateError::Other(why)))
                if why.to_string() == "CaUsedAsEndEntity" && self.certificates.contains(end_entity) =>
            {
                match self.proof {
                    Proof::IssuerAndName => {
                        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server)
                    }
                    _ => Ok(()),
                }
            }
            outcome => outcome.map(drop),
        }
    }

    fn explain(&self, error: rustls::Error, server: &ServerName<'_>) -> rustls::Error {
        let host = server.to_str();
        let owner = &self.owner;
        let rustls::Error::InvalidCertificate(why) = error else { return error };
        let text = match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                "the certificate of {host} is signed by none of {owner} CAs: name the CA that signed it by \
                 sslrootcert=FILE in DATABASE_URL"
            ),
            CertificateError::NotValidForNameContext { presented, .. } => format!(
                "the certificate of the server is not for {host} but for {}: call the server so in DATABASE_URL, or say \
                 sslmode=verify-ca",
                if presented.is_empty() { "no host at all".to_owned() } else { presented.join(", ") }
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("the certificate of {host} has expired: renew it at the server")
            }
            why => format!("the certificate of {host} is refused: {why}"),
        };
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Distrust(text)))))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trust) = &self.trust {
            trust
                .check(end_entity, intermediates, server, now)
                .map_err(|error| trust.explain(error, server))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
