//! What expressions give.

use super::*;

#[test]
fn literals_and_fields() {
    check(
        r#"
        42 => 42
        -9223372036854775808 => -9223372036854775808
        -(5) => -5
        +5 => 5
        1e3 => 1000.0
        .5 => 0.5
        'it''s' => 'it's'
        'ends in \' => 'ends in \'
        TRUE => true
        null => NULL
        status => 200
        Word => 'another field'
        word => 'abc'
        user.country => 'DE'
        items[0].sku => 'A-1'
        "odd name"."a""b" => 'odd'
        "status" => 200
        broken => ! broken: text with a lone surrogate cannot be used
        coalesce(1, broken) => 1
        "#,
    );
}

#[test]
fn paths_go_on_into_computed_json() {
    check(
        r#"
        list[0].sku => 'B-2'
        list[0].n + 1 => 4
        list[0].f => 1.5
        list[0].deep => json {"x":[true,null]}
        list[0].deep.x[0] => true
        list[0].deep.x[1] => NULL
        list[0].deep.x[2] => NULL
        list[0].deep.x[1] IS NULL => true
        list[1] => 'text'
        list[1].sku => NULL
        list.sku => NULL
        word.sku => NULL
        "#,
    );
}

#[test]
fn what_is_not_in_the_line() {
    check(
        r#"
        event_time() => @1700000000123
        INGEST_TIME() => @1700000005000
        position() => 7
        producer() => 'shop-1'
        event_time() < ingest_time() => true
        at = event_time() => true
        "#,
    );
}

#[test]
fn arithmetic_keeps_whole_numbers_whole() {
    check(
        r#"
        1 + 2 * 3 => 7
        (1 + 2) * 3 => 9
        7 - 10 => -3
        10 - 3 - 2 => 5
        -status * 2 => -400
        - -3 => 3
        1 + 0.5 => 1.5
        7 / 2 => 3.5
        6 / 3 => 2.0
        1 / 0 => NULL
        1 / 0.0 => NULL
        1.5 % 0 => NULL
        7 % 0 => NULL
        7 % 3 => 1
        -7 % 3 => -1
        7.5 % 2 => 1.5
        mod(-7, 3) => -1
        small % -1 => 0
        div(7, 2) => 3
        div(-7, 2) => -3
        div(7, 0) => NULL
        div(7.5, 2) => 3.0
        nothing + 1 => NULL
        1 / nothing => NULL
        -nothing => NULL
        -(half - half) => 0.0
        big - 1 + 1 => 9223372036854775807
        "#,
    );
}

#[test]
fn what_has_no_64_bits_is_an_error() {
    check(
        r#"
        big + 1 => ! big + 1: out of range, with 9223372036854775807 (bigint) and 1 (bigint)
        1 + small * 2 => ! small * 2: out of range, with -9223372036854775808 (bigint) and 2 (bigint)
        small - 1 => ! small - 1: out of range, with -9223372036854775808 (bigint) and 1 (bigint)
        -small => ! -small: out of range, with -9223372036854775808 (bigint)
        abs(small) => ! abs(small): out of range, with -9223372036854775808 (bigint)
        div(small, -1) => ! div(small, -1): out of range, with -9223372036854775808 (bigint) and -1 (bigint)
        huge * 10 => ! huge * 10: out of range, with 1e308 (double precision) and 10 (bigint)
        huge / 1e-10 => ! huge / 1e-10: out of range, with 1e308 (double precision) and 1e-10 (double precision)
        round(big, -1) => ! round(big, -1): out of range, with 9223372036854775807 (bigint)
        "#,
    );
}

#[test]
fn text_never_becomes_a_number_by_itself() {
    check(
        r#"
        'a' + 1 => ! 'a' + 1: 'a' (text) is no number; CAST makes one of text
        2 * (1 + word) => ! 1 + word: 'abc' (text) is no number; CAST makes one of text
        -url => ! -url: '/Shop/Item?id=7&x=ä' (text) is no number; CAST makes one of text
        yes + 1 => ! yes + 1: true (boolean) is no number; CAST makes one of text
        abs(word) => ! abs(word): 'abc' (text) is no number; CAST makes one of text
        lower(status) => ! lower(status): text is needed, not 200 (bigint); CAST makes it text
        substr(word, half) => ! substr(word, half): a whole number is needed, not 0.5 (double precision)
        status LIKE '2%' => ! status LIKE '2%': text is needed, not 200 (bigint); CAST makes it text
        NOT status => ! status: a condition is true or false, not 200 (bigint)
        "#,
    );
}

#[test]
fn values_are_equal_if_type_and_value_are() {
    check(
        r#"
        200 = 200.0 => true
        status = '200' => false
        status <> '200' => true
        status != 200 => false
        yes = 1 => false
        9007199254740993 = 9007199254740992.0 => false
        nothing = nothing => NULL
        nothing <> 1 => NULL
        nothing IS DISTINCT FROM NULL => false
        nothing IS DISTINCT FROM 1 => true
        1 IS DISTINCT FROM 1.0 => false
        1 IS NOT DISTINCT FROM '1' => false
        nothing IS NOT DISTINCT FROM nothing => true
        status IN (1, 200) => true
        status IN (1, '200') => false
        status IN (1, nothing) => NULL
        status NOT IN (1, nothing) => NULL
        status NOT IN (1, 2) => true
        status IN (200, nothing) => true
        nothing IN (1) => NULL
        nullif(status, 200.0) => NULL
        nullif(status, '200') => 200
        nullif(nothing, 1) => NULL
        nullif(1, nothing) => 1
        "#,
    );
}

#[test]
fn only_values_of_one_type_have_an_order() {
    check(
        r#"
        1 < 1.5 => true
        'B' < 'a' => true
        2 >= 2 => true
        2 > 2 => false
        2 <= 1 => false
        no < yes => true
        nothing < 1 => NULL
        'a' < nothing => NULL
        status < word => ! status < word: 200 (bigint) and 'abc' (text) have no order; CAST one of them
        status BETWEEN 200 AND 299 => true
        status BETWEEN 201 AND 299 => false
        status NOT BETWEEN 201 AND 299 => true
        status BETWEEN nothing AND 100 => false
        status BETWEEN nothing AND 300 => NULL
        nothing BETWEEN 1 AND 2 => NULL
        status BETWEEN 1 AND word => ! status BETWEEN 1 AND word: 200 (bigint) and 'abc' (text) have no order; CAST one of them
        least(3, nothing, 1.5) => 1.5
        greatest('a', 'c', 'b') => 'c'
        greatest(nothing, nothing) => NULL
        least(status, word) => ! least(status, word): 200 (bigint) and 'abc' (text) have no order; CAST one of them
        "#,
    );
}

#[test]
fn and_or_not_know_three_values() {
    check(
        r#"
        yes AND nothing => NULL
        no AND nothing => false
        nothing AND no => false
        yes OR nothing => true
        nothing OR yes => true
        no OR nothing => NULL
        NOT nothing => NULL
        NOT yes => false
        NOT no AND no => false
        NOT 1 = 2 => true
        yes OR no AND no => true
        nothing IS NULL => true
        status IS NOT NULL => true
        nothing IS TRUE => false
        nothing IS NOT TRUE => true
        no IS FALSE => true
        nothing IS NOT FALSE => true
        nothing IS UNKNOWN => true
        1 = 1 IS TRUE => true
        "#,
    );
}

#[test]
fn and_or_case_coalesce_stop_early() {
    check(
        r#"
        no AND 'a' + 1 = 2 => false
        yes OR 'a' + 1 = 2 => true
        nothing AND 'a' + 1 = 2 => ! 'a' + 1: 'a' (text) is no number; CAST makes one of text
        'a' + 1 = 2 AND no => ! 'a' + 1: 'a' (text) is no number; CAST makes one of text
        coalesce(nothing, 5, 'a' + 1) => 5
        coalesce(nothing, nothing) => NULL
        CASE WHEN yes THEN 1 WHEN 'a' + 1 = 2 THEN 2 ELSE 'a' + 1 END => 1
        CASE WHEN nothing THEN 1 WHEN no THEN 2 END => NULL
        CASE WHEN no THEN 1 ELSE 3 END => 3
        CASE status WHEN '200' THEN 1 WHEN 200.0 THEN 2 ELSE 'a' + 1 END => 2
        CASE nothing WHEN nothing THEN 1 ELSE 2 END => 2
        CASE WHEN status THEN 1 END => ! status: a condition is true or false, not 200 (bigint)
        "#,
    );
}

#[test]
fn like_and_regexp() {
    check(
        r#"
        url LIKE '/Shop/%' => true
        url LIKE '/shop/%' => false
        url ILIKE '/shop/%Ä' => true
        url NOT LIKE '%x' => true
        nothing LIKE '%' => NULL
        url LIKE nothing => NULL
        '50%' LIKE '50!%' ESCAPE '!' => true
        '50x' LIKE '50!%' ESCAPE '!' => false
        '50\' LIKE '50\' ESCAPE '' => true
        word LIKE substr(word, 1, 2) || '_' => true
        word NOT ILIKE upper(word) => false
        word LIKE word || '\' => ! word LIKE word || '\': the pattern 'abc\' (text) ends with the escape character
        regexp_like(url, '^/[A-Z]\w+/') => true
        regexp_like(url, '^/shop') => false
        regexp_like(url, '^/shop', 'i') => true
        regexp_like(nothing, 'x') => NULL
        regexp_like(status, '2..') => ! regexp_like(status, '2..'): text is needed, not 200 (bigint); CAST makes it text
        "#,
    );
}

#[test]
fn functions_of_text() {
    check(
        r#"
        lower('ÄB c') => 'äb c'
        upper('straße') => 'STRASSE'
        lower(nothing) => NULL
        trim('  a b ') => 'a b'
        ltrim(' a ') => 'a '
        rtrim(' a ') => ' a'
        trim(both 'xy' from 'xyaxy') => 'a'
        trim(leading 'x' from 'xxa') => 'a'
        rtrim('axx', 'x') => 'a'
        length('aä€') => 3
        length('') => 0
        substr('aä€d', 2) => 'ä€d'
        substr('aä€d', 2, 2) => 'ä€'
        substr('abc', 0, 2) => 'a'
        substr('abc', -1, 3) => 'a'
        substr('abc', 5) => ''
        substr('abc', 2, 0) => ''
        substr('abc', 2, 9223372036854775807) => 'bc'
        substring('abc' from 2 for 1) => 'b'
        substring('abc' for 2) => 'ab'
        substring('abc', 2) => 'bc'
        substr('abc', 1, -1) => ! substr('abc', 1, -1): the count is negative: -1 (bigint)
        split_part(url, '?', 1) => '/Shop/Item'
        split_part('a,b,c', ',', -1) => 'c'
        split_part('a,b,c', ',', -3) => 'a'
        split_part('a,b,c', ',', -4) => ''
        split_part('a,b,c', ',', 4) => ''
        split_part('a,b,', ',', 3) => ''
        split_part('abc', '', 1) => 'abc'
        split_part('abc', '', 2) => ''
        split_part('a::b', '::', 2) => 'b'
        split_part('a', ',', 0) => ! split_part('a', ',', 0): parts are counted from 1, from the end with -1; there is no part 0
        replace('aXbX', 'X', '--') => 'a--b--'
        replace('abc', '', 'x') => 'abc'
        replace('abc', 'b', '') => 'ac'
        concat('a', nothing, 1, 2.0, yes) => 'a12true'
        concat(nothing) => ''
        'a' || 1 || 0.5 => 'a10.5'
        'a' || nothing || 'b' => NULL
        'sum: ' || 1 + 2 => 'sum: 3'
        'a' || 'b' = 'ab' => true
        "#,
    );
}

#[test]
fn functions_of_numbers() {
    check(
        r#"
        abs(-5) => 5
        abs(-0.5) => 0.5
        round(2.5) => 3.0
        round(-2.5) => -3.0
        round(1.005, 2) => 1.01
        round(1250, -2) => 1300
        round(7) => 7
        round(half, nothing) => NULL
        floor(-0.5) => -1.0
        ceil(-0.5) => 0.0
        ceil(0.1) => 1.0
        floor(7) => 7
        ceil(nothing) => NULL
        "#,
    );
}

#[test]
fn functions_of_time() {
    check(
        r#"
        date_trunc('hour', at) => @1699999200000
        date_trunc('DAY', at) => @1699920000000
        date_trunc('week', at) => @1699833600000
        date_trunc('month', at) => @1698796800000
        date_trunc('quarter', at) => @1696118400000
        date_trunc('year', at) => @1672531200000
        date_trunc('second', at) => @1700000000000
        date_trunc('minute', at) => @1699999980000
        date_trunc('milliseconds', at) => @1700000000123
        date_trunc('day', nothing) => NULL
        date_trunc('day', word) => ! date_trunc('day', word): a timestamp is needed, not 'abc' (text); CAST(… AS timestamp) makes one
        extract(year FROM at) => 2023
        extract(MONTH FROM at) => 11
        extract(day FROM at) => 14
        extract(hour FROM at) => 22
        extract(minute FROM at) => 13
        extract(second FROM at) => 20.123
        extract(milliseconds FROM at) => 20123
        extract(epoch FROM at) => 1700000000.123
        extract(dow FROM at) => 2
        extract(isodow FROM at) => 2
        extract(doy FROM at) => 318
        extract(week FROM at) => 46
        extract(isoyear FROM at) => 2023
        extract(quarter FROM at) => 4
        extract(hour FROM nothing) => NULL
        "#,
    );
}

#[test]
fn time_before_1970_is_cut_downwards() {
    let node = |value| node::Node { kind: node::Kind::Literal(value), sql: "x".into() };
    let cut = |unit, ms| functions::trunc(unit, &node(Value::Null), &Value::Time(ms)).map(|value| show(&value));
    assert_eq!(cut(functions::Unit::Hour, -1), Ok("@-3600000".to_owned()));
    assert_eq!(cut(functions::Unit::Second, -1), Ok("@-1000".to_owned()));
    assert_eq!(cut(functions::Unit::Week, -1), Ok("@-259200000".to_owned()));
    assert_eq!(cut(functions::Unit::Year, -1), Ok("@-31536000000".to_owned()));
    assert!(cut(functions::Unit::Year, i64::MAX).is_err());
}

#[test]
fn casts_follow_postgresql() {
    check(
        r#"
        CAST(digits AS bigint) => 42
        CAST('-7' AS integer) => -7
        CAST('1.5' AS bigint) => ! CAST('1.5' AS bigint): '1.5' (text) is no bigint
        CAST('' AS bigint) => ! CAST('' AS bigint): '' (text) is no bigint
        CAST('9223372036854775808' AS bigint) => ! CAST('9223372036854775808' AS bigint): '9223372036854775808' (text) is out of range for bigint
        CAST(2.5 AS bigint) => 2
        CAST(3.5 AS bigint) => 4
        CAST(-2.5 AS bigint) => -2
        CAST(huge AS bigint) => ! CAST(huge AS bigint): 1e308 (double precision) is out of range for bigint
        CAST(9223372036854775807.0 AS bigint) => ! CAST(9223372036854775807.0 AS bigint): 9.223372036854776e18 (double precision) is out of range for bigint
        CAST(-9223372036854775808.0 AS bigint) => -9223372036854775808
        CAST(yes AS bigint) => 1
        CAST(no AS bigint) => 0
        CAST(list AS bigint) => ! CAST(list AS bigint): [{"sku":"B-2","n":3,"f":1.5,"deep":{"x":[true,null]}},"text"] (json) is no bigint
        CAST(' 1e3 ' AS double precision) => 1000.0
        CAST(1 AS double) => 1.0
        CAST('x' AS float) => ! CAST('x' AS float): 'x' (text) is no finite number
        CAST('nan' AS float) => ! CAST('nan' AS float): 'nan' (text) is no finite number
        CAST('1e400' AS float) => ! CAST('1e400' AS float): '1e400' (text) is out of range for double precision
        CAST('7' AS numeric) => 7
        CAST('7.5' AS decimal) => 7.5
        CAST(half AS numeric) => 0.5
        CAST('99999999999999999999' AS numeric) => ! CAST('99999999999999999999' AS numeric): '99999999999999999999' (text) is out of range for bigint
        CAST(status AS text) => '200'
        CAST(2.0 AS text) => '2'
        CAST(0.1 AS varchar) => '0.1'
        CAST(yes AS text) => 'true'
        CAST(list AS text) => '[{"sku":"B-2","n":3,"f":1.5,"deep":{"x":[true,null]}},"text"]'
        CAST(nothing AS bigint) => NULL
        CAST(NULL AS timestamp) => NULL
        CAST(' T' AS boolean) => true
        CAST('of' AS boolean) => false
        CAST('yE' AS boolean) => true
        CAST('n' AS boolean) => false
        CAST('o' AS boolean) => ! CAST('o' AS boolean): 'o' (text) is no boolean
        CAST('' AS boolean) => ! CAST('' AS boolean): '' (text) is no boolean
        CAST(2 AS boolean) => true
        CAST(half AS boolean) => ! CAST(half AS boolean): 0.5 (double precision) is no boolean
        CAST(at AS timestamptz) => @1700000000123
        CAST(yes AS timestamp) => ! CAST(yes AS timestamp): true (boolean) is no timestamp
        TRY_CAST('x' AS bigint) => NULL
        TRY_CAST('8' AS bigint) => 8
        TRY_CAST('a' + 1 AS bigint) => ! 'a' + 1: 'a' (text) is no number; CAST makes one of text
        '5'::bigint + 1 => 6
        "#,
    );
}

#[test]
fn texts_and_numbers_become_timestamps() {
    check(
        r#"
        CAST('2023-11-14T22:13:20.123Z' AS timestamp) => @1700000000123
        timestamp '2023-11-14 22:13:20' => @1700000000000
        CAST(1700000000 AS timestamp) => @1700000000000
        CAST(1700000000123 AS timestamp) => @1700000000123
        CAST('yesterday' AS timestamp) => ! CAST('yesterday' AS timestamp): 'yesterday' (text) is no timestamp
        CAST(at AS text) => '2023-11-14 22:13:20.123'
        at > CAST('2023-11-14' || ' 00:00:00' AS timestamp) => true
        "#,
    );
}

#[test]
fn a_text_has_a_largest_size() {
    let long = "x".repeat(1_000);
    let expr = format!("replace(replace('{long}', 'x', '{long}'), 'x', '{long}')");
    let message = run(&expr).unwrap_err();
    assert!(message.ends_with("the text would have 1000000000 bytes, more than 1048576"), "{message}");
    let twice = format!("length(replace('{long}', 'x', '{long}') || '{}')", "y".repeat(48_576));
    assert_eq!(run(&twice).map(|value| show(&value)), Ok("1048576".to_owned()));
    let more = format!("replace('{long}', 'x', '{long}') || '{}'", "y".repeat(48_577));
    assert!(run(&more).is_err());
    assert!(run(&format!("concat(replace('{long}', 'x', '{long}'), '{}')", "y".repeat(48_577))).is_err());
}

#[test]
fn a_condition_is_true_only_where_it_is_true() {
    let is_true = |text: &str| bind(text).unwrap().is_true(&TestRow);
    assert_eq!(is_true("status = 200"), Ok(true));
    assert_eq!(is_true("status = 201"), Ok(false));
    assert_eq!(is_true("nothing = 201"), Ok(false));
    assert_eq!(is_true("yes"), Ok(true));
    assert_eq!(is_true("word").unwrap_err().message, "a condition is true or false, not 'abc' (text)");
}

#[test]
fn what_changes_nothing_copies_nothing() {
    use std::borrow::Cow;
    for text in ["lower('/shop')", "upper('ÄB')", "trim(' a ')", "substr('abc', 2)", "split_part('a?b', '?', 1)", "'x'"]
    {
        let expr = bind(text).unwrap();
        let value = expr.eval(&TestRow).unwrap();
        assert!(matches!(value, Value::Text(Cow::Borrowed(_))), "{text} gives {value:?}");
    }
}
