use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::demo::http::End;

async fn electric(options: Options) -> Electric {
    let electric = Electric::start(options).await.unwrap();
    let columns = [Column::new("id", "int4").primary_key(0), Column::new("title", "text"), Column::new("org", "text")];
    electric.create_table("items", columns.to_vec());
    electric.insert("items", json!({"id": 1, "title": "one", "org": "a"})).unwrap();
    electric.insert("items", json!({"id": 2, "title": "two", "org": "b"})).unwrap();
    electric
}

async fn send(addr: SocketAddr, method: &str, target: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("{method} {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(electric: &Electric, query: &str) -> String {
    send(electric.addr(), "GET", &format!("/v1/shape?secret=test-secret&table=items&{query}")).await
}

fn header(answer: &str, name: &str) -> String {
    let prefix = format!("{name}: ");
    let mut lines = answer.lines();
    lines.find_map(|line| line.strip_prefix(&prefix)).unwrap_or_else(|| panic!("no {name} in {answer}")).to_owned()
}

/// Returns the query of a live request at the end of the shape's log.
async fn live(electric: &Electric, query: &str) -> String {
    let answer = get(electric, &format!("{query}&offset=now")).await;
    let (handle, offset) = (header(&answer, "electric-handle"), header(&answer, "electric-offset"));
    format!("{query}&handle={handle}&offset={offset}&live=true")
}

#[tokio::test]
async fn only_a_change_of_the_shape_ends_a_long_poll() {
    let electric = electric(Options::default()).await;
    let query = live(&electric, "where=org='a'").await;
    let changes = async {
        electric.wait_for_waiting(1).await;
        electric.insert("items", json!({"id": 3, "org": "b"})).unwrap();
        tokio::task::yield_now().await;
        assert_eq!(electric.waiting(), 1);
        electric.insert("items", json!({"id": 4, "org": "a"})).unwrap();
    };
    let (answer, ()) = tokio::join!(get(&electric, &query), changes);
    assert!(answer.contains(r#""id":"4""#) && !answer.contains(r#""id":"3""#), "{answer}");
    electric.wait_for_waiting(0).await;
}

#[tokio::test]
async fn an_event_comes_in_three_chunks() {
    let (sse_keep_alive, sse_life) = (Duration::from_millis(50), Duration::from_millis(500));
    let electric = electric(Options { sse_keep_alive, sse_life, ..Options::default() }).await;
    let query = live(&electric, "where=org='a'").await + "&live_sse=true";
    let change = async {
        electric.wait_for_waiting(1).await;
        electric.insert("items", json!({"id": 4, "org": "a"})).unwrap();
    };
    let (answer, ()) = tokio::join!(get(&electric, &query), change);
    assert_eq!(answer.matches("\r\n6\r\ndata: \r\n").count(), 2, "{answer}");
    assert!(answer.contains("\r\n2\r\n\n\n\r\n") && answer.contains("e\r\n: keep-alive\n\n\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n0\r\n\r\n"));
}

#[tokio::test]
async fn a_stream_that_starts_behind_the_log_ends_with_it() {
    let electric = electric(Options::default()).await;
    let query = live(&electric, "where=org='a'").await + "&live_sse=true";
    let row = |id: u32| Change::Insert("items".to_owned(), json!({"id": id, "org": "a"}));
    let lsn = electric.transaction(&[row(3), row(4)]).unwrap();
    let behind = get(&electric, &query).await;
    assert_eq!(behind.matches(r#""operation":"insert""#).count(), 2, "{behind}");
    assert!(behind.contains(r#""control":"up-to-date""#) && behind.ends_with("\r\n0\r\n\r\n"), "{behind}");
    // As the client resumes: the rest of the last transaction is sent again.
    let again = get(&electric, &query.replace("offset=0_inf", &format!("offset={lsn}_0"))).await;
    assert_eq!(again.matches(r#""operation":"insert""#).count(), 1, "{again}");
}

#[tokio::test]
async fn a_row_enters_and_leaves_a_shape() {
    let electric = electric(Options::default()).await;
    let query = live(&electric, "where=org='a'").await.replace("&live=true", "");
    electric.update("items", json!({"id": 2, "org": "a"})).unwrap();
    electric.update("items", json!({"id": 1, "org": "b"})).unwrap();
    let answer = get(&electric, &query).await;
    assert!(answer.contains(r#"{"value":{"id":"2","org":"a","title":"two"},"key":"\"public\".\"items\"/\"2\"""#));
    assert!(answer.contains(r#"{"value":{"id":"1"},"key":"\"public\".\"items\"/\"1\"""#));
    assert!(answer.contains(r#""operation":"insert","lsn""#) && answer.contains(r#""operation":"delete","lsn""#));
}

#[tokio::test]
async fn a_stream_resumes_from_its_last_lsn() {
    let electric = electric(Options { hold: Duration::from_millis(40), ..Options::default() }).await;
    let query = live(&electric, "where=org='a'").await;
    let lsn = electric.insert("items", json!({"id": 3, "org": "b"})).unwrap();
    let at = |lsn: u64| query.replace("offset=0_inf", &format!("offset={lsn}_0"));
    assert!(get(&electric, &at(lsn)).await.starts_with("HTTP/1.1 200"));
    assert!(get(&electric, &at(lsn + 1)).await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn responses_can_be_held_back_and_requests_are_counted() {
    let electric = electric(Options::default()).await;
    electric.hold();
    let release = async {
        electric.wait_for_requests(2).await;
        electric.release();
    };
    let (first, second, ()) = tokio::join!(get(&electric, "offset=-1"), get(&electric, "offset=-1"), release);
    assert!(first.starts_with("HTTP/1.1 200") && second.starts_with("HTTP/1.1 200"));
    assert_eq!(electric.request_count(), 2);
    assert_eq!(electric.requests()[0].target, "/v1/shape?secret=test-secret&table=items&offset=-1");
}

#[tokio::test]
async fn a_scripted_response_comes_first() {
    let electric = electric(Options::default()).await;
    electric.script(Reply::json(500, "{}").with_end(End::Truncate));
    assert!(get(&electric, "offset=-1").await.starts_with("HTTP/1.1 500"));
    assert!(get(&electric, "offset=-1").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_shape_is_reachable_by_its_aliases_only() {
    let electric = electric(Options::default()).await;
    for (path, status) in [
        ("/v1/shape/", 200),
        ("//v1/shape", 200),
        ("/v1//shape", 200),
        ("/v1/%73hape", 200),
        ("/V1/shape", 404),
        ("/v1/./shape", 404),
        ("/v1/shape;x", 404),
    ] {
        let target = format!("{path}?secret=test-secret&table=items&offset=-1");
        let answer = send(electric.addr(), "GET", &target).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        let answer = send(electric.addr(), "GET", &format!("{path}?table=items&offset=-1")).await;
        assert_eq!(answer.starts_with("HTTP/1.1 401"), status == 200, "{path}: {answer}");
    }
}

#[tokio::test]
async fn spellings_of_one_shape_share_its_handle() {
    let electric = electric(Options::default()).await;
    let mut handles = Vec::new();
    for query in
        ["table=items", "table=ITEMS", "table=\"items\"", "table=public.items", "table=items&columns=title,id,org"]
    {
        let query = query.replace('"', "%22");
        handles.push(header(&get(&electric, &format!("{query}&offset=-1")).await, "electric-handle"));
    }
    handles.dedup();
    assert_eq!(handles.len(), 1);
    let other = get(&electric, "columns=id&offset=-1").await;
    assert_ne!(header(&other, "electric-handle"), handles[0]);
}

#[tokio::test]
async fn invalid_changes_are_rejected() {
    let electric = electric(Options::default()).await;
    let refused = |outcome: Result<u64, ChangeError>| outcome.unwrap_err().to_string();
    assert_eq!(refused(electric.insert("nope", json!({}))), "no table nope");
    assert_eq!(refused(electric.insert("items", json!({"title": "x"}))), "the row has no primary key");
    assert_eq!(refused(electric.insert("items", json!({"id": 1, "x": 1}))), "no column x");
    assert!(refused(electric.insert("items", json!({"id": 1}))).starts_with("there is a row"));
    assert!(refused(electric.delete("items", json!({"id": 9}))).starts_with("no row"));
    assert!(electric.delete("items", json!({"id": 1})).is_ok());
}
