//! Checks the full message of each faulty file in `tests/vectors/config/faults`, and that the files in
//! `tests/vectors/config/correct` cause none.
//!
//! `SHAPEGATE_WRITE_GOLDEN=1 cargo test --lib golden` writes the messages anew.

use std::fs;
use std::path::{Path, PathBuf};

use super::{environment, whole};
use crate::config::{Config, ConfigError};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/config").join(folder);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

/// Returns the errors of a file, or else its warnings.
fn found(file: &Path) -> Vec<ConfigError> {
    let text = whole(&fs::read_to_string(file).unwrap());
    match Config::parse(&text, file.file_name().unwrap().as_ref(), &environment()) {
        Ok(config) => config.warnings,
        Err(errors) => errors.iter().cloned().collect(),
    }
}

#[test]
fn each_faulty_file_has_its_message() {
    let files = files("faults");
    assert!(files.len() >= 60, "{} files", files.len());
    let mut different = Vec::new();
    for file in files {
        let reports: Vec<_> = found(&file).iter().map(ConfigError::report).collect();
        let report = reports.join("\n\n") + "\n";
        let golden = file.with_extension("txt");
        if std::env::var_os("SHAPEGATE_WRITE_GOLDEN").is_some() {
            fs::write(&golden, &report).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        assert!(!report.trim().is_empty(), "{} causes no message", file.display());
        assert!(!report.contains("do-not-show-this"), "{report}");
        if report != expected {
            different.push(format!("{}\n--- expected\n{expected}--- found\n{report}", file.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn no_correct_file_causes_a_message() {
    let files = files("correct");
    assert!(files.len() >= 30, "{} files", files.len());
    for file in files {
        let reports: Vec<_> = found(&file).iter().map(ConfigError::report).collect();
        assert!(reports.is_empty(), "{}", reports.join("\n\n"));
    }
}

#[test]
fn a_file_that_is_not_utf8_is_named_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    for (bytes, line, message) in [
        (&b"[server]\n# caf\xe9\n"[..], 2, "the file is not UTF-8: the first wrong byte is 0xe9"),
        (b"\xff\xfe[\0", 1, "the file is not UTF-8, but UTF-16: the first wrong byte is 0xff"),
    ] {
        fs::write(&file, bytes).unwrap();
        let errors = Config::load(&file).unwrap_err();
        let [error] = &errors.iter().collect::<Vec<_>>()[..] else { panic!("{errors}") };
        assert_eq!((error.line, error.message.as_str()), (Some(line), message));
        assert!(errors.report().contains("save it as UTF-8"));
    }
}
