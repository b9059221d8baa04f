//! Hands the listening sockets over from the running process to a new one that is ready.
//!
//! Both speak line by line over a Unix socket that only their user can open:
//!
//! | from | line | then |
//! |---|---|---|
//! | old | `{"version":1,"sockets":[…]}`, with the sockets themselves (`SCM_RIGHTS`) | the new process prepares |
//! | new | `ready` | it waits only for the reply |
//! | old | `yours`; closes the connection once systemd knows the new process | the old one stops accepting and drains |
//! | old | `no: …`, at any time before `yours` | the new process exits with that reason |
//!
//! Before `ready`, the old process has changed nothing, and a failure of the new process affects only the new process.
//! After `yours`, both hold the sockets, so no queued connection is lost. If the old process dies, the new one keeps
//! the sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::sockets::{Label, Labelled, Sockets};
use super::upgrade::Upgrades;
use super::{flags, notify};

/// The first line. The new process rejects other versions, and the old one keeps serving.
#[derive(Debug, Serialize, Deserialize)]
struct Offered {
    version: u32,
    sockets: Vec<Label>,
}

const VERSION: u32 = 1;

/// The maximum number of sockets in one message (the kernel's `SCM_MAX_FD`).
const MOST: usize = 253;

/// The maximum length of a line in bytes. Each socket takes less than a hundred.
const LINE: usize = 64 * 1024;

/// The timeout for lines that the other process can send without waiting for anything.
const PROMPT: Duration = Duration::from_secs(10);

/// The sockets that a running process offers.
pub(super) struct Offer {
    listener: UnixListener,
    path: PathBuf,
    sockets: Vec<Labelled>,
    upgrades: Upgrades,
}

impl Offer {
    /// Offers these sockets; `None` if they include no upgrade socket.
    pub(super) fn new(sockets: &mut Sockets, path: Option<&Path>, upgrades: Upgrades) -> io::Result<Option<Self>> {
        let labelled = sockets.labelled()?;
        let (Some(listener), Some(path)) = (sockets.upgrade.take(), path) else { return Ok(None) };
        Ok(Some(Self {
            listener: UnixListener::from_std(listener)?,
            path: path.to_owned(),
            sockets: labelled,
            upgrades,
        }))
    }

    /// Waits until another process has taken the sockets; returns its process id.
    pub(super) async fn taken(&self) -> NonZeroU32 {
        loop {
            let attempt = match self.listener.accept().await {
                Ok((stream, _)) => self.hand_over(stream).await,
                Err(error) => Err(error.into()),
            };
            match attempt {
                Ok(pid) => return pid,
                Err(error) => tracing::warn!("no upgrade: {error:#}"),
            }
            // Limits how fast another process can retry.
            tokio::time::sleep(notify::AGAIN).await;
        }
    }

    /// Closes the duplicated sockets and removes the upgrade socket's file.
    pub(super) fn withdraw(self) {
        let _ = std::fs::remove_file(&self.path);
    }

    /// Hands the sockets to one new process; returns its process id.
    async fn hand_over(&self, mut stream: UnixStream) -> anyhow::Result<NonZeroU32> {
        let peer = stream.peer_cred()?;
        let pid = match self.may_take(peer.uid(), peer.pid()) {
            Ok(pid) => pid,
            Err(reason) => {
                // The peer may have exited.
                let _ = stream.write_all(format!("no: {reason}\n").as_bytes()).await;
                bail!("process {} is rejected: {reason}", peer.pid().unwrap_or_default());
            }
        };
        let farewell = Farewell::of(&stream)?;
        let limit = self.upgrades.limit() + PROMPT;
        let line = match timeout(limit, self.offer(&mut stream)).await {
            Ok(line) => line.with_context(|| format!("process {pid} disconnected before it was ready"))?,
            Err(_) => {
                let _ = stream.write_all(b"no: not ready within server.upgrade_timeout\n").await;
                bail!("process {pid} was not ready after {} s (server.upgrade_timeout)", limit.as_secs());
            }
        };
        ensure!(line == "ready", "process {pid} sent {line:?}, expected `ready`: is it shapegate?");
        let handed = self.upgrades.hand_over(pid, || say(&stream, b"yours\n"));
        handed.with_context(|| format!("process {pid} was ready, and does not get the sockets"))?;
        farewell.omit();
        notify::handed_over(pid);
        Ok(pid)
    }

    /// Checks whether a process of this user may have the sockets; returns its id.
    fn may_take(&self, uid: u32, pid: Option<i32>) -> Result<NonZeroU32, &'static str> {
        let pid = visible_process(uid, pid)?;
        self.upgrades.admits(pid)?;
        Ok(pid)
    }

    /// Sends the offer and waits for the reply.
    async fn offer(&self, stream: &mut UnixStream) -> anyhow::Result<String> {
        ensure!(self.sockets.len() <= MOST, "too many sockets for one message: {}", self.sockets.len());
        let labels = self.sockets.iter().map(|socket| socket.label.clone()).collect();
        let mut line = serde_json::to_vec(&Offered { version: VERSION, sockets: labels })?;
        line.push(b'\n');
        let sent = stream.async_io(Interest::WRITABLE, || send(stream, &line, &self.sockets)).await?;
        stream.write_all(&line[sent..]).await?;
        read_line(stream).await?.context("it closed the connection")
    }
}

/// Returns the id of a process that runs as this user or root. A process in another PID namespace has none here, so
/// it could be neither watched nor named to systemd.
fn visible_process(uid: u32, pid: Option<i32>) -> Result<NonZeroU32, &'static str> {
    let own = rustix::process::geteuid().as_raw();
    if uid != own && uid != 0 {
        return Err("it runs as another user");
    }
    let pid = pid.and_then(|pid| NonZeroU32::new(u32::try_from(pid).ok()?));
    pid.ok_or("it runs in another PID namespace")
}

/// Tells a new process on drop that it gets no sockets, even if this process stops first. A new process that is told
/// nothing assumes that this one has died, and serves.
struct Farewell(Option<OwnedFd>);

impl Farewell {
    fn of(stream: &UnixStream) -> io::Result<Self> {
        Ok(Self(Some(stream.as_fd().try_clone_to_owned()?)))
    }

    fn omit(mut self) {
        self.0 = None;
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if let Some(stream) = &self.0 {
            // The peer may have exited, or may already have been told a reason.
            let _ = say(stream, b"no: it keeps serving, or stops without a successor\n");
        }
    }
}

/// Sends a line without waiting. A connection has room for it, since no more than one offer was sent before.
fn say(stream: impl AsFd, line: &[u8]) -> io::Result<()> {
    let sent = rustix::net::send(stream, line, flags::SEND | SendFlags::DONTWAIT)?;
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn send(stream: &UnixStream, line: &[u8], sockets: &[Labelled]) -> io::Result<usize> {
    let handles: Vec<_> = sockets.iter().map(|socket| socket.socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&handles)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(rustix::net::sendmsg(stream, &[IoSlice::new(line)], &mut control, flags::SEND)?)
}

/// The side of the new process, which has the sockets but does not serve yet.
pub(super) struct Takeover {
    stream: UnixStream,
}

impl Takeover {
    /// Requests the sockets of the process that listens at `path`.
    ///
    /// # Errors
    /// If no process listens there, or it does not hand them over.
    pub(super) async fn request(path: &Path) -> anyhow::Result<(Self, Vec<Labelled>)> {
        let asked = async {
            let stream = UnixStream::connect(path).await.context("no running shapegate to take over from")?;
            let (line, handles) = receive(&stream).await?;
            if let Some(reason) = line.strip_prefix("no: ") {
                bail!("the running shapegate refuses: {reason}");
            }
            let offered: Offered =
                serde_json::from_str(&line).context("the process that listens there is not shapegate")?;
            ensure!(
                offered.version == VERSION,
                "the running shapegate speaks upgrade protocol version {}, this one version {VERSION}: restart instead",
                offered.version
            );
            ensure!(offered.sockets.len() == handles.len(), "sockets are missing from the offer");
            let sockets = offered.sockets.into_iter().zip(handles);
            let sockets = sockets.map(|(label, socket)| Labelled { label, socket }).collect();
            Ok((Self { stream }, sockets))
        };
        let asked = timeout(PROMPT, asked).await.unwrap_or_else(|_| bail!("the running shapegate does not reply"));
        asked.with_context(|| format!("server.upgrade_socket: {}", path.display()))
    }

    /// Waits until the old process refuses, and returns its reason. Waits forever if the old process dies instead.
    pub(super) async fn withdrawn(&mut self) -> String {
        match read_line(&mut self.stream).await {
            Ok(Some(line)) => line,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Reports that this process is ready, and waits until the sockets are handed over.
    ///
    /// # Errors
    /// If the old process refuses, and keeps serving.
    pub(super) async fn finish(mut self) -> anyhow::Result<()> {
        // The old process may have died; this one then serves alone.
        let _ = self.stream.write_all(b"ready\n").await;
        match timeout(PROMPT, read_line(&mut self.stream)).await {
            Ok(Ok(Some(line))) if line == "yours" => {}
            Ok(Ok(Some(line))) => bail!("the running shapegate keeps its sockets: {line}"),
            Ok(Ok(None) | Err(_)) => tracing::warn!("the old process ended before its sockets were handed over"),
            Err(_) => bail!("the running shapegate does not reply"),
        }
        // The old process closes the connection when systemd knows this process. systemd ignores messages sent before.
        let _ = timeout(PROMPT, self.stream.read_u8()).await;
        Ok(())
    }
}

/// Receives the first line and the sockets sent with it.
async fn receive(stream: &UnixStream) -> anyhow::Result<(String, Vec<OwnedFd>)> {
    let (mut line, mut handles) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') {
        let received = stream.async_io(Interest::READABLE, || receive_part(stream, &mut line, &mut handles)).await?;
        ensure!(received > 0 && line.len() <= LINE, "the offer is incomplete");
    }
    line.pop();
    Ok((String::from_utf8(line)?, handles))
}

fn receive_part(stream: &UnixStream, line: &mut Vec<u8>, handles: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut part = [0; 4096];
    let received = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut part)], &mut control, flags::RECEIVE)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            handles.extend(rights);
        }
    }
    line.extend_from_slice(&part[..received.bytes]);
    Ok(received.bytes)
}

/// Reads a line of at most 1024 bytes; `None` if the connection ends first.
async fn read_line(stream: &mut UnixStream) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await {
            Ok(b'\n') => return Ok(Some(String::from_utf8_lossy(&line).into_owned())),
            Ok(byte) if line.len() < 1024 => line.push(byte),
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_of_another_user_or_pid_namespace_is_rejected() {
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(visible_process(own, Some(7)), Ok(NonZeroU32::new(7).unwrap()));
        assert_eq!(visible_process(0, Some(7)), Ok(NonZeroU32::new(7).unwrap()));
        assert_eq!(visible_process(own + 1, Some(7)), Err("it runs as another user"));
        for pid in [Some(0), Some(-1), None] {
            assert_eq!(visible_process(own, pid), Err("it runs in another PID namespace"), "{pid:?}");
        }
    }
}
