use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::*;
use crate::auth::expectations::Accepted;
use crate::auth::principal::Principal;
use crate::auth::testing::{AUDIENCE, ISSUER, NOW, ScriptedFetch, bearer, issuer, remote_keys};
use crate::auth::{Check, IssuerSettings, KeySource, TokenVerifier};
use crate::clock::ManualClock;

/// An introspection endpoint that knows some tokens. Each response waits for a permit of the gate.
struct Server {
    asked: Mutex<Vec<String>>,
    tokens: Mutex<BTreeMap<String, String>>,
    gate: Semaphore,
    connections: AtomicUsize,
}

struct Setup {
    server: Arc<Server>,
    verifier: Arc<TokenVerifier>,
    clock: Arc<ManualClock>,
    settings: IntrospectionSettings,
}

fn active() -> Value {
    json!({ "active": true, "sub": "user-1", "aud": AUDIENCE, "scope": "read", "exp": NOW.as_secs() + 100 })
}

fn with(name: &str, value: Value) -> String {
    let mut claims = active();
    claims[name] = value;
    claims.to_string()
}

async fn setup(tokens: &[(&str, String)]) -> Setup {
    setup_with(tokens, ClientAuth::Basic).await
}

async fn setup_with(tokens: &[(&str, String)], auth: ClientAuth) -> Setup {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/introspect", listener.local_addr().unwrap()).parse().unwrap();
    let tokens = tokens.iter().map(|(token, answer)| ((*token).to_owned(), answer.clone())).collect();
    let server = Arc::new(Server {
        asked: Mutex::default(),
        tokens: Mutex::new(tokens),
        gate: Semaphore::new(1_000_000),
        connections: AtomicUsize::new(0),
    });
    tokio::spawn(serve(listener, Arc::clone(&server)));
    let endpoint = Endpoint { url, timeout: Duration::from_secs(1), private_address: true, ..remote_keys().endpoint };
    let (client_id, client_secret) = ("shape gate".to_owned(), Secret::new("se:cr%t"));
    let cache = Duration::from_secs(60);
    let settings = IntrospectionSettings { endpoint, client_id, client_secret, auth, cache };
    let issuer =
        IssuerSettings { algorithms: vec![], introspection: Some(settings.clone()), ..issuer(KeySource::default()) };
    let clock = Arc::new(ManualClock::at(NOW));
    let verifier = TokenVerifier::new(vec![issuer], 1 << 20, clock.clone(), None, ScriptedFetch::open([])).unwrap();
    Setup { server, verifier: Arc::new(verifier), clock, settings }
}

async fn serve(listener: TcpListener, server: Arc<Server>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        server.connections.fetch_add(1, Ordering::SeqCst);
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let mut text = String::new();
            let mut piece = [0; 8192];
            loop {
                let length = stream.read(&mut piece).await.unwrap_or_default();
                if length == 0 {
                    return;
                }
                text += &String::from_utf8_lossy(&piece[..length]);
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let expected = head.to_ascii_lowercase();
                let expected = expected.split("content-length: ").nth(1).unwrap().lines().next().unwrap().to_owned();
                if body.len() < expected.parse().unwrap() {
                    continue;
                }
                let token = form_urlencoded::parse(body.as_bytes()).find(|(name, _)| name == "token").unwrap().1;
                let known = server.tokens.lock().unwrap().get(&*token).cloned();
                server.asked.lock().unwrap().push(text.clone());
                server.gate.acquire().await.unwrap().forget();
                let answer = known.unwrap_or_else(|| r#"{"active":false}"#.to_owned());
                let answer = match answer.strip_prefix("HTTP") {
                    Some(_) => answer,
                    None => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len()),
                };
                let _ = stream.write_all(answer.as_bytes()).await;
                text.clear();
            }
        });
    }
}

impl Setup {
    async fn verify(&self, token: &str) -> Result<Check, TokenError> {
        self.verifier.verify(&bearer(token)).await.map(|verified| verified.check)
    }

    fn asked(&self) -> usize {
        self.server.asked.lock().unwrap().len()
    }
}

fn invalid(reason: InvalidReason) -> Result<Check, TokenError> {
    Err(reason.into())
}

#[tokio::test]
async fn an_active_token_is_accepted_and_its_result_cached() {
    let setup = setup(&[("opaque", active().to_string())]).await;
    assert_eq!(setup.verify("opaque").await, Ok(Check::New));
    assert_eq!(setup.verify("opaque").await, Ok(Check::Seen));
    let principal = setup.verifier.verify(&bearer("opaque")).await.unwrap().principal;
    assert_eq!((principal.issuer(), principal.subject()), (ISSUER, Some("user-1")));
    assert_eq!(setup.asked(), 1);
    let token = bearer("other");
    assert!(matches!(setup.verifier.examine(&token), Ok(crate::auth::Examined::Opaque)));
    assert!(setup.verifier.key_status()[0].ready);
    assert_eq!(setup.verifier.recheck(&principal), Ok(()));
    let asked = setup.server.asked.lock().unwrap()[0].clone();
    let (head, body) = asked.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /introspect HTTP/1.1"));
    // RFC 6749 section 2.3.1: both parts are form-encoded before base64.
    let basic = STANDARD.encode("shape+gate:se%3Acr%25t");
    assert!(head.contains(&format!("authorization: Basic {basic}")), "{head}");
    assert_eq!(body, "token=opaque&token_type_hint=access_token");
}

#[tokio::test]
async fn a_client_may_authenticate_in_the_body() {
    let setup = setup_with(&[("opaque", active().to_string())], ClientAuth::Post).await;
    assert_eq!(setup.verify("opaque").await, Ok(Check::New));
    let asked = setup.server.asked.lock().unwrap()[0].clone();
    assert!(asked.ends_with("client_id=shape+gate&client_secret=se%3Acr%25t") && !asked.contains("Basic"), "{asked}");
}

#[tokio::test]
async fn i1_a_token_that_is_not_for_us_is_rejected() {
    let expired = with("exp", json!(NOW.as_secs() - 1));
    let setup = setup(&[
        ("audience", with("aud", json!("https://elsewhere"))),
        ("issuer", with("iss", json!("https://elsewhere"))),
        ("subject", with("sub", json!(7))),
        ("early", with("nbf", json!(NOW.as_secs() + 60))),
        ("expired", expired),
        ("named", with("iss", json!(ISSUER))),
    ])
    .await;
    for (token, expected) in [
        ("unknown", invalid(InvalidReason::Inactive)),
        ("audience", invalid(InvalidReason::Audience)),
        ("issuer", invalid(InvalidReason::Issuer)),
        ("subject", invalid(InvalidReason::Subject)),
        ("early", invalid(InvalidReason::NotBefore)),
        ("expired", Err(TokenError::Expired)),
        ("named", Ok(Check::New)),
        // A signed token is never sent to the endpoint.
        ("a.b.c", invalid(InvalidReason::Encoding)),
    ] {
        assert_eq!(setup.verify(token).await, expected, "{token}");
    }
    assert_eq!(setup.asked(), 7);
}

#[tokio::test]
async fn i2_a_token_gets_only_the_result_of_its_own_request() {
    let tokens: Vec<_> = (0..50).map(|number| format!("token-{number}")).collect();
    let answers: Vec<_> = tokens.iter().map(|token| (token.as_str(), with("sub", json!(token)))).collect();
    let setup = setup(&answers).await;
    let asking = tokens.iter().cycle().take(500).map(|token| {
        let (verifier, token) = (Arc::clone(&setup.verifier), token.clone());
        tokio::spawn(async move {
            let principal = verifier.verify(&bearer(&token)).await.unwrap().principal;
            assert_eq!(principal.subject(), Some(&*token));
        })
    });
    for asked in asking.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
    assert_eq!(setup.asked(), 50, "one request for each token");
}

#[tokio::test]
async fn one_request_serves_all_who_ask_and_outlives_the_one_who_asked_first() {
    let setup = setup(&[("opaque", active().to_string())]).await;
    setup.server.gate.forget_permits(1_000_000);
    let ask = || {
        let verifier = Arc::clone(&setup.verifier);
        tokio::spawn(async move { verifier.verify(&bearer("opaque")).await.map(|verified| verified.check) })
    };
    let first = ask();
    while setup.asked() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let others: Vec<_> = (0..20).map(|_| ask()).collect();
    first.abort();
    setup.server.gate.add_permits(100);
    for other in others {
        assert_eq!(other.await.unwrap(), Ok(Check::New));
    }
    assert!(setup.asked() <= 2, "{} requests", setup.asked());
}

#[tokio::test]
async fn i3_a_failing_endpoint_neither_accepts_nor_rejects_and_is_left_alone_briefly() {
    let unavailable = Err(TokenError::Unavailable { retry_after: BRIEFLY });
    let huge = format!("{{\"active\":true,\"x\":\"{}\"}}", "x".repeat(MAX_RESPONSE_BYTES));
    for answer in [
        "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nlocation: https://elsewhere/\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 15\r\n\r\n{\"active\":true}",
        "",
        "true",
        r#"{"active":"true","sub":"user-1"}"#,
        r#"{"sub":"user-1"}"#,
        r#"{"active":true,"active":false}"#,
        &huge,
    ] {
        let setup = setup(&[("opaque", answer.to_owned()), ("other", active().to_string())]).await;
        assert_eq!(setup.verify("opaque").await, unavailable, "{answer:.60}");
        assert_eq!(setup.verify("opaque").await, unavailable);
        assert_eq!(setup.verify("other").await, unavailable, "not asked about other tokens either");
        assert_eq!(setup.asked(), 1);
    }
}

#[tokio::test]
async fn results_are_used_for_a_limited_time() {
    let setup = setup(&[("opaque", active().to_string())]).await;
    assert_eq!(setup.verify("opaque").await, Ok(Check::New));
    assert_eq!(setup.verify("unknown").await, invalid(InvalidReason::Inactive));
    setup.server.tokens.lock().unwrap().clear();
    setup.server.tokens.lock().unwrap().insert("unknown".to_owned(), active().to_string());
    assert_eq!(setup.verify("opaque").await, Ok(Check::Seen));
    assert_eq!(setup.verify("unknown").await, invalid(InvalidReason::Inactive));
    tokio::time::pause();
    tokio::time::advance(BRIEFLY).await;
    tokio::time::resume();
    assert_eq!(setup.verify("unknown").await, Ok(Check::New), "a rejection is used for a second");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();
    assert_eq!(setup.verify("opaque").await, invalid(InvalidReason::Inactive));
    assert_eq!(setup.asked(), 4);
}

#[tokio::test]
async fn a_cached_result_ends_with_its_token() {
    let setup =
        setup(&[("opaque", active().to_string()), ("session", json!({ "active": true, "aud": AUDIENCE }).to_string())])
            .await;
    for token in ["opaque", "session"] {
        assert_eq!(setup.verify(token).await, Ok(Check::New));
    }
    setup.clock.set(NOW.saturating_add(Duration::from_secs(100)));
    assert_eq!(setup.verify("opaque").await, Err(TokenError::Expired));
    assert_eq!(setup.verify("session").await, Ok(Check::Seen), "without exp, the issuer alone ends it");
}

#[tokio::test]
async fn t18_results_are_cached_within_a_budget_of_bytes_whatever_they_hold() {
    const BUDGET: usize = 256 * 1024;
    let principal = |token: &BearerToken, claims: Map<String, Value>| {
        let accepted = Accepted { claims, subject: None, expires_at: NOW };
        Ok(Arc::new(Principal::new(token, ISSUER.into(), None, accepted, None)))
    };
    for claim in [json!("x".repeat(8192)), json!(vec![json!({ "": 0 }); 500]), json!(null)] {
        let answer = json!({ "active": true, "x": claim }).to_string();
        let tokens: Vec<_> = (0..400).map(|number| format!("token-{number}")).collect();
        let tokens: Vec<_> = tokens.iter().map(|token| (token.as_str(), answer.clone())).collect();
        let setup = setup(&tokens).await;
        let introspection = Introspection::new(setup.settings, BUDGET);
        for (token, _) in &tokens {
            let token = bearer(token);
            introspection.verify(&token, |claims| principal(&token, claims)).await.unwrap();
            assert!(introspection.outcomes.weight() <= BUDGET as u64, "{}", introspection.outcomes.weight());
        }
        assert!(introspection.outcomes.weight() >= BUDGET as u64 / 2, "the budget is used");
        assert!(introspection.outcomes.len() < 400, "some are evicted");
    }
    // Rejections take memory too.
    let setup = setup(&[]).await;
    let introspection = Introspection::<Arc<Principal>>::new(setup.settings, BUDGET);
    for number in 0..2000 {
        let token = bearer(&number.to_string());
        introspection.verify(&token, |_| unreachable!()).await.unwrap_err();
    }
    assert!(introspection.outcomes.weight() <= BUDGET as u64 && introspection.outcomes.len() < 2000);
}
