//! The floor: a server that shares responses as shapegate does, without authentication, on bare sockets. No proxy can
//! be much faster.
//!
//! With `--answer` it sends that response to every request. With `--upstream`, the first client of a target opens one
//! request for it, and every client that comes before the response gets the same bytes.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use bytes::{Buf, Bytes, BytesMut};
use clap::Args;
use httparse::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

use crate::http::{Answer, Connection};
use crate::runtime;

/// Serve as the floor until told to stop
#[derive(Debug, Args)]
pub(crate) struct FloorServer {
    /// Runtime threads
    #[arg(long)]
    threads: usize,
    /// Send this file, a whole HTTP/1.1 response, to every request
    #[arg(long, value_name = "FILE", conflicts_with = "upstream")]
    answer: Option<PathBuf>,
    /// Send one request to this server for all clients that wait for the same target
    #[arg(long, value_name = "ADDRESS", required_unless_present = "answer")]
    upstream: Option<SocketAddr>,
}

impl FloorServer {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let work = match (&self.answer, self.upstream) {
            (Some(file), _) => Work::Fixed(std::fs::read(file)?.into()),
            (None, Some(upstream)) => Work::Share(Flights { upstream, open: Mutex::default() }),
            (None, None) => bail!("give --answer or --upstream"),
        };
        runtime(self.threads)?.block_on(serve(Arc::new(Floor { work, in_flight: AtomicUsize::new(0) })))
    }
}

struct Floor {
    work: Work,
    in_flight: AtomicUsize,
}

enum Work {
    Fixed(Bytes),
    Share(Flights),
}

/// The requests in flight, by target.
struct Flights {
    upstream: SocketAddr,
    open: Mutex<HashMap<String, watch::Receiver<Option<Bytes>>>>,
}

/// The beginning of the line that names the address.
pub(crate) const LISTENING: &str = "floor: listening on ";

async fn serve(floor: Arc<Floor>) -> anyhow::Result<()> {
    // The same backlog as Pingora's, since many clients connect at once.
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let listener = socket.listen(65_535)?;
    eprintln!("{LISTENING}{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let floor = Arc::clone(&floor);
        // An error means that the client has gone.
        tokio::spawn(async move { drop(floor.connection(stream).await) });
    }
}

impl Floor {
    async fn connection(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = BytesMut::with_capacity(1024);
        loop {
            let Some((end, target)) = request(&buffer)? else {
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
                continue;
            };
            let answer = match (&self.work, target) {
                (Work::Fixed(answer), _) => answer.clone(),
                (Work::Share(_), METRICS) => self.metrics(),
                (Work::Share(flights), target) => {
                    self.in_flight.fetch_add(1, Ordering::Relaxed);
                    let answer = flights.answer(target).await;
                    self.in_flight.fetch_sub(1, Ordering::Relaxed);
                    answer?
                }
            };
            buffer.advance(end);
            stream.write_all(&answer).await?;
        }
    }

    /// Returns the part of a metrics page that the bench reads.
    fn metrics(&self) -> Bytes {
        let body = format!("floor_requests_in_flight {}\n", self.in_flight.load(Ordering::Relaxed));
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into()
    }
}

impl Flights {
    /// Returns the response for `target`. The first request for it opens the upstream request.
    async fn answer(&self, target: &str) -> anyhow::Result<Bytes> {
        let (mut answer, sender) = self.join(target);
        if let Some(sender) = sender {
            let fetched = self.fetch(target).await;
            self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(target);
            sender.send_replace(Some(whole(&fetched?)?));
        }
        let answer = answer.wait_for(Option::is_some).await.context("the upstream failed")?;
        answer.clone().context("no response")
    }

    async fn fetch(&self, target: &str) -> anyhow::Result<Answer> {
        let request = format!("GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n", self.upstream);
        Connection::open(self.upstream).await?.ask(request.as_bytes()).await
    }

    fn join(&self, target: &str) -> (watch::Receiver<Option<Bytes>>, Option<watch::Sender<Option<Bytes>>>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = open.get(target) {
            return (answer.clone(), None);
        }
        let (sender, receiver) = watch::channel(None);
        open.insert(target.to_owned(), receiver.clone());
        (receiver, Some(sender))
    }
}

/// Returns the end of a complete request at the start of `buffer`, and its target.
fn request(buffer: &[u8]) -> anyhow::Result<Option<(usize, &str)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(buffer)? {
        Status::Complete(end) => Ok(Some((end, request.path.context("a request without a target")?))),
        Status::Partial => Ok(None),
    }
}

/// Returns a response in one piece, to be written with one call.
pub(crate) fn whole(answer: &Answer) -> anyhow::Result<Bytes> {
    let mut text = format!("HTTP/1.1 {} Answer\r\ncontent-length: {}\r\n", answer.status, answer.body.len());
    let framing = ["content-length", "transfer-encoding", "connection"];
    for (name, value) in answer.headers().filter(|(name, _)| !framing.contains(&name.to_ascii_lowercase().as_str())) {
        write!(text, "{name}: {value}\r\n")?;
    }
    text.push_str("\r\n");
    Ok([text.as_bytes(), &answer.body].concat().into())
}

/// The path at which shapegate's admin port and the floor report how many requests they are answering.
pub(crate) const METRICS: &str = "/metrics";
