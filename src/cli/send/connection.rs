//! One TCP connection to a stream: lines out on the caller's thread, replies in on another, so that a server that holds
//! the lines back is still heard.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::input::Reply;

/// Replies that wait to be read; there are fewer, since each answers something that was sent.
const REPLIES_WAITING: usize = 1_024;
/// Bytes of a reply: the server's own are far shorter.
const REPLY_BYTES_MAX: u64 = 16 * 1024;
/// Who takes longer to let in is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Who takes longer to say its first word is no stream.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the last words of a server that hung up may take.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(2);

/// An open connection.
pub(super) struct Connection {
    socket: TcpStream,
    /// In the order in which the server said them; disconnected when it hung up.
    pub(super) replies: Receiver<Reply>,
}

impl Connection {
    /// Connects and listens.
    pub(super) fn open(address: &str) -> io::Result<Self> {
        let socket = connect(address)?;
        socket.set_nodelay(true)?;
        let heard = socket.try_clone()?;
        let (sender, replies) = crossbeam_channel::bounded(REPLIES_WAITING);
        std::thread::spawn(move || {
            let mut lines = BufReader::new(&heard);
            let mut line = Vec::new();
            while let Ok(1..) = (&mut lines).take(REPLY_BYTES_MAX).read_until(b'\n', &mut line) {
                // Half a line at the end of a connection says nothing.
                let Some(reply) = line.strip_suffix(b"\n").and_then(Reply::parse) else { break };
                if sender.send(reply).is_err() {
                    break;
                }
                line.clear();
            }
            // Whoever is writing to it shall not wait for one that has gone.
            let _ = heard.shutdown(Shutdown::Both);
        });
        Ok(Self { socket, replies })
    }

    /// Sends these bytes; waits as long as the server does not read.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// The answer to what was just sent, before anything else was.
    pub(super) fn answer(&self) -> io::Result<Reply> {
        self.replies.recv_timeout(GREETING_TIMEOUT).map_err(|error| match error {
            RecvTimeoutError::Timeout => io::Error::new(io::ErrorKind::TimedOut, "it did not answer within 30 s"),
            RecvTimeoutError::Disconnected => hung_up(),
        })
    }

    /// What the server said before it hung up, after a write failed.
    pub(super) fn last_words(&self) -> Vec<Reply> {
        let mut said = Vec::new();
        while let Ok(reply) = self.replies.recv_timeout(LAST_WORDS_TIMEOUT) {
            said.push(reply);
        }
        said
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The listening thread ends with the socket.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// The server closed the connection without a reason.
pub(super) fn hung_up() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the connection was closed, or what came over it was no reply of tidemill",
    )
}
