//! `[decisions.NAME]`, and the `evaluate` and `search` of rules.

use std::time::Duration;

use super::{accepted, errors};

const SERVICE: &str = "[decisions.pdp]\nurl = 'https://pdp.example'\n";

const SUBJECT: &str = "subject = { type = 'user', id = '{{ claims.sub }}' }\n";

/// Returns a rule that asks `question`, with the service before it.
fn rule(predicate: &str, question: &str) -> String {
    format!("{SERVICE}[[shape]]\ntable = 'tasks'\nwhere = '''{predicate}'''\n{question}")
}

fn evaluate(rest: &str) -> String {
    rule("none", &format!("[shape.evaluate]\nby = 'pdp'\n{SUBJECT}{rest}"))
}

#[test]
fn a_service_has_defaults() {
    let config = accepted(&evaluate("action = 'read'\nresource = { type = 'doc', id = '{{ query.id }}' }\n"));
    let pdp = &config.decisions["pdp"];
    assert_eq!((pdp.endpoint.timeout, pdp.cache), (Duration::from_secs(1), Duration::from_secs(30)));
    assert_eq!((pdp.cache_bytes, pdp.response_bytes, pdp.most), (16 << 20, 1 << 20, 1000));
    assert!(!pdp.discover && pdp.token.is_none() && pdp.identity.is_none() && !pdp.endpoint.private_address);
    assert_eq!(config.warnings, []);
    assert!(config.policy.parameters().contains("id"), "the question's parameters reach the rule");
}

#[test]
fn a_service_that_no_rule_asks_causes_a_warning() {
    let shown: Vec<_> = accepted(SERVICE).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["x.toml:1: decisions.pdp: no rule asks it: name it in the `evaluate` or `search` of a [[shape]]"]
    );
}

#[test]
fn wrong_services_are_rejected() {
    for (text, expected) in [
        ("[decisions.pdp]\n", "1: decisions.pdp.url: missing: write the base URL"),
        ("[decisions.PDP]\nurl = 'https://a'\n", "1: decisions.PDP: the name must be 1 to 64 of a to z"),
        ("[decisions.pdp]\nurl = 'http://a.example'\n", "2: decisions.pdp.url: decisions over plain http can be"),
        ("[decisions.pdp]\nurl = 'https://a.example?b'\n", "2: decisions.pdp.url: must not contain a query"),
        ("[decisions.pdp]\nurl = 'https://u:p@a.example'\n", "2: decisions.pdp.url: must not contain user"),
        ("[decisions.pdp]\nurl = 'https://a'\ntoken = 'x'\n", "3: decisions.pdp.token: secrets are never written"),
        ("[decisions.pdp]\nurl = 'https://a'\ncache = '2m'\n", "3: decisions.pdp.cache: out of bounds: write 1s to 1m"),
        ("[decisions.pdp]\nurl = 'https://a'\nmost = 1001\n", "3: decisions.pdp.most: out of bounds: write 1 to 1000"),
        ("[decisions.pdp]\nurl = 'https://a'\nkey = 'k'\n", "1: decisions.pdp: needs both `certificate` and `key`"),
        (
            "[decisions.pdp]\nurl = 'https://a'\nkey = '/no/k'\ncertificate = '/no/c'\n",
            "4: decisions.pdp.certificate: cannot be read",
        ),
    ] {
        let shown = errors(text);
        assert!(shown.starts_with(&format!("x.toml:{expected}")) && shown.lines().count() == 1, "{text}\n{shown}");
    }
}

#[test]
fn wrong_questions_are_rejected() {
    let resource = "resource = { type = 'doc', id = 'a' }\n";
    let action = "action = 'read'\n";
    let search = "[shape.search]\nby = 'pdp'\naction = 'read'\nresource = { type = 'doc' }\n";
    for (text, expected) in [
        (evaluate(action), "6: shape[0].evaluate.resource: missing"),
        (evaluate(resource), "6: shape[0].evaluate.action: missing"),
        (evaluate(&format!("{action}resource = {{ type = 'doc' }}\n")), "10: shape[0].evaluate.resource.id: missing"),
        (
            evaluate(&format!("{resource}action = '{{{{ query.a }}}}'\n")),
            "10: shape[0].evaluate.action: must not have {{ … }}",
        ),
        (
            evaluate(&format!("{action}{resource}context = {{ now = '{{{{ now }}}}' }}\n")),
            "6: shape[0].evaluate: `now` would make a new question every second",
        ),
        (
            evaluate(&format!("{action}{resource}context = {{ a = 1979-05-27 }}\n")),
            "11: shape[0].evaluate.context.a: is a date",
        ),
        (
            evaluate(&format!("{action}{resource}")).replace("by = 'pdp'", "by = 'dpd'"),
            "7: shape[0].evaluate.by: no such service \"dpd\": write [decisions.dpd]",
        ),
        (
            evaluate(&format!("{action}{resource}")).replace("table =", "public = true\ntable ="),
            "7: shape[0].evaluate: reads claims, but the rule is public",
        ),
        (
            evaluate(&format!("{action}{resource}")).replace("table =", "allow = 'decision.context.a'\ntable ="),
            "4: shape[0].allow: reads `decision`, which is known only after `allow` is true",
        ),
        (rule("none", &format!("{search}{SUBJECT}")), "6: shape[0].search: its ids restrict nothing"),
        (rule("\"id\" IN ({{ decision.ids }})", ""), "5: shape[0].where: reads decision.ids, but the rule has no"),
        (
            rule("\"id\" IN ({{ decision.ids }}) AND \"a\" = {{ decision.context.a }}", &format!("{search}{SUBJECT}")),
            "5: shape[0].where: reads decision.context, but the rule has no",
        ),
        (
            rule("\"id\" IN ({{ decision.ids }})", &format!("{search}{SUBJECT}").replace("'doc'", "'doc', id = 'a'")),
            "9: shape[0].search.resource.id: unknown key",
        ),
        (rule("\"id\" = {{ decision.id }}", &format!("{search}{SUBJECT}")), "5: shape[0].where: `decision.id`: write"),
    ] {
        let shown = errors(&text);
        let shown: Vec<_> = shown.lines().filter(|line| !line.contains("[[shape]] is public")).collect();
        assert!(shown[0].starts_with(&format!("x.toml:{expected}")) && shown.len() == 1, "{text}\n{shown:#?}");
    }
}
