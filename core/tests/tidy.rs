//! What must hold of the repository's files and neither the compiler nor clippy checks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The longest source file, in lines before its tests. A longer one has more than one job.
const LINES_MAX: usize = 800;

/// Folders that hold what is made, not written.
const MADE: [&str; 6] = [".git", "target", "corpus", "artifacts", "coverage", "book"];

/// Endings of the names of source files.
const SOURCES: [&str; 4] = [".rs", ".toml", ".md", ".ci/run"];

struct File {
    /// From the root of the workspace.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.parent().expect("the package lies in the workspace");
    root.to_owned()
}

/// All files in `folder` and below whose paths have one of `endings`.
fn files(folder: &str, endings: &[&str]) -> Vec<File> {
    let root = root();
    let mut folders = vec![root.join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace can be read") {
            let file = entry.expect("its entries can be read").path();
            let name = file.file_name().expect("an entry has a name");
            let name = name.to_string_lossy();
            if file.is_dir() && !MADE.contains(&&*name) && !name.starts_with("target-") {
                folders.push(file);
                continue;
            }
            let path = file.strip_prefix(&root).expect("it lies below the root");
            let path = path.to_string_lossy().into_owned();
            if file.is_file() && endings.iter().any(|ending| path.ends_with(ending)) {
                let text = fs::read_to_string(&file).expect("a source file is text");
                found.push(File { path, text });
            }
        }
    }
    assert!(
        !found.is_empty(),
        "nothing in {folder} ends with {endings:?}"
    );
    found
}

/// The lines that have one of `words`, but for comments.
fn lines_with(files: &[File], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for File { path, text } in files {
        for (i, line) in text.lines().enumerate() {
            let is_comment = line.trim_start().starts_with("//");
            if !is_comment && words.iter().any(|word| line.contains(word)) {
                found.push(format!("{path}:{}: {}", i + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn machines_know_nothing_of_workers_tasks_and_channels() {
    let machines = files("core/src/protocol", &[".rs"]);
    let words = ["crate::node", "tokio", "async ", "Mutex", "std::thread"];
    assert_eq!(lines_with(&machines, &words), [""; 0]);
}

#[test]
fn core_touches_neither_files_nor_sockets_nor_the_process() {
    let core = files("core/src", &[".rs"]);
    let std = ["std::fs", "std::process", "std::env"];
    let sockets = ["TcpStream", "TcpListener", "UdpSocket"];
    let tokio = ["tokio::net", "tokio::fs", "tokio::time", "tokio::runtime"];
    assert_eq!(
        lines_with(&core, &[&std[..], &sockets, &tokio].concat()),
        [""; 0]
    );
}

#[test]
fn nothing_is_left_for_later() {
    // Taken apart, so that this file does not name them.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("#[", "ignore"),
        concat!("unimpl", "emented!("),
        concat!("to", "do!("),
        concat!("db", "g!("),
    ];
    for File { path, text } in files(".", &SOURCES) {
        for word in words {
            assert!(!text.contains(word), "{path} has {word}");
        }
    }
}

#[test]
fn no_registry_is_named() {
    let hosts = [concat!("crates", ".io"), concat!("docs", ".rs/")];
    for File { path, text } in files(".", &SOURCES) {
        for host in hosts {
            assert!(!text.contains(host), "{path} names {host}");
        }
    }
}

#[test]
fn source_files_have_one_job() {
    let code = |text: &str| {
        let is_code = |line: &&str| *line != "#[cfg(test)]";
        text.lines().take_while(is_code).count()
    };
    let files = files(".", &[".rs"]);
    let long = files.iter().filter(|file| code(&file.text) > LINES_MAX);
    let long: Vec<_> = long.map(|file| &file.path).collect();
    assert_eq!(long, [""; 0], "split what has more than {LINES_MAX} lines");
}

#[test]
fn every_package_takes_the_lints_of_the_workspace() {
    for File { path, text } in files(".", &["/Cargo.toml"]) {
        assert!(
            text.contains("[lints]\nworkspace = true"),
            "{path} does not"
        );
    }
}

#[test]
fn every_page_of_the_book_is_listed_and_every_link_leads_somewhere() {
    let pages = files("docs/src", &[".md"]);
    let mut listed = BTreeSet::new();
    for File { path, text } in &pages {
        let folder = Path::new(path).parent().expect("a page lies in a folder");
        for link in links(text) {
            let target = root().join(folder).join(link);
            assert!(
                target.is_file(),
                "{path} links to {link}, which is not there"
            );
            if path.ends_with("SUMMARY.md") {
                listed.insert(fs::canonicalize(target).expect("it is there"));
            }
        }
    }
    for File { path, .. } in &pages {
        let page = fs::canonicalize(root().join(path)).expect("it was read");
        let is_listed = listed.contains(&page) || path.ends_with("SUMMARY.md");
        assert!(is_listed, "{path} is not in docs/src/SUMMARY.md");
    }
}

#[test]
fn links_of_the_pages_beside_the_code_lead_somewhere() {
    for page in [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
    ] {
        let text = fs::read_to_string(root().join(page)).expect("the page is there");
        for link in links(&text) {
            assert!(root().join(link).exists(), "{page} links to {link}");
        }
    }
}

/// The files that a page links to.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split_once(')'));
    let files = targets.map(|(target, _)| target.split('#').next().unwrap_or_default());
    files.filter(|target| !target.is_empty() && !target.contains("://"))
}
