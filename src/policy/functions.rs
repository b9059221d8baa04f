//! Functions that expressions have in addition to CEL's standard ones.
//!
//! The string functions are those of the same names in CEL's strings extension.

use std::sync::Arc;

use cel::extractors::This;
use cel::{Context, Value};

/// Creates the context of every expression.
pub(super) fn context() -> Context<'static, 'static> {
    let mut context = Context::default();
    // Fails only for a name that CEL has already; a test calls each function.
    let _ = context.add_function("hasScope", has_scope);
    let _ = context.add_function("lowerAscii", |This(text): This<Arc<String>>| text.to_ascii_lowercase());
    let _ = context.add_function("split", split);
    let _ = context.add_function("trim", |This(text): This<Arc<String>>| text.trim().to_owned());
    let _ = context.add_function("upperAscii", |This(text): This<Arc<String>>| text.to_ascii_uppercase());
    context
}

/// Whether `granted` contains `scope`: a string of scopes with spaces between them (RFC 8693 section 4.2), or a list.
#[allow(clippy::needless_pass_by_value)] // the signature that CEL needs
fn has_scope(granted: Value, scope: Arc<String>) -> bool {
    match granted {
        Value::String(scopes) => scopes.split(' ').any(|granted| !granted.is_empty() && *granted == **scope),
        Value::List(scopes) => scopes.iter().any(|granted| matches!(granted, Value::String(name) if *name == scope)),
        _ => false,
    }
}

#[allow(clippy::needless_pass_by_value)] // the signature that CEL needs
fn split(This(text): This<Arc<String>>, separator: Arc<String>) -> Value {
    text.split(separator.as_str()).map(|part| Value::from(part.to_owned())).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use crate::auth::Claims;
    use crate::clock::UnixTime;
    use crate::policy::Scope;
    use crate::policy::expression::Expression;

    fn holds(source: &str, claims: &str) -> bool {
        let claims = Claims::sample(claims).unwrap();
        let compiled = Expression::compile(source).unwrap_or_else(|error| panic!("{error}"));
        compiled.holds(&Scope::new(Some(claims.cel()), &[], UnixTime::from_secs(0))).is_ok()
    }

    #[test]
    fn a_scope_is_one_of_a_string_or_of_a_list() {
        let granted = "hasScope(claims.scope, 'read:tasks')";
        for claims in [r#"{"scope":"openid read:tasks"}"#, r#"{"scope":["read:tasks"]}"#, r#"{"scope":"read:tasks"}"#] {
            assert!(holds(granted, claims), "{claims}");
        }
        for claims in [
            r#"{"scope":"read:tasks2 read"}"#,
            r#"{"scope":"read:tasks,openid"}"#,
            r#"{"scope":["openid read:tasks"]}"#,
            r#"{"scope":[["read:tasks"]]}"#,
            r#"{"scope":{"read:tasks":true}}"#,
            r#"{"scope":null}"#,
            r#"{"scope":""}"#,
            "{}",
        ] {
            assert!(!holds(granted, claims), "{claims}");
        }
        assert!(holds("hasScope(claims.scp, 'access_as_user')", r#"{"scp":"access_as_user profile"}"#));
        assert!(!holds("hasScope(claims.scope, '')", r#"{"scope":"a  b"}"#));
        let either = "has(claims.scope) && hasScope(claims.scope, 'a') || has(claims.scp) && hasScope(claims.scp, 'a')";
        assert!(holds(either, r#"{"scp":["a"]}"#) && holds(either, r#"{"scope":"a"}"#) && !holds(either, "{}"));
    }

    #[test]
    fn strings_are_split_trimmed_and_their_case_changed() {
        for expression in [
            "claims.email.lowerAscii().endsWith('@example.com')",
            "claims.email.upperAscii() == 'ANN@EXAMPLE.COM'",
            "claims.email.split('@')[0] == 'Ann'",
            "'b' in claims.groups.split(',') && size(claims.groups.split(',')) == 3",
            "claims.spaced.trim() == 'x'",
            "lowerAscii(claims.email) == 'ann@example.com'",
        ] {
            assert!(
                holds(expression, r#"{"email":"Ann@Example.com","groups":"a,b,c","spaced":" x "}"#),
                "{expression}"
            );
        }
        assert!(!holds("claims.email.lowerAscii() == 'ann@example.com'", r#"{"email":7}"#));
        assert!(!holds("'b' in claims.groups.split(',')", r#"{"groups":["a","b"]}"#));
    }

    #[test]
    fn documentation_lists_the_functions_with_examples_that_are_true() {
        let page = include_str!("../../docs/expressions.md");
        let (_, section) = page.split_once("## Functions in rules\n").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let claims = section.lines().find_map(|line| line.strip_prefix('`')?.strip_suffix('`')).unwrap();
        let claims = Claims::sample(claims).unwrap();
        let query = [("id", "a"), ("level", "7")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let scope = Scope::new(Some(claims.cel()), &query, UnixTime::from_secs(0));
        let mut listed = Vec::new();
        for row in section.lines().filter_map(|line| line.strip_prefix("| `")) {
            let (name, rest) = row.split_once("` | `").unwrap();
            let example = rest.strip_suffix("` |").unwrap();
            assert!(example.contains(name), "{example}");
            let compiled = Expression::compile(example).unwrap_or_else(|error| panic!("{example}: {error}"));
            assert!(compiled.holds(&scope).is_ok(), "{example}");
            listed.push(name);
        }
        let own =
            include_str!("functions.rs").split("add_function(\"").skip(1).filter_map(|rest| rest.split('"').next());
        let own: Vec<_> = own.filter(|name| name.chars().all(char::is_alphanumeric)).collect();
        assert!(own.len() == 5 && own.iter().all(|name| listed.contains(name)), "{own:?} {listed:?}");
    }
}
