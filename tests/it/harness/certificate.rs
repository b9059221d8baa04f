//! A certificate for 127.0.0.1, made on the spot.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::PublicKeyData as _;

/// A self-signed certificate and its key, as files for shapegate.
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

    /// Expires with the first second of this year.
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

    /// SHA-256 of the public key with its algorithm, in base64, as browsers name it.
    pub(crate) fn key_hash(&self) -> String {
        self.key_hash.clone()
    }

    /// The line of `[server]` for this certificate.
    pub(crate) fn line(&self) -> String {
        tls_line(&self.cert(), &self.key())
    }

    /// A client that trusts this certificate and no other, and speaks HTTP/2 where it is offered.
    pub(crate) fn client(&self) -> reqwest::ClientBuilder {
        let certificate = reqwest::Certificate::from_pem(self.pem.as_bytes()).unwrap();
        reqwest::Client::builder().no_proxy().tls_certs_only([certificate])
    }
}

/// The line of `[server]` for these files.
pub(crate) fn tls_line(cert: &Path, key: &Path) -> String {
    format!("tls = {{ cert = {cert:?}, key = {key:?} }}")
}
