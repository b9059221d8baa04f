//! Which rules let a client choose what is bound: a table, and a property of random rules.

use std::cell::Cell;
use std::collections::BTreeSet;

use cel::common::value::Val;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use crate::clock::UnixTime;
use crate::policy::{EntitySource, PredicateSource, QuestionSource, Rule, RuleSource, Scope, UpstreamSource};
use crate::shape::{Replica, UpstreamName};

fn source(allow: Option<&str>, bound: &str) -> RuleSource {
    RuleSource {
        name: None,
        table: "tasks".to_owned(),
        path: None,
        allow: allow.map(str::to_owned),
        predicate: PredicateSource::Template(format!("\"a\" IN ({{{{ {bound} }}}})")),
        columns: None,
        public: false,
        replica: Replica::Default,
        subset: false,
        client_where: false,
        upstream: UpstreamSource::Named(UpstreamName::DEFAULT.to_owned()),
        client_chosen: Vec::new(),
        evaluate: None,
        search: None,
    }
}

fn rule(allow: Option<&str>, bound: &str) -> Result<Rule, String> {
    Rule::compile(source(allow, bound)).map_err(|errors| {
        let shown: Vec<_> = errors.iter().map(|error| format!("{}: {}", error.key, error.problem)).collect();
        shown.join("\n")
    })
}

#[test]
fn an_evaluation_restricts_the_parameters_that_it_is_about() {
    let chosen = |context: Value, bound: &str| {
        let entity = |id: &str| EntitySource { kind: "a".to_owned(), id: Some(id.to_owned()), properties: Map::new() };
        let question = QuestionSource {
            by: "pdp".to_owned(),
            subject: entity("{{ claims.sub }}"),
            action: "read".to_owned(),
            resource: entity("folder-{{ query.folder }}"),
            context: context.as_object().cloned().unwrap_or_default(),
        };
        let source = RuleSource { evaluate: Some(question), ..source(None, bound) };
        Rule::compile(source).is_err_and(|errors| errors[0].key == "where")
    };
    assert!(!chosen(json!({}), "query.folder"));
    assert!(!chosen(json!({ "other": ["{{ query.other }}"] }), "query.other"));
    assert!(chosen(json!({}), "query.other"));
    assert!(chosen(json!({ "is": "{{ query.other == 'a' }}" }), "query.other"), "asked about, but not its value");
}

#[test]
fn a_restricted_parameter_may_be_bound() {
    for (allow, bound) in [
        ("query.a in claims.orgs", "query.a"),
        ("query['a'] in claims.orgs", "query.a"),
        ("claims.org == query.a", "query.a"),
        ("query.a in ['x', 'y']", "query.a"),
        ("query.a in claims.roles", "query.a"),
        ("claims.roles[query.a] == 'admin'", "query.a"),
        ("claims.roles[query.a] != 'banned'", "query.a"),
        ("claims.orgs.exists(o, o == query.a)", "query.a"),
        ("claims.teams.exists(t, t.id == query.a && t.admin)", "query.a"),
        ("claims.teams.exists_one(t, t.id == query.a)", "query.a"),
        ("claims.teams.exists(t, t.ids.exists(i, i == query.a))", "query.a"),
        ("query.a in claims.teams.filter(t, t.admin).map(t, t.id)", "query.a"),
        ("has(query.a) && (query.a in claims.orgs)", "query.a"),
        ("query.a in claims.orgs && query.b in claims.orgs", "[query.a, query.b]"),
        ("query.a == claims.org || query.a in claims.orgs", "query.a"),
        ("claims.admin ? query.a in claims.all : query.a == claims.org", "query.a"),
        ("!(query.a != claims.org)", "query.a"),
        ("!(!(query.a in claims.orgs) || claims.blocked)", "query.a"),
        ("claims.admin && false || query.a == claims.org", "query.a"),
        ("int(query.a) in claims.numbers", "int(query.a)"),
        ("query.a in claims.orgs", "int(query.a)"),
        ("true", "claims.projects[query.a]"),
        ("query.a in claims.orgs", "query.a == 'x' ? query.a : claims.org"),
    ] {
        rule(Some(allow), bound).unwrap_or_else(|error| panic!("{allow} / {bound}\n{error}"));
    }
}

#[test]
fn a_parameter_that_allow_does_not_restrict_is_rejected() {
    for (allow, bound) in [
        ("true", "query.a"),
        ("claims.admin", "query.a"),
        ("has(query.a)", "query.a"),
        ("query.b in claims.orgs", "query.a"),
        ("query.a != claims.org", "query.a"),
        ("query.a == query.a", "query.a"),
        ("query.a == query.b", "query.a"),
        ("query.a in [query.b, claims.org]", "query.a"),
        ("query.a in claims.orgs || claims.admin", "query.a"),
        ("claims.admin ? query.a in claims.orgs : true", "query.a"),
        ("query.b == 'x' ? true : query.a in claims.orgs", "query.a"),
        ("!(query.a in claims.orgs && claims.blocked)", "query.a"),
        ("query.a.startsWith('org-')", "query.a"),
        ("query.a.matches('^[a-z]+$')", "query.a"),
        ("query.a < claims.org", "query.a"),
        // True if the token has no organizations.
        ("claims.orgs.all(o, o == query.a)", "query.a"),
        ("[query.a].exists(a, a == query.a)", "query.a"),
        ("claims.orgs.filter(o, o == query.a).size() == 0", "query.a"),
        // Not the text that was compared: 07 and 7 are the same number.
        ("int(query.a) in claims.numbers", "query.a"),
        // A place in a list is not one of its values.
        ("claims.orgs[int(query.a)] != ''", "int(query.a)"),
        // The names of all claims.
        ("query.a in claims", "query.a"),
        ("claims[query.a] != ''", "query.a"),
        ("true", "claims[query.a]"),
        ("true", "has(query.a) ? 'x' : 'y'"),
        ("true", "[query.a].map(a, a)"),
        ("query.b in claims.orgs", "claims.orgs.filter(o, o.startsWith(query.a))"),
    ] {
        let error = rule(Some(allow), bound).map(drop).expect_err(&format!("{allow} / {bound}"));
        assert!(error.starts_with("where: ") && error.contains("query.a"), "{error}");
    }
    assert!(rule(None, "query.a").is_err());
}

#[test]
fn the_error_says_what_to_write() {
    let error = |allow: Option<&str>| rule(allow, "query.orgId").map(drop).unwrap_err();
    assert!(error(None).contains(r#"danger_client_chosen = ["orgId"]"#));
    assert!(
        error(Some("query.organizationId in claims.ids")).contains("`allow` restricts `query.organizationId`: bind")
    );
    assert!(error(Some("int(query.orgId) in claims.ids")).ends_with("bind {{ int(query.orgId) }}"));
}

/// Texts that only another tenant's token has, or none.
const FOREIGN: [&str; 3] = ["t2-a", "org", "0"];
/// Texts of the first tenant's tokens, and the constants of the rules.
const OWN: [&str; 8] = ["t1-a", "t1-b", "t1-c", "k1", "k2", "admin", "7", "1"];

/// Tokens of one tenant. Only these values may ever be bound.
fn tokens() -> [Value; 3] {
    [
        json!({
            "org": "t1-a", "orgs": ["t1-a", "t1-b"], "roles": { "t1-a": "admin", "t1-c": "k1" }, "n": 7, "one": true,
            "numbers": [7, 1], "teams": [{ "id": "t1-b", "admin": true }, { "id": "t1-c", "admin": false }],
        }),
        json!({ "org": "t1-b", "orgs": [], "roles": {}, "n": 1, "numbers": [], "teams": [], "one": false }),
        json!({ "orgs": ["t1-c"], "one": true }),
    ]
}

fn parameter() -> impl Strategy<Value = String> {
    select(vec!["query.a", "query.b", "query['a']", "string(query.b)", "int(query.a)"]).prop_map(str::to_owned)
}

/// A condition with one parameter.
fn atom() -> impl Strategy<Value = String> {
    let forms = vec![
        "P == claims.org",
        "claims.org == P",
        "P != claims.org",
        "P == 'k1'",
        "P in ['k1', 'k2']",
        "P == claims.n",
        "P in claims.orgs",
        "P in claims.numbers",
        "P in claims.roles",
        "P in claims",
        "P in [claims.org, query.b]",
        "claims.roles[P] == 'admin'",
        "claims.roles[P] != 'k2'",
        "claims.orgs[P] != 'k1'",
        "claims[P] != 'k1'",
        "claims.orgs.exists(o, o == P)",
        "claims.orgs.all(o, o == P)",
        "claims.orgs.exists_one(o, o == P)",
        "claims.orgs.exists(o, o != P)",
        "claims.teams.exists(t, t.id == P && t.admin)",
        "[P].exists(o, o in claims.orgs)",
        "[P, 'k1'].exists(o, o == P)",
        "claims.teams.exists(t, t.admin || t.id == P)",
        "P in claims.teams.filter(t, t.admin).map(t, t.id)",
        "P in claims.orgs.filter(o, o == P)",
        "P in claims.orgs.map(o, P)",
        "size(claims.orgs.filter(o, o == P)) == 1",
        "query.a == query.b",
        "has(query.a)",
        "has(claims.org)",
        "claims.one",
        "claims.none",
        "true",
        "false",
        "P == P",
        "(P in claims.orgs) == true",
        "(P in claims.orgs) == claims.one",
        "string(P).startsWith('t')",
        "claims.orgs.map(o, o == P).exists(x, x)",
        "claims.orgs.exists(o, claims.roles[P] == 'admin')",
    ];
    (select(forms), parameter()).prop_map(|(form, parameter)| form.replace('P', &parameter))
}

fn allow() -> impl Strategy<Value = String> {
    atom().prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            inner.prop_map(|a| format!("!({a})")),
        ]
    })
}

fn bound() -> impl Strategy<Value = String> {
    let forms = vec![
        "P",
        "P",
        "P",
        "[P, query.a]",
        "claims.roles[P]",
        "claims.orgs[int(query.b)]",
        "P == 'k1' ? P : claims.org",
        "claims.orgs.filter(o, o != P)",
        "claims.orgs.map(o, P)",
        "claims.org",
        "[P].filter(o, o in claims.orgs)",
    ];
    (select(forms), parameter()).prop_map(|(form, parameter)| form.replace('P', &parameter))
}

/// Returns what the rule binds for a token and the client's two parameters; nothing if it denies.
fn binds(rule: &Rule, token: &Value, a: &str, b: &str) -> Option<Vec<String>> {
    let claims: Box<dyn Val> = cel::to_value(token).unwrap().try_into().unwrap();
    let query = [("a", a), ("b", b)].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let scope = Scope::new(Some(claims.as_ref()), &query, UnixTime::from_secs(0));
    rule.allows(&scope).is_ok().then(|| rule.render(&scope)).flatten()?.map(|rendered| rendered.params)
}

#[test]
fn no_client_chooses_what_an_accepted_rule_binds() {
    let own: BTreeSet<&str> = OWN.into();
    let (accepted, bound_to_a_client) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 2_000, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let outcome = runner.run(&(allow(), bound()), |(allow, bound)| {
        let Ok(rule) = rule(Some(&allow), &bound) else { return Ok(()) };
        accepted.set(accepted.get() + 1);
        let values = || ["t1-a", "t1-c", "k1", "7"].into_iter().chain(FOREIGN);
        for token in tokens() {
            for (a, b) in values().flat_map(|a| values().map(move |b| (a, b))) {
                let Some(params) = binds(&rule, &token, a, b) else { continue };
                bound_to_a_client.set(bound_to_a_client.get() + usize::from(bound.contains("query")));
                let foreign = params.iter().find(|value| !own.contains(value.as_str()));
                prop_assert!(foreign.is_none(), "{allow} / {bound} binds {params:?} for a = {a}, b = {b}, {token}");
            }
        }
        Ok(())
    });
    outcome.unwrap();
    // The rules are neither all rejected nor all without effect.
    assert!(accepted.get() > 200, "{} rules accepted", accepted.get());
    assert!(bound_to_a_client.get() > 1_000, "{} times a client's value was bound", bound_to_a_client.get());
}
