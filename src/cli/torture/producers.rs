//! Those who send: by the line protocol, and by POSTs. What the daemon said is durable, each remembers; what it says
//! later must fit to it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Trouble;
use super::daemon::Daemon;
use super::lines::{Lines, Producer, Way};
use crate::cli::pace::Pace;
use crate::clock::Clock;
use crate::input::Reply;

/// Lines that are sent at once at most, …
const CHUNK_LINES: u64 = 60;
/// … and the longest pause after them: so that a round's lines are still on their way when its kill comes.
const PAUSE_MS: u64 = 25;
/// So long a socket waits before it is seen whether the round is over.
const LOOK: Duration = Duration::from_millis(50);
const POST_TIMEOUT: Duration = Duration::from_secs(10);

/// One of them.
pub(super) struct Sender {
    pub(super) producer: &'static Producer,
    lines: Lines,
    /// The daemon said that so many are durable.
    durable: u64,
    /// So many were sent at least once.
    sent: u64,
    random: fastrand::Rng,
}

/// Why a sender stops before it has sent all.
enum Stop {
    /// The daemon is gone, or is about to be.
    Over,
    /// What it said cannot be.
    Broken(String),
}

impl From<std::io::Error> for Stop {
    fn from(_: std::io::Error) -> Self {
        Self::Over
    }
}

impl Sender {
    pub(super) fn new(producer: &'static Producer, lines: Lines) -> Self {
        let random = fastrand::Rng::with_seed(lines.seed ^ producer.name.len() as u64);
        Self { producer, lines, durable: 0, sent: 0, random }
    }

    /// Sends all lines up to a number, until they are durable or the round is over; whether they are.
    pub(super) fn send(&mut self, to: &Address, upto: u64, over: &AtomicBool, hurry: bool) -> Result<bool, Trouble> {
        let Ok(pace) = Pace::new(Clock::system()) else { return Ok(false) };
        while self.durable < upto && !over.load(Ordering::Relaxed) {
            let sent = match self.producer.way {
                Way::Tcp => self.by_tcp(&to.tcp, upto, over, &pace, hurry),
                Way::Http => self.by_http(&to.http, upto, &pace, hurry),
            };
            match sent {
                Ok(()) => {}
                Err(Stop::Over) => pace.sleep(Duration::from_millis(5)),
                Err(Stop::Broken(why)) => {
                    return Err(Trouble::Broken(format!("{}: {why}", self.producer.name)));
                }
            }
        }
        Ok(self.durable >= upto)
    }

    /// The daemon says how many lines it has.
    fn hear(&mut self, number: u64, how: &str) -> Result<(), Stop> {
        if number < self.durable {
            return Err(Stop::Broken(format!(
                "{how} that {number} lines are durable, after {} were acknowledged: lines are lost",
                self.durable
            )));
        }
        if number > self.sent {
            return Err(Stop::Broken(format!("{how} that it has {number} lines, yet only {} were sent", self.sent)));
        }
        self.durable = number;
        Ok(())
    }

    /// One connection.
    fn by_tcp(&mut self, to: &str, upto: u64, over: &AtomicBool, pace: &Pace, hurry: bool) -> Result<(), Stop> {
        let mut wire = Wire::open(to, over)?;
        wire.write(format!("@producer {}\n", self.producer.name).as_bytes())?;
        let Reply::Resume(number) = wire.reply()? else { return Err(Stop::Over) };
        self.hear(number, "`@producer` says")?;
        let (mut at, base) = (self.durable, self.durable);
        while at < upto {
            let chunk = self.random.u64(1..=if hurry { 20 * CHUNK_LINES } else { CHUNK_LINES }).min(upto - at);
            let mut bytes = self.chunk(at + 1, chunk);
            self.sent = self.sent.max(at + chunk);
            at += chunk;
            if self.random.u32(0..20) == 0 {
                // Hangs up within a line, which must not count.
                let kept = bytes.len() - self.random.usize(1..20);
                bytes.truncate(kept);
                return wire.write(&bytes);
            }
            wire.write(&bytes)?;
            // Not always: what was not asked for is durable all the same, or not.
            if at == upto || self.random.u32(0..3) > 0 {
                wire.write(b"@sync\n")?;
                let Reply::Synced { accepted, rejected, .. } = wire.reply()? else { return Err(Stop::Over) };
                let number = base + accepted + rejected;
                if number != at {
                    return Err(Stop::Broken(format!("`@synced` counts {number} lines where {at} were sent")));
                }
                self.hear(number, "`@synced` says")?;
            }
            if !hurry {
                pace.sleep(Duration::from_millis(self.random.u64(0..PAUSE_MS)));
            }
        }
        Ok(())
    }

    /// One body, as often as it takes.
    fn by_http(&mut self, to: &str, upto: u64, pace: &Pace, hurry: bool) -> Result<(), Stop> {
        let first = self.durable + 1;
        let count = self.random.u64(1..=2 * CHUNK_LINES).min(upto - self.durable);
        let body = self.chunk(first, count);
        self.sent = self.sent.max(self.durable + count);
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(POST_TIMEOUT))
            .proxy(None)
            .build()
            .into();
        let request = agent.post(to).header("Tidemill-Producer", self.producer.name);
        let answer = request.header("Tidemill-From", first.to_string()).send(&body[..]);
        let mut answer = answer.map_err(|_| Stop::Over)?;
        match answer.status().as_u16() {
            202 => self.hear(self.durable + count, "202 says")?,
            429 | 503 => return Err(Stop::Over),
            status => {
                let said = answer.body_mut().read_to_string().unwrap_or_default();
                return Err(Stop::Broken(format!("a body from line {first} on was answered with {status}: {said}")));
            }
        }
        if !hurry {
            pace.sleep(Duration::from_millis(self.random.u64(0..4 * PAUSE_MS)));
        }
        Ok(())
    }

    fn chunk(&self, first: u64, count: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in first..first + count {
            bytes.extend_from_slice(self.lines.text(self.producer, number).as_bytes());
            bytes.push(b'\n');
        }
        bytes
    }
}

/// Where a sender's stream is taken.
pub(super) struct Address {
    tcp: String,
    http: String,
}

impl Address {
    pub(super) fn of(daemon: &Daemon, producer: &Producer) -> Self {
        let http = format!("http://{}/api/v1/streams/{}/events", daemon.http(), producer.stream);
        Self { tcp: daemon.tcp(producer.stream), http }
    }
}

/// A connection that gives up when the round is over, whatever the daemon does.
struct Wire<'a> {
    socket: TcpStream,
    over: &'a AtomicBool,
}

impl<'a> Wire<'a> {
    fn open(to: &str, over: &'a AtomicBool) -> Result<Self, Stop> {
        let socket = TcpStream::connect(to)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(LOOK))?;
        socket.set_write_timeout(Some(LOOK))?;
        Ok(Self { socket, over })
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(0) => return Err(Stop::Over),
                Ok(count) => bytes = &bytes[count..],
                Err(error) => self.look(&error)?,
            }
        }
        Ok(())
    }

    /// The next line, byte by byte: there are few.
    fn reply(&mut self) -> Result<Reply, Stop> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            match self.socket.read(&mut byte) {
                Ok(0) => return Err(Stop::Over),
                Ok(_) if byte == [b'\n'] => return Reply::parse(&line).ok_or(Stop::Over),
                Ok(_) => line.push(byte[0]),
                Err(error) => self.look(&error)?,
            }
        }
    }

    fn look(&self, error: &std::io::Error) -> Result<(), Stop> {
        let waited = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted);
        if waited && !self.over.load(Ordering::Relaxed) { Ok(()) } else { Err(Stop::Over) }
    }
}
