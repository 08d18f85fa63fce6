//! What SQLite does as PostgreSQL does.

crate::store::plain::plain_tables!(SqliteConnection);
