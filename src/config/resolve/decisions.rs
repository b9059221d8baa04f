//! Resolves `[decisions.NAME]`, and what rules ask these services.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Number};
use toml::de::DeValue;

use super::endpoint::{self, Purpose};
use super::secret::secret;
use super::secs;
use super::upstream::check_name;
use crate::config::Environment;
use crate::config::raw::{Bounds, KIB, MIB, Section, Value};
use crate::decisions::ServiceSettings;
use crate::policy::{EntitySource, PolicySet, QuestionSource};
use crate::secret::Secret;

/// `[decisions.NAME]` by name.
pub(super) type Services = BTreeMap<String, ServiceSettings>;

const PURPOSE: Purpose =
    Purpose { example: "https://pdp.example.com", risk: "decisions over plain http can be replaced in transit" };

/// Resolves `[decisions]`: one table for each service.
pub(super) fn services(value: Option<&Value<'_>>, environment: &Environment) -> Option<Services> {
    let Some(value) = value else {
        return Some(BTreeMap::new());
    };
    let entries = value.entries()?.into_iter().map(|(name, value)| {
        check_name(name, &value);
        Some((name.to_owned(), service(value.section()?, environment)?))
    });
    let entries: Vec<_> = entries.collect();
    entries.into_iter().collect()
}

fn service(mut section: Section<'_>, environment: &Environment) -> Option<ServiceSettings> {
    let url = section.required("url", "write the base URL, as in \"https://pdp.example.com\"");
    let access = endpoint::access(&mut section, secs(1));
    let discover = section.boolean("discover", false);
    let token = section.value("token").and_then(|value| secret(value, 1, environment));
    let identity = identity(&mut section, environment);
    let cache = section.duration("cache", secs(30), Bounds::new(secs(1), secs(60)).because(CACHE));
    let cache_bytes = section.size("cache_bytes", 16 * MIB, Bounds::new(64 * KIB, 1024 * MIB));
    let response_bytes = section.size("response_bytes", MIB, Bounds::new(KIB, 16 * MIB));
    let most = section.integer("most", 1000, Bounds::new(1, 1000).because(MOST));

    let url = url?;
    let endpoint = access.endpoint(&url, &PURPOSE, environment)?;
    if endpoint.url.query().is_some() {
        url.error("must not contain a query: remove it");
    }
    if !environment.is_deploy()
        && token.as_ref().is_some_and(|token| !token.expose().bytes().all(|byte| byte.is_ascii_graphic()))
    {
        section.error("token", "contains characters that a bearer token cannot have");
    }
    Some(ServiceSettings { endpoint, discover, token, identity, cache, cache_bytes, response_bytes, most })
}

const CACHE: &str = " (waiting clients are asked about again when a decision runs out, at least once a minute)";
const MOST: &str = " (a list in `where` has at most 1000 values)";

/// Reads the client's certificate and key: both PEM, as one text. At deploy time the files are not read.
fn identity(section: &mut Section<'_>, environment: &Environment) -> Option<Secret> {
    let (certificate, key) = match (section.value("certificate"), section.value("key")) {
        (None, None) => return None,
        (Some(certificate), Some(key)) => (certificate, key),
        _ => {
            section.error_here("needs both `certificate` and `key`, or neither");
            return None;
        }
    };
    if environment.is_deploy() {
        return None;
    }
    let read = |value: &Value<'_>| {
        let text = std::fs::read_to_string(value.path()?);
        text.map_err(|cause| value.error(format!("cannot be read: {cause}"))).ok()
    };
    let (certificates, private) = (read(&certificate)?, read(&key)?);
    let pem = format!("{certificates}\n{private}");
    if reqwest::Identity::from_pem(pem.as_bytes()).is_err() {
        certificate.error("is not a PEM certificate with the private key of `key`");
        return None;
    }
    Some(Secret::new(pem))
}

/// Warns about services that no rule asks.
pub(super) fn check_used(value: Option<&Value<'_>>, policy: Option<&PolicySet>) {
    let (Some(value), Some(policy)) = (value, policy) else { return };
    let used: BTreeSet<_> = policy.asked_services().collect();
    for (_, unused) in value.entries().into_iter().flatten().filter(|(name, _)| !used.contains(name)) {
        unused.warning("no rule asks it: name it in the `evaluate` or `search` of a [[shape]]");
    }
}

/// Reads the `evaluate` of a rule, or its `search`, which has no `resource.id`. `services` is `None` if that section
/// has errors; names are then not looked up.
pub(super) fn question(value: Value<'_>, searches: bool, services: Option<&Services>) -> Option<QuestionSource> {
    let mut section = value.section()?;
    let by = section.required("by", "write the name of a [decisions.NAME]");
    let subject = section.required("subject", r#"write { type = "user", id = "{{ claims.sub }}" }"#);
    let action = section.required("action", r#"write the name of the action, as in "read""#);
    let resource = section.required("resource", r#"write its type, as in { type = "document" }"#);
    let context = section.value("context");

    let by = by.and_then(|value| service_name(&value, services));
    let subject = subject.and_then(|value| entity(value, true));
    let action = action.and_then(|value| literal(&value));
    let resource = resource.and_then(|value| entity(value, !searches));
    let context = context.map_or_else(|| Some(Map::new()), |value| members(&value));
    Some(QuestionSource { by: by?, subject: subject?, action: action?, resource: resource?, context: context? })
}

fn service_name(value: &Value<'_>, services: Option<&Services>) -> Option<String> {
    let name = value.text()?;
    if services.is_some_and(|services| !services.contains_key(name)) {
        value.error(format!("no such service {name:?}: write [decisions.{name}]"));
        return None;
    }
    Some(name.to_owned())
}

fn entity(value: Value<'_>, has_id: bool) -> Option<EntitySource> {
    let mut section = value.section()?;
    let kind = section.required("type", r#"write its type, as in "user""#);
    let id = if has_id { section.required("id", r#"write its id, as in "{{ claims.sub }}""#) } else { None };
    let properties = section.value("properties");

    let kind = kind.and_then(|value| literal(&value));
    let id = match (id, has_id) {
        (None, true) => return None,
        (None, false) => None,
        (Some(value), _) => Some(value.text()?.to_owned()),
    };
    let properties = properties.map_or_else(|| Some(Map::new()), |value| members(&value));
    Some(EntitySource { kind: kind?, id, properties: properties? })
}

/// Reads a text without placeholders.
fn literal(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if text.contains("{{") {
        value.error("must not have {{ … }}: only ids, properties and context may depend on the request");
        return None;
    }
    Some(text.to_owned())
}

fn members(value: &Value<'_>) -> Option<Map<String, serde_json::Value>> {
    let entries = value.entries()?.into_iter().map(|(name, value)| Some((name.to_owned(), json(value.raw(), &value)?)));
    let entries: Vec<_> = entries.collect();
    entries.into_iter().collect()
}

/// Converts a value of the file to JSON. `at` is where errors are recorded.
fn json(raw: &DeValue<'_>, at: &Value<'_>) -> Option<serde_json::Value> {
    let refused = |message: &str| {
        at.error(message);
        None
    };
    match raw {
        DeValue::String(text) => Some(text.as_ref().into()),
        DeValue::Boolean(value) => Some((*value).into()),
        DeValue::Integer(value) => match i64::from_str_radix(value.as_str(), value.radix()) {
            Ok(number) => Some(number.into()),
            Err(_) => refused("is a number that does not fit in 64 bits"),
        },
        DeValue::Float(value) => match value.as_str().parse().ok().and_then(Number::from_f64) {
            Some(number) => Some(number.into()),
            None => refused("is not a finite number"),
        },
        DeValue::Array(elements) => elements.iter().map(|element| json(element.get_ref(), at)).collect(),
        DeValue::Table(table) => {
            let members =
                table.iter().map(|(name, value)| Some((name.get_ref().to_string(), json(value.get_ref(), at)?)));
            members.collect::<Option<Map<_, _>>>().map(Into::into)
        }
        DeValue::Datetime(_) => refused("is a date, which JSON does not have: write a string"),
    }
}
