//! `[pipelines.<name>.alerts]`: what is read, what is wrong, what is shown.

use super::{good, mistakes, with};
use crate::config::{PipelineConfig, describe};

const AGGREGATES: &str = "group_by = [\"path\"]\naggregates = { views = \"count(*)\", bad = \"count(*) FILTER (WHERE \
                          status >= 500)\", rate = \"bad / views\", word = \"first(word)\" }\n";

fn alerts(lines: &str) -> String {
    with(&format!("{AGGREGATES}[pipelines.p.alerts]\n{lines}"))
}

fn read(lines: &str) -> PipelineConfig {
    good(&alerts(lines)).pipelines.remove(0)
}

#[test]
fn an_alert_has_a_condition_and_all_else_is_optional() {
    let pipeline = read(
        "errors = { when = \"rate > 0.05 AND path <> '/'\", for = \"90s\", webhook = \"https://h:8/a?b=${TOKEN}\" }\n\
                         plain = { when = \"views > previous(views)\" }",
    );
    let [errors, plain] = pipeline.alerts.as_slice() else { panic!("two alerts") };
    assert_eq!((errors.name.as_str(), errors.for_ms, errors.asks_previous), ("errors", 90_000, false));
    assert_eq!(errors.webhook.as_ref().unwrap().url, "https://h:8/a?b=0123456789abcdef");
    assert_eq!((plain.name.as_str(), plain.for_ms, plain.asks_previous), ("plain", 0, true));
    assert!(plain.webhook.is_none());
}

#[test]
fn a_webhook_is_shown_without_its_secrets_and_told_from_others() {
    let text = |url: &str| alerts(&format!("a = {{ when = \"views > 1\", webhook = \"{url}\" }}"));
    let config = good(&text("https://me:pass@hooks.example.org/T0/secret?key=secret"));
    let shown = describe(&config, 0);
    assert!(shown.contains("webhook = \"https://hooks.example.org/***#"), "{shown}");
    let all = format!("{shown}{}{config:?}", config.pipelines[0].definition);
    assert!(!all.contains("secret") && !all.contains("pass"), "{all}");
    let other = good(&text("https://me:pass@hooks.example.org/T0/secret?key=other"));
    assert_ne!(config.pipelines[0].definition, other.pipelines[0].definition);
    // Not in the lines that a mistake shows, either.
    let wrong = text("ftp://hooks.example.org/secret").replace("views >", "visw >");
    let report = super::read(&wrong).unwrap_err().to_string();
    assert!(report.contains("webhook") && !report.contains("secret"), "{report}");
}

#[test]
fn what_is_described_can_be_read_again() {
    let pipeline = read("a = { when = \"word = 'it''s \\\"so\\\"'\", for = \"5m\" }");
    let line = "a = { when = 'word = ''it''''s \"so\"''', for = \"5m\" }";
    let shown = describe(&good(&alerts("a = { when = \"word = 'it''s \\\"so\\\"'\", for = \"5m\" }")), 0);
    let begin = shown.find("[pipelines.p.alerts]").unwrap();
    let again = read(shown[begin..].lines().nth(1).unwrap_or(line));
    assert_eq!(again.definition, pipeline.definition);
}

#[test]
fn every_mistake_is_told_at_its_place() {
    let one = |line: &str, begins: &str| {
        let found = mistakes(&alerts(line));
        assert!(found.len() == 1 && found[0].starts_with(begins), "{begins}\n{found:#?}");
    };
    one("a = { when = \"visw > 1\" }", "8:15 `pipelines.p.alerts.a.when`: unknown name visw");
    one("a = { when = \"rat > 1\" }", "8:15 `pipelines.p.alerts.a.when`: unknown name rat | did you mean `rate`?");
    one("a = { when = \"views + 1\" }", "8:14 `pipelines.p.alerts.a.when` must be true or false, this is a number");
    one("a = { when = \"views\" }", "8:14 `pipelines.p.alerts.a.when` must be true or false, this is a number");
    one("a = { when = \"views > 'x'\" }", "8:15 `pipelines.p.alerts.a.when`: ");
    one("a = { when = \"views >\" }", "8:");
    one("a = { when = \"previous(path) = 'x'\" }", "8:15 `pipelines.p.alerts.a.when`: previous() takes an aggregate");
    one("a = { when = \"previous(1) > 1\" }", "8:15 `pipelines.p.alerts.a.when`: previous() takes the name");
    one("a = { when = \"views > 1\", for = \"soon\" }", "8:33 `pipelines.p.alerts.a.for` is no duration");
    one(
        "a = { when = \"views > 1\", webhook = \"hooks.example.org\" }",
        "8:37 `pipelines.p.alerts.a.webhook` is no URL",
    );
    one("a = { when = \"views > 1\", webhook = \"file:///x\" }", "8:37 `pipelines.p.alerts.a.webhook` is no URL");
    one("a = { when = \"views > 1\", wehn = 1 }", "8:27 unknown key `pipelines.p.alerts.a.wehn`");
    one("a = { for = \"1m\" }", "8:5 `when` is missing in pipelines.p.alerts.a");
    one("a = 1", "8:5 `pipelines.p.alerts.a` cannot be a number");
    one("A = { when = \"views > 1\" }", "8:1 `A` cannot be the name of an alert");
    let sessions = alerts("a = { when = \"previous(views) > 1\" }").replace("tumbling", "session");
    assert!(mistakes(&sessions)[0].contains("sessions have no window before"), "{:?}", mistakes(&sessions));
    // Of a broken aggregate there is one mistake.
    let broken = alerts("a = { when = \"rate > 1\" }").replace("bad / views", "bad / visw");
    assert_eq!(mistakes(&broken).len(), 1);
    // Elsewhere there is no window before.
    let filter = with("aggregates = { n = \"count(*)\" }\nstages = [{ filter = \"previous(x) > 1\" }]");
    assert!(mistakes(&filter)[0].contains("unknown function previous()"), "{:?}", mistakes(&filter));
}
