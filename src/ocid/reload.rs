//! SIGHUP: the configuration is read anew, and what can change in a daemon that runs does, all of it or, where
//! anything in it is wrong, nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::config::{Config, Runtime};
use super::daemon::Daemon;
use super::rpc::status::chain;
use super::server::{Options, settings};

/// The keys that decide what is logged.
const LOG: [&str; 2] = ["crio.runtime.log_level", "crio.runtime.log_filter"];

/// What a reload needs to know.
pub struct Reload<F> {
    /// Where the settings come from.
    pub options: Options,
    /// Changes what is logged.
    pub set_log: F,
}

impl<F: Fn(&Runtime)> Reload<F> {
    /// Reads the settings anew.
    pub fn again(&self, daemon: &Arc<Daemon>) {
        if let Err(problem) = self.try_again(daemon) {
            tracing::error!(
                problem,
                "the configuration is not reloaded, all stays as it was"
            );
        }
    }

    fn try_again(&self, daemon: &Arc<Daemon>) -> Result<(), String> {
        let told = |error: &dyn std::error::Error| {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text.push_str(&format!(": {error}"));
                cause = error.source();
            }
            text
        };
        let loaded = settings(&self.options).map_err(|e| told(&e))?;
        let now = daemon.settings();
        let next = now.config.reloaded(&loaded.config);
        let differ = |one: &Config, two: &Config| one.changed(two).map_err(|e| told(&e));
        let (changed, kept) = (differ(&now.config, &next)?, differ(&next, &loaded.config)?);
        for ignored in &loaded.ignored {
            tracing::warn!("{ignored}");
        }
        daemon
            .reconfigure(next.clone())
            .map_err(|error| chain(&error))?;
        let (before, after) = (&now.config.crio.runtime, &next.crio.runtime);
        let of_log = LOG.iter().any(|key| changed.contains(*key));
        // Said where more is logged: under the old level or under the new.
        let louder = after.log_targets() > before.log_targets();
        if of_log && louder {
            self.change_log(after);
        }
        say(&changed, &kept);
        if of_log && !louder {
            self.change_log(after);
        }
        // Nothing depends on it but what it shows, so it is no reason to refuse the rest.
        if let Err(error) = daemon.metrics.read_certificate(&now.config.crio.metrics) {
            let problem = told(&error);
            tracing::error!(problem, "metrics are served with the certificate until now");
        }
        tracing::info!("the configuration is reloaded");
        Ok(())
    }

    fn change_log(&self, runtime: &Runtime) {
        (self.set_log)(runtime);
        let (level, filter) = (&runtime.log_level, &runtime.log_filter);
        tracing::info!(%level, %filter, "what is logged is changed");
    }
}

fn say(changed: &BTreeSet<String>, kept: &BTreeSet<String>) {
    for key in changed {
        tracing::info!("`{key}` has changed and takes effect from here on");
    }
    for key in kept {
        tracing::warn!("`{key}` has changed; it takes effect when the daemon is restarted");
    }
}
