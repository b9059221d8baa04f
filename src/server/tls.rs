//! Loads the certificate of the client listeners, and replaces it when the files change.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use pingora::listeners::tls::Acceptor;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Pair;
use crate::clock::{Clock, SystemClock};
use crate::config::TlsSettings;
use crate::metrics::Metrics;

/// Checks that the certificate and its private key can be used. Returns why clients may reject the certificate, in words.
///
/// # Errors
/// If a file cannot be read or does not contain what it should, or the certificate and private key do not match.
pub(super) fn check(tls: &TlsSettings) -> anyhow::Result<Vec<String>> {
    Pair::read(tls, SystemClock.now()).map(|pair| pair.warnings)
}

/// The current certificate. New handshakes use it; open connections keep the one they started with.
pub(super) struct Certificates {
    current: ArcSwap<CertifiedKey>,
    files: Mutex<Files>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

/// The state of the certificate files.
struct Files {
    tls: TlsSettings,
    /// The files when they were last loaded or rejected.
    judged: Stamp,
    /// The files when they last failed to load once. A renewal may be half done, so they are checked again before they
    /// are rejected.
    doubted: Option<Stamp>,
}

/// The certificate that a reload found, not yet in use.
pub(super) struct Found {
    tls: TlsSettings,
    stamp: Stamp,
    /// `None` to keep the current certificate.
    pair: Option<Pair>,
}

impl Certificates {
    /// Reads both files before anything is served.
    ///
    /// # Errors
    /// Like [`check`].
    pub(super) fn start(tls: TlsSettings, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<Self>> {
        let judged = Stamp::of(&tls);
        let pair = Pair::read(&tls, clock.now())?;
        metrics.certificate_loaded(pair.expires_at);
        warn(&pair);
        let files = Mutex::new(Files { tls, judged, doubted: None });
        Ok(Arc::new(Self { current: ArcSwap::new(pair.key), files, metrics, clock }))
    }

    /// Returns an acceptor for TLS 1.2 and 1.3, with HTTP/2 and HTTP/1.1 by ALPN.
    pub(super) fn acceptor(self: &Arc<Self>) -> Acceptor {
        let certificates: Arc<dyn ResolvesServerCert> = Arc::clone(self) as _;
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(certificates);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Acceptor::from_server_config(Arc::new(config))
    }

    /// Reads the files of `tls` without using them yet. If they are the current files and cannot be used, this is
    /// logged and the current certificate stays.
    ///
    /// # Errors
    /// Like [`Certificates::start`], if `tls` names other files than the current ones.
    pub(super) fn find(&self, tls: &TlsSettings) -> anyhow::Result<Found> {
        let stamp = Stamp::of(tls);
        let pair = match Pair::read(tls, self.clock.now()) {
            Ok(pair) => Some(pair),
            Err(error) if *tls == self.files().tls => {
                self.refused(&error);
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Found { tls: tls.clone(), stamp, pair })
    }

    /// Uses these files from now on.
    pub(super) fn take(&self, found: Found) {
        let Found { tls, stamp, pair } = found;
        *self.files() = Files { tls, judged: stamp, doubted: None };
        pair.into_iter().for_each(|pair| self.use_pair(pair));
    }

    /// Checks the files at every interval, forever.
    pub(super) async fn watch(self: Arc<Self>) {
        loop {
            let interval = self.files().tls.poll;
            tokio::time::sleep(interval).await;
            let certificates = Arc::clone(&self);
            // On a blocking thread, because a disk may be slow. If it panics, the next check runs as usual.
            let _ = tokio::task::spawn_blocking(move || certificates.look()).await;
        }
    }

    /// Loads the certificate if its files have changed. A pair that cannot be used is checked once more before it is
    /// rejected, because a renewal writes one file after the other.
    fn look(&self) {
        let mut files = self.files();
        let stamp = Stamp::of(&files.tls);
        if stamp == files.judged {
            return;
        }
        match Pair::read(&files.tls, self.clock.now()) {
            Ok(pair) => {
                (files.judged, files.doubted) = (stamp, None);
                drop(files);
                self.use_pair(pair);
            }
            Err(_) if files.doubted.as_ref() != Some(&stamp) => files.doubted = Some(stamp),
            Err(error) => {
                (files.judged, files.doubted) = (stamp, None);
                drop(files);
                self.refused(&error);
            }
        }
    }

    fn use_pair(&self, pair: Pair) {
        self.metrics.certificate_loaded(pair.expires_at);
        warn(&pair);
        if self.current.load().cert != pair.key.cert {
            tracing::info!(expires_at = pair.expires_at, "certificate replaced");
        }
        self.current.store(pair.key);
    }

    fn refused(&self, error: &anyhow::Error) {
        self.metrics.certificate_refused();
        tracing::error!(cause = format!("{error:#}"), "certificate rejected; keeping the current one");
    }

    fn files(&self) -> std::sync::MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn warn(pair: &Pair) {
    pair.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

/// Metadata that changes with the content of the two files. Follows symbolic links; `None` for a missing file.
#[derive(PartialEq, Eq)]
struct Stamp([Option<FileStamp>; 2]);

#[derive(PartialEq, Eq)]
struct FileStamp {
    device_and_inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(tls: &TlsSettings) -> Self {
        let of_file = |path: &Path| {
            let file = std::fs::metadata(path).ok()?;
            Some(FileStamp {
                device_and_inode: (file.dev(), file.ino()),
                size: file.size(),
                modified: (file.mtime(), file.mtime_nsec()),
                changed: (file.ctime(), file.ctime_nsec()),
            })
        };
        Self([of_file(&tls.cert), of_file(&tls.key)])
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    struct Scene {
        certificates: Arc<Certificates>,
        folder: tempfile::TempDir,
        made: [(String, String); 2],
    }

    fn scene() -> Scene {
        let made = [(); 2].map(|()| {
            let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
            (made.cert.pem(), made.signing_key.serialize_pem())
        });
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&cert, &made[0].0).unwrap();
        std::fs::write(&key, &made[0].1).unwrap();
        let tls = TlsSettings { cert, key, poll: Duration::from_secs(1) };
        let certificates = Certificates::start(tls, Arc::new(Metrics::new().unwrap()), Arc::new(SystemClock)).unwrap();
        Scene { certificates, folder, made }
    }

    impl Scene {
        /// Replaces a file with a new one.
        fn put(&self, name: &str, text: &str) {
            std::fs::write(self.folder.path().join("new"), text).unwrap();
            std::fs::rename(self.folder.path().join("new"), self.folder.path().join(name)).unwrap();
        }

        /// Checks the files. Returns whether the second certificate is in use, and whether the files are to be checked
        /// again.
        fn look(&self) -> (bool, bool) {
            self.certificates.look();
            let second = CertificateDer::from_pem_slice(self.made[1].0.as_bytes()).unwrap();
            (self.certificates.current.load().cert[0] == second, self.certificates.files().doubted.is_some())
        }
    }

    #[test]
    fn a_half_done_renewal_is_checked_again() {
        let scene = scene();
        assert_eq!(scene.look(), (false, false));
        scene.put("cert.pem", &scene.made[1].0);
        assert_eq!(scene.look(), (false, true));
        scene.put("key.pem", &scene.made[1].1);
        assert_eq!(scene.look(), (true, false));
    }

    #[test]
    fn an_unusable_pair_is_rejected_once_and_checked_again_after_a_change() {
        let scene = scene();
        scene.put("key.pem", "no key");
        assert_eq!([scene.look(), scene.look(), scene.look()], [(false, true), (false, false), (false, false)]);
        scene.put("cert.pem", &scene.made[1].0);
        assert_eq!(scene.look(), (false, true));
        scene.put("key.pem", &scene.made[1].1);
        assert_eq!(scene.look(), (true, false));
    }

    /// lego writes both files in place, the certificate first.
    #[test]
    fn renewal_by_lego_is_found_after_its_last_file() {
        let scene = scene();
        let write = |name: &str, text: &str| std::fs::write(scene.folder.path().join(name), text).unwrap();
        for half in ["", &scene.made[1].0[..100], &scene.made[1].0] {
            write("cert.pem", half);
            assert!(!scene.look().0);
        }
        for half in ["", &scene.made[1].1[..50]] {
            write("key.pem", half);
            assert!(!scene.look().0);
        }
        write("key.pem", &scene.made[1].1);
        assert_eq!(scene.look(), (true, false));
    }

    /// certbot writes new files beside the old ones, and then replaces each symbolic link by a new one.
    #[test]
    fn renewal_by_certbot_is_found_after_its_last_link() {
        let scene = scene();
        let path = |name: &str| scene.folder.path().join(name);
        let link = |name: &str, to: &str| std::os::unix::fs::symlink(path(to), path(name)).unwrap();
        for (name, old) in [("cert.pem", "cert1.pem"), ("key.pem", "privkey1.pem")] {
            std::fs::rename(path(name), path(old)).unwrap();
            link(name, old);
        }
        assert_eq!(scene.look(), (false, false));
        std::fs::write(path("cert2.pem"), &scene.made[1].0).unwrap();
        std::fs::write(path("privkey2.pem"), &scene.made[1].1).unwrap();
        for (name, new, done) in [("key.pem", "privkey2.pem", false), ("cert.pem", "cert2.pem", true)] {
            std::fs::remove_file(path(name)).unwrap();
            assert!(!scene.look().0);
            link(name, new);
            assert_eq!(scene.look().0, done, "{name}");
        }
    }
}
