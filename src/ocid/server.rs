//! The daemon's life: settings, lock, what is left of before, socket, service, drain.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::Flock;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::config::{self, Config, ConfigError};
use super::daemon::Daemon;
use super::dump;
use super::error::Error;
use super::failpoint;
use super::listen::bind;
use super::metrics;
use super::reload::Reload;
use super::rpc::Service;
use super::rpc::deadline::Deadlines;
use super::state::restore;
use super::stats;
use super::streaming::server::{self as streaming, StreamingError};
use super::streaming::tls::TlsError;
use super::watchdog;
use crate::cri::v1::image_service_server::ImageServiceServer;
use crate::cri::v1::runtime_service_server::RuntimeServiceServer;
use crate::host::lock;

/// How long operations under way may take to end after SIGTERM; systemd's own limit is 90 s.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);
/// How long the last answers may take to go out.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// How long the state folder may still be held by what a killed daemon was just starting.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// Threads that answer calls. Most work waits for the kernel or for a child process.
const WORKERS: usize = 2;
/// Threads for code that blocks on files and mounts.
const BLOCKING: usize = 64;
/// The largest request; kubelet's own limit is 16 MiB.
const REQUEST_CAP: usize = 16 << 20;

/// What the command line says over the configuration file.
#[derive(Debug, Default)]
pub struct Options {
    /// Absent: [`config::DEFAULT_FILE`], which may be missing.
    pub config: Option<PathBuf>,
    pub listen: Option<PathBuf>,
    pub root: Option<PathBuf>,
    pub runroot: Option<PathBuf>,
}

/// Why a daemon does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{act} `{}`", path.display())]
    Io {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("another daemon has the state folder `{}`", .0.display())]
    Locked(PathBuf),
    #[error("another process listens on `{}`", .0.display())]
    Listening(PathBuf),
    #[error("`{}` is no socket, so it is not replaced by one", .0.display())]
    NoSocket(PathBuf),
    #[error(transparent)]
    Failpoint(#[from] failpoint::BadOrder),
    #[error("prepare the daemon")]
    Prepare(#[source] Arc<Error>),
    #[error("prepare TLS for metrics")]
    Certificate(#[source] TlsError),
    #[error("start the async runtime")]
    Runtime(#[source] io::Error),
    #[error(transparent)]
    Streaming(#[from] StreamingError),
    #[error("write the settings as TOML")]
    Report(#[source] toml::ser::Error),
    #[error("write to standard output")]
    Print(#[source] io::Error),
    #[error("serve the CRI")]
    Serve(#[from] tonic::transport::Error),
}

impl ServerError {
    /// The command that helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Streaming(StreamingError::Listen { address, .. }) => Some(format!(
                "see who has it with `ss -ltnp sport = :{}`; `stream_port = \"0\"` takes any free port",
                address.port()
            )),
            Self::Locked(root) => Some(format!(
                "see who with `fuser -v {}`",
                root.join("lock").display()
            )),
            Self::Listening(path) => Some(format!("see who with `fuser -v {}`", path.display())),
            Self::NoSocket(path) => Some(format!(
                "look at it with `ls -ld {0}`; move it away, or name another socket in the configuration",
                path.display()
            )),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run it as root".to_owned())
            }
            _ => None,
        }
    }

    pub(super) fn io(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { act, path, source }
    }
}

/// The settings in effect, and the keys in the files that have no effect.
pub fn settings(options: &Options) -> Result<config::Loaded, ConfigError> {
    let default = Path::new(config::DEFAULT_FILE);
    let file = options.config.as_deref();
    let mut loaded = config::load(file.unwrap_or(default), file.is_some())?;
    let crio = &mut loaded.config.crio;
    let given = [
        (
            &mut crio.api.listen,
            &options.listen,
            "crio.api.listen",
            "--listen",
        ),
        (&mut crio.root, &options.root, "crio.root", "--root"),
        (
            &mut crio.runroot,
            &options.runroot,
            "crio.runroot",
            "--runroot",
        ),
    ];
    for (setting, given, key, flag) in given {
        if let Some(path) = given {
            *setting = path.clone();
            loaded.origins.insert(key.to_owned(), flag.to_owned());
        }
    }
    loaded.config.check()?;
    Ok(loaded)
}

/// Serves until SIGTERM or SIGINT, then drains. SIGHUP reads the settings again, which `options` lead
/// to, and `set_log` changes what is logged; SIGUSR1 writes what the daemon is doing to the log.
pub fn run(
    options: Options,
    config: Config,
    set_log: impl Fn(&config::Runtime) + Send + Sync,
) -> Result<(), ServerError> {
    umask(Mode::from_bits_truncate(0o022));
    let open_files = raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build()
        .map_err(ServerError::Runtime)?;
    let reload = Reload { options, set_log };
    runtime.block_on(serve(config, open_files, |daemon| reload.again(daemon)))
}

async fn serve(
    config: Config,
    open_files: Option<(u64, u64)>,
    reload: impl Fn(&Arc<Daemon>),
) -> Result<(), ServerError> {
    if failpoint::arm_from_environment()? {
        let mut go_on = signal(SignalKind::user_defined1()).map_err(ServerError::Runtime)?;
        tokio::spawn(async move {
            while go_on.recv().await.is_some() {
                failpoint::open();
            }
        });
    }
    let root = config.crio.root.clone();
    fs::create_dir_all(&root).map_err(ServerError::io("make the folder", &root))?;
    let runroot = config.crio.runroot.clone();
    fs::create_dir_all(&runroot).map_err(ServerError::io("make the folder", &runroot))?;
    let _lock = hold(&root)?;
    // One with a root of its own would take the other's pods for leftovers.
    let _run_lock = if runroot == root {
        None
    } else {
        Some(hold(&runroot)?)
    };
    let listen = config.crio.api.listen.clone();
    let listener = bind(&listen)?;
    let scrape = &config.crio.metrics;
    let wanted = scrape.enable_metrics && !scrape.metrics_socket.as_os_str().is_empty();
    let unix = wanted.then(|| bind(&scrape.metrics_socket)).transpose()?;
    let scraped = metrics::listen(scrape, unix)
        .await
        .map_err(|(path, source)| ServerError::io("serve metrics on", &path)(source))?;
    let daemon = Daemon::open(config, open_files).map_err(ServerError::Prepare)?;
    if scraped.is_some() {
        let settings = &daemon.config.crio.metrics;
        daemon
            .metrics
            .read_certificate(settings)
            .map_err(ServerError::Certificate)?;
    }
    restore::prepare(&daemon)
        .await
        .map_err(ServerError::Prepare)?;
    restore::restore(&daemon)
        .await
        .map_err(ServerError::Prepare)?;

    streaming::start(&daemon).await?;

    let mut terminate = signal(SignalKind::terminate()).map_err(ServerError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServerError::Runtime)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(ServerError::Runtime)?;
    let mut dumps = signal(SignalKind::user_defined1()).map_err(ServerError::Runtime)?;
    let stop = async {
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                _ = hangup.recv() => reload(&daemon),
                _ = dumps.recv() => dump::write(&daemon),
            }
        }
    };
    if let Some(listeners) = scraped {
        metrics::serve(&daemon, listeners);
    }
    let service = Service(Arc::clone(&daemon));
    let api = &daemon.config.crio.api;
    let size = |bytes: i64| usize::try_from(bytes).ok().filter(|bytes| *bytes > 0);
    let request = size(api.grpc_max_recv_msg_size).unwrap_or(REQUEST_CAP);
    let answer = size(api.grpc_max_send_msg_size).unwrap_or(usize::MAX);
    let server = Server::builder()
        .layer(Deadlines)
        .add_service(
            RuntimeServiceServer::new(service.clone())
                .max_decoding_message_size(request)
                .max_encoding_message_size(answer),
        )
        .add_service(
            ImageServiceServer::new(service)
                .max_decoding_message_size(request)
                .max_encoding_message_size(answer),
        );
    tracing::info!(socket = %listen.display(), version = env!("CARGO_PKG_VERSION"), "serving");
    notify(&[sd_notify::NotifyState::Ready]);
    watchdog::start(&daemon);
    stats::start(&daemon);
    let stopping = daemon.stopping.clone();
    let served = server.serve_with_incoming_shutdown(
        UnixListenerStream::new(listener),
        stopping.clone().cancelled_owned(),
    );
    let stop = async {
        stop.await;
        notify(&[sd_notify::NotifyState::Stopping]);
        tracing::info!(operations = daemon.tasks.len(), "draining");
        stopping.cancel();
        daemon.tasks.close();
        daemon.tasks.wait().await;
    };
    drain(served, stop, &stopping).await?;
    if let Err(error) = fs::remove_file(&listen) {
        tracing::warn!(socket = %listen.display(), %error, "the socket was not removed");
    }
    Ok(())
}

/// Serves until told to stop, and then waits for calls and operations under way, but not for ever: a
/// call may last as long as its client likes.
async fn drain(
    served: impl Future<Output = Result<(), tonic::transport::Error>>,
    stopped: impl Future<Output = ()>,
    stopping: &CancellationToken,
) -> Result<(), ServerError> {
    let late = async {
        stopping.cancelled().await;
        tokio::time::sleep(DRAIN_LIMIT).await;
    };
    let all = async {
        tokio::pin!(served, stopped);
        tokio::select! {
            ended = &mut served => {
                ended?;
                stopped.await;
            }
            () = &mut stopped => {
                // Every call has its answer. A connection that its client does not close, because it
                // is busy or asleep, keeps nobody.
                if let Ok(ended) = tokio::time::timeout(FLUSH_LIMIT, served).await {
                    ended?;
                }
            }
        }
        Ok::<_, ServerError>(())
    };
    tokio::select! {
        ended = all => ended?,
        () = late => {
            tracing::warn!("calls or operations were cut off; the next start undoes what is half done");
        }
    }
    Ok(())
}

/// Tells systemd, where it started us (sd_notify(3)).
fn notify(state: &[sd_notify::NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd was not told of our state");
    }
}

/// Holds the state folder for this process, until it ends in whatever way.
fn hold(root: &Path) -> Result<Flock<File>, ServerError> {
    let path = root.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(ServerError::io("open the lock", &path))?;
    lock::exclusive(file, LOCK_PATIENCE).map_err(|errno| match errno {
        nix::errno::Errno::EWOULDBLOCK => ServerError::Locked(root.to_owned()),
        errno => ServerError::Io {
            act: "lock",
            path,
            source: errno.into(),
        },
    })
}

/// The soft limit of open files, up to the hard one: every container costs some. Answers with the limit
/// as it was (soft, hard), for what we start.
fn raise_open_files() -> Option<(u64, u64)> {
    let raise = || {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        nix::Result::Ok((soft, hard))
    };
    match raise() {
        Ok(limit) => Some(limit),
        Err(error) => {
            tracing::warn!(%error, "the limit of open files was not raised");
            None
        }
    }
}
