//! Any claim and any query: no panic, and what goes upstream for a request that is allowed repeats the same claim.
//!
//! The first line is the `shape` claim, the rest the query.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use shapegate::config::ShapeClaims;
use shapegate::gatekeeper::{ScopedRequest, ShapeClaim};
use shapegate::policy::PolicySet;
use shapegate::shape::UpstreamRequest;

/// The query of the request to Electric; `None` where the claim does not allow the request.
fn upstream(claim: &ShapeClaim, query: &str) -> Option<String> {
    let request = ScopedRequest::parse(None, query).ok()?;
    let permit = PolicySet::default().authorize_shape(claim, &request).ok()?;
    let upstream = UpstreamRequest::build(permit, &request.into_protocol(), None).ok()?;
    Some(upstream.query().to_owned())
}

fuzz_target!(|text: &str| {
    let (shape, query) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(shape) = serde_json::from_str::<Value>(shape) else { return };
    let claims = Map::from_iter([("shape".to_owned(), shape)]);
    let Ok(Some(claim)) = ShapeClaim::read(&claims, ShapeClaims::Honoured) else { return };
    if let Some(sent) = upstream(&claim, query) {
        assert_eq!(upstream(&claim, &sent).as_deref(), Some(&*sent));
        // Each of them stands there already, or the claim does without.
        for more in ["table=x", "where=x", "columns=x", "params%5B1%5D=x", "params%5B0%5D=x"] {
            assert_eq!(upstream(&claim, &format!("{sent}&{more}")), None, "{more}");
        }
    }
});
