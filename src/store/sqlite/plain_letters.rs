//! What is done about letters as in the other store.

crate::store::plain_letters::letter_tables!(SqliteConnection);
