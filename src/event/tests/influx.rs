//! Influx points, held against the word of the line protocol's own documentation.

use proptest::prelude::*;

use super::*;

/// Lines of an Influx stream, with these fields; `time` is the timestamp.
fn points(lines: &[u8], paths: &[&str]) -> Decoded {
    let field = |text: &&str| if *text == "time" { Field::timestamp() } else { path(text) };
    let fields = Arc::new(Fields::new(paths.iter().map(field)));
    Decoder::of(Format::Influx, fields).decode(Arc::new(lines.to_vec()))
}

/// What a field of the only point holds, as Rust would write it.
fn held(line: &str, field: Field) -> String {
    let fields = Arc::new(Fields::new([field]));
    let decoded = Decoder::of(Format::Influx, fields).decode(Arc::new(line.as_bytes().to_vec()));
    assert_eq!((decoded.len(), decoded.bad.as_slice()), (1, [].as_slice()), "{line}");
    match decoded.value(0, 0) {
        Ok(Value::Text(text)) => text.into_owned(),
        other => format!("{other:?}"),
    }
}

fn of(line: &str, name: &str) -> String {
    held(line, Field::top(name))
}

/// Why a line is no point, having seen that it is the same whichever fields are asked for.
fn reason(line: &str) -> String {
    let reasons = [&[][..], &["measurement", "time", "f", "t"], &["tag.t", "k"]].map(|paths| {
        let decoded = points(line.as_bytes(), paths);
        assert_eq!((decoded.len(), decoded.bad.len()), (1, 1), "{line}");
        assert!((0..paths.len()).all(|column| decoded.columns[column] == [Cell::Null]), "bad lines hold nothing");
        assert!(decoded.arena.is_empty(), "bad lines leave nothing");
        decoded.bad[0].1.to_string()
    });
    assert!(reasons.iter().all(|reason| *reason == reasons[0]), "{reasons:?}");
    reasons[0].strip_prefix("not an Influx point: ").unwrap().to_owned()
}

#[test]
fn the_elements_of_a_point_are_found() {
    let line = "myMeasurement,tag1=value1,tag2=value2 fieldKey=\"fieldValue\" 1556813561098000000";
    for (name, value) in
        [("measurement", "myMeasurement"), ("tag1", "value1"), ("tag2", "value2"), ("fieldKey", "fieldValue")]
    {
        assert_eq!(of(line, name), value);
    }
    assert_eq!(of(line, "tag3"), "Ok(Null)");
    assert_eq!(held(line, Field::timestamp()), "Ok(Int(1556813561098000000))");
    assert_eq!(held("m f=1", Field::timestamp()), "Ok(Null)");
    assert_eq!(held("m f=1 -9223372036854775806", Field::timestamp()), "Ok(Int(-9223372036854775806))");
    assert_eq!(held("m f=1 9223372036854775808", Field::timestamp()), "Err(Range)", "an error where it is used");
    let line = "measurementName,tagKey=tagValue fieldKey=\"fieldValue\" 1465839830100400200";
    assert_eq!(of(line, "measurement"), "measurementName");
    assert_eq!(held(line, Field::timestamp()), "Ok(Int(1465839830100400200))");
    let line = "m time=5i,timestamp=6i 7";
    assert_eq!((of(line, "time"), of(line, "timestamp")), ("Ok(Int(5))".into(), "Ok(Int(6))".into()));
    assert_eq!(held(line, Field::timestamp()), "Ok(Int(7))");
    assert_eq!(held("m,time=noon f=1", Field::timestamp()), "Ok(Null)");
}

#[test]
fn each_type_is_read_as_it_is_documented() {
    for (value, expected) in [
        ("1.0", "Ok(Float(1.0))"),
        ("1", "Ok(Float(1.0))"),
        ("-1.234456e+78", "Ok(Float(-1.234456e78))"),
        ("1e5", "Ok(Float(100000.0))"),
        ("-1.2E-3", "Ok(Float(-0.0012))"),
        (".5", "Ok(Float(0.5))"),
        ("5.", "Ok(Float(5.0))"),
        ("1e400", "Err(Range)"),
        ("1i", "Ok(Int(1))"),
        ("12485903i", "Ok(Int(12485903))"),
        ("-12485903i", "Ok(Int(-12485903))"),
        ("-9223372036854775808i", "Ok(Int(-9223372036854775808))"),
        ("9223372036854775807i", "Ok(Int(9223372036854775807))"),
        ("9223372036854775808i", "Err(Range)"),
        ("0u", "Ok(Int(0))"),
        ("1u", "Ok(Int(1))"),
        ("12485903u", "Ok(Int(12485903))"),
        ("18446744073709551615u", "Err(Range)"),
        ("\"this is a string\"", "this is a string"),
        ("\"\"", ""),
        ("\"true\"", "true"),
        ("\"a,b=c d\"", "a,b=c d"),
        ("\"a\u{0}b\"", "Err(Nul)"),
    ] {
        assert_eq!(of(&format!("myMeasurement fieldKey={value}"), "fieldKey"), expected, "{value}");
        assert_eq!(of(&format!("m,t=x a=1,fieldKey={value},b=2 7"), "fieldKey"), expected, "{value}");
        // What is not asked for is no error.
        assert_eq!(of(&format!("m fieldKey={value},b=t"), "b"), "Ok(Bool(true))", "{value}");
    }
    for value in ["t", "T", "true", "True", "TRUE"] {
        assert_eq!(of(&format!("m f={value}"), "f"), "Ok(Bool(true))");
    }
    for value in ["f", "F", "false", "False", "FALSE"] {
        assert_eq!(of(&format!("m f={value} 1"), "f"), "Ok(Bool(false))");
    }
}

#[test]
fn backslashes_and_quotes_mean_what_is_documented() {
    assert_eq!(of(r#"my\ Measurement fieldKey="string value""#, "measurement"), "my Measurement");
    assert_eq!(of(r#"myMeasurement fieldKey="\"string\" within a string""#, "fieldKey"), "\"string\" within a string");
    let line = r"myMeasurement,tag\ Key1=tag\ Value1,tag\ Key2=tag\ Value2 fieldKey=100";
    assert_eq!((of(line, "tag Key1"), of(line, "tag Key2")), ("tag Value1".into(), "tag Value2".into()));
    let line = r#"myMeasurement,tagKey=🍭 fieldKey="Launch 🚀" 1556813561098000000"#;
    assert_eq!((of(line, "tagKey"), of(line, "fieldKey")), ("🍭".into(), "Launch 🚀".into()));
    // The documentation's table of backslashes, in each element.
    for (written, meant) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3)] {
        let (written, meant) = ("\\".repeat(written), format!("a{}b", "\\".repeat(meant)));
        assert_eq!(of(&format!("a{written}b f=1"), "measurement"), meant);
        assert_eq!(of(&format!("m,a{written}b=x f=1"), &meant), "x");
        assert_eq!(of(&format!("m,t=a{written}b f=1"), "t"), meant);
        assert_eq!(of(&format!("m a{written}b=\"x\""), &meant), "x");
        assert_eq!(of(&format!("m f=\"a{written}b\""), "f"), meant);
    }
    let line = r#"a\,b\ c\=d,e\,\ \=f=g\,\ \=h i\,\ \=j="k\,l\n" 1"#;
    assert_eq!(of(line, "measurement"), r"a,b c\=d", "an equals sign has no meaning in a measurement");
    assert_eq!((of(line, "e, =f"), of(line, "i, =j")), ("g, =h".into(), r"k\,l\n".into()));
    assert_eq!(of("m=1,t=x f=1", "measurement"), "m=1");
    assert_eq!(of(r"m,t=x\\,u=y f=1", "u"), "y", "an escaped backslash escapes nothing");
    // Quotes are part of names, and of the values of tags.
    let line = r#""m",'t'="v" "f"='x"#;
    assert_eq!(reason(line), "a number, a boolean or a text in double quotes is expected at byte 17");
    let line = r#""m",'t'="v" "f"="x""#;
    assert_eq!((of(line, "measurement"), of(line, "'t'")), ("\"m\"".into(), "\"v\"".into()));
    assert_eq!(of(line, "\"f\""), "x");
}

#[test]
fn where_names_clash_the_field_wins() {
    let line = r#"cpu,host=a,region=eu,measurement=x host="b",usage=1"#;
    assert_eq!((of(line, "host"), of(line, "tag.host")), ("b".into(), "a".into()));
    assert_eq!(held(line, path("tag.host")), "a", "as a path, too");
    assert_eq!((of(line, "region"), of(line, "tag.region")), ("eu".into(), "Ok(Null)".into()));
    assert_eq!((of(line, "measurement"), of(line, "tag.measurement")), ("cpu".into(), "x".into()));
    assert_eq!(of(r#"cpu measurement="f""#, "measurement"), "f");
    let line = r#"cpu,host=a host="b",tag.host="c""#;
    assert_eq!(of(line, "tag.host"), "c");
    assert_eq!(of(r#"cpu,host=a tag.host="c",host="b""#, "tag.host"), "c");
    // Of names that come again the last counts.
    assert_eq!(of("m,t=1,t=2 f=1i,f=2i", "t"), "2");
    assert_eq!(of("m,t=1,t=2 f=1i,f=2i", "f"), "Ok(Int(2))");
    assert_eq!(of("m f=1 1", "f.x"), "Ok(Null)");
}

#[test]
fn comments_and_blank_lines_are_no_lines() {
    let lines = b"# This is a comment\nm f=1i\r\n\n \t# another\r\n  m  f=2i  7  \n#\n\r\nm,t=# f=3i";
    let decoded = points(lines, &["f", "time"]);
    assert_eq!(decoded.bad, []);
    let column = |name: Field| decoded.columns[decoded.fields.column(&name).unwrap()].clone();
    assert_eq!(column(Field::top("f")), [1, 2, 3].map(Cell::Int));
    assert_eq!(column(Field::timestamp()), [Cell::Null, Cell::Int(7), Cell::Null]);
    let decoder = Decoder::of(Format::Influx, Arc::default());
    let behind = |count| String::from_utf8(lines[decoder.behind_lines(lines, count)..].to_vec()).unwrap();
    assert!(behind(0).starts_with("# This") && behind(1).starts_with("\n \t#") && behind(2).starts_with("#\n"));
    assert_eq!(behind(3), "");
    assert!(decoder.overlong(Arc::new(b"  # long".to_vec()), 9_999).is_empty());
    assert_eq!(decoder.overlong(Arc::new(b"m f=".to_vec()), 9_999).bad, [(0, DecodeError::TooLong(9_999))]);
    let json = Decoder::new(Arc::default()).decode(Arc::new(b"# no comment\n".to_vec()));
    assert_eq!((json.len(), json.bad.len()), (1, 1), "JSON has none");
}

#[test]
fn what_is_wrong_with_a_line_is_said_with_its_place() {
    let (measurement, fields) = ("a measurement is expected", "a blank and a field are expected");
    let (tag, of_tag) = ("the name of a tag is expected", "the value of a tag is expected");
    let (tag_sign, field_sign) =
        ("`=` is expected behind the name of a tag", "`=` is expected behind the name of a field");
    let field = "the name of a field is expected";
    let value = "a number, a boolean or a text in double quotes is expected";
    let (text, timestamp) =
        ("a text without its second quote begins", "a timestamp, which is a whole number, is expected");
    for (line, what, at) in [
        (",t=x f=1", measurement, 1),
        ("  ,t=x f=1", measurement, 3),
        ("m", fields, 2),
        ("m,t=x", fields, 6),
        (r"m,t=x\ f=1", "`=` in the value of a tag needs a backslash", 9),
        ("m,t=x=y f=1", "`=` in the value of a tag needs a backslash", 6),
        ("m, f=1", tag, 3),
        ("m,=x f=1", tag, 3),
        ("m,t f=1", tag_sign, 4),
        ("m,t,u=x f=1", tag_sign, 4),
        ("m,t= f=1", of_tag, 5),
        ("m,t=,u=x f=1", of_tag, 5),
        ("m ", field, 3),
        ("m =1", field, 3),
        ("m f=1,", field, 7),
        ("m f=1, g=2", field, 7),
        ("m f", field_sign, 4),
        ("m f 1", field_sign, 4),
        ("m f=", value, 5),
        ("m f=,g=1", value, 5),
        ("m f=é", value, 5),
        ("m f=\"x\"y", "`,` or a blank is expected behind a field's value", 8),
        ("m f=\"abc", text, 5),
        (r#"m f="abc\""#, text, 5),
        (r#"m f="abc\"#, text, 5),
        (r"m\", "nothing follows the backslash", 2),
        (r"m,t=\", "nothing follows the backslash", 5),
        (r"m g=1,f\", "nothing follows the backslash", 8),
        ("m f=1 1.5", timestamp, 7),
        ("m f=1 x", timestamp, 7),
        ("m f=1 -", timestamp, 7),
        ("m f=1 1556813561098000000Z", timestamp, 7),
        ("m f=1 1 2", timestamp, 7),
        ("{\"json\": 1}", "`=` is expected behind the name of a field", 12),
        ("null", fields, 5),
    ] {
        assert_eq!(reason(line), format!("{what} at byte {at}"), "{line}");
    }
    for wrong in
        "NaN nan Inf +Inf -Inf inf infinity 0x10 1_000 +1 - . -. e5 1e 1e+ 1.2.3 1ii i u -1u 1.5i 1e5u tRUE yes 'x' ٣"
            .split(' ')
    {
        assert_eq!(reason(&format!("m f={wrong}")), format!("{value} at byte 5"), "{wrong}");
        assert_eq!(reason(&format!("m a=1,f={wrong},b=2")), format!("{value} at byte 9"), "{wrong}");
    }
    let decoded = points(b"m f=1\nm f=\"\xff\"\nm f=2", &["f"]);
    assert_eq!(decoded.bad, [(1, DecodeError::Utf8(6))]);
}

/// A point as a client that knows nothing of this code would write it.
fn escaped(text: &str, special: &str) -> String {
    text.chars().fold(String::new(), |mut out, character| {
        if special.contains(character) {
            out.push('\\');
        }
        out.push(character);
        out
    })
}

#[derive(Clone, Debug)]
enum Written {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

impl Written {
    fn text(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => format!("{value}i"),
            Self::Float(value) => format!("{value:e}"),
            Self::Text(text) => format!("\"{}\"", escaped(text, "\\\"")),
        }
    }

    fn value(&self) -> String {
        match self {
            Self::Bool(value) => format!("{:?}", Value::Bool(*value)),
            Self::Int(value) => format!("{:?}", Value::Int(*value)),
            Self::Float(value) => format!("{:?}", Value::Float(*value)),
            Self::Text(text) => format!("{:?}", Value::text(text)),
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    "[a-c\\\\ ,=\"'é]{1,4}".prop_filter("ends a line's blanks", |name: &String| !name.is_empty())
}

fn value() -> impl Strategy<Value = Written> {
    prop_oneof![
        any::<bool>().prop_map(Written::Bool),
        any::<i64>().prop_map(Written::Int),
        (-1e300..1e300).prop_map(Written::Float),
        "[a-c\\\\ ,=\"'é#@🚀]{0,8}".prop_map(Written::Text),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_was_written_is_read(
        measurement in name(),
        tags in proptest::collection::btree_map(name(), name(), 0..4),
        fields in proptest::collection::btree_map(name(), value(), 1..4),
        timestamp in proptest::option::of(any::<i64>()),
        more in proptest::option::of(name()),
    ) {
        let mut line = escaped(&measurement, "\\, ");
        for (name, value) in &tags {
            line += &format!(",{}={}", escaped(name, "\\,= "), escaped(value, "\\,= "));
        }
        let written: Vec<_> =
            fields.iter().map(|(name, value)| format!("{}={}", escaped(name, "\\,= "), value.text())).collect();
        line += &format!(" {}", written.join(","));
        line += &timestamp.map(|timestamp| format!(" {timestamp}")).unwrap_or_default();

        let names = tags.keys().chain(fields.keys()).chain(&more);
        let tagged = tags.keys().map(|name| Field::new(vec![Step::Key("tag".into()), Step::Key(name.clone())]).unwrap());
        let asked = names.map(Field::top).chain(tagged).chain([Field::top("measurement"), Field::timestamp()]);
        let decoder = Decoder::of(Format::Influx, Arc::new(Fields::new(asked)));
        let decoded = decoder.decode(Arc::new(line.clone().into_bytes()));
        prop_assert_eq!(&decoded.bad, &[], "{}", line);
        let found = |field: &Field| decoded.value(decoded.fields.column(field).unwrap(), 0).unwrap().into_owned();
        for field in decoded.fields.iter() {
            let expected = match field.steps() {
                [Step::Key(_), Step::Key(tag)] => fields.get(tag).map(|_| format!("{:?}", Value::text(&tags[tag]))),
                _ if *field == Field::timestamp() => timestamp.map(|timestamp| format!("{:?}", Value::Int(timestamp))),
                _ if field.root() == "measurement" => Some(format!("{:?}", Value::text(&measurement))),
                _ => {
                    let tag = || tags.get(field.root()).map(|tag| format!("{:?}", Value::text(tag)));
                    fields.get(field.root()).map(Written::value).or_else(tag)
                }
            };
            prop_assert_eq!(format!("{:?}", found(field)), expected.unwrap_or_else(|| "Null".into()), "{} {}", field, line);
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(
        lines in proptest::collection::vec(
            prop_oneof![any::<Vec<u8>>(), "[mft=, \\\\\"#@0-9i.e\\-\u{0}é\r]{0,24}".prop_map(String::into_bytes)], 0..12,
        ),
    ) {
        let bytes = Arc::new(lines.join(&b'\n'));
        let fields = ["measurement", "m", "f", "t", "tag.t", ""].map(Field::top);
        let decoded = Decoder::of(Format::Influx, Arc::new(Fields::new(fields))).decode(bytes.clone());
        let alone = Decoder::of(Format::Influx, Arc::default()).decode(bytes.clone());
        prop_assert_eq!(&decoded.bad, &alone.bad, "whichever fields are asked for");
        prop_assert_eq!(&decoded.lines, &alone.lines);
        for row in 0..decoded.len() {
            for column in 0..decoded.columns.len() {
                if let Ok(Value::Text(text)) = decoded.value(column, row) {
                    prop_assert!(text.len() <= decoded.line(row).len());
                }
            }
        }
        let decoder = Decoder::of(Format::Influx, Arc::default());
        for count in 0..=decoded.len() {
            let behind = &bytes[decoder.behind_lines(&bytes, count as u64)..];
            prop_assert_eq!(decoder.decode(Arc::new(behind.to_vec())).len(), decoded.len() - count);
        }
    }
}
