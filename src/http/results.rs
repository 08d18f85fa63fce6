//! Rows of pipelines: as they are in their views, or merged over longer spans.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::Value;

use super::{Shared, error, of_store, unknown_pipeline};
use crate::limits::RESULT_ROWS_MAX;
use crate::store::{Interval, Merge, Query};
use crate::units::{format_duration, parse_duration};
use crate::window::{CalendarUnit, WindowSpec};

/// Rows that an answer has where nobody says how many.
const ROWS: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    now: Option<bool>,
    from: Option<i64>,
    to: Option<i64>,
    limit: Option<usize>,
    interval: Option<String>,
    fill: Option<String>,
}

pub(super) async fn results(
    shared: web::Data<Shared>,
    name: web::Path<String>,
    wanted: web::Query<Wanted>,
) -> HttpResponse {
    let Some(pipeline) = shared.pipelines.find(&name) else {
        return unknown_pipeline(&shared.pipelines, &name);
    };
    let Wanted { now, from, to, limit, interval, fill } = wanted.into_inner();
    let (now, limit) = (now.unwrap_or(false), limit.unwrap_or(ROWS).min(RESULT_ROWS_MAX));
    let rows = match (interval, fill) {
        (None, None) => pipeline.rows(Query { now, from, to, limit }).await,
        (None, Some(_)) => return bad("`fill` is of an `interval`: interval=1h&fill=0"),
        (Some(_), _) if now => return bad("`now` has no `interval`: it is one window"),
        (Some(interval), fill) => {
            let asked = read_interval(&interval, pipeline.window())
                .and_then(|interval| Ok((interval, read_fill(fill.as_deref(), from, to)?)));
            match asked {
                Ok((interval, fill)) => {
                    pipeline.merged(|definition| Merge { definition, interval, from, to, fill, limit }).await
                }
                Err(why) => return bad(&why),
            }
        }
    };
    match rows {
        Ok(rows) => HttpResponse::Ok().json(rows),
        Err(reason) => of_store(&reason),
    }
}

fn bad(why: &str) -> HttpResponse {
    error(StatusCode::BAD_REQUEST, "bad_request", why)
}

/// An interval that windows of a pipeline tile.
fn read_interval(text: &str, window: Option<WindowSpec>) -> Result<Interval, String> {
    if let Some(WindowSpec::Calendar(calendar)) = window {
        let units = [CalendarUnit::Hour, CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month];
        let fits =
            |unit: CalendarUnit| unit == calendar.unit || unit > calendar.unit && calendar.unit < CalendarUnit::Week;
        let mut fitting = units.into_iter().filter(|unit| fits(*unit));
        return match fitting.clone().find(|unit| unit.name() == text) {
            Some(unit) => Ok(Interval::Calendar(crate::window::Calendar { unit, ..calendar })),
            None => {
                let names: Vec<_> = fitting.by_ref().map(CalendarUnit::name).collect();
                Err(format!("`interval={text}`: windows of a calendar add up to {}", names.join(", ")))
            }
        };
    }
    let length_ms = parse_duration(text).filter(|length| *length > 0);
    let length_ms = length_ms.ok_or_else(|| format!("`interval={text}` is no duration such as 10m, 1h or 1d"))?;
    let part_ms = match window {
        Some(WindowSpec::Tumbling { size_ms } | WindowSpec::Sliding { size_ms, .. }) => size_ms,
        // Each session is of the span in which it begins.
        _ => 1,
    };
    if length_ms % part_ms != 0 {
        let part = format_duration(part_ms);
        return Err(format!("`interval={text}` is no multiple of the pipeline's window, {part}"));
    }
    Ok(Interval::Even(length_ms))
}

fn read_fill(text: Option<&str>, from: Option<i64>, to: Option<i64>) -> Result<Option<Value>, String> {
    let Some(text) = text else { return Ok(None) };
    if from.is_none() || to.is_none() {
        return Err("`fill` needs `from` and `to` (unix ms): where the rows begin and end".to_owned());
    }
    match serde_json::from_str(text) {
        Ok(value @ (Value::Number(_) | Value::Null)) => Ok(Some(value)),
        _ => Err(format!("`fill={text}` is neither a number nor null")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::Calendar;

    #[test]
    fn intervals_are_tiled_by_windows() {
        let tumbling = Some(WindowSpec::Tumbling { size_ms: 300_000 });
        assert_eq!(read_interval("1h", tumbling), Ok(Interval::Even(3_600_000)));
        assert!(read_interval("7m", tumbling).unwrap_err().contains("no multiple of the pipeline's window, 5m"));
        assert!(read_interval("0s", tumbling).is_err() && read_interval("hour", tumbling).is_err());
        let sliding = Some(WindowSpec::Sliding { size_ms: 300_000, every_ms: 10_000 });
        assert!(read_interval("10s", sliding).is_err() && read_interval("10m", sliding).is_ok());
        let days = Calendar { unit: CalendarUnit::Day, zone: chrono_tz::Europe::Berlin };
        let month = Calendar { unit: CalendarUnit::Month, ..days };
        assert_eq!(read_interval("month", Some(WindowSpec::Calendar(days))), Ok(Interval::Calendar(month)));
        let why = read_interval("hour", Some(WindowSpec::Calendar(days))).unwrap_err();
        assert!(why.ends_with("add up to day, week, month"), "{why}");
        let week = WindowSpec::Calendar(Calendar { unit: CalendarUnit::Week, ..days });
        assert!(read_interval("month", Some(week)).is_err(), "a week is in two months");
    }
}
