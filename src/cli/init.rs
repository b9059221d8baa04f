//! `shapegate init`: writes a commented configuration to start from.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use url::Url;

use super::Usage;

#[derive(Debug, Args)]
pub(super) struct Init {
    /// The file to write; it must not exist. `-` writes to standard output
    #[arg(default_value = "shapegate.toml")]
    file: PathBuf,
    /// The `iss` of your tokens
    #[arg(long, value_name = "URL", default_value = "https://auth.example.com")]
    issuer: String,
    /// The `aud` of your tokens
    #[arg(long, value_name = "AUDIENCE", default_value = "https://app.example.com")]
    audience: String,
    /// The address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where Electric listens
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:3000")]
    electric: Url,
    /// The tables to serve, separated by commas
    #[arg(long, value_name = "TABLE,…", value_delimiter = ',', default_value = "tasks")]
    tables: Vec<String>,
}

impl Init {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if !self.issuer.starts_with("https://") || Url::parse(&self.issuer).is_err() {
            return Err(Usage("--issuer: give an https URL, exactly as in the `iss` of your tokens").into());
        }
        let unquotable =
            |text: &String| text.is_empty() || text.contains(['"', '\\']) || text.contains(char::is_control);
        if self.tables.iter().chain([&self.audience, &self.issuer]).any(unquotable) {
            return Err(Usage("--issuer, --audience, --tables: give names without quotes and backslashes").into());
        }
        let text = self.text();
        if self.file.as_os_str() == "-" {
            super::say(format_args!("{}", text.trim_end()))?;
            return Ok(ExitCode::SUCCESS);
        }
        let created = OpenOptions::new().write(true).create_new(true).open(&self.file);
        let written = created.and_then(|mut file| file.write_all(text.as_bytes()));
        written.with_context(|| format!("cannot write {}", self.file.display()))?;
        let file = self.file.display();
        super::say(format_args!(
            "{file}: written. Read its comments, then: ELECTRIC_SECRET=… shapegate check --config {file}"
        ))?;
        Ok(ExitCode::SUCCESS)
    }

    fn text(&self) -> String {
        let (issuer, electric) = (&self.issuer, self.electric.as_str().trim_end_matches('/'));
        let keys = issuer.trim_end_matches('/');
        let rules = self.tables.iter().map(|table| rule(table)).collect::<Vec<_>>().join("\n");
        format!(
            r#"#:schema ./shapegate.schema.json
# Made by `shapegate init`. For completion in an editor: shapegate schema > shapegate.schema.json
# conf/shapegate.full.toml explains every key.

[server]
listen = "{listen}"                   # "0.0.0.0:8080" for clients on other machines

[upstream]
url = "{electric}"
secret = {{ env = "ELECTRIC_SECRET" }}        # the ELECTRIC_SECRET of Electric; under systemd {{ credential = "electric-secret" }}

[[issuer]]
issuer = "{issuer}"      # exactly the `iss` of your tokens
audience = "{audience}"     # the `aud` of your tokens
algorithms = ["EdDSA", "ES256", "RS256"]
jwks = {{ url = "{keys}/.well-known/jwks.json" }}    # where your issuer publishes its keys

# One table for each rule. Without a rule a table is not served.
{rules}"#,
            listen = self.listen,
            audience = self.audience,
        )
    }
}

fn rule(table: &str) -> String {
    format!(
        r#"[[shape]]
table = "{table}"
# allow = "'member' in claims.roles"        # who may read; without it, every valid token
where = '"user_id" = {{{{ claims.sub }}}}'    # the rows that they get; values are bound, never pasted
"#
    )
}
