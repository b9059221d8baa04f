//! Reads a certificate chain and its private key, and finds what is wrong with them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::parse_x509_certificate;

use crate::clock::UnixTime;
use crate::config::TlsSettings;

/// A certificate chain and its matching private key.
pub(super) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    /// The leaf's `notAfter` in seconds since 1970; `None` if it cannot be parsed.
    pub(super) expires_at: Option<i64>,
    /// Why clients may reject the certificate, in words.
    pub(super) warnings: Vec<String>,
}

impl Pair {
    /// Reads both files.
    ///
    /// # Errors
    /// If a file cannot be read or does not contain what it should, or certificate and key do not match.
    pub(super) fn read(tls: &TlsSettings, now: UnixTime) -> anyhow::Result<Self> {
        let chain = read_chain(&tls.cert)?;
        let key = read_key(&tls.key)?;
        let warnings = warnings(&chain, now).into_iter().map(|warning| {
            let file = tls.cert.display();
            format!("server.tls.cert: {file}: {warning}")
        });
        let (expires_at, warnings) = (chain.first().and_then(expiry), warnings.collect());
        let certified = certify(chain.clone(), &key).with_context(|| {
            let (cert, key_file) = (tls.cert.display(), tls.key.display());
            // The key may belong to another certificate of the file.
            match (1..chain.len()).find(|at| certify(vec![chain[*at].clone()], &key).is_ok()) {
                Some(at) => format!(
                    "server.tls.cert: the private key belongs to certificate {} of {cert}: put that one first, then the one \
                     that issued it, and so on",
                    at + 1
                ),
                None => format!("server.tls: certificate and private key do not match: {cert}, {key_file}"),
            }
        })?;
        Ok(Self { key: Arc::new(certified), expires_at, warnings })
    }
}

fn certify(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'_>) -> Result<CertifiedKey, rustls::Error> {
    CertifiedKey::from_der(chain, key.clone_key(), &aws_lc_rs::default_provider())
}

fn read_chain(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let file = path.display();
    let pem = std::fs::read(path).with_context(|| format!("server.tls.cert: cannot read {file}"))?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.with_context(|| format!("server.tls.cert: cannot read {file}"))?;
    ensure!(
        !chain.is_empty() || !contains(&pem, "PRIVATE KEY-----"),
        "server.tls.cert: {file} has a private key and no certificate: are `cert` and `key` exchanged?"
    );
    ensure!(!chain.is_empty(), "server.tls.cert: no certificate in {file}");
    Ok(chain)
}

fn read_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let file = path.display();
    let pem = std::fs::read(path).with_context(|| format!("server.tls.key: cannot read {file}"))?;
    if contains(&pem, "-----BEGIN ENCRYPTED PRIVATE KEY-----") || contains(&pem, "Proc-Type: 4,ENCRYPTED") {
        bail!("server.tls.key: {file} is encrypted: write it without a passphrase (openssl pkey -in {file} -out NEW)");
    }
    ensure!(
        contains(&pem, "PRIVATE KEY-----") || !contains(&pem, "-----BEGIN CERTIFICATE-----"),
        "server.tls.key: {file} has a certificate and no private key: are `cert` and `key` exchanged?"
    );
    PrivateKeyDer::from_pem_slice(&pem).with_context(|| format!("server.tls.key: cannot read {file}"))
}

fn contains(pem: &[u8], text: &str) -> bool {
    pem.windows(text.len()).any(|window| window == text.as_bytes())
}

fn expiry(leaf: &CertificateDer<'static>) -> Option<i64> {
    let (_, certificate) = parse_x509_certificate(leaf).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Returns why clients may reject this chain. It can be served nevertheless: shapegate need not have all the certificates
/// that its clients trust, and a wrong clock must not stop it.
fn warnings(chain: &[CertificateDer<'_>], now: UnixTime) -> Vec<String> {
    let parsed = chain.iter().map_while(|certificate| Some(parse_x509_certificate(certificate).ok()?.1));
    let parsed: Vec<_> = parsed.collect();
    let Some(leaf) = parsed.first() else { return vec!["the certificate cannot be parsed".to_owned()] };
    let mut warnings = validity(leaf, i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    if !leaf.subject_alternative_name().is_ok_and(|names| names.is_some()) {
        warnings.push("has no subject alternative name, so clients reject it for every host".to_owned());
    }
    for (at, pair) in parsed.windows(2).enumerate() {
        if pair[0].issuer() != pair[1].subject() {
            warnings.push(format!("certificate {} did not issue the one before it: check their order", at + 2));
        }
    }
    if parsed.len() == 1 && leaf.issuer() != leaf.subject() {
        warnings.push(
            "has no intermediate certificate: clients that do not know its issuer reject it; use the file with the whole \
             chain (certbot: fullchain.pem)"
                .to_owned(),
        );
    }
    warnings
}

fn validity(leaf: &X509Certificate<'_>, now: i64) -> Vec<String> {
    let (from, to) = (leaf.validity().not_before, leaf.validity().not_after);
    if to.timestamp() < now {
        vec![format!("has expired ({to}): renew it")]
    } else if from.timestamp() > now {
        vec![format!("is not valid yet (from {from})")]
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    struct Made {
        leaf: String,
        key: String,
        intermediate: String,
    }

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Made {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "an intermediate");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let mut leaf = CertificateParams::new(["sync.test".to_owned()]).unwrap();
        leaf.distinguished_name.push(rcgen::DnType::CommonName, "sync.test");
        change(&mut leaf);
        let key = KeyPair::generate().unwrap();
        let leaf = leaf.signed_by(&key, &authority).unwrap();
        Made { leaf: leaf.pem(), key: key.serialize_pem(), intermediate: authority.pem() }
    }

    /// Reads these files, and returns the warnings or the error, without the names of the files.
    fn read(cert: &str, key: &str) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let (cert_file, key_file) = (folder.path().join("c"), folder.path().join("k"));
        std::fs::write(&cert_file, cert).unwrap();
        std::fs::write(&key_file, key).unwrap();
        let tls = TlsSettings { cert: cert_file, key: key_file, poll: std::time::Duration::ZERO };
        let bare = |text: String| text.replace(&format!("{}/", folder.path().display()), "");
        match Pair::read(&tls, NOW) {
            Ok(pair) => Ok(pair.warnings.into_iter().map(bare).collect()),
            Err(error) => Err(bare(error.to_string())),
        }
    }

    #[test]
    fn good_chain_has_no_warnings() {
        let made = made(|_| {});
        assert_eq!(read(&format!("{}{}", made.leaf, made.intermediate), &made.key), Ok(vec![]));
        let own = rcgen::generate_simple_self_signed(["sync.test".to_owned()]).unwrap();
        assert_eq!(read(&own.cert.pem(), &own.signing_key.serialize_pem()), Ok(vec![]));
    }

    #[test]
    fn files_that_cannot_be_used_are_errors() {
        let Made { leaf, key, intermediate } = made(|_| {});
        let other = KeyPair::generate().unwrap().serialize_pem();
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        for (cert, key, expected) in [
            (
                &leaf,
                &*encrypted,
                "server.tls.key: k is encrypted: write it without a passphrase (openssl pkey -in k -out NEW)",
            ),
            (
                &leaf,
                legacy,
                "server.tls.key: k is encrypted: write it without a passphrase (openssl pkey -in k -out NEW)",
            ),
            (
                &format!("{intermediate}{leaf}"),
                &key,
                "server.tls.cert: the private key belongs to certificate 2 of c: put that one first, then the one that \
                 issued it, and so on",
            ),
            (&leaf, &other, "server.tls: certificate and private key do not match: c, k"),
            (&key, &leaf, "server.tls.cert: c has a private key and no certificate: are `cert` and `key` exchanged?"),
            (&leaf, &leaf, "server.tls.key: k has a certificate and no private key: are `cert` and `key` exchanged?"),
            (&"text".to_owned(), &key, "server.tls.cert: no certificate in c"),
            (&leaf, "text", "server.tls.key: cannot read k"),
        ] {
            assert_eq!(read(cert, key), Err(expected.to_owned()));
        }
    }

    #[test]
    fn what_clients_may_reject_is_a_warning() {
        let of = |change: fn(&mut CertificateParams)| {
            let made = made(change);
            read(&format!("{}{}", made.leaf, made.intermediate), &made.key).unwrap().join("\n")
        };
        let expired = of(|leaf| leaf.not_after = date_time_ymd(2020, 1, 1));
        assert!(expired.starts_with("server.tls.cert: c: has expired (Jan  1 00:00:00 2020"), "{expired}");
        let early = of(|leaf| leaf.not_before = date_time_ymd(2035, 1, 1));
        assert!(early.starts_with("server.tls.cert: c: is not valid yet (from Jan  1 00:00:00 2035"), "{early}");
        let unnamed = of(|leaf| leaf.subject_alt_names.clear());
        assert_eq!(unnamed, "server.tls.cert: c: has no subject alternative name, so clients reject it for every host");
        let Made { leaf, key, intermediate } = made(|_| {});
        let alone = read(&leaf, &key).unwrap();
        assert!(alone.len() == 1 && alone[0].contains("no intermediate certificate"), "{alone:?}");
        let stranger = rcgen::generate_simple_self_signed(["other.test".to_owned()]).unwrap().cert.pem();
        let mixed = read(&format!("{leaf}{stranger}{intermediate}"), &key).unwrap();
        assert_eq!(mixed[0], "server.tls.cert: c: certificate 2 did not issue the one before it: check their order");
    }
}
