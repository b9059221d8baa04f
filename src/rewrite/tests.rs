//! Tests which request to Electric a rule and a client's request give.

use std::path::Path;

use super::*;
use crate::clock::UnixTime;
use crate::config::{Config, Environment};
use crate::policy::PolicySet;
use crate::shape::SubsetQuery;

fn policy(rules: &str) -> PolicySet {
    let rules = rules.replace("[[shape]]", "[[shape]]\npublic = true");
    let text =
        format!("server.listen = '[::1]:0'\nupstream = {{ url = 'http://e', danger_no_secret = true }}\n{rules}");
    Config::parse(&text, Path::new("x.toml"), &Environment::from([])).unwrap_or_else(|error| panic!("{error}")).policy
}

/// Builds the request to Electric for a query, and for a body if there is one, under these rules, made public.
pub(crate) fn rewritten(rules: &str, query: &str, body: Option<&str>) -> Result<UpstreamRequest, RewriteError> {
    let policy = policy(rules);
    let mut request = ShapeRequest::parse(None, query, policy.parameters()).map_err(RewriteError::Invalid)?;
    if let Some(body) = body {
        let subset = SubsetQuery::from_body(body.as_bytes()).map_err(RewriteError::Invalid)?;
        request = request.with_body(subset).map_err(RewriteError::Invalid)?;
    }
    let permit = policy.authorize(None, &request, UnixTime::from_secs(0)).unwrap();
    UpstreamRequest::build(permit, &request, None)
}

/// Returns the first error of a request that is rejected.
fn rejected(rules: &str, query: &str, body: Option<&str>) -> String {
    match rewritten(rules, query, body) {
        Err(RewriteError::Invalid(errors)) => format!("{}: {}", errors[0].name, errors[0].problem),
        other => panic!("{query}: {other:?}"),
    }
}

#[test]
fn the_same_definition_at_two_upstreams_gives_two_shapes() {
    let rule =
        |upstream: &str| format!("[[shape]]\ntable = 'a'\nwhere = 'none'\nsubset = true\nupstream = '{upstream}'\n");
    let upstreams = "[upstreams.b]\nurl = 'http://b'\ndanger_no_secret = true\n";
    let ask = |upstream: &str, body: Option<&str>| {
        rewritten(&format!("{}{upstreams}", rule(upstream)), "table=a&offset=-1", body).unwrap()
    };
    for body in [None, Some(r#"{"limit":1,"order_by":"id"}"#)] {
        let (default, other) = (ask("default", body), ask("b", body));
        assert_eq!((default.query(), default.body()), (other.query(), other.body()));
        assert_eq!(default.definition(), other.definition());
        assert_ne!(default.identity(), other.identity());
        assert_ne!(default.key(), other.key());
        assert_ne!(default.shape(), other.shape());
        assert_eq!(default.shape(), default.definition());
    }
}

#[test]
fn a_request_can_be_moved_to_another_position() {
    let rule = "[[shape]]\ntable = 'a'\nwhere = '\"offset\" = {{ query.x }}'\ndanger_client_chosen = ['x']\n";
    let query = "table=a&x=%26offset%3D1&handle=1-1&live=true&live_sse=true&offset=";
    let at = |offset: &str| rewritten(rule, &format!("{query}{offset}"), None).unwrap();
    let moved = at("0_inf").starting_at("7_2");
    assert_eq!((moved.identity(), moved.offset(), moved.shape()), (at("7_2").identity(), "7_2", at("0_inf").shape()));
}

const OPEN: &str = "[[shape]]\ntable = 'tasks'\nwhere = '\"org\" = {{ query.org }}'\n\
                    danger_client_chosen = ['org']\ncolumns = ['id', 'title', 'Owner']\nsubset = true\nclient_where = true\n";

fn ask(rest: &str) -> String {
    format!("table=tasks&org=org_1&offset=-1{rest}")
}

#[test]
fn replica_may_only_be_repeated() {
    let rule = |replica: &str| format!("[[shape]]\ntable = 'a'\nwhere = 'none'\nreplica = '{replica}'\n");
    let (default, full) = (rule("default"), rule("full"));
    assert!(rewritten(&full, "table=a&offset=-1", None).is_ok());
    assert!(rewritten(&full, "table=a&offset=-1&replica=full", None).is_ok());
    assert!(rejected(&default, "table=a&offset=-1&replica=full", None).starts_with("replica: "));
    assert!(rejected(&full, "table=a&offset=-1&replica=default", None).starts_with("replica: "));
}

#[test]
fn columns_may_be_repeated_or_narrowed_and_filters_name_the_same_as_before() {
    let rule = "[[shape]]\ntable = 'a'\nwhere = 'none'\ncolumns = ['id', 'title', 'Owner']\nsubset = true\n";
    let query = |rest: &str| rewritten(rule, &format!("table=a&offset=-1{rest}"), None).unwrap();
    for same in ["", "&columns=", "&columns=Title,%22Owner%22,id", "&columns=%22id%22,title,%22Owner%22"] {
        assert_eq!((query(same).query(), query(same).has_client_columns()), (query("").query(), false), "{same}");
    }
    let narrowed = "table=a&columns=id%2Ctitle&queryable_columns=id%2Ctitle%2C%22Owner%22&offset=-1";
    for fewer in ["&columns=id,title", "&columns=TITLE,id", "&columns=title,%22id%22&subset__where=%22Owner%22%3D'x'"] {
        assert_eq!((query(fewer).query(), query(fewer).has_client_columns()), (narrowed, true), "{fewer}");
    }
    for more in
        ["id,secret", "id,owner", "secret", "id,title,%22Owner%22,%22%22", "id,id", "id;title", "*", "id,", "%01"]
    {
        let error = rejected(rule, &format!("table=a&offset=-1&columns={more}"), None);
        assert!(error.starts_with("columns: ") || more == "%01" && error.starts_with("query: "), "{more}: {error}");
    }
    for list in ["title,id", "id,TITLE"] {
        let every = "[[shape]]\ntable = 'a'\nwhere = 'none'\n";
        let request = rewritten(every, &format!("table=a&offset=-1&columns={list}"), None).unwrap();
        assert_eq!(request.query(), "table=a&columns=id%2Ctitle&offset=-1");
    }
}

#[test]
fn clients_may_send_only_the_parameters_that_the_rule_allows() {
    let filter = "&where=id%20%3D%20%241&params%5B1%5D=7";
    let subset = "&subset__where=id%20%3D%201";
    let closed = OPEN.replace("subset = true", "").replace("client_where = true", "");
    for (rules, rest, opened) in [
        (closed.as_str(), filter, false),
        (&closed, "&params[1]=7", false),
        (&closed, subset, false),
        (&OPEN.replace("subset = true", ""), filter, true),
        (&OPEN.replace("subset = true", ""), subset, false),
        (&OPEN.replace("client_where = true", ""), filter, false),
        (&OPEN.replace("client_where = true", ""), subset, true),
        (OPEN, &format!("{filter}{subset}"), true),
    ] {
        match rewritten(rules, &ask(rest), None) {
            Ok(_) => assert!(opened, "{rest}"),
            Err(RewriteError::Invalid(errors)) => {
                assert!(!opened && errors[0].problem.contains("reserved"), "{rest}: {errors:?}");
            }
            Err(RewriteError::TooLong) => panic!("{rest}"),
        }
    }
}

#[test]
fn a_client_filter_follows_the_rule_and_continues_its_numbering() {
    let request = rewritten(OPEN, &ask("&where=%22Owner%22%20%3D%20%242&params[2]=me&params[1]=x"), None).unwrap();
    assert_eq!(
        request.query(),
        "table=tasks&where=%28%22org%22%20%3D%20%241%29%20AND%20%28%22Owner%22%20%3D%20%242%29\
         &params%5B1%5D=org_1&params%5B2%5D=me\
         &columns=id%2Ctitle%2C%22Owner%22&queryable_columns=id%2Ctitle%2C%22Owner%22&offset=-1"
    );
    assert!(request.has_client_where() && request.is_shared());
    let every = "[[shape]]\ntable = 'tasks'\nwhere = 'none'\nclient_where = true\n";
    let request = rewritten(every, "table=tasks&offset=-1&where=id=1", None).unwrap();
    assert_eq!(request.query(), "table=tasks&where=%28%22id%22%20%3D%201%29&offset=-1");
}

#[test]
fn two_spellings_of_a_filter_give_one_shape() {
    let key = |rest: &str| rewritten(OPEN, &ask(rest), None).unwrap().key();
    let one = key("&where=id%20%3D%20%241%20AND%20title%20%3D%20%242&params[1]=7&params[2]=x");
    assert_eq!(one, key("&params[1]=x&params[2]=7&where=((%22id%22=%242))%20and%20TITLE=%241&params[3]=unused"));
    assert_ne!(one, key("&where=id%20%3D%20%241%20AND%20title%20%3D%20%242&params[1]=7&params[2]=y"));
}

#[test]
fn a_subset_is_always_sent_as_a_post_in_one_form() {
    let body = r#"{"subset":{"limit":3,"offset":0,"order_by":"\"title\" ASC","params":{"1":"Task 100%"},"where":"(\"title\" LIKE $1)"}}"#;
    let in_query = "&subset__where=title%20LIKE%20%241&subset__params=%7B%221%22%3A%22Task%20100%25%22%7D\
                    &subset__order_by=title%20ASC&subset__limit=3&subset__offset=0";
    let flat = r#"{"where":"title LIKE $1","params":{"1":"Task 100%"},"order_by":"title","limit":3,"offset":0,"where_expr":{"table":"x"}}"#;
    for (rest, posted) in [
        (in_query, None),
        (&in_query.replace("params=%7B%221%22%3A%22Task%20100%25%22%7D", "params[1]=Task%20100%25"), None),
        ("", Some(flat.to_owned())),
        ("", Some(format!(r#"{{"subset":{flat}}}"#))),
    ] {
        let request = rewritten(OPEN, &ask(rest), posted.as_deref()).unwrap();
        assert_eq!(request.body(), Some(body));
        assert!(request.query().ends_with("&queryable_columns=id%2Ctitle%2C%22Owner%22&offset=-1"), "{request:?}");
        assert!(!request.is_shared());
    }
    let (other, same) = (flat.replace("100", "200"), rewritten(OPEN, &ask(""), Some(flat)).unwrap());
    assert_ne!(rewritten(OPEN, &ask(""), Some(&other)).unwrap().key(), same.key());
    assert_ne!(rewritten(OPEN, &ask(""), None).unwrap().key(), same.key());
}

#[test]
fn filters_may_name_only_the_columns_of_the_rule_or_all_if_it_lists_none() {
    let open = OPEN.replace("columns = ['id', 'title', 'Owner']\n", "");
    for (rest, body) in [
        ("&where=secret%20%3D%201", None),
        ("&subset__where=secret%20%3D%201", None),
        ("&subset__order_by=secret", None),
        ("", Some(r#"{"where":"owner = 'x'"}"#)),
        ("", Some(r#"{"order_by":"\"secret\" DESC"}"#)),
    ] {
        assert!(
            rejected(OPEN, &ask(rest), body).ends_with("where: contains a column that may not be queried")
                || rejected(OPEN, &ask(rest), body).ends_with("order_by: contains a column that may not be queried"),
            "{rest}"
        );
        let request = rewritten(&open, &ask(rest), body).unwrap();
        assert!(!request.query().contains("columns"), "{request:?}");
    }
}

#[test]
fn ambiguous_parameters_are_rejected() {
    for (rest, body, expected) in [
        ("&where=true&where=false", None, "where: is given more than once"),
        ("&where=true&params[1]=1&params[1]=1", None, "params: is given more than once"),
        ("&subset__limit=1&subset__limit=1", None, "subset.limit: is given more than once"),
        ("&subset__params={}&subset__params={}", None, "subset.params: is given more than once"),
        ("&subset__params={\"1\":2}&subset__params[1]=2", None, "subset.params: is given more than once"),
        ("&subset__params[1]=2&subset__params={\"1\":2}", None, "subset.params: is given more than once"),
        ("&subset__where=true", Some("{}"), "subset: is given in the query and in the body"),
    ] {
        assert_eq!(rejected(OPEN, &ask(rest), body), expected, "{rest}");
    }
}

#[test]
fn control_characters_are_allowed_only_in_filters() {
    let request = rewritten(OPEN, &ask("&where=title%0A%3D%20%241&params[1]=a%0Ab"), None).unwrap();
    assert!(request.query().contains("params%5B2%5D=a%0Ab"), "{request:?}");
    assert_eq!(rejected(OPEN, &ask("&where=true%00"), None), "where: control characters are not allowed");
    let nul = rejected(OPEN, &ask("&where=title%20%3D%20%241&params[1]=a%00b"), None);
    assert_eq!(nul, "where: a value in params contains a NUL");
    assert!(rejected(OPEN, &ask("&organization%0A=x"), None).starts_with("query: contains a control"));
}
