//! Terminates TLS in front of a plain server, with a certificate of the tests.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::Certificate;

/// Listens on loopback and forwards the decrypted bytes.
pub(crate) struct TlsFront {
    pub url: String,
    serving: JoinHandle<()>,
}

impl TlsFront {
    pub(crate) async fn start(certificate: &Certificate, behind: SocketAddr) -> Self {
        let chain = vec![CertificateDer::from_pem_file(certificate.cert()).unwrap()];
        let key = PrivateKeyDer::from_pem_file(certificate.key()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut behind = TcpStream::connect(behind).await.unwrap();
                    // Either side may close or reset the connection.
                    let _ = copy_bidirectional(&mut stream, &mut behind).await;
                });
            }
        });
        Self { url, serving }
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
