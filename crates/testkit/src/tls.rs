/// Chooses what does the cryptography of TLS in this process. Whoever uses `reqwest` calls it first, even for plain HTTP:
/// where a service that speaks TLS is built along, `reqwest` does nothing without.
pub fn choose_tls() {
    // It was chosen before, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
}
