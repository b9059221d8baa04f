//! Finds an issuer's key set by its metadata: OpenID Connect Discovery 1.0 section 4, else RFC 8414 section 3.

use serde_json::Value;
use url::Url;

use crate::auth::http::{Endpoint, FetchError, MAX_SHOWN};
use crate::json;

/// The most bytes of a metadata document.
pub(super) const MAX_METADATA_BYTES: usize = 256 * 1024;

/// Returns where the metadata of the issuer at `issuer` may be, the usual place first.
pub(super) fn places(issuer: &Url) -> [Url; 2] {
    let path = issuer.path().trim_end_matches('/');
    [format!("{path}/.well-known/openid-configuration"), format!("/.well-known/oauth-authorization-server{path}")].map(
        |path| {
            let mut place = issuer.clone();
            place.set_path(&path);
            place
        },
    )
}

/// Reads the URL of the key set. The metadata must be of exactly this issuer, and `endpoint`, where it came from, must be
/// allowed to name the URL.
pub(super) fn jwks_uri(metadata: &[u8], issuer: &str, endpoint: &Endpoint) -> Result<Url, FetchError> {
    let metadata = json::parse_object(metadata).map_err(|_| FetchError::Metadata("is not a JSON object"))?;
    let text = |name| metadata.get(name).and_then(Value::as_str);
    let named = text("issuer").ok_or(FetchError::Metadata("has no issuer"))?;
    if named != issuer {
        return Err(FetchError::OtherIssuer(named.chars().take(MAX_SHOWN).collect()));
    }
    let uri = text("jwks_uri").ok_or(FetchError::Metadata("has no jwks_uri: write jwks.url or a secret instead"))?;
    let uri = Url::parse(uri).map_err(|_| FetchError::Metadata("has a jwks_uri that is not a URL"))?;
    if endpoint.may_name(&uri) {
        Ok(uri)
    } else {
        Err(FetchError::Metadata("has a jwks_uri that is not https, or that is not in the public internet"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::testing::remote_keys;

    fn read(metadata: &Value) -> Result<Url, FetchError> {
        jwks_uri(metadata.to_string().as_bytes(), "https://auth.example.com", &remote_keys().endpoint)
    }

    #[test]
    fn metadata_is_looked_for_in_two_places() {
        for (issuer, places) in [
            (
                "https://a.example",
                [
                    "https://a.example/.well-known/openid-configuration",
                    "https://a.example/.well-known/oauth-authorization-server",
                ],
            ),
            (
                "https://a.example/",
                [
                    "https://a.example/.well-known/openid-configuration",
                    "https://a.example/.well-known/oauth-authorization-server",
                ],
            ),
            (
                "https://a.example:8443/realms/b",
                [
                    "https://a.example:8443/realms/b/.well-known/openid-configuration",
                    "https://a.example:8443/.well-known/oauth-authorization-server/realms/b",
                ],
            ),
        ] {
            assert_eq!(super::places(&issuer.parse().unwrap()).map(String::from), places);
        }
    }

    #[test]
    fn j14_metadata_names_the_key_set_of_exactly_this_issuer() {
        let good = json!({ "issuer": "https://auth.example.com", "jwks_uri": "https://keys.example.net/jwks" });
        assert_eq!(read(&good).unwrap().as_str(), "https://keys.example.net/jwks");
        let with = |name: &str, value: Value| {
            let mut changed = good.clone();
            changed[name] = value;
            read(&changed).unwrap_err().to_string()
        };
        let slash = with("issuer", json!("https://auth.example.com/"));
        assert_eq!(slash, "the metadata is of issuer \"https://auth.example.com/\": write that as the issuer, exactly");
        for (name, value, hint) in [
            ("issuer", json!("https://evil.example"), "is of issuer \"https://evil.example\""),
            ("issuer", json!("HTTPS://auth.example.com"), "is of issuer"),
            ("issuer", json!(["https://auth.example.com"]), "has no issuer"),
            ("jwks_uri", json!(null), "has no jwks_uri"),
            ("jwks_uri", json!("/jwks"), "not a URL"),
            ("jwks_uri", json!("http://keys.example.net/jwks"), "not https"),
            ("jwks_uri", json!("https://169.254.169.254/"), "not in the public internet"),
            ("jwks_uri", json!("https://localhost/"), "not in the public internet"),
        ] {
            let error = with(name, value.clone());
            assert!(error.contains(hint), "{name} {value}: {error}");
        }
        let twice = r#"{"issuer":"https://auth.example.com","jwks_uri":"https://a/","jwks_uri":"https://b/"}"#;
        let error = jwks_uri(twice.as_bytes(), "https://auth.example.com", &remote_keys().endpoint).unwrap_err();
        assert_eq!(error, FetchError::Metadata("is not a JSON object"));
    }
}
