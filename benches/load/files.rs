//! Open files: every client is one here and one at the server.

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit, which the servers inherit, to the hard one; an error where that cannot do for `clients`.
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

/// Listeners, logs, the runtime's own.
const SPARE: u64 = 200;
