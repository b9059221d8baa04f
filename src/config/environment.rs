//! The process environment as an argument, so that tests bring their own.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where variables are looked up. It holds secrets, so it has no `Debug`.
pub enum Environment {
    /// That of a deploy step, where neither secrets nor key files are yet: none is looked for. What is resolved so is
    /// good for its issuers' addresses alone.
    Deploy,
    /// The environment of this process.
    Process,
    /// These variables and no others, for tests.
    Map(BTreeMap<String, String>),
}

impl Environment {
    pub(super) const fn is_deploy(&self) -> bool {
        matches!(self, Self::Deploy)
    }

    /// The value of a variable; `None` where it is not set or not UTF-8.
    pub fn variable(&self, name: &str) -> Option<String> {
        match self {
            Self::Deploy => None,
            Self::Process => std::env::var(name).ok(),
            Self::Map(variables) => variables.get(name).cloned(),
        }
    }

    /// Where systemd puts this unit's credentials (systemd.exec(5), `LoadCredential=`).
    pub fn credentials_directory(&self) -> Option<PathBuf> {
        self.variable("CREDENTIALS_DIRECTORY").filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// Where systemd lets this unit keep state (systemd.exec(5), `StateDirectory=`); the first of several.
    pub fn state_directory(&self) -> Option<PathBuf> {
        self.first_path("STATE_DIRECTORY")
    }

    /// Where systemd lets this unit keep sockets (systemd.exec(5), `RuntimeDirectory=`); the first of several.
    pub fn runtime_directory(&self) -> Option<PathBuf> {
        self.first_path("RUNTIME_DIRECTORY")
    }

    fn first_path(&self, name: &str) -> Option<PathBuf> {
        let paths = self.variable(name)?;
        paths.split(':').next().filter(|path| !path.is_empty()).map(PathBuf::from)
    }
}

/// A map, for tests: `Environment::from([("NAME", "value")])`.
impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self::Map(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}
