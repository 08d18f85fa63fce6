//! Decoding, held against the contract's word.

mod against_serde_json;
mod by_shape;
mod influx;

use std::sync::Arc;

use super::*;
use crate::limits::JSON_DEPTH_MAX;

/// `user.country`, `items[0].sku`: enough of the config's paths for tests.
fn path(text: &str) -> Field {
    let mut steps = Vec::new();
    for key in text.split('.') {
        let (key, indexes) = key.split_once('[').unwrap_or((key, ""));
        steps.push(Step::Key(key.to_owned()));
        steps.extend(
            indexes.split_terminator(['[', ']']).filter(|s| !s.is_empty()).map(|i| Step::Index(i.parse().unwrap())),
        );
    }
    Field::new(steps).unwrap()
}

fn decode(lines: &[u8], paths: &[&str]) -> Decoded {
    let fields = Arc::new(Fields::new(paths.iter().map(|text| path(text))));
    Decoder::new(fields).decode(Arc::new(lines.to_vec()))
}

/// What a field of the only line holds.
fn get(line: &str, field: &str) -> Result<Value<'static>, Fault> {
    let decoded = decode(line.as_bytes(), &[field]);
    assert_eq!(decoded.bad, [], "{line}");
    decoded.value(0, 0).map(Value::into_owned)
}

/// The same, as Rust would write it.
fn shown(line: &str, field: &str) -> String {
    format!("{:?}", get(line, field))
}

fn verdict(line: &[u8], paths: &[&str]) -> Result<(), DecodeError> {
    let decoded = decode(line, paths);
    assert_eq!(decoded.len(), 1, "{:?}", String::from_utf8_lossy(line));
    match decoded.bad.first() {
        None => Ok(()),
        Some((_, error)) => {
            assert!((0..paths.len()).all(|column| decoded.columns[column] == [Cell::Null]), "bad lines hold nothing");
            assert!(decoded.arena.is_empty(), "bad lines leave nothing");
            Err(error.clone())
        }
    }
}

/// The verdict, having seen that it is the same whichever fields are asked for.
fn judge(line: &[u8]) -> Result<(), DecodeError> {
    let alone = decodable(line);
    for paths in [&[][..], &["a"], &["b"], &["a", "b"], &["a.b", "a[0]", "a"], &["é", "a[1].b.a"]] {
        assert_eq!(verdict(line, paths), alone, "{:?} of {:?}", paths, String::from_utf8_lossy(line));
    }
    alone
}

#[test]
fn lines_end_with_lf_or_crlf_and_blank_ones_are_none() {
    let decoded = decode(b"{\"a\":1}\n\n \t\r\n{\"a\":2}\r\n\r\r\n{\"a\":3} \r\r\n\r\n{\"a\":4}", &["a"]);
    assert_eq!(decoded.bad, []);
    let lines: Vec<_> = (0..decoded.len()).map(|row| decoded.line(row)).collect();
    assert_eq!(lines, [&b"{\"a\":1}"[..], b"{\"a\":2}", b"{\"a\":3} \r", b"{\"a\":4}"]);
    assert_eq!(decoded.columns, [[1, 2, 3, 4].map(Cell::Int)]);
    for blank in ["", "\n", " ", "\r\n\r\n", "\t\n \r"] {
        assert!(decode(blank.as_bytes(), &["a"]).is_empty(), "{blank:?}");
    }
}

#[test]
fn each_kind_of_value_is_a_cell() {
    let line = r#" { "t" : "x y" , "i" : -42 , "z" : -0 , "f" : 1.50 , "e" : 2e2 , "n" : null , "b" : true , "o" : {"k" : [1]} , "l" : [ ] , "s" : "" , "no" : false } "#;
    for (field, value) in [
        ("t", r#"Ok(Text("x y"))"#),
        ("i", "Ok(Int(-42))"),
        ("z", "Ok(Int(0))"),
        ("f", "Ok(Float(1.5))"),
        ("e", "Ok(Float(200.0))"),
        ("n", "Ok(Null)"),
        ("b", "Ok(Bool(true))"),
        ("no", "Ok(Bool(false))"),
        ("o", r#"Ok(Json("{\"k\" : [1]}"))"#),
        ("l", r#"Ok(Json("[ ]"))"#),
        ("s", r#"Ok(Text(""))"#),
        ("missing", "Ok(Null)"),
        ("T", "Ok(Null)"),
    ] {
        assert_eq!(shown(line, field), value, "{field}");
    }
}

#[test]
fn numbers_are_exact_up_to_their_range() {
    for (number, value) in [
        ("9223372036854775807", "Ok(Int(9223372036854775807))"),
        ("-9223372036854775808", "Ok(Int(-9223372036854775808))"),
        ("9223372036854775808", "Err(Range)"),
        ("-9223372036854775809", "Err(Range)"),
        ("99999999999999999999999999", "Err(Range)"),
        ("9223372036854775808.0", "Ok(Float(9.223372036854776e18))"),
        ("0.1", "Ok(Float(0.1))"),
        ("-0.0", "Ok(Float(-0.0))"),
        ("1E-400", "Ok(Float(0.0))"),
        ("1.7976931348623157e308", "Ok(Float(1.7976931348623157e308))"),
        ("1e400", "Err(Range)"),
        ("-1E+400", "Err(Range)"),
        ("0e999999999999", "Ok(Float(0.0))"),
    ] {
        assert_eq!(shown(&format!(r#"{{"x":1,"a":{number}}}"#), "a"), value, "{number}");
    }
}

#[test]
fn plain_text_is_a_piece_of_the_line_and_only_escaped_text_is_copied() {
    let decoded = decode(
        "{\"a\":\"für\",\"b\":\"z\"}\n{\"a\":\"f\\u00fcr\",\"b\":\"\\n\"}\n{\"a\":\"x\"}".as_bytes(),
        &["a", "b"],
    );
    let len = decoded.bytes.len() as u32;
    assert_eq!(decoded.columns[0][0], Cell::Text(Span { start: 6, len: 4 }));
    assert_eq!(decoded.columns[0][1], Cell::Text(Span { start: len, len: 4 }));
    assert_eq!(decoded.columns[1][1], Cell::Text(Span { start: len + 4, len: 1 }));
    assert_eq!(decoded.arena, "für\n");
    let texts: Vec<_> = (0..3).map(|row| decoded.value(0, row).unwrap().to_text().unwrap().into_owned()).collect();
    assert_eq!(texts, ["für", "für", "x"]);
}

#[test]
fn paths_reach_into_objects_and_arrays() {
    let line =
        r#"{"user":{"country":"de","age":7,"tags":["x",{"y":[1,2]}]},"items":[{"sku":"a-1"},{"sku":"b"}],"n":5}"#;
    let fields = [
        "user",
        "user.country",
        "user.tags[1].y[1]",
        "items[0].sku",
        "items[2].sku",
        "user.no",
        "n.x",
        "items.sku",
        "user[0]",
    ];
    let decoded = decode(line.as_bytes(), &fields);
    let value = |field: &str| {
        decoded.value(decoded.fields.column(&path(field)).unwrap(), 0).unwrap().to_text().map(|t| t.into_owned())
    };
    assert_eq!(value("user").unwrap(), r#"{"country":"de","age":7,"tags":["x",{"y":[1,2]}]}"#);
    assert_eq!(value("user.country").unwrap(), "de");
    assert_eq!(value("user.tags[1].y[1]").unwrap(), "2");
    assert_eq!(value("items[0].sku").unwrap(), "a-1");
    for missing in ["items[2].sku", "user.no", "n.x", "items.sku", "user[0]"] {
        assert_eq!(value(missing), None, "{missing}");
    }
}

#[test]
fn of_duplicate_names_the_last_counts_with_all_below_it() {
    assert_eq!(shown(r#"{"a":1,"b":2,"a":"x"}"#, "a"), r#"Ok(Text("x"))"#);
    assert_eq!(shown(r#"{"a":1,"b":2,"a":null}"#, "a"), "Ok(Null)");
    assert_eq!(shown(r#"{"a":1,"\u0061":2}"#, "a"), "Ok(Int(2))");
    assert_eq!(shown(r#"{"a":1e400,"a":2}"#, "a"), "Ok(Int(2))");
    assert_eq!(shown(r#"{"a":{"b":1},"a":{"c":2}}"#, "a.b"), "Ok(Null)");
    assert_eq!(shown(r#"{"a":{"b":{"c":1}},"a":3}"#, "a.b.c"), "Ok(Null)");
    assert_eq!(shown(r#"{"a":{"b":1,"b":2}}"#, "a.b"), "Ok(Int(2))");
}

#[test]
fn names_are_compared_with_their_escapes_resolved() {
    assert_eq!(shown(r#"{"caf\u00e9":1}"#, "café"), "Ok(Int(1))");
    assert_eq!(shown(r#"{"a\/b":1}"#, "a/b"), "Ok(Int(1))");
    assert_eq!(shown(r#"{"\ufffd":1}"#, "\u{FFFD}"), "Ok(Int(1))");
    assert_eq!(shown(r#"{"\ud800":1}"#, "\u{FFFD}"), "Ok(Null)");
    assert_eq!(shown(r#"{"a":{"\ud800":1,"b":2}}"#, "a.b"), "Ok(Int(2))");
    assert_eq!(shown(r#"{"\u0000":1,"a":2}"#, "a"), "Ok(Int(2))");
}

#[test]
fn what_is_no_value_is_an_error_only_in_the_field_that_holds_it() {
    for (value, fault) in [
        (r#""x\u0000y""#, Fault::Nul),
        (r#""\ud800""#, Fault::Surrogate),
        (r#""\udc00\ud800""#, Fault::Surrogate),
        (r#"["\ud83d\u0041"]"#, Fault::Surrogate),
        (r#"{"x":{"\u0000":1}}"#, Fault::Nul),
        ("1e400", Fault::Range),
        ("-92233720368547758080", Fault::Range),
        (r#"{"x":[1,-2e999]}"#, Fault::Range),
    ] {
        let line = format!(r#"{{"b":"\n","a":{value},"c":"t\tt"}}"#);
        assert_eq!(judge(line.as_bytes()), Ok(()), "{line}");
        let decoded = decode(line.as_bytes(), &["a", "b", "c"]);
        assert_eq!(decoded.value(0, 0).unwrap_err(), fault, "{line}");
        assert_eq!(decoded.value(1, 0).unwrap().to_text().unwrap(), "\n");
        assert_eq!(decoded.value(2, 0).unwrap().to_text().unwrap(), "t\tt");
    }
    assert_eq!(shown(r#"{"a":{"bad":"\ud800","b":7}}"#, "a.b"), "Ok(Int(7))");
    assert_eq!(shown(r#"{"a":[1e400,7]}"#, "a[1]"), "Ok(Int(7))");
}

/// Values that are no JSON.
const BAD_VALUES: &[&str] = &[
    "01",
    "-01",
    "1.",
    ".5",
    "+1",
    "-",
    "1e",
    "1e+",
    "0x10",
    "1_000",
    "NaN",
    "Infinity",
    "-Infinity",
    "1.e5",
    "00",
    "1..2",
    "1.2.3",
    "1e5.5",
    "--1",
    "1-2",
    "1.5.",
    "12345678901234567890123456789012345678901.",
    "tru",
    "truee",
    "nul",
    "nulll",
    "fals",
    "True",
    "TRUE",
    "undefined",
    "'a'",
    "a",
    "\"\\x\"",
    "\"\\u12\"",
    "\"\\u12g4\"",
    "\"\\uzzzz\"",
    "\"\\u12\",\"c",
    "\"\\ud83d\\u12\"",
    "\"a",
    "\"a\\\"",
    "\"a\tb\"",
    "\"\0\"",
    "\"0123456789012345678901234567890123456789\u{1}\"",
    "[1,]",
    "[,1]",
    "[1 2]",
    "[1",
    "1]",
    "[1}",
    "[",
    "{",
    "{]",
    "{\"x\":1,}",
    "{,}",
    "{\"x\"}",
    "{\"x\":}",
    "{x:1}",
    "{'x':1}",
    "{\"x\" 1}",
    "{1:1}",
    "{\"x\":1 \"y\":2}",
    "{\"x\":1}}",
    "",
    "/**/1",
    "1//",
    "\u{a0}1",
    "1\u{b}",
    "\\u0031",
    "[\"\\u00\"]",
    "[01]",
    "{\"x\":[tru]}",
    "{\"\\u0\":1}",
    "{\"\\q\":1}",
    "1 1",
    "\"a\" \"b\"",
    "1,",
    ":1",
];

#[test]
fn a_bad_value_is_refused_wherever_it_stands_and_whoever_asks() {
    for value in BAD_VALUES {
        for line in [
            format!(r#"{{"a":{value},"b":1}}"#),
            format!(r#"{{"b":1,"a":{value}}}"#),
            format!(r#"{{"b":1,"a": [1,{{"b":{value} }}],"padding":"0123456789012345678901234567890123456789"}}"#),
            format!(r#"{{"padding":"0123456789012345678901234567890123456789","a":{{"b":{value}}}}}"#),
        ] {
            let judged = judge(line.as_bytes());
            assert!(matches!(judged, Err(DecodeError::Json(_))), "{line}: {judged:?}");
        }
    }
}

#[test]
fn a_line_is_one_object_and_nothing_else() {
    for line in [
        r#"{"a":1} x"#,
        r#"{"a":1}{"a":2}"#,
        r#"{"a":1},"#,
        r#"{"a":1}]"#,
        r#"x{"a":1}"#,
        "\u{feff}{\"a\":1}",
        "{\"a\":1}\0",
        "{\"a\":1",
        "{\"a\"",
        "{",
        "}",
        "hello",
        "nan",
        "<html>",
        "{\"a\":1}\u{a0}",
        "@ping",
        "[1",
        "\"",
        "-",
        "tru",
    ] {
        let judged = judge(line.as_bytes());
        assert!(matches!(judged, Err(DecodeError::Json(_))), "{line}: {judged:?}");
    }
    for (line, kind) in [
        ("[]", "an array"),
        (r#"[{"a":1}] "#, "an array"),
        ("\"a\"", "text"),
        (" 1", "a number"),
        ("-1.5e3", "a number"),
        ("true", "a boolean"),
        ("null\t", "null"),
    ] {
        assert_eq!(judge(line.as_bytes()), Err(DecodeError::NotAnObject(kind)), "{line}");
    }
    for line in [r#"{}"#, " \t{ } \r\t", r#"{"":0}"#, r#"{"a":"\/\"\\\b\f\n\r\t\u20AC"}"#, r#"{"a":"{[{[","b":"]"}"#] {
        assert_eq!(judge(line.as_bytes()), Ok(()), "{line}");
    }
}

#[test]
fn lines_that_are_not_utf8_are_refused_alone() {
    let lines = b"{\"a\":\"x\"}\n{\"a\":\"\xff\"}\n{\"a\":\"\xc3\n{\"a\":\"\xc3\xa9\"}\n\xff";
    let decoded = decode(lines, &["a"]);
    assert_eq!(decoded.bad, [(1, DecodeError::Utf8(7)), (2, DecodeError::Utf8(7)), (4, DecodeError::Utf8(1))]);
    assert_eq!(decoded.value(0, 0).unwrap().to_text().unwrap(), "x");
    assert_eq!(decoded.value(0, 3).unwrap().to_text().unwrap(), "é");
    assert_eq!(judge(b"{\"x\":\"\xed\xa0\x80\"}"), Err(DecodeError::Utf8(7)), "an encoded surrogate");
    assert_eq!(judge(b"{\"\xc0\x80\":1}"), Err(DecodeError::Utf8(3)), "an overlong NUL");
}

#[test]
fn good_lines_among_bad_ones_keep_their_values() {
    let good = |number: usize| format!(r#"{{"a":"\n{number}"}}"#).into_bytes();
    let worse = [&b"nope"[..], b"{\"a\":\"\\nx\",\"a\":}", b"[]", b"{\"a\":\"\\q\"}", b"{\"a\":\"\xff\"}", &[b'['; 70]];
    for bad in worse {
        let decoded = decode(&[&good(1), bad, &good(2), bad, bad, b"{\"b\":1}", &good(3)].join(&b'\n'), &["a"]);
        let rows: Vec<_> = decoded.bad.iter().map(|(row, _)| *row).collect();
        assert_eq!(rows, [1, 3, 4]);
        let text = |row: usize| decoded.value(0, row).unwrap().to_text().map(|text| text.into_owned());
        let texts: Vec<_> = (0..7).filter_map(text).collect();
        assert_eq!(texts, ["\n1", "\n2", "\n3"]);
        assert_eq!(decoded.columns[0].iter().filter(|cell| **cell == Cell::Null).count(), 4);
        assert_eq!(decoded.arena, "\n1\n2\n3");
    }
}

fn nested(open: &str, close: &str, depth: usize) -> String {
    format!(r#"{{"b":1,"x":"]]}}}}","a":{}0{}}}"#, open.repeat(depth - 1), close.repeat(depth - 1))
}

#[test]
fn nesting_ends_at_64() {
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"b":"#, "}]"), ("[ ", " ]")] {
        let step = open.matches(['[', '{']).count();
        let depth = (JSON_DEPTH_MAX - 1) / step + 1;
        assert_eq!(judge(nested(open, close, depth).as_bytes()), Ok(()), "{open}");
        assert_eq!(judge(nested(open, close, depth + 1).as_bytes()), Err(DecodeError::TooDeep), "{open}");
    }
    assert_eq!(judge("[".repeat(JSON_DEPTH_MAX + 1).as_bytes()), Err(DecodeError::TooDeep));
    // Many brackets are not deep ones.
    let wide = format!(r#"{{"a":[{}1],"b":"{}","c\"[[":"\\"}}"#, "[[]],{},".repeat(500), "[{".repeat(500));
    assert_eq!(judge(wide.as_bytes()), Ok(()));
    let quoted = format!(r#"{{"a":"\"{}"}}"#, "[{".repeat(500));
    assert_eq!(judge(quoted.as_bytes()), Ok(()));
    let behind = format!(r#"{{"b":"\\","a":{}{}}}"#, "[".repeat(500), "]".repeat(500));
    assert_eq!(judge(behind.as_bytes()), Err(DecodeError::TooDeep));
}

#[test]
fn twenty_thousand_brackets_need_no_deep_stack() {
    let small_stack = std::thread::Builder::new().stack_size(192 * 1024);
    let judged = small_stack.spawn(|| {
        let closed = nested("[", "]", 20_000);
        let lines = [
            closed.clone(),
            "[".repeat(20_000),
            "{\"a\":".repeat(20_000),
            format!("{{\"a\":{}", "[".repeat(20_000)),
            nested("{\"a\":", "}", 20_000),
        ];
        let deepest = nested("[", "]", JSON_DEPTH_MAX);
        assert_eq!(judge(deepest.as_bytes()), Ok(()));
        lines.map(|line| judge(line.as_bytes()))
    });
    for judged in judged.unwrap().join().unwrap() {
        assert_eq!(judged, Err(DecodeError::TooDeep));
    }
}

#[test]
fn reasons_are_short_and_say_where() {
    for (line, reason) in [
        (r#"{"a":1 "b":2}"#, "not JSON: expected ',' or '}' at column 8"),
        (r#"{"a" 1}"#, "not JSON: expected ':' at column 6"),
        (r#"{"a":[1 2]}"#, "not JSON: expected ',' or ']' at column 9"),
        (r#"{"a":tru}"#, "not JSON: invalid literal (`true`, `false`, or a `null`) at column 9"),
        (r#"{"a":"\u12"}"#, "not JSON: an escape that JSON does not know at column 7"),
        (r#"{"a":1"#, "not JSON: the line ends too early"),
        ("hello", "not JSON: invalid JSON value at column 1"),
        ("[1]", "an array, not a JSON object"),
    ] {
        assert_eq!(judge(line.as_bytes()).unwrap_err().to_string(), reason);
    }
    for value in BAD_VALUES {
        let reason = judge(format!(r#"{{"a":{value}}}"#).as_bytes()).unwrap_err().to_string();
        assert!(!reason.contains('\n') && reason.len() < 120, "{reason}");
    }
}
