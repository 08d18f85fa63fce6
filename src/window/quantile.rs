//! `quantile(x, q)`: how many values lie in each of many narrow bins (DDSketch: Masson, Rim, Lee 2019).
//!
//! Each power of two is cut into 64 bins of one width, so the middle of a bin is no further than 1 / 128 = 0.78 % from any
//! value in it, over the whole range of floats; subnormal ones are no exception. A value's bin is in its highest bits, and
//! no logarithm, which machines round differently, is needed. Bins are never merged or dropped, so nothing depends on the
//! order of values: there are 268,545 at most, 9 MB in memory and 1 MB stored; values from 1 ms to 10 s have 860.

use hashbrown::HashTable;

use super::codec::{Reader, StateError, write_signed, write_varint};
use super::exact::Number;
use super::spec::Fraction;

/// Bits of a mantissa that choose the bin: 2⁶ in each power of two.
const BIN_BITS: u32 = 6;
/// Bits of a float below those that make its bin.
const BELOW: u32 = 52 - BIN_BITS;
/// Subnormal floats are multiplied by 2⁵⁴ first, and have the bins below those of all others.
const SUBNORMAL_SHIFT: i32 = 54;
const SUBNORMAL_BINS: i32 = SUBNORMAL_SHIFT << BIN_BITS;
/// 2⁵⁴
const SUBNORMAL_SCALE: f64 = (1_u64 << SUBNORMAL_SHIFT) as f64;

/// Where the values lie.
#[derive(Clone, Debug)]
pub(super) struct Quantile {
    fraction: Fraction,
    /// The least and the greatest value. A quantile lies between them: of equal values it is exact.
    least: f64,
    greatest: f64,
    /// Bins, by their number, and how many values each has.
    bins: HashTable<(i32, u64)>,
}

impl Quantile {
    pub(super) fn new(fraction: Fraction) -> Self {
        Self { fraction, least: f64::INFINITY, greatest: f64::NEG_INFINITY, bins: HashTable::new() }
    }

    pub(super) fn fraction(&self) -> Fraction {
        self.fraction
    }

    pub(super) fn add(&mut self, number: Number) {
        let value = match number {
            Number::Int(value) => value as f64,
            // -0.0 is 0.0.
            Number::Float(value) => value + 0.0,
        };
        self.count(bin(value), 1, value, value);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (bin, count) in &other.bins {
            self.count(*bin, *count, other.least, other.greatest);
        }
    }

    /// The value of rank ⌊q (n - 1)⌋, counted from 0 for the least of n, as the middle of its bin: of two values in the
    /// middle the lower one.
    pub(super) fn value(&self) -> Option<f64> {
        self.at(self.fraction)
    }

    fn at(&self, fraction: Fraction) -> Option<f64> {
        let all = self.bins.iter().fold(0_u64, |all, (_, count)| all.saturating_add(*count));
        let last = all.checked_sub(1)?;
        let rank = ((fraction.value() * last as f64) as u64).min(last);
        let mut seen = 0_u64;
        for (bin, count) in self.sorted() {
            seen = seen.saturating_add(count);
            if seen > rank {
                return Some(middle(bin).max(self.least).min(self.greatest));
            }
        }
        None
    }

    /// Bytes in memory: a function of the multiset.
    pub(super) fn bytes(&self) -> u64 {
        // A table keeps room for as many again.
        2 * (size_of::<(i32, u64)>() as u64 + 1) * self.bins.len() as u64
    }

    /// Equal multisets give equal bytes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        write_varint(self.bins.len() as u128, out);
        if self.bins.is_empty() {
            return;
        }
        out.extend_from_slice(&self.least.to_bits().to_le_bytes());
        out.extend_from_slice(&self.greatest.to_bits().to_le_bytes());
        let mut before = 0;
        for (bin, count) in self.sorted() {
            write_signed(i128::from(bin - before), out);
            write_varint(u128::from(count), out);
            before = bin;
        }
    }

    pub(super) fn decode(fraction: Fraction, reader: &mut Reader<'_>) -> Result<Self, StateError> {
        let mut quantile = Self::new(fraction);
        let bins = reader.count()?;
        if bins == 0 {
            return Ok(quantile);
        }
        let (least, greatest) = (f64::from_bits(reader.word()?), f64::from_bits(reader.word()?));
        if !(least <= greatest && least.is_finite() && greatest.is_finite()) {
            return Err(reader.damaged("no number is the least or the greatest"));
        }
        let mut before = 0;
        for _ in 0..bins {
            let number = reader.signed()?.checked_add(i128::from(before)).and_then(|bin| i32::try_from(bin).ok());
            let Some(number) = number.filter(|number| (bin(least)..=bin(greatest)).contains(number)) else {
                return Err(reader.damaged("a bin is out of range"));
            };
            quantile.count(number, reader.count()?, least, greatest);
            before = number;
        }
        Ok(quantile)
    }

    fn count(&mut self, bin: i32, count: u64, least: f64, greatest: f64) {
        self.least = self.least.min(least);
        self.greatest = self.greatest.max(greatest);
        match self.bins.find_mut(spread(bin), |(other, _)| *other == bin) {
            Some((_, own)) => *own = own.saturating_add(count),
            None => {
                self.bins.insert_unique(spread(bin), (bin, count), |(bin, _)| spread(*bin));
            }
        }
    }

    /// In the order of their values.
    fn sorted(&self) -> Vec<(i32, u64)> {
        let mut bins: Vec<(i32, u64)> = self.bins.iter().copied().collect();
        bins.sort_unstable();
        bins
    }
}

/// Where a bin is looked for.
fn spread(bin: i32) -> u64 {
    // By the golden ratio: neighbours come far apart, in the highest bits as well as in the lowest.
    u64::from(bin.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

/// The number of a value's bin: of positive ones positive and the greater the greater they are, of negative ones the
/// negative one. Zero alone has bin 0.
fn bin(value: f64) -> i32 {
    let magnitude = value.abs();
    let number = if magnitude < f64::MIN_POSITIVE {
        ((magnitude * SUBNORMAL_SCALE).to_bits() >> BELOW) as i32
    } else {
        (magnitude.to_bits() >> BELOW) as i32 + SUBNORMAL_BINS
    };
    if value < 0.0 { -number } else { number }
}

/// The middle of a bin.
fn middle(bin: i32) -> f64 {
    if bin == 0 {
        return 0.0;
    }
    let number = bin.unsigned_abs();
    let float = |number: u32| f64::from_bits(u64::from(number) << BELOW | 1 << (BELOW - 1));
    let magnitude = match number.checked_sub(SUBNORMAL_BINS.unsigned_abs()) {
        Some(number) if number >> BIN_BITS > 0 => float(number),
        _ => float(number) / SUBNORMAL_SCALE,
    };
    if bin < 0 { -magnitude } else { magnitude }
}

/// How whole numbers are spread that are no aggregate's inputs.
#[derive(Clone, Debug)]
pub struct Distribution(Quantile);

impl Default for Distribution {
    fn default() -> Self {
        Self(Quantile::new(Fraction::HALF))
    }
}

impl Distribution {
    /// Adds a number so many times.
    pub fn add(&mut self, value: i64, times: u64) {
        if times > 0 {
            let value = value as f64;
            self.0.count(bin(value), times, value, value);
        }
    }

    /// The number below which this part of all lies, with 1 % error at most; `None` where there is none.
    pub fn at(&self, fraction: Fraction) -> Option<f64> {
        self.0.at(fraction)
    }

    /// The greatest.
    pub fn greatest(&self) -> Option<f64> {
        (!self.0.bins.is_empty()).then_some(self.0.greatest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the middle of a bin may be away from a value, as a part of it; a bin has both its ends.
    const ERROR_MAX: f64 = 1.0 / 128.0;

    fn quantile(fraction: f64, values: impl IntoIterator<Item = f64>) -> Quantile {
        let mut quantile = Quantile::new(Fraction::new(fraction).unwrap());
        values.into_iter().for_each(|value| quantile.add(Number::Float(value)));
        quantile
    }

    /// Of the same values.
    fn at(quantile: &Quantile, fraction: f64) -> f64 {
        quantile.at(Fraction::new(fraction).unwrap()).unwrap()
    }

    fn bytes(quantile: &Quantile) -> Vec<u8> {
        let mut bytes = Vec::new();
        quantile.encode(&mut bytes);
        bytes
    }

    /// Through bytes and back.
    fn stored(quantile: &Quantile) -> Quantile {
        let bytes = bytes(quantile);
        let mut reader = Reader::new(&bytes);
        let stored = Quantile::decode(quantile.fraction, &mut reader).unwrap();
        assert!(reader.is_at_end());
        stored
    }

    #[test]
    fn few_values_have_the_quantiles_of_their_ranks() {
        assert_eq!(quantile(0.5, []).value(), None);
        for value in [0.0, 1.0, -7.3, 1e308, -5e-324] {
            assert_eq!(quantile(0.99, [value; 3]).value(), Some(value), "a single value is exact");
        }
        assert_eq!(bytes(&quantile(0.5, [-0.0])), bytes(&quantile(0.5, [0.0])));
        assert_eq!(quantile(0.5, [3.0, 9.0]).value(), Some(3.0 + 1.0 / 64.0), "of two values the lower one");
        let near = |fraction, expected: f64| {
            let found = quantile(fraction, [50.0, -8.0, 0.0, 4.0, 1000.0]).value().unwrap();
            assert!((found - expected).abs() <= expected.abs() * ERROR_MAX, "{fraction}: {found}");
        };
        for (fraction, expected) in [(0.0, -8.0), (0.24, -8.0), (0.25, 0.0), (0.5, 4.0), (0.99, 50.0), (1.0, 1000.0)] {
            near(fraction, expected);
        }
    }

    #[test]
    fn whole_numbers_of_any_size_are_values() {
        let mut large = Quantile::new(Fraction::HALF);
        [i64::MIN, i64::MAX, 9_007_199_254_740_993].iter().for_each(|value| large.add(Number::Int(*value)));
        let found = large.value().unwrap();
        assert!((found / 9_007_199_254_740_993.0 - 1.0).abs() <= ERROR_MAX, "{found}");
        assert_eq!(at(&large, 1.0), 9_223_372_036_854_775_807.0);
    }

    /// Stored states have them.
    #[test]
    fn bins_and_bytes_are_for_ever() {
        let bins = [5e-324, f64::MIN_POSITIVE, 1.0, 1.015_625, -2.0, f64::MAX].map(bin);
        assert_eq!(bins, [192, 3_520, 68_928, 68_929, -68_992, 134_463]);
        let ends = [(-1.0_f64).to_le_bytes(), 2.01_f64.to_le_bytes()].concat();
        let expected = [&[2][..], &ends, &[0xff, 0xb4, 0x08, 1, 0x80, 0xeb, 0x10, 2]].concat();
        assert_eq!(bytes(&quantile(0.5, [2.0, -1.0, 2.01])), expected);
        assert_eq!(bytes(&quantile(0.5, [])), [0]);
    }

    #[test]
    fn bins_follow_each_other_over_the_whole_range_of_floats() {
        assert_eq!((bin(0.0), middle(0)), (0, 0.0));
        let all = bin(f64::MIN)..=bin(f64::MAX);
        let mut before = f64::NEG_INFINITY;
        for number in all.filter(|number| number.abs() >= bin(5e-324) || *number == 0) {
            let middle = middle(number);
            assert!(middle >= before, "{number}");
            // Among the least floats a bin is narrower than what lies between two of them.
            assert!(bin(middle) == number || middle.abs() < 1e-320, "{number}: {middle}");
            before = middle;
        }
    }

    #[test]
    fn bytes_that_are_no_bins_are_refused() {
        let whole = bytes(&quantile(0.5, [1.0, 2.0, -3.0]));
        for cut in 0..whole.len() {
            assert!(Quantile::decode(Fraction::HALF, &mut Reader::new(&whole[..cut])).is_err(), "{cut}");
        }
        let with_ends = |least: f64, greatest: f64| {
            let mut bytes = whole.clone();
            bytes[1..9].copy_from_slice(&least.to_le_bytes());
            bytes[9..17].copy_from_slice(&greatest.to_le_bytes());
            bytes
        };
        let mut endless = with_ends(-3.0, 2.0);
        endless[0] = 0x7f;
        for bytes in [with_ends(f64::NAN, 2.0), with_ends(-3.0, f64::INFINITY), with_ends(1.0, 2.0), endless] {
            assert!(Quantile::decode(Fraction::HALF, &mut Reader::new(&bytes)).is_err());
        }
    }

    /// Of a million values, each quantile is at most one per cent away from the value of its rank.
    fn check_a_million(name: &str, mut make: impl FnMut(&mut fastrand::Rng) -> f64) {
        let mut random = fastrand::Rng::with_seed(1);
        let mut values: Vec<f64> = (0..1_000_000).map(|_| make(&mut random)).collect();
        let sketch = stored(&quantile(0.5, values.iter().copied()));
        values.sort_by(f64::total_cmp);
        let mut worst: f64 = 0.0;
        for percent in (0..=1_000).map(|part| f64::from(part) / 1_000.0) {
            let (exact, found) = (values[(percent * 999_999.0) as usize], at(&sketch, percent));
            worst = worst.max(if found == exact { 0.0 } else { ((found - exact) / exact).abs() });
        }
        println!("{name}: error {:.3} %, {} bins, {} bytes", worst * 100.0, sketch.bins.len(), bytes(&sketch).len());
        assert!(worst <= ERROR_MAX, "{name}: {worst}");
    }

    #[test]
    fn quantiles_of_a_million_values_are_one_per_cent_away_at_most() {
        // A long tail, from 1 on: times in ms.
        check_a_million("positive", |random| 1.0 / (1.0 - random.f64()).powi(2));
        check_a_million("negative", |random| -1e-6 - random.f64());
        check_a_million("mixed", |random| {
            let sum: f64 = (0..6).map(|_| random.f64() - 0.5).sum();
            if random.u8(..) < 8 { 0.0 } else { sum.powi(3) * 1e9 }
        });
    }

    proptest! {
        #[test]
        fn no_float_is_further_from_the_middle_of_its_bin(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            for value in [value, f64::from_bits(bits & ((1 << 53) - 1))] {
                let middle = middle(bin(value));
                prop_assert!((middle - value).abs() <= value.abs() * ERROR_MAX, "{value}: {middle}");
            }
        }

        #[test]
        fn bins_depend_on_no_order_and_no_way_of_merging(
            values in prop::collection::vec(prop_oneof![-1e3..1e3_f64, (-9..9_i32).prop_map(f64::from)], 0..200),
            places in prop::collection::vec(any::<u8>(), 200),
        ) {
            let expected = bytes(&quantile(0.9, values.iter().copied()));
            let mut parts = vec![quantile(0.9, []); 4];
            for (value, place) in values.iter().zip(&places).rev() {
                parts[usize::from(*place) % 4].add(Number::Float(*value));
            }
            while parts.len() > 1 {
                let place = usize::from(places[parts.len()]) % parts.len();
                let part = stored(&parts.swap_remove(place));
                let into = usize::from(places[parts.len() + 10]) % parts.len();
                parts[into].merge(&part);
            }
            prop_assert_eq!(bytes(&parts[0]), expected);
        }
    }
}
