//! Checks `[gatekeeper]` sections, valid and invalid.

use std::time::Duration;

use super::{accepted, environment, errors};
use crate::auth::Algorithm;
use crate::auth::KeySource;
use crate::config::{Config, Environment};
use crate::shape::ShapeClaims;

const REQUIRED: &str = "[gatekeeper]\nissuer = 'g'\naudience = 'app'\npublic_url = 'https://s.example/v1/shape'\n";
const SECRET: &str = "hs256.env = 'GATEKEEPER_SECRET'\n";

#[track_caller]
fn rejected(rest: &str, expected: &str) {
    let found = errors(&format!("{REQUIRED}{rest}"));
    assert_eq!(found, format!("x.toml:{expected}"), "{rest}");
}

#[test]
fn the_gatekeeper_has_defaults_and_adds_the_issuer_of_its_tokens() {
    let config = accepted(&format!("{REQUIRED}{SECRET}"));
    let gatekeeper = config.gatekeeper.unwrap();
    assert_eq!((gatekeeper.path.as_str(), gatekeeper.lifetime), ("/gatekeeper", Duration::from_secs(7200)));
    let [user, own] = &config.issuers[..] else { panic!("two issuers") };
    assert_eq!(user.shape_claims, ShapeClaims::Ignored);
    assert_eq!((own.issuer.as_str(), own.shape_claims), ("g", ShapeClaims::Own));
    assert_eq!((&own.algorithms[..], &own.types[..]), (&[Algorithm::Hs256][..], &["shape+jwt".to_owned()][..]));
    assert!(accepted("").gatekeeper.is_none());
}

#[test]
fn a_private_key_adds_an_issuer_with_its_public_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem");
    std::fs::write(&file, rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem()).unwrap();
    let config = accepted(&format!("{REQUIRED}signing_key.file = {file:?}\n"));
    let own = config.issuers.last().unwrap();
    assert_eq!(own.algorithms, [Algorithm::EdDsa]);
    assert!(matches!(own.keys, KeySource { fixed: Some(_), remote: None, .. }));
    std::fs::write(&file, "canary").unwrap();
    let found = errors(&format!("{REQUIRED}signing_key.file = {file:?}\n"));
    assert!(found.contains("gatekeeper.signing_key.file: not a private key") && !found.contains("canary"), "{found}");
    // At deploy time, neither key nor secret is read.
    let text = format!(
        "[server]\nlisten = '[::]:0'\n[upstream]\nurl = 'http://e'\ndanger_no_secret = true\n[[issuer]]\nissuer = 'a'\n\
         audience = 'b'\nalgorithms = ['ES256']\njwks.url = 'https://e'\n[[shape]]\ntable = 't'\nwhere = 'none'\n{REQUIRED}"
    );
    for key in ["signing_key.file = '/no/such'\n", SECRET] {
        Config::parse(&format!("{text}{key}"), "x.toml".as_ref(), &Environment::Deploy).unwrap();
    }
}

#[test]
fn shape_claim_lets_an_issuer_use_shape_claims() {
    let config = accepted("[[issuer]]\nissuer = 'a'\naudience = 'b'\nhs256.env = 'AUTH_SECRET'\nshape_claim = true\n");
    assert_eq!(config.issuers[0].shape_claims, ShapeClaims::Honoured);
}

#[test]
fn invalid_settings_are_rejected() {
    let one = "1: gatekeeper: needs exactly one of `hs256` (a shared secret) and `signing_key` (a private key)";
    rejected("", one);
    rejected(&format!("{SECRET}signing_key.file = 'a'\n"), one);
    rejected("signing_key = {}\n", "5: gatekeeper.signing_key.file: missing: write the path of the private key (PEM)");
    rejected("hs256.env = 'SHORT_SECRET'\n", "5: gatekeeper.hs256: the secret has 31 bytes: it needs at least 32");
    let slash = "write /segments of letters, digits and - . _ ~ without a slash at the end";
    for path in ["gatekeeper", "/", "/gatekeeper/", "/a//b", "/a/../b", "/a b", "/a?b", "/%61"] {
        rejected(&format!("{SECRET}path = '{path}'\n"), &format!("6: gatekeeper.path: {slash}"));
    }
    for path in ["/v1/shape", "/v1"] {
        rejected(
            &format!("{SECRET}path = '{path}'\n"),
            "6: gatekeeper.path: /v1/shape is where shapes are served: choose another",
        );
    }
    let below = "[[shape]]\ntable = 't'\nwhere = 'none'\npath = '/gatekeeper/t'\n";
    rejected(
        &format!("{SECRET}{below}"),
        "1: gatekeeper.path: a [[shape]] has a path below /gatekeeper, the default: choose another",
    );
    rejected(
        &format!("{SECRET}path = '/gatekeeper'\n{below}"),
        "6: gatekeeper.path: a [[shape]] has a path below this one: choose another",
    );
    accepted(&format!("{REQUIRED}{SECRET}path = '/keys'\n{below}"));
    for lifetime in ["'59s'", "'25h'"] {
        rejected(&format!("{SECRET}lifetime = {lifetime}\n"), "6: gatekeeper.lifetime: out of bounds: write 1m to 1d");
    }
    let name = format!("{REQUIRED}{SECRET}").replace("issuer = 'g'", "issuer = 'https://a.example'");
    let taken = "x.toml:2: gatekeeper.issuer: is also the name of an [[issuer]]: minted tokens need a separate one";
    assert_eq!(errors(&name), taken);
    let shared = "[[issuer]]\nissuer = 'a'\naudience = 'b'\nhs256.env = 'GATEKEEPER_SECRET'\n";
    rejected(
        &format!("{SECRET}{shared}"),
        "5: gatekeeper.hs256: is also the secret of an [[issuer]], which could then mint shape tokens: generate another",
    );
    for url in ["/v1/shape", "ftp://a/v1/shape", "https://a", "https://a/v1/shape?x", "https://u:p@a/v1/shape"] {
        let text = format!("{REQUIRED}{SECRET}").replace("https://s.example/v1/shape", url);
        let found = errors(&text);
        assert!(found.starts_with("x.toml:4: gatekeeper.public_url: not the URL of a shape path"), "{url}: {found}");
    }
    let found = Config::parse("[gatekeeper]\n", "x.toml".as_ref(), &environment()).unwrap_err();
    let keys: Vec<_> = found.iter().map(|error| error.key.as_str()).filter(|key| key.starts_with("gate")).collect();
    assert_eq!(keys, ["gatekeeper.issuer", "gatekeeper.audience", "gatekeeper.public_url", "gatekeeper"]);
}
