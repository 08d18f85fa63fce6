//! Files that are wrong: every mistake is found, at its place.

use super::{SMALLEST, mistakes, read, with};

#[test]
fn ten_mistakes_are_ten_diagnostics() {
    let text = r#"
data_dri = "x"

[store]
url = "postgres://me:secret@db/x?sslmode=prefer"
flush_every = 5

[streams.web]
tcp = "0.0.0.0:7600"

[pipelines.Views]
stream = "wbe"
window = { sliding = "10m", every = "3m" }
metrics = true
group_by = ["user.country"]

[pipelines.Views.aggregates]
views = "cuont(*)"
"#;
    let report = read(text).unwrap_err();
    let places: Vec<_> = report.diagnostics().iter().map(|d| (d.line, d.column, d.message.as_str())).collect();
    assert_eq!(
        places,
        [
            (2, 1, "unknown key `data_dri`"),
            (5, 7, "`store.url`: there is no sslmode \"prefer\" here"),
            (6, 15, "`store.flush_every` cannot be a number"),
            (9, 7, "`streams.web.tcp` is beyond loopback (0.0.0.0), which needs a token"),
            (11, 12, "`Views` cannot be the name of a pipeline"),
            (12, 10, "there is no stream `wbe`"),
            (13, 22, "`pipelines.Views.window.sliding`: 10m is not a multiple of `every`, 3m"),
            (14, 1, "`pipelines.Views.metrics` is not available yet"),
            (15, 13, "`user.country` cannot be the name of a group column"),
            (18, 10, "`pipelines.Views.aggregates.views`: there is no aggregate `cuont`"),
        ]
    );
}

/// Asserts that a file has exactly one mistake, which begins so.
#[track_caller]
fn one(text: &str, begins: &str) {
    let found = mistakes(text);
    assert!(found.len() == 1 && found[0].starts_with(begins), "{begins}\n{found:#?}\nin {text}");
}

/// The one mistake of these lines of a pipeline, which begin at line 5.
#[track_caller]
fn one_in_pipeline(lines: &str, begins: &str) {
    one(&with(&format!("aggregates = {{ n = \"count(*)\" }}\n{lines}")), begins);
}

#[test]
fn every_key_of_the_contract_that_comes_later_is_refused() {
    for (table, keys) in [("pipelines.page_views.", "metrics")] {
        for key in keys.split(' ') {
            let name = key.split('.').next().unwrap();
            let text = format!("{table}{key} = 1\n{}", SMALLEST.replace("[streams.web]\ntcp", "streams.web.tcp"));
            let text =
                text.replace("[pipelines.page_views]\n", "").replace("\nstream =", "\npipelines.page_views.stream =");
            let text = text
                .replace("\ntime", "\npipelines.page_views.time")
                .replace("\ngroup_by", "\npipelines.page_views.group_by");
            let text = text
                .replace("\nwindow", "\npipelines.page_views.window")
                .replace("\naggr", "\npipelines.page_views.aggr");
            one(&text, &format!("1:{} `{table}{name}` is not available yet", table.len() + 1));
        }
    }
}

/// The contract's example of all keys: no key of it is unknown, whether its feature is there or not.
#[test]
fn no_key_of_the_contract_is_unknown() {
    let text = r#"
data_dir = "data"
min_free = "256MiB"
[store]
url = "sqlite://data/tidemill.db"
schema = "tidemill"
flush_every = "1s"
migrate = true
[http]
listen = "127.0.0.1:7601"
token = "${TOKEN}"
hosts = ["mill.example.org"]
[redis]
url = "redis://127.0.0.1:6379"
[dead_letters]
limit = "1GiB"
retain = "30d"
at_limit = "discard"
[streams.web]
tcp = "127.0.0.1:7600"
format = "ndjson"
token = "${TOKEN}"
durability = "fsync"
journal_limit = "10GiB"
journal_keep = "24h"
max_line = "1MiB"
raw_events = { retain = "30d" }
time = "ts"
[pipelines.page_views]
stream = "web"
time = "ts"
missing_time = "dead_letter"
group_by = ["path"]
window = { tumbling = "5m" }
delay = "5s"
idle = "30s"
late = "update"
correct_for = "1d"
max_ahead = "1h"
retain = "90d"
max_groups = 1000000
state_limit = "512MiB"
max_behind = "5GiB"
start = "earliest"
redis = { ttl = "7d" }
metrics = true
[[pipelines.page_views.stages]]
filter = "type = 'page_view' AND status < 500"
[[pipelines.page_views.stages]]
set = { path = "lower(split_part(url, '?', 1))", status = "CAST(status AS bigint)" }
[[pipelines.page_views.stages]]
explode = "items"
[[pipelines.page_views.stages]]
custom = "geo"
[pipelines.page_views.aggregates]
views    = "count(*)"
visitors = "count(distinct ip)"
bytes    = "sum(bytes)"
p95      = "quantile(load_ms, 0.95)"
errors   = "count(*) FILTER (WHERE status >= 500)"
error_rate = "errors / views"
[pipelines.page_views.alerts]
errors = { when = "error_rate > 0.05 AND views >= 20", for = "0s", webhook = "https://x" }
"#;
    let found = mistakes(text);
    assert_eq!(found.len(), 1, "{found:#?}");
    for mistake in found {
        assert!(mistake.contains(" is not available yet"), "{mistake}");
    }
}

#[test]
fn a_precision_is_that_of_influx_points() {
    let web = |lines: &str| format!("[streams.web]\n{lines}");
    let begins = "2:1 `streams.web.precision` is the unit of an Influx point's timestamp: lines of JSON have none | \
                  `format = \"influx\"` beside it | the unit of a field is part of `time`";
    one(&web("precision = \"ms\""), begins);
    one(&web("precision = \"ms\"\nformat = \"ndjson\""), begins);
    let begins = "2:13 `streams.web.precision` cannot be `m` | \"s\" or \"ms\" or \"us\" or \"ns\"";
    one(&web("precision = \"m\"\nformat = \"influx\""), begins);
    one(&web("precision = \"ms\"\nformat = \"inflx\""), "3:10 `streams.web.format` cannot be `inflx`");
}

#[test]
fn what_cannot_be_a_redis_is_said_without_its_password() {
    let redis = |lines: &str| format!("[redis]\n{lines}\n{SMALLEST}");
    let expected = "a URL such as \"redis://127.0.0.1:6379\" or \"rediss://user:password@host/0\"";
    for url in ["http://127.0.0.1", "redis://:hidden@", "rediss://:hidden@host#insecure", "unix:///run/redis.sock", ""]
    {
        let lines = format!("url = \"{url}\"");
        one(&redis(&lines), &format!("2:7 `redis.url` is no URL of a Redis | {expected}"));
        assert!(!read(&redis(&lines)).unwrap_err().to_string().contains("hidden"));
    }
    one(&redis(""), "1:2 `url` is missing in redis | `url = \"redis://127.0.0.1:6379\"`");
    one(&redis("url = \"redis://h\"\nurl_file = \"f\""), "3:12 both `url` and `url_file` are given | one of them");
    one(&redis("url_file = \"not there\""), "2:12 `redis.url_file`: cannot read /etc/mill/not there: ");
    one(&redis("url = \"redis://h\"\nttl = \"1d\""), "3:1 unknown key `redis.ttl`");
    one_in_pipeline(
        "redis = { ttl = \"7d\" }",
        "6:1 `pipelines.p.redis` without `[redis]`: nothing says where Redis is | a table [redis] in this file",
    );
    let with_redis =
        |lines: &str| with(&format!("aggregates = {{ n = \"count(*)\" }}\n{lines}\n[redis]\nurl = \"redis://h\""));
    one(&with_redis("redis = { ttl = \"7\" }"), "6:17 `pipelines.p.redis.ttl` is no duration: `7`");
    one(&with_redis("redis = { ttl = \"0s\" }"), "6:17 `pipelines.p.redis.ttl` is out of range");
    one(&with_redis("redis = true"), "6:9 `pipelines.p.redis` cannot be true or false");
}

#[test]
fn what_is_missing_is_named_with_an_example() {
    one("", "1:1 there is no stream | `[streams.<name>]`");
    one("[streams]", "1:1 there is no stream");
    assert_eq!(
        mistakes("[streams.web]\n[pipelines.p]"),
        [
            "2:12 `stream` is missing in pipelines.p | `stream = \"…\"`",
            "2:12 `window` is missing in pipelines.p | `window = { tumbling = \"5m\" }`",
            "2:12 `aggregates` is missing in pipelines.p | `aggregates = { events = \"count(*)\" }`",
        ]
    );
    one(&with("aggregates = {}"), "5:14 `pipelines.p.aggregates` has no aggregate");
    one_in_pipeline("time = { unit = \"ms\" }", "6:1 `field` is missing in pipelines.p.time");
    one_in_pipeline("stages = [{ set = {} }]", "6:19 `pipelines.p.stages[0].set` sets nothing");
}

#[test]
fn unknown_names_have_the_nearest_known_one_as_help() {
    let found = mistakes(&with("aggregates = { n = \"count(*)\" }\ngruop_by = []\nzzz = 1"));
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], "6:1 unknown key `pipelines.p.gruop_by` | a known key | did you mean `group_by`?");
    let keys = "aggregates, alerts, correct_for, delay, group_by, idle, late, max_ahead, max_behind, max_groups, missing_time, redis, retain, stages, start, state_limit, stream, time, window";
    assert_eq!(found[1], format!("7:1 unknown key `pipelines.p.zzz` | a known key | the keys here are: {keys}"));
    one(
        &SMALLEST.replace("stream = \"web\"", "stream = \"wbe\""),
        "6:10 there is no stream `wbe` | the name of a stream of this file | did you mean `web`?",
    );
    one(
        &SMALLEST.replace("stream = \"web\"", "stream = \"x\""),
        "6:10 there is no stream `x` | the name of a stream of this file | the streams are: web",
    );
    one_in_pipeline(
        "late = \"updaet\"",
        "6:8 `pipelines.p.late` cannot be `updaet` | \"update\" or \"dead_letter\" or \"drop\" \
         | did you mean `update`?",
    );
    one_in_pipeline(
        "stages = [{ fitler = \"a\" }]",
        "6:13 unknown key `pipelines.p.stages[0].fitler` | a known key | did you mean `filter`?",
    );
    one(
        &with("aggregates = { n = \"summ(x)\" }"),
        "5:21 `pipelines.p.aggregates.n`: there is no aggregate `summ` \
         | an aggregate, or an expression over others | did you mean `sum`?",
    );
    one(
        &with("aggregates = { n = \"count(*)\", views = \"sum(x)\", r = \"1 + veiws\" }"),
        "5:59 `pipelines.p.aggregates.r`: ",
    );
}

#[test]
fn durations_and_sizes_have_units_and_bounds() {
    one_in_pipeline("delay = \"5 sec\"", "6:9 `pipelines.p.delay` is no duration: `5 sec` | a duration such as");
    one_in_pipeline("delay = \"-5s\"", "6:9 `pipelines.p.delay` is no duration: `-5s`");
    one_in_pipeline("idle = 30", "6:8 `pipelines.p.idle` cannot be a number | a duration such as");
    one_in_pipeline(
        "max_ahead = \"40000d\"",
        "6:13 `pipelines.p.max_ahead` is out of range | a duration from 0s to 36500d",
    );
    one_in_pipeline("max_behind = \"5GB\"", "6:14 `pipelines.p.max_behind` is no size: `5GB`");
    one_in_pipeline(
        "max_behind = \"1KiB\"",
        "6:14 `pipelines.p.max_behind` is out of range | a size from 1MiB to 1024TiB",
    );
    one_in_pipeline(
        "max_groups = 0",
        "6:14 `pipelines.p.max_groups` is out of range: 0 | a whole number from 1 to 4294967296",
    );
    one_in_pipeline(
        "max_groups = \"many\"",
        "6:14 `pipelines.p.max_groups` cannot be a string | a whole number from 1 to 4294967296",
    );
    one_in_pipeline(
        "state_limit = \"1KiB\"",
        "6:15 `pipelines.p.state_limit` is out of range | a size from 1MiB to 1TiB",
    );
    one_in_pipeline(
        "max_behind = \"10GiB\"",
        "6:14 `pipelines.p.max_behind` is not below the `journal_limit` of its stream: it would never apply | less than 10GiB",
    );
    one(
        &SMALLEST.replace("\"5m\"", "\"0s\""),
        "9:23 `pipelines.page_views.window.tumbling` is out of range | a duration from 1ms",
    );
    one("[store]\nflush_every = \"0s\"\n[streams.a]", "2:15 `store.flush_every` is out of range | a duration from 1ms");
    one("[streams.a]\nmax_line = \"65MiB\"", "2:12 `streams.a.max_line` is out of range | a size from 64B to 64MiB");
    one("[streams.a]\njournal_limit = \"1MB\"", "2:17 `streams.a.journal_limit` is no size: `1MB` | a size such as");
    one(
        "[streams.a]\njournal_limit = \"1023KiB\"",
        "2:17 `streams.a.journal_limit` is out of range | a size from 1MiB",
    );
    one(
        "[streams.a]\njournal_limit = \"2MiB\"\nmax_line = \"3MiB\"",
        "2:17 `streams.a.journal_limit` has no room for one line of `max_line` | at least 3MiB",
    );
}

#[test]
fn windows_are_of_one_kind_and_sliding_ones_of_whole_panes() {
    let window = |window: &str| SMALLEST.replace("{ tumbling = \"5m\" }", window);
    let place = "9:10 `pipelines.page_views.window` must say one kind of window";
    one(&window("{}"), place);
    one(&window("{ tumbling = \"5m\", sliding = \"5m\", every = \"1m\" }"), place);
    one(
        &window("{ tumbling = \"5m\", every = \"1m\" }"),
        "9:37 `pipelines.page_views.window.every` belongs to `sliding`",
    );
    one(&window("{ sliding = \"5m\" }"), "9:22 `pipelines.page_views.window.sliding` needs `every` beside it");
    one(
        &window("{ sliding = \"5m\", every = \"2m\" }"),
        "9:22 `pipelines.page_views.window.sliding`: 5m is not a multiple of `every`, 2m \
         | a multiple of 2m, such as 6m",
    );
    one(
        &window("{ sliding = \"4001s\", every = \"1s\" }"),
        "9:22 `pipelines.page_views.window.sliding`: 4001s is 4001 times `every`, 1s | at most 4000 times",
    );
    assert_eq!(mistakes(&window("{ sliding = \"4000s\", every = \"1s\" }")), [""; 0]);
    assert_eq!(mistakes(&window("{ sliding = \"x\", every = \"y\" }")).len(), 2, "both are read");
}

#[test]
fn calendars_have_a_unit_and_a_time_zone_and_sessions_are_not_corrected() {
    let window = |window: &str| SMALLEST.replace("{ tumbling = \"5m\" }", window);
    one(
        &window("{ calendar = \"day\", timezone = \"Europe/Berln\" }"),
        "9:41 there is no time zone `Europe/Berln` | a name of the IANA time zone database, such as \"Europe/Berlin\" or \
         \"UTC\" | did you mean `Europe/Berlin`?",
    );
    one(
        &window("{ calendar = \"days\", timezone = \"UTC\" }"),
        "9:23 `pipelines.page_views.window.calendar` cannot be `days` | \"hour\" or \"day\" or \"week\" or \"month\"",
    );
    one(&window("{ calendar = \"day\" }"), "9:23 `pipelines.page_views.window.calendar` needs `timezone` beside it");
    one(
        &window("{ session = \"30m\", timezone = \"UTC\" }"),
        "9:40 `pipelines.page_views.window.timezone` belongs to `calendar`",
    );
    one(
        &window("{ session = \"30m\" }\nlate = \"update\""),
        "10:8 `pipelines.page_views.late` cannot be `update` with sessions, which are not corrected | \"dead_letter\" or \
         \"drop\"",
    );
    for good in ["{ session = \"30m\" }\nlate = \"drop\"", "{ calendar = \"week\", timezone = \"America/New_York\" }"] {
        assert_eq!(mistakes(&window(good)), [""; 0]);
    }
}

#[test]
fn addresses_say_who_may_come_and_do_not_clash() {
    one("[streams.a]\ntcp = \"localhost:1\"", "2:7 `streams.a.tcp` is no address to listen at: `localhost:1`");
    one(
        "[streams.a]\ntcp = \"192.0.2.1:1\"",
        "2:7 `streams.a.tcp` is beyond loopback (192.0.2.1), which needs a token",
    );
    let http = "[http]\nlisten = \"0.0.0.0:1\"\n[streams.a]";
    one(
        http,
        "2:10 `http.listen` is beyond loopback (0.0.0.0), which needs a token | a loopback address, or a `token` beside it \
         | add `token = \"${NAME}\"`",
    );
    let with = |lines: &str| http.replace("\n[streams", &format!("\n{lines}\n[streams"));
    assert_eq!(mistakes(&with("token = \"${TOKEN}\"")), [""; 0]);
    assert_eq!(mistakes(&with("read_token = \"${TOKEN}\"")).len(), 2, "who reads is not all");
    one(
        &with("token = \"${TOKEN}\"").replace("[streams.a]", "[streams.a]\ntcp = \"[::]:2\""),
        "5:7 `streams.a.tcp` is beyond loopback (::), which needs a token",
    );
    assert_eq!(mistakes("[streams.a]\ntcp = \"0.0.0.0:1\"\nopen = true"), [""; 0]);
    one(
        "[streams.a]\ntcp = \"127.0.0.1:1\"\n[streams.b]\ntcp = \"127.0.0.1:1\"",
        "4:7 port 1 is already taken by `streams.a.tcp` | a port of its own",
    );
    one("[streams.a]\ntcp = \"127.0.0.1:7601\"", "2:7 port 7601 is already taken by `http.listen` (its default)");
    assert_eq!(mistakes("[http]\nlisten=\"127.0.0.1:0\"\n[streams.a]\ntcp = \"127.0.0.1:0\""), [""; 0]);
}

#[test]
fn tokens_are_long_enough_and_at_most_two() {
    let stream = |lines: &str| format!("[streams.a]\n{lines}");
    let short = "the token of `streams.a.token` is too short: 15 characters";
    one(&stream("token = \"0123456789abcde\""), &format!("2:9 {short}"));
    one(
        &stream("token = [\"0123456789abcdef\", \"0123456789abcde\"]"),
        "2:30 the token of `streams.a.token[1]` is too short",
    );
    one(&stream("token = \"0123456789 abcdef\""), "2:9 the token of `streams.a.token` holds a blank");
    one(&stream("token = []"), "2:9 `streams.a.token` has 0 tokens");
    let three = "\"0123456789abcdef\"";
    one(&stream(&format!("token = [{three}, {three}, {three}]")), "2:9 `streams.a.token` has 3 tokens");
    one(&stream("token = \"0123456789abcdef\"\nopen = true"), "3:8 `streams.a.open` says that no token is wanted");
    one("[http]\ntoken = \"short\"\n[streams.a]", "2:9 the token of `http.token` is too short: 5 characters");
    one(
        "[http]\nread_token = \"${TOKEN}\"\n[streams.a]",
        "2:14 `http.read_token` without `http.token`: who may only read is told from who may do everything",
    );
    one(
        "[http]\ntoken = \"${TOKEN}\"\nread_token = \"x\"\n[streams.a]",
        "3:14 the token of `http.read_token` is too short: 1 characters",
    );
    one("[http]\nhosts = [\"https://mill\"]\n[streams.a]", "2:10 `http.hosts[0]` is no name of a host: `https://mill`");
    one("[http]\nhosts = \"mill\"\n[streams.a]", "2:9 `http.hosts` cannot be a string");
    one(&stream("token_file = \"no such file\""), "2:14 `streams.a.token_file`: cannot read /etc/mill/no such file");
    one(&stream("token = \"0123456789abcdef\"\ntoken_file = \"/dev/null\""), "3:14 both `token` and `token_file`");
}

#[test]
fn a_store_is_a_file_or_a_database() {
    let store = |line: &str| format!("[store]\n{line}\n[streams.a]");
    for (url, said) in [
        ("postgres:///d", "`store.url`: it names no host"),
        ("sqlite://", "`store.url` names no file"),
        ("x.db", "`store.url` is no URL of a store"),
        ("mysql://h/d", "`store.url` is no URL of a store"),
    ] {
        one(&store(&format!("url = \"{url}\"")), &format!("2:7 {said} | a URL such as"));
    }
    let prefer = store("url = \"postgresql://h/d?sslmode=prefer\"");
    one(&prefer, "2:7 `store.url`: there is no sslmode \"prefer\" here | sslmode=verify-full, sslmode=require");
    one(&store("schema = \"Mill\""), "2:10 `store.schema` cannot be the name of a schema | [a-z_]");
    one(&store("url_file = \"/no such file\""), "2:12 `store.url_file`: cannot read /no such file");
    one(&store("migrate = \"yes\""), "2:11 `store.migrate` cannot be a string | true or false");
}

#[test]
fn missing_variables_are_mistakes_at_their_place() {
    one("data_dir = \"a/${NONE}/b\"\n[streams.a]", "1:15 `data_dir`: the environment variable NONE is not set");
    one("data_dir = \"\\u0061${NONE}\"\n[streams.a]", "1:12 `data_dir`: the environment variable NONE is not set");
    one("[streams.a]\ntoken = \"${NONE:?ask the operator}\"", "2:10 `streams.a.token`: NONE: ask the operator");
    one("[streams.\"${TOKEN}\"]", "1:10 `${TOKEN}` cannot be the name of a stream");
}

#[test]
fn names_are_of_the_pattern_and_not_taken() {
    one("[streams.Web]", "1:10 `Web` cannot be the name of a stream | a name of the form [a-z_][a-z0-9_]{0,47}");
    one("[streams.alerts]", "1:10 `alerts` cannot be the name of a stream | another name: this one is reserved");
    one(&with("aggregates = { closed = \"count(*)\" }"), "5:16 `closed` cannot be the name of an aggregate");
    one(
        &with("aggregates = { path = \"count(*)\" }\ngroup_by = [\"path\"]"),
        "5:16 `path` is a field of `group_by`, too",
    );
    one_in_pipeline("group_by = [\"a\", \"a\"]", "6:18 `a` is there twice");
    let two = SMALLEST.to_owned() + &SMALLEST[SMALLEST.find("[pipelines").unwrap()..].replace("views]", "views_now]");
    one(&two, "11:12 `page_views_now` is the name of a view of the pipeline `page_views`");
}

#[test]
fn a_group_field_is_brought_to_a_name_by_set() {
    for (field, set) in [
        ("user.country", "set = { user_country = 'user.country' }"),
        ("userId", "set = { userid = 'userId' }"),
        ("odd name", "set = { odd_name = '\"odd name\"' }"),
        ("closed", "set = { the_closed = 'closed' }"),
    ] {
        let found = mistakes(&with(&format!("aggregates = {{ n = \"count(*)\" }}\ngroup_by = [\"{field}\"]")));
        assert!(found.len() == 1 && found[0].ends_with(set), "{found:?}");
    }
}

#[test]
fn stages_have_one_key_each_and_filters_are_conditions() {
    one_in_pipeline(
        "stages = [{ filter = \"a\", custom = \"b\" }]",
        "6:27 `pipelines.p.stages[0]` has the keys filter, custom",
    );
    one_in_pipeline("stages = [{}]", "6:11 `pipelines.p.stages[0]` has no key");
    one_in_pipeline("stages = [\"a\"]", "6:11 `pipelines.p.stages[0]` cannot be a string");
    one_in_pipeline("stages = [{ custom = \"\" }]", "6:22 `pipelines.p.stages[0].custom` is empty");
    one_in_pipeline(
        "stages = [{ filter = \"1 + a\" }]",
        "6:22 `pipelines.p.stages[0].filter`: a filter must be true or false, this is a number",
    );
    one(
        &with("aggregates = { n = \"count(*) FILTER (WHERE 1 + a)\" }"),
        "5:20 `pipelines.p.aggregates.n`: a filter must be true or false, this is a number",
    );
}

#[test]
fn a_wrong_expression_is_marked_inside_its_string() {
    let filter =
        |filter: &str| with(&format!("aggregates = {{ n = \"count(*)\" }}\nstages = [{{ filter = {filter} }}]"));
    one(&filter("\"a = lowre(b)\""), "6:27 `pipelines.p.stages[0].filter`: ");
    one(&filter("'a = lowre(b)'"), "6:27 ");
    one(&filter("\"\"\"\na = 1\nAND lowre(b)\"\"\""), "8:5 ");
    one(&filter("\"a \\u003d lowre(b)\""), "6:22 ");
    one(&filter("\"a = ${MIN_STATUS} AND lowre(b)\""), "6:22 ");
    assert!(mistakes(&filter("'lowre(b)'"))[0].ends_with("did you mean `lower`?"));
}

#[test]
fn time_is_a_field_with_a_unit() {
    one_in_pipeline("time = \"ts + 1\"", "6:8 `pipelines.p.time` is no field: `ts + 1`");
    one_in_pipeline("time = \"@timestamp\"", "6:8 `pipelines.p.time` is no field: `@timestamp`");
    one_in_pipeline(
        "time = { field = \"ts\", unit = \"h\" }",
        "6:31 `pipelines.p.time.unit` cannot be `h` | \"s\" or \"ms\"",
    );
    one_in_pipeline("time = 5", "6:8 `pipelines.p.time` cannot be a number");
}

#[test]
fn aggregates_take_what_they_can_add_up_or_order() {
    let n = |call: &str| with(&format!("aggregates = {{ n = \"{call}\" }}"));
    let place = "5:21 `pipelines.p.aggregates.n`:";
    for (call, said) in [
        ("sum(lower(x))", "`sum` cannot take text | a number"),
        ("avg(x > 1)", "`avg` cannot take true or false | a number"),
        ("sum(event_time())", "`sum` cannot take a time | a number"),
        ("min(x > 1)", "`min` cannot take true or false | a number, a time, or text (CAST … AS text)"),
        ("sum(*)", "`sum` cannot take `*` | one argument"),
        ("sum(a, b)", "`sum` cannot take 2 arguments | one argument"),
        ("count()", "`count` cannot take 0 arguments | one argument"),
        ("stddev(lower(x))", "`stddev` cannot take text | a number"),
        ("median(x > 1)", "`median` cannot take true or false | a number"),
        ("median(x, 0.5)", "`median` cannot take 2 arguments | one argument"),
        ("count(distinct x, y)", "`count` cannot take 2 arguments | one argument"),
        ("quantile(x)", "`quantile` cannot take one argument | a number and a literal: `quantile(x, 0.95)`"),
        ("quantile(x, 0.5, 1)", "`quantile` cannot take 3 arguments | a number and a literal"),
        ("quantile(lower(x), 0.5)", "`quantile` cannot take text | a number"),
        ("sum(DISTINCT a)", "`sum(DISTINCT …)` is no aggregate"),
    ] {
        one(&n(call), &format!("{place} {said}"));
    }
    let both = mistakes(&n("cuont(*) FILTER (WHERE lowre(a))"));
    assert_eq!(both.len(), 2, "the call and its filter: {both:?}");
}

#[test]
fn the_fraction_of_a_quantile_is_a_literal_from_0_to_1() {
    let n = |call: &str| with(&format!("aggregates = {{ n = \"{call}\" }}"));
    let said = "`pipelines.p.aggregates.n`: the second argument of `quantile` is no literal from 0 to 1 \
                | such as 0.95, of the value that 95 % do not exceed";
    for fraction in ["1.5", "-0.5", "95", "'0.5'", "NULL", "q", "1 / 2"] {
        one(&n(&format!("quantile(x, {fraction})")), &format!("5:33 {said}"));
    }
    let three = mistakes(&n("quantile(lowre(x), 2) FILTER (WHERE lowre(a))"));
    assert_eq!(three.len(), 3, "the argument, the fraction and the filter: {three:?}");
}

#[test]
fn expressions_over_aggregates_are_no_circle() {
    let aggregates = |aggregates: &str| with(&format!("[pipelines.p.aggregates]\n{aggregates}"));
    one(&aggregates("a = \"a + 1\""), "6:5 `pipelines.p.aggregates.a` needs itself: a -> a");
    one(
        &aggregates("d = \"b\"\na = \"c + n\"\nb = \"a\"\nc = \"b\"\nn = \"count(*)\""),
        "7:5 `pipelines.p.aggregates.a` needs itself: a -> c -> b -> a | an expression over other aggregates",
    );
    assert_eq!(mistakes(&aggregates("a = \"b\"\nb = \"a\"\nc = \"d\"\nd = \"c\"")).len(), 2, "two circles");
    one(&aggregates("x = \"lower(n)\"\nn = \"count(*)\""), "6:12 `pipelines.p.aggregates.x`: ");
}

#[test]
fn a_line_that_is_no_toml_is_one_mistake_beside_the_others() {
    let text = "data_dir = \nmin_free = 5\n[streams.web]\ntcp = \"127.0.0.1:1\nfoo = 1\n[pipelines.p]\nstream = web\n";
    let found: Vec<_> = read(text).unwrap_err().diagnostics().iter().map(|d| (d.line, d.message.clone())).collect();
    let lines: Vec<_> = found.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 2, 4, 5, 7], "{found:#?}");
    assert!(found[0].1.starts_with("this is no TOML: ") && found[1].1.starts_with("`min_free` cannot"));
    let open = "[streams.web]\nfoo = [1,\n2\n[pipelines.a]\nstream = 1\nwindow = 2\n";
    assert_eq!(mistakes(open).len(), 2, "the key, and the bracket that nobody closed: {:?}", mistakes(open));
}
