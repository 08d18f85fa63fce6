//! Arithmetic. Whole numbers stay whole and never wrap, floats stay finite, and a division by zero is NULL.

use super::super::error::{ExprError, describe};
use super::super::eval::eval;
use super::super::node::Node;
use super::super::tree::Arithmetic;
use crate::event::{Row, Value};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum MathFunction {
    Abs,
    Round,
    Floor,
    Ceil,
}

/// A value that can be computed with.
#[derive(Clone, Copy, Debug)]
enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    fn float(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}

/// `a + b` and its like, for values that are computed already.
pub(in super::super) fn arithmetic<'a>(
    operation: Arithmetic,
    call: &Node,
    left: &Value<'_>,
    right: &Value<'_>,
) -> Result<Value<'a>, ExprError> {
    let (Some(a), Some(b)) = (number(call, left)?, number(call, right)?) else { return Ok(Value::Null) };
    let result = match (operation, a, b) {
        (Arithmetic::Divide | Arithmetic::Remainder | Arithmetic::Quotient, _, b) if b.float() == 0.0 => {
            return Ok(Value::Null);
        }
        (Arithmetic::Divide, a, b) => Some(Number::Float(a.float() / b.float())),
        (_, Number::Int(a), Number::Int(b)) => whole(operation, a, b).map(Number::Int),
        (_, a, b) => Some(Number::Float(float(operation, a.float(), b.float()))),
    };
    let in_range = result.and_then(value);
    in_range.ok_or_else(|| call.error(format!("out of range, with {} and {}", describe(left), describe(right))))
}

/// `-a`
pub(in super::super) fn negate<'a>(call: &Node, operand: &Value<'_>) -> Result<Value<'a>, ExprError> {
    let negated = match number(call, operand)? {
        None => return Ok(Value::Null),
        Some(Number::Int(value)) => value.checked_neg().map(Value::Int),
        // Zero has no sign in SQL.
        Some(Number::Float(value)) => Some(Value::Float(0.0 - value)),
    };
    negated.ok_or_else(|| call.error(format!("out of range, with {}", describe(operand))))
}

/// A function of one number; the second argument of `round` is its digits.
pub(in super::super) fn math<'a>(
    function: MathFunction,
    call: &'a Node,
    arguments: &'a [Node],
    row: &'a dyn Row,
) -> Result<Value<'a>, ExprError> {
    let mut values = [Value::Null, Value::Null];
    for (value, argument) in values.iter_mut().zip(arguments) {
        *value = eval(argument, row)?;
    }
    let [operand, digits] = values;
    let digits = match digits {
        Value::Null if arguments.len() == 2 => return Ok(Value::Null),
        Value::Null => 0,
        Value::Int(digits) => digits,
        other => return Err(call.error(format!("the number of digits is whole, not {}", describe(&other)))),
    };
    let result = match (function, number(call, &operand)?) {
        (_, None) => return Ok(Value::Null),
        (MathFunction::Abs, Some(Number::Int(value))) => value.checked_abs().map(Number::Int),
        (MathFunction::Abs, Some(Number::Float(value))) => Some(Number::Float(value.abs())),
        (MathFunction::Round, Some(Number::Int(value))) => round_whole(value, digits).map(Number::Int),
        (MathFunction::Round, Some(Number::Float(value))) => Some(Number::Float(round_float(value, digits))),
        (_, Some(Number::Int(value))) => Some(Number::Int(value)),
        (MathFunction::Floor, Some(Number::Float(value))) => Some(Number::Float(value.floor())),
        (MathFunction::Ceil, Some(Number::Float(value))) => Some(Number::Float(value.ceil())),
    };
    let in_range = result.and_then(value);
    in_range.ok_or_else(|| call.error(format!("out of range, with {}", describe(&operand))))
}

/// The number of a value; none where it is NULL.
fn number(call: &Node, value: &Value<'_>) -> Result<Option<Number>, ExprError> {
    match value {
        Value::Null => Ok(None),
        Value::Int(value) => Ok(Some(Number::Int(*value))),
        Value::Float(value) => Ok(Some(Number::Float(*value))),
        other => Err(call.error(format!("{} is no number; CAST makes one of text", describe(other)))),
    }
}

/// None where it is not finite.
fn value<'a>(number: Number) -> Option<Value<'a>> {
    match number {
        Number::Int(value) => Some(Value::Int(value)),
        // Adding zero takes the sign off a zero.
        Number::Float(value) => value.is_finite().then_some(Value::Float(value + 0.0)),
    }
}

fn whole(operation: Arithmetic, a: i64, b: i64) -> Option<i64> {
    match operation {
        Arithmetic::Add => a.checked_add(b),
        Arithmetic::Subtract => a.checked_sub(b),
        Arithmetic::Multiply => a.checked_mul(b),
        Arithmetic::Divide | Arithmetic::Quotient => a.checked_div(b),
        // The least number has no quotient by -1, but a remainder.
        Arithmetic::Remainder => Some(a.wrapping_rem(b)),
    }
}

fn float(operation: Arithmetic, a: f64, b: f64) -> f64 {
    match operation {
        Arithmetic::Add => a + b,
        Arithmetic::Subtract => a - b,
        Arithmetic::Multiply => a * b,
        Arithmetic::Divide => a / b,
        Arithmetic::Quotient => (a / b).trunc(),
        Arithmetic::Remainder => a % b,
    }
}

/// Half away from zero, at tens, hundreds … where the digits are negative. None where the result has no 64 bits.
fn round_whole(value: i64, digits: i64) -> Option<i64> {
    if digits >= 0 {
        return Some(value);
    }
    let Some(unit) = u32::try_from(-digits.max(-30)).ok().and_then(|zeros| 10_i128.checked_pow(zeros)) else {
        return Some(0);
    };
    let magnitude = (i128::from(value).abs() + unit / 2) / unit * unit;
    i64::try_from(magnitude * i128::from(value.signum())).ok()
}

/// Half away from zero, judged by the digits that the number is shown with: `round(1.005, 2)` is 1.01, although the
/// float is a little less than 1.005.
fn round_float(value: f64, digits: i64) -> f64 {
    if digits == 0 {
        return value.round();
    }
    let shown = format!("{:e}", value.abs());
    let Some((mantissa, exponent)) = shown.split_once('e') else { return value };
    let Ok(exponent) = exponent.parse::<i64>() else { return value };
    let shown: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
    // How many of the shown digits stay.
    let kept = exponent.saturating_add(1).saturating_add(digits);
    let Ok(keep) = usize::try_from(kept) else { return 0.0 };
    if keep >= shown.len() {
        return value;
    }
    let whole = shown[..keep].iter().fold(0_u64, |whole, digit| whole * 10 + u64::from(digit - b'0'));
    let rounded = whole + u64::from(shown[keep] >= b'5');
    format!("{rounded}e{}", exponent + 1 - kept).parse::<f64>().map_or(value, |rounded| rounded.copysign(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_rounded_by_the_digits_that_are_shown() {
        let cases = [
            (1.005, 2, 1.01),
            (2.675, 2, 2.68),
            (1.115, 2, 1.12),
            (-1.005, 2, -1.01),
            (0.1 + 0.2, 3, 0.3),
            (9.99, 1, 10.0),
            (0.05, 1, 0.1),
            (0.04, 1, 0.0),
            (0.004, 1, 0.0),
            (1234.5, -2, 1200.0),
            (1250.0, -2, 1300.0),
            (49.0, -2, 0.0),
            (50.0, -2, 100.0),
            (4.0, -2, 0.0),
            (1e300, 5, 1e300),
            (1e300, i64::MIN, 0.0),
            (5e-324, i64::MAX, 5e-324),
            (2.5, 0, 3.0),
            (-2.5, 0, -3.0),
        ];
        for (value, digits, expected) in cases {
            assert_eq!(round_float(value, digits), expected, "round({value}, {digits})");
        }
    }

    #[test]
    fn whole_numbers_are_rounded_at_tens() {
        let cases = [
            (1250, -2, Some(1300)),
            (-1250, -2, Some(-1300)),
            (1249, -2, Some(1200)),
            (5, -1, Some(10)),
            (7, 3, Some(7)),
            (i64::MAX, -1, None),
            (i64::MAX, -19, None),
            (i64::MIN, -400, Some(0)),
        ];
        for (value, digits, expected) in cases {
            assert_eq!(round_whole(value, digits), expected, "round({value}, {digits})");
        }
    }
}
