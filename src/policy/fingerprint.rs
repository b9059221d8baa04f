//! The fingerprint of a rule: tells whether a minted token was minted under the same rule.
//!
//! It is a hash of an explicit text, so that it survives new releases: a setting that a later release adds is left out of
//! the text while it has its default. Two versions of shapegate, such as those of a rolling upgrade, accept each other's
//! tokens. A change of the text ends every minted token, and needs a new [`VERSION`].

use std::fmt::Write;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::source::{EntitySource, PredicateSource, QuestionSource, RuleSource, UpstreamSource};
use crate::digest::sha256;
use crate::hex::hex;
use crate::shape::{Replica, UpstreamName};

/// The first line of the text.
const VERSION: &str = "shapegate rule 1";

/// Hashes the settings of a rule: the first 16 bytes of the SHA-256 of [`text`], in hex.
pub(super) fn fingerprint(rule: &RuleSource) -> Arc<str> {
    hex(&sha256(text(rule))[..16]).into()
}

/// Writes each setting that is not its default as a line: a name, and values with their lengths, which keep them apart.
fn text(rule: &RuleSource) -> String {
    // Lists every field, so that a new one does not compile until it is written here, or named as one that decides
    // neither who may read nor what.
    let RuleSource {
        name: _,
        table,
        path,
        allow,
        predicate,
        columns,
        public,
        replica,
        subset,
        client_where,
        upstream,
        client_chosen: _,
        evaluate,
        search,
    } = rule;
    let mut text = Text(VERSION.to_owned());
    text.line("table", [table.as_str()]);
    for (name, value) in [("path", path), ("allow", allow)] {
        if let Some(value) = value {
            text.line(name, [value.as_str()]);
        }
    }
    match predicate {
        PredicateSource::Unfiltered => text.line("every row", [""; 0]),
        PredicateSource::Template(template) => text.line("where", [template.as_str()]),
    }
    if let Some(columns) = columns {
        text.line("columns", columns.iter().map(String::as_str));
    }
    for (name, set) in [
        ("public", *public),
        ("replica full", *replica == Replica::Full),
        ("subset", *subset),
        ("client where", *client_where),
    ] {
        if set {
            text.line(name, [""; 0]);
        }
    }
    match upstream {
        UpstreamSource::Named(name) if name == UpstreamName::DEFAULT => {}
        UpstreamSource::Named(name) => text.line("upstream", [name.as_str()]),
        UpstreamSource::ByClaim { claim, map } => {
            let pairs = map.iter().flat_map(|(value, name)| [value.as_str(), name.as_str()]);
            text.line("upstream by claim", [claim.as_str()].into_iter().chain(pairs));
        }
    }
    for (name, question) in [("evaluate", evaluate), ("search", search)] {
        if let Some(question) = question {
            text.question(name, question);
        }
    }
    text.0
}

struct Text(String);

impl Text {
    fn question(&mut self, name: &str, question: &QuestionSource) {
        let QuestionSource { by, subject, action, resource, context } = question;
        self.line(name, [by.as_str(), action.as_str()]);
        for (part, EntitySource { kind, id, properties }) in [("subject", subject), ("resource", resource)] {
            let values = [kind.as_str()].into_iter().chain(id.as_deref());
            self.line(&format!("{name} {part}"), values);
            self.members(&format!("{name} {part} properties"), properties);
        }
        self.members(&format!("{name} context"), context);
    }

    /// Writes a line if there are members.
    fn members(&mut self, name: &str, members: &Map<String, Value>) {
        if !members.is_empty() {
            self.line(name, [Value::from(members.clone()).to_string().as_str()]);
        }
    }

    /// Writes a line with any number of values.
    fn line<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a str>) {
        self.0.push('\n');
        self.0.push_str(name);
        for value in values {
            // Writing to a string cannot fail.
            let _ = write!(self.0, " {}:{value}", value.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn plain() -> RuleSource {
        RuleSource {
            name: None,
            client_chosen: Vec::new(),
            evaluate: None,
            search: None,
            table: "tasks".to_owned(),
            path: None,
            allow: None,
            predicate: PredicateSource::Template("a = {{ claims.a }}".to_owned()),
            columns: None,
            public: false,
            replica: Replica::Default,
            subset: false,
            client_where: false,
            upstream: UpstreamSource::Named(UpstreamName::DEFAULT.to_owned()),
        }
    }

    fn full() -> RuleSource {
        let map = [("acme", "acme-db"), ("globex", "default")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        RuleSource {
            path: Some("/api/tasks".to_owned()),
            allow: Some("'admin' in claims.roles".to_owned()),
            predicate: PredicateSource::Unfiltered,
            columns: Some(vec!["id".to_owned(), "title".to_owned()]),
            public: true,
            replica: Replica::Full,
            subset: true,
            client_where: true,
            upstream: UpstreamSource::ByClaim { claim: "claims.tenant".to_owned(), map: map.into() },
            ..plain()
        }
    }

    #[test]
    fn fingerprints_are_the_same_in_every_release() {
        // Minted tokens contain them: if this fails, every minted token in use ends with the release.
        assert_eq!(text(&plain()), "shapegate rule 1\ntable 5:tasks\nwhere 18:a = {{ claims.a }}");
        assert_eq!(*fingerprint(&plain()), *"c50a4cc602e52e966f0cbe260ec65a7c");
        assert_eq!(
            text(&full()),
            "shapegate rule 1\ntable 5:tasks\npath 10:/api/tasks\nallow 23:'admin' in claims.roles\nevery row\n\
             columns 2:id 5:title\npublic\nreplica full\nsubset\nclient where\n\
             upstream by claim 13:claims.tenant 4:acme 7:acme-db 6:globex 7:default"
        );
        assert_eq!(*fingerprint(&full()), *"5fb2d7e9934b0587fb3b36bb236b15cf");
    }

    fn question() -> QuestionSource {
        let entity = |kind: &str, id: Option<&str>, properties: Value| EntitySource {
            kind: kind.to_owned(),
            id: id.map(str::to_owned),
            properties: properties.as_object().cloned().unwrap_or_default(),
        };
        QuestionSource {
            by: "pdp".to_owned(),
            subject: entity("user", Some("{{ claims.sub }}"), json!({ "a": ["b", 1] })),
            action: "read".to_owned(),
            resource: entity("doc", None, json!({})),
            context: json!({ "app": true }).as_object().cloned().unwrap_or_default(),
        }
    }

    #[test]
    fn what_decision_services_are_asked_is_part_of_the_fingerprint() {
        let asking = RuleSource { evaluate: Some(question()), ..plain() };
        assert_eq!(
            text(&asking),
            format!(
                "{}\nevaluate 3:pdp 4:read\nevaluate subject 4:user 16:{{{{ claims.sub }}}}\n\
                 evaluate subject properties 13:{{\"a\":[\"b\",1]}}\nevaluate resource 3:doc\n\
                 evaluate context 12:{{\"app\":true}}",
                text(&plain())
            )
        );
        let changes: [fn(&mut QuestionSource); 7] = [
            |question| question.by = "other".to_owned(),
            |question| question.action = "list".to_owned(),
            |question| question.context.clear(),
            |question| question.subject.kind = "doc".to_owned(),
            |question| question.subject.id = None,
            |question| question.subject.properties.clear(),
            |question| question.resource.id = Some("user".to_owned()),
        ];
        let changed = changes.map(|change| {
            let mut other = question();
            change(&mut other);
            fingerprint(&RuleSource { evaluate: Some(other), ..plain() })
        });
        let search = fingerprint(&RuleSource { search: Some(question()), ..plain() });
        let all: BTreeSet<_> =
            changed.into_iter().chain([search, fingerprint(&asking), fingerprint(&plain())]).collect();
        assert_eq!(all.len(), 10);
    }

    #[test]
    fn every_setting_and_every_boundary_between_values_changes_the_fingerprint() {
        type Change = fn(&mut RuleSource);
        let columns = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        let mut rules = vec![
            plain(),
            RuleSource { columns: columns(&["a", "b"]), ..plain() },
            RuleSource { columns: columns(&["a 1:b"]), ..plain() },
            RuleSource { columns: columns(&["b", "a"]), ..plain() },
            RuleSource { columns: columns(&[]), ..plain() },
            RuleSource { allow: Some("a\nsubset".to_owned()), ..plain() },
            RuleSource { allow: Some("a".to_owned()), subset: true, ..plain() },
        ];
        let changes: [Change; 12] = [
            |rule| rule.table = "task".to_owned(),
            |rule| rule.path = Some(String::new()),
            |rule| rule.path = Some("/a".to_owned()),
            |rule| rule.allow = Some("true".to_owned()),
            |rule| rule.predicate = PredicateSource::Unfiltered,
            |rule| rule.predicate = PredicateSource::Template("every row".to_owned()),
            |rule| rule.public = true,
            |rule| rule.replica = Replica::Full,
            |rule| rule.subset = true,
            |rule| rule.client_where = true,
            |rule| rule.upstream = UpstreamSource::Named("other".to_owned()),
            |rule| rule.upstream = UpstreamSource::ByClaim { claim: "other".to_owned(), map: Default::default() },
        ];
        for change in changes {
            let mut rule = plain();
            change(&mut rule);
            rules.push(rule);
        }
        let distinct: BTreeSet<_> = rules.iter().map(fingerprint).collect();
        assert_eq!(distinct.len(), rules.len());
    }
}
