//! Checks the settings that valid files resolve to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{accepted, environment, errors};
use crate::auth::Algorithm;
use crate::auth::{KeySource, RemoteKeys};
use crate::config::{Config, Environment};
use crate::proxy::Origins;
use crate::telemetry::LogFormat;
use crate::upstream::ServerUrl;

fn conf(name: &str) -> Config {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name);
    let text = std::fs::read_to_string(&file).unwrap();
    let Environment::Map(mut variables) = environment() else { unreachable!() };
    variables.insert("CREDENTIALS_DIRECTORY".to_owned(), CREDENTIALS.to_owned());
    Config::parse(&text, &file, &Environment::Map(variables)).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A folder as systemd makes it for `LoadCredential=electric-secret:…`.
const CREDENTIALS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/config/credentials");

fn remote(config: &Config) -> &RemoteKeys {
    match &config.issuers[0].keys {
        KeySource::Published { remote: Some(remote), .. } => remote,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_sample_file_loads_without_warnings() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let samples: Vec<_> = names.filter(|name| name.ends_with(".toml")).collect();
    assert!(samples.len() >= 3, "{samples:?}");
    for sample in samples {
        assert_eq!(conf(&sample).warnings, [], "{sample}");
    }
}

#[test]
fn the_full_sample_uses_the_default_values() {
    let (full, minimal) = (conf("shapegate.full.toml"), conf("shapegate.minimal.toml"));
    let show = |config: &Config| {
        let (server, upstream) = (&config.server, &config.upstream);
        let keys = format!("{:?} {:?}", remote(config), config.issuers[0].types);
        let rest = format!("{:?} {:?} {:?} {upstream:?} {keys}", config.cors, config.limits, config.log);
        let http2 = format!("{} {} {:?}", server.http2.h2c, server.http2.streams, server.http2.idle_timeout);
        format!("{} {} {:?} {:?} {http2} {rest}", server.admin, server.threads, server.drain, server.tls)
    };
    assert_eq!(show(&full), show(&minimal));
}

#[test]
fn a_slow_predicate_causes_a_warning_on_its_line() {
    let shape = |predicate: &str| format!("[[shape]]\ntable = 'tasks'\nwhere = '''{predicate}'''\n");
    let slow = r#""id" = {{ claims.sub }} AND {{ claims.sub }} = ANY("owners")"#;
    let config = accepted(&(shape("\"id\" = {{ claims.sub }}") + &shape(slow) + &shape("\"done\"")));
    let shown: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown[0].starts_with("x.toml:6: shape[1].where: Postgres cannot use an index"), "{shown:?}");
    assert!(shown[1].starts_with("x.toml:9: shape[2].where: Electric indexes no part of this condition"), "{shown:?}");
}

#[test]
fn an_unused_upstream_causes_a_warning() {
    let upstreams = "[upstreams.a]\nurl = 'http://a'\ndanger_no_secret = true\n[upstreams.b]\nurl = 'http://b'\ndanger_no_secret = true\n";
    let config = accepted(&format!("{upstreams}[[shape]]\ntable = 't'\nwhere = 'none'\nupstream = 'a'\n"));
    let shown: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["x.toml:4: upstreams.b: no rule uses it: name it in the `upstream` of a [[shape]]"]);
}

#[test]
fn limits_without_effect_cause_warnings() {
    let warnings = |text: &str| -> Vec<String> { accepted(text).warnings.iter().map(ToString::to_string).collect() };
    let shown = warnings("[limits]\nflights = 200\nrequests = 100\nrequests_per_subject = 99\n");
    let [flights, initial] = shown.as_slice() else { panic!("{shown:?}") };
    assert!(flights.starts_with("x.toml:2: limits.flights: one subject can use them all"), "{flights}");
    assert!(initial.starts_with("x.toml:2: limits.flights: is less than `initial_flights`"), "{initial}");
    assert_eq!(warnings("[limits]\nflights = 300\n"), Vec::<String>::new());
    let public = "[[shape]]\ntable = 't'\nwhere = 'none'\npublic = true\n";
    let shown = warnings(public);
    assert!(
        shown.len() == 1 && shown[0].contains("shape: one is public, and without `limits.trusted_proxies`"),
        "{shown:?}"
    );
    assert_eq!(warnings(&format!("{public}[limits]\ntrusted_proxies = []\n")), Vec::<String>::new());
}

#[test]
fn the_superset_sample_has_25_tables() {
    let text = include_str!("../../../conf/superset.toml");
    assert_eq!(text.lines().filter(|line| *line == "[[shape]]").count(), 25);
    assert_eq!(conf("superset.toml").issuers[0].algorithms, [Algorithm::Rs256]);
}

#[test]
fn omitted_keys_get_their_defaults() {
    let config = accepted("");
    assert!(config.server.threads > 0);
    assert_eq!(config.server.admin.to_string(), "127.0.0.1:9090");
    assert_eq!(config.server.drain, Duration::from_secs(25));
    assert!(config.server.tls.is_none() && config.server.state.is_none() && !config.server.http2.h2c);
    let upstream = &config.upstream;
    let server = ServerUrl { host: "127.0.0.1".to_owned(), port: 3000, tls: false };
    assert_eq!((upstream.servers.as_slice(), upstream.pool), ([server].as_slice(), 1024));
    assert_eq!(upstream.secret.as_ref().unwrap().expose(), "electric-secret-canary");
    let issuer = &config.issuers[0];
    assert_eq!((issuer.leeway, issuer.max_lifetime), (Duration::from_secs(5), None));
    assert_eq!(issuer.types, ["jwt", "at+jwt"]);
    assert_eq!(remote(&config).max_stale, Duration::from_secs(24 * 3600));
    assert!(!remote(&config).private_address);
    assert!(matches!(config.cors.origins, Origins::Any));
    assert_eq!((config.limits.header_bytes, config.limits.verdicts), (32 * 1024, 100_000));
    assert_eq!((config.limits.rate_per_address, config.limits.trusted_proxies), (0, None));
    assert_eq!((config.log.format, config.log.level.as_str(), config.log.access), (LogFormat::Text, "info", true));
}

#[test]
fn trusted_proxies_are_parsed_and_validated() {
    let limits = accepted("[limits]\ntrusted_proxies = ['10.0.0.0/8', '::1', '192.0.2.1']\n").limits;
    let networks: Vec<_> = limits.trusted_proxies.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "::1/128", "192.0.2.1/32"]);
    assert_eq!((limits.rate_per_address, limits.connections_per_address), (1_000, 2_000));
    let direct = accepted("[limits]\ntrusted_proxies = []\nrate_per_address = 0\n").limits;
    assert_eq!((direct.trusted_proxies, direct.rate_per_address), (Some(Vec::new()), 0));
    let found = errors("[limits]\ntrusted_proxies = ['10.0.0.0/33']\n");
    assert!(found.starts_with("x.toml:2: limits.trusted_proxies[0]: not a network: write an address"), "{found}");
    // Networks that would trust every client, or match none.
    for (network, words) in
        [("0.0.0.0/0", "trusts every client"), ("::/0", "trusts"), ("::ffff:10.0.0.0/104", "is an IPv4-mapped")]
    {
        let found = errors(&format!("[limits]\ntrusted_proxies = ['10.0.0.0/8', '{network}']\n"));
        assert!(found.starts_with(&format!("x.toml:2: limits.trusted_proxies[1]: {words}")), "{found}");
    }
    // Behind an unknown load balancer, all clients would share this limit.
    let found = errors("[limits]\nrate_per_address = 10\n");
    assert!(found.starts_with("x.toml:2: limits.rate_per_address: needs `trusted_proxies`"), "{found}");
}

#[test]
fn an_upstream_url_gives_host_port_and_tls() {
    for (url, host, port, tls) in [
        ("https://electric.example", "electric.example", 443, true),
        ("http://electric.example/", "electric.example", 80, false),
        ("http://[::1]:3000", "::1", 3000, false),
    ] {
        let upstream = accepted(&format!("[upstream]\nurl = '{url}'\ndanger_no_secret = true\n")).upstream;
        assert_eq!(upstream.servers, [ServerUrl { host: host.to_owned(), port, tls }]);
        assert!(upstream.secret.is_none());
    }
}

#[test]
fn a_jwks_url_with_a_private_host_may_connect_to_it() {
    for (url, private) in [
        ("http://localhost:4000/jwks", true),
        ("http://127.8.0.1/jwks", true),
        ("http://[::1]/jwks", true),
        ("https://10.0.0.7/jwks", true),
        ("https://[fd00::1]/jwks", true),
        ("https://169.254.169.254/jwks", false),
        ("https://intern.example/jwks", false),
    ] {
        let issuer = "[[issuer]]\nissuer = 'a'\naudience = 'b'\nalgorithms = ['ES256']\n";
        let config = accepted(&format!("{issuer}jwks = {{ url = '{url}' }}\n"));
        assert_eq!(remote(&config).private_address, private, "{url}");
        let config = accepted(&format!("{issuer}jwks = {{ url = '{url}', danger_private_address = true }}\n"));
        assert!(remote(&config).private_address);
    }
}

#[test]
fn relative_paths_are_resolved_against_the_folder_of_the_file() {
    let text = "[server]\nlisten = '[::]:0'\nstate = 'state'\ntls = { cert = '/etc/a.crt', key = 'a.key' }\n\
                [upstream]\nurl = 'http://e'\ndanger_no_secret = true\n[[shape]]\ntable = 't'\nwhere = 'none'\npublic = true\n";
    let server = Config::parse(text, Path::new("/etc/shapegate/x.toml"), &environment()).unwrap().server;
    let tls = server.tls.unwrap();
    assert_eq!(server.state, Some(PathBuf::from("/etc/shapegate/state")));
    assert_eq!((tls.cert, tls.key), (PathBuf::from("/etc/a.crt"), PathBuf::from("/etc/shapegate/a.key")));
}

#[test]
fn the_state_directory_defaults_to_the_one_of_systemd() {
    let text = include_str!("../../../conf/shapegate.minimal.toml");
    let environment = Environment::from([
        ("CREDENTIALS_DIRECTORY", CREDENTIALS),
        ("STATE_DIRECTORY", "/var/lib/shapegate:/var/lib/b"),
    ]);
    let config = Config::parse(text, Path::new("x.toml"), &environment).unwrap();
    assert_eq!(config.server.state, Some(PathBuf::from("/var/lib/shapegate")));
}

#[test]
fn the_upgrade_socket_defaults_to_the_runtime_directory_of_systemd() {
    let text = include_str!("../../../conf/shapegate.minimal.toml");
    let environment =
        Environment::from([("CREDENTIALS_DIRECTORY", CREDENTIALS), ("RUNTIME_DIRECTORY", "/run/shapegate")]);
    let config = Config::parse(text, Path::new("x.toml"), &environment).unwrap();
    assert_eq!(config.server.upgrade_socket, Some(PathBuf::from("/run/shapegate/upgrade.sock")));
    let config = Config::parse(text, Path::new("x.toml"), &Environment::from([("CREDENTIALS_DIRECTORY", CREDENTIALS)]));
    assert_eq!(config.unwrap().server.upgrade_socket, None);
}

#[test]
fn an_issuer_has_a_shared_secret_or_a_key_file() {
    let config = accepted("[[issuer]]\nissuer = 'a'\naudience = ['b', 'c']\nhs256 = { env = 'AUTH_SECRET' }\n");
    assert_eq!(config.issuers[0].algorithms, [Algorithm::Hs256]);
    assert_eq!(config.issuers[0].audience, ["b", "c"]);
    assert!(matches!(config.issuers[0].keys, KeySource::Shared(_)));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let key = r#"{"kty":"OKP","crv":"Ed25519","use":"sig","alg":"EdDSA","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    std::fs::write(&file, format!(r#"{{"keys":[{key}]}}"#)).unwrap();
    let issuer = "[[issuer]]\nissuer = 'a'\naudience = 'b'\nalgorithms = ['EdDSA']\ntypes = 'application/AT+JWT'\n";
    let config = accepted(&format!("{issuer}jwks.file = '{}'\n", file.display()));
    assert!(matches!(config.issuers[0].keys, KeySource::Published { fixed: Some(_), remote: None }));
    assert_eq!(config.issuers[0].types, ["at+jwt"]);
}

#[test]
fn issuers_are_optional_only_if_every_rule_is_public() {
    let text = "[server]\nlisten = '[::]:0'\n[upstream]\nurl = 'http://e'\ndanger_no_secret = true\n\
                [[shape]]\ntable = 't'\nwhere = 'none'\npublic = true\n";
    assert!(Config::parse(text, Path::new("x.toml"), &environment()).unwrap().issuers.is_empty());
    let text = format!("{text}[[shape]]\ntable = 'u'\nwhere = 'none'\n");
    let errors = Config::parse(&text, Path::new("x.toml"), &environment()).unwrap_err().to_string();
    assert_eq!(errors, "x.toml:1: issuer: missing: write an [[issuer]] table, or `public = true` in every [[shape]]");
}

#[test]
fn load_reports_errors_with_the_name_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    let errors = Config::load(&file).unwrap_err().to_string();
    assert!(errors.starts_with(&format!("{}: cannot be read: ", file.display())), "{errors}");
    std::fs::write(&file, "listen = 1").unwrap();
    assert!(Config::load(&file).unwrap_err().to_string().starts_with(&format!("{}:1: ", file.display())));
}

#[test]
fn probe_claims_are_converted_to_json() {
    let claims = "a = 'x', b = 0x10, c = -1.5, d = true, e = [1, 'y'], f = { g = 9007199254740993 }";
    let probe = accepted(&format!("[probe]\nclaims = {{ {claims} }}\nquery = 'org=1'\n")).probe;
    let expected = r#"{"a":"x","b":16,"c":-1.5,"d":true,"e":[1,"y"],"f":{"g":9007199254740993}}"#;
    assert_eq!((probe.claims.as_str(), probe.query.as_str()), (expected, "org=1"));
    assert_eq!(accepted("").probe.claims, "{}");
    for wrong in ["{ a = 1979-05-27 }", "[1]", "{ a = nan }", "'{}'"] {
        let found = errors(&format!("[probe]\nclaims = {wrong}\n"));
        assert!(found.starts_with("x.toml:2: probe.claims: expected a table of claims"), "{found}");
    }
}

#[test]
fn rust_log_overrides_the_level_and_is_checked_like_it() {
    let text = |level: &str| {
        let rest = "[server]\nlisten = '[::]:0'\n[upstream]\nurl = 'http://a'\ndanger_no_secret = true\n\
                    [[shape]]\ntable = 't'\nwhere = 'none'\npublic = true\n";
        format!("{rest}[log]\nlevel = '{level}'\n")
    };
    let parse =
        |text: &str, filter: &str| Config::parse(text, Path::new("x.toml"), &Environment::from([("RUST_LOG", filter)]));
    assert_eq!(parse(&text("info"), "shapegate=debug,warn").unwrap().log.level, "shapegate=debug,warn");
    assert_eq!(parse(&text("warn"), "").unwrap().log.level, "warn");
    for wrong in ["inof", "pingora=debug"] {
        let error = parse(&text("info"), wrong).unwrap_err().to_string();
        assert!(error.contains("log.level: RUST_LOG, which overrides it: "), "{error}");
    }
}
