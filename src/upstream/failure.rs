//! What an error of Pingora's client means.

use pingora::{Error, ErrorType};

use crate::fault::Fault;

impl Fault {
    /// The fault behind an error of an exchange with Electric.
    pub(crate) fn of_upstream(error: &Error) -> Self {
        match error.etype() {
            ErrorType::ConnectTimedout
            | ErrorType::ReadTimedout
            | ErrorType::TLSHandshakeTimedout
            | ErrorType::WriteTimedout => Self::UpstreamTimeout,
            _ => Self::UpstreamUnreachable,
        }
    }
}
