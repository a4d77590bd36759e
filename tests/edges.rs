//! Dependencies between the parts point one way: `cli -> {setup, ocid, ocic} -> {artifact, template,
//! cri, spdy} -> host`. The one exception: `setup` uses the client in `ocic`.

use std::fs;
use std::path::{Path, PathBuf};

/// Each part with the parts it may use.
const EDGES: [(&str, &[&str]); 9] = [
    (
        "cli",
        &[
            "setup", "ocid", "ocic", "artifact", "template", "cri", "spdy", "host",
        ],
    ),
    ("setup", &["ocic", "artifact", "template", "cri", "host"]),
    ("ocid", &["artifact", "template", "cri", "spdy", "host"]),
    ("ocic", &["artifact", "template", "cri", "spdy", "host"]),
    ("artifact", &["host"]),
    ("template", &["host"]),
    ("cri", &["host"]),
    ("spdy", &["host"]),
    ("host", &[]),
];

#[test]
fn parts_use_only_what_lies_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (part, allowed) in EDGES {
        for file in files(&src, part) {
            let text = fs::read_to_string(&file).expect("a source file is readable");
            for used in uses(&text) {
                seen += 1;
                let known = EDGES.iter().any(|(name, _)| *name == used);
                if known && used != part && !allowed.contains(&used) {
                    wrong.push(format!("{} uses crate::{used}", file.display()));
                }
            }
        }
    }
    assert!(
        seen > 100,
        "only {seen} uses were found: the search is broken"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The part's own file and everything in its folder.
fn files(src: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let file = src.join(part).with_extension("rs");
    if file.is_file() {
        found.push(file);
    }
    let mut folders = vec![src.join(part)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// The parts named after `crate::`, and those in the braces of `use crate::{...}`.
fn uses(text: &str) -> Vec<&str> {
    let word = |text| {
        let text: &str = text;
        let end = text
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(text.len());
        &text[..end]
    };
    let mut found = Vec::new();
    for (_, rest) in text
        .match_indices("crate::")
        .map(|(at, m)| (at, &text[at + m.len()..]))
    {
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap_or_default();
                found.extend(list.split(',').map(|item| word(item.trim())));
            }
            None => found.push(word(rest)),
        }
    }
    found
}
