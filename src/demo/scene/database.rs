//! The table that the demo's clients read, behind a stand-in for Electric that can be restarted.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::{DOWN, SECRET, again};
use crate::demo::electric::{Column, Electric, Options};
use crate::demo::http::Request;

/// The table `tasks`, in the stand-in or in the user's own Electric.
pub(super) struct Database {
    url: String,
    /// `None` if Electric is the user's own.
    own: Option<Own>,
}

struct Own {
    port: u16,
    state: Mutex<State>,
}

struct State {
    /// The last rows, the oldest first. Like Postgres's, they outlive Electric.
    rows: VecDeque<Value>,
    written: usize,
    /// `None` during a restart.
    electric: Option<Electric>,
}

/// Rows that are kept; older ones are deleted.
const ROWS: usize = 200;

/// Rows at the start.
const FIRST_ROWS: usize = 6;

impl Database {
    /// Uses an Electric that runs already. Its rows are written by others.
    pub(super) const fn foreign(url: String) -> Self {
        Self { url, own: None }
    }

    /// Starts the stand-in on a free port, with a few rows.
    pub(super) async fn start() -> io::Result<Self> {
        let electric = stand_in(0).await?;
        let (url, port) = (electric.url(), electric.addr().port());
        let state = Mutex::new(State { rows: VecDeque::new(), written: 0, electric: Some(electric) });
        let database = Self { url, own: Some(Own { port, state }) };
        (0..FIRST_ROWS).for_each(|_| database.write_next());
        Ok(database)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whether rows can be written and Electric restarted.
    pub(super) const fn is_own(&self) -> bool {
        self.own.is_some()
    }

    pub(super) fn is_running(&self) -> bool {
        self.own.as_ref().is_none_or(|own| own.state().electric.is_some())
    }

    /// Writes a row for the organization whose turn it is.
    pub(super) fn write_next(&self) {
        if let Some(own) = &self.own {
            let mut state = own.state();
            let organization = if state.written.is_multiple_of(2) { "org-1" } else { "org-2" };
            state.write(organization);
        }
    }

    /// Writes a row for an organization. Returns its title, or `None` if Electric is the user's own.
    pub(super) fn write(&self, organization: &str) -> Option<String> {
        self.own.as_ref().map(|own| own.state().write(organization))
    }

    /// Stops Electric, and starts it again after a pause. Returns `false` if it is the user's own or restarting
    /// already.
    pub(super) async fn restart(&self) -> io::Result<bool> {
        let Some(own) = &self.own else { return Ok(false) };
        let Some(electric) = own.state().electric.take() else { return Ok(false) };
        drop(electric);
        tokio::time::sleep(DOWN).await;
        let electric = again(|| stand_in(own.port)).await?;
        let mut state = own.state();
        state.rows.iter().for_each(|row| insert(&electric, row));
        state.electric = Some(electric);
        Ok(true)
    }

    /// Returns the last request that Electric received for a client's query, without the secret.
    pub(super) fn last_request(&self, query: &str) -> Option<Vec<(String, String)>> {
        let requests = self.own.as_ref()?.state().electric.as_ref()?.requests();
        let wanted = |(name, value): (String, String)| match name.as_str() {
            "organizationId" => Some(("params[1]".to_owned(), value)),
            "handle" | "live" | "offset" => Some((name, value)),
            _ => None,
        };
        let wanted: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).into_owned().filter_map(wanted).collect();
        let is_live = |pairs: &[(String, String)]| pairs.iter().any(|(name, _)| name == "live");
        requests
            .iter()
            .rev()
            .map(parameters)
            .find(|pairs| wanted.iter().all(|pair| pairs.contains(pair)) && is_live(pairs) == is_live(&wanted))
    }
}

impl Own {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(&mut self, organization: &str) -> String {
        self.written += 1;
        let title = format!("{} ({organization})", TITLES[self.written % TITLES.len()]);
        let row = json!({
            "id": format!("00000000-0000-4000-8000-{:012}", self.written),
            "organization_id": organization,
            "title": title,
        });
        if let Some(electric) = &self.electric {
            insert(electric, &row);
        }
        self.rows.push_back(row);
        if self.rows.len() > ROWS
            && let Some(oldest) = self.rows.pop_front()
            && let Some(Err(error)) = self.electric.as_ref().map(|electric| electric.delete("tasks", oldest))
        {
            tracing::error!(%error, "cannot delete the demo's oldest row");
        }
        title
    }
}

fn insert(electric: &Electric, row: &Value) {
    if let Err(error) = electric.insert("tasks", row.clone()) {
        tracing::error!(%error, "cannot insert the demo's row");
    }
}

async fn stand_in(port: u16) -> io::Result<Electric> {
    let electric = Electric::start(Options { port, secret: SECRET.to_owned(), ..Options::default() }).await?;
    let columns = vec![
        Column::new("id", "uuid").not_null().primary_key(0),
        Column::new("organization_id", "text").not_null(),
        Column::new("title", "text"),
    ];
    electric.create_table("tasks", columns);
    Ok(electric)
}

/// Returns the decoded parameters of a request. The secret is replaced.
fn parameters(request: &Request) -> Vec<(String, String)> {
    let pairs = url::form_urlencoded::parse(request.query().as_bytes()).into_owned();
    let hidden = |(name, value): (String, String)| {
        let value = if name == "secret" { "…".to_owned() } else { value };
        (name, value)
    };
    pairs.map(hidden).collect()
}

const TITLES: [&str; 6] = [
    "Water the plants",
    "Sharpen the pencils",
    "Answer the letter",
    "Mend the gate",
    "Fetch the ladder",
    "Wind the clock",
];
