use super::*;

fn shell(folder: &Path, script: &str, ready: Option<u64>) -> Service {
    Service {
        name: "sample".to_owned(),
        exe: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![("SAMPLE".into(), "value".into())],
        pidfile: folder.join("sample.pid"),
        logfile: folder.join("sample.log"),
        ready: ready.map(Duration::from_millis),
    }
}

/// A ready service: python tells so, and the shell then stands still without a child.
const READY: &str = r#"python3 -c '
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
s.send(b"STATUS=almost")
s.send(b"READY=1\nSTATUS=there")
'; echo "$SAMPLE $PATH"; mkfifo "$1"; read line < "$1""#;

#[test]
fn started_found_left_alone_and_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = shell(dir.path(), "", None);
    assert_eq!(find(&service), None);
    service.exe = "/bin/sleep".into();
    service.args = vec!["600".into()];
    // Left open by our own caller, so to say: it has no close-on-exec.
    let inherited = tempfile::NamedTempFile::new().unwrap();
    nix::fcntl::fcntl(
        inherited.as_file(),
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    let id = start_background(&service).unwrap();
    assert_eq!(find(&service), Some(id));
    assert_eq!(start_background(&service).unwrap(), id);
    // Its own session, and nothing of ours open but the log. (What its loader reads, it may have.)
    let stat = fs::read_to_string(format!("/proc/{}/stat", id.pid)).unwrap();
    let session = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(3)
        .unwrap();
    assert_eq!(session, id.pid.to_string());
    let of_ours = |folder: &str| -> Vec<PathBuf> {
        let names = fs::read_dir(folder).unwrap();
        let targets = names.filter_map(|name| fs::read_link(name.unwrap().path()).ok());
        targets
            .filter(|target| target == inherited.path())
            .collect()
    };
    assert_eq!(of_ours("/proc/self/fd").len(), 1);
    assert!(of_ours(&format!("/proc/{}/fd", id.pid)).is_empty());
    let log = fs::read_link(format!("/proc/{}/fd/1", id.pid)).unwrap();
    assert_eq!(log, service.logfile);
    assert!(stop(&service, Duration::from_secs(10)).unwrap());
    assert!(!id.is_running());
    assert!(!service.pidfile.exists());
    assert!(!stop(&service, Duration::from_secs(10)).unwrap());
}

#[test]
fn readiness_is_awaited() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = shell(dir.path(), READY, Some(30_000));
    service.args.push("sh".into());
    service.args.push(dir.path().join("fifo").into());
    let id = start_background(&service).unwrap();
    assert!(stop(&service, Duration::from_secs(10)).unwrap());
    assert!(!id.is_running());
    let log = fs::read_to_string(&service.logfile).unwrap();
    // The shell may be stopped before it prints; what it prints is the environment given.
    assert!(log.is_empty() || log == format!("value {PATH}\n"), "{log}");
}

#[test]
fn an_early_end_is_told_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let service = shell(dir.path(), "echo no such port >&2; exit 4", Some(30_000));
    fs::write(&service.logfile, "old line\n").unwrap();
    let error = start_background(&service).unwrap_err();
    assert!(matches!(error, ServiceError::Ended { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("exit status: 4") && text.ends_with("no such port"),
        "{text}"
    );
    assert!(!text.contains("old line"), "{text}");
    assert!(error.hint().unwrap().contains("sample.log"));
    assert!(!service.pidfile.exists());
}

#[test]
fn one_that_is_never_ready_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let service = shell(dir.path(), "echo $$; exec sleep 600", Some(300));
    let error = start_background(&service).unwrap_err();
    assert!(matches!(error, ServiceError::NotReady { .. }), "{error:?}");
    let log = fs::read_to_string(&service.logfile).unwrap();
    let pid: i32 = log.trim().parse().unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!service.pidfile.exists());
}

#[test]
fn a_program_that_cannot_run_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = shell(dir.path(), "", None);
    for exe in [dir.path().join("absent"), dir.path().join("sample.log")] {
        service.exe = exe;
        let error = start_background(&service).unwrap_err();
        assert!(matches!(error, ServiceError::Spawn { .. }), "{error:?}");
        assert!(!service.pidfile.exists());
    }
    service.exe = "/bin/sleep".into();
    service.pidfile = dir.path().join("absent/pid");
    let error = start_background(&service).unwrap_err();
    assert!(matches!(error, ServiceError::Pidfile { .. }), "{error:?}");
}

#[test]
fn sigterm_that_is_ignored_becomes_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let script = "trap '' TERM; echo up; while :; do read x < /dev/zero; done";
    let mut service = shell(dir.path(), script, None);
    service.exe = fs::canonicalize("/bin/sh").unwrap();
    let id = start_background(&service).unwrap();
    wait_for_line(&service.logfile);
    assert!(stop(&service, Duration::from_millis(50)).unwrap());
    assert!(!id.is_running());
}

/// Waits on the log by inotify until it holds something.
fn wait_for_line(logfile: &Path) {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    let watch = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
    watch.add_watch(logfile, AddWatchFlags::IN_MODIFY).unwrap();
    while fs::metadata(logfile).unwrap().len() == 0 {
        watch.read_events().unwrap();
    }
}

#[test]
fn another_process_is_not_taken_for_the_service() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = shell(dir.path(), "", None);
    service.exe = "/bin/sleep".into();
    service.args = vec!["600".into()];
    let id = start_background(&service).unwrap();
    let good = fs::read(&service.pidfile).unwrap();
    let record = Record::parse(&good).unwrap();
    assert_eq!(record.bytes(), good);
    let fakes = [
        Record {
            id: ProcessId {
                pid: id.pid,
                start_time: 1,
            },
            ..Record::parse(&good).unwrap()
        },
        Record {
            boot: "another".to_owned(),
            ..Record::parse(&good).unwrap()
        },
        Record {
            exe: "/bin/other".into(),
            ..Record::parse(&good).unwrap()
        },
    ];
    for fake in fakes {
        fs::write(&service.pidfile, fake.bytes()).unwrap();
        assert_eq!(find(&service), None, "{fake:?}");
    }
    for broken in [
        &b""[..],
        b"x",
        b"1\n2\n3",
        b"1\n\n\n\n",
        b"\xff\n1\n1\n/x\n",
    ] {
        fs::write(&service.pidfile, broken).unwrap();
        assert_eq!(find(&service), None);
    }
    fs::write(&service.pidfile, good).unwrap();
    assert!(stop(&service, Duration::from_secs(10)).unwrap());
}

#[test]
fn a_replaced_program_is_still_the_service() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = shell(dir.path(), "", None);
    service.exe = dir.path().join("program");
    service.args = vec!["600".into()];
    fs::copy("/bin/sleep", &service.exe).unwrap();
    let id = start_background(&service).unwrap();
    let newer = dir.path().join("newer");
    fs::copy("/bin/sleep", &newer).unwrap();
    fs::rename(&newer, &service.exe).unwrap();
    assert_eq!(find(&service), Some(id));
    assert!(stop(&service, Duration::from_secs(10)).unwrap());
}
