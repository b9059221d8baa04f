//! A certificate for 127.0.0.1, made on the spot.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A self-signed certificate and its key, as files for shapegate.
#[derive(Clone)]
pub(crate) struct Certificate {
    folder: Arc<tempfile::TempDir>,
    pem: String,
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
        Self { folder, pem: cert.pem() }
    }

    pub(crate) fn cert(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
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
