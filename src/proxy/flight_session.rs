//! The downstream session of a flight's request. Pingora treats it as a client.
//!
//! It sends a header and perhaps a body, and passes each part of the response to the flight as it arrives, so nothing
//! is serialized and parsed again.

use std::future::{pending, poll_fn};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use http::{HeaderMap, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorType, Result};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::l4::socket::SocketAddr;

use crate::flight::Sink;

/// A downstream session without a client.
pub(super) struct FlightSession {
    header: RequestHeader,
    body: Option<Bytes>,
    /// Where the response is written; `None` if it is dropped.
    sink: Option<Sink>,
    /// Whether the sink has data that is not published yet.
    unpublished: bool,
    sent: usize,
}

/// The target until `upstream_request_filter` builds the request. It is never sent to a server.
const UNWRITTEN: &[u8] = b"/unwritten";

impl FlightSession {
    /// Returns a session that sends `body` and passes the response to `sink`.
    ///
    /// # Errors
    /// None in practice: the header is a constant.
    pub(super) fn session(body: Option<Bytes>, sink: Option<Sink>) -> Result<ServerSession> {
        let mut header = RequestHeader::build_no_case("GET", UNWRITTEN, Some(0))?;
        header.set_version(Version::HTTP_11);
        let session = Self { header, body, sink, unpublished: false, sent: 0 };
        Ok(ServerSession::new_custom(Box::new(session)))
    }

    async fn pass(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            // The sink has the header already, from `upstream_response_filter`.
            HttpTask::Header(header, end) => {
                self.unpublished |= !header.status.is_informational();
                Ok(end)
            }
            HttpTask::Body(bytes, end) | HttpTask::UpgradedBody(bytes, end) => {
                self.push(bytes).await;
                Ok(end)
            }
            HttpTask::Trailer(_) | HttpTask::Done => Ok(true),
            HttpTask::Failed(error) => Err(error),
        }
    }

    async fn push(&mut self, bytes: Option<Bytes>) {
        let (Some(bytes), Some(sink)) = (bytes, &self.sink) else { return };
        self.sent += bytes.len();
        sink.push(bytes).await;
        self.unpublished = true;
    }

    /// Publishes what has arrived, once nothing more is available without waiting.
    async fn publish(&mut self) {
        if !self.unpublished {
            return;
        }
        quiet().await;
        if let Some(sink) = &self.sink {
            sink.flush().await;
        }
        self.unpublished = false;
    }
}

/// Waits until Pingora has read everything that Electric has sent. The part of Pingora that reads from Electric runs in
/// the same task, once between two polls of this future.
async fn quiet() {
    let mut polls = 0;
    poll_fn(|context| {
        polls += 1;
        if polls == 3 {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[async_trait]
impl Session for FlightSession {
    fn req_header(&self) -> &RequestHeader {
        &self.header
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.header
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        Ok(())
    }

    async fn write_response_header(&mut self, _header: Box<ResponseHeader>, _end: bool) -> Result<()> {
        Ok(())
    }

    async fn write_response_header_ref(&mut self, _header: &ResponseHeader, _end: bool) -> Result<()> {
        Ok(())
    }

    async fn write_body(&mut self, bytes: Bytes, _end: bool) -> Result<()> {
        self.push(Some(bytes)).await;
        Ok(())
    }

    async fn write_trailers(&mut self, _trailers: HeaderMap) -> Result<()> {
        Ok(())
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut ended = false;
        for task in tasks {
            ended |= self.pass(task).await?;
        }
        if let (true, Some(sink)) = (ended, &self.sink) {
            sink.finish().await;
            self.unpublished = false;
        }
        Ok(ended)
    }

    fn set_read_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_total_drain_timeout(&mut self, _timeout: Option<Duration>) {}

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        None
    }

    fn request_summary(&self) -> String {
        "a flight's request".to_owned()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        None
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {}

    fn is_body_done(&mut self) -> bool {
        true
    }

    async fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    fn is_body_empty(&mut self) -> bool {
        self.body.is_none()
    }

    /// Publishes, then waits for ever: there is no client that could disconnect. Pingora calls this while it waits for
    /// the server.
    async fn read_body_or_idle(&mut self, _no_body_expected: bool) -> Result<Option<Bytes>> {
        self.publish().await;
        pending().await
    }

    fn body_bytes_sent(&self) -> usize {
        self.sent
    }

    fn body_bytes_read(&self) -> usize {
        self.body.as_ref().map_or(0, Bytes::len)
    }

    fn digest(&self) -> Option<&Digest> {
        None
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        None
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {}

    fn retry_buffer_truncated(&self) -> bool {
        false
    }

    /// Returns the body, for each attempt.
    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.body.clone()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Error::e_explain(ErrorType::InternalError, "a flight has no custom messages")
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Error::e_explain(ErrorType::InternalError, "a flight has no custom messages")
    }
}
