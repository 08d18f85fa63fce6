//! What is as expected, and what is not.

use serde_json::Value;

use crate::config::{ExpectedLetter, ExpectedRow};
use crate::event::parse_time_text;
use crate::store::StoredLetter;

/// What is not as expected: places in the list of what was expected, and in that of what is there.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Difference {
    /// The same group, other values.
    pub(super) differs: Vec<(usize, usize)>,
    pub(super) missing: Vec<usize>,
    pub(super) unexpected: Vec<usize>,
}

impl Difference {
    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Finds for each one that is expected another one that is there, as many as there can be; `unlike` counts in how much two
/// differ (`None`: they have nothing to do with one another), for the rest.
pub(super) fn compare(
    expected: usize,
    there: usize,
    fits: impl Fn(usize, usize) -> bool,
    unlike: impl Fn(usize, usize) -> Option<usize>,
) -> Difference {
    let mut taken: Vec<Option<usize>> = vec![None; there];
    for one in 0..expected {
        place(one, &fits, &mut taken, &mut vec![false; there]);
    }
    let mut difference = Difference::default();
    for one in (0..expected).filter(|one| !taken.contains(&Some(*one))).collect::<Vec<_>>() {
        let free = (0..there).filter(|other| taken[*other].is_none());
        match free.filter_map(|other| Some((unlike(one, other)?, other))).min() {
            Some((_, other)) => {
                taken[other] = Some(one);
                difference.differs.push((one, other));
            }
            None => difference.missing.push(one),
        }
    }
    difference.unexpected = (0..there).filter(|other| taken[*other].is_none()).collect();
    difference
}

/// Gives a place to one, if others can move so that there is one: those who name few columns fit in many.
fn place(one: usize, fits: &impl Fn(usize, usize) -> bool, taken: &mut [Option<usize>], tried: &mut [bool]) -> bool {
    for other in 0..taken.len() {
        if tried[other] || !fits(one, other) {
            continue;
        }
        tried[other] = true;
        if taken[other].is_none_or(|before| place(before, fits, taken, tried)) {
            taken[other] = Some(one);
            return true;
        }
    }
    false
}

/// The columns of a row that are not as expected.
pub(super) fn differing(expected: &ExpectedRow, columns: &[String], row: &[Value]) -> Vec<String> {
    let value = |name: &str| columns.iter().position(|column| column == name).and_then(|index| row.get(index));
    let differs = |(name, wanted): &&(String, Value)| !value(name).is_some_and(|value| is_same(wanted, value));
    expected.fields.iter().filter(differs).map(|(name, _)| name.clone()).collect()
}

/// Times are equal if they are the same moment, numbers if they are as good as equal; SQLite says 1 for TRUE.
fn is_same(wanted: &Value, value: &Value) -> bool {
    match (wanted, value) {
        (Value::Number(wanted), Value::Number(value)) => match (wanted.as_i64(), value.as_i64()) {
            (Some(wanted), Some(value)) => wanted == value,
            _ => is_near(wanted.as_f64().unwrap_or(f64::NAN), value.as_f64().unwrap_or(f64::NAN)),
        },
        (Value::Bool(wanted), Value::Number(value)) => value.as_i64() == Some(i64::from(*wanted)),
        (Value::String(wanted), Value::String(value)) => {
            let times = || Some((parse_time_text(wanted)?, parse_time_text(value)?));
            wanted == value || times().is_some_and(|(wanted, value)| wanted == value)
        }
        _ => wanted == value,
    }
}

fn is_near(wanted: f64, value: f64) -> bool {
    (wanted - value).abs() <= 1e-9 * wanted.abs().max(value.abs())
}

/// Whether a letter is as expected.
pub(super) fn is_letter(expected: &ExpectedLetter, letter: &StoredLetter) -> bool {
    let has = |part: &Option<String>, text: &str| part.as_ref().is_none_or(|part| text.contains(part.as_str()));
    expected.kind.is_none_or(|kind| kind == letter.kind)
        && has(&expected.stage, &letter.stage)
        && has(&expected.reason, &letter.reason)
        && has(&expected.event, &letter.line)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_that_names_little_gives_way_to_one_that_names_more() {
        // 0 fits both, 1 only the first.
        let fits = |one, other| one == 0 || other == 0;
        assert!(compare(2, 2, fits, |_, _| None).is_none());
        let difference = compare(2, 1, fits, |_, _| None);
        assert_eq!((difference.missing.len(), difference.unexpected.len()), (1, 0));
    }

    #[test]
    fn the_rest_goes_to_what_is_nearest() {
        let unlike = |one: usize, other: usize| (one == 0).then_some(2 - other);
        let difference = compare(2, 3, |_, _| false, unlike);
        assert_eq!(difference, Difference { differs: vec![(0, 2)], missing: vec![1], unexpected: vec![0, 1] });
    }

    #[test]
    fn values_are_compared_as_people_mean_them() {
        for (wanted, value) in [
            (json!(2), json!(2.0)),
            (json!(0.3), json!(0.1 + 0.2)),
            (json!(true), json!(1)),
            (json!("2026-11-21T13:00:00+01:00"), json!("2026-11-21 12:00:00")),
            (json!(null), json!(null)),
        ] {
            assert!(is_same(&wanted, &value), "{wanted} {value}");
        }
        for (wanted, value) in [
            (json!(200), json!("200")),
            (json!(9_007_199_254_740_993_i64), json!(9_007_199_254_740_992_i64)),
            (json!(0.3), json!(0.300001)),
            (json!(0), json!(null)),
            (json!(true), json!(0)),
            (json!("a"), json!("b")),
        ] {
            assert!(!is_same(&wanted, &value), "{wanted} {value}");
        }
    }
}
