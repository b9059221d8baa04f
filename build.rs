//! Sets `SHAPEGATE_VERSION` for `--version`: the version with its commit. The commit comes from `SHAPEGATE_COMMIT`, or
//! from git in an optimized build. Other builds do without, since each commit would compile the crate again.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SHAPEGATE_COMMIT");
    let optimized = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let given = env::var("SHAPEGATE_COMMIT").ok();
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let commit = given.or_else(|| optimized.then(commit).flatten());
    let commit = commit.map_or(String::new(), |commit| format!(" ({commit})"));
    println!("cargo:rustc-env=SHAPEGATE_VERSION={version}{commit}");
}

/// Returns the current commit, and makes cargo run this again when it changes.
fn commit() -> Option<String> {
    println!("cargo:rerun-if-changed={}", git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}
