//! Open files: every client takes one in this process and one in the server.

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit, which the servers inherit, to the hard limit. Fails if that is too low for `clients`.
pub(crate) fn allow(clients: usize) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let needed = clients as u64 + SPARE;
    match limit.maximum {
        Some(hard) if hard < needed => {
            bail!("{clients} clients need {needed} open files and the hard limit is {hard}: raise it (ulimit -Hn)")
        }
        _ => Ok(()),
    }
}

/// Files for listeners, logs and the runtime.
const SPARE: u64 = 200;
