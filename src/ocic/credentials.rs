//! What a registry wants to know of us. No error repeats what was given.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::cri::v1::AuthConfig;

#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("the credentials name no user")]
    NoUser,
    #[error("the credentials have no password")]
    NoPassword,
    #[error("the credentials are not the base64 of `USER:PASSWORD`")]
    NotEncoded,
}

/// `USER:PASSWORD`, in which the password may hold colons; or `USER`, whose password `ask` brings.
pub fn plain<E: From<CredentialsError>>(
    given: &str,
    ask: impl FnOnce() -> Result<String, E>,
) -> Result<AuthConfig, E> {
    let (username, password) = match given.split_once(':') {
        Some((user, password)) => (user, Some(password.to_owned())),
        None => (given, None),
    };
    if username.is_empty() {
        return Err(CredentialsError::NoUser.into());
    }
    let password = match password {
        Some(password) => password,
        None => ask()?,
    };
    if password.is_empty() {
        return Err(CredentialsError::NoPassword.into());
    }
    Ok(AuthConfig {
        username: username.to_owned(),
        password,
        ..Default::default()
    })
}

/// The base64 of `USER:PASSWORD`.
pub fn encoded(given: &str) -> Result<AuthConfig, CredentialsError> {
    let bytes = STANDARD.decode(given.trim());
    let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.filter(|text| text.contains(':'));
    let text = text.ok_or(CredentialsError::NotEncoded)?;
    plain(&text, || Err(CredentialsError::NoPassword))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(auth: AuthConfig) -> (String, String) {
        (auth.username, auth.password)
    }

    #[test]
    fn a_password_is_given_or_asked_for() {
        let ask = || Ok::<_, CredentialsError>("asked".to_owned());
        let told = plain("me:a:b", ask).unwrap();
        assert_eq!(pair(told), ("me".to_owned(), "a:b".to_owned()));
        let asked = plain("me", ask).unwrap();
        assert_eq!(pair(asked), ("me".to_owned(), "asked".to_owned()));
        assert!(matches!(plain(":hush", ask), Err(CredentialsError::NoUser)));
        assert!(matches!(plain("", ask), Err(CredentialsError::NoUser)));
        assert!(matches!(
            plain("me:", ask),
            Err(CredentialsError::NoPassword)
        ));
    }

    #[test]
    fn an_encoded_pair_is_checked_here() {
        let told = encoded("bWU6aHVzaA==").unwrap();
        assert_eq!(pair(told), ("me".to_owned(), "hush".to_owned()));
        for bad in ["", "hush", "bWU6aHVzaA=", "bWU=", "//79", "OmE="] {
            let error = encoded(bad).unwrap_err().to_string();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }
}
