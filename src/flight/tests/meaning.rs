//! Sharing by meaning: which response a client gets after others have seen a later one, or another handle.

use super::*;

/// A response of Electric to one request.
pub(super) struct Shown {
    pub(super) handle: &'static str,
    pub(super) offset: &'static str,
    pub(super) up_to_date: bool,
    pub(super) live: bool,
    pub(super) events: bool,
    pub(super) body: &'static str,
    /// Ends the response when it is sent, with the last part of the body.
    pub(super) until: Option<oneshot::Receiver<&'static str>>,
    /// Whether the header is sent before that.
    pub(super) head_first: bool,
}

impl Shown {
    /// Returns a response that ends at the end of the log.
    pub(super) fn at(handle: &'static str, offset: &'static str, body: &'static str) -> Self {
        let (up_to_date, live, events) = (true, false, false);
        Self { handle, offset, up_to_date, live, events, body, until: None, head_first: false }
    }

    /// Returns the first response of a snapshot.
    fn snapshot(handle: &'static str, body: &'static str) -> Self {
        Self { up_to_date: false, ..Self::at(handle, "0_0", body) }
    }

    fn live(offset: &'static str, body: &'static str) -> Self {
        Self { live: true, ..Self::at("7-1", offset, body) }
    }

    fn until(self, until: oneshot::Receiver<&'static str>) -> Self {
        Self { until: Some(until), ..self }
    }

    pub(super) async fn write(mut self, sink: &Sink) -> Result<(), Fault> {
        let until = self.until.take();
        if !self.head_first
            && let Some(until) = until
        {
            let rest = until.await.expect("the gate was dropped");
            sink.head(self.head());
            sink.push(Bytes::from(rest)).await;
            sink.finish().await;
            return Ok(());
        }
        sink.head(self.head());
        sink.push(Bytes::from(self.body)).await;
        sink.flush().await;
        if let Some(until) = until {
            sink.push(Bytes::from(until.await.expect("the gate was dropped"))).await;
        }
        sink.finish().await;
        Ok(())
    }

    fn head(&self) -> Head {
        let control = if self.live { "max-age=5" } else { "max-age=60, stale-while-revalidate=300" };
        let kind = if self.events { "text/event-stream" } else { "application/json" };
        let mut headers = HeaderMap::new();
        let mut put = |name: &'static str, value: &str| headers.insert(name, HeaderValue::from_str(value).unwrap());
        put("cache-control", control);
        put("content-type", kind);
        put("electric-handle", self.handle);
        put("electric-offset", self.offset);
        put("etag", &format!("\"{}:{}\"", self.handle, self.offset));
        if self.up_to_date {
            put("electric-up-to-date", "");
        }
        Head::new(StatusCode::OK, &headers)
    }
}

fn shown(shown: Shown) -> Act {
    Act::Show(shown)
}

const CATCH_UP: &str = "offset=0_0&handle=7-1";

/// Runs the hub's tasks until they wait.
async fn run() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_mean_the_same_share_a_response() {
    let scene = Scene::new("", [shown(Shown::snapshot("7-1", "rows")), shown(Shown::at("7-1", "5_0", "changes"))]);
    for (number, query) in [
        "offset=-1",
        "offset=-1&log=full&live=false&replica=default",
        "offset=-1&cache-buster=1",
        "offset=-1&cache-buster=2&expired_handle=6-1&cursor=7",
        "offset=-1&handle=7-1",
    ]
    .into_iter()
    .enumerate()
    {
        let join = if number == 0 { Join::First } else { Join::Fresh };
        assert_eq!(scene.read(query).await, (join, ok("rows")), "{query}");
        scene.settle().await;
    }
    assert_eq!(scene.read(CATCH_UP).await, (Join::First, ok("changes")));
    scene.settle().await;
    assert_eq!(scene.read(&format!("{CATCH_UP}&cursor=7")).await, (Join::Fresh, ok("changes")));
    assert_eq!(scene.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn clients_with_different_cursors_wait_together() {
    let (gate, wait) = oneshot::channel();
    let scene = Scene::new("", [shown(Shown::live("5_0", "").until(wait))]);
    let clients =
        [scene.join(LIVE), scene.join(&format!("{LIVE}&cursor=20")), scene.join(&format!("{LIVE}&cursor=99"))];
    assert_eq!(clients.each_ref().map(Follower::join), [Join::First, Join::Open, Join::Open]);
    run().await;
    gate.send("row").unwrap();
    for client in clients {
        assert_eq!(whole(client).await, ok("row"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_live_response_without_a_change_is_for_those_who_waited() {
    let scene = Scene::new("", [shown(Shown::live("0_0", "nothing")), shown(Shown::live("5_0", "row"))]);
    assert_eq!(scene.read(LIVE).await, (Join::First, ok("nothing")));
    scene.settle().await;
    assert_eq!(scene.read(LIVE).await, (Join::First, ok("row")));
    scene.settle().await;
    assert_eq!(scene.read(LIVE).await, (Join::Fresh, ok("row")), "a late client at the old offset");
}

#[tokio::test(start_paused = true)]
async fn a_cached_response_is_not_served_after_clients_have_seen_later_changes() {
    let late = Shown::at("7-1", "9_0", "all");
    let acts = [Shown::at("7-1", "5_0", "old"), Shown::live("9_0", "row"), late].map(shown);
    let scene = Scene::new("", acts);
    assert_eq!(scene.read(CATCH_UP).await, (Join::First, ok("old")));
    scene.settle().await;
    assert_eq!(scene.read(CATCH_UP).await, (Join::Fresh, ok("old")));
    assert_eq!(scene.read("offset=5_0&handle=7-1&live=true").await.1, ok("row"));
    scene.settle().await;
    // Fetched again once for all.
    let clients = [(); 3].map(|()| scene.join(CATCH_UP));
    assert_eq!(clients.each_ref().map(Follower::join), [Join::First, Join::Open, Join::Open]);
    for client in clients {
        assert_eq!(whole(client).await, ok("all"));
    }
    scene.settle().await;
    assert_eq!(scene.read(CATCH_UP).await, (Join::Fresh, ok("all")));
    assert_eq!(scene.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn chunks_that_end_before_the_end_of_the_log_stay_good() {
    let chunk = Shown { up_to_date: false, ..Shown::at("7-1", "5_0", "chunk") };
    let scene = Scene::new("", [Shown::snapshot("7-1", "rows"), chunk, Shown::live("9_0", "row")].map(shown));
    for query in [SNAPSHOT, CATCH_UP, "offset=5_0&handle=7-1&live=true"] {
        assert_eq!(scene.read(query).await.0, Join::First);
        scene.settle().await;
    }
    assert_eq!(scene.read(SNAPSHOT).await, (Join::Fresh, ok("rows")));
    assert_eq!(scene.read(CATCH_UP).await, (Join::Fresh, ok("chunk")));
}

#[tokio::test(start_paused = true)]
async fn a_stale_response_is_not_served_after_later_changes_either() {
    let acts = [Shown::at("7-1", "5_0", "old"), Shown::live("9_0", "row"), Shown::at("7-1", "9_0", "all")].map(shown);
    let scene = Scene::new("", acts);
    scene.read(CATCH_UP).await.1.unwrap();
    scene.read("offset=5_0&handle=7-1&live=true").await.1.unwrap();
    scene.settle().await;
    advance(Duration::from_secs(61)).await;
    assert_eq!(scene.read(CATCH_UP).await, (Join::First, ok("all")));
}

#[tokio::test(start_paused = true)]
async fn a_request_does_not_join_a_response_that_was_asked_for_before_later_changes() {
    let (gate, wait) = oneshot::channel();
    let slow = Shown::at("7-1", "5_0", "").until(wait);
    let scene = Scene::new("", [slow, Shown::live("9_0", "row"), Shown::at("7-1", "9_0", "all")].map(shown));
    let early = scene.join(CATCH_UP);
    run().await;
    scene.read("offset=5_0&handle=7-1&live=true").await.1.unwrap();
    assert_eq!(scene.read(CATCH_UP).await, (Join::First, ok("all")));
    gate.send("old").unwrap();
    assert_eq!(whole(early).await, ok("old"));
    scene.settle().await;
    assert_eq!(scene.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_offset_that_electric_repeats_outdates_nothing() {
    let repeated = Shown::live("99_0", "nothing");
    let scene = Scene::new("", [Shown::at("7-1", "5_0", "all"), repeated].map(shown));
    scene.read(CATCH_UP).await.1.unwrap();
    scene.settle().await;
    scene.read("offset=99_0&handle=7-1&live=true").await.1.unwrap();
    scene.settle().await;
    assert_eq!(scene.read(CATCH_UP).await, (Join::Fresh, ok("all")));
}

#[tokio::test(start_paused = true)]
async fn after_a_409_everybody_reloads_through_one_request() {
    let acts = [Act::Show(Shown::snapshot("7-1", "old")), Act::Gone, Act::Show(Shown::snapshot("8-1", "new"))];
    let scene = Scene::new("", acts);
    scene.read(SNAPSHOT).await.1.unwrap();
    scene.settle().await;
    whole(scene.join(LIVE)).await.unwrap();
    scene.settle().await;
    assert_eq!(scene.hub.kept_flights(), 0, "without a max-age, the 409 is not cached either");
    let reload = |number: usize| format!("{SNAPSHOT}&expired_handle=7-1&cache-buster={number}");
    let clients: Vec<_> = (0..10).map(|number| scene.join(&reload(number))).collect();
    for client in clients {
        assert_eq!(whole(client).await, ok("new"));
    }
    scene.settle().await;
    assert_eq!(scene.read(&format!("{}&handle=8-1", reload(10))).await, (Join::Fresh, ok("new")));
    assert_eq!(scene.read(SNAPSHOT).await, (Join::Fresh, ok("new")), "a new client");
    assert_eq!((scene.fetches(), scene.hub.kept_flights()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_was_asked_for_before_a_409_is_neither_joined_nor_cached() {
    let (gate, wait) = oneshot::channel();
    let slow = Shown::snapshot("7-1", "").until(wait);
    let live = Shown::live("5_0", "row");
    let acts = [Act::Show(slow), Act::Show(live), Act::Gone, Act::Show(Shown::snapshot("8-1", "new"))];
    let scene = Scene::new("", acts);
    let early = scene.join(SNAPSHOT);
    run().await;
    scene.read(LIVE).await.1.unwrap();
    whole(scene.join("offset=5_0&handle=7-1&live=true")).await.unwrap();
    let reload = scene.join(&format!("{SNAPSHOT}&expired_handle=7-1"));
    assert_eq!((reload.join(), whole(reload).await), (Join::First, ok("new")));
    gate.send("old").unwrap();
    assert_eq!(whole(early).await, ok("old"));
    scene.settle().await;
    assert_eq!(scene.read(SNAPSHOT).await, (Join::Fresh, ok("new")));
}

#[tokio::test(start_paused = true)]
async fn a_client_never_gets_the_handle_that_it_calls_expired_from_the_cache() {
    let acts = [Shown::snapshot("7-1", "1"), Shown::snapshot("7-1", "2")].map(shown);
    let scene = Scene::new("", acts);
    scene.read(SNAPSHOT).await.1.unwrap();
    scene.settle().await;
    // It is not known to be invalid, so it stays cached for others.
    let expired = scene.join(&format!("{SNAPSHOT}&expired_handle=7-1"));
    assert_eq!(expired.join(), Join::First);
    assert_eq!(scene.read(SNAPSHOT).await, (Join::Fresh, ok("1")));
    // Electric says that it is valid.
    assert_eq!(whole(expired).await, ok("2"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_a_409_has_sent_to_a_handle_gets_that_or_asks_electric() {
    let acts = [Shown::snapshot("7-1", "old"), Shown::snapshot("8-1", "new")].map(shown);
    let scene = Scene::new("", acts);
    scene.read(SNAPSHOT).await.1.unwrap();
    scene.settle().await;
    let named = format!("{SNAPSHOT}&handle=8-1");
    assert_eq!(scene.read(&named).await, (Join::First, ok("new")));
    scene.settle().await;
    assert_eq!(scene.read(&named).await, (Join::Fresh, ok("new")));
    assert_eq!(scene.read(SNAPSHOT).await, (Join::Fresh, ok("new")));
}

const CHANGE_5: &str = "data: {\"headers\":{\"operation\":\"insert\",\"lsn\":\"5\",\"op_position\":0}}\n\n\
                        data: {\"headers\":{\"control\":\"up-to-date\",\"global_last_seen_lsn\":\"6\"}}\n\n";
const CHANGE_9: &str = "data: {\"headers\":{\"operation\":\"insert\",\"lsn\":\"9\",\"op_position\":0}}\n\n\
                        data: {\"headers\":{\"control\":\"up-to-date\",\"global_last_seen_lsn\":\"9\"}}\n\n";

fn stream(body: &'static str, until: oneshot::Receiver<&'static str>) -> Act {
    let stream = Shown { events: true, live: true, head_first: true, ..Shown::at("7-1", "0_0", body) };
    shown(stream.until(until))
}

fn events(offset: &str) -> String {
    format!("offset={offset}&handle=7-1&live=true&live_sse=true")
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_joined_where_the_client_s_log_ends() {
    let (gate, wait) = oneshot::channel();
    let scene = Scene::new("", [stream(CHANGE_5, wait)]);
    let first = scene.join(&events("0_0"));
    run().await;
    // After the change, or after the transaction that the stream has named last.
    let late = ["5_0", "6_0"].map(|offset| (offset, scene.join(&events(offset))));
    for (offset, client) in &late {
        assert_eq!(client.join(), Join::Open, "{offset}");
        assert_eq!(client.head().await.unwrap().next(), Some(("7-1", *offset)), "it resumes from there");
        assert_eq!(client.key(), &FlightKey::of(&*scene.source, &scene.request(&events(offset))));
    }
    advance(Duration::from_secs(60)).await;
    gate.send(CHANGE_9).unwrap();
    assert_eq!(whole(first).await, ok(&format!("{CHANGE_5}{CHANGE_9}")));
    for (offset, client) in late {
        assert_eq!(whole(client).await, ok(CHANGE_9), "{offset}");
    }
    assert_eq!(scene.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_not_joined_where_a_client_would_miss_a_change_or_get_it_twice() {
    let (gate, wait) = oneshot::channel();
    let others = ["4_0", "7_0"].map(|_| stream("", oneshot::channel().1));
    let scene = Scene::new("", [stream(CHANGE_5, wait)].into_iter().chain(others));
    let _first = scene.join(&events("4_5"));
    run().await;
    let behind = scene.join(&events("4_0"));
    let ahead = scene.join(&events("7_0"));
    assert_eq!([behind.join(), ahead.join()], [Join::First, Join::First]);
    drop(gate);
}

#[tokio::test(start_paused = true)]
async fn a_change_in_a_stream_outdates_a_cached_response() {
    let (gate, wait) = oneshot::channel();
    let acts = [shown(Shown::at("7-1", "5_0", "old")), stream(CHANGE_5, wait), shown(Shown::at("7-1", "9_0", "all"))];
    let scene = Scene::new("", acts);
    scene.read(CATCH_UP).await.1.unwrap();
    let client = scene.join(&events("0_0"));
    run().await;
    assert_eq!(scene.read(CATCH_UP).await.0, Join::Fresh);
    advance(Duration::from_secs(60)).await;
    gate.send(CHANGE_9).unwrap();
    whole(client).await.unwrap();
    assert_eq!(scene.read(CATCH_UP).await, (Join::First, ok("all")));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_electric_ends_at_once_is_continued_where_it_ended() {
    let (gate, wait) = oneshot::channel();
    let behind = Shown { events: true, live: true, ..Shown::at("7-1", "0_0", CHANGE_5) };
    let scene = Scene::new("", [shown(behind), stream(CHANGE_9, wait)]);
    let client = scene.join(&events("0_0"));
    run().await;
    assert_eq!(scene.asked(), [events("0_0"), events("5_0")].map(|query| scene.request(&query).query().to_owned()));
    assert_eq!(client.head().await.unwrap().next(), Some(("7-1", "0_0")));
    advance(Duration::from_secs(60)).await;
    gate.send("").unwrap();
    assert_eq!(whole(client).await, ok(&format!("{CHANGE_5}{CHANGE_9}")), "the regular end");
    assert_eq!(scene.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_cannot_be_continued_ends_between_two_transactions() {
    for refused in [Act::Gone, Act::Fail(Fault::UpstreamUnreachable), shown(Shown::at("7-1", "9_0", "[]"))] {
        let behind = Shown { events: true, live: true, ..Shown::at("7-1", "0_0", CHANGE_5) };
        let scene = Scene::new("", [shown(behind), refused]);
        assert_eq!(scene.read(&events("0_0")).await, (Join::First, ok(CHANGE_5)));
        assert_eq!(scene.fetches(), 2);
    }
    let torn = Shown { events: true, live: true, ..Shown::at("7-1", "0_0", "data: {\"headers\"") };
    let scene = Scene::new("", [shown(torn)]);
    assert_eq!(scene.read(&events("0_0")).await.1, ok("data: {\"headers\""));
    assert_eq!(scene.fetches(), 1, "it is not continued within an event");
}

#[tokio::test(start_paused = true)]
async fn a_stream_resumes_behind_the_whole_transaction_that_its_client_names() {
    let change = Shown::at("7-1", "5_4", "changes");
    let (gate, wait) = oneshot::channel();
    let scene = Scene::new("", [shown(change), stream("", wait)]);
    scene.read(CATCH_UP).await.1.unwrap();
    let clients = [scene.join(&events("5_0")), scene.join(&events("5_4"))];
    run().await;
    assert_eq!(scene.asked()[1..], [scene.request(&events("5_4")).query().to_owned()]);
    assert_eq!(clients[0].key(), &FlightKey::of(&*scene.source, &scene.request(&events("5_0"))));
    advance(Duration::from_secs(60)).await;
    gate.send(CHANGE_9).unwrap();
    for client in clients {
        assert_eq!(whole(client).await, ok(CHANGE_9));
    }
}
