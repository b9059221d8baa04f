//! Binds the listening sockets at the start, or takes them over from the running process.
//!
//! We bind them rather than Pingora, so that a port in use is an error at the start. Pingora would log it and keep
//! running without a listener.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;

use crate::config::ServerSettings;
use crate::owner;

/// The purpose of a socket, with its configured address. For port 0, that is not the actual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Label {
    /// A client listener.
    Client(SocketAddr),
    /// The admin port.
    Admin(SocketAddr),
    /// The socket on which a new process requests the others.
    Upgrade,
}

/// A listening socket and its purpose.
#[derive(Debug)]
pub(super) struct Labelled {
    pub(super) label: Label,
    pub(super) socket: OwnedFd,
}

/// A TCP listener and its actual address.
pub(super) struct BoundSocket {
    label: Label,
    pub(super) address: SocketAddr,
    pub(super) listener: TcpListener,
}

/// Every socket of a server.
pub(super) struct Sockets {
    pub(super) listen: Vec<BoundSocket>,
    pub(super) admin: BoundSocket,
    pub(super) upgrade: Option<UnixListener>,
}

impl Sockets {
    /// Takes matching sockets from `inherited` and binds the others. Unused inherited sockets are closed here, and in
    /// the old process when it stops accepting.
    ///
    /// # Errors
    /// If an address cannot be bound, or other users can write to the folder of the upgrade socket.
    pub(super) fn open(server: &ServerSettings, mut inherited: Vec<Labelled>) -> anyhow::Result<Self> {
        let mut take = |label| {
            let at = inherited.iter().position(|offered| offered.label == label)?;
            Some(inherited.remove(at).socket)
        };
        let listen = server.listen.iter().map(|address| {
            let label = Label::Client(*address);
            BoundSocket::open(label, *address, take(label))
        });
        let listen = listen.collect::<anyhow::Result<Vec<_>>>()?;
        let label = Label::Admin(server.admin);
        let admin = BoundSocket::open(label, server.admin, take(label)).context("server.admin")?;
        let inherited = take(Label::Upgrade);
        let upgrade = server.upgrade_socket.as_deref().map(|path| match inherited {
            Some(socket) => Ok(UnixListener::from(socket)),
            None => bind_upgrade(path).with_context(|| format!("server.upgrade_socket: {}", path.display())),
        });
        Ok(Self { listen, admin, upgrade: upgrade.transpose()? })
    }

    /// Duplicates every socket, to offer the copies to a new process.
    pub(super) fn labelled(&self) -> io::Result<Vec<Labelled>> {
        let tcp = self.listen.iter().chain([&self.admin]);
        let tcp = tcp.map(|bound| (bound.label, bound.listener.as_fd()));
        let upgrade = self.upgrade.iter().map(|listener| (Label::Upgrade, listener.as_fd()));
        tcp.chain(upgrade).map(|(label, socket)| Ok(Labelled { label, socket: socket.try_clone_to_owned()? })).collect()
    }
}

impl BoundSocket {
    /// Binds a free loopback port, for the temporary admin port of a process that waits for its sockets.
    pub(super) fn free() -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::open(Label::Admin(address), address, None)
    }

    fn open(label: Label, address: SocketAddr, inherited: Option<OwnedFd>) -> anyhow::Result<Self> {
        let listener = match inherited {
            Some(socket) => Ok(TcpListener::from(socket)),
            None => bind(address),
        };
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        Ok(Self { label, address: listener.local_addr()?, listener })
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // Room for many clients that reconnect at once (the kernel caps this at net.core.somaxconn).
    socket.listen(65_535)?.into_std()
}

/// Binds a socket that only this user can open. Replaces the file that a killed process left behind.
fn bind_upgrade(path: &Path) -> anyhow::Result<UnixListener> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let of_folder = folder.metadata().with_context(|| format!("cannot read its folder {}", folder.display()))?;
    ensure!(owner::is_ours(&of_folder), "other users can write to its folder: {}", owner::MAKE_IT_OURS);
    match UnixStream::connect(path) {
        Ok(_) => bail!("another shapegate is listening there: use `--upgrade` to take over from it"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            ensure!(path.symlink_metadata()?.file_type().is_socket(), "the file exists and is not a socket");
            std::fs::remove_file(path)?;
        }
        Err(error) => return Err(error.into()),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before the socket has a name, so that it is never accessible to others (Linux creates the file with the socket's
    // mode).
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 16)?;
    Ok(UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::proxy::Http2Settings;

    fn server(listen: &[&str], upgrade: Option<&Path>) -> ServerSettings {
        ServerSettings {
            listen: listen.iter().map(|address| address.parse().unwrap()).collect(),
            admin: "127.0.0.1:0".parse().unwrap(),
            threads: 1,
            drain: std::time::Duration::ZERO,
            tls: None,
            http2: Http2Settings { h2c: false, streams: 100, idle_timeout: std::time::Duration::ZERO },
            state: None,
            upgrade_socket: upgrade.map(Path::to_owned),
            explain_denials: false,
            upgrade_timeout: std::time::Duration::ZERO,
        }
    }

    #[tokio::test]
    async fn inherited_sockets_are_matched_by_address_and_new_ones_are_bound() {
        let old = Sockets::open(&server(&["127.0.0.1:0", "127.0.0.1:0", "[::1]:0"], None), Vec::new()).unwrap();
        let addresses: Vec<_> = old.listen.iter().map(|bound| bound.address).collect();
        let new = server(&["[::1]:0", "127.0.0.1:0"], None);
        let new = Sockets::open(&new, old.labelled().unwrap()).unwrap();
        let taken: Vec<_> = new.listen.iter().map(|bound| bound.address).collect();
        assert_eq!((taken, new.admin.address), (vec![addresses[2], addresses[0]], old.admin.address));
        let port = addresses[1].port();
        let more = server(&["127.0.0.1:0", &format!("127.0.0.1:{port}")], None);
        let error = Sockets::open(&more, old.labelled().unwrap()).err().unwrap();
        assert!(format!("{error:#}").starts_with(&format!("cannot listen on 127.0.0.1:{port}: ")), "{error:#}");
    }

    #[tokio::test]
    async fn only_its_owner_can_open_the_upgrade_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        let open = || Sockets::open(&server(&[], Some(&path)), Vec::new());
        let first = open().unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let second = format!("{:#}", open().err().unwrap());
        assert!(second.starts_with("server.upgrade_socket: ") && second.contains("is listening there"), "{second}");
        drop(first);
        drop(open().unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "not a socket").unwrap();
        assert!(format!("{:#}", open().err().unwrap()).contains("is not a socket"));
        std::fs::remove_file(&path).unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        assert!(format!("{:#}", open().err().unwrap()).contains("other users can write"));
    }
}
