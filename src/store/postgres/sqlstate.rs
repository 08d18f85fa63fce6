//! The SQLSTATE of the last error.
//!
//! Whether the store is away or refuses is told by it, and by nothing else: a message is in the server's language.
//! diesel-async (0.9) hands on the message alone, so the code is read from the server's bytes as they pass: an
//! ErrorResponse is the byte `E`, a length, and fields of which `C` is the code (PostgreSQL's documentation, "Message
//! Formats").

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::store::StoreError;

type Code = [u8; 5];

/// The classes that pass by themselves: connection, transaction state (read-only), rollback, resources, object not in
/// prerequisite state (a lock), operator intervention, system error.
const AWAY: [&[u8]; 7] = [b"08", b"25", b"40", b"53", b"55", b"57", b"58"];

/// Whether a code says that the store is away.
pub(super) fn away(code: &[u8]) -> bool {
    AWAY.iter().any(|class| code.starts_with(class))
}

/// The code of the last error on a connection.
#[derive(Clone, Default)]
pub(super) struct LastState(Arc<Mutex<Option<Code>>>);

impl LastState {
    /// A new job: what was before is not its fault.
    pub(super) fn clear(&self) {
        *self.0.lock() = None;
    }

    /// What an error is by its code.
    pub(super) fn judge(&self, error: StoreError) -> StoreError {
        let Some(code) = *self.0.lock() else { return error };
        let named = |message: String| format!("{message} (SQLSTATE {})", String::from_utf8_lossy(&code));
        match error {
            StoreError::Refused(message) | StoreError::Away(message) if away(&code) => StoreError::Away(named(message)),
            StoreError::Refused(message) => StoreError::Refused(named(message)),
            error => error,
        }
    }
}

/// Makes connections whose incoming bytes are read along.
#[derive(Clone)]
pub(super) struct Watch<T> {
    make: T,
    state: LastState,
}

impl<T> Watch<T> {
    /// What the connections are, beneath.
    pub(super) fn new(make: T, state: &LastState) -> Self {
        Self { make, state: state.clone() }
    }
}

/// Encrypts nothing.
#[derive(Clone, Copy)]
pub(super) struct Plain;

type Connecting<S> = Pin<Box<dyn Future<Output = io::Result<Watched<S>>> + Send>>;
type Tls = <MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect;
type TlsSocket = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

impl MakeTlsConnect<Socket> for Watch<MakeRustlsConnect> {
    type Stream = Watched<TlsSocket>;
    type TlsConnect = WatchTls;
    type Error = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<WatchTls, Self::Error> {
        let connect = MakeTlsConnect::<Socket>::make_tls_connect(&mut self.make, domain)?;
        Ok(WatchTls { connect, state: self.state.clone() })
    }
}

/// Makes one connection over TLS.
pub(super) struct WatchTls {
    connect: Tls,
    state: LastState,
}

impl TlsConnect<Socket> for WatchTls {
    type Stream = Watched<TlsSocket>;
    type Error = io::Error;
    type Future = Connecting<TlsSocket>;

    fn connect(self, stream: Socket) -> Self::Future {
        let Self { connect, state } = self;
        let connecting = connect.connect(stream);
        Box::pin(async move { Ok(Watched::new(connecting.await?, state, TlsStream::channel_binding)) })
    }
}

impl MakeTlsConnect<Socket> for Watch<Plain> {
    type Stream = Watched<Socket>;
    type TlsConnect = Self;
    type Error = io::Error;

    fn make_tls_connect(&mut self, _domain: &str) -> io::Result<Self> {
        Ok(self.clone())
    }
}

impl TlsConnect<Socket> for Watch<Plain> {
    type Stream = Watched<Socket>;
    type Error = io::Error;
    type Future = Connecting<Socket>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move { Ok(Watched::new(stream, self.state, |_| ChannelBinding::none())) })
    }
}

/// A stream that is read along.
pub(super) struct Watched<S> {
    stream: S,
    scanner: Scanner,
    binding: fn(&S) -> ChannelBinding,
}

impl<S> Watched<S> {
    fn new(stream: S, state: LastState, binding: fn(&S) -> ChannelBinding) -> Self {
        Self { stream, scanner: Scanner::new(state), binding }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buf);
        self.scanner.read(&buf.filled()[before..]);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Watched<S> {
    fn channel_binding(&self) -> ChannelBinding {
        (self.binding)(&self.stream)
    }
}

/// Bytes of a message's head: its kind, and its length with the four bytes of the length itself.
const HEAD_BYTES: usize = 5;
/// What is kept of an error: severity and code come first, long before a long message.
const ERROR_BYTES_MAX: usize = 4 * 1024;

/// Finds the errors among the server's messages, however they are cut.
struct Scanner {
    state: LastState,
    head: Vec<u8>,
    /// Bytes of the present message that are still to come.
    rest: usize,
    error: Vec<u8>,
}

impl Scanner {
    fn new(state: LastState) -> Self {
        Self { state, head: Vec::with_capacity(HEAD_BYTES), rest: 0, error: Vec::new() }
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.rest == 0 {
                let (taken, behind) = bytes.split_at(bytes.len().min(HEAD_BYTES - self.head.len()));
                self.head.extend_from_slice(taken);
                bytes = behind;
                if let [_, a, b, c, d] = self.head[..] {
                    self.rest = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
                }
            } else {
                let (taken, behind) = bytes.split_at(bytes.len().min(self.rest));
                if self.head[0] == b'E' {
                    let kept = taken.len().min(ERROR_BYTES_MAX.saturating_sub(self.error.len()));
                    self.error.extend_from_slice(&taken[..kept]);
                }
                self.rest -= taken.len();
                bytes = behind;
            }
            if self.rest == 0 && self.head.len() == HEAD_BYTES {
                self.end();
            }
        }
    }

    fn end(&mut self) {
        if self.head[0] == b'E' {
            let code = self.error.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"));
            if let Some(code) = code.and_then(|code| Code::try_from(code).ok()) {
                *self.state.0.lock() = Some(code);
            }
        }
        self.error.clear();
        self.head.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32 + 4).to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    #[test]
    fn an_error_is_found_however_the_bytes_are_cut() {
        let error = message(b'E', b"SERROR\0VERROR\0C57P01\0Mterminating connection\0\0");
        let noise = message(b'D', b"E\0\0\0\x10C42601\0");
        let all = [message(b'Z', b"I"), noise.clone(), message(b'S', b""), error, noise].concat();
        for size in 1..all.len() {
            let state = LastState::default();
            let mut scanner = Scanner::new(state.clone());
            all.chunks(size).for_each(|part| scanner.read(part));
            let judged = state.judge(StoreError::Refused("gone".to_owned()));
            assert_eq!(judged, StoreError::Away("gone (SQLSTATE 57P01)".to_owned()), "in pieces of {size}");
            state.clear();
            assert_eq!(state.judge(StoreError::GivenUp), StoreError::GivenUp);
        }
    }

    #[test]
    fn the_contracts_classes_are_away_and_all_others_refused() {
        for code in ["08006", "25006", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P03", "58030"] {
            assert!(away(code.as_bytes()), "{code}");
        }
        for code in ["22021", "23505", "28P01", "3D000", "42501", "42P01", "XX000", "0A000"] {
            assert!(!away(code.as_bytes()), "{code}");
        }
    }
}
