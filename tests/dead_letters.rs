//! Dead letters over HTTP and by `dlq`, in a running daemon.

use crate::support::{Mill, tidemill};

const CONFIG: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    [pipelines.sums]
    stream = "web"
    window = { tumbling = "1h" }
    aggregates = { sum = "sum(CAST(n AS bigint))" }
"#;

#[test]
fn letters_are_listed_shown_and_purged() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    daemon.send(b"{\"n\": \"1\"}\n{\"n\": \"abc\"}\nno json\n{\"n\": \"abc\"}\n");
    daemon.wait_for_commit();
    let dlq = |arguments: &[&str]| {
        let output = tidemill().arg("dlq").args(arguments).args(["--url", &daemon.http]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr))
    };
    let (code, listed) = dlq(&["list", "--json"]);
    let ids: Vec<serde_json::Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<&str> = ids.iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    assert_eq!((code, ids), (Some(0), vec!["web:4:sums", "web:3:@web", "web:2:sums"]), "{listed}");
    let (_, reasons) = dlq(&["list", "--by-reason", "--pipeline", "sums"]);
    assert!(reasons.contains("expression") && reasons.contains("│ 2 ") || reasons.contains("2 ┆"), "{reasons}");
    let (_, shown) = dlq(&["show", "web:2:sums"]);
    assert!(shown.contains("\"abc\"") && shown.contains("CAST"), "{shown}");
    let (code, unknown) = dlq(&["show", "web:1:sums"]);
    assert!(code != Some(0) && unknown.contains("there is no letter"), "{unknown}");
    assert_eq!(dlq(&["purge"]).0, Some(64));
    let refused = ureq::delete(format!("http://{}/api/v1/dead-letters", daemon.http)).call();
    assert!(matches!(refused, Err(ureq::Error::StatusCode(400))), "{refused:?}");
    assert_eq!(dlq(&["purge", "--pipeline", "sums"]).1, "2 letters purged\n");
    assert_eq!(daemon.get("/api/v1/dead-letters")["letters"].as_array().unwrap().len(), 1);
    // What was purged stays counted.
    assert_eq!(daemon.pipeline("sums")["account"]["dead"], 2);
}
