//! The certificate of the client listeners.

use std::sync::Arc;

use anyhow::{Context, ensure};
use pingora::listeners::tls::Acceptor;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::config::Tls;

/// Whether the certificate and its key can be used.
///
/// # Errors
/// A file that cannot be read, holds no PEM, or does not fit the other.
pub fn check(tls: &Tls) -> anyhow::Result<()> {
    Certificate::read(tls).map(drop)
}

/// A certificate chain with its key, read and found to fit together.
pub(super) struct Certificate(Arc<SingleCertAndKey>);

impl Certificate {
    /// Reads both files once, before anything is served.
    pub(super) fn read(tls: &Tls) -> anyhow::Result<Self> {
        let chain = CertificateDer::pem_file_iter(&tls.cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| format!("server.tls.cert: cannot read {}", tls.cert.display()))?;
        ensure!(!chain.is_empty(), "server.tls.cert: no certificate in {}", tls.cert.display());
        let key = PrivateKeyDer::from_pem_file(&tls.key)
            .with_context(|| format!("server.tls.key: cannot read {}", tls.key.display()))?;
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .context("server.tls: certificate and key do not fit together")?;
        Ok(Self(Arc::new(SingleCertAndKey::from(certified))))
    }

    /// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN.
    pub(super) fn acceptor(&self) -> Acceptor {
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(self.0.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Acceptor::from_server_config(Arc::new(config))
    }
}
