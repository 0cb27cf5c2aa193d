//! Three more nodes write a map that all nodes have in common, and lose their leader.

use std::time::{Duration, Instant};

use smalti::collections::{CollectionConfig, Map, MapReader, MapWriter};
use smalti::discovery::PeerAddr;
use smalti::{CollectionDef, Network, ReaderDef, StoreId, WriterDef, unique_id};

use crate::{Result, member, millis};

const WRITERS: u64 = 3;

/// Entries that are written as one.
const CHUNK: u64 = 1_000;

/// Which map: a kind and an id. Who opens it finds the others who do.
struct Numbers;

impl CollectionDef for Numbers {
    type Collection = Map<u64, u64>;
    const ID: StoreId = unique_id!("quickstart numbers");

    fn config() -> CollectionConfig {
        CollectionConfig::default().with_consensus_config(member::consensus())
    }
}

impl ReaderDef for Numbers {}
impl WriterDef for Numbers {}

/// Fills the map: so many entries from each writer, the death of the leader, and as many again from those left. The
/// nodes read along.
pub(crate) async fn run(nodes: &[Network], bootstrap: &PeerAddr, entries: u64) -> Result<()> {
    let started = Instant::now();
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        writers.push(member::start(bootstrap.clone(), open).await?);
    }
    let mut readers = Vec::new();
    for node in nodes {
        readers.push(Numbers::online_reader(node).await?);
    }
    for writer in &writers {
        // All vote before the leader is lost.
        while writer.handle.status().voters.len() < writers.len() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    println!(
        "{WRITERS} more nodes and all others share a map after {:.0} ms",
        millis(started.elapsed())
    );

    let writing = Instant::now();
    let mut written = 0;
    for writer in &writers {
        written = write(&writer.handle, written, entries).await?;
    }
    read(&readers, written).await?;
    println!(
        "{written} entries written, and read on {} nodes, in {:.0} ms",
        readers.len(),
        millis(writing.elapsed())
    );

    let leads = writers.iter().position(|it| it.handle.status().is_leader());
    let lost = writers.remove(leads.ok_or("nobody leads")?);
    let dying = Instant::now();
    // Nobody is told: its tasks end where they are, and its socket is gone.
    lost.runtime.shutdown_background();
    written = write(&writers[0].handle, written, 1).await?;
    println!(
        "the map's leader {} was killed; the next entry was written after {:.0} ms",
        lost.network.local().id().short(),
        millis(dying.elapsed())
    );
    for writer in &writers {
        written = write(&writer.handle, written, entries).await?;
    }
    read(&readers, written).await?;
    println!("all {written} entries are read on all nodes");
    for writer in writers {
        writer.network.shutdown().await;
        writer.runtime.shutdown_background();
    }
    Ok(())
}

async fn open(network: Network) -> Result<(Network, MapWriter<u64, u64>)> {
    let writer = Numbers::online_writer(&network).await?;
    Ok((network, writer))
}

/// Writes so many entries, from key `first` on, and gives the key after the last.
async fn write(map: &MapWriter<u64, u64>, first: u64, count: u64) -> Result<u64> {
    let end = first + count;
    for start in (first..end).step_by(CHUNK as usize) {
        let keys = start..end.min(start + CHUNK);
        let expected = keys.end - keys.start;
        let new = map.extend(keys.map(|key| (key, key * key))).await?;
        if new.output != expected {
            return Err(format!("{expected} keys were new, the map says {}", *new).into());
        }
    }
    Ok(end)
}

/// Waits until all readers have so many entries, and checks each.
async fn read(readers: &[MapReader<u64, u64>], count: u64) -> Result<()> {
    for reader in readers {
        let mut updated = reader.when().updated();
        while (reader.len() as u64) < count {
            (&mut updated).await;
        }
        if !reader.iter().eq((0..count).map(|key| (key, key * key))) {
            return Err("a node reads something else than was written".into());
        }
    }
    Ok(())
}
