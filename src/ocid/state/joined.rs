//! A retry joins the attempt that is under way, and finds the result of one whose client went away.
//!
//! Clients repeat a create call when their deadline passes, with the same name and attempt. The first
//! call's task outlives its client; a repeat must neither start over nor be refused.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio_util::task::TaskTracker;

use crate::ocid::error::{Error, Result};

type Running = Shared<BoxFuture<'static, Result<String>>>;

enum Entry {
    Running(Running),
    /// Done, but nobody was there to take the answer.
    Unclaimed(String),
}

/// Operations by name (of what they create, or of what they do to which id), each answering with an id.
#[derive(Default)]
pub struct Joined {
    entries: Arc<Mutex<HashMap<String, Entry>>>,
    /// What an earlier daemon made and may not have told anybody of.
    offers: Mutex<HashSet<String>>,
}

impl Joined {
    /// Runs `work` in a task of its own that ends even if the caller does not wait, unless an
    /// operation of this name is under way or has an answer that nobody took: then that one's.
    pub async fn run<F>(&self, tasks: &TaskTracker, name: String, work: F) -> Result<String>
    where
        F: Future<Output = Result<String>> + Send + 'static,
    {
        let running = {
            let mut entries = lock(&self.entries);
            match entries.get(&name) {
                Some(Entry::Running(running)) => running.clone(),
                Some(Entry::Unclaimed(id)) => {
                    let id = id.clone();
                    entries.remove(&name);
                    return Ok(id);
                }
                None => {
                    let running = self.spawn(tasks, name.clone(), work);
                    entries.insert(name.clone(), Entry::Running(running.clone()));
                    running
                }
            }
        };
        let answer = running.await;
        // The news that the client has left may be waiting for its turn.
        tokio::task::yield_now().await;
        // Reached only by a caller that is still there: it takes the answer along.
        if let Ok(id) = &answer {
            self.forget(id);
        }
        answer
    }

    /// The names of operations under way.
    pub fn names(&self) -> Vec<String> {
        let entries = lock(&self.entries);
        let running = entries
            .iter()
            .filter(|(_, entry)| matches!(entry, Entry::Running(_)));
        running.map(|(name, _)| name.clone()).collect()
    }

    /// Forgets an answer that nobody took: it was taken now, or what it names is gone.
    pub fn forget(&self, id: &str) {
        lock(&self.entries).retain(|_, entry| !matches!(entry, Entry::Unclaimed(i) if i == id));
        self.take_offer(id);
    }

    /// After a restart: this id may never have reached the client, so a repeat of the call may have it, once.
    pub fn offer(&self, id: &str) {
        lock(&self.offers).insert(id.to_owned());
    }

    /// Is this id on offer? From now on it is not.
    pub fn take_offer(&self, id: &str) -> bool {
        lock(&self.offers).remove(id)
    }

    fn spawn<F>(&self, tasks: &TaskTracker, name: String, work: F) -> Running
    where
        F: Future<Output = Result<String>> + Send + 'static,
    {
        let entries = Arc::clone(&self.entries);
        let key = name.clone();
        let task = tasks.spawn(async move {
            let answer = work.await;
            let mut entries = lock(&entries);
            match &answer {
                Ok(id) => entries.insert(key, Entry::Unclaimed(id.clone())),
                Err(_) => entries.remove(&key),
            };
            answer
        });
        let entries = Arc::clone(&self.entries);
        let joined = async move {
            task.await.unwrap_or_else(|e| {
                lock(&entries).remove(&name);
                Err(Arc::new(Error::Internal(e.to_string())))
            })
        };
        joined.boxed().shared()
    }
}

/// A panic elsewhere does not poison what is only a table.
fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::oneshot;

    fn counted(
        count: &Arc<AtomicUsize>,
        gate: oneshot::Receiver<()>,
    ) -> impl Future<Output = Result<String>> + Send + use<> {
        let count = Arc::clone(count);
        async move {
            let n = count.fetch_add(1, Ordering::SeqCst);
            let _ = gate.await;
            Ok(format!("id{n}"))
        }
    }

    fn open_gate() -> oneshot::Receiver<()> {
        oneshot::channel().1
    }

    #[tokio::test]
    async fn a_repeat_joins_and_an_abandoned_answer_is_found() {
        let (tasks, joined) = (TaskTracker::new(), Joined::default());
        let count = Arc::new(AtomicUsize::new(0));
        let (open, gate) = oneshot::channel();
        {
            let first = joined.run(&tasks, "pod".into(), counted(&count, gate));
            tokio::pin!(first);
            let early = futures_util::poll!(&mut first);
            assert!(early.is_pending());
            // The client gives up here: the future is dropped, the task goes on.
        }
        open.send(()).unwrap();
        tasks.close();
        tasks.wait().await;
        let again = joined
            .run(&tasks, "pod".into(), counted(&count, open_gate()))
            .await;
        assert_eq!(again.unwrap(), "id0");
        let fresh = joined
            .run(&tasks, "pod".into(), counted(&count, open_gate()))
            .await;
        assert_eq!(fresh.unwrap(), "id1", "an answer is taken once");
    }

    #[tokio::test]
    async fn two_at_once_share_one_run_and_errors_are_not_kept() {
        let (tasks, joined) = (TaskTracker::new(), Joined::default());
        let fail = || async { Err(Arc::new(Error::Internal("x".into()))) };
        let (a, b) = tokio::join!(
            joined.run(&tasks, "pod".into(), fail()),
            joined.run(&tasks, "pod".into(), fail())
        );
        assert!(Arc::ptr_eq(&a.unwrap_err(), &b.unwrap_err()));
        let ok = joined
            .run(&tasks, "pod".into(), async { Ok("id".to_owned()) })
            .await;
        assert_eq!(ok.unwrap(), "id");
    }
}
