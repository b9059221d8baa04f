//! What `shapegate demo` runs besides shapegate: a database that gains rows, an issuer, many clients, and a page that
//! shows and steers them.

mod crowd;
mod database;
mod desk;
mod issuer;
mod measure;
mod settings;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::http::{Limits, Reply, Request, Server, Serving};
use crate::server::Reloader;

use crowd::Crowd;
use database::Database;
use desk::Desk;
use issuer::IssuerServer;
use measure::Measure;

pub use settings::{RULE, Settings};

/// The audience of the demo's tokens.
pub const AUDIENCE: &str = "https://demo.example";

/// The secret between the demo's shapegate and its stand-in for Electric. It protects nothing.
pub const SECRET: &str = "demo-secret";

/// The servers that shapegate needs before it starts: an issuer and, unless it is the user's own, Electric.
pub struct Scene {
    database: Arc<Database>,
    issuer: Arc<IssuerServer>,
}

/// How to reach a running shapegate.
pub struct Running {
    /// The URL of its shapes.
    pub shape_url: String,
    /// The address of its admin port.
    pub admin: SocketAddr,
    /// Applies rules that are edited on the page.
    pub reloader: Reloader,
    /// The configuration without its rules.
    pub settings: Settings,
    /// Receives a line for everything that a visitor of the page does.
    pub told: mpsc::UnboundedSender<String>,
}

/// The page, its clients, and the task that writes rows. Dropping it ends them.
pub struct Show {
    writing: JoinHandle<()>,
    _serving: Serving,
}

impl Scene {
    /// Starts the issuer, and a stand-in for Electric if `electric` does not name one.
    ///
    /// # Errors
    /// A port cannot be bound, or the system has no randomness.
    pub async fn start(electric: Option<String>) -> io::Result<Self> {
        let database = match electric {
            Some(url) => Database::foreign(url),
            None => Database::start().await?,
        };
        Ok(Self { database: Arc::new(database), issuer: Arc::new(IssuerServer::start().await?) })
    }

    /// Returns the issuer's URL.
    pub fn issuer_url(&self) -> &str {
        self.issuer.url()
    }

    /// Returns Electric's URL.
    pub fn electric_url(&self) -> &str {
        self.database.url()
    }

    /// Serves the page at `server`, and writes a row every few seconds.
    ///
    /// # Errors
    /// The HTTP client of the demo's clients cannot be made.
    pub fn show(self, server: Server, running: Running) -> io::Result<Show> {
        let client = reqwest::Client::builder().no_proxy().build().map_err(io::Error::other)?;
        let Self { database, issuer } = self;
        let crowd = Crowd::new(client.clone(), running.shape_url.clone(), Arc::clone(&issuer));
        let measure = Measure::new(client, running.admin);
        let rows = Arc::clone(&database);
        let writing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(PAUSE).await;
                rows.write_next();
            }
        });
        let desk = Arc::new(Desk { database, issuer, crowd, measure, running });
        let serving = server.serve(move |request| Arc::clone(&desk).answer(request));
        Ok(Show { writing, _serving: serving })
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        self.writing.abort();
    }
}

/// The time between two rows that nobody asked for.
const PAUSE: Duration = Duration::from_secs(5);

/// How long a server that is restarted stays away.
const DOWN: Duration = Duration::from_secs(3);

/// Binds a server on loopback at `port`, or at a free port if that one is taken.
///
/// # Errors
/// No port can be bound.
pub async fn bind(port: u16) -> io::Result<Server> {
    let limits = Limits { requests: usize::MAX, body: 64 << 10, ..Limits::default() };
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let server = match Server::bind(address(port)).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Server::bind(address(0)).await?,
        bound => bound?,
    };
    Ok(server.with_limits(limits))
}

/// Calls `start` until it can bind its port, which the server before it may still hold for a moment.
async fn again<T, F: Future<Output = io::Result<T>>>(start: impl Fn() -> F) -> io::Result<T> {
    let mut tries = 0;
    loop {
        match start().await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < 500 => tries += 1,
            started => return started,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
