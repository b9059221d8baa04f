//! Compiles and renders the questions of a rule to decision services: its `evaluate` and its `search`.

use std::collections::BTreeMap;
use std::sync::Arc;

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt};
use cel::common::value::Val;
use serde_json::{Map, Value};

use super::ast;
use super::expression::{Bound, Expression, Scope};
use super::problem::{Problem, RuleError};
use super::source::{EntitySource, QuestionSource, RuleSource};
use super::template::expression_end;
use crate::decisions::{Asked, Kind, Question, Questions, Services};

/// The questions of a rule; none for most rules.
#[derive(Debug, Default)]
pub(super) struct QuestionTemplates {
    evaluate: Option<QuestionTemplate>,
    search: Option<QuestionTemplate>,
}

/// A question, as JSON with placeholders. Its members are sorted, so equal values give equal bytes.
#[derive(Debug)]
struct QuestionTemplate {
    service: String,
    kind: Kind,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    /// JSON from the configuration.
    Json(String),
    /// The value of an expression, as JSON of its type.
    Value(Expression),
    /// A JSON string.
    Text(Vec<Part>),
}

#[derive(Debug)]
enum Part {
    Literal(String),
    /// A string, integer or boolean, neither empty nor with NUL.
    Value(Expression),
}

impl QuestionTemplates {
    /// Compiles the questions of a rule. Adds the errors to `errors`.
    pub(super) fn compile(source: &RuleSource, errors: &mut Vec<RuleError>) -> Self {
        let mut compile = |key, source: Option<&QuestionSource>, kind| {
            let compiled = QuestionTemplate::compile(source?, kind);
            compiled.map_err(|problem| errors.push(problem.of(key))).ok()
        };
        let evaluate = compile("evaluate", source.evaluate.as_ref(), Kind::Evaluation);
        let search = source.search.as_ref();
        let kind = search.map_or(Kind::Evaluation, |search| Kind::Search(search.resource.kind.as_str().into()));
        Self { evaluate, search: compile("search", search, kind) }
    }

    /// Checks that `where` reads only answers to questions that the rule asks, and that it uses the ids of a search.
    pub(super) fn check_used(
        &self,
        any_in_where: impl Fn(fn(&Expression) -> bool) -> bool,
    ) -> Option<(&'static str, &'static str)> {
        let reads_ids = any_in_where(Expression::reads_ids);
        if reads_ids && self.search.is_none() {
            return Some(("where", "reads decision.ids, but the rule has no `search`"));
        }
        if any_in_where(Expression::reads_context) && self.evaluate.is_none() {
            return Some(("where", "reads decision.context, but the rule has no `evaluate`"));
        }
        if self.search.is_some() && !reads_ids {
            return Some(("search", r#"its ids restrict nothing: write '"id" IN ({{ decision.ids }})' in `where`"#));
        }
        None
    }

    /// Returns the expressions of each question, with its key.
    pub(super) fn expressions(&self) -> impl Iterator<Item = (&'static str, &Expression)> {
        let questions = [("evaluate", &self.evaluate), ("search", &self.search)].into_iter();
        questions.flat_map(|(key, question)| {
            question.iter().flat_map(QuestionTemplate::expressions).map(move |expression| (key, expression))
        })
    }

    /// Whether nothing is asked.
    pub(super) const fn is_empty(&self) -> bool {
        self.evaluate.is_none() && self.search.is_none()
    }

    /// Returns the client's parameters that the evaluation is about: it decides about their values, as `allow` would.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &str> {
        let asked = self.evaluate.iter().flat_map(QuestionTemplate::expressions);
        asked.filter_map(|expression| ast::parameter(expression.tree()))
    }

    /// Returns the names of the services that are asked.
    pub(super) fn services(&self) -> impl Iterator<Item = &str> {
        [&self.evaluate, &self.search].into_iter().flatten().map(|question| question.service.as_str())
    }

    /// Returns the questions about a request; `None` if a value is missing or cannot be sent.
    pub(super) fn render(&self, services: &Services, scope: &Scope<'_>) -> Option<Questions> {
        let ask = |template: &Option<QuestionTemplate>| match template {
            None => Some(None),
            Some(template) => template.render(services, scope).map(Some),
        };
        Some(Questions { evaluation: ask(&self.evaluate)?, search: ask(&self.search)? })
    }
}

impl QuestionTemplate {
    fn compile(source: &QuestionSource, kind: Kind) -> Result<Self, Problem> {
        let mut writer = Writer::default();
        writer.json(r#"{"action":{"name":"#);
        writer.literal(&source.action);
        writer.json("}");
        if !source.context.is_empty() {
            writer.json(r#","context":"#);
            writer.object(&source.context)?;
        }
        writer.json(r#","resource":"#);
        writer.entity(&source.resource)?;
        writer.json(r#","subject":"#);
        writer.entity(&source.subject)?;
        writer.json("}");
        Ok(Self { service: source.by.clone(), kind, pieces: writer.0 })
    }

    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.pieces.iter().flat_map(|piece| match piece {
            Piece::Json(_) => Vec::new(),
            Piece::Value(expression) => vec![expression],
            Piece::Text(parts) => parts.iter().filter_map(Part::expression).collect(),
        })
    }

    fn render(&self, services: &Services, scope: &Scope<'_>) -> Option<Asked> {
        let mut body = Vec::with_capacity(USUAL_BYTES);
        self.pieces.iter().try_for_each(|piece| piece.write(scope, &mut body))?;
        let service = Arc::clone(services.get(&self.service)?);
        Some(Asked { service, question: Question { kind: self.kind.clone(), body } })
    }
}

const USUAL_BYTES: usize = 512;

impl Piece {
    fn write(&self, scope: &Scope<'_>, body: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Json(json) => body.extend_from_slice(json.as_bytes()),
            Self::Value(expression) => expression.evaluate(scope, |value| write_value(value, body))??,
            Self::Text(parts) => match parts.as_slice() {
                [Part::Value(only)] => write_text(&one(only, scope)?, body)?,
                parts => {
                    let texts = parts.iter().map(|part| part.text(scope));
                    write_text(&texts.collect::<Option<String>>()?, body)?;
                }
            },
        }
        Some(())
    }
}

impl Part {
    const fn expression(&self) -> Option<&Expression> {
        match self {
            Self::Value(expression) => Some(expression),
            Self::Literal(_) => None,
        }
    }

    fn text(&self, scope: &Scope<'_>) -> Option<String> {
        match self {
            Self::Literal(text) => Some(text.clone()),
            Self::Value(expression) => one(expression, scope),
        }
    }
}

fn one(expression: &Expression, scope: &Scope<'_>) -> Option<String> {
    match expression.bind(scope)? {
        Bound::One(text) => Some(text),
        Bound::Many(_) => None,
    }
}

/// Writes a question as pieces. JSON that needs no request is one piece.
#[derive(Default)]
struct Writer(Vec<Piece>);

impl Writer {
    fn json(&mut self, json: &str) {
        match self.0.last_mut() {
            Some(Piece::Json(before)) => before.push_str(json),
            _ => self.0.push(Piece::Json(json.to_owned())),
        }
    }

    fn literal(&mut self, text: &str) {
        self.json(&Value::from(text).to_string());
    }

    fn entity(&mut self, entity: &EntitySource) -> Result<(), Problem> {
        self.json("{");
        if let Some(id) = &entity.id {
            self.json(r#""id":"#);
            self.text(id)?;
            self.json(",");
        }
        if !entity.properties.is_empty() {
            self.json(r#""properties":"#);
            self.object(&entity.properties)?;
            self.json(",");
        }
        self.json(r#""type":"#);
        self.literal(&entity.kind);
        self.json("}");
        Ok(())
    }

    fn object(&mut self, members: &Map<String, Value>) -> Result<(), Problem> {
        // Sorted here, since `Map` keeps the order of insertion if any crate asks for that.
        let members: BTreeMap<_, _> = members.iter().collect();
        self.json("{");
        for (index, (name, member)) in members.into_iter().enumerate() {
            if index > 0 {
                self.json(",");
            }
            self.literal(name);
            self.json(":");
            self.value(member)?;
        }
        self.json("}");
        Ok(())
    }

    fn value(&mut self, value: &Value) -> Result<(), Problem> {
        match value {
            Value::String(text) => {
                let mut parts = parts(text)?;
                match (parts.len(), parts.pop()) {
                    // A placeholder alone keeps the type of its value.
                    (1, Some(Part::Value(expression))) => self.0.push(Piece::Value(expression)),
                    (_, last) => {
                        parts.extend(last);
                        self.parts(text, parts);
                    }
                }
            }
            Value::Array(elements) => {
                self.json("[");
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        self.json(",");
                    }
                    self.value(element)?;
                }
                self.json("]");
            }
            Value::Object(members) => self.object(members)?,
            Value::Null | Value::Bool(_) | Value::Number(_) => self.json(&value.to_string()),
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), Problem> {
        self.parts(text, parts(text)?);
        Ok(())
    }

    /// Writes a text that consists of these parts.
    fn parts(&mut self, text: &str, parts: Vec<Part>) {
        if parts.iter().any(|part| matches!(part, Part::Value(_))) {
            self.0.push(Piece::Text(parts));
        } else {
            self.literal(text);
        }
    }
}

/// Splits a text at its placeholders.
fn parts(text: &str) -> Result<Vec<Part>, Problem> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        if !before.is_empty() {
            parts.push(Part::Literal(before.to_owned()));
        }
        let end = expression_end(after).ok_or_else(|| Problem::from("`{{` without `}}`"))?;
        parts.push(Part::Value(expression(after[..end].trim())?));
        rest = &after[end + 2..];
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    Ok(parts)
}

fn expression(source: &str) -> Result<Expression, Problem> {
    let expression = Expression::compile(source)?;
    if expression.reads_now() {
        return Err(Problem::from("`now` would make a new question every second; use it in `allow`"));
    }
    if expression.reads_decision() {
        return Err(Problem::from(
            "a question may not read `decision`: all questions of a rule are asked at the same time",
        ));
    }
    Ok(expression)
}

fn write_text(text: &str, body: &mut Vec<u8>) -> Option<()> {
    serde_json::to_writer(body, text).ok()
}

/// Writes a value as JSON; `None` if JSON cannot hold it.
fn write_value(value: &dyn Val, body: &mut Vec<u8>) -> Option<()> {
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        return write_text(text.inner(), body);
    }
    if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        body.push(b'[');
        for (index, element) in list.inner().iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            write_value(element.as_ref(), body)?;
        }
        body.push(b']');
        return Some(());
    }
    if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        return write_map(map, body);
    }
    let json = if let Some(int) = value.downcast_ref::<CelInt>() {
        Value::from(*int.inner())
    } else if let Some(uint) = value.downcast_ref::<CelUInt>() {
        Value::from(*uint.inner())
    } else if let Some(bool) = value.downcast_ref::<CelBool>() {
        Value::from(*bool.inner())
    } else if let Some(double) = value.downcast_ref::<CelDouble>().filter(|double| double.inner().is_finite()) {
        Value::from(*double.inner())
    } else if value.downcast_ref::<CelNull>().is_some() {
        Value::Null
    } else {
        return None;
    };
    serde_json::to_writer(body, &json).ok()
}

fn write_map(map: &CelMap<'_>, body: &mut Vec<u8>) -> Option<()> {
    let name = |key: &CelMapKey<'_>| match key {
        CelMapKey::String(name) => Some(name.inner().to_owned()),
        _ => None,
    };
    let members = map.inner().iter().map(|(key, member)| Some((name(key)?, member)));
    let members = members.collect::<Option<BTreeMap<_, _>>>()?;
    body.push(b'{');
    for (index, (name, member)) in members.into_iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        write_text(&name, body)?;
        body.push(b':');
        write_value(member.as_ref(), body)?;
    }
    body.push(b'}');
    Some(())
}

#[cfg(test)]
mod tests;
