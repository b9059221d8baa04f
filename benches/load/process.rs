//! Runs a server as a child process that ends with the bench, and reads its CPU time and memory from `/proc`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A child process that is stopped when this is dropped.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_owned();
        let child = command.stdin(Stdio::null()).spawn();
        Ok(Self { child: child.with_context(|| format!("cannot start {}", name.display()))? })
    }

    /// Starts a process, and returns what `pick` finds in a line of its standard error. Later lines are printed if
    /// `passes` accepts them.
    pub(crate) fn start_and_read<T>(
        command: &mut Command,
        pick: impl Fn(&str) -> Option<T>,
        passes: impl Fn(&str) -> bool + Send + 'static,
    ) -> anyhow::Result<(Self, T)> {
        let mut process = Self::start(command.stderr(Stdio::piped()))?;
        let pipe = process.child.stderr.take().context("the child has no standard error")?;
        let mut lines = BufReader::new(pipe);
        let mut said = String::new();
        loop {
            let before = said.len();
            if lines.read_line(&mut said)? == 0 {
                bail!("{} exited at its start:\n{said}", command.get_program().display());
            }
            if let Some(found) = pick(&said[before..]) {
                // Kept empty: a full pipe would block the child.
                std::thread::spawn(move || pass_on(lines, passes));
                return Ok((process, found));
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has exited by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }
}

fn pass_on(lines: BufReader<impl Read>, passes: impl Fn(&str) -> bool) {
    for line in lines.lines().map_while(Result::ok).filter(|line| passes(line)) {
        eprintln!("{line}");
    }
}

impl Drop for Process {
    /// Sends SIGTERM first, since an nginx that is killed would leave its workers running.
    fn drop(&mut self) {
        // The child has not been waited for, so its id cannot belong to another process.
        if let Some(id) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(id, Signal::TERM);
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// How long a server may take to exit.
const PATIENCE: Duration = Duration::from_secs(5);

/// The CPU time and memory of a process and its children.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// CPU time of all threads, in user and kernel mode.
    pub cpu: Duration,
    /// Current resident memory.
    pub rss_kb: f64,
}

impl Usage {
    /// Reads the usage of the process `id` and its current children (the workers of nginx).
    pub(crate) fn of(id: u32) -> anyhow::Result<Self> {
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let mut sum = Self::of_one(id)?;
        for child in children.split_ascii_whitespace() {
            let usage = Self::of_one(child.parse()?)?;
            sum = Self { cpu: sum.cpu + usage.cpu, rss_kb: sum.rss_kb + usage.rss_kb };
        }
        Ok(sum)
    }

    fn of_one(id: u32) -> anyhow::Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{id}/{file}");
            fs::read_to_string(&path).with_context(|| format!("{path}: is the process still running?"))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        // proc_pid_stat(5): the name, in parentheses, may contain anything; utime and stime are fields 14 and 15.
        let behind_name = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let ticks: u64 = behind_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap_or(0)).sum();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let rss_kb = rss.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
        let per_second = rustix::param::clock_ticks_per_second();
        Ok(Self { cpu: Duration::from_millis(ticks * 1000 / per_second), rss_kb })
    }
}
