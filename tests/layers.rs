//! An import never runs upward (DESIGN.md §5, ARCHITECTURE.md "Rooms").
//!
//! Reads the sources and holds every `crate::…` path in them against the table below.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a test program: a failure is a finding

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms of `src/`, and the rooms each may use besides itself.
const ROOMS: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("core", &["protocol"]),
    ("config", &["protocol", "core"]),
    ("error", &["protocol", "core"]),
    ("clock", &[]),
    ("log", &["protocol", "clock"]),
    ("app", &["protocol", "core", "config", "log", "clock"]),
    ("http", &["protocol", "core", "error"]),
    ("objects", &["core", "clock"]),
    ("guard", &["protocol", "core"]),
    ("proxyctl", &["protocol", "guard"]),
    // Programs: their processes and their terminals. They use the crate from outside.
    ("bin", &[]),
    ("lib", &["routes", "consumers", "revocation"]),
];

/// What every room of the Worker's may use.
const BASE: &[&str] = &[
    "protocol", "core", "config", "error", "log", "clock", "app", "http", "objects",
];

/// Rooms on that base, and the rooms each may use besides.
const WORKER_ROOMS: &[(&str, &[&str])] = &[
    ("registry", &[]),
    ("trust", &[]),
    ("relay", &["trust", "registry"]),
    ("revocation", &["trust", "registry", "relay"]),
    ("routes", &["trust", "registry", "relay", "revocation"]),
    ("consumers", &["trust", "registry", "relay", "revocation"]),
];

/// The rooms that this one may use; none where there is no such room.
fn allowed(room: &str) -> Option<Vec<&'static str>> {
    let of = |rooms: &'static [(&str, &[&str])]| rooms.iter().find(|(name, _)| *name == room);
    match (of(ROOMS), of(WORKER_ROOMS)) {
        (Some((_, allowed)), _) => Some(allowed.to_vec()),
        (None, Some((_, allowed))) => Some([BASE, allowed].concat()),
        (None, None) => None,
    }
}

#[test]
fn no_import_runs_upward() {
    let mut offences = Vec::new();
    let mut checked = 0;
    for file in rust_files(Path::new("src")) {
        let room = room_of(&file);
        let Some(allowed) = allowed(&room) else {
            offences.push(format!(
                "{}: the room `{room}` is not in the table",
                file.display()
            ));
            continue;
        };
        let text = fs::read_to_string(&file).unwrap();
        for used in used_rooms(&text) {
            checked += 1;
            if used != room && !allowed.contains(&used.as_str()) {
                offences.push(format!("{}: `{room}` uses `{used}`", file.display()));
            }
        }
        let pure = matches!(room.as_str(), "protocol" | "core" | "config" | "error");
        let code: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        if pure
            && ["worker::", "js_sys::", "web_sys::", "wasm_bindgen"]
                .iter()
                .any(|name| code.contains(name))
        {
            offences.push(format!("{}: `{room}` knows of Workers", file.display()));
        }
    }
    assert!(
        checked > 50,
        "only {checked} imports found: the test reads the wrong thing"
    );
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files
}

fn room_of(file: &Path) -> String {
    let first = file.components().nth(1).unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The first segment of every `crate::…` path, those in `crate::{…}` groups included.
fn used_rooms(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            assert!(
                !rest.starts_with('{'),
                "write one `use crate::room` per line: {line}"
            );
            rooms.push(
                rest.chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect(),
            );
        }
    }
    rooms
}
