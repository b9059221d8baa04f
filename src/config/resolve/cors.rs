//! Resolves `[cors]`.

use url::Url;

use super::{hours, secs};
use crate::config::raw::{Bounds, Section, Value};
use crate::proxy::{CorsSettings, Origins};

/// Resolves the section. `cookies` tells whether an issuer's tokens may come in a cookie.
pub(super) fn cors(mut section: Section<'_>, cookies: bool) -> Option<CorsSettings> {
    let origins = section.value("origins").map_or(Some(Origins::Any), |value| origins(&value));
    let credentials = section.boolean("credentials", false);
    let max_age = section.duration("max_age", hours(2), Bounds::new(secs(0), hours(24)));
    if credentials && matches!(origins, Some(Origins::Any)) {
        section.error("credentials", r#"needs a list of `origins`: browsers reject credentials with "*""#);
    }
    if cookies && matches!(origins, Some(Origins::Any)) {
        section.error(
            "origins",
            "must be a list, because an [[issuer]] has `cookie`: browsers send cookies with requests of any page. \
             Write the origins of your own pages",
        );
    }
    Some(CorsSettings { origins: origins?, credentials, cookies, max_age })
}

fn origins(value: &Value<'_>) -> Option<Origins> {
    let values = value.list()?;
    if let [only] = values.as_slice()
        && only.text()? == "*"
    {
        return Some(Origins::Any);
    }
    let origins: Vec<_> = values.iter().map(origin).collect();
    origins.into_iter().collect::<Option<_>>().map(Origins::List)
}

/// Parses an origin, written exactly as browsers serialize it (RFC 6454 section 6.2), because it is compared byte for
/// byte.
fn origin(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if text == "*" {
        value.error(r#""*" allows every origin and must be the only entry"#);
        return None;
    }
    let exact = Url::parse(text).ok().and_then(|url| {
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        Some(format!("{}://{}{port}", url.scheme(), url.host_str()?))
    });
    match exact {
        Some(exact) if exact == text => Some(exact),
        Some(exact) => {
            value.error(format!("not the form that browsers send: write {exact:?}"));
            None
        }
        None => {
            value.error(r#"not an origin: write scheme, host and port, as in "https://app.example.com""#);
            None
        }
    }
}
