//! Mints a token from a permit, and builds the response that contains it.

use serde_json::{Map, json};

use super::{Gatekeeper, LEEWAY, TOKEN_TYPE};
use crate::auth::{Principal, SubjectKey, TokenMarks};
use crate::clock::UnixTime;
use crate::policy::Permit;
use crate::shape::{Definition, Log, Replica, ShapeClaim, TableName};

/// A minted token with the definition of its shape.
pub struct Minted {
    token: String,
    definition: Definition,
}

impl Gatekeeper {
    /// Mints a token for exactly what `permit` allows to `user`, which is `None` if a public rule allows it to anyone.
    ///
    /// The token is valid for [`Gatekeeper::lifetime`], but no longer than the user's token. Returns `None` if signing
    /// fails or the permit comes from no rule; neither is expected.
    pub fn mint(&self, permit: &Permit, log: Log, user: Option<&Principal>, now: UnixTime) -> Option<Minted> {
        let definition = definition(permit, log)?;
        let longest = now.saturating_add(self.lifetime).as_secs();
        // The verifier of the minted token adds the leeway to `exp` again.
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
            claims[TokenMarks::CLAIM] = user.marks().to_claim();
        }
        Some(Minted { token: self.key.token(TOKEN_TYPE, &claims)?, definition })
    }
}

impl Minted {
    /// The length of the token in bytes.
    pub const fn token_len(&self) -> usize {
        self.token.len()
    }

    /// Builds the JSON response: the options for `new ShapeStream({ ...response })`, and the additional members of the
    /// response in Electric's example.
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

/// Returns the shape that a permit allows; `None` only if the permit's table is not a table name.
fn definition(permit: &Permit, log: Log) -> Option<Definition> {
    Some(Definition {
        table: TableName::parse(permit.table()).ok()?,
        predicate: permit.predicate().map(str::to_owned),
        params: permit.params().to_vec(),
        columns: permit.columns().cloned(),
        // The token allows no filters, and a client repeats one list.
        queryable_columns: permit.columns().cloned(),
        replica: permit.replica(),
        log,
    })
}
