//! What a client says about the handle of its response. It is not part of the key: clients that say different things
//! share a response if all of them may get it.

use super::flight::Flight;
use crate::rewrite::UpstreamRequest;

/// The client's conditions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    /// The handle that the response must not have: a 409 has sent the client away from it.
    expired: Option<&'a str>,
    /// The handle of a request for the start of the log, which a 409 has named.
    named: Option<&'a str>,
}

impl<'a> Terms<'a> {
    pub(super) fn of(request: &'a UpstreamRequest) -> Self {
        Self { expired: request.expired_handle(), named: request.handle().filter(|_| request.is_start()) }
    }

    /// Whether the client may get this response. If not, Electric is asked, and its response is always allowed.
    pub(super) fn allow(self, flight: &Flight) -> bool {
        let tail = &flight.tail;
        let Some(head) = flight.head.get() else {
            // Not known yet. Electric decided after it was asked.
            let decided_before = |handle| tail.has_ended(handle, flight.asked);
            let given_after = |handle| tail.was_given(handle, flight.asked);
            return !self.expired.is_some_and(decided_before) && !self.named.is_some_and(given_after);
        };
        let Some(handle) = head.handle() else { return true };
        // A named handle that has ended too says nothing about this one.
        let outdated = |named| named != handle && !tail.has_ended(named, Default::default());
        self.expired != Some(handle) && !self.named.is_some_and(outdated)
    }
}
