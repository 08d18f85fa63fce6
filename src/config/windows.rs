//! `window` of a pipeline.

use chrono_tz::{TZ_VARIANTS, Tz};
use serde_json::json;

use super::names;
use super::reader::{Section, Setting};
use super::report::Mistake;
use crate::limits::PANES_PER_WINDOW_MAX;
use crate::units::{format_duration, parse_duration};
use crate::window::{Calendar, CalendarUnit, WindowSpec};

const EXPECTED: &str = "{ tumbling = \"5m\" }, { sliding = \"5m\", every = \"10s\" }, { session = \"30m\" } or \
                        { calendar = \"day\", timezone = \"Europe/Berlin\" }";
const UNITS: [CalendarUnit; 4] = [CalendarUnit::Hour, CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month];
/// What belongs to another key, and to which.
const BESIDE: [(&str, &str); 2] = [("every", "sliding"), ("timezone", "calendar")];

pub(super) fn read_window(setting: &Setting<'_>) -> Option<WindowSpec> {
    let mut section = setting.section(EXPECTED)?;
    let kinds = ["tumbling", "sliding", "session", "calendar"];
    let mut given: Vec<_> = kinds.iter().filter_map(|kind| Some((*kind, section.take(kind)?))).collect();
    let given = given.pop().filter(|_| given.is_empty());
    let kind = given.as_ref().map(|(kind, _)| *kind);
    let read = match given {
        Some((kind, setting)) => match kind {
            "sliding" => read_sliding(&setting, &mut section),
            "calendar" => read_calendar(&setting, &mut section),
            "session" => setting.duration(1).map(|gap_ms| WindowSpec::Session { gap_ms }),
            _ => setting.duration(1).map(|size_ms| WindowSpec::Tumbling { size_ms }),
        },
        None => {
            setting.wrong(format!("`{}` must say one kind of window", setting.path), EXPECTED);
            None
        }
    };
    for (key, owner) in BESIDE {
        if let (Some(stray), true) = (section.take(key), kind.is_some_and(|kind| kind != owner)) {
            stray.wrong(format!("`{}` belongs to `{owner}`", stray.path), EXPECTED);
        }
    }
    section.finish();
    read
}

fn read_sliding(setting: &Setting<'_>, section: &mut Section<'_>) -> Option<WindowSpec> {
    let size = setting.duration(1);
    let Some(every) = section.take("every") else {
        setting.wrong(format!("`{}` needs `every` beside it", setting.path), EXPECTED);
        return None;
    };
    let every = every.duration(1);
    let (size_ms, every_ms) = (size?, every?);
    let (size, every) = (format_duration(size_ms), format_duration(every_ms));
    if size_ms % every_ms != 0 {
        let above = format_duration((size_ms / every_ms + 1).saturating_mul(every_ms));
        let message = format!("`{}`: {size} is not a multiple of `every`, {every}", setting.path);
        setting.wrong(message, format!("a multiple of {every}, such as {above}"));
        return None;
    }
    if size_ms / every_ms > PANES_PER_WINDOW_MAX {
        let message = format!("`{}`: {size} is {} times `every`, {every}", setting.path, size_ms / every_ms);
        setting.wrong(message, format!("at most {PANES_PER_WINDOW_MAX} times `every`"));
        return None;
    }
    Some(WindowSpec::Sliding { size_ms, every_ms })
}

fn read_calendar(setting: &Setting<'_>, section: &mut Section<'_>) -> Option<WindowSpec> {
    let unit = setting.choice(&UNITS.map(|unit| (unit.name(), unit)), &[]);
    let Some(zone) = section.take("timezone") else {
        setting.wrong(format!("`{}` needs `timezone` beside it", setting.path), EXPECTED);
        return None;
    };
    let zone = read_zone(&zone);
    Some(WindowSpec::Calendar(Calendar { unit: unit?, zone: zone? }))
}

/// By its name in the IANA time zone database.
fn read_zone(setting: &Setting<'_>) -> Option<Tz> {
    const EXPECTED: &str = "a name of the IANA time zone database, such as \"Europe/Berlin\" or \"UTC\"";
    let text = setting.text(EXPECTED)?;
    let zone = text.value.parse().ok();
    if zone.is_none() {
        let help = names::did_you_mean(&text.value, TZ_VARIANTS.iter().map(|zone| zone.name()));
        let mistake = Mistake::at(text.span, format!("there is no time zone `{}`", text.value));
        setting.context.note(mistake.expected(EXPECTED).help_if(help));
    }
    zone
}

/// The window of a stored definition, which was checked when it was stored.
pub fn stored_window(definition: &serde_json::Value) -> Option<WindowSpec> {
    let window = &definition["window"];
    let text = |key: &str| window[key].as_str();
    let ms = |key: &str| text(key).and_then(parse_duration);
    if let Some(unit) = text("calendar") {
        let unit = UNITS.into_iter().find(|known| known.name() == unit)?;
        return Some(WindowSpec::Calendar(Calendar { unit, zone: text("timezone")?.parse().ok()? }));
    }
    let sliding = |size_ms| Some(WindowSpec::Sliding { size_ms, every_ms: ms("every")? });
    let tumbling = || ms("tumbling").map(|size_ms| WindowSpec::Tumbling { size_ms });
    let session = || ms("session").map(|gap_ms| WindowSpec::Session { gap_ms });
    ms("sliding").and_then(sliding).or_else(tumbling).or_else(session)
}

/// A window as a definition tells it: its keys and what they say.
pub(super) fn window_definition(window: WindowSpec) -> serde_json::Value {
    match window {
        WindowSpec::Tumbling { size_ms } => json!({ "tumbling": format_duration(size_ms) }),
        WindowSpec::Sliding { size_ms, every_ms } => {
            json!({ "every": format_duration(every_ms), "sliding": format_duration(size_ms) })
        }
        WindowSpec::Session { gap_ms } => json!({ "session": format_duration(gap_ms) }),
        WindowSpec::Calendar(Calendar { unit, zone }) => {
            json!({ "calendar": unit.name(), "timezone": zone.name() })
        }
    }
}
