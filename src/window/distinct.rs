//! `count(distinct x)`: the hashes of the values, as long as there are few; beyond that a sketch of them, HyperLogLog.
//!
//! Each is a function of the set of hashes: a state is a sketch if and only if it saw more than [`DISTINCT_EXACT_MAX`] of
//! them, and its registers are those of all. So neither the order of values matters nor how states were merged. The
//! estimate is made of the registers alone (Ertl, New cardinality estimation algorithms for HyperLogLog sketches, 2017,
//! algorithm 6, but for what it does about full registers: it takes 2⁶⁰ values to fill one), by operations that every
//! machine rounds alike: no logarithm.

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use super::codec::{Reader, StateError, write_varint};
use super::group::encode_value;
use crate::event::Value;
use crate::limits::DISTINCT_EXACT_MAX;

/// Stored states hold such hashes: never to be changed.
const SEED: (u64, u64) = (0x7469_6465_6d69_6c6c, 0x6469_7374_696e_6374);

/// Bits of a hash that choose a register. 2¹⁴ of them have a standard error of 1.04 / 2⁷ = 0.81 %.
const INDEX_BITS: u32 = 14;
const REGISTERS: usize = 1 << INDEX_BITS;
/// What a register holds at most: the place of the first one among the other bits of a hash, which may all be zeros.
const RANK_MAX: u8 = (u64::BITS - INDEX_BITS) as u8 + 1;
/// 1 / (2 ln 2)
const ALPHA: f64 = 0.721_347_520_444_481_7;

/// A sketch begins like this in its bytes, and not with how many hashes there are.
const SKETCH: u64 = u64::MAX;

/// The hash of a value, of which all that are equal have the same: 200 and 200.0, never '200'. The buffer is for a moment
/// longer and then as it was.
pub fn hash_value(value: &Value<'_>, buffer: &mut Vec<u8>) -> u64 {
    let start = buffer.len();
    encode_value(value, buffer);
    let hash = SipHasher13::new_with_keys(SEED.0, SEED.1).hash(&buffer[start..]);
    buffer.truncate(start);
    hash
}

/// A set of hashes, or what is kept of one.
#[derive(Clone, Debug)]
pub(super) enum Distinct {
    /// At most 72 KiB.
    Exact(HashTable<u64>),
    Sketch(Registers),
}

/// Of each register's hashes the greatest rank; 16 KiB.
#[derive(Clone, Debug)]
pub(super) struct Registers(Box<[u8]>);

impl Default for Distinct {
    fn default() -> Self {
        Self::Exact(HashTable::new())
    }
}

impl Distinct {
    pub(super) fn insert(&mut self, hash: u64) {
        match self {
            Self::Exact(hashes) => {
                if hashes.find(hash, |other| *other == hash).is_some() {
                    return;
                }
                hashes.insert_unique(hash, hash, |hash| *hash);
                if hashes.len() > DISTINCT_EXACT_MAX {
                    *self = Self::Sketch(Registers::of(hashes));
                }
            }
            Self::Sketch(registers) => registers.insert(hash),
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (_, Self::Exact(hashes)) => hashes.iter().for_each(|hash| self.insert(*hash)),
            (Self::Exact(hashes), Self::Sketch(registers)) => {
                let mut merged = Registers::of(hashes);
                merged.merge(registers);
                *self = Self::Sketch(merged);
            }
            (Self::Sketch(own), Self::Sketch(other)) => own.merge(other),
        }
    }

    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Exact(hashes) => hashes.len() as u64,
            // A sketch has seen so many for sure.
            Self::Sketch(registers) => (registers.estimate().round() as u64).max(DISTINCT_EXACT_MAX as u64 + 1),
        }
    }

    /// Bytes in memory: a function of the set.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            // A table keeps room for as many again.
            Self::Exact(hashes) => 2 * (size_of::<u64>() as u64 + 1) * hashes.len() as u64,
            Self::Sketch(registers) => registers.0.len() as u64,
        }
    }

    /// Equal sets give equal bytes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Exact(hashes) => {
                let mut hashes: Vec<u64> = hashes.iter().copied().collect();
                hashes.sort_unstable();
                write_varint(hashes.len() as u128, out);
                hashes.iter().for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
            }
            Self::Sketch(registers) => {
                write_varint(u128::from(SKETCH), out);
                registers.encode(out);
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        let count = reader.count()?;
        if count == SKETCH {
            return Ok(Self::Sketch(Registers::decode(reader)?));
        }
        if count > DISTINCT_EXACT_MAX as u64 {
            return Err(reader.damaged("a set has too many values"));
        }
        let mut distinct = Self::default();
        for _ in 0..count {
            distinct.insert(reader.word()?);
        }
        Ok(distinct)
    }
}

impl Registers {
    fn of(hashes: &HashTable<u64>) -> Self {
        let mut registers = Self(vec![0; REGISTERS].into());
        hashes.iter().for_each(|hash| registers.insert(*hash));
        registers
    }

    fn insert(&mut self, hash: u64) {
        let register = &mut self.0[(hash >> (u64::BITS - INDEX_BITS)) as usize];
        let rank = ((hash << INDEX_BITS).leading_zeros() as u8 + 1).min(RANK_MAX);
        *register = (*register).max(rank);
    }

    fn merge(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            *own = (*own).max(*other);
        }
    }

    fn estimate(&self) -> f64 {
        let mut with_rank = [0_u32; RANK_MAX as usize + 1];
        for rank in &self.0 {
            with_rank[usize::from(*rank)] += 1;
        }
        let [none, ranks @ ..] = with_rank;
        let all = REGISTERS as f64;
        let seen = ranks.iter().rev().fold(0.0, |sum, count| 0.5 * (sum + f64::from(*count)));
        let sum = seen + all * sigma(f64::from(none) / all);
        ALPHA * all * all / sum
    }

    /// Four registers in three bytes.
    fn encode(&self, out: &mut Vec<u8>) {
        for four in self.0.chunks_exact(4) {
            let bits = four.iter().rev().fold(0_u32, |bits, register| bits << 6 | u32::from(*register));
            out.extend_from_slice(&bits.to_le_bytes()[..3]);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        let bytes = reader.take(REGISTERS / 4 * 3)?;
        let mut registers = Vec::with_capacity(REGISTERS);
        for three in bytes.chunks_exact(3) {
            let bits = u32::from_le_bytes([three[0], three[1], three[2], 0]);
            registers.extend([0, 6, 12, 18].map(|shift| (bits >> shift & 0x3f) as u8));
        }
        if registers.iter().any(|rank| *rank > RANK_MAX) {
            return Err(reader.damaged("a register is out of range"));
        }
        Ok(Self(registers.into()))
    }
}

/// What registers that saw nothing stand for: x + Σ x^(2^k) 2^(k-1) over k from 1.
fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut factor, mut sum) = (1.0, x);
    loop {
        x *= x;
        let before = sum;
        sum += x * factor;
        factor += factor;
        if sum == before {
            return sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u64 = DISTINCT_EXACT_MAX as u64;

    fn hash(value: &Value<'_>) -> u64 {
        hash_value(value, &mut Vec::new())
    }

    /// Values that the seed makes differ from those of all others.
    fn hashes(seed: i64, count: i64) -> impl Iterator<Item = u64> {
        let mut buffer = Vec::new();
        (0..count).map(move |number| hash_value(&Value::Int(seed << 32 | number), &mut buffer))
    }

    fn distinct(hashes: impl Iterator<Item = u64>) -> Distinct {
        let mut distinct = Distinct::default();
        hashes.for_each(|hash| distinct.insert(hash));
        distinct
    }

    fn bytes(distinct: &Distinct) -> Vec<u8> {
        let mut bytes = Vec::new();
        distinct.encode(&mut bytes);
        bytes
    }

    /// Through bytes and back.
    fn stored(distinct: &Distinct) -> Distinct {
        let bytes = bytes(distinct);
        let mut reader = Reader::new(&bytes);
        let stored = Distinct::decode(&mut reader).unwrap();
        assert!(reader.is_at_end());
        stored
    }

    #[test]
    fn hashes_are_equal_if_type_and_value_are() {
        assert_eq!(hash(&Value::Int(200)), hash(&Value::Float(200.0)));
        assert_eq!(hash(&Value::Float(-0.0)), hash(&Value::Int(0)));
        assert_ne!(hash(&Value::Int(200)), hash(&Value::text("200")));
        assert_ne!(hash(&Value::Int(200)), hash(&Value::Time(200)));
        assert_eq!(hash(&Value::Json(r#"{"a": 1.0, "b": 2}"#.into())), hash(&Value::Json(r#"{"b":2,"a":1}"#.into())));
        let mut buffer = b"what is there".to_vec();
        assert_eq!(hash_value(&Value::text("/"), &mut buffer), hash(&Value::text("/")));
        assert_eq!(buffer, b"what is there");
    }

    /// Stored states have them: where this fails, a state no longer knows the values that it has seen.
    #[test]
    fn hashes_and_bytes_are_for_ever() {
        assert_eq!(hash(&Value::Int(200)), 9_756_647_530_355_476_612);
        assert_eq!(hash(&Value::text("192.0.2.7")), 16_787_742_795_785_668_708);
        let few = [&[3, 2, 0, 0, 0, 0, 0, 0, 0][..], &[3, 0, 0, 0, 0, 0, 0, 0], &[0, 1, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(bytes(&distinct([3, 2, 3, 256].into_iter())), few);
        let mut sketch = Registers::of(&HashTable::new());
        [u64::MAX, 1 << 50, 2 << 50 | 1 << 49, 3 << 50 | 1].iter().for_each(|hash| sketch.insert(*hash));
        assert_eq!((sketch.0[REGISTERS - 1], &sketch.0[..4]), (1, &[0, 51, 1, 50][..]));
        let bytes = bytes(&Distinct::Sketch(sketch));
        assert_eq!(bytes.len(), 10 + 12_288);
        assert_eq!((&bytes[9..14], bytes.last()), (&[1, 0xc0, 0x1c, 0xc8, 0][..], Some(&4)));
    }

    #[test]
    fn few_values_are_counted_exactly_and_many_by_a_sketch() {
        for count in [0, 1, 2, 4_095, 4_096] {
            let twice = hashes(1, count).chain(hashes(1, count));
            let distinct = stored(&distinct(twice));
            assert!(matches!(distinct, Distinct::Exact(_)));
            assert_eq!(distinct.count(), count as u64);
        }
        let above = distinct(hashes(1, 4_097).chain(hashes(1, 4_097)));
        assert!(matches!(above, Distinct::Sketch(_)));
        assert!((4_097..4_250).contains(&above.count()), "{}", above.count());
        assert_eq!(stored(&above).count(), above.count());
    }

    /// The root of the mean squared relative error over a hundred seeds is one per cent at most.
    #[test]
    fn the_standard_error_is_one_per_cent_at_most() {
        const SEEDS: i64 = 100;
        for count in [5_000, 20_000, 50_000, 100_000, 1_000_000] {
            let error = |seed| distinct(hashes(seed, count)).count() as f64 / count as f64 - 1.0;
            let errors: Vec<f64> = (0..SEEDS).map(error).collect();
            let rmse = (errors.iter().map(|error| error * error).sum::<f64>() / SEEDS as f64).sqrt();
            let bias = errors.iter().sum::<f64>() / SEEDS as f64;
            println!("{count} values: standard error {:.3} %, bias {:.3} %", rmse * 100.0, bias * 100.0);
            assert!(rmse <= 0.01, "{count} values: {rmse}");
            assert!(bias.abs() <= 0.003, "{count} values: {bias}");
        }
    }

    #[test]
    fn registers_at_the_ends_of_their_range_are_estimated() {
        let all = |rank: u8| Registers(vec![rank; REGISTERS].into()).estimate();
        assert_eq!(all(0), 0.0);
        assert!(all(RANK_MAX) > 2e19 && all(RANK_MAX - 1) > 1e19);
        assert_eq!(Distinct::Sketch(Registers(vec![RANK_MAX; REGISTERS].into())).count(), u64::MAX);
        assert_eq!(Distinct::Sketch(Registers(vec![0; REGISTERS].into())).count(), MAX + 1);
    }

    #[test]
    fn bytes_that_are_no_set_are_refused() {
        let mut many = Vec::new();
        write_varint(u128::from(MAX + 1), &mut many);
        many.resize(100_000, 0);
        let mut sketch = bytes(&distinct(hashes(1, 5_000)));
        assert!(Distinct::decode(&mut Reader::new(&sketch[..sketch.len() - 1])).is_err());
        sketch[20] = 0xff;
        for bytes in [&many[..], &sketch, &[1, 0, 0, 0, 0, 0, 0, 0], &[0xff; 10], &[]] {
            assert!(Distinct::decode(&mut Reader::new(bytes)).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]
        #[test]
        fn sets_depend_on_no_order_and_no_way_of_merging(
            count in prop_oneof![1..100_i64, 4_080..4_120_i64, 4_097..9_000_i64],
            parts in 1..6_usize,
            seed in any::<u64>(),
        ) {
            let expected = bytes(&distinct(hashes(7, count)));
            let mut random = fastrand::Rng::with_seed(seed);
            let mut shuffled: Vec<u64> = hashes(7, count).chain(hashes(7, count / 2)).collect();
            random.shuffle(&mut shuffled);
            let mut sets = vec![Distinct::default(); parts];
            // One part gets most, so that sketches meet exact sets.
            for hash in shuffled {
                let part = if random.bool() { 0 } else { random.usize(0..parts) };
                sets[part].insert(hash);
            }
            while sets.len() > 1 {
                let part = stored(&sets.swap_remove(random.usize(0..sets.len())));
                let into = random.usize(0..sets.len());
                sets[into].merge(&part);
            }
            prop_assert_eq!(bytes(&sets[0]), expected);
        }
    }
}
