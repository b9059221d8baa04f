//! Binds the listening sockets at the start, or takes them over from the running process.
//!
//! We bind them rather than Pingora, so that a port in use is an error at the start. Pingora would log it and keep
//! running without a listener.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;

use super::flags;
use crate::config::{ListenAddress, ServerSettings};
use crate::owner;
use crate::proxy::Listener;

/// The purpose of a socket, with its configured address. For port 0, that is not the actual address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Label {
    /// A client listener.
    Client(ListenAddress),
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

/// A listening socket and its actual address.
pub(super) struct BoundSocket<A> {
    label: Label,
    pub(super) address: A,
    pub(super) socket: OwnedFd,
}

/// Every socket of a server.
pub(super) struct Sockets {
    pub(super) listen: Vec<BoundSocket<ListenAddress>>,
    pub(super) admin: BoundSocket<SocketAddr>,
    pub(super) upgrade: Option<UnixListener>,
}

impl Sockets {
    /// Takes matching sockets from `inherited` and binds the others. Unused inherited sockets are closed here, and in
    /// the old process when it stops accepting.
    ///
    /// # Errors
    /// If an address cannot be bound, or other users can write to the folder of the upgrade socket.
    pub(super) fn open(server: &ServerSettings, mut inherited: Vec<Labelled>) -> anyhow::Result<Self> {
        let mut take = |label: &Label| {
            let at = inherited.iter().position(|offered| offered.label == *label)?;
            Some(inherited.remove(at).socket)
        };
        let listen = server.listen.iter().map(|address| {
            let label = Label::Client(address.clone());
            let inherited = take(&label);
            BoundSocket::client(label, address, inherited, &server.listen)
        });
        let listen = listen.collect::<anyhow::Result<Vec<_>>>()?;
        let label = Label::Admin(server.admin);
        let inherited = take(&label);
        let admin = BoundSocket::tcp(label, server.admin, inherited, false).context("server.admin")?;
        let inherited = take(&Label::Upgrade);
        let upgrade = server.upgrade_socket.as_deref().map(|path| match inherited {
            Some(socket) => Ok(UnixListener::from(socket)),
            None => bind_upgrade(path).with_context(|| format!("server.upgrade_socket: {}", path.display())),
        });
        Ok(Self { listen, admin, upgrade: upgrade.transpose()? })
    }

    /// Returns the files of the Unix sockets for clients.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let of_socket = |socket: &BoundSocket<ListenAddress>| match &socket.address {
            ListenAddress::Tcp(_) => None,
            ListenAddress::Unix(path) => Some(path.clone()),
        };
        self.listen.iter().filter_map(of_socket).collect()
    }

    /// Duplicates every socket, to offer the copies to a new process.
    pub(super) fn labelled(&self) -> io::Result<Vec<Labelled>> {
        let listen = self.listen.iter().map(|bound| (bound.label.clone(), bound.socket.as_fd()));
        let admin = [(self.admin.label.clone(), self.admin.socket.as_fd())];
        let upgrade = self.upgrade.iter().map(|listener| (Label::Upgrade, listener.as_fd()));
        listen
            .chain(admin)
            .chain(upgrade)
            .map(|(label, socket)| Ok(Labelled { label, socket: socket.try_clone_to_owned()? }))
            .collect()
    }
}

impl BoundSocket<SocketAddr> {
    /// Binds a free loopback port, for the temporary admin port of a process that waits for its sockets.
    pub(super) fn free() -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::tcp(Label::Admin(address), address, None, false)
    }

    fn tcp(label: Label, address: SocketAddr, inherited: Option<OwnedFd>, only_v6: bool) -> anyhow::Result<Self> {
        let socket = inherited.map_or_else(|| bind(address, only_v6), Ok).map_err(|cause| {
            let is_privileged = cause.kind() == io::ErrorKind::PermissionDenied && address.port() < 1024;
            let error = anyhow::Error::from(cause);
            if is_privileged { error.context(PRIVILEGED) } else { error }
        });
        let listener = std::net::TcpListener::from(socket.with_context(|| format!("cannot listen on {address}"))?);
        Ok(Self { label, address: listener.local_addr()?, socket: listener.into() })
    }
}

impl BoundSocket<ListenAddress> {
    fn client(
        label: Label,
        address: &ListenAddress,
        inherited: Option<OwnedFd>,
        all: &[ListenAddress],
    ) -> anyhow::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => {
                let bound = BoundSocket::tcp(label, *address, inherited, is_shared(*address, all))?;
                Ok(Self { label: bound.label, address: ListenAddress::Tcp(bound.address), socket: bound.socket })
            }
            ListenAddress::Unix(path) => {
                let bound = inherited.map_or_else(|| bind_unix(path, CLIENTS).map(OwnedFd::from), Ok);
                let socket = bound.with_context(|| format!("cannot listen on {address}"))?;
                Ok(Self { label, address: address.clone(), socket })
            }
        }
    }

    /// Starts to listen in this runtime.
    pub(super) fn into_listener(self) -> io::Result<Listener> {
        match self.address {
            ListenAddress::Tcp(_) => tokio::net::TcpListener::from_std(self.socket.into()).map(Listener::Tcp),
            ListenAddress::Unix(_) => tokio::net::UnixListener::from_std(self.socket.into()).map(Listener::Unix),
        }
    }
}

/// What to do about a port that only root may use.
const PRIVILEGED: &str = "ports below 1024 need CAP_NET_BIND_SERVICE: install systemd/shapegate-low-ports.conf, or choose \
                          another port";

/// Whether an IPv6 address has an IPv4 address with the same port beside it. `[::]:80` would otherwise listen on IPv4
/// too, so that `0.0.0.0:80` cannot be bound.
fn is_shared(address: SocketAddr, all: &[ListenAddress]) -> bool {
    let beside = |other: &ListenAddress| match other {
        ListenAddress::Tcp(other) => other.is_ipv4() && other.port() == address.port(),
        ListenAddress::Unix(_) => false,
    };
    address.is_ipv6() && all.iter().any(beside)
}

fn bind(address: SocketAddr, only_v6: bool) -> io::Result<OwnedFd> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if only_v6 {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // Room for many clients that reconnect at once (the kernel caps this at net.core.somaxconn).
    Ok(socket.listen(BACKLOG)?.into_std()?.into())
}

const BACKLOG: u32 = 65_535;

/// The mode of a socket for clients. Its folder decides who may open it.
const CLIENTS: u32 = 0o666;

/// Binds a socket that only this user can open.
fn bind_upgrade(path: &Path) -> anyhow::Result<UnixListener> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let of_folder = folder.metadata().with_context(|| format!("cannot read its folder {}", folder.display()))?;
    ensure!(owner::is_ours(&of_folder), "other users can write to its folder: {}", owner::MAKE_IT_OURS);
    bind_unix(path, 0o600)
}

/// Binds a Unix socket. Replaces the file that a killed process left behind.
fn bind_unix(path: &Path, mode: u32) -> anyhow::Result<UnixListener> {
    match UnixStream::connect(path) {
        Ok(_) => bail!("another shapegate is listening there: use `--upgrade` to take over from it"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            ensure!(path.symlink_metadata()?.file_type().is_socket(), "the file exists and is not a socket");
            std::fs::remove_file(path)?;
        }
        Err(error) => return Err(error.into()),
    }
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags::SOCKET, None)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    // Before the socket has a name, so that it is never accessible to others (Linux creates the file with the socket's
    // mode; macOS refuses this).
    if cfg!(target_os = "linux") {
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    }
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Here, since the process's umask applied to the bind.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    rustix::net::listen(&socket, i32::try_from(BACKLOG)?)?;
    Ok(UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::proxy::HttpSettings;

    fn server(listen: &[&str], upgrade: Option<&Path>) -> ServerSettings {
        ServerSettings {
            listen: listen.iter().map(|address| (*address).to_owned().try_into().unwrap()).collect(),
            proxy_protocol: false,
            admin: "127.0.0.1:0".parse().unwrap(),
            threads: 1,
            drain: std::time::Duration::ZERO,
            tls: None,
            http: HttpSettings {
                h1_idle_timeout: std::time::Duration::ZERO,
                h2c: false,
                h2_streams: 100,
                h2_idle_timeout: std::time::Duration::ZERO,
                health_path: None,
            },
            state: None,
            upgrade_socket: upgrade.map(Path::to_owned),
            explain_denials: false,
            upgrade_timeout: std::time::Duration::ZERO,
        }
    }

    #[tokio::test]
    async fn inherited_sockets_are_matched_by_address_and_new_ones_are_bound() {
        let old = Sockets::open(&server(&["127.0.0.1:0", "127.0.0.1:0", "[::1]:0"], None), Vec::new()).unwrap();
        let addresses: Vec<_> = old.listen.iter().map(|bound| bound.address.clone()).collect();
        let new = server(&["[::1]:0", "127.0.0.1:0"], None);
        let new = Sockets::open(&new, old.labelled().unwrap()).unwrap();
        let taken: Vec<_> = new.listen.iter().map(|bound| bound.address.clone()).collect();
        assert_eq!(taken, [addresses[2].clone(), addresses[0].clone()]);
        assert_eq!(new.admin.address, old.admin.address);
        let used = addresses[1].to_string();
        let more = server(&["127.0.0.1:0", &used], None);
        let error = Sockets::open(&more, old.labelled().unwrap()).err().unwrap();
        assert!(format!("{error:#}").starts_with(&format!("cannot listen on {used}: ")), "{error:#}");
    }

    #[tokio::test]
    async fn one_port_can_be_bound_for_ipv4_and_ipv6() {
        let ListenAddress::Tcp(free) =
            Sockets::open(&server(&["0.0.0.0:0"], None), Vec::new()).unwrap().listen[0].address
        else {
            panic!("not TCP")
        };
        let (four, six) = (format!("0.0.0.0:{}", free.port()), format!("[::]:{}", free.port()));
        for both in [[four.as_str(), &six], [&six, &four]] {
            let both = Sockets::open(&server(&both, None), Vec::new()).unwrap();
            assert!(std::net::TcpStream::connect(("127.0.0.1", free.port())).is_ok());
            assert!(std::net::TcpStream::connect(("::1", free.port())).is_ok());
            drop(both);
        }
        // Alone, `[::]` serves IPv4 too, as the system says.
        let _alone = Sockets::open(&server(&[&six], None), Vec::new()).unwrap();
        let both = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").unwrap().trim() == "0";
        assert_eq!(std::net::TcpStream::connect(("127.0.0.1", free.port())).is_ok(), both);
    }

    #[tokio::test]
    async fn unix_socket_is_open_to_all_and_replaces_a_stale_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let address = format!("unix:{}", path.display());
        let open = || Sockets::open(&server(&[&address], None), Vec::new());
        let first = open().unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o666);
        let second = format!("{:#}", open().err().unwrap());
        assert!(
            second.starts_with(&format!("cannot listen on {address}: ")) && second.contains("is listening"),
            "{second}"
        );
        let taken = Sockets::open(&server(&[&address], None), first.labelled().unwrap()).unwrap();
        drop(first);
        assert!(UnixStream::connect(&path).is_ok());
        drop(taken);
        drop(open().unwrap());
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
