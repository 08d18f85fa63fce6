//! What alerts ask of a database, for both stores alike: whoever calls `alert_tables!` with the type of a session has its
//! `AlertTables`. Lists of rows travel as one JSON text, so that no statement is made for one row; how a database reads
//! them is `super::LIST` and `super::LISTED_ROWS`.

use crate::config::AlertConfig;

use super::alerts::{FIRING, RESOLVED};

/// What is to be told when an alert fires, and when it is resolved.
pub(super) fn news_of(alert: &AlertConfig) -> (i64, i64) {
    if alert.webhook.is_some() { (FIRING, RESOLVED) } else { (0, 0) }
}

macro_rules! alert_tables {
    ($Session:ty) => {
        use std::collections::BTreeMap;

        use diesel::dsl::{count_star, exists, select};
        use diesel::prelude::*;
        use diesel::sql_types::{BigInt, Text};

        use crate::config::AlertConfig;
        use crate::store::StoreError;
        use crate::store::alerts::{
            AlertTables, FIRING, Item, Judged, RESOLVED, Span, ToldAlert, UntoldAlert, list, list_of,
        };
        use crate::store::image::{GroupHash, Key};
        use crate::store::plain_alerts::news_of;
        use crate::store::schema::{alert_conditions as conditions, alerts, window_results as results};

        /// Which rows (`w`) are of a span, by two numbers.
        fn of_span(span: Span, first: usize, second: usize) -> (String, i64, i64) {
            match span {
                Span::Window(start, end) => {
                    (format!("w.window_start = ${first} AND w.window_end = ${second}"), start, end)
                }
                Span::OpenAt(watermark) => {
                    (format!("w.window_start >= ${first} AND w.window_end > ${second}"), i64::MIN, watermark)
                }
            }
        }

        impl AlertTables for $Session {
            fn has_alerts(&mut self, pipeline: &str) -> Result<bool, StoreError> {
                let firing = alerts::table.filter(alerts::pipeline.eq(pipeline)).filter(alerts::resolved_at.is_null());
                let waiting = conditions::table.filter(conditions::pipeline.eq(pipeline));
                Ok(select(exists(firing)).get_result::<bool>(&mut self.connection)?
                    || select(exists(waiting)).get_result::<bool>(&mut self.connection)?)
            }

            fn keep_alerts(
                &mut self,
                pipeline: &str,
                kept: &[&str],
                waiting: &[&str],
                told: &[&str],
                at: i64,
            ) -> Result<bool, StoreError> {
                let firing = alerts::table.filter(alerts::pipeline.eq(pipeline)).filter(alerts::resolved_at.is_null());
                let gone = firing.filter(alerts::alert.ne_all(kept.to_vec()));
                let resolved = diesel::update(gone)
                    .set((alerts::resolved_at.eq(at), alerts::untold.eq(alerts::untold + RESOLVED)))
                    .execute(&mut self.connection)?;
                let untold = alerts::table.filter(alerts::pipeline.eq(pipeline)).filter(alerts::untold.gt(0));
                diesel::update(untold.filter(alerts::alert.ne_all(told.to_vec())))
                    .set(alerts::untold.eq(0))
                    .execute(&mut self.connection)?;
                let all = conditions::table.filter(conditions::pipeline.eq(pipeline));
                diesel::delete(all.filter(conditions::alert.ne_all(waiting.to_vec()))).execute(&mut self.connection)?;
                Ok(resolved > 0)
            }

            fn fire(&mut self, pipeline: &str, alert: &AlertConfig, items: &[Item]) -> Result<usize, StoreError> {
                let sql = format!(
                    "INSERT INTO alerts (pipeline, alert, group_hash, fired_at, window_start, window_end, group_values, \
                     result_values, untold) SELECT $1, $2, l.h, l.t, l.s, l.e, w.group_values, w.result_values, $3 \
                     FROM {}{} WHERE true ON CONFLICT DO NOTHING",
                    super::LIST.replace("LIST", "$4"),
                    super::LISTED_ROWS
                );
                let fired = diesel::sql_query(sql)
                    .bind::<Text, _>(pipeline)
                    .bind::<Text, _>(&alert.name)
                    .bind::<BigInt, _>(news_of(alert).0)
                    .bind::<Text, _>(list(items));
                Ok(fired.execute(&mut self.connection)?)
            }

            fn note_condition(
                &mut self,
                pipeline: &str,
                alert: &AlertConfig,
                items: &[Item],
            ) -> Result<(), StoreError> {
                let sql = format!(
                    "INSERT INTO alert_conditions (pipeline, alert, group_hash, since) SELECT $1, $2, l.h, l.t FROM {} \
                     WHERE true ON CONFLICT DO NOTHING",
                    super::LIST.replace("LIST", "$3")
                );
                diesel::sql_query(sql)
                    .bind::<Text, _>(pipeline)
                    .bind::<Text, _>(&alert.name)
                    .bind::<Text, _>(list(items))
                    .execute(&mut self.connection)?;
                Ok(())
            }

            fn fire_due(
                &mut self,
                pipeline: &str,
                alert: &AlertConfig,
                span: Span,
                revision: i64,
                due: i64,
                at: i64,
            ) -> Result<usize, StoreError> {
                let waiting = conditions::table
                    .filter(conditions::pipeline.eq(pipeline))
                    .filter(conditions::alert.eq(&alert.name))
                    .filter(conditions::fired.eq(false))
                    .filter(conditions::since.le(due));
                if !select(exists(waiting)).get_result::<bool>(&mut self.connection)? {
                    return Ok(0);
                }
                let (of_span, first, second) = of_span(span, 5, 6);
                let sql = format!(
                    "INSERT INTO alerts (pipeline, alert, group_hash, fired_at, window_start, window_end, group_values, \
                     result_values, untold) SELECT $1, $2, w.group_hash, $3, w.window_start, w.window_end, w.group_values, \
                     w.result_values, $4 FROM window_results w JOIN alert_conditions c ON c.group_hash = w.group_hash \
                     WHERE w.pipeline = $1 AND {of_span} AND w.revision = $7 AND c.pipeline = $1 AND c.alert = $2 \
                     AND c.fired = false AND c.since <= $8 ON CONFLICT DO NOTHING"
                );
                let fired = diesel::sql_query(sql)
                    .bind::<Text, _>(pipeline)
                    .bind::<Text, _>(&alert.name)
                    .bind::<BigInt, _>(at)
                    .bind::<BigInt, _>(news_of(alert).0)
                    .bind::<BigInt, _>(first)
                    .bind::<BigInt, _>(second)
                    .bind::<BigInt, _>(revision)
                    .bind::<BigInt, _>(due)
                    .execute(&mut self.connection)?;
                // One that has fired for this window before, and was resolved, waits for the next.
                diesel::sql_query(
                    "UPDATE alert_conditions SET fired = true WHERE pipeline = $1 AND alert = $2 AND fired = false \
                     AND since <= $3 AND EXISTS (SELECT 1 FROM alerts a WHERE a.pipeline = $1 AND a.alert = $2 \
                     AND a.group_hash = alert_conditions.group_hash AND a.resolved_at IS NULL)",
                )
                .bind::<Text, _>(pipeline)
                .bind::<Text, _>(&alert.name)
                .bind::<BigInt, _>(due)
                .execute(&mut self.connection)?;
                Ok(fired)
            }

            fn end_alerts(
                &mut self,
                pipeline: &str,
                alert: &AlertConfig,
                groups: &[GroupHash],
                at: i64,
            ) -> Result<usize, StoreError> {
                let groups: Vec<&[u8]> = groups.iter().map(|group| &group[..]).collect();
                let firing = alerts::table
                    .filter(alerts::pipeline.eq(pipeline))
                    .filter(alerts::alert.eq(&alert.name))
                    .filter(alerts::resolved_at.is_null())
                    .filter(alerts::group_hash.eq_any(groups.clone()));
                let ended = diesel::update(firing)
                    .set((alerts::resolved_at.eq(at), alerts::untold.eq(alerts::untold + news_of(alert).1)))
                    .execute(&mut self.connection)?;
                if alert.for_ms > 0 {
                    let held = conditions::table
                        .filter(conditions::pipeline.eq(pipeline))
                        .filter(conditions::alert.eq(&alert.name))
                        .filter(conditions::group_hash.eq_any(groups));
                    diesel::delete(held).execute(&mut self.connection)?;
                }
                Ok(ended)
            }

            fn end_missing(
                &mut self,
                pipeline: &str,
                alert: &AlertConfig,
                span: Span,
                revision: i64,
                at: i64,
            ) -> Result<usize, StoreError> {
                let (of_this, first, second) = of_span(span, 6, 7);
                let ended = diesel::sql_query(format!(
                    "UPDATE alerts SET resolved_at = $1, untold = untold + $2 WHERE pipeline = $3 AND alert = $4 \
                     AND resolved_at IS NULL AND group_hash IN (SELECT a.group_hash FROM alerts a WHERE a.pipeline = $3 \
                     AND a.alert = $4 AND a.resolved_at IS NULL EXCEPT SELECT w.group_hash FROM window_results w \
                     WHERE w.pipeline = $3 AND w.revision = $5 AND {of_this})"
                ))
                .bind::<BigInt, _>(at)
                .bind::<BigInt, _>(news_of(alert).1)
                .bind::<Text, _>(pipeline)
                .bind::<Text, _>(&alert.name)
                .bind::<BigInt, _>(revision)
                .bind::<BigInt, _>(first)
                .bind::<BigInt, _>(second)
                .execute(&mut self.connection)?;
                if alert.for_ms > 0 {
                    let (of_this, first, second) = of_span(span, 4, 5);
                    diesel::sql_query(format!(
                        "DELETE FROM alert_conditions WHERE pipeline = $1 AND alert = $2 AND group_hash IN (SELECT \
                         c.group_hash FROM alert_conditions c WHERE c.pipeline = $1 AND c.alert = $2 EXCEPT SELECT \
                         w.group_hash FROM window_results w WHERE w.pipeline = $1 AND w.revision = $3 AND {of_this})"
                    ))
                    .bind::<Text, _>(pipeline)
                    .bind::<Text, _>(&alert.name)
                    .bind::<BigInt, _>(revision)
                    .bind::<BigInt, _>(first)
                    .bind::<BigInt, _>(second)
                    .execute(&mut self.connection)?;
                }
                Ok(ended)
            }

            fn windows_between(
                &mut self,
                pipeline: &str,
                revision: i64,
                after: i64,
                upto: i64,
            ) -> Result<Vec<(i64, i64)>, StoreError> {
                Ok(results::table
                    .filter(results::pipeline.eq(pipeline))
                    .filter(results::window_end.gt(after))
                    .filter(results::window_start.le(upto))
                    .filter(results::revision.eq(revision))
                    .select((results::window_start, results::window_end))
                    .distinct()
                    .order((results::window_end, results::window_start))
                    .load(&mut self.connection)?)
            }

            fn window_page(
                &mut self,
                pipeline: &str,
                revision: i64,
                (window_start, window_end): (i64, i64),
                behind: Option<GroupHash>,
                limit: usize,
            ) -> Result<Vec<Judged>, StoreError> {
                let rows: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> = results::table
                    .filter(results::pipeline.eq(pipeline))
                    .filter(results::window_start.eq(window_start))
                    .filter(results::window_end.eq(window_end))
                    .filter(results::revision.eq(revision))
                    // Alerts are of groups.
                    .filter(results::other.eq(false))
                    .filter(results::group_hash.gt(behind.map_or(Vec::new(), |hash| hash.to_vec())))
                    .order(results::group_hash)
                    .limit(limit as i64)
                    .select((results::group_hash, results::group_key, results::state))
                    .load(&mut self.connection)?;
                let judged = |(hash, group_key, state): (Vec<u8>, Vec<u8>, Vec<u8>)| {
                    let odd = |_| StoreError::Refused("a row has a group_hash that is none".to_owned());
                    let group_hash = GroupHash::try_from(hash).map_err(odd)?;
                    Ok(Judged { key: Key { window_start, window_end, group_hash }, group_key: group_key.into(), state })
                };
                rows.into_iter().map(judged).collect()
            }

            fn firing(&mut self, pipeline: &str) -> Result<BTreeMap<String, u64>, StoreError> {
                let counts: Vec<(String, i64)> = alerts::table
                    .filter(alerts::pipeline.eq(pipeline))
                    .filter(alerts::resolved_at.is_null())
                    .group_by(alerts::alert)
                    .select((alerts::alert, count_star()))
                    .load(&mut self.connection)?;
                Ok(counts.into_iter().map(|(alert, count)| (alert, count.cast_unsigned())).collect())
            }

            fn untold(&mut self, pipeline: &str, alert: &str, limit: usize) -> Result<Vec<UntoldAlert>, StoreError> {
                type Row = (Vec<u8>, i64, i64, i64, String, String, Option<i64>, i64);
                let rows: Vec<Row> = alerts::table
                    .filter(alerts::pipeline.eq(pipeline))
                    .filter(alerts::alert.eq(alert))
                    .filter(alerts::untold.gt(0))
                    .order((alerts::fired_at, alerts::group_hash))
                    .limit(limit as i64)
                    .select((
                        alerts::group_hash,
                        alerts::fired_at,
                        alerts::window_start,
                        alerts::window_end,
                        alerts::group_values,
                        alerts::result_values,
                        alerts::resolved_at,
                        alerts::untold,
                    ))
                    .load(&mut self.connection)?;
                let untold = |row: Row| {
                    let (group_hash, fired_at, window_start, window_end, group, values, resolved_at, untold) = row;
                    let is_new = untold & FIRING != 0;
                    UntoldAlert { group_hash, fired_at, window_start, window_end, group, values, resolved_at, is_new }
                };
                Ok(rows.into_iter().map(untold).collect())
            }

            fn told(&mut self, pipeline: &str, alert: &str, told: &[ToldAlert]) -> Result<(), StoreError> {
                let what = |told: &ToldAlert| if told.resolved { RESOLVED } else { FIRING };
                for resolved in [false, true] {
                    let some = told.iter().filter(|told| told.resolved == resolved);
                    let items = list_of(some.map(|told| (what(told), 0, &told.group_hash[..], told.fired_at)));
                    let sql = format!(
                        "UPDATE alerts SET untold = alerts.untold & ~l.s FROM {} WHERE alerts.pipeline = $2 \
                         AND alerts.alert = $3 AND alerts.group_hash = l.h AND alerts.fired_at = l.t",
                        super::LIST.replace("LIST", "$1")
                    );
                    diesel::sql_query(sql)
                        .bind::<Text, _>(items)
                        .bind::<Text, _>(pipeline)
                        .bind::<Text, _>(alert)
                        .execute(&mut self.connection)?;
                }
                Ok(())
            }

            fn prune_alerts(&mut self, pipeline: &str, upto: i64, at_most: u64) -> Result<(), StoreError> {
                let (before, behind) = super::ROW_IN;
                let sql = format!(
                    "DELETE FROM alerts WHERE {before}SELECT {} FROM alerts WHERE pipeline = $1 AND window_end <= $2 \
                     AND resolved_at IS NOT NULL ORDER BY window_end LIMIT $3{behind}",
                    super::ROW_ID
                );
                diesel::sql_query(sql)
                    .bind::<Text, _>(pipeline)
                    .bind::<BigInt, _>(upto)
                    .bind::<BigInt, _>(at_most.cast_signed())
                    .execute(&mut self.connection)?;
                Ok(())
            }

            fn drop_alerts(&mut self, pipeline: &str) -> Result<(), StoreError> {
                diesel::delete(alerts::table.filter(alerts::pipeline.eq(pipeline))).execute(&mut self.connection)?;
                let held = conditions::table.filter(conditions::pipeline.eq(pipeline));
                diesel::delete(held).execute(&mut self.connection)?;
                Ok(())
            }
        }
    };
}

pub(super) use alert_tables;
