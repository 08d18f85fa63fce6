//! Event time.

use chrono::DateTime;

use super::Value;

/// 0001-01-01T00:00:00Z, unix ms.
pub const TIME_MIN_MS: i64 = -62_135_596_800_000;
/// 9999-12-31T23:59:59.999Z, unix ms.
pub const TIME_MAX_MS: i64 = 253_402_300_799_999;

/// The unit of a numeric time; where the config names none, magnitude decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeUnit {
    /// `s`
    Seconds,
    /// `ms`
    Millis,
    /// `us`
    Micros,
    /// `ns`
    Nanos,
}

impl TimeUnit {
    /// Seconds reach the year 5138 this way; of the finer units only a few years around 1970 are taken for another.
    fn by_magnitude(magnitude: u64) -> Self {
        match magnitude {
            ..100_000_000_000 => Self::Seconds,
            100_000_000_000..100_000_000_000_000 => Self::Millis,
            100_000_000_000_000..100_000_000_000_000_000 => Self::Micros,
            _ => Self::Nanos,
        }
    }

    /// A whole number of this unit in ms, rounded down.
    fn to_ms(self, amount: i128) -> i128 {
        match self {
            Self::Seconds => amount.saturating_mul(1_000),
            Self::Millis => amount,
            Self::Micros => amount.div_euclid(1_000),
            Self::Nanos => amount.div_euclid(1_000_000),
        }
    }
}

/// Event time of a value, unix ms; `None` where it is no time or outside the years 1–9999.
pub fn time_from_value(value: &Value<'_>, unit: Option<TimeUnit>) -> Option<i64> {
    match value {
        Value::Int(amount) => {
            let unit = unit.unwrap_or_else(|| TimeUnit::by_magnitude(amount.unsigned_abs()));
            in_range(unit.to_ms(i128::from(*amount)))
        }
        Value::Float(amount) => float_time(*amount, unit),
        Value::Time(ms) => in_range(i128::from(*ms)),
        Value::Text(text) => parse_time_text(text),
        Value::Null | Value::Bool(_) | Value::Json(_) => None,
    }
}

/// A number with a fraction, or one that was written with a point or an exponent.
fn float_time(amount: f64, unit: Option<TimeUnit>) -> Option<i64> {
    if !amount.is_finite() {
        return None;
    }
    // `as` drops the fraction and saturates, far outside the years that are accepted.
    let unit = unit.unwrap_or_else(|| TimeUnit::by_magnitude(amount.abs() as u64));
    let ms = match unit {
        TimeUnit::Seconds => seconds_to_ms(amount),
        _ => unit.to_ms(amount.floor() as i128),
    };
    in_range(ms)
}

/// 1431857103.123 is a float a little below what was written, so that plain rounding down would lose a millisecond:
/// where the float is the nearest one to a whole number of ms, that number was meant.
fn seconds_to_ms(seconds: f64) -> i128 {
    let scaled = seconds * 1_000.0;
    let nearest = scaled.round();
    if nearest / 1_000.0 == seconds { nearest as i128 } else { scaled.floor() as i128 }
}

/// RFC 3339 with `T` or a space; without an offset it is UTC. Unix ms, rounded down. A leap second is the last
/// millisecond before the next minute, so that no two minutes mix.
pub fn parse_time_text(text: &str) -> Option<i64> {
    // chrono also takes the typographic minus.
    if !text.is_ascii() {
        return None;
    }
    let behind_seconds = text.as_bytes().get(19..)?;
    let time = if behind_seconds.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') {
        DateTime::parse_from_rfc3339(&format!("{text}Z"))
    } else {
        DateTime::parse_from_rfc3339(text)
    }
    .ok()?;
    let ms = time.timestamp() * 1_000 + i64::from(time.timestamp_subsec_millis().min(999));
    in_range(i128::from(ms))
}

fn in_range(ms: i128) -> Option<i64> {
    i64::try_from(ms).ok().filter(|ms| (TIME_MIN_MS..=TIME_MAX_MS).contains(ms))
}

/// `YYYY-MM-DD HH:MM:SS[.mmm]`, UTC: the form of SQLite's own `datetime()`.
pub fn format_utc(ms: i64) -> String {
    // Times are in the years 1–9999, and window bounds near them; of what no calendar holds the number is shown.
    let Some(time) = DateTime::from_timestamp_millis(ms) else { return ms.to_string() };
    let form = if ms.rem_euclid(1_000) == 0 { "%Y-%m-%d %H:%M:%S" } else { "%Y-%m-%d %H:%M:%S%.3f" };
    time.format(form).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2015-05-17T10:05:03.123Z
    const MOMENT: i64 = 1_431_857_103_123;

    fn number(amount: i64) -> Option<i64> {
        time_from_value(&Value::Int(amount), None)
    }

    fn float(amount: f64) -> Option<i64> {
        time_from_value(&Value::Float(amount), None)
    }

    #[test]
    fn magnitude_tells_the_unit() {
        assert_eq!(number(1_431_857_103), Some(MOMENT - 123));
        assert_eq!(number(MOMENT), Some(MOMENT));
        assert_eq!(number(MOMENT * 1_000 + 999), Some(MOMENT));
        assert_eq!(number(MOMENT * 1_000_000 + 999_999), Some(MOMENT));
        // The edges, on both sides of zero.
        assert_eq!(number(99_999_999_999), Some(99_999_999_999_000));
        assert_eq!(number(100_000_000_000), Some(100_000_000_000));
        assert_eq!(number(99_999_999_999_999), Some(99_999_999_999_999));
        assert_eq!(number(100_000_000_000_000), Some(100_000_000_000));
        assert_eq!(number(99_999_999_999_999_999), Some(99_999_999_999_999));
        assert_eq!(number(100_000_000_000_000_000), Some(100_000_000_000));
        assert_eq!(number(-100_000_000_000), Some(-100_000_000_000));
        assert_eq!(number(-99_999_999_999), None, "before the year 1");
    }

    #[test]
    fn numbers_are_rounded_down_also_before_1970() {
        assert_eq!(number(-100_000_000_000_001), Some(-100_000_000_001));
        assert_eq!(number(-100_000_000_000_000_001), Some(-100_000_000_001));
        assert_eq!(float(-0.0005), Some(-1));
        assert_eq!(float(0.0015), Some(1));
        assert_eq!(float(-1.0), Some(-1_000));
        assert_eq!(float(1_431_857_103_123.9), Some(MOMENT));
        assert_eq!(float(-1_431_857_103_123.1), Some(-MOMENT - 1));
        assert_eq!(float(1.431857103e9), Some(MOMENT - 123));
    }

    #[test]
    fn seconds_with_a_fraction_keep_their_milliseconds() {
        for ms in 0..1_000 {
            let seconds: f64 = format!("1431857103.{ms:03}").parse().unwrap();
            assert_eq!(float(seconds), Some(1_431_857_103_000 + ms), "{seconds}");
            let few: f64 = format!("{}.{ms:03}", ms % 7).parse().unwrap();
            assert_eq!(float(few), Some(ms % 7 * 1_000 + ms), "{few}");
        }
        assert_eq!(float(1_431_857_103.123_9), Some(MOMENT));
        assert_eq!(float(-1_431_857_103.123_9), Some(-MOMENT - 1));
    }

    #[test]
    fn a_unit_that_is_given_counts_whatever_the_magnitude() {
        let read = |unit| time_from_value(&Value::Int(-1_500_000_001), Some(unit));
        assert_eq!(read(TimeUnit::Seconds), Some(-1_500_000_001_000));
        assert_eq!(read(TimeUnit::Millis), Some(-1_500_000_001));
        assert_eq!(read(TimeUnit::Micros), Some(-1_500_001));
        assert_eq!(read(TimeUnit::Nanos), Some(-1_501));
        assert_eq!(time_from_value(&Value::Float(1.5), Some(TimeUnit::Millis)), Some(1));
    }

    #[test]
    fn text_is_rfc_3339_with_an_optional_offset() {
        for text in [
            "2015-05-17T10:05:03.123Z",
            "2015-05-17t10:05:03.123z",
            "2015-05-17 10:05:03.123",
            "2015-05-17T10:05:03.123",
            "2015-05-17T10:05:03.1239999999999Z",
            "2015-05-17 12:05:03.123+02:00",
            "2015-05-16T23:35:03.123-10:30",
            "2015-05-17T10:05:03.123-00:00",
        ] {
            assert_eq!(parse_time_text(text), Some(MOMENT), "{text}");
        }
        assert_eq!(parse_time_text("1969-12-31T23:59:59.9995Z"), Some(-1));
        assert_eq!(parse_time_text("2016-12-31T23:59:60Z"), Some(1_483_228_799_999));
        assert_eq!(parse_time_text("2016-12-31T23:59:60.5Z"), Some(1_483_228_799_999));
    }

    #[test]
    fn other_text_is_no_time() {
        for text in [
            "",
            "2015-05-17",
            "2015-05-17T10:05",
            "2015-05-17T10:05Z",
            "2015-05-17T10:05:03.",
            "2015-05-17T10:05:03.Z",
            "2015-05-17T10:05:03,5Z",
            "2015-05-17T10:05:03.1.2",
            "2015-05-17T10:05:03ZZ",
            "2015-05-17T10:05:03 Z",
            "2015-05-17T10:05:03+02",
            "2015-05-17T10:05:03+0200",
            "2015-05-17T10:05:03\u{2212}02:00",
            "2015-05-17T10:05:03+02:60",
            "2015-05-17_10:05:03Z",
            "2015-05-17T10:05:61Z",
            "2015-05-17T24:00:00Z",
            "2015-02-29T10:05:03Z",
            "2015-5-17T10:05:03Z",
            "15-05-17T10:05:03Z",
            " 2015-05-17T10:05:03Z",
            "2015-05-17T10:05:03Z ",
            "0000-12-31T23:59:59Z",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-00:01",
            "12015-05-17T10:05:03Z",
            "1431857103",
            "now",
        ] {
            assert_eq!(parse_time_text(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_years_1_to_9999_are_times_and_nothing_else_is() {
        assert_eq!(parse_time_text("0001-01-01T00:00:00Z"), Some(TIME_MIN_MS));
        assert_eq!(parse_time_text("9999-12-31T23:59:59.999Z"), Some(TIME_MAX_MS));
        let ms = Some(TimeUnit::Millis);
        assert_eq!(time_from_value(&Value::Int(TIME_MIN_MS), ms), Some(TIME_MIN_MS));
        assert_eq!(time_from_value(&Value::Int(TIME_MIN_MS - 1), ms), None);
        assert_eq!(time_from_value(&Value::Int(TIME_MAX_MS + 1), ms), None);
        assert_eq!(time_from_value(&Value::Int(i64::MAX), Some(TimeUnit::Seconds)), None);
        assert_eq!(time_from_value(&Value::Time(MOMENT), Some(TimeUnit::Seconds)), Some(MOMENT));
        assert_eq!(time_from_value(&Value::Time(TIME_MAX_MS + 1), None), None);
        for none in [
            Value::Null,
            Value::Bool(true),
            Value::Json("1431857103".into()),
            Value::Float(1e300),
            Value::Float(f64::NAN),
            Value::Float(f64::INFINITY),
        ] {
            assert_eq!(time_from_value(&none, None), None, "{none:?}");
        }
    }

    #[test]
    fn times_are_shown_as_sqlite_shows_them() {
        assert_eq!(format_utc(MOMENT), "2015-05-17 10:05:03.123");
        assert_eq!(format_utc(MOMENT - 123), "2015-05-17 10:05:03");
        assert_eq!(format_utc(-1), "1969-12-31 23:59:59.999");
        assert_eq!(format_utc(TIME_MIN_MS), "0001-01-01 00:00:00");
        assert_eq!(format_utc(TIME_MAX_MS), "9999-12-31 23:59:59.999");
        assert_eq!(format_utc(i64::MAX), "9223372036854775807");
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_the_same(ms in TIME_MIN_MS..=TIME_MAX_MS, whole in any::<bool>()) {
            let ms = if whole { ms - ms.rem_euclid(1_000) } else { ms };
            prop_assert_eq!(parse_time_text(&format_utc(ms)), Some(ms));
            prop_assert_eq!(time_from_value(&Value::Int(ms), Some(TimeUnit::Millis)), Some(ms));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,30}|[0-9TtZz:. +\\-]{15,32}") {
            if let Some(ms) = parse_time_text(&text) {
                prop_assert_eq!(in_range(i128::from(ms)), Some(ms));
            }
        }
    }
}
