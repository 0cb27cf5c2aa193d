//! What durable agreement costs where nothing but quinn and files takes part.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::common::{CALLS, Echo, percentiles};

/// A file that is removed at the end.
pub(crate) struct ScratchFile {
    path: PathBuf,
    file: File,
}

impl ScratchFile {
    pub(crate) fn new(number: usize) -> Self {
        let name = format!("bench-groups-fsync-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut file = File::create(&path).expect("the directory is writable");
        file.write_all(&[0; 1 << 16]).expect("there is space");
        Self { path, file }
    }

    /// Writes 4 KiB and makes them durable.
    pub(crate) fn sync(&self) {
        let mut file = &self.file;
        file.rewind().expect("it is a file");
        file.write_all(&[7; 4_096]).expect("there is space");
        file.sync_data().expect("the disk works");
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        // Whoever looks after the directory finds it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The least that a durable commit of `nodes` takes with the runtime, the transport and the disk at hand: one sends a frame of
/// 64 bytes to the others over bare quinn and syncs a file meanwhile; each of them answers once it has synced its own; it
/// is over when a majority has. Median and 99th percentile, in us.
pub(crate) async fn quorum(nodes: usize) -> (f64, f64) {
    let (answer, mut answers) = mpsc::unbounded_channel();
    let others: Vec<_> = (1..nodes)
        .map(|number| {
            let (call, calls) = mpsc::unbounded_channel();
            let other = tokio::spawn(other(number, calls, answer.clone()));
            (call, other)
        })
        .collect();
    let own = Arc::new(ScratchFile::new(0));
    let mut times = Vec::with_capacity(CALLS);
    for number in 0..CALLS {
        let start = Instant::now();
        for (call, _) in &others {
            call.send(number).expect("it takes calls until the end");
        }
        let majority = async {
            let mut left = nodes / 2;
            while left > 0 {
                let answered = answers.recv().await.expect("they answer until the end");
                left -= usize::from(answered == number);
            }
        };
        tokio::join!(sync(own.clone()), majority);
        times.push(start.elapsed());
    }
    for (call, other) in others {
        drop(call);
        other.await.expect("no panic");
    }
    percentiles(times)
}

/// Passes calls on to one of the others, and says which it has answered.
async fn other(
    number: usize,
    mut calls: mpsc::UnboundedReceiver<usize>,
    answers: mpsc::UnboundedSender<usize>,
) {
    let file = Arc::new(ScratchFile::new(number));
    let mut echo = Echo::start(move || sync(file.clone())).await;
    while let Some(call) = calls.recv().await {
        echo.call().await;
        answers.send(call).expect("somebody listens until the end");
    }
    echo.end().await;
}

async fn sync(file: Arc<ScratchFile>) {
    let synced = tokio::task::spawn_blocking(move || file.sync());
    synced.await.expect("no panic");
}
