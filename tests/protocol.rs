//! The line protocol over a real socket, bytes to bytes.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tidemill::Tidemill;

use crate::support::{Client, Mill, wait_until};

const CONFIG: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    max_line = "2KiB"
    [pipelines.hits]
    stream = "web"
    window = { tumbling = "1d" }
    aggregates = { hits = "count(*)" }
"#;

#[test]
fn a_session_reads_as_the_contract_says() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let mut client = daemon.client();
    assert_eq!(client.ask("@ping"), "@pong");
    client.write(b"{\"a\": 1}\r\n\n  \nno json\n[1]\n");
    assert_eq!(client.ask("@sync first"), "@synced first 1 2");
    client.write(b"{\"a\": 2}\n@sync\n{\"a\": 3}\n@sync last\n@ping\n");
    assert_eq!([client.reply(), client.reply(), client.reply()], ["@synced 2 2", "@synced last 3 2", "@pong"]);
    assert!(client.ask("@nonsense").starts_with("@error unknown_command "));
    assert_eq!(client.ask("@ping"), "@pong", "the connection stays open");
    // A last line without its LF counts: the client closes cleanly, and named no producer.
    client.write(b"{\"a\": 4}");
    client.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), "");
    daemon.wait_for_events("hits", 4);
}

#[test]
fn a_client_that_never_asks_is_never_answered() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let mut client = daemon.client();
    client.write(b"{\"a\": 1}\nno json\n");
    client.socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), "");
    daemon.wait_for_events("hits", 1);
}

#[test]
fn an_overlong_line_is_a_letter_with_its_beginning_and_true_length() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let long = format!("{{\"a\": \"{}\"}}", "x".repeat(9_000));
    let mut client = daemon.client();
    client.write(format!("{{\"a\": 1}}\n{long}\n{{\"a\": 2}}\n").as_bytes());
    assert_eq!(client.sync(), (2, 1));
    daemon.wait_for_commit();
    let letters = mill.sql("SELECT json_array(position, kind, length(line), reason) AS r FROM dead_letters");
    assert_eq!(letters, [format!("[2,\"decode\",4096,\"the line has {} bytes, more than max_line\"]", long.len())]);
}

#[test]
fn tokens_are_wanted_first() {
    let mill = Mill::new(&CONFIG.replace("max_line = \"2KiB\"", "token = \"0123456789abcdef\""));
    let daemon = mill.start();
    assert_eq!(daemon.client().ask("{\"a\": 1}"), "@error unauthorized");
    let mut wrong = daemon.client();
    assert_eq!(wrong.ask("@auth 0123456789abcdeX"), "@error unauthorized");
    assert_eq!(wrong.reply(), "", "closed");
    let mut right = daemon.client();
    assert_eq!(right.ask("@auth 0123456789abcdef"), "@ok");
    right.write(b"{\"a\": 1}\n");
    assert_eq!(right.sync(), (1, 0));
    daemon.wait_for_events("hits", 1);
    assert_eq!(daemon.pipeline("hits")["account"]["read"], 1);
}

#[test]
fn http_on_the_line_port_is_turned_away() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let mut client = daemon.client();
    client.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.reply(), "@error http_request");
    assert_eq!(client.reply(), "", "closed");
}

#[test]
fn a_connection_cut_in_mid_line_leaves_no_event() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let mut client = daemon.client();
    client.write(b"{\"a\": 1}\n");
    client.sync();
    client.write(b"{\"a\": ");
    // A reset, as a killed client or a broken network makes it.
    let socket = rustix::net::sockopt::set_socket_linger(&client.socket, Some(Duration::ZERO));
    socket.unwrap();
    drop(client);
    wait_until("the connection to end", || (daemon.stats()["streams"][0]["connections"].as_u64()? == 0).then_some(()));
    daemon.send(b"{\"a\": 2}\n");
    daemon.wait_for_commit();
    let stream = &daemon.stats()["streams"][0];
    assert_eq!((stream["lines"].as_u64(), stream["rejected"].as_u64()), (Some(2), Some(0)));
}

/// A journal whose fsync waits until it is let through.
#[test]
fn synced_never_comes_before_its_fdatasync() {
    let gate = Arc::new((Mutex::new(true), Condvar::new()));
    let folder = tempfile::tempdir().unwrap();
    let config = format!("data_dir = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n{CONFIG}", folder.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let held = gate.clone();
    let mill = Tidemill::from_str(&config).unwrap().sync_with(Arc::new(move |file| {
        let (open, changed) = &*held;
        drop(changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
        file.sync_data()
    }));
    let mill = runtime.block_on(mill.start()).unwrap();
    let address = mill.tcp_address("web").unwrap().to_string();
    assert_eq!(Client::connect(&address).ask("@sync"), "@synced 0 0");

    *gate.0.lock().unwrap() = false;
    let mut client = Client::connect(&address);
    client.write(b"{\"a\": 1}\n@sync\n");
    let stats = || serde_json::from_str::<serde_json::Value>(&mill.stats().unwrap()).unwrap();
    let last = |stats: &serde_json::Value| stats["streams"][0]["journal"]["last"].as_u64().unwrap();
    let before = wait_until("the line to be taken", || Some(stats()).filter(|stats| last(stats) == 1));
    assert_eq!(before["streams"][0]["journal"]["durable"], 0);
    client.socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let early = std::io::Read::read(&mut TcpStream::try_clone(&client.socket).unwrap(), &mut [0; 1]);
    assert!(early.is_err(), "answered before the fsync");
    // Nor may a flush be before it.
    assert_eq!(stats()["pipelines"][1]["position"], 0);

    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    client.socket.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    assert_eq!(client.reply(), "@synced 1 0");
    drop(client);
    runtime.block_on(mill.shutdown());
}
