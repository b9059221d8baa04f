//! Reads a certificate and its private key, and says what is wrong with them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::parse_x509_certificate;

use crate::clock::{Clock, SystemClock, UnixTime};
use crate::config::{ConfigError, TlsSettings};

/// Returns why the certificate and its private key cannot be used, or what clients may not accept.
pub(super) fn problems(tls: &TlsSettings) -> Vec<ConfigError> {
    match Pair::read(tls) {
        Ok(pair) => pair.doubts(SystemClock.now()),
        Err(error) => {
            let text = format!("{error:#}");
            let (key, message) = text.split_once(": ").unwrap_or(("server.tls", &text));
            vec![ConfigError::of_key(key, message)]
        }
    }
}

/// A certificate chain and its matching private key.
pub(super) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    /// The leaf's `notAfter` in seconds since 1970; `None` if it cannot be parsed.
    pub(super) expires_at: Option<i64>,
}

impl Pair {
    pub(super) fn read(tls: &TlsSettings) -> anyhow::Result<Self> {
        let chain = CertificateDer::pem_file_iter(&tls.cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| format!("server.tls.cert: cannot read {}", tls.cert.display()))?;
        ensure!(!chain.is_empty(), "server.tls.cert: no certificate in {}", tls.cert.display());
        let key = private_key(&tls.key)?;
        let expires_at = chain.first().and_then(|leaf| expiry(leaf));
        let provider = aws_lc_rs::default_provider();
        let pair = CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider).with_context(|| {
            let is_of = |at: &CertificateDer<'_>| {
                CertifiedKey::from_der(vec![at.clone().into_owned()], key.clone_key(), &provider).is_ok()
            };
            let (cert, key) = (tls.cert.display(), tls.key.display());
            match chain.iter().skip(1).any(is_of) {
                true => {
                    format!("server.tls.cert: the server's certificate is not the first in {cert}: reverse the order")
                }
                false => format!("server.tls: certificate and private key do not match: {cert}, {key}"),
            }
        })?;
        Ok(Self { key: Arc::new(pair), expires_at })
    }

    /// Returns what clients may not accept.
    fn doubts(&self, now: UnixTime) -> Vec<ConfigError> {
        let warning = |message: &str, help: &str| ConfigError::of_key("server.tls", message).help(help).as_warning();
        let chain: Vec<_> =
            self.key.cert.iter().map(|der| parse_x509_certificate(der).map(|(_, parsed)| parsed)).collect();
        let Some(Ok(leaf)) = chain.first() else {
            return vec![warning("the certificate cannot be parsed", "make a new one")];
        };
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let (starts, ends) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
        let has_names = leaf.subject_alternative_name().is_ok_and(|names| names.is_some());
        let links = chain.iter().zip(chain.iter().skip(1));
        let is_linked = links.clone().all(|pair| matches!(pair, (Ok(one), Ok(next)) if one.issuer() == next.subject()));
        let is_alone = chain.len() == 1 && leaf.issuer() != leaf.subject();
        [
            (ends < now).then(|| warning("the certificate has expired", "renew it; until then clients refuse it")),
            (starts > now).then(|| warning("the certificate is not yet valid", "check this machine's clock")),
            (!has_names).then(|| {
                warning(
                    "the certificate names no host (subjectAltName)",
                    "make one with the host names of clients' URLs",
                )
            }),
            (is_alone || !is_linked).then(|| {
                warning(
                    "an intermediate certificate is missing",
                    "append the issuer's certificates in order, as in fullchain.pem",
                )
            }),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn private_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let pem = std::fs::read(path).with_context(|| format!("server.tls.key: cannot read {}", path.display()))?;
    let is_encrypted = [&b"BEGIN ENCRYPTED PRIVATE KEY"[..], b"Proc-Type: 4,ENCRYPTED"];
    let is_encrypted = is_encrypted.iter().any(|mark| pem.windows(mark.len()).any(|window| window == *mark));
    ensure!(!is_encrypted, "server.tls.key: {} is encrypted: decrypt it with `openssl pkey`", path.display());
    PrivateKeyDer::from_pem_slice(&pem).with_context(|| format!("server.tls.key: no private key in {}", path.display()))
}

fn expiry(leaf: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = parse_x509_certificate(leaf).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, DnType, Issuer, KeyPair, date_time_ymd};

    use super::*;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    /// Returns the problems of a certificate file and a key file.
    fn found(cert: &str, key: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&cert_file, cert).unwrap();
        std::fs::write(&key_file, key).unwrap();
        let problems = problems(&TlsSettings { cert: cert_file, key: key_file, poll: Duration::ZERO });
        problems.iter().map(|problem| format!("{:?}: {}: {}", problem.severity, problem.key, problem.message)).collect()
    }

    #[test]
    fn a_certificate_that_clients_refuse_is_a_warning() {
        let key = KeyPair::generate().unwrap();
        let found = |change: fn(&mut CertificateParams)| {
            let mut params = params("a.example");
            change(&mut params);
            found(&params.self_signed(&key).unwrap().pem(), &key.serialize_pem())
        };
        assert_eq!(found(|_| {}), Vec::<String>::new());
        assert_eq!(
            found(|params| params.not_after = date_time_ymd(2020, 1, 1)),
            ["Warning: server.tls: the certificate has expired"]
        );
        assert_eq!(
            found(|params| params.not_before = date_time_ymd(3000, 1, 1)),
            ["Warning: server.tls: the certificate is not yet valid"]
        );
        assert_eq!(
            found(|params| params.subject_alt_names.clear()),
            ["Warning: server.tls: the certificate names no host (subjectAltName)"]
        );
    }

    #[test]
    fn a_chain_has_the_server_first_and_no_gap() {
        let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root = params("root.example").self_signed(&root_key).unwrap().pem();
        let issuer = Issuer::new(params("root.example"), &root_key);
        let leaf = params("a.example").signed_by(&key, &issuer).unwrap().pem();
        let key = key.serialize_pem();
        assert_eq!(found(&format!("{leaf}{root}"), &key), Vec::<String>::new());
        let gap = ["Warning: server.tls: an intermediate certificate is missing"];
        assert_eq!(found(&leaf, &key), gap);
        assert_eq!(found(&format!("{leaf}{leaf}"), &key), gap);
        let [reversed] = &found(&format!("{root}{leaf}"), &key)[..] else { panic!() };
        assert!(
            reversed.starts_with("Error: server.tls.cert: the server's certificate is not the first"),
            "{reversed}"
        );
        let [other] = &found(&root, &key)[..] else { panic!() };
        assert!(other.starts_with("Error: server.tls: certificate and private key do not match"), "{other}");
    }

    #[test]
    fn an_encrypted_or_missing_key_is_named() {
        let key = KeyPair::generate().unwrap();
        let cert = params("a.example").self_signed(&key).unwrap().pem();
        let encrypted = key.serialize_pem().replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let [encrypted] = &found(&cert, &encrypted)[..] else { panic!() };
        assert!(encrypted.starts_with("Error: server.tls.key: ") && encrypted.contains("is encrypted"), "{encrypted}");
        let [none] = &found(&cert, &cert)[..] else { panic!() };
        assert!(none.starts_with("Error: server.tls.key: no private key in"), "{none}");
    }
}
