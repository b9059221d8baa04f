//! Bare Pingora: passes requests on or answers them, and does nothing else. It shows what the library costs.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use clap::Args;
use pingora::http::ResponseHeader;
use pingora::prelude::HttpPeer;
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

/// Pass everything on, or answer it, until told to stop
#[derive(Debug, Args)]
pub(crate) struct PassThrough {
    /// Runtime threads
    #[arg(long)]
    threads: usize,
    /// Where requests go
    #[arg(long, value_name = "ADDRESS", required_unless_present = "answer")]
    upstream: Option<SocketAddr>,
    /// A file with the body to answer every request with
    #[arg(long, value_name = "FILE", conflicts_with = "upstream")]
    answer: Option<PathBuf>,
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
        let answer = self.answer.as_ref().map(fs::read).transpose()?.map(Bytes::from);
        let mut service = http_proxy_service(&server.configuration, Bare { upstream: self.upstream, answer });
        service.add_tcp(&address.to_string());
        server.add_service(service);
        eprintln!("{LISTENING}{address}");
        server.run_forever()
    }
}

struct Bare {
    upstream: Option<SocketAddr>,
    answer: Option<Bytes>,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, _context: &mut ()) -> Result<bool> {
        let Some(body) = &self.answer else { return Ok(false) };
        let mut header = ResponseHeader::build(200, Some(2))?;
        header.insert_header("content-type", "application/json")?;
        header.insert_header("content-length", body.len())?;
        session.write_response_header(Box::new(header), false).await?;
        session.write_response_body(Some(body.clone()), true).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _session: &mut Session, _context: &mut ()) -> Result<Box<HttpPeer>> {
        let upstream = self.upstream.ok_or_else(|| Error::explain(ErrorType::InternalError, "no upstream"))?;
        Ok(Box::new(HttpPeer::new(upstream, false, String::new())))
    }
}
