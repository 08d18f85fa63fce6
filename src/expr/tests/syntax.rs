//! What is no expression: the message, the place, the name that was meant.

use proptest::prelude::*;

use super::*;
use crate::limits::{EXPRESSION_DEPTH_MAX, EXPRESSION_TOKENS_MAX};

/// Parses and binds what must fail; gives the message and the text that it points at.
fn refused(text: &str) -> (String, String) {
    let error = match bind(text) {
        Err(error) => error,
        Ok(_) => panic!("{text} is taken"),
    };
    (error.message, text[error.at].to_owned())
}

fn check_refused(cases: &[(&str, &str, &str)]) {
    for (text, at, message) in cases {
        assert_eq!(refused(text), ((*message).to_owned(), (*at).to_owned()), "{text}");
    }
}

#[test]
fn broken_syntax_is_pointed_at() {
    check_refused(&[
        ("", "", "an expression is missing"),
        (" -- nothing", " -- nothing", "an expression is missing"),
        ("1 +", "", "expected an expression before the end"),
        ("1 + * 2", "*", "expected an expression instead of `*`"),
        ("(1 + 2", "", "expected ) before the end"),
        (
            "1 + AND 2",
            "AND",
            "expected an expression (a field of this name is written in double quotes) instead of `AND`",
        ),
        ("1 2", "2", "unexpected `2` after the end of the expression"),
        ("status = 1; DROP", ";", "unexpected `;` after the end of the expression"),
        ("x = 'abc", "'abc", "unterminated string literal"),
        ("status\n  = 'é' +\n\t)", ")", "expected an expression instead of `)`"),
        ("status IN ()", ")", "expected an expression instead of `)`"),
        ("status BETWEEN 1", "", "expected AND before the end"),
        ("1 < status < 3", "1 < status", "comparisons cannot be chained; write `a < b AND b < c`"),
        ("'x' = word = 'y'", "'x' = word", "comparisons cannot be chained; write `a < b AND b < c`"),
        ("99999999999999999999", "99999999999999999999", "a whole number has at most 64 bits"),
        ("1 + 1e400", "1e400", "the number is out of range"),
        ("word LIKE 'a' ESCAPE 'xy'", "'xy'", "ESCAPE takes one character: `LIKE '50!%' ESCAPE '!'`"),
        ("word LIKE 'a\\'", "'a\\'", "the pattern ends with the escape character"),
        ("items[status]", "status", "an element is given by a whole number from 0"),
        ("items[1.5]", "1.5", "an element is given by a whole number from 0"),
    ]);
}

#[test]
fn the_rest_of_sql_is_named_and_not_available() {
    check_refused(&[
        ("(SELECT 1)", "SELECT", "a subquery is not available in an expression"),
        ("status IN (SELECT 1)", "SELECT", "a subquery is not available in an expression"),
        ("status + interval '1' day", "'1'", "an interval is not available in an expression"),
        ("(1, 2)", "1", "a list of values is not available in an expression"),
        ("[1]", "1", "an array is not available in an expression"),
        ("status ^ 2", " ^ ", "the operator `^` is not available"),
        ("~status", "~status", "the operator `~` is not available"),
        ("lower(word) OVER ()", "lower(word)", "OVER is not available in an expression"),
        (
            "lower(word).x",
            "lower",
            "a path goes into a field: `items[0].sku`; give a computed value a name with `set` first",
        ),
        ("word SIMILAR TO 'x'", "word", "patterns are LIKE, ILIKE and regexp_like()"),
        ("X'ff'", "X'ff'", "text is written 'like this', a number like 42, 0.5 or 1e3"),
        (
            "current_timestamp",
            "current_timestamp",
            "expressions have no clock; event_time() and ingest_time() are the event's times",
        ),
        ("lower(*)", "lower(*)", "*, DISTINCT and FILTER are for aggregates, not lower()"),
        ("lower(DISTINCT word)", "lower(DISTINCT word)", "*, DISTINCT and FILTER are for aggregates, not lower()"),
        (
            "1 + count(*)",
            "count",
            "count() belongs under aggregates: give it a name of its own there; expressions use that name",
        ),
        (
            "CAST(word AS json)",
            "CAST(word AS json)",
            "there is no type json here; there are bigint, double precision, numeric, text, boolean, timestamp",
        ),
        ("CAST(word AS varchar(10))", "CAST(word AS varchar(10))", "text has no length here; use substr(x, 1, length)"),
        (
            "CAST(word AS numeric(10, 2))",
            "CAST(word AS numeric(10, 2))",
            "numeric has no precision here; use round(x, digits)",
        ),
        ("SAFE_CAST(word AS text)", "SAFE_CAST(word AS text)", "SAFE_CAST is written TRY_CAST here"),
    ]);
}

#[test]
fn types_that_never_fit_are_refused() {
    check_refused(&[
        ("yes AND lower(word) < 5", "lower(word) < 5", "text and bigint have no order; CAST one of them"),
        ("at > '2024-01-01'", "at > '2024-01-01'", "timestamp and text have no order; CAST one of them"),
        ("status BETWEEN 1 AND 'x'", "status BETWEEN 1 AND 'x'", "bigint and text have no order; CAST one of them"),
        ("least(1, 'a')", "least(1, 'a')", "bigint and text have no order; CAST one of them"),
        ("yes AND (status + 1)", "(status + 1)", "a condition is true or false, this is a number"),
        ("NOT 'x'", "'x'", "a condition is true or false, this is text"),
        ("CASE WHEN 1 THEN 2 END", "1", "a condition is true or false, this is bigint"),
        ("length(word) IS TRUE", "length(word)", "a condition is true or false, this is bigint"),
        ("at + 5", "at", "arithmetic takes numbers, not timestamp"),
        ("-(1 = 2)", "(1 = 2)", "arithmetic takes numbers, not boolean"),
        ("lower(1)", "1", "lower(text) takes text here, not bigint; CAST it"),
        ("concat(length(1.5))", "1.5", "length(text) takes text here, not double precision; CAST it"),
        ("round(1, 0.5)", "0.5", "round(number [, digits]) takes a whole number here, not double precision; CAST it"),
        ("1 LIKE 'x'", "1", "LIKE takes text here, not bigint; CAST it"),
        ("extract(hour FROM 'x')", "'x'", "extract(hour FROM timestamp) takes a timestamp here, not text; CAST it"),
        ("CAST(at AS bigint)", "at", "timestamp cannot become bigint"),
        ("CAST(0.5 AS boolean)", "0.5", "double precision cannot become boolean"),
    ]);
}

#[test]
fn names_and_functions_are_looked_up() {
    let error = bind("1 + statsu").unwrap_err();
    assert_eq!((error.message.as_str(), error.at), ("unknown name statsu", 4..10));
    assert_eq!(error.nearest.as_deref(), Some("status"));

    let error = bind("no OR\n user.city = 'é'").unwrap_err();
    assert_eq!((error.message.as_str(), error.at), ("unknown name user.city", 7..16));
    assert_eq!(error.nearest, None);

    let error = bind("'é' || lowre(word)").unwrap_err();
    assert_eq!((error.message.as_str(), error.at), ("unknown function lowre()", 8..13));
    assert_eq!(error.nearest.as_deref(), Some("lower"));

    let error = bind("date_trunc('huor', at)").unwrap_err();
    assert_eq!((error.at, error.nearest.as_deref()), (11..17, Some("hour")));
    let error = bind("extract(hours FROM at)").unwrap_err();
    assert_eq!((error.at, error.nearest.as_deref()), (8..13, Some("hour")));

    check_refused(&[
        ("replace(word, 'a')", "replace(word, 'a')", "replace(text, old, new) has 2 arguments here"),
        ("1 + position(1)", "position(1)", "position() has 1 arguments here"),
        ("STATUS = 1", "STATUS", "unknown name STATUS"),
        ("date_trunc(word, at)", "word", "this has to be a literal, 'like this'"),
        ("regexp_like(word, url)", "url", "this has to be a literal, 'like this'"),
        ("regexp_like(word, 'x', 'g')", "'g'", "the only flag is 'i': upper and lower case are the same"),
        ("regexp_like(word, 'a(b')", "'a(b'", "not a regular expression: unclosed group"),
        ("regexp_like(word, '\\w{500}{50}')", "'\\w{500}{50}'", "the pattern takes more than 1048576 bytes"),
    ]);
}

#[test]
fn static_types_are_inferred() {
    let cases = [
        ("status", SqlType::Any),
        ("at", SqlType::Time),
        ("list[0].n", SqlType::Any),
        ("NULL", SqlType::Any),
        ("1", SqlType::Int),
        ("1 + 2", SqlType::Int),
        ("1 + 2.0", SqlType::Float),
        ("1 / 2", SqlType::Float),
        ("status + 1", SqlType::Number),
        ("status * 0.5", SqlType::Float),
        ("div(7, 2)", SqlType::Int),
        ("-status", SqlType::Number),
        ("abs(-1)", SqlType::Int),
        ("round(status)", SqlType::Number),
        ("'a' || 1", SqlType::Text),
        ("length(word)", SqlType::Int),
        ("status = 1", SqlType::Bool),
        ("nothing IS NULL", SqlType::Bool),
        ("CASE WHEN yes THEN 1 ELSE NULL END", SqlType::Int),
        ("CASE WHEN yes THEN 1 ELSE 0.5 END", SqlType::Number),
        ("CASE WHEN yes THEN 1 ELSE 'a' END", SqlType::Any),
        ("coalesce(status, 0)", SqlType::Any),
        ("coalesce(CAST(status AS bigint), 0)", SqlType::Int),
        ("nullif(1.5, status)", SqlType::Float),
        ("greatest(1, 2)", SqlType::Int),
        ("TRY_CAST(status AS numeric)", SqlType::Number),
        ("CAST(NULL AS timestamp)", SqlType::Time),
        ("date_trunc('day', event_time())", SqlType::Time),
        ("extract(hour FROM at)", SqlType::Int),
        ("extract(epoch FROM at)", SqlType::Float),
        ("position()", SqlType::Int),
        ("producer()", SqlType::Text),
    ];
    for (text, expected) in cases {
        assert_eq!(bind(text).unwrap().sql_type(), expected, "{text}");
    }
}

#[test]
fn only_a_bare_name_has_a_slot() {
    assert_eq!(bind("status").unwrap().slot(), Some(3));
    assert_eq!(bind("(status)").unwrap().slot(), Some(3));
    assert_eq!(bind("status + 0").unwrap().slot(), None);
    assert_eq!(bind("list[0].n").unwrap().slot(), None);
}

#[test]
fn words_of_sql_are_names_too() {
    struct Anything;
    impl Scope for Anything {
        fn resolve(&mut self, _: &Field) -> Result<Resolved, Option<String>> {
            Ok(Resolved { slot: 0, rest: Vec::new(), sql_type: SqlType::Any })
        }
    }
    // These cannot be, without quotes.
    let reserved = "ALL AND ANY AS BETWEEN CASE CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP DISTINCT ELSE FALSE ILIKE IN IS LIKE NOT \
        NULL OR RETURNING SOME THEN TRUE WHEN";
    let mut refused = Vec::new();
    for word in sqlparser::keywords::ALL_KEYWORDS.iter().filter(|word| !word.contains('-')) {
        let texts =
            ["# = 1", "1 = #", "lower(#) IS NULL AND # IS NOT NULL", "# IN (#, 1)", "-# < #", "#.# LIKE #", "#[0]"];
        let bound = texts
            .iter()
            .try_for_each(|text| parse(&text.replace('#', &word.to_lowercase()))?.bind(&mut Anything).map(|_| ()));
        if bound.is_err() {
            refused.push(*word);
        }
        let text = texts[2].replace('#', &format!("\"{word}\""));
        assert!(parse(&text).is_ok(), "{text}");
    }
    assert_eq!(refused, reserved.split_whitespace().collect::<Vec<_>>());
    assert_eq!(parse("CASE \"case\" WHEN 1 THEN \"end\" END").unwrap().bind(&mut Anything).unwrap().slot(), None);
}

#[test]
fn an_aggregate_is_taken_apart() {
    let text = "Quantile(DISTINCT load_ms * 2, 0.95) FILTER (WHERE status >= 500)";
    let AggregateText::Call { function, function_at, distinct, arguments, star, filter } =
        parse_aggregate(text).unwrap()
    else {
        panic!("{text} is a call")
    };
    assert_eq!((function.as_str(), function_at, distinct, star), ("quantile", 0..8, true, false));
    let error = arguments[0].bind(&mut TestScope).unwrap_err();
    assert_eq!((error.message.as_str(), error.at), ("unknown name load_ms", 18..25));
    assert_eq!(show(&arguments[1].bind(&mut TestScope).unwrap().eval(&TestRow).unwrap()), "0.95");
    assert!(!filter.unwrap().bind(&mut TestScope).unwrap().is_true(&TestRow).unwrap());

    let count = parse_aggregate(" count(*) ").unwrap();
    assert!(
        matches!(count, AggregateText::Call { star: true, distinct: false, filter: None, arguments, .. } if arguments.is_empty())
    );
    let unknown = parse_aggregate("cuont(*)").unwrap();
    assert!(matches!(unknown, AggregateText::Call { function, .. } if function == "cuont"));
}

#[test]
fn an_expression_over_aggregates_is_no_call() {
    for text in ["status / half", "round(status / half, 2)", "status", "coalesce(status, 0)"] {
        let AggregateText::Expression(parsed) = parse_aggregate(text).unwrap() else { panic!("{text} is no call") };
        assert!(parsed.bind(&mut TestScope).is_ok(), "{text}");
    }
    let error = parse_aggregate("count(*) / views").unwrap_err();
    assert_eq!(error.at, 0..5);
    let error = parse_aggregate("sum(x) OVER ()").unwrap_err();
    assert_eq!(error.message, "OVER is not available in an expression");
    assert_eq!(parse_aggregate("sum(x) FILTER (WHERE").unwrap_err().at, 20..20);
}

#[test]
fn depth_is_limited_but_length_is_not() {
    let nested = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
    assert!(parse(&nested(EXPRESSION_DEPTH_MAX - 1)).is_ok());
    let chain = |length: usize| vec!["1"; length].join(" + ");
    assert!(parse(&chain(EXPRESSION_DEPTH_MAX)).is_ok());
    for deep in [nested(EXPRESSION_DEPTH_MAX), nested(3_000), chain(EXPRESSION_DEPTH_MAX + 1), chain(5_000)] {
        assert_eq!(parse(&deep).unwrap_err().message, "the expression is nested more than 64 deep");
    }
    let list = vec!["status = 404"; 2_000].join(" OR ");
    assert_eq!(run(&format!("{list} OR status = 200")).map(|value| show(&value)), Ok("true".to_owned()));
    let list = vec!["7"; 4_000].join(", ");
    assert_eq!(run(&format!("status IN ({list})")).map(|value| show(&value)), Ok("false".to_owned()));
    let error = parse(&chain(EXPRESSION_TOKENS_MAX)).unwrap_err();
    assert_eq!(error.message, "the expression has 19999 words and signs, more than 10000");
}

/// Nothing that a config can hold may overflow the stack of a thread, or take seconds.
#[test]
fn absurd_texts_end_well_on_a_small_stack() {
    let mut texts = Vec::new();
    for count in [60, 400, 4_000] {
        for (open, close) in [
            ("(", ")"),
            ("NOT ", ""),
            ("- ", ""),
            ("CASE ", ""),
            ("CASE WHEN 1 THEN ", " END"),
            ("CAST(", " AS text)"),
            ("lower(", ")"),
            ("substr(", ", 1)"),
            ("position(", ")"),
            ("trim(", ")"),
            ("interval ", ""),
            ("x.", ""),
            ("extract(hour FROM ", ")"),
            ("1 + (", ")"),
            ("1 IN (", ")"),
            ("x[", "]"),
            ("1 BETWEEN ", " AND 1"),
            ("timestamp ", ""),
            ("floor(", ")"),
            ("EXISTS (", ")"),
            ("ARRAY[", "]"),
            ("{", "}"),
            ("'a' || (", ")"),
            ("(SELECT ", ")"),
            ("nothing(", ")"),
            ("count(", ")"),
            ("x[1:", "]"),
            ("{'a': ", "}"),
            ("WITH ", ""),
        ] {
            texts.push(format!("{}1{}", open.repeat(count), close.repeat(count)));
            texts.push(format!("{}1", open.repeat(count)));
        }
        for part in
            [" + 1", " AND 1", " || 1", " IS NULL", "::text", "[0]", ".x", " LIKE 1", " COLLATE x", " = 1", " - 1 OR 1"]
        {
            texts.push(format!("x{}", part.repeat(count)));
            texts.push(format!("1 + (x{}) AT TIME ZONE 'x'", part.repeat(count)));
            texts.push(format!("(x{}) SIMILAR TO 'x'", part.repeat(count)));
            texts.push(format!("(SELECT x{})", part.repeat(count)));
            texts.push(format!("nothing(ARRAY[x{}]) OVER ()", part.repeat(count)));
        }
    }
    let run = move || {
        for text in &texts {
            let _ = parse(text).and_then(|parsed| parsed.bind(&mut TestScope));
            let _ = parse_aggregate(text).is_ok();
        }
    };
    std::thread::Builder::new().stack_size(1024 * 1024).spawn(run).unwrap().join().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    /// Any soup of words ends in an expression or in an error whose place lies in the text.
    #[test]
    fn an_error_points_into_the_text(words in prop::collection::vec(prop::sample::select(SOUP), 1..12)) {
        let text = words.concat();
        let bound = parse(&text).and_then(|parsed| parsed.bind(&mut TestScope)).err();
        for error in [bound, parse_aggregate(&text).err()].into_iter().flatten() {
            prop_assert!(text.get(error.at.clone()).is_some(), "{text}: {error} at {:?}", error.at);
            prop_assert!(!error.message.is_empty());
        }
    }
}

const SOUP: &[&str] = &[
    "status ",
    "word",
    ".x",
    "[0]",
    "(",
    "(",
    ")",
    ")",
    " , ",
    "'é' ",
    "1 ",
    "0.5",
    " + ",
    " - ",
    " = ",
    " < ",
    " AND ",
    " OR ",
    " NOT ",
    " NULL ",
    " IS ",
    " IN ",
    " LIKE ",
    " BETWEEN ",
    "CASE ",
    " WHEN ",
    " THEN ",
    " ELSE ",
    " END ",
    "CAST(",
    " AS ",
    "text",
    "lower",
    "count",
    "*",
    "extract(",
    "hour",
    " FROM ",
    " || ",
    "::",
    "bigint",
    "\n",
    "-- é\n",
    "\"ö\"",
    " FILTER (WHERE ",
    "substr(",
    "trim(",
    "$1",
    "{",
    "}",
    ":",
    "timestamp ",
    "interval ",
    "SELECT ",
    " ESCAPE ",
    "'",
    ";",
];
