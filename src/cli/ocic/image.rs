//! `ocic image ...`, and the verbs about images that crictl has.

use std::collections::HashSet;
use std::io::{self, BufRead, IsTerminal, Read, Write};

use crate::cri::v1::{AuthConfig, Image, ImageFilter, ImageSpec, PullImageRequest};
use crate::host::tty;
use crate::ocic::client::Client;
use crate::ocic::credentials;

use super::args::image::{ImageList, ImageVerb, Pull, Rmi};
use super::args::named::ManyImages;
use super::resolve::Kind;
use super::{Failure, Session, show};

pub async fn run(session: &Session<'_>, verb: &ImageVerb) -> Result<(), Failure> {
    match verb {
        ImageVerb::Pull(args) => pull(session, args).await,
        ImageVerb::List(args) => list(session, args).await,
        ImageVerb::Status { image, verbose } => {
            let client = session.client().await?;
            let answer = client.image_status(image.get(), *verbose).await?;
            if answer.image.is_none() {
                return Err(unknown(image.get()));
            }
            session.show(&answer, || show::image(&answer))
        }
        ImageVerb::Remove(images) => {
            let client = session.client().await?;
            remove_each(session, &client, images.get()).await
        }
    }
}

pub async fn pull(session: &Session<'_>, args: &Pull) -> Result<(), Failure> {
    let sandbox_config = args.pod_config.as_deref();
    let sandbox_config = sandbox_config
        .map(|path| session.sandbox(path))
        .transpose()?;
    let auth = auth(args)?;
    let client = session.client().await?;
    let request = PullImageRequest {
        image: Some(ImageSpec {
            image: args.reference.clone(),
            user_specified_image: args.reference.clone(),
            annotations: args.annotations.iter().cloned().collect(),
            ..Default::default()
        }),
        auth,
        sandbox_config,
    };
    let kept = client.pull_image_as(request).await;
    let kept = kept.map_err(|source| Failure::Pull {
        image: args.reference.clone(),
        source,
    })?;
    session.made("image_ref", &kept)
}

fn auth(args: &Pull) -> Result<Option<AuthConfig>, Failure> {
    // What is set and empty in the environment is not set.
    let given = |secret: &Option<super::args::values::Secret>| {
        let text = secret.as_ref().map(|secret| secret.0.clone());
        text.filter(|text| !text.is_empty())
    };
    if let Some(creds) = given(&args.creds) {
        return credentials::plain(&creds, password).map(Some);
    }
    match given(&args.auth) {
        Some(auth) => Ok(Some(credentials::encoded(&auth)?)),
        None => Ok(None),
    }
}

/// A line of our input; a terminal is asked, and does not show it.
fn password() -> Result<String, Failure> {
    const LONGEST: u64 = 64 << 10;
    let stdin = io::stdin();
    let mut line = Vec::new();
    if stdin.is_terminal() {
        let raw = tty::Raw::enter(&stdin).map_err(Failure::Terminal)?;
        let mut stderr = io::stderr();
        let asked = stderr.write_all(b"password: ");
        asked
            .and_then(|()| stderr.flush())
            .map_err(Failure::Terminal)?;
        let read = typed(&mut stdin.lock(), &mut line);
        drop(raw);
        // The line that was not shown has not ended either.
        let _ = stderr.write_all(b"\n");
        if !read.map_err(Failure::Password)? {
            return Err(Failure::Password(io::ErrorKind::Interrupted.into()));
        }
    } else {
        let read = stdin.lock().take(LONGEST).read_until(b'\n', &mut line);
        read.map_err(Failure::Password)?;
    }
    while line.pop_if(|last| matches!(last, b'\n' | b'\r')).is_some() {}
    String::from_utf8(line).map_err(|_| Failure::Password(io::ErrorKind::InvalidData.into()))
}

/// Reads keys of a raw terminal to the end of a line; `false` when the person gave up.
fn typed(keys: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    const INTERRUPT: u8 = 3;
    const END: u8 = 4;
    for key in keys.bytes() {
        match key? {
            b'\r' | b'\n' => return Ok(true),
            INTERRUPT | END => return Ok(false),
            8 | 127 => {
                // The whole of a letter, not its last byte.
                while line.pop_if(|last| *last & 0xc0 == 0x80).is_some() {}
                line.pop();
            }
            key => line.push(key),
        }
    }
    Ok(!line.is_empty())
}

/// Pulls what the store does not have, and says so.
pub async fn pull_missing(
    session: &Session<'_>,
    client: &Client,
    image: &str,
) -> Result<(), Failure> {
    if client.image_status(image, false).await?.image.is_some() {
        return Ok(());
    }
    let note = format!("image `{image}` is not in the store: pulling it");
    session.output.note(&note);
    let pulled = client.pull_image(image, None).await;
    pulled.map(|_| ()).map_err(|source| Failure::Pull {
        image: image.to_owned(),
        source,
    })
}

pub async fn list(session: &Session<'_>, args: &ImageList) -> Result<(), Failure> {
    let client = session.client().await?;
    let filter = args.reference.as_ref().map(|reference| ImageFilter {
        image: Some(ImageSpec {
            image: reference.clone(),
            ..Default::default()
        }),
    });
    let mut images = client.list_images(filter).await?;
    images.sort_by(|a, b| (&a.repo_tags, &a.id).cmp(&(&b.repo_tags, &b.id)));
    if args.quiet {
        return session.ids(images.iter().map(|image| image.id.as_str()));
    }
    session.answer("images", &images, || show::images(&images, args.digests))
}

pub async fn inspect(session: &Session<'_>, images: &ManyImages) -> Result<(), Failure> {
    let client = session.client().await?;
    let look = async |given: &str| {
        if given.is_empty() {
            return Err(unknown(given));
        }
        let answer = client.image_status(given, true).await?;
        match answer.image {
            Some(_) => Ok(answer),
            None => Err(unknown(given)),
        }
    };
    session.inspect(images.get(), look, show::image).await
}

pub async fn remove(session: &Session<'_>, args: &Rmi) -> Result<(), Failure> {
    let client = session.client().await?;
    if !args.all && !args.prune {
        return remove_each(session, &client, args.images.clone()).await;
    }
    let mut images = client.list_images(None).await?;
    if args.prune {
        let containers = client.list_containers(None).await?;
        let spec = |image: Option<ImageSpec>| image.unwrap_or_default().image;
        let used: HashSet<String> = containers
            .into_iter()
            .flat_map(|one| [one.image_id, one.image_ref, spec(one.image)])
            .collect();
        images.retain(|image| !image.pinned && !names(image).any(|name| used.contains(name)));
    }
    let ids = images.into_iter().map(|image| image.id).collect();
    remove_each(session, &client, ids).await
}

fn names(image: &Image) -> impl Iterator<Item = &String> {
    let others = image.repo_tags.iter().chain(&image.repo_digests);
    std::iter::once(&image.id).chain(others)
}

async fn remove_each(
    session: &Session<'_>,
    client: &Client,
    given: Vec<String>,
) -> Result<(), Failure> {
    let act = async |client: &Client, image: &str| {
        // The CRI's RemoveImage succeeds on what is not there; a person has mistyped.
        if client.image_status(image, false).await?.image.is_none() {
            return Err(unknown(image));
        }
        client.remove_image(image).await.map_err(Failure::from)
    };
    session.each(client, Kind::Image, given, act).await
}

fn unknown(given: &str) -> Failure {
    Failure::Unknown {
        kind: Kind::Image,
        given: given.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_terminal_make_a_line() {
        let line = |keys: &[u8]| {
            let mut line = Vec::new();
            let done = typed(&mut &*keys, &mut line).unwrap();
            (done, String::from_utf8(line).unwrap())
        };
        assert_eq!(line(b"hush\rmore"), (true, "hush".to_owned()));
        assert_eq!(line(b"hux\x7fsh\n"), (true, "hush".to_owned()));
        assert_eq!(
            line("\u{e4}\u{f6}\x08\r".as_bytes()),
            (true, "\u{e4}".to_owned())
        );
        assert!(!line(b"hu\x03").0 && !line(b"\x04").0 && !line(b"").0);
    }
}
