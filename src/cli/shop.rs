//! A made-up shop's traffic: visitors come, look at pages, fill a cart, pay or leave.
//!
//! The same seed, start and step give the same bytes for ever: the random numbers are made here, and all arithmetic is
//! in whole numbers.

use std::io::Write as _;

/// Customers that come back; so many groups has whoever counts by user.
const USERS: u64 = 20_000;
/// Visits that go on at the same time.
const VISITS: usize = 200;
/// Events before the first one: the shop has been open for a while, and carts are full.
const EVENTS_BEFORE: usize = 10 * VISITS;
/// Products, each with a page.
const PRODUCTS: u64 = 500;
/// One event of so many comes late by up to [`JITTER_MS`], as if over a slow line.
const ONE_LATE_OF: u64 = 50;
const JITTER_MS: u64 = 4_000;

const COUNTRIES: [(&str, u64); 10] =
    [("DE", 26), ("US", 20), ("FR", 14), ("GB", 11), ("PL", 9), ("IN", 7), ("BR", 5), ("JP", 4), ("SE", 3), ("NZ", 1)];
const PAGES: [(&str, u64); 8] = [
    ("/", 38),
    ("/search", 22),
    ("/sale", 15),
    ("/about", 8),
    ("/blog/tides", 7),
    ("/help/returns", 5),
    ("/careers", 3),
    ("/imprint", 2),
];

/// Makes events, one after the other.
pub(super) struct Shop {
    random: Random,
    start_ms: i64,
    step_us: u64,
    disorder_ms: u64,
    made: u64,
    visits: Vec<Visit>,
}

/// One visitor's session.
struct Visit {
    user: u64,
    session: u64,
    country: &'static str,
    cart: Vec<Item>,
}

struct Item {
    product: u64,
    quantity: u64,
}

impl Item {
    /// A price that every event of this product agrees on.
    fn price_cents(&self) -> u64 {
        199 + self.product * 7_919 % 9_800
    }
}

impl Shop {
    /// Events from `start_ms` on, one each `step_us`, each put back at random by up to `disorder_ms`.
    pub(super) fn new(seed: u64, start_ms: i64, step_us: u64, disorder_ms: u64) -> Self {
        let mut shop =
            Self { random: Random(seed), start_ms, step_us, disorder_ms, made: 0, visits: Vec::with_capacity(VISITS) };
        let mut unseen = Vec::new();
        for _ in 0..EVENTS_BEFORE {
            shop.write_event(&mut unseen);
            unseen.clear();
        }
        shop.made = 0;
        shop
    }

    /// Appends the next event with its LF.
    pub(super) fn write_event(&mut self, out: &mut Vec<u8>) {
        let ts = self.next_time();
        let index = self.random.below(VISITS as u64) as usize;
        if index >= self.visits.len() {
            let visit = self.new_visit();
            let (kind, path) = if self.random.one_of(40) { ("signup", "/signup") } else { ("page_view", "/") };
            self.write_head(out, ts, kind, path, 200, &visit);
            out.extend_from_slice(b"}\n");
            self.visits.push(visit);
            return;
        }
        let mut visit = self.visits.swap_remove(index);
        if self.write_step(out, ts, &mut visit) {
            self.visits.push(visit);
        }
    }

    /// Whole steps, put back a little: disorder is the rule in real streams.
    fn next_time(&mut self) -> i64 {
        let step_ms = (u128::from(self.made) * u128::from(self.step_us) / 1_000) as i64;
        self.made += 1;
        let mut back = 0;
        if self.disorder_ms > 0 {
            back += self.random.below(self.disorder_ms + 1);
        }
        if self.random.one_of(ONE_LATE_OF) {
            back += self.random.below(JITTER_MS + 1);
        }
        self.start_ms.saturating_add(step_ms).saturating_sub_unsigned(back)
    }

    fn new_visit(&mut self) -> Visit {
        // A quarter of all visits are those of a few regulars.
        let users = if self.random.one_of(4) { USERS / 50 } else { USERS };
        let user = self.random.below(users);
        Visit { user, session: self.random.next() >> 24, country: self.random.pick(&COUNTRIES), cart: Vec::new() }
    }

    /// What a visitor does next; false if that was the last.
    fn write_step(&mut self, out: &mut Vec<u8>, ts: i64, visit: &mut Visit) -> bool {
        let dice = self.random.below(100);
        match dice {
            0..3 => {
                let status = 500 + 3 * self.random.below(2);
                self.write_head(out, ts, "error", "/checkout", status, visit);
                out.extend_from_slice(b"}\n");
                true
            }
            3..18 => {
                let item = Item { product: self.product(), quantity: 1 + self.random.below(3) };
                let path = format!("/products/{}", item.product);
                self.write_head(out, ts, "add_to_cart", &path, 200, visit);
                out.extend_from_slice(b",\"item\":");
                write_item(out, &item);
                out.extend_from_slice(b"}\n");
                visit.cart.push(item);
                true
            }
            18..34 if !visit.cart.is_empty() => {
                self.write_purchase(out, ts, visit);
                false
            }
            _ => {
                let status = if self.random.one_of(60) { 404 } else { 200 };
                if self.random.one_of(3) {
                    let page = self.random.pick(&PAGES);
                    self.write_head(out, ts, "page_view", page, status, visit);
                } else {
                    let path = format!("/products/{}", self.product());
                    self.write_head(out, ts, "page_view", &path, status, visit);
                }
                out.extend_from_slice(b"}\n");
                dice < 88
            }
        }
    }

    fn write_purchase(&mut self, out: &mut Vec<u8>, ts: i64, visit: &Visit) {
        self.write_head(out, ts, "purchase", "/checkout", 200, visit);
        let cents: u64 = visit.cart.iter().map(|item| item.price_cents() * item.quantity).sum();
        push(out, format_args!(",\"order\":\"o{:010x}\",\"amount\":{}", visit.session, Cents(cents)));
        out.extend_from_slice(b",\"items\":[");
        for (index, item) in visit.cart.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_item(out, item);
        }
        out.extend_from_slice(b"]}\n");
    }

    /// A few products are what everybody looks at.
    fn product(&mut self) -> u64 {
        1 + self.random.below(PRODUCTS) * self.random.below(PRODUCTS) / PRODUCTS * self.random.below(PRODUCTS)
            / PRODUCTS
    }

    /// All that every event has, without the closing brace.
    fn write_head(&mut self, out: &mut Vec<u8>, ts: i64, kind: &str, path: &str, status: u64, visit: &Visit) {
        let load_ms = 15 + self.random.below(90) * self.random.below(90) / 10 + if status >= 500 { 900 } else { 0 };
        let Visit { user, session, country, .. } = visit;
        push(
            out,
            format_args!(
                "{{\"ts\":{ts},\"type\":\"{kind}\",\"path\":\"{path}\",\"user\":\"u{user}\",\"session\":\"s{session:010x}\",\
                 \"country\":\"{country}\",\"status\":{status},\"load_ms\":{load_ms}"
            ),
        );
    }
}

fn write_item(out: &mut Vec<u8>, item: &Item) {
    let (product, quantity) = (item.product, item.quantity);
    push(out, format_args!("{{\"sku\":\"P{product:04}\",\"qty\":{quantity},\"price\":{}}}", Cents(item.price_cents())));
}

fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to memory cannot fail.
    let _ = out.write_fmt(text);
}

/// An amount with its two decimals.
struct Cents(u64);

impl std::fmt::Display for Cents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// SplitMix64: a dozen operations, and no dependency whose next version gives other numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn one_of(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn pick(&mut self, weighted: &[(&'static str, u64)]) -> &'static str {
        let mut left = self.below(weighted.iter().map(|(_, weight)| weight).sum());
        for (name, weight) in weighted {
            if left < *weight {
                return name;
            }
            left -= weight;
        }
        ""
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use serde_json::Value;

    use super::*;

    fn events(seed: u64, disorder_ms: u64, count: usize) -> (Vec<u8>, Vec<Value>) {
        let mut shop = Shop::new(seed, 1_700_000_000_000, 1_000, disorder_ms);
        let mut bytes = Vec::new();
        for _ in 0..count {
            shop.write_event(&mut bytes);
        }
        let parsed = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let parsed = parsed.map(|line| serde_json::from_slice(line).unwrap()).collect();
        (bytes, parsed)
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_for_ever() {
        let (bytes, parsed) = events(7, 0, 2_000);
        assert_eq!(events(7, 0, 2_000).0, bytes);
        assert_ne!(events(8, 0, 2_000).0, bytes);
        assert_eq!(parsed.len(), 2_000);
        let sum = bytes.iter().fold(0u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        assert_eq!(
            sum, 6_231_621_901_701_301_168,
            "examples and tests count on these bytes: change them on purpose only"
        );
    }

    #[test]
    fn traffic_looks_like_a_shop_s() {
        let (_, events) = events(1, 0, 50_000);
        let mut kinds: HashMap<&str, u64> = HashMap::new();
        let mut paths: HashMap<&str, u64> = HashMap::new();
        for event in &events {
            *kinds.entry(event["type"].as_str().unwrap()).or_default() += 1;
            *paths.entry(event["path"].as_str().unwrap()).or_default() += 1;
            assert!(["path", "user", "session", "country"].iter().all(|field| event[*field].is_string()), "{event}");
            assert!(["ts", "status", "load_ms"].iter().all(|field| event[*field].is_u64()), "{event}");
            if event["type"] == "purchase" {
                let items = event["items"].as_array().unwrap();
                let cents = |value: &Value| (value.as_f64().unwrap() * 100.0).round() as u64;
                let sum: u64 = items.iter().map(|item| cents(&item["price"]) * item["qty"].as_u64().unwrap()).sum();
                assert_eq!(cents(&event["amount"]), sum, "{event}");
            }
        }
        for (kind, least) in
            [("page_view", 30_000), ("add_to_cart", 3_000), ("purchase", 500), ("error", 500), ("signup", 50)]
        {
            assert!(kinds.get(kind).is_some_and(|count| *count >= least), "{kind} in {kinds:?}");
        }
        let mut counts: Vec<u64> = paths.into_values().collect();
        counts.sort_unstable();
        let hottest: u64 = counts.iter().rev().take(5).sum();
        assert!(counts.len() > 300 && hottest > 12_500, "five of {} pages have {hottest}", counts.len());
    }

    #[test]
    fn disorder_is_within_its_bound_and_there() {
        for (disorder, most) in [(0, JITTER_MS), (600_000, 600_000 + JITTER_MS)] {
            let (_, events) = events(3, disorder, 20_000);
            let behind =
                |(index, event): (usize, &Value)| 1_700_000_000_000 + index as i64 - event["ts"].as_i64().unwrap();
            let behind: Vec<i64> = events.iter().enumerate().map(behind).collect();
            let greatest = *behind.iter().max().unwrap();
            assert!(behind.iter().all(|ms| *ms >= 0) && greatest <= most as i64, "{greatest}");
            assert!(greatest > most as i64 * 9 / 10, "{greatest}");
        }
    }

    #[test]
    fn a_million_events_have_all_users() {
        let mut shop = Shop::new(5, 0, 1_000, 0);
        let mut users = HashSet::new();
        let mut line = Vec::new();
        for _ in 0..1_000_000 {
            line.clear();
            shop.write_event(&mut line);
            let at = memchr::memmem::find(&line, b"\"user\":").unwrap();
            let user = line[at..].split(|byte| *byte == b',').next().unwrap();
            users.insert(user.to_vec());
        }
        assert!(users.len() as u64 > USERS * 97 / 100, "{} users", users.len());
    }
}
