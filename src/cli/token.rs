//! `shapegate token`: makes a development key, and tokens that a configuration with this key accepts.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::trial;
use crate::clock::{Clock, SystemClock};
use crate::gatekeeper::SigningKey;
use crate::hex::hex;
use crate::secret::Secret;

#[derive(Debug, Args)]
pub(super) struct Token {
    /// The file of the development key, which is made if it does not exist
    #[arg(long, value_name = "FILE", default_value = "shapegate-development.key")]
    key: PathBuf,
    /// Print a token with these claims; @FILE reads them from a file. Without: print the [[issuer]] that accepts tokens
    #[arg(long, value_name = "JSON")]
    claims: Option<String>,
    /// The `iss` of the token and the issuer
    #[arg(long, value_name = "ISSUER", default_value = "shapegate-development")]
    issuer: String,
    /// The `aud` of the token and the issuer
    #[arg(long, value_name = "AUDIENCE", default_value = "development")]
    audience: String,
    /// How long the token is valid, if the claims have no `exp`
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    lifetime: Duration,
}

impl Token {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let secret = key(&self.key).with_context(|| format!("--key: {}", self.key.display()))?;
        match &self.claims {
            None => super::say(format_args!("{}", self.issuer_table()?))?,
            Some(claims) => super::say(format_args!("{}", self.token(secret, claims)?))?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn token(&self, secret: Secret, claims: &str) -> anyhow::Result<String> {
        let mut claims = trial::claims(&super::argument("--claims", claims)?)?;
        trial::complete(&mut claims, Some(&self.issuer), Some(&self.audience), SystemClock.now(), self.lifetime);
        SigningKey::shared(secret).token("JWT", &claims.into()).context("the token cannot be signed")
    }

    fn issuer_table(&self) -> anyhow::Result<String> {
        let path = std::path::absolute(&self.key)?;
        let path = path.to_str().context("--key: the path is not UTF-8")?;
        let [issuer, audience, path] =
            [self.issuer.as_str(), &self.audience, path].map(|text| serde_json::Value::from(text).to_string());
        Ok(format!(
            "# For development only: whoever has the key can sign any token.\n[[issuer]]\nissuer = {issuer}\n\
             audience = {audience}\nhs256 = {{ file = {path} }}"
        ))
    }
}

/// Reads the key, or makes one that only its owner can read.
fn key(path: &Path) -> anyhow::Result<Secret> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let secret = Secret::development(&hex(&rand::random::<[u8; 32]>()));
            writeln!(file, "{}", secret.expose())?;
            Ok(secret)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => existing(File::open(path)?),
        Err(error) => Err(error.into()),
    }
}

fn existing(mut file: File) -> anyhow::Result<Secret> {
    if file.metadata()?.mode() & 0o077 != 0 {
        bail!("others can read or write the key: chmod 600, or make another key");
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let secret = Secret::new(text.trim_end());
    if !secret.is_development() {
        bail!("not a development key: give a file that does not exist, to make one");
    }
    Ok(secret)
}
