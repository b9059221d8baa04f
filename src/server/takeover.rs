//! The change of processes: the running one offers its listening sockets, a new one takes them once it is ready.
//!
//! Both speak over a Unix socket that only their user can reach, one line at a time:
//!
//! | from | line | then |
//! |---|---|---|
//! | old | `{"version":1,"sockets":[…]}`, with the sockets themselves (`SCM_RIGHTS`) | the new one prepares |
//! | new | `ready` | it waits for nothing but the word |
//! | old | `yours`, and the end of the connection once systemd knows | the old one stops accepting and drains |
//! | old | `no: …`, at any time before `yours` | the new one ends with that reason |
//!
//! Up to `ready` the old one has changed nothing, and whatever fails in the new one ends the new one alone. From `yours`
//! on both hold the sockets, so that no connection in their queues is lost. Where the old one dies the sockets are the
//! new one's in any case.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::notify;
use super::sockets::{Label, Labelled, Sockets};
use super::upgrade::Upgrades;

/// The first line. Another version is refused by the new process, and the old one serves on.
#[derive(Debug, Serialize, Deserialize)]
struct Offered {
    version: u32,
    sockets: Vec<Label>,
}

const VERSION: u32 = 1;

/// Sockets that one message may carry (the kernel's `SCM_MAX_FD`).
const MOST: usize = 253;

/// Bytes of a line: each socket takes less than a hundred.
const LINE: usize = 64 * 1024;

/// How long a line may take that the other process sends without having to wait for anything.
const PROMPT: Duration = Duration::from_secs(10);

/// What a running process offers.
pub(super) struct Offer {
    listener: UnixListener,
    path: PathBuf,
    sockets: Vec<Labelled>,
    upgrades: Upgrades,
}

impl Offer {
    /// Of these sockets; `None` where no upgrade socket is among them.
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

    /// Ends once another process has taken the sockets, with its id.
    pub(super) async fn taken(&self) -> u32 {
        loop {
            let attempt = match self.listener.accept().await {
                Ok((stream, _)) => self.hand_over(stream).await,
                Err(error) => Err(error.into()),
            };
            match attempt {
                Ok(pid) => return pid,
                Err(error) => tracing::warn!("no upgrade: {error:#}"),
            }
            // Nobody may keep this process busy with attempts.
            tokio::time::sleep(notify::AGAIN).await;
        }
    }

    /// The sockets' second handles are closed, and the name of the upgrade socket goes with them.
    pub(super) fn withdraw(self) {
        let _ = std::fs::remove_file(&self.path);
    }

    /// Serves one new process; its id, once it has the sockets.
    async fn hand_over(&self, mut stream: UnixStream) -> anyhow::Result<u32> {
        let peer = stream.peer_cred()?;
        // One in another namespace has no id here.
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
        if let Err(reason) = self.may_take(peer.uid(), pid) {
            // The peer may be gone already.
            let _ = stream.write_all(format!("no: {reason}\n").as_bytes()).await;
            bail!("process {pid} is refused: {reason}");
        }
        let farewell = Farewell::of(&stream)?;
        let limit = self.upgrades.limit() + PROMPT;
        let line = match timeout(limit, self.offer(&mut stream)).await {
            Ok(line) => line.with_context(|| format!("process {pid} went away before it was ready"))?,
            Err(_) => {
                let _ = stream.write_all(b"no: it took longer than server.upgrade_timeout\n").await;
                bail!("process {pid} was not ready after {} s (server.upgrade_timeout)", limit.as_secs());
            }
        };
        ensure!(line == "ready", "process {pid} says {line:?} instead of `ready`: is it a shapegate?");
        stream.write_all(b"yours\n").await?;
        farewell.omit();
        self.upgrades.taken();
        notify::handed_over(pid);
        Ok(pid)
    }

    fn may_take(&self, uid: u32, pid: u32) -> Result<(), &'static str> {
        let own = rustix::process::geteuid().as_raw();
        if uid != own && uid != 0 {
            return Err("it runs as another user");
        }
        // systemd takes no process of another unit for this one's, and would call the service dead.
        if notify::is_heard() && !self.upgrades.has_started(pid) {
            return Err(
                "under systemd the running process starts the new one: systemctl kill -s SIGUSR2 --kill-whom=main",
            );
        }
        Ok(())
    }

    /// Sends the offer, and waits for the answer.
    async fn offer(&self, stream: &mut UnixStream) -> anyhow::Result<String> {
        ensure!(self.sockets.len() <= MOST, "{} sockets do not fit into one message", self.sockets.len());
        let labels = self.sockets.iter().map(|socket| socket.label).collect();
        let mut line = serde_json::to_vec(&Offered { version: VERSION, sockets: labels })?;
        line.push(b'\n');
        let sent = stream.async_io(Interest::WRITABLE, || send(stream, &line, &self.sockets)).await?;
        stream.write_all(&line[sent..]).await?;
        read_line(stream).await?.context("it closed the connection")
    }
}

/// What a new process is told where it gets no sockets, be it that this one stops before it is ready: one that hears
/// nothing takes this one for dead, and serves.
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
            // The peer may be gone already, or have been told more.
            let _ = rustix::net::send(stream, b"no: it goes on, or ends, without a successor\n", SendFlags::NOSIGNAL);
        }
    }
}

fn send(stream: &UnixStream, line: &[u8], sockets: &[Labelled]) -> io::Result<usize> {
    let handles: Vec<_> = sockets.iter().map(|socket| socket.socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&handles)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(rustix::net::sendmsg(stream, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?)
}

/// A new process's side: it has the sockets, and serves nothing yet.
pub(super) struct Takeover {
    stream: UnixStream,
}

impl Takeover {
    /// Asks the process behind `path` for its sockets.
    ///
    /// # Errors
    /// Where nobody listens there, or does not hand them out.
    pub(super) async fn request(path: &Path) -> anyhow::Result<(Self, Vec<Labelled>)> {
        let asked = async {
            let stream = UnixStream::connect(path).await.context("no running shapegate to take over from")?;
            let (line, handles) = receive(&stream).await?;
            if let Some(reason) = line.strip_prefix("no: ") {
                bail!("the running shapegate refuses: {reason}");
            }
            let offered: Offered = serde_json::from_str(&line).context("what listens there is no shapegate")?;
            ensure!(
                offered.version == VERSION,
                "the running shapegate offers its sockets in version {}, this one takes {VERSION}: restart instead",
                offered.version
            );
            ensure!(offered.sockets.len() == handles.len(), "sockets are missing from the offer");
            let sockets = offered.sockets.into_iter().zip(handles);
            let sockets = sockets.map(|(label, socket)| Labelled { label, socket }).collect();
            Ok((Self { stream }, sockets))
        };
        let asked = timeout(PROMPT, asked).await.unwrap_or_else(|_| bail!("the running shapegate does not answer"));
        asked.with_context(|| format!("server.upgrade_socket: {}", path.display()))
    }

    /// Ends, with the reason, where the old process refuses before this one is ready. One that dies does not refuse.
    pub(super) async fn withdrawn(&mut self) -> String {
        match read_line(&mut self.stream).await {
            Ok(Some(line)) => line,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Says that this process is ready, and waits until the sockets are its own.
    ///
    /// # Errors
    /// Where the old process refuses: it serves on.
    pub(super) async fn finish(mut self) -> anyhow::Result<()> {
        // It may have died since; then nobody else serves.
        let _ = self.stream.write_all(b"ready\n").await;
        match timeout(PROMPT, read_line(&mut self.stream)).await {
            Ok(Ok(Some(line))) if line == "yours" => {}
            Ok(Ok(Some(line))) => bail!("the running shapegate keeps its sockets: {line}"),
            Ok(Ok(None) | Err(_)) => tracing::warn!("the old process ended before its sockets were handed over"),
            Err(_) => bail!("the running shapegate does not answer"),
        }
        // Closed when systemd knows of this process: what it says before is not heard.
        let _ = timeout(PROMPT, self.stream.read_u8()).await;
        Ok(())
    }
}

/// The first line, and the sockets that came with it.
async fn receive(stream: &UnixStream) -> anyhow::Result<(String, Vec<OwnedFd>)> {
    let (mut line, mut handles) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') {
        let received = stream.async_io(Interest::READABLE, || receive_part(stream, &mut line, &mut handles)).await?;
        ensure!(received > 0 && line.len() <= LINE, "the offer breaks off");
    }
    line.pop();
    Ok((String::from_utf8(line)?, handles))
}

fn receive_part(stream: &UnixStream, line: &mut Vec<u8>, handles: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut part = [0; 4096];
    let received =
        rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut part)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            handles.extend(rights);
        }
    }
    line.extend_from_slice(&part[..received.bytes]);
    Ok(received.bytes)
}

/// A line of a few words; `None` where the connection ended instead.
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
