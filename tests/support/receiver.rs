//! Takes POSTs, and answers each as it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// The status of an answer; `None`: there is never one.
type Answers = fn(usize) -> Option<u16>;

/// Where POSTs go to. It listens as long as the test runs.
pub struct Receiver {
    address: String,
    got: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    /// One that takes all.
    pub fn start() -> Self {
        Self::answering(|_| Some(204))
    }

    /// One that answers the first POST with `answers(0)`.
    pub fn answering(answers: Answers) -> Self {
        Self::at("127.0.0.1:0", answers)
    }

    pub fn at(address: &str, answers: Answers) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let got: Arc<Mutex<Vec<Value>>> = Arc::default();
        let all = got.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (socket, all) = (socket.unwrap(), all.clone());
                std::thread::spawn(move || serve(socket, &all, answers));
            }
        });
        Self { address, got }
    }

    pub fn url(&self) -> String {
        format!("http://{}/secret", self.address)
    }

    /// All bodies so far.
    pub fn got(&self) -> Vec<Value> {
        self.got.lock().unwrap().clone()
    }
}

/// One connection, which the client may use again and again. Whoever is killed in the middle has sent nothing.
fn serve(socket: TcpStream, all: &Mutex<Vec<Value>>, answers: Answers) {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    while let Some(body) = request(&mut reader) {
        let number = {
            let mut all = all.lock().unwrap();
            all.push(body);
            all.len() - 1
        };
        match answers(number) {
            Some(status) => {
                let answer = format!("HTTP/1.1 {status} So\r\ncontent-length: 0\r\nlocation: /elsewhere\r\n\r\n");
                let _ = (&socket).write_all(answer.as_bytes());
            }
            // Until the other side goes.
            None => drop((&socket).read(&mut [0])),
        }
    }
}

fn request(reader: &mut BufReader<TcpStream>) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(serde_json::from_slice(&body).unwrap())
}
