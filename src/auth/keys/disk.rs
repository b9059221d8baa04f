//! Saves the last good key set of an endpoint to disk for the next start (docs/security.md, J10).

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use url::Url;

use super::set::{KeySet, MAX_SET_BYTES};
use crate::auth::Algorithm;
use crate::auth::state_file::{StateError, StateFile};
use crate::clock::UnixTime;
use crate::digest::sha256;
use crate::hex::hex;
use crate::json;

/// The most bytes that are read: the largest key set, plus 64 KiB for the other members.
const MAX_FILE_BYTES: usize = MAX_SET_BYTES + 64 * 1024;

/// The file that holds the key set of one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct DiskCopy {
    file: StateFile,
    issuer: String,
    url: String,
}

/// A key set read from disk. It was valid when it was fetched.
#[derive(Debug)]
pub(crate) struct SavedKeys {
    pub(crate) set: KeySet,
    pub(crate) fetched_at: UnixTime,
    pub(crate) max_age: Option<Duration>,
}

impl DiskCopy {
    /// Names the file for this issuer and URL in `directory`. Reads and writes nothing.
    pub(crate) fn new(directory: &Path, issuer: &str, url: &Url) -> Self {
        // A URL holds no newline, so the last newline separates the two and different pairs give different names.
        let name = hex(&sha256(format!("{issuer}\n{url}"))[..16]);
        let file = StateFile::new(directory, &format!("jwks-{name}.json"));
        Self { file, issuer: issuer.to_owned(), url: url.to_string() }
    }

    /// Loads the saved set. It must be of this issuer and URL, and must not be fetched after `now`. Blocks.
    pub(crate) fn load(&self, algorithms: &[Algorithm], now: UnixTime) -> Result<SavedKeys, LoadError> {
        let document = json::parse_object(&self.file.read(MAX_FILE_BYTES)?).map_err(|_| LoadError::Corrupt)?;
        let is = |name: &str, ours: &str| document.get(name).and_then(Value::as_str) == Some(ours);
        if !is("issuer", &self.issuer) || !is("url", &self.url) {
            return Err(LoadError::OtherIssuer);
        }
        let seconds = |name: &str| document.get(name).and_then(Value::as_u64);
        let fetched_at = UnixTime::from_secs(seconds("fetched_at").ok_or(LoadError::Corrupt)?);
        if fetched_at > now {
            return Err(LoadError::FromTheFuture);
        }
        Ok(SavedKeys {
            set: keys(&document, algorithms)?,
            fetched_at,
            max_age: seconds("max_age").map(Duration::from_secs),
        })
    }

    /// Replaces the saved set atomically. Blocks.
    pub(crate) fn save(&self, jwks: &Value, fetched_at: UnixTime, max_age: Option<Duration>) -> io::Result<()> {
        let document = json!({
            "issuer": self.issuer,
            "url": self.url,
            "fetched_at": fetched_at.as_secs(),
            "max_age": max_age.map(|age| age.as_secs()),
            "jwks": jwks,
        });
        self.file.write(document.to_string().as_bytes())
    }
}

/// Why the saved set cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("the file is truncated or not a saved key set")]
    Corrupt,
    #[error(transparent)]
    File(#[from] StateError),
    #[error("its fetch time is in the future")]
    FromTheFuture,
    #[error("the file belongs to another issuer or URL")]
    OtherIssuer,
}

impl LoadError {
    /// Whether the file does not exist, as on a first start.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::File(error) if error.is_absence())
    }
}

fn keys(document: &Map<String, Value>, algorithms: &[Algorithm]) -> Result<KeySet, LoadError> {
    let jwks = document.get("jwks").ok_or(LoadError::Corrupt)?;
    let parsed = KeySet::parse(jwks.to_string().as_bytes(), algorithms).map_err(|_| LoadError::Corrupt)?;
    Ok(parsed.set)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::auth::testing::TestKey;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
    const ALGORITHMS: [Algorithm; 1] = [Algorithm::EdDsa];

    fn url() -> Url {
        "https://auth.example.com/jwks".parse().unwrap()
    }

    fn saved(directory: &Path) -> DiskCopy {
        let copy = DiskCopy::new(directory, "https://auth.example.com", &url());
        let jwks = json!({ "keys": [TestKey::ed25519("a").jwk()] });
        copy.save(&jwks, NOW, Some(Duration::from_secs(60))).unwrap();
        copy
    }

    fn assert_ignored(copy: &DiskCopy, because: &str) {
        assert!(copy.load(&ALGORITHMS, NOW).is_err(), "{because}");
    }

    #[test]
    fn j10_a_set_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let loaded = saved(directory.path()).load(&ALGORITHMS, NOW).unwrap();
        assert_eq!(loaded.set.len(), 1);
        assert_eq!((loaded.fetched_at, loaded.max_age), (NOW, Some(Duration::from_secs(60))));
    }

    #[test]
    fn j10_damaged_files_are_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let copy = saved(directory.path());
        let whole = fs::read(copy.file.path()).unwrap();
        for length in 0..whole.len() {
            fs::write(copy.file.path(), &whole[..length]).unwrap();
            assert_ignored(&copy, "truncated");
        }
        for content in ["null", "{}", "<html>", "\u{0}", "{\"keys\":[]}"] {
            fs::write(copy.file.path(), content).unwrap();
            assert_ignored(&copy, content);
        }
        fs::write(copy.file.path(), &whole).unwrap();
        assert!(copy.load(&ALGORITHMS, NOW).is_ok());
    }

    #[test]
    fn j10_a_set_of_another_issuer_or_url_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let copy = saved(directory.path());
        let other_issuer = DiskCopy::new(directory.path(), "https://other.example.com", &url());
        let other_url = DiskCopy::new(directory.path(), "https://auth.example.com", &"https://x/".parse().unwrap());
        for other in [other_issuer, other_url] {
            assert_ne!(other.file.path(), copy.file.path());
            fs::copy(copy.file.path(), other.file.path()).unwrap();
            assert!(matches!(other.load(&ALGORITHMS, NOW), Err(LoadError::OtherIssuer)));
        }
    }

    #[test]
    fn j10_a_set_from_the_future_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let copy = saved(directory.path());
        let earlier = UnixTime::from_secs(NOW.as_secs() - 1);
        assert!(matches!(copy.load(&ALGORITHMS, earlier), Err(LoadError::FromTheFuture)));
    }

    #[test]
    fn a_missing_directory_is_an_error_not_a_panic() {
        let directory = tempfile::tempdir().unwrap();
        let copy = DiskCopy::new(&directory.path().join("missing"), "i", &url());
        assert!(copy.save(&json!({ "keys": [] }), NOW, None).is_err());
        assert!(copy.load(&ALGORITHMS, NOW).unwrap_err().is_absence());
    }
}
