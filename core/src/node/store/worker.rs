//! The worker: takes what is queued, has it carried out where that may block, and tells the groups.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};

use super::Done;
use super::round::{Job, Reply, carry_out};
use crate::id::GroupId;
use crate::node::tasks::Tasks;
use crate::protocol::raft::{Recovered, Storage, StorageError, Write, WriteId};

/// Requests that one sync serves, at most, so that a long queue cannot keep those who wait from being told.
const ROUND_MAX: usize = 1_024;

/// What is asked of the worker.
pub(super) enum Request {
    Open {
        group: GroupId,
        number: u64,
        done: Done,
        reply: Reply<Option<Recovered>>,
    },
    Write {
        group: GroupId,
        number: u64,
        id: WriteId,
        write: Box<Write>,
    },
    Forget {
        group: GroupId,
        reply: Reply<()>,
    },
    /// The handle of this number is gone.
    Release {
        number: u64,
    },
    Close(oneshot::Sender<()>),
}

/// A group that is open.
struct Open {
    group: GroupId,
    done: Done,
}

pub(super) struct Worker {
    tasks: Tasks,
    /// It is not there while a round is under way, nor after one that has panicked. A store that has failed
    /// stays: as long as the node runs, nobody else is to have its directory.
    storage: Option<Box<dyn Storage>>,
    has_failed: bool,
    /// By the number of their handles.
    open: BTreeMap<u64, Open>,
}

impl Worker {
    pub(super) const fn new(tasks: Tasks, storage: Box<dyn Storage>) -> Self {
        Self {
            tasks,
            storage: Some(storage),
            has_failed: false,
            open: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Request>) {
        let mut taken = Vec::new();
        let mut closing = None;
        while closing.is_none() && queue.recv_many(&mut taken, ROUND_MAX).await > 0 {
            let mut jobs = Vec::with_capacity(taken.len());
            for request in taken.drain(..) {
                match request {
                    Request::Close(reply) => {
                        closing = Some(reply);
                        // What comes after it is answered by its end.
                        break;
                    }
                    request => jobs.extend(self.job(request)),
                }
            }
            if !jobs.is_empty() {
                self.round(jobs).await;
            }
        }
        self.fail(&StorageError::Closed);
        let storage = self.storage.take();
        self.tasks
            .blocking("close the store", move || drop(storage))
            .await;
        if let Some(reply) = closing {
            // Whoever closes it need not wait for it.
            let _ = reply.send(());
        }
    }

    /// What is to be done for a request, if it is anything with the storage.
    fn job(&mut self, request: Request) -> Option<Job> {
        match request {
            Request::Open {
                group,
                number,
                done,
                reply,
            } => {
                let refusal = if self.has_failed {
                    Some(StorageError::Closed)
                } else if self.open.values().any(|open| open.group == group) {
                    let how = format!("group {group} is open twice");
                    Some(StorageError::Contradiction { how })
                } else {
                    None
                };
                if let Some(refusal) = refusal {
                    answer(reply, Err(refusal));
                    return None;
                }
                self.open.insert(number, Open { group, done });
                Some(Job::Load {
                    group,
                    found: Box::default(),
                    reply,
                })
            }
            Request::Write {
                group,
                number,
                id,
                write,
            } => (!self.has_failed).then_some(Job::Write {
                group,
                number,
                id,
                write,
            }),
            Request::Forget { group, reply } => {
                if self.has_failed {
                    answer(reply, Err(StorageError::Closed));
                    return None;
                }
                Some(Job::Forget { group, reply })
            }
            Request::Release { number } => {
                self.open.remove(&number);
                None
            }
            Request::Close(_) => None,
        }
    }

    async fn round(&mut self, mut jobs: Vec<Job>) {
        let Some(mut storage) = self.storage.take() else {
            return;
        };
        let work = move || {
            let result = carry_out(&mut *storage, &mut jobs);
            (storage, jobs, result)
        };
        let Some((storage, jobs, result)) = self.tasks.blocking("store", work).await else {
            self.fail(&StorageError::Disk {
                doing: "writing to the store",
                cause: "the code that writes has panicked".to_owned(),
            });
            return;
        };
        self.storage = Some(storage);
        self.tell(jobs, &result);
        if let Err(error) = result {
            self.fail(&error);
        }
    }

    /// Answers those who wait for their jobs, and tells the groups what is durable.
    fn tell(&self, jobs: Vec<Job>, result: &Result<(), StorageError>) {
        let mut durable = BTreeMap::new();
        for job in jobs {
            match job {
                Job::Load { found, reply, .. } => answer(reply, result.clone().map(|()| *found)),
                Job::Write { number, id, .. } => drop(durable.insert(number, id)),
                Job::Forget { reply, .. } => answer(reply, result.clone()),
            }
        }
        if result.is_ok() {
            for (number, id) in durable {
                if let Some(open) = self.open.get(&number) {
                    (open.done)(Ok(id));
                }
            }
        }
    }

    /// Closes the store for good, and tells every group why.
    fn fail(&mut self, error: &StorageError) {
        if std::mem::replace(&mut self.has_failed, true) {
            return;
        }
        for open in self.open.values() {
            (open.done)(Err(error.clone()));
        }
    }
}

/// Whoever asked may have gone.
fn answer<T>(reply: Reply<T>, answer: Result<T, StorageError>) {
    let _ = reply.send(answer);
}
