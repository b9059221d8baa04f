//! `shapegate completions` and `shapegate man`: what packages install beside the program.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        // Into memory first, since the generator panics if the reader closes the pipe.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "shapegate", &mut script);
        std::io::stdout().write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Write the pages of all commands into this folder instead of printing one
    folder: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.folder {
            Some(folder) => clap_mangen::generate_to(Cli::command(), &folder)
                .with_context(|| format!("cannot write to {}", folder.display()))?,
            None => clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
