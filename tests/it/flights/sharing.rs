//! docs/security.md, C2: two requests share a flight exactly if they mean the same, and then the bytes written upstream
//! are equal.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use shapegate::demo::http::Request;

use super::*;

/// Rules whose predicates take values from the query, from one claim, and from a list.
const MANY_RULES: &str = r#"
[[shape]]
table = "tasks"
allow = "query.organizationId in claims.organizationIds"
where = '"organization_id" = {{ query.organizationId }}'

[[shape]]
table = "tasks"
allow = "'admin' in claims.roles"
where = '"organization_id" IN ({{ claims.organizationIds }})'
columns = ["id", "title"]

[[shape]]
table = "items"
where = '"user_id" = {{ claims.sub }} AND "title" <> {{ query.title }}'
danger_client_chosen = ["title"]
replica = "full"

[cache]
bytes = "0B"
"#;

#[derive(Clone, Debug)]
struct Client {
    claims: Value,
    target: String,
}

fn client() -> impl Strategy<Value = Client> {
    let organizations = proptest::sample::subsequence(vec!["org_1", "org_2", "org|3"], 0..=3).prop_shuffle();
    let roles = prop_oneof![Just(json!([])), Just(json!(["admin"]))];
    let claims = (prop_oneof![Just("user-1"), Just("user-2")], organizations, roles).prop_map(
        |(sub, organizations, roles)| json!({ "sub": sub, "organizationIds": organizations, "roles": roles }),
    );
    let own = prop_oneof![
        Just("table=tasks&organizationId=org_1"),
        Just("organizationId=org_1&table=tasks"),
        Just("table=public.tasks&organizationId=org%5F1"),
        Just("table=tasks&organizationId=org_2"),
        Just("table=tasks&organizationId=org%7C3"),
        Just("table=items&title=a"),
        Just("table=items&title=a%26b"),
        Just("table=items&title=a%20b"),
        Just("table=items&title=a+b"),
    ];
    let protocol = prop_oneof![
        Just("offset=-1"),
        Just("offset=-1&utm_source=x"),
        Just("offset=-1&live=false"),
        Just("offset=-1&log=full"),
        Just("offset=-1&cursor=7"),
        Just("offset=-1&handle="),
        Just("offset=now"),
        Just("offset=-1&cache-buster=1"),
        Just("offset=-1&expired_handle=7-1"),
        Just("offset=-1&log=changes_only"),
        Just("offset=0_0&handle=7-1"),
        Just("offset=0_0&handle=7-1&live=true&cursor=1"),
        Just("offset=0_0&handle=7-1&live=true&cursor=2&cache-buster=3&expired_handle=6-1"),
        Just("offset=0_0&handle=7-1&live=true&live_sse=true&experimental_live_sse=true&cursor=1"),
    ];
    (claims, own, protocol, any::<bool>()).prop_map(|(claims, own, protocol, own_first)| {
        let query = if own_first { format!("{own}&{protocol}") } else { format!("{protocol}&{own}") };
        Client { claims, target: format!("/v1/shape?{query}") }
    })
}

/// Returns the target and the headers of an upstream request, without its request id.
fn bytes(request: &Request) -> (String, Vec<(String, String)>) {
    let headers = request.headers.iter().filter(|(name, _)| name != "x-request-id");
    (request.target.clone(), headers.cloned().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_share_a_flight_exactly_if_their_upstream_bytes_are_equal() {
    let gate = Gate::with(Setup { rules: MANY_RULES.to_owned(), ..Setup::default() }).await;
    let mut runner = TestRunner::deterministic();
    // In half of the cases both clients send the same target with different claims.
    let pair = (client(), client(), any::<bool>()).prop_map(|(one, other, same)| {
        let target = if same { one.target.clone() } else { other.target };
        (one, Client { target, ..other })
    });
    let (mut shared, mut apart) = (0, 0);
    for _ in 0..300 {
        let (one, other) = pair.new_tree(&mut runner).unwrap().current();
        let mut alone = Vec::new();
        for client in [&one, &other] {
            let before = gate.electric.request_count();
            gate.electric.script(Reply::json(400, "{}"));
            gate.get(&client.target, &gate.issuer.token(&client.claims)).await;
            let asked = gate.electric.request_count() > before;
            alone.push(gate.electric.requests().last().filter(|_| asked).map(bytes));
        }
        gate.electric.hold();
        let before = gate.electric.request_count();
        let both: Vec<_> =
            [&one, &other].map(|client| ask(&gate, &client.target, &gate.issuer.token(&client.claims))).into();
        let (Some(first), Some(second)) = (&alone[0], &alone[1]) else {
            gate.electric.release();
            for answer in both {
                let _ = answer.await;
            }
            continue;
        };
        // Followers, not requests in flight: an admitted request that has not joined yet would miss the flight.
        gate.until_metric("shapegate_followers", 2.0).await;
        let equal = first == second;
        let expected = if equal { 1 } else { 2 };
        gate.electric.wait_for_requests(before + expected).await;
        for _ in 0..expected {
            gate.electric.script(Reply::json(400, "{}"));
        }
        gate.electric.release();
        for answer in both {
            answer.await.unwrap();
        }
        assert_eq!(gate.electric.request_count() - before, expected, "{one:?} {other:?}");
        *(if equal { &mut shared } else { &mut apart }) += 1;
        gate.until_metric("shapegate_requests_in_flight", 0.0).await;
    }
    assert!(shared > 50 && apart > 50, "{shared} {apart}");
}
