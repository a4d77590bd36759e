//! Where and how exec, attach and port-forward are served.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{Api, ConfigError};
use crate::ocid::duration;

/// CRI-O's default for streams on which nothing moves.
const STREAM_IDLE: Duration = Duration::from_secs(4 * 3600);

/// A year is as good as for ever, and timers hold it.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

impl Api {
    /// Where to listen for streams.
    pub fn stream_socket(&self) -> Result<SocketAddr, ConfigError> {
        let wrong = |key, value: &str, what: &str| ConfigError::Value {
            key,
            problem: format!("`{value}` is not {what}"),
        };
        let ip = match self.stream_address.as_str() {
            "" => Ipv4Addr::LOCALHOST.into(),
            text => text
                .parse()
                .map_err(|_| wrong("crio.api.stream_address", text, "an IP address"))?,
        };
        let port = match self.stream_port.as_str() {
            "" => 0,
            text => text
                .parse()
                .map_err(|_| wrong("crio.api.stream_port", text, "a port"))?,
        };
        if self.stream_enable_tls {
            for (key, path) in [
                ("crio.api.stream_tls_cert", &self.stream_tls_cert),
                ("crio.api.stream_tls_key", &self.stream_tls_key),
            ] {
                if path.as_os_str().is_empty() {
                    let problem = "`stream_enable_tls` needs it".to_owned();
                    return Err(ConfigError::Value { key, problem });
                }
            }
        }
        Ok(SocketAddr::new(ip, port))
    }

    /// How long nothing may move on a stream.
    pub fn idle_timeout(&self) -> Result<Duration, ConfigError> {
        match self.stream_idle_timeout.as_str() {
            "" => Ok(STREAM_IDLE),
            text => duration::parse(text)
                .filter(|limit| !limit.is_zero())
                .map(|limit| limit.min(LONGEST))
                .ok_or_else(|| ConfigError::Value {
                    key: "crio.api.stream_idle_timeout",
                    problem: format!("`{text}` is not a duration such as `4h` or `90s`"),
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_on_loopback_unless_told_otherwise() {
        let api = Api::default();
        assert_eq!(api.stream_socket().unwrap().to_string(), "127.0.0.1:0");
        assert_eq!(api.idle_timeout().unwrap(), Duration::from_secs(14_400));
        let with = |edit: fn(&mut Api)| {
            let mut api = Api::default();
            edit(&mut api);
            api.stream_socket().map_err(|e| e.to_string())
        };
        let set = with(|api| {
            api.stream_address = "::".to_owned();
            api.stream_port = "10010".to_owned();
        });
        assert_eq!(set.unwrap().to_string(), "[::]:10010");
        let bad = with(|api| api.stream_address = "localhost".to_owned());
        assert!(bad.unwrap_err().contains("crio.api.stream_address"));
        let bad = with(|api| api.stream_port = "66000".to_owned());
        assert!(bad.unwrap_err().contains("crio.api.stream_port"));
        let bad = with(|api| api.stream_enable_tls = true);
        assert!(bad.unwrap_err().contains("crio.api.stream_tls_cert"));
        let mut api = Api {
            stream_idle_timeout: "1h30m".to_owned(),
            ..Api::default()
        };
        assert_eq!(api.idle_timeout().unwrap(), Duration::from_secs(5400));
        api.stream_idle_timeout = "0s".to_owned();
        assert!(api.idle_timeout().is_err());
    }
}
