//! The client against a CRI server of the tests.

use tonic::Code;

use super::*;
use crate::cri::v1::{PullImageResponse, StopContainerResponse};
use crate::ocic::fake::FakeCri;

#[test]
fn a_started_second_counts() {
    assert_eq!(whole_seconds(Duration::ZERO), 0);
    assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
    assert_eq!(whole_seconds(Duration::from_secs(10)), 10);
    assert_eq!(whole_seconds(Duration::MAX), i64::MAX);
}

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_answer_is_read_and_the_request_is_what_was_asked() {
    let fake = FakeCri::start();
    fake.answer(
        "Version",
        VersionResponse {
            runtime_name: "ocid".into(),
            ..Default::default()
        },
    );
    fake.answer("StopContainer", StopContainerResponse {});
    let client = Client::connect(fake.socket(), LIMIT).await.unwrap();
    assert_eq!(client.version().await.unwrap().runtime_name, "ocid");
    assert_eq!(fake.request::<VersionRequest>("Version").version, "v1");
    let grace = Duration::from_millis(1500);
    client.stop_container("c", grace).await.unwrap();
    let request: StopContainerRequest = fake.request("StopContainer");
    assert_eq!((request.container_id.as_str(), request.timeout), ("c", 2));
}

#[tokio::test]
async fn a_refusal_keeps_its_code_and_words() {
    let fake = FakeCri::start();
    fake.refuse("StartContainer", Status::not_found("no container `c`"));
    let client = Client::connect(fake.socket(), LIMIT).await.unwrap();
    let error = client.start_container("c").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
    assert_eq!(
        error.to_string(),
        "StartContainer: no container `c` (code NotFound)"
    );
    let error = client.remove_image("i").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Unimplemented));
}

#[tokio::test]
async fn an_answer_without_its_id_is_an_error() {
    let fake = FakeCri::start();
    fake.answer("PullImage", PullImageResponse::default());
    let client = Client::connect(fake.socket(), LIMIT).await.unwrap();
    let error = client.pull_image("i", None).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "PullImage: the answer has no `image_ref`"
    );
}

#[tokio::test]
async fn a_daemon_that_hangs_is_given_up() {
    let fake = FakeCri::start();
    fake.hang("Status");
    let client = Client::connect(fake.socket(), LIMIT).await.unwrap();
    let client = client.with_limit(Duration::from_millis(50));
    let error = client.status(false).await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error:?}");
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn a_daemon_that_dies_in_mid_call_is_a_broken_connection() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let dying = tokio::spawn(async move {
        for _ in 0..2 {
            let (stream, _) = listener.accept().await.unwrap();
            // Only once the client has spoken, and in the middle of its request.
            stream.readable().await.unwrap();
            drop(stream);
        }
    });
    let client = Client::connect(&socket, LIMIT).await.unwrap();
    let error = client.version().await.unwrap_err();
    assert!(matches!(error, ClientError::Broken { .. }), "{error:?}");
    dying.abort();
}

#[tokio::test]
async fn the_largest_exec_output_is_received() {
    let fake = FakeCri::start();
    let most = vec![b'x'; 16 << 20];
    fake.answer(
        "ExecSync",
        ExecSyncResponse {
            stdout: most.clone(),
            stderr: most.clone(),
            exit_code: 3,
        },
    );
    let client = Client::connect(fake.socket(), LIMIT).await.unwrap();
    let command = vec!["yes".to_owned()];
    let output = client.exec_sync("c", command, None).await.unwrap();
    assert_eq!(output.exit_code, 3);
    assert!(output.stdout == most && output.stderr == most);
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_named_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    let error = Client::connect(&socket, Duration::from_secs(5))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains("none.sock"), "{error}");
    assert!(error.hint().unwrap().contains("ocid"));
}
