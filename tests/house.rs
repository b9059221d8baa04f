//! Limits the size of files and functions in `src`, without tests. `cargo test --test house -- --nocapture` prints the
//! figures.

#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy's exception for tests does not cover helper functions

use std::fs;
use std::path::{Path, PathBuf};

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, ImplItemFn, ItemFn, ItemMod, Signature, TraitItemFn};

/// The most lines that a file may have.
const FILE: usize = 450;

/// The most lines that a function may have, from its signature to its closing brace.
const FUNCTION: usize = 60;

/// The largest allowed median of the lines between the braces of functions.
const MEDIAN: usize = 6;

#[derive(Default)]
struct Sizes {
    /// The lines of test modules in the file.
    tests: usize,
    /// For each function its name, its lines, and the lines between its braces.
    functions: Vec<(String, usize, usize)>,
}

impl<'ast> Visit<'ast> for Sizes {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if is_test(&module.attrs) {
            self.tests += lines(module);
        } else {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        if let Some(block) = &function.default {
            self.measure(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

impl Sizes {
    fn measure(&mut self, signature: &Signature, block: &Block) {
        let between = lines(block).saturating_sub(2).max(1);
        let all = block.span().end().line - signature.span().start().line + 1;
        self.functions.push((signature.ident.to_string(), all, between));
    }
}

fn lines(item: &impl Spanned) -> usize {
    item.span().end().line - item.span().start().line + 1
}

fn is_test(attributes: &[Attribute]) -> bool {
    let is_test = |attribute: &Attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    };
    attributes.iter().any(is_test)
}

/// Collects every file below `folder` that is not a test file.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_test = ["tests", "testing"].iter().any(|name| path.file_stem().unwrap() == *name);
        match (is_test, path.is_dir()) {
            (true, _) => {}
            (false, true) => files(&path, found),
            (false, false) if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            (false, false) => {}
        }
    }
}

#[test]
fn files_and_functions_are_short() {
    let mut paths = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut paths);
    let (mut long, mut production, mut bodies) = (Vec::new(), 0, Vec::new());
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let mut sizes = Sizes::default();
        sizes.visit_file(&syn::parse_file(&text).unwrap());
        let size = text.lines().count() - sizes.tests;
        production += size;
        let shown = path.display();
        long.extend((size > FILE).then(|| format!("{shown}: {size} lines, at most {FILE}")));
        for (name, lines, between) in sizes.functions {
            bodies.push(between);
            long.extend((lines > FUNCTION).then(|| format!("{shown}: {name} has {lines} lines, at most {FUNCTION}")));
        }
    }
    bodies.sort_unstable();
    let median = bodies[bodies.len() / 2];
    println!("production code: {production} lines, {} functions, median {median} lines", bodies.len());
    assert!(long.is_empty(), "{}", long.join("\n"));
    assert!(median <= MEDIAN, "the median function has {median} lines, at most {MEDIAN}");
}
