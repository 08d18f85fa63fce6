//! The lines that are sent: made from the seed, each by itself, so that a producer can go on at any number and the
//! verdict can count them without having kept one.

use std::fmt::Write;

/// Event time of the first lines, unix ms: long ago, so that no clock that is set anew comes near.
const BEGIN: i64 = 1_600_000_000_000;
/// Event time between two lines of a producer.
const STEP_MS: i64 = 40;
/// Out of order by so much: less than the pipelines' `delay`.
const DISORDER_MS: i64 = 1_500;
/// Some come as late as this: their windows are closed.
const LATE_MS: i64 = 120_000;
/// Behind the last line comes one from so far ahead that it closes all windows before it.
const CLOSING_MS: i64 = 86_400_000;
const PAD_BYTES: usize = 1_000;

/// How lines come to the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// The line protocol.
    Tcp,
    /// POSTs.
    Http,
}

/// Who sends.
pub(super) struct Producer {
    pub(super) name: &'static str,
    pub(super) stream: &'static str,
    pub(super) way: Way,
    /// Lines in each round.
    pub(super) per_round: u64,
    /// Whether its lines are long, so that their journal needs many segments.
    padded: bool,
}

/// Two that resume, one that retries; and one whose stream's journal is small: its segments come and go.
pub(super) const PRODUCERS: [Producer; 4] = [
    Producer { name: "torture/north", stream: MAIN, way: Way::Tcp, per_round: 500, padded: false },
    Producer { name: "torture/south", stream: MAIN, way: Way::Tcp, per_round: 500, padded: false },
    Producer { name: "torture/web", stream: MAIN, way: Way::Http, per_round: 250, padded: false },
    Producer { name: "torture/bulk", stream: BRIEF, way: Way::Tcp, per_round: 1_200, padded: true },
];
/// The stream whose journal is kept whole.
pub(super) const MAIN: &str = "main";
/// The stream whose journal is not.
pub(super) const BRIEF: &str = "brief";

/// A decoded line, as whoever made it knows it.
pub(super) struct Event {
    pub(super) producer: &'static str,
    pub(super) number: i64,
    pub(super) time: i64,
    pub(super) kind: &'static str,
    /// In quarters, so that sums of floats are exact.
    pub(super) load_quarters: i64,
    /// `None`: a text that is no number.
    pub(super) amount: Option<i64>,
}

/// All lines of a run.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    pub(super) seed: u64,
    pub(super) rounds: u64,
}

impl Lines {
    /// Lines of a producer up to the end of a round.
    pub(super) fn upto(self, producer: &Producer, round: u64) -> u64 {
        producer.per_round * round
    }

    /// Lines of a producer with the closing one.
    pub(super) fn all(self, producer: &Producer) -> u64 {
        self.upto(producer, self.rounds) + 1
    }

    /// Windows that end after this may still be open at the end.
    pub(super) fn closed_upto(self) -> i64 {
        BEGIN + CLOSING_MS / 2 + self.span()
    }

    fn span(self) -> i64 {
        // As many as there are of the one that sends the most.
        let most = PRODUCERS.iter().map(|producer| self.upto(producer, self.rounds)).max().unwrap_or(0);
        most as i64 * STEP_MS
    }

    /// A producer's line; `None` where it is one that cannot be decoded.
    pub(super) fn event(self, producer: &'static Producer, number: u64) -> Option<Event> {
        let mut random = self.random(producer, number);
        let closing = number == self.all(producer);
        if random.u32(0..100) < 3 && !closing {
            return None;
        }
        let late = if random.u32(0..100) < 6 { random.i64(0..LATE_MS) } else { random.i64(0..DISORDER_MS) };
        let time = if closing { self.span() + CLOSING_MS } else { number as i64 * STEP_MS - late };
        Some(Event {
            producer: producer.name,
            number: number as i64,
            time: BEGIN + time,
            kind: ["a", "b", "c", "z"][random.usize(0..4)],
            load_quarters: random.i64(-40_000..4_000_000),
            amount: (random.u32(0..100) >= 4).then(|| random.i64(-1_000..100_000)),
        })
    }

    fn random(self, producer: &Producer, number: u64) -> fastrand::Rng {
        let name = producer.name.bytes().fold(self.seed, |seed, byte| seed.rotate_left(9) ^ u64::from(byte));
        let mut mixed = fastrand::Rng::with_seed(name ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed.fork()
    }

    /// The same as text, without its line end.
    pub(super) fn text(self, producer: &'static Producer, number: u64) -> String {
        let Some(event) = self.event(producer, number) else {
            return format!("{{\"n\":{number},\"producer\":\"{}\",\"ts\":", producer.name);
        };
        let Event { producer: name, number, time, kind, load_quarters, amount } = event;
        let load = load_quarters as f64 / 4.0;
        let mut text = format!(r#"{{"n":{number},"producer":"{name}","ts":{time},"kind":"{kind}","load":{load:?}"#);
        // Writing to a String cannot fail.
        let _ = match amount {
            Some(amount) => write!(text, r#","amount":"{amount}""#),
            None => write!(text, r#","amount":"about {number}""#),
        };
        if producer.padded {
            let _ = write!(text, r#","pad":"{:x>PAD_BYTES$}""#, "");
        }
        text.push('}');
        text
    }

    /// All lines of all producers that go into a stream.
    pub(super) fn of(self, stream: &str) -> impl Iterator<Item = (&'static Producer, u64)> {
        let into = PRODUCERS.iter().filter(move |producer| producer.stream == stream);
        into.flat_map(move |producer| (1..=self.all(producer)).map(move |number| (producer, number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_the_same_each_time_and_its_text_says_what_the_event_is() {
        let lines = Lines { seed: 7, rounds: 2 };
        let mut bad = 0;
        for (producer, number) in lines.of(MAIN) {
            let text = lines.text(producer, number);
            assert_eq!(text, lines.text(producer, number));
            let Some(event) = lines.event(producer, number) else {
                bad += 1;
                assert!(serde_json::from_str::<serde_json::Value>(&text).is_err());
                continue;
            };
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!((read["n"].as_i64(), read["ts"].as_i64()), (Some(event.number), Some(event.time)));
            assert_eq!(read["load"].as_f64(), Some(event.load_quarters as f64 / 4.0));
        }
        assert!(bad > 20, "{bad} lines cannot be decoded");
        assert!(lines.text(&PRODUCERS[0], 5) != Lines { seed: 8, ..lines }.text(&PRODUCERS[0], 5));
        assert!(lines.closed_upto() < lines.event(&PRODUCERS[0], lines.all(&PRODUCERS[0])).unwrap().time);
    }
}
