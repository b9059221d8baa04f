//! Resolves `introspection` of an `[[issuer]]`: the endpoint that is asked about tokens that are not signed.

use super::endpoint::{Purpose, access};
use super::secret::secret;
use super::secs;
use crate::auth::{ClientAuth, IntrospectionSettings};
use crate::config::Environment;
use crate::config::raw::{Bounds, Section};

const ENDPOINT: Purpose = Purpose {
    example: "https://auth.example.com/oauth2/introspect",
    risk: "plain http shows every token and the client's secret to the network",
};

/// Resolves the section; `None` if it has an error.
pub(super) fn introspection(mut section: Section<'_>, environment: &Environment) -> Option<IntrospectionSettings> {
    let url = section.required("url", "write the issuer's introspection endpoint (RFC 7662)");
    let client_id = section.required("client_id", "write the name by which the issuer knows this service");
    let client_secret = section.required("client_secret", r#"write { env = "NAME" }"#);
    let auth = section.choice("auth", ClientAuth::Basic, &[("basic", ClientAuth::Basic), ("post", ClientAuth::Post)]);
    let cache = section.duration("cache", secs(60), Bounds::new(secs(1), secs(600)));
    let access = access(&mut section, secs(2));
    let endpoint = url.and_then(|url| access.endpoint(&url, &ENDPOINT, environment));
    let client_id = client_id.and_then(|value| value.text());
    let client_secret = client_secret.and_then(|value| secret(value, 1, environment));
    Some(IntrospectionSettings {
        endpoint: endpoint?,
        client_id: client_id?.to_owned(),
        client_secret: client_secret?,
        auth,
        cache,
    })
}
