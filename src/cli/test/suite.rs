//! Parses a file of test cases.

use std::path::{Path, PathBuf};

use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;

use super::super::trial::{self, Request};
use super::expect::{Allow, Deny, Expected};
use crate::clock::UnixTime;
use crate::shape::SHAPE_PATH;

/// The cases of a file.
pub(super) struct Suite {
    pub(super) cases: Vec<Case>,
}

/// A request and the decision that is expected.
pub(super) struct Case {
    /// The file and the line of the case.
    pub(super) place: String,
    pub(super) file: String,
    pub(super) name: String,
    pub(super) config: PathBuf,
    /// `None` for a request without a token.
    pub(super) claims: Option<Map<String, Value>>,
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) body: Option<Vec<u8>>,
    /// `None` for the current time.
    pub(super) now: Option<UnixTime>,
    pub(super) expected: Expected,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSuite {
    config: Option<PathBuf>,
    #[serde(rename = "case", default)]
    cases: Vec<Spanned<RawCase>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    name: Option<String>,
    tables: Option<Vec<String>>,
    claims: Option<Map<String, Value>>,
    query: Option<String>,
    url: Option<String>,
    method: Option<String>,
    body: Option<Value>,
    now: Option<Value>,
    allow: Option<Allow>,
    deny: Option<Deny>,
}

impl Suite {
    /// Loads a file. `config` replaces the configuration that it names.
    ///
    /// # Errors
    /// What is wrong with the file, with its name and the line.
    pub(super) fn load(file: &Path, config: Option<&Path>) -> Result<Self, String> {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Self::parse(&text, file, config)
    }

    fn parse(text: &str, file: &Path, config: Option<&Path>) -> Result<Self, String> {
        let shown = file.display();
        let raw: RawSuite = toml::from_str(text).map_err(|error| format!("{shown}: {error}"))?;
        let named = raw.config.map(|config| file.parent().unwrap_or(Path::new("")).join(config));
        let config = config.map(Path::to_owned).or(named);
        let config = config.ok_or_else(|| format!("{shown}: write config = \"FILE\" first, or give --config"))?;
        let mut cases = Vec::new();
        for raw in raw.cases {
            let place = format!("{shown}:{}", 1 + text[..raw.span().start].matches('\n').count());
            let made = raw.into_inner().cases(&place, &shown.to_string(), &config);
            cases.extend(made.map_err(|problem| format!("{place}: {problem}"))?);
        }
        if cases.is_empty() {
            return Err(format!("{shown}: has no case: write at least one [[case]]"));
        }
        Ok(Self { cases })
    }
}

impl RawCase {
    /// Returns the case, once for each of its `tables`.
    fn cases(self, place: &str, file: &str, config: &Path) -> Result<Vec<Case>, String> {
        let expected = match (&self.allow, &self.deny) {
            (Some(allow), None) => Expected::Allow(allow.like()?),
            (None, Some(deny)) => Expected::Deny(deny.like()?),
            _ => return Err("expects nothing: write one of `allow` and `deny`".to_owned()),
        };
        let body = self.body.as_ref().map(|body| match body {
            Value::String(text) => text.clone().into_bytes(),
            json => json.to_string().into_bytes(),
        });
        let default = if body.is_some() { "POST" } else { "GET" };
        let method = self.method.as_deref().unwrap_or(default).parse::<Method>();
        let method = method.map_err(|_| "`method` is not a method".to_owned())?;
        let now = self.now.as_ref().map(time).transpose()?;
        let tables = match &self.tables {
            None => vec![None],
            Some(tables) => tables.iter().map(|table| Some(table.as_str())).collect(),
        };
        let case = |table: Option<&str>| {
            let target = self.target(table)?;
            let title = self.name.clone().unwrap_or_else(|| target.clone());
            Ok(Case {
                place: place.to_owned(),
                file: file.to_owned(),
                name: table.map_or(title.clone(), |table| format!("{title}: {table}")),
                config: config.to_owned(),
                claims: self.claims.clone(),
                method: method.clone(),
                target,
                body: body.clone(),
                now,
                expected: expected.of_table(table),
            })
        };
        tables.into_iter().map(case).collect()
    }

    /// Returns the request target: `url`, or `query` at the shape path, with the offset of a first request.
    fn target(&self, table: Option<&str>) -> Result<String, String> {
        match (&self.url, &self.query) {
            (Some(url), None) if table.is_none() => {
                Request::target_of(url).map_err(|_| "`url` needs a path: write /v1/shape?…".to_owned())
            }
            (Some(_), None) => Err("`url` contradicts `tables`: write `query`".to_owned()),
            (Some(_), Some(_)) => Err("`query` contradicts `url`: write one of the two".to_owned()),
            (None, query) => {
                let mut pairs: Vec<_> = table.map(|table| format!("table={}", encoded(table))).into_iter().collect();
                pairs.extend(query.clone().filter(|query| !query.is_empty()));
                if !query.as_deref().unwrap_or_default().split('&').any(|pair| pair.starts_with("offset=")) {
                    pairs.push("offset=-1".to_owned());
                }
                Ok(format!("{SHAPE_PATH}?{}", pairs.join("&")))
            }
        }
    }
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn time(value: &Value) -> Result<UnixTime, String> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    trial::time(Some(&text)).map_err(|error| format!("`now`: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Case>, String> {
        Suite::parse(text, Path::new("a/x.toml"), None).map(|suite| suite.cases)
    }

    #[test]
    fn a_case_becomes_a_request() {
        let cases = parse(
            "config = 'c.toml'\n\n[[case]]\ntables = ['tasks', '\"A\"']\nquery = 'org=1'\nnow = '1970-01-01T00:01:00Z'\n\
             deny = true\n[[case]]\nurl = 'https://x.test/v1/shape?table=t'\nbody = { limit = 1 }\nallow = true\n",
        )
        .unwrap();
        let targets: Vec<_> = cases.iter().map(|case| (case.place.as_str(), case.target.as_str())).collect();
        assert_eq!(
            targets,
            [
                ("a/x.toml:3", "/v1/shape?table=tasks&org=1&offset=-1"),
                ("a/x.toml:3", "/v1/shape?table=%22A%22&org=1&offset=-1"),
                ("a/x.toml:8", "/v1/shape?table=t"),
            ]
        );
        assert_eq!((&cases[0].config, cases[0].now), (&PathBuf::from("a/c.toml"), Some(UnixTime::from_secs(60))));
        assert_eq!((&cases[0].method, &cases[2].method), (&Method::GET, &Method::POST));
        assert_eq!(cases[2].body.as_deref(), Some(&br#"{"limit":1}"#[..]));
    }

    #[test]
    fn faulty_files_are_rejected_with_the_place() {
        for (text, hint) in [
            ("", "config = \"FILE\""),
            ("config = 'c'", "no case"),
            ("config = 'c'\n[[case]]\nquery = 'a=1'", "x.toml:2: expects nothing"),
            ("config = 'c'\n[[case]]\nallow = true\ndeny = true", "expects nothing"),
            ("config = 'c'\n[[case]]\nallow = false", "write deny"),
            ("config = 'c'\n[[case]]\ndeny = false", "write allow"),
            (
                "config = 'c'\n[[case]]\ndeny = 'allow_fals'",
                "no such reason \"allow_fals\"; did you mean \"allow_false\"?",
            ),
            ("config = 'c'\n[[case]]\ndeny = { reason = 'x' }", "no such reason"),
            ("config = 'c'\n[[case]]\nallow = { sql = 'x' }", "a table of rule, table, where"),
            ("config = 'c'\n[[case]]\nquerry = 'x'", "unknown field"),
            ("config = 'c'\n[[case]]\nallow = true\nnow = 'noon'", "now"),
            ("config = 'c'\n[[case]]\nallow = true\nurl = 'x'", "needs a path"),
            ("config = 'c'\n[[case]]\nallow = true\nurl = '/x'\nquery = ''", "contradicts"),
            ("config = 'c'\n[[case]]\nallow = true\nurl = '/x'\ntables = ['a']", "contradicts"),
            ("config = 'c'\n[[case]]\nallow = true\nmethod = 'A B'", "not a method"),
        ] {
            let error = parse(text).err().unwrap_or_else(|| panic!("{text}"));
            assert!(error.contains("a/x.toml") && error.contains(hint), "{text}: {error}");
        }
    }
}
