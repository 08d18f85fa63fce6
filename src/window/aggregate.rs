//! The state of one aggregate. Its value is a function of the multiset of its inputs, each with event time and
//! position: never of their order, nor of how partial states were merged.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::codec::{Reader, StateError, write_signed, write_value, write_varint};
use super::distinct::Distinct;
use super::exact::{ExactSum, Number, Sum};
use super::quantile::Quantile;
use super::variance::Moments;
use super::{AggregateKind, Input};
use crate::event::{Position, Value};
use crate::limits::VALUE_TEXT_BYTES_MAX;

/// Where an event stands; no two have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct EventOrder {
    /// Event time, unix ms.
    pub time: i64,
    /// Its record's position.
    pub position: Position,
    /// Which of the outputs of that record it is.
    pub ordinal: u32,
}

/// An aggregate's value.
#[derive(Clone, Debug)]
pub enum AggregateValue {
    /// Of no input, or of too few; also what is beyond the greatest float.
    Null,
    /// What 64 bits hold.
    Value(Value<'static>),
    /// A whole number beyond 64 bits.
    Whole(i128),
}

/// Two words each, since there may be one for each of a million groups.
#[derive(Clone, Debug)]
pub(super) enum AggregateState {
    CountAll(u64),
    Count(u64),
    Sum(Box<ExactSum>),
    Avg(Box<Mean>),
    Min(Option<Box<Value<'static>>>),
    Max(Option<Box<Value<'static>>>),
    First(Option<Box<Edge>>),
    Last(Option<Box<Edge>>),
    CountDistinct(Box<Distinct>),
    Variance(Box<Moments>),
    Stddev(Box<Moments>),
    Quantile(Box<Quantile>),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Mean {
    sum: ExactSum,
    count: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Edge {
    at: EventOrder,
    value: Value<'static>,
}

impl Mean {
    fn add(&mut self, number: Number) {
        self.sum.add(number);
        self.count = self.count.saturating_add(1);
    }
}

impl AggregateState {
    pub(super) fn new(kind: AggregateKind) -> Self {
        match kind {
            AggregateKind::CountAll => Self::CountAll(0),
            AggregateKind::Count => Self::Count(0),
            AggregateKind::Sum => Self::Sum(Box::default()),
            AggregateKind::Avg => Self::Avg(Box::default()),
            AggregateKind::Min => Self::Min(None),
            AggregateKind::Max => Self::Max(None),
            AggregateKind::First => Self::First(None),
            AggregateKind::Last => Self::Last(None),
            AggregateKind::CountDistinct => Self::CountDistinct(Box::default()),
            AggregateKind::Variance => Self::Variance(Box::default()),
            AggregateKind::Stddev => Self::Stddev(Box::default()),
            AggregateKind::Quantile(fraction) => Self::Quantile(Box::new(Quantile::new(fraction))),
        }
    }

    pub(super) fn add(&mut self, input: Input, arena: &str, at: EventOrder) {
        match self {
            Self::CountAll(count) => *count += u64::from(input == Input::Bool(true)),
            Self::Count(count) => *count += u64::from(input != Input::Null),
            Self::Sum(sum) => with_number(input, |number| sum.add(number)),
            Self::Avg(mean) => with_number(input, |number| mean.add(number)),
            Self::Min(least) => keep_extreme(least, cut(input.value(arena)), Ordering::Less),
            Self::Max(greatest) => keep_extreme(greatest, cut(input.value(arena)), Ordering::Greater),
            Self::First(edge) => keep_edge(edge, at, input, arena, Ordering::Less),
            Self::Last(edge) => keep_edge(edge, at, input, arena, Ordering::Greater),
            Self::CountDistinct(distinct) => {
                if let Input::Int(hash) = input {
                    distinct.insert(hash.cast_unsigned());
                }
            }
            Self::Variance(moments) | Self::Stddev(moments) => with_number(input, |number| moments.add(number)),
            Self::Quantile(quantile) => with_number(input, |number| quantile.add(number)),
        }
    }

    /// Merges the state of the same aggregate over other events.
    pub(super) fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::CountAll(own), Self::CountAll(other)) | (Self::Count(own), Self::Count(other)) => {
                *own = own.saturating_add(*other);
            }
            (Self::Sum(own), Self::Sum(other)) => own.merge(other),
            (Self::Avg(own), Self::Avg(other)) => {
                own.sum.merge(&other.sum);
                own.count = own.count.saturating_add(other.count);
            }
            (Self::Min(own), Self::Min(Some(other))) => keep_extreme(own, borrowed(other), Ordering::Less),
            (Self::Max(own), Self::Max(Some(other))) => keep_extreme(own, borrowed(other), Ordering::Greater),
            (Self::First(own), Self::First(Some(other))) => merge_edge(own, other, Ordering::Less),
            (Self::Last(own), Self::Last(Some(other))) => merge_edge(own, other, Ordering::Greater),
            (Self::CountDistinct(own), Self::CountDistinct(other)) => own.merge(other),
            (Self::Variance(own), Self::Variance(other)) | (Self::Stddev(own), Self::Stddev(other)) => own.merge(other),
            (Self::Quantile(own), Self::Quantile(other)) => own.merge(other),
            // Nothing to merge; states of one pipeline have the same kinds, which decoding has checked.
            _ => {}
        }
    }

    pub(super) fn value(&self) -> AggregateValue {
        match self {
            Self::CountAll(count) | Self::Count(count) => whole(i128::from(*count)),
            Self::Sum(sum) => match sum.value() {
                Sum::None => AggregateValue::Null,
                Sum::Whole(sum) => whole(sum),
                Sum::Float(sum) => AggregateValue::Value(Value::Float(sum)),
            },
            Self::Avg(mean) => match mean.sum.rounded() {
                Some(sum) if mean.count > 0 => AggregateValue::Value(Value::Float(sum / mean.count as f64)),
                _ => AggregateValue::Null,
            },
            Self::Min(value) | Self::Max(value) => {
                value.as_ref().map_or(AggregateValue::Null, |value| AggregateValue::Value(Value::clone(value)))
            }
            Self::CountDistinct(distinct) => whole(i128::from(distinct.count())),
            Self::Variance(moments) => float(moments.variance()),
            Self::Stddev(moments) => float(moments.stddev()),
            Self::Quantile(quantile) => float(quantile.value()),
            Self::First(edge) | Self::Last(edge) => {
                edge.as_ref().map_or(AggregateValue::Null, |edge| AggregateValue::Value(edge.value.clone()))
            }
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(code(self.kind()));
        match self {
            Self::CountAll(count) | Self::Count(count) => write_varint(u128::from(*count), out),
            Self::Sum(sum) => sum.encode(out),
            Self::Avg(mean) => {
                write_varint(u128::from(mean.count), out);
                mean.sum.encode(out);
            }
            Self::Min(value) | Self::Max(value) => write_value(value.as_deref().unwrap_or(&Value::Null), out),
            Self::First(None) | Self::Last(None) => write_value(&Value::Null, out),
            Self::First(Some(edge)) | Self::Last(Some(edge)) => {
                write_value(&edge.value, out);
                write_signed(i128::from(edge.at.time), out);
                write_varint(u128::from(edge.at.position), out);
                write_varint(u128::from(edge.at.ordinal), out);
            }
            Self::CountDistinct(distinct) => distinct.encode(out),
            Self::Variance(moments) | Self::Stddev(moments) => moments.encode(out),
            Self::Quantile(quantile) => quantile.encode(out),
        }
    }

    pub(super) fn decode(kind: AggregateKind, reader: &mut Reader<'_>) -> Result<Self, StateError> {
        if reader.byte()? != code(kind) {
            return Err(StateError::Foreign("its aggregates are not those of the pipeline"));
        }
        Ok(match kind {
            AggregateKind::CountAll => Self::CountAll(reader.count()?),
            AggregateKind::Count => Self::Count(reader.count()?),
            AggregateKind::Sum => Self::Sum(Box::new(ExactSum::decode(reader)?)),
            AggregateKind::Avg => {
                let count = reader.count()?;
                Self::Avg(Box::new(Mean { count, sum: ExactSum::decode(reader)? }))
            }
            AggregateKind::Min => Self::Min(extreme(reader)?),
            AggregateKind::Max => Self::Max(extreme(reader)?),
            AggregateKind::First => Self::First(edge(reader)?),
            AggregateKind::Last => Self::Last(edge(reader)?),
            AggregateKind::CountDistinct => Self::CountDistinct(Box::new(Distinct::decode(reader)?)),
            AggregateKind::Variance => Self::Variance(Box::new(Moments::decode(reader)?)),
            AggregateKind::Stddev => Self::Stddev(Box::new(Moments::decode(reader)?)),
            AggregateKind::Quantile(fraction) => Self::Quantile(Box::new(Quantile::decode(fraction, reader)?)),
        })
    }

    /// Of what grows with the values: text, distinct values, bins.
    pub(super) fn varying_bytes(&self) -> u64 {
        let text = |value: &Value<'_>| match value {
            Value::Text(text) | Value::Json(text) => text.len() as u64,
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Time(_) => 0,
        };
        match self {
            Self::Min(value) | Self::Max(value) => value.as_deref().map_or(0, text),
            Self::First(edge) | Self::Last(edge) => edge.as_deref().map_or(0, |edge| text(&edge.value)),
            Self::CountDistinct(distinct) => distinct.bytes(),
            Self::Quantile(quantile) => quantile.bytes(),
            // Floats far from one take some words more, at most 40.
            Self::CountAll(_) | Self::Count(_) | Self::Sum(_) | Self::Avg(_) | Self::Variance(_) | Self::Stddev(_) => 0,
        }
    }

    fn kind(&self) -> AggregateKind {
        match self {
            Self::CountAll(_) => AggregateKind::CountAll,
            Self::Count(_) => AggregateKind::Count,
            Self::Sum(_) => AggregateKind::Sum,
            Self::Avg(_) => AggregateKind::Avg,
            Self::Min(_) => AggregateKind::Min,
            Self::Max(_) => AggregateKind::Max,
            Self::First(_) => AggregateKind::First,
            Self::Last(_) => AggregateKind::Last,
            Self::CountDistinct(_) => AggregateKind::CountDistinct,
            Self::Variance(_) => AggregateKind::Variance,
            Self::Stddev(_) => AggregateKind::Stddev,
            Self::Quantile(quantile) => AggregateKind::Quantile(quantile.fraction()),
        }
    }
}

/// Stored: never to be changed. What is kept in another way (another sketch, other bins) has another code.
fn code(kind: AggregateKind) -> u8 {
    match kind {
        AggregateKind::CountAll => 1,
        AggregateKind::Count => 2,
        AggregateKind::Sum => 3,
        AggregateKind::Avg => 4,
        AggregateKind::Min => 5,
        AggregateKind::Max => 6,
        AggregateKind::First => 7,
        AggregateKind::Last => 8,
        AggregateKind::CountDistinct => 9,
        AggregateKind::Variance => 10,
        AggregateKind::Stddev => 11,
        // Its bins are the same for each fraction.
        AggregateKind::Quantile(_) => 12,
    }
}

fn whole(value: i128) -> AggregateValue {
    i64::try_from(value).map_or(AggregateValue::Whole(value), |value| AggregateValue::Value(Value::Int(value)))
}

fn float(value: Option<f64>) -> AggregateValue {
    value.map_or(AggregateValue::Null, |value| AggregateValue::Value(Value::Float(value)))
}

fn with_number(input: Input, add: impl FnOnce(Number)) {
    match input {
        Input::Int(value) => add(Number::Int(value)),
        Input::Float(value) => add(Number::Float(value)),
        Input::Null | Input::Bool(_) | Input::Time(_) | Input::Text(_) | Input::Json(_) => {
            debug_assert!(input == Input::Null, "the stage lets only numbers in where they are computed with");
        }
    }
}

/// As it is kept: text cut, and `-0.0`, which equals 0.0, brought to one form. JSON that was cut is JSON no more.
fn cut(value: Value<'_>) -> Value<'_> {
    match value {
        Value::Float(float) => Value::Float(float + 0.0),
        Value::Json(text) if text.len() <= VALUE_TEXT_BYTES_MAX => Value::Json(text),
        Value::Text(text) | Value::Json(text) => Value::Text(match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[..text.floor_char_boundary(VALUE_TEXT_BYTES_MAX)]),
            Cow::Owned(mut text) => {
                text.truncate(text.floor_char_boundary(VALUE_TEXT_BYTES_MAX));
                Cow::Owned(text)
            }
        }),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Time(_) => value,
    }
}

fn borrowed<'a>(value: &'a Value<'static>) -> Value<'a> {
    match value {
        Value::Text(text) => Value::Text(Cow::Borrowed(text)),
        Value::Json(text) => Value::Json(Cow::Borrowed(text)),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Time(_) => value.clone(),
    }
}

/// Takes the value where it lies further in the wanted direction; of 200 and 200.0, which are equal, the whole number.
fn keep_extreme(kept: &mut Option<Box<Value<'static>>>, value: Value<'_>, wanted: Ordering) {
    if value.is_null() {
        return;
    }
    let better = kept.as_ref().is_none_or(|kept| match order(&value, kept) {
        Ordering::Equal => matches!((&value, &**kept), (Value::Int(_), Value::Float(_))),
        ordering => ordering == wanted,
    });
    if better {
        *kept = Some(Box::new(value.into_owned()));
    }
}

/// Any two values. The stage lets only one type into an aggregate; whatever comes, merging stays commutative.
fn order(a: &Value<'_>, b: &Value<'_>) -> Ordering {
    let rank = |value: &Value<'_>| match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Int(_) | Value::Float(_) => 2,
        Value::Time(_) => 3,
        Value::Text(_) => 4,
        Value::Json(_) => 5,
    };
    a.compare(b).unwrap_or_else(|| rank(a).cmp(&rank(b)))
}

fn keep_edge(kept: &mut Option<Box<Edge>>, at: EventOrder, input: Input, arena: &str, wanted: Ordering) {
    if input != Input::Null && kept.as_ref().is_none_or(|kept| at.cmp(&kept.at) == wanted) {
        *kept = Some(Box::new(Edge { at, value: cut(input.value(arena)).into_owned() }));
    }
}

fn merge_edge(kept: &mut Option<Box<Edge>>, other: &Edge, wanted: Ordering) {
    if kept.as_ref().is_none_or(|kept| other.at.cmp(&kept.at) == wanted) {
        *kept = Some(Box::new(other.clone()));
    }
}

fn extreme(reader: &mut Reader<'_>) -> Result<Option<Box<Value<'static>>>, StateError> {
    let value = reader.value()?;
    Ok(if value.is_null() { None } else { Some(Box::new(value)) })
}

fn edge(reader: &mut Reader<'_>) -> Result<Option<Box<Edge>>, StateError> {
    let value = reader.value()?;
    if value.is_null() {
        return Ok(None);
    }
    let time = i64::try_from(reader.signed()?).map_err(|_| reader.damaged("a time is out of range"))?;
    let position = reader.count()?;
    let ordinal = u32::try_from(reader.count()?).map_err(|_| reader.damaged("an ordinal is out of range"))?;
    Ok(Some(Box::new(Edge { at: EventOrder { time, position, ordinal }, value })))
}
