//! The decision: a request and who asks become a permit, or a denial.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::expression::Scope;
use super::rule::{Rule, RuleId};
use crate::auth::Principal;
use crate::clock::UnixTime;
use crate::shape::protocol::ProtocolParam;
use crate::shape::{
    self, Columns, ParameterError, Replica, SHAPE_PATH, ScopedRequest, ShapeClaim, ShapeRequest, TableName, Target,
    UpstreamName,
};

/// Leave to read the rows of one shape; on the request path only [`PolicySet::authorize`] gives one.
#[derive(Debug)]
pub struct Permit {
    rule: RuleId,
    table: Arc<str>,
    predicate: Option<String>,
    params: Vec<String>,
    columns: Option<Columns>,
    queryable_columns: Option<Columns>,
    replica: Replica,
    subset: bool,
    client_where: bool,
    upstream: UpstreamName,
    fingerprint: Option<Arc<str>>,
}

impl Permit {
    /// The rule that allowed it.
    pub fn rule(&self) -> &RuleId {
        &self.rule
    }

    /// The rule that allowed it and the upstream, once nothing else of the permit is needed.
    pub fn into_rule(self) -> (RuleId, UpstreamName) {
        (self.rule, self.upstream)
    }

    /// Which Electric has the rows.
    pub fn upstream(&self) -> &UpstreamName {
        &self.upstream
    }

    /// The table, as the rule writes it.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The `where` text; `None` only where the rule says `where = "none"`.
    pub fn predicate(&self) -> Option<&str> {
        self.predicate.as_deref()
    }

    /// The values of `$1`, `$2`, …; never empty texts, never with NUL.
    pub fn params(&self) -> &[String] {
        &self.params
    }

    /// The columns sent; `None` for all.
    pub const fn columns(&self) -> Option<&Columns> {
        self.columns.as_ref()
    }

    /// Whether a subset may be asked for.
    pub fn subset(&self) -> bool {
        self.subset
    }

    /// The columns that a filter may name: those sent, where a rule gave the permit; `None` for all.
    pub const fn queryable_columns(&self) -> Option<&Columns> {
        self.queryable_columns.as_ref()
    }

    /// The same permit, to be taken as it is: the client may narrow nothing.
    #[must_use]
    pub fn closed(self) -> Self {
        Self { subset: false, client_where: false, ..self }
    }

    /// What its rule says, hashed: another rule has another one. `None` where no rule gave the permit.
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    /// Checks that the client sends only what the rule opens.
    ///
    /// # Errors
    /// Names the parameters that only the rule may set.
    pub fn check_opened(&self, request: &ShapeRequest) -> Result<(), Vec<ParameterError>> {
        if (request.is_filtered() && !self.client_where) || (request.subset().is_some() && !self.subset) {
            return Err(vec![shape::problem("query", shape::RESERVED)]);
        }
        // A client may repeat the rule's `replica`, which decides what an update shows, but not change it.
        match (request.protocol(ProtocolParam::Replica), self.replica) {
            (None, _) | (Some("default"), Replica::Default) | (Some("full"), Replica::Full) => Ok(()),
            _ => Err(vec![shape::problem("replica", "is set by the rule; leave it out")]),
        }
    }

    /// What an update carries.
    pub fn replica(&self) -> Replica {
        self.replica
    }
}

/// Why there is no permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// Rules exist, none of them holds for this bearer and these parameters; the last of them, for observers.
    Forbidden(RuleId),
    /// No rule serves that table.
    ShapeNotFound,
    /// No public rule serves that table, and there is no token.
    TokenMissing,
}

/// The name, in logs and metrics, of what is allowed by another issuer's shape token.
const FOREIGN: &str = "shape_claim";

/// Nothing is served at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownPath;

/// Every rule, by table and by path.
#[derive(Debug, Default)]
pub struct PolicySet {
    rules: Vec<(RuleId, Rule)>,
    by_table: HashMap<TableName, Vec<usize>>,
    by_path: HashMap<String, Vec<usize>>,
    parameters: HashSet<String>,
}

impl PolicySet {
    /// The rules in the order of the file, which is the order in which they are asked.
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut set = Self::default();
        for rule in rules {
            let index = set.rules.len();
            let name = rule.path.clone().unwrap_or_else(|| rule.table_text.to_string());
            let siblings = match &rule.path {
                Some(path) => set.by_path.entry(path.clone()).or_default(),
                None => set.by_table.entry(rule.table.clone()).or_default(),
            };
            siblings.push(index);
            let id = if siblings.len() == 1 { name } else { format!("{name}#{}", siblings.len()) };
            set.parameters.extend(rule.parameters().into_iter().map(str::to_owned));
            set.rules.push((RuleId::new(id), rule));
        }
        set
    }

    /// Every rule's name, in the order of the file.
    pub fn rule_ids(&self) -> impl Iterator<Item = &RuleId> {
        self.rules.iter().map(|(id, _)| id)
    }

    /// Every upstream that a rule can pick.
    pub fn upstreams(&self) -> impl Iterator<Item = &UpstreamName> {
        self.rules.iter().flat_map(|(_, rule)| rule.upstream.names())
    }

    /// Whether any rule needs no token.
    pub fn has_public(&self) -> bool {
        self.rules.iter().any(|(_, rule)| rule.public)
    }

    /// Which endpoint a path names, byte for byte: `None` for the shape path, the path itself for a rule's own.
    ///
    /// # Errors
    /// [`UnknownPath`] where nothing is served.
    pub fn endpoint<'a>(&self, path: &'a str) -> Result<Option<&'a str>, UnknownPath> {
        match path {
            SHAPE_PATH => Ok(None),
            _ if self.by_path.contains_key(path) => Ok(Some(path)),
            _ => Err(UnknownPath),
        }
    }

    /// Whether any rule of an endpoint, as [`PolicySet::endpoint`] names it, takes subsets.
    pub fn takes_subsets(&self, own_path: Option<&str>) -> bool {
        self.rules.iter().any(|(_, rule)| rule.subset && rule.path.as_deref() == own_path)
    }

    /// The client parameters that rules read; every other one is dropped.
    pub fn parameters(&self) -> &HashSet<String> {
        &self.parameters
    }

    /// The permit of the first rule that holds.
    ///
    /// # Errors
    /// A [`Denial`] where none does: deny is the default, and an error inside a rule (a missing claim, a value that
    /// cannot be bound) denies too.
    pub fn authorize(
        &self,
        principal: Option<&Principal>,
        request: &ShapeRequest,
        now: UnixTime,
    ) -> Result<Permit, Denial> {
        let candidates = match request.target() {
            Target::Path(path) => self.by_path.get(path),
            Target::Table(table) => self.by_table.get(table),
        };
        let Some(candidates) = candidates else {
            return Err(principal.map_or(Denial::TokenMissing, |_| Denial::ShapeNotFound));
        };
        let scope = Scope::new(principal.map(|principal| principal.claims().cel()), request.parameters(), now);
        let usable = candidates.iter().filter_map(|&index| self.rules.get(index));
        let mut denial = Denial::TokenMissing;
        for (id, rule) in usable.filter(|(_, rule)| rule.public || principal.is_some()) {
            if rule.allows(&scope)
                && let Some(permit) = permit(id, rule, &scope)
            {
                return Ok(permit);
            }
            denial = Denial::Forbidden(id.clone());
        }
        Err(denial)
    }

    /// The permit for a request that repeats the definition in its shape token: made of the claim, never of the
    /// request.
    ///
    /// A token minted here is good for as long as its rule stands as it was: a reload that removes or changes the rule
    /// ends it. It goes to the upstream that the rule picked when it was minted. A token of another issuer that may say
    /// what is read has no rule, and goes to the default upstream.
    ///
    /// # Errors
    /// [`Denial::ShapeNotFound`] where no rule serves the table any more, [`Denial::Forbidden`] where the rule is
    /// another one or the request differs.
    pub fn authorize_shape(&self, claim: &ShapeClaim, request: &ScopedRequest) -> Result<Permit, Denial> {
        let definition = claim.definition();
        let (rule, table, upstream) = match claim.rule() {
            None => (RuleId::new(FOREIGN), definition.table.to_string().into(), UpstreamName::default()),
            Some(fingerprint) => {
                let (id, rule) = self.standing(&definition.table, fingerprint)?;
                let upstream = rule.upstream.find(claim.upstream()).ok_or_else(|| Denial::Forbidden(id.clone()))?;
                (id.clone(), Arc::clone(&rule.table_text), upstream)
            }
        };
        if !claim.is_repeated_by(request) {
            return Err(Denial::Forbidden(rule));
        }
        Ok(Permit {
            rule,
            table,
            predicate: definition.predicate.clone(),
            params: definition.params.clone(),
            columns: definition.columns.clone(),
            queryable_columns: definition.queryable_columns.clone(),
            replica: definition.replica,
            // A definition that was repeated whole has nothing left to open.
            subset: false,
            client_where: false,
            upstream,
            fingerprint: claim.rule().map(Into::into),
        })
    }

    /// The rule of a table that still says what it said when a token was minted.
    fn standing(&self, table: &TableName, fingerprint: &str) -> Result<(&RuleId, &Rule), Denial> {
        let mut denial = Denial::ShapeNotFound;
        for (id, rule) in self.by_table.get(table).into_iter().flatten().filter_map(|&index| self.rules.get(index)) {
            if *rule.fingerprint == *fingerprint {
                return Ok((id, rule));
            }
            denial = Denial::Forbidden(id.clone());
        }
        Err(denial)
    }

    /// The paths of rules that have one of their own.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.by_path.keys().map(String::as_str)
    }

    /// What each rule would ask of Electric if its `allow` held: for `check --probe`, never for a client.
    pub fn samples(&self, scope: &Scope<'_>) -> impl Iterator<Item = (&RuleId, Option<Permit>)> {
        self.rules.iter().map(|(id, rule)| (id, permit(id, rule, scope)))
    }
}

fn permit(id: &RuleId, rule: &Rule, scope: &Scope<'_>) -> Option<Permit> {
    let upstream = rule.upstream.pick(scope)?;
    let (predicate, params) =
        rule.render(scope)?.map_or((None, Vec::new()), |where_| (Some(where_.sql), where_.params));
    Some(Permit {
        rule: id.clone(),
        table: Arc::clone(&rule.table_text),
        predicate,
        params,
        columns: rule.columns.clone(),
        queryable_columns: rule.columns.clone(),
        replica: rule.replica,
        subset: rule.subset,
        client_where: rule.client_where,
        upstream,
        fingerprint: Some(Arc::clone(&rule.fingerprint)),
    })
}
