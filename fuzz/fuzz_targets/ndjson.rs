//! Lines to columns: by shape, by the parser, by serde_json; the same verdicts and the same values.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use serde_json::Value as Json;
use tidemill::event::{
    Decoded, Decoder, Fault, Field, Fields, Step, Value, decodable, parse_time_text, piece_end,
    time_from_value,
};
use tidemill::limits::JSON_DEPTH_MAX;

static FIELDS: LazyLock<Vec<Field>> = LazyLock::new(fields);
static ALL: LazyLock<Decoder> = LazyLock::new(|| decoder(&FIELDS));
static ALONE: LazyLock<Vec<Decoder>> = LazyLock::new(|| FIELDS.chunks(1).map(decoder).collect());

fuzz_target!(|bytes: &[u8]| {
    let all = &*ALL;
    let decoded = all.decode(Arc::new(bytes.to_vec()));
    let lines: Vec<&[u8]> = bytes
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| line.iter().any(|byte| !matches!(byte, b' ' | b'\t' | b'\r')))
        .collect();
    assert_eq!(decoded.len(), lines.len());
    for (row, line) in lines.iter().enumerate() {
        assert_eq!(decoded.line(row), *line);
        let ended = Arc::new([line, &b"\r\n"[..]].concat());
        let alone = all.decode(Arc::clone(&ended));
        assert_eq!(show(&decoded, row), show(&alone, 0), "alone, it has no shape");
        assert_eq!(alone.bad.first().map(|(_, error)| error), decodable(line).err().as_ref());
        if alone.bad.is_empty() {
            hold_against_serde_json(&alone, line);
        } else {
            assert!(!serde_json_takes(line), "{}", line.escape_ascii());
        }
        for (column, decoder) in ALONE.iter().enumerate() {
            let one = decoder.decode(Arc::clone(&ended));
            assert_eq!(one.bad, alone.bad);
            let field = &FIELDS[column];
            let whole = all_column(&alone, field);
            assert_eq!(format!("{:?}", one.value(0, 0)), format!("{:?}", alone.value(whole, 0)), "{field}");
        }
    }
    by_shape(all, &decoded, &lines);
    in_pieces(all, &decoded, bytes);
});

fn fields() -> Vec<Field> {
    let key = |name: &str| Step::Key(name.to_owned());
    let a_b = vec![key("a"), key("b")];
    let paths = [
        vec![key("a")],
        vec![key("b")],
        a_b.clone(),
        vec![key("b"), Step::Index(1)],
        [a_b, vec![Step::Index(0), key("a")]].concat(),
        vec![key("b"), Step::Index(1), key("b")],
        vec![key("é")],
        vec![key("")],
    ];
    paths.into_iter().flat_map(Field::new).collect()
}

fn decoder(fields: &[Field]) -> Decoder {
    Decoder::new(Arc::new(Fields::new(fields.iter().cloned())))
}

fn all_column(decoded: &Decoded, field: &Field) -> usize {
    decoded.fields.column(field).expect("it was asked for")
}

fn show(decoded: &Decoded, row: usize) -> String {
    let values: Vec<_> = (0..decoded.columns.len()).map(|column| decoded.value(column, row)).collect();
    let bad = decoded.bad.iter().find(|(bad, _)| *bad as usize == row);
    assert!(bad.is_none() || values.iter().all(|value| value.as_ref().is_ok_and(Value::is_null)));
    format!("{values:?} {:?}", bad.map(|(_, error)| error))
}

/// Lines that come again and again are read by their shapes.
fn by_shape(decoder: &Decoder, decoded: &Decoded, lines: &[&[u8]]) {
    let again = [lines, lines, lines, lines, lines, lines, lines, lines].concat().join(&b"\r\n"[..]);
    let again = decoder.decode(Arc::new([&again, &b"\r\n"[..]].concat()));
    for row in 0..again.len() {
        assert_eq!(show(&again, row), show(decoded, row % lines.len()));
    }
}

/// Pieces of whole lines hold what the whole holds, and the lines behind a count are those behind it.
fn in_pieces(decoder: &Decoder, decoded: &Decoded, bytes: &[u8]) {
    let most = 1 + bytes.first().map_or(0, |byte| usize::from(*byte));
    let (mut start, mut row) = (0, 0);
    while start < bytes.len() {
        let end = piece_end(bytes, start, most);
        assert!(end > start, "a piece is never empty");
        let piece = decoder.decode(Arc::new(bytes[start..end].to_vec()));
        for index in 0..piece.len() {
            assert_eq!(show(&piece, index), show(decoded, row + index));
        }
        (start, row) = (end, row + piece.len());
    }
    assert_eq!(row, decoded.len());
    for count in (0..=decoded.len()).step_by(1 + decoded.len() / 4) {
        let behind = &bytes[decoder.behind_lines(bytes, count as u64)..];
        let rest = decoder.decode(Arc::new(behind.to_vec()));
        let mut skipped = decoded.clone();
        skipped.skip(count);
        assert_eq!(rest.len(), skipped.len());
        assert_eq!(rest.bad, skipped.bad);
        assert!((0..rest.len()).all(|row| rest.line(row) == skipped.line(row)));
    }
}

fn serde_json_takes(line: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(line) else { return false };
    let object = text.trim_start_matches([' ', '\t', '\r']).starts_with('{');
    object && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() && depth(line) <= JSON_DEPTH_MAX
}

/// Of what is known to be JSON.
fn depth(line: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth -= 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn hold_against_serde_json(decoded: &Decoded, line: &[u8]) {
    let shown = line.escape_ascii();
    assert!(serde_json_takes(line), "{shown}");
    // It takes no lone surrogates and no numbers beyond the floats, wherever they are.
    let Ok(event) = serde_json::from_slice::<Json>(line) else { return };
    for field in FIELDS.iter() {
        let ours = decoded.value(all_column(decoded, field), 0);
        let other = field.steps().iter().fold(&event, |value, step| match step {
            Step::Key(key) => value.get(key).unwrap_or(&Json::Null),
            Step::Index(index) => value.get(index).unwrap_or(&Json::Null),
        });
        assert!(same(&ours, other, line), "{field} of {shown}: {ours:?}, not {other}");
        if let Ok(value) = &ours {
            let _ = time_from_value(value, None);
        }
        if let Ok(Value::Text(text)) = &ours {
            let _ = parse_time_text(text);
        }
    }
}

/// Whether a value is what serde_json, which knows no faults, read.
fn same(ours: &Result<Value<'_>, Fault>, other: &Json, line: &[u8]) -> bool {
    match (ours, other) {
        (Ok(Value::Null), Json::Null) => true,
        (Ok(Value::Bool(ours)), Json::Bool(other)) => ours == other,
        // `-0` is a float there.
        (Ok(Value::Int(ours)), Json::Number(other)) => {
            other.as_i64().map_or(*ours == 0 && other.as_f64() == Some(0.0), |other| *ours == other)
        }
        (Ok(Value::Float(ours)), Json::Number(other)) => other.as_f64().is_some_and(|other| *ours == other),
        (Err(Fault::Range), Json::Number(other)) => !other.is_i64(),
        (Ok(Value::Text(ours)), Json::String(other)) => ours == other && !other.contains('\0'),
        (Err(Fault::Nul), Json::String(other)) => other.contains('\0'),
        (Ok(Value::Json(ours)), Json::Array(_) | Json::Object(_)) => {
            serde_json::from_str::<Json>(ours).is_ok_and(|ours| ours == *other && !holds_nul(other))
        }
        // Perhaps in a duplicate that serde_json dropped; ours is the text as it stands.
        (Err(Fault::Nul), Json::Array(_) | Json::Object(_)) => line.windows(6).any(|piece| piece == b"\\u0000"),
        _ => false,
    }
}

fn holds_nul(json: &Json) -> bool {
    match json {
        Json::String(text) => text.contains('\0'),
        Json::Array(elements) => elements.iter().any(holds_nul),
        Json::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || holds_nul(value)),
        Json::Null | Json::Bool(_) | Json::Number(_) => false,
    }
}
