//! A slow stage: the journal absorbs, then the sender is held; memory stays bounded, nothing is lost.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use tidemill::{Outcome, Tidemill};

use crate::support::{PATIENCE, resident, sql, wait_until};

const LINES: u64 = 65_536;
const LINE_BYTES: usize = 16 * 1024;
const CHILD: &str = "TIDEMILL_TEST_SLOW_CHILD";

/// Not a test of its own: the daemon of the test below, in a process of its own, so that its memory can be seen.
#[test]
fn child_with_a_slow_stage() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let config = format!(
        r#"
        data_dir = "{folder}"
        [http]
        listen = "127.0.0.1:0"
        [streams.web]
        tcp = "127.0.0.1:0"
        journal_limit = "256MiB"
        journal_keep = "0s"
        [pipelines.slow]
        stream = "web"
        time = "ts"
        window = {{ tumbling = "1d" }}
        aggregates = {{ hits = "count(*)", total = "sum(n)" }}
        [[pipelines.slow.stages]]
        custom = "sleep"
        "#
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mill = Tidemill::from_str(&config).unwrap().stage("sleep", |_| {
            std::thread::sleep(Duration::from_millis(1));
            Ok(Outcome::Keep)
        });
        let mill = mill.start().await.unwrap();
        let addresses = format!("{} {}", mill.tcp_address("web").unwrap(), mill.http_address());
        std::fs::write(format!("{folder}/addresses.new"), addresses).unwrap();
        std::fs::rename(format!("{folder}/addresses.new"), format!("{folder}/addresses")).unwrap();
        // Until the test that started it has seen enough.
        let stop = format!("{folder}/stop");
        while !std::path::Path::new(&stop).exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        mill.shutdown().await;
    });
}

#[test]
fn a_slow_stage_fills_the_journal_and_then_holds_the_sender() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "backpressure::child_with_a_slow_stage"])
        .env(CHILD, folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let addresses =
        wait_until("the child's addresses", || std::fs::read_to_string(folder.path().join("addresses")).ok());
    let (tcp, http) = addresses.split_once(' ').unwrap();
    let stats = || {
        let mut answer = ureq::get(format!("http://{http}/api/v1/stats")).call().unwrap();
        serde_json::from_str::<serde_json::Value>(&answer.body_mut().read_to_string().unwrap()).unwrap()
    };

    let mut socket = TcpStream::connect(tcp).unwrap();
    let sender = std::thread::spawn(move || {
        for index in 0..LINES {
            let mut line = format!("{{\"ts\": 1431855000000, \"n\": {index}, \"pad\": \"");
            let pad = LINE_BYTES - 3 - line.len();
            line.extend(std::iter::repeat_n('x', pad));
            line.push_str("\"}\n");
            socket.write_all(line.as_bytes()).unwrap();
        }
        socket.shutdown(Shutdown::Write).unwrap();
        socket
    });

    let (mut most, mut fullest, mut named) = (0, 0, false);
    let began = std::time::Instant::now();
    let mut watch = || {
        let stats = stats();
        most = most.max(resident(child.id()));
        fullest = fullest.max(stats["streams"][0]["journal"]["bytes"].as_u64().unwrap());
        let bottleneck = &stats["bottleneck"];
        named |= bottleneck["actor"] == "stage" && bottleneck["pipeline"] == "slow";
        stats
    };
    while !sender.is_finished() {
        watch();
        assert!(began.elapsed() < 3 * PATIENCE, "the sender is still held");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(sender.join().unwrap());
    wait_until("all to be committed", || {
        let stats = watch();
        let slow = stats["pipelines"].as_array()?.iter().find(|pipeline| pipeline["name"] == "slow")?;
        (slow["account"]["aggregated"].as_u64()? == LINES).then_some(())
    });
    let held = stats()["streams"][0]["held_ms"].as_u64().unwrap();
    std::fs::write(folder.path().join("stop"), "").unwrap();
    assert!(child.wait().unwrap().success());

    let mib = |bytes: u64| bytes / (1 << 20);
    println!("resident {} MiB at most, journal {} MiB at most, held {held} ms", mib(most), mib(fullest));
    assert!(mib(most) < 200, "{} MiB resident", mib(most));
    assert!((200..=300).contains(&mib(fullest)), "{} MiB of journal", mib(fullest));
    assert!(held > 0, "the sender was held");
    assert!(named, "stats name the stage");
    let row = sql(&folder.path().join("tidemill.db"), "SELECT json_array(hits, total) AS r FROM slow");
    assert_eq!(row, [format!("[{LINES},{}]", LINES * (LINES - 1) / 2)]);
}
