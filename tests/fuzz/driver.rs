//! Runs inputs in a process of its own, which is told apart from this one by a variable: whatever ends it (a panic, a
//! limit of memory, an input that takes too long) is seen from here, the input saved.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::alarm;
use tokio::runtime::Runtime;

use crate::random::Random;

const SECONDS: &str = "OCID_FUZZ_SECONDS";
const SEED: &str = "OCID_FUZZ_SEED";
const REPLAY: &str = "OCID_FUZZ_REPLAY";
/// Set in the process that runs the inputs: the file in which the number of the current one stands.
const WORKER: &str = "OCID_FUZZ_WORKER";

/// Seconds that one input may take, on however slow a machine; its usual ones are microseconds.
const INPUT_LIMIT: u32 = 60;
/// Bytes that an input may make the process need beyond what it needed before.
const MEMORY: u64 = 64 << 20;
/// Inputs before that is looked at first.
const WARM_UP: u64 = 300;
/// Bytes that may be kept after any number of inputs: what an allocator does not give back.
const KEPT: u64 = 24 << 20;
/// How often the clock is looked at.
const STRIDE: u64 = 256;

/// One input: the bytes that a peer sends, and a number that the circumstances follow (what was asked for, how the
/// bytes are cut, how the other side behaves).
#[derive(Debug, Clone)]
pub struct Case {
    pub choices: u64,
    pub bytes: Vec<u8>,
}

pub trait Target {
    /// Also the name of the test.
    const NAME: &'static str;
    /// Inputs of a short run.
    const SHORT: u64;

    fn make(random: &mut Random) -> Case;

    /// True when all of it was taken for what it should be.
    fn run(runtime: &Runtime, case: &Case) -> bool;
}

impl Case {
    fn of<T: Target>(seed: u64, number: u64) -> Self {
        let mut random = Random::new(seed.rotate_left(32) ^ number);
        T::make(&mut random)
    }

    fn save(&self, path: &PathBuf) {
        let mut whole = self.choices.to_be_bytes().to_vec();
        whole.extend_from_slice(&self.bytes);
        fs::write(path, whole).expect("the input is saved");
    }

    fn load(path: &str) -> Self {
        let whole = fs::read(path).unwrap_or_else(|e| panic!("read `{path}`: {e}"));
        let (choices, bytes) = whole.split_first_chunk().expect("a saved input");
        Self {
            choices: u64::from_be_bytes(*choices),
            bytes: bytes.to_vec(),
        }
    }
}

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("`{name}` is `{text}`, not a number")))
}

/// The whole of a test.
pub fn survives<T: Target>() {
    if let Ok(path) = std::env::var(WORKER) {
        return work::<T>(&path);
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&folder).expect("a folder for inputs");
    let marks = tempfile::NamedTempFile::new_in(&folder).expect("a file for marks");
    let seed = setting(SEED).unwrap_or(1);
    println!("{}: seed {seed}", T::NAME);
    let status = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", T::NAME, "--nocapture", "--test-threads=1"])
        .env(WORKER, marks.path())
        .env(SEED, seed.to_string())
        .status()
        .expect("the program runs itself");
    if status.success() {
        return;
    }
    let how = match status.signal().map(Signal::try_from) {
        Some(Ok(Signal::SIGALRM)) => format!("it took longer than {INPUT_LIMIT} s"),
        _ => status.to_string(),
    };
    if let Ok(path) = std::env::var(REPLAY) {
        panic!("`{path}`: {how}");
    }
    let mut mark = [0; 8];
    let read = File::open(marks.path()).and_then(|file| file.read_exact_at(&mut mark, 0));
    read.expect("the number of the input");
    let number = u64::from_be_bytes(mark);
    let path = folder.join(format!("{}-{seed}-{number}", T::NAME));
    Case::of::<T>(seed, number).save(&path);
    panic!(
        "input {number} of seed {seed}: {how}\nagain: tests/fuzz/run {} --replay {}",
        T::NAME,
        path.display()
    );
}

fn work<T: Target>(marks: &str) {
    // A task's panic would only be that task's.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("an end with the parent");
    let marks = File::options().write(true).open(marks).expect("the marks");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if let Ok(path) = std::env::var(REPLAY) {
        let case = Case::load(&path);
        cap_memory();
        one::<T>(&runtime, &case);
        return println!("{}: `{path}` does no harm", T::NAME);
    }
    let seed = setting(SEED).unwrap_or(1);
    let begun = Instant::now();
    let limit = setting(SECONDS).map(Duration::from_secs);
    let (mut number, mut taken, mut before) = (0, 0, 0);
    loop {
        let over = match limit {
            Some(limit) => number % STRIDE == 0 && begun.elapsed() >= limit,
            None => number == T::SHORT,
        };
        if over && number > WARM_UP {
            break;
        }
        marks
            .write_all_at(&u64::to_be_bytes(number), 0)
            .expect("a mark");
        let case = Case::of::<T>(seed, number);
        taken += u64::from(one::<T>(&runtime, &case));
        number += 1;
        if number == WARM_UP {
            before = cap_memory();
        }
    }
    let (after, passed) = (data(), begun.elapsed().as_secs_f64());
    println!(
        "{}: {number} inputs in {passed:.1} s ({:.0}/s), {taken} of them taken; memory {} KiB, then {} KiB",
        T::NAME,
        number as f64 / passed,
        before >> 10,
        after >> 10
    );
    assert!(after < before + KEPT, "memory grows");
    // Neither all noise nor all harmless.
    assert!(
        taken > number / 50 && taken < number - number / 50,
        "{taken} of {number}"
    );
}

fn one<T: Target>(runtime: &Runtime, case: &Case) -> bool {
    alarm::set(INPUT_LIMIT);
    let taken = T::run(runtime, case);
    runtime.block_on(nothing_left());
    alarm::cancel();
    taken
}

/// Waits until every task has ended; that it takes too long is the alarm's to say.
async fn nothing_left() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let mut turns = 0;
    while metrics.num_alive_tasks() > 0 {
        turns += 1;
        match turns {
            0..1000 => tokio::task::yield_now().await,
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// From here on an allocation past the limit ends the process. Answers what it needs now.
fn cap_memory() -> u64 {
    let now = data();
    setrlimit(Resource::RLIMIT_DATA, now + MEMORY, now + MEMORY).expect("a limit of memory");
    now
}

/// Bytes of private memory that can be written to.
fn data() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("the process' status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:"));
    let text = line.expect("VmData").trim().trim_end_matches(" kB");
    text.parse::<u64>().expect("a number") << 10
}
