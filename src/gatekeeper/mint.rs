//! A permit becomes a token, and the answer that carries it.

use serde_json::{Map, json};

use super::{Gatekeeper, LEEWAY};
use crate::auth::{Principal, SubjectKey};
use crate::clock::UnixTime;
use crate::policy::Permit;
use crate::shape::{Definition, Log, Replica, ShapeClaim, TableName};

/// A token for one shape, and what its client is told.
pub struct Minted {
    token: String,
    definition: Definition,
}

impl Gatekeeper {
    /// A token for exactly what `permit` allows to `user` (`None` where a public rule allows it to anybody).
    ///
    /// It lives for [`Gatekeeper::lifetime`], and no longer than the user's own. `None` where signing fails, for which
    /// no reason is known.
    pub fn mint(&self, permit: &Permit, log: Log, user: Option<&Principal>, now: UnixTime) -> Option<Minted> {
        let definition = definition(permit, log)?;
        let longest = now.saturating_add(self.lifetime).as_secs();
        // What is told as its end is judged with a leeway again.
        let user_end = user.map(|user| user.expires_at().as_secs().saturating_sub(LEEWAY.as_secs()));
        let mut claims = json!({
            "iss": self.issuer,
            "aud": self.audience,
            "iat": now.as_secs(),
            "exp": user_end.map_or(longest, |end| end.min(longest)),
            "shape": definition.to_claim(),
            "rule": permit.fingerprint()?,
        });
        if let Some(name) = permit.upstream().named() {
            claims[ShapeClaim::UPSTREAM] = name.into();
        }
        if let Some(subject) = user.and_then(Principal::subject) {
            claims["sub"] = subject.into();
        }
        if let Some(user) = user {
            claims[SubjectKey::CLAIM] = user.subject_key().to_claim().into();
        }
        Some(Minted { token: self.key.token(&claims)?, definition })
    }
}

impl Minted {
    /// The bytes of the token.
    pub const fn token_len(&self) -> usize {
        self.token.len()
    }

    /// The answer: what `new ShapeStream({ ...answer })` takes, and the members of Electric's example beside it.
    pub fn config(&self, url: &str) -> String {
        let Definition { table, predicate, columns, replica, log, .. } = &self.definition;
        let mut config = json!({ "table": table.to_string() });
        if let Some(predicate) = predicate {
            config["where"] = predicate.as_str().into();
        }
        if let Some(columns) = columns {
            config["columns"] = columns.names().into();
        }
        let mut params = config.clone();
        let values: Map<_, _> =
            self.definition.numbered_params().map(|(number, value)| (number, value.into())).collect();
        if !values.is_empty() {
            params["params"] = values.into();
        }
        if *replica == Replica::Full {
            params["replica"] = "full".into();
        }
        config["params"] = params;
        config["url"] = url.into();
        config["headers"] = json!({ "Authorization": format!("Bearer {}", self.token) });
        if *log == Log::ChangesOnly {
            config["log"] = "changes_only".into();
        }
        config.to_string()
    }
}

/// What a permit gives; `None` only if the permit's table is none.
fn definition(permit: &Permit, log: Log) -> Option<Definition> {
    Some(Definition {
        table: TableName::parse(permit.table()).ok()?,
        predicate: permit.predicate().map(str::to_owned),
        params: permit.params().to_vec(),
        columns: permit.columns().cloned(),
        queryable_columns: permit.queryable_columns().cloned(),
        replica: permit.replica(),
        log,
    })
}
