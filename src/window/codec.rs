//! Bytes of states and keys: little pieces that writing and reading agree on.

use std::borrow::Cow;

use crate::event::Value;

/// A stored state or key that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StateError {
    /// Made by a newer version.
    #[error(
        "the stored state has format {found} and this version reads formats up to {known}: a newer version of tidemill \
         wrote it; start that version again"
    )]
    Newer {
        /// Its format.
        found: u8,
        /// The newest format that is known here.
        known: u8,
    },
    /// Whole, but not of this window and these aggregates.
    #[error("the stored state is of another definition of the pipeline: {0}")]
    Foreign(&'static str),
    /// No state at all.
    #[error("the stored state is damaged at byte {at}: {what}; restore the store from a backup")]
    Damaged {
        /// Byte of the state.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
}

mod tag {
    pub const NULL: u8 = 0;
    pub const FALSE: u8 = 1;
    pub const TRUE: u8 = 2;
    pub const INT: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const TIME: u8 = 5;
    pub const TEXT: u8 = 6;
    pub const JSON: u8 = 7;
}

/// LEB128: small numbers, which most are, take one byte.
pub(super) fn write_varint(mut value: u128, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Zigzag, so that small negative numbers are short, too.
pub(super) fn write_signed(value: i128, out: &mut Vec<u8>) {
    write_varint((value.cast_unsigned() << 1) ^ (value >> 127).cast_unsigned(), out);
}

/// A value as it is: tag, then payload; it says itself where it ends.
pub(super) fn write_value(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(tag::NULL),
        Value::Bool(false) => out.push(tag::FALSE),
        Value::Bool(true) => out.push(tag::TRUE),
        Value::Int(int) => write_word(tag::INT, int.to_le_bytes(), out),
        Value::Float(float) => write_word(tag::FLOAT, float.to_bits().to_le_bytes(), out),
        Value::Time(ms) => write_word(tag::TIME, ms.to_le_bytes(), out),
        Value::Text(text) => write_text(tag::TEXT, text, out),
        Value::Json(text) => write_text(tag::JSON, text, out),
    }
}

fn write_word(tag: u8, word: [u8; 8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&word);
}

fn write_text(tag: u8, text: &str, out: &mut Vec<u8>) {
    out.push(tag);
    write_varint(text.len() as u128, out);
    out.extend_from_slice(text.as_bytes());
}

/// Takes bytes apart. Whatever they hold: an error, never a panic, and no allocation beyond their own length.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(super) fn damaged(&self, what: &'static str) -> StateError {
        StateError::Damaged { at: self.at, what }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], StateError> {
        let taken = self.at.checked_add(len).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| self.damaged("it ends too early"))?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn byte(&mut self) -> Result<u8, StateError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn word(&mut self) -> Result<u64, StateError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn varint(&mut self) -> Result<u128, StateError> {
        let mut value = 0_u128;
        for shift in (0..128).step_by(7) {
            let byte = self.byte()?;
            let part = u128::from(byte & 0x7f);
            if part << shift >> shift != part {
                break;
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.damaged("a number is too long"))
    }

    pub(super) fn count(&mut self) -> Result<u64, StateError> {
        let value = self.varint()?;
        u64::try_from(value).map_err(|_| self.damaged("a count is too large"))
    }

    pub(super) fn signed(&mut self) -> Result<i128, StateError> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    pub(super) fn value(&mut self) -> Result<Value<'static>, StateError> {
        Ok(match self.byte()? {
            tag::NULL => Value::Null,
            tag::FALSE => Value::Bool(false),
            tag::TRUE => Value::Bool(true),
            tag::INT => Value::Int(self.word()?.cast_signed()),
            tag::FLOAT => Value::Float(f64::from_bits(self.word()?)),
            tag::TIME => Value::Time(self.word()?.cast_signed()),
            tag::TEXT => Value::Text(self.text()?),
            tag::JSON => Value::Json(self.text()?),
            _ => return Err(self.damaged("no value begins like this")),
        })
    }

    fn text(&mut self) -> Result<Cow<'static, str>, StateError> {
        let len = usize::try_from(self.count()?).map_err(|_| self.damaged("a text is too long"))?;
        let bytes = self.take(len)?;
        let text = simdutf8::basic::from_utf8(bytes).map_err(|_| self.damaged("a text is not UTF-8"))?;
        Ok(Cow::Owned(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_read_back() {
        let mut bytes = Vec::new();
        let signed = [0, 1, -1, 63, -64, 64, i128::from(i64::MIN), i128::MAX, i128::MIN];
        for value in signed {
            write_signed(value, &mut bytes);
        }
        write_varint(u128::from(u64::MAX), &mut bytes);
        let mut reader = Reader::new(&bytes);
        for value in signed {
            assert_eq!(reader.signed(), Ok(value));
        }
        assert_eq!(reader.count(), Ok(u64::MAX));
        assert!(reader.is_at_end());
    }

    #[test]
    fn numbers_beyond_their_size_are_refused() {
        assert!(Reader::new(&[0xff; 40]).varint().is_err());
        let mut bytes = Vec::new();
        write_varint(u128::from(u64::MAX) + 1, &mut bytes);
        assert!(Reader::new(&bytes).count().is_err());
        assert!(Reader::new(&[0x80]).varint().is_err());
    }
}
