//! Passes the process environment as an argument, so that tests can supply their own.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where environment variables are looked up. It has no `Debug`, because it can hold secrets.
pub enum Environment {
    /// A build or deploy step without secrets and key files: neither is read. Only the rules and the issuers'
    /// addresses of a configuration resolved this way are usable.
    Deploy,
    /// The environment of this process.
    Process,
    /// Only these variables, for tests.
    Map(BTreeMap<String, String>),
}

impl Environment {
    pub(super) const fn is_deploy(&self) -> bool {
        matches!(self, Self::Deploy)
    }

    /// The value of a variable; `None` if it is unset or not UTF-8.
    pub fn variable(&self, name: &str) -> Option<String> {
        match self {
            Self::Deploy => None,
            Self::Process => std::env::var(name).ok(),
            Self::Map(variables) => variables.get(name).cloned(),
        }
    }

    /// The value of a variable that holds no secret; a deploy step has these too.
    pub(super) fn plain(&self, name: &str) -> Option<String> {
        match self {
            Self::Deploy => std::env::var(name).ok(),
            Self::Process | Self::Map(_) => self.variable(name),
        }
    }

    /// The folder of this unit's credentials (systemd.exec(5), `LoadCredential=`).
    pub fn credentials_directory(&self) -> Option<PathBuf> {
        self.variable("CREDENTIALS_DIRECTORY").filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// The folder in which this unit may keep state (systemd.exec(5), `StateDirectory=`); the first if there are
    /// several.
    pub fn state_directory(&self) -> Option<PathBuf> {
        self.first_path("STATE_DIRECTORY")
    }

    /// The folder in which this unit may create sockets (systemd.exec(5), `RuntimeDirectory=`); the first if there are
    /// several.
    pub fn runtime_directory(&self) -> Option<PathBuf> {
        self.first_path("RUNTIME_DIRECTORY")
    }

    fn first_path(&self, name: &str) -> Option<PathBuf> {
        let paths = self.variable(name)?;
        paths.split(':').next().filter(|path| !path.is_empty()).map(PathBuf::from)
    }
}

/// Creates an environment for tests: `Environment::from([("NAME", "value")])`.
impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self::Map(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}
