//! Integration tests: a real shapegate on loopback, between real clients and the stand-in for Electric.

#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy's exception for tests does not cover helper functions

mod answers;
mod audit;
mod browser;
mod citations;
mod cli;
mod clients;
mod commands;
mod cookies;
mod decisions;
mod docs;
mod exchange;
mod faults;
mod filter_postgres;
mod flights;
mod gatekeeper;
mod harness;
mod hostile;
mod http2;
mod issuers;
mod limits;
mod listeners;
mod logs;
mod memory;
mod metrics;
#[cfg(feature = "otel")]
mod otel;
mod phases;
mod proxies;
mod quickstart;
mod reasons;
mod reload;
mod revocation;
mod shell;
mod subset;
mod superset;
mod transcripts;
mod upgrade;
mod upstreams;
