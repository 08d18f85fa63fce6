//! What a person sees: times, types, closed windows, the window next to close.

use diesel::Connection;
use serde_json::{Value, json};

use super::support::*;
use crate::config::ColumnType;
use crate::store::{Change, Query};

fn single(group: &Value, values: &Value) -> Change {
    Change::Row {
        window_start: 0,
        window_end: 100,
        group: key(group),
        state: values.to_string().into_bytes(),
        partial: true,
    }
}

/// A definition whose states are their values.
fn raw(groups: &[ColumnType], results: &[ColumnType]) -> Definitions {
    let named = |prefix: &str, types: &[ColumnType]| {
        types.iter().enumerate().map(|(index, sql_type)| (format!("{prefix}{index}"), *sql_type)).collect()
    };
    Definitions {
        groups: named("g", groups),
        results: named("v", results),
        raw: Some(|state| serde_json::from_slice(state).unwrap()),
        ..by_path("typed")
    }
}

on_both! {
    async fn a_view_has_the_contracts_columns_and_times_before_and_after_1970(bench: Bench) {
        let hits = by_path("hits");
        // -1 ms, 1970, a leap day with ms, the years 1 and 9999.
        let starts = [-1, 0, 1_709_210_096_789, -62_135_596_800_000, 253_402_300_799_900 - 100];
        let changes = starts.iter().map(|start| row(*start, "/a", 1, 1)).collect();
        bench.shown(&hits, changes, 100).await;
        let shown = bench.store.rows("hits", Query { limit: 9, ..Query::default() }).await.unwrap();
        let fixed = ["window_start", "window_end", "window_start_ms", "closed", "partial", "other", "revised_at"];
        assert_eq!(shown.columns[..7], fixed);
        assert_eq!(shown.columns[7..], ["path", "views", "bytes"]);
        let times: Vec<[&str; 2]> =
            shown.rows.iter().map(|row| [row[0].as_str().unwrap(), row[1].as_str().unwrap()]).collect();
        assert_eq!(
            times,
            [
                ["9999-12-31 23:59:59.800", "9999-12-31 23:59:59.900"],
                ["2024-02-29 12:34:56.789", "2024-02-29 12:34:56.889"],
                ["1970-01-01 00:00:00", "1970-01-01 00:00:00.100"],
                ["1969-12-31 23:59:59.999", "1970-01-01 00:00:00.099"],
                ["0001-01-01 00:00:00", "0001-01-01 00:00:00.100"],
            ]
        );
        // Closed is window_end <= watermark.
        let closed: Vec<_> = shown.rows.iter().map(|row| row[3].as_bool().unwrap()).collect();
        assert_eq!(closed, [false, false, true, true, true]);
        assert_eq!(shown.rows[2][2..7], [json!(0), json!(true), json!(false), json!(false), Value::Null]);
    }
}

on_both! {
    async fn each_column_has_its_static_type_whatever_the_value(bench: Bench) {
        use ColumnType::{BigInt, Bool, Double, Numeric, Text, Time};
        // type, JSON, the value as text: in SQLite, in PostgreSQL
        let huge = "170141183460469231731687303715884105727";
        let cases = [
            (Text, json!("x"), "x", "x"),
            (Text, json!(200), "200", "200"),
            (Text, json!(0.1), "0.1", "0.1"),
            (Text, json!(true), "true", "true"),
            (Text, json!(false), "false", "false"),
            (Text, json!({"a": [1, null]}), r#"{"a":[1,null]}"#, r#"{"a":[1,null]}"#),
            (Text, json!("null"), "null", "null"),
            (Text, json!(null), "NULL", "NULL"),
            (BigInt, json!(i64::MIN), "-9223372036854775808", "-9223372036854775808"),
            (BigInt, json!(1e300), "9223372036854775807", "NULL"),
            (BigInt, json!("x"), "NULL", "NULL"),
            (Numeric, json!(7), "7", "7"),
            (Numeric, json!(0.1), "0.1", "0.1"),
            (Numeric, json!(huge), "1.7014118346046923e+38", huge),
            (Numeric, json!(false), "NULL", "NULL"),
            (Numeric, json!("7x"), "7.0", "NULL"),
            (Double, json!(3), "3.0", "3"),
            (Double, json!(-2.5), "-2.5", "-2.5"),
            (Double, json!(null), "NULL", "NULL"),
            (Bool, json!(true), "1", "true"),
            (Bool, json!(false), "0", "false"),
            (Bool, json!("x"), "NULL", "NULL"),
            (Time, json!("1969-12-31 23:59:59.999"), "1969-12-31 23:59:59.999", "1969-12-31 23:59:59.999+00"),
            (Time, json!("0001-01-01 00:00:00"), "0001-01-01 00:00:00", "0001-01-01 00:00:00+00"),
            (Time, json!("2024-02-29 12:00:00"), "2024-02-29 12:00:00", "2024-02-29 12:00:00+00"),
            (Time, json!([]), "NULL", "NULL"),
        ];
        let types: Vec<_> = cases.iter().map(|case| case.0).collect();
        let values = Value::Array(cases.iter().map(|case| case.1.clone()).collect());
        // Each as a group column and as a value column.
        bench.shown(&raw(&types, &types), vec![single(&values, &values)], 0).await;
        for (index, (sql_type, value, sqlite, postgres)) in cases.iter().enumerate() {
            for column in [format!("g{index}"), format!("v{index}")] {
                let utc = if bench.is_postgres() { "SET TimeZone TO 'UTC';" } else { "" };
                let shown = bench.ask_behind(utc, &format!("SELECT {column} FROM typed"));
                let expected = if bench.is_postgres() { postgres } else { sqlite };
                assert_eq!(shown, *expected, "{value} as {sql_type:?} in {column}");
            }
        }
        let row = &bench.rows("typed").await[0];
        assert_eq!((&row[4], &row[6]), (&json!(true), &Value::Null));
        assert_eq!(row[7 + 17], json!(-2.5));
    }
}

#[tokio::test]
async fn postgres_columns_have_the_types_that_the_contract_names() {
    use ColumnType::{BigInt, Bool, Double, Numeric, Text, Time};
    let bench = Bench::postgres();
    bench.begin(&raw(&[Text], &[BigInt, Numeric, Double, Bool, Time])).await;
    let types = "SELECT string_agg(data_type, ', ' ORDER BY ordinal_position) FROM information_schema.columns \
                 WHERE table_schema = current_schema() AND table_name = 'typed'";
    assert_eq!(
        bench.ask(types),
        "timestamp with time zone, timestamp with time zone, bigint, boolean, boolean, boolean, \
         timestamp with time zone, text, bigint, numeric, double precision, boolean, timestamp with time zone"
    );
}

on_both! {
    async fn floats_come_back_to_the_last_bit(bench: Bench) {
        let mut random = fastrand::Rng::with_seed(7);
        let mut floats = vec![
            f64::MIN_POSITIVE,
            5e-324,
            f64::MAX,
            0.1 + 0.2,
            1e22,
            1e23,
            9_007_199_254_740_993.0,
            2f64.powi(-1074) * 3.0,
        ];
        floats.extend(
            std::iter::repeat_with(|| f64::from_bits(random.u64(..))).filter(|float| float.is_finite()).take(2_000),
        );
        floats.extend(std::iter::repeat_with(|| random.f64() * 1e6).take(2_000));
        // Not through JSON text: serde_json reads floats to within one bit only.
        let bits = |state: &[u8]| json!([f64::from_le_bytes(state.try_into().unwrap())]);
        let typed = Definitions { raw: Some(bits), ..raw(&[], &[ColumnType::Double]) };
        let fence = bench.begin(&typed).await.fence;
        let change = |(index, float): (usize, &f64)| Change::Row {
            window_start: index as i64,
            window_end: index as i64 + 1,
            group: key(&json!([])),
            state: float.to_le_bytes().to_vec(),
            partial: false,
        };
        bench.flush(&typed, fence, floats.iter().enumerate().map(change).collect(), at(1, 0)).await.unwrap();
        let shown = bench.store.rows("typed", Query { limit: floats.len(), ..Query::default() }).await.unwrap().rows;
        let back: Vec<u64> = shown.iter().rev().map(|row| row[7].as_f64().unwrap().to_bits()).collect();
        let wrong: Vec<_> = floats.iter().zip(&back).filter(|(float, back)| float.to_bits() != **back).collect();
        assert!(wrong.is_empty(), "{} of {}: {:?}", wrong.len(), floats.len(), &wrong[..wrong.len().min(5)]);
    }
}

on_both! {
    async fn rows_come_latest_first_then_by_group_within_bounds(bench: Bench) {
        let hits = by_path("hits");
        let changes = vec![row(0, "/a", 1, 1), row(100, "/b", 2, 2), row(100, "/a", 3, 3), row(200, "/a", 4, 4)];
        bench.shown(&hits, changes, 100).await;
        let views = async |from, to, limit| {
            let rows = bench.store.rows("hits", Query { from, to, limit, now: false }).await.unwrap().rows;
            rows.iter().map(|row| row[8].as_i64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(views(None, None, 10).await, [4, 3, 2, 1]);
        assert_eq!(views(Some(100), None, 10).await, [4, 3, 2]);
        assert_eq!(views(None, Some(200), 10).await, [3, 2, 1]);
        assert_eq!(views(Some(100), Some(200), 1).await, [3]);
        assert_eq!(views(None, None, 0).await, [0; 0]);
    }
}

on_both! {
    async fn now_is_the_window_next_to_close(bench: Bench) {
        let hits = by_path("hits");
        let fence = bench.begin(&hits).await.fence;
        assert!(bench.now("hits").await.is_empty());
        let sliding = |start: i64, path: &str, count| match row(start, path, count, 0) {
            Change::Row { window_start, group, state, partial, .. } => {
                Change::Row { window_start, window_end: start + 300, group, state, partial }
            }
            other => other,
        };
        // Closed at 400; next to close at 500; also open; not begun.
        let changes = vec![
            sliding(100, "/old", 1),
            sliding(200, "/b", 2),
            sliding(200, "/a", 3),
            sliding(300, "/a", 4),
            sliding(500, "/a", 5),
        ];
        bench.flush(&hits, fence, changes, at(1, 400)).await.unwrap();
        let now = async || bench.now("hits").await.iter().map(|row| row[8].as_i64().unwrap()).collect::<Vec<_>>();
        assert_eq!(now().await, [3, 2]);
        bench.flush(&hits, fence, vec![], at(2, 499)).await.unwrap();
        assert_eq!(now().await, [3, 2]);
        bench.flush(&hits, fence, vec![], at(3, 500)).await.unwrap();
        assert_eq!(now().await, [4]);
        bench.flush(&hits, fence, vec![], at(4, 900)).await.unwrap();
        assert_eq!(now().await, [0; 0]);
    }
}

on_both! {
    async fn now_without_groups_always_has_one_row(bench: Bench) {
        let mut total = by_path("total");
        total.groups.clear();
        let fence = bench.begin(&total).await.fence;
        let nothing = vec![vec![
            Value::Null,
            Value::Null,
            Value::Null,
            json!(false),
            json!(false),
            json!(false),
            Value::Null,
            json!(0),
            Value::Null,
        ]];
        assert_eq!(bench.now("total").await, nothing);
        let change =
            Change::Row { window_start: 0, window_end: 100, group: key(&json!([])), state: state(3, 9), partial: false };
        bench.flush(&total, fence, vec![change], at(1, 99)).await.unwrap();
        let now = bench.now("total").await;
        assert_eq!((now.len(), &now[0][0], &now[0][7..]), (1, &json!("1970-01-01 00:00:00"), &[json!(3), json!(9)][..]));
        bench.flush(&total, fence, vec![], at(2, 100)).await.unwrap();
        assert_eq!(bench.now("total").await, nothing);
        assert_eq!(bench.rows("total").await.len(), 1);
    }
}

#[tokio::test]
async fn the_views_find_their_rows_by_an_index() {
    let bench = Bench::sqlite();
    bench.begin(&by_path("hits")).await;
    let plan = |sql: &str| {
        #[derive(diesel::QueryableByName)]
        struct Step {
            #[diesel(sql_type = diesel::sql_types::Text)]
            detail: String,
        }
        let steps: Vec<Step> = {
            let mut connection = diesel::SqliteConnection::establish(bench.path().to_str().unwrap()).unwrap();
            diesel::RunQueryDsl::load(diesel::sql_query(format!("EXPLAIN QUERY PLAN {sql}")), &mut connection)
        }
        .unwrap();
        steps.into_iter().map(|step| step.detail).collect::<Vec<_>>().join("\n")
    };
    let latest = plan("SELECT * FROM hits WHERE window_start_ms >= 5 ORDER BY window_start_ms DESC LIMIT 10");
    assert!(latest.contains("(pipeline=? AND window_start>?)") && !latest.contains("TEMP B-TREE"), "{latest}");
    let now = plan("SELECT * FROM hits_now");
    assert!(now.contains("window_results_by_end (pipeline=? AND window_end=?)"), "{now}");
    assert!(!now.contains("SCAN window_results"), "{now}");
}
