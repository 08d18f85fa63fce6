//! What happens once when a pipeline starts: it is registered, its views are made, its fence is taken, and what it goes
//! on with is read; all in one transaction, so that nobody can write in between.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::session::Session;
use super::{Admit, Definition, Snapshot, StoreError};

/// How the names of intakes begin: they have no windows, hence no views.
pub(super) const INTAKE: char = '@';

/// Waits for a transaction of a predecessor that is still open, and makes all its later ones fail.
pub(super) fn begin(
    session: &mut impl Session,
    definition: &dyn Definition,
    stream: &str,
    admit: Admit,
) -> Result<Snapshot, StoreError> {
    let pipeline = definition.pipeline();
    session.begin()?;
    register(session, definition)?;
    if !pipeline.starts_with(INTAKE) {
        session.ensure_views(definition)?;
    }
    let fence = session.take_fence(pipeline, stream)?;
    let checkpoint = session.checkpoint(pipeline)?;
    admit(&checkpoint).map_err(StoreError::Refused)?;
    let mut open = session.open_rows(pipeline, checkpoint.watermark)?;
    open.append(&mut session.panes(pipeline)?);
    fail::fail_point!("fence-before-commit");
    session.commit()?;
    fail::fail_point!("fence-after-commit");
    Ok(Snapshot { fence, checkpoint, open })
}

fn register(session: &mut impl Session, definition: &dyn Definition) -> Result<(), StoreError> {
    let name = definition.pipeline();
    let text = definition.definition().to_string();
    let hash = hex(&Sha256::digest(&text));
    match session.definition_hash(name)? {
        Some(stored) if stored == hash => Ok(()),
        Some(_) => Err(StoreError::Refused(format!(
            "pipeline {name:?} is defined otherwise in this store; changing a pipeline is not available yet: use a \
             new name, or a new store"
        ))),
        None => session.register(name, &text, &hash),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
