//! The budget that a minted token counts against.

use serde_json::json;

use super::{GATEKEEPER, assert_refused, bearer, claims, post};
use crate::harness::{Answer, Gate, RULES, Setup};

/// Anyone may mint any number of these tokens, so each must not have a budget of its own.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_minted_without_a_user_count_by_address() {
    let rules = "[[shape]]\ntable = \"items\"\nwhere = '\"user_id\" = {{ query.user }}'\npublic = true\ndanger_client_chosen = ['user']\n";
    let limits = "[limits]\ntrusted_proxies = ['127.0.0.0/8']\nshapes_per_subject = 1\nshapes_window = '1h'\nrequests_per_subject = 1000\n";
    let gate = Gate::with(Setup { rules: format!("{rules}{GATEKEEPER}{limits}"), ..Setup::default() }).await;
    let ask = async |address: &str, user: &str| {
        let token = bearer(&post(&gate, &format!("/gatekeeper/items?user={user}"), None).await);
        let asked = format!("/v1/shape?table=items&where=%22user_id%22+%3D+%241&params[1]={user}&offset=-1");
        Answer::of(gate.request(&asked, Some(&token)).header("x-forwarded-for", address).send().await.unwrap()).await
    };
    assert_eq!(ask("203.0.113.7", "u_1").await.status, 200);
    assert_refused(&ask("203.0.113.7", "u_2").await, 429, "too_many_requests", "a second shape");
    assert_eq!(ask("203.0.113.8", "u_2").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn minted_token_counts_against_its_user() {
    let limits = "[limits]\nrequests_per_subject = 1\n";
    let rules = RULES.replacen("[[shape]]", "[[shape]]\nsubset = true", 1);
    let gate = Gate::with(Setup { rules: format!("{rules}{GATEKEEPER}{limits}"), ..Setup::default() }).await;
    for claims in [json!({ "sub": "ann" }), json!({ "sub": null })] {
        let mut claims = claims;
        claims["organizationIds"] = json!(["org_1"]);
        if claims["sub"].is_null() {
            claims.as_object_mut().unwrap().remove("sub");
        }
        let user = gate.issuer.token(&claims);
        let minted = bearer(&post(&gate, "/gatekeeper/tasks?organizationId=org_1", Some(&user)).await);
        let target = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";
        let first = gate.get(target, &user).await;
        let handle = first.header("electric-handle").to_owned();
        let offset = first.header("electric-offset").to_owned();
        let waiting = tokio::spawn({
            let (client, user) = (gate.client().clone(), user.clone());
            let url = format!(
                "{}/v1/shape?table=tasks&organizationId=org_1&offset={offset}&handle={handle}&live=true",
                gate.url
            );
            async move { client.get(url).bearer_auth(user).send().await }
        });
        gate.until_metric("shapegate_requests_in_flight", 1.0).await;
        let repeated = format!("/v1/shape?{}&offset=-1", definition(&minted));
        assert_refused(&gate.get(&repeated, &minted).await, 429, "too_many_requests", "a second budget");
        waiting.abort();
        gate.until_metric("shapegate_requests_in_flight", 0.0).await;
        assert_eq!(gate.get(&repeated, &minted).await.status, 200);
    }
}

/// Returns the query that repeats the definition in a shape token.
fn definition(token: &str) -> String {
    let shape = &claims(token)["shape"];
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("table", shape["table"].as_str().unwrap());
    query.append_pair("where", shape["where"].as_str().unwrap());
    for (number, value) in shape["params"].as_object().unwrap() {
        query.append_pair(&format!("params[{number}]"), value.as_str().unwrap());
    }
    query.finish()
}
