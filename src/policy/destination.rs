//! Picks the Electric upstream that a rule reads from.

use std::collections::HashMap;

use super::expression::{Expression, Scope};
use super::problem::Problem;
use super::source::UpstreamSource;
use crate::shape::UpstreamName;

/// The compiled `upstream` of a rule.
#[derive(Debug)]
pub(super) enum Destination {
    Fixed(UpstreamName),
    /// Picked by a string claim. The client cannot choose it, because the token is signed.
    ByClaim {
        claim: Box<Expression>,
        map: HashMap<String, UpstreamName>,
    },
}

impl Destination {
    /// Compiles the setting. The error says what to write instead.
    pub(super) fn compile(source: &UpstreamSource) -> Result<Self, Problem> {
        match source {
            UpstreamSource::Named(name) => Ok(Self::Fixed(UpstreamName::new(name))),
            UpstreamSource::ByClaim { claim, map } => {
                let claim = Expression::compile(claim)?;
                if claim.parameters().next().is_some() || claim.reads_now() || !claim.reads_claims() {
                    return Err("`claim` must read claims only: a client could choose anything else".into());
                }
                let map = map.iter().map(|(value, name)| (value.clone(), UpstreamName::new(name)));
                Ok(Self::ByClaim { claim: Box::new(claim), map: map.collect() })
            }
        }
    }

    /// Picks the upstream for this caller. `None` denies: the claim is missing, not a string, or not in the map.
    pub(super) fn pick(&self, scope: &Scope<'_>) -> Option<UpstreamName> {
        match self {
            Self::Fixed(name) => Some(name.clone()),
            Self::ByClaim { claim, map } => claim.with_text(scope, |text| map.get(text).cloned())?,
        }
    }

    /// Returns the upstream with this name, if the rule can pick it.
    pub(super) fn find(&self, name: &UpstreamName) -> Option<UpstreamName> {
        self.names().find(|known| *known == name).cloned()
    }

    /// Returns every upstream that the rule can pick.
    pub(super) fn names(&self) -> impl Iterator<Item = &UpstreamName> {
        let (one, many) = match self {
            Self::Fixed(only) => (Some(only), None),
            Self::ByClaim { map, .. } => (None, Some(map.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    pub(super) fn reads_decision(&self) -> bool {
        matches!(self, Self::ByClaim { claim, .. } if claim.reads_decision())
    }

    pub(super) fn reads_claims(&self) -> bool {
        self.claim().is_some()
    }

    /// The expression that picks the upstream; `None` if it is fixed.
    pub(super) fn claim(&self) -> Option<&Expression> {
        match self {
            Self::Fixed(_) => None,
            Self::ByClaim { claim, .. } => Some(claim),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixTime;

    fn by_claim(claim: &str) -> Result<Destination, Problem> {
        let map = [("acme", "acme-db"), ("globex", "default")].map(|(value, name)| (value.to_owned(), name.to_owned()));
        Destination::compile(&UpstreamSource::ByClaim { claim: claim.to_owned(), map: map.into() })
    }

    fn picked(claims: serde_json::Value) -> Option<String> {
        let claims: Box<dyn cel::common::value::Val> = cel::to_value(claims).unwrap().try_into().unwrap();
        let scope = Scope::new(Some(claims.as_ref()), &[], UnixTime::from_secs(0));
        by_claim("claims.tenant").unwrap().pick(&scope).map(|name| name.as_str().to_owned())
    }

    #[test]
    fn a_claim_picks_only_upstreams_of_the_map() {
        use serde_json::json;
        assert_eq!(picked(json!({ "tenant": "acme" })).as_deref(), Some("acme-db"));
        assert_eq!(picked(json!({ "tenant": "globex" })).as_deref(), Some("default"));
        for denied in [json!("other"), json!("Acme"), json!(""), json!(["acme"]), json!(7), json!(null), json!(true)] {
            assert_eq!(picked(json!({ "tenant": denied })), None);
        }
        assert_eq!(picked(json!({})), None);
    }

    #[test]
    fn claim_expressions_that_a_client_could_influence_are_rejected() {
        for source in ["query.tenant", "claims.a + query.tenant", "string(now)", "'acme'", "claims."] {
            assert!(by_claim(source).is_err(), "{source}");
        }
    }

    #[test]
    fn a_name_that_a_rule_cannot_pick_is_not_found() {
        let (acme, default, other) =
            (UpstreamName::new("acme-db"), UpstreamName::default(), UpstreamName::new("other"));
        let map = by_claim("claims.tenant").unwrap();
        assert_eq!((map.find(&acme), map.find(&default)), (Some(acme.clone()), Some(default.clone())));
        assert_eq!(map.find(&other), None);
        let fixed = Destination::compile(&UpstreamSource::Named("acme-db".to_owned())).unwrap();
        assert_eq!((fixed.find(&acme), fixed.find(&default)), (Some(acme), None));
        assert_eq!(UpstreamName::new("default"), default);
    }
}
