//! The documentation: its links lead somewhere, and `check` accepts its configurations.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::shapegate;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Returns the pages at the top and in `docs`, with their texts.
fn pages() -> Vec<(PathBuf, String)> {
    let mut folders = vec![PathBuf::from(ROOT).join("docs")];
    let top = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "tests/electric/README.md"];
    let mut pages: Vec<_> = top.iter().map(|page| Path::new(ROOT).join(page)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "md") {
                pages.push(entry);
            }
        }
    }
    assert!(pages.len() > 10, "only {} pages found", pages.len());
    pages.into_iter().map(|page| (page.clone(), fs::read_to_string(page).unwrap())).collect()
}

/// Returns the text outside of code blocks.
fn prose(text: &str) -> String {
    let mut code = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// Returns the anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text);
    let headings =
        headings.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let plain = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    headings.map(plain).collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut broken = Vec::new();
    for (page, text) in pages() {
        for link in prose(&text).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let known = match fs::read_to_string(&target) {
                Ok(text) => anchor.is_empty() || anchors(&text).contains(anchor),
                Err(_) => target.is_dir() && anchor.is_empty(),
            };
            if !known {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Returns the configurations in a page: its blocks of TOML, without comments, and without policy tests. Policy tests are not configurations.
fn configurations(text: &str) -> Vec<String> {
    let blocks = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let blocks = blocks.filter(|block| !block.contains("[[case]]"));
    let blocks = blocks.filter(|block| !block.contains("[[case]]"));
    let bare = |line: &str| line.split(" # ").next().unwrap_or_default().trim_end().to_owned() + "\n";
    blocks.map(|block| block.lines().map(bare).collect()).collect()
}

/// Adds the parts that a configuration needs and a block leaves out.
fn completed(block: &str) -> String {
    let mut text = String::new();
    let parts = [
        ("[server]", "[server]\nlisten = \"127.0.0.1:0\"\n"),
        ("[upstream]", "[upstream]\nurl = \"http://127.0.0.1:3000\"\nsecret = { env = \"ELECTRIC_SECRET\" }\n"),
        (
            "[[issuer]]",
            "[[issuer]]\nissuer = \"https://auth.example.com\"\naudience = \"a\"\nalgorithms = [\"ES256\"]\n\
             jwks = { url = \"https://auth.example.com/jwks\" }\n",
        ),
        ("[[shape]]", "[[shape]]\ntable = \"added\"\nwhere = '\"id\" = {{ claims.sub }}'\n"),
    ];
    if block.contains("by = \"pdp\"") && !block.contains("[decisions.pdp]") {
        text += "[decisions.pdp]\nurl = \"https://pdp.example.com\"\n";
    }
    for (mark, part) in parts {
        if !block.lines().any(|line| line.trim() == mark) {
            text += part;
        }
    }
    text + block
}

#[tokio::test]
async fn check_accepts_every_configuration_in_the_documentation() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shapegate.toml");
    let mut checked = 0;
    for (page, text) in pages() {
        for block in configurations(&text) {
            fs::write(&file, completed(&block)).unwrap();
            let mut check = shapegate(&["check", "--config", file.to_str().unwrap()]);
            for (number, name) in block.split("env = \"").skip(1).filter_map(|rest| rest.split('"').next()).enumerate()
            {
                check.env(name, format!("{number:02}-a-secret-for-this-test-only-0123456789abcdef"));
            }
            let output = check.output().await.unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}:\n{block}\n{said}", page.display());
            checked += 1;
        }
    }
    assert!(checked >= 5, "only {checked} configurations found");
}
