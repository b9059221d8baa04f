//! Tells which other users can change or read a file.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What to do about a folder that is not [`is_ours`].
pub(crate) const MAKE_IT_OURS: &str = "make it 0700 and owned by this user";

/// Whether only this user and root can change a file, or the entries of a folder.
pub(crate) fn is_ours(metadata: &Metadata) -> bool {
    let own = rustix::process::geteuid().as_raw();
    [0, own].contains(&metadata.uid()) && !others_can_write(metadata)
}

/// Whether the group or other users can write, whoever owns the file or folder.
pub(crate) fn others_can_write(metadata: &Metadata) -> bool {
    metadata.mode() & 0o022 != 0
}

/// Whether every user can read the file at `path`. `false` if it does not exist.
pub(crate) fn all_can_read(path: &Path) -> bool {
    let mode = |path: &Path| path.metadata().map_or(0, |metadata| metadata.mode());
    let folder =
        path.parent().map_or(0o001, |folder| mode(if folder == Path::new("") { Path::new(".") } else { folder }));
    mode(path) & 0o004 != 0 && folder & 0o001 != 0
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn a_folder_is_ours_if_only_we_and_root_can_write_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let ours = |mode: u32| {
            fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            is_ours(&folder.path().metadata().unwrap())
        };
        assert_eq!([0o700, 0o755, 0o750].map(ours), [true; 3]);
        assert_eq!([0o770, 0o702, 0o777, 0o1777].map(ours), [false; 4]);
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED in part: only root can give a folder to another user");
        }
        assert!(ours(0o700));
        chown(folder.path(), Some(65534), None).unwrap();
        assert!(!ours(0o700));
    }

    #[test]
    fn a_file_is_readable_by_all_if_its_folder_lets_them_in() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        assert!(!all_can_read(&file));
        fs::write(&file, "x").unwrap();
        for (of_folder, of_file, readable) in
            [(0o755, 0o644, true), (0o755, 0o640, false), (0o700, 0o644, false), (0o711, 0o604, true)]
        {
            fs::set_permissions(folder.path(), Permissions::from_mode(of_folder)).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(of_file)).unwrap();
            assert_eq!(all_can_read(&file), readable, "{of_folder:o} {of_file:o}");
        }
    }
}
