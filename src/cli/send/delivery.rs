//! Brings lines to a stream: keeps what is not durable yet, and after a break goes on with what the server says it lacks.

use std::collections::VecDeque;
use std::io;
use std::ops::Add;
use std::time::Duration;

use crossbeam_channel::{Receiver, never, select};

use super::super::lines::{Chunk, InputError};
use super::connection::{Connection, hung_up};
use crate::cli::pace::Pace;
use crate::cli::table::escape;
use crate::input::Reply;

/// After so many bytes the server is asked whether they are durable,
const SYNC_BYTES: usize = 16 * 1024 * 1024;
/// and so long after the last time, if anything came since.
const SYNC_EVERY: Duration = Duration::from_millis(100);
/// Lines that are kept until they are durable; beyond this nothing more is sent.
const WINDOW_BYTES: usize = 64 * 1024 * 1024;
/// The first pause before the next attempt to connect, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Where lines go, and as whose.
pub(super) struct Target {
    pub(super) address: String,
    pub(super) token: Option<String>,
    pub(super) producer: Option<String>,
    /// How long to try without getting anywhere.
    pub(super) retry_for: Duration,
}

/// What became of the lines of one input.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Outcome {
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    /// Durable before this began.
    pub(super) skipped: u64,
    /// Durable, but the connection broke before the server said which of both.
    pub(super) unreported: u64,
}

impl Add for Outcome {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            accepted: self.accepted + other.accepted,
            rejected: self.rejected + other.rejected,
            skipped: self.skipped + other.skipped,
            unreported: self.unreported + other.unreported,
        }
    }
}

/// Why not all of it is durable.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeliveryError {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error("{address}: {reason}; {known}")]
    Lost { address: String, reason: String, known: String },
    #[error("{address} refused: {reason}; {known}")]
    Refused { address: String, reason: String, known: String },
    #[error(
        "the stream has {durable} lines of producer `{producer}`, yet this input has only {lines}: it is not the one that \
         was sent under this name; give it another with --producer NAME"
    )]
    OtherInput { producer: String, durable: u64, lines: u64 },
    #[error(
        "{address} now has {durable} lines of producer `{producer}`, yet {expected}: {why}; check the daemon's data_dir, \
         then send the whole input again"
    )]
    OtherStream { address: String, producer: String, durable: u64, expected: String, why: &'static str },
}

/// Why a connection ended before all was done.
enum Broken {
    /// It may work again.
    Lost(String),
    /// It would end the same way again.
    Refused(String),
    Failed(DeliveryError),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// One input on its way.
pub(super) struct Delivery<'a> {
    target: Target,
    input: Receiver<Result<Chunk, InputError>>,
    pace: &'a Pace,
    /// Lines after `durable`, in their order.
    window: VecDeque<Chunk>,
    window_bytes: usize,
    /// Lines read from the input.
    read: u64,
    /// Lines known to be durable; the window begins after them.
    durable: u64,
    /// Lines whose fate is in `outcome`.
    counted: u64,
    /// The server was heard once.
    greeted: bool,
    /// Since when the connection stands, or stood.
    up_since: Option<Duration>,
    input_ended: bool,
    outcome: Outcome,
}

/// What holds for one connection only.
struct Session {
    connection: Connection,
    /// Lines before its first.
    base: u64,
    /// The last line sent, and the window's chunk after it.
    sent: u64,
    cursor: usize,
    /// The last line that the server was asked about, and when; bytes since then.
    asked: u64,
    asked_at: Duration,
    unasked_bytes: usize,
    /// What it said last about its lines.
    counts: (u64, u64),
}

impl<'a> Delivery<'a> {
    /// Of this input to there.
    pub(super) fn new(target: Target, input: Receiver<Result<Chunk, InputError>>, pace: &'a Pace) -> Self {
        Self {
            target,
            input,
            pace,
            window: VecDeque::new(),
            window_bytes: 0,
            read: 0,
            durable: 0,
            counted: 0,
            greeted: false,
            up_since: None,
            input_ended: false,
            outcome: Outcome::default(),
        }
    }

    /// Until all is durable; tells how many lines are, now and then.
    pub(super) fn run(mut self, progress: &mut dyn FnMut(u64)) -> Result<Outcome, DeliveryError> {
        let mut pause = PAUSES.0;
        let mut since = self.pace.elapsed();
        loop {
            let before = self.durable;
            self.up_since = None;
            let reason = match self.session(progress) {
                Ok(()) => return Ok(self.outcome),
                Err(Broken::Failed(error)) => return Err(error),
                Err(Broken::Refused(reason)) => {
                    return Err(DeliveryError::Refused { address: self.address(), reason, known: self.known() });
                }
                Err(Broken::Lost(reason)) if self.greeted => reason,
                Err(Broken::Lost(reason)) => {
                    format!("{reason}; is the daemon running? start it with `tidemill run CONFIG`")
                }
            };
            let now = self.pace.elapsed();
            // A server that was there for a while, or took something, is worth waiting for anew.
            if self.durable > before || self.up_since.is_some_and(|up_since| now - up_since > PAUSES.1) {
                (since, pause) = (now, PAUSES.0);
            }
            if self.target.producer.is_none() || now - since + pause > self.target.retry_for {
                return Err(DeliveryError::Lost { address: self.address(), reason, known: self.known() });
            }
            log::warn!("{}: {}; trying again in {} ms", self.target.address, reason, pause.as_millis());
            self.pace.sleep(pause);
            pause = (2 * pause).min(PAUSES.1);
        }
    }

    fn address(&self) -> String {
        self.target.address.clone()
    }

    /// What can be said when it ends early.
    fn known(&self) -> String {
        if !self.greeted {
            return "nothing was sent".to_owned();
        }
        let durable = self.durable;
        match &self.target.producer {
            Some(name) => format!("{durable} lines are durable as producer `{name}`; run it again to go on from there"),
            None => format!(
                "at least the first {durable} lines are durable, those after may be or not; with --producer NAME it can go \
                 on by itself"
            ),
        }
    }

    /// One connection, from its greeting on.
    fn session(&mut self, progress: &mut dyn FnMut(u64)) -> Result<(), Broken> {
        let mut session = self.open()?;
        let ended = self.exchange(&mut session, progress).or_else(|broken| {
            // What the server said before it went tells more than how writing to it failed.
            match broken {
                Broken::Lost(reason) => {
                    let said = session.connection.last_words();
                    said.into_iter().try_for_each(|reply| self.hear(&mut session, reply))?;
                    Err(Broken::Lost(reason))
                }
                other => Err(other),
            }
        });
        self.outcome.accepted += session.counts.0;
        self.outcome.rejected += session.counts.1;
        self.counted = session.base + session.counts.0 + session.counts.1;
        ended
    }

    /// Says who this is; gives the lines that the server has of it.
    fn greet(&mut self, connection: &mut Connection) -> Result<u64, Broken> {
        if let Some(token) = &self.target.token {
            connection.write(format!("@auth {token}\n").as_bytes())?;
            expect(connection.answer()?, |reply| (*reply == Reply::Ok).then_some(()))?;
        }
        let Some(name) = self.target.producer.clone() else { return Ok(self.durable) };
        connection.write(format!("@producer {name}\n").as_bytes())?;
        let durable = expect(connection.answer()?, |reply| match reply {
            Reply::Resume(durable) => Some(*durable),
            _ => None,
        })?;
        self.resume(&name, durable)?;
        Ok(durable)
    }

    fn open(&mut self) -> Result<Session, Broken> {
        let mut connection = Connection::open(&self.target.address)?;
        let base = self.greet(&mut connection).or_else(|broken| {
            if matches!(broken, Broken::Lost(_)) {
                let any_but_errors = |reply: &Reply| (!matches!(reply, Reply::Error { .. })).then_some(());
                connection.last_words().into_iter().try_for_each(|reply| expect(reply, any_but_errors))?;
            }
            Err(broken)
        })?;
        self.greeted = true;
        self.up_since = Some(self.pace.elapsed());
        Ok(Session {
            connection,
            base,
            sent: base,
            cursor: 0,
            asked: base,
            asked_at: self.pace.elapsed(),
            unasked_bytes: 0,
            counts: (0, 0),
        })
    }

    /// The server has so many lines of this producer.
    fn resume(&mut self, producer: &str, durable: u64) -> Result<(), Broken> {
        let other = |expected: String, why| {
            let (address, producer) = (self.address(), producer.to_owned());
            Err(Broken::Failed(DeliveryError::OtherStream { address, producer, durable, expected, why }))
        };
        if durable < self.durable {
            return other(format!("{} were durable before", self.durable), "it has lost some, or is another daemon");
        }
        if !self.greeted {
            self.outcome.skipped = durable;
        } else if durable > self.read {
            return other(format!("only {} were sent", self.read), "somebody else sends under this name");
        } else {
            self.outcome.unreported += durable - self.counted;
        }
        self.forget(durable);
        Ok(())
    }

    /// Lets go of what is durable.
    fn forget(&mut self, durable: u64) -> usize {
        let mut chunks = 0;
        while self.durable < durable {
            let lines = durable - self.durable;
            match self.window.front_mut() {
                Some(chunk) if chunk.lines <= lines => {
                    self.durable += chunk.lines;
                    self.window_bytes -= chunk.bytes.len();
                    self.window.pop_front();
                    chunks += 1;
                }
                Some(chunk) => {
                    let before = chunk.bytes.len();
                    skip_lines(chunk, lines);
                    self.window_bytes -= before - chunk.bytes.len();
                    self.durable = durable;
                }
                // Not read yet: it is skipped when it comes.
                None => self.durable = durable,
            }
        }
        chunks
    }

    /// Sends, asks and hears until the input has ended and all of it is durable.
    fn exchange(&mut self, session: &mut Session, progress: &mut dyn FnMut(u64)) -> Result<(), Broken> {
        loop {
            while let Some(chunk) = self.window.get(session.cursor) {
                session.connection.write(&chunk.bytes)?;
                session.cursor += 1;
                session.sent += chunk.lines;
                session.unasked_bytes += chunk.bytes.len();
                self.ask_if_due(session)?;
                while let Ok(reply) = session.connection.replies.try_recv() {
                    self.hear(session, reply)?;
                }
                progress(self.durable);
            }
            if self.input_ended && self.window.is_empty() {
                return self.check_end();
            }
            self.ask_if_due(session)?;
            self.wait(session)?;
            progress(self.durable);
        }
    }

    fn ask_if_due(&self, session: &mut Session) -> Result<(), Broken> {
        let now = self.pace.elapsed();
        let all_sent = self.input_ended && session.cursor == self.window.len();
        let due = session.unasked_bytes >= SYNC_BYTES
            || now - session.asked_at >= SYNC_EVERY
            || self.window_bytes >= WINDOW_BYTES
            || all_sent;
        if due && session.asked < session.sent {
            session.connection.write(format!("@sync {}\n", session.sent).as_bytes())?;
            (session.asked, session.asked_at, session.unasked_bytes) = (session.sent, now, 0);
        }
        Ok(())
    }

    /// For more input, if there is room for it, for a reply, or until the server is to be asked.
    fn wait(&mut self, session: &mut Session) -> Result<(), Broken> {
        let closed_to_input = self.input_ended || self.window_bytes >= WINDOW_BYTES;
        let nothing = never();
        let input = if closed_to_input { &nothing } else { &self.input };
        select! {
            recv(session.connection.replies) -> reply => {
                let reply = reply.map_err(|_| hung_up())?;
                self.hear(session, reply)
            }
            recv(input) -> chunk => self.take(chunk.ok()),
            default(SYNC_EVERY) => Ok(()),
        }
    }

    fn take(&mut self, chunk: Option<Result<Chunk, InputError>>) -> Result<(), Broken> {
        let Some(chunk) = chunk else {
            self.input_ended = true;
            return Ok(());
        };
        let mut chunk = chunk.map_err(|error| Broken::Failed(error.into()))?;
        let durable = self.durable.saturating_sub(self.read).min(chunk.lines);
        self.read += chunk.lines;
        skip_lines(&mut chunk, durable);
        if chunk.lines > 0 {
            self.window_bytes += chunk.bytes.len();
            self.window.push_back(chunk);
        }
        Ok(())
    }

    fn hear(&mut self, session: &mut Session, reply: Reply) -> Result<(), Broken> {
        let (number, counts) = expect(reply, |reply| match reply {
            Reply::Synced { token: Some(token), accepted, rejected } => {
                token.parse::<u64>().ok().map(|number| (number, (*accepted, *rejected)))
            }
            _ => None,
        })?;
        let counted = counts.0.saturating_add(counts.1);
        if number < self.durable || number > session.asked || counted < number - session.base {
            return Err(Broken::Refused(format!(
                "it counts {} accepted and {} rejected lines of the {} before line {number}",
                counts.0,
                counts.1,
                number.saturating_sub(session.base)
            )));
        }
        // Counts that have gone on beyond the line are not known to be durable.
        if counted == number - session.base {
            session.counts = counts;
        }
        session.cursor -= self.forget(number);
        Ok(())
    }

    /// A server that has more lines than there are was sent others.
    fn check_end(&self) -> Result<(), Broken> {
        match &self.target.producer {
            Some(producer) if self.read < self.durable => Err(Broken::Failed(DeliveryError::OtherInput {
                producer: producer.clone(),
                durable: self.durable,
                lines: self.read,
            })),
            _ => Ok(()),
        }
    }
}

/// Takes the answer that must come now, or what went wrong instead.
fn expect<T>(reply: Reply, wanted: impl FnOnce(&Reply) -> Option<T>) -> Result<T, Broken> {
    if let Some(value) = wanted(&reply) {
        return Ok(value);
    }
    let Reply::Error { code, .. } = &reply else {
        return Err(Broken::Refused(format!("it answered `{}`, which does not fit", escape(&reply.to_string()))));
    };
    let reason = match code.as_ref() {
        "unauthorized" => "its token is another, or it wants one: --token or TIDEMILL_TOKEN".to_owned(),
        "producer_replaced" => "somebody else sends under this producer's name now".to_owned(),
        _ => escape(&reply.to_string()),
    };
    // Of these it is known that the next attempt ends the same way; two senders of one name would even take turns.
    match code.as_ref() {
        "unauthorized" | "producer_replaced" | "bad_producer" | "too_many_producers" | "unknown_command"
        | "http_request" => Err(Broken::Refused(reason)),
        _ => Err(Broken::Lost(reason)),
    }
}

/// Drops a chunk's first lines.
fn skip_lines(chunk: &mut Chunk, lines: u64) {
    if lines == 0 {
        return;
    }
    let last = usize::try_from(lines - 1).ok().and_then(|index| memchr::memchr_iter(b'\n', &chunk.bytes).nth(index));
    chunk.bytes.drain(..last.map_or(chunk.bytes.len(), |lf| lf + 1));
    chunk.lines -= lines;
}
