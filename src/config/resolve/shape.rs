//! Resolves `[[shape]]`: reads the rules, which [`Rule::compile`] compiles.

use std::collections::{BTreeMap, HashMap, HashSet};

use toml::de::DeValue;

use super::decisions::{Services, question};
use crate::config::raw::{Section, Value};
use crate::filter::doubts;
use crate::filter::lint::{self, Severity};
use crate::nearest::nearest;
use crate::policy::{PolicySet, PredicateSource, Problem, Rule, RuleId, RuleSource, Shadow, UpstreamSource, shadow};
use crate::shape::{Replica, UpstreamName};
use crate::upstream::UpstreamSettings;

/// A table as written in the file, with the place of its name.
type Table<'a> = (&'a str, Value<'a>);

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

/// The tables that rules name. One is `None` if its section has errors; names are then not looked up.
pub(super) struct Named<'a> {
    pub(super) upstreams: Option<&'a Upstreams>,
    pub(super) services: Option<&'a Services>,
}

/// Resolves every rule. `sample` has the names of the sample claims.
pub(super) fn shapes(sections: Vec<Section<'_>>, named: &Named<'_>, sample: &[String]) -> ResolvedShapes {
    let count = sections.len();
    let (mut all_public, mut any_public) = (true, false);
    let mut rules = Vec::new();
    for mut section in sections {
        let public = section.boolean("public", false);
        all_public &= public;
        any_public |= public;
        let tables = tables(&mut section);
        let source = source(&mut section, public, named);
        let compiled = tables.zip(source).and_then(|(tables, source)| compile(&section, &tables, &source));
        compiled.iter().for_each(|rules| check_claims(&section, rules, sample));
        rules.push((section, compiled.unwrap_or_default()));
    }
    check_order(&rules);
    let whole = rules.iter().all(|(_, rules)| !rules.is_empty());
    let counts: Vec<_> = rules.iter().map(|(_, rules)| rules.len()).collect();
    let (sections, rules): (Vec<_>, Vec<_>) = rules.into_iter().unzip();
    let policy = whole.then(|| PolicySet::new(rules.into_iter().flatten().collect()));
    policy.iter().for_each(|policy| check_names(&sections, &counts, policy));
    ResolvedShapes { count, all_public, any_public, policy }
}

/// Checks that a name in logs and metrics stands for one `[[shape]]`. `counts` has the number of rules of each.
fn check_names(sections: &[Section<'_>], counts: &[usize], policy: &PolicySet) {
    let mut ids = policy.rule_ids();
    let mut seen: HashMap<&str, &Section<'_>> = HashMap::new();
    for (section, rules) in sections.iter().zip(counts) {
        let ids: HashSet<_> = ids.by_ref().take(*rules).map(RuleId::as_str).collect();
        for id in ids {
            let Some(other) = seen.insert(id, section) else { continue };
            let (section, other) = if section.has("name") { (section, other) } else { (other, section) };
            section
                .error("name", format!("{id:?} is also the name of the rule on line {}: choose another", other.line()));
        }
    }
}

/// Reads `table` or `tables`.
fn tables<'a>(section: &mut Section<'a>) -> Option<Vec<Table<'a>>> {
    let (table, tables) = (section.value("table"), section.value("tables"));
    let values = match (table, tables) {
        (Some(table), None) => vec![table],
        (None, Some(tables)) if section.has("path") => {
            tables.error("a `path` serves one table: write `table`");
            return None;
        }
        (None, Some(tables)) => tables.list()?,
        (Some(_), Some(tables)) => {
            tables.error("contradicts `table`: write one of the two");
            return None;
        }
        (None, None) => {
            section.error("table", r#"missing: write the table, as in "tasks" or "auth.users""#);
            return None;
        }
    };
    let named: Vec<_> = values.into_iter().map(|value| Some((value.text()?, value))).collect();
    named.into_iter().collect()
}

/// Reads one rule, without its table. An optional key with an error reads as absent, because a file with an error is
/// rejected anyway.
fn source(section: &mut Section<'_>, public: bool, named: &Named<'_>) -> Option<RuleSource> {
    let name = section.value("name");
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
    let client_chosen = section.value("danger_client_chosen");

    let name = name.and_then(|value| value.text());
    let path = path.and_then(|value| value.text());
    let allow = read(allow, |value| value.text());
    let predicate = predicate.and_then(|value| predicate_source(&value));
    let columns = columns.and_then(|value| value.texts());
    let client_chosen = read(client_chosen, |value| value.texts());
    let upstream = match upstream {
        None => UpstreamSource::Named(UpstreamName::DEFAULT.to_owned()),
        Some(value) => upstream_source(value, named.upstreams)?,
    };
    let ask = |value: Option<Value<'_>>, searches| match value {
        None => Some(None),
        Some(value) => question(value, searches, named.services).map(Some),
    };
    let (evaluate, search) = (ask(evaluate, false), ask(search, true));
    Some(RuleSource {
        name: name.map(str::to_owned),
        table: String::new(),
        path: path.map(str::to_owned),
        allow: allow?.map(str::to_owned),
        predicate: predicate?,
        columns,
        public,
        replica,
        subset,
        client_where,
        upstream,
        client_chosen: client_chosen?.unwrap_or_default(),
        evaluate: evaluate?,
        search: search?,
    })
}

/// Reads an optional key: `None` if it has an error.
fn read<'a, T>(value: Option<Value<'a>>, read: impl FnOnce(&Value<'a>) -> Option<T>) -> Option<Option<T>> {
    value.map_or(Some(None), |value| read(&value).map(Some))
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
        value
            .error(format!("no such upstream {name:?}: add [upstreams.{name}], or write one of: {}", known.join(", ")));
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

/// Compiles a rule for each of its tables. Errors that do not concern a table are the same for all of them, and reported
/// once.
fn compile(section: &Section<'_>, tables: &[Table<'_>], source: &RuleSource) -> Option<Vec<Rule>> {
    let mut rules: Vec<Rule> = Vec::new();
    for (table, value) in tables {
        match Rule::compile(RuleSource { table: (*table).to_owned(), ..source.clone() }) {
            Ok(rule) if rules.iter().any(|other| other.is_of_table(&rule)) => value.error("is given more than once"),
            Ok(rule) => rules.push(rule.at_line(section.line())),
            Err(errors) => errors.into_iter().for_each(|error| match error.key {
                "table" => value.error(error.problem),
                key => section.error(key, error.problem),
            }),
        }
    }
    rules.first().iter().for_each(|rule| lint(section, rule));
    for (rule, (_, value)) in rules.iter().zip(tables) {
        rule.warnings().iter().cloned().for_each(|warning| match warning.key {
            "table" => value.warning(warning.problem),
            key => section.warning(key, warning.problem),
        });
    }
    (rules.len() == tables.len()).then_some(rules)
}

/// Reports what earlier rules leave to later ones.
fn check_order(rules: &[(Section<'_>, Vec<Rule>)]) {
    for (at, (section, own)) in rules.iter().enumerate() {
        let shadows = rules[..at].iter().flat_map(|(earlier, others)| {
            let pairs = others.iter().flat_map(|other| own.iter().filter_map(move |rule| shadow(other, rule)));
            pairs.map(|found| (found, earlier.line()))
        });
        match shadows.max() {
            Some((Shadow::Always(why), line)) => section.error_here(
                Problem::from(format!("never applies, because the rule on line {line} {why}"))
                    .help("remove one of them, or let the `allow` of the earlier one exclude what this one is for"),
            ),
            Some((Shadow::Mostly, line)) => section.warning_here(
                Problem::from(format!(
                    "applies only to tokens without the claims that the rule on line {line} reads, which has no `allow`"
                ))
                .help("write this rule before that one"),
            ),
            None => {}
        }
    }
}

/// Warns about claims that the sample claims do not have.
fn check_claims(section: &Section<'_>, rules: &[Rule], sample: &[String]) {
    let known = |name: &str| REGISTERED.contains(&name) || sample.iter().any(|known| known == name);
    for (key, name) in rules.iter().flat_map(Rule::claims).filter(|(_, name)| !sample.is_empty() && !known(name)) {
        let problem = Problem::from(format!("reads `claims.{name}`, which [probe].claims does not have"));
        let near =
            nearest(name, sample.iter().map(String::as_str)).map(|near| format!("did you mean `claims.{near}`?"));
        let help = near.unwrap_or_else(|| "add a sample value there, or correct the name".to_owned());
        section.warning(key, problem.help(help));
    }
}

/// Registered claims (RFC 7519 section 4.1).
const REGISTERED: [&str; 7] = ["aud", "exp", "iat", "iss", "jti", "nbf", "sub"];

/// Lints the predicate. A lint error is an error of the file, so `finish` rejects the file.
fn lint(section: &Section<'_>, rule: &Rule) {
    let Some(sql) = rule.sql() else { return };
    for finding in lint::predicate(&sql) {
        report(section, finding.severity, finding.message.into());
    }
    for doubt in doubts::doubts(&sql) {
        let part = Some(doubt.word.as_str()).filter(|word| !word.is_empty()).and_then(|word| rule.find_in_sql(word));
        report(section, doubt.severity, Problem { message: doubt.message, help: Some(doubt.help), part });
    }
}

fn report(section: &Section<'_>, severity: Severity, problem: Problem) {
    match severity {
        Severity::Error => section.error("where", problem),
        Severity::Warning => section.warning("where", problem),
    }
}
