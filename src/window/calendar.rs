//! Calendar windows: hours, days, weeks (ISO 8601) and months of a time zone, with the days on which its clocks change.

use chrono::{
    DateTime, Datelike, Days, LocalResult, Months, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone, Utc,
};
use chrono_tz::Tz;

/// A calendar's unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CalendarUnit {
    /// By the clock of the zone: one that comes twice is two windows.
    Hour,
    /// From midnight to midnight, or to the first moment of the day where clocks leave midnight out.
    Day,
    /// From Monday on.
    Week,
    /// From the first on.
    Month,
}

impl CalendarUnit {
    /// As a config writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }
}

/// Windows by the calendar of a time zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Calendar {
    /// What each window is.
    pub unit: CalendarUnit,
    /// Whose clocks.
    pub zone: Tz,
}

const HOUR_MS: i64 = 3_600_000;
/// No clock differs from UTC by as much.
const OFFSET_MS_MAX: i64 = 26 * HOUR_MS;
/// Times are held within these years, which every time of an event is.
const YEARS: std::ops::RangeInclusive<i32> = -1..=10_001;

impl Calendar {
    /// The window that a time falls into: `[start, end)`, unix ms.
    pub fn span_of(&self, time: i64) -> (i64, i64) {
        let time = bounded(time);
        if self.unit == CalendarUnit::Hour {
            return self.hour_of(time);
        }
        let mut first = self.first_of(self.local(time).date());
        // Where clocks go back over midnight the local date is, for a while, that of the window before.
        loop {
            let next = self.next(first);
            let (start, end) = (self.beginning(first), self.beginning(next));
            if time < start {
                first = self.first_of(first.pred_opt().unwrap_or(first));
            } else if time >= end {
                first = next;
            } else {
                return (start, end);
            }
        }
    }

    /// What the window that begins then is called: `2026-10-25T02+02:00`, `2026-11-21`, `2026-W47`, `2026-11`.
    pub fn period(&self, start: i64) -> String {
        let format = match self.unit {
            CalendarUnit::Hour => "%Y-%m-%dT%H%:z",
            CalendarUnit::Day => "%Y-%m-%d",
            CalendarUnit::Week => "%G-W%V",
            CalendarUnit::Month => "%Y-%m",
        };
        utc(bounded(start)).with_timezone(&self.zone).format(format).to_string()
    }

    /// An hour of the local clock, cut where that clock is set.
    fn hour_of(&self, time: i64) -> (i64, i64) {
        let start = time - self.local(time).and_utc().timestamp_millis().rem_euclid(HOUR_MS);
        let end = start + HOUR_MS;
        let offset = self.offset_ms(time);
        let same = |at: i64| self.offset_ms(at) == offset;
        let start = if same(start) { start } else { first_where(start, time, same) };
        let end = if same(end - 1) { end } else { first_where(time, end, |at| !same(at)) };
        (start, end)
    }

    /// The first moment of a day.
    fn beginning(&self, day: NaiveDate) -> i64 {
        let midnight = day.and_time(NaiveTime::MIN);
        match self.zone.from_local_datetime(&midnight) {
            LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => at.timestamp_millis(),
            // Clocks leave it out.
            LocalResult::None => {
                let about = midnight.and_utc().timestamp_millis();
                first_where(about - OFFSET_MS_MAX, about + OFFSET_MS_MAX, |at| self.local(at) >= midnight)
            }
        }
    }

    /// The first day of the window that a day is in.
    fn first_of(&self, day: NaiveDate) -> NaiveDate {
        let back = match self.unit {
            CalendarUnit::Hour | CalendarUnit::Day => 0,
            CalendarUnit::Week => day.weekday().num_days_from_monday(),
            CalendarUnit::Month => day.day0(),
        };
        day - Days::new(u64::from(back))
    }

    /// The first day of the window that follows.
    fn next(&self, first: NaiveDate) -> NaiveDate {
        match self.unit {
            CalendarUnit::Hour | CalendarUnit::Day => first + Days::new(1),
            CalendarUnit::Week => first + Days::new(7),
            CalendarUnit::Month => first + Months::new(1),
        }
    }

    fn local(&self, time: i64) -> NaiveDateTime {
        utc(time).with_timezone(&self.zone).naive_local()
    }

    fn offset_ms(&self, time: i64) -> i64 {
        i64::from(self.zone.offset_from_utc_datetime(&utc(time).naive_utc()).fix().local_minus_utc()) * 1_000
    }
}

/// The first moment of `from..to` (or `to`) where a condition holds, which holds from there on.
fn first_where(mut from: i64, mut to: i64, holds: impl Fn(i64) -> bool) -> i64 {
    while from < to {
        let middle = from + (to - from) / 2;
        if holds(middle) {
            to = middle;
        } else {
            from = middle + 1;
        }
    }
    to
}

fn bounded(time: i64) -> i64 {
    let year = |year| NaiveDate::from_ymd_opt(year, 1, 1).unwrap_or_default();
    let at = |year: NaiveDate| year.and_time(NaiveTime::MIN).and_utc().timestamp_millis();
    time.clamp(at(year(*YEARS.start())), at(year(*YEARS.end())))
}

/// Of a time that is `bounded`, or a few days beyond.
fn utc(time: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::parse_time_text;

    fn at(text: &str) -> i64 {
        parse_time_text(text).unwrap()
    }

    /// The windows from one time to another, each with its name and length in minutes.
    fn windows(unit: CalendarUnit, zone: Tz, from: &str, to: &str) -> Vec<(String, i64)> {
        let calendar = Calendar { unit, zone };
        let (mut time, to, mut found) = (at(from), at(to), Vec::new());
        while time < to {
            let (start, end) = calendar.span_of(time);
            assert!(start <= time && time < end, "{start}..{end} at {time}");
            assert!([start, end - 1, start + (end - start) / 2].iter().all(|at| calendar.span_of(*at) == (start, end)));
            found.push((calendar.period(start), (end - start) / 60_000));
            time = end;
        }
        found
    }

    #[test]
    fn days_on_which_clocks_change_have_23_and_25_hours() {
        let cases = [
            (Tz::Europe__Berlin, "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", "2026-03-29", 23),
            (Tz::Europe__Berlin, "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", "2026-10-25", 25),
            (Tz::America__New_York, "2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z", "2026-03-08", 23),
            (Tz::America__New_York, "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z", "2026-11-01", 25),
            (Tz::Asia__Kolkata, "2026-06-01T18:30:00Z", "2026-06-02T18:30:00Z", "2026-06-02", 24),
            // Half an hour.
            (Tz::Australia__Lord_Howe, "2026-04-04T13:00:00Z", "2026-04-05T13:30:00Z", "2026-04-05", 24),
        ];
        for (zone, from, to, day, hours) in cases {
            let minutes = (at(to) - at(from)) / 60_000;
            assert_eq!(windows(CalendarUnit::Day, zone, from, to), [(day.to_owned(), minutes)]);
            let of_day = windows(CalendarUnit::Hour, zone, from, to);
            assert_eq!(of_day.iter().map(|(_, minutes)| minutes).sum::<i64>(), minutes);
            assert_eq!(minutes / 60, hours);
            let mut names: Vec<&String> = of_day.iter().map(|(name, _)| name).collect();
            names.dedup();
            assert_eq!(names.len(), of_day.len(), "{names:?}");
        }
        let twice = windows(CalendarUnit::Hour, Tz::Europe__Berlin, "2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z");
        assert_eq!(twice, [("2026-10-25T02+02:00".to_owned(), 60), ("2026-10-25T02+01:00".to_owned(), 60)]);
        let half =
            windows(CalendarUnit::Hour, Tz::Australia__Lord_Howe, "2026-04-04T14:00:00Z", "2026-04-04T15:30:00Z");
        assert_eq!(half, [("2026-04-05T01+11:00".to_owned(), 60), ("2026-04-05T01+10:30".to_owned(), 30)]);
    }

    #[test]
    fn clocks_that_leave_midnight_out_or_go_back_over_it_make_no_hole() {
        // Beirut: no midnight on 2026-03-29. Saint John's, 2006: back from 00:01 to 23:01. Apia: no 2011-12-30 at all.
        let beirut = windows(CalendarUnit::Day, Tz::Asia__Beirut, "2026-03-27T22:00:00Z", "2026-03-29T21:00:00Z");
        assert_eq!(beirut, [("2026-03-28".to_owned(), 24 * 60), ("2026-03-29".to_owned(), 23 * 60)]);
        let johns = windows(CalendarUnit::Day, Tz::America__St_Johns, "2006-10-28T02:30:00Z", "2006-10-30T03:30:00Z");
        assert_eq!(johns, [("2006-10-28".to_owned(), 24 * 60), ("2006-10-29".to_owned(), 25 * 60)]);
        let apia = windows(CalendarUnit::Day, Tz::Pacific__Apia, "2011-12-29T10:00:00Z", "2011-12-31T10:00:00Z");
        assert_eq!(apia, [("2011-12-29".to_owned(), 24 * 60), ("2011-12-31".to_owned(), 24 * 60)]);
    }

    #[test]
    fn weeks_begin_on_monday_and_months_on_the_first() {
        let berlin = Tz::Europe__Berlin;
        let weeks = windows(CalendarUnit::Week, berlin, "2026-12-27T23:00:00Z", "2027-01-10T23:00:00Z");
        let week = 7 * 24 * 60;
        assert_eq!(weeks, [("2026-W53".to_owned(), week), ("2027-W01".to_owned(), week)]);
        let months = windows(CalendarUnit::Month, berlin, "2026-02-28T23:00:00Z", "2026-04-30T22:00:00Z");
        assert_eq!(months, [("2026-03".to_owned(), 31 * 24 * 60 - 60), ("2026-04".to_owned(), 30 * 24 * 60)]);
    }

    #[test]
    fn all_of_a_century_is_in_one_window_each() {
        let zones = [Tz::Europe__Berlin, Tz::America__Sao_Paulo, Tz::Africa__Casablanca, Tz::Asia__Kathmandu];
        for zone in zones {
            for unit in [CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month] {
                let found = windows(unit, zone, "1930-01-01T12:00:00Z", "2035-01-01T00:00:00Z");
                assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0), "{zone}");
            }
        }
        let edges = Calendar { unit: CalendarUnit::Month, zone: Tz::UTC };
        for time in [i64::MIN, i64::MAX, at("0001-01-01T00:00:00Z"), at("9999-12-31T23:59:59Z")] {
            let (start, end) = edges.span_of(time);
            assert!(start < end);
        }
    }
}
