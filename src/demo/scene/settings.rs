//! The configuration of the demo's shapegate, with rules that can be edited on the page.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::AUDIENCE;
use crate::config::{Config, ConfigError, ConfigErrors, Environment};

/// The rule at the start.
pub const RULE: &str = r#"[[shape]]
table = "tasks"
allow = "query.organizationId in claims.organizationIds"
where = '"organization_id" = {{ query.organizationId }}'
"#;

/// Everything in the configuration except the rules.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address of the client listener.
    pub listen: SocketAddr,
    /// The address of the admin port.
    pub admin: SocketAddr,
    /// The issuer's URL.
    pub issuer: String,
    /// Electric's URL.
    pub electric: String,
    /// Electric's secret.
    pub secret: String,
}

impl Settings {
    /// Returns the configuration with these rules.
    ///
    /// # Errors
    /// Every error of the rules, with their lines.
    pub fn with(&self, rules: &str) -> Result<Config, ConfigErrors> {
        let Self { listen, admin, issuer, electric, secret } = self;
        // The rules come first, so that errors have their line numbers.
        let text = format!(
            r#"{rules}
[server]
listen = "{listen}"
admin = "{admin}"
drain = "1s"
danger_explain_denials = true

[upstream]
url = "{electric}"
secret = {{ env = "ELECTRIC_SECRET" }}

[[issuer]]
issuer = "{issuer}"
audience = "{AUDIENCE}"
algorithms = ["EdDSA"]
leeway = "0s"
jwks = {{ url = "{issuer}/jwks", cooldown = "1s" }}

[log]
level = "error"
"#
        );
        Config::parse(&text, Path::new("demo.toml"), &Environment::from([("ELECTRIC_SECRET", secret.as_str())]))
    }
}

/// Checks edited rules. Returns the configuration, if it can be used, and the findings for the page.
pub(super) fn check(settings: &Settings, rules: &str) -> (Option<Config>, Value) {
    if let Some(key) = other_than_rules(rules) {
        let message = "only [[shape]] can be edited here";
        return (None, json!({ "errors": [{ "line": null, "key": key, "message": message }], "warnings": [] }));
    }
    let last = rules.lines().count().max(1);
    match settings.with(rules) {
        Ok(config) => {
            // Not those of the demo's own settings.
            let warnings = config.warnings.iter().filter(|warning| warning.key.starts_with("shape"));
            let warnings = findings(warnings, last);
            (Some(config), json!({ "errors": [], "warnings": warnings }))
        }
        Err(errors) => (None, json!({ "errors": findings(errors.iter(), last), "warnings": [] })),
    }
}

/// Returns the first key that is not `shape`. Other sections could read files. Text that is not TOML has no keys: its
/// errors come from the complete check.
fn other_than_rules(rules: &str) -> Option<String> {
    let table = toml::de::DeTable::parse(rules).ok()?;
    table.get_ref().keys().map(|key| key.get_ref().to_string()).find(|key| key != "shape")
}

/// Formats findings. An error after the last line began before it: a quote that is not closed, for example.
fn findings<'a>(errors: impl Iterator<Item = &'a ConfigError>, last: usize) -> Vec<Value> {
    let shown = |error: &ConfigError| json!({ "line": error.line.map(|line| line.min(last)), "key": error.key, "message": error.message });
    errors.map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let url = "http://127.0.0.1:1".to_owned();
        Settings { listen: loopback, admin: loopback, issuer: url.clone(), electric: url, secret: "x".to_owned() }
    }

    fn checked(rules: &str) -> (bool, Value) {
        let (config, found) = check(&settings(), rules);
        (config.is_some(), found)
    }

    #[test]
    fn first_rule_is_valid_and_faults_have_their_line() {
        assert_eq!(checked(RULE), (true, json!({ "errors": [], "warnings": [] })));
        let (valid, found) = checked(&RULE.replace("allow =", "alow ="));
        assert_eq!((valid, &found["errors"][0]["line"]), (false, &json!(3)), "{found}");
        let (valid, found) = checked(&RULE.replace("Id }}'", "Id }}"));
        assert!(!valid && found["errors"][0]["line"].as_u64().unwrap() <= 4, "{found}");
    }

    #[test]
    fn only_rules_can_be_edited() {
        for other in ["[gatekeeper]\nhs256 = { file = '/etc/shadow' }", "log.level = 'trace'"] {
            let (valid, found) = checked(&format!("{other}\n{RULE}"));
            assert_eq!((valid, &found["errors"][0]["message"]), (false, &json!("only [[shape]] can be edited here")));
        }
    }
}
