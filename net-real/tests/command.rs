//! The `smalti` command, as real processes on loopback.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use smalti::discovery::{Config, Event, PeerAddr};
use smalti::{Network, NetworkBuilderExt, NetworkExt, PeerId, Tag};

/// The command with nothing in its environment that would configure it.
fn smalti(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smalti"));
    for (name, _) in std::env::vars() {
        if name.starts_with("SMALTI_") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

/// A `smalti node` that listens; killed when dropped.
struct Node {
    process: Child,
    line: String,
}

impl Node {
    fn start(arguments: &[&str]) -> Self {
        let mut command = smalti(&["node"]);
        command.args(arguments);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = process.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let line = line.trim_end().to_owned();
        Self { process, line }
    }

    fn address(&self) -> PeerAddr {
        self.line.parse().unwrap()
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn inspect(arguments: &[&str]) -> Output {
    smalti(&["inspect"]).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

#[test]
fn two_nodes_and_an_inspection_find_each_other_within_two_seconds() {
    let a = Node::start(&["-n", "found", "--tag", "red", LISTEN[0], LISTEN[1]]);
    let b = Node::start(&["-n", "found", "-b", &a.line, LISTEN[0], LISTEN[1]]);
    let started = Instant::now();
    let output = inspect(&["-n", "found", "-b", &a.line, "--json", LISTEN[0], LISTEN[1]]);
    let elapsed = started.elapsed();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let peers = report["peers"].as_array().unwrap();
    let mut found: Vec<String> = peers
        .iter()
        .map(|peer| {
            format!(
                "{}@{}",
                peer["id"].as_str().unwrap(),
                peer["addresses"][0].as_str().unwrap()
            )
        })
        .collect();
    found.sort();
    let mut expected = [a.line.clone(), b.line.clone()];
    expected.sort();
    assert_eq!(found, expected);
    let tagged = peers
        .iter()
        .find(|peer| peer["id"] == a.address().id.to_string());
    assert_eq!(tagged.unwrap()["tags"][0], Tag::from("red").to_string());
    assert!(peers.iter().all(|peer| peer["rtt_us"].is_u64()), "{report}");
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
}

#[test]
fn an_inspection_prints_a_table_with_names_that_it_was_told() {
    let a = Node::start(&["-n", "table", "-t", "red,blue", "-t", "green"]);
    let output = inspect(&["-n", "table", "-b", &a.line, "--name", "red,blue,green"]);
    let table = text(&output.stdout);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].starts_with("PEER "));
    assert!(lines[1].starts_with(&a.line[..10]));
    for tag in ["red", "blue", "green"] {
        assert!(lines[1].contains(tag), "{table}");
    }
    assert_eq!(lines[2], "1 peer");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn everything_can_come_from_the_environment() {
    let mut command = smalti(&["node"]);
    command.envs([
        ("SMALTI_NETWORK", "environment"),
        ("SMALTI_SECRET", "stable"),
        ("SMALTI_LISTEN", "127.0.0.1:0"),
        ("SMALTI_TAG", "a,b"),
        ("SMALTI_QUIET", "true"),
    ]);
    let node = Node::spawn(command);
    let address = node.address();
    assert_eq!(address.id, smalti::SecretKey::from("stable").peer_id());
    assert!(address.addresses[0].ip().is_loopback());
    let other = Node::start(&["-n", "environment", LISTEN[0], LISTEN[1]]);
    let output = smalti(&["inspect"])
        .envs([
            ("SMALTI_NETWORK", "environment"),
            ("SMALTI_BOOTSTRAP", &format!("{} {}", node.line, other.line)),
            ("SMALTI_JSON", "true"),
        ])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["peers"].as_array().unwrap().len(), 2, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signalled_node_says_good_bye_and_ends_well() {
    let config = Config::builder();
    let watcher = Network::builder("signals")
        .with_addresses(["127.0.0.1:0".parse().unwrap()])
        .with_discovery(config)
        .build()
        .await
        .unwrap();
    let bootstrap = watcher.local().addr().to_string();
    let mut events = watcher.discovery().events();
    for signal in ["-TERM", "-INT"] {
        let mut node = Node::start(&["-n", "signals", "-b", &bootstrap, LISTEN[0], LISTEN[1]]);
        let id = node.address().id;
        bounded(seen(&mut events, id, true)).await;
        node.signal(signal);
        // Without a tombstone the entry would stay for five minutes.
        bounded(seen(&mut events, id, false)).await;
        assert_eq!(node.process.wait().unwrap().code(), Some(0));
    }
    watcher.shutdown().await;
}

/// Waits until `peer` has come, or gone.
async fn seen(events: &mut smalti::discovery::Events, peer: PeerId, comes: bool) {
    loop {
        match events.recv().await.unwrap() {
            Some(Event::PeerDiscovered(entry)) if comes && *entry.id() == peer => return,
            Some(Event::PeerDeparted(id)) if !comes && id == peer => return,
            Some(_) => {}
            None => panic!("the watcher has ended"),
        }
    }
}

async fn bounded(future: impl Future<Output = ()>) {
    let bounded = tokio::time::timeout(Duration::from_secs(20), future).await;
    bounded.expect("it takes too long");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let output = smalti(&["node", "-n", "taken", "-l", &taken])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(
        error.contains(&format!("cannot listen on {taken}")),
        "{error}"
    );
    assert_eq!(text(&output.stdout), "");
}

/// A directory that is removed when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("smalti-command-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("it was made");
    }
}

#[test]
fn a_data_directory_keeps_the_nodes_id_and_belongs_to_one_node_of_one_network() {
    let scratch = Scratch::new();
    let directory = scratch.0.to_str().unwrap();
    let kept = ["-n", "kept", "--data-dir", directory, LISTEN[0], LISTEN[1]];
    let mut first = Node::start(&kept);
    let id = first.address().id;

    let refused = |arguments: &[&str], expected: &str| {
        let output = smalti(&["node"]).args(arguments).output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains(expected) && error.contains(directory),
            "{error} lacks {expected}"
        );
        assert_eq!(text(&output.stdout), "");
    };
    refused(&kept, "is in use by another process");
    first.signal("-TERM");
    assert_eq!(first.process.wait().unwrap().code(), Some(0));

    // Also after a process that could not say good-bye.
    for signal in ["-KILL", "-TERM"] {
        let mut command = smalti(&["node", "-n", "kept", LISTEN[0], LISTEN[1]]);
        command.env("SMALTI_DATA_DIR", directory);
        let mut again = Node::spawn(command);
        assert_eq!(again.address().id, id);
        again.signal(signal);
        again.process.wait().unwrap();
    }
    refused(
        &["-n", "elsewhere", "--data-dir", directory],
        "it belongs to network",
    );
    refused(
        &["-n", "kept", "-d", directory, "--secret", "another"],
        "it belongs to peer",
    );
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let file = std::env::current_exe().unwrap();
    let below = file.join("data");
    let output = smalti(&["node", "-n", "file", "-d", below.to_str().unwrap()])
        .output()
        .unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(below.to_str().unwrap()), "{error}");
}

#[test]
fn wrong_usage_is_explained() {
    let id = "0".repeat(64);
    let cases: [(&[&str], &str); 7] = [
        (&["node"], "--network <NAME>"),
        (&["inspect", "-n", "x"], "--bootstrap <ID@IP:PORT>"),
        (
            &["node", "-n", "x", "-b", "127.0.0.1:1"],
            "written ID@IP:PORT",
        ),
        (
            &["node", "-n", "x", "-b", &format!("{id}@host:1")],
            "'host:1' is no IP:PORT",
        ),
        (&["node", "-n", "x", "-l", "7000"], "invalid socket address"),
        (&["node", "-n", "x", "-q", "-v"], "cannot be used with"),
        (
            &[
                "inspect",
                "-n",
                "x",
                "-b",
                &format!("{id}@127.0.0.1:1"),
                "--timeout",
                "0",
            ],
            "seconds",
        ),
    ];
    for (arguments, expected) in cases {
        let output = smalti(arguments).output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
}

#[test]
fn an_inspection_that_finds_nobody_says_so() {
    let nobody = format!("{}@127.0.0.1:9", "ab".repeat(32));
    let output = inspect(&["-n", "nobody", "-b", &nobody, "--timeout", "0.2"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("nobody answers there"), "{error}");
}

#[test]
fn an_inspection_says_why_it_was_not_let_in() {
    let node = Node::start(&[
        "-n",
        "inside",
        "--network-secret",
        "s",
        LISTEN[0],
        LISTEN[1],
    ]);
    let other = format!("{}@{}", "ab".repeat(32), node.address().addresses[0]);
    let let_in = inspect(&["-n", "inside", "-b", &node.line, "--network-secret", "s"]);
    assert_eq!(let_in.status.code(), Some(0), "{}", text(&let_in.stderr));
    let refused: [(&[&str], &str); 3] = [
        (
            &["-n", "outside", "-b", &node.line, "--network-secret", "s"],
            "does not let this node in",
        ),
        (
            &["-n", "inside", "-b", &node.line],
            "does not let this node in",
        ),
        (
            &["-n", "inside", "-b", &other, "--network-secret", "s"],
            "another node answers there",
        ),
    ];
    for (arguments, expected) in refused {
        let output = inspect(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{error}");
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
}

#[test]
fn help_names_every_option_and_exit_code() {
    for command in ["node", "inspect"] {
        let mut help = String::new();
        let mut process = smalti(&[command, "--help"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        process
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut help)
            .unwrap();
        assert!(process.wait().unwrap().success());
        for expected in [
            "--network <NAME>",
            "SMALTI_BOOTSTRAP",
            "Exit codes",
            "SMALTI_LOG",
        ] {
            assert!(help.contains(expected), "{help} lacks {expected}");
        }
    }
}
