//! Which file imports which: the crate's modules, their re-exports, and the edges between their files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module's path: `["data", "views", "view"]` for src/data/views/view.rs; empty for src/lib.rs.
pub type Module = Vec<String>;

/// The modules of src/, and what they import.
pub struct Modules {
    code: BTreeMap<Module, String>,
    /// Names that a module passes on, and the paths that they stand for.
    passed_on: BTreeMap<(Module, String), Vec<String>>,
}

/// An import as it is written and what it means.
pub struct Import {
    /// The file that imports.
    pub from: Module,
    /// The file that has what is imported.
    pub to: Module,
    /// As it is written, from the root of the crate.
    pub path: Vec<String>,
}

impl Modules {
    /// Those of the files below `src`.
    pub fn of(src: &Path, files: &[std::path::PathBuf]) -> Self {
        let mut code = BTreeMap::new();
        for file in files {
            let inside = file.strip_prefix(src).unwrap().with_extension("");
            let names = inside.iter().map(|name| name.to_str().unwrap().to_owned());
            let mut module: Module = names.collect();
            if matches!(module.last().unwrap().as_str(), "mod" | "lib" | "main") {
                module.pop();
            }
            code.insert(module, without_tests(&fs::read_to_string(file).unwrap()));
        }
        let mut modules = Self {
            code,
            passed_on: BTreeMap::new(),
        };
        let mut passed_on = BTreeMap::new();
        for (module, code) in &modules.code {
            for (path, alias, is_public) in uses(code) {
                if let (true, Some(path)) = (is_public, modules.absolute(module, &path)) {
                    passed_on.insert((module.clone(), alias), path);
                }
            }
        }
        modules.passed_on = passed_on;
        modules
    }

    /// All imports from one file of the crate to another; what a module passes on is no import of its own.
    pub fn imports(&self) -> Vec<Import> {
        let mut imports = Vec::new();
        for (from, code) in &self.code {
            let of_uses = uses(code).into_iter().filter(|(_, _, public)| !public);
            let paths = of_uses.map(|(path, _, _)| path).chain(inline(code));
            for path in paths.filter_map(|path| self.absolute(from, &path)) {
                let to = self.home(path.clone());
                if to != *from && !to.is_empty() {
                    let from = from.clone();
                    imports.push(Import { from, to, path });
                }
            }
        }
        imports
    }

    /// A path from the root of the crate; none where it begins with another crate.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([module, rest].concat()),
            "super" => {
                let mut rest = rest;
                let mut parent = &module[..module.len().saturating_sub(1)];
                while let Some(("super", left)) = rest.split_first().map(|(f, l)| (f.as_str(), l)) {
                    (rest, parent) = (left, &parent[..parent.len().saturating_sub(1)]);
                }
                Some([parent, rest].concat())
            }
            _ => {
                let child = [module.as_slice(), &path[..1]].concat();
                (self.code.contains_key(&child)).then(|| [module.as_slice(), path].concat())
            }
        }
    }

    /// The file that has what a path means, through all that pass it on.
    fn home(&self, mut path: Vec<String>) -> Module {
        loop {
            let depth = (0..=path.len()).rev();
            let depth = depth
                .into_iter()
                .find(|n| self.code.contains_key(&path[..*n]));
            let depth = depth.unwrap_or(0);
            let module = path[..depth].to_vec();
            let key = path.get(depth).map(|name| (module.clone(), name.clone()));
            match key.and_then(|key| self.passed_on.get(&key)) {
                Some(target) => path = [target.as_slice(), &path[depth + 1..]].concat(),
                None => return module,
            }
        }
    }
}

/// Groups of files that import each other in a circle.
pub fn circles(imports: &[Import]) -> Vec<BTreeSet<Module>> {
    let mut next: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
    for import in imports {
        next.entry(&import.from).or_default().insert(&import.to);
    }
    let reached = |from: &Module| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&Module> = next.get(from).into_iter().flatten().copied().collect();
        while let Some(module) = open.pop() {
            if seen.insert(module) {
                open.extend(next.get(module).into_iter().flatten());
            }
        }
        seen
    };
    let reach: BTreeMap<&Module, BTreeSet<&Module>> = next
        .keys()
        .map(|module| (*module, reached(module)))
        .collect();
    let mut found: Vec<BTreeSet<Module>> = Vec::new();
    for (module, to) in &reach {
        let round = to
            .iter()
            .filter(|other| reach.get(*other).is_some_and(|r| r.contains(*module)));
        let round: BTreeSet<Module> = round.map(|other| (*other).clone()).collect();
        if !round.is_empty() && !found.contains(&round) {
            found.push(round);
        }
    }
    found
}

/// Code alone, up to the tests.
fn without_tests(text: &str) -> String {
    let code = text.split("\nmod tests {").next().unwrap();
    let lines = code.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

/// Where the tree of a `use` statement begins, and whether it is passed on; none for another statement.
fn use_tree(statement: &str) -> Option<(usize, bool)> {
    let at = statement.rfind("use ")?;
    let before = statement[..at].lines().last().unwrap_or("").trim();
    let is_public = before.starts_with("pub");
    (before.is_empty() || is_public).then_some((at + 4, is_public))
}

/// The `use` statements of a file: path, the name it gets, and whether it is passed on.
fn uses(code: &str) -> Vec<(Vec<String>, String, bool)> {
    let mut found = Vec::new();
    for statement in code.split(';') {
        let Some((at, is_public)) = use_tree(statement) else {
            continue;
        };
        for path in branches(&statement[at..]) {
            let (path, alias) = path.split_once(" as ").unwrap_or((&path, ""));
            let names: Vec<String> = path.split("::").map(|n| n.trim().to_owned()).collect();
            let alias = match alias {
                "" => names.last().unwrap().clone(),
                alias => alias.trim().to_owned(),
            };
            found.push((names, alias, is_public));
        }
    }
    found
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn branches(tree: &str) -> Vec<String> {
    let Some((stem, rest)) = tree.split_once('{') else {
        return vec![tree.trim().trim_end_matches("::self").to_owned()];
    };
    let inside = &rest[..rest.rfind('}').unwrap_or(rest.len())];
    let (mut depth, mut start, mut all) = (0, 0, Vec::new());
    for (at, letter) in inside.char_indices().chain([(inside.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inside[start..at].trim().is_empty() {
                    all.extend(branches(&format!(
                        "{}{}",
                        stem.trim(),
                        inside[start..at].trim()
                    )));
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    all
}

/// Paths that are written where they are used: `crate::a::B`, `super::c`, `child::d`.
fn inline(code: &str) -> Vec<Vec<String>> {
    let is_of_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    for statement in code.split(';') {
        let end = use_tree(statement).map_or(statement.len(), |(at, _)| at);
        let code = statement[..end].replace("pub(in crate::", "");
        let paths = code
            .split(|c| !is_of_path(c))
            .filter(|word| word.contains("::") && !word.ends_with("::"));
        found.extend(paths.map(|path| path.split("::").map(str::to_owned).collect()));
    }
    found
}
