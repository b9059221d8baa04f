//! Loads every configuration of docs/issuers.md, and tries it with tokens of the issuer's documented shape.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::auth::testing::{NOW, ScriptedFetch, TestKey, jwks};
use crate::auth::{Algorithm, BearerToken, IssuerSettings, TokenVerifier};
use crate::clock::ManualClock;
use crate::config::{Config, Environment};

const LEGACY_SECRET: &str = "the legacy secret of a Supabase project, long enough";

/// Returns the configurations below a heading of docs/issuers.md.
fn recipes(heading: &str) -> Vec<String> {
    let text = include_str!("../../../docs/issuers.md");
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("{heading}"));
    let section = section.split("\n## ").next().unwrap();
    section.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

fn load(recipe: &str) -> Config {
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\n[upstream]\nurl = 'http://127.0.0.1:3000'\ndanger_no_secret = true\n\
         [[shape]]\ntable = 'tasks'\nwhere = 'none'\n{recipe}"
    );
    let environment =
        Environment::from([("SUPABASE_JWT_SECRET", LEGACY_SECRET), ("INTROSPECTION_SECRET", "introspection-secret")]);
    Config::parse(&text, Path::new("docs/issuers.md"), &environment).unwrap_or_else(|errors| panic!("{errors}"))
}

fn only_issuer(recipe: &str) -> IssuerSettings {
    let mut issuers = load(recipe).issuers;
    assert_eq!(issuers.len(), 1, "{recipe}");
    issuers.remove(0)
}

/// One issuer with its keys.
struct Tried {
    verifier: TokenVerifier,
    key: TestKey,
    claims: Value,
}

/// Loads the configuration with number `recipe` below `heading`. Its tokens have `claims` and are signed by `key`;
/// `set` is what its key URL serves.
fn tried_with(heading: &str, recipe: usize, key: TestKey, set: String, mut claims: Value) -> Tried {
    let issuer = only_issuer(&recipes(heading)[recipe]);
    claims["exp"] = (NOW.as_secs() + 60).into();
    claims["iat"] = NOW.as_secs().into();
    let clock = Arc::new(ManualClock::at(NOW));
    let verifier = TokenVerifier::new(vec![issuer], 1 << 20, clock, None, ScriptedFetch::open([Ok(set)])).unwrap();
    Tried { verifier, key, claims }
}

fn tried(heading: &str, key: TestKey, claims: Value) -> Tried {
    let set = jwks(&[&key]);
    tried_with(heading, 0, key, set, claims)
}

fn rs256() -> TestKey {
    TestKey::rsa("k1", Algorithm::Rs256)
}

impl Tried {
    fn token(&self, changes: &Value) -> BearerToken {
        let mut claims = self.claims.clone();
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        self.key.sign(&claims)
    }

    async fn accepts(&self) {
        let token = self.token(&json!({}));
        if let Err(error) = self.verifier.verify(&token).await {
            panic!("{error}: {:?}", self.verifier.explain(&token, error, NOW));
        }
    }

    /// Asserts that the token with these changes is rejected, and that the operator is told why.
    async fn rejects(&self, changes: Value, message: &str) {
        self.rejects_token(&self.token(&changes), message).await;
    }

    async fn rejects_token(&self, token: &BearerToken, message: &str) {
        let error = self.verifier.verify(token).await.expect_err(message);
        let said = self.verifier.explain(token, error, NOW).unwrap_or_else(|| error.to_string());
        assert!(said.contains(message), "{said}");
    }
}

#[tokio::test]
async fn auth0_tokens_are_accepted() {
    let claims = json!({
        "iss": "https://TENANT.us.auth0.com/", "sub": "auth0|1", "azp": "spa", "scope": "openid read:tasks",
        "aud": ["https://api.example.com", "https://TENANT.us.auth0.com/userinfo"],
        "https://app.example.com/org": "org-1", "permissions": [],
    });
    let auth0 = tried("Auth0", rs256(), claims);
    auth0.accepts().await;
    let slash = r#"iss is "https://TENANT.us.auth0.com"; the configuration has "https://TENANT.us.auth0.com/": write the token's"#;
    auth0.rejects(json!({ "iss": "https://TENANT.us.auth0.com" }), slash).await;
    auth0.rejects(json!({ "aud": "spa" }), r#"aud is "spa"; this issuer takes "https://api.example.com""#).await;
    auth0.rejects(json!({ "iss": "https://other.us.auth0.com/" }), "the issuers are").await;
    auth0.rejects(json!({ "exp": NOW.as_secs() - 60 }), "exp is 1799999940; the time is 1800000000").await;
}

#[tokio::test]
async fn clerk_session_tokens_are_accepted() {
    let claims = json!({
        "azp": "https://app.example.com", "fva": [1, -1], "iss": "https://clerk.example.com",
        "nbf": NOW.as_secs() - 10, "sid": "sess_1", "sub": "user_1", "v": 2, "o": { "id": "org_1", "rol": "admin" },
    });
    let clerk = tried("Clerk", rs256(), claims);
    clerk.accepts().await;
    let unfulfilled = "the claims do not fulfil require = \"claims.azp in ['https://app.example.com']\"";
    let found = |azp: &str| format!("{unfulfilled}: claims.azp {azp}");
    clerk.rejects(json!({ "azp": "http://localhost:3000" }), &found("= \"http://localhost:3000\"")).await;
    clerk.rejects(json!({ "azp": null }), &found("is missing")).await;
    clerk.rejects(json!({ "iss": "https://clerk.example.com/" }), "the configuration has").await;
    // Who wrote `audience` is told what to write.
    let mut issuer = only_issuer(&recipes("Clerk")[0]);
    (issuer.audience, issuer.require) = (vec!["https://app.example.com".to_owned()], None);
    let fetch = ScriptedFetch::open([Ok(jwks(&[&clerk.key]))]);
    let clock = Arc::new(ManualClock::at(NOW));
    let verifier = TokenVerifier::new(vec![issuer], 1 << 20, clock, None, fetch).unwrap();
    let mistaken = Tried { verifier, key: clerk.key, claims: clerk.claims };
    mistaken.rejects(json!({}), "instead of `audience`").await;
}

#[tokio::test]
async fn supabase_tokens_of_both_kinds_are_accepted() {
    let claims = json!({
        "iss": "https://PROJECT.supabase.co/auth/v1", "aud": "authenticated", "role": "authenticated", "sub": "u1",
        "session_id": "s1", "aal": "aal1", "is_anonymous": false, "email": "a@example.com", "phone": "",
        "app_metadata": { "org": "org-1" }, "user_metadata": {}, "amr": [{ "method": "password", "timestamp": 1 }],
    });
    let mut supabase = tried("Supabase", TestKey::es256("k1"), claims);
    supabase.accepts().await;
    let new = supabase.key.clone();
    supabase.key = TestKey::hmac(LEGACY_SECRET.as_bytes()).named(Some("legacy"));
    supabase.accepts().await;
    for key in [supabase.key.clone(), new] {
        supabase.key = key;
        supabase.rejects(json!({ "role": "service_role" }), "do not fulfil require").await;
        supabase.rejects(json!({ "iss": "supabase" }), r#"iss is "supabase"; the issuers are"#).await;
        supabase.rejects(json!({ "aud": "anon" }), r#"aud is "anon""#).await;
    }
    supabase.key = TestKey::hmac(b"the secret of another project, of the same length.");
    supabase.rejects(json!({}), "it was signed with another key or secret").await;
}

#[tokio::test]
async fn firebase_id_tokens_are_accepted() {
    let claims = json!({
        "iss": "https://securetoken.google.com/PROJECT", "aud": "PROJECT", "auth_time": NOW.as_secs(), "sub": "u1",
        "user_id": "u1", "firebase": { "identities": {}, "sign_in_provider": "password" },
    });
    let firebase = tried("Firebase", rs256(), claims.clone());
    firebase.accepts().await;
    firebase.rejects(json!({ "aud": "OTHER" }), r#"aud is "OTHER"; this issuer takes "PROJECT""#).await;
    firebase.rejects(json!({ "iss": "https://session.firebase.google.com/PROJECT" }), "the issuers are").await;
    firebase.rejects(json!({ "sub": "" }), "it must be a string").await;
    let certificates = json!({ "k1": "-----BEGIN CERTIFICATE-----\nMIIB\n" }).to_string();
    let mistaken = tried_with("Firebase", 0, rs256(), certificates, claims);
    mistaken.rejects(json!({}), "keys are unavailable").await;
}

#[tokio::test]
async fn cognito_tokens_are_accepted_by_their_use() {
    let issuer = "https://cognito-idp.REGION.amazonaws.com/POOL";
    let access = json!({
        "sub": "u1", "cognito:groups": ["a"], "iss": issuer, "version": 2, "client_id": "CLIENT", "origin_jti": "o",
        "token_use": "access", "scope": "aws.cognito.signin.user.admin", "auth_time": 1, "jti": "j", "username": "u",
    });
    let id = json!({
        "sub": "u1", "cognito:groups": ["a"], "iss": issuer, "aud": "CLIENT", "token_use": "id", "auth_time": 1,
        "cognito:username": "u", "email_verified": true, "origin_jti": "o", "jti": "j",
    });
    let set = jwks(&[&rs256()]);
    let for_access = tried_with("Cognito", 0, rs256(), set.clone(), access.clone());
    let for_id = tried_with("Cognito", 1, rs256(), set, id.clone());
    for_access.accepts().await;
    for_id.accepts().await;
    for_access.rejects_token(&for_id.token(&json!({})), "do not fulfil require").await;
    for_access.rejects(json!({ "client_id": "OTHER" }), "do not fulfil require").await;
    for_access.rejects(json!({ "iss": format!("{issuer}2") }), "the issuers are").await;
    for_id.rejects_token(&for_access.token(&json!({})), "aud is missing").await;
    for_id.rejects(json!({ "aud": "OTHER" }), r#"aud is "OTHER""#).await;
    for_id.rejects(json!({ "token_use": "access" }), "do not fulfil require").await;
}

#[tokio::test]
async fn keycloak_access_tokens_are_accepted() {
    let claims = json!({
        "iss": "https://keycloak.example.com/realms/REALM", "aud": ["shapegate", "account"], "sub": "u1", "typ": "Bearer",
        "azp": "web", "sid": "s1", "acr": "1", "scope": "openid profile", "realm_access": { "roles": ["reader"] },
        "resource_access": { "account": { "roles": ["view-profile"] } }, "preferred_username": "ann", "jti": "onrtac:1",
    });
    let keycloak = tried("Keycloak", rs256(), claims);
    keycloak.accepts().await;
    let mapper = r#"aud is "account"; this issuer takes "shapegate": let the issuer add one of these"#;
    keycloak.rejects(json!({ "aud": "account" }), mapper).await;
    keycloak.rejects(json!({ "aud": null }), "aud is missing").await;
    keycloak.rejects(json!({ "iss": "http://keycloak:8080/realms/REALM" }), "the issuers are").await;
}

#[tokio::test]
async fn entra_id_access_tokens_are_accepted_by_keys_without_alg() {
    let groups: Vec<_> = (0..200).map(|number| format!("{number:08}-0000-0000-0000-000000000000")).collect();
    let claims = json!({
        "aud": "CLIENT", "iss": "https://login.microsoftonline.com/TENANT/v2.0", "nbf": NOW.as_secs(), "aio": "x",
        "azp": "web", "azpacr": "0", "groups": groups, "oid": "u1", "rh": "x", "scp": "Tasks.Read profile", "sub": "u1",
        "tid": "TENANT", "uti": "x", "ver": "2.0",
    });
    let mut jwk = rs256().jwk();
    jwk["alg"] = Value::Null;
    jwk["x5c"] = json!(["MIIC"]);
    jwk["issuer"] = "https://login.microsoftonline.com/TENANT/v2.0".into();
    let set = json!({ "keys": [jwk] }).to_string();
    let entra = tried_with("Entra ID", 0, rs256(), set, claims);
    entra.accepts().await;
    assert!(entra.token(&json!({})).as_str().len() > 8 * 1024, "longer than the limit of earlier releases");
    entra.rejects(json!({ "iss": "https://sts.windows.net/TENANT/" }), "the issuers are").await;
    let other = json!({ "iss": "https://login.microsoftonline.com/OTHER/v2.0", "tid": "OTHER" });
    entra.rejects(other, "the issuers are").await;
    entra.rejects(json!({ "aud": "00000003-0000-0000-c000-000000000000" }), "aud is ").await;
}

#[tokio::test]
async fn okta_access_tokens_are_accepted() {
    let claims = json!({
        "ver": 1, "jti": "AT.1", "iss": "https://ORG.okta.com/oauth2/default", "aud": "api://default", "cid": "web",
        "uid": "u1", "scp": ["openid", "read:tasks"], "auth_time": 1, "sub": "ann@example.com",
    });
    let okta = tried("Okta", rs256(), claims);
    okta.accepts().await;
    okta.rejects(json!({ "iss": "https://ORG.okta.com" }), "the issuers are").await;
    okta.rejects(json!({ "aud": "web" }), r#"aud is "web"; this issuer takes "api://default""#).await;
    okta.rejects(json!({ "iss": "https://ORG.okta.com/oauth2/default/" }), "the configuration has").await;
}

#[tokio::test]
async fn workos_access_tokens_are_accepted() {
    let claims = json!({
        "iss": "https://api.workos.com/user_management/CLIENT", "sub": "user_1", "sid": "session_1", "jti": "1",
        "org_id": "org_1", "role": "member", "roles": ["member"], "permissions": ["posts:read"],
    });
    let workos = tried("WorkOS", rs256(), claims);
    workos.accepts().await;
    workos.rejects(json!({ "org_id": null }), "do not fulfil require").await;
    workos.rejects(json!({ "sid": "app_consent_1" }), "do not fulfil require").await;
    workos.rejects(json!({ "iss": "https://api.workos.com" }), r#"iss is "https://api.workos.com""#).await;
}

#[tokio::test]
async fn better_auth_tokens_are_accepted() {
    let claims = json!({
        "id": "u1", "name": "Ann", "email": "a@example.com", "emailVerified": true, "sub": "u1",
        "createdAt": "2026-01-01T00:00:00.000Z", "iss": "https://app.example.com", "aud": "https://app.example.com",
    });
    let better_auth = tried("better-auth", TestKey::ed25519("k1"), claims);
    better_auth.accepts().await;
    better_auth.rejects(json!({ "iss": "http://localhost:3000" }), "the issuers are").await;
    better_auth.rejects(json!({ "aud": "http://localhost:3000" }), "aud is ").await;
    let session = BearerToken::new("2mXnYrVQ1G7f8iC9.ZmFrZSBzaWduYXR1cmU=").unwrap();
    better_auth.rejects_token(&session, "the token is invalid: structure").await;
    let forged = TestKey::ed25519("k2").sign(&better_auth.claims);
    better_auth.rejects_token(&forged, r#"kid is "k2"; the keys of this issuer are "k1""#).await;
}

#[test]
fn the_introspection_recipe_loads() {
    let issuer = only_issuer(&recipes("Opaque tokens and sessions")[0]);
    let introspection = issuer.introspection.unwrap();
    assert_eq!((introspection.client_id.as_str(), introspection.cache), ("shapegate", Duration::from_secs(60)));
    assert!(issuer.algorithms.is_empty());
}

#[test]
fn discovered_issuers_are_those_that_publish_metadata() {
    for heading in ["Auth0", "Clerk", "Cognito", "Keycloak", "Entra ID", "Okta"] {
        for recipe in recipes(heading) {
            let issuer = only_issuer(&recipe);
            assert_eq!(issuer.keys.remote.unwrap().metadata_of, Some(issuer.issuer), "{heading}");
        }
    }
}
