//! Checks the settings that valid files resolve to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{accepted, environment, errors};
use crate::auth::Algorithm;
use crate::auth::{ClientAuth, KeySource, RemoteKeys, RevocationSource};
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
    config.issuers[0].keys.remote.as_ref().unwrap()
}

#[test]
fn every_sample_file_loads_without_warnings() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let samples: Vec<_> = names.filter(|name| name.ends_with(".toml") && !name.ends_with(".test.toml")).collect();
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
        let http = format!("{:?} {}", server.http, server.proxy_protocol);
        format!("{} {} {:?} {:?} {http} {rest}", server.admin, server.threads, server.drain, server.tls)
    };
    assert_eq!(show(&full), show(&minimal));
}

#[test]
fn a_slow_predicate_causes_a_warning_on_its_line() {
    let shape = |table: char, predicate: &str| format!("[[shape]]\ntable = '{table}'\nwhere = '''{predicate}'''\n");
    let slow = r#""id" = {{ claims.sub }} AND {{ claims.sub }} = ANY("owners")"#;
    let config = accepted(&(shape('a', "\"id\" = {{ claims.sub }}") + &shape('b', slow) + &shape('c', "\"done\"")));
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
    assert!(text.lines().count() < 80, "{} lines", text.lines().count());
    assert_eq!(conf("superset.toml").policy.rule_ids().count(), 25);
    assert_eq!(conf("superset.toml").issuers[0].algorithms, [Algorithm::Rs256]);
}

#[test]
fn a_rule_with_tables_is_a_rule_for_each() {
    let shape = |keys: &str| format!("[[shape]]\n{keys}\nwhere = 'none'\n");
    let names =
        |text: String| -> Vec<String> { accepted(&text).policy.rule_ids().map(|id| id.as_str().to_owned()).collect() };
    assert_eq!(names(shape("tables = ['a', 'auth.b']")), ["a", "auth.b"]);
    assert_eq!(names(shape("tables = 'a'")), ["a"]);
    assert_eq!(names(shape("tables = ['a', 'b']\nname = 'x'") + &shape("path = '/c'\ntable = 'c'")), ["x", "x", "/c"]);
    // A name does not shift when another rule of the table is inserted before it.
    let second = shape("table = 'a'\nallow = 'claims.admin'") + &shape("table = 'a'\nname = 'own'");
    assert_eq!(names(second), ["a", "own"]);
}

#[test]
fn values_that_are_no_secrets_may_come_from_the_environment() {
    let config = accepted(
        "[server]\nlisten = [{ env = 'LISTEN' }, '127.0.0.1:0']\nadmin.env = 'LISTEN'\n\
         [upstreams.a]\nurls = [{ env = 'URL' }]\ndanger_no_secret = true\n\
         [[issuer]]\nissuer = { env = 'URL' }\naudience = [{ env = 'URL' }]\nalgorithms = ['ES256']\njwks.url = { env = 'URL' }\n\
         [[shape]]\ntable = 't'\nwhere = 'none'\nupstream = 'a'\n",
    );
    assert_eq!(config.server.listen[0].to_string(), "127.0.0.1:0");
    assert_eq!(config.upstreams["a"].servers[0].host, "env.example");
    assert_eq!(
        (config.issuers[0].issuer.as_str(), &*config.issuers[0].audience[0]),
        ("https://env.example", "https://env.example")
    );
    // Not for the text of rules, and not with another key beside it.
    for text in
        ["[[shape]]\ntable = 't'\nwhere = { env = 'URL' }\n", "[server]\nlisten = { env = 'LISTEN', file = 'x' }\n"]
    {
        assert!(errors(text).contains("expected a string"), "{}", errors(text));
    }
    let unset = errors("[server]\nlisten = '[::]:0'\nadmin = { env = 'NO_SUCH' }\n");
    assert_eq!(unset, "x.toml:3: server.admin: the environment variable NO_SUCH is not set, or is not UTF-8");
}

#[test]
fn omitted_keys_get_their_defaults() {
    let config = accepted("");
    assert!(config.server.threads > 0);
    assert_eq!(config.server.admin.to_string(), "127.0.0.1:9090");
    assert_eq!(config.server.drain, Duration::from_secs(25));
    assert!(config.server.tls.is_none() && config.server.state.is_none() && !config.server.http.h2c);
    let upstream = &config.upstream;
    let server = ServerUrl { host: "127.0.0.1".to_owned(), port: 3000, tls: false };
    assert_eq!((upstream.servers.as_slice(), upstream.pool), ([server].as_slice(), 1024));
    assert_eq!(upstream.secret.as_ref().unwrap().expose(), "electric-secret-canary");
    let issuer = &config.issuers[0];
    assert_eq!((issuer.leeway, issuer.max_lifetime), (Duration::from_secs(5), None));
    assert_eq!(issuer.types, ["jwt", "at+jwt"]);
    assert_eq!(remote(&config).max_stale, Duration::from_secs(24 * 3600));
    assert!(!remote(&config).endpoint.private_address);
    assert!(matches!(config.cors.origins, Origins::Any));
    assert_eq!((config.limits.header_bytes, config.limits.verdict_bytes), (32 * 1024, 64 * 1024 * 1024));
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
        assert_eq!(remote(&config).endpoint.private_address, private, "{url}");
        let config = accepted(&format!("{issuer}jwks = {{ url = '{url}', danger_private_address = true }}\n"));
        assert!(remote(&config).endpoint.private_address);
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
fn an_issuer_has_an_audience_or_a_condition_or_both() {
    let issuer = "[[issuer]]\nissuer = 'a'\nhs256.env = 'AUTH_SECRET'\n";
    let config = accepted(&format!("{issuer}require = \"claims.azp == 'app'\"\n"));
    let source = |config: &Config| config.issuers[0].require.as_ref().map(|require| require.source().to_owned());
    assert_eq!((config.issuers[0].audience.len(), source(&config).unwrap().as_str()), (0, "claims.azp == 'app'"));
    let config = accepted(&format!("{issuer}audience = 'b'\nrequire = 'has(claims.azp)'\n"));
    assert_eq!((config.issuers[0].audience.len(), source(&config).unwrap().as_str()), (1, "has(claims.azp)"));
    assert_eq!(source(&accepted(&format!("{issuer}audience = 'b'\n"))), None);
    for (line, expected) in [
        ("require = 'query.x == claims.x'", "`query.x == claims.x`: may read only `claims`"),
        ("require = 'true'", "`true`: reads no claim"),
        ("require = ''", "is empty"),
        ("require = ['has(claims.a)']", "expected a string, found a list"),
    ] {
        let found = errors(&format!("{issuer}{line}\n"));
        assert!(found.starts_with(&format!("x.toml:4: issuer[0].require: {expected}")), "{found}");
    }
}

#[test]
fn an_issuer_has_a_shared_secret_or_a_key_file() {
    let config = accepted("[[issuer]]\nissuer = 'a'\naudience = ['b', 'c']\nhs256 = { env = 'AUTH_SECRET' }\n");
    assert_eq!(config.issuers[0].algorithms, [Algorithm::Hs256]);
    assert_eq!(config.issuers[0].audience, ["b", "c"]);
    assert!(matches!(&config.issuers[0].keys, KeySource { shared, fixed: None, remote: None } if shared.len() == 1));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let key = r#"{"kty":"OKP","crv":"Ed25519","use":"sig","alg":"EdDSA","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    std::fs::write(&file, format!(r#"{{"keys":[{key}]}}"#)).unwrap();
    let issuer = "[[issuer]]\nissuer = 'a'\naudience = 'b'\nalgorithms = ['EdDSA']\ntypes = 'application/AT+JWT'\n";
    let config = accepted(&format!("{issuer}jwks.file = '{}'\n", file.display()));
    assert!(matches!(&config.issuers[0].keys, KeySource { shared, fixed: Some(_), remote: None } if shared.is_empty()));
    assert_eq!(config.issuers[0].types, ["at+jwt"]);
}

#[test]
fn an_issuer_has_shared_secrets_and_published_keys_at_once() {
    let issuer = "[[issuer]]\nissuer = 'a'\naudience = 'b'\nalgorithms = ['ES256']\njwks.url = 'https://e'\n";
    let secrets = "hs256.env = 'AUTH_SECRET'\nhs256_next.env = 'GATEKEEPER_SECRET'\nhs512.env = 'LONG_SECRET'\n";
    let config = accepted(&format!("{issuer}{secrets}"));
    let keys = &config.issuers[0].keys;
    let shared: Vec<_> = keys.shared.iter().map(|shared| shared.algorithm).collect();
    assert_eq!(shared, [Algorithm::Hs256, Algorithm::Hs256, Algorithm::Hs512]);
    assert_eq!(config.issuers[0].algorithms, [Algorithm::Es256, Algorithm::Hs256, Algorithm::Hs512]);
    assert!(keys.remote.is_some() && keys.shared[0].secret != keys.shared[1].secret);
    let alone = accepted(&format!("{issuer}algorithms = ['ES256', 'HS512']\nhs512.env = 'LONG_SECRET'\n").replacen(
        "algorithms = ['ES256']\n",
        "",
        1,
    ));
    assert_eq!(alone.issuers[0].algorithms, [Algorithm::Es256, Algorithm::Hs512]);
}

#[test]
fn an_issuer_can_be_discovered() {
    let issuer = |name: &str| {
        format!("[[issuer]]\nissuer = '{name}'\naudience = 'b'\nalgorithms = ['ES256']\ndiscover = true\n")
    };
    let config = accepted(&issuer("https://auth.example.com/realms/a"));
    let remote = remote(&config);
    assert_eq!(remote.metadata_of.as_deref(), Some("https://auth.example.com/realms/a"));
    assert_eq!(
        (remote.endpoint.url.as_str(), remote.refresh),
        ("https://auth.example.com/realms/a", Duration::from_secs(600))
    );
    let tuned = accepted(&format!("{}jwks = {{ refresh = '1h', timeout = '1s' }}\n", issuer("http://localhost:3000")));
    let keys = self::remote(&tuned);
    assert_eq!(
        (keys.refresh.as_secs(), keys.endpoint.timeout.as_secs(), keys.endpoint.private_address),
        (3600, 1, true)
    );
    for (text, expected) in [
        (issuer("auth"), "2: issuer[0].issuer: not a URL: write the full URL, as in \"https://auth.example.com\""),
        (
            issuer("http://auth.example.com"),
            "2: issuer[0].issuer: `discover` over plain http lets keys be replaced in transit: write https, or `danger_plain_http = true`",
        ),
        (
            format!("{}jwks.url = 'https://e'\n", issuer("https://auth.example.com")),
            "6: issuer[0].jwks.url: contradicts `discover = true`, which finds the URL: remove one of them",
        ),
    ] {
        assert_eq!(errors(&text), format!("x.toml:{expected}"));
    }
}

#[test]
fn a_key_url_may_have_its_own_authorities() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let certificate = rcgen::generate_simple_self_signed(["auth.internal".to_owned()]).unwrap();
    std::fs::write(&file, certificate.cert.pem()).unwrap();
    let issuer =
        |jwks: &str| format!("[[issuer]]\nissuer = 'a'\naudience = 'b'\nalgorithms = ['ES256']\njwks = {{ {jwks} }}\n");
    let ca = format!("ca = '{}'", file.display());
    let config = accepted(&issuer(&format!("url = 'https://auth.internal', {ca}")));
    assert_eq!(remote(&config).endpoint.ca, [certificate.cert.der().clone()]);
    for (jwks, expected) in [
        (format!("url = 'http://localhost', {ca}"), "is only for https, but the URL is plain http"),
        ("url = 'https://e', ca = 'missing.pem'".to_owned(), "missing.pem: cannot be read"),
        (format!("file = '/dev/null', {ca}"), "has no effect without `url`: remove it"),
    ] {
        let found = errors(&issuer(&jwks));
        assert!(found.contains(&format!("5: issuer[0].jwks.ca: {expected}")), "{found}");
    }
}

#[test]
fn a_cookie_needs_a_list_of_origins() {
    let issuer = "[[issuer]]\nissuer = 'a'\naudience = 'b'\nhs256.env = 'AUTH_SECRET'\ncookie = '__session'\n";
    let config = accepted(&format!("{issuer}[cors]\norigins = ['https://app.example.com']\n"));
    assert_eq!(config.issuers[0].cookie.as_deref(), Some("__session"));
    assert!(config.cors.cookies && !accepted("").cors.cookies);
    for cors in ["", "[cors]\norigins = '*'\n"] {
        let found = errors(&format!("{issuer}{cors}"));
        assert!(found.contains("cors.origins: must be a list, because an [[issuer]] has `cookie`"), "{found}");
    }
    let found = errors(&format!("{}[cors]\norigins = ['https://a.example']\n", issuer.replace("__session", "a=b")));
    assert!(found.starts_with("x.toml:5: issuer[0].cookie: not the name of a cookie"), "{found}");
}

#[test]
fn opaque_tokens_are_introspected_for_one_issuer() {
    let issuer = |name: &str| {
        format!(
            "[[issuer]]\nissuer = '{name}'\naudience = 'b'\nintrospection = {{ url = 'https://e/i', client_id = 'c', \
             client_secret = {{ env = 'AUTH_SECRET' }} }}\n"
        )
    };
    let config = accepted(&issuer("a"));
    let introspection = config.issuers[0].introspection.as_ref().unwrap();
    assert_eq!((introspection.auth, introspection.cache.as_secs()), (ClientAuth::Basic, 60));
    assert_eq!((introspection.endpoint.url.as_str(), introspection.endpoint.timeout.as_secs()), ("https://e/i", 2));
    for (text, expected) in [
        (issuer("a").replace("client_id = 'c'", "auth = 'jwt'"), "4: issuer[0].introspection.client_id: missing"),
        (issuer("a").replace("'c'", "'c', auth = 'jwt'"), "4: issuer[0].introspection.auth: unknown value \"jwt\""),
        (issuer("a").replace("https://e", "http://e"), "4: issuer[0].introspection.url: plain http shows every token"),
        (issuer("a").replace("'c'", "'c', cache = '11m'"), "4: issuer[0].introspection.cache: out of bounds"),
        (issuer("a") + &issuer("b"), "8: issuer[1].introspection: is in another [[issuer]] too"),
    ] {
        let found = errors(&text);
        assert!(found.starts_with(&format!("x.toml:{expected}")), "{found}");
    }
}

#[test]
fn revocations_come_from_a_list_or_by_push() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("revoked.json");
    std::fs::write(&list, r#"{"revocations":[]}"#).unwrap();
    let revocation = |lines: &str| format!("[revocation]\n{lines}\n");
    let file = format!("file = '{}'", list.display());
    let settings = accepted(&revocation(&file)).revocation.unwrap();
    assert_eq!((settings.source, settings.interval.as_secs()), (Some(RevocationSource::File(list.clone())), 10));
    assert!(settings.first.is_some());
    let pushed = accepted(&revocation("secret.env = 'AUTH_SECRET'")).revocation.unwrap();
    assert_eq!((pushed.source.is_none(), pushed.keep.as_secs(), pushed.remote_push), (true, 86_400, false));
    assert!(matches!(
        accepted(&revocation("url = 'https://e/r'")).revocation.unwrap().source,
        Some(RevocationSource::Url(endpoint)) if endpoint.timeout.as_secs() == 5
    ));
    assert_eq!(accepted("").revocation, None);
    std::fs::write(&list, r#"{"revocations":[{}]}"#).unwrap();
    for (lines, expected) in [
        ("", "1: revocation: revokes nothing: write `file` or `url` for a list"),
        ("file = 'missing.json'", "2: revocation.file: missing.json: cannot be read"),
        (file.as_str(), "2: revocation.file: "),
        ("file = 'a'\nurl = 'https://e'", "3: revocation.url: contradicts `file`"),
        ("url = 'http://e/r'", "2: revocation.url: plain http lets anyone on the network empty the list"),
        ("secret.env = 'SHORT_SECRET'", "2: revocation.secret: the secret has 31 bytes: it needs at least 32"),
        ("url = 'https://e'\nkeep = '1h'", "3: revocation.keep: has no effect without `secret`"),
        ("secret.env = 'AUTH_SECRET'\nca = 'a'", "3: revocation.ca: has no effect without `url`"),
        ("url = 'https://e'\ninterval = '500ms'", "3: revocation.interval: out of bounds"),
    ] {
        let found = errors(&revocation(lines));
        assert!(found.starts_with(&format!("x.toml:{expected}")), "{found}");
    }
}

#[test]
fn a_long_token_limit_raises_that_of_the_headers() {
    let limits = accepted("[limits]\ntoken_bytes = '48KiB'\n").limits;
    assert_eq!((limits.token_bytes, limits.header_bytes), (48 * 1024, 64 * 1024));
    let limits = accepted("").limits;
    assert_eq!((limits.token_bytes, limits.header_bytes), (16 * 1024, 32 * 1024));
    let config = accepted("[limits]\nheader_bytes = '8KiB'\n");
    assert!(config.warnings[0].message.contains("is less than `token_bytes`"), "{:?}", config.warnings);
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
