//! Resolves `[[shape]]`: reads the rules, which [`Rule::compile`] compiles.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::decisions::{Services, question};
use crate::config::raw::{Section, Value};
use crate::filter::lint::{self, Severity};
use crate::policy::{PolicySet, PredicateSource, Rule, RuleSource, UpstreamSource};
use crate::shape::{Replica, UpstreamName};
use crate::upstream::UpstreamSettings;

/// The result of reading all the rules.
pub(super) struct ResolvedShapes {
    /// The number of rules, with or without errors.
    pub(super) count: usize,
    /// Whether every rule has `public = true`.
    pub(super) all_public: bool,
    /// Whether at least one rule has `public = true`.
    pub(super) any_public: bool,
    /// The compiled rules; `None` if one has an error.
    pub(super) policy: Option<PolicySet>,
}

/// `[upstreams.NAME]` by name.
type Upstreams = BTreeMap<String, UpstreamSettings>;

/// Resolves every rule. `upstreams` or `services` is `None` if that section has errors; names are then not looked up.
pub(super) fn shapes(
    sections: Vec<Section<'_>>,
    upstreams: Option<&Upstreams>,
    services: Option<&Services>,
) -> ResolvedShapes {
    let count = sections.len();
    let (mut all_public, mut any_public) = (true, false);
    let mut rules = Vec::new();
    for mut section in sections {
        let public = section.boolean("public", false);
        all_public &= public;
        any_public |= public;
        rules.push(source(&mut section, public, upstreams, services).and_then(|source| compile(&section, source)));
    }
    let rules: Option<Vec<Rule>> = rules.into_iter().collect();
    ResolvedShapes { count, all_public, any_public, policy: rules.map(PolicySet::new) }
}

/// Reads one rule. An optional key with an error reads as absent, because a file with an error is rejected anyway.
fn source(
    section: &mut Section<'_>,
    public: bool,
    upstreams: Option<&Upstreams>,
    services: Option<&Services>,
) -> Option<RuleSource> {
    let table = section.required("table", r#"write the table, as in "tasks" or "auth.users""#);
    let path = section.value("path");
    let allow = section.value("allow");
    let predicate = section.required("where", r#"write a predicate, or where = "none" to serve every row"#);
    let columns = section.value("columns");
    let replica =
        section.choice("replica", Replica::Default, &[("default", Replica::Default), ("full", Replica::Full)]);
    let subset = section.boolean("subset", false);
    let client_where = section.boolean("client_where", false);
    let upstream = section.value("upstream");
    let (evaluate, search) = (section.value("evaluate"), section.value("search"));

    let table = table.and_then(|value| value.text());
    let path = path.and_then(|value| value.text());
    let allow = allow.and_then(|value| value.text());
    let predicate = predicate.and_then(|value| predicate_source(&value));
    let columns = columns.and_then(|value| value.texts());
    let upstream = match upstream {
        None => UpstreamSource::Named(UpstreamName::DEFAULT.to_owned()),
        Some(value) => upstream_source(value, upstreams)?,
    };
    let evaluate = evaluate.map(|value| question(value, false, services));
    let search = search.map(|value| question(value, true, services));
    Some(RuleSource {
        table: table?.to_owned(),
        path: path.map(str::to_owned),
        allow: allow.map(str::to_owned),
        predicate: predicate?,
        columns,
        public,
        replica,
        subset,
        client_where,
        upstream,
        evaluate: evaluate.map_or(Some(None), |question| question.map(Some))?,
        search: search.map_or(Some(None), |question| question.map(Some))?,
    })
}

/// Reads an upstream name, or a claim and a map from its values to names.
fn upstream_source(value: Value<'_>, upstreams: Option<&Upstreams>) -> Option<UpstreamSource> {
    let DeValue::Table(_) = value.raw() else {
        return upstream_name(&value, upstreams).map(UpstreamSource::Named);
    };
    let mut section = value.section()?;
    let claim = section.required("claim", r#"write a CEL expression over claims, as in "claims.tenant""#);
    let map = section.required("map", r#"write a table from the claim's values to names, as in { acme = "acme-db" }"#);
    let claim = claim.and_then(|value| value.text());
    let map = map?;
    let entries = map.entries()?;
    if entries.is_empty() {
        map.error("is empty: the rule would deny every request");
        return None;
    }
    let names = entries.into_iter().map(|(text, value)| Some((text.to_owned(), upstream_name(&value, upstreams)?)));
    let names: Vec<_> = names.collect();
    Some(UpstreamSource::ByClaim { claim: claim?.to_owned(), map: names.into_iter().collect::<Option<_>>()? })
}

fn upstream_name(value: &Value<'_>, upstreams: Option<&Upstreams>) -> Option<String> {
    let name = value.text()?;
    if let Some(upstreams) =
        upstreams.filter(|upstreams| name != UpstreamName::DEFAULT && !upstreams.contains_key(name))
    {
        let known: Vec<_> = [UpstreamName::DEFAULT].into_iter().chain(upstreams.keys().map(String::as_str)).collect();
        value.error(format!("no such upstream {name:?}: write [upstreams.{name}], or one of {}", known.join(", ")));
        return None;
    }
    Some(name.to_owned())
}

/// Reads `where`. Only the exact word `none` disables the filter, so that a typo cannot.
fn predicate_source(value: &Value<'_>) -> Option<PredicateSource> {
    const EVERY_ROW: &str = r#"write exactly where = "none" to serve every row"#;
    match value.text_or(EVERY_ROW)? {
        "none" => Some(PredicateSource::Unfiltered),
        near if near.trim().eq_ignore_ascii_case("none") => {
            value.error(EVERY_ROW);
            None
        }
        template => Some(PredicateSource::Template(template.to_owned())),
    }
}

fn compile(section: &Section<'_>, source: RuleSource) -> Option<Rule> {
    let errors = match Rule::compile(source) {
        Ok(rule) => {
            lint(section, &rule);
            return Some(rule);
        }
        Err(errors) => errors,
    };
    for error in errors {
        section.error(error.key, error.message);
    }
    None
}

/// Lints the predicate. A lint error is an error of the file, so `finish` rejects the file.
fn lint(section: &Section<'_>, rule: &Rule) {
    for finding in rule.sql().iter().flat_map(|sql| lint::predicate(sql)) {
        match finding.severity {
            Severity::Error => section.error("where", finding.message),
            Severity::Warning => section.warning("where", finding.message),
        }
    }
}
