//! Answers in several messages.

use futures_util::stream::{self, BoxStream, StreamExt};
use prost::Message;
use tonic::Status;

/// A stream of answers.
pub type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// Items to a message. A list that one message can hold needs no stream, so this is for those that
/// cannot: gRPC clients refuse a message beyond their cap (16 MiB in kubelet).
const PAGE_ITEMS: usize = 100;
/// Bytes to a message, unless one item alone is larger.
const PAGE_BYTES: usize = 1 << 20;

/// A list as messages of bounded size, in its order; `wrap` makes the message. The stream ends with the
/// list, and an empty list is an empty stream.
pub fn pages<T, M>(items: Vec<T>, wrap: fn(Vec<T>) -> M) -> Answers<M>
where
    T: Message + Send + 'static,
    M: Send + 'static,
{
    let mut items = items.into_iter().peekable();
    let pages = std::iter::from_fn(move || {
        items.peek()?;
        let mut page = Vec::new();
        let mut bytes = 0;
        while page.len() < PAGE_ITEMS {
            let fits = |item: &T| page.is_empty() || bytes + item.encoded_len() <= PAGE_BYTES;
            let Some(item) = items.next_if(fits) else {
                break;
            };
            bytes += item.encoded_len();
            page.push(item);
        }
        Some(Ok(wrap(page)))
    });
    stream::iter(pages).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::{Image, StreamImagesResponse};

    async fn sizes(images: Vec<Image>) -> Vec<usize> {
        let pages = pages(images, |images| StreamImagesResponse { images });
        let page = |page: Result<StreamImagesResponse, Status>| page.unwrap().images.len();
        pages.map(page).collect().await
    }

    #[tokio::test]
    async fn every_item_is_in_one_page_and_no_page_is_large() {
        let image = |bytes: usize| Image {
            id: "x".repeat(bytes),
            ..Default::default()
        };
        assert!(sizes(Vec::new()).await.is_empty());
        assert_eq!(sizes(vec![image(1); 250]).await, [100, 100, 50]);
        assert_eq!(sizes(vec![image(400 << 10); 5]).await, [2, 2, 1]);
        assert_eq!(sizes(vec![image(3 << 20), image(1)]).await, [1, 1]);
    }
}
