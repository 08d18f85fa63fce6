//! The line protocol: whatever the cuts, the same actions; each line of the input is in exactly one of them.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tidemill::input::{Action, Protocol, ProtocolConfig, ProtocolError};
use tidemill::limits::{CONTROL_LINE_BYTES_MAX, OVERLONG_LINE_KEPT_BYTES};

#[derive(Arbitrary, Debug)]
struct Connection<'a> {
    guarded: bool,
    clean: bool,
    max_line: u8,
    batch_max: u8,
    /// Bytes of one read after the other, over and over.
    reads: [u8; 6],
    input: &'a [u8],
}

fuzz_target!(|connection: Connection<'_>| {
    let tokens: &[&str] = if connection.guarded { &["right", "other"] } else { &[] };
    let config = ProtocolConfig {
        // Few are as long as control lines may be.
        max_line: (1 + usize::from(connection.max_line % 128)) * if connection.max_line < 128 { 1 } else { 64 },
        tokens: tokens.iter().collect(),
        batch_max: usize::from(connection.batch_max),
    };
    let input = connection.input;
    let whole = run(&config, [input].into_iter(), connection.clean);
    account(&config, input, connection.clean, &whole);
    assert_eq!(run(&config, input.chunks(1), connection.clean), whole, "byte by byte");
    let mut rest = input;
    let cut = connection.reads.iter().cycle().map_while(|read| {
        let (now, then) = rest.split_at(rest.len().min(usize::from(*read) + 1));
        rest = then;
        (!now.is_empty()).then_some(now)
    });
    assert_eq!(run(&config, cut, connection.clean), whole, "cut");
});

/// Adjacent lines as one: where batches are cut is nobody's business.
fn run<'a>(config: &ProtocolConfig, reads: impl Iterator<Item = &'a [u8]>, clean: bool) -> Vec<Action> {
    let mut protocol = Protocol::new(config.clone());
    let mut actions: Vec<Action> = Vec::new();
    let mut take = |action: Action| match (actions.last_mut(), action) {
        (Some(Action::Lines(before)), Action::Lines(lines)) => before.extend(lines),
        (_, action) => actions.push(action),
    };
    for (index, read) in reads.enumerate() {
        protocol.space().extend_from_slice(read);
        while let Some(action) = protocol.next() {
            if let Action::Lines(lines) = &action {
                let one = lines.iter().filter(|byte| **byte == b'\n').count() == 1;
                assert!(lines.ends_with(b"\n") && (one || lines.len() <= config.batch_max.max(1)));
            }
            take(action);
        }
        if index % 3 == 0 {
            protocol.release();
        }
        assert!(protocol.space().len() <= config.max_line.max(CONTROL_LINE_BYTES_MAX) + 1, "a torn line is bounded");
    }
    protocol.finish(clean).into_iter().for_each(take);
    assert_eq!(protocol.next(), None);
    assert_eq!(protocol.buffered(), 0, "a closed connection holds nothing");
    actions
}

/// Each line, in its order, is in the actions once, and nothing else is.
fn account(config: &ProtocolConfig, input: &[u8], clean: bool, actions: &[Action]) {
    let mut actions = actions.iter().cloned().peekable();
    let mut authorized = config.tokens.is_empty();
    let mut named = false;
    for (index, line) in input.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let torn = !line.ends_with(b"\n");
        let said = line.strip_suffix(b"\n").unwrap_or(line);
        let said = said.strip_suffix(b"\r").unwrap_or(said);
        if torn && (!clean || named) {
            // What cannot become right any more is answered before its end.
            let refused = ProtocolError::ControlTooLong;
            assert!(actions.all(|action| matches!(action, Action::Error(error) if error == refused || !authorized)));
            return;
        }
        if index == 0 && actions.next_if_eq(&Action::Error(ProtocolError::HttpRequest)).is_some() {
            assert!(said.windows(6).any(|piece| piece == b" HTTP/"));
            break;
        }
        if !authorized && said.trim_ascii().is_empty() && said.len() <= CONTROL_LINE_BYTES_MAX {
            continue;
        }
        if !authorized || said.starts_with(b"@") {
            match actions.next().expect("a control line is answered") {
                Action::Auth { ok: true } => authorized = true,
                Action::Auth { ok: false } => break,
                Action::Producer(name) => {
                    assert!(tidemill::event::is_producer_name(&name));
                    named = true;
                }
                Action::Error(error) if error.closes() => break,
                Action::Sync(_) | Action::Ping | Action::Error(_) => {}
                other => panic!("{other:?} of a control line"),
            }
        } else if said.len() > config.max_line {
            let head = said[..said.len().min(OVERLONG_LINE_KEPT_BYTES)].to_vec();
            assert_eq!(actions.next(), Some(Action::Overlong { head, len: said.len() as u64 }));
        } else {
            let Some(Action::Lines(lines)) = actions.peek_mut() else { panic!("{:?} of a line", actions.peek()) };
            let end = if torn { line.len() } else { line.len() - 1 };
            assert_eq!(lines.get(..end + 1), Some(&[&line[..end], b"\n"].concat()[..]));
            lines.drain(..end + 1);
            if lines.is_empty() {
                actions.next();
            }
        }
    }
    assert_eq!(actions.next(), None);
}
