//! Tokens: each stands for one request that was granted over the CRI socket, is good once, and not for long.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Wanted;

/// How long a URL is good for.
pub const LIFETIME: Duration = Duration::from_secs(60);
/// Tokens that wait to be used; more than that are a fault of somebody's.
const MOST: usize = 1000;

/// What a token stands for. Ids are whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Exec {
        container: String,
        command: Vec<String>,
        wanted: Wanted,
    },
    Attach {
        container: String,
        wanted: Wanted,
    },
    Forward {
        sandbox: String,
        /// For clients that do not name a port per connection.
        ports: Vec<u16>,
    },
}

impl Request {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Exec { .. } => Kind::Exec,
            Self::Attach { .. } => Kind::Attach,
            Self::Forward { .. } => Kind::Forward,
        }
    }
}

/// The first part of a URL's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Exec,
    Attach,
    Forward,
}

impl Kind {
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Exec, Self::Attach, Self::Forward]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::Forward => "portforward",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("{MOST} streams were asked for and none of them opened; try again in a minute")]
    TooMany,
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
}

#[derive(Debug, Default)]
pub struct Tokens(Mutex<HashMap<String, (Request, Instant)>>);

impl Tokens {
    /// A new token: 32 hex digits, 128 random bits.
    pub fn issue(&self, request: Request) -> Result<String, TokenError> {
        self.issue_at(request, Instant::now())
    }

    fn issue_at(&self, request: Request, now: Instant) -> Result<String, TokenError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(TokenError::Random)?;
        let token = hex::encode(bytes);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (_, until)| *until > now);
        if all.len() >= MOST {
            return Err(TokenError::TooMany);
        }
        all.insert(token.clone(), (request, now + LIFETIME));
        Ok(token)
    }

    /// What the token stands for, if it is one of this kind and still good. It is not any more.
    pub fn take(&self, kind: Kind, token: &str) -> Option<Request> {
        self.take_at(kind, token, Instant::now())
    }

    /// The same at another time.
    pub(super) fn take_at(&self, kind: Kind, token: &str, now: Instant) -> Option<Request> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(token)?.0.kind() != kind {
            return None;
        }
        let (request, until) = all.remove(token)?;
        (until > now).then_some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward() -> Request {
        Request::Forward {
            sandbox: "a".to_owned(),
            ports: Vec::new(),
        }
    }

    #[test]
    fn a_token_is_good_once_for_its_kind() {
        let tokens = Tokens::default();
        let token = tokens.issue(forward()).unwrap();
        assert_eq!(token.len(), 32);
        assert_eq!(tokens.take(Kind::Exec, &token), None);
        assert_eq!(tokens.take(Kind::Forward, "0"), None);
        assert_eq!(tokens.take(Kind::Forward, &token), Some(forward()));
        assert_eq!(tokens.take(Kind::Forward, &token), None);
    }

    #[test]
    fn tokens_expire_and_make_room() {
        let tokens = Tokens::default();
        let start = Instant::now();
        let issued: Vec<String> = (0..MOST)
            .map(|_| tokens.issue_at(forward(), start).unwrap())
            .collect();
        assert!(matches!(
            tokens.issue_at(forward(), start),
            Err(TokenError::TooMany)
        ));
        let just = start + LIFETIME - Duration::from_millis(1);
        assert!(tokens.take_at(Kind::Forward, &issued[0], just).is_some());
        let late = start + LIFETIME;
        assert_eq!(tokens.take_at(Kind::Forward, &issued[1], late), None);
        assert!(tokens.issue_at(forward(), late).is_ok());
        assert_eq!(tokens.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn kinds_are_the_words_of_paths() {
        assert_eq!(Kind::parse("portforward"), Some(Kind::Forward));
        assert_eq!(Kind::parse("Exec"), None);
        assert_eq!(forward().kind().to_string(), "portforward");
    }
}
