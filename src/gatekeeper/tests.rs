use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::policy::{Permit, PolicySet};
use crate::rewrite::UpstreamRequest;
use crate::shape::{Definition, Log, Malformed, ScopedRequest, ShapeClaim, ShapeClaims};

fn claim(shape: &Value) -> Result<ShapeClaim, Malformed> {
    let claims = Map::from_iter([("shape".to_owned(), shape.clone())]);
    ShapeClaim::read(&claims, ShapeClaims::Honoured).map(|claim| claim.expect("there is one"))
}

fn request(query: &str) -> ScopedRequest {
    ScopedRequest::parse(None, query).unwrap_or_else(|errors| panic!("{query}: {errors:?}"))
}

fn matches(shape: &Value, query: &str) -> bool {
    claim(shape).unwrap().is_repeated_by(&request(&format!("{query}&offset=-1")))
}

/// Returns the request to Electric if the claim allows the query.
fn upstream(claim: &ShapeClaim, query: &str) -> Option<UpstreamRequest> {
    let request = ScopedRequest::parse(None, query).ok()?;
    let permit: Permit = PolicySet::default().authorize_shape(claim, &request).ok()?;
    UpstreamRequest::build(permit, &request.into_protocol(), None).ok()
}

#[test]
fn a_claim_in_the_format_of_electrics_example_is_read() {
    let shape = json!({ "namespace": null, "table": "items", "where": null, "columns": null });
    for good in
        ["table=items", "table=public.items", "table=%22items%22", "table=items&where=&columns=&replica=default"]
    {
        assert!(matches(&shape, good), "{good}");
    }
    for bad in ["", "table=item", "table=a.items", "table=items&params[1]=x", "table=items&where=true"] {
        assert!(!matches(&shape, bad), "{bad}");
    }
    // A missing member counts as null.
    assert!(matches(&json!({ "table": "items" }), "table=items"));
    assert!(matches(&json!({ "namespace": "auth", "table": "Users" }), "table=auth.%22Users%22"));
    assert!(!matches(&json!({ "namespace": "auth", "table": "Users" }), "table=auth.Users"));
    assert!(!matches(&json!({ "table": "auth.users" }), "table=auth.users"));
}

#[test]
fn the_upstream_claim_is_read_only_from_minted_tokens() {
    let read = |upstream: Value, treated: ShapeClaims| {
        let claims = json!({ "shape": { "table": "items" }, "rule": "r", "upstream": upstream });
        ShapeClaim::read(claims.as_object().unwrap(), treated)
            .map(|claim| claim.unwrap().upstream().as_str().to_owned())
    };
    assert_eq!(read(json!("acme-db"), ShapeClaims::Own).as_deref(), Ok("acme-db"));
    assert_eq!(read(json!("acme-db"), ShapeClaims::Honoured).as_deref(), Ok("default"));
    for wrong in [json!(null), json!(7), json!(["acme-db"])] {
        assert_eq!(read(wrong, ShapeClaims::Own), Err(Malformed));
    }
}

#[test]
fn columns_are_a_list_or_a_string_in_any_order() {
    for columns in [json!(["id", "createdAt"]), json!("id,\"createdAt\"")] {
        let shape = json!({ "table": "items", "columns": columns });
        assert!(matches(&shape, "table=items&columns=id,%22createdAt%22"));
        assert!(matches(&shape, "table=items&columns=%22createdAt%22,%22id%22"));
        for bad in ["id,createdAt", "id", "id,%22createdAt%22,x", "id,%22createdAt", "%22id,createdAt%22", ",", "id,,x"]
        {
            assert!(!matches(&shape, &format!("table=items&columns={bad}")), "{bad}");
        }
    }
    let upstream =
        upstream(&claim(&json!({ "table": "t", "columns": ["b", "a"] })).unwrap(), "table=t&columns=a,b&offset=-1");
    assert_eq!(upstream.unwrap().query(), "table=t&columns=b%2Ca&queryable_columns=b%2Ca&offset=-1");
}

#[test]
fn params_are_an_object_or_a_list() {
    for params in [json!({ "1": "a", "2": "7" }), json!(["a", "7"]), json!(["a", 7]), json!({ "2": 7, "1": "a" })] {
        let shape = json!({ "table": "t", "where": "x = $1 OR y = $2", "params": params });
        let query = "table=t&where=x+%3D+$1+OR+y+%3D+$2";
        assert!(matches(&shape, &format!("{query}&params[2]=7&params%5B1%5D=a")), "{shape}");
        assert!(!matches(&shape, &format!("{query}&params[1]=a")));
        assert!(!matches(&shape, query));
    }
}

#[test]
fn invalid_claims_are_rejected() {
    for shape in [
        json!(null),
        json!([]),
        json!("items"),
        json!({}),
        json!({ "table": "" }),
        json!({ "table": 1 }),
        json!({ "table": "a\0" }),
        json!({ "table": "t", "namespace": 1 }),
        json!({ "table": "t", "where": 1 }),
        json!({ "table": "t", "where": "a\0" }),
        json!({ "table": "t", "columns": [] }),
        json!({ "table": "t", "columns": ["a", "a"] }),
        json!({ "table": "t", "columns": ["a", 1] }),
        json!({ "table": "t", "columns": "a b" }),
        json!({ "table": "t", "params": { "0": "a" } }),
        json!({ "table": "t", "params": { "2": "a" } }),
        json!({ "table": "t", "params": { "01": "a" } }),
        json!({ "table": "t", "params": { "": "a" } }),
        json!({ "table": "t", "params": [null] }),
        json!({ "table": "t", "params": [1.5] }),
        json!({ "table": "t", "params": ["a\0"] }),
        json!({ "table": "t", "replica": "x" }),
        json!({ "table": "t", "log": true }),
        json!({ "table": "t", "order_by": "a" }),
    ] {
        assert_eq!(claim(&shape), Err(Malformed), "{shape}");
    }
}

#[test]
fn the_issuers_setting_decides_how_a_claim_is_treated() {
    let read = |claims: Value, treated| ShapeClaim::read(claims.as_object().unwrap(), treated);
    let shape = json!({ "table": "t" });
    assert_eq!(read(json!({ "shape": shape }), ShapeClaims::Ignored), Ok(None));
    assert_eq!(read(json!({ "shape": 1 }), ShapeClaims::Ignored), Ok(None));
    assert_eq!(read(json!({}), ShapeClaims::Honoured), Ok(None));
    assert_eq!(read(json!({}), ShapeClaims::Own), Err(Malformed));
    assert_eq!(read(json!({ "shape": shape }), ShapeClaims::Own), Err(Malformed));
    // The `rule` claim of another issuer is ignored.
    let foreign = read(json!({ "shape": shape, "rule": "r" }), ShapeClaims::Honoured).unwrap().unwrap();
    assert_eq!(foreign.rule(), None);
    let own = read(json!({ "shape": shape, "rule": "r" }), ShapeClaims::Own).unwrap().unwrap();
    assert_eq!(own.rule(), Some("r"));
}

#[test]
fn a_private_key_is_read_from_pem_only() {
    for (algorithm, expected) in
        [(&rcgen::PKCS_ED25519, Algorithm::EdDsa), (&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm::Es256)]
    {
        let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let key = SigningKey::from_pem(pair.serialize_pem().as_bytes()).unwrap();
        assert_eq!(key.algorithm(), expected);
        assert_eq!(format!("{key:?}"), format!("SigningKey({expected})"));
        assert!(SigningKey::from_pem(&pair.serialize_der()).is_err());
        assert!(SigningKey::from_pem(pair.public_key_pem().as_bytes()).is_err());
    }
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(SigningKey::from_pem(p384.serialize_pem().as_bytes()).is_err());
    assert!(SigningKey::from_pem(b"").is_err());
}

#[test]
fn the_kid_of_a_key_is_its_thumbprint() {
    // RFC 8037 appendix A.1 to A.3: the private key, the public key and its thumbprint.
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    let jwks = SigningKey::from_pem(pem.as_bytes()).unwrap().jwks().unwrap();
    assert_eq!(jwks["keys"][0]["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    assert_eq!(jwks["keys"][0]["kid"], "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z_][a-z0-9_]{0,6}", "[ -~é\"]{1,6}"]
}

fn shape() -> impl Strategy<Value = Value> {
    let columns = || prop::option::of(prop::collection::btree_set(name(), 1..4));
    let parts = (
        prop::option::of(name()),
        name(),
        prop::option::of("[ -~\n+%&=é]{0,20}"),
        prop::collection::vec("[ -~+%&=é]{0,6}", 0..4),
        columns(),
        columns(),
        prop::option::of(prop::sample::select(vec!["default", "full"])),
        prop::option::of(prop::sample::select(vec!["full", "changes_only"])),
    );
    parts.prop_map(|(namespace, table, where_, params, columns, queryable, replica, log)| {
        json!({
            "namespace": namespace, "table": table, "where": where_, "params": params, "columns": columns,
            "queryable_columns": queryable, "replica": replica, "log": log,
        })
    })
}

proptest! {
    /// The request to Electric repeats the claim. A client that sends the same query is allowed by this claim and by no
    /// other.
    #[test]
    fn the_request_to_electric_repeats_the_claim(shape in shape(), other in shape()) {
        let (claim, other) = (claim(&shape).unwrap(), claim(&other).unwrap());
        let query = written(&claim);
        let sent = upstream(&claim, &query).expect("the claim's own definition");
        let again = upstream(&claim, sent.query()).expect("the request to Electric");
        prop_assert_eq!(sent.query(), again.query());
        prop_assert_eq!(claim == other, upstream(&other, &query).is_some());
    }

    /// A query with an additional parameter of the definition is rejected.
    #[test]
    fn additional_parameters_of_the_definition_are_rejected(
        shape in shape(),
        name in "table|where|columns|queryable_columns|replica|params(\\[[0-9+x]{0,2}\\]?)?",
    ) {
        let claim = claim(&shape).unwrap();
        let query = written(&claim);
        let base = format!("{name}=");
        if query.split('&').any(|pair| pair.starts_with(&base)) || name.starts_with("params") {
            let more = format!("{query}&{name}=zz");
            prop_assert!(upstream(&claim, &more).is_none(), "{}", more);
        }
    }

    /// No query panics. The request to Electric for an allowed one is allowed itself.
    #[test]
    fn any_query_is_allowed_or_rejected(
        query in "((table|where|params\\[1\\]|columns|offset|log|x)=[a-z%0-9\",.+-]{0,6}&?){0,6}",
    ) {
        let claim = claim(&json!({ "table": "t" })).unwrap();
        if let Some(sent) = upstream(&claim, &query) {
            prop_assert!(upstream(&claim, sent.query()).is_some());
        }
    }
}

/// Returns a query that repeats a claim, as a client would write it.
fn written(claim: &ShapeClaim) -> String {
    let Definition { table, predicate, columns, queryable_columns, replica, log, .. } = claim.definition();
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("offset", "-1").append_pair("table", &table.to_string());
    for (name, value) in [
        ("where", predicate.clone()),
        ("columns", columns.as_ref().map(|columns| columns.text().to_owned())),
        ("queryable_columns", queryable_columns.as_ref().map(|columns| columns.text().to_owned())),
        ("replica", (*replica == crate::shape::Replica::Full).then(|| "full".to_owned())),
        ("log", (*log == Log::ChangesOnly).then(|| "changes_only".to_owned())),
    ] {
        query.extend_pairs(value.map(|value| (name, value)));
    }
    for (number, value) in claim.definition().numbered_params() {
        query.append_pair(&format!("params[{number}]"), value);
    }
    query.finish()
}
