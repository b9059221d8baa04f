//! `require` of an `[[issuer]]`: a CEL expression over `claims`.

use super::explain;
use super::expression::{Expression, Scope};
use crate::auth::{Claims, Requirement};
use crate::clock::UnixTime;

/// A compiled condition on the claims of a token.
#[derive(Debug)]
pub struct ClaimRequirement {
    expression: Expression,
    source: String,
}

impl ClaimRequirement {
    /// Compiles `source`.
    ///
    /// # Errors
    /// The text is not CEL, or reads something other than claims. The error says what to write instead.
    pub fn compile(source: &str) -> Result<Self, String> {
        let expression = Expression::compile(source).map_err(|problem| problem.to_string())?;
        if expression.parameters().next().is_some() || expression.reads_now() {
            return Err(format!("`{source}`: may read only `claims`; write conditions on `query` and `now` in a rule"));
        }
        if !expression.reads_claims() {
            return Err(format!("`{source}`: reads no claim, so it would accept or reject every token"));
        }
        Ok(Self { expression, source: source.to_owned() })
    }
}

impl Requirement for ClaimRequirement {
    fn holds(&self, claims: &Claims) -> bool {
        self.expression.holds(&scope(claims)).is_ok()
    }

    fn operands(&self, claims: &Claims) -> Vec<String> {
        explain::operands(&self.expression, &scope(claims))
    }

    fn source(&self) -> &str {
        &self.source
    }
}

fn scope(claims: &Claims) -> Scope<'_> {
    Scope::new(Some(claims.cel()), &[], UnixTime::from_secs(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(source: &str, claims: &str) -> bool {
        ClaimRequirement::compile(source).unwrap().holds(&Claims::sample(claims).unwrap())
    }

    #[test]
    fn a_condition_holds_only_if_it_is_true() {
        assert!(holds("claims.azp == 'https://app.example.com'", r#"{"azp":"https://app.example.com"}"#));
        assert!(holds("claims.client_id in ['a', 'b']", r#"{"client_id":"b"}"#));
        for claims in ["{}", r#"{"azp":null}"#, r#"{"azp":["https://app.example.com"]}"#, r#"{"azp":""}"#] {
            assert!(!holds("claims.azp == 'https://app.example.com'", claims), "{claims}");
        }
        assert!(!holds("claims.client_id in ['a', 'b']", r#"{"client_id":"c"}"#));
        assert!(!holds("claims.azp", r#"{"azp":"true"}"#), "a value other than true");
    }

    #[test]
    fn the_claims_that_decide_are_listed() {
        let found = |claims| {
            let condition = ClaimRequirement::compile("claims.role == 'user' && claims.org in ['a']").unwrap();
            condition.operands(&Claims::sample(claims).unwrap()).join(", ")
        };
        assert_eq!(found(r#"{"role":"anon","org":"a"}"#), "claims.role = \"anon\"");
        assert_eq!(found(r#"{"role":"user"}"#), "claims.org is missing");
    }

    #[test]
    fn a_condition_reads_claims_and_nothing_else() {
        for (source, hint) in [
            ("true", "reads no claim"),
            ("claims.exp > now", "may read only `claims`"),
            ("claims.org == query.org", "may read only `claims`"),
            ("claim.x == 1", "unknown variable"),
            ("claims.x ==", "not a CEL expression"),
        ] {
            let error = ClaimRequirement::compile(source).unwrap_err();
            assert!(error.contains(hint), "{source}: {error}");
        }
    }
}
