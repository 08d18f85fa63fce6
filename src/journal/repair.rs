//! Makes a damaged journal readable again: what is whole stays as it is, what is gone becomes a block that says so, and the
//! damaged file is kept beside it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::block::{HEADER_BYTES, encode_header};
use super::file::{PAGE, sync_dir};
use super::inspect::{Damage, Fix, Hole, Piece, survey};
use super::segment::NewSegment;
use super::{Block, JournalError, Payload};
use crate::event::{Format, Origin, PositionRange};

/// What a file is written as before it has its name; what an earlier attempt left of it is written over.
const UNFINISHED: &str = "repair.tmp";
/// Bytes that are copied at once.
const CHUNK_BYTES: u64 = 1024 * 1024;

/// A file that was repaired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// What was wrong with it, and what is lost.
    pub damage: Damage,
    /// Where the damaged file is kept; `None` where there was none.
    pub kept: Option<PathBuf>,
}

/// Repairs the journal in a folder, which no daemon may have open, and whose lines are of this format. All or nothing of each file, so that it can be done
/// again after a crash.
///
/// # Errors
/// Where files cannot be read or written, or nothing tells whose the blocks are.
pub fn repair(dir: &Path, format: Format) -> Result<Vec<Repaired>, JournalError> {
    let Some(survey) = survey(dir, format)? else { return Ok(Vec::new()) };
    if let Some(path) = survey.hopeless {
        return Err(JournalError::Hopeless { path });
    }
    let mut repaired = Vec::new();
    for (fix, damage) in survey.fixes.iter().zip(survey.inspection.damage) {
        let kept = replace(dir, fix).map_err(JournalError::at(&fix.path))?;
        repaired.push(Repaired { damage, kept });
    }
    Ok(repaired)
}

fn replace(dir: &Path, fix: &Fix) -> io::Result<Option<PathBuf>> {
    let unfinished = dir.join(UNFINISHED);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    write(dir, fix, &file)?;
    file.sync_all()?;
    let kept = fix.exists.then(|| keep(&fix.path)).transpose()?;
    fs::rename(&unfinished, &fix.path)?;
    sync_dir(dir)?;
    Ok(kept)
}

fn write(dir: &Path, fix: &Fix, mut file: &File) -> io::Result<()> {
    let old = fix.exists.then(|| File::open(&fix.path)).transpose()?;
    match (fix.head, &old) {
        (Some(len), Some(old)) => copy(old, 0, len, file)?,
        _ => {
            let (journal, first, previous, tail) = (fix.seal.journal, fix.first, fix.previous, &fix.tail);
            let (size, block, recycle) = (0, 0, false);
            let new = NewSegment { dir, journal, first, previous, tail, size, block, recycle };
            file.write_all(&new.encode(fix.seal))?;
        }
    }
    let mut header = Vec::with_capacity(HEADER_BYTES);
    for piece in &fix.pieces {
        match (piece, &old) {
            (Piece::Whole { at, len }, Some(old)) => copy(old, *at, *len, file)?,
            (Piece::Whole { .. }, None) => {}
            (Piece::Lost(hole), _) => {
                encode_header(&lost(hole), fix.seal, hole.range.after, &mut header);
                header.resize(header.len().next_multiple_of(8), 0);
                file.write_all(&header)?;
            }
        }
    }
    let len = file.metadata()?.len();
    file.set_len(len.next_multiple_of(PAGE as u64))
}

/// The block that stands for records that are gone.
fn lost(hole: &Hole) -> Block {
    let Hole { range: PositionRange { after, upto }, events, ingest_time } = *hole;
    Block {
        range: PositionRange { after, upto },
        ingest_time,
        events,
        origin: Origin::default(),
        producer_number: 0,
        payload: Payload::Lost,
    }
}

/// Whole blocks follow one another in multiples of 8 bytes, as in the file they come from.
fn copy(from: &File, mut at: u64, mut len: u64, mut to: &File) -> io::Result<()> {
    let mut chunk = vec![0; len.min(CHUNK_BYTES) as usize];
    while len > 0 {
        let count = len.min(CHUNK_BYTES) as usize;
        from.read_exact_at(&mut chunk[..count], at)?;
        to.write_all(&chunk[..count])?;
        at += count as u64;
        len -= count as u64;
    }
    Ok(())
}

/// Gives the damaged file a second name under which it stays; the one that an attempt before gave it, if that is there.
fn keep(path: &Path) -> io::Result<PathBuf> {
    let inode = fs::metadata(path)?.ino();
    for number in 1.. {
        let suffix = if number == 1 { ".damaged".to_owned() } else { format!(".damaged.{number}") };
        let mut kept = path.as_os_str().to_owned();
        kept.push(suffix);
        let kept = PathBuf::from(kept);
        match fs::metadata(&kept) {
            Ok(there) if there.ino() == inode => return Ok(kept),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::hard_link(path, &kept)?;
                return Ok(kept);
            }
            Err(error) => return Err(error),
        }
    }
    unreachable!("there is always a number that is free")
}
