//! The tree itself: floors, sizes, words.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Which floor a room is on: a file imports only from floors below, or from its own room.
const FLOORS: [(&str, u8); 21] = [
    ("limits", 1),
    ("clock", 1),
    ("moments", 1),
    ("units", 1),
    ("event", 2),
    ("window", 3),
    ("expr", 3),
    ("journal", 3),
    ("config", 4),
    ("store", 4),
    ("pipeline", 5),
    ("actors", 6),
    ("input", 7),
    ("http", 7),
    ("live", 7),
    ("webhooks", 7),
    ("sender", 7),
    ("daemon", 8),
    ("lib", 8),
    ("cli", 9),
    ("main", 10),
];
/// Rooms on one floor of which one may name the other: a view's columns have the types that the config gives them; test
/// builds make the clock step.
const NEIGHBOURS: [(&str, &str); 2] = [("store", "config"), ("clock", "moments")];
const FILE_LINES_MAX: usize = 500;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn room(path: &Path) -> String {
    let relative = path.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn is_test(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.ends_with("tests.rs") || name == "oracle.rs" || path.components().any(|part| part.as_os_str() == "tests")
}

/// A file's lines before its inline tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].to_owned()
}

#[test]
fn files_import_only_from_floors_below() {
    let floors: BTreeMap<&str, u8> = FLOORS.into_iter().collect();
    let mut wrong = Vec::new();
    let mut imports = 0;
    for path in sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        if is_test(&path) {
            continue;
        }
        let from = room(&path);
        let floor = floors[from.as_str()];
        for (index, line) in code(&path).lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for part in line.split("crate::").skip(1) {
                let to: String = part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let Some(target) = floors.get(to.as_str()) else { continue };
                imports += 1;
                let neighbour = NEIGHBOURS.contains(&(from.as_str(), to.as_str()));
                if to != from && *target >= floor && !neighbour {
                    wrong.push(format!("{}:{}: {from} imports {to}", path.display(), index + 1));
                }
            }
        }
    }
    assert!(imports > 100, "only {imports} imports found: does this test still see them?");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_the_actors_room_uses_actix_and_only_the_clock_reads_clocks() {
    for path in sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        if is_test(&path) {
            continue;
        }
        let (from, code) = (room(&path), code(&path));
        assert!(from == "actors" || !code.contains("use actix::"), "{} uses actix", path.display());
        for word in ["Instant::now", "SystemTime::now", "thread::sleep", "time::sleep"] {
            assert!(from == "clock" || !code.contains(word), "{}: {word} belongs into clock.rs", path.display());
        }
    }
}

#[test]
fn files_stay_readable() {
    for path in sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        let lines = code(&path).lines().count();
        let long = lines > FILE_LINES_MAX && !is_test(&path);
        assert!(!long, "{} has {lines} lines before its tests", path.display());
    }
}
