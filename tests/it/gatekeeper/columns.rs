//! Tokens minted for some of the rule's columns.

use serde_json::json;

use super::{PARAMS, WHERE, assert_refused, bearer, claims, post, start};

#[tokio::test(flavor = "multi_thread")]
async fn token_is_minted_for_the_columns_that_the_client_names_among_those_of_the_rule() {
    let gate = start().await;
    let user = gate.token(&["org_1"]);
    let mint = async |columns: &str| {
        post(&gate, &format!("/gatekeeper/tasks?organizationId=org_1&columns={columns}"), Some(&user)).await
    };
    let minted = mint("title,id").await;
    assert_eq!(minted.json()["columns"], json!(["id", "title"]));
    let token = bearer(&minted);
    assert_eq!(claims(&token)["shape"]["queryable_columns"], json!(["id", "title"]));
    let ask = async |columns: &str| {
        gate.get(&format!("/v1/shape?table=tasks&{WHERE}&{PARAMS}&columns={columns}&offset=-1"), &token).await
    };
    assert_eq!(ask("title,id").await.rows("title"), ["mine"]);
    for columns in ["id", "id,title,organization_id"] {
        assert_refused(&ask(columns).await, 403, "forbidden", columns);
    }
    for columns in ["id,secret", "*"] {
        assert_refused(&mint(columns).await, 400, "invalid_request", columns);
    }
}
