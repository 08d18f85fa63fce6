//! What a window's `other` row is stored with: the states of its slots, each of which may change by itself.

use std::collections::BTreeMap;
use std::collections::btree_map::Iter;

use super::bounds::OtherKey;
use super::codec::{Reader, StateError, write_varint};

/// The first byte of the encoded states.
const FORMAT: u8 = 1;

/// Encoded states by slot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Others(BTreeMap<OtherKey, Vec<u8>>);

impl Others {
    /// Reads what `to_bytes` wrote.
    ///
    /// # Errors
    /// Where the bytes are of a newer version, or none of these.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = Reader::new(bytes);
        match reader.byte()? {
            FORMAT => {}
            0 => return Err(reader.damaged("no states begin like this")),
            found => return Err(StateError::Newer { found, known: FORMAT }),
        }
        let mut others = Self::default();
        while !reader.is_at_end() {
            let key = OtherKey::read(reader.take(3)?).ok_or_else(|| reader.damaged("it is of no slot"))?;
            let len = usize::try_from(reader.count()?).map_err(|_| reader.damaged("a state is too long"))?;
            let state = reader.take(len)?.to_vec();
            if others.0.insert(key, state).is_some() {
                return Err(reader.damaged("a slot has two states"));
            }
        }
        Ok(others)
    }

    /// As they are stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        for (key, state) in &self.0 {
            bytes.extend_from_slice(&key.bytes());
            write_varint(state.len() as u128, &mut bytes);
            bytes.extend_from_slice(state);
        }
        bytes
    }

    /// Gives a slot another state, or none.
    pub fn set(&mut self, key: OtherKey, state: Option<Vec<u8>>) {
        match state {
            Some(state) => drop(self.0.insert(key, state)),
            None => drop(self.0.remove(&key)),
        }
    }

    /// The state of the slot that a group falls into, by the group's key.
    pub fn of_group(&mut self, group: &[u8]) -> Option<&mut Vec<u8>> {
        self.0.iter_mut().find(|(key, _)| key.holds(group)).map(|(_, state)| state)
    }

    /// All of them.
    pub fn iter(&self) -> Iter<'_, OtherKey, Vec<u8>> {
        self.0.iter()
    }

    /// Whether no slot has any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_back_and_bytes_that_are_none_are_refused() {
        let key = |slots, slot| OtherKey::read(&[0xff, slots, slot]).unwrap();
        let mut others = Others::default();
        assert_eq!(Others::decode(&others.to_bytes()), Ok(Others::default()));
        others.set(key(64, 63), Some(vec![7; 300]));
        others.set(key(1, 0), Some(Vec::new()));
        let bytes = others.to_bytes();
        assert_eq!(Others::decode(&bytes), Ok(others.clone()));
        for cut in (0..bytes.len()).filter(|cut| ![1, 5].contains(cut)) {
            assert!(Others::decode(&bytes[..cut]).is_err(), "{cut}");
        }
        assert!(Others::decode(&[2]).is_err());
        assert!(Others::decode(&[&bytes[..], &bytes[1..]].concat()).is_err(), "a slot twice");
        others.set(key(64, 63), None);
        others.set(key(1, 0), None);
        assert!(others.is_empty());
    }
}
