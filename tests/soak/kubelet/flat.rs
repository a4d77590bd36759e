//! Figures taken all the while: what the daemon and the machine hold does not grow.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::figures::Figures;
use crate::world::{LIMIT, World};

/// Fewer figures say nothing of growth.
const ENOUGH: usize = 4;

pub struct Flat {
    begun: Instant,
    pause: Duration,
    due: Instant,
    /// KiB.
    slack: u64,
    taken: Vec<Figures>,
}

impl Flat {
    pub fn new(pause: Duration, slack: u64) -> Self {
        let begun = Instant::now();
        Self {
            begun,
            pause,
            due: begun + pause,
            slack,
            taken: Vec::new(),
        }
    }

    pub fn due(&self) -> Instant {
        self.due
    }

    pub fn note(&mut self, figures: Figures) {
        println!("{:5} s: {figures}", self.begun.elapsed().as_secs());
        self.due = Instant::now() + self.pause;
        self.taken.push(figures);
    }

    /// In the second half there is at no time more than half as much again as there was in the first.
    pub fn assert_flat(&self) -> Result<()> {
        if self.taken.len() < ENOUGH {
            return Ok(());
        }
        let (first, second) = self.taken.split_at(self.taken.len() / 2);
        for figures in second {
            let within = first
                .iter()
                .any(|earlier| figures.is_within(earlier, self.slack));
            ensure!(within, "it grows: {figures}");
        }
        Ok(())
    }
}

/// The figures once no descriptor and no memory is held that was not before, or when that takes too long.
pub async fn settled(world: &World, before: &Figures, slack: u64) -> Result<Figures> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let now = Figures::take(world)?;
        let most = before.resident + slack;
        if now.descriptors <= before.descriptors && now.resident <= most {
            return Ok(now);
        }
        if Instant::now() >= deadline {
            let open = Figures::open(world)?.join("\n  ");
            bail!("before:\n{before}\nafter:\n{now}\nopen:\n  {open}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
