use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use uuid::Uuid;

use crate::ScratchFolder;

/// Chooses what does the cryptography of TLS in this process. Whoever uses `reqwest` calls it first, even for plain HTTP:
/// where a service that speaks TLS is built along, `reqwest` does nothing without.
pub fn choose_tls() {
    // It was chosen before, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// A CA of one's own.
pub struct Authority(ScratchFolder);

impl Authority {
    /// Makes it.
    ///
    /// # Panics
    /// When there is no `openssl`.
    pub fn new() -> Self {
        let folder = ScratchFolder::new("authority");
        let file = |name: &str| folder.path().join(name);
        openssl(&["-subj", "/CN=Test CA"], &file("ca.key"), &file("ca.pem"));
        Self(folder)
    }

    /// Its own certificate, a PEM file.
    pub fn certificate(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    /// The key of its own certificate, a PEM file.
    pub fn key(&self) -> PathBuf {
        self.0.path().join("ca.key")
    }

    /// A certificate for these names, such as `DNS:localhost,IP:127.0.0.1`, and its key, PEM files.
    ///
    /// # Panics
    /// When there is no `openssl`.
    pub fn issue(&self, names: &str) -> (PathBuf, PathBuf) {
        let file = |extension: &str| self.0.path().join(format!("{}.{extension}", Uuid::new_v4().simple()));
        let (config, key, certificate) = (file("cnf"), file("key"), file("pem"));
        let extensions = format!("basicConstraints=critical,CA:FALSE\nsubjectAltName={names}\n");
        fs::write(&config, format!("[req]\ndistinguished_name=dn\n[dn]\n[leaf]\n{extensions}"))
            .expect("a file in a scratch folder");
        let path = |name: &str| self.0.path().join(name).display().to_string();
        let config = config.display().to_string();
        openssl(
            &[
                "-config",
                &config,
                "-extensions",
                "leaf",
                "-subj",
                "/CN=test",
                "-CA",
                &path("ca.pem"),
                "-CAkey",
                &path("ca.key"),
            ],
            &key,
            &certificate,
        );
        (certificate, key)
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// A new key and a certificate for it.
pub(crate) fn openssl(how: &[&str], key: &Path, certificate: &Path) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(how)
        .arg("-keyout")
        .arg(key)
        .arg("-out")
        .arg(certificate)
        .stdin(Stdio::null())
        .output()
        .expect("openssl to be installed");
    assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
}
