//! The wanted fields as a tree, by which a line is walked once.

use super::{Field, Fields, Step};

/// What is wanted at one place of an event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Wanted {
    /// Where the value itself goes.
    pub column: Option<usize>,
    /// All columns below this place, its own excluded.
    pub below: Vec<usize>,
    members: Vec<(Box<str>, Wanted)>,
    elements: Vec<(usize, Wanted)>,
}

impl Wanted {
    pub fn new(fields: &Fields) -> Self {
        let mut root = Self::default();
        for (column, field) in fields.iter().enumerate() {
            root.add(field, column);
        }
        root
    }

    fn add(&mut self, field: &Field, column: usize) {
        let mut place = self;
        for step in field.steps() {
            place.below.push(column);
            place = match step {
                Step::Key(key) => child(&mut place.members, |name| **name == **key, || key.as_str().into()),
                Step::Index(index) => child(&mut place.elements, |other| other == index, || *index),
            };
        }
        place.column = Some(column);
    }

    /// What is wanted of an object's member. A handful of names is compared faster than hashed.
    pub fn member(&self, name: &str) -> Option<&Self> {
        self.members.iter().find(|(wanted, _)| **wanted == *name).map(|(_, place)| place)
    }

    /// What is wanted of an array's element.
    pub fn element(&self, index: usize) -> Option<&Self> {
        self.elements.iter().find(|(wanted, _)| *wanted == index).map(|(_, place)| place)
    }

    pub fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    pub fn has_elements(&self) -> bool {
        !self.elements.is_empty()
    }
}

/// The child at a step, made where it is not there yet.
fn child<K>(children: &mut Vec<(K, Wanted)>, is: impl Fn(&K) -> bool, name: impl FnOnce() -> K) -> &mut Wanted {
    let at = children.iter().position(|(other, _)| is(other)).unwrap_or_else(|| {
        children.push((name(), Wanted::default()));
        children.len() - 1
    });
    &mut children[at].1
}
