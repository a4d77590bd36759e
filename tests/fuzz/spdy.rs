//! SPDY: sessions as clients and servers have them, and what becomes of them.

use std::sync::OnceLock;

use bytes::Bytes;
use crio_setup::spdy::frame::{Control, HEAD, Head, INITIAL_WINDOW_SIZE, encode_data};
use crio_setup::spdy::headers::{Deflater, Inflater};
use crio_setup::spdy::{Connection, Headers, Incoming, Limits, Role};
use flate2::{Compress, Compression, FlushCompress};
use tokio::runtime::Runtime;

use crate::driver::{Case, Target};
use crate::random::{Random, mutate};
use crate::wire;

pub struct Spdy;

impl Target for Spdy {
    const NAME: &'static str = "spdy";
    const SHORT: u64 = 2500;

    fn make(random: &mut Random) -> Case {
        let choices = random.next();
        let mut bytes = session(random);
        if random.once_in(2) {
            let other = session(random);
            mutate(random, &mut bytes, &other);
        }
        Case { choices, bytes }
    }

    fn run(runtime: &Runtime, case: &Case) -> bool {
        let whole = parse(&case.bytes);
        let mut random = Random::new(case.choices);
        // Most of what can go wrong with bytes alone has been seen by now.
        if random.once_in(2) {
            runtime.block_on(connect(&case.bytes, random));
        }
        whole
    }
}

/// Reads everything as a connection's reader does, and what it understands it must be able to write.
fn parse(bytes: &[u8]) -> bool {
    let (mut inflater, mut rest) = (Inflater::default(), bytes);
    loop {
        let Some((head, behind)) = rest.split_first_chunk::<HEAD>() else {
            return rest.is_empty();
        };
        let (payload, behind) = match Head::parse(*head) {
            Err(_) => return false,
            Ok(Head::Data { length, .. }) => behind.split_at(length.min(behind.len())),
            Ok(Head::Control {
                kind,
                flags,
                length,
            }) => {
                let Some((payload, behind)) = behind.split_at_checked(length) else {
                    return false;
                };
                let Ok(frame) = Control::parse(kind, flags, payload) else {
                    return false;
                };
                again(&frame);
                if let Control::SynStream { block, .. }
                | Control::SynReply { block, .. }
                | Control::Headers { block, .. } = &frame
                {
                    let Ok(headers) = inflater.block(block) else {
                        return false;
                    };
                    assert_eq!(
                        Headers::parse(&headers.encode()).map(|h| h.0.len()),
                        Ok(headers.0.len())
                    );
                }
                (payload, behind)
            }
        };
        let _ = payload;
        rest = behind;
    }
}

/// A frame, written and read, is the same.
fn again(frame: &Control) {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    let (head, payload) = bytes.split_first_chunk().expect("a head");
    let Ok(Head::Control {
        kind,
        flags,
        length,
    }) = Head::parse(*head)
    else {
        panic!("{frame:?} is written as something else");
    };
    assert_eq!(length, payload.len());
    assert_eq!(Control::parse(kind, flags, payload).as_ref(), Ok(frame));
}

/// What one end says must be understood by another.
pub fn assert_valid(said: &[u8]) {
    let (mut inflater, mut rest) = (Inflater::default(), said);
    while let Some((head, behind)) = rest.split_first_chunk::<HEAD>() {
        let (Head::Data { length, .. } | Head::Control { length, .. }) =
            Head::parse(*head).expect("a frame of ours");
        let Some((payload, behind)) = behind.split_at_checked(length) else {
            return;
        };
        if let Ok(Head::Control { kind, flags, .. }) = Head::parse(*head) {
            let frame = Control::parse(kind, flags, payload).expect("a control frame of ours");
            if let Control::SynStream { block, .. } | Control::SynReply { block, .. } = frame {
                inflater.block(&block).expect("a header block of ours");
            }
        }
        rest = behind;
    }
}

async fn connect(bytes: &[u8], mut random: Random) {
    let (ours, theirs, hung_up) = wire::pair();
    let limits = Limits {
        streams: [1, 8, 2048][random.below(3)],
        window: [1, 1000, 256 << 10][random.below(3)],
        buffer: [1000, 64 << 10, 1 << 20][random.below(3)],
    };
    let role = match random.once_in(4) {
        true => Role::Client,
        false => Role::Server,
    };
    let (connection, incoming) = Connection::watched(theirs, role, limits, hung_up);
    let mut habits = random.clone();
    match role {
        Role::Server => drop(tokio::spawn(serve(connection, incoming, habits))),
        Role::Client => {
            drop(incoming);
            for _ in 0..habits.below(6) {
                let (connection, habits) = (connection.clone(), Random::new(habits.next()));
                tokio::spawn(async move {
                    let headers = Headers::from([("streamtype", "data"), ("port", "80")]);
                    if let Ok(stream) = connection.open(headers).await {
                        carry(stream, habits).await;
                    }
                });
            }
        }
    }
    let said = wire::converse(ours, bytes, &mut random).await;
    assert_valid(&said);
}

/// Whatever those who use streams do with them.
async fn serve(connection: Connection, mut incoming: Incoming, mut random: Random) {
    let most = [3, usize::MAX][random.below(2)];
    let mut seen = 0;
    while let Some(new) = incoming.next().await {
        seen += 1;
        match random.below(10) {
            0 => new.refuse(),
            1 => drop(new),
            2 if random.once_in(8) => {
                return connection.finish(std::time::Duration::from_secs(1)).await;
            }
            3 if random.once_in(8) => return connection.abort(),
            _ => {
                let (_, stream) = new.accept();
                tokio::spawn(carry(stream, Random::new(random.next())));
            }
        }
        if seen == most {
            // Nobody looks at new streams any more.
            drop(incoming);
            return connection.closed().await;
        }
    }
}

async fn carry(stream: crio_setup::spdy::Stream, mut random: Random) {
    let (mut reader, mut writer) = stream.split();
    match random.below(6) {
        // Only the end of the connection, or a reset, wakes it.
        0 => writer.ended().await,
        1 => drop(writer.finish().await),
        2 => {
            drop(reader);
            let _ = writer.write(Bytes::from(vec![b'x'; 100_000])).await;
            let _ = writer.finish().await;
        }
        3 => drop(writer),
        _ => {
            while let Ok(Some(bytes)) = reader.read().await {
                if writer.write(bytes).await.is_err() {
                    return;
                }
            }
            let _ = writer.finish().await;
        }
    }
}

/// How a peer writes header blocks.
enum Squeezer {
    Stored(Deflater),
    Stream(Box<Compress>),
}

impl Squeezer {
    fn new(random: &mut Random) -> Self {
        if !random.once_in(6) {
            return Self::Stored(Deflater::default());
        }
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(dictionary()).expect("a dictionary");
        Self::Stream(Box::new(compress))
    }

    fn block(&mut self, random: &mut Random, headers: &Headers) -> Vec<u8> {
        let mut plain = headers.encode();
        match self {
            Self::Stored(deflater) => deflater.block(headers),
            Self::Stream(compress) => {
                // Lengths and counts that lie, behind a sound compression.
                if random.once_in(8) {
                    let at = random.below(plain.len());
                    let word = random.word().to_be_bytes();
                    let to = (at + 4).min(plain.len());
                    plain.splice(at..to, word);
                }
                if random.once_in(24) {
                    let more = [17 << 10, 64 << 10, 1 << 20][random.below(3)];
                    plain.resize(plain.len() + more, b'x');
                }
                let mut out = Vec::with_capacity(plain.len() + 1024);
                let flush = FlushCompress::Sync;
                let done = compress.compress_vec(&plain, &mut out, flush);
                done.expect("a block is compressed");
                out
            }
        }
    }
}

fn dictionary() -> &'static [u8] {
    include_bytes!("../../src/spdy/dictionary.bin")
}

/// A block that inflates to 48 MiB.
fn bomb() -> &'static [u8] {
    static BOMB: OnceLock<Vec<u8>> = OnceLock::new();
    BOMB.get_or_init(|| {
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(dictionary()).expect("a dictionary");
        // One header, whose value never seems to end.
        let mut plain = [0, 0, 0, 1, 0, 0, 0, 1, b'a', 3, 0, 0, 0].to_vec();
        plain.resize(1 << 20, b'x');
        let mut out = Vec::with_capacity(1 << 20);
        for _ in 0..48 {
            let flush = FlushCompress::None;
            let done = compress.compress_vec(&plain, &mut out, flush);
            done.expect("a block is compressed");
        }
        // Less than the longest frame, so that it is looked at.
        out.truncate(60 << 10);
        out
    })
}

fn headers(random: &mut Random) -> Headers {
    let names = [
        "streamtype",
        "port",
        "requestid",
        "StreamType",
        "",
        "x",
        ":method",
    ];
    let values = [
        "error", "data", "stdin", "stdout", "stderr", "resize", "7", "80", "0", "70000", "x", "",
    ];
    let mut pairs = Vec::new();
    match random.below(4) {
        0 => {
            let kind = random.pick(&values[..6]).to_owned();
            pairs.push(("streamtype".to_owned(), kind));
        }
        1 | 2 => {
            pairs.push((
                "streamtype".to_owned(),
                random.pick(&values[..2]).to_owned(),
            ));
            pairs.push(("port".to_owned(), random.pick(&values).to_owned()));
            pairs.push(("requestid".to_owned(), random.below(4).to_string()));
        }
        _ => {
            let most = if random.once_in(20) { 140 } else { 5 };
            let count = random.below(most);
            for _ in 0..count {
                let mut value = random.pick(&values).to_owned();
                if random.once_in(10) {
                    value = "v".repeat(random.length(20_000));
                }
                pairs.push((random.pick(&names).to_owned(), value));
            }
        }
    }
    Headers(pairs)
}

/// Everything that a peer may say, some of it where it may not.
pub fn session(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    let mut squeezer = Squeezer::new(random);
    let first = if random.once_in(8) { 2 } else { 1 };
    let (mut next, mut frames) = (first, 1 + random.below(20));
    if random.once_in(50) {
        frames = 400;
    }
    for _ in 0..frames {
        let begun = out.len();
        let stream = match random.below(12) {
            0 => random.word() & 0x7fff_ffff,
            1 => next,
            _ if next > first => first + 2 * random.below((next - first) as usize / 2) as u32,
            _ => first,
        };
        let fin = random.once_in(8);
        match random.below(16) {
            0..=4 => {
                let headers = headers(random);
                let block = match random.once_in(200) {
                    true => bomb().to_vec(),
                    false => squeezer.block(random, &headers),
                };
                let id = if random.once_in(16) { stream } else { next };
                Control::SynStream {
                    stream: id,
                    associated: 0,
                    priority: random.below(8) as u8,
                    fin,
                    unidirectional: random.once_in(20),
                    block,
                }
                .encode(&mut out);
                next = next.max(id & 0xffff) + 2;
            }
            5..=9 => {
                let count = random.length(40_000);
                let data = random.bytes(count);
                encode_data(stream.max(1), fin, &data, &mut out);
            }
            10 => {
                let delta = random.word() & 0x7fff_ffff;
                let stream = if random.once_in(3) { 0 } else { stream };
                Control::WindowUpdate { stream, delta }.encode(&mut out);
            }
            11 => {
                let count = random.length(600);
                let ids = [INITIAL_WINDOW_SIZE, 4, 0];
                let pair = |_| (ids[random.below(3)], random.word());
                Control::Settings((0..count).map(pair).collect()).encode(&mut out);
            }
            12 => Control::Ping(random.word()).encode(&mut out),
            13 => match random.below(3) {
                0 => {
                    let headers = headers(random);
                    let block = squeezer.block(random, &headers);
                    Control::Headers { stream, fin, block }.encode(&mut out);
                }
                _ => {
                    let block = squeezer.block(random, &Headers::default());
                    Control::SynReply { stream, fin, block }.encode(&mut out);
                }
            },
            14 => {
                let status = random.word();
                Control::Reset { stream, status }.encode(&mut out);
            }
            _ => match random.below(4) {
                0 => {
                    let (last, status) = (random.word() & 0x7fff_ffff, random.word());
                    Control::GoAway { last, status }.encode(&mut out);
                }
                _ => Control::Unknown(10 + random.next() as u16 % 100).encode(&mut out),
            },
        }
        // A length that lies.
        if random.once_in(80)
            && let Some(length) = out.get_mut(begun + 5..begun + 8)
        {
            let word = random.word().to_be_bytes();
            length.copy_from_slice(&word[1..]);
        }
    }
    out
}
