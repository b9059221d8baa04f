//! The flight's end of its own request: what Pingora takes for a client.
//!
//! It has a header and perhaps a body to send, and passes each part of the response on to the flight as it comes, so
//! that nothing is serialized and parsed again.

use std::future::{pending, poll_fn};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use http::{HeaderMap, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, ErrorType, Result};

use crate::flight::Sink;

/// A session without a client.
pub(super) struct FlightEnd {
    header: RequestHeader,
    body: Option<Bytes>,
    /// `None` if nobody wants the response.
    sink: Option<Sink>,
    /// Whether something was pushed that is not published yet.
    unpublished: bool,
    sent: usize,
}

/// The target before `upstream_request_filter` has written the request. No server is ever asked for it.
const UNWRITTEN: &[u8] = b"/unwritten";

impl FlightEnd {
    /// Sends `body`, and passes the response on to `sink`.
    ///
    /// # Errors
    /// None in practice: the header is a constant.
    pub(super) fn session(body: Option<Bytes>, sink: Option<Sink>) -> Result<ServerSession> {
        let mut header = RequestHeader::build_no_case("GET", UNWRITTEN, Some(0))?;
        header.set_version(Version::HTTP_11);
        let end = Self { header, body, sink, unpublished: false, sent: 0 };
        Ok(ServerSession::new_custom(Box::new(end)))
    }

    async fn pass(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            // `upstream_response_filter` has given the flight its header.
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

    /// Publishes what has arrived, once Electric makes us wait for more.
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

/// Waits until Pingora has read everything that Electric has sent: its reading half runs in the same task, once between
/// two polls of this one.
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
impl Session for FlightEnd {
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

    /// Pingora calls this whenever it waits for the server. There is no client that could leave.
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

    /// The body, for each attempt.
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
