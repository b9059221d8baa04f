//! Saves the last good key set of an endpoint to disk for the next start (docs/security.md, J10).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde_json::{Map, Value, json};
use url::Url;

use super::set::{KeySet, MAX_SET_BYTES};
use crate::auth::Algorithm;
use crate::clock::UnixTime;
use crate::digest::sha256;
use crate::hex::hex;
use crate::json;
use crate::owner;

/// The most bytes that are read: the largest key set, plus 64 KiB for the other members.
const MAX_FILE_BYTES: u64 = MAX_SET_BYTES as u64 + 64 * 1024;

/// The file that holds the key set of one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct DiskCopy {
    path: PathBuf,
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
        let path = directory.join(format!("jwks-{name}.json"));
        Self { path, issuer: issuer.to_owned(), url: url.to_string() }
    }

    /// Loads the saved set. It must be of this issuer and URL, and must not be fetched after `now`. Blocks.
    pub(crate) fn load(&self, algorithms: &[Algorithm], now: UnixTime) -> Result<SavedKeys, LoadError> {
        let document = json::parse_object(&self.read()?).map_err(|_| LoadError::Corrupt)?;
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
        // During an upgrade two processes write to this directory.
        let temporary = self.path.with_extension(format!("{}.tmp", std::process::id()));
        let result =
            write_whole(&temporary, document.to_string().as_bytes()).and_then(|()| self.replace_by(&temporary));
        if result.is_err() {
            let _ = fs::remove_file(&temporary); // the error of the write is the one to report
        }
        result
    }

    /// Reads the file, unless another user can choose the keys: by writing to it, or by replacing it in its folder.
    fn read(&self) -> Result<Vec<u8>, LoadError> {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err(LoadError::Unsafe);
        };
        let folder = File::open(folder)?;
        if !owner::is_ours(&folder.metadata()?) {
            return Err(LoadError::UnsafeFolder);
        }
        // In the folder that was checked, without following a link or waiting for a writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&folder, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP) => return Err(LoadError::Unsafe),
            Err(error) => return Err(LoadError::Io(error.into())),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || !owner::is_ours(&metadata) {
            return Err(LoadError::Unsafe);
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn replace_by(&self, temporary: &Path) -> io::Result<()> {
        fs::rename(temporary, &self.path)?;
        match self.path.parent() {
            None => Ok(()),
            Some(directory) => File::open(directory)?.sync_all(),
        }
    }
}

/// Why the saved set cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("the file is truncated or not a saved key set")]
    Corrupt,
    #[error("its fetch time is in the future")]
    FromTheFuture,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the file belongs to another issuer or URL")]
    OtherIssuer,
    #[error("another user owns the file or can write to it, or it is not a regular file: remove it")]
    Unsafe,
    #[error("other users can write to its folder (server.state): {}", owner::MAKE_IT_OURS)]
    UnsafeFolder,
}

impl LoadError {
    /// Whether the file does not exist, as on a first start.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

fn keys(document: &Map<String, Value>, algorithms: &[Algorithm]) -> Result<KeySet, LoadError> {
    let jwks = document.get("jwks").ok_or(LoadError::Corrupt)?;
    let parsed = KeySet::parse(jwks.to_string().as_bytes(), algorithms).map_err(|_| LoadError::Corrupt)?;
    Ok(parsed.set)
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Removes the file of a process that was killed while it wrote. `create_new` then follows no planted link.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

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
    fn j10_the_file_is_private_and_no_temporary_file_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let copy = saved(directory.path());
        saved(directory.path());
        assert_eq!(fs::metadata(&copy.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn j10_damaged_files_are_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let copy = saved(directory.path());
        let whole = fs::read(&copy.path).unwrap();
        for length in 0..whole.len() {
            fs::write(&copy.path, &whole[..length]).unwrap();
            assert_ignored(&copy, "truncated");
        }
        for content in ["null", "{}", "<html>", "\u{0}", "{\"keys\":[]}"] {
            fs::write(&copy.path, content).unwrap();
            assert_ignored(&copy, content);
        }
        fs::write(&copy.path, &whole).unwrap();
        assert!(copy.load(&ALGORITHMS, NOW).is_ok());
    }

    #[test]
    fn j10_a_set_of_another_issuer_or_url_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let copy = saved(directory.path());
        let other_issuer = DiskCopy::new(directory.path(), "https://other.example.com", &url());
        let other_url = DiskCopy::new(directory.path(), "https://auth.example.com", &"https://x/".parse().unwrap());
        for other in [other_issuer, other_url] {
            assert_ne!(other.path, copy.path);
            fs::copy(&copy.path, &other.path).unwrap();
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
    fn j10_a_set_that_another_user_can_change_or_replace_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let copy = saved(directory.path());
        let load = || copy.load(&ALGORITHMS, NOW);
        let allow = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        for mode in [0o600, 0o644] {
            allow(&copy.path, mode);
            assert!(load().is_ok(), "{mode:o}");
        }
        for mode in [0o620, 0o602] {
            allow(&copy.path, mode);
            assert!(matches!(load(), Err(LoadError::Unsafe)), "{mode:o}");
        }
        allow(&copy.path, 0o600);
        for mode in [0o770, 0o777, 0o1777] {
            allow(directory.path(), mode);
            assert!(matches!(load(), Err(LoadError::UnsafeFolder)), "{mode:o}");
        }
        allow(directory.path(), 0o755);
        assert!(load().is_ok());
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED in part: only root can give a file to another user");
        }
        chown(&copy.path, Some(65534), None).unwrap();
        assert!(matches!(load(), Err(LoadError::Unsafe)));
        chown(&copy.path, Some(0), None).unwrap();
        chown(directory.path(), Some(65534), None).unwrap();
        assert!(matches!(load(), Err(LoadError::UnsafeFolder)));
    }

    #[test]
    fn j10_a_link_or_a_pipe_in_the_place_of_the_file_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let copy = saved(directory.path());
        let elsewhere = directory.path().join("elsewhere");
        fs::rename(&copy.path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &copy.path).unwrap();
        assert!(matches!(copy.load(&ALGORITHMS, NOW), Err(LoadError::Unsafe)));
        fs::remove_file(&copy.path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &copy.path, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(matches!(copy.load(&ALGORITHMS, NOW), Err(LoadError::Unsafe)));
        fs::rename(&elsewhere, &copy.path).unwrap();
        assert!(copy.load(&ALGORITHMS, NOW).is_ok());
    }

    #[test]
    fn a_missing_directory_is_an_error_not_a_panic() {
        let directory = tempfile::tempdir().unwrap();
        let copy = DiskCopy::new(&directory.path().join("missing"), "i", &url());
        assert!(copy.save(&json!({ "keys": [] }), NOW, None).is_err());
        assert!(copy.load(&ALGORITHMS, NOW).unwrap_err().is_absence());
    }
}
