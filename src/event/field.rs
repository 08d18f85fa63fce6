//! Field paths, and the set of fields that a stream's pipelines name.

use std::fmt;

/// One step of a path into an event.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Step {
    /// A member of an object.
    Key(String),
    /// An element of an array, from 0.
    Index(usize),
}

/// A path into an event: `user.country`, `items[0].sku`, `"odd name"`. The first step is a key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Field(Vec<Step>);

impl Field {
    /// A field at the top of the event.
    pub fn top(name: impl Into<String>) -> Self {
        Self(vec![Step::Key(name.into())])
    }

    /// The timestamp of an Influx point. A point has no field without a name.
    pub fn timestamp() -> Self {
        Self::top("")
    }

    /// A path; `None` unless it begins with a key.
    pub fn new(steps: Vec<Step>) -> Option<Self> {
        matches!(steps.first(), Some(Step::Key(_))).then_some(Self(steps))
    }

    /// Its steps, the first one a key.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The key that the path begins with.
    pub fn root(&self) -> &str {
        match &self.0[0] {
            Step::Key(key) => key,
            Step::Index(_) => unreachable!("`new` takes no such path"),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) => {
                    if index > 0 {
                        f.write_str(".")?;
                    }
                    let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                        && !key.is_empty()
                        && !key.as_bytes()[0].is_ascii_digit();
                    if plain { f.write_str(key)? } else { write!(f, "\"{}\"", key.replace('"', "\"\""))? }
                }
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// The fields that are decoded of a stream's lines: the union of those that its pipelines name. A reload only adds some
/// behind the others, so that a column once given stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fields(Vec<Field>);

impl Fields {
    /// The union of fields.
    pub fn new(fields: impl IntoIterator<Item = Field>) -> Self {
        let mut fields: Vec<Field> = fields.into_iter().collect();
        fields.sort();
        fields.dedup();
        Self(fields)
    }

    /// These, and behind them those of `more` that are not among them.
    #[must_use]
    pub fn and(&self, more: impl IntoIterator<Item = Field>) -> Self {
        let mut fields = self.0.clone();
        let Self(more) = Self::new(more);
        fields.extend(more.into_iter().filter(|field| self.column(field).is_none()));
        Self(fields)
    }

    /// The column of a field.
    pub fn column(&self, field: &Field) -> Option<usize> {
        self.0.iter().position(|own| own == field)
    }

    /// All of them; the index is the column.
    pub fn iter(&self) -> impl Iterator<Item = &Field> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_shown_as_it_is_written() {
        let path = Field::new(vec![Step::Key("items".into()), Step::Index(0), Step::Key("odd name".into())]).unwrap();
        assert_eq!(path.to_string(), "items[0].\"odd name\"");
        assert_eq!(path.root(), "items");
        assert!(Field::new(vec![Step::Index(0)]).is_none());
    }

    #[test]
    fn a_column_once_given_stays() {
        let fields = Fields::new(["m", "b", "m"].map(Field::top));
        let more = fields.and(["z", "a", "b"].map(Field::top));
        let columns = |fields: &Fields| ["b", "m", "a", "z"].map(|name| fields.column(&Field::top(name)));
        assert_eq!(columns(&fields), [Some(0), Some(1), None, None]);
        assert_eq!(columns(&more), [Some(0), Some(1), Some(2), Some(3)]);
    }
}
