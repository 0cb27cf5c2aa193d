//! The committed corpus is what the messages of this version make.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use smalti_fuzz::{TARGETS, Target};

/// Set to write the seeds anew, after a format or a script has changed.
const REWRITE: &str = "SMALTI_REWRITE_CORPUS";

/// Seeds are told by their names from what a fuzzer adds beside them.
const PREFIX: &str = "seed-";

#[test]
fn the_committed_seeds_are_those_of_this_version() {
    let is_rewriting = env::var_os(REWRITE).is_some();
    for Target { name, seeds, .. } in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let seeds = seeds().into_iter();
        let expected: BTreeMap<_, _> = seeds
            .map(|(n, bytes)| (format!("{PREFIX}{n}"), bytes))
            .collect();
        if is_rewriting {
            rewrite(&folder, &expected);
        }
        let committed = read(&folder);
        assert!(
            committed == expected,
            "{name}: run {REWRITE}=1 cargo test -p smalti-fuzz --test corpus, and commit what \
             it writes; it differs in {:?}",
            differing(&committed, &expected)
        );
    }
}

fn differing<'a>(
    a: &'a BTreeMap<String, Vec<u8>>,
    b: &'a BTreeMap<String, Vec<u8>>,
) -> Vec<&'a String> {
    let of_a = a.keys().filter(|name| a.get(*name) != b.get(*name));
    of_a.chain(b.keys().filter(|name| !a.contains_key(*name)))
        .collect()
}

fn seed_files(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let files = entries.map(|entry| entry.expect("the folder can be read").path());
    let named = files.map(|path| {
        let name = path.file_name().expect("a file has a name");
        (name.to_string_lossy().into_owned(), path.clone())
    });
    named.filter(|(name, _)| name.starts_with(PREFIX)).collect()
}

fn read(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |(name, path)| (name, fs::read(path).expect("a seed can be read"));
    seed_files(folder).into_iter().map(read).collect()
}

fn rewrite(folder: &Path, seeds: &BTreeMap<String, Vec<u8>>) {
    fs::create_dir_all(folder).expect("the folder can be made");
    for (_, path) in seed_files(folder) {
        fs::remove_file(path).expect("a seed can be removed");
    }
    for (name, bytes) in seeds {
        fs::write(folder.join(name), bytes).expect("a seed can be written");
    }
}
