//! `date_trunc` and `extract`, in UTC.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Timelike, Utc};

use super::super::error::{ExprError, describe};
use super::super::node::Node;
use crate::event::Value;

/// What `date_trunc` cuts to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Unit {
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

/// What `extract` takes out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Part {
    Epoch,
    Milliseconds,
    Second,
    Minute,
    Hour,
    Day,
    Dow,
    IsoDow,
    Doy,
    Week,
    Month,
    Quarter,
    Year,
    IsoYear,
}

const MINUTE_MS: i64 = 60 * 1_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Weeks begin on Monday; the first in 1970 was the 5th of January.
const MONDAY_MS: i64 = 4 * DAY_MS;

impl Unit {
    pub const NAMES: [(&'static str, Self); 9] = [
        ("milliseconds", Self::Millisecond),
        ("second", Self::Second),
        ("minute", Self::Minute),
        ("hour", Self::Hour),
        ("day", Self::Day),
        ("week", Self::Week),
        ("month", Self::Month),
        ("quarter", Self::Quarter),
        ("year", Self::Year),
    ];
}

impl Part {
    pub const NAMES: [(&'static str, Self); 14] = [
        ("epoch", Self::Epoch),
        ("milliseconds", Self::Milliseconds),
        ("second", Self::Second),
        ("minute", Self::Minute),
        ("hour", Self::Hour),
        ("day", Self::Day),
        ("dow", Self::Dow),
        ("isodow", Self::IsoDow),
        ("doy", Self::Doy),
        ("week", Self::Week),
        ("month", Self::Month),
        ("quarter", Self::Quarter),
        ("year", Self::Year),
        ("isoyear", Self::IsoYear),
    ];

    /// Whether it can have a fraction.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Epoch | Self::Second)
    }
}

/// `date_trunc`
pub(in super::super) fn trunc<'a>(unit: Unit, call: &Node, value: &Value<'_>) -> Result<Value<'a>, ExprError> {
    let Some((ms, time)) = time(call, value)? else { return Ok(Value::Null) };
    let floor = |step: i64, offset: i64| Some(ms - (ms - offset).rem_euclid(step));
    let first_of = |month: u32| {
        let midnight = NaiveDate::from_ymd_opt(time.year(), month, 1)?.and_hms_opt(0, 0, 0)?;
        Some(midnight.and_utc().timestamp_millis())
    };
    let cut = match unit {
        Unit::Millisecond => Some(ms),
        Unit::Second => floor(1_000, 0),
        Unit::Minute => floor(MINUTE_MS, 0),
        Unit::Hour => floor(HOUR_MS, 0),
        Unit::Day => floor(DAY_MS, 0),
        Unit::Week => floor(7 * DAY_MS, MONDAY_MS),
        Unit::Month => first_of(time.month()),
        Unit::Quarter => first_of(time.month0() / 3 * 3 + 1),
        Unit::Year => first_of(1),
    };
    cut.map(Value::Time).ok_or_else(|| call.error(format!("out of range, with {}", describe(value))))
}

/// `extract`
pub(in super::super) fn extract<'a>(part: Part, call: &Node, value: &Value<'_>) -> Result<Value<'a>, ExprError> {
    let Some((ms, time)) = time(call, value)? else { return Ok(Value::Null) };
    let whole = match part {
        Part::Epoch => return Ok(Value::Float(ms as f64 / 1e3)),
        Part::Second => return Ok(Value::Float(ms.rem_euclid(MINUTE_MS) as f64 / 1e3)),
        Part::Milliseconds => ms.rem_euclid(MINUTE_MS),
        Part::Minute => i64::from(time.minute()),
        Part::Hour => i64::from(time.hour()),
        Part::Day => i64::from(time.day()),
        Part::Dow => i64::from(time.weekday().num_days_from_sunday()),
        Part::IsoDow => i64::from(time.weekday().number_from_monday()),
        Part::Doy => i64::from(time.ordinal()),
        Part::Week => i64::from(time.iso_week().week()),
        Part::Month => i64::from(time.month()),
        Part::Quarter => i64::from(time.month0() / 3 + 1),
        Part::Year => i64::from(time.year()),
        Part::IsoYear => i64::from(time.iso_week().year()),
    };
    Ok(Value::Int(whole))
}

/// Unix ms, and the same in the calendar; none where it is NULL.
fn time(call: &Node, value: &Value<'_>) -> Result<Option<(i64, NaiveDateTime)>, ExprError> {
    match value {
        Value::Null => Ok(None),
        Value::Time(ms) => match DateTime::<Utc>::from_timestamp_millis(*ms) {
            Some(time) => Ok(Some((*ms, time.naive_utc()))),
            None => Err(call.error(format!("out of range, with {ms} ms since 1970"))),
        },
        other => {
            Err(call.error(format!("a timestamp is needed, not {}; CAST(… AS timestamp) makes one", describe(other))))
        }
    }
}
