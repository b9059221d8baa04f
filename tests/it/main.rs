//! The integration suite: a real shapegate on loopback between real clients and the stand-in for Electric.

mod answers;
mod cli;
mod clients;
mod harness;
mod issuers;
mod passthrough;
mod superset;
mod transcripts;
