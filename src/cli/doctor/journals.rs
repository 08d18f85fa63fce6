//! The journals, block by block.

use std::path::Path;

use serde_json::{Value, json};

use super::owner::Owner;
use super::{Check, Verdict};
use crate::event::{Format, PositionRange};
use crate::journal::{Damage, Inspection, JournalError, inspect, repair};
use crate::store::Kept;
use crate::units::format_size;

/// Looks through a stream's journal, and repairs it where that is asked for and needed. What it is then.
pub(super) fn look(
    (stream, format): (&str, Format),
    dir: &Path,
    owner: &Owner,
    may_repair: bool,
    kept: &[Kept],
) -> (Option<Inspection>, Vec<Check>) {
    let name = format!("journal {stream}");
    let found = match inspect(dir, format) {
        Ok(Some(found)) => found,
        Ok(None) => return (None, vec![Check::ok(name, "not there yet: the first start makes it")]),
        Err(error) => return (None, vec![unreadable(&name, &error)]),
    };
    let mut checks = Vec::new();
    if found.damage.is_empty() {
        checks.push(whole(&name, &found));
        return (Some(found), checks);
    }
    if !may_repair || !matches!(owner, Owner::Doctor(_)) {
        let next = match owner {
            Owner::Daemon => "stop the daemon, then `tidemill doctor CONFIG --repair`",
            _ => "`tidemill doctor CONFIG --repair` gives up what is lost, keeps the damaged file, and mends the rest",
        };
        checks.extend(found.damage.iter().map(|damage| {
            let says = format!("{}{}", said(damage), readers(stream, damage, kept));
            Check::failed(&name, says, next).with_details(details(&found))
        }));
        return (Some(found), checks);
    }
    let repaired = match repair(dir, format) {
        Ok(repaired) => repaired,
        Err(error) => return (Some(found), vec![unreadable(&name, &error)]),
    };
    for repaired in repaired {
        let damage = &repaired.damage;
        let kept_as = repaired.kept.map(|kept| format!("; the damaged file is kept as {}", kept.display()));
        let says =
            format!("repaired: {}{}{}", said(damage), readers(stream, damage, kept), kept_as.unwrap_or_default());
        log::warn!("{name}: {says}");
        checks.push(Check::warning(&name, says, "start the daemon"));
    }
    match inspect(dir, format) {
        Ok(Some(found)) => {
            checks.push(whole(&name, &found));
            (Some(found), checks)
        }
        Ok(None) => (None, checks),
        Err(error) => {
            checks.push(unreadable(&name, &error));
            (None, checks)
        }
    }
}

fn unreadable(name: &str, error: &JournalError) -> Check {
    let next = match error {
        JournalError::Newer { .. } => "run the version that made it, or a newer one",
        JournalError::Hopeless { .. } => "restore the file from a backup",
        _ => "look after the disk and the files' owner",
    };
    Check::failed(name, error.to_string(), next)
}

fn whole(name: &str, found: &Inspection) -> Check {
    let mut says = format!(
        "{}: {} blocks in {} segments, {}, all whole; {} producers",
        if found.upto < found.first { "no record".to_owned() } else { format!("positions {}", all(found)) },
        found.blocks,
        found.segments,
        format_size(found.bytes),
        found.producers
    );
    if found.torn {
        says.push_str("; a torn end, as a crash leaves it, which the next start cuts off");
    }
    if !found.lost.is_empty() {
        says.push_str(&format!("; given up by a repair: {}", ranges(&found.lost)));
    }
    Check::new(name, Verdict::Ok, says).with_details(details(found))
}

fn all(found: &Inspection) -> PositionRange {
    PositionRange { after: found.first - 1, upto: found.upto }
}

fn said(damage: &Damage) -> String {
    let mut says = format!("{}: {}", damage.path.display(), damage.what);
    if damage.lost.is_empty() {
        says.push_str("; no position is lost");
    } else {
        says.push_str(&format!("; positions {} are lost", ranges(&damage.lost)));
    }
    if damage.producers_lost {
        says.push_str(
            "; so are the numbers of producers that have sent nothing since: told 0, they send again what they still have",
        );
    }
    says
}

/// Whose rows will lack what is lost.
fn readers(stream: &str, damage: &Damage, kept: &[Kept]) -> String {
    let Some(last) = damage.lost.last() else { return String::new() };
    let behind: Vec<&str> = kept
        .iter()
        .filter(|kept| kept.stream == stream && kept.position < last.upto)
        .map(|kept| kept.pipeline.as_str())
        .collect();
    match behind.as_slice() {
        [] => " (behind every checkpoint in the store: no row lacks them)".to_owned(),
        behind => format!(" (not, or not all, in the rows of {} yet)", behind.join(", ")),
    }
}

fn ranges(ranges: &[PositionRange]) -> String {
    let shown: Vec<_> = ranges.iter().map(ToString::to_string).collect();
    shown.join(", ")
}

fn details(found: &Inspection) -> Value {
    let pairs = |ranges: &[PositionRange]| -> Vec<Value> {
        ranges.iter().map(|range| json!([range.after + 1, range.upto])).collect()
    };
    let damage: Vec<Value> = found
        .damage
        .iter()
        .map(|damage| json!({ "file": damage.path, "what": damage.what, "lost": pairs(&damage.lost) }))
        .collect();
    json!({
        "journal_id": found.id.map(|id| format!("{id:016x}")),
        "first": found.first,
        "last": found.upto,
        "blocks": found.blocks,
        "segments": found.segments,
        "bytes": found.bytes,
        "producers": found.producers,
        "torn": found.torn,
        "given_up": pairs(&found.lost),
        "damage": damage,
    })
}
