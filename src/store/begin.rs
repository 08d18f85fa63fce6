//! What happens once when a pipeline starts: it is registered or amended, its views are made, its fence is taken, and what
//! it goes on with is read; all in one transaction, so that nobody can write in between. A new revision changes nothing
//! yet but the fence: it begins with its first commit.

use std::fmt::Write;

use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::session::Session;
use super::{Admit, Beginning, Change, Checkpoint, Course, Definition, Registered, Revision, Snapshot, StoreError};

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
    let fence = session.take_fence(pipeline, stream)?;
    let checkpoint = session.checkpoint(pipeline)?;
    let registered = session.registered(pipeline)?;
    let course = admit(registered.as_ref(), &checkpoint).map_err(StoreError::Refused)?;
    let under_replay = session.under_replay(pipeline)?.cast_unsigned();
    let kept = session.kept(pipeline)?;
    let mut snapshot = Snapshot {
        fence,
        checkpoint,
        open: Vec::new(),
        revision: registered.as_ref().map_or(1, |registered| registered.revision),
        definition: definition.definition().clone(),
        added: registered.as_ref().map(|registered| registered.added.clone()).unwrap_or_default(),
        kept,
        revise: None,
        under_replay,
        firing: session.firing(pipeline)?,
    };
    match (course, registered) {
        (Course::Revise(beginning), Some(registered)) => revise(&mut snapshot, beginning, registered.revision),
        (course, registered) => go_on(session, definition, course, registered, &mut snapshot)?,
    }
    fail::fail_point!("fence-before-commit");
    session.commit()?;
    fail::fail_point!("fence-after-commit");
    Ok(snapshot)
}

/// The pipeline begins as if it were new; what is stored stays until its first commit.
fn revise(snapshot: &mut Snapshot, beginning: Beginning, revision: u64) {
    let kept_position = snapshot.checkpoint.position;
    let journal_id = snapshot.checkpoint.journal_id;
    snapshot.checkpoint = Checkpoint { journal_id, position: beginning.position, ..Checkpoint::default() };
    snapshot.revision = revision + 1;
    snapshot.added.clear();
    snapshot.kept = beginning.kept_upto.map(|upto| (upto, kept_position));
    snapshot.revise = Some(Revision { number: revision + 1, beginning, kept_position });
}

fn go_on(
    session: &mut impl Session,
    definition: &dyn Definition,
    course: Course,
    registered: Option<Registered>,
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    let pipeline = definition.pipeline();
    match (registered, course) {
        (None, _) => {
            let text = snapshot.definition.to_string();
            session.register(pipeline, &text, &hash(&text))?;
        }
        (Some(before), Course::Amend(now)) => {
            // Every window that has a row or a pane began before.
            let since = session.last_window_start(pipeline)?.map_or(i64::MIN, |last| last.saturating_add(1));
            for name in names(&now).filter(|name| !names(&before.definition).any(|other| other == *name)) {
                snapshot.added.insert(name.to_owned(), since);
            }
            let (text, added) = (now.to_string(), serde_json::json!(snapshot.added).to_string());
            session.amend(pipeline, &text, &hash(&text), &added)?;
            snapshot.definition = now;
        }
        (Some(before), course) => {
            snapshot.definition = before.definition;
            if let Course::Adopt { journal_id, position } = course {
                // Windows that reach back to here are not seen whole: by the next record it is decided which those are.
                let passed =
                    Checkpoint { journal_id, position, first_position: 0, first_ingest_time: 0, ..snapshot.checkpoint };
                session.save_checkpoint(pipeline, &passed)?;
                session.forget_letters(pipeline, position)?;
                session.recount_letters(pipeline)?;
                snapshot.checkpoint = passed;
            }
        }
    }
    if !pipeline.starts_with(INTAKE) {
        session.ensure_views(definition)?;
    }
    let kept_upto = snapshot.kept.map_or(i64::MIN, |(upto, _)| upto);
    let watermark = snapshot.checkpoint.watermark.unwrap_or(i64::MIN);
    let mut open: Vec<Change> = session.open_rows(pipeline, watermark.max(kept_upto))?;
    open.append(&mut session.panes(pipeline)?);
    snapshot.open = open;
    Ok(())
}

/// The first commit of a new revision: what it makes anew goes, and the definition is the new one.
pub(super) fn first_commit(
    session: &mut impl Session,
    definition: &dyn Definition,
    revision: Revision,
) -> Result<(), StoreError> {
    let pipeline = definition.pipeline();
    let text = definition.definition().to_string();
    session.revise(pipeline, &text, &hash(&text), revision)?;
    session.ensure_views(definition)?;
    session.recount_letters(pipeline)
}

/// The aggregates' names, in their order.
fn names(definition: &Json) -> impl Iterator<Item = &str> {
    definition["aggregates"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str())
}

fn hash(text: &str) -> String {
    hex(&Sha256::digest(text))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
