//! Faults of the machine and the network. Clients that are not affected are served as usual.

mod disk;
mod files;
mod resets;
mod slow;

use std::path::Path;

use serde_json::json;
use shapegate::demo::electric::{Column, Electric, Options};

use crate::harness::{IssuerServer, Process, Wire, config};

/// The program as a process, with its Electric and its issuer.
struct Site {
    electric: Electric,
    issuer: IssuerServer,
    process: Process,
    folder: tempfile::TempDir,
}

impl Site {
    /// Starts it through `launcher`, a command that executes the command given after it. `edit` changes the
    /// configuration for the folder.
    async fn start(launcher: &[&str], edit: impl FnOnce(&Path, &str) -> String) -> Self {
        let electric = Electric::start(Options::default()).await.unwrap();
        let text = |name: &str| Column::new(name, "text");
        let id = text("id").not_null().primary_key(0);
        electric.create_table("tasks", vec![id, text("organization_id"), text("title")]);
        let issuer = IssuerServer::start().await;
        let folder = tempfile::tempdir().unwrap();
        let path = config(folder.path(), &electric.url(), issuer.url());
        let text = std::fs::read_to_string(&path).unwrap().replace("/jwks\" }", "/jwks\", cooldown = \"1s\" }");
        std::fs::write(&path, edit(folder.path(), &text)).unwrap();
        let process = Process::launch(launcher, &path).await;
        Self { electric, issuer, process, folder }
    }

    fn token(&self, subject: &str) -> String {
        self.issuer.token(&json!({ "sub": subject, "organizationIds": ["org_1", "org_2"] }))
    }

    fn insert(&self, id: &str, organization: &str) {
        self.electric.insert("tasks", json!({ "id": id, "organization_id": organization, "title": id })).unwrap();
    }

    /// Reads a metric over a connection that is already open.
    async fn metric(admin: &mut Wire, name: &str) -> f64 {
        admin.send(b"GET /metrics HTTP/1.1\r\nHost: gate.test\r\n\r\n").await;
        let text = admin.answer(false).await.unwrap().text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until a metric is at least `least`.
    async fn until_metric(admin: &mut Wire, name: &str, least: f64) {
        for _ in 0..1_000 {
            if Self::metric(admin, name).await >= least {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{name} stays below {least}");
    }
}

/// Returns the target of the shape of one organization's tasks, without an offset.
fn tasks(organization: &str) -> String {
    format!("/v1/shape?table=tasks&organizationId={organization}")
}

/// Returns the bytes of a GET request.
fn get(target: &str, token: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\r\n").into_bytes()
}
