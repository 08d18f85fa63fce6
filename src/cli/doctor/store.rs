//! The store, and whether its checkpoints are those of the journals.

use super::Check;
use crate::config::{Config, StoreConfig};
use crate::event::PositionRange;
use crate::journal::{Inspection, Look};
use crate::pipeline::Missing;
use crate::store::{Kept, Standing, Store, StoreError};

/// Whether it answers, and how its tables stand; and its checkpoints.
pub(super) fn look(config: &StoreConfig) -> (Check, Vec<Kept>) {
    let url = &config.url;
    let examined = match Store::examine(url) {
        Ok(examined) => examined,
        Err(error) => {
            let next = match error {
                StoreError::Away(_) => "start the database, or look after the way there; the daemon waits for it",
                _ => "correct [store] url, or what the message names",
            };
            return (Check::failed("store", format!("{url}: {error}"), next), Vec::new());
        }
    };
    let check = match &examined.standing {
        Standing::Current => Check::ok("store", format!("{url} answers, its tables are this version's")),
        Standing::Newer(version) => {
            let says = format!("{url}: a newer tidemill made its tables (schema {version})");
            Check::failed("store", says, "run that version or a newer one, or name another store")
        }
        standing => {
            let tables = if *standing == Standing::Missing { "no tables yet" } else { "an older version's tables" };
            let says = format!("{url} has {tables}");
            if config.migrate {
                Check::ok("store", format!("{says}: the next start makes them"))
            } else {
                Check::failed("store", says, "`tidemill migrate CONFIG`, since `migrate = false`")
            }
        }
    };
    (check, examined.checkpoints)
}

/// Whether each pipeline of the config can go on where its checkpoint stands.
pub(super) fn compare(config: &Config, kept: &[Kept], journals: &[(&str, Option<Inspection>)]) -> Vec<Check> {
    let mut checks = Vec::new();
    for (stream, journal) in journals {
        let intake = format!("@{stream}");
        let ours = |kept: &&Kept| {
            let pipeline = || config.pipelines.iter().any(|pipeline| pipeline.name == kept.pipeline);
            kept.stream == *stream && kept.journal_id != 0 && (kept.pipeline == intake || pipeline())
        };
        let of_stream: Vec<&Kept> = kept.iter().filter(ours).collect();
        let wrong: Vec<Check> = of_stream.iter().filter_map(|kept| fault(kept, journal.as_ref())).collect();
        if wrong.is_empty() && !of_stream.is_empty() {
            let names: Vec<_> = of_stream.iter().map(|kept| format!("{} {}", kept.pipeline, kept.position)).collect();
            let says = format!("of this journal, which has all that follows them: {}", names.join(", "));
            checks.push(Check::ok(format!("checkpoints {stream}"), says));
        }
        checks.extend(wrong);
    }
    checks
}

fn fault(kept: &Kept, journal: Option<&Inspection>) -> Option<Check> {
    const FOREIGN: &str = "restore the data_dir that belongs to this store, or name another store";
    let (id, position) = (kept.journal_id, kept.position);
    // Of one whose identity nothing tells it is not known that it is another.
    let here = |journal: &Inspection| Look { id: journal.id.unwrap_or(id), first: journal.first, last: journal.upto };
    let (says, next) = match journal.map(here) {
        None => (
            format!("it is at position {position} of journal {id:016x}, but data_dir has no journal of its stream"),
            FOREIGN.to_owned(),
        ),
        Some(here) => match Missing::of(id, position, &here)? {
            Missing::Other { .. } => (
                format!("it is at position {position} of journal {id:016x}, but data_dir has journal {:016x}", here.id),
                FOREIGN.to_owned(),
            ),
            Missing::Older { last, .. } => {
                let missing = PositionRange { after: last, upto: position };
                let says = format!(
                    "it is at position {position}, but the journal ends at {last}: positions {missing} are missing"
                );
                (says, "restore the newer journal, or the store of the time of this one".to_owned())
            }
            Missing::Gap { first, .. } => {
                let missing = PositionRange { after: position, upto: first - 1 };
                let says = format!(
                    "it is at position {position}, but the journal begins at {first}: positions {missing} are missing"
                );
                let next = format!(
                    "restore them, or go on without: `tidemill pipeline skip {} --to {}` of a running daemon",
                    kept.pipeline, missing.upto
                );
                (says, next)
            }
        },
    };
    Some(Check::failed(format!("checkpoint {}", kept.pipeline), says, next))
}
