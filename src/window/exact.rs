//! Exact sums of whole numbers and floats, rounded once: the same whatever the order, however partial sums were merged.
//!
//! What Shewchuk's expansions give (Adaptive Precision Floating-Point Arithmetic, 1997; Python's `fsum`), by fixed
//! points instead, since those merge without regard to order and cost a shift and an add: 128 bits for whole numbers,
//! 128 bits at 2⁻⁷⁰ for floats from about 4e-6 to 1e17, and for all others a long accumulator over the whole range of
//! floats (Kulisch, Computer Arithmetic and Validity, 2013).

use super::codec::{Reader, StateError, write_signed};

/// The lowest bit of `fixed` is worth 2⁻⁷⁰.
const FIXED_POINT: u32 = 70;
/// 2⁻⁷⁰
const FIXED_UNIT: f64 = 1.0 / (1_u128 << FIXED_POINT) as f64;
/// A mantissa of 53 bits, shifted by no more than this, leaves room for one more addition in 127 bits.
const FIXED_SHIFT_MAX: i32 = 73;
/// The lowest bit of `long` is worth 2⁻¹⁰⁷⁴, as that of the floats.
pub(super) const LONG_POINT: u32 = 1074;
/// 2⁶⁴ floats below 2¹⁰²⁴, and the sign: 1074 + 1024 + 64 + 1 = 2163 bits.
const LONG_WORDS: usize = 34;

const SAW_WHOLE: u8 = 1;
const SAW_FLOAT: u8 = 2;
const HAS_LONG: u8 = 4;

/// What a sum is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Sum {
    /// Of nothing; or beyond the greatest float, which no SQL number holds either.
    None,
    /// Of whole numbers alone: exact.
    Whole(i128),
    /// With a float among them: the exact sum of all, rounded once (half to even).
    Float(f64),
}

/// A number, as an event has it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Number {
    Int(i64),
    /// Finite.
    Float(f64),
}

/// An exact sum under way.
#[derive(Clone, Debug, Default)]
pub struct ExactSum {
    /// 2⁶⁴ events of 64 bits stay within it.
    whole: i128,
    fixed: i128,
    long: Option<Box<Long>>,
    saw_whole: bool,
    saw_float: bool,
}

impl ExactSum {
    pub(super) fn add(&mut self, number: Number) {
        match number {
            Number::Int(value) => self.add_int(value),
            Number::Float(value) => self.add_float(value),
        }
    }

    /// Adds a whole number.
    pub fn add_int(&mut self, value: i64) {
        self.saw_whole = true;
        self.whole = self.whole.wrapping_add(i128::from(value));
    }

    /// Adds a finite float.
    pub fn add_float(&mut self, value: f64) {
        debug_assert!(value.is_finite(), "inputs of aggregates are finite");
        self.saw_float = true;
        let (mantissa, exponent) = parts(value);
        let shift = exponent + FIXED_POINT as i32;
        if (0..=FIXED_SHIFT_MAX).contains(&shift) {
            let scaled = i128::from(mantissa) << shift;
            self.add_fixed(if value < 0.0 { -scaled } else { scaled });
        } else if mantissa != 0 {
            let shift = (exponent + LONG_POINT as i32) as u32;
            self.long.get_or_insert_default().add(u128::from(mantissa), shift, value < 0.0);
        }
    }

    /// Adds all that another sum has.
    pub fn merge(&mut self, other: &Self) {
        self.saw_whole |= other.saw_whole;
        self.saw_float |= other.saw_float;
        self.whole = self.whole.wrapping_add(other.whole);
        self.add_fixed(other.fixed);
        if let Some(long) = &other.long {
            self.long.get_or_insert_default().merge(long);
        }
    }

    /// The sum.
    pub fn value(&self) -> Sum {
        match (self.saw_float, self.saw_whole) {
            (false, false) => Sum::None,
            (false, true) => Sum::Whole(self.whole),
            (true, _) => self.rounded().map_or(Sum::None, Sum::Float),
        }
    }

    /// The sum as a float, rounded once; `None` beyond the greatest float.
    pub fn rounded(&self) -> Option<f64> {
        if !self.saw_float {
            return Some(self.whole as f64);
        }
        let short = self.whole.checked_mul(1 << FIXED_POINT).and_then(|whole| whole.checked_add(self.fixed));
        if let (Some(total), None) = (short, &self.long) {
            // The cast rounds; a power of two changes no bit of the mantissa, and nothing here is subnormal.
            return Some(total as f64 * FIXED_UNIT);
        }
        self.total().rounded()
    }

    /// How far the sum is from zero, in units of 2⁻¹⁰⁷⁴: the lowest word first, and none of zeros behind the last.
    pub(super) fn magnitude(&self) -> Vec<u64> {
        let Long(words) = self.total().magnitude();
        let end = words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        words[..end].to_vec()
    }

    fn total(&self) -> Long {
        let mut total = self.long.as_deref().cloned().unwrap_or_default();
        total.add(self.whole.unsigned_abs(), LONG_POINT, self.whole < 0);
        total.add(self.fixed.unsigned_abs(), LONG_POINT - FIXED_POINT, self.fixed < 0);
        total
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.push(
            flag(self.saw_whole, SAW_WHOLE) | flag(self.saw_float, SAW_FLOAT) | flag(self.long.is_some(), HAS_LONG),
        );
        if self.saw_whole {
            write_signed(self.whole, out);
        }
        if self.saw_float {
            write_signed(self.fixed, out);
        }
        if let Some(long) = &self.long {
            long.encode(out);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        let flags = reader.byte()?;
        if flags & !(SAW_WHOLE | SAW_FLOAT | HAS_LONG) != 0 {
            return Err(reader.damaged("no sum begins like this"));
        }
        let (saw_whole, saw_float) = (flags & SAW_WHOLE != 0, flags & SAW_FLOAT != 0);
        let whole = if saw_whole { reader.signed()? } else { 0 };
        let fixed = if saw_float { reader.signed()? } else { 0 };
        let long = if flags & HAS_LONG != 0 { Some(Box::new(Long::decode(reader)?)) } else { None };
        Ok(Self { whole, fixed, long, saw_whole, saw_float })
    }

    fn add_fixed(&mut self, scaled: i128) {
        self.fixed = self.fixed.checked_add(scaled).unwrap_or_else(|| {
            let long = self.long.get_or_insert_default();
            long.add(self.fixed.unsigned_abs(), LONG_POINT - FIXED_POINT, self.fixed < 0);
            scaled
        });
    }
}

/// Of a finite float: value = ± mantissa * 2^exponent.
pub(super) fn parts(value: f64) -> (u64, i32) {
    let bits = value.to_bits();
    let (field, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
    if field == 0 { (fraction, -1074) } else { (fraction | 1 << 52, field - 1075) }
}

/// A number in two's complement, the lowest word first, wide enough for any sum of floats.
#[derive(Clone, Debug)]
struct Long([u64; LONG_WORDS]);

impl Default for Long {
    fn default() -> Self {
        Self([0; LONG_WORDS])
    }
}

impl Long {
    /// Adds ± `magnitude` * 2^`shift`, in units of the lowest bit.
    fn add(&mut self, magnitude: u128, shift: u32, negative: bool) {
        let (word, bit) = ((shift / 64) as usize, shift % 64);
        let low = magnitude << bit;
        let high = if bit == 0 { 0 } else { (magnitude >> (128 - bit)) as u64 };
        let parts = [low as u64, (low >> 64) as u64, high];
        let mut carry = false;
        for (index, own) in self.0.iter_mut().enumerate().skip(word) {
            let part = parts.get(index - word).copied().unwrap_or(0);
            if index >= word + parts.len() && !carry {
                break;
            }
            (*own, carry) = if negative { own.borrowing_sub(part, carry) } else { own.carrying_add(part, carry) };
        }
    }

    fn merge(&mut self, other: &Self) {
        let mut carry = false;
        for (own, part) in self.0.iter_mut().zip(other.0) {
            (*own, carry) = own.carrying_add(part, carry);
        }
    }

    fn is_negative(&self) -> bool {
        self.0[LONG_WORDS - 1] >> 63 == 1
    }

    fn magnitude(&self) -> Self {
        let mut magnitude = self.clone();
        if self.is_negative() {
            let mut carry = true;
            for word in &mut magnitude.0 {
                (*word, carry) = (!*word).overflowing_add(u64::from(carry));
            }
        }
        magnitude
    }

    /// Half to even; `None` beyond the greatest float.
    fn rounded(&self) -> Option<f64> {
        let Self(words) = self.magnitude();
        let Some(top) = words.iter().rposition(|word| *word != 0) else { return Some(0.0) };
        let highest = top as u32 * 64 + words[top].ilog2();
        if highest >= LONG_POINT + 1024 {
            return None;
        }
        // The lowest bit is the lowest of the floats, too: what fits into a mantissa is exact, subnormal or not.
        let bits = match highest.checked_sub(52) {
            None | Some(0) => words[0],
            Some(shift) => {
                let (word, bit) = ((shift / 64) as usize, shift % 64);
                let above = words.get(word + 1).map_or(0, |above| u128::from(*above) << 64);
                let mantissa = ((above | u128::from(words[word])) >> bit) as u64 & ((1 << 53) - 1);
                // A carry out of the mantissa raises the exponent, as it should.
                (u64::from(shift) << 52) + mantissa + u64::from(rounds_up(&words, shift, mantissa))
            }
        };
        let value = f64::from_bits(bits);
        value.is_finite().then_some(if self.is_negative() { -value } else { value })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let Self(words) = self.magnitude();
        let first = words.iter().position(|word| *word != 0).unwrap_or(0);
        let end = words.iter().rposition(|word| *word != 0).map_or(first, |last| last + 1);
        out.extend_from_slice(&[u8::from(self.is_negative()), first as u8, end as u8]);
        for word in &words[first..end] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        let (negative, first, end) = (reader.byte()?, reader.byte()?, reader.byte()?);
        let mut long = Self::default();
        let Some(words) = long.0.get_mut(usize::from(first)..usize::from(end)) else {
            return Err(reader.damaged("a sum is too long"));
        };
        for word in words {
            *word = reader.word()?;
        }
        if negative != 0 {
            let magnitude = std::mem::take(&mut long);
            long.subtract(&magnitude);
        }
        Ok(long)
    }

    fn subtract(&mut self, other: &Self) {
        let mut borrow = false;
        for (own, part) in self.0.iter_mut().zip(other.0) {
            (*own, borrow) = own.borrowing_sub(part, borrow);
        }
    }
}

/// Whether what lies below bit `shift` (not 0) is more than half of it, or half with an odd mantissa.
fn rounds_up(words: &[u64; LONG_WORDS], shift: u32, mantissa: u64) -> bool {
    let (word, bit) = (((shift - 1) / 64) as usize, (shift - 1) % 64);
    let half = words[word] >> bit & 1 == 1;
    let rest = words[word] & ((1 << bit) - 1) != 0 || words[..word].iter().any(|word| *word != 0);
    half && (rest || mantissa & 1 == 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::window::oracle;

    fn sum(floats: &[f64], ints: &[i64]) -> ExactSum {
        let mut sum = ExactSum::default();
        floats.iter().for_each(|float| sum.add_float(*float));
        ints.iter().for_each(|int| sum.add_int(*int));
        sum
    }

    fn float(sum: &ExactSum) -> f64 {
        let Sum::Float(float) = sum.value() else { panic!("{sum:?}") };
        float
    }

    /// Through bytes and back.
    fn stored(sum: &ExactSum) -> ExactSum {
        let mut bytes = Vec::new();
        sum.encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        let stored = ExactSum::decode(&mut reader).unwrap();
        assert!(reader.is_at_end());
        stored
    }

    #[test]
    fn whole_numbers_alone_stay_whole() {
        assert_eq!(sum(&[], &[]).value(), Sum::None);
        assert_eq!(sum(&[], &[0]).value(), Sum::Whole(0));
        let large = sum(&[], &[i64::MAX, i64::MAX, 5]);
        assert_eq!(stored(&large).value(), Sum::Whole(2 * i128::from(i64::MAX) + 5));
        assert_eq!(large.rounded(), Some(18_446_744_073_709_551_616.0));
    }

    #[test]
    fn floats_are_rounded_once() {
        assert_eq!(float(&sum(&[0.1; 10], &[])), 1.0);
        assert_eq!(float(&sum(&[1e100, 1.0, -1e100], &[])), 1.0);
        assert_eq!(float(&sum(&[1e-9, 1e16, -1e16], &[])), 1e-9);
        assert_eq!(float(&sum(&[0.5, 0.25], &[i64::MAX, -i64::MAX])), 0.75);
        assert_eq!(float(&sum(&[1e300], &[7])), 1e300);
        assert_eq!(float(&sum(&[-0.0], &[])).to_bits(), 0);
    }

    #[test]
    fn halves_go_to_even_and_anything_beyond_a_half_up() {
        let two_53 = 9_007_199_254_740_992.0;
        for scale in [1.0, 1e-3 / 1e-3, 2_f64.powi(300), 2_f64.powi(-300), 2_f64.powi(-1000)] {
            let tiny = 2_f64.powi(-20);
            assert_eq!(float(&sum(&[two_53 * scale, scale], &[])), two_53 * scale);
            assert_eq!(float(&sum(&[two_53 * scale, scale, tiny * scale], &[])), (two_53 + 2.0) * scale);
            assert_eq!(float(&sum(&[two_53 * scale, 3.0 * scale], &[])), (two_53 + 4.0) * scale);
            assert_eq!(float(&sum(&[-two_53 * scale, -3.0 * scale], &[])), -(two_53 + 4.0) * scale);
        }
    }

    #[test]
    fn the_least_and_the_greatest_floats_are_exact() {
        let least = f64::from_bits(1);
        assert_eq!(float(&sum(&[least, least, least], &[])), f64::from_bits(3));
        assert_eq!(float(&sum(&[f64::MIN_POSITIVE, -least], &[])), f64::from_bits((1 << 52) - 1));
        assert_eq!(float(&sum(&[f64::MAX, f64::MAX, -f64::MAX], &[])), f64::MAX);
        let beyond = sum(&[f64::MAX, f64::MAX], &[]);
        assert_eq!((beyond.value(), stored(&beyond).rounded()), (Sum::None, None));
        assert_eq!(sum(&[-f64::MAX, -2_f64.powi(970)], &[]).value(), Sum::None, "a half unit beyond rounds away");
        assert_eq!(float(&sum(&[f64::MAX, 2_f64.powi(969)], &[])), f64::MAX);
    }

    #[test]
    fn the_fixed_point_runs_over_into_the_long_one() {
        let many = vec![7.0e16; 10_000];
        let mut whole = sum(&many, &[]);
        assert_eq!(float(&whole), 7.0e20);
        whole.merge(&sum(&vec![-7.0e16; 9_999], &[]));
        whole.add_float(0.125);
        assert_eq!(float(&stored(&whole)), 70_000_000_000_000_000.125);
    }

    #[test]
    fn bytes_that_are_no_sum_are_refused() {
        for bytes in [&[8_u8][..], &[1], &[6, 0, 0, 0, 35], &[6, 0, 0, 9, 3], &[6, 0, 0, 0, 1, 1], &[]] {
            assert!(ExactSum::decode(&mut Reader::new(bytes)).is_err(), "{bytes:?}");
        }
    }

    /// Floats of any size, often near each other so that they cancel.
    fn any_float() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<f64>().prop_filter("finite, and no sum of them overflows", |float| float.abs() < 1e300),
            (-1e6..1e6_f64),
            (any::<i32>(), -100..100_i32).prop_map(|(mantissa, exponent)| f64::from(mantissa) * 2_f64.powi(exponent)),
            (0..1_u64 << 54).prop_map(f64::from_bits),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn sums_equal_shewchuks_in_any_order_and_however_they_are_merged(
            mut floats in prop::collection::vec(any_float(), 1..40),
            ints in prop::collection::vec(any::<i64>(), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let expected = oracle::shewchuk(&floats, &ints);
            prop_assert_eq!(float(&sum(&floats, &ints)).to_bits(), expected.to_bits());
            let cut = cut.index(floats.len());
            let mut right = sum(&floats[cut..], &ints);
            right.merge(&stored(&sum(&floats[..cut], &[])));
            prop_assert_eq!(float(&stored(&right)).to_bits(), expected.to_bits());
            floats.reverse();
            prop_assert_eq!(float(&sum(&floats, &ints)).to_bits(), expected.to_bits());
        }
    }
}
