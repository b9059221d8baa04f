//! Decides whether a request is allowed: returns a permit or a denial.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::expression::Scope;
use super::permit::Permit;
use super::rule::{FOREIGN, Rule, RuleId};
use super::unmet::{Miss, Unmet};
use crate::auth::Principal;
use crate::clock::UnixTime;
use crate::decisions::{Answers, Consulted, Outcome, Questions, Services};
use crate::shape::{SHAPE_PATH, ScopedRequest, ShapeClaim, ShapeRequest, TableName, Target, UpstreamName};

/// Why a request is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// Rules exist for the table or path, but none allows this caller and these parameters. Holds the last of them and
    /// why it does not, for logs and metrics.
    Forbidden(RuleId, Unmet),
    /// No rule serves this table.
    ShapeNotFound,
    /// No public rule serves this table, and the request has no token.
    TokenMissing,
    /// A decision service gave no answer, so the request is neither allowed nor denied. Holds the rule that asked it.
    Undecided(RuleId),
}

/// The next step of a decision.
#[derive(Debug)]
pub enum Step {
    /// The request is allowed.
    Permit(Permit),
    /// Decision services must be asked before the decision goes on.
    Ask(Questions),
}

/// How far a decision has come that depends on decision services.
#[derive(Debug, Default)]
pub struct Progress {
    /// How many rules were tried and do not allow the request.
    tried: usize,
    /// Why the last of them does not.
    denial: Option<Denial>,
    /// The answers that the next rule asked for.
    answers: Option<Answers>,
    /// What the services said so far.
    consulted: Vec<Consulted>,
}

impl Progress {
    /// Adds the answers to the questions of [`Step::Ask`].
    pub fn answer(&mut self, answers: Answers) {
        self.answers = Some(answers);
    }

    /// Notes that a rule does not allow the request. That a service denies it says more than what follows.
    fn missed(&mut self, rule: &RuleId, unmet: Unmet) {
        self.tried += 1;
        if !matches!(self.denial, Some(Denial::Forbidden(_, Unmet::DecisionDenied))) {
            self.denial = Some(Denial::Forbidden(rule.clone(), unmet));
        }
    }

    /// What the services said, in the order in which they were asked.
    pub fn consulted(&self) -> &[Consulted] {
        &self.consulted
    }
}

/// No rule serves this path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownPath;

/// Every rule, by table and by path.
#[derive(Debug, Default)]
pub struct PolicySet {
    rules: Vec<(RuleId, Rule)>,
    by_table: HashMap<TableName, Vec<usize>>,
    by_path: HashMap<String, Vec<usize>>,
    parameters: HashSet<String>,
    services: Arc<Services>,
}

impl PolicySet {
    /// Creates the set from rules in the order of the file. They are evaluated in this order.
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut set = Self::default();
        for rule in rules {
            let index = set.rules.len();
            let siblings = match &rule.path {
                Some(path) => set.by_path.entry(path.clone()).or_default(),
                None => set.by_table.entry(rule.table.clone()).or_default(),
            };
            siblings.push(index);
            let id = id(&rule, siblings.len());
            set.parameters.extend(rule.parameters().into_iter().map(str::to_owned));
            set.rules.push((id, rule));
        }
        set
    }

    /// Returns the same rules, which ask these services.
    #[must_use]
    pub fn with_services(self, services: Services) -> Self {
        Self { services: Arc::new(services), ..self }
    }

    /// The decision services that rules ask.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Returns the name of every decision service that a rule asks; a name may appear more than once.
    pub fn asked_services(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().flat_map(|(_, rule)| rule.questions.services())
    }

    /// Returns every rule's name, in the order of the file.
    pub fn rule_ids(&self) -> impl Iterator<Item = &RuleId> {
        self.rules.iter().map(|(id, _)| id)
    }

    /// Returns every rule with its name, in the order of the file.
    pub fn rules(&self) -> impl Iterator<Item = (&RuleId, &Rule)> {
        self.rules.iter().map(|(id, rule)| (id, rule))
    }

    /// Returns every rule's name with each upstream that it can pick.
    pub fn destinations(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rules.iter().flat_map(|(id, rule)| rule.upstream.names().map(|name| (id.as_str(), name.as_str())))
    }

    /// Returns every upstream that a rule can pick; a name may appear more than once.
    pub fn upstreams(&self) -> impl Iterator<Item = &UpstreamName> {
        self.rules.iter().flat_map(|(_, rule)| rule.upstream.names())
    }

    /// Whether any rule is public.
    pub fn has_public(&self) -> bool {
        self.rules.iter().any(|(_, rule)| rule.public)
    }

    /// Finds the endpoint of a path, byte for byte: `None` for the shape path, the path itself for a rule's own.
    ///
    /// # Errors
    /// [`UnknownPath`] if no rule serves the path.
    pub fn endpoint<'a>(&self, path: &'a str) -> Result<Option<&'a str>, UnknownPath> {
        match path {
            SHAPE_PATH => Ok(None),
            _ if self.by_path.contains_key(path) => Ok(Some(path)),
            _ => Err(UnknownPath),
        }
    }

    /// Whether any rule of an endpoint allows subsets. `own_path` is the result of [`PolicySet::endpoint`].
    pub fn takes_subsets(&self, own_path: Option<&str>) -> bool {
        self.rules.iter().any(|(_, rule)| rule.subset && rule.path.as_deref() == own_path)
    }

    /// The client parameters that rules read. All others are dropped.
    pub fn parameters(&self) -> &HashSet<String> {
        &self.parameters
    }

    /// Returns the permit of the first rule that allows the request, if no decision service has to be asked for that.
    ///
    /// # Errors
    /// A [`Denial`] if no rule allows it. An error inside a rule, such as a missing claim or a value that cannot be
    /// bound, denies too.
    pub fn authorize(
        &self,
        principal: Option<&Principal>,
        request: &ShapeRequest,
        now: UnixTime,
    ) -> Result<Permit, Denial> {
        match self.judge(principal, request, now, &mut Progress::default(), &mut |_| {})? {
            Step::Permit(permit) => Ok(permit),
            Step::Ask(_) => Err(Denial::ShapeNotFound),
        }
    }

    /// Takes the first step of a decision, or the next one after [`Progress::answer`]: the permit of the first rule
    /// that allows the request, or questions whose answers are not cached. Each rule that does not allow it is passed to
    /// `observe`.
    ///
    /// # Errors
    /// As [`PolicySet::authorize`].
    pub fn judge(
        &self,
        principal: Option<&Principal>,
        request: &ShapeRequest,
        now: UnixTime,
        progress: &mut Progress,
        observe: &mut dyn FnMut(&Miss<'_, '_>),
    ) -> Result<Step, Denial> {
        let candidates = match request.target() {
            Target::Path(path) => self.by_path.get(path),
            Target::Table(table) => self.by_table.get(table),
        };
        let Some(candidates) = candidates else {
            return Err(principal.map_or(Denial::TokenMissing, |_| Denial::ShapeNotFound));
        };
        let mut scope = Scope::new(principal.map(|principal| principal.claims().cel()), request.parameters(), now);
        let usable = candidates.iter().filter_map(|&index| self.rules.get(index));
        let usable = usable.filter(|(_, rule)| rule.public || principal.is_some());
        for (id, rule) in usable.skip(progress.tried) {
            match self.try_rule(id, rule, &mut scope, progress)? {
                Ok(step) => return Ok(step),
                Err(unmet) => {
                    observe(&Miss { rule: id, unmet, tried: rule, scope: &scope });
                    progress.missed(id, unmet);
                }
            }
        }
        Err(progress.denial.take().unwrap_or(Denial::TokenMissing))
    }

    /// Tries a rule. The outer error ends the decision: no other rule is tried.
    fn try_rule(
        &self,
        id: &RuleId,
        rule: &Rule,
        scope: &mut Scope<'_>,
        progress: &mut Progress,
    ) -> Result<Result<Step, Unmet>, Denial> {
        // Taken in any case: no other rule may use them.
        let answers = progress.answers.take();
        if let Err(unmet) = rule.allows(scope) {
            return Ok(Err(unmet));
        }
        if rule.questions.is_empty() {
            return Ok(permit(id, rule, scope).map(Step::Permit));
        }
        let Some(questions) = rule.questions.render(&self.services, scope) else {
            return Ok(Err(Unmet::QuestionUnbound));
        };
        let Some(mut answers) = answers.or_else(|| questions.cached()) else {
            return Ok(Ok(Step::Ask(questions)));
        };
        progress.consulted.append(&mut answers.consulted);
        match answers.outcome() {
            Outcome::Allowed => {
                let until = answers.until();
                let permit = scope.with_answers(answers, |scope| permit(id, rule, scope));
                Ok(permit.map(|permit| Step::Permit(Permit { until, ..permit })))
            }
            Outcome::Denied => Ok(Err(Unmet::DecisionDenied)),
            Outcome::Unavailable => Err(Denial::Undecided(id.clone())),
        }
    }

    /// Returns the permit for a request with a shape token. The request must repeat the definition in the token's
    /// claim. The permit is built from the claim, not from the request.
    ///
    /// A token minted by the gatekeeper is valid only while its rule is unchanged: a reload that removes or changes the
    /// rule ends it. Its request goes to the upstream that the rule picked when the token was minted. A shape token of
    /// another issuer has no rule, and its request goes to the default upstream.
    ///
    /// # Errors
    /// [`Denial::ShapeNotFound`] if no rule serves the table any more, [`Denial::Forbidden`] if the rule changed or the
    /// request differs from the claim.
    pub fn authorize_shape(&self, claim: &ShapeClaim, request: &ScopedRequest) -> Result<Permit, Denial> {
        let definition = claim.definition();
        let (rule, table, upstream, client_values) = match claim.rule() {
            None => (RuleId::new(FOREIGN), definition.table.to_string().into(), UpstreamName::default(), false),
            Some(fingerprint) => {
                let (id, rule) = self.standing(&definition.table, fingerprint)?;
                let upstream = rule
                    .upstream
                    .find(claim.upstream())
                    .ok_or_else(|| Denial::Forbidden(id.clone(), Unmet::RuleChanged))?;
                (id.clone(), Arc::clone(&rule.table_text), upstream, rule.binds_client_values())
            }
        };
        if !claim.is_repeated_by(request) {
            return Err(Denial::Forbidden(rule, Unmet::ShapeDiffers));
        }
        Ok(Permit {
            rule,
            table,
            predicate: definition.predicate.clone(),
            params: definition.params.clone(),
            columns: definition.columns.clone(),
            queryable_columns: definition.queryable_columns.clone(),
            replica: definition.replica,
            // The client already repeats the whole definition, so it may set nothing else.
            subset: false,
            client_where: false,
            client_values,
            upstream,
            fingerprint: claim.rule().map(Into::into),
            until: None,
        })
    }

    /// Finds the rule of a table by the fingerprint that it had when the token was minted.
    fn standing(&self, table: &TableName, fingerprint: &str) -> Result<(&RuleId, &Rule), Denial> {
        let mut denial = Denial::ShapeNotFound;
        for (id, rule) in self.by_table.get(table).into_iter().flatten().filter_map(|&index| self.rules.get(index)) {
            if *rule.fingerprint == *fingerprint {
                return Ok((id, rule));
            }
            denial = Denial::Forbidden(id.clone(), Unmet::RuleChanged);
        }
        Err(denial)
    }

    /// Returns the paths of the rules that have their own path.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.by_path.keys().map(String::as_str)
    }

    /// Returns each rule's permit as if its `allow` were true, with the rule's name, and its table if the name is not
    /// enough. For `check --probe`; never used for a client.
    pub fn samples(&self, scope: &Scope<'_>) -> impl Iterator<Item = (String, Option<Permit>)> {
        self.rules.iter().map(|(id, rule)| (rule.label(id), permit(id, rule, scope).ok()))
    }
}

/// Names a rule that is the `nth` of its path or table.
fn id(rule: &Rule, nth: usize) -> RuleId {
    let place = rule.path.as_deref().unwrap_or(&rule.table_text);
    match &rule.name {
        Some(name) => RuleId::new(Arc::clone(name)),
        None if nth == 1 => RuleId::new(place),
        None => RuleId::new(format!("{place}#{nth}")),
    }
}

fn permit(id: &RuleId, rule: &Rule, scope: &Scope<'_>) -> Result<Permit, Unmet> {
    let upstream = rule.upstream.pick(scope).ok_or(Unmet::UpstreamUnbound)?;
    let rendered = rule.render(scope).ok_or(Unmet::ValueUnbound)?;
    let (predicate, params) = rendered.map_or((None, Vec::new()), |where_| (Some(where_.sql), where_.params));
    Ok(Permit {
        rule: id.clone(),
        table: Arc::clone(&rule.table_text),
        predicate,
        params,
        columns: rule.columns.clone(),
        queryable_columns: rule.columns.clone(),
        replica: rule.replica,
        subset: rule.subset,
        client_where: rule.client_where,
        client_values: rule.binds_client_values(),
        upstream,
        fingerprint: Some(Arc::clone(&rule.fingerprint)),
        until: None,
    })
}
