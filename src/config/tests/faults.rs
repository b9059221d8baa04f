//! Checks the errors of invalid files: file, line, key and message.

use super::{accepted, environment, errors};
use crate::config::Config;

const ISSUER: &str = "[[issuer]]\nissuer = 'a'\naudience = 'b'\n";
const JWKS: &str = "[[issuer]]\nissuer = 'a'\naudience = 'b'\nalgorithms = ['ES256']\n";

/// Each text must give exactly this error, which is written without its `x.toml:` prefix.
#[track_caller]
fn each(rows: &[(String, &str)]) {
    for (text, expected) in rows {
        assert_eq!(errors(text), format!("x.toml:{expected}"), "{text}");
    }
}

#[test]
fn all_errors_are_reported_in_the_order_of_the_file() {
    let text = include_str!("../../../tests/vectors/config/wrong.toml");
    let expected = include_str!("../../../tests/vectors/config/wrong.txt");
    assert_eq!(errors(text), expected.trim_end());
}

#[test]
fn an_empty_file_reports_every_required_key() {
    let found = Config::parse("", "x.toml".as_ref(), &environment()).unwrap_err();
    let keys: Vec<_> = found.iter().map(|error| (error.line, error.key.as_str())).collect();
    assert_eq!(keys, ["server.listen", "upstream.url", "upstream.secret", "shape"].map(|key| (Some(1), key)));
}

#[test]
fn a_value_of_the_wrong_type_causes_exactly_one_error() {
    let text = include_str!("../../../conf/shapegate.full.toml");
    let lines: Vec<&str> = text.lines().collect();
    let settings = lines.iter().enumerate().filter(|(_, line)| !line.starts_with('#') && line.contains(" = "));
    for (index, line) in settings {
        let (key, _) = line.split_once(" = ").unwrap();
        let wrong = format!("{key} = 1979-05-27");
        let mut lines = lines.clone();
        lines[index] = &wrong;
        let parsed = Config::parse(&lines.join("\n"), "x.toml".as_ref(), &environment());
        let found: Vec<_> = parsed.unwrap_err().iter().map(|error| (error.line, error.key.clone())).collect();
        assert!(
            matches!(&found[..], [(Some(at), name)] if *at == index + 1 && name.ends_with(key)),
            "{line}: {found:?}"
        );
    }
}

#[test]
fn toml_syntax_errors_are_reported() {
    each(&[
        ("[server\n".into(), "1: not TOML: unclosed table, expected `]`"),
        ("[server]\nlisten = '[::]:0'\nlisten = '[::]:0'\n".into(), "3: not TOML: duplicate key: write each key once"),
        ("[server]\nlisten = localhost\n".into(), "2: not TOML: string values must be quoted, expected literal string"),
    ]);
}

#[test]
fn invalid_audit_settings_are_rejected() {
    let none = "names no target: write `path` or `stderr = true`";
    each(&[
        ("[audit]\npath = 'a'\nstderr = true\n".into(), "3: audit.stderr: contradicts `path`: write one of the two"),
        ("[audit]\nidle = '1m'\n".into(), &format!("1: audit: {none}")),
        ("[audit]\nsessions = 9\nstderr = false\n".into(), &format!("1: audit: {none}")),
        ("[audit]\nfile = 'a'\n".into(), "2: audit.file: unknown key; did you mean `idle`?"),
    ]);
    assert!(accepted("[audit]\n").audit.is_none());
}

#[cfg(not(feature = "otel"))]
#[test]
fn invalid_otel_settings_are_rejected() {
    let absent = "otel: this build has no OpenTelemetry support: build with `--features otel`, or remove the section";
    each(&[
        ("[otel]\n".into(), &format!("1: {absent}")),
        ("\n[otel]\nendpoint = 'http://127.0.0.1:4318'\n".into(), &format!("2: {absent}")),
    ]);
    assert!(accepted("").otel.is_none());
}

#[cfg(feature = "otel")]
#[test]
fn invalid_otel_settings_are_rejected() {
    let collector = |rest: &str| format!("[otel]\nendpoint = 'http://127.0.0.1:4318'\n{rest}\n");
    let no_part = "3: otel.sample: must be a number from 0 to 1, as in 0.01: the fraction of traces to record";
    let no_url = r#"2: otel.endpoint: not a URL: write where the collector accepts OTLP over HTTP, as in "http://127.0.0.1:4318""#;
    let bare = "2: otel.endpoint: must not contain user, password, query or fragment: set headers in OTEL_EXPORTER_OTLP_HEADERS";
    each(&[
        (
            "[otel]\nsample = 0.5\n".into(),
            r#"1: otel: has no collector: write `endpoint`, as in "http://127.0.0.1:4318""#,
        ),
        (collector("sample = 1.5"), no_part),
        (collector("sample = -0.1"), no_part),
        (collector("sample = nan"), no_part),
        (collector("sample = '10%'"), no_part),
        (collector("service = ''"), "3: otel.service: is empty: write a value"),
        ("[otel]\nendpoint = 'ftp://127.0.0.1'\n".into(), no_url),
        ("[otel]\nendpoint = '127.0.0.1:4318'\n".into(), no_url),
        ("[otel]\nendpoint = 'http://user:canary@127.0.0.1'\n".into(), bare),
        ("[otel]\nendpoint = 'http://127.0.0.1?key=canary'\n".into(), bare),
    ]);
    let otel = accepted(&collector("")).otel.unwrap();
    assert_eq!((otel.sample, otel.service.as_str()), (1.0, "shapegate"));
    for (written, sample) in [("0", 0.0), ("1", 1.0), ("0.01", 0.01), ("1e-3", 0.001)] {
        assert_eq!(accepted(&collector(&format!("sample = {written}"))).otel.unwrap().sample, sample);
    }
}

#[test]
fn invalid_server_settings_are_rejected() {
    let server = |rest: &str| format!("[server]\n{rest}\n");
    each(&[
        (server(""), r#"1: server.listen: missing: write the addresses for clients, as in ["0.0.0.0:8080"]"#),
        (server("listen = []"), "2: server.listen: is empty: name at least one"),
        (
            server("listen = 'localhost:80'"),
            r#"2: server.listen: not an address: write an IP address and a port, as in "0.0.0.0:8080" or "[::]:8080""#,
        ),
        (
            server("listen = [\n'[::]:80',\n'[::]:80']"),
            "4: server.listen[1]: [::]:80 is listened on twice (`listen` and `admin` together): give each its own port",
        ),
        (
            server("listen = '127.0.0.1:9090'"),
            "2: server.listen: 127.0.0.1:9090 is listened on twice (`listen` and `admin` together): give each its own port",
        ),
        (
            server("listen = '[::]:0'\ntls = { cert = 'a' }"),
            "3: server.tls.key: missing: write the path of the private key (PEM)",
        ),
        (server("listen = '[::]:0'\ntls = 'a'"), "3: server.tls: expected a table, found a string"),
        (
            server("listen = 'unix:'"),
            "2: server.listen: names no file: write the path of the socket, as in \"unix:/run/shapegate/http.sock\"",
        ),
        (
            server("listen = '[::]:0'\nproxy_protocol = true"),
            "3: server.proxy_protocol: needs `limits.trusted_proxies`: only connections of these proxies have a header",
        ),
        (
            server("listen = '[::]:0'\nhealth_path = 'up/'"),
            "3: server.health_path: write /segments of letters, digits and - . _ ~ without a slash at the end",
        ),
        (
            server("listen = '[::]:0'\nhealth_path = '/v1/shape'"),
            "3: server.health_path: clients get shapes or tokens at this path: choose another",
        ),
        (server("listen = '[::]:0'\nh2c = 'yes'"), "3: server.h2c: expected true or false, found a string"),
        (server("listen = '[::]:0'\nadmni = 1"), "3: server.admni: unknown key; did you mean `admin`?"),
        (
            server("listen = '[::]:0'\ncolour = 1"),
            "3: server.colour: unknown key; known keys are listen, admin, threads, drain, tls, proxy_protocol, \
             health_path, h1_idle_timeout, h2c, h2_streams, h2_idle_timeout, state, upgrade_socket, \
             danger_explain_denials, upgrade_timeout",
        ),
    ]);
    accepted(&server("listen = ['[::]:0', '[::]:0']\nadmin = '0.0.0.0:0'"));
    let proxied =
        server("listen = ['[::]:80', '0.0.0.0:80', 'unix:http.sock']\nproxy_protocol = true\nhealth_path = '/up'");
    let settings = accepted(&format!("{proxied}[limits]\ntrusted_proxies = ['10.0.0.0/8']\n")).server;
    assert_eq!(settings.listen[2].to_string(), "unix:http.sock");
    assert_eq!(settings.http.health_path.as_deref(), Some("/up"));
}

#[test]
fn invalid_upstream_settings_are_rejected() {
    let upstream = |url: &str| format!("[upstream]\nurl = '{url}'\ndanger_no_secret = true\n");
    let no_url = r#"2: upstream.url: not a URL: write http or https, a host and a port, as in "http://127.0.0.1:3000""#;
    let bare = "2: upstream.url: must be only scheme, host and port: remove user, password, path, query and fragment";
    each(&[
        (upstream("127.0.0.1:3000"), no_url),
        (upstream("localhost:3000"), no_url),
        (upstream("ftp://e"), no_url),
        (upstream("http://u@e"), bare),
        (upstream("http://:p@e"), bare),
        (upstream("http://e/v1/shape"), bare),
        (upstream("http://e?a"), bare),
        (upstream("http://e#a"), bare),
        (
            "[upstream]\nurl = 'http://e'\n".into(),
            r#"1: upstream.secret: missing: write { env = "ELECTRIC_SECRET" }, or `danger_no_secret = true` if Electric runs with ELECTRIC_INSECURE"#,
        ),
        (
            upstream("http://e") + "secret = { env = 'ELECTRIC_SECRET' }\n",
            "4: upstream.secret: contradicts `danger_no_secret = true`: remove one of them",
        ),
        (
            upstream("http://e") + "urls = []\n",
            "4: upstream.urls: contradicts `url`: write `url` for one server, `urls` for several",
        ),
        (
            upstream("http://e").replace("url = 'http://e'", "urls = ['http://e', 'http://e:80/']"),
            "2: upstream.urls[1]: is given more than once",
        ),
        (
            upstream("http://e").replace("url = 'http://e'", "urls = ['http://e', 'e']"),
            r#"2: upstream.urls[1]: not a URL: write http or https, a host and a port, as in "http://127.0.0.1:3000""#,
        ),
        (
            upstream("http://e") + "secret_next = { env = 'ELECTRIC_SECRET' }\n",
            "4: upstream.secret_next: contradicts `danger_no_secret = true`: remove one of them",
        ),
        (
            "[upstream]\nurl = 'http://e'\nsecret_next = { env = 'ELECTRIC_SECRET' }\n".into(),
            r#"1: upstream.secret: missing: write { env = "ELECTRIC_SECRET" }, or `danger_no_secret = true` if Electric runs with ELECTRIC_INSECURE"#,
        ),
        (upstream("http://e") + "url2 = 1\n", "4: upstream.url2: unknown key; did you mean `url`?"),
        (upstream("http://e") + "source_id = ''\n", "4: upstream.source_id: is empty: write a value"),
    ]);
}

#[test]
fn a_ca_needs_https_and_a_file_with_only_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let upstream =
        |url: &str| format!("[upstream]\nurl = '{url}'\ndanger_no_secret = true\nca = '{}'\n", file.display());
    let problem = |words: &str| format!("4: upstream.ca: {}: {words}", file.display());
    let made = rcgen::generate_simple_self_signed(["e".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let missing = problem("cannot be read: No such file or directory (os error 2)");
    each(&[(upstream("https://e"), &missing)]);
    for (content, words) in [
        (String::new(), "contains no certificate: write PEM, with BEGIN CERTIFICATE"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
            "contains a certificate that cannot be used: ",
        ),
        ("-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----\n".to_owned(), "is not PEM: "),
        (certificate.clone() + &key, "contains more than certificates: remove the rest"),
    ] {
        std::fs::write(&file, content).unwrap();
        let found = errors(&upstream("https://e"));
        assert!(found.starts_with(&format!("x.toml:{}", problem(words))) && found.lines().count() == 1, "{found}");
    }
    std::fs::write(&file, certificate.clone() + &certificate).unwrap();
    assert_eq!(accepted(&upstream("https://e")).upstream.ca.map(|ca| ca.certificates.len()), Some(2));
    each(&[(upstream("http://e"), "4: upstream.ca: is only for https, but a server of this upstream uses plain http")]);
}

#[test]
fn invalid_named_upstreams_and_references_are_rejected() {
    let upstreams = "[upstreams.acme-db]\nurl = 'http://a'\ndanger_no_secret = true\n";
    let shape = |upstream: &str| format!("{upstreams}[[shape]]\ntable = 't'\nwhere = 'none'\nupstream = {upstream}\n");
    let by = |rest: &str| shape(&format!("{{ claim = 'claims.t', {rest} }}"));
    let unknown = |key: &str| {
        format!(
            r#"7: shape[0].{key}: no such upstream "acme": add [upstreams.acme], or write one of: default, acme-db"#
        )
    };
    let (plain, mapped) = (unknown("upstream"), unknown("upstream.map.x"));
    each(&[
        (shape("'acme'"), &plain),
        (by("map = { y = 'acme-db', x = 'acme' }"), &mapped),
        (by("map = {}"), "7: shape[0].upstream.map: is empty: the rule would deny every request"),
        (
            by("map = { x = 'acme-db' }").replace("claims.t", "query.t"),
            "7: shape[0].upstream: `claim` must read claims only: a client could choose anything else",
        ),
        (
            by("map = { x = 'acme-db' }").replace("where = 'none'", "where = 'none'\npublic = true"),
            "8: shape[0].upstream: reads claims, but the rule is public and a public request has no token",
        ),
        (
            by("mapp = { x = 'acme-db' }"),
            "7: shape[0].upstream.map: missing: write a table from the claim's values to names, as in { acme = \"acme-db\" }\n\
             x.toml:7: shape[0].upstream.mapp: unknown key; did you mean `map`?",
        ),
        (upstreams.replace("acme-db", "default"), "1: upstreams.default: is the name of [upstream]: choose another"),
        (
            upstreams.replace("acme-db", "Acme"),
            "1: upstreams.Acme: the name must be 1 to 64 of a to z, 0 to 9, - and _, because logs and metrics show it",
        ),
        (
            upstreams.replace("url = 'http://a'\n", ""),
            r#"1: upstreams.acme-db.url: missing: write where Electric listens, as in "http://127.0.0.1:3000""#,
        ),
    ]);
    accepted(&shape("'acme-db'"));
    accepted(&shape("'default'"));
    assert_eq!(accepted(&by("map = { x = 'acme-db', y = 'default' }")).upstreams.len(), 1);
}

#[test]
fn invalid_issuer_settings_are_rejected() {
    let known = "supported: EdDSA, ES256, ES384, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512";
    let unknown = format!("4: issuer[0].algorithms[1]: unknown algorithm; {known}");
    let url = "jwks.url = 'https://e'\n";
    each(&[
        (
            "[issuer] # not [[issuer]]\n".to_owned(),
            "1: issuer: expected a list of tables: write [[issuer]], with two brackets\n\
             x.toml:1: issuer: missing: write an [[issuer]] table, or `public = true` in every [[shape]]",
        ),
        (
            format!("[[issuer]]\nissuer = 'a'\nalgorithms = ['ES256']\n{url}"),
            "1: issuer[0].audience: missing: write the value that `aud` must contain; there is no default. For tokens \
             without `aud`, write a condition on another claim, as in require = \"claims.azp == 'my-app'\"",
        ),
        (
            format!("[[issuer]]\nissuer = ' '\naudience = 'b'\nalgorithms = ['ES256']\n{url}"),
            "2: issuer[0].issuer: is empty: write a value",
        ),
        (
            format!("{JWKS}{url}{JWKS}{url}"),
            "7: issuer[1].issuer: the same issuer as on line 2: write one table for each issuer",
        ),
        (
            format!("{ISSUER}{url}"),
            r#"1: issuer[0].algorithms: missing: write the algorithms that the issuer signs with, as in ["EdDSA", "ES256"]"#,
        ),
        (format!("{ISSUER}algorithms = []\n{url}"), "4: issuer[0].algorithms: is empty: name at least one"),
        (format!("{ISSUER}algorithms = ['ES256', 'none']\n{url}"), &unknown),
        (format!("{ISSUER}algorithms = ['ES256', 'es256']\n{url}"), &unknown),
        (
            format!("{ISSUER}algorithms = ['ES256', 'ES256']\n{url}"),
            "4: issuer[0].algorithms[1]: ES256 is given more than once",
        ),
    ]);
}

#[test]
fn algorithms_without_keys_and_keys_without_algorithms_are_rejected() {
    let url = "jwks.url = 'https://e'\n";
    let shared = "hs256.env = 'AUTH_SECRET'\n";
    let either = "1: issuer[0]: needs keys: write `jwks` or `discover` (public keys), `hs256`, `hs384` or `hs512` (a shared secret), or `introspection`";
    each(&[
        (
            format!("{ISSUER}algorithms = ['ES256', 'HS256']\n{url}"),
            "4: issuer[0].algorithms[1]: HS256 needs a shared secret: write `hs256`, or remove it here",
        ),
        (
            format!("{ISSUER}algorithms = ['HS256', 'ES256']\n{shared}"),
            "4: issuer[0].algorithms[1]: ES256 needs public keys: write `jwks`, or remove it here",
        ),
        (JWKS.to_owned(), either),
        (
            format!("{ISSUER}algorithms = ['HS256']\n{shared}{url}"),
            r#"4: issuer[0].algorithms: names no algorithm for the public keys of `jwks`: add one, as in "ES256""#,
        ),
        (
            format!("{ISSUER}algorithms = ['HS384']\n{shared}"),
            "4: issuer[0].algorithms[0]: HS384 needs a shared secret: write `hs384`, or remove it here",
        ),
        (
            format!("{ISSUER}{shared}hs512.env = 'AUTH_SECRET'\n"),
            "5: issuer[0].hs512: the secret has 32 bytes: it needs at least 64",
        ),
        (
            format!("{ISSUER}{shared}hs384_next.env = 'LONG_SECRET'\n"),
            "5: issuer[0].hs384_next: has no effect without `hs384`: write the new secret there",
        ),
    ]);
    accepted(&format!("{ISSUER}algorithms = ['HS256']\n{shared}"));
}

#[test]
fn invalid_jwks_settings_are_rejected() {
    let plain = "5: issuer[0].jwks.url: keys fetched over plain http can be replaced in transit: write https, or `danger_plain_http = true`";
    let no_url = r#"5: issuer[0].jwks.url: not a URL: write the full URL, as in "https://auth.example.com/.well-known/jwks.json""#;
    let bare = "5: issuer[0].jwks.url: must not contain user, password or fragment: remove them";
    let jwks = |inner: &str| format!("{JWKS}jwks = {{ {inner} }}\n");
    each(&[
        (jwks(""), "5: issuer[0].jwks: needs a source: write `url`, `file` or both"),
        (jwks("url = 'http://auth.example/jwks'"), plain),
        (jwks("url = 'http://10.0.0.1/jwks'"), plain),
        (jwks("url = 'http://localhost.example/jwks'"), plain),
        (jwks("url = '/jwks'"), no_url),
        (jwks("url = 'file:///jwks'"), no_url),
        (jwks("url = 'https://u:p@e'"), bare),
        (jwks("url = 'https://e#a'"), bare),
        (
            jwks("url = 'https://e', refresh = '1h', max_stale = '59m'"),
            "5: issuer[0].jwks.max_stale: is shorter than `refresh` (default 10m): every key set would expire before it is refreshed",
        ),
        (jwks("file = '/no/such'"), "5: issuer[0].jwks.file: cannot be read: No such file or directory (os error 2)"),
        (
            jwks("refresh = '1h'"),
            "5: issuer[0].jwks: needs a source: write `url`, `file` or both\n\
             x.toml:5: issuer[0].jwks.refresh: has no effect without `url`: remove it",
        ),
    ]);
    accepted(&jwks("url = 'http://auth.example/jwks', danger_plain_http = true"));
    let found = errors(&jwks(&format!("file = '{}'", file!())));
    assert!(found.starts_with("x.toml:5: issuer[0].jwks.file: "), "{found}");
}

#[test]
fn invalid_shape_settings_are_rejected() {
    let none = r#"write exactly where = "none" to serve every row"#;
    let every = format!("3: shape[0].where: {none}");
    let shape = |rest: &str| format!("[[shape]]\ntable = 'tasks'\n{rest}\n");
    each(&[
        (shape(""), r#"1: shape[0].where: missing: write a predicate, or where = "none" to serve every row"#),
        (shape("where = ' '"), &format!("3: shape[0].where: is empty: {none}")),
        (shape("where = 'None'"), &every),
        (shape("where = ' none'"), &every),
        (shape("where = true"), "3: shape[0].where: expected a string, found a boolean"),
        (
            "[[shape]]\nwhere = 'none'\n".into(),
            r#"1: shape[0].table: missing: write the table, as in "tasks" or "auth.users""#,
        ),
        (shape("where = 'none'\nallow = ''"), "4: shape[0].allow: is empty: write a value"),
        (shape("where = 'none'\ncolumns = []"), "4: shape[0].columns: is empty: name at least one"),
        (
            shape("where = 'none'\nreplica = 'all'"),
            r#"4: shape[0].replica: unknown value "all": write "default" or "full""#,
        ),
        (shape("where = 'none'\nsubset = 'yes'"), "4: shape[0].subset: expected true or false, found a string"),
        (
            shape("where = 'none'\nclient_where = 1"),
            "4: shape[0].client_where: expected true or false, found an integer",
        ),
        (
            shape("where = 'none'\ncolour = true"),
            "4: shape[0].colour: unknown key; known keys are public, table, tables, name, path, allow, where, columns, \
             replica, subset, client_where, upstream, evaluate, search, danger_client_chosen",
        ),
    ]);
    each(&[(
        shape("where = '\"meta\"::jsonb->>\"a\" = {{ claims.sub }}'"),
        "3: shape[0].where: Electric rejects ::jsonb->> and similar operators: compare a column, for example one \
         GENERATED ALWAYS AS (…) STORED",
    )]);
    let second = shape("where = 'none'") + &shape("allow = 'true'\nwhere = '\"a\" = {{ nosuch.b }}'");
    let found = errors(&second);
    assert!(found.starts_with("x.toml:7: shape[1].where: ") && found.contains("nosuch"), "{found}");
}

#[test]
fn a_value_that_the_client_chooses_is_rejected() {
    let shape = |keys: &str| format!("[[shape]]\ntable = 'tasks'\n{keys}\n");
    let chosen = |line: usize, at: usize, parameter: &str| {
        format!("{line}: shape[{at}].where: the client chooses `query.{parameter}`")
    };
    let bound = "where = '\"organization_id\" = {{ query.organizationId }}'";
    // Without `allow`, with an `allow` of another parameter, and with two parameters of which one is compared.
    for (text, start) in [
        (shape(bound), chosen(3, 0, "organizationId")),
        (
            shape("allow = 'query.organizationId in claims.ids'\nwhere = '\"a\" = {{ query.orgId }}'"),
            chosen(4, 0, "orgId"),
        ),
        (
            shape("allow = 'query.a in claims.ids'\nwhere = '\"a\" = {{ query.a }} AND \"b\" = {{ query.b }}'"),
            chosen(4, 0, "b"),
        ),
    ] {
        let found = errors(&text);
        assert!(found.starts_with(&format!("x.toml:{start}")) && found.lines().count() == 1, "{found}");
    }
    accepted(&shape(&format!("allow = 'query.organizationId in claims.ids'\n{bound}")));
    accepted(&shape(&format!("danger_client_chosen = ['organizationId']\n{bound}")));
    assert!(errors(&shape(&format!("danger_client_chosen = ['orgId']\n{bound}"))).contains(&chosen(
        4,
        0,
        "organizationId"
    )));
}

#[test]
fn invalid_names_and_tables_are_rejected() {
    let shape = |keys: &str| format!("[[shape]]\n{keys}\nwhere = 'none'\n");
    let long = format!("name = '{}'\ntable = 'a'", "a".repeat(65));
    let characters = "must be 1 to 64 letters, digits, - _ or ., because logs and metrics show it";
    let name = format!("2: shape[0].name: {characters}");
    let taken = |name: &str, of: usize| format!("{name:?} is also the name of the rule on line {of}: choose another");
    each(&[
        (shape("table = 'a'\ntables = ['b']"), "3: shape[0].tables: contradicts `table`: write one of the two"),
        (shape("path = '/a'\ntables = ['b']"), "3: shape[0].tables: a `path` serves one table: write `table`"),
        (shape("tables = []"), "2: shape[0].tables: is empty: name at least one"),
        (shape("tables = ['a', 'PUBLIC.a']"), "2: shape[0].tables[1]: is given more than once"),
        (
            shape("tables = ['a', 'b c']"),
            "2: shape[0].tables[1]: not a table name: write name or schema.name, with double quotes around a part that needs them",
        ),
        // An error that does not concern a table is reported once.
        (shape("tables = ['a', 'b']\ncolumns = ['c', 'c']"), "3: shape[0].columns: names a column twice"),
        (shape("name = 'a b'\ntable = 'a'"), &name),
        (shape(&long), &name),
        (
            shape("name = 'shape_claim'\ntable = 'a'"),
            "2: shape[0].name: shape_claim is the name of requests with a shape token; choose another",
        ),
        (
            shape("name = 'x'\ntable = 'a'") + &shape("name = 'x'\ntable = 'b'"),
            &format!("6: shape[1].name: {}", taken("x", 1)),
        ),
        (
            shape("name = 'b'\ntables = ['a', 'c']") + &shape("table = 'b'"),
            &format!("2: shape[0].name: {}", taken("b", 5)),
        ),
    ]);
}

#[test]
fn invalid_cors_and_log_settings_are_rejected() {
    let exact = r#"2: cors.origins[0]: not the form that browsers send: write "https://a.example""#;
    let filter = r#"2: log.level: not a log filter: write "error", "warn", "info", "debug" or "trace", or as in "shapegate=debug,warn""#;
    let origins = |list: &str| format!("[cors]\norigins = [{list}]\n");
    let none = r#"2: cors.origins[0]: not an origin: write scheme, host and port, as in "https://app.example.com""#;
    each(&[
        (origins("'https://a.example/'"), exact),
        (origins("'https://a.example:443'"), exact),
        (origins("'https://A.example'"), exact),
        (origins("'https://a.example/b?c'"), exact),
        (origins("'null'"), none),
        (origins("'a.example'"), none),
        (
            origins("'https://b.example', '*'"),
            r#"2: cors.origins[1]: "*" allows every origin and must be the only entry"#,
        ),
        (
            "[cors]\ncredentials = true\n".into(),
            r#"2: cors.credentials: needs a list of `origins`: browsers reject credentials with "*""#,
        ),
        ("[log]\nlevel = 'inof'\n".into(), filter),
        ("[log]\nlevel = 'shapegate=loud'\n".into(), filter),
        (
            "[log]\nlevel = 'info,pingora_proxy=debug'\n".into(),
            "2: log.level: names pingora, whose log lines below warn show requests with the upstream secret: remove it",
        ),
        ("[log]\nformat = 'xml'\n".into(), r#"2: log.format: unknown value "xml": write "text" or "json""#),
    ]);
    for text in ["origins = '*'", "origins = 'https://a.example:8443'", "origins = ['capacitor://localhost']"] {
        accepted(&format!("[cors]\n{text}\n"));
    }
    for level in ["info", "shapegate=debug,warn", "OFF"] {
        accepted(&format!("[log]\nlevel = '{level}'\n"));
    }
}
