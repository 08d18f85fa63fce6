//! What a journal's files hold, block by block, without changing any: also while a daemon writes them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::block::{HEADER_BYTES, Header, Seal};
use super::recover::{read_up_to, seals};
use super::scan::Scan;
use super::segment::{Head, list, segment_path};
use super::tail::Tail;
use super::{Block, JournalError, Payload};
use crate::event::{Decoder, Format, Position, PositionRange};

/// Bytes of a file that are looked through at once.
const CHUNK_BYTES: usize = 1024 * 1024;
/// How often it is begun anew because segments were deleted meanwhile.
const ATTEMPTS: u32 = 5;

/// What a journal's files hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Its identity; `None` where nothing tells it.
    pub id: Option<u64>,
    /// How many segments there are.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The first position that it holds.
    pub first: Position,
    /// The last one.
    pub upto: Position,
    /// Whole blocks.
    pub blocks: u64,
    /// Producers whose numbers it knows.
    pub producers: usize,
    /// Ingest time of the last block, unix ms.
    pub last_ingest_time: Option<i64>,
    /// Whether it ends in a torn block, which the next start cuts off.
    pub torn: bool,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// Positions that an earlier repair has given up.
    pub lost: Vec<PositionRange>,
}

/// Damage, in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: &'static str,
    /// The positions that are gone with it.
    pub lost: Vec<PositionRange>,
    /// Whether the numbers of producers that sent nothing since are gone, too.
    pub producers_lost: bool,
}

/// Looks through the journal in a folder, whose lines are of this format; `None` where there is none. While a daemon runs, the end is as of some moment.
///
/// # Errors
/// Where files cannot be read, or are newer than this version.
pub fn inspect(dir: &Path, format: Format) -> Result<Option<Inspection>, JournalError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let surveyed = survey(dir, format);
        // A daemon that runs deletes old segments, or writes over their files, while they are read.
        let gone = match &surveyed {
            Err(JournalError::Io { source, .. }) => source.kind() == io::ErrorKind::NotFound,
            Ok(Some(survey)) => survey.fixes.iter().any(|fix| fix.exists && !fix.path.exists()),
            _ => false,
        };
        if !gone || attempts == ATTEMPTS {
            return Ok(surveyed?.map(|survey| survey.inspection));
        }
    }
}

/// A piece of a segment, in the order of positions.
pub(super) enum Piece {
    /// Whole blocks, as they stand in the file.
    Whole { at: u64, len: u64 },
    /// Records that are gone.
    Lost(Hole),
}

/// Records that are gone, and what is known of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hole {
    pub range: PositionRange,
    /// Lines that were events up to its end, since the stream began.
    pub events: u64,
    pub ingest_time: i64,
}

/// What makes a journal readable again, file by file.
pub(super) struct Fix {
    pub path: PathBuf,
    pub first: Position,
    pub previous: Position,
    pub seal: Seal,
    /// The head is good up to here; `None`: it is made anew, of what is known before the segment.
    pub head: Option<u64>,
    pub tail: Tail,
    pub pieces: Vec<Piece>,
    /// Whether there is a file.
    pub exists: bool,
}

pub(super) struct Survey {
    pub inspection: Inspection,
    /// One for each damaged or missing file.
    pub fixes: Vec<Fix>,
    /// Damage that nothing can be made of.
    pub hopeless: Option<PathBuf>,
}

/// A segment's head as far as it can be read.
struct Found {
    first: Position,
    path: PathBuf,
    /// `None`: damaged.
    head: Option<Head>,
    /// What the journal knew when it began; `None`: damaged.
    tail: Option<Tail>,
}

pub(super) fn survey(dir: &Path, format: Format) -> Result<Option<Survey>, JournalError> {
    let firsts = match list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        firsts => firsts.map_err(JournalError::at(dir))?,
    };
    if firsts.is_empty() {
        return Ok(None);
    }
    let found = firsts.iter().map(|first| find(dir, *first)).collect::<Result<Vec<_>, _>>()?;
    let id = found.iter().find_map(|found| found.head.as_ref()).map(|head| head.seal.journal);
    let inspection = Inspection { id, segments: found.len(), first: firsts[0], ..Inspection::default() };
    let mut surveyor = Surveyor {
        dir,
        format,
        survey: Survey { inspection, fixes: Vec::new(), hopeless: None },
        tail: Tail::default(),
        upto: firsts[0] - 1,
        previous: 0,
    };
    for (index, segment) in found.iter().enumerate() {
        surveyor.segment(segment, found.get(index + 1))?;
    }
    let Surveyor { mut survey, tail, upto, .. } = surveyor;
    survey.inspection.upto = upto;
    survey.inspection.producers = tail.producers.len();
    survey.inspection.last_ingest_time = tail.last_ingest_time;
    Ok(Some(survey))
}

fn find(dir: &Path, first: Position) -> Result<Found, JournalError> {
    let path = segment_path(dir, first);
    let file = File::open(&path).map_err(JournalError::at(&path))?;
    let read = |result: Result<_, JournalError>| match result {
        Err(JournalError::Damaged { .. }) => Ok(None),
        result => result.map(Some),
    };
    let head = read(Head::read(&file, &path, first))?;
    let tail = match &head {
        Some(head) => match head.tail(&file, &path) {
            Err(JournalError::Damaged { .. }) => None,
            tail => Some(tail?),
        },
        None => None,
    };
    Ok(Found { first, path, head, tail })
}

struct Surveyor<'a> {
    dir: &'a Path,
    format: Format,
    survey: Survey,
    /// As of the last block.
    tail: Tail,
    upto: Position,
    /// The first position of the segment before.
    previous: Position,
}

/// What a walk through one segment gives.
#[derive(Default)]
struct Walked {
    pieces: Vec<Piece>,
    holes: Vec<PositionRange>,
}

impl Surveyor<'_> {
    fn segment(&mut self, segment: &Found, next: Option<&Found>) -> Result<(), JournalError> {
        let bytes = std::fs::metadata(&segment.path).map_err(JournalError::at(&segment.path))?.len();
        self.survey.inspection.bytes += bytes;
        let before = self.tail.clone();
        let oldest = self.upto + 1 == self.survey.inspection.first && self.previous == 0;
        // Numbers that only the table had are lost with it, where no segment before knows them either.
        let producers_lost = segment.tail.is_none() && oldest;
        if let Some(tail) = &segment.tail {
            self.tail = tail.clone();
        }
        self.upto = segment.first - 1;
        let Some(mut scan) = self.open(segment)? else {
            self.give_up(segment, next, before);
            return Ok(());
        };
        if segment.head.is_none() && self.survey.inspection.id.is_none() {
            self.survey.inspection.id = Some(scan.head.seal.journal);
        }
        let (seal, blocks_at) = (scan.head.seal, scan.at());
        let mut walked = self.walk(&mut scan, next.is_none())?;
        self.torn(&mut scan, next.is_none())?;
        let ends = next.map(|next| self.ends(segment, next));
        if let Some(ends) = ends {
            self.lose(ends, next, &mut walked);
        }
        let head_at = segment.tail.is_some().then_some(blocks_at);
        if head_at.is_none() || !walked.holes.is_empty() {
            let what = match (&segment.head, head_at) {
                (None, _) => "its head is damaged",
                (_, None) => "its table of producers is damaged",
                _ => "blocks are damaged that had been fsynced",
            };
            let (path, first) = (segment.path.clone(), segment.first);
            let damage = Damage { path: path.clone(), what, lost: walked.holes, producers_lost };
            self.survey.inspection.damage.push(damage);
            let previous = segment.head.as_ref().map_or(self.previous, |head| head.previous);
            let (tail, pieces) = (before, walked.pieces);
            self.survey.fixes.push(Fix { path, first, previous, seal, head: head_at, tail, pieces, exists: true });
        }
        self.previous = segment.first;
        if let Some(next) = next {
            self.missing(next, seal.journal);
        }
        Ok(())
    }

    /// Where a segment's blocks can be read from.
    fn open(&self, segment: &Found) -> Result<Option<Scan>, JournalError> {
        if let Some(head) = &segment.head {
            return Scan::without_head(segment.path.clone(), head.clone(), head.blocks_at()).map(Some);
        }
        let found = first_block(&segment.path, segment.first, self.survey.inspection.id);
        let Some((at, seal)) = found.map_err(JournalError::at(&segment.path))? else { return Ok(None) };
        let head = Head::stand_in(seal, segment.first, self.previous);
        Scan::without_head(segment.path.clone(), head, at).map(Some)
    }

    /// Goes through all whole blocks; what is missing between them is lost, if it was fsynced.
    fn walk(&mut self, scan: &mut Scan, is_last: bool) -> Result<Walked, JournalError> {
        let mut walked = Walked::default();
        let mut jumped = false;
        loop {
            let at = scan.at();
            let block = self.fresh(scan)?.filter(|(header, _)| jumped || header.range.after == self.upto);
            let Some((header, own)) = block else {
                let Some(at) = later(scan, at, self.upto, is_last)? else { return Ok(walked) };
                scan.seek(at);
                jumped = true;
                continue;
            };
            jumped = false;
            if header.range.after > self.upto {
                let range = PositionRange { after: self.upto, upto: header.range.after };
                let events = header.events.saturating_sub(own).max(self.tail.events);
                walked.lose(Hole { range, events, ingest_time: header.ingest_time });
            }
            self.take(scan, &header, &mut walked)?;
        }
    }

    /// The block that stands here, if it can come next; and its own events, where something is missing before it.
    fn fresh(&self, scan: &mut Scan) -> Result<Option<(Header, u64)>, JournalError> {
        for attempt in 0..2 {
            if attempt > 0 {
                // A daemon may have written it since the bytes were read.
                scan.forget();
            }
            let upto = self.upto;
            if let Some((header, bytes)) = scan.peek()?
                && header.range.after >= upto
            {
                let own = if header.range.after > upto { events_of(&header.to_block(bytes), self.format) } else { 0 };
                return Ok(Some((header, own)));
            }
        }
        Ok(None)
    }

    fn take(&mut self, scan: &mut Scan, header: &Header, walked: &mut Walked) -> Result<(), JournalError> {
        let (at, len) = (scan.at(), header.block_bytes() as u64);
        if let Some((_, bytes)) = scan.peek()? {
            let origin = header.origin(bytes);
            let producer = origin.producer.as_ref().map(|name| (name, header.producer_number));
            self.tail.take(header.events, header.ingest_time, producer);
        }
        scan.skip(header);
        self.upto = header.range.upto;
        self.survey.inspection.blocks += 1;
        if header.is_lost() {
            self.survey.inspection.lost.push(header.range);
        }
        match walked.pieces.last_mut() {
            Some(Piece::Whole { at: from, len: length }) if *from + *length == at => *length += len,
            _ => walked.pieces.push(Piece::Whole { at, len }),
        }
        Ok(())
    }

    /// Whether the last segment ends in something that looks like a block and is none.
    fn torn(&mut self, scan: &mut Scan, is_last: bool) -> Result<(), JournalError> {
        if is_last {
            let rest = seals(&scan.file, scan.at(), scan.head.seal.salt).map_err(JournalError::at(&scan.path))?;
            self.survey.inspection.torn = !rest.is_empty();
        }
        Ok(())
    }

    /// The last position that a segment must have, by the head of the next; its own last one, where segments between the
    /// two are missing.
    fn ends(&self, segment: &Found, next: &Found) -> Position {
        let follows = next.head.as_ref().is_none_or(|head| head.previous == segment.first);
        if follows { next.first - 1 } else { self.upto }
    }

    /// The end of a segment is gone.
    fn lose(&mut self, ends: Position, next: Option<&Found>, walked: &mut Walked) {
        if ends <= self.upto {
            return;
        }
        let hole = self.hole(ends, next);
        self.upto = ends;
        (self.tail.events, self.tail.last_ingest_time) = (hole.events, Some(hole.ingest_time));
        walked.lose(hole);
    }

    /// What is missing up to there, of which the segment behind it may know more.
    fn hole(&self, upto: Position, next: Option<&Found>) -> Hole {
        let known = next.and_then(|next| next.tail.as_ref()).unwrap_or(&self.tail);
        let range = PositionRange { after: self.upto, upto };
        let ingest_time = known.last_ingest_time.or(self.tail.last_ingest_time).unwrap_or_default();
        Hole { range, events: known.events.max(self.tail.events), ingest_time }
    }

    /// Segments between this one and the next are not there: they hold what is missing.
    fn missing(&mut self, next: &Found, journal: u64) {
        let Some(head) = &next.head else { return };
        let begins = [Some(self.upto + 1), (head.previous > self.upto + 1).then_some(head.previous)];
        let begins: Vec<Position> = begins.into_iter().flatten().filter(|first| *first < next.first).collect();
        for (index, first) in begins.iter().enumerate() {
            let ends = begins.get(index + 1).map_or(next.first, |behind| *behind) - 1;
            let hole = self.hole(ends, Some(next));
            let path = segment_path(self.dir, *first);
            let (previous, tail) = (self.previous, self.tail.clone());
            let lost = vec![hole.range];
            let what = "it is missing";
            self.survey.inspection.damage.push(Damage { path: path.clone(), what, lost, producers_lost: false });
            let (seal, pieces) = (Seal { journal, salt: super::segment::random() }, vec![Piece::Lost(hole)]);
            let first = *first;
            self.survey.fixes.push(Fix { path, first, previous, seal, head: None, tail, pieces, exists: false });
            (self.upto, self.previous) = (ends, first);
        }
    }

    /// Neither head nor any block of a segment can be read.
    fn give_up(&mut self, segment: &Found, next: Option<&Found>, tail: Tail) {
        let ends = next.map_or(self.upto, |next| next.first - 1);
        let mut walked = Walked::default();
        self.lose(ends, next, &mut walked);
        let path = segment.path.clone();
        let (what, lost) = ("neither its head nor any of its blocks can be read", walked.holes);
        self.survey.inspection.damage.push(Damage {
            path: path.clone(),
            what,
            lost,
            producers_lost: tail == Tail::default(),
        });
        match self.survey.inspection.id {
            Some(journal) => {
                let (previous, seal) = (self.previous, Seal { journal, salt: super::segment::random() });
                let (first, pieces) = (segment.first, walked.pieces);
                self.survey.fixes.push(Fix { path, first, previous, seal, head: None, tail, pieces, exists: true });
            }
            None => self.survey.hopeless = Some(path),
        }
        self.previous = segment.first;
    }
}

impl Walked {
    fn lose(&mut self, hole: Hole) {
        self.holes.push(hole.range);
        self.pieces.push(Piece::Lost(hole));
    }
}

/// Where the next whole block stands that belongs behind `upto`. In the last segment only if one there says that what is
/// missing had been fsynced: else it is a torn end.
fn later(scan: &mut Scan, at: u64, upto: Position, is_last: bool) -> Result<Option<u64>, JournalError> {
    let mut first = None;
    for candidate in seals(&scan.file, at, scan.head.seal.salt).map_err(JournalError::at(&scan.path))? {
        scan.seek(candidate);
        let Some((header, _)) = scan.peek()?.filter(|(header, _)| header.range.after >= upto) else { continue };
        first = first.or(Some(candidate));
        if !is_last || header.synced > upto {
            return Ok(first);
        }
    }
    scan.seek(at);
    Ok(None)
}

/// Lines of a block that are events.
fn events_of(block: &Block, format: Format) -> u64 {
    let decoder = Decoder::of(format, std::sync::Arc::default());
    let decoded = match &block.payload {
        Payload::Lines(bytes) => decoder.decode(bytes.clone()),
        Payload::Body { lines, max_line } => {
            decoder.decode_within(lines.clone(), usize::try_from(*max_line).unwrap_or(usize::MAX))
        }
        Payload::Overlong { .. } | Payload::Replay { .. } | Payload::Tick { .. } | Payload::Lost => return 0,
    };
    (decoded.len() - decoded.bad.len()) as u64
}

/// The first whole block in a file whose head is damaged, and its seal. Of another journal, or from an earlier life of the
/// file, it is none.
fn first_block(path: &Path, first: Position, journal: Option<u64>) -> io::Result<Option<(u64, Seal)>> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut chunk = vec![0; CHUNK_BYTES + HEADER_BYTES];
    let mut at = 0;
    while at < len {
        let count = read_up_to(&file, &mut chunk, at)?;
        for offset in (0..count.min(CHUNK_BYTES)).step_by(8) {
            let header = chunk[offset..count].first_chunk().and_then(Header::unsealed);
            let Some((header, seal)) = header else { continue };
            let fits = header.range.after + 1 >= first && journal.is_none_or(|journal| journal == seal.journal);
            let place = at + offset as u64;
            if !fits || place.saturating_add(header.block_bytes() as u64) > len {
                continue;
            }
            let mut block = vec![0; header.block_bytes()];
            file.read_exact_at(&mut block, place)?;
            if header.intact(&block) {
                return Ok(Some((place, seal)));
            }
        }
        at += CHUNK_BYTES as u64;
    }
    Ok(None)
}
