//! Work of one call over several threads.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;

/// At most, also on the largest machines: a call that nobody waits for must not take all of it.
const MOST: usize = 4;
/// Less than this for each is done before a thread has come up.
const WORTH_A_THREAD: usize = 25;
/// So many at a time: a thread that is held up leaves the rest to the others, and none waits long for the last.
const PORTION: usize = 2;

/// To ask is to read files, and the answer does not change.
static PROCESSORS: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));

/// What `one` makes of each, in their order. Blocks.
pub(super) fn spread<T: Send, U: Send>(of: Vec<T>, one: impl Fn(T) -> U + Sync) -> Vec<U> {
    let threads = (of.len() / WORTH_A_THREAD).min(*PROCESSORS).min(MOST);
    if threads < 2 {
        return of.into_iter().map(one).collect();
    }
    let rest = Mutex::new(of.into_iter().enumerate());
    let work = || {
        let mut done = Vec::new();
        loop {
            let portion: Vec<(usize, T)> = {
                // An iterator of a vector is whole whatever a panicking thread was at.
                let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
                rest.by_ref().take(PORTION).collect()
            };
            if portion.is_empty() {
                return done;
            }
            done.extend(portion.into_iter().map(|(at, item)| (at, one(item))));
        }
    };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for thread in others {
            let other = thread.join();
            done.extend(other.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, made)| made).collect()
}

/// Both at once, the first on a thread of its own. Blocks.
pub(super) fn beside<T: Send, U>(
    first: impl FnOnce() -> T + Send,
    second: impl FnOnce() -> U,
) -> (T, U) {
    thread::scope(|scope| {
        let first = scope.spawn(first);
        let second = second();
        let first = first.join();
        let first = first.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (first, second)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_done_in_order_however_much_it_is() {
        for count in [0, 1, 24, 25, 49, 50, 51, 99, 100, 101, 203] {
            let all: Vec<usize> = (0..count).collect();
            let twice: Vec<usize> = all.iter().map(|n| 2 * n).collect();
            assert_eq!(spread(all, |n| 2 * n), twice);
        }
    }
}
