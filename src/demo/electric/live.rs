//! Responses that wait: long polls, event streams, and offsets that the shape has not reached.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::answer::State;
use super::serve::{Asked, Service};
use super::shape::{Offset, Slice};
use crate::demo::http::{Body, Reply};

/// Chunks that are buffered for a client that does not read; then the stream waits.
const STREAM_BUFFER: usize = 64;

impl Service {
    /// Waits until the log has reached `from`, for half of the hold. Returns whether it has.
    pub(super) async fn reached(&self, asked: &Asked, from: Offset) -> bool {
        let deadline = Instant::now() + self.options.hold / 2;
        let mut changes = self.changes();
        loop {
            // A stream's client resumes from the last transaction that it saw, which may be later than the shape's last
            // one.
            if from.tx <= self.store().lsn || self.slice(asked, from).is_none() {
                return true;
            }
            if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
    }

    /// Answers with what follows `from`: at once, when it arrives, or with nothing at the end of the hold.
    pub(super) async fn long_poll(&self, asked: &Asked, from: Offset) -> Reply {
        let deadline = Instant::now() + self.options.hold;
        let mut changes = self.changes();
        let mut waiting = None;
        loop {
            let Some(slice) = self.slice(asked, from) else {
                return asked.echo.gone();
            };
            // A single item is only the control message. A client that has it already is answered 304 before it waits.
            let etag = asked.state(&format!("{from}:{}", slice.to), &slice, None);
            if has_changes(&slice) || (waiting.is_none() && etag.matches(&asked.request)) {
                return self.live_reply(asked, from, &slice);
            }
            waiting.get_or_insert_with(|| self.control.wait());
            if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return self.live_timeout(asked, from, slice.to);
            }
        }
    }

    /// Answers with the header at once, and with events as they arrive. A stream that starts behind the end of the log
    /// ends there.
    pub(super) fn event_stream(self: Arc<Self>, asked: Asked, from: Offset) -> Reply {
        let slice = Slice { items: Vec::new(), to: from, up_to_date: true };
        let state = asked.state(&format!("{from}:{from}"), &slice, Some(self.cursor(&asked)));
        if state.matches(&asked.request) {
            let state = State { schema: None, ..state };
            return state.write(asked.echo.shape(304, "public, max-age=59"));
        }
        let (sender, receiver) = mpsc::channel(STREAM_BUFFER);
        let reply = state.write(asked.echo.event_stream()).with_header("connection", "keep-alive");
        let behind = self.slice(&asked, from).is_some_and(|slice| has_changes(&slice));
        let waiting = self.control.wait();
        tokio::spawn(async move {
            let _waiting = waiting;
            // An error means that the client has gone.
            let _ = self.stream(&asked, from, behind, &sender).await;
        });
        Reply { body: Body::Chunks(receiver), ..reply }
    }

    async fn stream(
        &self,
        asked: &Asked,
        mut from: Offset,
        behind: bool,
        sender: &mpsc::Sender<Bytes>,
    ) -> Result<(), mpsc::error::SendError<Bytes>> {
        let end = Instant::now() + self.options.sse_life;
        let mut keep_alive = Instant::now() + self.options.sse_keep_alive;
        let mut changes = self.changes();
        while let Some(slice) = self.slice(asked, from) {
            if has_changes(&slice) {
                for item in slice.items {
                    send_event(sender, item).await?;
                }
                from = slice.to;
                keep_alive = Instant::now() + self.options.sse_keep_alive;
                if !slice.up_to_date {
                    continue;
                }
                if behind {
                    return Ok(());
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return Ok(()) },
                () = sender.closed() => return Ok(()),
                () = tokio::time::sleep_until(end) => return Ok(()),
                () = tokio::time::sleep_until(keep_alive) => {
                    sender.send(Bytes::from_static(b": keep-alive\n\n")).await?;
                    keep_alive += self.options.sse_keep_alive;
                }
            }
        }
        Ok(())
    }
}

/// Sends an event in three pieces, as Electric does.
async fn send_event(sender: &mpsc::Sender<Bytes>, item: Bytes) -> Result<(), mpsc::error::SendError<Bytes>> {
    for piece in [Bytes::from_static(b"data: "), item, Bytes::from_static(b"\n\n")] {
        sender.send(piece).await?;
    }
    Ok(())
}

/// Whether there is more than the control message.
fn has_changes(slice: &Slice) -> bool {
    slice.items.len() > usize::from(slice.up_to_date)
}
