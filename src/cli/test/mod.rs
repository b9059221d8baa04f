//! `shapegate test`: runs policy tests, which are written as data.

mod coverage;
mod expect;
mod report;
mod suite;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use tokio::task::JoinSet;

use self::coverage::Coverage;
use self::expect::Difference;
use self::suite::{Case, Suite};
use super::USAGE;
use super::trial::{self, Court, Request};
use crate::clock::UnixTime;

#[derive(Debug, Args)]
pub(super) struct Test {
    /// Files of test cases; see docs/testing.md
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The configuration to test, instead of the one that each file names
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Also write the results as JUnit XML, which CI systems show
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// The result of a case.
struct Outcome {
    case: Arc<Case>,
    /// How it differs from what was expected; empty if it passed.
    differences: Vec<Difference>,
}

/// The configurations under test, each at every time that a case needs.
type Courts = HashMap<(PathBuf, UnixTime), Arc<Court>>;

impl Test {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let loaded = self.files.iter().map(|file| Suite::load(file, self.config.as_deref()));
        let suites: Vec<Suite> = match loaded.collect() {
            Ok(suites) => suites,
            Err(error) => {
                eprintln!("{error}");
                return Ok(ExitCode::from(USAGE));
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        super::runtime(threads)?.block_on(self.judge(suites))
    }

    async fn judge(&self, suites: Vec<Suite>) -> anyhow::Result<ExitCode> {
        let now = trial::time(None)?;
        let (mut courts, mut judging) = (Courts::new(), JoinSet::new());
        let cases = suites.into_iter().flat_map(|suite| suite.cases).enumerate();
        for (place, case) in cases {
            let at = (case.config.clone(), case.now.unwrap_or(now));
            let court = match courts.get(&at) {
                Some(court) => Arc::clone(court),
                None => Arc::clone(courts.entry(at.clone()).or_insert(Arc::new(Court::for_claims(&at.0, at.1)?))),
            };
            let case = Arc::new(case);
            judging.spawn(async move { (place, judge(&court, &case).await, case) });
        }
        let mut judged = judging.join_all().await;
        judged.sort_by_key(|(place, ..)| *place);
        let mut coverage = Coverage::of(&courts);
        let mut outcomes = Vec::new();
        for (_, result, case) in judged {
            let differences = match result {
                Ok((differences, seen)) => {
                    coverage.add(&case.config, seen);
                    differences
                }
                Err(error) => vec![Difference::of("error", "a decision", format!("{error:#}"))],
            };
            outcomes.push(Outcome { case, differences });
        }
        if let Some(path) = &self.junit {
            std::fs::write(path, report::junit(&outcomes))
                .with_context(|| format!("--junit: cannot write {}", path.display()))?;
        }
        coverage.warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
        report::print(&outcomes)?;
        let passed = outcomes.iter().all(|outcome| outcome.differences.is_empty());
        Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Judges one case. Returns the differences, and which rules it covers.
async fn judge(court: &Court, case: &Case) -> anyhow::Result<(Vec<Difference>, Vec<coverage::Seen>)> {
    let token = case.claims.clone().map(|claims| court.sign(claims)).transpose()?;
    let request = Request { method: case.method.clone(), target: case.target.clone(), token, body: case.body.clone() };
    let verdict = court.judge(&request).await?;
    Ok((expect::differences(&case.expected, &verdict), coverage::seen(&verdict)))
}
