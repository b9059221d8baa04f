//! Parses a client's request strictly.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use percent_encoding::percent_decode_str;

use super::protocol::{Name, Openable, ProtocolParam, SubsetField, classify};
use super::subset::SubsetQuery;
use super::table::TableName;
use crate::filter::ClientFilter;

/// A parsed request of a client.
#[derive(Debug)]
pub struct ShapeRequest {
    target: Target,
    protocol: BTreeMap<ProtocolParam, String>,
    parameters: Vec<(String, String)>,
    client_where: Option<String>,
    /// The values of `client_where`, by number.
    client_params: BTreeMap<u32, String>,
    subset: Option<SubsetQuery>,
    dropped: usize,
}

/// The way in which a request names the shape.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// By a rule's own path.
    Path(String),
    /// By the `table` parameter.
    Table(TableName),
}

/// An error in one parameter. It never contains text of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterError {
    /// The parameter, in its correct spelling.
    pub name: Cow<'static, str>,
    /// The problem, in words for the client.
    pub problem: &'static str,
}

/// The most parameters; a request with more is rejected. Electric's clients send about a dozen.
const MAX_PARAMETERS: usize = 64;

impl ShapeRequest {
    /// Parses the query of a request to the shape path (`path` is `None`) or to a rule's own path.
    ///
    /// `known` names the parameters that rules read; other unknown parameters are dropped and counted.
    ///
    /// # Errors
    /// Every parameter that is reserved, repeated, misspelt or malformed (docs/security.md, Q1 to Q6).
    pub fn parse(path: Option<&str>, query: &str, known: &HashSet<String>) -> Result<Self, Vec<ParameterError>> {
        let mut reader = Reader::new(known);
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        if pairs.clone().count() > MAX_PARAMETERS {
            return Err(vec![problem("query", "has more than 64 parameters")]);
        }
        pairs.for_each(|pair| reader.read(pair));
        let target = reader.target(path);
        reader.check_protocol();
        match target {
            Some(target) if reader.errors.is_empty() => {
                let Reader { protocol, parameters, client_where, client_params, subset, dropped, .. } = reader;
                Ok(Self { target, protocol, parameters, client_where, client_params, subset, dropped })
            }
            _ => Err(reader.errors),
        }
    }

    /// The way in which the request names the shape.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The value of a protocol parameter; never empty.
    pub fn protocol(&self, param: ProtocolParam) -> Option<&str> {
        self.protocol.get(&param).map(String::as_str)
    }

    /// Whether the request is live, so that its response may wait for a change.
    pub fn is_live(&self) -> bool {
        self.protocol(ProtocolParam::Live) == Some("true")
    }

    /// The client's own parameters that rules read.
    pub fn parameters(&self) -> &[(String, String)] {
        &self.parameters
    }

    /// How many unknown parameters were dropped.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Adds the subset of a body.
    ///
    /// # Errors
    /// The query contains a subset already.
    pub fn with_body(self, subset: SubsetQuery) -> Result<Self, Vec<ParameterError>> {
        match self.subset {
            None => Ok(Self { subset: Some(subset), ..self }),
            Some(_) => Err(vec![problem("subset", "is given in the query and in the body")]),
        }
    }

    /// The subset of the shape that is requested, if any.
    pub(crate) fn subset(&self) -> Option<&SubsetQuery> {
        self.subset.as_ref()
    }

    /// The parameter with which the client sends a filter for the shape, or values for one; `None` if it sends neither.
    pub(crate) fn filtered_by(&self) -> Option<&'static str> {
        let params = (!self.client_params.is_empty()).then_some("params");
        self.client_where.as_ref().map(|_| "where").or(params)
    }

    /// Parses the client's own filter of the shape. It may name only the `queryable` columns; `None` allows all.
    ///
    /// This is the only check of its columns: Electric applies `queryable_columns` to subsets only (docs/electric.md,
    /// "Parameters").
    pub(crate) fn client_filter(
        &self,
        queryable: Option<&[String]>,
    ) -> Result<Option<ClientFilter>, Vec<ParameterError>> {
        let Some(text) = &self.client_where else { return Ok(None) };
        let filter = ClientFilter::parse(text, &self.client_params, queryable);
        filter.map(Some).map_err(|error| vec![problem("where", error.as_str())])
    }
}

struct Reader<'a> {
    known: &'a HashSet<String>,
    table: Option<String>,
    protocol: BTreeMap<ProtocolParam, String>,
    /// The names under which `protocol` was read. They are few, so no hashes.
    protocol_names: Vec<String>,
    parameters: Vec<(String, String)>,
    client_where: Option<String>,
    client_params: BTreeMap<u32, String>,
    subset: Option<SubsetQuery>,
    subset_fields: HashSet<SubsetField>,
    dropped: usize,
    errors: Vec<ParameterError>,
}

impl<'a> Reader<'a> {
    fn new(known: &'a HashSet<String>) -> Self {
        Self {
            known,
            table: None,
            protocol: BTreeMap::new(),
            protocol_names: Vec::new(),
            parameters: Vec::new(),
            client_where: None,
            client_params: BTreeMap::new(),
            subset: None,
            subset_fields: HashSet::new(),
            dropped: 0,
            errors: Vec::new(),
        }
    }

    fn read(&mut self, pair: &str) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(name), Some(value)) = (percent_decode(name).filter(|name| is_plain(name)), percent_decode(value))
        else {
            return self.fail("query", UNREADABLE);
        };
        let class = classify(&name);
        // The filter's parser decides which control characters its text and its values may contain.
        if !matches!(class, Name::Openable(_)) && !is_plain(&value) {
            return self.fail("query", UNREADABLE);
        }
        if name == "table" {
            return self.read_table(value);
        }
        match class {
            Name::Custom if self.known.contains(&name) => self.read_parameter(name, value),
            Name::Custom => self.dropped += 1,
            Name::Openable(openable) => self.read_openable(openable, value),
            Name::Misspelt => self.fail("query", "has a parameter of Electric in another spelling"),
            Name::Protocol(param) => self.read_protocol(param, name, value),
            Name::Reserved(_) if is_default(&name, &value) => {}
            Name::Reserved(name) => self.fail(name, RESERVED),
        }
    }

    /// Reads a parameter that only some rules allow. The rule is not known yet;
    /// [`Permit::narrowed`](crate::policy::Permit::narrowed) checks it later.
    fn read_openable(&mut self, openable: Openable, value: String) {
        match openable {
            // Electric treats an empty one as absent.
            Openable::Where if value.is_empty() => {}
            Openable::Where => {
                if self.client_where.replace(value).is_some() {
                    self.fail("where", REPEATED);
                }
            }
            Openable::Param(number) => {
                if self.client_params.insert(number, value).is_some() {
                    self.fail("params", REPEATED);
                }
            }
            Openable::Subset(field) => {
                let read = self.subset.get_or_insert_default().read_text(field, value);
                // `subset__params` and `subset__params[1]` are two ways to send the same values.
                if !self.subset_fields.insert(field) {
                    self.fail(field.as_str(), REPEATED);
                } else if let Err(error) = read {
                    self.errors.push(error);
                }
            }
            Openable::SubsetParam(number) => {
                let read = self.subset.get_or_insert_default().read_param(number, value);
                if let Err(error) = read {
                    self.errors.push(error);
                }
            }
        }
    }

    fn read_table(&mut self, value: String) {
        if self.table.replace(value).is_some() {
            self.fail("table", REPEATED);
        }
    }

    fn read_parameter(&mut self, name: String, value: String) {
        if self.parameters.iter().any(|(known, _)| *known == name) {
            return self.fail(name, REPEATED);
        }
        self.parameters.push((name, value));
    }

    /// Reads a protocol parameter. A repeated name is an error. Two names of one parameter must have the same value:
    /// the client sends `live_sse` under its old name too.
    fn read_protocol(&mut self, param: ProtocolParam, name: String, value: String) {
        let before = self.protocol.get(&param);
        if before.is_some_and(|before| *before != value) || self.protocol_names.contains(&name) {
            return self.fail(param.as_str(), REPEATED);
        }
        self.protocol_names.push(name);
        // Electric treats an empty value as absent (tests/electric/111).
        if let Err(problem) = if value.is_empty() { Ok(()) } else { param.check(&value) } {
            self.fail(param.as_str(), problem);
        }
        self.protocol.insert(param, value);
    }

    fn target(&mut self, path: Option<&str>) -> Option<Target> {
        match (path, self.table.as_deref()) {
            (Some(path), None) => return Some(Target::Path(path.to_owned())),
            (Some(_), Some(_)) => self.fail("table", "is named by the path; leave it out"),
            (None, None | Some("")) => self.fail("table", "can't be blank"),
            (None, Some(table)) => match TableName::parse(table) {
                Ok(table) => return Some(Target::Table(table)),
                Err(_) => self.fail("table", "is not a table name"),
            },
        }
        None
    }

    /// Rejects combinations that Electric rejects too (tests/electric/34, 36, 37, 38), which saves a request to it.
    fn check_protocol(&mut self) {
        self.protocol.retain(|_, value| !value.is_empty());
        let value = |param| self.protocol.get(&param).map(String::as_str);
        let live = value(ProtocolParam::Live) == Some("true");
        let sse = value(ProtocolParam::LiveSse) == Some("true");
        let handle = value(ProtocolParam::Handle).is_some();
        match value(ProtocolParam::Offset) {
            None => self.fail("offset", "can't be blank"),
            Some("-1" | "now") if live => self.fail("live", "can't be true when offset is -1 or now"),
            Some("-1" | "now") => {}
            Some(_) if !handle => self.fail("handle", "can't be blank when offset is not -1 or now"),
            Some(_) => {}
        }
        if sse && !live {
            self.fail("live_sse", "can't be true unless live is also true");
        }
    }

    fn fail(&mut self, name: impl Into<Cow<'static, str>>, problem: &'static str) {
        self.errors.push(ParameterError { name: name.into(), problem });
    }
}

pub(super) const REPEATED: &str = "is given more than once";
pub(crate) const RESERVED: &str = "is reserved: only the rule may set it";
const UNREADABLE: &str = "contains a control character, or text that is not percent-encoded UTF-8";

pub(crate) fn problem(name: &'static str, problem: &'static str) -> ParameterError {
    ParameterError { name: name.into(), problem }
}

/// Decodes percent-encoding; `None` for a `%` without two hex digits or invalid UTF-8. `+` is a space, as for Plug, the
/// HTTP library of Electric.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Some(text.to_owned());
    }
    let broken = |at: usize| bytes.get(at + 1..at + 3).is_none_or(|hex| !hex.iter().all(u8::is_ascii_hexdigit));
    if (0..bytes.len()).any(|at| bytes[at] == b'%' && broken(at)) {
        return None;
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(Cow::into_owned)
}

/// Whether a reserved parameter has Electric's default, with which it changes nothing.
fn is_default(name: &str, value: &str) -> bool {
    name == "experimental_compaction" && matches!(value, "" | "false")
}

fn is_plain(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || c == '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<ShapeRequest, Vec<ParameterError>> {
        ShapeRequest::parse(None, query, &HashSet::from(["organizationId".to_owned()]))
    }

    fn errors(query: &str) -> Vec<String> {
        parse(query).map(|_| ()).unwrap_err().iter().map(|error| format!("{}: {}", error.name, error.problem)).collect()
    }

    #[test]
    fn a_usual_request_of_a_client_is_accepted() {
        let request =
            parse("table=tasks&organizationId=org+1&offset=0_inf&handle=1-2&live=true&cursor=&utm=x&utm=y").unwrap();
        assert_eq!(request.target(), &Target::Table(TableName::parse("tasks").unwrap()));
        assert_eq!(request.parameters(), [("organizationId".to_owned(), "org 1".to_owned())]);
        assert_eq!(request.protocol(ProtocolParam::Offset), Some("0_inf"));
        assert_eq!(request.protocol(ProtocolParam::Cursor), None);
        assert_eq!(request.dropped(), 2);
        assert!(request.is_live());
        assert_eq!(request.protocol(ProtocolParam::LiveSse), None);
    }

    #[test]
    fn live_sse_is_accepted_under_both_its_names_at_once() {
        let query = "table=a&offset=0_0&handle=1-1&live=true&experimental_live_sse=true&live_sse=true";
        assert_eq!(parse(query).unwrap().protocol(ProtocolParam::LiveSse), Some("true"));
        assert!(parse(&query.replace("experimental_", "")).is_err());
    }

    #[test]
    fn parameters_that_change_nothing_are_accepted() {
        for same in [
            "log=full",
            "log=",
            "replica=default",
            "replica=",
            "where=",
            "experimental_compaction=false",
            "experimental_compaction=",
            "experimental_unknown=true",
            "live=false&live_sse=false&experimental_live_sse=false",
        ] {
            let request = parse(&format!("table=tasks&offset=-1&{same}")).unwrap();
            assert!(request.filtered_by().is_none() && !request.is_live(), "{same}");
        }
        for other in ["experimental_compaction=true", "EXPERIMENTAL_COMPACTION=false", "log=all", "replica=none"] {
            assert!(parse(&format!("table=tasks&offset=-1&{other}")).is_err(), "{other}");
        }
    }

    #[test]
    fn reserved_parameters_are_rejected_in_any_spelling() {
        for reserved in
            ["WHERE=true", "%57here=true", "params=x", "params[01]=x", "limit%5B%5D=x", "subset[where]=1", "secret="]
        {
            let found = errors(&format!("table=tasks&offset=-1&{reserved}"));
            assert!(found[0].contains("reserved"), "{reserved}: {found:?}");
        }
    }

    #[test]
    fn ambiguous_queries_are_rejected() {
        for (query, hint) in [
            ("table=a&table=b&offset=-1", "table: is given more"),
            ("%74able=a&table=b&offset=-1", "table: is given more"),
            ("table=a&offset=-1&offset=now", "offset: is given more"),
            ("table=a&offset=-1&organizationId=1&organizationId=2", "organizationId: is given more"),
            (
                "table=a&offset=0_0&handle=1-1&live=true&live_sse=true&experimental_live_sse=false",
                "live_sse: is given more",
            ),
            ("table[]=a&offset=-1", "another spelling"),
            ("TABLE=a&offset=-1", "another spelling"),
            ("table=a&offset=-1&columns%5B%5D=id", "another spelling"),
            ("table=a&offset=-1&columns=id&columns=id", "columns: is given more"),
            ("table=a&offset=-1&columns=id,id", "columns: must be different names"),
            ("table=a&offset=-1&columns=*", "columns: must be different names"),
            ("table=a&offset=-1&OFFSET=now", "another spelling"),
            ("table=a%00&offset=-1", "control character"),
            ("table=a&offset=-1&x=%0d%0a", "control character"),
            ("table=a&offset=-1&x=%zz", "percent-encoded"),
            ("table=a&offset=-1&x=%c0%af", "percent-encoded"),
            ("table=a&offset=-1&x=%ff", "percent-encoded"),
            ("table=a&offset=-1&x=%EF%BB%BFy", "percent-encoded"),
        ] {
            assert!(errors(query).iter().any(|error| error.contains(hint)), "{query}: {:?}", errors(query));
        }
    }

    #[test]
    fn requests_that_electric_would_reject_are_rejected() {
        for (query, expected) in [
            ("", "table: can't be blank"),
            ("table=&offset=-1", "table: can't be blank"),
            ("table=a;b&offset=-1", "table: is not a table name"),
            ("table=a", "offset: can't be blank"),
            ("table=a&offset=", "offset: can't be blank"),
            ("table=a&offset=x", "offset: has invalid format: -1, now, or <integer>_<integer>"),
            ("table=a&offset=0_0", "handle: can't be blank when offset is not -1 or now"),
            ("table=a&offset=-1&live=true", "live: can't be true when offset is -1 or now"),
            ("table=a&offset=-1&live=yes", "live: must be true or false"),
            ("table=a&offset=0_0&handle=1-1&live_sse=true", "live_sse: can't be true unless live is also true"),
        ] {
            assert!(errors(query).contains(&expected.to_owned()), "{query}: {:?}", errors(query));
        }
        let many = format!("table=a&offset=-1{}", "&x=1".repeat(MAX_PARAMETERS));
        assert_eq!(errors(&many), ["query: has more than 64 parameters"]);
    }

    #[test]
    fn a_path_names_its_table() {
        let parse = |query| ShapeRequest::parse(Some("/api/items"), query, &HashSet::new());
        assert_eq!(parse("offset=-1").unwrap().target(), &Target::Path("/api/items".to_owned()));
        assert!(parse("offset=-1&table=items").is_err());
    }
}
