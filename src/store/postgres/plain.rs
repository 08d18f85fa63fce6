//! What PostgreSQL does as SQLite does.

crate::store::plain::plain_tables!(super::connection::Connection);
