//! The modules of `src` import each other in one direction.
//!
//! The test follows the `mod` lines from `src/lib.rs`, reads each file with `syn` and collects every path: of `use`
//! lines, of code, and of the tokens inside macros. Modules under `#[cfg(test)]` are left out.

#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy's exception for tests does not cover helper functions

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, ExprLit, Item, ItemMod, Lit, Macro, Meta, UseTree};

/// Modules that do not reach Pingora, not even through another module.
const WITHOUT_PINGORA: [&str; 9] =
    ["auth", "decisions", "filter", "flight", "gatekeeper", "limits", "policy", "rewrite", "shape"];

/// The only modules that may import `config`.
const MAY_IMPORT_CONFIG: [&str; 3] = ["cli", "demo", "server"];

/// Imports that are being removed; the rules ignore them.
const KNOWN: [(&str, &str); 0] = [];

#[test]
fn modules_have_no_import_cycles() {
    let circles: BTreeSet<_> = GRAPH.edges.keys().filter_map(|(from, to)| GRAPH.circle(from, to)).collect();
    assert!(circles.is_empty(), "import cycles:\n{}", Vec::from_iter(circles).join("\n"));
}

#[test]
fn pure_modules_do_not_reach_pingora() {
    let chains = WITHOUT_PINGORA.into_iter().filter_map(|from| GRAPH.chain(from, PINGORA));
    let chains: Vec<_> = chains.map(|chain| GRAPH.shown(&chain)).collect();
    assert!(chains.is_empty(), "these reach Pingora:\n{}", chains.join("\n"));
}

#[test]
fn metrics_imports_no_other_module() {
    let imports = GRAPH.edges.keys().filter(|(from, _)| from == "metrics");
    let imports: Vec<_> = imports.map(|(from, to)| GRAPH.shown(&[from, to])).collect();
    assert!(imports.is_empty(), "{}", imports.join("\n"));
}

#[test]
fn only_server_cli_and_demo_import_config() {
    let imports = GRAPH.edges.keys().filter(|(from, to)| to == "config" && !MAY_IMPORT_CONFIG.contains(&&**from));
    let imports: Vec<_> = imports.map(|(from, to)| GRAPH.shown(&[from, to])).collect();
    assert!(imports.is_empty(), "{}", imports.join("\n"));
}

#[test]
fn reader_finds_every_kind_of_path() {
    let source = "
        use crate::{a::{b, C as D}, e};
        use super::super::f::*;
        use self::child::X;
        use std::fmt;
        pub(crate) fn g(x: crate::h::Y) -> super::Z { info!(key = crate::i::J, \"{}\", k!(super::super::l::M)) }
        mod inner { use super::super::super::m::N; }
        #[cfg(test)]
        mod tests { use crate::o; }
        #[cfg(test)]
        use crate::p;
        fn q() { ::pingora_core::r(); pingora::s() }
    ";
    let mut reader = Reader::new(&["top", "file"], Path::new("x.rs"));
    reader.visit_file(&syn::parse_str(source).unwrap());
    let seen: Vec<_> = reader.found.iter().map(|found| found.target.as_str()).collect();
    assert_eq!(seen, ["a", "a", "e", "f", "h", "top", "i", "l", "m", "pingora", "pingora"]);
    assert_eq!(reader.found.first().map(|found| found.line), Some(2));
}

static GRAPH: LazyLock<Graph> = LazyLock::new(Graph::of_src);

/// The node that represents every Pingora crate.
const PINGORA: &str = "pingora";

/// Imports between top-level modules, each with the place of its first occurrence.
struct Graph {
    edges: BTreeMap<(String, String), String>,
}

impl Graph {
    fn of_src() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut edges = BTreeMap::new();
        let mut modules = BTreeSet::from([PINGORA.to_owned()]);
        for (module, file) in declared(&parsed(&root.join("lib.rs")), &root, &root) {
            modules.insert(module.clone());
            let mut files = VecDeque::from([(vec![module.clone()], file)]);
            while let Some((path, file)) = files.pop_front() {
                let syntax = parsed(&file);
                let mut reader = Reader::new(&path, &file);
                reader.visit_file(&syntax);
                for found in reader.found.into_iter().filter(|found| found.target != module) {
                    let place = format!("{}:{}", file.strip_prefix(&root).unwrap().display(), found.line);
                    edges.entry((module.clone(), found.target)).or_insert(place);
                }
                let children = declared(&syntax, file.parent().unwrap(), &folder_of(&file)).into_iter();
                files.extend(children.map(|(name, file)| ([path.as_slice(), &[name]].concat(), file)));
            }
        }
        for (edge, place) in &edges {
            assert!(modules.contains(&edge.1), "src/{place}: no module {}", edge.1);
        }
        edges.retain(|(from, to), _| !KNOWN.contains(&(from, to)));
        Self { edges }
    }

    /// Finds the shortest cycle through an import. It starts with the module whose name sorts first.
    fn circle(&self, from: &str, to: &str) -> Option<String> {
        let mut circle = self.chain(to, from)?;
        let first = circle.iter().enumerate().min_by_key(|(_, name)| **name)?.0;
        circle.rotate_left(first);
        circle.push(circle[0]);
        Some(self.shown(&circle))
    }

    /// Finds the shortest chain of imports from one module to another.
    fn chain<'a>(&'a self, from: &'a str, to: &str) -> Option<Vec<&'a str>> {
        let mut chains = VecDeque::from([vec![from]]);
        let mut seen = BTreeSet::from([from]);
        while let Some(chain) = chains.pop_front() {
            let last = *chain.last()?;
            if last == to {
                return Some(chain);
            }
            let next =
                self.edges.keys().filter(|(importer, _)| importer == last).map(|(_, imported)| imported.as_str());
            chains.extend(next.filter(|name| seen.insert(name)).map(|name| [chain.as_slice(), &[name]].concat()));
        }
        None
    }

    fn shown(&self, chain: &[impl AsRef<str>]) -> String {
        let edge = |pair: &[_]| {
            let [from, to] = [0, 1].map(|at: usize| AsRef::<str>::as_ref(&pair[at]).to_owned());
            let place = &self.edges[&(from.clone(), to.clone())];
            format!("  {from} imports {to} at src/{place}\n")
        };
        chain.windows(2).map(edge).collect()
    }
}

fn parsed(file: &Path) -> syn::File {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Returns the folder that holds the child modules of a file.
fn folder_of(file: &Path) -> PathBuf {
    if file.ends_with("mod.rs") { file.parent().unwrap().to_owned() } else { file.with_extension("") }
}

/// Lists the modules that a file declares, with their files: below `children`, or, with a `path` attribute, relative
/// to `beside`.
fn declared(syntax: &syn::File, beside: &Path, children: &Path) -> Vec<(String, PathBuf)> {
    let modules = syntax.items.iter().filter_map(|item| match item {
        Item::Mod(module) if module.content.is_none() && !is_test(&module.attrs) => Some(module),
        _ => None,
    });
    let files = modules.flat_map(|module| {
        let name = module.ident.to_string();
        let own = [children.join(format!("{name}.rs")), children.join(&name).join("mod.rs")];
        let files = path_of(&module.attrs).map_or_else(|| own.to_vec(), |path| vec![beside.join(path)]);
        files.into_iter().filter(|file| file.exists()).map(move |file| (name.clone(), file))
    });
    files.collect()
}

/// Returns the value of `#[path = "…"]`.
fn path_of(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    })
}

fn is_test(attributes: &[Attribute]) -> bool {
    let is = |attribute: &Attribute| matches!(&attribute.meta, Meta::List(list) if list.path.is_ident("cfg") && list.tokens.to_string() == "test");
    attributes.iter().any(is)
}

/// A path that leads to another top-level module or to Pingora.
struct Found {
    target: String,
    line: usize,
}

/// Collects the paths in one file.
struct Reader {
    module: Vec<String>,
    file: PathBuf,
    found: Vec<Found>,
}

impl Reader {
    fn new(module: &[impl AsRef<str>], file: &Path) -> Self {
        let module = module.iter().map(|name| name.as_ref().to_owned()).collect();
        Self { module, file: file.to_owned(), found: Vec::new() }
    }

    fn path(&mut self, path: &[Ident]) {
        let Some(first) = path.first() else { return };
        let line = first.span().start().line;
        let target = match first.to_string().as_str() {
            name if name == PINGORA || name.starts_with("pingora_") => PINGORA.to_owned(),
            "crate" => {
                let place = self.file.display();
                path.get(1).unwrap_or_else(|| panic!("{place}:{line}: names the whole crate")).to_string()
            }
            "super" => {
                let up = path.iter().take_while(|name| *name == "super").count();
                let above = self.module.iter().take(self.module.len() - up).map(ToString::to_string);
                let Some(top) = above.chain(path[up..].iter().map(ToString::to_string)).next() else { return };
                top
            }
            _ => return,
        };
        self.found.push(Found { target, line });
    }

    fn use_tree(&mut self, before: &[Ident], tree: &UseTree) {
        let with = |name: &Ident| [before, std::slice::from_ref(name)].concat();
        match tree {
            UseTree::Path(path) => self.use_tree(&with(&path.ident), &path.tree),
            UseTree::Name(name) => self.path(&with(&name.ident)),
            UseTree::Rename(rename) => self.path(&with(&rename.ident)),
            UseTree::Glob(_) => self.path(before),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.use_tree(before, tree)),
        }
    }

    /// Collects paths from the tokens of a macro: whatever looks like a path counts as one.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<Ident> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(name) if colons == 2 && !path.is_empty() => {
                    path.push(name);
                    colons = 0;
                }
                other => {
                    self.path(&std::mem::take(&mut path));
                    colons = 0;
                    match other {
                        TokenTree::Ident(name) => path.push(name),
                        TokenTree::Group(group) => self.tokens(group.stream()),
                        TokenTree::Punct(_) | TokenTree::Literal(_) => {}
                    }
                }
            }
        }
        self.path(&path);
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let test = match item {
            Item::Use(item) => is_test(&item.attrs),
            Item::Fn(item) => is_test(&item.attrs),
            Item::Impl(item) => is_test(&item.attrs),
            Item::Mod(item) => is_test(&item.attrs),
            _ => false,
        };
        if !test {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|segment| segment.ident.clone()).collect();
        self.path(&names);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast Macro) {
        self.visit_path(&called.path);
        self.tokens(called.tokens.clone());
    }

    /// `pub(crate)` and `pub(super)` import nothing.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}
