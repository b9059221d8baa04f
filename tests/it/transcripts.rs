//! Replays every recording in tests/electric to compare the stand-in with the real Electric.

mod compare;

use std::time::Duration;

use compare::compare;
use serde_json::{Value, json};
use shapegate::demo::electric::{Change, Column, Electric, Options, Readiness};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Recordings of features that the stand-in does not have.
const NOT_DONE: &[(&str, &str)] =
    &[("106 107 108", "no subqueries in `where`"), ("116 117", "responses are never compressed")];

/// The state of the stand-in before and during the replay of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Situation {
    /// Nothing else happens.
    Quiet,
    /// The shape has a log, and the request is at the end of it.
    AtTail,
    /// There are changes after the offset of the request.
    Behind,
    /// As `Behind`, with more changes than fit into one response.
    FarBehind,
    /// A change arrives while the request waits.
    ChangeWhileWaiting,
    DeletedWhileWaiting,
    TruncatedWhileWaiting,
    AlteredWhileWaiting,
    DatabaseLostWhileWaiting,
    /// The handle belongs to another shape.
    OtherHandle,
    /// The shape exists before the request.
    ShapeExists,
    /// The shape of the handle has been deleted.
    ShapeDeleted,
    SmallChunks,
    NeverReady,
    DatabaseDown,
    Overloaded,
    DeleteForbidden,
}

use Situation::*;

/// The recordings, by the number at the start of their names.
const SITUATIONS: &[(Situation, &str)] = &[
    (Quiet, "01 02 03 06 08 09 10 12 18 19 20 21 22 23 24 25 26 27 28 29 30 31 33 34 35 36 37 38 39 40 41 42 43"),
    (Quiet, "44 45 46 47 48 49 51 52 53 54 55 56 57 60 61 62 63 64 67 67b 72 72b 76 78 80 81 109 110 111 112"),
    (Quiet, "113 118 121 122 123 124 125 126"),
    (AtTail, "05 07 13 13b 14 14b 32 50 58 59 99 102 102b 119 120"),
    (Behind, "04 11 17 105 114 114b"),
    (FarBehind, "88 89"),
    (ChangeWhileWaiting, "15 15c 16 16b 98 100 101"),
    (DeletedWhileWaiting, "73 74"),
    (TruncatedWhileWaiting, "103"),
    (AlteredWhileWaiting, "104"),
    (DatabaseLostWhileWaiting, "115"),
    (OtherHandle, "65 66 68 69 70 71 77 79"),
    (ShapeExists, "75"),
    (ShapeDeleted, "82"),
    (SmallChunks, "86 87"),
    (NeverReady, "83 84"),
    (DatabaseDown, "91 92 93 94 95 96 97"),
    (Overloaded, "90 90b"),
    (DeleteForbidden, "85"),
];

impl Situation {
    fn options(self) -> Options {
        Options {
            hold: match self {
                AtTail | DatabaseLostWhileWaiting | Quiet => Duration::from_millis(200),
                _ => Duration::from_secs(20),
            },
            sse_keep_alive: Duration::from_millis(200),
            sse_life: match self {
                DeletedWhileWaiting => Duration::from_secs(20),
                _ => Duration::from_millis(500),
            },
            not_ready_wait: Duration::from_millis(20),
            chunk_bytes: if matches!(self, SmallChunks | FarBehind) { 20_000 } else { 10 << 20 },
            allow_delete: self != DeleteForbidden,
            ..Options::default()
        }
    }

    /// Acts before the offset of the request is taken, unless that is the start of the log.
    fn before(self, electric: &Electric, query: &str) {
        let logged = matches!(self, AtTail | Behind | ChangeWhileWaiting | DatabaseLostWhileWaiting);
        if logged && !query.contains("offset=0_") {
            electric.insert("items", json!({"id": 900_000, "title": "earlier", "user_id": "user_1"})).unwrap();
        }
    }

    /// Acts between taking the offset and sending the request.
    fn after(self, electric: &Electric, name: &str, handle: &str) {
        match self {
            Behind => changes_of(electric, name),
            FarBehind => {
                let title = "y".repeat(200);
                let row = |id| Change::Insert("items".into(), json!({"id": id, "title": title, "user_id": "user_x"}));
                electric.transaction(&(810_001..810_200).map(row).collect::<Vec<_>>()).unwrap();
            }
            ShapeDeleted => assert!(electric.delete_shape(handle)),
            NeverReady => electric.set_readiness(Readiness::Waiting),
            DatabaseDown => electric.set_ready(false),
            Overloaded => electric.set_overload(Some(2)),
            // A change to another table only moves global_last_seen_lsn.
            AtTail => assert!(electric.insert("trunc_t", json!({"id": 1})).is_ok()),
            _ => {}
        }
    }

    /// Acts once the request waits.
    async fn during(self, electric: &Electric, name: &str, handle: &str) {
        let act: &dyn Fn() = match self {
            ChangeWhileWaiting => &|| changes_of(electric, name),
            DeletedWhileWaiting => &|| assert!(electric.delete_shape(handle)),
            TruncatedWhileWaiting => &|| assert!(electric.truncate("trunc_t").is_ok()),
            AlteredWhileWaiting => &|| electric.delete_shapes_of("trunc_t"),
            DatabaseLostWhileWaiting => &|| electric.set_ready(false),
            _ => return,
        };
        electric.wait_for_waiting(1).await;
        act();
    }
}

/// Makes the changes that the recorded response contains.
fn changes_of(electric: &Electric, name: &str) {
    let outcome = match name.split('_').next().unwrap() {
        "04" | "11" => electric.transaction(&[
            Change::Insert("items".into(), json!({"id": 900_001, "title": "catchup row", "user_id": "user_1"})),
            Change::Update("items".into(), json!({"id": 1, "title": "changed"})),
            Change::Delete("items".into(), json!({"id": 2})),
        ]),
        "15" | "15c" | "16" | "16b" | "17" => electric.insert("tasks", task(1_000_000)),
        _ => electric.update("items", json!({"id": 7, "title": "changed"})),
    };
    outcome.unwrap();
}

fn task(number: u32) -> Value {
    json!({
        "id": format!("00000000-0000-0000-0000-{number:012}"),
        "organization_id": format!("org_{}", number % 5 + 1),
        "title": format!("Task {number}"),
        "status": "todo",
        "created_at": "2026-02-01 00:00:00+00",
    })
}

async fn set_up(situation: Situation) -> Electric {
    let electric = Electric::start(situation.options()).await.unwrap();
    let text = |name: &str| Column::new(name, "text").not_null();
    let tasks = ["organization_id", "title", "status"].map(text).into_iter();
    let id = Column::new("id", "uuid").primary_key(0);
    let created = Column::new("created_at", "timestamptz").not_null();
    electric.create_table("tasks", tasks.chain([id, created]).collect());
    let id = || Column::new("id", "int4").primary_key(0);
    electric.create_table("items", vec![id(), text("user_id"), Column::new("title", "text")]);
    electric.create_table("trunc_t", vec![id()]);
    create_types(&electric);
    let tasks = (1..=1000).map(|number| Change::Insert("tasks".into(), task(number)));
    electric.transaction(&tasks.collect::<Vec<_>>()).unwrap();
    let item = |id: u32| json!({"id": id, "title": format!("Item {id}"), "user_id": format!("user_{}", id % 10 + 1)});
    let items = (1..=300).map(|id| Change::Insert("items".into(), item(id)));
    electric.transaction(&items.collect::<Vec<_>>()).unwrap();
    electric
}

fn create_types(electric: &Electric) {
    let plain = [("b", "bool"), ("by", "bytea"), ("d", "date"), ("f", "float8"), ("i2", "int2"), ("j", "jsonb")];
    let rest = [("nn", "text"), ("ts", "timestamp"), ("tz", "timestamptz")];
    let mut columns: Vec<_> = plain.into_iter().chain(rest).map(|(name, kind)| Column::new(name, kind)).collect();
    columns.push(Column::new("arr", "text").modifier("dims", 1));
    columns.push(Column::new("id", "int8").primary_key(0));
    columns.push(Column::new("n", "numeric").modifier("precision", 10).modifier("scale", 2));
    columns.push(Column::new("vc", "varchar").modifier("max_length", 20));
    electric.create_table("types_t", columns);
    let row = json!({
        "arr": "{x,y}", "b": true, "by": "\\xdeadbeef", "d": "2026-01-01", "f": "2.5", "i2": 2, "id": 1, "n": "3.14",
        "j": "{\"a\": 1}", "ts": "2026-01-01 10:00:00", "tz": "2026-01-01 10:00:00+00", "vc": "vc",
    });
    electric.insert("types_t", row).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stand_in_responds_like_the_recordings_of_electric() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/electric");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    assert!(!files.is_empty(), "{folder} has no recordings");
    let mut failures = Vec::new();
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let number = name.split('_').next().unwrap();
        let listed = |numbers: &str| numbers.split(' ').any(|listed| listed == number);
        if NOT_DONE.iter().any(|(numbers, _)| listed(numbers)) {
            continue;
        }
        let Some((situation, _)) = SITUATIONS.iter().find(|(_, numbers)| listed(numbers)) else {
            failures.push(format!("{name}: listed neither in SITUATIONS nor in NOT_DONE"));
            continue;
        };
        let transcript = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let replay = tokio::time::timeout(Duration::from_secs(15), replay(&name, *situation, &transcript)).await;
        for difference in replay.unwrap_or_else(|_| vec!["no response".to_owned()]) {
            failures.push(format!("{name}: {difference}"));
        }
    }
    assert!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
}

/// Replays a recording and lists the differences.
async fn replay(name: &str, situation: Situation, transcript: &Value) -> Vec<String> {
    let electric = set_up(situation).await;
    let request = &transcript["request"];
    let query = request["query"].as_str().unwrap_or_default();
    let conditional = request["headers"].to_string().contains("If-None-Match");
    let mut known = Known::default();
    let real_handle = query.contains("handle=") && !query.contains("handle=1-1");
    if real_handle || conditional || matches!(situation, AtTail | ShapeExists) {
        known = Known::of(&electric, situation, query).await;
    }
    situation.after(&electric, name, &known.handle);
    if conditional {
        known.tail = Known::of(&electric, Quiet, query).await.tail;
    }
    let bytes = known.request(request);
    let (answer, ()) = tokio::join!(exchange(&electric, &bytes), situation.during(&electric, name, &known.handle));
    compare(transcript, &answer, request["method"] == "HEAD")
}

/// The stand-in's values for the handle and the offsets of the recording.
#[derive(Debug, Default)]
struct Known {
    handle: String,
    offset: String,
    tail: String,
}

impl Known {
    async fn of(electric: &Electric, situation: Situation, query: &str) -> Self {
        let definition = "table where params columns queryable_columns replica log secret api_secret";
        let base = |pair: &&str| definition.split(' ').any(|name| Some(name) == pair.split(['=', '%', '[']).next());
        let own = query.split('&').filter(base).collect::<Vec<_>>().join("&");
        let now = async |query: &str| {
            let target = format!("GET /v1/shape?{query}&offset=now HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            let answer = exchange(electric, target.as_bytes()).await;
            assert_eq!(answer.status, 200, "no shape by {query}: {}", answer.body);
            (answer.header("electric-handle"), answer.header("electric-offset"))
        };
        let other = "table=items&secret=test-secret";
        let shape = if situation == OtherHandle { other } else { own.as_str() };
        if own.contains("table=") {
            now(&own).await;
        }
        now(shape).await;
        situation.before(electric, query);
        let (handle, offset) = now(shape).await;
        Self { handle, tail: offset.clone(), offset }
    }

    fn request(&self, request: &Value) -> Vec<u8> {
        let query = request["query"].as_str().unwrap_or_default();
        let query: Vec<_> = query.split('&').map(|pair| self.parameter(pair)).collect();
        let path = request["path"].as_str().unwrap();
        let target = if query == [""] { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
        let mut head = format!("{} {target} HTTP/1.1\r\n", request["method"].as_str().unwrap());
        let mut length = 0;
        for pair in request["headers"].as_array().unwrap() {
            let (name, value) = (pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
            let value = if name == "If-None-Match" { self.etag(value) } else { value.to_owned() };
            if name == "Content-Length" {
                length = value.parse().unwrap();
            }
            head += &format!("{name}: {value}\r\n");
        }
        let mut body = request["body"].as_str().unwrap_or_default().as_bytes().to_vec();
        // The recording omits very long bodies.
        body.resize(length, b' ');
        [head.as_bytes(), b"\r\n", &body].concat()
    }

    fn parameter(&self, pair: &str) -> String {
        match pair.split_once('=') {
            Some(("handle", "1-1")) => pair.to_owned(),
            Some(("handle", _)) => format!("handle={}", self.handle),
            Some(("offset", offset)) => format!("offset={}", self.offset(offset)),
            _ => pair.to_owned(),
        }
    }

    fn offset(&self, recorded: &str) -> String {
        let real = recorded.split_once('_').is_some_and(|(tx, _)| tx.len() > 4 && tx != "99999999999");
        if real { self.offset.clone() } else { recorded.to_owned() }
    }

    fn etag(&self, recorded: &str) -> String {
        let parts: Vec<_> = recorded.trim_matches('"').split(':').collect();
        let to = if parts[1] == parts[2] { self.offset(parts[2]) } else { parts[2].to_owned() };
        let to = if to.len() > 8 { self.tail.clone() } else { to };
        format!("\"{}:{}:{to}\"", self.handle, self.offset(parts[1]))
    }
}

#[derive(Debug)]
struct Answer {
    status: u64,
    headers: Vec<(String, String)>,
    framing: &'static str,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> String {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap_or_default()
    }
}

/// Sends `request` and reads until the stand-in closes the connection.
async fn exchange(electric: &Electric, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(electric.addr()).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("no complete head");
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| line.split_once(": ").unwrap_or((line.trim_end_matches(':'), "")));
    let headers: Vec<_> = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let has = |name| headers.iter().any(|(known, _)| known == name);
    let (framing, body) = match () {
        () if request.starts_with(b"HEAD") || status == 304 || status == 204 => ("none", body.to_owned()),
        () if has("transfer-encoding") => ("chunked", dechunk(body)),
        () if has("content-length") => ("content-length", body.to_owned()),
        () => ("close", body.to_owned()),
    };
    Answer { status, headers, framing, body }
}

fn dechunk(mut rest: &str) -> String {
    let mut body = String::new();
    loop {
        let (size, behind) = rest.split_once("\r\n").expect("truncated");
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return body;
        }
        body += &behind[..size];
        rest = &behind[size + 2..];
    }
}
