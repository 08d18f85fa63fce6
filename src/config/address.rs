//! Where sockets listen.

use std::net::SocketAddr;
use std::ops::Range;

use super::reader::{Context, Setting};
use super::report::Mistake;

/// A socket of the config, and where it is named.
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    /// The setting, for messages.
    pub(super) path: String,
    /// `None` for a default.
    pub(super) span: Option<Range<usize>>,
}

/// Reads `ip:port`.
pub(super) fn read_address(setting: &Setting<'_>) -> Option<Listener> {
    const EXPECTED: &str = "an IP address with a port, such as \"127.0.0.1:7600\"";
    let text = setting.text(EXPECTED)?;
    match text.value.trim().parse() {
        Ok(address) => Some(Listener { address, path: setting.path.clone(), span: Some(text.span) }),
        Err(_) => {
            let message = format!("`{}` is no address to listen at: `{}`", setting.path, text.value);
            let help = "names are not looked up: for `localhost` write 127.0.0.1, for all interfaces 0.0.0.0";
            setting.context.note(Mistake::at(text.span, message).expected(EXPECTED).help(help));
            None
        }
    }
}

/// Finds sockets that want the same port; port 0 is a free one.
pub(super) fn check_clashes(context: &Context<'_>, listeners: &[Listener]) {
    for (index, later) in listeners.iter().enumerate() {
        let Some(earlier) = listeners[..index].iter().find(|earlier| clash(earlier.address, later.address)) else {
            continue;
        };
        let (at, other) = match (&later.span, &earlier.span) {
            (Some(span), _) => (span, earlier),
            (None, Some(span)) => (span, later),
            (None, None) => continue,
        };
        let default = if other.span.is_none() { " (its default)" } else { "" };
        let message = format!("port {} is already taken by `{}`{default}", later.address.port(), other.path);
        context.note(Mistake::at(at.clone(), message).expected("a port of its own"));
    }
}

fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    // [::] takes IPv4, too; 0.0.0.0 only its own kind.
    let all = |one: SocketAddr, other: SocketAddr| one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4());
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || all(a, b) || all(b, a))
}

#[cfg(test)]
mod tests {
    use super::clash;

    #[test]
    fn addresses_clash_where_the_kernel_would_refuse_the_second() {
        let clash = |a: &str, b: &str| clash(a.parse().unwrap(), b.parse().unwrap());
        assert!(clash("127.0.0.1:1", "127.0.0.1:1"));
        assert!(clash("0.0.0.0:1", "127.0.0.1:1"));
        assert!(clash("127.0.0.1:1", "[::]:1"));
        assert!(!clash("127.0.0.1:0", "127.0.0.1:0"));
        assert!(!clash("127.0.0.1:1", "127.0.0.1:2"));
        assert!(!clash("127.0.0.1:1", "127.0.0.2:1"));
        assert!(!clash("0.0.0.0:1", "[::1]:1"));
    }
}
