//! A certificate for 127.0.0.1, generated for the test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::PublicKeyData as _;

/// A self-signed certificate and its private key, stored as PEM files.
#[derive(Clone)]
pub(crate) struct Certificate {
    folder: Arc<tempfile::TempDir>,
    pem: String,
    key_hash: String,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        Self::until(2040)
    }

    /// Creates a certificate that expires at the start of `year`.
    pub(crate) fn until(year: i32) -> Self {
        let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let folder = Arc::new(tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("cert.pem"), cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        let digest = digest::digest(&digest::SHA256, &key.subject_public_key_info());
        Self { folder, pem: cert.pem(), key_hash: STANDARD.encode(digest) }
    }

    pub(crate) fn cert(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// Returns the SHA-256 of the SubjectPublicKeyInfo in base64, the form that browsers use for pins.
    pub(crate) fn key_hash(&self) -> String {
        self.key_hash.clone()
    }

    /// Returns the `[server]` line that configures this certificate.
    pub(crate) fn line(&self) -> String {
        tls_line(&self.cert(), &self.key())
    }

    /// Returns a client that trusts only this certificate and uses HTTP/2 if the server offers it.
    pub(crate) fn client(&self) -> reqwest::ClientBuilder {
        let certificate = reqwest::Certificate::from_pem(self.pem.as_bytes()).unwrap();
        reqwest::Client::builder().no_proxy().tls_certs_only([certificate])
    }
}

/// Returns the `[server]` line that configures these files.
pub(crate) fn tls_line(cert: &Path, key: &Path) -> String {
    format!("tls = {{ cert = {cert:?}, key = {key:?} }}")
}
