//! `WWW-Authenticate` (RFC 9110, section 11.6.1), as far as registries use it.

/// How a registry wants to be authenticated to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    /// A token from a server (distribution spec, "Token Authentication").
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The best challenge in a header's value: a token before a password.
pub fn parse(value: &str) -> Option<Challenge> {
    let mut basic = None;
    let mut rest = value.trim_start();
    while !rest.is_empty() {
        let end = rest.find([' ', ',']).unwrap_or(rest.len());
        let (scheme, after) = rest.split_at(end);
        let (parameters, after) = parameters(after);
        if scheme.eq_ignore_ascii_case("bearer") {
            let get = |key: &str| {
                let found = parameters.iter().find(|(k, _)| k.eq_ignore_ascii_case(key));
                found.map(|(_, v)| v.clone())
            };
            if let Some(realm) = get("realm") {
                let (service, scope) = (get("service"), get("scope"));
                return Some(Challenge::Bearer {
                    realm,
                    service,
                    scope,
                });
            }
        }
        if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
        rest = after.trim_start_matches([' ', ',', '\t']);
    }
    basic
}

/// `KEY=VALUE` pairs up to the next scheme, and what follows them.
fn parameters(text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let start = rest.trim_start_matches([' ', ',', '\t']);
        let key_end = start.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'));
        let Some((key, after)) = key_end.map(|at| start.split_at(at)) else {
            return (found, rest);
        };
        let Some(value) = after.strip_prefix('=').filter(|_| !key.is_empty()) else {
            return (found, rest);
        };
        let (value, after) = quoted_or_token(value);
        found.push((key.to_owned(), value));
        rest = after;
    }
}

fn quoted_or_token(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        let (token, rest) = text.split_at(end);
        return (token.to_owned(), rest);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, quoted.get(at + 1..).unwrap_or("")),
            _ => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_challenges() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/redis:pull""#;
        let expected = bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:library/redis:pull"),
        );
        assert_eq!(parse(hub), expected);
        assert_eq!(
            parse("bearer realm=http://a/t"),
            bearer("http://a/t", None, None)
        );
        assert_eq!(parse(r#"Basic realm="a, b""#), Some(Challenge::Basic));
        let both = r#"Basic realm="x", Bearer realm="https://a", scope="a\"b""#;
        assert_eq!(parse(both), bearer("https://a", None, Some("a\"b")));
        for none in [
            "",
            "Negotiate",
            "Bearer",
            "Bearer scope=\"x\"",
            ",,,",
            "=",
            "Bearer realm",
        ] {
            assert_eq!(parse(none), None, "{none}");
        }
    }
}
