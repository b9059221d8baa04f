//! The repository is complete: no file refers to a folder outside it, and each citation names a place in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

const SEARCHED: [&str; 12] = [
    ".ci",
    ".github",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "benches",
    "conf",
    "docs",
    "fuzz",
    "packaging",
    "src",
    "tests",
];

/// Names of folders that git ignores.
const IGNORED: [&str; 5] = ["node_modules", "target", "corpus", "artifacts", "coverage"];

/// Reads every text file of the searched places, except this file and JSON, which has no comments.
fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    SEARCHED.iter().for_each(|place| collect(&Path::new(ROOT).join(place), &mut found));
    assert!(found.len() > 100, "only {} files found", found.len());
    found
}

fn collect(path: &Path, found: &mut Vec<(String, String)>) {
    let name = path.file_name().unwrap().to_str().unwrap();
    if path.is_dir() {
        if !IGNORED.contains(&name) {
            fs::read_dir(path).unwrap().for_each(|entry| collect(&entry.unwrap().path(), found));
        }
    } else if !path.ends_with(file!()) && !name.ends_with(".json") {
        let text = String::from_utf8(fs::read(path).unwrap());
        found.extend(text.map(|text| (path.strip_prefix(ROOT).unwrap().display().to_string(), text)));
    }
}

fn place(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

/// Joins the lines of a text and removes comment marks, so that citations may span lines.
fn unwrapped(text: &str) -> String {
    let bare = |line: &str| line.trim().trim_start_matches(['/', '!', '#']).trim_start().to_owned();
    text.lines().map(bare).collect::<Vec<_>>().join(" ")
}

/// Returns the text after each `mark`.
fn after<'t>(text: &'t str, mark: &'t str) -> impl Iterator<Item = &'t str> {
    text.match_indices(mark).map(move |(at, _)| &text[at + mark.len()..])
}

/// Returns the items at the start of `rest`, as in `T7, J1 to J5 and Q2`, up to the first that is not an item.
fn list(mut rest: &str, is_item: fn(&str) -> bool) -> Vec<&str> {
    let mut items = Vec::new();
    loop {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (item, more) = rest.split_at(end);
        if !is_item(item) {
            return items;
        }
        items.push(item);
        let next = [", ", " to ", " and "].iter().find_map(|separator| more.strip_prefix(separator));
        match next {
            Some(next) => rest = next,
            None => return items,
        }
    }
}

/// Returns whether `text` is an id such as `T7`.
fn is_id(text: &str) -> bool {
    let digits = text.trim_start_matches(|c: char| c.is_ascii_uppercase());
    text.len() == digits.len() + 1 && !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit())
}

/// Returns whether `text` is the number of a recording, such as `07` or `13b`.
fn is_number(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
    (2..=3).contains(&digits.len())
        && text.len() <= digits.len() + 1
        && digits.bytes().all(|digit| digit.is_ascii_digit())
}

/// Returns the quoted headings at the start of `rest`, as in `, "Long polls" and "Responses"`.
fn headings(mut rest: &str) -> Vec<&str> {
    let mut headings = Vec::new();
    while let Some(quoted) = [", \"", " and \""].iter().find_map(|start| rest.strip_prefix(start)) {
        let (heading, more) = quoted.split_once('"').unwrap();
        headings.push(heading);
        rest = more;
    }
    headings
}

/// Asserts that `cited` finds something in the files, and only what is `known`.
fn assert_known(known: &BTreeSet<String>, cited: impl Fn(&str) -> Vec<String>) {
    let mut count = 0;
    let mut unknown = Vec::new();
    for (file, text) in files() {
        for item in cited(&unwrapped(&text)) {
            count += 1;
            if !known.contains(&item) {
                unknown.push(format!("{item} in {file}"));
            }
        }
    }
    assert!(count > 0, "nothing is cited");
    assert!(unknown.is_empty(), "cited but missing: {unknown:#?}");
}

fn owned(items: Vec<&str>) -> Vec<String> {
    items.into_iter().map(str::to_owned).collect()
}

#[test]
fn no_file_cites_anything_outside_the_repository() {
    let word = |text: &str, word: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word);
    let mut wrong = Vec::new();
    for (file, text) in files() {
        let outside = ["../shared", "shared/"].iter().filter(|path| text.contains(**path));
        let notes = ["DESIGN", "PEERS", "PROTOCOL"].iter().filter(|name| word(&text, name));
        let ids = after(&text, "SECURITY ")
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) || !list(rest, is_id).is_empty());
        wrong.extend(outside.chain(notes).map(|what| format!("{what} in {file}")));
        wrong.extend(ids.map(|_| format!("an id without docs/security.md in {file}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_cited_document_exists() {
    let names = fs::read_dir(place("docs")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let name = |rest: &str| rest.split(|c: char| !c.is_alphanumeric() && !"._-".contains(c)).next().unwrap().to_owned();
    assert_known(&names.collect(), |text| {
        let cited = after(text, "docs/").map(|rest| name(rest).trim_end_matches('.').to_owned());
        cited.filter(|name| name.ends_with(".md")).collect()
    });
}

#[test]
fn each_cited_id_is_in_the_threat_model() {
    let model = fs::read_to_string(place("docs/security.md")).unwrap();
    let ids = model.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()).map(str::to_owned);
    assert_known(&ids.collect(), |text| {
        after(text, "docs/security.md, ").flat_map(|rest| owned(list(rest, is_id))).collect()
    });
}

#[test]
fn each_cited_section_exists_in_docs_electric_md() {
    let page = fs::read_to_string(place("docs/electric.md")).unwrap();
    let known = page.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned);
    assert_known(&known.collect(), |text| {
        after(text, "docs/electric.md").flat_map(|rest| owned(headings(rest))).collect()
    });
}

#[test]
fn each_cited_recording_exists() {
    let files = fs::read_dir(place("tests/electric")).unwrap().map(|entry| entry.unwrap().file_name());
    let number = |name: &str| name.split('_').next().unwrap().to_owned();
    let known = files.map(|name| number(name.to_str().unwrap())).collect();
    assert_known(&known, |text| after(text, "tests/electric/").flat_map(|rest| owned(list(rest, is_number))).collect());
    // These pages cite recordings in brackets.
    for page in ["docs/electric.md", "tests/electric/README.md"] {
        let text = unwrapped(&fs::read_to_string(place(page)).unwrap());
        let unknown: Vec<_> =
            after(&text, "[").flat_map(|rest| list(rest, is_number)).filter(|n| !known.contains(*n)).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {page}");
    }
}

/// Returns whether code in a document names a place in this repository.
fn is_place(code: &str) -> bool {
    let folders =
        [".ci", ".config", ".github", "benches", "conf", "docs", "fuzz", "packaging", "src", "systemd", "tests"];
    // A recording is cited by its number.
    let is_recording = code.strip_prefix("tests/electric/").is_some_and(is_number);
    folders.contains(&code.split('/').next().unwrap()) && !code.contains([' ', '*', ':']) && !is_recording
}

#[test]
fn each_file_named_in_the_documents_exists() {
    for page in ["CONTRIBUTING.md", "docs/electric.md", "docs/security.md", "tests/electric/README.md"] {
        let text = fs::read_to_string(place(page)).unwrap();
        let named: Vec<_> = text.split('`').skip(1).step_by(2).filter(|code| is_place(code)).collect();
        assert!(!named.is_empty(), "{page} names no file");
        let missing: Vec<_> = named.into_iter().filter(|path| !place(path).exists()).collect();
        assert!(missing.is_empty(), "{missing:?} in {page}");
    }
}

#[test]
fn the_map_in_contributing_names_every_module_and_dependency() {
    let text = fs::read_to_string(place("CONTRIBUTING.md")).unwrap();
    let folders = fs::read_dir(place("src")).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    for folder in folders {
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(text.contains(&format!("`src/{name}`")), "the map lacks src/{name}");
    }
    let manifest = fs::read_to_string(place("Cargo.toml")).unwrap();
    let (_, table) = text.split_once("## Why each dependency").unwrap();
    for section in ["\n[dependencies]\n", "\n[dev-dependencies]\n"] {
        let (_, lines) = manifest.split_once(section).unwrap();
        for name in lines.lines().map_while(|line| line.split_once(" = ")).map(|(name, _)| name) {
            let is_named = table.lines().any(|row| {
                let cell = row.split('|').nth(1).unwrap_or_default();
                cell.split([',', ' ']).any(|word| word == name)
            });
            assert!(is_named, "CONTRIBUTING.md does not say why {name}");
        }
    }
}
