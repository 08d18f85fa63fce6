//! Against a server in this process that keeps lines as a stream does, and breaks where it is told.

use std::collections::HashMap;
use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;

use super::*;
use crate::input::{Action, Protocol, ProtocolConfig, Reply};

/// What happens to one connection, in the order in which they come.
#[derive(Clone, Copy)]
enum Fate {
    /// It is served to its end.
    Served,
    /// After so many lines it is cut, and so many of the last ones were not durable.
    Cut { after: usize, lost: usize },
    /// The next `@sync` after so many lines is not answered: all is durable, nobody says so.
    Mute { after: usize },
    /// It is told this, and closed.
    Told(&'static str),
}

#[derive(Default)]
struct Kept {
    lines: HashMap<String, Vec<Vec<u8>>>,
    connections: usize,
}

struct Server {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
}

impl Server {
    fn start(fates: Vec<Fate>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { address: listener.local_addr().unwrap(), kept: Arc::default() };
        let kept = server.kept.clone();
        std::thread::spawn(move || {
            for fate in fates.into_iter().chain(std::iter::repeat(Fate::Served)) {
                let (socket, _) = listener.accept().unwrap();
                kept.lock().unwrap().connections += 1;
                // A client that went away is its own affair.
                let _ = serve(socket, fate, &kept);
            }
        });
        server
    }

    fn lines_of(&self, producer: &str) -> Vec<Vec<u8>> {
        self.kept.lock().unwrap().lines.get(producer).cloned().unwrap_or_default()
    }

    fn connections(&self) -> usize {
        self.kept.lock().unwrap().connections
    }
}

/// One connection; a line with `bad` in it is rejected.
fn serve(mut socket: TcpStream, fate: Fate, kept: &Mutex<Kept>) -> io::Result<()> {
    let tokens = ["a token of sixteen"].into_iter().collect();
    let mut protocol = Protocol::new(ProtocolConfig { max_line: 1_000, tokens, batch_max: 1_000 });
    let (mut name, mut counts) = (String::new(), (0, 0));
    loop {
        let mut bytes = [0; 777];
        let read = socket.read(&mut bytes)?;
        protocol.space().extend_from_slice(&bytes[..read]);
        while let Some(action) = protocol.next() {
            let reply = match action {
                Action::Auth { ok: true } => Reply::Ok,
                Action::Auth { ok: false } => Reply::error("unauthorized"),
                Action::Producer(producer) => {
                    name = producer;
                    Reply::Resume(kept.lock().unwrap().lines.entry(name.clone()).or_default().len() as u64)
                }
                Action::Sync(token) => match fate {
                    Fate::Mute { after } if counts.0 + counts.1 >= after as u64 => return Ok(()),
                    _ => Reply::Synced { token, accepted: counts.0, rejected: counts.1 },
                },
                Action::Lines(lines) => {
                    for line in lines.split_inclusive(|byte| *byte == b'\n') {
                        let mut kept = kept.lock().unwrap();
                        let stream = kept.lines.entry(name.clone()).or_default();
                        stream.push(line.to_vec());
                        match memchr::memmem::find(line, b"bad") {
                            Some(_) => counts.1 += 1,
                            None => counts.0 += 1,
                        }
                        if let Fate::Cut { after, lost } = fate
                            && counts.0 + counts.1 == after as u64
                        {
                            stream.truncate(stream.len() - lost);
                            return Ok(());
                        }
                    }
                    continue;
                }
                other => panic!("the sender did {other:?}"),
            };
            writeln!(socket, "{reply}")?;
            if let Fate::Told(code) = fate {
                writeln!(socket, "{}", Reply::error(code))?;
                // Who closes with unread bytes takes back what it said.
                socket.shutdown(Shutdown::Write)?;
                io::copy(&mut socket, &mut io::sink())?;
                return Ok(());
            }
        }
        if read == 0 {
            return Ok(());
        }
    }
}

fn text(lines: usize) -> String {
    (1..=lines).map(|n| if n % 10 == 0 { format!("{{bad {n}\n\n") } else { format!("{{\"n\":{n}}}\n") }).collect()
}

/// What the server must have of it.
fn sent(text: &str) -> Vec<Vec<u8>> {
    text.lines().filter(|line| !line.is_empty()).map(|line| format!("{line}\n").into_bytes()).collect()
}

fn target(server: &Server, producer: Option<&str>) -> Target {
    Target {
        address: server.address.to_string(),
        token: Some("a token of sixteen".to_owned()),
        producer: producer.map(str::to_owned),
        retry_for: Duration::from_secs(5),
    }
}

fn deliver(server: &Server, producer: Option<&str>, text: &str) -> Result<Outcome, DeliveryError> {
    let pace = Pace::new(Clock::system()).unwrap();
    let input = Lines::new("it", Box::new(io::Cursor::new(text.as_bytes().to_vec())));
    Delivery::new(target(server, producer), read_ahead(vec![input]), &pace).run(&mut |_| ())
}

fn outcome(accepted: u64, rejected: u64, skipped: u64, unreported: u64) -> Outcome {
    Outcome { accepted, rejected, skipped, unreported }
}

#[test]
fn all_lines_arrive_and_are_counted() {
    let server = Server::start(vec![]);
    let text = text(60_000);
    assert_eq!(deliver(&server, None, &text).unwrap(), outcome(54_000, 6_000, 0, 0));
    assert!(server.lines_of("") == sent(&text));
    assert_eq!(deliver(&server, None, "").unwrap(), outcome(0, 0, 0, 0));
}

#[test]
fn a_named_sender_resumes_exactly_after_every_break() {
    let fates = vec![
        Fate::Cut { after: 5_000, lost: 0 },
        Fate::Cut { after: 7_000, lost: 3_333 },
        Fate::Told("line_timeout"),
        Fate::Cut { after: 1, lost: 1 },
        Fate::Mute { after: 3_000 },
    ];
    let server = Server::start(fates);
    let text = text(60_000);
    let outcome = deliver(&server, Some("p"), &text).unwrap();
    assert!(server.lines_of("p") == sent(&text), "{} lines are there", server.lines_of("p").len());
    assert!(server.connections() >= 6, "{} connections", server.connections());
    assert_eq!(outcome.accepted + outcome.rejected + outcome.unreported, 60_000, "{outcome:?}");
    assert!(outcome.unreported > 0 && outcome.skipped == 0, "{outcome:?}");
}

#[test]
fn a_second_run_sends_only_what_is_new() {
    let server = Server::start(vec![]);
    deliver(&server, Some("p"), &text(25_005)).unwrap();
    assert_eq!(deliver(&server, Some("p"), &text(40_000)).unwrap(), outcome(13_495, 1_500, 25_005, 0));
    assert!(server.lines_of("p") == sent(&text(40_000)));
    assert_eq!(deliver(&server, Some("p"), &text(40_000)).unwrap(), outcome(0, 0, 40_000, 0));

    let error = deliver(&server, Some("p"), &text(39_999)).unwrap_err();
    assert!(matches!(error, DeliveryError::OtherInput { durable: 40_000, lines: 39_999, .. }), "{error}");
}

#[test]
fn a_nameless_sender_says_what_is_known_and_does_not_send_twice() {
    let server = Server::start(vec![Fate::Cut { after: 30_000, lost: 0 }]);
    let error = deliver(&server, None, &text(60_000)).unwrap_err();
    assert!(error.to_string().contains("at least the first "), "{error}");
    assert_eq!((server.connections(), failure(error).exit_code()), (1, 69));
}

#[test]
fn some_refusals_are_final() {
    for code in ["unauthorized", "producer_replaced", "too_many_producers"] {
        let server = Server::start(vec![Fate::Served, Fate::Told(code)]);
        deliver(&server, Some("p"), "{}\n").unwrap();
        let error = deliver(&server, Some("p"), &text(60_000)).unwrap_err();
        assert!(matches!(error, DeliveryError::Refused { .. }), "{code}: {error}");
        assert_eq!(server.connections(), 2, "{code}");
    }
}

#[test]
fn a_stream_that_forgot_is_no_place_to_go_on() {
    let server = Server::start(vec![Fate::Cut { after: 150, lost: 0 }]);
    let kept = server.kept.clone();
    let (more, input) = crossbeam_channel::unbounded();
    let hundred = || Ok(Chunk { bytes: b"{}\n".repeat(100), lines: 100 });
    more.send(hundred()).unwrap();
    let mut more = Some(more);
    let pace = Pace::new(Clock::system()).unwrap();
    let delivery = Delivery::new(target(&server, Some("p")), input, &pace);
    let ended = delivery.run(&mut |durable| {
        if durable == 100
            && let Some(more) = more.take()
        {
            kept.lock().unwrap().lines.clear();
            more.send(hundred()).unwrap();
        }
    });
    let error = ended.unwrap_err();
    assert!(matches!(error, DeliveryError::OtherStream { durable: 50, .. }), "{error}");
}

#[test]
fn nobody_there_is_69_and_says_how_to_start_it() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server { address: free, kept: Arc::default() };
    let error = failure(deliver(&server, None, "{}\n").unwrap_err());
    assert_eq!(error.exit_code(), 69);
    assert!(error.to_string().contains("tidemill run CONFIG"), "{error}");
}

#[test]
fn a_control_line_in_the_input_is_64() {
    let server = Server::start(vec![]);
    let error = failure(deliver(&server, None, "{}\n@sync\n").unwrap_err());
    assert_eq!(error.exit_code(), 64);
    assert!(error.to_string().contains("line 2"), "{error}");
}

#[test]
fn files_have_names_that_stand_for_their_content() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a/access log.ndjson", "b/access log.ndjson"].map(|name| folder.path().join(name));
    for (path, text) in paths.iter().zip(["{\"day\":1}\n", "\n{\"day\":2}\n"]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let mut args = Args {
        address: String::new(),
        files: paths.to_vec(),
        producer: None,
        token: None,
        retry_for: None,
        json: false,
    };
    let names = |args: &Args| -> Result<Vec<Option<String>>, CliError> {
        Ok(jobs(args, &Arc::default())?.into_iter().map(|job| job.producer).collect())
    };
    let told = names(&args).unwrap();
    let [Some(first), Some(second)] = &told[..] else { panic!("{told:?}") };
    assert!(first.starts_with("send:access-log.ndjson:") && is_producer_name(first), "{first}");
    assert_ne!(first, second);

    std::fs::write(&paths[0], "{\"day\":1}\n{\"more\":1}\n").unwrap();
    assert_eq!(names(&args).unwrap(), told, "a file that grew has its name still");

    args.producer = Some("mine".to_owned());
    assert_eq!(names(&args).unwrap(), [Some("mine".to_owned())]);
    args.producer = Some("not mine".to_owned());
    assert_eq!(names(&args).unwrap_err().exit_code(), 64);

    args.producer = None;
    std::fs::write(&paths[1], "{\"day\":1}\n").unwrap();
    assert_eq!(names(&args).unwrap_err().exit_code(), 64);
    args.files = vec![folder.path().join("none")];
    assert_eq!(names(&args).unwrap_err().exit_code(), 74);
    args.files = vec![];
    assert_eq!(names(&args).unwrap(), [None]);
}
