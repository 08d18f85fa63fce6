use proptest::prelude::*;

use super::*;

fn config(max_line: usize, tokens: &[&str], batch_max: usize) -> ProtocolConfig {
    ProtocolConfig { max_line, tokens: tokens.iter().collect(), batch_max }
}

/// Adjacent lines as one: where batches are cut is nobody's business.
fn joined(actions: Vec<Action>) -> Vec<Action> {
    let mut all: Vec<Action> = Vec::new();
    for action in actions {
        match (all.last_mut(), action) {
            (Some(Action::Lines(before)), Action::Lines(lines)) => before.extend(lines),
            (_, action) => all.push(action),
        }
    }
    all
}

fn run(config: ProtocolConfig, chunks: &[&[u8]], clean: bool) -> Vec<Action> {
    let mut protocol = Protocol::new(config.clone());
    let mut actions = Vec::new();
    for chunk in chunks {
        protocol.space().extend_from_slice(chunk);
        while let Some(action) = protocol.next() {
            if let Action::Lines(lines) = &action {
                let one_long_line = lines.iter().filter(|byte| **byte == b'\n').count() == 1;
                assert!(lines.len() <= config.batch_max || one_long_line, "a batch of {} bytes", lines.len());
            }
            actions.push(action);
        }
        let torn_max = config.max_line.max(CONTROL_LINE_BYTES_MAX) + 1;
        let torn = protocol.space().len();
        assert!(torn <= torn_max, "{torn} bytes of a torn line");
    }
    actions.extend(protocol.finish(clean));
    assert_eq!(protocol.next(), None);
    joined(actions)
}

/// The contract once more, line by line and slowly.
fn model(config: &ProtocolConfig, input: &[u8], clean: bool) -> Vec<Action> {
    let (mut actions, mut authorized, mut named) = (Vec::new(), config.tokens.is_empty(), false);
    for (index, line) in input.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if !line.ends_with(b"\n") && (!clean || named) {
            // Of a torn line only what cannot become right any more is answered.
            let torn = line.len() > CONTROL_LINE_BYTES_MAX + usize::from(line.ends_with(b"\r"));
            match (authorized, line[0] == b'@') {
                (false, _) if torn => actions.push(Action::Error(ProtocolError::Unauthorized)),
                (true, true) if torn => actions.push(Action::Error(ProtocolError::ControlTooLong)),
                _ => {}
            }
            break;
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let longest = if authorized { config.max_line } else { CONTROL_LINE_BYTES_MAX };
        let said = if line.len() > CONTROL_LINE_BYTES_MAX { None } else { Some(control::parse(line)) };
        if index == 0 && line.len() <= longest && control::is_http_request(line) {
            actions.push(Action::Error(ProtocolError::HttpRequest));
            break;
        } else if let Some(Ok(Control::Auth(token))) = said {
            let ok = config.tokens.is_empty() || config.tokens.hold(token);
            actions.push(Action::Auth { ok });
            authorized |= ok;
            if !ok {
                break;
            }
        } else if !authorized {
            if line.len() <= longest && line.trim_ascii().is_empty() {
                continue;
            }
            actions.push(Action::Error(ProtocolError::Unauthorized));
            break;
        } else if line.starts_with(b"@") {
            actions.push(match said {
                None => Action::Error(ProtocolError::ControlTooLong),
                Some(Err(error)) => Action::Error(error),
                Some(Ok(Control::Producer(name))) => Action::Producer(name.to_owned()),
                Some(Ok(Control::Sync(token))) => Action::Sync(token.map(str::to_owned)),
                Some(Ok(_)) => Action::Ping,
            });
            named |= matches!(actions.last(), Some(Action::Producer(_)));
        } else if line.len() > config.max_line {
            let head = line[..line.len().min(OVERLONG_LINE_KEPT_BYTES)].to_vec();
            actions.push(Action::Overlong { head, len: line.len() as u64 });
        } else {
            // The line with the end that it came with; one without got its LF.
            let start = line.as_ptr() as usize - input.as_ptr() as usize;
            let cr = input[start + line.len()..].starts_with(b"\r");
            actions.push(Action::Lines([line, if cr { b"\r\n" } else { b"\n" }].concat()));
        }
    }
    joined(actions)
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let long = |byte: u8| prop::collection::vec(Just(byte), 4_090..4_102);
    prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..40),
        8 => "[a-z@\r ]{0,24}".prop_map(String::into_bytes),
        4 => prop::sample::select(vec![
            "", "\r", "@ping", "@sync", "@sync 12", "@sync a b", "@producer a", "@producer ü", "@auth right", "@auth wrong",
            "@", "@what", "GET / HTTP/1.1", "G", " @ping",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => long(b'x'),
        1 => long(b'@'),
        1 => long(b' '),
    ]
}

fn input() -> impl Strategy<Value = Vec<u8>> {
    let end = prop::sample::select(vec!["\n", "\n", "\r\n", "\r\r\n"]);
    let opening = prop::sample::select(vec!["", "", "@auth right\n", "\n@auth right\n", "GET / HTTP/1.1\r\n"]);
    (opening, prop::collection::vec((line(), end), 0..12), line()).prop_map(|(opening, lines, torn)| {
        let mut input = opening.as_bytes().to_vec();
        for (line, end) in lines {
            input.extend(line);
            input.extend(end.as_bytes());
        }
        input.extend(torn);
        input
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_cut_gives_what_the_contract_says(
        input in input(),
        max_line in prop_oneof![1usize..30, 4_000usize..4_200],
        batch_max in 1usize..200,
        guarded in any::<bool>(),
        clean in any::<bool>(),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        each_byte in prop::bool::weighted(0.2),
    ) {
        let config = config(max_line, if guarded { &["other", "right"] } else { &[] }, batch_max);
        let expected = model(&config, &input, clean);
        prop_assert_eq!(&run(config.clone(), &[&input], clean), &expected);

        let chunks: Vec<&[u8]> = if each_byte {
            input.chunks(1).collect()
        } else {
            let mut at: Vec<usize> = cuts.drain(..).map(|cut| cut.index(input.len() + 1)).collect();
            at.extend([0, input.len()]);
            at.sort_unstable();
            at.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect()
        };
        prop_assert_eq!(&run(config, &chunks, clean), &expected);
    }
}

#[test]
fn the_buffer_that_was_read_into_is_the_one_given_out() {
    let mut protocol = Protocol::new(config(1 << 20, &[], 4_096));
    let space = protocol.space();
    let address = space.as_ptr();
    assert!(space.capacity() >= 4_096);
    space.extend_from_slice(&b"a line of sixteen".repeat(200)[..3_000]);
    space.extend_from_slice(b"\ntorn");
    let Some(Action::Lines(lines)) = protocol.next() else { panic!("no lines") };
    assert_eq!((lines.as_ptr(), lines.len()), (address, 3_001));
    assert_eq!(protocol.next(), None);
    assert!(protocol.line_begun());
    protocol.space().extend_from_slice(b" line\n");
    assert_eq!(protocol.next(), Some(Action::Lines(b"torn line\n".to_vec())));
    assert!(!protocol.line_begun());
}

#[test]
fn few_lines_do_not_take_a_great_buffer_with_them() {
    let mut protocol = Protocol::new(config(1 << 20, &[], 256 * 1024));
    protocol.space().extend_from_slice(b"{}\n");
    let Some(Action::Lines(lines)) = protocol.next() else { panic!("no lines") };
    assert!(lines.capacity() < 64, "{} bytes for three", lines.capacity());
    assert_eq!(protocol.next(), None);
    assert_eq!(protocol.buffered(), 256 * 1024);
    protocol.release();
    assert_eq!(protocol.buffered(), 0);
}

#[test]
fn a_long_line_grows_the_buffer_and_an_overlong_one_does_not() {
    let mut protocol = Protocol::new(config(100_000, &[], 1_000));
    let mut greatest = 0;
    let mut feed = |protocol: &mut Protocol, bytes: usize| {
        for _ in 0..bytes / 500 {
            protocol.space().extend_from_slice(&[b'x'; 500]);
            assert_eq!(protocol.next(), None);
            greatest = greatest.max(protocol.buffered());
        }
    };
    feed(&mut protocol, 90_000);
    protocol.space().extend_from_slice(b"\n");
    assert_eq!(protocol.next(), Some(Action::Lines([vec![b'x'; 90_000], vec![b'\n']].concat())));
    feed(&mut protocol, 10_000_000);
    assert!(protocol.line_begun());
    protocol.space().extend_from_slice(b"\r\n{}\n");
    let overlong = Action::Overlong { head: vec![b'x'; OVERLONG_LINE_KEPT_BYTES], len: 10_000_000 };
    assert_eq!(protocol.next(), Some(overlong));
    assert_eq!(protocol.next(), Some(Action::Lines(b"{}\n".to_vec())));
    assert_eq!(protocol.next(), None);
    assert!(greatest <= 101_000, "held {greatest} bytes");
    assert_eq!(protocol.space().capacity(), 1_000);
}

#[test]
fn nothing_is_heard_without_the_token_and_nothing_after_a_refusal() {
    let guarded = || config(100, &["a token of sixteen", "another of sixteen"], 1_000);
    let unauthorized = vec![Action::Error(ProtocolError::Unauthorized)];
    assert_eq!(run(guarded(), &[b"{}\n@auth a token of sixteen\n"], true), unauthorized);
    assert_eq!(run(guarded(), &[b"@ping\n{}\n"], true), unauthorized);
    assert_eq!(run(guarded(), &[b"@auth a token of sixtee\n{}\n"], true), [Action::Auth { ok: false }]);
    assert_eq!(run(guarded(), &[b"@auth\n{}\n"], true), [Action::Auth { ok: false }]);
    let through = [Action::Auth { ok: true }, Action::Lines(b"{}\n".to_vec()), Action::Auth { ok: false }];
    assert_eq!(run(guarded(), &[b"\r\n@auth another of sixteen\r\n{}\n@auth no\n{}\n"], true), through);
    let unasked = [Action::Auth { ok: true }, Action::Lines(b"{}\n".to_vec())];
    assert_eq!(run(config(100, &[], 1_000), &[b"@auth whatever\n{}\n"], true), unasked);
}

#[test]
fn only_a_first_line_is_http() {
    let open = || config(100, &[], 1_000);
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(run(open(), &[request], true), [Action::Error(ProtocolError::HttpRequest)]);
    let second = b"\nGET / HTTP/1.1\r\n";
    assert_eq!(run(open(), &[second], true), [Action::Lines(second.to_vec())]);
}

#[test]
fn a_last_line_without_its_end_counts_only_from_a_nameless_client_that_closed() {
    let open = || config(4, &[], 1_000);
    assert_eq!(run(open(), &[b"{}"], true), [Action::Lines(b"{}\n".to_vec())]);
    assert_eq!(run(open(), &[b"{}"], false), []);
    assert_eq!(run(open(), &[b"@producer p\n{}"], true), [Action::Producer("p".to_owned())]);
    assert_eq!(run(open(), &[b"12345"], true), [Action::Overlong { head: b"12345".to_vec(), len: 5 }]);
    assert_eq!(run(open(), &[b"12345"], false), []);
    assert_eq!(run(open(), &[b"@producer p\n12345"], true), [Action::Producer("p".to_owned())]);
    assert_eq!(run(open(), &[b"@sync 9"], true), [Action::Sync(Some("9".to_owned()))]);
}

#[test]
fn a_line_that_comes_byte_by_byte_is_searched_once() {
    let mut protocol = Protocol::new(config(1 << 30, &[], 1_000));
    for sent in 1..2_000 {
        protocol.space().push(b'x');
        assert_eq!(protocol.next(), None);
        assert_eq!(protocol.searched, sent);
    }
}
