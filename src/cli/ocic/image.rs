//! `ocic image ...`

use crate::cri::v1::{ImageFilter, ImageSpec};
use crate::ocic::client::Client;
use crate::ocic::json::Subject;

use super::args::ImageVerb;
use super::resolve::Kind;
use super::{Failure, Session, show};

pub async fn run(session: &Session<'_>, verb: &ImageVerb) -> Result<(), Failure> {
    match verb {
        ImageVerb::Pull { reference } => {
            let client = session.client().await?;
            let kept = session.pull(&client, reference).await?;
            session.made("image_ref", &kept)
        }
        ImageVerb::List { reference, quiet } => {
            let client = session.client().await?;
            let filter = reference.as_ref().map(|reference| ImageFilter {
                image: Some(ImageSpec {
                    image: reference.clone(),
                    ..Default::default()
                }),
            });
            let mut images = client.list_images(filter).await?;
            images.sort_by(|a, b| (&a.repo_tags, &a.id).cmp(&(&b.repo_tags, &b.id)));
            if *quiet {
                return session.ids(images.iter().map(|image| image.id.as_str()));
            }
            session.answer(Subject::Other, "images", &images, || show::images(&images))
        }
        ImageVerb::Status { image, verbose } => {
            let client = session.client().await?;
            let answer = client.image_status(image.get(), *verbose).await?;
            let Some(found) = &answer.image else {
                return Err(Failure::Unknown {
                    kind: Kind::Image,
                    given: image.get().to_owned(),
                });
            };
            session.show(Subject::Other, &answer, || show::image(found, &answer.info))
        }
        ImageVerb::Remove(images) => {
            let act = async |client: &Client, image: &str| {
                // The CRI's RemoveImage succeeds on what is not there; a person has mistyped.
                if client.image_status(image, false).await?.image.is_none() {
                    return Err(Failure::Unknown {
                        kind: Kind::Image,
                        given: image.to_owned(),
                    });
                }
                client.remove_image(image).await.map_err(Failure::from)
            };
            session.each(Kind::Image, images, act).await
        }
    }
}
