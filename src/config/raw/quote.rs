//! Quotes a line of the file in an error, without the values that could be secrets.
//!
//! A value is shown if its section holds no secrets and its key is known, or if its own key holds none. Comments are cut
//! off. In a text that is not TOML, nothing says where a value ends, so only lines of known keys are shown.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Sections whose known keys hold no secrets.
const OPEN_SECTIONS: [&str; 8] = ["server", "shape", "cors", "limits", "cache", "log", "probe", "audit"];

/// Keys of the other sections that hold none.
const OPEN_KEYS: [&str; 21] = [
    "issuer",
    "audience",
    "algorithms",
    "types",
    "leeway",
    "max_lifetime",
    "shape_claim",
    "refresh",
    "cooldown",
    "timeout",
    "max_stale",
    "connect_timeout",
    "read_timeout",
    "idle_timeout",
    "health_interval",
    "failover",
    "pool",
    "lifetime",
    "danger_no_secret",
    "danger_plain_http",
    "danger_private_address",
];

/// Keys whose lines are shown if the text is not TOML.
const PLAIN_KEYS: [&str; 16] = [
    "table",
    "tables",
    "name",
    "path",
    "allow",
    "where",
    "columns",
    "replica",
    "public",
    "subset",
    "client_where",
    "danger_client_chosen",
    "listen",
    "admin",
    "level",
    "format",
];

/// A line of the file as an error shows it, and the bytes in it that are wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Quote {
    pub(in crate::config) text: String,
    pub(in crate::config) part: Range<usize>,
}

/// Collects the values of a table that must not be shown.
pub(super) fn hidden(table: &DeTable<'_>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (name, value) in table.iter() {
        collect(name.get_ref(), value, OPEN_SECTIONS.contains(&name.get_ref().as_ref()), &mut found);
    }
    found
}

fn collect(key: &str, value: &Spanned<DeValue<'_>>, open: bool, found: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(table) => table.iter().for_each(|(name, value)| collect(name.get_ref(), value, open, found)),
        DeValue::Array(values) => values.iter().for_each(|value| collect(key, value, open, found)),
        _ if open || OPEN_KEYS.contains(&key) => {}
        // A name of an environment variable, not a secret that was written in its place.
        DeValue::String(name) if key == "env" && is_variable(name) => {}
        _ => found.push(value.span()),
    }
}

fn is_variable(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// Collects every value below one with an unknown key.
pub(super) fn all_of(value: &Spanned<DeValue<'_>>, found: &mut Vec<Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(table) => table.iter().for_each(|(_, value)| all_of(value, found)),
        DeValue::Array(values) => values.iter().for_each(|value| all_of(value, found)),
        _ => found.push(value.span()),
    }
}

/// Quotes the first line of `part`, without the `hidden` values and without a comment at its end.
pub(super) fn line(text: &str, part: &Range<usize>, hidden: &[Range<usize>]) -> Quote {
    let whole = line_at(text, part.start);
    let part = part.start..part.end.clamp(part.start, whole.end);
    let mut quote = Quote { text: String::new(), part: 0..0 };
    let mut at = whole.start;
    let mut hidden: Vec<_> = hidden.iter().filter(|range| range.start < whole.end && range.end > whole.start).collect();
    hidden.sort_by_key(|range| range.start);
    hidden.dedup();
    for range in hidden {
        let (start, end) = (range.start.clamp(at, whole.end), range.end.clamp(at, whole.end));
        quote.push(text, at..start, &part);
        quote.replaced(start..end, &part);
        at = end;
    }
    let rest = at..at + before_comment(&text[at..whole.end]);
    quote.push(text, rest, &part);
    quote.text.truncate(quote.text.trim_end().len());
    quote.part.end = quote.part.end.min(quote.text.len());
    quote
}

/// Quotes a line of a text that is not TOML.
pub(super) fn broken_line(text: &str, part: &Range<usize>) -> Quote {
    let whole = line_at(text, part.start);
    let shown = &text[whole.clone()];
    let key_end = shown.find(['=', ':']).unwrap_or(0);
    let key = shown[..key_end].trim_matches(|c: char| c.is_whitespace() || "{\"'".contains(c));
    let key_end = if is_known(key) { key_end } else { 0 };
    let open = OPEN_SECTIONS.contains(&section(&text[..whole.start])) && PLAIN_KEYS.contains(&key);
    let is_header = shown.trim_start().starts_with('[') && is_known(shown.trim_matches(['[', ']', ' ']));
    if open || is_header {
        return line(text, part, &[]);
    }
    let value = shown[key_end..].trim_start_matches(['=', ':', ' ', '\t']);
    let hidden = whole.end - value.len()..whole.end;
    line(text, part, std::slice::from_ref(&hidden))
}

/// Whether a text is a known key rather than a piece of a secret.
fn is_known(text: &str) -> bool {
    const OTHERS: [&str; 8] = ["upstream", "upstreams", "issuer", "gatekeeper", "url", "secret", "hs256", "jwks"];
    [&OPEN_SECTIONS[..], &OPEN_KEYS, &PLAIN_KEYS, &OTHERS].into_iter().flatten().any(|known| *known == text)
}

/// Returns the name of the last section before the end of `text`; empty if its header is not understood.
fn section(text: &str) -> &str {
    let header = text.lines().rev().map(str::trim).find(|line| line.starts_with('['));
    let name = header.and_then(|line| line.trim_start_matches('[').split([']', '.']).next());
    name.unwrap_or_default().trim()
}

impl Quote {
    /// Appends a piece of the file's text.
    fn push(&mut self, text: &str, piece: Range<usize>, part: &Range<usize>) {
        let offset = self.text.len();
        self.text.push_str(&text[piece.clone()]);
        self.mark(piece.clone(), part, |at| offset + at - piece.start);
    }

    /// Appends a sign in place of a hidden piece.
    fn replaced(&mut self, piece: Range<usize>, part: &Range<usize>) {
        let offset = self.text.len();
        self.text.push(HIDDEN);
        let end = self.text.len();
        self.mark(piece.clone(), part, |at| if at == piece.start { offset } else { end });
    }

    /// Notes where the wrong part begins and ends, if it does so in this piece.
    fn mark(&mut self, piece: Range<usize>, part: &Range<usize>, place: impl Fn(usize) -> usize) {
        if (piece.start..=piece.end).contains(&part.start) {
            self.part.start = place(part.start);
        }
        if (piece.start..=piece.end).contains(&part.end) {
            self.part.end = place(part.end);
        }
    }
}

/// Stands for a value that is not shown.
const HIDDEN: char = '…';

fn line_at(text: &str, at: usize) -> Range<usize> {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    start..start + text[start..end].trim_end_matches('\r').len()
}

/// Returns the length of a line up to its comment: a `#` outside of quotes.
fn before_comment(line: &str) -> usize {
    let mut quote = None;
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '#') => return at,
            _ => {}
        }
    }
    line.len()
}
