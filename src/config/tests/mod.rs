//! Parses whole files and checks the result or the errors, line by line.

mod bounds;
mod decisions;
mod exposed;
mod faults;
mod gatekeeper;
mod golden;
mod recipes;
mod resolved;
mod secrets;

use std::path::Path;

use super::{Config, ConfigErrors, Environment};

/// Sections appended to the text under test unless it contains them.
const REST: [(&str, &str); 4] = [
    ("[server]", "[server]\nlisten = '127.0.0.1:0'\n"),
    ("[upstream]", "[upstream]\nurl = 'http://127.0.0.1:3000'\nsecret = { env = 'ELECTRIC_SECRET' }\n"),
    (
        "[[issuer]]",
        "[[issuer]]\nissuer = 'https://a.example'\naudience = 'app'\nalgorithms = ['ES256']\n\
         jwks = { url = 'https://a.example/jwks' }\n",
    ),
    ("[[shape]]", "[[shape]]\ntable = 'tasks'\nwhere = 'none'\n"),
];

fn environment() -> Environment {
    Environment::from([
        ("ELECTRIC_SECRET", "electric-secret-canary"),
        ("AUTH_SECRET", "0123456789abcdef-canary-89abcdef"),
        ("GATEKEEPER_SECRET", "fedcba9876543210-canary-fedcba98"),
        ("LONG_SECRET", "0123456789abcdef-canary-long-0123456789abcdef-canary-long-89abcdef"),
        ("SHORT_SECRET", "0123456789abcdef-canary-89abcde"),
        ("LISTEN", "127.0.0.1:0"),
        ("URL", "https://env.example"),
        ("BLANK_SECRET", " \n"),
        ("REPEATED_SECRET", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("PUBLISHED_SECRET", "your-256-bit-secret-your-256-bit-secret"),
    ])
}

/// Parses `text`, followed by the sections it lacks, so that its own lines count from 1.
fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(&whole(text), Path::new("x.toml"), &environment())
}

fn whole(text: &str) -> String {
    let rest = REST.iter().filter(|(header, _)| !text.contains(header)).map(|(_, section)| *section);
    std::iter::once(text).chain(rest).collect()
}

/// Returns the errors as shown to the user, one per line.
#[track_caller]
fn errors(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[track_caller]
fn accepted(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}
