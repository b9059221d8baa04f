//! Bare Pingora: a reverse proxy that does nothing of its own, to see what the library costs.

use std::net::{Ipv4Addr, SocketAddr};

use async_trait::async_trait;
use clap::Args;
use pingora::Result;
use pingora::prelude::HttpPeer;
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

/// Pass everything on until told to stop
#[derive(Debug, Args)]
pub(crate) struct PassThrough {
    /// Runtime threads
    #[arg(long)]
    threads: usize,
    /// Where requests go
    #[arg(long, value_name = "ADDRESS")]
    upstream: SocketAddr,
}

/// What the line that names the address starts with.
pub(crate) const LISTENING: &str = "pass-through: listening on ";

impl PassThrough {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        // Pingora does not tell the port that it was given for 0.
        let address = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let conf = ServerConf { threads: self.threads, upstream_keepalive_pool_size: 65_536, ..ServerConf::default() };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        server.bootstrap();
        let mut service = http_proxy_service(&server.configuration, Bare(self.upstream));
        service.add_tcp(&address.to_string());
        server.add_service(service);
        eprintln!("{LISTENING}{address}");
        server.run_forever()
    }
}

struct Bare(SocketAddr);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _context: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}
