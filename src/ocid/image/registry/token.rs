//! Answers to a registry's challenge: a password, or a token from its token server.

use std::sync::PoisonError;

use reqwest::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, Url};
use serde::Deserialize;

use super::{Attempt, Repository, SMALL_BODY, bearer, read_capped, secret};
use crate::ocid::image::auth::Credentials;
use crate::ocid::image::challenge::{self, Challenge};
use crate::ocid::image::error::ImageError;
use crate::ocid::image::registries::Transport;

impl Repository {
    /// Answers a registry's challenge to a request with the authorization `sent`; false if there is
    /// nothing to answer it with.
    pub(super) async fn authenticate(
        &self,
        response: &Response,
        sent: Option<&HeaderValue>,
    ) -> Result<bool, ImageError> {
        if self.authorization().as_ref() != sent {
            // Another layer's request has met the same challenge meanwhile.
            return Ok(true);
        }
        let values = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges = values.filter_map(|v| challenge::parse(v.to_str().ok()?));
        // A token before a password, whichever header line it is on.
        let challenge = challenges.min_by_key(|c| matches!(c, Challenge::Basic));
        let value = match (challenge, &self.credentials) {
            (Some(Challenge::Basic), Some(Credentials::Password { user, password })) => {
                use base64::Engine as _;
                let pair =
                    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                secret(&format!("Basic {pair}"), self.base.as_str())?
            }
            // Its owner would rather know that it does not count than pull as nobody.
            (Some(Challenge::Bearer { .. }), Some(Credentials::RegistryToken(_))) => {
                return Ok(false);
            }
            (
                Some(Challenge::Bearer {
                    realm,
                    service,
                    scope,
                }),
                _,
            ) => {
                let token = self
                    .token(&realm, service.as_deref(), scope.as_deref())
                    .await?;
                bearer(&token, &realm)?
            }
            _ => return Ok(false),
        };
        *self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(true)
    }

    /// A token for pulling, from the token server (distribution spec, "Token Authentication"); with
    /// an identity token by OAuth2.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<String, ImageError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
        }
        let mut url = Url::parse(realm).map_err(|e| {
            self.unavailable(&self.base, &format!("its token server `{realm}`: {e}"))
        })?;
        if url.scheme() != "https" && self.transport == Transport::Verified {
            let message = format!("its token server `{realm}` is not https");
            return Err(self.unavailable(&self.base, &message));
        }
        let fallback = format!("repository:{}:pull", self.reference.repository);
        let mut pairs = vec![("scope", scope.unwrap_or(&fallback))];
        pairs.extend(service.map(|s| ("service", s)));
        let mut form = None;
        match &self.credentials {
            Some(Credentials::IdentityToken(token)) => {
                pairs.push(("grant_type", "refresh_token"));
                pairs.push(("client_id", "ocid"));
                pairs.push(("refresh_token", token));
                let mut query = url.clone();
                query.set_query(None);
                query.query_pairs_mut().extend_pairs(&pairs);
                form = Some(query.query().unwrap_or("").to_owned());
            }
            _ => {
                url.query_pairs_mut().extend_pairs(&pairs);
            }
        }
        let request = || match (&form, &self.credentials) {
            (Some(form), _) => {
                let kind = "application/x-www-form-urlencoded";
                let request = self.client.post(url.clone()).header(CONTENT_TYPE, kind);
                request.body(form.clone())
            }
            (None, Some(Credentials::Password { user, password })) => {
                let request = self.client.get(url.clone());
                request.basic_auth(user, Some(password))
            }
            (None, _) => self.client.get(url.clone()),
        };
        let mut response = self
            .send(&url, request)
            .await
            .map_err(Attempt::into_error)?;
        if !response.status().is_success() {
            return Err(self.refused(&url, response).await);
        }
        let bytes = read_capped(&mut response, SMALL_BODY, &url).await?;
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|e| self.unavailable(&url, &format!("the token server's answer: {e}")))?;
        match (answer.token, answer.access_token) {
            (token, _) if !token.is_empty() => Ok(token),
            (_, token) if !token.is_empty() => Ok(token),
            _ => Err(self.unavailable(&url, "the token server's answer has no token")),
        }
    }
}
