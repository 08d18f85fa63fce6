//! Alerts, as PostgreSQL has them.

crate::store::plain_alerts::alert_tables!(super::SqliteSession);
