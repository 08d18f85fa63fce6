//! Lines that are read by their shape, held against the parser: a batch of one line knows no shapes.

use proptest::prelude::*;

use super::against_serde_json::{PATHS, number, string};
use super::decode;
use crate::event::Decoded;

/// Lines with gaps for scalars; `$` is a gap.
const FORMS: [&str; 10] = [
    r#"{"a":$,"b":$}"#,
    r#"{"a":$,"b":$,"c":$}"#,
    r#"{"b":$,"a":$}"#,
    r#"{"x":$,"a":{"b":$,"c":[$,$]},"b":$}"#,
    r#"{"a":{"b":[{"a":$},$]},"b":[$,{"b":$}]}"#,
    r#" { "a" : $ , "é" : [ $ ] , "b" : [ ] } "#,
    r#"{"a":$,"a":$}"#,
    r#"{"a":{"b":$},"a":$}"#,
    r#"{"\u0061":$,"b":$}"#,
    r#"{"b":[$,$,$]}"#,
];

fn scalar() -> impl Strategy<Value = String> {
    let words = vec![
        "null",
        "true",
        "false",
        "tru",
        "nulll",
        "",
        "01",
        "-",
        "1.",
        "\"a",
        "\"\t\"",
        r#""\q""#,
        "[]",
        r#"{"b":1}"#,
        "1e400",
        r#""\ud800""#,
    ];
    let plain = "\"[ -!#-\\[\\]-~é€]{0,20}\"";
    prop_oneof![8 => plain, 2 => string(), 6 => number(), 2 => prop::sample::select(words).prop_map(str::to_owned)]
}

/// A batch as a stream has them: a few forms, in turns, each with other scalars.
fn lines() -> impl Strategy<Value = Vec<String>> {
    let forms = prop::collection::vec(prop::sample::select(&FORMS[..]), 1..4);
    let line = (any::<prop::sample::Index>(), prop::collection::vec(scalar(), 5));
    (forms, prop::collection::vec(line, 8..60)).prop_map(|(forms, lines)| {
        let fill = |(form, scalars): (prop::sample::Index, Vec<String>)| {
            scalars.iter().fold(form.get(&forms).to_string(), |line, scalar| line.replacen('$', scalar, 1))
        };
        lines.into_iter().map(fill).collect()
    })
}

fn show(decoded: &Decoded, row: usize) -> String {
    let values: Vec<_> = (0..decoded.columns.len()).map(|column| decoded.value(column, row)).collect();
    let bad = decoded.bad.iter().find(|(bad, _)| *bad as usize == row);
    format!("{values:?} {:?}", bad.map(|(_, error)| error))
}

proptest! {
    #[test]
    fn a_line_is_decoded_alike_by_its_shape_and_by_the_parser(lines in lines()) {
        let together = decode(lines.join("\n").as_bytes(), &PATHS);
        prop_assert_eq!(together.len(), lines.len());
        for (row, line) in lines.iter().enumerate() {
            prop_assert_eq!(show(&together, row), show(&decode(line.as_bytes(), &PATHS), 0), "{}", line);
        }
    }
}

#[test]
fn a_line_that_nearly_has_a_shape_is_judged_by_the_parser() {
    let good = r#"{"a":"x","b":{"c":[1,true]}}"#;
    let near = [
        r#"{"a":"x","b":{"c":[1,true]}} x"#,
        r#"{"a":"x","b":{"c":[1,true]}"#,
        r#"{"a":"x","b":{"c":[01,true]}}"#,
        r#"{"a":"x","b":{"c":[1,truee]}}"#,
        r#"{"a":"x"","b":{"c":[1,true]}}"#,
        "{\"a\":\"x\u{1}\",\"b\":{\"c\":[1,true]}}",
        r#"{"a":"x,"b":{"c":[1,true]}}"#,
        r#"{"a":,"b":{"c":[1,true]}}"#,
    ];
    for line in near {
        let decoded =
            decode([[good; 10].join("\n"), line.to_owned(), good.to_owned()].join("\n").as_bytes(), &["a", "b.c[0]"]);
        let rows: Vec<_> = decoded.bad.iter().map(|(row, _)| *row).collect();
        assert_eq!(rows, [10], "{line}");
        assert_eq!(show(&decoded, 11), r#"[Ok(Text("x")), Ok(Int(1))] None"#);
    }
    // Each gap takes any scalar, and a value that has no plain form is the parser's again.
    let lines = [good, r#"{"a":null,"b":{"c":["q",-1.5e3]}}"#, r#"{"a":"\u0078","b":{"c":[1e400,null]}}"#];
    let decoded = decode(lines.repeat(4).join("\n").as_bytes(), &["a", "b.c[0]"]);
    assert_eq!(show(&decoded, 10), r#"[Ok(Null), Ok(Text("q"))] None"#);
    assert_eq!(show(&decoded, 11), r#"[Ok(Text("x")), Err(Range)] None"#);
}

#[test]
fn a_line_with_duplicate_names_is_the_parsers_however_often_it_comes() {
    let lines = [r#"{"a":{"b":1},"a":{"c":2}}"#; 12].join("\n");
    assert_eq!(show(&decode(lines.as_bytes(), &["a.b"]), 11), "[Ok(Null)] None");
}
