//! `validate --sample`: fields that no event has.

use std::io::Write;

use crate::support::Mill;

const CONFIG: &str = r#"[streams.web]
tcp = "127.0.0.1:0"
[streams.sensors]
format = "influx"
[pipelines.views]
stream = "web"
time = "ts"
group_by = ["path", "country"]
window = { tumbling = "1h" }
aggregates = { n = "count(*)", errors = "count(*) FILTER (WHERE statsu >= 500)" }
[[pipelines.views.stages]]
set = { country = "upper(user.contry)" }
[pipelines.heat]
stream = "sensors"
window = { tumbling = "1h" }
aggregates = { t = "avg(temp)" }
"#;

const EVENTS: &str = r#"{"ts": 1431856800, "path": "/", "status": 200, "user": {"country": "nl"}}
{"path": "/a", "status": null}
no event
"#;

#[test]
fn fields_that_no_event_has_are_named_where_they_stand() {
    let mill = Mill::new(CONFIG);
    let web = mill.path().join("web.ndjson");
    std::fs::write(&web, EVENTS).unwrap();
    let web = format!("web={}", web.display());
    let output = mill.verb("validate", &["--sample", &web]);
    let (out, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(out.contains("stream web: 2 events, 1 lines that are none"), "{out}");
    assert!(out.contains("1 events without a usable time") && out.contains("sensors: no file"), "{out}");
    for part in [
        "none of 2 events has the field `statsu`",
        "tidemill.toml:10:65",
        "did you mean `status`?",
        "none of 2 events has the field `user.contry`",
        "tidemill.toml:12:26",
        "did you mean `user.country`?",
        "2 errors",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(!said.contains("`path`"), "{said}");

    // Of several streams, it must be said which; a packed file is read; a point need have no timestamp.
    let output = mill.verb("validate", &["--sample", "x.ndjson"]);
    assert_eq!(output.status.code(), Some(64));
    let packed = mill.path().join("s.gz");
    let mut gz = flate2::write::GzEncoder::new(std::fs::File::create(&packed).unwrap(), flate2::Compression::fast());
    gz.write_all(b"# a comment\nweather,city=us temp=82\n").unwrap();
    gz.finish().unwrap();
    let output = mill.verb("validate", &["--sample", &format!("sensors={}", packed.display())]);
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && out.contains("pipeline heat: each field is in some event"), "{out}");

    let output = mill.verb("validate", &["--sample", "sensors=/dev/null"]);
    assert!(output.status.code() == Some(78), "{}", String::from_utf8_lossy(&output.stderr));
}
