//! A client's deadline (`grpc-timeout` of gRPC over HTTP/2), kept here: the server below would answer CANCELLED for it,
//! where gRPC has DEADLINE_EXCEEDED, and clients ask the same again after the one but not after the other.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Status;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

/// Puts deadlines around a service.
#[derive(Clone, Copy)]
pub struct Deadlines;

impl<S> Layer<S> for Deadlines {
    type Service = Within<S>;

    fn layer(&self, inner: S) -> Within<S> {
        Within(inner)
    }
}

/// A service whose calls end with their clients' deadlines.
#[derive(Clone)]
pub struct Within<S>(S);

impl<S, B, A> Service<Request<B>> for Within<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
    A: Default,
{
    type Response = Response<A>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let limit = limit(request.headers());
        let answer = self.0.call(request);
        let Some(limit) = limit else {
            return Box::pin(answer);
        };
        // The time runs from here, not from the first poll: the server's own clock starts right after.
        let answer = tokio::time::timeout(limit, answer);
        Box::pin(async move {
            answer.await.unwrap_or_else(|_| {
                let status = format!("there was no answer within the client's {limit:?}");
                Ok(Status::deadline_exceeded(status).into_http())
            })
        })
    }
}

/// The deadline that a request names, from now; what is none by the specification names none.
fn limit(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit())
    {
        return None;
    }
    let count = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tonic::Code;

    fn asking(text: &'static str) -> Request<()> {
        let request = Request::builder().header("grpc-timeout", text);
        request.body(()).expect("a request")
    }

    #[test]
    fn every_unit_is_known_and_the_rest_is_none() {
        let limit = |text| limit(asking(text).headers());
        for (text, wanted) in [
            ("2H", Duration::from_secs(7200)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("5m", Duration::from_millis(5)),
            ("6u", Duration::from_micros(6)),
            ("7n", Duration::from_nanos(7)),
        ] {
            assert_eq!(limit(text), Some(wanted), "{text}");
        }
        for text in [
            "",
            "S",
            "5",
            "5s",
            "-1S",
            "+1S",
            "1.5S",
            "999999999S",
            "5 S",
        ] {
            assert_eq!(limit(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn late_answers_are_refused_by_the_right_name() {
        let mut never = Deadlines.layer(tower::service_fn(|_| {
            std::future::pending::<Result<Response<()>, Infallible>>()
        }));
        let answer = never.call(asking("5m")).await.expect("an answer");
        let status = Status::from_header_map(answer.headers()).expect("a status");
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert!(status.message().contains("5ms"), "{status:?}");

        let mut prompt = Deadlines.layer(tower::service_fn(|_| async {
            Ok::<_, Infallible>(Response::new(()))
        }));
        for request in [asking("1S"), asking("no time"), Request::new(())] {
            let answer = prompt.call(request).await.expect("an answer");
            assert!(Status::from_header_map(answer.headers()).is_none());
        }
    }
}
