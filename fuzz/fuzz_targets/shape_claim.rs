//! Authorizes any query with any `shape` claim. It must not panic, and the upstream query of a permitted request must
//! match the same claim.
//!
//! The first line of the input is the claim, the rest is the query.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use shapegate::policy::PolicySet;
use shapegate::rewrite::UpstreamRequest;
use shapegate::shape::{ScopedRequest, ShapeClaim, ShapeClaims};

/// Returns the query of the request to Electric; `None` if the claim does not allow the request.
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
        // Each of these is either a duplicate or not in the claim.
        for more in ["table=x", "where=x", "columns=x", "params%5B1%5D=x", "params%5B0%5D=x"] {
            assert_eq!(upstream(&claim, &format!("{sent}&{more}")), None, "{more}");
        }
    }
});
