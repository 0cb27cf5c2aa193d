//! Three more nodes form a group, count together, and lose their leader.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use smalti::discovery::PeerAddr;
use smalti::groups::{ApplyContext, Group, GroupKey, Serialized, StateMachine};
use smalti::{Network, Strong, UniqueId, unique_id};

use crate::{Result, member, millis};

const MEMBERS: usize = 3;

/// Counts, and tells each caller how far it has come.
#[derive(Default)]
struct Counter(u64);

#[derive(Serialize, Deserialize)]
struct Add(u64);

impl StateMachine for Counter {
    type Command = Add;
    type Output = u64;
    type Query = ();
    type QueryResult = u64;
    type Snapshot = Serialized<u64>;

    fn signature(&self) -> UniqueId {
        unique_id!("quickstart counter 1")
    }
    fn apply(&mut self, Add(n): Add, _context: ApplyContext) -> u64 {
        self.0 += n;
        self.0
    }
    fn query(&self, (): ()) -> u64 {
        self.0
    }
    fn snapshot(&self) -> Serialized<u64> {
        Serialized(self.0)
    }
    fn restore(&mut self, Serialized(count): Serialized<u64>) {
        self.0 = count;
    }
}

type Member = member::Member<Group<Counter>>;

/// Runs the group: so many commands from each member, the death of the leader, and as many again from those left.
pub(crate) async fn run(bootstrap: &PeerAddr, commands: u64) -> Result<()> {
    let started = Instant::now();
    let mut members = Vec::new();
    for _ in 0..MEMBERS {
        members.push(member::start(bootstrap.clone(), join).await?);
    }
    for member in &members {
        while member.handle.status().voters.len() < MEMBERS {
            member.handle.when().committed().await;
        }
        member.handle.when().online().await;
    }
    println!(
        "{MEMBERS} more nodes formed a group in {:.0} ms, led by {}",
        millis(started.elapsed()),
        leader(&members[0])
    );

    let counting = Instant::now();
    let mut acknowledged = 0;
    for member in &members {
        acknowledged += count(member, commands).await?;
    }
    println!(
        "{acknowledged} commands acknowledged in {:.0} ms",
        millis(counting.elapsed())
    );

    let leads = members.iter().position(|member| member.handle.is_leader());
    let lost = members.remove(leads.ok_or("nobody leads")?);
    let lost_id = lost.network.local().id();
    let dying = Instant::now();
    // Nobody is told: its tasks end where they are, and its socket is gone.
    lost.runtime.shutdown_background();
    acknowledged += count(&members[0], 1).await?;
    println!(
        "the leader {} was killed; {} leads, and the next command was acknowledged after {:.0} ms",
        lost_id.short(),
        leader(&members[0]),
        millis(dying.elapsed())
    );
    for member in &members {
        acknowledged += count(member, commands).await?;
        let counted = member.handle.query((), Strong).await?.result;
        if counted != acknowledged {
            return Err(format!("{acknowledged} acknowledged, and {counted} counted").into());
        }
    }
    println!("all {acknowledged} acknowledged commands were counted, once each");
    for member in members {
        member.network.shutdown().await;
        member.runtime.shutdown_background();
    }
    Ok(())
}

async fn join(network: Network) -> Result<(Network, Group<Counter>)> {
    let group = network
        .groups()
        .with_key(GroupKey::from_bytes([42; 32]))
        .with_state_machine(Counter::default())
        .with_consensus_config(member::consensus())
        .join()
        .await?;
    Ok((network, group))
}

/// Executes so many commands at once, and gives how many were acknowledged: all of them.
async fn count(member: &Member, commands: u64) -> Result<u64> {
    let results = member.handle.execute_many((0..commands).map(|_| Add(1)));
    for result in results.await {
        result?;
    }
    Ok(commands)
}

fn leader(member: &Member) -> String {
    member
        .handle
        .leader()
        .map_or_else(|| "nobody".to_owned(), |leader| leader.short())
}
