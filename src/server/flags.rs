//! Flags of sockets that only Linux has. On macOS, where shapegate is for development, Rust's runtime ignores SIGPIPE, and
//! a program that shapegate starts inherits its sockets.

use rustix::net::{RecvFlags, SendFlags, SocketFlags};

#[cfg(target_os = "linux")]
pub(super) const SOCKET: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);
#[cfg(target_os = "linux")]
pub(super) const SEND: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_os = "linux")]
pub(super) const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;

#[cfg(not(target_os = "linux"))]
pub(super) const SOCKET: SocketFlags = SocketFlags::empty();
#[cfg(not(target_os = "linux"))]
pub(super) const SEND: SendFlags = SendFlags::empty();
#[cfg(not(target_os = "linux"))]
pub(super) const RECEIVE: RecvFlags = RecvFlags::empty();
