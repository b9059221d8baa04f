//! Maps errors of Pingora's client to faults.

use pingora::{Error, ErrorType};

use crate::fault::Fault;

impl Fault {
    /// Returns the fault that an error of an exchange with Electric stands for.
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
