//! Both ends of a connection, or one end and bytes.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::frame::{Control, HEAD, Head, INITIAL_WINDOW_SIZE, encode_data, goaway, reset};
use super::headers::{Deflater, Inflater};
use super::*;

const LIMIT: Duration = Duration::from_secs(30);

fn pair(limits: Limits) -> (Connection, Connection, Incoming) {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (client, _) = Connection::start(ours, Role::Client, Limits::default());
    let (server, incoming) = Connection::start(theirs, Role::Server, limits);
    (client, server, incoming)
}

/// A server, and bytes for it.
fn raw(limits: Limits) -> (DuplexStream, Connection, Incoming) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (server, incoming) = Connection::start(theirs, Role::Server, limits);
    (ours, server, incoming)
}

fn syn(deflater: &mut Deflater, stream: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    Control::SynStream {
        stream,
        associated: 0,
        priority: 0,
        fin: false,
        unidirectional: false,
        block: deflater.block(&Headers::from([("streamtype", "data")])),
    }
    .encode(&mut bytes);
    bytes
}

/// The next control frame that `wanted` says yes to.
async fn frame(io: &mut DuplexStream, wanted: impl Fn(&Control) -> bool) -> Control {
    let search = async {
        loop {
            let mut head = [0; HEAD];
            io.read_exact(&mut head).await.unwrap();
            match Head::parse(head).unwrap() {
                Head::Data { length, .. } => {
                    io.read_exact(&mut vec![0; length]).await.unwrap();
                }
                Head::Control {
                    kind,
                    flags,
                    length,
                } => {
                    let mut payload = vec![0; length];
                    io.read_exact(&mut payload).await.unwrap();
                    let frame = Control::parse(kind, flags, &payload).unwrap();
                    if wanted(&frame) {
                        return frame;
                    }
                }
            }
        }
    };
    tokio::time::timeout(LIMIT, search).await.unwrap()
}

async fn read_all(reader: &mut StreamReader) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = reader.read().await.unwrap() {
        all.extend_from_slice(&bytes);
    }
    all
}

/// Sends back whatever comes on every stream.
fn echo(mut incoming: Incoming) {
    tokio::spawn(async move {
        while let Some(new) = incoming.next().await {
            let (_, stream) = new.accept();
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                while let Ok(Some(bytes)) = reader.read().await {
                    if writer.write(bytes).await.is_err() {
                        return;
                    }
                }
                let _ = writer.finish().await;
            });
        }
    });
}

#[tokio::test]
async fn many_streams_carry_more_than_their_windows() {
    let (client, _server, incoming) = pair(Limits::default());
    echo(incoming);
    let mut all = Vec::new();
    for n in 0..20u8 {
        let stream = client.open(Headers::from([("n", "1")])).await.unwrap();
        all.push(tokio::spawn(async move {
            let (mut reader, mut writer) = stream.split();
            let sent: Vec<u8> = (0..2_000_000).map(|i| (i % 251) as u8 ^ n).collect();
            let sending = Bytes::from(sent.clone());
            let send = async {
                writer.write(sending).await.unwrap();
                writer.finish().await.unwrap();
            };
            let (got, ()) = tokio::join!(read_all(&mut reader), send);
            assert!(got == sent, "{} of {}", got.len(), sent.len());
        }));
    }
    for one in all {
        tokio::time::timeout(LIMIT, one).await.unwrap().unwrap();
    }
    assert!(client.shared.state().streams.is_empty());
}

#[tokio::test]
async fn halves_end_one_by_one() {
    let (client, server, mut incoming) = pair(Limits::default());
    let opening = tokio::spawn(async move { (client.open(Headers::default()).await, client) });
    let (_, stream) = incoming.next().await.unwrap().accept();
    let (opened, client) = opening.await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let (mut their_reader, mut their_writer) = opened.unwrap().split();
    their_writer.finish().await.unwrap();
    assert!(read_all(&mut reader).await.is_empty());
    writer.write(Bytes::from_static(b"late")).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(read_all(&mut their_reader).await, b"late");
    assert!(server.shared.state().streams.is_empty());
    // Dropped before its end: the other side is told.
    let opening = tokio::spawn(async move { (client.open(Headers::default()).await, client) });
    drop(incoming.next().await.unwrap().accept());
    let (opened, client) = opening.await.unwrap();
    let (mut reader, _writer) = opened.unwrap().split();
    assert!(matches!(
        reader.read().await,
        Err(SpdyError::Reset(reset::CANCEL))
    ));
    let (mut left, ()) = tokio::join!(
        async {
            client.closed().await;
            client.open(Headers::default()).await.err()
        },
        server.finish(LIMIT)
    );
    assert!(matches!(left.take(), Some(SpdyError::Closed)));
}

#[tokio::test]
async fn a_peer_that_keeps_windows_is_not_sent_more_than_it_allows() {
    let (mut io, _server, mut incoming) = raw(Limits::default());
    let mut bytes = Vec::new();
    Control::Settings(vec![(INITIAL_WINDOW_SIZE, 10)]).encode(&mut bytes);
    bytes.extend(syn(&mut Deflater::default(), 1));
    io.write_all(&bytes).await.unwrap();
    let (_, stream) = incoming.next().await.unwrap().accept();
    let (_reader, mut writer) = stream.split();
    tokio::spawn(async move {
        let _ = writer.write(Bytes::from_static(&[7; 25])).await;
        let _ = writer.finish().await;
    });
    let mut counts = Vec::new();
    loop {
        let mut head = [0; HEAD];
        io.read_exact(&mut head).await.unwrap();
        let (length, data, fin) = match Head::parse(head).unwrap() {
            Head::Data { length, fin, .. } => (length, true, fin),
            Head::Control { length, .. } => (length, false, false),
        };
        io.read_exact(&mut vec![0; length]).await.unwrap();
        if fin {
            break;
        }
        if data {
            counts.push(length);
            let mut more = Vec::new();
            Control::WindowUpdate {
                stream: 1,
                delta: 9,
            }
            .encode(&mut more);
            io.write_all(&more).await.unwrap();
        }
    }
    assert_eq!(counts, [10, 9, 6]);
}

#[tokio::test]
async fn a_peer_without_windows_is_held_up_by_the_connection_alone() {
    let limits = Limits {
        buffer: 100_000,
        ..Limits::default()
    };
    let (mut io, server, mut incoming) = raw(limits);
    io.write_all(&syn(&mut Deflater::default(), 1))
        .await
        .unwrap();
    let (_, stream) = incoming.next().await.unwrap().accept();
    let (mut reader, mut writer) = stream.split();
    // It sends past every window, and nobody reads; then all of it arrives.
    let (mut theirs, mut from_us) = tokio::io::split(io);
    let sending = tokio::spawn(async move {
        for _ in 0..40 {
            let mut bytes = Vec::new();
            encode_data(1, false, &[1; 100_000], &mut bytes);
            from_us.write_all(&bytes).await.unwrap();
        }
        from_us
    });
    tokio::spawn(async move { tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await });
    tokio::time::timeout(LIMIT, async {
        while server.shared.state().buffered < limits.buffer {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert!(server.shared.state().buffered < limits.buffer + (32 << 10));
    let mut got = 0;
    while got < 4_000_000 {
        got += reader.read().await.unwrap().unwrap().len();
    }
    sending.await.unwrap();
    // And more than a window goes to it without an update.
    writer.write(Bytes::from(vec![2; 1 << 20])).await.unwrap();
}

#[tokio::test]
async fn pings_are_answered_and_strangers_refused() {
    let limits = Limits {
        streams: 1,
        ..Limits::default()
    };
    let (mut io, _server, mut incoming) = raw(limits);
    let mut deflater = Deflater::default();
    let mut bytes = Vec::new();
    Control::Unknown(77).encode(&mut bytes);
    Control::Ping(2).encode(&mut bytes);
    Control::Ping(5).encode(&mut bytes);
    io.write_all(&bytes).await.unwrap();
    let answered = frame(&mut io, |f| matches!(f, Control::Ping(_))).await;
    assert_eq!(answered, Control::Ping(5), "ping 2 would be one of ours");
    bytes.clear();
    bytes.extend(syn(&mut deflater, 1));
    bytes.extend(syn(&mut deflater, 3));
    encode_data(9, false, b"x", &mut bytes);
    io.write_all(&bytes).await.unwrap();
    let is_reset = |f: &Control| matches!(f, Control::Reset { .. });
    let stream = 3;
    let status = reset::REFUSED_STREAM;
    assert_eq!(
        frame(&mut io, is_reset).await,
        Control::Reset { stream, status }
    );
    let (stream, status) = (9, reset::INVALID_STREAM);
    assert_eq!(
        frame(&mut io, is_reset).await,
        Control::Reset { stream, status }
    );
    let (headers, _stream) = incoming.next().await.unwrap().accept();
    assert_eq!(headers.get("streamtype"), Some("data"));
    let reply = frame(&mut io, |f| matches!(f, Control::SynReply { .. })).await;
    let Control::SynReply { stream, block, .. } = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(stream, 1);
    let headers = Inflater::default().block(&block).unwrap();
    assert_eq!(headers, Headers::default());
}

#[tokio::test]
async fn a_broken_peer_hears_goodbye() {
    for broken in [
        syn(&mut Deflater::default(), 2),
        vec![0x80, 2, 0, 1, 0, 0, 0, 0],
        vec![0; HEAD],
    ] {
        let (mut io, server, _incoming) = raw(Limits::default());
        io.write_all(&broken).await.unwrap();
        let goodbye = frame(&mut io, |f| matches!(f, Control::GoAway { .. })).await;
        let status = goaway::PROTOCOL_ERROR;
        assert_eq!(goodbye, Control::GoAway { last: 0, status });
        drop(io);
        tokio::time::timeout(LIMIT, server.closed()).await.unwrap();
    }
}

#[tokio::test]
async fn who_asks_and_never_listens_is_cut_off() {
    let (mut io, server, _incoming) = raw(Limits::default());
    let mut pings = Vec::new();
    for n in 0..2000 {
        Control::Ping(n * 2 + 1).encode(&mut pings);
    }
    let flood = async { while io.write_all(&pings).await.is_ok() {} };
    tokio::time::timeout(LIMIT, async {
        tokio::select! {
            () = flood => {}
            () = server.closed() => {}
        }
    })
    .await
    .unwrap();
    tokio::time::timeout(LIMIT, server.closed()).await.unwrap();
}

#[tokio::test]
async fn the_end_of_the_connection_is_the_end_of_everything() {
    let (io, server, mut incoming) = raw(Limits::default());
    let mut io = io;
    io.write_all(&syn(&mut Deflater::default(), 1))
        .await
        .unwrap();
    let (_, stream) = incoming.next().await.unwrap().accept();
    let (mut reader, writer) = stream.split();
    drop(io);
    assert!(matches!(reader.read().await, Err(SpdyError::Closed)));
    tokio::time::timeout(LIMIT, writer.ended()).await.unwrap();
    assert!(incoming.next().await.is_none());
    tokio::time::timeout(LIMIT, server.closed()).await.unwrap();
}
