//! One process owns a `data_dir`.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::JournalError;

/// Makes the folder where it is missing and locks it against other processes, for as long as the file is kept.
///
/// # Errors
/// Where another process has it, or it cannot be written.
pub fn lock_dir(dir: &Path) -> Result<File, JournalError> {
    make_dir(dir)?;
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(JournalError::at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(JournalError::Io { path, source }),
    }
}

/// Makes a folder that only its owner may use, with all above it.
pub(super) fn make_dir(dir: &Path) -> Result<(), JournalError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(JournalError::at(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_and_has_one_owner_until_that_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let held = lock_dir(&path).unwrap();
        let error = lock_dir(&path).unwrap_err();
        assert!(matches!(error, JournalError::InUse { .. }));
        assert!(error.to_string().contains("in use by another process"));
        drop(held);
        lock_dir(&path).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = lock_dir(&file.join("data")).unwrap_err();
        assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    }
}
