//! Tokens that come in a cookie (docs/security.md, T16, C18).

use serde_json::json;

use crate::harness::{Answer, Gate, Setup, with_defaults};

const TASKS: &str = "/v1/shape?table=tasks&organizationId=org_1&offset=-1";
const APP: &str = "https://app.test";

const RULES: &str = r#"
[[shape]]
table = "tasks"
allow = "query.organizationId in claims.organizationIds"
where = '"organization_id" = {{ query.organizationId }}'
subset = true

[cors]
origins = ["https://app.test"]
credentials = true
"#;

async fn gate() -> Gate {
    let issuer = "cookie = '__session'".to_owned();
    Gate::with(Setup { rules: RULES.to_owned(), issuer, ..Setup::default() }).await
}

async fn ask(request: reqwest::RequestBuilder) -> Answer {
    Answer::of(request.send().await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn token_in_the_configured_cookie_is_accepted() {
    let gate = gate().await;
    let cookie = format!("theme=dark; __session={}", gate.token(&["org_1"]));
    let answer = ask(gate.request(TASKS, None).header("cookie", &cookie).header("origin", APP)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("access-control-allow-origin"), APP);
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
    assert_eq!(answer.header("vary"), "accept-encoding, authorization, cookie, origin");
    // A page of another origin may send the cookie, but not read the response.
    let answer = ask(gate.request(TASKS, None).header("cookie", &cookie).header("origin", "https://evil.test")).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, ""));
    let other = cookie.replace("__session", "session");
    assert_eq!(ask(gate.request(TASKS, None).header("cookie", other)).await.code(), "token_missing");
    let forged = cookie.replace("theme=dark; __session=", "__session=x");
    assert_eq!(ask(gate.request(TASKS, None).header("cookie", forged)).await.code(), "token_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn t16_different_tokens_in_header_and_cookie_are_rejected() {
    let gate = gate().await;
    let (token, other) = (gate.token(&["org_1"]), gate.token(&["org_1", "org_2"]));
    let both = |cookie: &str| gate.request(TASKS, Some(&token)).header("cookie", format!("__session={cookie}"));
    assert_eq!(ask(both(&token)).await.status, 200);
    let answer = ask(both(&other)).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "invalid_request"));
    assert!(answer.text().contains("differs from the token in a cookie"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn cookie_is_only_for_tokens_of_its_own_issuer() {
    let mut gate = gate().await;
    let service = shapegate::demo::issuer::Issuer::new("https://service.test").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, service.jwks().to_string()).unwrap();
    let second = format!(
        "[[issuer]]\nissuer = 'https://service.test'\naudience = 'https://app.test'\nalgorithms = ['EdDSA']\n\
         jwks.file = '{}'\n",
        file.display()
    );
    gate.policy.keep(|setup| setup.rules += &second);
    let token = service.sign(&with_defaults("https://service.test", &json!({ "organizationIds": ["org_1"] })));
    assert_eq!(gate.get(TASKS, &token).await.status, 200);
    for _ in 0..2 {
        let in_cookie = gate.request(TASKS, None).header("cookie", format!("__session={token}"));
        assert_eq!(ask(in_cookie).await.code(), "token_invalid", "verified before or not");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c18_post_with_a_cookie_needs_a_content_type_that_forces_a_preflight() {
    let gate = gate().await;
    let token = gate.token(&["org_1"]);
    let post = |content_type: Option<&str>, in_cookie: bool| {
        let body = r#"{"limit":5,"order_by":"\"id\""}"#;
        let mut request = gate.client().post(format!("{}{TASKS}", gate.url)).body(body);
        request = match in_cookie {
            true => request.header("cookie", format!("__session={token}")),
            false => request.bearer_auth(&token),
        };
        content_type.into_iter().fold(request, |request, value| request.header("content-type", value))
    };
    for (content_type, in_cookie, status) in [
        (Some("application/json"), true, 200),
        (Some("application/json; charset=utf-8"), true, 200),
        (Some("text/plain"), true, 400),
        (Some("application/x-www-form-urlencoded"), true, 400),
        (None, true, 400),
        (None, false, 200),
    ] {
        let answer = ask(post(content_type, in_cookie)).await;
        assert_eq!(answer.status.as_u16(), status, "{content_type:?} {in_cookie}: {}", answer.text());
    }
}
