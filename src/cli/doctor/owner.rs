//! Whether a daemon has the `data_dir`.

use std::fs::File;
use std::path::Path;

use super::Check;
use crate::journal::{JournalError, lock_dir};

/// Who has the `data_dir`.
pub(super) enum Owner {
    /// Nobody had; the doctor has, as long as this is kept.
    Doctor(#[expect(dead_code, reason = "locked as long as it lives")] File),
    /// A daemon that runs.
    Daemon,
    /// Nobody can: it is not there, or cannot be written.
    Nobody,
}

impl Owner {
    /// Asks the lock; a folder that is not there is not made.
    pub(super) fn of(data_dir: &Path) -> (Self, Check) {
        let shown = data_dir.display();
        if !data_dir.exists() {
            return (
                Self::Nobody,
                Check::ok("data_dir", format!("{shown} is not there yet: the first start makes it")),
            );
        }
        match lock_dir(data_dir) {
            Ok(lock) => (Self::Doctor(lock), Check::ok("data_dir", format!("{shown}: no daemon runs on it"))),
            Err(JournalError::InUse { .. }) => {
                let says = format!("{shown}: a daemon runs on it; it is only looked at, its end as of some moment");
                (Self::Daemon, Check::ok("data_dir", says))
            }
            Err(error) => {
                let next = "give the daemon's user the right to write it";
                (Self::Nobody, Check::failed("data_dir", error.to_string(), next))
            }
        }
    }
}
