//! `shapegate check`: validates a configuration and, with `--probe`, tries it against the issuers and Electric.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{USAGE, Usage};
use crate::config::{Config, ConfigError};

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    file: ConfigPath,
    /// Treat warnings as errors
    #[arg(long)]
    strict: bool,
    /// How errors and warnings are printed: for people, or as one JSON list
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Do not read secrets and key files, for a machine or a process that does not have them
    #[arg(long, conflicts_with = "probe")]
    without_secrets: bool,
    /// Fetch each key set, check Electric's secret, and send one request per rule to Electric
    #[arg(long)]
    probe: bool,
    /// With --probe: sample claims for the rules' expressions; @FILE reads them from a file
    #[arg(long, value_name = "JSON", requires = "probe")]
    claims: Option<String>,
    /// With --probe: sample parameters of a client, as in a URL (organizationId=org-1)
    #[arg(long, value_name = "QUERY", requires = "probe")]
    query: Option<String>,
}

/// The configuration file, with or without its option.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ConfigPath {
    /// The configuration file
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
    /// The same, as an option
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let path = self.file.path.as_ref().or(self.file.config.as_ref()).ok_or(Usage("give FILE"))?;
        let loaded = if self.without_secrets { Config::load_without_secrets(path) } else { Config::load(path) };
        let checked = loaded.and_then(|config| {
            // Certificates, keys and folders may not be at hand either.
            let more = if self.without_secrets { Vec::new() } else { crate::server::check(&config)? };
            let warnings: Vec<_> = config.warnings.iter().cloned().chain(more).collect();
            Ok((config, warnings))
        });
        let (config, warnings) = match checked {
            Ok((config, warnings)) => (Some(config), warnings),
            Err(errors) => (None, errors.iter().cloned().collect()),
        };
        self.print(&warnings)?;
        let Some(config) = config else { return Ok(ExitCode::from(USAGE)) };
        if self.strict && !warnings.is_empty() {
            let warnings = super::count(warnings.len(), "warning");
            eprintln!("{}: {warnings}, which --strict rejects", path.display());
            return Ok(ExitCode::from(USAGE));
        }
        if self.format == Format::Text {
            let (rules, issuers) = (config.policy.rule_ids().count(), config.issuers.len());
            let (rules, issuers) = (super::count(rules, "rule"), super::count(issuers, "issuer"));
            super::say(format_args!("{}: ok, {rules}, {issuers}", path.display()))?;
        }
        if !self.probe {
            return Ok(ExitCode::SUCCESS);
        }
        super::runtime(1)?.block_on(super::probe::run(config, self.claims()?, self.query.as_deref()))
    }

    /// Prints errors and warnings: for people to standard error, as JSON to standard output.
    fn print(&self, found: &[ConfigError]) -> anyhow::Result<()> {
        match self.format {
            Format::Text => found.iter().for_each(|problem| eprintln!("{}\n", problem.report())),
            Format::Json => super::say(format_args!("{}", serde_json::to_string(found)?))?,
        }
        Ok(())
    }

    fn claims(&self) -> anyhow::Result<Option<String>> {
        self.claims.as_deref().map(|claims| super::argument("--claims", claims)).transpose()
    }
}
