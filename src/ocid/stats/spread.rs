//! Work of one call over several threads.

use std::sync::LazyLock;
use std::thread;

/// At most, also on the largest machines: a call that nobody waits for must not take all of it.
const MOST: usize = 4;
/// Less than this for each is done before a thread has come up.
const WORTH_A_THREAD: usize = 25;

/// To ask is to read files, and the answer does not change.
static PROCESSORS: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));

/// What `one` makes of each, in their order. Blocks.
pub(super) fn spread<T: Send, U: Send>(of: Vec<T>, one: impl Fn(T) -> U + Sync) -> Vec<U> {
    let threads = (of.len() / WORTH_A_THREAD).min(*PROCESSORS).min(MOST);
    if threads < 2 {
        return of.into_iter().map(one).collect();
    }
    let each = of.len().div_ceil(threads);
    let (mut rest, mut shares) = (of.into_iter(), Vec::new());
    for _ in 0..threads {
        shares.push(rest.by_ref().take(each).collect::<Vec<T>>());
    }
    let one = &one;
    let work = |share: Vec<T>| share.into_iter().map(one).collect::<Vec<U>>();
    thread::scope(|scope| {
        let mut shares = shares.into_iter();
        let own = shares.next().unwrap_or_default();
        let running: Vec<_> = shares.map(|share| scope.spawn(|| work(share))).collect();
        let mut done = work(own);
        for thread in running {
            let other = thread.join();
            done.extend(other.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    })
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
