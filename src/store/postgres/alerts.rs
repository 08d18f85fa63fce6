//! Alerts, as SQLite has them.

crate::store::plain_alerts::alert_tables!(super::PostgresSession);
