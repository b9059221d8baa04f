//! `shapegate schema`: a JSON Schema of the configuration, for completion and checks in editors, and its reference.
//!
//! Both are made from `conf/shapegate.full.toml`, which has every key with its default and a comment. Tests compare its
//! keys, defaults and bounds with those of the configuration.

mod reference;

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};
use toml::de::{DeTable, DeValue};

const FULL: &str = include_str!("../../conf/shapegate.full.toml");

#[derive(Debug, Args)]
pub(super) struct Schema {
    /// Print a reference for people instead, in Markdown
    #[arg(long)]
    markdown: bool,
}

impl Schema {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.markdown {
            true => super::say(format_args!("{}", reference::page()))?,
            false => super::say(format_args!("{:#}", schema()))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the schema, in draft 7, which most editors understand.
fn schema() -> Value {
    let mut root = root().json();
    // The names of these tables are the user's. Named upstreams have the keys of `[upstream]`.
    root["properties"]["upstreams"]["additionalProperties"] = root["properties"]["upstream"].clone();
    root["properties"]["decisions"]["additionalProperties"] =
        root["properties"]["decisions"]["properties"]["pdp"].clone();
    root["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    root["title"] = json!("Configuration of shapegate");
    root["$defs"] = json!({ "secret": {
        "description": "Where a secret is: it is never written in this file.",
        "type": "object",
        "properties": {
            "env": { "type": "string", "description": "The name of an environment variable." },
            "file": { "type": "string", "description": "The path of a file." },
            "credential": { "type": "string", "description": "The name of a systemd credential." },
        },
        "additionalProperties": false,
        "minProperties": 1,
        "maxProperties": 1,
    }});
    root
}

fn root() -> Section {
    let mut reader = Reader::default();
    FULL.lines().for_each(|line| reader.line(line));
    reader.root
}

/// Returns a line of the file, and whether it was a comment: a key or a section without a default is written as one, as
/// in `# key = value`.
fn code(line: &str) -> (&str, bool) {
    line.strip_prefix("# ").filter(|rest| is_code(rest)).map_or((line, false), |rest| (rest, true))
}

/// A table of the file.
#[derive(Default)]
struct Section {
    /// The line of its header, counted from 1.
    line: usize,
    description: String,
    is_list: bool,
    /// Whether it is off by default.
    is_comment: bool,
    keys: BTreeMap<String, Key>,
    sections: BTreeMap<String, Self>,
}

/// A key, with a schema for each kind of value that the file shows.
#[derive(Default)]
struct Key {
    /// Its first line, counted from 1.
    line: usize,
    description: String,
    is_comment: bool,
    /// Its first value, as written.
    sample: String,
    kinds: Vec<Value>,
}

impl Section {
    /// Returns the section at a path below this one.
    fn at(&mut self, path: &[String]) -> &mut Self {
        path.iter().fold(self, |section, name| section.sections.entry(name.clone()).or_default())
    }

    fn json(&self) -> Value {
        let keys = self.keys.iter().map(|(name, key)| (name.clone(), key.json()));
        let sections = self.sections.iter().map(|(name, section)| (name.clone(), section.json()));
        let properties: Map<_, _> = keys.chain(sections).collect();
        let table = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        let mut section = if self.is_list { json!({ "type": "array", "items": table }) } else { table };
        section["description"] = json!(self.description);
        section
    }
}

impl Key {
    fn json(&self) -> Value {
        json!({ "description": self.description, "anyOf": self.kinds })
    }
}

/// Collects sections and keys line by line.
#[derive(Default)]
struct Reader {
    root: Section,
    /// The current line, counted from 1.
    number: usize,
    /// The path of the current section.
    section: Vec<String>,
    /// The last key, to which comments on the next lines belong.
    key: String,
    /// The comment before the next section.
    comment: String,
}

impl Reader {
    fn line(&mut self, line: &str) {
        self.number += 1;
        let (code, is_comment) = code(line);
        let comment = code.trim_start().strip_prefix('#').map(str::trim);
        match comment {
            _ if code.trim().is_empty() => self.comment.clear(),
            _ if code.starts_with('[') => self.open(code, is_comment),
            Some(more) if is_continuation(code) => self.describe(more),
            Some(words) => push_words(&mut self.comment, words),
            None => self.add(code, is_comment),
        }
    }

    /// Opens `[a.b]` or `[[a]]`.
    fn open(&mut self, header: &str, is_comment: bool) {
        let (name, comment) = header.split_once('#').unwrap_or((header, ""));
        push_words(&mut self.comment, comment.trim());
        self.section = name.trim().trim_matches(['[', ']']).split('.').map(str::to_owned).collect();
        let section = self.root.at(&self.section);
        section.is_list = header.starts_with("[[");
        if section.line == 0 {
            (section.line, section.is_comment) = (self.number, is_comment);
        }
        if section.description.is_empty() {
            section.description = std::mem::take(&mut self.comment);
        }
        self.comment.clear();
    }

    /// Adds `key = value  # comment`.
    fn add(&mut self, code: &str, is_comment: bool) {
        let Ok(table) = DeTable::parse(code) else { return };
        let Some((name, value)) = table.get_ref().iter().next() else { return };
        let comment = code[value.span().end..].trim().trim_start_matches('#').trim();
        let kind = kind(value.get_ref(), comment);
        self.key = name.get_ref().to_string();
        let key = self.root.at(&self.section).keys.entry(self.key.clone()).or_default();
        if key.kinds.is_empty() {
            (key.line, key.is_comment) = (self.number, is_comment);
            key.sample = code[value.span()].to_owned();
        }
        if !key.kinds.contains(&kind) {
            key.kinds.push(kind);
        }
        if key.line < self.number && !comment.is_empty() {
            key.description.push(';');
        }
        self.describe(comment);
    }

    /// Adds to the description of the last key.
    fn describe(&mut self, words: &str) {
        if let Some(key) = self.root.at(&self.section).keys.get_mut(&self.key) {
            push_words(&mut key.description, words);
        }
    }
}

/// Returns whether a comment without its mark is a key or a section.
fn is_code(text: &str) -> bool {
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let key = text.split_once(" = ").map(|(key, _)| key);
    let section = text.trim_start_matches('[').split_once(']').map(|(name, _)| name.split('.'));
    let is_section = text.starts_with('[') && section.is_some_and(|mut names| names.all(is_name));
    is_section || key.is_some_and(is_name)
}

/// Returns whether a comment continues the one of the line before: it is indented, before or after its mark.
fn is_continuation(code: &str) -> bool {
    code.starts_with(' ') || code.starts_with("#        ")
}

fn push_words(text: &mut String, words: &str) {
    if !text.is_empty() && !words.is_empty() {
        text.push(' ');
    }
    text.push_str(words);
}

/// Returns the schema of values like this one.
fn kind(value: &DeValue<'_>, comment: &str) -> Value {
    match value {
        DeValue::Boolean(_) => json!({ "type": "boolean" }),
        DeValue::Integer(_) => json!({ "type": "integer", "minimum": 0 }),
        DeValue::Float(_) => json!({ "type": "number" }),
        DeValue::String(text) => string(text, comment),
        // A list of one can be written without brackets.
        DeValue::Array(items) => {
            let item = items.iter().next().map_or(json!({}), |item| kind(item.get_ref(), ""));
            json!({ "anyOf": [{ "type": "array", "items": item }, item] })
        }
        DeValue::Table(table) => {
            let is_secret = table.iter().all(|(key, _)| ["env", "file", "credential"].contains(&&**key.get_ref()));
            if is_secret { json!({ "$ref": "#/$defs/secret" }) } else { json!({ "type": "object" }) }
        }
        DeValue::Datetime(_) => json!({}),
    }
}

/// Returns the schema of a text: a duration, a size, one of a few words, or any.
fn string(text: &str, comment: &str) -> Value {
    let digits = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let words: Vec<&str> = comment.split("or \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    match digits {
        _ if text.len() > digits.len() && digits.ends_with('B') => {
            json!({ "type": "string", "pattern": "^[0-9]+ ?([KMG]i?)?B$" })
        }
        "ms" | "s" | "m" | "h" | "d" if text.len() > digits.len() => {
            json!({ "type": "string", "pattern": "^([0-9]+ ?[a-z]+ ?)+$" })
        }
        _ if comment.starts_with("or \"") && words.iter().all(|word| !word.contains(' ')) => {
            let all = [&[text], words.as_slice()].concat();
            json!({ "enum": all })
        }
        _ => json!({ "type": "string" }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Environment};

    /// Returns the keys that the configuration knows in the section whose header is on this line (0: the root).
    fn known(line: usize) -> BTreeSet<String> {
        let mut lines: Vec<&str> = FULL.lines().collect();
        if line > 0 {
            lines[line - 1] = code(lines[line - 1]).0;
        }
        lines.insert(line, "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzz = 1");
        let errors = Config::parse(&lines.join("\n"), Path::new("x.toml"), &Environment::Deploy).unwrap_err();
        let error = errors.iter().find(|error| error.key.ends_with("zzzz")).unwrap();
        let (_, keys) = error.message.split_once("known keys are ").unwrap_or_else(|| panic!("{error}"));
        keys.split(", ").map(str::to_owned).collect()
    }

    fn described(section: &[String]) -> BTreeSet<String> {
        let mut root = root();
        let section = root.at(section);
        section.keys.keys().chain(section.sections.keys()).cloned().collect()
    }

    #[test]
    fn schema_has_the_keys_that_the_configuration_knows() {
        assert_eq!(described(&[]), known(0));
        let headers = FULL.lines().map(|line| code(line).0).enumerate().filter(|(_, line)| line.starts_with('['));
        let mut seen = 0;
        for (number, header) in headers {
            let name = header.split('#').next().unwrap().trim().trim_matches(['[', ']']);
            let section: Vec<_> = name.replace("upstreams.acme-db", "upstream").split('.').map(str::to_owned).collect();
            assert_eq!(described(&section), known(number + 1), "{header}: conf/shapegate.full.toml lacks a key");
            seen += 1;
        }
        assert!(seen > 10, "{seen}");
    }

    #[test]
    fn kinds_follow_the_samples() {
        let schema = schema();
        let at = |pointer: &str| schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer}: {schema:#}"));
        let server = "/properties/server/properties";
        assert_eq!(at(&format!("{server}/threads/anyOf/0/type")), "integer");
        assert_eq!(at(&format!("{server}/drain/anyOf/0/pattern")), "^([0-9]+ ?[a-z]+ ?)+$");
        assert_eq!(at("/properties/limits/properties/header_bytes/anyOf/0/pattern"), "^[0-9]+ ?([KMG]i?)?B$");
        assert_eq!(at("/properties/log/properties/format/anyOf/0/enum"), &json!(["text", "json"]));
        assert_eq!(at("/properties/upstream/properties/secret/anyOf/0/$ref"), "#/$defs/secret");
        assert_eq!(at("/properties/shape/items/properties/upstream/anyOf/1/type"), "object");
        let tls = at(&format!("{server}/tls/description")).as_str().unwrap();
        assert!(tls.contains("Reloaded at changes and SIGHUP"), "{tls}");
    }
}
