//! Replaces `{ env = "NAME" }` by the variable's value, for values that are no secrets.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Environment;
use super::raw::Document;

/// The values that may come from the environment. `*` is any name; lists are looked into.
const PATHS: [&[&str]; 14] = [
    &["server", "listen"],
    &["server", "admin"],
    &["upstream", "url"],
    &["upstream", "urls"],
    &["upstreams", "*", "url"],
    &["upstreams", "*", "urls"],
    &["issuer", "issuer"],
    &["issuer", "audience"],
    &["issuer", "jwks", "url"],
    &["gatekeeper", "issuer"],
    &["gatekeeper", "audience"],
    &["gatekeeper", "public_url"],
    &["cors", "origins"],
    &["otel", "endpoint"],
];

/// Replaces every such value. Records an error for a variable that is not set.
pub(super) fn fill(table: &mut DeTable<'_>, environment: &Environment, document: &Document<'_>) {
    for path in PATHS {
        in_table(table, path, "", &mut |value, key| replace(value, key, environment, document));
    }
}

type Replace<'r, 'a> = &'r mut dyn FnMut(&mut Spanned<DeValue<'a>>, &str);

fn in_table<'a>(table: &mut DeTable<'a>, path: &[&str], at: &str, replace: Replace<'_, 'a>) {
    let Some((first, rest)) = path.split_first() else { return };
    for (name, value) in table.iter_mut().filter(|(name, _)| *first == "*" || name.get_ref().as_ref() == *first) {
        let key = if at.is_empty() { name.get_ref().to_string() } else { format!("{at}.{}", name.get_ref()) };
        in_value(value, rest, &key, replace);
    }
}

fn in_value<'a>(value: &mut Spanned<DeValue<'a>>, path: &[&str], at: &str, replace: Replace<'_, 'a>) {
    match value.get_mut() {
        DeValue::Array(values) => values
            .iter_mut()
            .enumerate()
            .for_each(|(index, value)| in_value(value, path, &format!("{at}[{index}]"), replace)),
        DeValue::Table(_) if path.is_empty() => replace(value, at),
        DeValue::Table(table) => in_table(table, path, at, replace),
        _ => {}
    }
}

fn replace(value: &mut Spanned<DeValue<'_>>, key: &str, environment: &Environment, document: &Document<'_>) {
    let span = value.span();
    let DeValue::Table(table) = value.get_ref() else { return };
    let Some(name) = table.get("env").and_then(|name| name.get_ref().as_str()).filter(|_| table.len() == 1) else {
        return;
    };
    match environment.plain(name) {
        Some(text) => *value.get_mut() = DeValue::String(Cow::Owned(text)),
        None => document.reject(span, key, format!("the environment variable {name} is not set, or is not UTF-8")),
    }
}
