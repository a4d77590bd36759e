//! Points at which a test lets this process die or fail, by environment variable, in debug builds
//! only: in a release build nothing of it is left.
//!
//! `CRIO_SETUP_FAILPOINT=kill@N` kills the process at the N-th point that it passes;
//! `fail@NAME` makes the step of that id fail; `kill@NAME` kills at the point of that name.

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static PASSED: AtomicU64 = AtomicU64::new(0);
    static ORDER: OnceLock<Option<(String, String)>> = OnceLock::new();

    fn order() -> Option<&'static (String, String)> {
        ORDER
            .get_or_init(|| {
                let order = std::env::var("CRIO_SETUP_FAILPOINT").ok()?;
                let (act, at) = order.split_once('@')?;
                Some((act.to_owned(), at.to_owned()))
            })
            .as_ref()
    }

    pub fn pass(name: &str) {
        let passed = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some((act, at)) = order()
            && act == "kill"
            && (at == name || at.parse() == Ok(passed))
        {
            // Not an exit: nothing that runs at an exit may run.
            let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::SIGKILL);
        }
    }

    pub fn fails(name: &str) -> bool {
        order().is_some_and(|(act, at)| act == "fail" && at == name)
    }
}

/// Passes a point of this name.
#[inline]
pub fn pass(name: &str) {
    #[cfg(debug_assertions)]
    armed::pass(name);
    let _ = name;
}

/// Is the step of this name to fail?
#[inline]
pub fn fails(name: &str) -> bool {
    #[cfg(debug_assertions)]
    let fails = armed::fails(name);
    #[cfg(not(debug_assertions))]
    let fails = false;
    let _ = name;
    fails
}
