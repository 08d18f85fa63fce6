//! Decoding, held against another parser.

use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value as Json;

use super::decode;
use crate::event::{Fault, Field, Step, Value, decodable};
use crate::limits::JSON_DEPTH_MAX;

/// What serde_json says of a line, and the contract's depth.
fn other_verdict(line: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(line) else { return false };
    let object = text.trim_start_matches([' ', '\t', '\r']).starts_with('{');
    object && serde_json::from_str::<IgnoredAny>(text).is_ok() && depth(text) <= JSON_DEPTH_MAX
}

fn depth(text: &str) -> usize {
    let mut strings = text.replace(r"\\", "").replace(r#"\""#, "");
    while let Some(start) = strings.find('"') {
        let end = strings[start + 1..].find('"').map_or(strings.len(), |at| start + 2 + at);
        strings.replace_range(start..end, "");
    }
    let depths = strings.chars().scan(0_usize, |depth, c| {
        *depth = if "[{".contains(c) { *depth + 1 } else { depth.saturating_sub(usize::from("]}".contains(c))) };
        Some(*depth)
    });
    depths.max().unwrap_or(0)
}

pub(super) const PATHS: [&str; 7] = ["a", "b", "a.b", "b[1]", "a.b[0].a", "b[1].b", "é"];

fn other_value<'a>(event: &'a Json, field: &Field) -> &'a Json {
    let step = |value: &'a Json, step: &Step| match step {
        Step::Key(key) => value.get(key).unwrap_or(&Json::Null),
        Step::Index(index) => value.get(index).unwrap_or(&Json::Null),
    };
    field.steps().iter().fold(event, step)
}

fn holds_nul(json: &Json) -> bool {
    match json {
        Json::String(text) => text.contains('\0'),
        Json::Array(elements) => elements.iter().any(holds_nul),
        Json::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || holds_nul(value)),
        _ => false,
    }
}

/// Whether a decoded value is what serde_json (whose floats are near, and which knows no faults) read.
fn same(ours: &Result<Value<'_>, Fault>, other: &Json, line: &str) -> bool {
    match (ours, other) {
        (Ok(Value::Null), Json::Null) => true,
        (Ok(Value::Bool(ours)), Json::Bool(other)) => ours == other,
        (Ok(Value::Int(ours)), Json::Number(other)) => {
            other.as_i64().map_or_else(|| *ours == 0 && other.as_f64() == Some(0.0), |other| *ours == other)
        }
        (Ok(Value::Float(ours)), Json::Number(other)) => {
            let other = other.as_f64().unwrap();
            !ours.is_nan() && (ours - other).abs() <= other.abs() * 1e-15
        }
        (Err(Fault::Range), Json::Number(other)) => !other.is_i64() && other.as_f64().unwrap().abs() >= 9.2e18,
        (Ok(Value::Text(ours)), Json::String(other)) => ours == other && !other.contains('\0'),
        (Err(Fault::Nul), Json::String(other)) => other.contains('\0'),
        (Ok(Value::Json(ours)), Json::Array(_) | Json::Object(_)) => {
            serde_json::from_str::<Json>(ours).unwrap() == *other && !holds_nul(other)
        }
        // Perhaps in a duplicate that serde_json dropped; ours is the text as it stands.
        (Err(Fault::Nul), Json::Array(_) | Json::Object(_)) => line.contains("\\u0000"),
        _ => false,
    }
}

/// Decodes lines as one batch, and holds each against serde_json.
fn hold_against_serde_json(lines: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let decoded = decode(&lines.join(&b'\n'), &PATHS);
    prop_assert_eq!(decoded.len(), lines.len());
    for (row, line) in lines.iter().enumerate() {
        let shown = String::from_utf8_lossy(line);
        let good = decoded.bad.binary_search_by_key(&(row as u32), |(row, _)| *row).is_err();
        prop_assert_eq!(good, other_verdict(line), "{}", &shown);
        prop_assert_eq!(good, decodable(line).is_ok(), "{}", &shown);
        let Ok(event) = serde_json::from_slice::<Json>(line) else { continue };
        for (column, field) in decoded.fields.iter().enumerate().filter(|_| good) {
            let (ours, other) = (decoded.value(column, row), other_value(&event, field));
            prop_assert!(same(&ours, other, &shown), "{} of {}: {:?}, not {:?}", field, &shown, ours, other);
        }
    }
    Ok(())
}

fn blank() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just(""), 1 => Just(" "), 1 => Just("\t "), 1 => Just(" \r")]
}

pub(super) fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => "[a-z0-9 ,:{}\\[\\]']{0,12}",
        2 => "\\PC{0,4}".prop_map(|text| text.replace(['"', '\\'], "")),
        1 => r#"\\["\\/bfnrt]"#,
        1 => r"\\u00[0-9a-fA-F]{2}",
        1 => r"\\ud83d\\ude0[0-9]",
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

pub(super) fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?(0|[1-9][0-9]{0,5})",
        "-?(0|[1-9][0-9]{0,40})",
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,2})?",
    ]
}

fn name() -> impl Strategy<Value = String> {
    let common = vec!["a", "b", "a", "b", "é", "\\u0061", "\\u00e9", "c", "ab", ""];
    prop_oneof![4 => prop::sample::select(common).prop_map(|name| format!("\"{name}\"")), 1 => string()]
}

/// JSON text of any kind, blanks and escapes included.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![2 => string(), 2 => number(), 1 => prop::sample::select(vec!["null", "true", "false"]).prop_map(str::to_owned)];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let element =
            (blank(), inner.clone(), blank()).prop_map(|(before, value, behind)| format!("{before}{value}{behind}"));
        let array = prop::collection::vec(element, 0..4).prop_map(|elements| format!("[{}]", elements.join(",")));
        prop_oneof![array, object(inner)]
    })
}

fn object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let member = (blank(), name(), blank(), blank(), value, blank());
    let member = member.prop_map(|(a, name, b, c, value, d)| format!("{a}{name}{b}:{c}{value}{d}"));
    (prop::collection::vec(member, 0..6), blank())
        .prop_map(|(members, blank)| format!("{blank}{{{}}}{blank}", members.join(",")))
}

#[derive(Clone, Debug)]
enum Change {
    Cut(usize),
    Drop(usize),
    Set(usize, u8),
    Insert(usize, u8),
    Double(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let byte = || {
        prop_oneof![4 => prop::sample::select(&b"\"\\{}[],:0123456789eE+-.untrf \t/\x00\x1f\x7f\xc3\xa9\xff"[..]), 1 => any::<u8>()]
        .prop_map(|byte| if byte == b'\n' { b' ' } else { byte })
    };
    prop_oneof![
        1 => any::<usize>().prop_map(Change::Cut),
        3 => any::<usize>().prop_map(Change::Drop),
        4 => (any::<usize>(), byte()).prop_map(|(at, byte)| Change::Set(at, byte)),
        4 => (any::<usize>(), byte()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(at, len)| Change::Double(at, len)),
    ]
}

fn changed(text: String, changes: Vec<Change>) -> Vec<u8> {
    let mut line = text.into_bytes();
    for change in changes {
        let len = line.len().max(1);
        let at = |index: usize| index % len;
        match change {
            Change::Cut(index) => line.truncate(at(index)),
            Change::Drop(index) if !line.is_empty() => drop(line.remove(at(index))),
            Change::Set(index, byte) if !line.is_empty() => line[at(index)] = byte,
            Change::Insert(index, byte) => line.insert(at(index), byte),
            Change::Double(index, len) if !line.is_empty() => {
                let start = at(index);
                let piece = line[start..(start + len % 8).min(line.len())].to_vec();
                line.splice(start..start, piece);
            }
            _ => {}
        }
    }
    // A line is not blank, and its end is no CR.
    while matches!(line.last(), Some(b'\r')) {
        line.pop();
    }
    if line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) { b"-".to_vec() } else { line }
}

proptest! {
    #[test]
    fn json_is_decoded_as_serde_json_reads_it(lines in prop::collection::vec(object(json()), 1..8)) {
        let lines: Vec<_> = lines.into_iter().map(|line| changed(line, Vec::new())).collect();
        hold_against_serde_json(&lines)?;
    }

    #[test]
    fn damaged_json_is_judged_as_serde_json_judges_it(
        lines in prop::collection::vec((object(json()), prop::collection::vec(change(), 1..4)), 1..16)
    ) {
        let lines: Vec<_> = lines.into_iter().map(|(line, changes)| changed(line, changes)).collect();
        hold_against_serde_json(&lines)?;
    }

    #[test]
    fn any_bytes_are_judged_alike(line in prop::collection::vec(prop::sample::select(&b"{}[]\",:\\u0d8a1-.e tn\xc3\xa9"[..]), 1..40)) {
        hold_against_serde_json(&[changed(String::new(), Vec::new()), [&b"{\"a\":"[..], &line].concat(), [&b"{\""[..], &line, b":1}"].concat()])?;
    }
}
