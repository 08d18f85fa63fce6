//! Files that are right: every default, every choice, and what becomes of expressions.

use std::path::Path;

use crate::event::{Field, Format, Step, TimeUnit};
use crate::expr::SqlType;
use crate::window::{AggregateKind, Fraction, LatePolicy, WatermarkSpec, WindowSpec};

use super::super::{
    AtLimit, ColumnSource, ColumnType, DeadLettersConfig, Durability, LetterLimit, SlotSource, StageConfig, Tokens,
    describe,
};
use super::{SMALLEST, aggregated, good, staged, with};

#[test]
fn the_smallest_file_has_every_default_of_the_contract() {
    let config = good(SMALLEST);
    assert_eq!(config.data_dir, Path::new("/etc/mill/data"));
    assert_eq!(config.min_free_bytes, 256 << 20);
    assert_eq!(config.store.url.to_string(), "sqlite:///etc/mill/data/tidemill.db");
    assert_eq!(config.store.flush_every_ms, 1_000);
    assert!(config.store.migrate);
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:7601");
    assert!(config.http.tokens.is_empty() && config.http.read_tokens.is_empty() && config.http.hosts.is_empty());

    let [stream] = config.streams.as_slice() else { panic!("one stream") };
    assert_eq!(stream.name, "web");
    assert_eq!(stream.tcp.unwrap().to_string(), "127.0.0.1:7600");
    assert!(stream.tokens.is_empty());
    assert_eq!(stream.durability, Durability::Fsync);
    assert_eq!(stream.journal_limit_bytes, 10 << 30);
    assert_eq!(stream.journal_keep_ms, 24 * 3_600_000);
    assert_eq!(stream.max_line_bytes, 1 << 20);

    let [pipeline] = config.pipelines.as_slice() else { panic!("one pipeline") };
    assert_eq!((pipeline.name.as_str(), pipeline.stream.as_str()), ("page_views", "web"));
    assert_eq!(pipeline.slots, [SlotSource::Field(Field::top("ts")), SlotSource::Field(Field::top("path"))]);
    let time = pipeline.time.clone().unwrap();
    assert_eq!((time.slot, time.field, time.unit), (0, Field::top("ts"), None));
    assert!(pipeline.stages.is_empty());
    let group = &pipeline.group_by[0];
    assert_eq!((group.name.as_str(), group.slot, group.sql_type), ("path", 1, SqlType::Any));
    assert_eq!(pipeline.window, WindowSpec::Tumbling { size_ms: 300_000 });
    assert_eq!(pipeline.watermark, WatermarkSpec { delay_ms: 5_000, idle_ms: 30_000, max_ahead_ms: 3_600_000 });
    assert_eq!(pipeline.late, LatePolicy::Update { correct_for_ms: 86_400_000 });
    assert_eq!(pipeline.aggregates[0].kind, AggregateKind::CountAll);
    assert_eq!((pipeline.columns[0].name.as_str(), pipeline.columns[0].sql_type), ("views", ColumnType::BigInt));
}

#[test]
fn every_setting_is_read() {
    let config = good(
        r#"
        data_dir = "/var/mill"
        min_free = "1GiB"
        [store]
        url = "sqlite://db/x.db"
        flush_every = "20ms"
        migrate = false
        [http]
        listen = "[::1]:0"
        [dead_letters]
        limit = "5MiB"
        retain = "2d"
        at_limit = "pause"
        [streams.b]
        tcp = "0.0.0.0:${PORT}"
        format = "ndjson"
        token = ["${TOKEN}", "fedcba9876543210"]
        durability = "os"
        journal_limit = "256MiB"
        journal_keep = "0s"
        max_line = "64KiB"
        [streams.a]
        tcp = "10.0.0.1:7600"
        open = true
        [pipelines.p]
        stream = "a"
        window = { sliding = "1h", every = "10m" }
        delay = "0s"
        idle = "1m"
        late = "drop"
        max_ahead = "2d"
        max_behind = "5GiB"
        aggregates = { n = "count(*)" }
        [pipelines.q]
        stream = "b"
        window.tumbling = "1s"
        correct_for = "3d"
        aggregates = { n = "count(*)" }
        [pipelines.r]
        stream = "b"
        window = { tumbling = "1s" }
        late = "dead_letter"
        aggregates.n = "count(*)"
        "#,
    );
    assert_eq!((config.data_dir.as_path(), config.min_free_bytes), (Path::new("/var/mill"), 1 << 30));
    assert_eq!(config.store.url.to_string(), "sqlite:///etc/mill/db/x.db");
    assert_eq!((config.store.flush_every_ms, config.store.migrate), (20, false));
    assert_eq!(config.http.listen.to_string(), "[::1]:0");

    let [b, a] = config.streams.as_slice() else { panic!("in the order of the file") };
    assert_eq!((b.name.as_str(), b.tcp.unwrap().to_string().as_str()), ("b", "0.0.0.0:7611"));
    assert_eq!(b.tokens, Tokens::from_iter(["0123456789abcdef", "fedcba9876543210"]));
    assert_eq!((b.durability, b.journal_limit_bytes, b.journal_keep_ms), (Durability::Os, 256 << 20, 0));
    assert_eq!(b.max_line_bytes, 65_536);
    assert!(a.tokens.is_empty());

    let [p, q, r] = config.pipelines.as_slice() else { panic!("in the order of the file") };
    assert_eq!(p.window, WindowSpec::Sliding { size_ms: 3_600_000, every_ms: 600_000 });
    assert_eq!(p.watermark, WatermarkSpec { delay_ms: 0, idle_ms: 60_000, max_ahead_ms: 172_800_000 });
    assert_eq!((p.max_behind_bytes, q.max_behind_bytes), (Some(5 << 30), None));
    assert_eq!((p.late, p.time.is_none(), p.group_by.len()), (LatePolicy::Drop, true, 0));
    assert_eq!(q.late, LatePolicy::Update { correct_for_ms: 3 * 86_400_000 });
    assert_eq!(r.late, LatePolicy::DeadLetter);
    assert_eq!(
        (q.correct_for_ms, r.correct_for_ms),
        (3 * 86_400_000, 86_400_000),
        "replays correct whatever `late` says"
    );
    let letters = LetterLimit { bytes: 5 << 20, beyond: AtLimit::Pause };
    assert_eq!(config.dead_letters, DeadLettersConfig { letters, retain_ms: 2 * 86_400_000 });
}

#[test]
fn a_stream_gives_defaults_that_a_pipeline_may_override() {
    let config = good(
        r#"
        [streams.web]
        time = { field = "meta.ts", unit = "us" }
        delay = "1s"
        idle = "2s"
        max_ahead = "3s"
        [pipelines.a]
        stream = "web"
        window = { tumbling = "1m" }
        aggregates = { n = "count(*)" }
        [pipelines.b]
        stream = "web"
        time = '"@t"'
        delay = "4s"
        idle = "5s"
        max_ahead = "6s"
        window = { tumbling = "1m" }
        aggregates = { n = "count(*)" }
        "#,
    );
    let [a, b] = config.pipelines.as_slice() else { panic!("two pipelines") };
    let path = Field::new(vec![Step::Key("meta".into()), Step::Key("ts".into())]).unwrap();
    let time = a.time.clone().unwrap();
    assert_eq!((&a.slots[time.slot], time.unit), (&SlotSource::Field(path.clone()), Some(TimeUnit::Micros)));
    assert_eq!(time.field, path);
    assert_eq!(a.watermark, WatermarkSpec { delay_ms: 1_000, idle_ms: 2_000, max_ahead_ms: 3_000 });
    let time = b.time.clone().unwrap();
    assert_eq!((time.field, time.unit), (Field::top("@t"), None));
    assert_eq!(b.watermark, WatermarkSpec { delay_ms: 4_000, idle_ms: 5_000, max_ahead_ms: 6_000 });
}

#[test]
fn points_have_a_time_of_their_own_unless_another_is_given() {
    let pipeline = |stream: &str, lines: &str| {
        format!(
            "[streams.web]\n{stream}\n[pipelines.p]\nstream = \"web\"\nwindow = {{ tumbling = \"5m\" }}\n\
             aggregates = {{ n = \"count(*)\" }}\n{lines}"
        )
    };
    let raw = "format = \"influx\"\nraw_events = { retain = \"1d\" }";
    for (precision, unit) in [
        ("", TimeUnit::Nanos),
        ("\nprecision = \"ns\"", TimeUnit::Nanos),
        ("\nprecision = \"us\"", TimeUnit::Micros),
        ("\nprecision = \"ms\"", TimeUnit::Millis),
        ("\nprecision = \"s\"", TimeUnit::Seconds),
    ] {
        let config = good(&pipeline(&format!("{raw}{precision}"), ""));
        let (stream, p) = (&config.streams[0], &config.pipelines[0]);
        let time = p.time.clone().unwrap();
        assert_eq!(
            (stream.format, stream.precision, time.unit, time.of_point),
            (Format::Influx, unit, Some(unit), true)
        );
        assert_eq!(p.slots[time.slot], SlotSource::Field(Field::timestamp()));
        assert_eq!(stream.raw_events.clone().unwrap().time, Some((Field::timestamp(), Some(unit))));
        let described = describe(&config, 0);
        let again = good(&described);
        assert_eq!((&again.pipelines[0].definition, describe(&again, 0)), (&p.definition, described));
    }
    for config in [pipeline(&format!("{raw}\ntime = \"ts\""), ""), pipeline(raw, "time = \"ts\"")] {
        let time = good(&config).pipelines[0].time.clone().unwrap();
        assert_eq!((time.field, time.unit, time.of_point), (Field::top("ts"), None, false));
    }
    assert!(good(&pipeline("", "")).pipelines[0].time.is_none(), "JSON has none");
    let other = [raw.to_owned(), format!("{raw}\nprecision = \"s\"")].map(|stream| good(&pipeline(&stream, "")));
    assert_ne!(other[0].pipelines[0].definition, other[1].pipelines[0].definition, "a new revision");
}

#[test]
fn secrets_may_come_from_files() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokens"), "\n 0123456789abcdef \nfedcba9876543210\n").unwrap();
    std::fs::write(folder.path().join("url"), "sqlite://x.db\n").unwrap();
    let file = folder.path().join("mill.toml");
    std::fs::write(
        &file,
        "[store]\nurl_file = \"url\"\n[http]\ntoken = \"0123456789abcdeX\"\nread_token_file = \"tokens\"\n\
         [streams.web]\ntoken_file = \"tokens\"\n",
    )
    .unwrap();
    let config = super::super::load(&file).unwrap();
    let both = Tokens::from_iter(["0123456789abcdef", "fedcba9876543210"]);
    assert_eq!((&config.streams[0].tokens, &config.http.read_tokens), (&both, &both));
    assert_eq!(config.store.url.to_string(), format!("sqlite://{}", folder.path().join("x.db").display()));
    assert_eq!(config.data_dir, folder.path().join("data"));
}

#[test]
fn a_name_leads_to_what_the_last_stage_before_made_of_it() {
    let pipeline = staged(
        r#"
        { filter = "path IS NOT NULL AND user.id > 1" },
        { set = { path = "lower(path)", old = "path", user = "CAST(n AS bigint)" } },
        { custom = "geo" },
        { filter = "path <> '' AND old <> '' AND user.id = 1" },
        { set = { path = "length(path)" } },
        "#,
    );
    let user_id = Field::new(vec![Step::Key("user".into()), Step::Key("id".into())]).unwrap();
    let computed = |name: &str| SlotSource::Computed(name.to_owned());
    assert_eq!(
        pipeline.slots,
        [
            SlotSource::Field(Field::top("path")),
            SlotSource::Field(user_id),
            SlotSource::Field(Field::top("n")),
            computed("path"),
            computed("old"),
            computed("user"),
        ]
    );
    let [
        StageConfig::Filter(_),
        StageConfig::Set(first),
        StageConfig::Custom(custom),
        StageConfig::Filter(_),
        StageConfig::Set(second),
    ] = pipeline.stages.as_slice()
    else {
        panic!("{:?}", pipeline.stages)
    };
    assert_eq!(first.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(first[1].1.slot(), Some(0), "the right sides see the event as it came in");
    assert_eq!(custom, "geo");
    assert_eq!(second[0].0, 3, "a name that is set again keeps its slot");
    let group = &pipeline.group_by[0];
    assert_eq!((group.slot, group.sql_type), (3, SqlType::Int), "of the last stage");
}

#[test]
fn time_is_read_from_the_line_before_the_stages() {
    let pipeline = good(&with(
        "time = \"ts\"\nstages = [{ set = { ts = \"1\" } }]\ngroup_by = [\"ts\"]\naggregates = { n = \"count(*)\" }",
    ))
    .pipelines
    .remove(0);
    assert_eq!(pipeline.slots, [SlotSource::Field(Field::top("ts")), SlotSource::Computed("ts".into())]);
    assert_eq!((pipeline.time.unwrap().slot, pipeline.group_by[0].slot), (0, 1));
}

#[test]
fn what_a_custom_stage_leaves_has_no_known_type() {
    let pipeline = staged("{ set = { path = \"CAST(path AS bigint)\" } }, { custom = \"geo\" }");
    assert_eq!(pipeline.group_by[0].sql_type, SqlType::Int, "names and their types stay as they were");
}

#[test]
fn columns_have_the_types_of_the_contract() {
    let pipeline = aggregated(
        r#"
        n = "count(*)"
        c = "count(x)"
        s = "sum(x)"
        s_float = "sum(CAST(x AS double precision))"
        a = "avg(x)"
        lo = "min(x)"
        lo_int = "min(CAST(x AS bigint))"
        hi_text = "max(CAST(x AS text))"
        hi_time = "max(event_time())"
        f = "first(x)"
        f_int = "first(CAST(x AS bigint))"
        l_text = "last(lower(x))"
        l_bool = "last(x > 1)"
        l_time = "last(event_time())"
        visitors = "count(DISTINCT ip)"
        deviation = "stddev(x)"
        spread = "variance(CAST(x AS bigint))"
        p95 = "quantile(x, 0.95) FILTER (WHERE y)"
        most = "quantile(x, 1)"
        middle = "median(x)"
        rate = "c / n"
        sum_ = "n + c"
        many = "n > 10"
        label = "coalesce(l_text, 'none')"
        alias = "f"
        "#,
    );
    let types: Vec<_> = pipeline.columns.iter().map(|column| (column.name.as_str(), column.sql_type)).collect();
    assert_eq!(
        types,
        [
            ("n", ColumnType::BigInt),
            ("c", ColumnType::BigInt),
            ("s", ColumnType::Numeric),
            ("s_float", ColumnType::Double),
            ("a", ColumnType::Double),
            ("lo", ColumnType::Numeric),
            ("lo_int", ColumnType::Numeric),
            ("hi_text", ColumnType::Text),
            ("hi_time", ColumnType::Time),
            ("f", ColumnType::Text),
            ("f_int", ColumnType::BigInt),
            ("l_text", ColumnType::Text),
            ("l_bool", ColumnType::Bool),
            ("l_time", ColumnType::Time),
            ("visitors", ColumnType::BigInt),
            ("deviation", ColumnType::Double),
            ("spread", ColumnType::Double),
            ("p95", ColumnType::Double),
            ("most", ColumnType::Double),
            ("middle", ColumnType::Double),
            ("rate", ColumnType::Double),
            ("sum_", ColumnType::Double),
            ("many", ColumnType::Bool),
            ("label", ColumnType::Text),
            ("alias", ColumnType::Text),
        ]
    );
    assert_eq!(pipeline.aggregates.len(), 20);
    assert_eq!(pipeline.aggregates[2].kind, AggregateKind::Sum);
    let fraction = |value| AggregateKind::Quantile(Fraction::new(value).unwrap());
    let kinds: Vec<_> = pipeline.aggregates[14..].iter().map(|aggregate| aggregate.kind).collect();
    let expected = [AggregateKind::CountDistinct, AggregateKind::Stddev, AggregateKind::Variance];
    assert_eq!((&kinds[..3], &kinds[3..]), (&expected[..], &[0.95, 1.0, 0.5].map(fraction)[..]));
}

#[test]
fn a_call_keeps_its_argument_and_its_filter() {
    let pipeline = aggregated("e = \"sum(bytes) FILTER (WHERE status >= ${MIN_STATUS})\"\nn = \"COUNT(*)\"");
    let [sum, count] = pipeline.aggregates.as_slice() else { panic!("two aggregates") };
    let slot = |name: &str| pipeline.slots.iter().position(|slot| *slot == SlotSource::Field(Field::top(name)));
    assert_eq!(sum.input.as_ref().unwrap().slot(), slot("bytes"));
    assert!(sum.filter.is_some() && slot("status").is_some());
    assert!(count.input.is_none() && count.filter.is_none());
    assert_eq!(pipeline.definition["aggregates"][0]["expression"], "sum(bytes) FILTER (WHERE status >= 500)");
}

#[test]
fn expressions_over_aggregates_come_behind_what_they_need() {
    let pipeline =
        aggregated("third = \"second * 2\"\nsecond = \"errors / views\"\nviews = \"count(*)\"\nerrors = \"count(e)\"");
    let names: Vec<_> = pipeline.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["third", "second", "views", "errors"], "columns stay in the order of the file");
    let place = |column: usize| pipeline.evaluation.iter().position(|index| *index == column).unwrap();
    assert!(place(0) > place(1) && place(1) > place(2) && place(1) > place(3));
    assert_eq!(pipeline.evaluation.len(), 4);
    assert!(matches!(pipeline.columns[3].source, ColumnSource::Aggregate(1)));
    assert_eq!(pipeline.columns[0].sql_type, ColumnType::Double);
}

#[test]
fn live_values_have_a_place_and_a_time_to_live() {
    let live = |redis: &str, pipeline: &str| {
        good(&with(&format!("aggregates = {{ n = \"count(*)\" }}\n{pipeline}\n[redis]\n{redis}")))
    };
    let config = live("url = \"rediss://me:hidden@host:6380/2\"", "redis = { ttl = \"2h\" }");
    let redis = config.redis.as_ref().unwrap();
    assert_eq!(
        (redis.url.as_str(), redis.shown.as_str()),
        ("rediss://me:hidden@host:6380/2", "rediss://me@host:6380/2")
    );
    assert_eq!(config.pipelines[0].redis_ttl_ms, Some(7_200_000));
    assert!(!format!("{config:?}").contains("hidden"));
    let described = describe(&config, 0);
    for line in ["url = \"rediss://me@host:6380/2\"", "redis = { ttl = \"2h\" }"] {
        assert!(described.lines().any(|described| described == line), "{line} in\n{described}");
    }
    assert!(
        described.contains("+ live rows 32MiB times 1 (pipelines with `redis`) + open windows 2GiB"),
        "{described}"
    );

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "redis://:hidden@host\n").unwrap();
    let config = live(&format!("url_file = {file:?}"), "redis = {}");
    let redis = config.redis.as_ref().unwrap();
    assert_eq!((redis.url.as_str(), redis.shown.as_str()), ("redis://:hidden@host", "redis://host"));
    assert_eq!(config.pipelines[0].redis_ttl_ms, Some(7 * 86_400_000), "the default");
    assert_eq!(live("url = \"redis://h\"", "").pipelines[0].redis_ttl_ms, None);
}
