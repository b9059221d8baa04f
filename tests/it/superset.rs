//! `conf/superset.toml`: the 25 tables of a real application give the queries that its hand-written worker sent
//! (<https://github.com/superset-sh/superset>, apps/electric-proxy).

use percent_encoding::percent_decode_str;
use serde_json::json;
use shapegate::demo::http::Reply;

use crate::harness::{Gate, Setup};

const ORGANIZATION: &str = "0192f5b0-0000-7000-8000-000000000001";
const OTHER: &str = "0192f5b0-0000-7000-8000-000000000002";

/// Tables that are filtered by organization and served with all columns.
const BY_ORGANIZATION: [&str; 20] = [
    "agent_commands",
    "auth.invitations",
    "auth.members",
    "auth.team_members",
    "auth.teams",
    "automation_runs",
    "automations",
    "chat_sessions",
    "device_presence",
    "github_pull_requests",
    "github_repositories",
    "projects",
    "task_statuses",
    "tasks",
    "v2_clients",
    "v2_hosts",
    "v2_projects",
    "v2_users_hosts",
    "v2_workspaces",
    "workspaces",
];

async fn gate() -> Gate {
    let conf = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/superset.toml");
    let text = std::fs::read_to_string(conf).unwrap();
    let rules = &text[text.find("\n[[shape]]").unwrap()..];
    Gate::with(Setup { rules: rules.to_owned(), ..Setup::default() }).await
}

/// Returns the query that Electric receives, decoded and without the secret.
async fn upstream(gate: &Gate, query: &str, organizations: &[&str]) -> String {
    gate.electric.script(Reply::json(200, "[]"));
    let answer = gate.get(&format!("/v1/shape?offset=-1&{query}"), &gate.token(organizations)).await;
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    let target = gate.electric.requests().pop().unwrap().target;
    let target = target.strip_prefix("/v1/shape?").unwrap().strip_suffix("&offset=-1&secret=test-secret").unwrap();
    percent_decode_str(target).decode_utf8().unwrap().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_gets_the_query_of_the_original_worker() {
    let gate = gate().await;
    let organization = format!("organizationId={ORGANIZATION}");
    let ask =
        async |table: &str| upstream(&gate, &format!("table={table}&{organization}"), &[OTHER, ORGANIZATION]).await;
    for table in BY_ORGANIZATION {
        let expected = format!(r#"table={table}&where="organization_id" = $1&params[1]={ORGANIZATION}"#);
        assert_eq!(ask(table).await, expected);
    }
    assert_eq!(
        ask("subscriptions").await,
        format!(r#"table=subscriptions&where="reference_id" = $1&params[1]={ORGANIZATION}"#)
    );
    assert_eq!(
        ask("auth.users").await,
        format!(r#"table=auth.users&where="organization_ids" @> ARRAY[$1::uuid]&params[1]={ORGANIZATION}"#)
    );
    for (table, columns) in [
        (
            "integration_connections",
            "id,organization_id,connected_by_user_id,provider,token_expires_at,external_org_id,external_org_name,config,created_at,updated_at",
        ),
        ("auth.apikeys", "id,name,start,created_at,last_request"),
    ] {
        let expected = format!(
            r#"table={table}&where="organization_id" = $1&params[1]={ORGANIZATION}&columns={columns}&queryable_columns={columns}"#
        );
        assert_eq!(ask(table).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn organizations_are_filtered_by_the_sorted_ids_of_the_token() {
    let gate = gate().await;
    let table = "table=auth.organizations";
    assert_eq!(
        upstream(&gate, table, &[OTHER, ORGANIZATION, OTHER]).await,
        format!(r#"{table}&where="id" IN ($1,$2)&params[1]={ORGANIZATION}&params[2]={OTHER}"#)
    );
    // Without organizations there are no rows; the filter is not omitted.
    assert_eq!(upstream(&gate, table, &[]).await, format!(r#"{table}&where="id" IN (NULL)"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_is_denied_to_other_organizations() {
    let gate = gate().await;
    let rest = ["auth.apikeys", "auth.users", "integration_connections", "subscriptions"];
    for table in BY_ORGANIZATION.into_iter().chain(rest) {
        let target = format!("/v1/shape?offset=-1&table={table}&organizationId={OTHER}");
        assert_eq!(gate.get(&target, &gate.token(&[ORGANIZATION])).await.code(), "forbidden", "{table}");
    }
    let nothing = gate.issuer.token(&json!({ "sub": "user-1" }));
    assert_eq!(gate.get("/v1/shape?offset=-1&table=auth.organizations", &nothing).await.code(), "forbidden");
    assert_eq!(gate.electric.request_count(), 0);
}
