//! `variance` and `stddev` of a sample, from the exact sums of x and x²: the same whatever the order, however partial
//! states were merged.
//!
//! The square of a float has 106 bits and fits no float, nor the range of floats, so squares are added up as one long
//! whole number. Of the sums, (n Σx² - (Σx)²) / n(n - 1) is computed in whole numbers, too: the variance is rounded once
//! (half to even; below the least normal float twice), its root once more.

use super::codec::{Reader, StateError, write_varint};
use super::exact::{ExactSum, LONG_POINT, Number, parts};

/// The lowest bit of sums of squares is worth 2⁻²¹⁴⁸, the square of the least float.
const POINT: u32 = 2 * LONG_POINT;
/// 2⁶⁴ squares below 2²⁰⁴⁸: 2148 + 2048 + 64 = 4260 bits.
const WORDS_MAX: usize = 67;
/// Words behind the point that a division goes on for: by 128 bits, it leaves 64 that count.
const DIVISION_WORDS: usize = 3;

/// What the spread of some numbers is computed of.
#[derive(Clone, Debug, Default)]
pub(super) struct Moments {
    count: u64,
    sum: ExactSum,
    squares: Squares,
}

/// A sum of squares: a whole number, the lowest word first. Numbers of like size need few words.
#[derive(Clone, Debug, Default)]
struct Squares {
    /// How many words of zeros are left out before the first.
    first: usize,
    words: Vec<u64>,
}

impl Moments {
    pub(super) fn add(&mut self, number: Number) {
        self.count = self.count.saturating_add(1);
        self.sum.add(number);
        let (mantissa, exponent) = match number {
            Number::Int(value) => (value.unsigned_abs(), 0),
            Number::Float(value) => parts(value),
        };
        self.squares.add(mantissa, exponent);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.sum.merge(&other.sum);
        self.squares.add_words(other.squares.first, &other.squares.words);
    }

    /// `None` of fewer than two numbers, and beyond the greatest float.
    pub(super) fn variance(&self) -> Option<f64> {
        let (mantissa, exponent) = self.quotient()?;
        scaled(mantissa, exponent)
    }

    /// The root of the variance, also where that is beyond the range of floats.
    pub(super) fn stddev(&self) -> Option<f64> {
        let (mantissa, exponent) = self.quotient()?;
        let odd = exponent.rem_euclid(2);
        scaled((mantissa * f64::from(1 + odd)).sqrt(), (exponent - odd) / 2)
    }

    /// The variance, rounded once, as a float and the power of two that it is to be multiplied by.
    fn quotient(&self) -> Option<(f64, i32)> {
        let below = self.count.checked_sub(1).filter(|below| *below > 0)?;
        // n Σx² - (Σx)², which is never negative; from bytes that were tampered with it may be.
        let mut number = vec![0; DIVISION_WORDS + self.squares.first];
        number.extend_from_slice(&self.squares.words);
        multiply(&mut number, self.count);
        if !subtract_square(&mut number[DIVISION_WORDS..], &self.sum.magnitude()) {
            return None;
        }
        let Some(lowest) = number.iter().position(|word| *word != 0) else { return Some((0.0, 0)) };
        let skipped = lowest.saturating_sub(DIVISION_WORDS);
        let number = &mut number[skipped..];
        let rest = divide(number, self.count) | divide(number, below);
        let (mantissa, bit) = leading(number, rest != 0);
        Some((mantissa, bit + 64 * (skipped as i32 - DIVISION_WORDS as i32) - POINT as i32))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        write_varint(u128::from(self.count), out);
        self.sum.encode(out);
        self.squares.encode(out);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Self { count: reader.count()?, sum: ExactSum::decode(reader)?, squares: Squares::decode(reader)? })
    }
}

impl Squares {
    /// Adds (`mantissa` * 2^`exponent`)².
    fn add(&mut self, mantissa: u64, exponent: i32) {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let bit = (2 * exponent + POINT as i32) as u32;
        let (word, shift) = ((bit / 64) as usize, bit % 64);
        let low = square << shift;
        let high = if shift == 0 { 0 } else { (square >> (128 - shift)) as u64 };
        let words = [low as u64, (low >> 64) as u64, high];
        let end = words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        self.add_words(word, &words[..end]);
    }

    /// Adds a number that begins so many words above the lowest bit.
    fn add_words(&mut self, first: usize, words: &[u64]) {
        if words.is_empty() {
            return;
        }
        if self.words.is_empty() {
            self.first = first;
        }
        if let Some(before) = self.first.checked_sub(first) {
            self.words.splice(0..0, std::iter::repeat_n(0, before));
            self.first = first;
        }
        let at = first - self.first;
        if self.words.len() < at + words.len() {
            self.words.resize(at + words.len(), 0);
        }
        let mut carry = false;
        for (index, own) in self.words[at..].iter_mut().enumerate() {
            if index >= words.len() && !carry {
                break;
            }
            (*own, carry) = own.carrying_add(words.get(index).copied().unwrap_or(0), carry);
        }
        if carry {
            self.words.push(1);
        }
    }

    /// Equal sums give equal bytes.
    fn encode(&self, out: &mut Vec<u8>) {
        let lowest = self.words.iter().position(|word| *word != 0).unwrap_or(self.words.len());
        let end = self.words.iter().rposition(|word| *word != 0).map_or(lowest, |last| last + 1);
        let first = if lowest == end { 0 } else { self.first + lowest };
        out.extend_from_slice(&[first as u8, (end - lowest) as u8]);
        self.words[lowest..end].iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        let (first, len) = (usize::from(reader.byte()?), usize::from(reader.byte()?));
        if first + len > WORDS_MAX {
            return Err(reader.damaged("a sum of squares is too long"));
        }
        let words = (0..len).map(|_| reader.word()).collect::<Result<_, _>>()?;
        Ok(Self { first, words })
    }
}

fn multiply(number: &mut Vec<u64>, factor: u64) {
    let mut carry = 0;
    for word in number.iter_mut() {
        (*word, carry) = word.carrying_mul(factor, carry);
    }
    number.push(carry);
}

/// Takes the square of a number off, whose highest word is not zero; whether what is left is not negative.
fn subtract_square(number: &mut [u64], root: &[u64]) -> bool {
    let mut is_left = true;
    for (place, factor) in root.iter().enumerate().filter(|(_, factor)| **factor != 0) {
        let (mut carry, mut borrow) = (0, false);
        for (index, own) in number.iter_mut().enumerate().skip(place) {
            let other = root.get(index - place).copied().unwrap_or(0);
            let (product, high) = other.carrying_mul(*factor, carry);
            carry = high;
            (*own, borrow) = own.borrowing_sub(product, borrow);
        }
        is_left &= !borrow && carry == 0 && place + root.len() <= number.len();
    }
    is_left
}

/// Divides; the remainder.
fn divide(number: &mut [u64], divisor: u64) -> u64 {
    let mut rest = 0;
    for word in number.iter_mut().rev() {
        let part = u128::from(rest) << 64 | u128::from(*word);
        *word = (part / u128::from(divisor)) as u64;
        rest = (part % u128::from(divisor)) as u64;
    }
    rest
}

/// The highest bits of a number that is not zero, rounded once, and the place of the lowest of them; whether anything was
/// left below the number decides a half.
fn leading(number: &[u64], below: bool) -> (f64, i32) {
    let top = number.iter().rposition(|word| *word != 0).unwrap_or(0);
    let shift = number[top].leading_zeros();
    let pair = u128::from(number[top]) << 64 | top.checked_sub(1).map_or(0, |next| u128::from(number[next]));
    let bits = pair << shift;
    let rest = below || bits as u64 != 0 || number[..top.saturating_sub(1)].iter().any(|word| *word != 0);
    (((bits >> 64) as u64 | u64::from(rest)) as f64, 64 * top as i32 - shift as i32)
}

/// `mantissa` * 2^`exponent`; `None` beyond the greatest float.
fn scaled(mut mantissa: f64, mut exponent: i32) -> Option<f64> {
    while exponent != 0 {
        // All steps are exact but the last one, where it ends below the least normal float.
        let step = exponent.clamp(-960, 960);
        mantissa *= f64::from_bits(((1023 + step) as u64) << 52);
        exponent -= step;
    }
    mantissa.is_finite().then_some(mantissa)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Value;
    use crate::window::oracle;

    fn moments(numbers: &[Number]) -> Moments {
        let mut moments = Moments::default();
        numbers.iter().for_each(|number| moments.add(*number));
        moments
    }

    fn of_floats(floats: &[f64]) -> Moments {
        moments(&floats.iter().copied().map(Number::Float).collect::<Vec<_>>())
    }

    fn bytes(moments: &Moments) -> Vec<u8> {
        let mut bytes = Vec::new();
        moments.encode(&mut bytes);
        bytes
    }

    /// Through bytes and back.
    fn stored(moments: &Moments) -> Moments {
        let bytes = bytes(moments);
        let mut reader = Reader::new(&bytes);
        let stored = Moments::decode(&mut reader).unwrap();
        assert!(reader.is_at_end());
        stored
    }

    #[test]
    fn a_sample_of_two_is_the_least_that_varies() {
        assert_eq!((of_floats(&[]).variance(), of_floats(&[]).stddev()), (None, None));
        assert_eq!((of_floats(&[5.0]).variance(), of_floats(&[5.0]).stddev()), (None, None));
        assert_eq!(of_floats(&[5.0, 5.0]).variance(), Some(0.0));
        assert_eq!(of_floats(&[0.0, -0.0, 0.0]).stddev(), Some(0.0));
        let sample = of_floats(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(sample.variance(), Some(32.0 / 7.0));
        assert_eq!(sample.stddev(), Some((32.0_f64 / 7.0).sqrt()));
    }

    #[test]
    fn what_cancels_costs_no_digit() {
        assert_eq!(of_floats(&[1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0]).variance(), Some(30.0));
        assert_eq!(of_floats(&[1e16, 1e16 + 2.0, 1e16 + 4.0]).variance(), Some(4.0));
        assert_eq!(of_floats(&[0.1, 0.1, 0.1]).variance(), Some(0.0));
        assert_eq!(moments(&[Number::Int(16_000); 3]).variance(), Some(0.0), "their squares outgrow a word");
        let far = [i64::MAX, i64::MAX - 1, i64::MAX - 2].map(Number::Int);
        assert_eq!(moments(&far).variance(), Some(1.0));
        let ends = [Number::Int(i64::MIN), Number::Int(i64::MAX), Number::Float(-0.5)];
        assert_eq!(moments(&ends).variance(), Some(2_f64.powi(126)));
    }

    #[test]
    fn what_lies_far_below_a_half_decides_it() {
        // Its square is odd and has 54 bits: half of it lies between two floats.
        let (odd, tiny) = (94_906_267_i64, 2_f64.powi(-60));
        let around = [odd * odd - 1, odd * odd + 1].map(|square| square as f64 / 2.0);
        assert!(around[0] < around[1]);
        for (other, expected) in [(tiny, around[0]), (-tiny, around[1])] {
            assert_eq!(of_floats(&[odd as f64, other]).variance(), Some(expected));
        }
    }

    #[test]
    fn the_root_is_there_where_the_square_is_beyond_the_floats() {
        let large = stored(&of_floats(&[1e200, -1e200]));
        assert_eq!((large.variance(), large.stddev()), (None, Some(2_f64.sqrt() * 1e200)));
        let small = stored(&of_floats(&[0.0, 5e-324]));
        assert_eq!((small.variance(), small.stddev()), (Some(0.0), Some(5e-324)), "the root of a half, rounded up");
        assert_eq!(of_floats(&[f64::MAX, f64::MIN]).stddev(), None, "1.4 times the greatest float");
        assert_eq!(of_floats(&[f64::MAX, f64::MAX]).stddev(), Some(0.0));
    }

    /// Stored states have them.
    #[test]
    fn bytes_are_for_ever() {
        let whole = moments(&[Number::Int(-3), Number::Int(1)]);
        assert_eq!(bytes(&whole), [2, 1, 3, 33, 1, 0, 0, 0, 0, 0xa0, 0, 0, 0]);
        assert_eq!(bytes(&of_floats(&[0.0])), [1, 2, 0, 0, 0]);
    }

    #[test]
    fn bytes_that_are_no_moments_are_refused_and_impossible_ones_give_nothing() {
        let whole = bytes(&of_floats(&[1.0, 2.5]));
        for cut in 0..whole.len() {
            assert!(Moments::decode(&mut Reader::new(&whole[..cut])).is_err(), "{cut}");
        }
        assert!(Moments::decode(&mut Reader::new(&[2, 1, 3, 60, 8])).is_err());
        // Squares that are less than the square of the sum: none of real numbers.
        for squares in [&[0_u8, 0][..], &[33, 1, 1, 0, 0, 0, 0, 0, 0, 0], &[0, 1, 1, 0, 0, 0, 0, 0, 0, 0]] {
            let impossible = [&[2, 1, 200, 1], squares].concat();
            assert_eq!(Moments::decode(&mut Reader::new(&impossible)).unwrap().variance(), None, "{squares:?}");
        }
        let full = [&[0xff; 9][..], &[1, 1, 0, 0, 67], &[0xff; 67 * 8]].concat();
        let mut full = Moments::decode(&mut Reader::new(&full)).unwrap();
        full.merge(&full.clone());
        assert_eq!((full.variance(), full.stddev().is_some()), (None, false));
    }

    fn number() -> impl Strategy<Value = Number> {
        prop_oneof![
            any::<f64>().prop_filter("finite", |float| float.is_finite()).prop_map(Number::Float),
            (-1e6..1e6_f64).prop_map(Number::Float),
            (-8..8_i32, -160..160_i32).prop_map(|(m, e)| Number::Float(f64::from(m) * 2_f64.powi(4 * e))),
            (0..1_u64 << 54).prop_map(f64::from_bits).prop_map(Number::Float),
            any::<i64>().prop_map(Number::Int),
            (-9..9_i64).prop_map(Number::Int),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn variances_are_exact_and_rounded_once_in_any_order_and_however_they_are_merged(
            numbers in prop_oneof![
                prop::collection::vec(number(), 0..30),
                prop::collection::vec((-1e3..1e3_f64).prop_map(Number::Float), 0..30),
                // So that sums outgrow their words.
                (-40..40_i32, prop::collection::vec(1.0..2.0_f64, 0..30)).prop_map(|(exponent, mantissas)| {
                    mantissas.into_iter().map(|mantissa| Number::Float(mantissa * 2_f64.powi(exponent))).collect()
                }),
                prop::collection::vec((0..1000_i64).prop_map(|n| Number::Float(1e12 + n as f64 / 7.0)), 0..30),
            ],
            cut in any::<prop::sample::Index>(),
        ) {
            let values: Vec<Value<'static>> = numbers
                .iter()
                .map(|number| match number {
                    Number::Int(int) => Value::Int(*int),
                    Number::Float(float) => Value::Float(*float),
                })
                .collect();
            let values: Vec<&Value<'static>> = values.iter().collect();
            let whole = moments(&numbers);
            let bits = |value: Option<f64>| value.map(f64::to_bits);
            prop_assert_eq!(bits(whole.variance()), bits(oracle::variance(&values)));
            prop_assert_eq!(bits(whole.stddev()), bits(oracle::stddev(&values)));

            let cut = cut.index(numbers.len() + 1);
            let (left, right) = numbers.split_at(cut);
            let mut right = moments(&right.iter().rev().copied().collect::<Vec<_>>());
            right.merge(&stored(&moments(left)));
            let mut left = moments(left);
            left.merge(&moments(&numbers[cut..]));
            for merged in [&stored(&right), &left] {
                prop_assert_eq!(bits(merged.variance()), bits(whole.variance()));
                prop_assert_eq!(bits(merged.stddev()), bits(whole.stddev()));
            }
        }
    }
}
