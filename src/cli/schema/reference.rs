//! `shapegate schema --markdown`: docs/configuration.md.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::{FULL, Key, Section, code};
use crate::config::{Config, Environment};

const INTRO: &str = "\
# Configuration

Every key of the configuration. `shapegate schema --markdown` prints this page for the version that is installed;
[`conf/shapegate.full.toml`](../conf/shapegate.full.toml) has the same keys as a file to copy from. The default is what
applies if the key is missing.

- A duration or size has a unit: `\"500ms\"`, `\"25s\"`, `\"1m30s\"`, `\"2h\"`; `\"512B\"`, `\"8KiB\"`, `\"1MB\"`, `\"256MiB\"`.
- A secret is never written in the file. It is `{ env = \"NAME\" }`, `{ file = \"/path\" }` or `{ credential = \"name\" }`, a
  credential of systemd.
- Addresses, URLs, issuers, audiences and origins can also be `{ env = \"NAME\" }`.
- A list of one can be written without brackets.
- Relative paths are resolved against the folder of the file. Unknown keys are errors.
- Every key that weakens security has `danger` in its name.
- SIGHUP reloads everything except `[server]` (but the paths in `tls`), `upstream.pool`, `log.format`, `[audit]` and `[otel]`:
  these take effect after a restart.
";

/// Returns the page.
pub(super) fn page() -> String {
    let mut page = INTRO.to_owned();
    write(&super::root(), &[], &bounds(), &mut page);
    page.truncate(page.trim_end().len());
    page
}

/// Writes a section and those below it, in the order of the file.
fn write(section: &Section, path: &[&str], bounds: &BTreeMap<usize, String>, page: &mut String) {
    if !section.keys.is_empty() {
        let (open, close) = if section.is_list { ("[[", "]]") } else { ("[", "]") };
        let _ = write!(page, "\n## `{open}{}{close}`\n\n{}\n", path.join("."), section.description);
        // Named upstreams have the keys of `[upstream]`.
        if path[0] != "upstreams" {
            rows(section, bounds, page);
        }
    }
    let mut sections: Vec<_> = section.sections.iter().collect();
    sections.sort_by_key(|(_, section)| section.first_line());
    for (name, section) in sections {
        write(section, &[path, &[name]].concat(), bounds, page);
    }
}

fn rows(section: &Section, bounds: &BTreeMap<usize, String>, page: &mut String) {
    page.push_str("\n| key | type | default | bounds | meaning |\n|---|---|---|---|---|\n");
    let mut keys: Vec<_> = section.keys.iter().collect();
    keys.sort_by_key(|(_, key)| key.line);
    for (name, key) in keys {
        let kinds: Vec<_> = key.kinds.iter().map(kind).collect();
        let bounds = bounds.get(&key.line).map_or("", String::as_str);
        let (default, meaning) = key.meaning(bounds, section.is_comment);
        let _ = writeln!(page, "| `{name}` | {} | {default} | {bounds} | {meaning} |", kinds.join(" or "));
    }
}

impl Section {
    fn first_line(&self) -> usize {
        self.sections
            .values()
            .map(Self::first_line)
            .chain([self.line].into_iter().filter(|line| *line > 0))
            .min()
            .unwrap_or(0)
    }
}

impl Key {
    /// Returns the default, and the description without the default and the bounds.
    fn meaning(&self, bounds: &str, section_is_comment: bool) -> (String, String) {
        let has_default = !self.is_comment || section_is_comment;
        let mut default = if has_default { format!("`{}`", self.sample) } else { "none".to_owned() };
        let mut parts = Vec::new();
        for part in self.description.split("; ") {
            if let Some(words) = part.strip_prefix("default: ") {
                words.clone_into(&mut default);
            } else if part.starts_with("required") {
                part.clone_into(&mut default);
            } else if part != bounds {
                parts.push(part);
            }
        }
        (default, parts.join("; "))
    }
}

/// Returns the words for a schema of values.
fn kind(schema: &Value) -> String {
    let pattern = |start: &str| schema["pattern"].as_str().is_some_and(|pattern| pattern.starts_with(start));
    if schema["$ref"].is_string() {
        return "secret".to_owned();
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    }
    if let Some(item) = schema.pointer("/anyOf/1") {
        return format!("list of {}", kind(item));
    }
    match schema["type"].as_str() {
        Some("string") if pattern("^[0-9]+") => "size".to_owned(),
        Some("string") if pattern("^([0-9]+") => "duration".to_owned(),
        Some("string") => "text".to_owned(),
        Some("object") => "table".to_owned(),
        other => other.unwrap_or("any").to_owned(),
    }
}

/// Returns the bounds of each key that has some, by its line: what the configuration answers to a value outside.
fn bounds() -> BTreeMap<usize, String> {
    let outside = |line: &str| {
        let (code, _) = code(line);
        let table = DeTable::parse(code).ok()?;
        let (name, value) = table.get_ref().iter().next()?;
        let value = match value.get_ref() {
            DeValue::Integer(_) => "-1",
            DeValue::String(text) if text.starts_with(|c: char| c.is_ascii_digit()) && text.ends_with('B') => {
                "'9999999MiB'"
            }
            DeValue::String(text) if text.starts_with(|c: char| c.is_ascii_digit()) => "'9999d'",
            _ => return Some(code.to_owned()),
        };
        Some(format!("{} = {value}", name.get_ref()))
    };
    let lines: Vec<_> = FULL.lines().map(|line| outside(line).unwrap_or_else(|| code(line).0.to_owned())).collect();
    let parsed = Config::parse(&lines.join("\n"), Path::new("shapegate.toml"), &Environment::Deploy);
    let Err(errors) = parsed else { return BTreeMap::new() };
    let bounds = |message: &str| {
        let range = message.strip_prefix("out of bounds: write ")?;
        Some(range.split(" (").next().unwrap_or(range).to_owned())
    };
    errors.iter().filter_map(|error| Some((error.line?, bounds(&error.message)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `check` for each key of the file, with its section; not for named upstreams, which the reference leaves out.
    fn each(section: &Section, check: &mut impl FnMut(&Section, &Key)) {
        section.keys.values().for_each(|key| check(section, key));
        let sections = section.sections.iter().filter(|(name, _)| *name != "upstreams");
        sections.for_each(|(_, section)| each(section, check));
    }

    #[test]
    fn bounds_in_comments_are_those_of_the_configuration() {
        let bounds = bounds();
        let (mut bounded, mut stated) = (0, 0);
        each(&super::super::root(), &mut |_, key| {
            let kind = kind(&key.kinds[0]);
            let known = bounds.get(&key.line);
            assert_eq!(known.is_some(), ["duration", "integer", "size"].contains(&&*kind), "{}", key.description);
            bounded += usize::from(known.is_some());
            for part in key.description.split("; ").filter(|part| part.starts_with(|c: char| c.is_ascii_digit())) {
                if let [_, "to", _] = part.split(' ').collect::<Vec<_>>()[..] {
                    assert_eq!(known.map(String::as_str), Some(part));
                    stated += 1;
                }
            }
        });
        assert!(bounded > 50 && stated > 30, "{bounded} {stated}");
    }

    /// Parses the file with its `section` switched on and without the line `without`. Returns the sorted words of the
    /// result, since maps have no order.
    fn parsed(section: &Section, without: usize) -> Vec<String> {
        // Keys without which the others of their section have no effect.
        let needed = ["revocations.json", "REVOCATION_SECRET", "audit.jsonl"];
        let is_needed = |key: &Key| {
            let is_required = key.meaning("", true).0 == "required";
            is_required || key.shows_default(section) || needed.iter().any(|part| key.sample.contains(part))
        };
        let is_on = |number| {
            let key = section.keys.values().find(|key| key.line == number);
            section.is_comment && (section.line == number || key.is_some_and(is_needed))
        };
        let line = |(index, line): (usize, &'static str)| match index + 1 {
            number if number == without => "",
            number if is_on(number) => code(line).0,
            _ => line,
        };
        let lines: Vec<_> = FULL.lines().enumerate().map(line).collect();
        let names =
            ["ELECTRIC_SECRET", "AUTH_SECRET", "GATEKEEPER_SECRET", "INTROSPECTION_SECRET", "REVOCATION_SECRET"];
        let secrets = names.map(|name| (name, format!("{name}-0123456789abcdef0123456789abcdef")));
        let environment = Environment::Map(secrets.map(|(name, secret)| (name.to_owned(), secret)).into());
        let config = Config::parse(&lines.join("\n"), Path::new("shapegate.toml"), &environment);
        let shown = format!("{:?}", config.unwrap_or_else(|errors| panic!("{errors}")));
        let mut words: Vec<_> = shown.split(|c: char| "{}[], ".contains(c)).map(str::to_owned).collect();
        words.sort();
        words
    }

    #[test]
    fn a_missing_key_has_the_default_that_the_reference_names() {
        let mut checked = 0;
        each(&super::super::root(), &mut |section, key| {
            // `[otel]` is an error in a build without the feature.
            let is_known = cfg!(feature = "otel") || !section.description.contains("--features otel");
            if is_known && key.shows_default(section) {
                assert_eq!(parsed(section, 0), parsed(section, key.line), "line {}", key.line);
                checked += 1;
            }
        });
        assert!(checked > 60, "{checked}");
    }

    impl Key {
        /// Returns whether the reference calls the value in the file the default.
        fn shows_default(&self, section: &Section) -> bool {
            self.meaning("", section.is_comment).0 == format!("`{}`", self.sample)
        }
    }
}
