//! Finds the endpoints of a service: at their usual paths, or in its metadata (AuthZEN section 9).

use serde_json::{Map, Value};
use url::Url;

use super::answer::Failure;
use crate::auth::Endpoint;
use crate::json;

/// The most bytes of a metadata document.
pub(super) const MAX_BYTES: usize = 64 * 1024;

/// Where a service answers questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoints {
    pub(super) evaluation: Option<Url>,
    pub(super) search: Option<Url>,
}

impl Endpoints {
    /// Returns the usual paths below the base URL (AuthZEN section 10).
    pub(super) fn usual(base: &Url) -> Self {
        let below = |path: &str| {
            let mut url = base.clone();
            url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
            Some(url)
        };
        Self { evaluation: below("/access/v1/evaluation"), search: below("/access/v1/search/resource") }
    }
}

/// Returns where the metadata is: the well-known path comes before the path of the base URL.
pub(super) fn place(base: &Url) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("/.well-known/authzen-configuration{}", base.path().trim_end_matches('/')));
    url
}

/// Parses the metadata of the service at `endpoint`. It must name that service, and URLs that the configuration could
/// have: otherwise whoever can change the document could send questions, and the token, anywhere.
pub(super) fn parse(body: &[u8], endpoint: &Endpoint) -> Result<Endpoints, Failure> {
    let members = json::parse_object(body).map_err(|_| Failure::Malformed("of its metadata is not one JSON object"))?;
    let named = members.get("policy_decision_point").and_then(Value::as_str).and_then(|named| Url::parse(named).ok());
    if named.as_ref().map(without_slash) != Some(without_slash(&endpoint.url)) {
        return Err(Failure::Malformed("of its metadata is of another `policy_decision_point` than `url`"));
    }
    let evaluation = named_url(&members, "access_evaluation_endpoint", endpoint)?;
    let search = named_url(&members, "search_resource_endpoint", endpoint)?;
    Ok(Endpoints { evaluation, search })
}

fn without_slash(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

fn named_url(members: &Map<String, Value>, name: &str, endpoint: &Endpoint) -> Result<Option<Url>, Failure> {
    let url = match members.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value.as_str().and_then(|url| Url::parse(url).ok()),
    };
    let url = url.filter(|url| endpoint.may_name(url));
    url.map(Some).ok_or(Failure::Malformed("of its metadata names an endpoint that `url` may not name"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint {
            url: url.parse().unwrap(),
            timeout: Duration::from_secs(1),
            private_address: false,
            plain_http: false,
            ca: Vec::new(),
        }
    }

    #[test]
    fn paths_are_below_the_base_url() {
        for (base, evaluation, well_known) in [
            ("https://a.example", "/access/v1/evaluation", "/.well-known/authzen-configuration"),
            ("https://a.example/t/", "/t/access/v1/evaluation", "/.well-known/authzen-configuration/t"),
        ] {
            let base = base.parse().unwrap();
            assert_eq!(Endpoints::usual(&base).evaluation.unwrap().path(), evaluation);
            assert_eq!(place(&base).path(), well_known);
        }
    }

    #[test]
    fn metadata_of_another_service_or_with_other_places_is_refused() {
        let parsed = |body: &str| parse(body.as_bytes(), &endpoint("https://pdp.example"));
        let found = parsed(
            r#"{"policy_decision_point":"https://pdp.example","access_evaluation_endpoint":"https://pdp.example/e"}"#,
        );
        let found = found.unwrap();
        assert_eq!((found.evaluation.unwrap().as_str(), found.search), ("https://pdp.example/e", None));
        for body in [
            r#"{"policy_decision_point":"https://other.example","access_evaluation_endpoint":"https://pdp.example/e"}"#,
            r#"{"access_evaluation_endpoint":"https://pdp.example/e"}"#,
            r#"{"policy_decision_point":"https://pdp.example","access_evaluation_endpoint":"http://pdp.example/e"}"#,
            r#"{"policy_decision_point":"https://pdp.example","search_resource_endpoint":"https://169.254.169.254/"}"#,
            r#"{"policy_decision_point":"https://pdp.example","search_resource_endpoint":"https://u:p@pdp.example/"}"#,
            r#"{"policy_decision_point":"https://pdp.example","search_resource_endpoint":7}"#,
            "[]",
            "",
        ] {
            assert!(parsed(body).is_err(), "{body}");
        }
    }
}
